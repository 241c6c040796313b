//! What is asked of every node, as `postgres_exporter`'s users expect it: text, whom it suits, how often.
//!
//! A column that is named as a label becomes one; every other is the metric `howdah_postgres_` + its name, which
//! [`families`](crate::admin::metrics::families) must know. Labels come first. The session's `search_path` is `pg_catalog` alone.

use std::time::Duration;

/// One question.
pub(super) struct Question {
    /// For the log, and what its answer is kept by.
    pub(super) name: &'static str,
    /// Its text.
    pub(super) sql: &'static str,
    /// Columns that are labels.
    pub(super) labels: &'static [&'static str],
    /// The least pause between two.
    pub(super) every: Duration,
    who: Who,
    /// From this `server_version_num` on.
    since: u32,
    /// Up to and without this.
    until: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Everybody,
    Standbys,
}

impl Question {
    const fn new(name: &'static str, sql: &'static str) -> Self {
        Self { name, sql, labels: &[], every: Duration::from_secs(2), who: Who::Everybody, since: 0, until: u32::MAX }
    }

    const fn by(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    const fn every_secs(self, secs: u64) -> Self {
        Self { every: Duration::from_secs(secs), ..self }
    }

    const fn of_standbys(self) -> Self {
        Self { who: Who::Standbys, ..self }
    }

    const fn since(self, since: u32) -> Self {
        Self { since, ..self }
    }

    const fn until(self, until: u32) -> Self {
        Self { until, ..self }
    }

    /// Whether a node of this version and role can answer it.
    pub(super) fn suits(&self, version: u32, is_standby: bool) -> bool {
        (self.since..self.until).contains(&version) && (is_standby || self.who == Who::Everybody)
    }
}

pub(super) const QUESTIONS: &[Question] = &[
    Question::new(
        "server",
        "SELECT extract(epoch FROM pg_postmaster_start_time()) AS start_time_seconds, \
            pg_is_in_recovery() AS in_recovery, \
            pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') \
                ELSE pg_current_wal_lsn() END, '0/0') AS wal_lsn_bytes, \
            current_setting('max_connections') AS connections_max",
    ),
    Question::new(
        "replay",
        "SELECT extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) AS last_replay_age_seconds",
    )
    .of_standbys(),
    Question::new(
        "activity",
        "SELECT coalesce(datname, '') AS database, coalesce(state, 'unknown') AS state, count(*) AS activity, \
            coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) AS activity_oldest_transaction_seconds \
         FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1, 2 ORDER BY 3 DESC",
    )
    .by(&["database", "state"]),
    Question::new(
        "waits",
        "SELECT wait_event_type AS type, count(*) AS activity_waiting FROM pg_stat_activity \
         WHERE backend_type = 'client backend' AND state = 'active' AND wait_event_type IS NOT NULL GROUP BY 1",
    )
    .by(&["type"]),
    Question::new(
        "connections",
        "SELECT count(*) AS connections FROM pg_stat_activity WHERE backend_type = 'client backend'",
    ),
    Question::new("locks", "SELECT mode, count(*) AS locks FROM pg_locks GROUP BY 1").by(&["mode"]),
    Question::new("locks waiting", "SELECT count(*) AS locks_waiting FROM pg_locks WHERE NOT granted"),
    Question::new(
        "databases",
        "SELECT datname AS database, numbackends AS database_connections, xact_commit AS xact_commit_total, \
            xact_rollback AS xact_rollback_total, blks_read AS blocks_read_total, blks_hit AS blocks_hit_total, \
            tup_returned AS tuples_returned_total, tup_fetched AS tuples_fetched_total, \
            tup_inserted AS tuples_inserted_total, tup_updated AS tuples_updated_total, \
            tup_deleted AS tuples_deleted_total, conflicts AS conflicts_total, temp_files AS temp_files_total, \
            temp_bytes AS temp_bytes_total, deadlocks AS deadlocks_total, \
            blk_read_time / 1000 AS block_read_seconds_total, blk_write_time / 1000 AS block_write_seconds_total \
         FROM pg_stat_database WHERE datname IS NOT NULL ORDER BY xact_commit DESC",
    )
    .by(&["database"]),
    Question::new(
        "sizes",
        "SELECT datname AS database, pg_database_size(oid) AS database_size_bytes FROM pg_database \
         WHERE has_database_privilege(oid, 'CONNECT') ORDER BY 2 DESC",
    )
    .by(&["database"])
    .every_secs(60),
    Question::new(
        "age",
        "SELECT datname AS database, age(datfrozenxid) AS database_age_transactions FROM pg_database ORDER BY 2 DESC",
    )
    .by(&["database"])
    .every_secs(60),
    Question::new(
        "checkpoints",
        "SELECT checkpoints_timed AS checkpoints_timed_total, checkpoints_req AS checkpoints_requested_total, \
            checkpoint_write_time / 1000 AS checkpoint_write_seconds_total, \
            checkpoint_sync_time / 1000 AS checkpoint_sync_seconds_total, \
            buffers_checkpoint AS checkpoint_buffers_total FROM pg_stat_bgwriter",
    )
    .until(170_000),
    Question::new(
        "checkpointer",
        "SELECT num_timed AS checkpoints_timed_total, num_requested AS checkpoints_requested_total, \
            write_time / 1000 AS checkpoint_write_seconds_total, sync_time / 1000 AS checkpoint_sync_seconds_total, \
            buffers_written AS checkpoint_buffers_total FROM pg_stat_checkpointer",
    )
    .since(170_000),
    Question::new("log", "SELECT wal_records AS wal_records_total, wal_bytes AS wal_bytes_total FROM pg_stat_wal")
        .since(140_000),
    Question::new("log files", "SELECT coalesce(sum(size), 0) AS wal_size_bytes FROM pg_ls_waldir()").every_secs(60),
    Question::new(
        "archiver",
        "SELECT archived_count AS archived_total, failed_count AS archive_failed_total FROM pg_stat_archiver",
    ),
    Question::new(
        "standbys",
        "WITH here AS (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() \
            ELSE pg_current_wal_lsn() END AS lsn) \
         SELECT application_name AS standby, coalesce(host(client_addr), '') AS address, state, sync_state, \
            greatest(pg_wal_lsn_diff(lsn, sent_lsn), 0) AS replication_sent_lag_bytes, \
            greatest(pg_wal_lsn_diff(lsn, flush_lsn), 0) AS replication_flush_lag_bytes, \
            greatest(pg_wal_lsn_diff(lsn, replay_lsn), 0) AS replication_replay_lag_bytes, \
            extract(epoch FROM flush_lag) AS replication_flush_lag_seconds, \
            extract(epoch FROM replay_lag) AS replication_replay_lag_seconds \
         FROM pg_stat_replication, here",
    )
    .by(&["standby", "address", "state", "sync_state"]),
    Question::new(
        "slots",
        "WITH here AS (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
            ELSE pg_current_wal_lsn() END AS lsn) \
         SELECT slot_name AS slot, slot_type AS type, active AS slot_active, \
            greatest(pg_wal_lsn_diff(lsn, restart_lsn), 0) AS slot_retained_bytes FROM pg_replication_slots, here",
    )
    .by(&["slot", "type"]),
    Question::new(
        "settings",
        "SELECT name AS setting, setting::float8 * CASE unit WHEN '8kB' THEN 8192 WHEN 'kB' THEN 1024 \
            WHEN 'MB' THEN 1048576 WHEN 'ms' THEN 0.001 WHEN 's' THEN 1 WHEN 'min' THEN 60 ELSE 1 END AS setting_value \
         FROM pg_settings WHERE name IN ('shared_buffers', 'effective_cache_size', 'work_mem', 'maintenance_work_mem', \
            'max_wal_size', 'checkpoint_timeout', 'max_wal_senders', 'max_replication_slots', 'max_worker_processes', \
            'max_prepared_transactions', 'superuser_reserved_connections', 'autovacuum_max_workers')",
    )
    .by(&["setting"])
    .every_secs(60),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::admin::metrics::families::FAMILIES;

