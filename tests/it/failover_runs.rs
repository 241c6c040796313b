//! What `make failover-bench` measures, five times each: that it happens at all, that nothing is there twice, and that the old
//! primary comes back. The bounds are those of liveness on a busy machine; how fast it is stands in docs/performance.md.

use std::time::Duration;

use crate::support::drill::{Blow, Outcome, Series, prepare};
use crate::support::managed::managed;

/// Of each.
const RUNS: usize = 5;

#[track_caller]
fn play(blow: Blow, check: impl Fn(&Outcome)) {
    // a busy machine may take longer than usual to finish what is open
    let patient = "[clusters.main.switchover]\nhold_timeout = \"50s\"\ndrain_timeout = \"40s\"";
    let mut managed = managed().failover("restart_if = \"0\"").extra(patient).start();
    prepare(&managed);
    let series = Series::play(&mut managed, blow, RUNS, |outcome| {
        let seen = format!("{blow:?}: {outcome:?}");
        assert!(outcome.faults(blow).is_empty(), "{:?}: {seen}", outcome.faults(blow));
        check(outcome);
    });
    println!("{series}");
}

#[test]
fn clients_keep_their_connections_and_go_on_elsewhere_when_the_postmaster_is_killed() {
    play(Blow::Kill, |outcome| assert!(outcome.first < Duration::from_secs(20), "{outcome:?}"));
}

#[test]
fn orphans_of_the_postmaster_are_gone_before_another_primary_acknowledges_anything() {
    play(Blow::KillWithOrphans, |outcome| assert!(outcome.first < Duration::from_secs(20), "{outcome:?}"));
}

#[test]
fn a_postmaster_that_is_stopped_is_replaced() {
    play(Blow::Stop, |outcome| assert!(outcome.first < Duration::from_secs(40), "{outcome:?}"));
}

#[test]
fn an_agent_that_dies_with_its_postmaster_is_waited_for_and_then_there_is_another_primary() {
    play(Blow::KillWithAgent, |outcome| assert!(outcome.first < Duration::from_secs(30), "{outcome:?}"));
}

#[test]
fn a_switchover_under_load_is_seen_by_nobody_and_needs_no_rewind() {
    play(Blow::Switchover, |outcome| assert!(outcome.pgbench.is_some(), "{outcome:?}"));
}
