//! What a change of primary means for the pools: holds and their end, and who waits where.
//!
//! While an appointment is held nothing new begins at its node: the pools there are shut first ([`Pools::hold`]), then what is
//! still at work is counted every few milliseconds and reported. As a shut pool lends and dials nothing, and no pool comes into
//! being open, the count can only fall: 0 is reported once, and stays true until the report is taken back, which comes
//! before any gate is opened.
//!
//! When another node becomes the primary, those who wait at the old one are sent on at once.
//!
//! Not here: what a session does meanwhile (`session/borrow.rs`), who decides (`cluster/decide`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::{Pools, Shared};
use crate::topology::{ClusterBoard, ClusterName, ClusterView, Epoch, NodeName, Topology};

/// How often what is open is counted.
const COUNT: Duration = Duration::from_millis(2);

/// What has been done about one cluster.
#[derive(Debug, Default)]
struct Known {
    /// Where writes went when it was last looked at.
    primary: Option<NodeName>,
    epoch: Epoch,
    hold: Option<Hold>,
}

/// A node where nothing begins.
#[derive(Debug)]
struct Hold {
    node: NodeName,
    since: Instant,
    /// Everything has ended.
    drained: bool,
}

/// Follows the board for as long as it is polled. One task of the control thread.
pub async fn watch(shared: Arc<Shared>) {
    let mut known = BTreeMap::<ClusterName, Known>::new();
    loop {
        let rerouted = shared.board.rerouted();
        if !look(&shared, &shared.board.read(), &mut known) {
            rerouted.await;
        } else if tokio::time::timeout(COUNT, rerouted).await.is_err() {
            // time to count again
        }
    }
}

/// Does what the topology asks for. Whether anything is held, and not yet drained.
fn look(shared: &Shared, topology: &Topology, known: &mut BTreeMap<ClusterName, Known>) -> bool {
    let nothing = ClusterView::default();
    for name in topology.clusters.keys() {
        known.entry(Arc::clone(name)).or_default();
    }
    let mut counts = false;
    for (name, known) in known.iter_mut() {
        let view = topology.clusters.get(name).map_or(&nothing, |view| &**view);
        counts |= known.follow(name, view, &shared.pools, &shared.board.cluster(name));
    }
    known.retain(|name, _| topology.clusters.contains_key(name));
    counts
}

impl Known {
    /// Takes in a view. Whether there is something to count.
    fn follow(&mut self, cluster: &ClusterName, view: &ClusterView, pools: &Pools, board: &ClusterBoard) -> bool {
        let held = view.appointment.as_ref().filter(|appointment| appointment.held);
        let held = held.and_then(|appointment| appointment.primary.as_ref());
        if let Some(hold) = self.hold.take_if(|hold| held != Some(&hold.node)) {
            board.report_open(None); // first, or 0 would not be true for a moment
            pools.go_on(cluster);
            let (node, primary, ms) = (&*hold.node, view.primary.as_deref(), hold.since.elapsed().as_millis());
            tracing::info!(cluster = &**cluster, node, primary, ms, "the hold is over");
        }
        if self.primary != view.primary || self.epoch != view.epoch {
            (self.primary, self.epoch) = (view.primary.clone(), view.epoch);
            pools.moved(cluster, view.primary.as_ref(), view.epoch);
        }
        if let Some(node) = held
            && self.hold.is_none()
        {
            pools.hold(cluster, node);
            tracing::info!(cluster = &**cluster, node = &**node, "held: nothing new begins there");
            self.hold = Some(Hold { node: Arc::clone(node), since: Instant::now(), drained: false });
        }
        let Some(hold) = self.hold.as_mut().filter(|hold| !hold.drained) else { return false };
        let open = pools.busy(cluster, &hold.node);
        board.report_open(Some(open));
        if open == 0 {
            hold.drained = true; // what is closed from now on had ended
            let ms = hold.since.elapsed().as_millis();
            tracing::info!(cluster = &**cluster, node = &*hold.node, ms, "drained: nothing is open there");
        }
        !hold.drained
    }
}
