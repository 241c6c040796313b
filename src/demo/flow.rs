//! Where requests went between two looks at `/status`.

use super::status::{Node, Status};

/// What has gone where in one period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Transactions per second, by node, in the order of the status.
    pub nodes: Vec<NodeFlow>,
    /// Reads that went to standbys.
    pub to_standbys: u64,
    /// Reads that found none that was fresh enough, or none at all, and went to the primary.
    pub to_primary: u64,
    /// Reads that were asked again of another node, since the start.
    pub asked_again: u64,
}

/// One node's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFlow {
    /// What is known of it.
    pub node: Node,
    /// Transactions per second.
    pub rate: u64,
}

impl Flow {
    /// What has happened from `before` to `now`, which are `period_ms` apart. Without a look before it nothing has.
    #[must_use]
    pub fn between(before: Option<&Status>, now: &Status, period_ms: u64) -> Self {
        let transactions = |status: &Status, name: &str| {
            let pools = status.pools.iter().filter(|pool| pool.node == name);
            pools.map(|pool| pool.transactions).sum::<u64>()
        };
        let since =
            |count: &dyn Fn(&Status) -> u64| before.map_or(0, |before| count(now).saturating_sub(count(before)));
        let event = |names: &'static [&str]| {
            move |status: &Status| names.iter().filter_map(|name| status.routing.events.get(*name)).sum::<u64>()
        };
        let nodes = now.clusters.iter().flat_map(|cluster| &cluster.nodes).map(|node| {
            let count = since(&|status: &Status| transactions(status, &node.name));
            NodeFlow { node: node.clone(), rate: count.saturating_mul(1000) / period_ms.max(1) }
        });
        Self {
            nodes: nodes.collect(),
            to_standbys: since(&event(&["to_replica"])),
            to_primary: since(&event(&["not_fresh", "no_replica"])),
            asked_again: event(&["rerun_lost", "rerun_refused", "rerun_conflict"])(now),
        }
    }

    /// `99.8 %`: how many of the reads went to standbys; `None` when there were none.
    #[must_use]
    pub fn share(&self) -> Option<String> {
        let all = self.to_standbys + self.to_primary;
        let tenths = (self.to_standbys * 1000).checked_div(all)?;
        Some(match tenths {
            1000 => "100 %".to_owned(),
            tenths => format!("{}.{} %", tenths / 10, tenths % 10),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{Cluster, Pool, Routing};
    use super::*;

    fn status(transactions: [u64; 2], events: &[(&str, u64)]) -> Status {
        let node = |name: &str| Node { name: name.to_owned(), ..Node::default() };
        let pool = |name: &str, transactions| Pool { node: name.to_owned(), transactions, ..Pool::default() };
        Status {
            clusters: vec![Cluster { nodes: vec![node("a"), node("b")], ..Cluster::default() }],
            pools: vec![pool("a", transactions[0]), pool("b", transactions[1]), pool("b", 0)],
            routing: Routing { events: events.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect() },
            ..Status::default()
        }
    }

    #[test]
    fn a_flow_is_what_has_been_added() {
        let before = status([100, 1000], &[("to_replica", 1000), ("to_primary", 100)]);
        let now = status([150, 3000], &[("to_replica", 2998), ("not_fresh", 1), ("no_replica", 1), ("rerun_lost", 3)]);
        let flow = Flow::between(Some(&before), &now, 500);
        assert_eq!(flow.nodes.iter().map(|node| node.rate).collect::<Vec<_>>(), [100, 4000]);
        assert_eq!((flow.to_standbys, flow.to_primary, flow.asked_again), (1998, 2, 3));
        assert_eq!(flow.share().as_deref(), Some("99.9 %"));
    }

    #[test]
    fn a_share_is_100_only_if_nothing_is_missing() {
        let flow = |to_standbys, to_primary| Flow { to_standbys, to_primary, ..Flow::default() };
        assert_eq!(flow(9_999_999, 1).share().as_deref(), Some("99.9 %"));
        assert_eq!(flow(5, 0).share().as_deref(), Some("100 %"));
        assert_eq!(flow(0, 5).share().as_deref(), Some("0.0 %"));
        assert_eq!(flow(0, 0).share(), None);
        assert_eq!(Flow::between(None, &status([5, 5], &[("to_replica", 9)]), 1000).share(), None);
    }
}
