//! Start and stop.
//!
//! A server that is started here lives on when the agent dies: `pg_ctl` gives it a session of its own, and its outputs go to a file
//! (`postgresql.log` in the state directory, for what is said before the server's own log begins). A stop is a signal to the
//! postmaster. A server that does not obey is swept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time;

use super::control::{ControlFile, State};
use super::files::{self, trouble};
use super::local::{Local, LocalError};
use super::pid_file::PidFile;
use super::processes;
use super::program::Programs;
use super::rewinding;
use crate::agent::config::AgentConfig;
use crate::agent::sweep::sweep;
use crate::directive::{Code, Failure};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// Likewise, where a look is a program that runs.
const LOOK: Duration = Duration::from_millis(20);
/// An immediate stop has this long before SIGKILL; a stopped (SIGSTOP) postmaster never obeys.
const IMMEDIATE: Duration = Duration::from_millis(50);
/// For a sweep: SIGKILL works at once, unless a process waits for a disk.
pub const SWEEP: Duration = Duration::from_secs(30);
/// What a fast stop leaves to walsenders once the shutdown checkpoint is written: they still bring it to standbys.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// And to the rest, which is as good as gone when there is no archiver.
const LAST_LOOK: Duration = Duration::from_millis(200);
/// For a question to systemd.
const RESET: Duration = Duration::from_secs(2);
/// At this size the log of starts begins anew; one old one is kept.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Where the words of a start go.
#[must_use]
pub fn log_path(config: &AgentConfig) -> PathBuf {
    config.state_directory.join("postgresql.log")
}

/// Starts PostgreSQL, and waits until it takes connections. One that runs is let run.
///
/// # Errors
/// When it does not come up, with the end of its log. The caller bounds the wait.
///
/// # Cancel safety
/// A dropped start may leave a server that starts.
pub async fn start(config: &AgentConfig) -> Result<(), Failure> {
    let data_directory = &config.data_directory;
    while PidFile::read(data_directory).is_some_and(|file| file.status == "stopping")
        && processes::postmaster(data_directory)?.is_some()
    {
        time::sleep(PAUSE).await;
    }
    if processes::postmaster(data_directory)?.is_none() {
        launch(config).await?;
    }
    wait_accepting(config).await
}

async fn launch(config: &AgentConfig) -> Result<(), Failure> {
    let data_directory = &config.data_directory;
    rewinding::check(&config.state_directory)?;
    // orphans of a dead postmaster would keep a new one from starting; nobody needs them
    sweep(data_directory, SWEEP).await?;
    forget_zombie(data_directory)?;
    let programs = Programs::find(config)?;
    if let Some(unit) = &config.found.unit {
        // systemd does not start what was started several times within a moment, or has failed so often
        let _ = programs.run(systemctl(&["reset-failed", unit]), Some(RESET), |_| ()).await;
        return programs.run(systemctl(&["--no-block", "start", unit]), None, |_| ()).await.map(drop);
    }
    let log = log_path(config);
    make_log(&log)?;
    let mut command = programs.start_command();
    command.args(["start", "--silent", "--no-wait", "-D"]).arg(data_directory).arg("-l").arg(&log);
    if let Some(options) = options(data_directory) {
        command.arg("-o").arg(options);
    }
    programs.run(command, None, |_| ()).await.map(drop)
}

fn systemctl(arguments: &[&str]) -> Command {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(arguments);
    systemctl
}

/// Whether systemd has given the unit up.
async fn has_failed(config: &AgentConfig, unit: &str) -> bool {
    let Ok(programs) = Programs::find(config) else { return false };
    // it says yes by its exit status
    matches!(programs.run_to_end(systemctl(&["is-failed", "--quiet", unit]), Some(RESET), |_| ()).await, Ok(Ok(_)))
}

/// PostgreSQL takes a postmaster that has died and was not reaped (a process 1 that does not, in a container) for one that lives, and
/// does not start beside it: its two locks are removed.
fn forget_zombie(data_directory: &Path) -> Result<(), Failure> {
    let Some(file) = PidFile::read(data_directory) else {
        return Ok(());
    };
    let Some(pid) = file.postmaster().filter(|pid| processes::is_zombie(*pid)) else {
        return Ok(());
    };
    if let Some(sockets) = &file.socket_directory {
        let lock = sockets.join(format!(".s.PGSQL.{}.lock", file.port));
        let holder = files::read(&lock)?.unwrap_or_default();
        if String::from_utf8_lossy(&holder).lines().next() == Some(pid.as_raw_pid().to_string().as_str()) {
            files::remove(&lock)?;
        }
    }
    files::remove(&data_directory.join("postmaster.pid"))
}

