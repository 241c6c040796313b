//! What operators and applications may rely on when the primary changes: who is chosen, what follows, what is refused.
//!
//! Not here: what goes wrong in the middle of it (`faults`), how long it takes (`failover_runs`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use howdah::directive::{Code, JobState};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::managed::{Managed, Programs, lent, managed};
use crate::support::{Node, SOON, eventually};

/// The other nodes than this one.
fn others<'a>(managed: &'a Managed, name: &str) -> Vec<&'a Node> {
    managed.cluster().nodes().iter().filter(|node| node.name() != name).collect()
}

/// Stops what a primary sends to a standby: the process, so that nothing is left in a socket's buffer.
fn silence(primary: &Node, standby: &Node) {
    let sql = format!("SELECT pid FROM pg_stat_replication WHERE application_name = '{}'", standby.name());
    let sender = primary.sql(&sql).unwrap();
    kill_process(Pid::from_raw(sender.cell().unwrap().parse().unwrap()).unwrap(), Signal::STOP).unwrap();
}

/// When the postmaster was started.
fn started(node: &Node) -> String {
    node.sql("SELECT pg_postmaster_start_time()").unwrap().cell().unwrap().to_owned()
}

#[test]
fn an_operator_moves_the_primary_and_the_others_follow_without_a_restart() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let old = managed.settled();
    let (to, third) = (others(managed, &old)[0].name(), others(managed, &old)[1]);
    let (before, epoch) = (started(third), managed.epoch());
    let checker = managed.load();
    let asked = Instant::now();
    let (status, taken) = managed.ask("switchover", &format!("{{\"to\": \"{to}\"}}"));
    let took = asked.elapsed();
    assert_eq!(status, 202, "{taken}");
    assert!(!taken["id"].as_str().unwrap().is_empty() && took < Duration::from_secs(2), "{took:?} {taken}");
    assert_eq!(managed.other_primary(&old), to);
    managed.until("the others follow within ten seconds", || managed.is_settled());
    assert_eq!((managed.epoch(), started(third)), (epoch + 1, before));
    let verdict = managed.judged(checker);
    assert_eq!((verdict.missing, verdict.duplicates, verdict.error_count()), (0, 0, 0), "{verdict:?}");
}

#[test]
fn the_fence_is_proven_before_anybody_is_promoted() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let old = managed.settled();
    managed.node(&old).signal(Signal::KILL);
    let new = managed.other_primary(&old);
    managed.settled();
    let job = |node: &str, name: &str| {
        let jobs = managed.jobs(node);
        jobs.into_iter().find(|job| job.order.directive.name() == name && job.state == JobState::Completed)
    };
    let fence = job(&old, "fence").expect("a fence");
    let promote = job(&new, "promote").expect("a promotion");
    assert_eq!(fence.metadata["proof"], "no-process");
    assert!(fence.ended_ms.unwrap() <= promote.began_ms, "{fence:#?} {promote:#?}");
    // each step has begun and ended, in order
    for job in [&fence, &promote] {
        let mut last = job.began_ms;
        for step in &job.steps {
            assert!(step.began_ms >= last && step.ended_ms.is_some_and(|end| end >= step.began_ms), "{job:#?}");
            last = step.began_ms;
        }
    }
}

#[test]
fn an_order_of_an_older_epoch_is_refused_and_changes_nothing() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let primary = managed.settled();
    let status = managed.agent_status(&primary).unwrap();
    let coordinator = status.coordinator;
    for (epoch, coordinator, expected) in
        [(0, coordinator.as_str(), Code::StaleEpoch), (status.epoch.0, "somebody else", Code::OtherCoordinator)]
    {
        let order = serde_json::json!({
            "id": format!("stale-{epoch}"), "cluster": "main", "node": primary, "epoch": epoch, "coordinator": coordinator,
            "directive": {"do": "fence"}
        });
        let (code, failure) = managed.order(&primary, &order.to_string());
        assert_eq!(code, 409, "{failure}");
        assert_eq!(serde_json::from_value::<Code>(failure["code"].clone()).unwrap(), expected);
    }
    assert_eq!(managed.settled(), primary);
}

