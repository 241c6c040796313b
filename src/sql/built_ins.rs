//! What PostgreSQL's own functions and views mean for routing where the catalogue does not tell, by name alone.
//!
//! The catalogue knows what is volatile; it does not know what is right on the primary only, nor which volatile functions
//! do no harm. Decided name by name for PostgreSQL 10 to 18, from `pg_proc` and the source. A name means the same in every
//! schema here: who calls a function of his own `nextval` gets the primary.

use super::class::Reason;
use super::effects::mentions;

/// Why what `name` calls belongs on the primary, whatever the catalogue says of it.
#[must_use]
pub fn function(name: &[u8]) -> Option<Reason> {
    if name.starts_with(b"pg_") {
        return own_function(name);
    }
    Some(match name {
        b"set_config" => Reason::SetConfig,
        b"nextval" | b"setval" | b"currval" | b"lastval" => Reason::Sequence,
        // they need or are a transaction id, or are of this node's counter
        b"txid_current" | b"txid_current_if_assigned" | b"txid_current_snapshot" | b"txid_status" => {
            Reason::TransactionId
        }
        // those that only read would do, but their descriptors do not tell for what they were opened
        b"lo_close" | b"lo_creat" | b"lo_create" | b"lo_export" | b"lo_from_bytea" | b"lo_get" | b"lo_import"
        | b"lo_lseek" | b"lo_lseek64" | b"lo_open" | b"lo_put" | b"lo_tell" | b"lo_tell64" | b"lo_truncate"
        | b"lo_truncate64" | b"lo_unlink" | b"loread" | b"lowrite" | b"lo_manage" => Reason::LargeObject,
        // they run the text they are given, or read the cursor or whatever else it names
        b"query_to_xml"
        | b"query_to_xmlschema"
        | b"query_to_xml_and_xmlschema"
        | b"cursor_to_xml"
        | b"cursor_to_xmlschema"
        | b"table_to_xml"
        | b"table_to_xmlschema"
        | b"table_to_xml_and_xmlschema"
        | b"schema_to_xml"
        | b"schema_to_xmlschema"
        | b"schema_to_xml_and_xmlschema"
        | b"database_to_xml"
        | b"database_to_xmlschema"
        | b"database_to_xml_and_xmlschema"
        | b"ts_stat"
        | b"ts_rewrite"
        | b"crosstab"
        | b"crosstab2"
        | b"crosstab3"
        | b"crosstab4"
        | b"crosstabn"
        | b"connectby"
        | b"xpath_table" => Reason::RunsText,
        // seeds the session's random(): its next call may be on another node
        b"setseed" => Reason::SetConfig,
        _ if name.starts_with(b"dblink") => Reason::Foreign,
        b"postgres_fdw_get_connections" | b"postgres_fdw_disconnect" | b"postgres_fdw_disconnect_all" => {
            Reason::Foreign
        }
        // indexes brought up to date, summaries thrown away
        b"brin_summarize_new_values"
        | b"brin_summarize_range"
        | b"brin_desummarize_range"
        | b"gin_clean_pending_list" => Reason::Administration,
        _ => return None,
    })
}

/// Why `sql` may do something else on a standby and say nothing: it names such a function, wherever. Bodies of `DO` and other
/// literals are not looked into.
#[must_use]
pub fn silent_on_standby(sql: &[u8]) -> Option<Reason> {
    let mut found = None;
    mentions(sql, &mut |name| {
        found = function(name).filter(|reason| reason.is_silent_on_standby());
        found.is_some()
    });
    found
}

/// The same of a text of which nobody knows what it is: words, not names.
#[must_use]
pub fn may_be_silent_on_standby(text: &[u8]) -> Option<Reason> {
    const NAMES: [&[u8]; 3] = [b"pg_advisory_", b"pg_try_advisory_", b"pg_export_snapshot"];
    let is_there = |name: &&&[u8]| text.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name));
    NAMES
        .iter()
        .find(is_there)
        .map(|name| if name.ends_with(b"snapshot") { Reason::ExportSnapshot } else { Reason::AdvisoryLock })
}

