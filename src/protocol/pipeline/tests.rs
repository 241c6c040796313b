//! The account of replies, case by case and against any order of messages.

use super::*;
use Reply::{Forward, Swallow};
use proptest::prelude::*;

fn ready(pipeline: &mut Pipeline, status: u8) -> Result<Receipt, Desync> {
    pipeline.receive(b'Z', Some(status))
}

fn with(owed: impl IntoIterator<Item = Owed>) -> Pipeline {
    let mut pipeline = Pipeline::new();
    for one in owed {
        pipeline.push(one).unwrap();
    }
    pipeline
}

#[test]
fn a_message_nobody_is_owed_is_a_desync() {
    for tag in *b"123CDGHIKRTVWZcdnstv" {
        assert_eq!(Pipeline::new().receive(tag, Some(b'I')), Err(Desync { tag }));
    }
    assert_eq!(with([Owed::Bind(Forward)]).receive(b'1', None), Err(Desync { tag: b'1' }));
    assert_eq!(with([Owed::Sync(Forward)]).receive(b'D', None), Err(Desync { tag: b'D' }));
    assert_eq!(ready(&mut with([Owed::Execute(Forward), Owed::Sync(Forward)]), b'I'), Err(Desync { tag: b'Z' }));
    assert_eq!(ready(&mut with([Owed::Sync(Forward)]), b'X'), Err(Desync { tag: b'Z' }));
}

#[test]
fn it_is_not_settled_at_the_first_of_two_readies() {
    let mut pipeline = with([Owed::Query(Forward), Owed::Query(Forward)]);
    assert_eq!(ready(&mut pipeline, b'I'), Ok(Receipt::Ready));
    assert_eq!(pipeline.status(), b'I');
    assert!(!pipeline.settled());
    assert_eq!(ready(&mut pipeline, b'I'), Ok(Receipt::Ready));
    assert!(pipeline.settled());
}

#[test]
fn answers_without_a_sync_do_not_settle_a_batch() {
    let mut pipeline = with([Owed::Execute(Forward)]);
    pipeline.receive(b'C', None).unwrap();
    assert!(pipeline.quiet() && !pipeline.settled(), "its work is not committed");
    pipeline.push(Owed::Sync(Forward)).unwrap();
    ready(&mut pipeline, b'I').unwrap();
    assert!(pipeline.settled());
}

#[test]
fn an_error_skips_to_the_sync_even_over_a_simple_query() {
    let mut pipeline = with([
        Owed::Parse { id: 7, serial: 4, reply: Forward },
        Owed::Bind(Forward),
        Owed::Query(Forward),
        Owed::Sync(Forward),
        Owed::Query(Forward),
    ]);
    assert_eq!(pipeline.receive(b'E', None), Ok(Receipt::Forward));
    assert_eq!(pipeline.take_events().collect::<Vec<_>>(), [Event::NotParsed(7), Event::Failed(4)]);
    assert_eq!(ready(&mut pipeline, b'I'), Ok(Receipt::Ready));
    assert_eq!(pipeline.readies(), 1);
}

#[test]
fn an_error_before_the_sync_was_sent_skips_what_is_sent_until_then() {
    let mut pipeline = with([Owed::Execute(Forward)]);
    pipeline.receive(b'E', None).unwrap();
    assert!(!pipeline.settled());
    pipeline.push(Owed::Query(Forward)).unwrap();
    pipeline.push(Owed::Close { id: 3, reply: Swallow }).unwrap();
    assert_eq!(pipeline.take_events().collect::<Vec<_>>(), [Event::NotClosed(3)]);
    assert_eq!(pipeline.readies(), 0);
    pipeline.push(Owed::Sync(Forward)).unwrap();
    assert_eq!(ready(&mut pipeline, b'E'), Ok(Receipt::Ready));
    assert!(pipeline.settled());
}

#[test]
fn a_local_answer_waits_for_its_turn_and_an_error_takes_it_away() {
    let mut pipeline = with([Owed::Execute(Forward), Owed::Local(Local::ParseComplete, 0), Owed::Sync(Forward)]);
    assert_eq!(pipeline.due(), None);
    let mut failed = pipeline.clone();
    pipeline.receive(b'C', None).unwrap();
    assert_eq!(pipeline.due(), Some(Local::ParseComplete));
    assert!(!pipeline.has_edits());
    failed.receive(b'E', None).unwrap();
    assert_eq!(failed.due(), None);
    assert!(!failed.has_edits());
}

