//! The operator's diary of one cluster: what changed, once, in words.
//!
//! Not here: what it follows from (`fold`).

use std::collections::HashMap;

use tracing::{info, warn};

use crate::topology::{ClusterName, ClusterView, NodeName, NodeView, Role, Unfit};

/// What has been written down of one cluster.
#[derive(Debug)]
pub(super) struct Diary {
    cluster: ClusterName,
    /// What was said last of the reads of each standby; `None` is that it gets some.
    reads: HashMap<NodeName, Option<Unfit>>,
}

impl Diary {
    pub(super) fn new(cluster: ClusterName) -> Self {
        Self { cluster, reads: HashMap::new() }
    }

    /// Writes down what changed from one view to the next.
    pub(super) fn tell(&mut self, before: &ClusterView, after: &ClusterView, server_version: Option<u32>) {
        for node in &after.nodes {
            match before.node(&node.name) {
                Some(known) => self.tell_node(known, node, server_version),
                None => self.tell_node(&NodeView::unknown(node.name.clone()), node, server_version),
            }
        }
        let (cluster, epoch) = (&self.cluster, after.epoch.0);
        match (&before.primary, &after.primary) {
            (was, Some(primary)) if was.as_ref() != Some(primary) => {
                let timeline = after.node(primary).and_then(|node| node.timeline);
                info!(%cluster, node = %primary, epoch, timeline = timeline.map(|t| t.0), "node is the primary");
            }
            (Some(was), None) => warn!(%cluster, node = %was, epoch, "no primary"),
            (_, _) => {}
        }
        for node in &after.nodes {
            self.tell_reads(node);
        }
    }

    fn tell_node(&self, before: &NodeView, after: &NodeView, server_version: Option<u32>) {
        let (cluster, node) = (&self.cluster, &after.name);
        let error = after.trouble.as_deref();
        let worse = error.is_some() && before.trouble != after.trouble;
        match (before.healthy, after.healthy) {
            (false, true) => {
                let timeline = after.timeline.map(|t| t.0);
                info!(%cluster, %node, role = role_word(after), timeline, server_version, error, "node is healthy");
            }
            (true, false) => warn!(%cluster, %node, error, "node left"),
            (false, false) if worse && before.trouble == NodeView::unknown(node.clone()).trouble => {
                warn!(%cluster, %node, error, "node cannot be used");
            }
            (false, false) if worse => info!(%cluster, %node, error, "node still cannot be used"),
            (true, true) if worse => warn!(%cluster, %node, error, "node is in trouble"),
            (true, true) | (false, false) => {}
        }
        if before.healthy && after.healthy && before.role != after.role {
            info!(%cluster, %node, role = role_word(after), "node changed its role");
        }
    }

    /// Whether a standby gets reads, and if not, why not. That it is gone or the primary has been said in other words, and
    /// what lasts until the next answer is not worth a line.
    fn tell_reads(&mut self, after: &NodeView) {
        let said = self.reads.get(&after.name).copied();
        let gets_them = said == Some(None);
        match after.unfit {
            Some(Unfit::Unsampled | Unfit::NoPrimary) => return,
            Some(Unfit::Primary | Unfit::Unhealthy) => {
                self.reads.remove(&after.name);
                return;
            }
            unfit if said == Some(unfit) => return,
            unfit => {
                self.reads.insert(after.name.clone(), unfit);
            }
        }
        let (cluster, node) = (&self.cluster, &after.name);
        let (lag_bytes, lag_ms) = (after.lag_bytes, after.lag_time.map(|time| time.as_millis()));
        match after.unfit {
            None => info!(%cluster, %node, lag_bytes, lag_ms, "standby gets reads"),
            Some(reason) if gets_them => {
                warn!(%cluster, %node, %reason, lag_bytes, lag_ms, "standby gets no reads any more");
            }
            Some(reason) => info!(%cluster, %node, %reason, lag_bytes, lag_ms, "standby gets no reads"),
        }
    }
}

fn role_word(node: &NodeView) -> Option<&'static str> {
    node.role.map(|role| match role {
        Role::Primary => "primary",
        Role::Standby => "standby",
    })
}
