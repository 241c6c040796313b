//! `GET /statistics` and `GET /statements?by=time|p99|calls&limit=N`: what was counted, for scripts and people.
//!
//! Not here: the same for Prometheus (`metrics`).

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::http::Sources;
use super::refusal::Refusal;
use crate::stats::top::{By, top};
use crate::stats::{Histogram, StatementStatistics, Totals};

/// Statements that are shown where nobody says how many.
const LIMIT: usize = 50;

pub(super) async fn statistics(State(sources): State<Sources>) -> Json<Value> {
    let statistics = (sources.statistics)();
    let databases = statistics.databases.iter().map(|(name, database)| {
        json!({
            "database": **name, "totals": counts(&database.totals), "averages": counts(&database.averages.of),
        })
    });
    let pools = statistics.pools.iter().map(|pool| {
        json!({
            "cluster": *pool.cluster, "node": *pool.node, "database": *pool.database, "user": *pool.user,
            "totals": counts(&pool.totals),
            "wait": times(&pool.wait), "server": times(&pool.server), "total": times(&pool.total),
        })
    });
    let errors = statistics
        .errors
        .iter()
        .map(|((database, sqlstate), count)| json!({ "database": **database, "sqlstate": sqlstate, "count": count }));
    Json(json!({
        "databases": databases.collect::<Vec<_>>(),
        "pools": pools.collect::<Vec<_>>(),
        "errors": errors.collect::<Vec<_>>(),
    }))
}

pub(super) async fn statements(
    State(sources): State<Sources>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Refusal> {
    let (mut by, mut limit) = (By::default(), LIMIT);
    for pair in query.as_deref().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let wrong = |what: &str| Refusal::new(StatusCode::BAD_REQUEST, "bad-query", format!("\"{pair}\": {what}"));
        match pair.split_once('=') {
            Some(("by", name)) => by = By::named(name).ok_or_else(|| wrong("by=time, by=p99 or by=calls"))?,
            Some(("limit", number)) => limit = number.parse().map_err(|_| wrong("a number is wanted"))?,
            _ => return Err(wrong("only \"by\" and \"limit\" mean anything here")),
        }
    }
    let shown = top((sources.statements)(), by, limit);
    Ok(Json(shown.iter().map(statement).collect()))
}

fn statement(statement: &StatementStatistics) -> Value {
    json!({
        "fingerprint": format!("{:016x}", statement.fingerprint),
        "text": *statement.text, "database": *statement.database, "user": *statement.user, "node": *statement.node,
        "calls": statement.calls, "errors": statement.errors, "rows": statement.rows, "time": times(&statement.total),
    })
}

fn counts(totals: &Totals) -> Value {
    let Totals {
        server_assignments,
        xacts,
        queries,
        received,
        sent,
        xact_us,
        query_us,
        wait_us,
        client_parses,
        server_parses,
        binds,
        client_logins,
        errors,
        rows,
    } = totals;
    json!({
        "server_assignments": server_assignments, "xacts": xacts, "queries": queries, "received": received, "sent": sent,
        "xact_us": xact_us, "query_us": query_us, "wait_us": wait_us, "client_parses": client_parses,
        "server_parses": server_parses, "binds": binds, "client_logins": client_logins, "errors": errors, "rows": rows,
    })
}

fn times(histogram: &Histogram) -> Value {
    json!({
        "count": histogram.count(), "sum_us": histogram.sum_us(), "p50_us": histogram.per_mille_us(500),
        "p95_us": histogram.per_mille_us(950), "p99_us": histogram.per_mille_us(990),
    })
}
