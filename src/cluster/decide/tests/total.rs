//! Whatever comes in wherever the coordinator is: an answer, bounded, and no way that the table does not have.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::fixture::{World, name, settings};
use crate::cluster::decide::{Command, Input, Sight, Stage, WAYS};
use crate::directive::{Code, Failure, Job, JobState};

/// What leads to each stage.
fn at(stage: Stage) -> World {
    let mut world = World::steady(&["a", "b", "c"]);
    match stage {
        Stage::Observing => {
            world.settings.mode = crate::cluster::decide::Mode::Observe;
            let changed = world.settings.clone();
            world.input(Input::Settings(changed));
        }
        Stage::Starting => {
            world = World::new(&["a", "b", "c"]);
            world.agent_dies("a");
            world.run(1000);
        }
        Stage::Steady => {}
        Stage::Suspecting => world.machine_dies("a"),
        Stage::Restarting => {
            world.node("a").hangs = Some("restart");
            let _ = world.ask(Command::Restart { node: name("a") });
        }
        Stage::Fencing => {
            world.node("a").hangs = Some("fence");
            world.kill("a");
        }
        Stage::Choosing => {
            world.node("b").hangs = Some("freeze");
            world.node("c").hangs = Some("freeze");
            world.kill("a");
        }
        Stage::Promoting => {
            world.node("b").hangs = Some("promote");
            world.kill("a");
        }
        Stage::Preparing => {
            world.node("a").hangs = Some("checkpoint");
            let _ = world.switchover("b");
        }
        Stage::Draining => {
            world.open = 1;
            let _ = world.switchover("b");
        }
        Stage::Stopping => {
            world.node("a").hangs = Some("demote");
            let _ = world.switchover("b");
        }
        Stage::CatchingUp => {
            world.node("a").wrong = Some("demote");
            let _ = world.switchover("b");
        }
    }
    world.run(200);
    assert_eq!(world.decider.stage(), stage, "{}", world.diary.join("\n"));
    world
}

/// One of each kind of input, about this node.
fn inputs(world: &World, node: &str) -> Vec<Input> {
    let who = name(node);
    let errand = world.nodes[node].jobs.values().next_back().cloned();
    let id = errand.as_ref().map_or_else(|| "main-9-fence-a-1".to_owned(), |job| job.order.id.clone());
    let ended = |state, failure| {
        errand.clone().map(|job| Job { state, failure, metadata: BTreeMap::new(), ..job }).map(Box::new)
    };
    let failure = |code| Failure::new(code, "so it is");
    let mut inputs = vec![
        Input::Tick { wall_ms: 0 },
        Input::Tick { wall_ms: u64::MAX },
        Input::Seen(who.clone(), Sight::default()),
        Input::Reported(who.clone(), Box::new(world.status(node))),
        Input::PostmasterDied(who.clone()),
        Input::Silent(who.clone(), "gone".into()),
        Input::Refused(who.clone(), id.clone(), failure(Code::StaleEpoch)),
        Input::Refused(who.clone(), id.clone(), failure(Code::Busy)),
        Input::Refused(who.clone(), id.clone(), failure(Code::DiskFull)),
        Input::Undelivered(who.clone(), id, "timed out".into()),
        Input::Stored(0),
        Input::Stored(world.decider.record().generation),
        Input::NotStored(world.decider.record().generation, "full".into()),
        Input::Open(0),
        Input::Open(u64::MAX),
        Input::Settings(world.settings.clone()),
        Input::Settings(settings(&["a"])),
        Input::Seen(name("stranger"), Sight::default()),
        Input::PostmasterDied(name("stranger")),
    ];
    inputs.extend(ended(JobState::Completed, None).map(|job| Input::Moved(who.clone(), job)));
    inputs.extend(ended(JobState::Failed, Some(failure(Code::NotUndone))).map(|job| Input::Moved(who.clone(), job)));
    inputs.extend(ended(JobState::Failed, None).map(|job| Input::Moved(who.clone(), job)));
    for command in commands(&who) {
        inputs.push(Input::Asked(1_000_000, command));
    }
    inputs
}

