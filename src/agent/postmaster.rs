//! Watches the postmaster: learns of its death in the moment it dies, and of a new one soon after it is there.
//!
//! A pidfd is readable when its process has ended, a zombie included. Not here: who starts and stops PostgreSQL (`jobs`), what else is
//! known of it (`status`).

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::events::Events;
use super::job::Engine;
use super::sweep::{self, Home};

/// While there is no postmaster, it is looked for so often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For orphans to die of SIGKILL.
const SWEEP_BOUND: Duration = Duration::from_secs(30);

/// The postmaster of a data directory, if it lives: the process that `postmaster.pid` names, which must be at home there and not be a
/// child of another. Its start time is not compared: that file has it by a clock that people set.
#[must_use]
pub fn find(data_directory: &Path) -> Option<Pid> {
    let lock = fs::read_to_string(data_directory.join("postmaster.pid")).ok()?;
    let pid = sweep::parse_pid(lock.lines().next()?)?;
    let process = sweep::look(&Home::of(data_directory), pid).ok()??;
    (!process.titled).then_some(pid)
}

/// The postmaster with a handle that tells its end.
fn hold(data_directory: &Path) -> Option<(Pid, AsyncFd<OwnedFd>)> {
    let pid = find(data_directory)?;
    let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // the number may have become another's in between; from here on it cannot
    if find(data_directory) != Some(pid) {
        return None;
    }
    // deprecated for types whose descriptor may change; an OwnedFd's never does
    #[allow(deprecated)]
    let watched = AsyncFd::with_interest(handle, Interest::READABLE);
    match watched {
        Ok(handle) => Some((pid, handle)),
        Err(error) => {
            tracing::error!(%error, "the postmaster cannot be watched");
            None
        }
    }
}

/// Watches for ever. The present postmaster is in `present`; a death that no job has caused is told before anything else is done, then
/// what it has left behind is killed: it is of no use to anybody, and may still acknowledge commits.
pub async fn watch(
    data_directory: PathBuf,
    engine: Arc<Engine>,
    events: Arc<Events>,
    present: watch::Sender<Option<u32>>,
) {
    let mut lived = false;
    let mut looked = false;
    loop {
        let Some((pid, handle)) = hold(&data_directory) else {
            if !looked && !engine.may_stop_postgres() {
                // the agent may have been dead when the postmaster died
                sweep_orphans(&data_directory).await;
            }
            looked = true;
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        looked = true;
        let pid = u32::try_from(pid.as_raw_pid()).unwrap_or_default();
        tracing::info!(pid, "{}", if lived { "a new postmaster is there" } else { "the postmaster is there" });
        lived = true;
        present.send_replace(Some(pid));
        events.want_status();
        let ended = handle.readable().await;
        present.send_replace(None);
        if let Err(error) = ended {
            tracing::error!(%error, "the postmaster cannot be watched");
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        if engine.may_stop_postgres() {
            tracing::info!(pid, "the postmaster has ended");
        } else {
            events.postmaster_died();
            tracing::warn!(pid, "the postmaster has died");
            sweep_orphans(&data_directory).await;
        }
        events.want_status();
    }
}

async fn sweep_orphans(data_directory: &Path) {
    match sweep::sweep_orphans(data_directory, SWEEP_BOUND).await {
        Ok(0) => {}
        Ok(killed) => tracing::warn!(killed, "killed what the postmaster had left behind"),
        Err(failure) => tracing::error!(error = %failure, "what the postmaster has left behind could not be killed"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_that_names_nobody_or_somebody_else_names_no_postmaster() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(find(directory.path()), None);
        for pid in [format!("{}", std::process::id()), "-12".to_owned(), "999999999".to_owned(), String::new()] {
            fs::write(directory.path().join("postmaster.pid"), format!("{pid}\n/x\n")).unwrap();
            assert_eq!(find(directory.path()), None, "{pid}");
        }
    }
}
