//! Clients, databases, pools, routing: what the workers have counted, and what the pools' books say.

use std::collections::BTreeMap;

use super::super::http::Sources;
use super::super::status::PoolRow;
use super::named::OTHER;
use super::page::{Labelled, Page};
use crate::stats::{Histogram, PoolStatistics, Statistics, Totals};

pub(super) fn gather(page: &mut Page, sources: &Sources) {
    let (statistics, pools) = ((sources.statistics)(), (sources.pools)());
    page.gauge("howdah_clients", &[], (sources.clients)() as u64);
    page.gauge("howdah_clients_waiting", &[], pools.iter().map(|pool| pool.waiting).sum());
    databases(page, sources, &statistics);
    errors(page, sources, statistics.errors);
    books(page, sources, pools);
    served(page, sources, statistics.pools);
    let routing = (sources.routing)();
    for (event, count) in routing.events {
        page.counter("howdah_routing_events_total", &[("event", event)], count);
    }
    for (reason, count) in routing.reasons {
        page.counter("howdah_routing_reasons_total", &[("reason", reason)], count);
    }
}

fn databases(page: &mut Page, sources: &Sources, statistics: &Statistics) {
    let rows: Vec<(&str, Totals)> = statistics.databases.iter().map(|(name, row)| (&**name, row.totals)).collect();
    let (own, rest) = sources.named.split("databases", rows, |row| vec![row.0.to_owned()], |row| row.1.queries);
    let other = (!rest.is_empty()).then(|| (OTHER, rest.iter().fold(Totals::default(), |sum, row| sum + row.1)));
    for (database, totals) in own.into_iter().chain(other) {
        let labels = [("database", database)];
        for (name, count) in [
            ("howdah_client_logins_total", totals.client_logins),
            ("howdah_transactions_total", totals.xacts),
            ("howdah_queries_total", totals.queries),
            ("howdah_rows_total", totals.rows),
            ("howdah_received_bytes_total", totals.received),
            ("howdah_sent_bytes_total", totals.sent),
            ("howdah_server_assignments_total", totals.server_assignments),
            ("howdah_client_parses_total", totals.client_parses),
            ("howdah_server_parses_total", totals.server_parses),
            ("howdah_binds_total", totals.binds),
        ] {
            page.counter(name, &labels, count);
        }
        page.seconds("howdah_transaction_seconds_total", &labels, totals.xact_us);
        page.seconds("howdah_query_seconds_total", &labels, totals.query_us);
        page.seconds("howdah_wait_seconds_total", &labels, totals.wait_us);
    }
}

fn errors(page: &mut Page, sources: &Sources, errors: BTreeMap<(std::sync::Arc<str>, String), u64>) {
    let rows: Vec<_> = errors.into_iter().collect();
    let name =
        |((database, sqlstate), _): &((std::sync::Arc<str>, String), u64)| vec![database.to_string(), sqlstate.clone()];
    let (own, rest) = sources.named.split("errors", rows, name, |row| row.1);
    for ((database, sqlstate), count) in own {
        page.counter("howdah_errors_total", &[("database", &database), ("sqlstate", &sqlstate)], count);
    }
    if !rest.is_empty() {
        let count = rest.iter().map(|row| row.1).sum();
        page.counter("howdah_errors_total", &[("database", OTHER), ("sqlstate", OTHER)], count);
    }
}

/// What the pools have open, by their books.
fn books(page: &mut Page, sources: &Sources, pools: Vec<PoolRow>) {
    let name = |row: &PoolRow| pool_name(&row.cluster, &row.node, &row.database, &row.user);
    let (own, rest) = sources.named.split("pools", pools, name, |row| row.transactions);
    let mut others: BTreeMap<(String, String), PoolRow> = BTreeMap::new();
    for row in rest {
        let at = (row.cluster.clone(), row.node.clone());
        match others.get_mut(&at) {
            Some(sum) => add(sum, row),
            None => {
                others.insert(at, PoolRow { database: OTHER.to_owned(), user: OTHER.to_owned(), ..row });
            }
        }
    }
    for row in own.into_iter().chain(others.into_values()) {
        let labels: [Labelled<'_>; 4] =
            [("cluster", &row.cluster), ("node", &row.node), ("database", &row.database), ("user", &row.user)];
        for (metric, value) in [
            ("howdah_pool_size", row.size),
            ("howdah_pool_open", row.open),
            ("howdah_pool_idle", row.idle),
            ("howdah_pool_in_use", row.in_use),
            ("howdah_pool_waiting", row.waiting),
        ] {
            page.gauge(metric, &labels, value);
        }
        let oldest = std::time::Duration::from_micros(row.oldest_wait_us).as_secs_f64();
        page.level("howdah_pool_oldest_wait_seconds", &labels, oldest);
        page.counter("howdah_pool_lent_total", &labels, row.transactions);
        for (reason, count) in &row.pinned {
            let [cluster, node, database, user] = labels;
            page.gauge("howdah_pool_pinned", &[cluster, node, database, user, ("reason", reason)], *count);
        }
    }
}

fn add(sum: &mut PoolRow, row: PoolRow) {
    sum.size += row.size;
    sum.open += row.open;
    sum.idle += row.idle;
    sum.in_use += row.in_use;
    sum.waiting += row.waiting;
    sum.oldest_wait_us = sum.oldest_wait_us.max(row.oldest_wait_us);
    sum.transactions += row.transactions;
    for (reason, count) in row.pinned {
        *sum.pinned.entry(reason).or_default() += count;
    }
}

/// What the pools have served, as the workers have counted it.
fn served(page: &mut Page, sources: &Sources, pools: Vec<PoolStatistics>) {
    let name = |row: &PoolStatistics| pool_name(&row.cluster, &row.node, &row.database, &row.user);
    let (own, rest) = sources.named.split("served", pools, name, |row| row.totals.queries);
    let mut others: BTreeMap<(String, String), PoolStatistics> = BTreeMap::new();
    for row in rest {
        let at = (row.cluster.to_string(), row.node.to_string());
        match others.get_mut(&at) {
            Some(sum) => {
                sum.totals += row.totals;
                sum.wait.merge(&row.wait);
                sum.server.merge(&row.server);
                sum.total.merge(&row.total);
            }
            None => {
                others.insert(at, PoolStatistics { database: OTHER.into(), user: OTHER.into(), ..row });
            }
        }
    }
    for row in own.into_iter().chain(others.into_values()) {
        let labels: [Labelled<'_>; 4] =
            [("cluster", &row.cluster), ("node", &row.node), ("database", &row.database), ("user", &row.user)];
        page.counter("howdah_pool_transactions_total", &labels, row.totals.xacts);
        page.counter("howdah_pool_queries_total", &labels, row.totals.queries);
        times(page, "howdah_pool_wait_seconds", &labels, &row.wait);
        times(page, "howdah_pool_server_seconds", &labels, &row.server);
        times(page, "howdah_pool_request_seconds", &labels, &row.total);
    }
}

fn times(page: &mut Page, name: &'static str, labels: &[Labelled<'_>], times: &Histogram) {
    let bounded = times.buckets.iter().enumerate();
    let buckets = bounded.filter_map(|(at, (count, _))| Some((Histogram::bound_us(at)?, *count)));
    page.histogram(name, labels, buckets, (times.count(), times.sum_us()), 1_000_000);
}

fn pool_name(cluster: &str, node: &str, database: &str, user: &str) -> Vec<String> {
    [cluster, node, database, user].map(str::to_owned).to_vec()
}
