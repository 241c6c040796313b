//! A disk without room under the coordinator's record, under agents' journals, and in the middle of a copy: what cannot be recorded does
//! not happen, what was there stays, and it is said.
//!
//! With real file systems, which takes root's rights: without them each test says that it has tested nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use howdah::demo::agent::Agent;
use howdah::demo::checker::Verdict;
use howdah::directive::{Job, JobState};
use rustix::process::Signal;

use crate::support::managed::{Managed, Programs, managed};
use crate::support::room::Room;
use crate::support::{StopMode, eventually};

#[track_caller]
fn honest(verdict: &Verdict) {
    assert_eq!((verdict.duplicates, verdict.refused_present), (0, 0), "{verdict:?}");
}

/// A small file system below an agent's state.
fn below_the_state(managed: &Managed, agent: &Agent) -> Option<Room> {
    agent.kill_for_good();
    let room = Room::over(&managed.node(agent.node()).directory().join("agent"), 4);
    agent.back();
    managed.until("the agent is back", || managed.agent_status(agent.node()).is_some());
    room
}

/// Every job of a node has ended.
#[track_caller]
fn the_journal_is_true(managed: &Managed, node: &str) -> Vec<Job> {
    let mut jobs = Vec::new();
    managed.until("every job has ended", || {
        jobs = managed.jobs(node);
        jobs.iter().all(|job| job.state.is_terminal())
    });
    jobs
}

#[test]
fn without_room_for_the_coordinators_record_nothing_is_decided_and_with_room_it_goes_on() {
    let mut managed = managed().failover("restart_if = \"0\"").start();
    crate::support::drill::prepare(&managed);
    managed.kill_daemon();
    std::fs::remove_dir_all(managed.store()).unwrap();
    std::fs::create_dir(managed.store()).unwrap();
    let Some(room) = Room::over(&managed.store(), 1) else { return };
    managed.start_daemon();
    let (old, epoch) = (managed.settled(), managed.epoch());
    let checker = managed.load();
    let mark = checker.mark();
    room.fill();
    assert!(managed.node(&old).signal(Signal::KILL));
    managed.until("it is said", || managed.words().contains("store-failed"));
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert!(managed.writable().is_empty() && managed.epoch() == epoch, "{}", managed.report());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(managed.words().contains("No space left"), "{}", managed.words());
    room.empty();
    managed.served_again(&checker, mark);
    let new = managed.settled();
    assert!(new != old && managed.epoch() > epoch, "{old} in {epoch}, {new} in {}", managed.epoch());
    honest(&managed.judged(checker));
    managed.kill_daemon(); // before its disk goes
}

#[test]
fn without_room_for_its_journal_an_agent_does_nothing_but_fence_and_others_are_promoted() {
    let managed = managed().failover("restart_if = \"0\"").start();
    crate::support::drill::prepare(&managed);
    let old = managed.settled();
    let standby = managed.cluster().nodes().iter().find(|node| node.name() != old).unwrap();
    let Some(of_old) = below_the_state(&managed, managed.agent(&old)) else { return };
    let Some(of_standby) = below_the_state(&managed, managed.agent(standby.name())) else { return };
    assert_eq!(managed.settled(), old);
    let data = standby.data_directory();
    let files =
        || ["standby.signal", "postgresql.auto.conf", "PG_VERSION"].map(|name| std::fs::read(data.join(name)).ok());
    let before = files();
    of_old.fill();
    of_standby.fill();

    // nothing begins that could not be recorded
    let checker = managed.load();
    let (status, answer) = managed.ask("rebuild", &format!("{{\"node\": \"{}\"}}", standby.name()));
    let said = match answer["id"].as_str() {
        None => answer.to_string(),
        Some(id) => {
            let mut operation = serde_json::Value::Null;
            managed.until("it has ended", || {
                operation = managed.look(&format!("operations/{id}"));
                !operation["ended_ms"].is_null()
            });
            assert_ne!(operation["state"], "done", "{operation:#}");
            operation.to_string()
        }
    };
    assert!(said.contains("disk-full"), "{status} {said}");
    assert_eq!(files(), before);
    assert!(standby.in_recovery().unwrap());

    // the fence has its reserve, and who cannot record that it stands still is not promoted
    let mark = checker.mark();
    assert!(managed.node(&old).signal(Signal::KILL));
    let new = managed.other_primary(&old);
    assert_ne!(new, standby.name());
    managed.served_again(&checker, mark);
    let jobs = the_journal_is_true(&managed, &old);
    let fence = jobs.iter().find(|job| job.order.directive.name() == "fence").expect("a fence");
    assert_eq!((fence.state, fence.metadata["proof"].as_str()), (JobState::Completed, "no-process"));

    of_old.empty();
    of_standby.empty();
    assert_eq!(managed.settled(), new);
    the_journal_is_true(&managed, &old);
    the_journal_is_true(&managed, standby.name());
    honest(&managed.judged(checker));
    for agent in managed.agents() {
        agent.kill_for_good(); // before their disks go
    }
}

