//! Where the two paths meet: the control path publishes a [`Topology`], the data path reads it.
//!
//! A snapshot is immutable and whole: who reads it never sees half a change. Not here: how a node is observed
//! (`cluster/observe`), which node a statement goes to (`proxy/route`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::pg::{Lsn, SystemIdentifier, Timeline};

/// The name of a cluster, as in `[clusters.NAME]`.
pub type ClusterName = Arc<str>;
/// The name of a node, as in `[[clusters.NAME.nodes]] name`.
pub type NodeName = Arc<str>;

/// howdah's count of promotions in a cluster. Not PostgreSQL's timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

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
            trouble: Some("not asked yet".to_owned()),
        }
    }
}

/// One cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// The count of promotions.
    pub epoch: Epoch,
    /// Where writes go now; `None` while there is no primary.
    pub primary: Option<NodeName>,
    /// All nodes, in the order of the configuration.
    pub nodes: Vec<NodeView>,
}

/// All clusters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By name.
    pub clusters: BTreeMap<ClusterName, ClusterView>,
}

/// Holds the newest [`Topology`]. Readers never wait; a version number tells cheaply that nothing has changed.
#[derive(Debug, Default)]
pub struct Board {
    newest: ArcSwap<Topology>,
    version: AtomicU64,
}

impl Board {
    /// An empty board: no cluster has been looked at.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest snapshot.
    #[must_use]
    pub fn read(&self) -> Arc<Topology> {
        self.newest.load_full()
    }

    /// Grows with every [`Board::publish`] that changed something that routing depends on.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Replaces the snapshot. The version moves only when the primary or the epoch of some cluster did, so that LSN
    /// samples do not make every session look again.
    pub fn publish(&self, topology: Topology) {
        let routes = |t: &Topology| -> Vec<_> {
            t.clusters.iter().map(|(name, c)| (name.clone(), c.epoch, c.primary.clone())).collect()
        };
        let changed = routes(&self.newest.load()) != routes(&topology);
        self.newest.store(Arc::new(topology));
        if changed {
            self.version.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_primary(primary: Option<&str>, lag: u64) -> Topology {
        let mut node = NodeView::unknown("a".into());
        node.lag_bytes = Some(lag);
        let view = ClusterView { epoch: Epoch(1), primary: primary.map(Into::into), nodes: vec![node] };
        Topology { clusters: BTreeMap::from([("main".into(), view)]) }
    }

    #[test]
    fn the_version_moves_with_the_primary_and_not_with_the_lag() {
        let board = Board::new();
        board.publish(with_primary(Some("a"), 0));
        let first = board.version();
        board.publish(with_primary(Some("a"), 5));
        assert_eq!(board.version(), first);
        board.publish(with_primary(None, 5));
        assert!(board.version() > first);
    }
}
