//! What records and jobs come to in the book, counted exactly once.

use std::collections::BTreeMap;

use super::*;
use crate::cluster::decide::Intent;
use crate::directive::{Code, Directive, Failure, JobState, Order};
use crate::topology::Epoch;

fn main() -> ClusterName {
    "main".into()
}

fn failover(id: &str) -> Intent {
    Intent::Failover {
        id: id.to_owned(),
        from: "a".into(),
        cause: "it died".to_owned(),
        vouched: false,
        to: None,
        allow_data_loss: false,
    }
}

fn promote(id: &str, planned: bool) -> Intent {
    let (from, to) = ("a".into(), "b".into());
    Intent::Promote { id: id.to_owned(), from, to, epoch: Epoch(2), planned, cause: "it died".to_owned() }
}

fn restart(id: &str) -> Intent {
    Intent::RestartInPlace { id: id.to_owned(), node: "a".into(), cause: "it died".to_owned() }
}

fn switchover(id: &str) -> Intent {
    Intent::Switchover { id: id.to_owned(), from: "a".into(), to: "b".into(), stopping: false }
}

fn record(primary: &str, epoch: u64, intent: Option<Intent>) -> Record {
    let change = |epoch| Change {
        epoch: Epoch(epoch),
        wall_ms: 0,
        from: Some("a".into()),
        to: "b".into(),
        planned: false,
        cause: "it died".to_owned(),
        took_ms: 300,
        lost_bytes: None,
    };
    let history = (2..=epoch).map(change).collect();
    Record { primary: Some(primary.into()), epoch: Epoch(epoch), intent, history, ..Record::default() }
}

fn job(id: &str, directive: Directive, state: JobState, failure: Option<Failure>) -> Job {
    Job {
        order: Order {
            id: id.to_owned(),
            cluster: "main".to_owned(),
            node: "b".to_owned(),
            epoch: Epoch(1),
            coordinator: "c".to_owned(),
            correlation: String::new(),
            directive,
        },
        state,
        steps: Vec::new(),
        metadata: BTreeMap::new(),
        failure,
        progress: None,
        began_ms: 1,
        ended_ms: state.is_terminal().then_some(2),
    }
}

/// How the operation of these intents ends, with the record that follows them.
fn ends(intents: &[Intent], last: Record) -> (Operation, Counts) {
    let ledger = Ledger::new();
    ledger.stored(&main(), 1, &record("a", 1, None));
    for (at, intent) in (2..).zip(intents) {
        ledger.stored(&main(), at, &record("a", 1, Some(intent.clone())));
        ledger.stored(&main(), at, &record("a", 1, Some(intent.clone()))); // something else has changed in it
    }
    ledger.stored(&main(), 9, &last);
    ledger.stored(&main(), 10, &last);
    (ledger.operations("main").remove(0), ledger.counts().remove("main").unwrap())
}

fn once(counts: &Counts, kind: &str, state: OperationState, class: &str) -> bool {
    counts.operations == BTreeMap::from([((kind.to_owned(), state, class.to_owned()), 1)])
}

#[test]
fn a_failover_begins_and_ends_with_its_records_and_counts_once() {
    let (operation, counts) = ends(&[failover("f1"), promote("f1", false)], record("b", 2, None));
    assert_eq!((operation.kind.as_str(), operation.about.as_str()), ("failover", "a to b"));
    assert_eq!((operation.state, operation.began_ms, operation.ended_ms), (OperationState::Done, 2, Some(9)));
    assert!(once(&counts, "failover", OperationState::Done, ""), "{counts:?}");
    assert_eq!((counts.seconds["failover"].count, counts.seconds["failover"].sum_ms), (1, 300));
    assert_eq!(counts.seconds["failover"].buckets[2], 1);
    assert!(counts.rollbacks.is_empty());
}

#[test]
fn what_is_undone_is_a_rollback_and_no_change() {
    let (operation, counts) = ends(&[switchover("s1")], record("a", 1, None));
    assert_eq!(operation.state, OperationState::Undone);
    assert!(once(&counts, "switchover", OperationState::Undone, "decision"), "{counts:?}");
    assert_eq!(counts.rollbacks.values().sum::<u64>(), 1);
    assert!(counts.seconds.is_empty());
    // stopped already, so the old primary was started again
    let (operation, _) = ends(&[switchover("s1"), restart("s1")], record("a", 1, None));
    assert_eq!((operation.kind.as_str(), operation.state), ("switchover", OperationState::Undone));
}

#[test]
fn a_restart_in_place_ends_in_three_ways() {
    assert_eq!(ends(&[restart("r1")], record("a", 1, None)).0.state, OperationState::Done);
    assert_eq!(ends(&[failover("f1"), restart("f1")], record("a", 1, None)).0.state, OperationState::Restarted);
    // it does not come up: another operation takes over
    let (operation, _) = ends(&[restart("r1")], record("a", 1, Some(failover("f2"))));
    assert_eq!(operation.state, OperationState::Undone);
}