fn commands(node: &crate::topology::NodeName) -> Vec<Command> {
    let node = node.clone();
    vec![
        Command::Switchover { to: None },
        Command::Switchover { to: Some(node.clone()) },
        Command::Failover { to: Some(node.clone()), vouch: Some(node.clone()), allow_data_loss: true },
        Command::Failover { to: None, vouch: None, allow_data_loss: false },
        Command::Pause,
        Command::Resume,
        Command::Attach { node: node.clone() },
        Command::Detach { node: node.clone() },
        Command::Fence { node: node.clone() },
        Command::Unfence { node: node.clone() },
        Command::Rebuild { node: node.clone() },
        Command::Restart { node },
    ]
}

#[test]
fn every_stage_takes_every_input_and_answers_every_command_once() {
    for stage in Stage::ALL {
        for node in ["a", "b"] {
            let count = inputs(&at(stage), node).len();
            for n in 0..count {
                let mut world = at(stage);
                let input = inputs(&world, node).swap_remove(n);
                let asked = matches!(input, Input::Asked(..));
                let text = format!("{input:?}");
                world.input(input);
                assert_eq!(asked, world.replies.contains_key(&1_000_000), "{stage:?}: {text}");
                assert!(!world.decider.explain().state.is_empty());
            }
        }
    }
}

#[test]
fn every_stage_is_reached_and_left() {
    for stage in Stage::ALL {
        let comes = WAYS.iter().any(|(from, _, to)| *to == stage && *from != stage);
        let goes = WAYS.iter().any(|(from, _, to)| *from == stage && *to != stage);
        assert!(goes && (comes || matches!(stage, Stage::Starting | Stage::Observing)), "{stage:?}");
    }
    let names: BTreeSet<&str> = Stage::ALL.into_iter().map(Stage::name).collect();
    assert_eq!(names.len(), Stage::ALL.len());
}

/// Something that happens to a cluster.
fn happen(world: &mut World, what: u8, node: &str) {
    match what % 14 {
        0 => world.kill(node),
        1 => world.agent_dies(node),
        2 => world.agent_returns(node),
        3 => world.node(node).hung = true,
        4 => world.node(node).running = true,
        5 => world.store_fails = !world.store_fails,
        6 => world.switchover_without_answer(node),
        7 => world
            .node(node)
            .fails
            .push((["promote", "follow", "freeze", "fence", "demote"][usize::from(what / 14) % 5], Code::Program)),
        8 => world.node(node).reachable = false,
        9 => world.restart_daemon(),
        10 => world.input(Input::NotStored(world.decider.record().generation, "so".into())),
        11 => world.node(node).lsn.0 += 700,
        12 => world.open = u64::from(what / 14),
        _ => world.input(Input::Asked(
            5_000_000 + u64::from(what) + u64::try_from(world.now.as_millis()).unwrap() * 1000,
            Command::Failover { to: None, vouch: Some(name(node)), allow_data_loss: false },
        )),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The fixture asserts that a step puts out little and comes to rest; the machine asserts that the table has each way.
    #[test]
    fn nothing_that_happens_makes_it_panic_or_shout(events in prop::collection::vec((any::<u8>(), 0_usize..3, 0_u64..3000), 1..25)) {
        let mut world = World::steady(&["a", "b", "c"]);
        for (what, node, wait) in events {
            happen(&mut world, what, ["a", "b", "c"][node]);
            let before = (world.outputs, world.now);
            world.run(wait);
            let seconds = 1 + usize::try_from((world.now - before.1).as_secs()).unwrap();
            prop_assert!(world.outputs - before.0 <= 150 * seconds, "{} outputs in {seconds} s", world.outputs - before.0);
        }
    }
}
