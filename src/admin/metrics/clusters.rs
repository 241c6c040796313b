//! Clusters and nodes as the board shows them, and what coordinators and agents have done.

use std::collections::BTreeMap;

use super::super::http::Sources;
use super::page::{Labelled, Page};
use crate::cluster::decide::Explanation;
use crate::cluster::ledger::{BUCKETS_MS, Counts, Histogram, OperationState};
use crate::topology::{ClusterView, NodeView, Role, Unfit};

pub(super) fn gather(page: &mut Page, sources: &Sources) {
    let topology = sources.board.read();
    let mut counts = sources.control.as_ref().map(|control| control.ledger().counts()).unwrap_or_default();
    for (name, view) in &topology.clusters {
        counts.entry(name.clone()).or_default();
        let explanation = sources.control.as_ref().and_then(|control| control.explanation(name));
        cluster(page, name, view, explanation.as_ref());
        for node in &view.nodes {
            one_node(page, sources, (name, view), node);
        }
    }
    for (cluster, counts) in &counts {
        done(page, cluster, counts);
    }
}

fn cluster(page: &mut Page, name: &str, view: &ClusterView, explanation: Option<&Explanation>) {
    let label: Labelled<'_> = ("cluster", name);
    page.gauge("howdah_epoch", &[label], view.epoch.0);
    page.flag("howdah_cluster_has_primary", &[label], view.primary.is_some());
    page.flag("howdah_cluster_held", &[label], view.appointment.as_ref().is_some_and(|appointment| appointment.held));
    let Some(explanation) = explanation else {
        page.gauge("howdah_cluster_mode", &[label, ("mode", "observe")], 1);
        return;
    };
    page.gauge("howdah_cluster_mode", &[label, ("mode", &explanation.mode)], 1);
    page.flag("howdah_cluster_paused", &[label], explanation.paused);
    page.flag("howdah_cluster_busy", &[label], explanation.operation.is_some());
    for refused in &explanation.blocked {
        let reason = super::super::refusal::word(refused.reason);
        page.gauge("howdah_cluster_blocked", &[label, ("reason", &reason)], 1);
    }
    for node in &explanation.nodes {
        let labels = [label, ("node", &*node.name)];
        page.flag("howdah_agent_up", &labels, node.agent);
        page.gauge("howdah_node_state", &[label, ("node", &node.name), ("state", &node.state)], 1);
    }
}

fn one_node(
    page: &mut Page,
    sources: &Sources,
    (cluster, view): (&crate::topology::ClusterName, &ClusterView),
    node: &NodeView,
) {
    let [of, name]: [Labelled<'_>; 2] = [("cluster", cluster), ("node", &node.name)];
    let labels = [of, name];
    page.flag("howdah_node_up", &labels, node.healthy);
    page.flag("howdah_node_primary", &labels, view.primary.as_ref() == Some(&node.name));
    page.flag("howdah_node_replica", &labels, node.unfit.is_none());
    page.gauge("howdah_node_sessions", &labels, (sources.sessions)(cluster, &node.name));
    if let Some(role) = node.role {
        let role = match role {
            Role::Primary => "primary",
            Role::Standby => "standby",
        };
        page.gauge("howdah_node_role", &[of, name, ("role", role)], 1);
    }
    if let Some(unfit) = node.unfit {
        page.gauge("howdah_node_unfit", &[of, name, ("reason", why(unfit))], 1);
    }
    // what was last known of a node that does not answer is no fact any more
    if !node.healthy {
        return;
    }
    let facts = [
        ("howdah_node_timeline", node.timeline.map(|timeline| u64::from(timeline.0))),
        ("howdah_node_received_lsn_bytes", node.received_lsn.map(|lsn| lsn.0)),
        ("howdah_node_replayed_lsn_bytes", node.replayed_lsn.map(|lsn| lsn.0)),
        ("howdah_node_lag_bytes", node.lag_bytes),
    ];
    for (metric, value) in facts {
        if let Some(value) = value {
            page.gauge(metric, &labels, value);
        }
    }
    if let Some(time) = node.lag_time {
        page.level("howdah_node_lag_seconds", &labels, time.as_secs_f64());
    }
}

const fn why(unfit: Unfit) -> &'static str {
    match unfit {
        Unfit::Unhealthy => "unhealthy",
        Unfit::Primary => "primary",
        Unfit::Unsampled => "unsampled",
        Unfit::NoPrimary => "no-primary",
        Unfit::NotStreaming => "not-streaming",
        Unfit::OtherTimeline => "other-timeline",
        Unfit::Lagging => "lagging",
        Unfit::Flapping => "flapping",
    }
}

/// Every operation and every job moves one counter by one when it ends.
fn done(page: &mut Page, cluster: &str, counts: &Counts) {
    let of: Labelled<'_> = ("cluster", cluster);
    for (metric, kind) in [
        ("howdah_failovers_total", "failover"),
        ("howdah_switchovers_total", "switchover"),
        ("howdah_restarts_total", "restart"),
    ] {
        // there from the start: the first one is seen as a step and not as the beginning
        let none = ((kind.to_owned(), OperationState::Done, String::new()), 0);
        let all: BTreeMap<_, u64> = [none].into_iter().chain(counts.operations.clone()).collect();
        for ((_, outcome, class), count) in all.iter().filter(|((of, _, _), _)| of == kind) {
            page.counter(metric, &[of, ("outcome", outcome.as_str()), ("class", class)], *count);
        }
    }
    for ((node, directive, outcome, class), count) in &counts.jobs {
        let labels = [of, ("node", node), ("directive", directive), ("outcome", outcome.as_str()), ("class", class)];
        page.counter("howdah_jobs_total", &labels, *count);
    }
    for ((kind, class), count) in &counts.rollbacks {
        page.counter("howdah_rollbacks_total", &[of, ("kind", kind), ("class", class)], *count);
    }
    let none = [("failover", Histogram::default())];
    let mut all: BTreeMap<&str, Histogram> = none.into_iter().collect();
    all.extend(counts.seconds.iter().map(|(kind, histogram)| (kind.as_str(), histogram.clone())));
    for (kind, times) in all {
        let buckets = BUCKETS_MS.iter().copied().zip(times.buckets);
        page.histogram("howdah_failover_seconds", &[of, ("kind", kind)], buckets, (times.count, times.sum_ms), 1_000);
    }
}
