//! Standbys, slots, and what people ask for.

use super::fixture::{World, name};
use crate::cluster::decide::{Aside, Command, Input, Reason};
use crate::directive::Code;
use crate::pg::SystemIdentifier;
use crate::topology::Epoch;

fn diverged(fails: &[(&'static str, Code)]) -> World {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("a").lsn.0 += 300;
    world.node("a").fails = fails.to_vec();
    world.kill("a");
    world.run(120_000);
    world
}

#[test]
fn a_rewind_that_fails_twice_becomes_a_rebuild() {
    let world = diverged(&[("rewind", Code::Program), ("rewind", Code::Program)]);
    world.shows(&["follow a @2", "rewind a @2", "rewind a @2", "rebuild a @2"]);
    world.is_whole("b");
}

#[test]
fn a_rewind_that_is_impossible_is_not_tried_again() {
    let world = diverged(&[("rewind", Code::RewindImpossible)]);
    assert_eq!((world.count("rewind"), world.count("rebuild")), (1, 1));
    world.is_whole("b");
}

#[test]
fn what_cannot_be_reached_does_not_count() {
    let world =
        diverged(&[("rewind", Code::Unreachable), ("rewind", Code::Unreachable), ("rewind", Code::Unreachable)]);
    assert_eq!((world.count("rewind"), world.count("rebuild")), (4, 0));
    world.is_whole("b");
}

#[test]
fn the_ladder_ends_in_quarantine_until_somebody_attaches() {
    let mut world =
        diverged(&[("rewind", Code::RewindImpossible), ("rebuild", Code::DiskFull), ("rebuild", Code::DiskFull)]);
    let aside = world.decider.record().aside.get("a").cloned();
    assert_eq!(aside, Some(Aside::Quarantined { why: "rebuild: DiskFull".into() }));
    let (orders, explanation) = (world.count("re"), world.decider.explain());
    assert_eq!(explanation.nodes[0].state, "quarantined");
    world.run(120_000);
    assert_eq!(world.count("re"), orders, "never a loop");
    world.ask(Command::Attach { node: name("a") }).unwrap();
    world.run(10_000);
    world.is_whole("b");
}

#[test]
fn a_standby_that_was_stopped_is_attached_again_with_its_slot_made_first() {
    let mut world = World::steady(&["a", "b"]);
    world.node("a").slots.clear();
    world.node("b").running = false;
    world.run(10_000);
    world.shows(&["configure a @1", "follow b @1"]);
    world.is_whole("a");
}

#[test]
fn a_lost_slot_is_made_anew_and_its_standby_rebuilt() {
    let mut world = World::steady(&["a", "b"]);
    world.node("a").lost.insert("howdah_b".into());
    world.node("b").follows = None;
    world.run(40_000);
    world.shows(&["configure a @1", "configure a @1", "rebuild b @1"]);
    world.never("follow");
    world.is_whole("a");
}

#[test]
fn the_log_that_slots_keep_is_bounded_unless_somebody_has_bounded_it() {
    let mut world = World::steady(&["a", "b"]);
    world.run(10_000);
    assert!(world.diary.is_empty(), "{:?}", world.diary);
    world.node("a").slot_bound = None;
    world.run(10_000);
    world.shows(&["configure a @1"]);
    assert_eq!(world.nodes["a"].slot_bound.as_deref(), Some("16384MB"));
}

#[test]
fn slots_of_nodes_that_are_gone_are_dropped_after_an_hour_and_nobody_elses_ever() {
    let mut world = World::steady(&["a", "b"]);
    world.node("a").slots.extend(["howdah_x".to_owned(), "users_own".to_owned()]);
    world.run(3_500_000);
    assert!(world.nodes["a"].slots.contains("howdah_x"));
    world.run(200_000);
    let slots: Vec<&str> = world.nodes["a"].slots.iter().map(String::as_str).collect();
    assert_eq!(slots, ["howdah_b", "users_own"]);
}

#[test]
fn a_node_of_another_cluster_is_left_alone() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("c").system = SystemIdentifier(7);
    world.node("c").follows = None;
    world.run(20_000);
    assert!(world.diary.is_empty(), "{:?}", world.diary);
    assert_eq!(world.blocked(), vec![Reason::OtherHistory]);
}

#[test]
fn what_is_detached_is_left_alone_until_it_is_attached() {
    let mut world = World::steady(&["a", "b", "c"]);
    assert_eq!(world.ask(Command::Detach { node: name("a") }), Err(Reason::WrongRole));
    world.ask(Command::Detach { node: name("c") }).unwrap();
    world.node("c").follows = None;
    world.run(20_000);
    assert_eq!(world.diary, ["store nothing"]);
    world.ask(Command::Attach { node: name("c") }).unwrap();
    world.run(10_000);
    world.is_whole("a");
}

#[test]
fn a_fence_by_command_lasts_until_it_is_taken_back() {
    let mut world = World::steady(&["a", "b", "c"]);
    assert_eq!(world.ask(Command::Fence { node: name("a") }), Err(Reason::WrongRole));
    world.ask(Command::Fence { node: name("c") }).unwrap();
    world.run(20_000);
    world.shows(&["store nothing", "fence c @1"]);
    assert_eq!((world.diary.len(), world.nodes["c"].running), (2, false));
    assert_eq!(world.ask(Command::Attach { node: name("c") }), Err(Reason::Detached));
    world.ask(Command::Unfence { node: name("c") }).unwrap();
    world.run(10_000);
    world.is_whole("a");
    // the primary: only while paused; what follows when that ends is a failover
    world.ask(Command::Pause).unwrap();
    world.ask(Command::Fence { node: name("a") }).unwrap();
    world.run(5000);
    assert_eq!((world.nodes["a"].running, world.count("promote")), (false, 0));
    world.ask(Command::Resume).unwrap();
    world.run(5000);
    assert_eq!((world.decider.record().primary.as_deref(), world.nodes["a"].running), (Some("b"), false));
}

#[test]
fn rebuild_and_restart_do_what_they_say() {
    let mut world = World::steady(&["a", "b", "c"]);
    assert_eq!(world.ask(Command::Rebuild { node: name("a") }), Err(Reason::WrongRole));
    let accepted = world.ask(Command::Rebuild { node: name("b") }).unwrap();
    assert!(world.nodes["b"].jobs.contains_key(&accepted.id));
    world.run(1000);
    world.ask(Command::Restart { node: name("b") }).unwrap();
    world.run(1000);
    let accepted = world.ask(Command::Restart { node: name("a") }).unwrap();
    assert!(world.nodes["a"].jobs.contains_key(&accepted.id));
    world.run(5000);
    world.shows(&["rebuild b @1", "restart b @1", "restart a @1"]);
    world.is_whole("a");
}

#[test]
fn an_empty_record_takes_the_epoch_of_the_agents_and_goes_above_it() {
    let mut world = World::new(&["a", "b", "c"]);
    world.node("b").epoch = Epoch(17);
    world.node("b").coordinator = "somebody before".into();
    world.run(2000);
    assert_eq!((world.decider.record().epoch, world.decider.record().primary.as_deref()), (Epoch(18), Some("a")));
    world.is_whole("a");
}

#[test]
fn an_empty_record_waits_for_everybody_but_not_for_ever_and_never_for_want_of_a_primary() {
    let mut world = World::new(&["a", "b", "c"]);
    world.agent_dies("c");
    world.run(3000);
    assert_eq!(world.state(), "starting");
    assert_eq!(world.failover(None), Err(Reason::NoPrimary));
    world.run(3000);
    assert_eq!(world.state(), "steady");
    let mut world = World::new(&["a", "b", "c"]);
    world.node("a").running = false;
    world.node("a").latched = true;
    world.run(30_000);
    assert_eq!((world.state().as_str(), world.blocked()), ("starting", vec![Reason::NoPrimary]), "somebody else's");
    assert_eq!(world.diary, ["appoint nobody @0"]);
}

#[test]
fn a_cluster_that_is_down_is_started_when_the_record_is_lost_too() {
    let mut world = World::new(&["a", "b", "c"]);
    world.node("a").running = false;
    world.run(5000);
    world.shows(&["store restart_in_place", "restart a @1", "appoint a @1"]);
    world.is_whole("a");

    // in the middle of a failover: all are latched, nobody accepts writes
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("b").hangs = Some("promote");
    world.kill("a");
    world.run(500);
    assert_eq!(world.state(), "promoting");
    world.node("b").jobs.clear();
    world.node("b").hangs = None;
    world.stored = None;
    world.restart_daemon();
    world.run(10_000);
    assert_eq!((world.state().as_str(), world.blocked()), ("steady", vec![]));
}

/// F33.
#[test]
fn an_old_copy_of_the_record_does_not_bring_an_old_primary_back() {
    let mut world = World::steady(&["a", "b", "c"]);
    let old = world.stored.clone();
    world.kill("a");
    world.run(5000);
    world.is_whole("b");
    world.diary.clear();
    world.stored = old;
    world.restart_daemon();
    world.run(10_000);
    world.never("fence");
    world.never("appoint a");
    world.is_whole("b");
    assert_eq!(world.decider.record().epoch, Epoch(3));
}

#[test]
fn an_agent_that_knows_more_raises_the_epoch() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.node("c").epoch = Epoch(9);
    world.node("c").coordinator = "another".into();
    world.run(2000);
    world.shows(&["store nothing", "appoint a @10"]);
    world.kill("a");
    world.run(5000);
    world.shows(&["fence a @11", "promote b @11"]);
    world.is_whole("b");
}

