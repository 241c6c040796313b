//! The journal: one file per job in `state_directory/jobs`, written whole before each act, with the end of the one before, and at the
//! job's end.
//!
//! Invariant: at most one job in here has not ended, because none is taken before the end of the last one is on the disk
//! ([`job`](super::job)). Else an old job that a later life of the agent undoes could undo what a newer one has done.
//!
//! A small file of zeros is kept beside it and given up when the disk is full: for records of a fence and the epoch it comes with, and
//! for those that lead to a job's end. All others fail then, before their step begins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::course::{Moment, Record};
use super::durable;
use super::postgres::files;
use crate::config::version::{StateError, read_state, state_text};
use crate::directive::{Code, Directive, Failure};

/// The version of a record.
const VERSION: u32 = 1;
/// So many jobs that have ended are kept.
pub const KEPT: usize = 100;
/// The folder in the state directory.
const FOLDER: &str = "jobs";
/// What is given up when the disk is full.
const RESERVE: &str = "reserve";
/// Enough for some records.
const RESERVE_BYTES: usize = 512 * 1024;
/// Ends the name of a record that does not read.
const UNREADABLE: &str = ".unreadable";

/// The folder.
#[derive(Clone, Debug)]
pub struct Journal {
    folder: PathBuf,
    reserve: PathBuf,
}

impl Journal {
    /// Opens it, and reads what former lives have left, oldest first. What does not read is set aside, with a name that says so.
    ///
    /// # Errors
    /// The kernel's, with the path. `InvalidData` for a record of a later howdah: what that one was in the middle of must not be
    /// forgotten.
    pub fn open(state_directory: &Path) -> io::Result<(Self, Vec<Record>)> {
        let folder = state_directory.join(FOLDER);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("\"{}\": {error}", folder.display()));
        if !folder.is_dir() {
            fs::create_dir(&folder).map_err(named)?;
            files::sync_directory(&folder).map_err(named)?;
        }
        let mut records = Vec::new();
        for entry in fs::read_dir(&folder).map_err(named)? {
            let path = entry.map_err(named)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {
                    let text = fs::read(&path).map_err(named)?;
                    match read_state::<Record>(&text, VERSION) {
                        Ok(record) => records.push(record),
                        Err(error @ StateError::Newer { .. }) => return Err(newer(&path, &error)),
                        Err(StateError::Unreadable(error)) => {
                            tracing::error!(path = %path.display(), %error, "a record of the journal does not read: it is set aside");
                            let mut aside = path.clone().into_os_string();
                            aside.push(UNREADABLE);
                            fs::rename(&path, aside).map_err(named)?;
                        }
                    }
                }
                Some("howdah-tmp") => fs::remove_file(&path).map_err(named)?,
                Some(_) | None => {}
            }
        }
        records.sort_by_key(|record| (record.job.began_ms, record.job.ended_ms.unwrap_or(u64::MAX)));
        let journal = Self { folder, reserve: state_directory.join(RESERVE) };
        journal.keep_reserve();
        Ok((journal, records))
    }

    fn keep_reserve(&self) {
        if !self.reserve.exists() {
            let _ = files::write(&self.reserve, &vec![0; RESERVE_BYTES]);
        }
    }

    /// Makes room on a disk that is full, once; whether it has.
    #[must_use]
    pub fn give_up_reserve(&self) -> bool {
        let given_up = fs::remove_file(&self.reserve).is_ok();
        if given_up {
            tracing::warn!("the disk of state_directory is full: the reserve is used up");
        }
        given_up
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Writes a record; when this returns `Ok` it is on the disk.
    ///
    /// # Errors
    /// [`Code::DiskFull`] and the like, with the path.
    ///
    /// # Cancel safety
    /// What was begun is finished all the same.
    pub async fn write(&self, record: &Record) -> Result<(), Failure> {
        let record = &Record { written: now(), ..record.clone() };
        let text = state_text(record, VERSION).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        let path = self.path(&record.job.order.id);
        let may_use_reserve =
            record.job.order.directive == Directive::Fence || record.turned.is_some() || record.job.state.is_terminal();
        match durable::write(path.clone(), text.clone()).await {
            Err(full) if full.code == Code::DiskFull && may_use_reserve && self.give_up_reserve() => {
                durable::write(path, text).await
            }
            written => written,
        }
    }

    /// Takes away the oldest that have ended, and restores the reserve.
    ///
    /// # Errors
    /// The kernel's; nothing depends on it.
    pub async fn forget(&self, ids: Vec<String>) -> Result<(), Failure> {
        let journal = self.clone();
        let forgotten = tokio::task::spawn_blocking(move || {
            journal.keep_reserve();
            for id in ids {
                files::remove(&journal.path(&id))?;
            }
            Ok(())
        });
        forgotten.await.unwrap_or_else(|ended| Err(Failure::new(Code::Internal, ended.to_string())))
    }
}

/// A file of the state directory that a later howdah has written.
pub(super) fn newer(path: &Path, error: &StateError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("\"{}\": {error}", path.display()))
}

/// The present moment, as the machine counts; empty where it does not tell.
#[must_use]
pub fn now() -> Moment {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime_s = uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
    Moment { boot: boot.trim().to_owned(), uptime_s }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::directive::Order;
    use crate::topology::Epoch;

    fn record(id: &str, at: u64) -> Record {
        let order = Order {
            id: id.into(),
            cluster: "main".into(),
            node: "a".into(),
            epoch: Epoch(1),
            coordinator: "c".into(),
            correlation: String::new(),
            directive: Directive::Checkpoint,
        };
        Record::new(order, at)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_written_is_read_in_the_next_life_oldest_first_and_what_is_broken_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, none) = Journal::open(directory.path()).unwrap();
        assert!(none.is_empty());
        for (id, at) in [("b", 2), ("a", 1), ("c", 3)] {
            run(journal.write(&record(id, at))).unwrap();
        }
        fs::write(directory.path().join("jobs/d.json"), "{\"job\":").unwrap();
        fs::write(directory.path().join("jobs/e.json.howdah-tmp"), "{").unwrap();
        let (journal, records) = Journal::open(directory.path()).unwrap();
        let ids: Vec<&str> = records.iter().map(|record| record.job.order.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        assert!(directory.path().join("jobs/d.json.unreadable").exists());
        assert!(!directory.path().join("jobs/e.json.howdah-tmp").exists());
        run(journal.forget(vec!["a".into(), "never".into()])).unwrap();
        assert_eq!(Journal::open(directory.path()).unwrap().1.len(), 2);
        fs::write(directory.path().join("jobs/f.json"), "{\"version\":2,\"job\":7}").unwrap();
        let refused = Journal::open(directory.path()).unwrap_err().to_string();
        assert!(
            refused.contains("jobs/f.json\": it is of version 2, and this howdah reads versions up to 1"),
            "{refused}"
        );
        assert!(directory.path().join("jobs/f.json").exists());
    }
}
