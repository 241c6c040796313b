//! The primary fails.

use super::fixture::{World, name, settings};
use crate::cluster::decide::{Command, Mode, Reason};
use crate::directive::Code;
use crate::pg::Lsn;
use crate::topology::Epoch;
use std::time::Duration;

#[test]
fn a_killed_primary_is_fenced_before_anybody_is_promoted_and_comes_back_as_a_standby() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.kill("a");
    world.run(3000);
    world.shows(&[
        "store failover",
        "appoint nobody @1",
        "fence a @2",
        "freeze b @2",
        "freeze c @2",
        "store promote",
        "promote b @2",
        "appoint b @2",
        "store nothing",
        "follow a @2",
        "follow c @2",
    ]);
    world.never("promote c");
    world.is_whole("b");
    assert_eq!(world.decider.record().epoch, Epoch(2));
    let change = world.decider.record().history.last().unwrap();
    assert_eq!((change.from.as_deref(), change.to.as_ref(), change.planned), (Some("a"), "b", false));
    assert_eq!(change.lost_bytes, Some(0));
}

#[test]
fn the_old_primary_that_has_written_more_is_rewound() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("a").lsn = Lsn(10_500);
    world.report("a");
    world.kill("a");
    world.run(3000);
    world.shows(&["promote b @2", "checkpoint b @2", "follow a @2", "rewind a @2"]);
    world.is_whole("b");
    assert_eq!(world.decider.record().history.last().unwrap().lost_bytes, Some(500));
}

#[test]
fn a_primary_that_does_not_answer_is_failed_over() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("a").hung = true;
    world.run(3000);
    world.shows(&["fence a @2", "promote b @2"]);
    world.is_whole("b");
}

#[test]
fn a_primary_that_only_the_monitor_does_not_reach_stays() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("a").reachable = false;
    world.run(10_000);
    assert!(world.diary.is_empty(), "{:?}", world.diary);
    let explanation = world.decider.explain();
    assert!(explanation.nodes[0].note.as_ref().unwrap().contains("too many connections, or the network"));
}

#[test]
fn without_its_agent_nothing_is_proven_and_nobody_is_promoted_until_somebody_vouches() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.machine_dies("a");
    world.run(30_000);
    world.never("promote");
    world.never("fence");
    assert_eq!((world.state().as_str(), world.blocked()), ("suspecting", vec![Reason::NoProof]));
    assert_eq!(world.failover(None), Err(Reason::NoProof));
    assert_eq!(world.failover(Some("b")), Err(Reason::WrongRole));
    world.failover(Some("a")).unwrap();
    world.run(15_000);
    world.shows(&["store failover", "freeze b @2", "promote b @2", "appoint b @2"]);
    // its machine comes back, with an old primary on it
    world.node("a").running = true;
    world.node("a").reachable = true;
    world.agent_returns("a");
    world.run(5000);
    world.shows(&["fence a @2", "follow a @2"]);
    world.is_whole("b");
}

#[test]
fn nobody_vouches_for_a_node_that_somebody_sees() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.agent_dies("a");
    world.run(3000);
    assert_eq!(world.failover(Some("a")), Err(Reason::PrimaryLives), "the monitor reaches it");
    world.node("a").reachable = false;
    for _ in 0..5 {
        world.node("a").lsn.0 += 10;
        world.run(1000);
    }
    assert_eq!(world.blocked(), vec![Reason::PrimaryLives], "standbys still receive");
    assert_eq!(world.failover(Some("a")), Err(Reason::PrimaryLives));
    world.never("promote");
}

#[test]
fn an_agent_that_comes_back_ends_the_doubt() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("a").reachable = false;
    world.agent_dies("a");
    world.run(5000);
    world.node("a").running = false;
    world.run(5000);
    world.never("promote");
    world.agent_returns("a");
    world.run(3000);
    world.shows(&["fence a @2", "promote b @2", "follow a @2"]);
    world.is_whole("b");
}

/// F16.
#[test]
fn a_stale_standby_is_not_promoted_though_it_has_replayed_all_it_received() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("c").follows = None;
    world.node("a").lsn = Lsn(50_000);
    world.node("c").fails = (0..90).map(|_| ("follow", Code::Unreachable)).collect();
    world.run(2000);
    world.machine_dies("b");
    world.kill("a");
    world.run(3000);
    world.never("promote");
    assert!(world.state() == "restarting" || world.state() == "steady");
    world.run(5000);
    // nobody else may: it is started again where it was
    world.shows(&["restart a @1", "store nothing"]);
    assert_eq!(world.appointed.as_ref().unwrap().primary.as_deref(), Some("a"));
}