/// The same for names that begin with `pg_`.
fn own_function(name: &[u8]) -> Option<Reason> {
    let starts = |prefix: &[u8]| name.starts_with(prefix);
    Some(match name {
        _ if starts(b"pg_advisory_") || starts(b"pg_try_advisory_") => Reason::AdvisoryLock,
        b"pg_export_snapshot" => Reason::ExportSnapshot,
        b"pg_notify" => Reason::NotifyFunction,
        // the number of this session's queue of notifications
        b"pg_notification_queue_usage" | b"pg_listening_channels" => Reason::TellsOfNode,
        b"pg_current_xact_id" | b"pg_current_xact_id_if_assigned" | b"pg_current_snapshot" | b"pg_xact_status" => {
            Reason::TransactionId
        }
        b"pg_last_committed_xact" | b"pg_xact_commit_timestamp" | b"pg_xact_commit_timestamp_origin" => {
            Reason::TransactionId
        }
        b"pg_sequence_last_value" => Reason::Sequence,
        b"pg_prewarm" | b"pg_logdir_ls" | b"pg_logfile_rotate" | b"pg_rotate_logfile" | b"pg_rotate_logfile_old" => {
            Reason::Administration
        }
        // processes, configuration, WAL, backups, promotion
        b"pg_terminate_backend"
        | b"pg_cancel_backend"
        | b"pg_reload_conf"
        | b"pg_switch_wal"
        | b"pg_create_restore_point"
        | b"pg_promote"
        | b"pg_wal_replay_pause"
        | b"pg_wal_replay_resume"
        | b"pg_start_backup"
        | b"pg_stop_backup"
        | b"pg_backup_start"
        | b"pg_backup_stop"
        | b"pg_is_in_backup"
        | b"pg_backup_start_time"
        | b"pg_log_backend_memory_contexts"
        | b"pg_log_standby_snapshot"
        | b"pg_log_query_plan"
        | b"pg_import_system_collations"
        | b"pg_extension_config_dump"
        | b"pg_nextoid"
        | b"pg_stop_making_pinned_objects"
        | b"pg_read_file"
        | b"pg_read_file_old"
        | b"pg_read_binary_file"
        | b"pg_stat_file"
        | b"pg_file_write"
        | b"pg_file_sync"
        | b"pg_file_rename"
        | b"pg_file_unlink"
        | b"pg_file_read"
        | b"pg_file_length"
        | b"pg_current_logfile"
        | b"pg_hba_file_rules"
        | b"pg_ident_file_mappings"
        | b"pg_show_all_file_settings"
        | b"pg_replication_slot_advance"
        | b"pg_sync_replication_slots"
        | b"pg_truncate_visibility_map"
        | b"pg_buffercache_evict" => Reason::Administration,
        _ if starts(b"pg_ls_")
            || starts(b"pg_logical_")
            || starts(b"pg_create_")
            || starts(b"pg_copy_")
            || starts(b"pg_drop_replication_")
            || starts(b"pg_replication_origin_")
            || starts(b"pg_clear_")
            || starts(b"pg_restore_")
            || starts(b"pg_stat_reset")
            || starts(b"pg_stat_clear_")
            || starts(b"pg_stat_force_")
            || starts(b"pg_xlog_")
            || starts(b"pg_switch_")
            || starts(b"binary_upgrade_") =>
        {
            Reason::Administration
        }
        // how far this node's log has come, its processes, locks, settings, memory and statistics
        b"pg_backend_pid"
        | b"pg_blocking_pids"
        | b"pg_safe_snapshot_blocking_pids"
        | b"pg_isolation_test_session_is_blocked"
        | b"pg_conf_load_time"
        | b"pg_postmaster_start_time"
        | b"pg_lock_status"
        | b"pg_prepared_statement"
        | b"pg_prepared_xact"
        | b"pg_cursor"
        | b"pg_show_all_settings"
        | b"pg_settings_get_flags"
        | b"pg_get_backend_memory_contexts"
        | b"pg_get_process_memory_contexts"
        | b"pg_get_shmem_allocations"
        | b"pg_get_shmem_allocations_numa"
        | b"pg_get_aios"
        | b"pg_get_replication_slots"
        | b"pg_get_wal_replay_pause_state"
        | b"pg_get_wal_resource_managers"
        | b"pg_get_wal_summarizer_state"
        | b"pg_available_wal_summaries"
        | b"pg_wal_summary_contents"
        | b"pg_show_replication_origin_status"
        | b"pg_my_temp_schema"
        | b"pg_is_other_temp_schema"
        | b"pg_trigger_depth"
        | b"pg_jit_available"
        | b"pg_walfile_name"
        | b"pg_walfile_name_offset"
        | b"pg_is_wal_replay_paused" => Reason::TellsOfNode,
        _ if starts(b"pg_current_wal_")
            || starts(b"pg_control_")
            || starts(b"pg_stat_")
            || starts(b"pg_buffercache")
            || starts(b"pg_get_wal_") =>
        {
            Reason::TellsOfNode
        }
        _ => return None,
    })
}

