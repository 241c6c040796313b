//! ◇ The coordinator: what follows from what is known. Pure and total: no clock, no I/O, no randomness.
//!
//! [`Decider::step`] takes one [`Input`] at a moment and says what is to be done as [`Output`]s, in their order. The shell
//! (`cluster/coordinator.rs`) carries them out; `tests/sim` runs millions of failures through the same machine.
//!
//! Two gates stand before any promotion, and nothing else decides one (ARCHITECTURE.md, "Two gates"): nobody else can acknowledge
//! writes, which a fence proves that leaves no server process, and a person may vouch for; and the candidate has everything
//! that any standby has received.
//!
//! Intent is recorded before action: a [`Record`] goes out as [`Output::Store`], and what it intends follows only upon
//! [`Input::Stored`]. A coordinator that starts with a record goes on from it.
//!
//! - `machine`: takes inputs in, hands outputs out; the record and its store; `stage`, `diagram`: the table of stages
//! - `start`: whose cluster, which epoch, who is the primary, what was under way
//! - `knowledge`, `evidence`, `flapping`: what is known of nodes, whether the primary has failed, whether a failover may begin
//! - `steady`, `failover`, `switchover`, with `candidate` and `operation`: what is done about it
//! - `rejoin`, `upkeep`: standbys and slots
//! - `errand`, `names`: orders on their way, and how they are called
//! - `command`, `explain`: what people ask for, what they are told

mod candidate;
mod command;
mod diagram;
mod errand;
mod evidence;
mod explain;
mod failover;
mod flapping;
mod knowledge;
mod machine;
mod names;
mod operation;
mod rejoin;
mod stage;
mod start;
mod steady;
mod switchover;
mod upkeep;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::directive::{AgentStatus, Failure, Job, Order};
use crate::pg::{Lsn, SystemIdentifier, Timeline};
use crate::topology::{Appointment, Epoch, NodeName, Role};

pub use diagram::diagram;
pub use machine::Decider;
pub use names::slot_name;
pub use stage::{Stage, WAYS};

/// What a coordinator is told by its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's name.
    pub cluster: String,
    /// `[clusters.NAME.failover] mode`.
    pub mode: Mode,
    /// In the order of the configuration.
    pub nodes: Vec<Member>,
    /// `primary = "b"`: a change is a switchover.
    pub declared: Option<NodeName>,
    /// A standby that lacks more of the primary's log than this is no candidate (`max_lag_on_failover`).
    pub max_lag: u64,
    /// A primary whose process died is restarted where that is expected to take less (`restart_if`).
    pub restart_if: Duration,
    /// A primary's slots keep so much log at most, unless it has a bound of its own (`slot_wal_max`); 0: none is set.
    pub slot_wal_max: u64,
    /// A failover counts for so long (`flap_window`); zero: none is held back.
    pub flap_window: Duration,
    /// `[clusters.NAME.monitor] interval`: how often something unanswered is asked again.
    pub interval: Duration,
    /// So many silent answers in a row are a failure (`failure_threshold`).
    pub failure_threshold: u32,
    /// How long new transactions are held in all (`[clusters.NAME.switchover] hold_timeout`).
    pub hold_timeout: Duration,
    /// How long running ones may take to finish (`drain_timeout`).
    pub drain_timeout: Duration,
    /// What becomes of those that do not (`on_open`).
    pub on_open: OnOpen,
}

/// Who fails over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The coordinator, by itself.
    Automatic,
    /// The coordinator, when somebody tells it to.
    Manual,
    /// Somebody else; routing follows.
    #[default]
    Observe,
}

/// What a switchover does with blocks and pinned sessions that are open when `drain_timeout` is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOpen {
    /// It is undone.
    #[default]
    Abort,
    /// They are ended, as by a failover.
    Kill,
}

/// A node of the cluster, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// Of two standbys that are equally far the one with the greater is promoted; 0 = never.
    pub priority: u32,
    /// There is an agent beside it.
    pub has_agent: bool,
    /// Where standbys find it.
    pub host: String,
    /// Likewise.
    pub port: u16,
}

/// What howdah's own connection to a node has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// The last health checks came back.
    pub healthy: bool,
    /// What it said it is.
    pub role: Option<Role>,
    /// The timeline it is on.
    pub timeline: Option<Timeline>,
    /// On a primary where its log ends; on a standby what it has received.
    pub received_lsn: Option<Lsn>,
    /// On a standby.
    pub replayed_lsn: Option<Lsn>,
    /// Whose cluster.
    pub system_identifier: Option<SystemIdentifier>,
    /// Why not, for people.
    pub trouble: Option<String>,
}

