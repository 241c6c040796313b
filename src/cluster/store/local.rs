//! A directory with a file per cluster, for one daemon: `[store] kind = "local"`.
//!
//! Invariant: at any moment, a power cut included, the file is a whole record: it is written beside and renamed, and both the file
//! and the directory are fsynced. A lock on the directory keeps a second daemon out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use super::{Store, StoreError, Stored};
use crate::cluster::decide::Record;
use crate::config::version::{StateError, read_state, state_text};

/// The version of a record's file.
const VERSION: u32 = 1;

/// Records in files.
#[derive(Debug)]
pub struct LocalStore {
    directory: PathBuf,
    /// Taken with the first use, and held for as long as this lives.
    lock: Mutex<Option<File>>,
}

impl LocalStore {
    /// This directory. Nothing is made before the first record is asked for: who manages no cluster needs none.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), lock: Mutex::default() }
    }

    /// Makes the directory if need be, and locks it.
    fn ready(&self) -> Result<(), StoreError> {
        let mut held = self.lock.lock();
        if held.is_some() {
            return Ok(());
        }
        let directory = &self.directory;
        fs::create_dir_all(directory).map_err(error("make the directory", directory))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(error("open", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => *held = Some(lock),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::InUse(directory.display().to_string())),
            Err(errno) => return Err(error("lock", &path)(errno.into())),
        }
        Ok(())
    }

    fn path(&self, cluster: &str) -> PathBuf {
        self.directory.join(format!("{cluster}.json"))
    }
}

fn error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { what, path: path.display().to_string(), source }
}

fn load(path: &Path) -> Result<Option<Record>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => match read_state(&bytes, VERSION) {
            Ok(record) => Ok(Some(record)),
            Err(StateError::Unreadable(source)) => {
                Err(StoreError::Unreadable { path: path.display().to_string(), source })
            }
            Err(newer) => Err(StoreError::Newer { path: path.display().to_string(), source: newer }),
        },
        Err(none) if none.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(error("read", path)(source)),
    }
}

fn save(path: &Path, last: u64, record: &Record) -> Result<(), StoreError> {
    let found = load(path)?.map_or(0, |record| record.generation);
    if !(last..record.generation).contains(&found) {
        return Err(StoreError::Moved { found, expected: last });
    }
    let text = state_text(record, VERSION)
        .map_err(|source| StoreError::Unreadable { path: path.display().to_string(), source })?;
    let beside = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .map_err(error("write", &beside))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(error("write", &beside))?;
    fs::rename(&beside, path).map_err(error("replace", path))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(error("fsync", directory))
}

impl Store for LocalStore {
    fn load<'a>(&'a self, cluster: &'a str) -> Stored<'a, Option<Record>> {
        Box::pin(async move {
            self.ready()?;
            load(&self.path(cluster))
        })
    }

    fn save<'a>(&'a self, cluster: &'a str, last: u64, record: &'a Record) -> Stored<'a, ()> {
        let (path, record) = (self.path(cluster), record.clone());
        Box::pin(async move {
            self.ready()?;
            // a disk that hangs must not take everything else along
            let saved = tokio::task::spawn_blocking(move || save(&path, last, &record)).await;
            saved.unwrap_or_else(|panic| {
                Err(StoreError::Io { what: "write", path: String::new(), source: io::Error::other(panic) })
            })
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::topology::Epoch;

    fn record(generation: u64, epoch: u64) -> Record {
        Record { generation, epoch: Epoch(epoch), ..Record::default() }
    }

    #[tokio::test]
    async fn a_record_is_what_was_written_last_and_only_who_knows_that_one_replaces_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::at(directory.path());
        assert_eq!(store.load("main").await.unwrap(), None);
        store.save("main", 0, &record(1, 5)).await.unwrap();
        store.save("main", 1, &record(2, 6)).await.unwrap();
        assert_eq!(store.load("main").await.unwrap(), Some(record(2, 6)));
        for (last, wrong) in [(0, 1), (1, 2), (3, 4), (2, 2)] {
            let refused = store.save("main", last, &record(wrong, 9)).await;
            assert!(matches!(refused, Err(StoreError::Moved { .. })), "{wrong} after {last}");
        }
        assert_eq!(store.load("main").await.unwrap(), Some(record(2, 6)));
    }

    #[tokio::test]
    async fn after_a_record_that_could_not_be_stored_the_next_one_can() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::at(directory.path());
        store.save("main", 0, &record(1, 5)).await.unwrap();
        // a disk without room, for a while
        std::os::unix::fs::symlink("/dev/full", directory.path().join("main.json.new")).unwrap();
        for generation in 2..5 {
            let failed = store.save("main", 1, &record(generation, 6)).await;
            assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
        }
        assert_eq!(store.load("main").await.unwrap(), Some(record(1, 5)));
        fs::remove_file(directory.path().join("main.json.new")).unwrap();
        store.save("main", 1, &record(5, 6)).await.unwrap();
        // this one is there, and its writer was told that it is not
        store.save("main", 1, &record(6, 6)).await.unwrap();
        assert_eq!(store.load("main").await.unwrap(), Some(record(6, 6)));
    }

    #[tokio::test]
    async fn a_second_daemon_is_kept_out_and_what_is_no_record_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::at(directory.path());
        assert_eq!(store.load("main").await.unwrap(), None);
        let second = LocalStore::at(directory.path());
        assert!(matches!(second.load("main").await, Err(StoreError::InUse(_))));
        fs::write(store.path("main"), "{ torn").unwrap();
        assert!(matches!(store.load("main").await, Err(StoreError::Unreadable { .. })));
        assert!(matches!(store.save("main", 0, &record(1, 1)).await, Err(StoreError::Unreadable { .. })));
        fs::write(store.path("newer"), "{\"version\":2}").unwrap();
        let refused = store.load("newer").await.unwrap_err().to_string();
        assert!(refused.contains("newer.json\": it is of version 2"), "{refused}");
        assert!(matches!(store.save("newer", 0, &record(1, 1)).await, Err(StoreError::Newer { .. })));
        drop(store);
        assert!(matches!(second.load("main").await, Err(StoreError::Unreadable { .. })));
    }
}
