//! What an agent's jobs do to a real PostgreSQL: each directive's steps, run one after the other as the agent runs them.
//!
//! Not here: the agent's process, its API and its journal (`agent`).

#[path = "agent_jobs/bench.rs"]
mod bench;
#[path = "agent_jobs/matrix.rs"]
mod matrix;

use std::time::{Duration, Instant};

use howdah::agent::postgres::{frozen, latch, processes, rewinding};
use howdah::config::Period;
use howdah::directive::{Code, Directive};
use rustix::process::{Pid, Signal, kill_process};

use self::bench::Bench;
use crate::support::{Node, SOON, builder, eventually};

fn three() -> Bench {
    Bench::new(builder().prefix("howdah-jobs").standby("b").standby("c").start().unwrap())
}

#[test]
fn a_failover_by_hand_leaves_every_node_streaming_from_the_new_primary() {
    let bench = three();
    let (a, b, c) = (bench.node("a"), bench.node("b"), bench.node("c"));
    a.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)").unwrap();
    bench.cluster.wait_streaming(SOON).unwrap();
    let conninfo = |node| bench.auto_conf(node, "primary_conninfo");
    let (of_b, of_c) = (conninfo("b"), conninfo("c"));

    // the primary dies; the standbys stand still
    a.kill().unwrap();
    let began = Instant::now();
    let fenced = bench.run("a", Directive::Fence).unwrap();
    println!("fence {:?}", began.elapsed());
    assert_eq!(fenced["proof"], "no-process");
    assert!(latch::is_set(&a.data_directory()) && a.processes().is_empty());
    let began = Instant::now();
    let frozen_b = bench.run("b", Directive::Freeze).unwrap();
    println!("freeze {:?}", began.elapsed());
    let frozen_c = bench.run("c", Directive::Freeze).unwrap();
    assert_eq!(
        (frozen_b["timeline"].as_str(), frozen_b["received_lsn"].as_str()),
        ("1", frozen_c["received_lsn"].as_str())
    );
    assert_eq!(frozen_b["received_lsn"], frozen_b["replayed_lsn"]);
    assert_eq!((conninfo("b").as_deref(), conninfo("c").as_deref()), (Some(""), Some("")));

    // withdrawn, and again
    bench.run("c", Directive::Unfreeze).unwrap();
    assert_eq!(conninfo("c"), of_c);
    bench.run("c", Directive::Freeze).unwrap();
    bench.run("c", Directive::Freeze).unwrap();
    bench.run("c", Directive::Unfreeze).unwrap();
    assert_eq!(conninfo("c"), of_c, "a freeze of what is frozen puts nothing else away");
    bench.run("c", Directive::Freeze).unwrap();

    let slots = vec!["howdah_a".to_owned(), "howdah_c".to_owned()];
    let began = Instant::now();
    let promoted = bench.run("b", Directive::Promote { slots }).unwrap();
    println!("promote {:?}", began.elapsed());
    assert_eq!((promoted["timeline"].as_str(), promoted["lsn"].as_str()), ("2", frozen_b["replayed_lsn"].as_str()));
    assert!(!latch::is_set(&b.data_directory()) && !frozen::is_frozen(&bench.state("b")));
    assert_ne!(conninfo("b"), of_b);
    b.sql("INSERT INTO t VALUES (2)").unwrap();

    // the other one follows, without a restart
    let pid = c.postmaster_pid();
    let began = Instant::now();
    bench.run("c", Directive::Follow { upstream: bench.upstream("b", "c") }).unwrap();
    println!("follow {:?}", began.elapsed());
    assert_eq!(c.postmaster_pid(), pid);
    assert!(!frozen::is_frozen(&bench.state("c")));
    assert!(!conninfo("c").unwrap().contains(a.password()), "a password in a file that PostgreSQL logs");
    eventually("c has what b wrote", SOON, || c.sql("SELECT count(*) FROM t").unwrap().cell() == Some("2"));

    // the old one was not stopped cleanly: it does not simply follow
    let refused = bench.run("a", Directive::Follow { upstream: bench.upstream("b", "a") }).unwrap_err();
    assert_eq!(refused.code, Code::Diverged, "{refused}");
}

