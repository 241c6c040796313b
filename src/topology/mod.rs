//! Where the two paths meet: the control path publishes a [`Topology`], the data path reads it.
//!
//! - this file: what is known, as immutable snapshots: who reads one never sees half a change
//! - [`board`]: where they are published, and what comes back from the data path
//! - [`reigns`]: who was the primary when, and which transaction ids tell
//! - [`samples`]: positions of the primary's log, and what they bound
//!
//! Not here: how a node is observed (`cluster/observe`), which node a statement goes to (`proxy/route`).

pub mod board;
pub mod reigns;
pub mod samples;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::board::{Board, ClusterBoard};
pub use self::reigns::{Reign, Reigns};
pub use self::samples::{Era, Sample, Samples, Stamp};
use crate::pg::{Lsn, SystemIdentifier, Timeline};

/// The name of a cluster, as in `[clusters.NAME]`.
pub type ClusterName = Arc<str>;
/// The name of a node, as in `[[clusters.NAME.nodes]] name`.
pub type NodeName = Arc<str>;

/// howdah's count of promotions in a cluster. Not PostgreSQL's timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a node is (`pg_is_in_recovery()`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts writes.
    Primary,
    /// Replays another node's log.
    Standby,
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its name in the configuration.
    pub name: NodeName,
    /// What it said it is when it was last asked; `None` while nobody knows.
    pub role: Option<Role>,
    /// Whether the last health checks came back.
    pub healthy: bool,
    /// The timeline it is on.
    pub timeline: Option<Timeline>,
    /// Which cluster it belongs to, by its own word.
    pub system_identifier: Option<SystemIdentifier>,
    /// On a primary the insert position, on a standby what it has received.
    pub received_lsn: Option<Lsn>,
    /// What a standby has replayed.
    pub replayed_lsn: Option<Lsn>,
    /// Bytes of the primary's log that are not replayed here, at the last sample.
    pub lag_bytes: Option<u64>,
    /// For how long a standby has not had all of the primary's log; `None` while that is not known.
    pub lag_time: Option<Duration>,
    /// Another number for each connection that the monitor has to it. What was sampled over an earlier one says nothing: a standby
    /// that restarts may be further back.
    pub life: u64,
    /// The number of the last question it has answered in this life; 0 when none.
    pub sampled: u64,
    /// Why reads do not go there, whoever asks; `None` when they may.
    pub unfit: Option<Unfit>,
    /// Why it is not healthy, for people.
    pub trouble: Option<String>,
}

impl NodeView {
    /// A node nobody has asked yet.
    #[must_use]
    pub fn unknown(name: NodeName) -> Self {
        Self {
            name,
            role: None,
            healthy: false,
            timeline: None,
            system_identifier: None,
            received_lsn: None,
            replayed_lsn: None,
            lag_bytes: None,
            lag_time: None,
            life: 0,
            sampled: 0,
            unfit: Some(Unfit::Unhealthy),
            trouble: Some("not asked yet".to_owned()),
        }
    }
}

/// Why a node is no replica: no reads go there that could go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It does not answer, or is another cluster's.
    Unhealthy,
    /// It accepts writes.
    Primary,
    /// It has not been asked since the monitor connected to it again: nobody knows how far it is.
    Unsampled,
    /// There is no primary whose log it could have, and there was none that it followed.
    NoPrimary,
    /// It receives no log, and has not for a while.
    NotStreaming,
    /// It follows another timeline than the primary's.
    OtherTimeline,
    /// It is further behind than `max_lag`, or was and has not caught up.
    Lagging,
    /// It has come and gone too often lately.
    Flapping,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unhealthy => "not healthy",
            Self::Primary => "accepts writes",
            Self::Unsampled => "not asked yet since the monitor connected to it again",
            Self::NoPrimary => "there is no primary to compare it with",
            Self::NotStreaming => "not streaming",
            Self::OtherTimeline => "on another timeline than the primary",
            Self::Lagging => "further behind than max_lag",
            Self::Flapping => "came and went too often, and has to stay for a while",
        })
    }
}

/// One cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// The count of promotions.
    pub epoch: Epoch,
    /// Where writes go now; `None` while there is no primary.
    pub primary: Option<NodeName>,
    /// All nodes, in the order of the configuration.
    pub nodes: Vec<NodeView>,
    /// The latest positions of the primary's log.
    pub samples: Samples,
    /// The latest reigns of primaries; none where nobody is asked.
    pub reigns: Reigns,
    /// The coordinator's word, where there is one; without it (observe mode) the nodes' own words count.
    pub appointment: Option<Appointment>,
}

/// What a coordinator has decided: which node is the primary, and whether anything may begin there.
///
/// Only this node's answers make it [`ClusterView::primary`], once it says that it accepts writes; whoever else says so is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appointment {
    /// Of which epoch.
    pub epoch: Epoch,
    /// Who; `None` while nobody may take writes.
    pub primary: Option<NodeName>,
    /// Nothing new begins at the primary: a switchover is under way.
    pub held: bool,
}

impl ClusterView {
    /// A node by its name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| *node.name == *name)
    }
}

/// All clusters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By name.
    pub clusters: BTreeMap<ClusterName, Arc<ClusterView>>,
}
