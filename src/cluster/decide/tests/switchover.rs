//! The planned change.

use std::time::Duration;

use super::fixture::{World, name, settings};
use crate::cluster::decide::{Command, Input, OnOpen, Reason};
use crate::directive::Code;
use crate::pg::Lsn;
use crate::topology::Epoch;

#[test]
fn a_switchover_holds_stops_verifies_and_promotes_and_the_old_primary_follows_without_a_rewind() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.switchover("c").unwrap();
    world.run(3000);
    world.shows(&[
        "store switchover",
        "checkpoint a @1",
        "checkpoint c @1",
        "appoint a @1, held",
        "store switchover",
        "demote a @2",
        "store promote",
        "promote c @2",
        "appoint c @2",
        "follow b @2",
    ]);
    world.shows(&["appoint c @2", "follow a @2"]);
    world.never("rewind");
    world.never("fence");
    world.is_whole("c");
    let change = world.decider.record().history.last().unwrap();
    assert_eq!((change.planned, change.lost_bytes), (true, Some(0)));
}

#[test]
fn transactions_that_stay_open_abort_it_or_are_ended() {
    let mut world = World::steady(&["a", "b"]);
    world.open = 3;
    world.switchover("b").unwrap();
    world.run(5000);
    world.shows(&["appoint a @1, held", "appoint a @1", "store nothing"]);
    world.never("demote");
    world.is_whole("a");

    let mut settings = settings(&["a", "b"]);
    settings.on_open = OnOpen::Kill;
    let mut world = World::with(settings).settled();
    world.open = 3;
    world.switchover("b").unwrap();
    world.run(5000);
    world.shows(&["appoint a @1, held", "demote a @2", "appoint b @2"]);
    world.is_whole("b");
}

#[test]
fn a_candidate_that_has_not_replayed_the_end_is_not_promoted_and_the_old_primary_goes_on_under_a_new_epoch() {
    let mut world = World::steady(&["a", "b"]);
    world.node("a").wrong = Some("demote");
    world.switchover("b").unwrap();
    world.run(12_000);
    world.shows(&["demote a @2", "store restart_in_place", "restart a @3", "appoint a @3"]);
    world.never("promote");
    world.is_whole("a");
}

#[test]
fn a_stop_that_fails_ends_on_the_old_primary() {
    let mut world = World::steady(&["a", "b"]);
    world.node("a").fails = vec![("demote", Code::TimedOut)];
    world.switchover("b").unwrap();
    world.run(5000);
    world.shows(&["demote a @2", "store nothing", "appoint a @3", "checkpoint a @3"]);
    world.never("restart");
    world.is_whole("a");
}

#[test]
fn a_promotion_that_fails_ends_on_the_old_primary() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("b").fails = vec![("promote", Code::Program)];
    world.switchover("b").unwrap();
    world.run(10_000);
    world.shows(&["demote a @2", "promote b @2", "store failover", "freeze b @3", "restart a @4", "appoint a @4"]);
    world.is_whole("a");
    assert!(world.decider.record().history.is_empty());
}

#[test]
fn a_primary_that_dies_while_it_drains_is_failed_over() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.open = 3;
    world.switchover("b").unwrap();
    world.run(500);
    assert_eq!(world.state(), "draining");
    world.kill("a");
    world.run(5000);
    world.shows(&["appoint a @1, held", "appoint nobody @1", "fence a @2", "promote b @2"]);
    world.is_whole("b");
}

#[test]
fn what_is_not_safe_is_refused_with_a_reason_and_changes_nothing() {
    let mut world = World::steady(&["a", "b", "c"]);
    assert_eq!(world.switchover("a"), Err(Reason::WrongRole));
    assert_eq!(world.switchover("x"), Err(Reason::UnknownNode));
    world.node("b").follows = None;
    world.report("b");
    assert_eq!(world.switchover("b"), Err(Reason::Lagging));
    world.agent_dies("c");
    assert_eq!(world.switchover("c"), Err(Reason::Unreachable));
    assert_eq!(world.ask(Command::Switchover { to: None }), Err(Reason::NoCandidate));
    assert!(world.diary.is_empty(), "{:?}", world.diary);
    world.agent_returns("c");
    world.switchover("c").unwrap();
    assert_eq!(world.switchover("c"), Err(if world.state() == "steady" { Reason::WrongRole } else { Reason::Busy }));
}

#[test]
fn a_changed_configuration_is_a_switchover_tried_once() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.settings.declared = Some(name("b"));
    let changed = world.settings.clone();
    world.input(Input::Settings(changed));
    world.run(5000);
    world.shows(&["store switchover", "appoint b @2"]);
    world.is_whole("b");

    let mut world = World::steady(&["a", "b", "c"]);
    world.machine_dies("b");
    world.settings.declared = Some(name("b"));
    let changed = world.settings.clone();
    world.input(Input::Settings(changed));
    world.run(5000);
    world.never("demote");
    assert_eq!(world.blocked(), vec![Reason::Unreachable]);
    world.node("b").running = true;
    world.agent_returns("b");
    world.run(20_000);
    world.never("demote");
    world.is_whole("a");
}

#[test]
fn the_daemon_may_die_before_and_after_the_stop() {
    let mut world = World::steady(&["a", "b"]);
    world.dies_at = Some("switchover");
    world.switchover_without_answer("b");
    world.run(10_000);
    world.shows(&["store switchover", "daemon restarts", "store nothing", "appoint a @1"]);
    world.never("demote");
    world.is_whole("a");

    for at in ["stopping", "promote"] {
        let mut world = World::steady(&["a", "b"]);
        world.dies_at = Some(at);
        world.switchover_without_answer("b");
        world.run(10_000);
        world.shows(&["daemon restarts", "appoint nobody @1", "promote b @2", "appoint b @2"]);
        assert_eq!(world.count("demote"), 1);
        world.is_whole("b");
    }
}

#[test]
fn a_lag_that_would_be_fine_for_a_failover_is_fine_here_while_it_streams() {
    let mut world = World::steady(&["a", "b"]);
    world.node("a").lsn = Lsn(10_000 + (8 << 20));
    world.switchover("b").unwrap();
    world.run(5000);
    world.is_whole("b");
    assert_eq!(world.decider.record().epoch, Epoch(2));
    assert!(Duration::from_millis(world.decider.record().history[0].took_ms) < Duration::from_secs(1));
}