#[test]
fn the_furthest_standby_wins_and_the_loss_is_what_the_operator_accepts() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("b").follows = None;
    world.node("b").fails = (0..90).map(|_| ("follow", Code::Unreachable)).collect();
    world.node("a").lsn = Lsn(10_400);
    world.run(1000);
    world.kill("a");
    world.run(1000);
    world.shows(&["promote c @2"]);
}

#[test]
fn a_fence_without_proof_promotes_nobody() {
    let mut world = World::steady(&["a", "b"]);
    world.node("a").wrong = Some("fence");
    world.kill("a");
    world.run(20_000);
    world.never("promote");
    assert!(world.blocked().contains(&Reason::NoProof));
    world.node("a").wrong = None;
    world.run(10_000);
    world.is_whole("b");
}

#[test]
fn a_quick_restart_is_preferred_and_a_failover_follows_when_it_fails() {
    let mut settings = settings(&["a", "b", "c"]);
    settings.restart_if = Duration::from_secs(2);
    let mut world = World::with(settings.clone()).settled();
    world.kill("a");
    world.run(1000);
    world.shows(&["store restart_in_place", "restart a @1", "store nothing"]);
    world.never("appoint nobody");
    world.is_whole("a");

    let mut world = World::with(settings.clone()).settled();
    world.node("a").fails = vec![("restart", Code::Program)];
    world.kill("a");
    world.run(3000);
    world.shows(&["restart a @1", "store failover", "fence a @2", "promote b @2"]);
    world.is_whole("b");

    let mut world = World::with(settings).settled();
    world.node("a").recovery_bytes = Some(1 << 30);
    world.report("a");
    world.kill("a");
    world.run(3000);
    world.never("restart");
    world.is_whole("b");
}

#[test]
fn a_primary_whose_timeline_nobody_has_heard_of_is_copied_anew_when_its_number_is_taken_again() {
    let mut world = World::steady(&["a", "b", "c"]);
    for node in ["a", "c"] {
        world.node(node).fails = (0..90).map(|_| ("follow", Code::Unreachable)).collect();
    }
    world.kill("a");
    world.run(3000);
    assert_eq!(world.decider.record().primary.as_deref(), Some("b"));
    let first = world.decider.record().timeline;
    world.kill("b");
    world.run(5000);
    let record = world.decider.record();
    let seen = world.diary.join("\n");
    assert_eq!(
        (record.primary.as_deref(), record.timeline),
        (Some("c"), first),
        "one number for two timelines: {seen}"
    );
    world.never("rewind b");
    for node in ["a", "c"] {
        world.node(node).fails.clear();
    }
    world.run(60_000);
    world.shows(&["promote b @2", "promote c @3", "rebuild b @3"]);
    world.never("rewind b");
}

#[test]
fn a_promotion_that_fails_is_followed_by_another_under_a_new_epoch() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("b").fails = vec![("promote", Code::Program), ("promote", Code::Program)];
    world.kill("a");
    world.run(5000);
    // the loser promises to stay a standby, under an epoch that no old order has
    world.shows(&[
        "promote b @2",
        "store failover",
        "freeze b @3",
        "promote b @3",
        "freeze b @4",
        "promote c @4",
        "appoint c @4",
    ]);
    world.is_whole("c");
    assert_eq!(world.decider.record().history.last().unwrap().from.as_deref(), Some("a"));
}

#[test]
fn a_candidate_that_is_lost_while_it_is_promoted_has_to_be_proven_off() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("b").hangs = Some("promote");
    world.kill("a");
    world.run(1000);
    assert_eq!(world.state(), "promoting");
    world.machine_dies("b");
    world.run(60_000);
    world.never("promote c");
    assert_eq!(world.blocked(), vec![Reason::NoProof]);
    world.failover(Some("b")).unwrap();
    world.run(15_000);
    world.shows(&["promote b @2", "freeze c @3", "promote c @3", "appoint c @3"]);
}

#[test]
fn a_new_primary_that_dies_at_once_is_followed_by_the_next() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.kill("a");
    world.until("steady");
    world.kill("b");
    world.run(10_000);
    // the second within ten minutes waits for two seconds of failing
    world.shows(&["promote b @2", "fence b @3", "promote c @3"]);
    assert_eq!(world.state(), "steady");
    assert_eq!(world.decider.record().epoch, Epoch(3));
}

