//! What only the database `howdah` has: the cluster behind the pools, and what is counted beyond PgBouncer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::answer::Kind::{Int4, Int8, Numeric, Text};
use super::super::answer::{Cell, Row};
use super::scene::Scene;
use super::{Look, View, written_ms};
use crate::proxy::route::counters::Event;
use crate::sql::class::Reason;
use crate::stats::Histogram;
use crate::topology::Role;

/// All of them.
pub const VIEWS: &[View] = &[
    NODES, CLUSTER, NODE_POOLS, ROUTING, STATEMENTS, PINS, FAILOVERS, OPERATIONS, EVENTS, JOBS, EPOCH, ERRORS,
    HISTOGRAMS,
];

/// SHOW NODES.
const NODES: View = View {
    name: "nodes",
    columns: &[
        ("cluster", Text),
        ("node", Text),
        ("host", Text),
        ("port", Int4),
        ("role", Text),
        ("healthy", Text),
        ("timeline", Int8),
        ("received_lsn", Text),
        ("replayed_lsn", Text),
        ("lag_bytes", Int8),
        ("lag_ms", Int8),
        ("reads", Text),
        ("sessions", Int8),
        ("servers", Int4),
        ("state", Text),
        ("agent", Text),
        ("trouble", Text),
    ],
    rows: nodes,
};

fn yes(flag: bool) -> Cell {
    if flag { "yes" } else { "no" }.into()
}

fn nodes(look: &Look) -> Vec<Row> {
    let scene = Scene::now(look);
    let mut rows = Vec::new();
    for (name, view) in &look.shared.board.read().clusters {
        let explanation = look.seat.sources.control.as_ref().and_then(|control| control.explanation(name));
        for node in &view.nodes {
            let way = look.running.way(name, &node.name);
            let explained = explanation.as_ref().and_then(|all| all.nodes.iter().find(|of| of.name == node.name));
            let servers = scene.servers.iter().filter(|s| s.pool.cluster == *name && s.pool.node == node.name);
            let role = node.role.map(|role| match role {
                Role::Primary => "primary",
                Role::Standby => "standby",
            });
            let reads = node.unfit.map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"));
            let lag_ms = node.lag_time.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX));
            let sessions = look.shared.standbys(name).sessions(&node.name).load(Ordering::Relaxed);
            rows.push(vec![
                (&**name).into(),
                (&*node.name).into(),
                way.as_ref().map(|way| way.target.host.to_string()).into(),
                way.as_ref().map(|way| u32::from(way.target.port)).into(),
                role.into(),
                yes(node.healthy),
                node.timeline.map(|timeline| u64::from(timeline.0)).into(),
                node.received_lsn.map(|lsn| lsn.to_string()).into(),
                node.replayed_lsn.map(|lsn| lsn.to_string()).into(),
                node.lag_bytes.into(),
                lag_ms.into(),
                reads.into(),
                Cell::from(sessions),
                servers.count().into(),
                explained.map(|of| of.state.clone()).into(),
                explained.map(|of| if of.agent { "heard" } else { "silent" }).into(),
                node.trouble.clone().into(),
            ]);
        }
    }
    rows
}

/// SHOW CLUSTER: all of them.
const CLUSTER: View = View {
    name: "cluster",
    columns: &[
        ("cluster", Text),
        ("epoch", Int8),
        ("primary", Text),
        ("mode", Text),
        ("state", Text),
        ("maintenance", Text),
        ("operation", Text),
        ("blocked", Text),
        ("nodes", Int4),
        ("healthy_nodes", Int4),
        ("replicas", Int4),
    ],
    rows: cluster,
};

