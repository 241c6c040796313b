//! ◇ What a coordinator tells an agent, and what the agent answers: JSON over the agent's API, both ways.
//!
//! An [`Order`] carries a [`Directive`] under an epoch and becomes a job with the order's id, whatever becomes of the connection; the
//! same id sent twice runs once. A refused order has changed nothing. Secrets are never in here: the agent has its own.
//!
//! Not here: how a job runs (`job`), who decides which directive a node gets (`cluster/decide`).
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | 200, [`AgentStatus`] |
//! | `GET /v1/events` | 200, a line of JSON per [`AgentEvent`], the first at once, at least one each `HEARTBEAT`; ends with the connection |
//! | `POST /v1/jobs`, an [`Order`] | 202, [`Job`]; 200 when it is known already; 409 (busy, stale epoch …), 422 (cannot be done) [`Failure`] |
//! | `GET /v1/jobs`, `GET /v1/jobs/ID` | 200, the last jobs, newest first; one [`Job`] |

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pg::{Lsn, SystemIdentifier, Timeline};
use crate::topology::Epoch;

/// An agent's stream of events is never silent for longer.
pub const HEARTBEAT: Duration = Duration::from_millis(500);
/// No order is longer.
pub const ORDER_BYTES_MAX: usize = 64 * 1024;

/// A directive for one node, under an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Of the job; the same one twice is one job. Letters, digits, `-`, `_`, `.`; 64 characters at most.
    pub id: String,
    /// The cluster the node belongs to.
    pub cluster: String,
    /// The node that is meant.
    pub node: String,
    /// Under which epoch. Older than one the agent has seen: refused, for ever.
    pub epoch: Epoch,
    /// Who gives it. Another than the one that gave this epoch before: refused.
    pub coordinator: String,
    /// What ties log lines of the API, the coordinator and the agents together.
    #[serde(default)]
    pub correlation: String,
    /// What is to be done.
    pub directive: Directive,
}

/// What a node can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Directive {
    /// Leave no server process, prove it, and latch: whatever starts PostgreSQL next starts it as a standby. Metadata of the job:
    /// `proof = "no-process"`, and `end_lsn` when the control file says where the log ends.
    Fence,
    /// A clean stop of a primary, then the latch: for a switchover. Metadata: `shutdown_lsn`, where the shutdown checkpoint
    /// begins, and `end_lsn`, behind it.
    Demote,
    /// A standby stops to receive and to restore, replays what it has, and stays like this. Metadata: `timeline`, `received_lsn`,
    /// `replayed_lsn`.
    Freeze,
    /// A frozen standby receives again, from where it did.
    Unfreeze,
    /// A standby becomes the primary of the order's epoch. The slots are made before, one for each standby that is to follow.
    /// Metadata: `timeline`, `lsn`.
    Promote {
        /// Names of physical slots.
        #[serde(default)]
        slots: Vec<String>,
    },
    /// A standby that runs follows another node, without a restart; one that does not run is started as a standby, if its
    /// history allows it: else it fails with [`Code::Diverged`].
    Follow {
        /// Which node.
        upstream: Upstream,
    },
    /// `pg_rewind`, then as [`Directive::Follow`].
    Rewind {
        /// From which node.
        upstream: Upstream,
    },
    /// `pg_basebackup` beside the old directory, which is kept, then as [`Directive::Follow`].
    Rebuild {
        /// From which node.
        upstream: Upstream,
    },
    /// Starts PostgreSQL, or stops and starts it.
    Restart {
        /// Take the latch away: it may open for writes, under the order's epoch.
        primary: bool,
    },
    /// Changes settings, and the slots of a primary.
    Configure {
        /// To be set, or reset where it is `null`; a reload, and what needs a restart is in the metadata `pending_restart`.
        #[serde(default)]
        settings: BTreeMap<String, Option<String>>,
        /// Physical slots to be made where they are not there.
        #[serde(default)]
        slots: Vec<String>,
        /// Physical slots to be dropped where they are not in use: only howdah's own (`howdah_…`).
        #[serde(default)]
        drop_slots: Vec<String>,
    },
    /// `CHECKPOINT`; on a standby a restart point.
    Checkpoint,
}