/// Waits until a server that was started takes connections.
async fn wait_accepting(config: &AgentConfig) -> Result<(), Failure> {
    let log_from = fs::metadata(log_path(config)).map(|metadata| metadata.len()).unwrap_or(0);
    let mut missing = 0;
    loop {
        match Local::open(config).await {
            Ok(_) | Err(LocalError::Full(_)) => return Ok(()),
            Err(error @ LocalError::Failed { .. }) => return Err(error.into()),
            Err(LocalError::Nobody(_) | LocalError::NotYet(_) | LocalError::Silent(_)) => {}
        }
        // pg_ctl returns when it has forked, before there is a postmaster.pid; systemctl before that
        missing = if processes::postmaster(&config.data_directory)?.is_some() { 0 } else { missing + 1 };
        let given_up = match &config.found.unit {
            Some(unit) => missing > 2_000 || missing > 0 && missing % 100 == 0 && has_failed(config, unit).await,
            None => missing > 100,
        };
        if given_up && processes::all(&config.data_directory)?.is_empty() {
            let words = match &config.found.unit {
                Some(unit) => format!("systemd has not brought up unit \"{unit}\": see journalctl -u {unit}"),
                None => log_tail(&log_path(config), log_from),
            };
            return Err(Failure::new(Code::Program, format!("PostgreSQL has not started: {words}")));
        }
        time::sleep(PAUSE).await;
    }
}

/// SIGQUIT to the postmaster, and SIGKILL to whatever is left a moment later, until no server process is. No checkpoint.
///
/// # Errors
/// When some are left.
///
/// # Cancel safety
/// May be dropped, and called again.
pub async fn stop_immediate(config: &AgentConfig) -> Result<(), Failure> {
    let data_directory = &config.data_directory;
    if let Ok(programs) = Programs::find(config) {
        programs.end_starts();
    }
    if let Some(postmaster) = processes::postmaster(data_directory)? {
        signal(postmaster, Signal::QUIT)?;
        let deadline = time::Instant::now() + IMMEDIATE;
        while time::Instant::now() < deadline && !processes::all(data_directory)?.is_empty() {
            time::sleep(PAUSE).await;
        }
    }
    sweep(data_directory, SWEEP).await.map(drop)
}

/// A fast stop, until no server process is left. The archiver is not waited for: once the control file says that the shutdown
/// checkpoint is written, walsenders have a moment to bring it to the standbys, and the rest is swept.
///
/// # Errors
/// When some are left. The caller bounds the wait.
///
/// # Cancel safety
/// A dropped stop goes on in PostgreSQL; it may be called again.
pub async fn stop_fast(config: &AgentConfig) -> Result<(), Failure> {
    let data_directory = &config.data_directory;
    let Some(postmaster) = processes::postmaster(data_directory)? else {
        return sweep(data_directory, SWEEP).await.map(drop);
    };
    signal(postmaster, Signal::INT)?;
    let programs = Programs::find(config)?;
    let mut written = None;
    while !processes::all(data_directory)?.is_empty() {
        if written.is_none() {
            let state = ControlFile::read(&programs, data_directory).await?.state;
            written = matches!(state, State::ShutDown | State::ShutDownInRecovery).then(time::Instant::now);
        }
        if let Some(written) = written {
            let sending = processes::all(data_directory)?.into_iter().any(|pid| is(pid, "walsender"));
            let patience = if sending { LAST_WORDS } else { LAST_LOOK };
            if written.elapsed() > patience {
                return sweep(data_directory, SWEEP).await.map(drop);
            }
        }
        time::sleep(LOOK).await;
    }
    Ok(())
}

fn is(pid: Pid, kind: &str) -> bool {
    processes::title(pid).contains(kind)
}

fn signal(pid: Pid, signal: Signal) -> Result<(), Failure> {
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => {
            let text = format!("cannot signal postmaster {}: {error}", pid.as_raw_pid());
            Err(Failure::new(Code::Permission, text))
        }
    }
}

/// With what the server was last run, but for its data directory: Debian's has its configuration file elsewhere.
fn options(data_directory: &Path) -> Option<String> {
    let line = fs::read_to_string(data_directory.join("postmaster.opts")).ok()?;
    other_options(&line)
}

/// `postmaster.opts` is one line: the program, and each argument in double quotes.
fn other_options(line: &str) -> Option<String> {
    let (_, arguments) = line.trim().split_once(' ')?;
    let mut others = Vec::new();
    let mut words = arguments.split('"').skip(1).step_by(2);
    while let Some(word) = words.next() {
        match word {
            "-D" => drop(words.next()),
            word if word.starts_with("-D") => {}
            word => others.push(format!("\"{word}\"")),
        }
    }
    (!others.is_empty()).then(|| others.join(" "))
}

fn make_log(log: &Path) -> Result<(), Failure> {
    if fs::metadata(log).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        fs::rename(log, files::beside(log, ".1")).map_err(trouble("rename", log))?;
    }
    // made here, so that it is nobody else's to read
    if fs::metadata(log).is_err() { files::write(log, b"") } else { Ok(()) }
}

/// What a log says from an offset on, at most its last lines.
fn log_tail(log: &Path, from: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(0).saturating_sub(2_000);
    let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_was_last_run_with_is_kept_but_for_its_directory() {
        let debian = "/usr/lib/postgresql/15/bin/postgres \"-D\" \"/var/lib/postgresql/15/main\" \"-c\" \
                      \"config_file=/etc/postgresql/15/main/postgresql.conf\"\n";
        let kept = "\"-c\" \"config_file=/etc/postgresql/15/main/postgresql.conf\"";
        assert_eq!(other_options(debian).as_deref(), Some(kept));
        assert_eq!(other_options("/usr/bin/postgres \"-D\" \"/data\"\n"), None);
        assert_eq!(other_options("/usr/bin/postgres"), None);
    }
}