fn cluster(look: &Look) -> Vec<Row> {
    let line = |(name, view): (&Arc<str>, &Arc<crate::topology::ClusterView>)| {
        let explanation = look.seat.sources.control.as_ref().and_then(|control| control.explanation(name));
        let of = explanation.as_ref();
        let blocked = of.map(|of| of.blocked.iter().map(|why| why.to_string()).collect::<Vec<_>>().join("; "));
        vec![
            (&**name).into(),
            view.epoch.0.into(),
            view.primary.as_deref().into(),
            of.map_or("observe", |of| of.mode.as_str()).into(),
            of.map(|of| of.state.as_str()).into(),
            yes(of.is_some_and(|of| of.paused)),
            of.and_then(|of| of.operation.as_deref()).into(),
            blocked.filter(|text| !text.is_empty()).into(),
            view.nodes.len().into(),
            view.nodes.iter().filter(|node| node.healthy).count().into(),
            view.nodes.iter().filter(|node| node.unfit.is_none()).count().into(),
        ]
    };
    look.shared.board.read().clusters.iter().map(line).collect()
}

/// SHOW NODE_POOLS: SHOW POOLS by node.
const NODE_POOLS: View = View {
    name: "node_pools",
    columns: &[
        ("cluster", Text),
        ("node", Text),
        ("database", Text),
        ("user", Text),
        ("size", Int4),
        ("open", Int4),
        ("idle", Int4),
        ("connecting", Int4),
        ("waiting", Int4),
        ("transactions", Numeric),
        ("trouble", Text),
    ],
    rows: node_pools,
};

fn node_pools(look: &Look) -> Vec<Row> {
    let mut rows: Vec<(crate::proxy::pool::PoolKey, Row)> = Vec::new();
    for pool in look.shared.pools.all() {
        let (key, counts) = (&pool.key, pool.counts());
        let row = vec![
            (&*key.cluster).into(),
            (&*key.node).into(),
            (&*key.database).into(),
            (&*key.user).into(),
            pool.size().into(),
            counts.open.into(),
            counts.idle.into(),
            counts.connecting.into(),
            counts.waiting.into(),
            pool.transactions().into(),
            pool.trouble().map(|error| error.to_string()).into(),
        ];
        rows.push((key.clone(), row));
    }
    rows.sort_by(|(one, _), (other, _)| {
        let key = |key: &crate::proxy::pool::PoolKey| {
            [&key.cluster, &key.node, &key.database, &key.user].map(|part| part.to_string())
        };
        key(one).cmp(&key(other))
    });
    rows.into_iter().map(|(_, row)| row).collect()
}

/// SHOW ROUTING: how many requests went where, and why.
const ROUTING: View =
    View { name: "routing", columns: &[("kind", Text), ("name", Text), ("count", Numeric)], rows: routing };

fn routing(look: &Look) -> Vec<Row> {
    let sum = |of: &dyn Fn(&crate::proxy::route::counters::Counters) -> u64| -> u64 {
        look.shared.counters.iter().map(of).sum()
    };
    let events = Event::ALL
        .into_iter()
        .map(|(event, name)| vec!["event".into(), name.into(), sum(&|counters| counters.events(event)).into()]);
    let mut reasons = BTreeMap::new();
    for reason in Reason::ALL {
        *reasons.entry(reason.label()).or_default() += sum(&|counters| counters.reasons(reason.index()));
    }
    let reasons = reasons.into_iter().filter(|(_, count): &(_, u64)| *count > 0);
    let reasons = reasons.map(|(name, count)| vec!["reason".into(), name.into(), count.into()]);
    events.chain(reasons).collect()
}

/// SHOW STATEMENTS: what takes the most time, first.
const STATEMENTS: View = View {
    name: "statements",
    columns: &[
        ("fingerprint", Text),
        ("database", Text),
        ("user", Text),
        ("node", Text),
        ("calls", Numeric),
        ("errors", Numeric),
        ("rows", Numeric),
        ("total_time", Numeric),
        ("mean_time", Numeric),
        ("p50_time", Numeric),
        ("p99_time", Numeric),
        ("text", Text),
    ],
    rows: statements,
};

fn statements(look: &Look) -> Vec<Row> {
    let mut all = look.shared.statements();
    all.sort_by_key(|of| std::cmp::Reverse(of.total.sum_us()));
    let line = |of: &crate::stats::StatementStatistics| {
        vec![
            format!("{:016x}", of.fingerprint).into(),
            (&*of.database).into(),
            (&*of.user).into(),
            (&*of.node).into(),
            of.calls.into(),
            of.errors.into(),
            of.rows.into(),
            of.total.sum_us().into(),
            of.total.sum_us().checked_div(of.total.count()).unwrap_or_default().into(),
            of.total.per_mille_us(500).into(),
            of.total.per_mille_us(990).into(),
            (&*of.text).into(),
        ]
    };
    all.iter().map(line).collect()
}

