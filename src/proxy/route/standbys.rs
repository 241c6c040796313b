//! What all sessions of a cluster share about its standbys: how many are at home where, whose turn it is, and whether it is
//! worth while to wait for one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::pg::Lsn;
use crate::topology::{ClusterBoard, Era, NodeName};

/// Of one cluster.
#[derive(Debug)]
pub struct Standbys {
    /// What is known of its nodes.
    pub board: Arc<ClusterBoard>,
    homes: Mutex<BTreeMap<NodeName, Arc<AtomicU64>>>,
    picks: AtomicU64,
    unreached: Mutex<Option<Unreached>>,
}

/// A wait that was in vain: no replica came as far as this in time.
#[derive(Clone, Copy, Debug)]
struct Unreached {
    era: Era,
    lsn: Lsn,
    until_ms: u64,
}

impl Standbys {
    /// Nobody is at home anywhere.
    #[must_use]
    pub fn new(board: Arc<ClusterBoard>) -> Self {
        Self { board, homes: Mutex::default(), picks: AtomicU64::new(0), unreached: Mutex::default() }
    }

    /// How many sessions are at home on a node.
    #[must_use]
    pub fn sessions(&self, node: &NodeName) -> Arc<AtomicU64> {
        Arc::clone(self.homes.lock().entry(Arc::clone(node)).or_default())
    }

    /// How often a home has been picked; the next caller sees one more.
    pub fn next_turn(&self) -> u64 {
        self.picks.fetch_add(1, Ordering::Relaxed)
    }

    /// How often one has been.
    #[must_use]
    pub fn turn(&self) -> u64 {
        self.picks.load(Ordering::Relaxed)
    }

    /// Somebody has waited in vain for a standby to come to `lsn`: nobody waits before one does, or before `until_ms`.
    pub fn was_in_vain(&self, era: Era, lsn: Lsn, until_ms: u64) {
        *self.unreached.lock() = Some(Unreached { era, lsn, until_ms });
    }

    /// Whether it is worth while to wait: not while no standby, the furthest being at `furthest`, has come to where the last
    /// wait in vain wanted it. Whoever would wait now needs more than that.
    #[must_use]
    pub fn is_worth_waiting(&self, era: Era, furthest: Lsn, now_ms: u64) -> bool {
        let mut unreached = self.unreached.lock();
        let is_vain = |vain: &Unreached| vain.era == era && furthest < vain.lsn && now_ms < vain.until_ms;
        if unreached.as_ref().is_some_and(is_vain) {
            return false;
        }
        *unreached = None;
        true
    }
}

/// A session's being at home somewhere, counted until it is dropped.
#[derive(Debug)]
pub struct Residence(Arc<AtomicU64>);

impl Residence {
    /// One more.
    #[must_use]
    pub fn taken(sessions: &Arc<AtomicU64>) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(sessions))
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_wait_in_vain_nobody_waits_until_a_standby_has_come_so_far() {
        let standbys = Standbys::new(Arc::default());
        let (era, later) = (Era(1), Era(2));
        assert!(standbys.is_worth_waiting(era, Lsn(0), 0));
        standbys.was_in_vain(era, Lsn(50), 1_000);
        assert!(!standbys.is_worth_waiting(era, Lsn(49), 200));
        assert!(standbys.is_worth_waiting(era, Lsn(50), 200));
        assert!(standbys.is_worth_waiting(era, Lsn(0), 201), "it is over");
        standbys.was_in_vain(era, Lsn(50), 1_000);
        assert!(standbys.is_worth_waiting(later, Lsn(0), 301), "positions of another era say nothing");
        standbys.was_in_vain(era, Lsn(50), 1_000);
        assert!(standbys.is_worth_waiting(era, Lsn(0), 1_000), "it is tried again after a while");
    }

    #[test]
    fn a_residence_counts_while_it_lasts() {
        let standbys = Standbys::new(Arc::default());
        let sessions = standbys.sessions(&"b".into());
        let residence = Residence::taken(&sessions);
        assert_eq!(standbys.sessions(&"b".into()).load(Ordering::Relaxed), 1);
        drop(residence);
        assert_eq!(sessions.load(Ordering::Relaxed), 0);
    }
}