#[test]
fn orders_go_out_at_a_bounded_rate_whatever_is_broken() {
    for broken in
        ["freeze", "follow", "configure", "promote", "restart", "checkpoint", "fence", "rewind", "rebuild", "demote"]
    {
        let mut world = World::steady(&["a", "b", "c"]);
        let codes = [Code::Unreachable, Code::Program, Code::Busy, Code::WrongRole, Code::Interrupted];
        for node in ["a", "b", "c"] {
            world.node(node).fails = (0..2000).map(|n| (broken, codes[n % codes.len()])).collect();
        }
        world.node("a").slots.clear();
        world.node("a").lsn.0 += 300;
        let _ = world.switchover("b");
        world.run(20_000);
        let _ = world.failover(None);
        world.run(20_000);
        world.kill("a");
        let before = world.outputs;
        world.run(60_000);
        let rate = (world.outputs - before) / 60;
        assert!(rate < 40, "{broken}: {rate} outputs in a second\n{}", world.diary.join("\n"));
    }
}

#[test]
fn a_changed_configuration_is_taken() {
    let mut world = World::steady(&["a", "b", "c"]);
    world.settings.nodes.retain(|member| member.name.as_ref() != "c");
    world.nodes.remove("c");
    let changed = world.settings.clone();
    world.input(Input::Settings(changed));
    world.run(5000);
    world.is_whole("a");
    assert_eq!(world.ask(Command::Detach { node: name("c") }), Err(Reason::UnknownNode));
}
