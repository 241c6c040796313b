//! The control file, as `pg_controldata` shows it.
//!
//! Not read from its bytes: their layout changes between versions, the labels have not since 9.x (PostgreSQL: `pg_controldata`).

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::program::Programs;
use crate::directive::{Code, Control, Failure};
use crate::pg::{LogLayout, Lsn, SystemIdentifier, Timeline};

/// How long the program may take; it reads one sector.
const BOUND: Duration = Duration::from_secs(10);

/// What matters of the control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Whose cluster.
    pub system_identifier: SystemIdentifier,
    /// "Database cluster state".
    pub state: State,
    /// Where the latest checkpoint's record begins.
    pub checkpoint: Lsn,
    /// Where its redo begins.
    pub redo: Lsn,
    /// The latest checkpoint's timeline.
    pub timeline: Timeline,
    /// "Minimum recovery ending location": nothing before it may be missing.
    pub min_recovery: Lsn,
    /// Its timeline.
    pub min_recovery_timeline: Timeline,
    /// Bytes of a segment and of a page of the log.
    pub layout: LogLayout,
    /// Data pages have checksums.
    pub checksums: bool,
    /// `wal_log_hints` was on when the server last ran.
    pub wal_log_hints: bool,
}

/// "Database cluster state".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// `starting up`: initdb has made it, or it never came further.
    StartingUp,
    /// `shut down`: a clean stop of a primary.
    ShutDown,
    /// `shut down in recovery`: a clean stop of a standby.
    ShutDownInRecovery,
    /// `shutting down`: it writes its last checkpoint, or died in it.
    ShuttingDown,
    /// `in crash recovery`.
    InCrashRecovery,
    /// `in archive recovery`: a standby runs, or died.
    InArchiveRecovery,
    /// `in production`: a primary runs, or died.
    InProduction,
    /// One that this version of howdah does not know.
    Other(String),
}

impl State {
    fn read(text: &str) -> Self {
        match text {
            "starting up" => Self::StartingUp,
            "shut down" => Self::ShutDown,
            "shut down in recovery" => Self::ShutDownInRecovery,
            "shutting down" => Self::ShuttingDown,
            "in crash recovery" => Self::InCrashRecovery,
            "in archive recovery" => Self::InArchiveRecovery,
            "in production" => Self::InProduction,
            other => Self::Other(other.to_owned()),
        }
    }

    /// As `pg_controldata` writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
            Self::Other(text) => text,
        }
    }
}

impl ControlFile {
    /// Reads that of a data directory; the server may run.
    ///
    /// # Errors
    /// When the program fails (the file is missing or broken), or says something unknown.
    pub async fn read(programs: &Programs, data_directory: &Path) -> Result<Self, Failure> {
        let mut command = programs.command("pg_controldata");
        command.arg("-D").arg(data_directory);
        let output = programs.run(command, Some(BOUND), |_| ()).await?;
        Self::parse(&output.stdout).map_err(|label| {
            Failure::new(Code::Program, format!("pg_controldata says nothing that reads as \"{label}\""))
        })
    }

    /// Reads the program's output, in the C locale; the label that is missing or does not read otherwise.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let lines: HashMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(':').map(|(label, value)| (label, value.trim()))).collect();
        let wal_log_hints = lines.get("wal_log_hints setting").is_some_and(|value| *value == "on");
        let checksums = read::<u32>(&lines, "Data page checksum version")? > 0;
        Ok(Self {
            system_identifier: SystemIdentifier(read(&lines, "Database system identifier")?),
            state: State::read(lines.get("Database cluster state").ok_or("Database cluster state")?),
            checkpoint: read(&lines, "Latest checkpoint location")?,
            redo: read(&lines, "Latest checkpoint's REDO location")?,
            timeline: Timeline(read(&lines, "Latest checkpoint's TimeLineID")?),
            min_recovery: read(&lines, "Minimum recovery ending location")?,
            min_recovery_timeline: Timeline(read(&lines, "Min recovery ending loc's timeline")?),
            layout: LogLayout {
                segment_size: read(&lines, "Bytes per WAL segment")?,
                block_size: read(&lines, "WAL block size")?,
            },
            checksums,
            wal_log_hints,
        })
    }

    /// `pg_rewind` can work on it.
    #[must_use]
    pub fn can_rewind(&self) -> bool {
        self.checksums || self.wal_log_hints
    }

    /// For status and the coordinator.
    #[must_use]
    pub fn summary(&self) -> Control {
        Control {
            state: self.state.as_str().to_owned(),
            timeline: self.timeline,
            checkpoint: self.checkpoint,
            redo: self.redo,
            min_recovery: self.min_recovery,
        }
    }
}

fn read<T: FromStr>(lines: &HashMap<&str, &str>, label: &'static str) -> Result<T, &'static str> {
    lines.get(label).and_then(|value| value.parse().ok()).ok_or(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = "\
pg_control version number:            1300
Catalog version number:               202209061
Database system identifier:           7575012345678901234
Database cluster state:               shut down in recovery
pg_control last modified:             Sat Nov 21 20:11:00 2026
Latest checkpoint location:           0/5000060
Latest checkpoint's REDO location:    0/5000028
Latest checkpoint's REDO WAL file:    000000020000000000000005
Latest checkpoint's TimeLineID:       2
Latest checkpoint's PrevTimeLineID:   2
Latest checkpoint's full_page_writes: on
Latest checkpoint's NextXID:          0:742
Time of latest checkpoint:            Sat Nov 21 20:10:00 2026
Fake LSN counter for unlogged rels:   0/3E8
Minimum recovery ending location:     0/50000D8
Min recovery ending loc's timeline:   2
Backup start location:                0/0
Backup end location:                  0/0
End-of-backup record required:        no
wal_level setting:                    replica
wal_log_hints setting:                on
max_connections setting:              100
Maximum data alignment:               8
Database block size:                  8192
WAL block size:                       8192
Bytes per WAL segment:                16777216
Data page checksum version:           0
Mock authentication nonce:            0123456789abcdef
";

    #[test]
    fn what_pg_controldata_says_is_read() {
        let control = ControlFile::parse(GOLDEN).unwrap();
        assert_eq!(control.system_identifier, SystemIdentifier(7_575_012_345_678_901_234));
        assert_eq!((control.state.clone(), control.timeline), (State::ShutDownInRecovery, Timeline(2)));
        assert_eq!((control.checkpoint, control.redo), (Lsn(0x500_0060), Lsn(0x500_0028)));
        assert_eq!((control.min_recovery, control.min_recovery_timeline), (Lsn(0x500_00D8), Timeline(2)));
        assert_eq!(control.layout, LogLayout { segment_size: 16 << 20, block_size: 8192 });
        assert!(!control.checksums && control.wal_log_hints && control.can_rewind());
        assert_eq!(control.summary().state, "shut down in recovery");
    }

    #[test]
    fn what_is_missing_is_named_and_an_unknown_state_is_kept() {
        let without = GOLDEN.replace("Latest checkpoint location", "Last checkpoint location");
        assert_eq!(ControlFile::parse(&without), Err("Latest checkpoint location"));
        let unknown = ControlFile::parse(&GOLDEN.replace("shut down in recovery", "asleep")).unwrap();
        assert_eq!(unknown.state.as_str(), "asleep");
        let broken = GOLDEN.replace("0/5000060", "nowhere");
        assert_eq!(ControlFile::parse(&broken), Err("Latest checkpoint location"));
    }
}