/// SHOW PINS: servers that are kept for one client, by the state that keeps them.
const PINS: View = View {
    name: "pins",
    columns: &[
        ("cluster", Text),
        ("node", Text),
        ("database", Text),
        ("user", Text),
        ("reason", Text),
        ("servers", Int8),
    ],
    rows: pins,
};

fn pins(look: &Look) -> Vec<Row> {
    let mut rows = Vec::new();
    for pool in look.shared.pools.all() {
        for (reason, servers) in pool.pinned() {
            let key = &pool.key;
            let mut row: Row = [&key.cluster, &key.node, &key.database, &key.user].map(|part| (&**part).into()).into();
            row.extend([reason.into(), servers.into()]);
            rows.push(row);
        }
    }
    rows
}

/// SHOW FAILOVERS: every change of primary, the newest first.
const FAILOVERS: View = View {
    name: "failovers",
    columns: &[
        ("cluster", Text),
        ("epoch", Int8),
        ("at", Text),
        ("kind", Text),
        ("from", Text),
        ("to", Text),
        ("took_ms", Int8),
        ("lost_bytes", Int8),
        ("cause", Text),
    ],
    rows: failovers,
};

fn clusters(look: &Look) -> impl Iterator<Item = &String> {
    look.running.config.clusters.keys()
}

fn failovers(look: &Look) -> Vec<Row> {
    let Some(control) = &look.seat.sources.control else { return Vec::new() };
    let mut rows = Vec::new();
    for name in clusters(look) {
        let mut changes = control.ledger().history(name);
        changes.sort_by_key(|change| std::cmp::Reverse(change.wall_ms));
        for change in changes {
            rows.push(vec![
                name.as_str().into(),
                change.epoch.0.into(),
                written_ms(change.wall_ms).into(),
                if change.planned { "switchover" } else { "failover" }.into(),
                change.from.as_deref().into(),
                (&*change.to).into(),
                change.took_ms.into(),
                change.lost_bytes.into(),
                change.cause.into(),
            ]);
        }
    }
    rows
}

/// SHOW OPERATIONS: what coordinators do, and have done.
const OPERATIONS: View = View {
    name: "operations",
    columns: &[
        ("cluster", Text),
        ("id", Text),
        ("kind", Text),
        ("about", Text),
        ("state", Text),
        ("began", Text),
        ("ended", Text),
        ("text", Text),
    ],
    rows: operations,
};

fn operations(look: &Look) -> Vec<Row> {
    let Some(control) = &look.seat.sources.control else { return Vec::new() };
    let mut rows = Vec::new();
    for name in clusters(look) {
        for of in control.ledger().operations(name) {
            rows.push(vec![
                name.as_str().into(),
                of.id.into(),
                of.kind.into(),
                of.about.into(),
                of.state.as_str().into(),
                written_ms(of.began_ms).into(),
                of.ended_ms.map(written_ms).into(),
                of.text.into(),
            ]);
        }
    }
    rows
}

/// SHOW EVENTS: the coordinators' diaries.
const EVENTS: View = View {
    name: "events",
    columns: &[("cluster", Text), ("seq", Int8), ("at", Text), ("node", Text), ("grave", Text), ("text", Text)],
    rows: events,
};

fn events(look: &Look) -> Vec<Row> {
    let Some(control) = &look.seat.sources.control else { return Vec::new() };
    let mut rows = Vec::new();
    for name in clusters(look) {
        for told in control.ledger().events(name) {
            rows.push(vec![
                name.as_str().into(),
                told.seq.into(),
                written_ms(told.wall_ms).into(),
                told.event.node.as_deref().into(),
                yes(told.event.grave),
                told.event.text.as_str().into(),
            ]);
        }
    }
    rows
}

