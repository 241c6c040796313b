//! What asking a node can bring. Facts only; what follows from them is `fold`'s to say.

use crate::catalog::connection::ConnectionError;
use crate::pg::{Lsn, SystemIdentifier, Timeline};
use crate::topology::{Role, Stamp};

/// What happened between the monitor and one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Observation {
    /// The monitor has another connection to it than before.
    Connected,
    /// The connection has ended, or nobody reads its answers any more. That says nothing yet about the node.
    Disconnected,
    /// It answered the question that was asked at this moment, over the connection that was reported last.
    Answered(Stamp, Answer),
    /// It did not answer, or could not be asked.
    Missed(Miss),
}

/// What a node said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// `pg_is_in_recovery()`.
    pub(super) role: Role,
    /// `pg_control_system()`.
    pub(super) system_identifier: Option<SystemIdentifier>,
    /// On a standby the one it receives; unknown while it receives nothing, or without `pg_monitor`.
    pub(super) timeline: Option<Timeline>,
    /// On a primary where its log ends, flushed or not; on a standby what it has received.
    pub(super) received_lsn: Option<Lsn>,
    /// On a standby what it has replayed.
    pub(super) replayed_lsn: Option<Lsn>,
    /// On a primary what it has flushed, and so may have sent.
    pub(super) flushed_lsn: Option<Lsn>,
    /// On a primary which transactions could be seen before it said where its log ends: another text after each that ends.
    pub(super) snapshot: Option<Box<str>>,
    /// A standby's WAL receiver.
    pub(super) receiver: Receiver,
    /// `server_version_num`, such as 150004.
    pub(super) server_version: Option<u32>,
    /// Its transaction ids.
    pub(super) xids: Xids,
}

/// What tells the transactions of one primary from those of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Xids {
    /// No transaction that has ended, here or at the primary it follows as far as it knows, has this id or a later one:
    /// `pg_snapshot_xmax(pg_current_snapshot())`.
    pub(super) next: Option<u64>,
    /// The next id as the last recovery, or the last clean end, has left it; unknown once there was a checkpoint since.
    pub(super) recovered: Option<u64>,
    /// Which incarnation answers.
    pub(super) incarnation: Option<Incarnation>,
    /// By its own clock, in microseconds.
    pub(super) clock_us: Option<i64>,
}

/// One life of a server, from its start or its last crash on. A postmaster that starts its server processes anew after a crash
/// remains the same, so the checkpointer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incarnation {
    /// `pg_postmaster_start_time()`, in microseconds.
    pub(super) postmaster_us: i64,
    /// When the checkpointer has started; only members of `pg_monitor` are told.
    pub(super) checkpointer_us: i64,
}

/// What `pg_stat_wal_receiver` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    /// Nothing: there is none.
    Absent,
    /// That there is one, and nothing of it: the monitor's user is no member of `pg_monitor`.
    Hidden,
    /// It waits, starts or stops.
    Idle,
    /// `streaming`.
    Streaming,
}

/// Why there was no answer; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// Nobody serves there now. Counts at once.
    Gone(String),
    /// Nothing was learnt. Counts towards the threshold.
    Silent(String),
    /// All its connections are taken. It lives, so this counts for nothing: saturation is not death.
    Saturated(String),
}

impl From<ConnectionError> for Miss {
    fn from(error: ConnectionError) -> Self {
        let text = error.to_string();
        match error {
            ConnectionError::Gone(_) => Self::Gone(text),
            ConnectionError::Full(_) => Self::Saturated(text),
            ConnectionError::TimedOut(_)
            | ConnectionError::Reported { .. }
            | ConnectionError::Tls(_)
            | ConnectionError::Failed(_) => Self::Silent(text),
        }
    }
}