#[test]
fn the_third_failover_within_ten_minutes_needs_an_operator() {
    let mut settings = settings(&["a", "b", "c", "d"]);
    settings.restart_if = Duration::ZERO;
    let mut world = World::with(settings).settled();
    for _ in 0..2 {
        let primary = world.appointed.clone().unwrap().primary.unwrap();
        world.kill(&primary);
        world.run(20_000);
    }
    assert_eq!(world.decider.record().epoch, Epoch(3));
    let primary = world.appointed.clone().unwrap().primary.unwrap();
    world.node(&primary).hung = true;
    world.run(20_000);
    assert_eq!((world.decider.record().epoch, world.blocked()), (Epoch(3), vec![Reason::Flapping]));
    world.failover(None).unwrap();
    world.run(5000);
    assert_eq!((world.decider.record().epoch, world.state().as_str()), (Epoch(4), "steady"));
}

#[test]
fn pause_keeps_hands_off_and_resume_goes_on() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.ask(Command::Pause).unwrap();
    world.kill("a");
    world.node("c").follows = None;
    world.run(20_000);
    assert_eq!(world.diary, ["store nothing"]);
    assert_eq!(world.blocked(), vec![Reason::Paused]);
    world.ask(Command::Resume).unwrap();
    world.run(5000);
    world.is_whole("b");
}

#[test]
fn in_manual_mode_somebody_has_to_say_so() {
    let mut settings = settings(&["a", "b", "c"]);
    settings.mode = Mode::Manual;
    let mut world = World::with(settings).settled();
    world.node("a").hung = true;
    world.run(20_000);
    world.never("fence");
    assert_eq!(world.blocked(), vec![Reason::Manual]);
    world.failover(None).unwrap();
    world.run(5000);
    world.is_whole("b");
}

#[test]
fn in_observe_mode_nothing_goes_out_but_refusals() {
    let mut settings = settings(&["a", "b", "c"]);
    settings.mode = Mode::Observe;
    let mut world = World::with(settings);
    world.run(5000);
    assert_eq!(world.failover(None), Err(Reason::NotManaged));
    world.kill("a");
    world.run(20_000);
    assert_eq!((world.outputs, world.state().as_str()), (1, "observing"));
}

#[test]
fn a_second_node_that_accepts_writes_is_fenced_and_the_appointed_one_stays() {
    let mut world = World::steady(&["a", "b", "c"]);
    let c = world.node("c");
    c.history.forks.push((c.history.timeline, c.lsn));
    c.history.timeline.0 += 1;
    (c.primary, c.latched, c.follows, c.lsn) = (true, false, None, Lsn(10_500));
    world.run(5000);
    world.shows(&["fence c @1", "follow c @1", "checkpoint a @1", "rewind c @1"]);
    world.never("appoint");
    world.is_whole("a");
}

#[test]
fn every_standby_rejected_is_told_with_its_own_reason() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.ask(Command::Detach { node: name("b") }).unwrap();
    world.machine_dies("c");
    world.node("a").hung = true;
    world.run(5000);
    assert_eq!(world.blocked(), vec![Reason::NoCandidate, Reason::Detached, Reason::Unreachable]);
    world.never("fence");
}

#[test]
fn a_record_that_cannot_be_stored_is_followed_by_nothing() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.store_fails = true;
    world.kill("a");
    world.run(10_000);
    assert!(world.diary.is_empty(), "{:?}", world.diary);
    assert!(world.blocked().contains(&Reason::StoreFailed));
    world.store_fails = false;
    world.run(5000);
    world.is_whole("b");
}

#[test]
fn the_daemon_may_die_at_each_record_and_goes_on_where_it_was() {
    for at in ["failover", "promote"] {
        let mut world = World::steady(&["a", "b", "c"]);
        world.dies_at = Some(at);
        world.kill("a");
        world.run(10_000);
        world.shows(&["daemon restarts", "promote b @2", "appoint b @2"]);
        assert_eq!(world.count("promote"), 1, "{at}");
        world.is_whole("b");
    }
    let mut settings = settings(&["a", "b", "c"]);
    settings.restart_if = Duration::from_secs(2);
    let mut world = World::with(settings).settled();
    world.dies_at = Some("restart");
    world.kill("a");
    world.run(10_000);
    world.shows(&["daemon restarts", "restart a @1"]);
    world.is_whole("a");
}

#[test]
fn a_primary_that_recovers_by_itself_is_given_time() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("a").recovering = true;
    world.run(2000);
    assert_eq!((world.state().as_str(), world.blocked()), ("suspecting", vec![Reason::PrimaryLives]));
    world.node("a").recovering = false;
    world.run(1000);
    assert!(world.diary.is_empty(), "{:?}", world.diary);
    assert_eq!(world.state(), "steady");
    world.node("a").recovering = true;
    world.run(10_000);
    world.shows(&["fence a @2", "promote b @2"]);
}
