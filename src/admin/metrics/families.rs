//! Every metric there is: name, type, labels, meaning. `docs/metrics.md` is written from it (`HOWDAH_WRITE_DOCS=1 cargo test --test
//! reference`), and a test compares both with what a daemon says.

use std::fmt::Write as _;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the daemon starts again.
    Counter,
    /// How it is now.
    Gauge,
    /// How often something took how long.
    Histogram,
}

impl Kind {
    /// As Prometheus writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// By what it is told apart.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const NONE: &[&str] = &[];
const CLUSTER: &[&str] = &["cluster"];
const NODE: &[&str] = &["cluster", "node"];
const POOL: &[&str] = &["cluster", "node", "database", "user"];
const DATABASE: &[&str] = &["database"];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, labels, help }
}

/// All of them, by what they are about.
pub const FAMILIES: &[(&str, &[Family])] = &[
    (
        "The daemon",
        &[
            gauge("howdah_build_info", &["version"], "Always 1; the label says which howdah this is."),
            gauge("howdah_uptime_seconds", NONE, "Since the daemon began."),
            gauge("howdah_ready", NONE, "1 while GET /readyz says 200."),
            gauge("howdah_workers", NONE, "Threads that serve clients."),
            gauge("howdah_config_generation", NONE, "1 at the start, one more with each reload that was applied."),
            counter("howdah_panics_total", NONE, "Sessions that have panicked: each is a defect to report."),
            counter("process_cpu_seconds_total", NONE, "CPU time of the process, user and system."),
            gauge("process_resident_memory_bytes", NONE, "Memory the process has in RAM."),
            gauge("process_virtual_memory_bytes", NONE, "Memory the process has mapped."),
            gauge("process_open_fds", NONE, "Open file descriptors: each client and each server connection is one."),
            gauge("process_max_fds", NONE, "File descriptors the process may have."),
            gauge("process_threads", NONE, "Threads of the process."),
            gauge("process_start_time_seconds", NONE, "When the process began, in seconds since 1970."),
        ],
    ),
    (
        "Clients and traffic",
        &[
            gauge("howdah_clients", NONE, "Client connections."),
            gauge("howdah_clients_max", NONE, "Client connections there may be (limits.max_client_connections)."),
            gauge("howdah_clients_waiting", NONE, "Clients that wait for a server connection."),
            counter("howdah_client_logins_total", DATABASE, "Logins of clients."),
            counter(
                "howdah_transactions_total",
                DATABASE,
                "Transactions that have ended; a statement outside a block is one.",
            ),
            counter("howdah_queries_total", DATABASE, "Requests that were answered: simple queries, and Syncs."),
            counter("howdah_rows_total", DATABASE, "Rows sent to clients."),
            counter("howdah_received_bytes_total", DATABASE, "Bytes that clients have sent."),
            counter("howdah_sent_bytes_total", DATABASE, "Bytes that clients were sent."),
            counter("howdah_transaction_seconds_total", DATABASE, "Time in transactions."),
            counter(
                "howdah_query_seconds_total",
                DATABASE,
                "Time from requests to the end of their answers, without the wait for a server.",
            ),
            counter("howdah_wait_seconds_total", DATABASE, "Time that clients have waited for a server connection."),
            counter("howdah_server_assignments_total", DATABASE, "Times a server connection was lent to a client."),
            counter("howdah_client_parses_total", DATABASE, "Parse messages from clients."),
            counter(
                "howdah_server_parses_total",
                DATABASE,
                "Parse messages to servers: the difference is what prepared statements shared by clients have saved.",
            ),
            counter("howdah_binds_total", DATABASE, "Bind messages from clients."),
            counter(
                "howdah_errors_total",
                &["database", "sqlstate"],
                "Errors that clients were told, PostgreSQL's and howdah's.",
            ),
        ],
    ),
    (
        "Pools",
        &[
            gauge("howdah_pool_size", POOL, "Server connections the pool may have, without the reserve."),
            gauge("howdah_pool_open", POOL, "Server connections there are: connecting, idle, in use and closing."),
            gauge("howdah_pool_idle", POOL, "Server connections that are lent to nobody."),
            gauge("howdah_pool_in_use", POOL, "Server connections that are not idle."),
            gauge("howdah_pool_waiting", POOL, "Clients that wait for a server connection."),
            gauge(
                "howdah_pool_oldest_wait_seconds",
                POOL,
                "How long the client that waits longest has waited; 0 when nobody waits.",
            ),
            gauge(
                "howdah_pool_pinned",
                &["cluster", "node", "database", "user", "reason"],
                "Server connections that stay with one client, by the state that keeps them there; one may have several.",
            ),
            counter("howdah_pool_lent_total", POOL, "Times a server connection was given back settled."),
            counter("howdah_pool_transactions_total", POOL, "Transactions the pool has served."),
            counter("howdah_pool_queries_total", POOL, "Requests the pool has served."),
            histogram("howdah_pool_wait_seconds", POOL, "How long requests have waited for a server connection."),
            histogram("howdah_pool_server_seconds", POOL, "How long servers have taken for requests."),
            histogram("howdah_pool_request_seconds", POOL, "How long requests have taken in all."),
        ],
    ),
    (
        "Routing",
        &[
            counter(
                "howdah_routing_events_total",
                &["event"],
                "Requests by what became of them: to_primary, to_replica, not_fresh, waited, moved …",
            ),
            counter(
                "howdah_routing_reasons_total",
                &["reason"],
                "Requests by why they went where they went, as howdah route says it.",
            ),
        ],
    ),
    (
        "Clusters and nodes, as howdah sees them",
        &[
            gauge("howdah_epoch", CLUSTER, "The count of promotions of a cluster."),
            gauge("howdah_cluster_has_primary", CLUSTER, "1 while there is a node that writes go to."),
            gauge(
                "howdah_cluster_held",
                CLUSTER,
                "1 while nothing new begins at the primary: a switchover is under way.",
            ),
            gauge("howdah_cluster_paused", CLUSTER, "1 while howdah pause is in force: nothing is failed over."),
            gauge(
                "howdah_cluster_busy",
                CLUSTER,
                "1 while an operation is under way: failover, switchover, restart, rebuild.",
            ),
            gauge(
                "howdah_cluster_blocked",
                &["cluster", "reason"],
                "1 for each thing that stands in the way of what should happen next.",
            ),
            gauge(
                "howdah_cluster_mode",
                &["cluster", "mode"],
                "1 for how the cluster is looked after: automatic, manual, observe.",
            ),
            gauge("howdah_node_up", NODE, "1 while the node answers the monitor."),
            gauge("howdah_node_primary", NODE, "1 for the node that writes go to."),
            gauge(
                "howdah_node_role",
                &["cluster", "node", "role"],
                "1 for what the node says it is: primary, standby.",
            ),
            gauge("howdah_node_replica", NODE, "1 while reads may go there."),
            gauge("howdah_node_unfit", &["cluster", "node", "reason"], "1 for why no reads go there."),
            gauge("howdah_node_timeline", NODE, "The timeline the node is on."),
            gauge(
                "howdah_node_received_lsn_bytes",
                NODE,
                "Position in the log: of a primary where it writes, of a standby what it has received.",
            ),
            gauge("howdah_node_replayed_lsn_bytes", NODE, "Position in the log up to which a standby has replayed."),
            gauge("howdah_node_lag_bytes", NODE, "Bytes of the primary's log that are not replayed here."),
            gauge("howdah_node_lag_seconds", NODE, "For how long a standby has not had all of the primary's log."),
            gauge("howdah_node_sessions", NODE, "Client sessions that read there."),
            gauge(
                "howdah_agent_up",
                NODE,
                "1 while the node's agent is heard; absent where nobody looks after the cluster.",
            ),
            gauge(
                "howdah_node_state",
                &["cluster", "node", "state"],
                "1 for what the coordinator takes the node for: primary, standby, joining, fenced, detached, quarantined, unknown.",
            ),
        ],
    ),
    (
        "Failovers and jobs",
        &[
            counter(
                "howdah_failovers_total",
                &["cluster", "outcome", "class"],
                "Failovers that have ended, by outcome and by class of what went wrong.",
            ),
            counter("howdah_switchovers_total", &["cluster", "outcome", "class"], "Switchovers that have ended."),
            counter(
                "howdah_restarts_total",
                &["cluster", "outcome", "class"],
                "Primaries whose process was started again where it was.",
            ),
            counter(
                "howdah_jobs_total",
                &["cluster", "node", "directive", "outcome", "class"],
                "Jobs of agents that have ended.",
            ),
            counter("howdah_rollbacks_total", &["cluster", "kind", "class"], "Operations and jobs that were undone."),
            histogram("howdah_failover_seconds", &["cluster", "kind"], "From the first sign to the promotion."),
        ],
    ),
];

/// The tables of `docs/metrics.md`.
#[must_use]
pub fn render_tables() -> String {
    let mut text = String::new();
    for (about, families) in FAMILIES {
        let _ = writeln!(text, "### {about}\n\n| metric | type | labels | meaning |\n|---|---|---|---|");
        for Family { name, kind, labels, help } in *families {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(text, "| `{name}` | {} | {} | {help} |", kind.as_str(), labels.join(", "));
        }
        text.push('\n');
    }
    text
}