/// What the coordinator learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed. `wall_ms`: milliseconds since 1970, for what people read and for counting failovers across restarts; nothing
    /// that must be safe depends on it.
    Tick {
        /// The wall clock.
        wall_ms: u64,
    },
    /// What the monitor has seen of a node.
    Seen(NodeName, Sight),
    /// An agent has said how it is. Also its heartbeat.
    Reported(NodeName, Box<AgentStatus>),
    /// An agent's postmaster has died, this moment.
    PostmasterDied(NodeName),
    /// An agent cannot be heard any more.
    Silent(NodeName, String),
    /// A job has moved.
    Moved(NodeName, Box<Job>),
    /// An order was refused, and has changed nothing.
    Refused(NodeName, String, Failure),
    /// An order could not be delivered, or nobody knows whether it was: it may run, or have run.
    Undelivered(NodeName, String, String),
    /// The record of this generation is stored.
    Stored(u64),
    /// It could not be stored; nothing may follow from it.
    NotStored(u64, String),
    /// So many transactions and sessions are open at the held primary; only told while something is held.
    Open(u64),
    /// Somebody wants something; the answer carries the number.
    Asked(u64, Command),
    /// The configuration has changed.
    Settings(Settings),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Persist, and say [`Input::Stored`].
    Store(Box<Record>),
    /// Give this to the agent of its node; again, if it is not known whether it came there.
    Send(NodeName, Box<Order>),
    /// Ask this agent for its status now.
    Ask(NodeName),
    /// Look at this node now.
    Look(NodeName),
    /// From now on this holds for routing: also holds and releases.
    Appoint(Appointment),
    /// The answer to a command.
    Reply(u64, Result<Accepted, Refused>),
    /// For the operator's diary.
    Tell(Event),
}

/// What people can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// A planned change of the primary.
    Switchover {
        /// To this node; the best one when nobody is named.
        to: Option<NodeName>,
    },
    /// An unplanned one, now.
    Failover {
        /// To this node.
        to: Option<NodeName>,
        /// A person has made sure that this node, the old primary, is off and stays off.
        #[serde(default)]
        vouch: Option<NodeName>,
        /// Also to a standby that is known to lack more than `max_lag_on_failover`.
        #[serde(default)]
        allow_data_loss: bool,
    },
    /// No failovers and no repairs from now on.
    Pause,
    /// They go on.
    Resume,
    /// The node belongs to the cluster again: it is made to follow, a quarantine is over.
    Attach {
        /// Which.
        node: NodeName,
    },
    /// The coordinator leaves it alone; it is no candidate.
    Detach {
        /// Which.
        node: NodeName,
    },
    /// No server process there, and none that writes.
    Fence {
        /// Which.
        node: NodeName,
    },
    /// It may be started and join again.
    Unfence {
        /// Which.
        node: NodeName,
    },
    /// A new copy of the primary's data.
    Rebuild {
        /// Which standby.
        node: NodeName,
    },
    /// Stop and start.
    Restart {
        /// Which.
        node: NodeName,
    },
}

/// A command that is carried out: what to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The job or operation, for `GET /operations/ID`; empty when it is done already.
    pub id: String,
    /// In words.
    pub text: String,
}

/// A command that is not carried out, and has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

/// Why something is refused, or not done by itself. For programs; a text for people goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// There is no such node.
    UnknownNode,
    /// The configuration says `observe`, or some node has no agent.
    NotManaged,
    /// `mode = "manual"`: somebody has to say so.
    Manual,
    /// `howdah pause` is in force.
    Paused,
    /// Another operation runs.
    Busy,
    /// It is the primary already, or no standby.
    WrongRole,
    /// There is no primary to start from.
    NoPrimary,
    /// The old primary's agent has not proven that no server process is left.
    NoProof,
    /// The old primary is alive as far as somebody can tell.
    PrimaryLives,
    /// No standby may be promoted: each with its own reason.
    NoCandidate,
    /// A standby does not answer.
    Unreachable,
    /// A standby does not stream, or lags too much.
    Lagging,
    /// Other timeline or other cluster.
    OtherHistory,
    /// Failovers have come too often.
    Flapping,
    /// The operator has taken it out.
    Detached,
    /// It has been tried to make it a standby, in vain.
    Quarantined,
    /// The store does not take the record.
    StoreFailed,
    /// It was undone: what failed is in the text.
    Undone,
}