#[test]
fn a_fence_ends_a_postmaster_that_is_stopped_and_orphans_and_is_content_with_nothing() {
    let bench = Bench::new(builder().prefix("howdah-jobs").start().unwrap());
    let a = bench.node("a");
    a.signal(Signal::STOP);
    bench.run("a", Directive::Fence).unwrap();
    assert!(a.processes().is_empty());
    bench.run("a", Directive::Fence).unwrap();

    // latched: whoever starts it starts a standby
    a.start().unwrap();
    assert!(a.in_recovery().unwrap());
    let refused = bench.run("a", Directive::Demote).unwrap_err();
    assert_eq!(refused.code, Code::WrongRole, "{refused}");
    // who opened that for writes would go on with a timeline that may be another's by now
    let refused = bench.run("a", Directive::Restart { primary: true }).unwrap_err();
    assert_eq!(refused.code, Code::WrongRole, "{refused}");
    assert!(a.in_recovery().unwrap() && latch::is_set(&a.data_directory()));
    let promoted = bench.run("a", Directive::Promote { slots: Vec::new() }).unwrap();
    assert_eq!(promoted["timeline"], "2");
    assert!(!a.in_recovery().unwrap() && !latch::is_set(&a.data_directory()));
    // one that has not run since it was fenced is what it was
    bench.run("a", Directive::Fence).unwrap();
    let restarted = bench.run("a", Directive::Restart { primary: true }).unwrap();
    assert_eq!(restarted["timeline"], "2");
    assert!(!a.in_recovery().unwrap() && !latch::is_set(&a.data_directory()));
    bench.run("a", Directive::Restart { primary: false }).unwrap();
    assert!(!a.in_recovery().unwrap());
}

/// A process of a node that stands still from now on, by its title.
fn freeze_process(node: &Node, title: &str) -> Pid {
    let titled = |pid: &Pid| processes::title(*pid).contains(title);
    let pid = node.processes().into_iter().find(titled).unwrap_or_else(|| panic!("no {title}"));
    kill_process(pid, Signal::STOP).unwrap();
    pid
}

#[test]
fn a_standby_that_does_not_stop_is_ended_and_a_primary_is_waited_for() {
    let bench = Bench::new(builder().prefix("howdah-jobs").standby("b").start().unwrap());
    let (a, b) = (bench.node("a"), bench.node("b"));
    bench.cluster.wait_streaming(SOON).unwrap();
    for name in ["a", "b"] {
        bench.configure(name, |config| config.jobs.step_timeout = Period::from_millis(3_000));
    }
    freeze_process(b, "startup");
    let found = bench.run("b", Directive::Rebuild { upstream: bench.upstream("a", "b") }).unwrap();
    assert_eq!(found["stop"], "immediate");
    bench.cluster.wait_streaming(SOON).unwrap();

    // what stands still is all that keeps it from ending
    let checkpointer = freeze_process(a, "checkpointer");
    let postmaster = a.postmaster_pid().unwrap();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(5));
        let lives = kill_process(postmaster, Signal::CONT).is_ok();
        kill_process(checkpointer, Signal::CONT).unwrap();
        lives
    });
    let found = bench.run("a", Directive::Restart { primary: true }).unwrap();
    assert!(later.join().unwrap(), "it was ended");
    assert!(!found.contains_key("stop"), "{found:?}");
}

#[test]
fn a_switchover_by_hand_needs_no_rewind() {
    let bench = three();
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.sql("CREATE TABLE t (i int)").unwrap();
    bench.run("a", Directive::Checkpoint).unwrap();
    a.sql("INSERT INTO t VALUES (1)").unwrap();
    let began = Instant::now();
    let demoted = bench.run("a", Directive::Demote).unwrap();
    println!("demote {:?} {demoted:?}", began.elapsed());
    let replayed = || b.sql("SELECT pg_last_wal_replay_lsn()").unwrap().cell().unwrap().to_owned();
    eventually("b has replayed the shutdown checkpoint, and nothing more", SOON, || replayed() == demoted["end_lsn"]);
    assert!(latch::is_set(&a.data_directory()) && a.processes().is_empty());

    let promoted = bench.run("b", Directive::Promote { slots: vec!["howdah_a".into(), "howdah_c".into()] }).unwrap();
    assert_eq!(promoted["lsn"], demoted["end_lsn"]);
    b.sql("INSERT INTO t VALUES (2)").unwrap();
    for name in ["a", "c"] {
        bench.run(name, Directive::Follow { upstream: bench.upstream("b", name) }).unwrap();
        let node = bench.node(name);
        eventually("it has both rows", SOON, || node.sql("SELECT count(*) FROM t").unwrap().cell() == Some("2"));
    }
    // and a standby may be stopped, lie there, and come back
    bench.node("c").stop(crate::support::StopMode::Fast).unwrap();
    b.sql("INSERT INTO t VALUES (3)").unwrap();
    bench.run("c", Directive::Follow { upstream: bench.upstream("b", "c") }).unwrap();
    bench.node("c").kill_all().unwrap();
    bench.run("c", Directive::Follow { upstream: bench.upstream("b", "c") }).unwrap();
}

