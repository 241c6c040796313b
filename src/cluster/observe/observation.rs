//! What asking a node once can bring. Facts only; what follows from them is `fold`'s to say.

use crate::catalog::connection::ConnectionError;
use crate::pg::{Lsn, SystemIdentifier, Timeline};
use crate::topology::Role;

/// The outcome of asking one node once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Observation {
    /// It answered.
    Answered(Answer),
    /// It did not.
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
    /// On a primary the insert position, on a standby what it has received.
    pub(super) received_lsn: Option<Lsn>,
    /// On a standby what it has replayed.
    pub(super) replayed_lsn: Option<Lsn>,
    /// `server_version_num`, such as 150004.
    pub(super) server_version: Option<u32>,
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