/// What is persisted: everything that must outlive the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Grows by one with each record.
    pub generation: u64,
    /// Who writes it: drawn once, for the store.
    pub coordinator: String,
    /// Whose cluster; learnt from its first primary.
    pub system_identifier: Option<SystemIdentifier>,
    /// The count of promotions.
    pub epoch: Epoch,
    /// The primary of this epoch.
    pub primary: Option<NodeName>,
    /// Its timeline.
    pub timeline: Option<Timeline>,
    /// What is under way.
    pub intent: Option<Intent>,
    /// `howdah pause`.
    pub paused: bool,
    /// Nodes that are left alone, and why.
    #[serde(default)]
    pub aside: BTreeMap<NodeName, Aside>,
    /// The last changes of the primary, newest last; a hundred at most.
    #[serde(default)]
    pub history: Vec<Change>,
    /// The primary the configuration named when it was last looked at.
    pub declared: Option<NodeName>,
    /// Nodes that were told to become the primary since the last one did, and may have been for a moment.
    #[serde(default)]
    pub told: BTreeSet<NodeName>,
    /// Those of them that did not, while another did, and whoever may be on the last primary's timeline when the next one took its
    /// number again: both have begun a timeline of one number, and no number tells what is on which. They are copied anew before
    /// anything else.
    #[serde(default)]
    pub forked: BTreeSet<NodeName>,
}

/// What is under way, as recorded before it begins. Each stage is a record of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "intent", rename_all = "snake_case")]
pub enum Intent {
    /// The primary has failed: fence it, freeze the others.
    Failover {
        /// Of the operation.
        id: String,
        /// Who has failed.
        from: NodeName,
        /// Why.
        cause: String,
        /// An operator has vouched for the fence.
        vouched: bool,
        /// The operator's choice.
        to: Option<NodeName>,
        /// The operator accepts a loss.
        allow_data_loss: bool,
    },
    /// Its process is started again where it was.
    RestartInPlace {
        /// Of the operation.
        id: String,
        /// Which node.
        node: NodeName,
        /// Why.
        cause: String,
    },
    /// The planned change, before the old primary is stopped: nothing to undo but a hold.
    Switchover {
        /// Of the operation.
        id: String,
        /// The old primary.
        from: NodeName,
        /// The new one.
        to: NodeName,
        /// The old primary may have been stopped.
        stopping: bool,
    },
    /// Both gates are passed: this node is promoted in this epoch, and no other will be.
    Promote {
        /// Of the operation.
        id: String,
        /// The old primary.
        from: NodeName,
        /// The new one.
        to: NodeName,
        /// The new epoch.
        epoch: Epoch,
        /// It was planned.
        planned: bool,
        /// Why.
        cause: String,
    },
}

/// Why a node is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "aside", rename_all = "snake_case")]
pub enum Aside {
    /// `howdah detach`.
    Detached,
    /// `howdah fence`.
    Fenced,
    /// Every way to make it a standby has failed.
    Quarantined {
        /// The last failure.
        why: String,
    },
}

/// A change of the primary, for `howdah history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The epoch that began.
    pub epoch: Epoch,
    /// When, in milliseconds since 1970.
    pub wall_ms: u64,
    /// The primary before.
    pub from: Option<NodeName>,
    /// The primary since.
    pub to: NodeName,
    /// Planned?
    pub planned: bool,
    /// Why.
    pub cause: String,
    /// From the first sign to the promotion, in milliseconds.
    pub took_ms: u64,
    /// Bytes of the old primary's log, as last sampled, that the new one did not have.
    pub lost_bytes: Option<u64>,
}

/// Something for the operator's diary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// About which node.
    pub node: Option<NodeName>,
    /// Somebody should look.
    pub grave: bool,
    /// What ties it to an operation.
    pub operation: Option<String>,
    /// In words.
    pub text: String,
}

/// What the coordinator makes of it all: for `howdah status`, `nodes` and `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `automatic`, `manual`, `observe`.
    pub mode: String,
    /// One word: `steady`, `suspecting`, `fencing`, `freezing`, `promoting`, `restarting`, `holding`, `draining`, `stopping` …; the states of the
    /// diagram in ARCHITECTURE.md.
    pub state: String,
    /// The count of promotions.
    pub epoch: Epoch,
    /// The primary of this epoch.
    pub primary: Option<NodeName>,
    /// `howdah pause`.
    pub paused: bool,
    /// What is under way.
    pub operation: Option<String>,
    /// What stands in the way of what should happen next: no proof of the fence, no candidate …
    pub blocked: Vec<Refused>,
    /// Each node.
    pub nodes: Vec<NodeExplanation>,
}

/// One node in an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeExplanation {
    /// Its name.
    pub name: NodeName,
    /// What the coordinator takes it for: `primary`, `standby`, `joining`, `fenced`, `detached`, `quarantined`, `unknown`.
    pub state: String,
    /// Its agent is heard.
    pub agent: bool,
    /// Why it would not be promoted now; `None` when it might.
    pub refused: Option<Refused>,
    /// In words: the last thing that went wrong, what it does.
    pub note: Option<String>,
}
