//! Which test shows what: the faults and the checks of the groundwork for failover, by their numbers there. The last column: which
//! mechanism was taken away by hand, once, to see the test fail; – where nobody has.
//!
//! | | what must hold | where | seen to fail when |
//! |---|---|---|---|
//! | F01 | SIGKILL of the postmaster | `failover_runs::clients_keep_their_connections_and_go_on_elsewhere_when_the_postmaster_is_killed` | – |
//! | F02 | with a pipelining client and a committing procedure | `failover_runs::orphans_of_the_postmaster_are_gone_before_another_primary_acknowledges_anything` | – |
//! | F03 | SIGKILL of one server process | `faults::a_killed_server_process_is_a_crash_restart_and_no_failover` | – |
//! | F04 | SIGSTOP of the postmaster | `failover_runs::a_postmaster_that_is_stopped_is_replaced` | – |
//! | F04 | of all server processes; of a walsender alone | `faults::a_frozen_walsender_is_no_failure_of_the_primary_and_all_frozen_processes_are` | – |
//! | F11 | the daemon is killed, at each recorded intent | `intents::the_daemon_is_killed_at_each_recorded_intent_and_its_next_life_goes_on` | – |
//! | F13 | agents are killed | `faults::an_agent_is_killed_at_any_moment_of_a_failover_and_all_is_well_in_the_end` | – |
//! | F13 | between any two steps of any job | `agent_jobs::whatever_fails_in_a_job_on_a_standby_it_is_completed_or_as_it_was` | nothing is undone |
//! | F14 | the new primary dies too | `faults::the_new_primary_dies_too` | – |
//! | F16 | only a stale standby is left | `faults::a_standby_that_lacks_too_much_is_not_promoted_however_sure_it_is_of_itself` | candidates are not judged |
//! | F17 | a promotion hangs | `faults::a_promotion_that_hangs_is_given_up_and_another_is_promoted_that_the_first_one_never_meets` | – |
//! | F18 | no room for the coordinator's record | `full_disks::without_room_for_the_coordinators_record_nothing_is_decided_and_with_room_it_goes_on` | – |
//! | F18 | no room for agents' journals | `full_disks::without_room_for_its_journal_an_agent_does_nothing_but_fence_and_others_are_promoted` | – |
//! | F18 | no room for data, in the middle of a copy | `full_disks::a_disk_that_fills_up_during_a_copy_costs_the_copy_and_not_the_data` | – |
//! | F21 | a rewind is killed half way, fails, hangs | `failover::a_rewind_that_is_killed_half_way_is_tried_again_and_then_copied` | – |
//! | F22 | no room for a copy | `failover::a_copy_that_has_no_room_is_refused_and_the_old_data_stays` | room is not looked at |
//! | F23 | slots | `failover::every_member_has_a_slot_wherever_the_primary_is_and_a_users_slot_is_nobodys_business` | no slot is made |
//! | F27 | somebody promotes by hand | `faults::a_standby_that_somebody_promotes_by_hand_is_fenced_and_gets_no_clients` | – |
//! | fence | nothing is left, nothing is committed, read-only: again and again | `fencing::after_the_proof_nothing_is_left_nothing_is_committed_and_whoever_starts_it_starts_it_read_only` | there is no latch |
//! | fence | PostgreSQL started by hand after it | `faults::postgresql_started_by_hand_after_the_fence_comes_up_read_only` | there is no latch |
//! | proof | the agent never comes back | `faults::without_proof_of_the_fence_nothing_is_promoted_and_the_status_names_what_is_missing` | – |
//! | S0-1 | a chosen standby is promoted | `failover::an_operator_moves_the_primary_and_the_others_follow_without_a_restart` | the node that was asked for is ignored; who follows is restarted |
//! | S0-2 | steps begin and end, in order | `failover::the_fence_is_proven_before_anybody_is_promoted` | the promotion waits for no fence |
//! | S0-3 | an agent is all it takes | `agent_jobs::a_failover_by_hand_leaves_every_node_streaming_from_the_new_primary` | there is no latch |
//! | S0-4 | a former primary becomes a standby, its data kept | `failover::a_node_that_cannot_be_rewound_is_copied_anew_and_its_old_data_is_kept` | the old directory is removed with the swap |
//! | S0-5 | the others follow without a restart | `failover::an_operator_moves_the_primary_and_the_others_follow_without_a_restart` | the node that was asked for is ignored; who follows is restarted |
//! | S0-6 | a job outlives its agent | `agent::a_job_in_the_middle_of_which_the_agent_dies_is_undone_by_the_next` | the next life takes up no job |
//! | S0-7 | undone in reverse, to the byte | `agent_jobs::whatever_fails_in_a_job_on_a_primary_it_is_completed_or_as_it_was` | nothing is undone |
//! | S0-8 | whatever fails, the role is what it was | `agent_jobs::whatever_fails_in_a_rewind_or_a_rebuild_it_is_completed_or_as_it_was` | nothing is undone |
//! | S0-9 | undone after the old primary was stopped | `failover::a_switchover_whose_standby_never_replays_the_end_ends_on_the_old_primary` | nobody looks at the replay |
//! | S0-10 | former data within bounds | `failover::a_rebuilt_standby_follows_again_and_its_former_data_is_kept_within_the_bounds` | nothing is ever removed |
//! | S0-11 | programs and data directory are found, or what is missing is said | `agent::an_agent_refuses_to_begin_where_it_could_not_do_its_work` | nobody looks for the owner and the programs |
//! | S0-12 | refusals with a reason | `failover::what_cannot_be_is_refused_with_a_reason_and_changes_nothing` | – |
//! | S0-13 | who may change something | `operate::tokens_say_who_may_look_and_who_may_change` | every token will do |
//! | S0-14 | each run is counted once | `operate::the_primary_is_moved_from_the_command_line_and_the_books_are_right` | a run counts twice |
//! | S1-1 | blips are no failure | `faults::a_hundred_short_silences_are_no_failure` | – |
//! | S1-2 | health checks by interval, timeout and threshold | `health::how_soon_a_silent_node_is_known_follows_interval_timeout_and_threshold_at_each_reload` | – |
//! | S1-3 | the furthest is promoted | `failover::the_standby_that_has_received_most_is_promoted` | the one that is least far is chosen |
//! | S1-4 | writes and reads afterwards | `failover::after_a_failover_no_write_reaches_a_standby_and_reads_spread_over_all_of_them` | – |
//! | S1-5 | spread | `routing::sessions_spread_over_the_standbys_by_weight` | – |
//! | S2-2 | orders of older epochs | `failover::an_order_of_an_older_epoch_is_refused_and_changes_nothing` | no epoch is too old |
//! | S2-3 | the fence before the promotion | `failover::the_fence_is_proven_before_anybody_is_promoted` | the promotion waits for no fence |
//! | S2-4 | a program that hangs | `failover::a_program_that_hangs_ends_its_job_at_the_limit` | steps have no limit |
//! | S2-6 | a switchover under load | `failover_runs::a_switchover_under_load_is_seen_by_nobody_and_needs_no_rewind` | – |
//! | S2-12 | slots of nobody | `failover::every_member_has_a_slot_wherever_the_primary_is_and_a_users_slot_is_nobodys_business` | no slot is made |
//! | S3-1 | a failover within its bound | `failover_runs::clients_keep_their_connections_and_go_on_elsewhere_when_the_postmaster_is_killed` | – |
//! | S4-1 | not ready without a primary, ready without replicas | `shutdown::without_any_server_it_starts_says_what_is_missing_and_serves_once_there_is_one` | – |
//! | S4-2 | who comes back gets reads | `standbys::standbys_come_and_go_by_lag_by_crashes_and_by_death_and_a_broken_monitor_connection_is_no_outage` | – |
//! | S4-3 | who comes and goes | `standbys::standbys_come_and_go_by_lag_by_crashes_and_by_death_and_a_broken_monitor_connection_is_no_outage` | – |
//! | S4-4 | a declared primary | `failover::a_declared_primary_becomes_the_primary_when_the_configuration_says_so` | a changed primary is ignored |
//! | S4-5 | a former primary comes back | `failover::a_node_that_cannot_be_rewound_is_copied_anew_and_its_old_data_is_kept` | the old directory is removed with the swap |
//! | S4-6 | traffic resumes | `failover_runs::clients_keep_their_connections_and_go_on_elsewhere_when_the_postmaster_is_killed` | – |
//! | S4-7 | commands for single nodes | `operate::maintenance_and_single_nodes_are_operated_from_the_command_line` | – |
//! | bad input | older epochs, other coordinators | `failover::an_order_of_an_older_epoch_is_refused_and_changes_nothing` | no epoch is too old |
//! | bad input | unknown nodes, other roles | `failover::what_cannot_be_is_refused_with_a_reason_and_changes_nothing` | – |
//! | bad input | wrong tokens | `operate::tokens_say_who_may_look_and_who_may_change` | every token will do |
//! | bad input | oversized and malformed bodies, other nodes | `agent::bad_requests_are_refused_with_their_reason_and_the_agent_goes_on` | – |
//! | bad input | a second job on a busy node | `agent::a_fence_waits_for_no_job` | – |
//! | bad input | another system's data | `agent_jobs::a_rebuild_that_cannot_end_leaves_the_old_directory_and_says_why` | the other's system identifier is not compared |
//! | bad input | missing rights | `agent::an_agent_refuses_to_begin_where_it_could_not_do_its_work` | nobody looks for the owner and the programs |
//! | bad input | PostgreSQL started by hand at the wrong moment | `faults::postgresql_started_by_hand_after_the_fence_comes_up_read_only` | there is no latch |

use std::path::Path;

#[test]
fn every_test_that_the_index_names_is_there() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut rows = 0;
    for row in include_str!("failover_index.rs").lines().filter(|line| line.starts_with("//! |") && line.contains("::"))
    {
        let named = row.rsplit('`').nth(1).unwrap();
        let (module, test) = named.rsplit_once("::").unwrap();
        let mut files = vec![tests.join(format!("{module}.rs"))];
        files.extend(std::fs::read_dir(tests.join(module)).into_iter().flatten().map(|entry| entry.unwrap().path()));
        let found = files
            .iter()
            .any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {test}()"))));
        assert!(found, "{named}");
        rows += 1;
    }
    assert!(rows > 30, "{rows}");
}