#[test]
fn a_request_made_to_fail_is_answered_with_our_error_unless_an_earlier_one_failed() {
    let ours = || Owed::FailAs(b"ours".to_vec().into());
    let mut pipeline = with([ours(), Owed::Sync(Forward)]);
    assert_eq!(pipeline.receive(b'E', None), Ok(Receipt::Replace(b"ours".to_vec().into())));
    let mut pipeline = with([Owed::Bind(Forward), ours(), Owed::Sync(Forward)]);
    assert_eq!(pipeline.receive(b'E', None), Ok(Receipt::Forward));
    assert_eq!(with([ours()]).receive(b'2', None), Err(Desync { tag: b'2' }));
}

#[test]
fn copy_data_sent_ahead_ends_its_copy_and_a_late_copy_done_is_nothing() {
    let mut ahead = with([Owed::Query(Forward), Owed::CopyEnd, Owed::Query(Forward)]);
    ahead.receive(b'G', None).unwrap();
    assert!(!ahead.reads_copy());
    ahead.receive(b'C', None).unwrap();
    ready(&mut ahead, b'I').unwrap();
    assert_eq!(ahead.len(), 1);

    let mut refused = with([Owed::Query(Forward), Owed::CopyEnd]);
    refused.receive(b'E', None).unwrap();
    ready(&mut refused, b'I').unwrap();
    assert!(refused.settled());
    refused.push(Owed::CopyEnd).unwrap();
    assert!(refused.settled());
}

#[test]
fn while_the_server_reads_copy_data_a_sync_is_ignored_and_a_query_is_refused() {
    let mut pipeline = with([Owed::Execute(Forward)]);
    pipeline.receive(b'G', None).unwrap();
    pipeline.push(Owed::Sync(Forward)).unwrap();
    assert_eq!(pipeline.readies(), 0);
    assert_eq!(pipeline.push(Owed::Query(Forward)), Err(InCopy));
    pipeline.push(Owed::CopyEnd).unwrap();
    pipeline.push(Owed::Sync(Forward)).unwrap();
    pipeline.receive(b'C', None).unwrap();
    ready(&mut pipeline, b'I').unwrap();
    assert!(pipeline.settled());
}

#[test]
fn a_failed_prefix_takes_the_clients_query_with_it() {
    let mut pipeline = Pipeline::new();
    pipeline.begin_prefix();
    for owed in [Owed::Bind(Swallow), Owed::Execute(Reply::PrefixEnd), Owed::Query(Forward)] {
        pipeline.push(owed).unwrap();
    }
    assert_eq!(pipeline.receive(b'E', None), Ok(Receipt::PrefixFailed));
    assert!(pipeline.skipping());
    assert_eq!(pipeline.readies(), 0);
    assert!(!pipeline.has_edits());
}

/// A client's message, and whether the model server fails it.
#[derive(Clone, Debug)]
enum Step {
    Parse(bool),
    Bind(bool),
    Describe(bool),
    Execute { rows: u8, fails: bool },
    Local,
    Query { rows: u8, fails: bool },
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Parse),
        any::<bool>().prop_map(Step::Bind),
        any::<bool>().prop_map(Step::Describe),
        (0..3u8, any::<bool>()).prop_map(|(rows, fails)| Step::Execute { rows, fails }),
        Just(Step::Local),
        (0..3u8, any::<bool>()).prop_map(|(rows, fails)| Step::Query { rows, fails }),
        Just(Step::Sync),
    ]
}

fn succeeding(mut step: Step) -> Step {
    match &mut step {
        Step::Parse(fails) | Step::Bind(fails) | Step::Describe(fails) => *fails = false,
        Step::Execute { fails, .. } | Step::Query { fails, .. } => *fails = false,
        Step::Local | Step::Sync => {}
    }
    step
}