#[test]
fn a_jobs_end_counts_once_however_often_it_is_told() {
    let ledger = Ledger::new();
    let node = "b".into();
    let rebuild = |state, failure| {
        let upstream = crate::directive::Upstream {
            node: "a".to_owned(),
            host: "h".to_owned(),
            port: 1,
            slot: "howdah_b".to_owned(),
            history: Default::default(),
        };
        job("main-1-rebuild-b", Directive::Rebuild { upstream }, state, failure)
    };
    ledger.moved(&main(), &node, &rebuild(JobState::InProgress, None));
    assert_eq!(ledger.operation("main", "main-1-rebuild-b").unwrap().state, OperationState::Running);
    let failed = rebuild(JobState::Failed, Some(Failure::new(Code::DiskFull, "no room")));
    ledger.moved(&main(), &node, &failed);
    ledger.moved(&main(), &node, &failed);
    let operation = ledger.operation("main", "main-1-rebuild-b").unwrap();
    assert_eq!((operation.state, operation.text.as_str()), (OperationState::Undone, "no room"));
    let counts = ledger.counts().remove("main").unwrap();
    let key = ("b".to_owned(), "rebuild".to_owned(), OperationState::Undone, "disk-full".to_owned());
    assert_eq!(counts.jobs, BTreeMap::from([(key, 1)]));
    assert_eq!(counts.rollbacks.values().sum::<u64>(), 1);
}

#[test]
fn an_order_is_there_as_soon_as_it_is_sent_and_ends_when_it_is_refused_or_replaced() {
    let ledger = Ledger::new();
    let order = |id: &str| job(id, Directive::Checkpoint, JobState::Pending, None).order;
    let state = |id: &str| ledger.operation("main", id).unwrap().state;
    ledger.sent(&main(), 1, &order("o1"));
    ledger.sent(&main(), 2, &order("o1"));
    ledger.refused(&main(), 3, "o1", &Failure::new(Code::Busy, "o0 runs"));
    assert_eq!((state("o1"), ledger.operations("main").len()), (OperationState::Running, 1));
    ledger.sent(&main(), 4, &order("o2"));
    assert_eq!((state("o1"), state("o2")), (OperationState::Undone, OperationState::Running));
    ledger.refused(&main(), 5, "o2", &Failure::new(Code::WrongRole, "a primary"));
    let ended = ledger.operation("main", "o2").unwrap();
    assert_eq!((ended.state, ended.text.as_str(), ended.ended_ms), (OperationState::Undone, "a primary", Some(5)));
    // what was taken goes on, whatever is sent
    ledger.sent(&main(), 6, &order("o3"));
    ledger.moved(&main(), &"b".into(), &job("o3", Directive::Checkpoint, JobState::InProgress, None));
    ledger.sent(&main(), 7, &order("o4"));
    assert_eq!(state("o3"), OperationState::Running);
    ledger.moved(&main(), &"b".into(), &job("o3", Directive::Checkpoint, JobState::Completed, None));
    let counts = ledger.counts().remove("main").unwrap();
    assert_eq!((counts.jobs.values().sum::<u64>(), state("o3")), (3, OperationState::Done));
}

#[test]
fn steps_and_jobs_are_found_at_their_operation() {
    let ledger = Ledger::new();
    let mut follower = ledger.follow();
    let begins = Event { node: None, grave: true, operation: Some("main-f1".to_owned()), text: "it begins".to_owned() };
    ledger.tell(&main(), 1, begins); // its record is still on the way
    ledger.stored(&main(), 2, &record("a", 1, Some(failover("main-f1"))));
    let event = Event {
        node: Some("a".into()),
        grave: false,
        operation: Some("main-f1".to_owned()),
        text: "fencing".to_owned(),
    };
    ledger.tell(&main(), 5, event);
    ledger.moved(&main(), &"a".into(), &job("main-f1-fence-a", Directive::Fence, JobState::Completed, None));
    let operation = ledger.operation("main", "main-f1-fence-a").unwrap();
    assert_eq!((operation.id.as_str(), operation.text.as_str()), ("main-f1", "a: fencing"));
    assert_eq!((operation.steps.len(), operation.jobs.len(), operation.state), (2, 1, OperationState::Running));
    assert_eq!(ledger.operations("main").len(), 1);
    assert_eq!(follower.try_recv().unwrap().seq, 1);
    assert_eq!((ledger.events("main").len(), operation.began_ms), (2, 1));
    assert!(ledger.operation("main", "other").is_none() && ledger.events("other").is_empty());
    let line = serde_json::to_string(&*ledger.events("main")[1]).unwrap();
    assert_eq!(
        line,
        r#"{"seq":2,"wall_ms":5,"cluster":"main","node":"a","grave":false,"operation":"main-f1","text":"fencing"}"#
    );
}