#[test]
fn what_cannot_be_is_refused_with_a_reason_and_changes_nothing() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let (primary, epoch) = (managed.settled(), managed.epoch());
    let same = format!("{{\"to\": \"{primary}\"}}");
    let itself = format!("{{\"node\": \"{primary}\"}}");
    for (command, body, reason) in [
        ("switchover", same.as_str(), "wrong-role"),
        ("switchover", "{\"to\": \"z\"}", "unknown-node"),
        ("rebuild", itself.as_str(), "wrong-role"),
    ] {
        let (status, refused) = managed.ask(command, body);
        assert!((400..500).contains(&status) && refused["reason"] == reason, "{command} {body}: {status} {refused}");
    }
    managed.ask("pause", "");
    let away = others(managed, &primary)[0];
    away.stop(crate::support::StopMode::Fast).unwrap();
    // to the coordinator, which hears of it from the agent: the monitor may have seen it before
    managed.until("it is known to be away", || {
        let nodes = managed.main()["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().any(|node| node["name"] == away.name() && node["refused"].is_object())
    });
    let (status, refused) = managed.ask("switchover", &format!("{{\"to\": \"{}\"}}", away.name()));
    assert!((400..500).contains(&status) && refused["reason"] == "unreachable", "{status} {refused}");
    managed.ask("resume", "");
    assert_eq!((managed.settled(), managed.epoch()), (primary, epoch));
}

#[test]
fn a_declared_primary_becomes_the_primary_when_the_configuration_says_so() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let old = managed.settled();
    let to = others(managed, &old)[1].name().to_owned();
    let checker = managed.load();
    managed.howdah().reload(&managed.toml(Some(&to)));
    assert_eq!(managed.other_primary(&old), to);
    managed.settled();
    let verdict = managed.judged(checker);
    assert_eq!((verdict.missing, verdict.error_count()), (0, 0), "{verdict:?}");
    managed.howdah().reload(&managed.toml(None));
    assert_eq!(managed.settled(), to);
}

#[test]
fn a_switchover_whose_standby_never_replays_the_end_ends_on_the_old_primary() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let (old, epoch) = (managed.settled(), managed.epoch());
    let standby = others(managed, &old)[0];
    let startup = standby.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'").unwrap();
    let startup = Pid::from_raw(startup.cell().unwrap().parse().unwrap()).unwrap();
    let checker = managed.load();
    let mark = checker.mark();
    kill_process(startup, Signal::STOP).unwrap();
    let (status, taken) = managed.ask("switchover", &format!("{{\"to\": \"{}\"}}", standby.name()));
    if status == 202 {
        managed.until("it is undone", || {
            let operation = managed.look(&format!("operations/{}", taken["id"].as_str().unwrap()));
            !operation["ended_ms"].is_null()
        });
    }
    managed.until("the old primary accepts writes", || managed.writable() == [old.as_str()]);
    managed.served_again(&checker, mark);
    kill_process(startup, Signal::CONT).unwrap();
    assert_eq!(managed.settled(), old);
    assert!(managed.epoch() >= epoch);
    let verdict = managed.judged(checker);
    assert_eq!((verdict.missing, verdict.duplicates, verdict.error_count()), (0, 0, 0), "{verdict:?}");
}

#[test]
fn after_a_failover_no_write_reaches_a_standby_and_reads_spread_over_all_of_them() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let old = managed.settled();
    managed.node(&old).signal(Signal::KILL);
    managed.other_primary(&old);
    let new = managed.settled();
    let port = |node: &Node| node.port().to_string();
    let standbys: BTreeSet<String> = others(managed, &new).into_iter().map(port).collect();
    managed.until("reads on both standbys", || {
        let rows = managed.main()["nodes"].as_array().cloned().unwrap_or_default();
        rows.iter().filter(|row| row["replica"] == true).count() == 2
    });
    let mut read = BTreeSet::new();
    for _ in 0..20 {
        let mut client = managed.howdah().login(managed.tenant());
        read.insert(client.value("SELECT current_setting('port')"));
        let wrote = client.value("INSERT INTO ledger (client, seq) VALUES (99, 1) RETURNING node");
        assert_eq!(wrote, port(managed.node(&new)));
    }
    assert_eq!(read, standbys);
}

