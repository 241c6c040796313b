//! One child process: its log in a file, its end known at once, its signals sent to nobody else.
//!
//! Not here: what the process is for. A thread per child reaps it, so a dead child is never a zombie that looks alive to
//! an agent. Invariant: a signal is only sent while the pid is still the child's, because reaping and signalling share a
//! lock.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// How many bytes at the end of a log are worth showing.
const TAIL_BYTES_MAX: u64 = 16 * 1024;

#[derive(Default)]
struct End {
    status: Mutex<Option<ExitStatus>>,
    known: Condvar,
}

/// A child process in a process group of its own (Ctrl-C in a terminal does not reach it). Dropping it kills it.
pub struct Process {
    pid: Pid,
    log: PathBuf,
    end: Arc<End>,
}

impl Process {
    /// Starts `command` with no input and both outputs appended to `log`.
    ///
    /// # Errors
    /// What the operating system says about the log or the program.
    pub fn spawn(mut command: Command, log: &Path) -> io::Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let end = Arc::new(End::default());
        let reaper = thread::Builder::new().name("reaper".to_owned()).spawn({
            let end = Arc::clone(&end);
            move || reap(child, &end)
        });
        if let Err(error) = reaper {
            let _ = kill_process(pid, Signal::KILL);
            return Err(error);
        }
        Ok(Self { pid, log: log.to_owned(), end })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Where its outputs go.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.end.status.lock()
    }

    /// Waits until it has ended, at most `bound`.
    #[must_use]
    pub fn wait(&self, bound: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + bound;
        let mut status = self.end.status.lock();
        while status.is_none() && !self.end.known.wait_until(&mut status, deadline).timed_out() {}
        *status
    }

    /// Sends a signal, to the child or to nobody.
    ///
    /// # Errors
    /// What `kill(2)` says. A child that has ended is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let status = self.end.status.lock();
        if status.is_some() {
            return Ok(());
        }
        kill_process(self.pid, signal).map_err(io::Error::from)
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Errors
    /// What `kill(2)` says.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)?;
        let _ = self.wait(Duration::from_secs(10));
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Waits for the end without taking it, then takes it under the lock that [`Process::signal`] holds while it signals.
fn reap(mut child: Child, end: &End) {
    let id = WaitId::Pid(Pid::from_child(&child));
    while let Err(rustix::io::Errno::INTR) = waitid(id.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
    let mut status = end.status.lock();
    *status = Some(child.wait().unwrap_or_default());
    end.known.notify_all();
}

/// The last lines of a log, for an error message. Empty when there is nothing to read.
#[must_use]
pub fn log_tail(path: &Path, lines: usize) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES_MAX);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.get(from..).unwrap_or_default().join("\n")
}

/// A pid as a file spells it. `None` for anything else: `postmaster.pid` holds a negative number while `initdb` or
/// `pg_rewind` runs a server of its own, and [`Pid::from_raw`] would panic.
#[must_use]
pub fn parse_pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.trim().parse().ok().filter(|pid| *pid > 0)?)
}

/// Whether a process has ended and nobody has asked how.
#[must_use]
pub fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| after.trim_start().starts_with('Z'))
}

/// The processes whose working directory is `directory` or below it. PostgreSQL's server processes all sit in their data
/// directory, orphans of a killed postmaster included. Needs `/proc`; without it nothing is found.
#[must_use]
pub fn processes_in(directory: &Path) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = rustix::process::getpid();
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let pid = parse_pid(entry.file_name().to_str()?)?;
            let inside = std::fs::read_link(entry.path().join("cwd")).ok()?.starts_with(directory);
            (inside && pid != own).then_some(pid)
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn log() -> tempfile::NamedTempFile {
        tempfile::NamedTempFile::new().unwrap()
    }

    #[test]
    fn a_child_that_ends_is_known_with_its_status_and_its_words() {
        let log = log();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; echo three; exit 3"]);
        let process = Process::spawn(command, log.path()).unwrap();
        let status = process.wait(Duration::from_secs(10)).expect("ends");
        assert_eq!(status.code(), Some(3));
        assert_eq!(log_tail(log.path(), 2), "two\nthree");
        process.signal(Signal::TERM).expect("a signal to a child that has ended goes nowhere");
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let log = log();
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Process::spawn(command, log.path()).unwrap();
        let pid = process.pid();
        assert!(process.wait(Duration::from_millis(10)).is_none());
        drop(process);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn only_a_positive_number_is_a_pid() {
        assert_eq!(parse_pid(" 17\n").map(Pid::as_raw_pid), Some(17));
        for wrong in ["-17", "0", "", "self"] {
            assert_eq!(parse_pid(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn processes_are_found_by_where_they_sit() {
        let (log, dir) = (log(), tempfile::tempdir().unwrap());
        let mut command = Command::new("sleep");
        command.arg("600").current_dir(dir.path());
        let process = Process::spawn(command, log.path()).unwrap();
        assert_eq!(processes_in(dir.path()), [process.pid()]);
    }
}