impl Directive {
    /// Its name, as it is written in JSON, logs and commands.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::Demote => "demote",
            Self::Freeze => "freeze",
            Self::Unfreeze => "unfreeze",
            Self::Promote { .. } => "promote",
            Self::Follow { .. } => "follow",
            Self::Rewind { .. } => "rewind",
            Self::Rebuild { .. } => "rebuild",
            Self::Restart { .. } => "restart",
            Self::Configure { .. } => "configure",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// The node that another follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Its name.
    pub node: String,
    /// Where it takes replication connections: an address, or a socket directory.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The physical slot for this standby there; made already.
    pub slot: String,
    /// The timeline it is on, and how it came there.
    pub history: History,
}

/// A timeline and the ones it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The present one.
    pub timeline: Timeline,
    /// Each ancestor, and where it was left; oldest first.
    #[serde(default)]
    pub forks: Vec<(Timeline, Lsn)>,
}

impl History {
    /// Whether a log that ends at `end` on this timeline is a part of this history.
    #[must_use]
    pub fn has(&self, timeline: Timeline, end: Lsn) -> bool {
        timeline == self.timeline || self.forks.iter().any(|(ancestor, left)| *ancestor == timeline && end <= *left)
    }
}

/// What an agent knows of itself and of its PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The cluster it is configured for.
    pub cluster: String,
    /// The node it is configured for.
    pub node: String,
    /// howdah's version.
    pub version: String,
    /// Another text for each life of the agent.
    pub incarnation: String,
    /// The highest epoch it has seen, and whose; persisted.
    pub epoch: Epoch,
    /// Empty while there is none.
    pub coordinator: String,
    /// PostgreSQL.
    pub postgres: PostgresStatus,
    /// Free bytes where the data directory and the agent's state are: the lesser.
    pub disk_free: u64,
    /// The job that runs, or the last one.
    pub job: Option<Job>,
    /// What keeps the node from being a good member of the cluster, in words: no rewind possible, a setting that is missing.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// PostgreSQL on a node, seen from beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresStatus {
    /// How many server processes of the data directory there are, orphans included.
    pub processes: u32,
    /// The postmaster, while it lives.
    pub postmaster: Option<u32>,
    /// Whether it takes connections.
    pub accepting: Accepting,
    /// `standby.signal` is there: whatever starts PostgreSQL starts it as a standby.
    pub latched: bool,
    /// A freeze is in force.
    pub frozen: bool,
    /// Accepts writes (`Some(false)`), or replays (`Some(true)`); `None` while it cannot be asked.
    pub in_recovery: Option<bool>,
    /// From the control file.
    pub system_identifier: Option<SystemIdentifier>,
    /// On a primary its own; on a standby that of what it replays.
    pub timeline: Option<Timeline>,
    /// How a primary came to its timeline.
    pub history: History,
    /// On a primary where its log ends; on a standby what it has received.
    pub received_lsn: Option<Lsn>,
    /// On a standby.
    pub replayed_lsn: Option<Lsn>,
    /// A standby's WAL receiver streams, and from where: `host:port`.
    pub streaming_from: Option<String>,
    /// Physical slots.
    #[serde(default)]
    pub slots: Vec<Slot>,
    /// Nothing bounds the log that slots keep (`max_slot_wal_keep_size` is -1).
    #[serde(default)]
    pub slots_unbounded: bool,
    /// `server_version_num`.
    pub version: Option<u32>,
    /// The control file, while no postmaster lives.
    pub control: Option<Control>,
    /// Bytes of log that a crashed server would have to replay; `None` when it is not known.
    pub recovery_bytes: Option<u64>,
}

/// Whether PostgreSQL takes connections from beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Accepting {
    /// It does, or refuses because all its connections are taken: it lives.
    Yes,
    /// It starts, recovers or stops, and says so.
    NotYet {
        /// Its words.
        said: String,
    },
    /// It has not answered so many times in a row.
    Silent {
        /// How often.
        times: u32,
    },
    /// Nobody listens.
    #[default]
    No,
}

/// A replication slot of a primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Somebody streams through it.
    pub active: bool,
    /// `wal_status` is `lost`.
    pub lost: bool,
}