#[test]
fn every_member_has_a_slot_wherever_the_primary_is_and_a_users_slot_is_nobodys_business() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let primary = managed.settled();
    let node = managed.node(&primary);
    node.sql("SELECT pg_create_physical_replication_slot('mine', true)").unwrap();
    let slots = || -> BTreeSet<String> {
        let rows = node.sql("SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical'").unwrap();
        rows.column().into_iter().map(ToOwned::to_owned).collect()
    };
    assert!(slots().contains("mine"), "{:?}", slots());
    // what they keep for who is away has a bound
    eventually("slots have a bound", SOON, || {
        node.sql("SHOW max_slot_wal_keep_size").is_ok_and(|rows| rows.cell() == Some("16GB"))
    });
    for other in others(managed, &primary) {
        assert!(slots().contains(&other.slot()), "{:?}", slots());
    }
    // those of the members are made on whoever comes next
    let to = others(managed, &primary)[0].name().to_owned();
    managed.switchover(Some(&to));
    managed.settled();
    let rows = managed.node(&to).sql("SELECT slot_name FROM pg_replication_slots WHERE active").unwrap();
    let active: BTreeSet<&str> = rows.column().into_iter().collect();
    let expected: Vec<String> = others(managed, &to).into_iter().map(Node::slot).collect();
    assert_eq!(active, expected.iter().map(String::as_str).collect());
    assert!(slots().contains("mine"), "{:?}", slots());
    node.sql("SELECT pg_drop_replication_slot('mine')").unwrap();
}

#[test]
fn the_standby_that_has_received_most_is_promoted() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let old = managed.settled();
    let (behind, ahead) = (others(managed, &old)[0], others(managed, &old)[1]);
    let node = managed.node(&old);
    silence(node, behind);
    node.sql("CREATE TABLE IF NOT EXISTS more (i int); INSERT INTO more SELECT generate_series(1, 10000)").unwrap();
    let count =
        |node: &Node| node.sql("SELECT count(*) FROM more").ok().and_then(|rows| rows.cell().map(ToOwned::to_owned));
    let goal = count(node);
    eventually("one has it", SOON, || count(ahead) == goal);
    node.signal(Signal::KILL);
    assert_eq!(managed.other_primary(&old), ahead.name(), "{}", managed.report());
    managed.settled();
    assert_eq!(count(behind), goal);
}

