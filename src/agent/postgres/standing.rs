//! What a running server is: primary or standby, on which timeline, how far.

use std::path::Path;

use super::history;
use super::local::{Local, LocalError};
use crate::directive::Failure;
use crate::pg::{Lsn, Timeline};

/// One question, so that its answers belong together. A receiver that is still connecting shows in `pg_stat_activity` alone.
const QUESTION: &str = "SELECT pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END, \
    pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), \
    CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, \
    (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'), \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'), \
    r.status, r.sender_host, r.sender_port, r.received_tli, \
    (SELECT timeline_id FROM pg_control_checkpoint()), \
    (SELECT min_recovery_end_timeline FROM pg_control_recovery()), \
    (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size') \
    FROM (SELECT) AS one LEFT JOIN pg_stat_wal_receiver AS r ON true";

/// A running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// A standby.
    pub in_recovery: bool,
    /// A primary's own; of a standby that of what it has received.
    pub timeline: Timeline,
    /// Where a primary's log ends; what a standby has received.
    pub received: Lsn,
    /// What a standby has replayed; on a primary as `received`.
    pub replayed: Lsn,
    /// Somebody has told it not to replay.
    pub paused: bool,
    /// A standby has a WAL receiver, connected or not.
    pub receiving: bool,
    /// It streams, from this host and port.
    pub streaming_from: Option<(String, u16)>,
    /// What the startup process waits for.
    pub startup_waits_for: Option<String>,
}

impl Standing {
    /// Asks.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn ask(local: &Local, data_directory: &Path) -> Result<Self, Failure> {
        let rows = local.rows(QUESTION).await?;
        let unread = || LocalError::Failed { sqlstate: None, text: "the server's standing does not read".to_owned() };
        let row = rows.first().ok_or_else(unread)?;
        let lsn = |index: usize| row.get(index).and_then(|text| text.parse::<Lsn>().ok());
        let number = |index: usize| row.get(index).and_then(|text| text.parse::<u64>().ok());
        let timeline = |index: usize| number(index).and_then(|number| u32::try_from(number).ok()).map(Timeline);
        let in_recovery = row.get(0) == Some("t");
        let replayed = lsn(4).or_else(|| lsn(1)).unwrap_or_default();
        // what was restored, or was there at the start, was not received
        let received = if in_recovery { lsn(3).unwrap_or_default().max(replayed) } else { lsn(1).unwrap_or_default() };
        let named = row.get(2).and_then(|text| u32::from_str_radix(text, 16).ok()).map(Timeline);
        let timeline = match named {
            Some(own) => own,
            // no function tells it: a receiver, the control file and the log's segments each know a part
            None => {
                let segment = history::of_segment_at(data_directory, received, number(14).unwrap_or(16 << 20))?;
                [timeline(11), timeline(12), timeline(13), segment].into_iter().flatten().max().unwrap_or_default()
            }
        };
        let port = number(10).and_then(|port| u16::try_from(port).ok());
        let streaming = row.get(8) == Some("streaming");
        Ok(Self {
            in_recovery,
            timeline,
            received,
            replayed: if in_recovery { replayed } else { received },
            paused: row.get(5) == Some("t"),
            receiving: number(7).unwrap_or(0) > 0 || row.get(8).is_some(),
            streaming_from: row.get(9).zip(port).filter(|_| streaming).map(|(host, port)| (host.to_owned(), port)),
            startup_waits_for: row.get(6).map(str::to_owned),
        })
    }

    /// It is at the end of everything it can reach by itself, and knows it. (PostgreSQL: "Wait Events of Type Activity", "…
    /// Timeout".)
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.startup_waits_for.as_deref().is_some_and(|event| END_WAITS.contains(&event))
    }

    /// Why it does not replay what it has: paused by a person, or late on purpose.
    #[must_use]
    pub fn held_back(&self) -> Option<&'static str> {
        match self.startup_waits_for.as_deref() {
            _ if self.paused => Some("paused"),
            Some("RecoveryApplyDelay") => Some("delayed"),
            _ => None,
        }
    }
}

const END_WAITS: [&str; 3] = ["RecoveryRetrieveRetryInterval", "RecoveryWalStream", "RecoveryWalAll"];