/// `pg_controldata`, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// "Database cluster state": `shut down`, `in production`, `in archive recovery` …
    pub state: String,
    /// The latest checkpoint's.
    pub timeline: Timeline,
    /// Where the latest checkpoint's record begins.
    pub checkpoint: Lsn,
    /// Where its redo begins.
    pub redo: Lsn,
    /// "Minimum recovery ending location".
    pub min_recovery: Lsn,
}

/// What an agent's stream of events says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AgentEvent {
    /// Everything, at the beginning, whenever something has changed, and as a heartbeat.
    Status(Box<AgentStatus>),
    /// The postmaster has died: said before anything else is found out.
    PostmasterDied,
    /// A job has moved.
    Job(Box<Job>),
}

/// A directive that is being carried out, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The order it came from.
    pub order: Order,
    /// How far it is.
    pub state: JobState,
    /// Its steps, in their order, as far as they have begun.
    pub steps: Vec<Step>,
    /// What it has found out.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Of a long copy: bytes done and bytes in all.
    pub progress: Option<(u64, u64)>,
    /// Milliseconds since 1970, by the agent's clock.
    pub began_ms: u64,
    /// Likewise; `None` while it runs.
    pub ended_ms: Option<u64>,
}

/// How far a job is. Only forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobState {
    /// Taken, not begun.
    Pending,
    /// Under way.
    InProgress,
    /// Done.
    Completed,
    /// Undone, or as far forward as it can be after its point of no return; the failure says which.
    Failed,
}

impl JobState {
    /// Whether it ends here.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// One step of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it does, in a few words.
    pub name: String,
    /// How it went.
    pub outcome: Outcome,
    /// Milliseconds since 1970.
    pub began_ms: u64,
    /// Likewise.
    pub ended_ms: Option<u64>,
    /// What it said: the end of a program's output, mostly.
    #[serde(default)]
    pub log: Vec<String>,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has begun: journalled, perhaps done.
    Begun,
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Done, or perhaps done, and undone.
    Undone,
}

/// Why an order was refused or a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// For people.
    pub text: String,
}

impl Failure {
    /// A failure.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The order does not read.
    Malformed,
    /// Another cluster or node is meant.
    WrongNode,
    /// The epoch is older than what the agent has seen.
    StaleEpoch,
    /// Another coordinator gave this epoch.
    OtherCoordinator,
    /// Another job runs.
    Busy,
    /// No such job.
    Unknown,
    /// It is a standby where a primary is needed, or the other way round.
    WrongRole,
    /// PostgreSQL does not run, or does.
    WrongState,
    /// Its log is not a part of the other's history.
    Diverged,
    /// The data directory is another system's.
    OtherSystem,
    /// The other node does not answer, or does not let it in.
    Unreachable,
    /// `pg_rewind` cannot work here: no checksums and no `wal_log_hints`, or log that is gone.
    RewindImpossible,
    /// No room on a disk.
    DiskFull,
    /// A right is missing.
    Permission,
    /// A program is missing, or failed.
    Program,
    /// A step or the job took too long.
    TimedOut,
    /// The agent ended in the middle, and has undone it.
    Interrupted,
    /// What was done could not be undone: a person has to look. Of a promotion: it may still come to its end by itself.
    NotUndone,
    /// A defect of howdah's.
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_as_it_is_written_and_nothing_unknown_is_taken() {
        let order = Order {
            id: "main-7-promote-b".into(),
            cluster: "main".into(),
            node: "b".into(),
            epoch: Epoch(7),
            coordinator: "c1".into(),
            correlation: "x".into(),
            directive: Directive::Promote { slots: vec!["howdah_a".into()] },
        };
        let text = serde_json::to_string(&order).unwrap();
        assert!(text.contains(r#""epoch":7"#) && text.contains(r#""do":"promote""#), "{text}");
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
        assert!(serde_json::from_str::<Order>(&text.replace("slots", "slot")).is_err());
    }

    #[test]
    fn a_log_belongs_to_a_history_up_to_where_its_timeline_was_left() {
        let history = History { timeline: Timeline(3), forks: vec![(Timeline(1), Lsn(100)), (Timeline(2), Lsn(200))] };
        assert!(history.has(Timeline(3), Lsn(9_999)));
        assert!(history.has(Timeline(1), Lsn(100)) && history.has(Timeline(2), Lsn(150)));
        assert!(!history.has(Timeline(1), Lsn(101)) && !history.has(Timeline(4), Lsn(1)));
    }
}