#[test]
fn a_node_that_cannot_be_rewound_is_copied_anew_and_its_old_data_is_kept() {
    let programs = Programs::links();
    programs.replace("pg_rewind", "echo called >> $HERE/rewinds; echo 'pg_rewind: error: no' >&2; exit 1");
    std::fs::write(programs.path().join("rewinds"), "").unwrap();
    std::fs::set_permissions(programs.path().join("rewinds"), std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .unwrap();
    let managed = managed().failover("restart_if = \"0\"").programs(&programs).start();
    crate::support::drill::prepare(&managed);
    let old = managed.settled();
    let checker = managed.load();
    // something that the others do not have: it diverges
    for node in others(&managed, &old) {
        silence(managed.node(&old), node);
    }
    managed.node(&old).sql("CREATE TABLE only_here AS SELECT 1 AS i").unwrap();
    managed.node(&old).kill_all().unwrap();
    managed.other_primary(&old);
    managed.settled();
    let tries = std::fs::read_to_string(programs.path().join("rewinds")).unwrap().lines().count();
    assert!((1..=2).contains(&tries), "{tries} rewinds");
    let kept: Vec<_> =
        std::fs::read_dir(managed.node(&old).directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let copies = kept.iter().filter(|path| path.join("PG_VERSION").exists()).count();
    assert_eq!(copies, 2, "{kept:?}");
    assert!(managed.node(&old).sql("SELECT * FROM only_here").is_err());
    managed.judged(checker);
}

#[test]
fn a_rewind_that_is_killed_half_way_is_tried_again_and_then_copied() {
    let programs = Programs::links();
    programs.replace("pg_rewind", "$REAL \"$@\" & sleep 0.05; kill -9 $!; exit 137");
    let managed = managed().failover("restart_if = \"0\"").programs(&programs).start();
    crate::support::drill::prepare(&managed);
    let old = managed.settled();
    let checker = managed.load();
    managed.node(&old).sql("SELECT pg_switch_wal(); CHECKPOINT").ok();
    managed.node(&old).signal(Signal::KILL);
    managed.other_primary(&old);
    managed.settled();
    let verdict = managed.judged(checker);
    assert_eq!((verdict.duplicates, verdict.refused_present), (0, 0), "{verdict:?}");
}

#[test]
fn a_copy_that_has_no_room_is_refused_and_the_old_data_stays() {
    let managed = managed().start();
    let primary = managed.settled();
    let standby = others(&managed, &primary)[0];
    // the file is read at the next start
    let path = managed.agent(standby.name()).config().to_owned();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("min_free = \"64MB\"", "min_free = \"900TB\"")).unwrap();
    managed.agent(standby.name()).kill();
    managed.until("the agent is back", || managed.agent_status(standby.name()).is_some());
    let body = format!("{{\"node\": \"{}\"}}", standby.name());
    let (mut status, mut answer) = (0, serde_json::Value::Null);
    managed.until("the daemon hears the agent, too", || {
        (status, answer) = managed.ask("rebuild", &body);
        status == 202 || answer.to_string().contains("disk-full")
    });
    if status == 202 {
        let id = answer["id"].as_str().unwrap().to_owned();
        let mut last = serde_json::Value::Null;
        managed.until("it has failed", || {
            last = managed.look(&format!("operations/{id}"));
            !last["ended_ms"].is_null()
        });
        assert_ne!(last["state"], "done", "{last:#}");
        assert!(last.to_string().contains("disk-full"), "{last:#}");
    } else {
        assert!(answer.to_string().contains("disk-full"), "{answer}");
    }
    assert_eq!(managed.settled(), primary);
}

#[test]
fn a_program_that_hangs_ends_its_job_at_the_limit() {
    let programs = Programs::links();
    programs.replace("pg_rewind", "exec sleep 600");
    let managed = managed()
        .failover("restart_if = \"0\"")
        .agents("[jobs]\nstep_timeout = \"2s\"\njob_timeout = \"20s\"")
        .programs(&programs)
        .start();
    crate::support::drill::prepare(&managed);
    let old = managed.settled();
    let checker = managed.load();
    managed.node(&old).signal(Signal::KILL);
    let new = managed.other_primary(&old);
    assert_eq!(managed.settled(), new);
    let verdict = managed.judged(checker);
    assert_eq!((verdict.duplicates, verdict.refused_present), (0, 0), "{verdict:?}");
}

#[test]
fn a_rebuilt_standby_follows_again_and_its_former_data_is_kept_within_the_bounds() {
    let managed = managed().start();
    let primary = managed.settled();
    let standby = others(&managed, &primary)[0];
    let body = format!("{{\"node\": \"{}\"}}", standby.name());
    let copies = || {
        let entries = std::fs::read_dir(standby.directory()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.join("PG_VERSION").exists()).count() - 1
    };
    for times in 1..=4 {
        let ended = managed.done("rebuild", &body);
        assert_eq!(ended["state"], "done", "{ended:#}");
        managed.settled();
        assert_eq!(copies(), times.min(2), "after {times}");
    }
    let jobs = managed.jobs(standby.name());
    let rebuild = jobs.iter().find(|job| job.order.directive.name() == "rebuild").expect("the job");
    assert_eq!(rebuild.state, JobState::Completed);
}
