//! The server processes of a data directory: finding them in `/proc`, and leaving none.
//!
//! A dead postmaster proves nothing: its children live on until they notice, and acknowledge commits until then. So what is
//! counted, killed and proven gone is every process that runs `postgres` with the data directory as its working directory, which
//! PostgreSQL's never change (`ChangeToDataDir()`). A process that is on its way out of the kernel has given its directory back and
//! runs nothing of ours any more; a zombie likewise.
//!
//! Not here: when to do it (`postmaster`, the jobs), the latch.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::directive::{Code, Failure};

/// How long to wait between two looks while something dies.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// What the kernel puts behind the name of a file that is gone: a package that was upgraded, a directory that was removed.
const DELETED: &str = " (deleted)";
/// How the title of every server process begins, but for the postmaster's (`init_ps_display()`).
const CHILD_TITLE: &[u8] = b"postgres: ";

/// A process of a data directory's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerProcess {
    /// Its id.
    pub pid: Pid,
    /// Whose child it is now; for an orphan that is not the postmaster.
    pub parent: i32,
    /// It has the title of a postmaster's child. A child has it a moment after it is forked.
    pub titled: bool,
}

/// A data directory, as processes are compared with it.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Home {
    /// The directory that this path means now.
    #[must_use]
    pub fn of(data_directory: &Path) -> Self {
        let identity = fs::metadata(data_directory).ok().map(|found| (found.dev(), found.ino()));
        Self { path: data_directory.canonicalize().unwrap_or_else(|_| data_directory.to_owned()), identity }
    }

    /// Whether a process's `cwd` link is this directory.
    fn is_cwd(&self, link: &Path) -> io::Result<bool> {
        let name = fs::read_link(link)?;
        if name == self.path {
            return Ok(true);
        }
        let text = name.to_string_lossy();
        if text.strip_suffix(DELETED).is_some_and(|before| Path::new(before) == self.path) {
            return Ok(true);
        }
        // another name of the same directory: a bind mount
        let found = fs::metadata(link)?;
        Ok(self.identity == Some((found.dev(), found.ino())))
    }
}

/// What `/proc` says of one process; `None` when it is none of this server's, or gone.
///
/// # Errors
/// When it could be one, and cannot be looked into.
pub fn look(home: &Home, pid: Pid) -> io::Result<Option<ServerProcess>> {
    let process = PathBuf::from(format!("/proc/{}", pid.as_raw_pid()));
    let looked = (|| {
        let exe = fs::read_link(process.join("exe"))?;
        let exe = exe.to_string_lossy();
        let exe = exe.strip_suffix(DELETED).unwrap_or(&exe);
        if Path::new(exe).file_name().is_none_or(|name| name != "postgres") || !home.is_cwd(&process.join("cwd"))? {
            return Ok(None);
        }
        let stat = fs::read_to_string(process.join("stat"))?;
        let mut fields = stat.rsplit_once(')').map_or("", |(_, after)| after).split_whitespace();
        let (state, parent) = (fields.next().unwrap_or("Z"), fields.next().and_then(|parent| parent.parse().ok()));
        if state == "Z" || state == "X" {
            return Ok(None);
        }
        let titled = fs::read(process.join("cmdline"))?.starts_with(CHILD_TITLE);
        Ok(Some(ServerProcess { pid, parent: parent.unwrap_or_default(), titled }))
    })();
    match looked {
        // ENOENT and ESRCH: it has ended, or is a kernel thread or a zombie
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let own = fs::metadata(&process).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            if own && name.trim_end() == "postgres" { Err(error) } else { Ok(None) }
        }
        looked => looked,
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// All server processes of a data directory, orphans included. Reads `/proc`, which may take milliseconds.
///
/// # Errors
/// When `/proc` cannot be read, or a process of this user's that is called `postgres` cannot be looked into.
pub fn server_processes(home: &Home) -> io::Result<Vec<ServerProcess>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(parse_pid) else { continue };
        found.extend(look(home, pid)?);
    }
    Ok(found)
}

/// A pid as `/proc` and `postmaster.pid` spell it; that file has a negative number while a server without a postmaster runs.
#[must_use]
pub fn parse_pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.trim().parse().ok().filter(|pid| *pid > 0)?)
}

/// Of all server processes those that a postmaster has left behind: with the title of a child, and without a parent among the rest.
/// A postmaster that has just been started is none of them, and neither is what it has started.
#[must_use]
pub fn orphans(all: &[ServerProcess]) -> Vec<ServerProcess> {
    let has_parent =
        |process: &ServerProcess| all.iter().any(|other| other.pid.as_raw_pid() == process.parent && !other.titled);
    all.iter().filter(|process| process.titled && !has_parent(process)).copied().collect()
}

/// SIGKILL to every server process of the data directory, the postmaster first, until none is left in two looks in a row: the proof
/// that nobody can acknowledge a write any more. Says how many it has killed.
///
/// # Errors
/// [`Code::TimedOut`] when some are left at the bound (a process in an uninterruptible wait dies when that ends);
/// [`Code::Permission`] when one cannot be looked into or killed.
///
/// # Cancel safety
/// May be dropped; what has been killed stays killed.
pub async fn sweep(data_directory: &Path, bound: Duration) -> Result<u32, Failure> {
    sweep_those(data_directory, bound, |all| all).await
}