    #[test]
    fn what_is_asked_and_what_is_documented_is_the_same() {
        let mut asked: BTreeSet<(String, Vec<&str>)> = BTreeSet::new();
        for question in QUESTIONS {
            // up to the FROM of the outermost SELECT, as it is written above: each column has an AS
            let outer = question
                .sql
                .rsplit_once("here AS")
                .map_or(question.sql, |(_, rest)| rest.split_once(") SELECT").unwrap().1);
            for (at, _) in outer.match_indices(" AS ") {
                let name: String =
                    outer[at + 4..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if !name.is_empty() && !question.labels.contains(&name.as_str()) {
                    asked.insert((format!("howdah_postgres_{name}"), question.labels.to_vec()));
                }
            }
        }
        let family = |(_, families): &(&str, &'static [crate::admin::metrics::families::Family])| families.iter();
        let listed: BTreeSet<(String, Vec<&str>)> = FAMILIES
            .iter()
            .flat_map(family)
            .filter(|family| family.name.starts_with("howdah_postgres_"))
            .filter(|family| {
                !matches!(family.name, "howdah_postgres_up" | "howdah_postgres_info" | "howdah_postgres_ask_seconds")
            })
            .map(|family| (family.name.to_owned(), family.labels[2..].to_vec()))
            .collect();
        assert_eq!(asked, listed);
    }

    #[test]
    fn no_two_questions_share_a_name() {
        let names: BTreeSet<&str> = QUESTIONS.iter().map(|question| question.name).collect();
        assert_eq!(names.len(), QUESTIONS.len(), "one would take the other's answer away");
    }

    #[test]
    fn each_version_is_asked_for_checkpoints_once() {
        for version in [130_000, 150_000, 169_999, 170_000, 180_000] {
            let counts = |q: &&Question| q.sql.contains("checkpoints_timed_total") && q.suits(version, false);
            let count = QUESTIONS.iter().filter(counts).count();
            assert_eq!(count, 1, "{version}");
        }
    }
}
