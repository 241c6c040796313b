//! `postmaster.pid`: who the postmaster is and where it listens (PostgreSQL: "Database File Layout").

use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::files;

/// What the file says. It is true only while that process lives in that directory ([`processes`](super::processes)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// Line 1. Negative while `initdb`, `pg_rewind` or a person runs a single-user server.
    pub pid: i32,
    /// Line 3: seconds since 1970.
    pub started: i64,
    /// Line 4; 0 before it listens.
    pub port: u16,
    /// Line 5; `None` when it makes no Unix socket.
    pub socket_directory: Option<PathBuf>,
    /// Line 8: `starting`, `ready`, `standby`, `stopping`; empty before.
    pub status: String,
}

impl PidFile {
    /// Reads that of a data directory; `None` when there is none, or when it is being written.
    #[must_use]
    pub fn read(data_directory: &Path) -> Option<Self> {
        let bytes = files::read(&data_directory.join("postmaster.pid")).ok()??;
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |number: usize| lines.get(number - 1).copied().unwrap_or_default();
        Some(Self {
            pid: line(1).parse().ok()?,
            started: line(3).parse().unwrap_or(0),
            port: line(4).parse().unwrap_or(0),
            socket_directory: (!line(5).is_empty()).then(|| PathBuf::from(line(5))),
            status: line(8).to_owned(),
        })
    }

    /// The postmaster; `None` when it is a single-user server.
    #[must_use]
    pub fn postmaster(&self) -> Option<Pid> {
        (self.pid > 0).then(|| Pid::from_raw(self.pid)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_postmaster_and_a_single_user_server_are_told_apart() {
        let text = "4711\n/data\n1795291860\n5433\n/tmp/s\n127.0.0.1\n  5432001    65540\nready   \n";
        let file = PidFile::parse(text).unwrap();
        assert_eq!((file.postmaster().unwrap().as_raw_pid(), file.port), (4711, 5433));
        assert_eq!((file.socket_directory.unwrap(), file.status.as_str()), (PathBuf::from("/tmp/s"), "ready"));
        let young = PidFile::parse("4711\n/data\n1795291860\n5433\n\n").unwrap();
        assert_eq!((young.socket_directory, young.status.as_str()), (None, ""));
        assert_eq!(PidFile::parse("-4711\n/data\n").unwrap().postmaster(), None);
        assert_eq!(PidFile::parse(""), None);
    }
}