#[test]
fn settings_and_slots_are_configured_and_come_back_when_one_of_them_is_wrong() {
    let bench = Bench::new(builder().prefix("howdah-jobs").start().unwrap());
    let a = bench.node("a");
    let configure = |settings: &[(&str, Option<&str>)], slots: &[&str], drop: &[&str]| Directive::Configure {
        settings: settings.iter().map(|(n, v)| ((*n).to_owned(), v.map(str::to_owned))).collect(),
        slots: slots.iter().map(|slot| (*slot).to_owned()).collect(),
        drop_slots: drop.iter().map(|slot| (*slot).to_owned()).collect(),
    };
    let show = |name: &str| a.sql(&format!("SHOW {name}")).unwrap().cell().unwrap().to_owned();
    let done =
        bench.run("a", configure(&[("work_mem", Some("7MB")), ("max_connections", Some("77"))], &["howdah_b"], &[]));
    assert_eq!(done.unwrap()["pending_restart"], "max_connections");
    assert_eq!(show("work_mem"), "7MB");

    let before = std::fs::read(a.data_directory().join("postgresql.auto.conf")).unwrap();
    let wrong = configure(&[("maintenance_work_mem", Some("8MB")), ("work_mem", Some("a lot"))], &["howdah_c"], &[]);
    let refused = bench.run("a", wrong).unwrap_err();
    assert!(refused.text.contains("work_mem"), "{refused}");
    assert_eq!(std::fs::read(a.data_directory().join("postgresql.auto.conf")).unwrap(), before);
    assert_eq!(show("work_mem"), "7MB");

    a.sql("SELECT pg_create_physical_replication_slot('mine')").unwrap();
    let refused = bench.run("a", configure(&[], &[], &["mine"])).unwrap_err();
    assert_eq!(refused.code, Code::Malformed);
    bench.run("a", configure(&[("work_mem", None)], &["howdah_b", "howdah_c"], &["howdah_b", "howdah_x"])).unwrap();
    let slots = a.sql("SELECT slot_name FROM pg_replication_slots ORDER BY 1").unwrap();
    assert_eq!(slots.column(), ["howdah_c", "mine"]);
    assert_eq!(show("work_mem"), "4MB");
}

/// The primary `a` dies with rows that nobody has received; `b` is the primary now.
fn diverged() -> Bench {
    let bench = three();
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)").unwrap();
    bench.cluster.wait_streaming(SOON).unwrap();
    for name in ["b", "c"] {
        bench.run(name, Directive::Freeze).unwrap();
    }
    a.sql("INSERT INTO t SELECT generate_series(1000, 2000)").unwrap();
    bench.run("a", Directive::Fence).unwrap();
    bench.run("b", Directive::Promote { slots: vec!["howdah_a".into(), "howdah_c".into()] }).unwrap();
    b.sql("INSERT INTO t VALUES (2)").unwrap();
    b.sql("CHECKPOINT").unwrap();
    bench
}

#[test]
fn a_primary_that_wrote_on_its_own_is_rewound_keeps_its_own_files_and_follows() {
    let bench = diverged();
    let (a, b) = (bench.node("a"), bench.node("b"));
    let data = a.data_directory();
    std::fs::write(data.join("postgresql.conf"), {
        let text = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
        format!("{text}# a's own\n")
    })
    .unwrap();
    std::fs::create_dir(data.join("conf.d")).unwrap();
    std::fs::write(data.join("conf.d/own.conf"), "# mine\n").unwrap();
    for own in ["conf.d", "conf.d/own.conf"] {
        a.binaries().own(&data.join(own)).unwrap();
    }
    let upstream = bench.upstream("b", "a");
    let refused = bench.run("a", Directive::Follow { upstream: upstream.clone() }).unwrap_err();
    assert_eq!(refused.code, Code::Diverged, "{refused}");

    let began = Instant::now();
    let rewound = bench.run("a", Directive::Rewind { upstream: upstream.clone() }).unwrap();
    println!("rewind {:?} {rewound:?}", began.elapsed());
    assert_eq!(rewound["rewind"], "done");
    assert!(a.in_recovery().unwrap() && !rewinding::is_set(&bench.state("a")));
    assert!(std::fs::read_to_string(data.join("postgresql.conf")).unwrap().ends_with("# a's own\n"));
    assert_eq!(std::fs::read_to_string(data.join("conf.d/own.conf")).unwrap(), "# mine\n");
    b.sql("INSERT INTO t VALUES (3)").unwrap();
    eventually("a has what b has", SOON, || a.sql("SELECT count(*) FROM t").is_ok_and(|n| n.cell() == Some("3")));

    // again: there is nothing to rewind
    a.stop(crate::support::StopMode::Fast).unwrap();
    let again = bench.run("a", Directive::Rewind { upstream }).unwrap();
    assert_eq!(again["rewind"], "not needed");
}