/// What PostgreSQL answers to `steps`, message by message, and what a direct client would have read: the same, with
/// the answers to `Step::Local` in their places.
fn model(steps: &[Step]) -> (Vec<u8>, Vec<u8>) {
    let (mut server, mut direct, mut skipping) = (Vec::new(), Vec::new(), false);
    for step in steps {
        let said: &[u8] = match step {
            Step::Sync => {
                skipping = false;
                b"Z"
            }
            _ if skipping => b"",
            Step::Parse(fails) | Step::Bind(fails) | Step::Describe(fails) | Step::Execute { fails, .. } if *fails => {
                skipping = true;
                b"E"
            }
            Step::Parse(_) => b"1",
            Step::Bind(_) => b"2",
            Step::Describe(_) => b"tT",
            Step::Execute { rows, .. } => [b"C" as &[u8], b"DC", b"DDC"][usize::from(*rows)],
            Step::Query { rows, fails: false } => [b"CZ" as &[u8], b"TDCZ", b"TDDCZ"][usize::from(*rows)],
            Step::Query { .. } => b"EZ",
            Step::Local => {
                direct.push(b'l');
                b""
            }
        };
        server.extend(said);
        direct.extend(said);
    }
    (server, direct)
}

fn owed_for(step: &Step) -> Owed {
    match step {
        Step::Parse(_) => Owed::Parse { id: 0, serial: 0, reply: Forward },
        Step::Bind(_) => Owed::Bind(Forward),
        Step::Describe(_) => Owed::DescribeStatement,
        Step::Execute { .. } => Owed::Execute(Forward),
        Step::Local => Owed::Local(Local::ParseComplete, 0),
        Step::Query { .. } => Owed::Query(Forward),
        Step::Sync => Owed::Sync(Forward),
    }
}

proptest! {
    #[test]
    fn the_client_reads_what_a_direct_client_would_however_sending_and_answering_interleave(
        mut steps in prop::collection::vec(step(), 1..40),
        schedule in prop::collection::vec(any::<bool>(), 400),
    ) {
        steps.push(Step::Sync);
        let (server, direct) = model(&steps);
        // how many answers exist once so many steps have been sent
        let available: Vec<usize> = (0..=steps.len()).map(|n| model(&steps[..n]).0.len()).collect();
        let (mut sent, mut answered, mut read) = (0, 0, Vec::new());
        let mut pipeline = Pipeline::new();
        let mut schedule = schedule.into_iter();
        while answered < server.len() || sent < steps.len() {
            let answer = schedule.next().unwrap_or(false) || sent == steps.len();
            if answer && answered < available[sent] {
                let tag = server[answered];
                answered += 1;
                let receipt = pipeline.receive(tag, Some(b'I')).unwrap();
                prop_assert!(matches!(receipt, Receipt::Forward | Receipt::Ready));
                read.push(tag);
            } else if sent < steps.len() {
                pipeline.push(owed_for(&steps[sent])).unwrap();
                sent += 1;
            }
            while pipeline.due().is_some() {
                read.push(b'l');
            }
        }
        prop_assert_eq!(String::from_utf8(read), String::from_utf8(direct));
        prop_assert!(pipeline.settled());
        prop_assert_eq!(pipeline.readies(), 0);
        prop_assert!(!pipeline.has_edits());
    }

    #[test]
    fn an_answer_left_out_is_never_taken_for_settled(
        mut steps in prop::collection::vec(step().prop_map(succeeding), 1..20),
        lost in any::<prop::sample::Index>(),
    ) {
        steps.push(Step::Sync);
        steps.push(Step::Query { rows: 1, fails: false });
        let (server, _) = model(&steps);
        let mut pipeline = with(steps.iter().map(owed_for));
        let lost = lost.index(server.len());
        // A lost row or tag inside a query, or a lost answer in front of an error, cannot be told by anybody.
        prop_assume!(matches!(server[lost], b'1' | b'2' | b't' | b'Z') && !server.contains(&b'E'));
        let mut clean = true;
        for (_, tag) in server.iter().enumerate().filter(|(at, _)| *at != lost) {
            while pipeline.due().is_some() {}
            if pipeline.receive(*tag, Some(b'I')).is_err() {
                clean = false;
                break;
            }
        }
        prop_assert!(!clean || !pipeline.settled());
    }

    #[test]
    fn no_server_can_make_it_panic(
        steps in prop::collection::vec(step(), 0..20),
        said in prop::collection::vec(any::<(u8, u8)>(), 0..60),
    ) {
        let mut pipeline = with(steps.iter().map(owed_for));
        for (tag, first) in said {
            let tag = b"123ACDEGHINSTVWZcdnst"[usize::from(tag) % 21];
            while pipeline.due().is_some() {}
            if pipeline.receive(tag, Some(first)).is_err() {
                break;
            }
        }
    }
}
