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
            gauge(
                "howdah_config_reload_success",
                NONE,
                "0 after a reload that was refused: the file is wrong and what was in force stays.",
            ),
            gauge(
                "howdah_config_reload_timestamp_seconds",
                NONE,
                "When the last reload was, in seconds since 1970; 0 when there was none.",
            ),
            gauge("howdah_config_reload_duration_seconds", NONE, "How long the last reload took, applied or refused."),
            counter("howdah_config_reloads_total", &["outcome"], "Reloads: applied, refused."),
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
            gauge(
                "howdah_clients_by_state",
                &["state"],
                "Clients that have logged in: idle, waiting for a server connection, working with one (also: keeping one in a transaction).",
            ),
            gauge(
                "howdah_prepared_statements",
                NONE,
                "Names of prepared statements that clients have; servers have one for all who mean the same.",
            ),
            gauge("howdah_clients_max", NONE, "Client connections there may be (limits.max_client_connections)."),
            gauge("howdah_clients_waiting", NONE, "Clients that wait for a server connection."),
            counter("howdah_client_logins_total", DATABASE, "Logins of clients."),
            counter(
                "howdah_cancels_total",
                &["outcome"],
                "Cancels that clients have asked for: sent to the server, in_vain when nothing of theirs ran.",
            ),
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
                "Errors that clients were told, PostgreSQL's and howdah's; without a database for those who were refused before they had one.",
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
            counter(
                "howdah_server_logins_total",
                &["cluster", "node", "outcome"],
                "Server connections for clients that were opened (done), or could not be (failed).",
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
                "Requests by what became of them, such as to_primary, to_replica, not_fresh, waited, moved.",
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
    (
        "Clusters and nodes, as PostgreSQL says it",
        &[
            gauge("howdah_postgres_up", NODE, "1 while the node could be asked for what follows."),
            gauge("howdah_postgres_ask_seconds", NODE, "How long asking the node took the last time."),
            gauge(
                "howdah_postgres_info",
                &["cluster", "node", "version"],
                "Always 1; the label says which PostgreSQL it is.",
            ),
            gauge("howdah_postgres_start_time_seconds", NODE, "When the postmaster began, in seconds since 1970."),
            gauge("howdah_postgres_in_recovery", NODE, "1 on a standby, 0 on a primary."),
            gauge(
                "howdah_postgres_wal_lsn_bytes",
                NODE,
                "Position in the log: where a primary writes, what a standby has replayed.",
            ),
            gauge(
                "howdah_postgres_last_replay_age_seconds",
                NODE,
                "How long ago the last transaction that a standby has replayed was committed; grows while nothing is written.",
            ),
            gauge("howdah_postgres_connections", NODE, "Client backends."),
            gauge("howdah_postgres_connections_max", NODE, "max_connections."),
            gauge(
                "howdah_postgres_activity",
                &["cluster", "node", "database", "state"],
                "Client backends by state, as pg_stat_activity has it.",
            ),
            gauge(
                "howdah_postgres_activity_oldest_transaction_seconds",
                &["cluster", "node", "database", "state"],
                "For how long the oldest of their transactions has been open.",
            ),
            gauge(
                "howdah_postgres_activity_waiting",
                &["cluster", "node", "type"],
                "Active client backends that wait, by wait_event_type.",
            ),
            gauge("howdah_postgres_locks", &["cluster", "node", "mode"], "Locks that are held or awaited, by mode."),
            gauge("howdah_postgres_locks_waiting", NODE, "Locks that are awaited."),
            gauge(
                "howdah_postgres_database_connections",
                &["cluster", "node", "database"],
                "Backends connected to the database.",
            ),
            gauge(
                "howdah_postgres_database_size_bytes",
                &["cluster", "node", "database"],
                "Size of the database on disk; asked for once in a minute.",
            ),
            gauge(
                "howdah_postgres_database_age_transactions",
                &["cluster", "node", "database"],
                "Transactions since the oldest that is not frozen: vacuum must keep it far below two thousand million.",
            ),
            counter("howdah_postgres_xact_commit_total", &["cluster", "node", "database"], "Transactions committed."),
            counter(
                "howdah_postgres_xact_rollback_total",
                &["cluster", "node", "database"],
                "Transactions rolled back.",
            ),
            counter(
                "howdah_postgres_blocks_read_total",
                &["cluster", "node", "database"],
                "Blocks read from disk or the system.",
            ),
            counter(
                "howdah_postgres_blocks_hit_total",
                &["cluster", "node", "database"],
                "Blocks found in shared buffers.",
            ),
            counter("howdah_postgres_tuples_returned_total", &["cluster", "node", "database"], "Rows read."),
            counter(
                "howdah_postgres_tuples_fetched_total",
                &["cluster", "node", "database"],
                "Rows fetched by index scans.",
            ),
            counter("howdah_postgres_tuples_inserted_total", &["cluster", "node", "database"], "Rows inserted."),
            counter("howdah_postgres_tuples_updated_total", &["cluster", "node", "database"], "Rows updated."),
            counter("howdah_postgres_tuples_deleted_total", &["cluster", "node", "database"], "Rows deleted."),
            counter(
                "howdah_postgres_conflicts_total",
                &["cluster", "node", "database"],
                "Queries cancelled because they conflicted with what a standby replays.",
            ),
            counter(
                "howdah_postgres_temp_files_total",
                &["cluster", "node", "database"],
                "Temporary files made by queries.",
            ),
            counter(
                "howdah_postgres_temp_bytes_total",
                &["cluster", "node", "database"],
                "Bytes written to temporary files.",
            ),
            counter("howdah_postgres_deadlocks_total", &["cluster", "node", "database"], "Deadlocks."),
            counter(
                "howdah_postgres_block_read_seconds_total",
                &["cluster", "node", "database"],
                "Time reading blocks; 0 unless track_io_timing is on.",
            ),
            counter(
                "howdah_postgres_block_write_seconds_total",
                &["cluster", "node", "database"],
                "Time writing blocks; 0 unless track_io_timing is on.",
            ),
            counter(
                "howdah_postgres_checkpoints_timed_total",
                NODE,
                "Checkpoints that were due by checkpoint_timeout.",
            ),
            counter(
                "howdah_postgres_checkpoints_requested_total",
                NODE,
                "Checkpoints that were asked for, by people or by max_wal_size.",
            ),
            counter("howdah_postgres_checkpoint_write_seconds_total", NODE, "Time writing at checkpoints."),
            counter("howdah_postgres_checkpoint_sync_seconds_total", NODE, "Time syncing at checkpoints."),
            counter("howdah_postgres_checkpoint_buffers_total", NODE, "Buffers written at checkpoints."),
            counter("howdah_postgres_wal_records_total", NODE, "Records of log written; PostgreSQL 14 and later."),
            counter("howdah_postgres_wal_bytes_total", NODE, "Bytes of log written; PostgreSQL 14 and later."),
            gauge("howdah_postgres_wal_size_bytes", NODE, "Size of pg_wal; asked for once in a minute."),
            counter("howdah_postgres_archived_total", NODE, "Log files archived."),
            counter("howdah_postgres_archive_failed_total", NODE, "Attempts to archive a log file that failed."),
            gauge(
                "howdah_postgres_replication_sent_lag_bytes",
                &["cluster", "node", "standby", "address", "state", "sync_state"],
                "Bytes of log that were not sent to the standby yet, by pg_stat_replication.",
            ),
            gauge(
                "howdah_postgres_replication_flush_lag_bytes",
                &["cluster", "node", "standby", "address", "state", "sync_state"],
                "Bytes of log that the standby has not on its disk yet.",
            ),
            gauge(
                "howdah_postgres_replication_replay_lag_bytes",
                &["cluster", "node", "standby", "address", "state", "sync_state"],
                "Bytes of log that the standby has not replayed yet.",
            ),
            gauge(
                "howdah_postgres_replication_flush_lag_seconds",
                &["cluster", "node", "standby", "address", "state", "sync_state"],
                "flush_lag; absent while nothing is written.",
            ),
            gauge(
                "howdah_postgres_replication_replay_lag_seconds",
                &["cluster", "node", "standby", "address", "state", "sync_state"],
                "replay_lag; absent while nothing is written.",
            ),
            gauge(
                "howdah_postgres_slot_active",
                &["cluster", "node", "slot", "type"],
                "1 while somebody reads from the replication slot.",
            ),
            gauge(
                "howdah_postgres_slot_retained_bytes",
                &["cluster", "node", "slot", "type"],
                "Bytes of log that are kept for the replication slot.",
            ),
            gauge(
                "howdah_postgres_setting_value",
                &["cluster", "node", "setting"],
                "Some settings, in bytes, seconds or as they are.",
            ),
            gauge(
                "howdah_own_query_up",
                &["cluster", "node", "query", "database"],
                "1 while a question of stats.queries_file is answered.",
            ),
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