#[test]
fn a_disk_that_fills_up_during_a_copy_costs_the_copy_and_not_the_data() {
    let programs = Programs::links();
    // all but a few megabytes are gone when the copy begins, and room is there when it is checked
    programs.replace(
        "pg_basebackup",
        "if [ -e $HERE/armed ]; then there=$(dirname \"$2\")/filler; dd if=/dev/zero of=\"$there\" bs=1M 2>/dev/null; \
         truncate -s -12M \"$there\"; fi\nexec $REAL \"$@\"",
    );
    let managed = managed().programs(&programs).start();
    crate::support::drill::prepare(&managed);
    let primary = managed.settled();
    let standby = managed.cluster().nodes().iter().find(|node| node.name() != primary).unwrap();
    let agent = managed.agent(standby.name());
    managed.ask("pause", "");
    agent.kill_for_good();
    standby.stop(StopMode::Fast).unwrap();
    let Some(room) = Room::over(standby.directory(), 384) else { return };
    standby.start().unwrap();
    agent.back();
    managed.ask("resume", "");
    assert_eq!(managed.settled(), primary);
    let armed = programs.path().join("armed");
    std::fs::write(&armed, "").unwrap();
    let rows = || {
        standby
            .sql_in(&managed.tenant().name, "SELECT count(*) FROM pgbench_accounts")
            .unwrap()
            .cell()
            .map(str::to_owned)
    };
    let before = (rows(), siblings(standby.directory()));

    managed.until("the daemon hears the agent", || {
        let nodes = managed.main()["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().all(|node| node["agent"] == true)
    });
    let ended = managed.done("rebuild", &format!("{{\"node\": \"{}\"}}", standby.name()));
    assert_ne!(ended["state"], "done", "{ended:#}");
    assert!(ended.to_string().contains("No space left"), "{ended:#}");
    std::fs::remove_file(&armed).unwrap();
    let jobs = the_journal_is_true(&managed, standby.name());
    let rebuild = jobs.iter().find(|job| job.order.directive.name() == "rebuild").expect("the job");
    assert_ne!(rebuild.state, JobState::Completed);
    eventually("it runs as before", crate::support::SOON, || standby.in_recovery().is_ok_and(|standby| standby));
    assert_eq!((rows(), siblings(standby.directory())), before);
    room.empty();
    assert_eq!(managed.settled(), primary);
    let ended = managed.done("rebuild", &format!("{{\"node\": \"{}\"}}", standby.name()));
    assert_eq!(ended["state"], "done", "{ended:#}");
    managed.settled();
    agent.kill_for_good(); // before its disk goes
    let _ = standby.kill_all();
}

/// Data directories here.
fn siblings(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter(|name| name.to_string_lossy().starts_with("data")).count()
}
