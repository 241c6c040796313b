//! `kill -9` of the daemon right after each record of its intent, and not a moment later: what was begun is finished by its next
//! life, or as if it had never begun.
//!
//! A library that is loaded into the daemon kills it where it has put the record in its place (`tests/support/at_record.c`): no
//! timing decides what is hit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use howdah::directive::JobState;
use rustix::process::Signal;

use crate::support::managed::{Managed, lent};
use crate::support::poll;

/// More records than any of it takes.
const RECORDS_MAX: usize = 12;

/// The library.
fn library(directory: &Path) -> PathBuf {
    let library = directory.join("at_record.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/at_record.c");
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").output();
    let made = made.expect("the C compiler that links this test");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    library
}

/// The intent that the store has, in a word or two.
fn intent(managed: &Managed) -> String {
    let text = std::fs::read_to_string(managed.store().join("main.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let intent = &record["intent"];
    match (intent["intent"].as_str(), intent["stopping"].as_bool()) {
        (None, _) => "none: it is done".to_owned(),
        (Some(word), Some(true)) => format!("{word}, stopping"),
        (Some(word), _) => word.to_owned(),
    }
}

/// Begins something and has the daemon killed at each record of it, one after the other, until it is through without; what was recorded.
#[track_caller]
fn at_each_record(
    managed: &mut Managed,
    library: &Path,
    what: &str,
    begin: impl Fn(&Managed, &str),
) -> BTreeSet<String> {
    let control = library.with_file_name("control");
    let mut recorded = BTreeSet::new();
    for number in 1..=RECORDS_MAX {
        managed.forget_with(&[("LD_PRELOAD", library), ("HOWDAH_TEST_AT_RECORD", &control)]);
        let (old, epoch) = (managed.settled(), managed.epoch());
        let checker = managed.load();
        let mark = checker.mark();
        std::fs::write(&control, number.to_string()).unwrap();
        begin(managed, &old);
        let through = |managed: &Managed| {
            let words = std::fs::read_to_string(managed.store().join("main.json")).unwrap_or_default();
            words.contains("\"intent\": null") && managed.is_settled() && checker.window(mark).everybody
        };
        let ended = poll(crate::support::managed::A_WHILE, || {
            let ended = managed.howdah().has_ended();
            (ended || number > 1 && through(managed)).then_some(ended)
        });
        std::fs::remove_file(&control).unwrap();
        let killed =
            ended.unwrap_or_else(|| panic!("{what}, record {number}: neither killed nor done\n{}", managed.report()));
        if !killed {
            assert!(number > 1, "{what} records nothing");
            drop(checker);
            return recorded;
        }
        let intent = intent(managed);
        println!("{what}: killed with record {number}: {intent}");
        recorded.insert(intent);
        managed.start_daemon_unready();
        managed.served_again(&checker, mark);
        let (new, after) = (managed.settled(), managed.epoch());
        assert!(after >= epoch + u64::from(new != old), "{old} in {epoch}, then {new} in {after}");
        // one node for each epoch, and nobody writes after another has begun to
        let mut promoted = BTreeSet::new();
        for node in managed.cluster().nodes() {
            for job in managed.jobs(node.name()) {
                let of = job.order.epoch.0;
                if job.order.directive.name() == "promote" && job.state == JobState::Completed && of > epoch {
                    assert!(promoted.insert(of), "two promotions in epoch {of}");
                }
            }
        }
        assert!(checker.window(mark).servers.len() <= 2, "{:?}", checker.window(mark).servers);
        let verdict = managed.judged(checker);
        assert_eq!((verdict.duplicates, verdict.refused_present), (0, 0), "{verdict:?}");
    }
    panic!("{what} does not come to an end");
}

#[test]
fn the_daemon_is_killed_at_each_recorded_intent_and_its_next_life_goes_on() {
    let mut lent = lent();
    let managed = lent.as_mut().unwrap();
    let scratch = howdah::demo::scratch::Scratch::new("howdah-intents").unwrap();
    let library = library(scratch.path());
    let mut all = BTreeSet::new();
    let mut count = 0;
    let mut play = |what: &str, begin: &dyn Fn(&Managed, &str)| {
        let recorded = at_each_record(managed, &library, what, begin);
        count += recorded.len();
        all.extend(recorded);
    };
    play("a failover", &|managed, old| assert!(managed.node(old).signal(Signal::KILL)));
    play("a switchover", &|managed, _| {
        let _ = managed.try_ask("switchover", "{}");
    });
    play("a restart", &|managed, old| {
        let _ = managed.try_ask("restart", &format!("{{\"node\": \"{old}\"}}"));
    });
    println!("killed at {count} recorded intents: {all:?}");
    for intent in ["failover", "promote", "switchover", "switchover, stopping", "restart_in_place"] {
        assert!(all.contains(intent), "{intent} was never recorded: {all:?}");
    }
}
