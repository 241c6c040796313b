//! The account of one server connection, under any order of requests and any server at all.

#![no_main]

use arbitrary::Arbitrary;
use howdah::protocol::pipeline::{Local, Owed, Pipeline, Receipt, Reply};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug, Clone, Copy)]
enum To {
    Client,
    Nobody,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Parse(u8, u8, To),
    Bind(To),
    DescribeStatement,
    DescribePortal,
    Execute(To),
    Close(u8, To),
    Sync(To),
    Query(To),
    Function,
    CopyEnd,
    Local(bool, u8),
    FailAs,
    Prefix(u8),
    Receive(u8, u8),
    Due,
    SwallowReadies,
    TakeEvents,
}

fn reply(to: To) -> Reply {
    match to {
        To::Client => Reply::Forward,
        To::Nobody => Reply::Swallow,
    }
}

fuzz_target!(|ops: Vec<Op>| {
    let mut pipeline = Pipeline::new();
    for op in ops {
        let owed = match op {
            Op::Parse(id, serial, to) => Owed::Parse { id: id.into(), serial: serial.into(), reply: reply(to) },
            Op::Bind(to) => Owed::Bind(reply(to)),
            Op::DescribeStatement => Owed::DescribeStatement,
            Op::DescribePortal => Owed::DescribePortal,
            Op::Execute(to) => Owed::Execute(reply(to)),
            Op::Close(id, to) => Owed::Close { id: id.into(), reply: reply(to) },
            Op::Sync(to) => Owed::Sync(reply(to)),
            Op::Query(to) => Owed::Query(reply(to)),
            Op::Function => Owed::Function,
            Op::CopyEnd => Owed::CopyEnd,
            Op::Local(parse, serial) => {
                Owed::Local(if parse { Local::ParseComplete } else { Local::CloseComplete }, serial.into())
            }
            Op::FailAs => Owed::FailAs(b"ours".to_vec().into()),
            Op::Prefix(steps) => {
                // only ever in front of a server at rest
                if !pipeline.settled() || pipeline.status() != b'I' || pipeline.prefix_open() {
                    continue;
                }
                pipeline.begin_prefix();
                for _ in 0..steps % 4 {
                    pipeline.push(Owed::Execute(Reply::Swallow)).unwrap();
                }
                Owed::Execute(Reply::PrefixEnd)
            }
            Op::Receive(tag, first) => {
                let said = b"123ACDEGHINRSTVWZcdnst"[usize::from(tag) % 22];
                let first = b"ITE?"[usize::from(first) % 4];
                let before = (pipeline.len(), pipeline.readies());
                match pipeline.receive(said, Some(first)) {
                    Err(desync) => {
                        assert_eq!(desync.tag, said);
                        return; // the connection is closed
                    }
                    Ok(Receipt::Ready | Receipt::ReadySwallowed) => {
                        assert_eq!(said, b'Z');
                        assert_eq!(pipeline.readies() + 1, before.1);
                        assert_eq!(pipeline.status(), first);
                    }
                    Ok(Receipt::Unsolicited) => assert!(before.0 == 0 && said == b'E'),
                    // what was sent behind an error is skipped; a COPY takes no Sync for one
                    Ok(_) => assert!(pipeline.readies() <= before.1 && pipeline.len() <= before.0),
                }
                check(&pipeline);
                continue;
            }
            Op::Due => {
                pipeline.due();
                continue;
            }
            Op::SwallowReadies => {
                pipeline.swallow_readies();
                check(&pipeline);
                continue;
            }
            Op::TakeEvents => {
                pipeline.take_events().for_each(drop);
                assert!(!pipeline.has_events());
                continue;
            }
        };
        let before = (pipeline.len(), pipeline.readies());
        let refused = pipeline.push(owed).is_err();
        assert!(!refused || pipeline.reads_copy(), "only a COPY refuses");
        assert!(pipeline.len() <= before.0 + 1 && pipeline.readies() <= before.1 + 1);
        check(&pipeline);
    }
});

fn check(pipeline: &Pipeline) {
    assert!(pipeline.readies() <= pipeline.len());
    assert_eq!(pipeline.quiet(), pipeline.is_empty());
    if pipeline.settled() {
        assert!(pipeline.is_empty() && pipeline.readies() == 0 && !pipeline.has_edits());
        assert!(!pipeline.skipping() && !pipeline.has_open_batch() && !pipeline.reads_copy());
    }
}
