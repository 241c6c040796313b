//! `GET /status`: everything that is known now, for scripts and people.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::http::{Sources, not_ready};
use crate::cluster::decide::{Explanation, NodeExplanation, Refused};
use crate::topology::{ClusterName, ClusterView, NodeView, Role};

/// One pool as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolRow {
    /// The cluster.
    pub cluster: String,
    /// The node its connections go to.
    pub node: String,
    /// The database, as the server knows it.
    pub database: String,
    /// The user.
    pub user: String,
    /// How many connections it may open.
    pub size: u64,
    /// How many there are: connecting, idle, in use and closing.
    pub open: u64,
    /// Connected and lent to nobody.
    pub idle: u64,
    /// Lent to clients.
    pub in_use: u64,
    /// Clients that wait for one.
    pub waiting: u64,
    /// How long the one that waits longest has waited, in microseconds; 0 when nobody does.
    pub oldest_wait_us: u64,
    /// Transactions since the start.
    pub transactions: u64,
    /// Servers that are kept for one client, by the state that keeps them there.
    pub pinned: BTreeMap<&'static str, u64>,
}

/// How many requests went where, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoutingRow {
    /// What has happened, by [`Event`](crate::proxy::route::counters::Event).
    pub events: BTreeMap<&'static str, u64>,
    /// Why, by [`Reason::label`](crate::sql::class::Reason::label); only those there were.
    pub reasons: BTreeMap<&'static str, u64>,
}

pub(super) async fn status(State(sources): State<Sources>) -> Json<Status> {
    let mut missing = not_ready(&sources);
    let ready = missing.is_empty();
    missing.extend((sources.extra_missing)());
    let topology = sources.board.read();
    Json(Status {
        ready,
        missing,
        clusters: topology.clusters.iter().map(|(name, view)| ClusterRow::new(name, view, &sources)).collect(),
        pools: (sources.pools)(),
        clients: (sources.clients)(),
        routing: (sources.routing)(),
        panics: (sources.panics)(),
    })
}

/// The answer.
#[derive(Serialize)]
pub(super) struct Status {
    ready: bool,
    missing: Vec<String>,
    clusters: Vec<ClusterRow>,
    pools: Vec<PoolRow>,
    clients: usize,
    routing: RoutingRow,
    panics: u64,
}

/// One cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    /// Its name.
    pub name: String,
    /// The count of promotions.
    pub epoch: u64,
    /// Where writes go now.
    pub primary: Option<String>,
    /// How often the line of samples has been broken.
    pub era: u32,
    /// Where the primary's log was at the newest sample.
    pub sample_lsn: Option<String>,
    /// All nodes, in the order of the configuration.
    pub nodes: Vec<NodeRow>,
    /// Who fails over: `automatic`, `manual`, `observe`.
    pub mode: String,
    /// What the coordinator does: `steady`, `fencing` …; none where there is none.
    pub state: Option<String>,
    /// Whom it takes for the primary.
    pub appointed: Option<String>,
    /// `howdah pause` is in force.
    pub paused: bool,
    /// What is under way.
    pub operation: Option<String>,
    /// What stands in the way of what should happen next.
    pub blocked: Vec<Refused>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// `primary` or `standby`, by its own word.
    pub role: Option<String>,
    /// Whether the last health checks came back.
    pub healthy: bool,
    /// The timeline it is on.
    pub timeline: Option<u32>,
    /// On a primary the insert position, on a standby what it has received.
    pub received_lsn: Option<String>,
    /// What a standby has replayed.
    pub replayed_lsn: Option<String>,
    /// Bytes of the primary's log that are not replayed here.
    pub lag_bytes: Option<u64>,
    /// For how long a standby has not had all of the primary's log.
    pub lag_time_ms: Option<u64>,
    /// Whether reads may go there.
    pub replica: bool,
    /// Why not.
    pub unfit: Option<String>,
    /// Sessions that read there.
    pub sessions: u64,
    /// Why it is not healthy.
    pub trouble: Option<String>,
    /// Its agent is heard; none where no coordinator listens.
    pub agent: Option<bool>,
    /// What the coordinator takes it for.
    pub state: Option<String>,
    /// Why it would not be promoted now.
    pub refused: Option<Refused>,
    /// What it does, or what went wrong last.
    pub note: Option<String>,
}

impl ClusterRow {
    fn new(name: &ClusterName, view: &ClusterView, sources: &Sources) -> Self {
        let explanation = sources.control.as_ref().and_then(|control| control.explanation(name));
        let managed = explanation.is_some();
        let explanation =
            explanation.unwrap_or_else(|| Explanation { mode: "observe".to_owned(), ..Explanation::default() });
        let row = |node: &NodeView| {
            let explained = explanation.nodes.iter().find(|explained| explained.name == node.name);
            NodeRow::new(node, (sources.sessions)(name, &node.name), explained)
        };
        Self {
            name: name.to_string(),
            epoch: view.epoch.0,
            primary: view.primary.as_ref().map(ToString::to_string),
            era: view.samples.era().0,
            sample_lsn: view.samples.newest().map(|sample| sample.lsn.to_string()),
            nodes: view.nodes.iter().map(row).collect(),
            state: managed.then_some(explanation.state),
            mode: explanation.mode,
            appointed: explanation.primary.map(|node| node.to_string()),
            paused: explanation.paused,
            operation: explanation.operation,
            blocked: explanation.blocked,
        }
    }
}

impl NodeRow {
    fn new(view: &NodeView, sessions: u64, explained: Option<&NodeExplanation>) -> Self {
        Self {
            name: view.name.to_string(),
            role: view.role.map(|role| {
                let name = match role {
                    Role::Primary => "primary",
                    Role::Standby => "standby",
                };
                name.to_owned()
            }),
            healthy: view.healthy,
            timeline: view.timeline.map(|timeline| timeline.0),
            received_lsn: view.received_lsn.map(|lsn| lsn.to_string()),
            replayed_lsn: view.replayed_lsn.map(|lsn| lsn.to_string()),
            lag_bytes: view.lag_bytes,
            lag_time_ms: view.lag_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            replica: view.unfit.is_none(),
            unfit: view.unfit.map(|unfit| unfit.to_string()),
            sessions,
            trouble: view.trouble.clone(),
            agent: explained.map(|explained| explained.agent),
            state: explained.map(|explained| explained.state.clone()),
            refused: explained.and_then(|explained| explained.refused.clone()),
            note: explained.and_then(|explained| explained.note.clone()),
        }
    }
}
