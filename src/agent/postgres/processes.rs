//! Who works in a data directory: the postmaster, and what its children call themselves. Who they are and how none is left is in
//! [`sweep`](crate::agent::sweep).

use std::fs;
use std::path::Path;

use rustix::process::Pid;

use super::pid_file::PidFile;
use crate::agent::sweep::{Home, server_processes};
use crate::directive::{Code, Failure};

/// All server processes of a data directory, orphans included.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn all(data_directory: &Path) -> Result<Vec<Pid>, Failure> {
    let found = server_processes(&Home::of(data_directory));
    let found = found.map_err(|error| Failure::new(Code::Permission, format!("cannot look through /proc: {error}")))?;
    Ok(found.into_iter().map(|process| process.pid).collect())
}

/// The postmaster of a data directory, while it lives.
///
/// # Errors
/// As [`all`].
pub fn postmaster(data_directory: &Path) -> Result<Option<Pid>, Failure> {
    let Some(pid) = PidFile::read(data_directory).and_then(|file| file.postmaster()) else {
        return Ok(None);
    };
    Ok(all(data_directory)?.contains(&pid).then_some(pid))
}

/// What a server process calls itself: `postgres: walsender …`. Empty for one that has just ended.
#[must_use]
pub fn title(pid: Pid) -> String {
    let bytes = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

/// Whether a process has ended and nobody has asked how.
#[must_use]
pub fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| after.trim_start().starts_with('Z'))
}