/// SHOW JOBS: what the agents do, and have done.
const JOBS: View = View {
    name: "jobs",
    columns: &[
        ("cluster", Text),
        ("node", Text),
        ("id", Text),
        ("directive", Text),
        ("state", Text),
        ("step", Text),
        ("began", Text),
        ("ended", Text),
        ("progress", Text),
        ("failure", Text),
    ],
    rows: |_| Vec::new(), // the agents have to be asked
};

/// The lines of SHOW JOBS.
pub(super) async fn jobs(look: &Look) -> Vec<Row> {
    let Some(control) = &look.seat.sources.control else { return Vec::new() };
    let mut rows = Vec::new();
    for (name, cluster) in &look.running.config.clusters {
        if control.explanation(name).is_none() {
            continue;
        }
        for node in cluster.nodes.iter().filter(|node| node.agent.is_some()) {
            match control.jobs(name, &node.name).await {
                Ok(jobs) => rows.extend(jobs.iter().map(|job| job_row(name, &node.name, job))),
                Err(why) => {
                    let mut row: Row = vec![name.as_str().into(), node.name.as_str().into()];
                    row.extend((0..7).map(|_| Cell::Null));
                    row.push(why.into());
                    rows.push(row);
                }
            }
        }
    }
    rows
}

/// As the enum is written in JSON.
fn word(of: &impl serde::Serialize) -> Cell {
    match serde_json::to_value(of) {
        Ok(serde_json::Value::String(word)) => word.into(),
        Ok(serde_json::Value::Object(fields)) => fields.get("do").and_then(|name| name.as_str()).into(),
        _ => Cell::Null,
    }
}

fn job_row(cluster: &str, node: &str, job: &crate::directive::Job) -> Row {
    vec![
        cluster.into(),
        node.into(),
        job.order.id.as_str().into(),
        word(&job.order.directive),
        word(&job.state),
        job.steps.last().map(|step| step.name.as_str()).into(),
        written_ms(job.began_ms).into(),
        job.ended_ms.map(written_ms).into(),
        job.progress.map(|(done, all)| format!("{done}/{all}")).into(),
        job.failure.as_ref().map(|failure| failure.to_string()).into(),
    ]
}

/// SHOW EPOCH.
const EPOCH: View = View {
    name: "epoch",
    columns: &[("cluster", Text), ("epoch", Int8), ("primary", Text), ("held", Text)],
    rows: |look| {
        let line = |(name, view): (&Arc<str>, &Arc<crate::topology::ClusterView>)| {
            let held = view.appointment.as_ref().is_some_and(|appointment| appointment.held);
            vec![(&**name).into(), view.epoch.0.into(), view.primary.as_deref().into(), yes(held)]
        };
        look.shared.board.read().clusters.iter().map(line).collect()
    },
};

/// SHOW ERRORS: what clients were told, by SQLSTATE.
const ERRORS: View = View {
    name: "errors",
    columns: &[("database", Text), ("sqlstate", Text), ("count", Numeric)],
    rows: |look| {
        let errors = look.shared.statistics().errors.into_iter();
        errors.map(|((database, code), count)| vec![(&*database).into(), code.into(), count.into()]).collect()
    },
};

/// SHOW HISTOGRAMS: how long requests have waited, how long servers took, and both, by pool; a line per bucket that has any.
const HISTOGRAMS: View = View {
    name: "histograms",
    columns: &[
        ("cluster", Text),
        ("node", Text),
        ("database", Text),
        ("user", Text),
        ("kind", Text),
        ("up_to_us", Int8),
        ("count", Numeric),
    ],
    rows: histograms,
};

fn histograms(look: &Look) -> Vec<Row> {
    let mut rows = Vec::new();
    for of in look.shared.statistics().pools {
        let kinds: [(&str, &Histogram); 3] = [("wait", &of.wait), ("server", &of.server), ("total", &of.total)];
        for (kind, histogram) in kinds {
            for (bucket, (count, _)) in histogram.buckets.iter().enumerate().filter(|(_, (count, _))| *count > 0) {
                let mut row: Row = [&of.cluster, &of.node, &of.database, &of.user].map(|part| (&**part).into()).into();
                row.extend([kind.into(), Histogram::bound_us(bucket).into(), (*count).into()]);
                rows.push(row);
            }
        }
    }
    rows
}