#[test]
fn nothing_starts_on_a_directory_whose_rewind_was_interrupted_but_another_rewind_or_a_rebuild() {
    let bench = diverged();
    let a = bench.node("a");
    rewinding::set(&bench.state("a")).unwrap();
    let upstream = bench.upstream("b", "a");
    let refused = bench.run("a", Directive::Restart { primary: true }).unwrap_err();
    assert!(refused.text.contains("interrupted"), "{refused}");
    let refused = bench.run("a", Directive::Follow { upstream: upstream.clone() }).unwrap_err();
    assert_eq!(refused.code, Code::Diverged, "{refused}");
    assert!(a.processes().is_empty());
    let began = Instant::now();
    let rebuilt = bench.run("a", Directive::Rebuild { upstream }).unwrap();
    println!("rebuild {:?} {rebuilt:?}", began.elapsed());
    assert!(rebuilt.contains_key("progress"));
    assert!(!rewinding::is_set(&bench.state("a")) && a.in_recovery().unwrap());
    let old = std::path::Path::new(&rebuilt["old_directory"]);
    assert!(old.join("PG_VERSION").exists() && old.to_string_lossy().contains("data.old-7-"), "{old:?}");
    eventually("a has what b has", SOON, || a.sql("SELECT count(*) FROM t").is_ok_and(|n| n.cell() == Some("2")));
}

#[test]
fn a_rebuild_that_cannot_end_leaves_the_old_directory_and_says_why() {
    let bench = diverged();
    let c = bench.node("c");
    bench.run("c", Directive::Follow { upstream: bench.upstream("b", "c") }).unwrap();
    let siblings = || {
        let entries = std::fs::read_dir(c.directory()).unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter(|name| name.to_string_lossy().starts_with("data")).count()
    };
    let identity = |name: &str| bench.node(name).sql("SELECT system_identifier FROM pg_control_system()").unwrap();
    let own = identity("c");
    assert_eq!(own.cell(), identity("b").cell());

    // another cluster
    let other = Bench::new(builder().prefix("howdah-other").superuser("postgres", c.password()).start().unwrap());
    let refused = bench.run("c", Directive::Rebuild { upstream: other.upstream("a", "c") }).unwrap_err();
    assert_eq!(refused.code, Code::OtherSystem, "{refused}");
    // nobody there
    let mut nowhere = bench.upstream("b", "c");
    nowhere.port = crate::support::free_port().unwrap();
    let refused = bench.run("c", Directive::Rebuild { upstream: nowhere.clone() }).unwrap_err();
    assert_eq!(refused.code, Code::Unreachable, "{refused}");
    let refused = bench.run("c", Directive::Follow { upstream: nowhere }).unwrap_err();
    assert_eq!(refused.code, Code::Unreachable, "{refused}");
    // no room
    bench.configure("c", |config| config.backups.min_free = "900TB".parse().unwrap());
    let refused = bench.run("c", Directive::Rebuild { upstream: bench.upstream("b", "c") }).unwrap_err();
    assert!(refused.code == Code::DiskFull && refused.text.contains("min_free"), "{refused}");
    bench.configure("c", |config| config.backups.min_free = "1MB".parse().unwrap());
    // a slot that is not there: the copy fails when it has begun
    let mut slotless = bench.upstream("b", "c");
    slotless.slot = "howdah_nobody".into();
    let refused = bench.run("c", Directive::Rebuild { upstream: slotless }).unwrap_err();
    assert!(refused.text.contains("howdah_nobody"), "{refused}");
    assert_eq!(siblings(), 1);
    assert!(c.in_recovery().unwrap(), "it runs again as it did");
    eventually("it streams again", SOON, || {
        c.sql("SELECT status FROM pg_stat_wal_receiver").unwrap().cell() == Some("streaming")
    });
}
