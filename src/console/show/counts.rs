//! `SHOW STATS` and its kin, as PgBouncer has them: one line per database, all counters `numeric`.

use std::sync::Arc;

use super::super::answer::Kind::{Numeric, Text};
use super::super::answer::Row;
use super::super::seat::PGBOUNCER;
use super::pools::database_names;
use super::scene::Scene;
use super::{Look, View};
use crate::stats::{DatabaseStatistics, Totals};

/// SHOW STATS.
pub const STATS: View = View {
    name: "stats",
    columns: &[
        ("database", Text),
        ("total_server_assignment_count", Numeric),
        ("total_xact_count", Numeric),
        ("total_query_count", Numeric),
        ("total_received", Numeric),
        ("total_sent", Numeric),
        ("total_xact_time", Numeric),
        ("total_query_time", Numeric),
        ("total_wait_time", Numeric),
        ("total_client_parse_count", Numeric),
        ("total_server_parse_count", Numeric),
        ("total_bind_count", Numeric),
        ("total_client_login_count", Numeric),
        ("avg_server_assignment_count", Numeric),
        ("avg_xact_count", Numeric),
        ("avg_query_count", Numeric),
        ("avg_recv", Numeric),
        ("avg_sent", Numeric),
        ("avg_xact_time", Numeric),
        ("avg_query_time", Numeric),
        ("avg_wait_time", Numeric),
        ("avg_client_parse_count", Numeric),
        ("avg_server_parse_count", Numeric),
        ("avg_bind_count", Numeric),
        ("avg_client_login_count", Numeric),
    ],
    rows: |look| lines(look, |of| [values(&of.totals), values(&of.averages.of)].concat()),
};

/// SHOW STATS_TOTALS.
pub const STATS_TOTALS: View = View {
    name: "stats_totals",
    columns: &[
        ("database", Text),
        ("server_assignment_count", Numeric),
        ("xact_count", Numeric),
        ("query_count", Numeric),
        ("bytes_received", Numeric),
        ("bytes_sent", Numeric),
        ("xact_time", Numeric),
        ("query_time", Numeric),
        ("wait_time", Numeric),
        ("client_parse_count", Numeric),
        ("server_parse_count", Numeric),
        ("bind_count", Numeric),
        ("client_login_count", Numeric),
    ],
    rows: |look| lines(look, |of| values(&of.totals).to_vec()),
};

/// SHOW STATS_AVERAGES. PgBouncer leaves `avg_` away from the first eight.
pub const STATS_AVERAGES: View = View {
    name: "stats_averages",
    columns: &[
        ("database", Text),
        ("server_assignment_count", Numeric),
        ("xact_count", Numeric),
        ("query_count", Numeric),
        ("bytes_received", Numeric),
        ("bytes_sent", Numeric),
        ("xact_time", Numeric),
        ("query_time", Numeric),
        ("wait_time", Numeric),
        ("avg_client_parse_count", Numeric),
        ("avg_server_parse_count", Numeric),
        ("avg_bind_count", Numeric),
        ("avg_client_login_count", Numeric),
    ],
    rows: |look| lines(look, |of| values(&of.averages.of).to_vec()),
};

/// SHOW TOTALS.
pub const TOTALS: View = View { name: "totals", columns: &[("name", Text), ("value", Numeric)], rows: totals };

const NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// In the order of [`NAMES`].
const fn values(of: &Totals) -> [u64; 12] {
    [
        of.server_assignments,
        of.xacts,
        of.queries,
        of.received,
        of.sent,
        of.xact_us,
        of.query_us,
        of.wait_us,
        of.client_parses,
        of.server_parses,
        of.binds,
        of.client_logins,
    ]
}

/// By database: those of the file, those that have been used, and the console.
fn all(look: &Look) -> Vec<(Arc<str>, DatabaseStatistics)> {
    let mut counted = look.shared.statistics().databases;
    for name in database_names(&look.running.config, &Scene::now(look)) {
        counted.entry(name).or_default();
    }
    let (queries, client_logins) = (look.seat.queries(), look.seat.logins());
    let totals = Totals { xacts: queries, queries, client_logins, ..Totals::default() };
    counted.insert(PGBOUNCER.into(), DatabaseStatistics { totals, ..DatabaseStatistics::default() });
    counted.into_iter().collect()
}

fn lines(look: &Look, values: fn(&DatabaseStatistics) -> Vec<u64>) -> Vec<Row> {
    let line = |(name, of): (Arc<str>, DatabaseStatistics)| {
        let mut row: Row = vec![(&*name).into()];
        row.extend(values(&of).into_iter().map(Into::into));
        row
    };
    all(look).into_iter().map(line).collect()
}

fn totals(look: &Look) -> Vec<Row> {
    let (mut totals, mut averages) = ([0_u64; 12], [0_u64; 12]);
    for (_, of) in all(look) {
        for (sum, value) in totals.iter_mut().zip(values(&of.totals)) {
            *sum = sum.wrapping_add(value);
        }
        for (sum, value) in averages.iter_mut().zip(values(&of.averages.of)) {
            *sum = sum.wrapping_add(value);
        }
    }
    let named = |prefix: &'static str, values: [u64; 12]| {
        NAMES.into_iter().zip(values).map(move |(name, value)| vec![format!("{prefix}{name}").into(), value.into()])
    };
    named("total_", totals).chain(named("avg_", averages)).collect()
}