/// [`sweep`] for orphans alone.
///
/// # Errors
/// As [`sweep`].
pub async fn sweep_orphans(data_directory: &Path, bound: Duration) -> Result<u32, Failure> {
    sweep_those(data_directory, bound, |all| orphans(&all)).await
}

async fn sweep_those(
    data_directory: &Path,
    bound: Duration,
    which: fn(Vec<ServerProcess>) -> Vec<ServerProcess>,
) -> Result<u32, Failure> {
    #[cfg(feature = "negative-control")]
    if super::defect::takes_a_dead_postmaster_for_a_fence() {
        return Ok(0);
    }
    let deadline = Instant::now() + bound;
    let (mut killed, mut empty) = (Vec::new(), 0_u32);
    loop {
        let home = Home::of(data_directory);
        let mut found = which(server_processes(&home).map_err(|error| unseen(&error))?);
        if found.is_empty() {
            empty = empty.saturating_add(1);
            if empty >= 2 {
                return Ok(u32::try_from(killed.len()).unwrap_or(u32::MAX));
            }
            continue;
        }
        empty = 0;
        found.sort_by_key(|process| process.titled); // whoever forks comes first
        for process in &found {
            if kill(&home, process.pid)? && !killed.contains(&process.pid) {
                killed.push(process.pid);
            }
        }
        if Instant::now() >= deadline {
            let pids: Vec<_> = found.iter().map(|process| process.pid.as_raw_pid().to_string()).collect();
            let text = format!(
                "{} server processes are left after {} s of SIGKILL, first process {}",
                found.len(),
                bound.as_secs(),
                pids.first().map_or("", String::as_str)
            );
            return Err(Failure::new(Code::TimedOut, text));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn unseen(error: &io::Error) -> Failure {
    Failure::new(Code::Permission, format!("could not look through the processes in /proc: {error}"))
}

/// SIGKILL to this very process: the id may be another's by the time.
fn kill(home: &Home, pid: Pid) -> Result<bool, Failure> {
    let refused = |error: rustix::io::Errno| {
        Failure::new(Code::Permission, format!("could not kill process {}: {error}", pid.as_raw_pid()))
    };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        Err(error) => return Err(refused(error)),
    };
    if look(home, pid).map_err(|error| unseen(&error))?.is_none() {
        return Ok(false);
    }
    match pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(refused(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn process(pid: i32, parent: i32, titled: bool) -> ServerProcess {
        ServerProcess { pid: Pid::from_raw(pid).unwrap(), parent, titled }
    }

    /// A process whose program is called `postgres`, in this directory.
    fn impostor(directory: &Path, cwd: &Path) -> Child {
        let program = directory.join("postgres");
        if !program.exists() {
            fs::copy("/bin/sleep", &program).unwrap();
        }
        Command::new(program).arg("600").current_dir(cwd).spawn().unwrap()
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_orphan_is_a_child_without_a_postmaster_and_a_new_postmaster_is_none() {
        // 10 and 11 are left of a dead postmaster; 20 is a new one with 21; 22 has just been forked, 30 is just being started
        let all = [
            process(10, 1, true),
            process(11, 1, true),
            process(20, 1, false),
            process(21, 20, true),
            process(22, 20, false),
            process(30, 7, false),
        ];
        let pids: Vec<i32> = orphans(&all).iter().map(|orphan| orphan.pid.as_raw_pid()).collect();
        assert_eq!(pids, [10, 11]);
    }

    #[test]
    fn what_sits_in_the_directory_and_is_called_postgres_is_killed_and_nothing_else() {
        let (directory, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let below = directory.path().join("below");
        fs::create_dir(&below).unwrap();
        let mut ours = [impostor(programs.path(), directory.path()), impostor(programs.path(), directory.path())];
        let mut elsewhere = impostor(programs.path(), &below);
        let mut another = Command::new("sleep").arg("600").current_dir(directory.path()).spawn().unwrap();
        assert_eq!(server_processes(&Home::of(directory.path())).unwrap().len(), 2);

        // without titles they pass for postmasters
        assert_eq!(run(sweep_orphans(directory.path(), Duration::from_secs(5))), Ok(0));
        assert_eq!(run(sweep(directory.path(), Duration::from_secs(10))), Ok(2));
        for child in &mut ours {
            assert!(child.try_wait().unwrap().is_some(), "a zombie counts as gone, and is one");
        }
        assert_eq!(run(sweep(directory.path(), Duration::from_secs(10))), Ok(0));
        for child in [&mut elsewhere, &mut another] {
            assert!(child.try_wait().unwrap().is_none(), "it is none of this server's");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_directory_with_another_name_or_none_any_more_is_still_the_processs() {
        let (parent, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (real, link) = (parent.path().join("real"), parent.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut child = impostor(programs.path(), &link);
        assert_eq!(server_processes(&Home::of(&link)).unwrap().len(), 1);
        fs::remove_file(&link).unwrap();
        fs::remove_dir(&real).unwrap();
        assert_eq!(run(sweep(&real, Duration::from_secs(10))), Ok(1));
        child.wait().unwrap();
    }

    #[test]
    fn only_a_positive_number_is_a_pid() {
        assert_eq!(parse_pid(" 17\n").map(Pid::as_raw_pid), Some(17));
        for wrong in ["-17", "0", "", "self"] {
            assert_eq!(parse_pid(wrong), None, "{wrong}");
        }
    }
}