/// Whether a function of PostgreSQL's own may run on a standby although `pg_proc` calls it volatile: these give another
/// answer at every call, or take their time, but touch nothing. Says nothing about others' functions of that name.
#[must_use]
pub fn is_harmless(name: &[u8]) -> bool {
    matches!(
        name,
        // chance and clocks
        b"random"
            | b"random_normal"
            | b"clock_timestamp"
            | b"timeofday"
            | b"gen_random_uuid"
            | b"gen_random_bytes"
            | b"gen_salt"
            | b"uuidv4"
            | b"uuidv7"
            | b"uuid_generate_v1"
            | b"uuid_generate_v1mc"
            | b"uuid_generate_v4"
            | b"pg_sleep"
            | b"pg_sleep_for"
            | b"pg_sleep_until"
            // what somebody asks for who wants a standby's own answer
            | b"pg_is_in_recovery"
            | b"pg_last_wal_replay_lsn"
            | b"pg_last_wal_receive_lsn"
            | b"pg_last_xact_replay_timestamp"
            | b"inet_server_addr"
            | b"inet_server_port"
            // files of tables, which are the same
            | b"pg_relation_size"
            | b"pg_table_size"
            | b"pg_indexes_size"
            | b"pg_total_relation_size"
            | b"pg_database_size"
            | b"pg_tablespace_size"
            // the schema's dictionary, and samples of a table
            | b"pg_get_keywords"
            | b"pg_timezone_names"
            | b"pg_tablespace_databases"
            | b"bernoulli"
            | b"system"
            // volatile only for what they may be given
            | b"pg_column_size"
            | b"pg_column_compression"
            | b"pg_collation_actual_version"
            | b"pg_database_collation_actual_version"
            | b"pg_relation_filenode"
            | b"pg_relation_filepath"
            | b"pg_size_pretty"
            | b"pg_partition_tree"
            | b"pg_partition_ancestors"
            | b"pg_input_is_valid"
            | b"pg_input_error_info"
            | b"current_query"
            | b"row_security_active"
    )
}

/// Whether what is read under this name differs from node to node: statistics, locks, settings, processes.
#[must_use]
pub fn tells_of_node(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"pg_") else { return false };
    rest.starts_with(b"stat_")
        || rest.starts_with(b"statio_")
        || rest.starts_with(b"buffercache")
        || matches!(
            rest,
            b"locks"
                | b"settings"
                | b"file_settings"
                | b"hba_file_rules"
                | b"ident_file_mappings"
                | b"cursors"
                | b"prepared_statements"
                | b"prepared_xacts"
                | b"replication_slots"
                | b"replication_origin_status"
                | b"shmem_allocations"
                | b"shmem_allocations_numa"
                | b"backend_memory_contexts"
                | b"aios"
                | b"wait_events"
                | b"show_all_settings"
                // their last_value is the sequence's
                | b"sequences"
        )
}
