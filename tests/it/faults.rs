//! What goes wrong, with real processes and real signals (the faults F01 … of the groundwork; `failover_index` has the list).
//!
//! Each test says what must hold: who may be promoted and who not, what clients may be told, that all is well again afterwards
//! without a human.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use howdah::demo::checker::Verdict;
use howdah::demo::scratch::Scratch;
use howdah::directive::JobState;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::managed::{lent, managed};
use crate::support::orphans::Orphans;
use crate::support::{Node, SOON, eventually, poll};

/// Nothing was repeated, and nothing that was refused has happened.
#[track_caller]
fn honest(verdict: &Verdict) {
    assert_eq!((verdict.duplicates, verdict.refused_present), (0, 0), "{verdict:?}");
}

/// [`honest`], and nothing that was acknowledged is missing.
#[track_caller]
fn lossless(verdict: &Verdict) {
    honest(verdict);
    assert_eq!(verdict.missing, 0, "{verdict:?}");
}

/// A server process of a node, by what it calls itself.
fn process(node: &Node, kind: &str) -> Option<Pid> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}' LIMIT 1");
    let rows = node.sql(&sql).ok()?;
    Pid::from_raw(rows.cell()?.parse().ok()?)
}

/// For so long nothing happens, however often one looks.
#[track_caller]
fn never(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(!condition(), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_killed_server_process_is_a_crash_restart_and_no_failover() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let (primary, epoch) = (managed.settled(), managed.epoch());
    for kind in ["client backend", "checkpointer"] {
        let checker = managed.load();
        let node = managed.node(&primary);
        let victim = process(node, kind).unwrap();
        let mark = checker.mark();
        kill_process(victim, Signal::KILL).unwrap();
        managed.until("PostgreSQL has restarted its processes", || {
            poll(SOON, || node.sql("SELECT 1").ok()).is_some() && !node.processes().contains(&victim)
        });
        managed.served_again(&checker, mark);
        assert_eq!((managed.settled(), managed.epoch()), (primary.clone(), epoch), "{kind}");
        lossless(&managed.judged(checker));
    }
}

#[test]
fn a_frozen_walsender_is_no_failure_of_the_primary_and_all_frozen_processes_are() {
    let mut lent = lent();
    let managed = lent.as_mut().unwrap();
    let (old, epoch) = (managed.settled(), managed.epoch());
    let checker = managed.load();

    let sender = process(managed.node(&old), "walsender").unwrap();
    kill_process(sender, Signal::STOP).unwrap();
    never("a failover", Duration::from_secs(5), || managed.epoch() != epoch);
    kill_process(sender, Signal::CONT).unwrap();
    assert_eq!(managed.settled(), old);

    let mark = checker.mark();
    managed.node(&old).freeze();
    let new = managed.other_primary(&old);
    managed.served_again(&checker, mark);
    assert!(checker.window(mark).servers.len() <= 2, "{:?}", checker.window(mark).servers);
    managed.node(&old).thaw(); // whatever the fence has left
    managed.settled();
    assert_eq!(managed.primary().as_deref(), Some(new.as_str()));
    honest(&managed.judged(checker));
}

#[test]
fn an_agent_is_killed_at_any_moment_of_a_failover_and_all_is_well_in_the_end() {
    let mut lent = lent();
    let managed = lent.as_mut().unwrap();
    for (offset, whose) in [(0, "old"), (50, "others"), (100, "old"), (200, "others")] {
        managed.forget();
        let old = managed.settled();
        let checker = managed.load();
        let mark = checker.mark();
        assert!(managed.node(&old).signal(Signal::KILL));
        std::thread::sleep(Duration::from_millis(offset));
        for agent in managed.agents().iter().filter(|agent| (agent.node() == old) == (whose == "old")) {
            agent.kill();
        }
        managed.served_again(&checker, mark);
        managed.settled();
        assert!(checker.window(mark).servers.len() <= 2, "{:?}", checker.window(mark).servers);
        honest(&managed.judged(checker));
    }
}

#[test]
fn a_promotion_that_hangs_is_given_up_and_another_is_promoted_that_the_first_one_never_meets() {
    // the first one whose recovery ends stops there, in the middle of its promotion
    let scratch = Scratch::new("howdah-hangs").unwrap();
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let stops = format!("mkdir {}/first 2>/dev/null && kill -STOP $PPID || true", scratch.path().display());
    let managed = managed()
        .failover("restart_if = \"0\"")
        .setting("recovery_end_command", &stops)
        .agents("[jobs]\nstep_timeout = \"3s\"")
        .start();
    crate::support::drill::prepare(&managed);
    let (old, epoch) = (managed.settled(), managed.epoch());
    let checker = managed.load();
    let mark = checker.mark();
    managed.node(&old).signal(Signal::KILL);
    managed.served_again(&checker, mark);
    let new = managed.settled();
    assert!(scratch.path().join("first").exists(), "nothing has hung");
    let third = managed.cluster().nodes().iter().map(Node::name).find(|name| *name != old && *name != new).unwrap();
    let promotions = |node: &str| -> Vec<(u64, JobState)> {
        let jobs = managed.jobs(node).into_iter().filter(|job| job.order.directive.name() == "promote");
        jobs.map(|job| (job.order.epoch.0, job.state)).collect()
    };
    println!(
        "{old} in {epoch}; {third}: {:?}; {new} in {}: {:?}",
        promotions(third),
        managed.epoch(),
        promotions(&new)
    );
    let in_vain = promotions(third).into_iter().find(|(of, _)| *of > epoch).expect("a promotion in vain");
    let done = promotions(&new).into_iter().find(|(_, state)| *state == JobState::Completed).expect("a promotion");
    assert!(in_vain.0 < done.0 && in_vain.1 != JobState::Completed, "{in_vain:?} {done:?}");
    assert_eq!(managed.epoch(), done.0);
    // proven by a fence: its word would not have been worth anything
    let fence = managed.jobs(third).into_iter().find(|job| job.order.directive.name() == "fence").expect("a fence");
    assert_eq!((fence.order.epoch.0, fence.metadata["proof"].as_str()), (done.0, "no-process"));
    // nothing was ever acknowledged by the one that hung
    let port = i32::from(managed.node(third).port());
    let window = checker.window(mark);
    assert!(window.servers.len() <= 2 && !window.servers.contains(&port), "{window:?}");
    honest(&managed.judged(checker));
}

#[test]
fn the_new_primary_dies_too() {
    let mut lent = lent();
    let managed = lent.as_mut().unwrap();
    for pause in [0, 50, 500] {
        managed.forget();
        let old = managed.settled();
        let checker = managed.load();
        let mark = checker.mark();
        assert!(managed.node(&old).signal(Signal::KILL));
        let promoted = poll(SOON, || {
            let new = managed.writable();
            new.iter().find(|name| **name != old).map(|name| (*name).to_owned())
        });
        std::thread::sleep(Duration::from_millis(pause));
        let second = promoted.unwrap_or_else(|| panic!("{}", managed.report()));
        managed.node(&second).signal(Signal::KILL);
        managed.served_again(&checker, mark);
        managed.settled();
        honest(&managed.judged(checker));
    }
}

#[test]
fn without_proof_of_the_fence_nothing_is_promoted_and_the_status_names_what_is_missing() {
    let mut lent = lent();
    let managed = lent.as_mut().unwrap();
    let (old, epoch) = (managed.settled(), managed.epoch());
    managed.agent(&old).kill_for_good();
    managed.node(&old).kill_all().unwrap();
    let named = || managed.words().contains("no-proof");
    managed.until("the status names the missing proof", named);
    never("a promotion", Duration::from_secs(4), || managed.epoch() != epoch || !managed.writable().is_empty());
    assert!(named(), "{}", managed.words());
    managed.agent(&old).back();
    managed.settled();
}

#[test]
fn a_standby_that_lacks_too_much_is_not_promoted_however_sure_it_is_of_itself() {
    let managed = managed().failover("restart_if = \"0\"").failover("max_lag_on_failover = \"64kB\"").start();
    crate::support::drill::prepare(&managed);
    assert_eq!(managed.settled(), "a");
    let epoch = managed.epoch();
    // c receives nothing any more, has replayed all it has, and never hears of what follows
    let sender = "SELECT pid FROM pg_stat_replication WHERE application_name = 'c'";
    let sender = managed.node("a").sql(sender).unwrap();
    kill_process(Pid::from_raw(sender.cell().unwrap().parse().unwrap()).unwrap(), Signal::STOP).unwrap();
    managed.node("a").sql("CREATE TABLE more AS SELECT generate_series(1, 100000) AS i").unwrap();
    managed.until("b has it", || managed.node("b").sql("SELECT count(*) FROM more").is_ok());
    // what was written since the last look is nobody's knowledge
    managed.until("the coordinator knows what c lacks", || {
        let main = managed.main();
        let c = main["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == "c").cloned());
        c.is_some_and(|c| c["refused"]["reason"] == "lagging")
    });
    // and b is gone with its machine
    managed.agent("b").kill_for_good();
    managed.node("b").kill_all().unwrap();
    managed.node("a").kill_all().unwrap();
    managed.agent("a").signal(Signal::STOP); // or it would be started again where it is
    std::thread::sleep(Duration::from_millis(200));
    managed.agent("a").signal(Signal::CONT);
    never("a promotion of c", Duration::from_secs(5), || managed.writable() == ["c"]);
    managed.agent("b").back();
    managed.settled();
    assert!(managed.epoch() >= epoch);
    assert_eq!(managed.primary_node().sql("SELECT count(*) FROM more").unwrap().cell(), Some("100000"));
}

#[test]
fn a_standby_that_somebody_promotes_by_hand_is_fenced_and_gets_no_clients() {
    let mut lent = lent();
    let managed = lent.as_mut().unwrap();
    let (primary, epoch) = (managed.settled(), managed.epoch());
    let other = managed.cluster().nodes().iter().find(|node| node.name() != primary).unwrap();
    let checker = managed.load();
    let mark = checker.mark();
    other.sql("SELECT pg_promote(true, 30)").unwrap();
    managed.until("nobody but the primary accepts writes", || managed.writable() == [primary.as_str()]);
    assert_eq!(managed.settled(), primary);
    assert_eq!(managed.epoch(), epoch);
    let window = checker.window(mark);
    assert_eq!(window.servers, [i32::from(managed.node(&primary).port())]);
    lossless(&managed.judged(checker));
}

/// Without this, orphans that acknowledge nothing after a failover would prove nothing.
#[test]
#[ignore = "builds howdah a second time: make test runs it last, as does make negative-control"]
fn a_build_that_takes_a_dead_postmaster_for_a_fence_is_caught() {
    let managed = managed()
        .failover("restart_if = \"0\"")
        .binary(&crate::foreign::defective())
        .environment("HOWDAH_DEFECT", "dead-postmaster")
        .start();
    let old = managed.settled();
    let orphans = Orphans::start(managed.node(&old));
    managed.until("both have begun", || orphans.acknowledged() > 200 && orphans.procedure_commits());
    assert!(managed.node(&old).signal(Signal::KILL));
    let new = managed.other_primary(&old);
    // there is another primary, and here somebody goes on committing what it will never have
    let left = managed.node(&old).processes();
    assert!(!left.is_empty() && orphans.procedure_commits(), "{new} is the primary; left of {old}: {left:?}");
    managed.node(&old).kill_all().unwrap();
}

#[test]
fn postgresql_started_by_hand_after_the_fence_comes_up_read_only() {
    let mut lent = lent();
    let managed = lent.as_mut().unwrap();
    let old = managed.settled();
    // the others cannot be promoted yet: their agents do not answer
    let others: Vec<_> = managed.agents().iter().filter(|agent| agent.node() != old).collect();
    others.iter().for_each(|agent| agent.signal(Signal::STOP));
    let node = managed.node(&old);
    assert!(node.signal(Signal::KILL));
    let latch = node.data_directory().join("standby.signal");
    let fenced = poll(SOON, || latch.exists().then_some(()));
    if fenced.is_some() {
        eventually("it is quiet", SOON, || node.processes().is_empty());
        node.start_unready().unwrap();
        let recovery = poll(SOON, || node.in_recovery().ok());
        assert_eq!(recovery, Some(true));
    }
    others.iter().for_each(|agent| agent.signal(Signal::CONT));
    managed.settled();
    assert!(fenced.is_some(), "never fenced: {}", managed.words());
}

#[test]
fn a_hundred_short_silences_are_no_failure() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let (primary, epoch) = (managed.settled(), managed.epoch());
    let checker = managed.load();
    for _ in 0..100 {
        managed.node(&primary).signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(40));
        managed.node(&primary).signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((managed.settled(), managed.epoch()), (primary, epoch));
    let verdict = managed.judged(checker);
    lossless(&verdict);
    assert_eq!(verdict.error_count(), 0, "{verdict:?}");
}
