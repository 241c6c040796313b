//! A client's bytes on their way to a server and the answers on their way back, with nothing but the pure parts.
//!
//! The client is any bytes. The server is PostgreSQL's rules (skip to Sync, what a COPY ignores) with choices drawn from
//! the input: what fails, what copies, how many rows. Whatever the two do and however they interleave, no answer may be
//! without an owner, and what is settled must be at rest on the server's side too.

#![no_main]

use std::collections::VecDeque;

use howdah::protocol::frame::{HEADER_LEN, Scan, scan_client, split_cstr};
use howdah::protocol::pipeline::{Owed, Pipeline, Receipt, Reply};
use howdah::proxy::server::statements::Prepared;
use howdah::sql::opening::Opening;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, Vec<u8>, Vec<u8>, Vec<u8>)| {
    let (raw, client, choices, nonsense) = input;
    let client = if raw { client } else { client.into_iter().flat_map(message).collect() };
    run(&client, &choices);
    against_nonsense(&client, &nonsense);
});

/// A small valid message for each byte, so that not every input has to find the framing.
fn message(kind: u8) -> Vec<u8> {
    let body: &[u8] = match kind % 16 {
        0 => b"select 1\0",
        1 | 15 => return framed(b'S', b""),
        2 => return framed(b'P', b"\0select 1\0\0\0"),
        3 => return framed(b'P', b"name\0copy t from stdin\0\0\0"),
        4 => return framed(b'B', b"\0\0\0\0\0\0\0\0"),
        5 => return framed(b'B', b"\0name\0\0\0\0\0\0\0"),
        6 => return framed(b'E', b"\0\0\0\0\0"),
        7 => return framed(b'D', b"S\0"),
        8 => return framed(b'D', b"P\0"),
        9 => return framed(b'C', b"Sname\0"),
        10 => return framed(b'H', b""),
        11 => return framed(b'F', b"\0\0\0\x01\0\0\0\0\0\x01"),
        12 => return framed(b'd', b"1\n"),
        13 => return framed(b'c', b""),
        _ => return framed(b'f', b"no\0"),
    };
    framed(b'Q', body)
}

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// How PostgreSQL goes about what it is sent.
#[derive(Default)]
struct Model<'a> {
    choices: &'a [u8],
    inbox: VecDeque<u8>,
    outbox: VecDeque<(u8, u8)>,
    skipping: bool,
    /// A COPY reads; `true` when a simple query began it.
    copying: Option<bool>,
    /// Something of the extended protocol has run since the last Sync.
    open: bool,
    /// It gave up the connection, as it does over a message that is no part of a COPY.
    gone: bool,
    /// A Sync was sent into what may become a COPY and nothing between them ended the data. Whether the server takes it
    /// for a part of the data is not for anybody to know; no client does that, and its server connection is given up.
    unclear: bool,
}

impl Model<'_> {
    fn choose(&mut self, of: u8) -> u8 {
        match self.choices.split_first() {
            Some((choice, rest)) => {
                self.choices = rest;
                choice % of
            }
            None => 0,
        }
    }

    fn say(&mut self, tags: &[u8]) {
        self.outbox.extend(tags.iter().map(|tag| (*tag, 0)));
    }

    fn ready(&mut self) {
        let status = b"ITE"[usize::from(self.choose(3))];
        self.outbox.push_back((b'Z', status));
    }

    fn fail(&mut self) {
        self.say(b"E");
        self.skipping = true;
    }

    fn step(&mut self) {
        let Some(tag) = self.inbox.pop_front() else { return };
        if let Some(simple) = self.copying {
            match tag {
                b'd' if self.choose(8) != 7 => {}
                b'c' if self.choose(4) != 3 => {
                    self.copying = None;
                    self.say(b"C");
                    if simple {
                        self.ready();
                    }
                }
                b'd' | b'c' | b'f' => {
                    self.copying = None;
                    self.say(b"E");
                    if simple {
                        self.ready();
                    } else {
                        self.skipping = true;
                    }
                }
                b'S' | b'H' => {}
                _ => self.gone = true,
            }
            return;
        }
        if self.skipping && tag != b'S' {
            return;
        }
        match tag {
            b'Q' | b'q' => {
                self.open = false;
                for _ in 0..=self.choose(2) {
                    match self.choose(if tag == b'q' { 8 } else { 6 }) {
                        0 => self.say(b"TDDC"),
                        1 => self.say(b"C"),
                        2 => self.say(b"I"),
                        3 => self.say(b"HddcC"),
                        4 => self.say(b"NSC"),
                        5 => {
                            self.say(b"TDE");
                            break;
                        }
                        _ => {
                            self.say(b"G");
                            self.copying = Some(true);
                            return;
                        }
                    }
                }
                self.ready();
            }
            b'F' => {
                self.open = false;
                let answer: &[u8] = if self.choose(2) == 0 { b"V" } else { b"E" };
                self.say(answer);
                self.ready();
            }
            b'S' => {
                (self.skipping, self.open) = (false, false);
                if self.choose(8) == 7 {
                    self.say(b"E"); // a deferred constraint
                }
                self.ready();
            }
            b'P' | b'B' | b's' | b'p' | b'E' | b'e' | b'C' => {
                self.open = true;
                match (tag, self.choose(8)) {
                    (_, 7) => self.fail(),
                    (b'P', _) => self.say(b"1"),
                    (b'B', _) => self.say(b"2"),
                    (b'C', _) => self.say(b"3"),
                    (b's', 6) => self.say(b"tn"),
                    (b's', _) => self.say(b"tT"),
                    (b'p', 6) => self.say(b"n"),
                    (b'p', _) => self.say(b"T"),
                    (b'e', 6) => {
                        self.say(b"G");
                        self.copying = Some(false);
                    }
                    (_, 5) => self.say(b"HddcC"),
                    (_, 4) => self.say(b"DDs"),
                    (_, 3) => self.say(b"I"),
                    (_, 2) => {
                        self.say(b"DD");
                        self.fail();
                    }
                    (_, _) => self.say(b"DC"),
                }
            }
            _ => {} // Flush; late data of a COPY
        }
    }
}

/// The whole messages at the front of `bytes`: tag and body.
fn next_message<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let Ok(Scan::Header { tag, body_len }) = scan_client(bytes) else { return None };
    let body = bytes.get(HEADER_LEN..HEADER_LEN + body_len as usize)?;
    *bytes = &bytes[HEADER_LEN + body_len as usize..];
    Some((tag, body))
}

fn owed(tag: u8, body: &[u8]) -> Option<Owed> {
    Some(match tag {
        b'Q' => Owed::Query(Reply::Forward),
        b'P' => Owed::Parse { id: 0, serial: 0, reply: Reply::Forward },
        b'B' => Owed::Bind(Reply::Forward),
        b'D' if body.first() == Some(&b'S') => Owed::DescribeStatement,
        b'D' => Owed::DescribePortal,
        b'E' => Owed::Execute(Reply::Forward),
        b'C' => Owed::Close { id: 0, reply: Reply::Forward },
        b'S' => Owed::Sync(Reply::Forward),
        b'F' => Owed::Function,
        b'c' | b'f' => Owed::CopyEnd,
        _ => return None,
    })
}

fn run(mut client: &[u8], choices: &[u8]) {
    let mut pipeline = Pipeline::new();
    let mut server = Model { choices, ..Model::default() };
    let mut prepared = Prepared::default();
    let mut sent = Sent::default();
    loop {
        match server.choose(3) {
            // what follows the Execute of a COPY waits for its answer
            0 if sent.copy_asked && !pipeline.quiet() && !pipeline.reads_copy() => {
                while !server.inbox.is_empty() {
                    server.step();
                }
                sent.copy_asked &= !server.outbox.is_empty();
                if !receive(&mut pipeline, &mut server) {
                    return;
                }
            }
            0 => {
                let Some((tag, body)) = next_message(&mut client) else { break };
                if tag == b'X' {
                    break;
                }
                if matches!(tag, b'Q' | b'P') {
                    let sql = if tag == b'P' { split_cstr(body).map_or(body, |(_, sql)| sql) } else { body };
                    sent.opens = Opening::of(sql);
                    let id = sql.first().map_or(1, |byte| u64::from(*byte) + 1);
                    let need = prepared.use_statement(id, 4, false);
                    assert!(!need.close.contains(&id) || need.parse);
                }
                if !send(tag, body, &mut pipeline, &mut server, &mut sent) {
                    return; // a client that breaks the rules of COPY is cut off
                }
                if tag == b'S' {
                    prepared.next_batch();
                }
            }
            1 => server.step(),
            _ => {
                if !receive(&mut pipeline, &mut server) {
                    return;
                }
            }
        }
        check(&pipeline, &server);
    }
    // what is left over is brought to rest as for a client that has gone
    while !server.inbox.is_empty() && !server.gone {
        server.step();
    }
    while !server.outbox.is_empty() {
        if !receive(&mut pipeline, &mut server) {
            return;
        }
    }
    if server.gone {
        return;
    }
    if pipeline.reads_copy() {
        assert!(server.copying.is_some());
        assert!(send(b'f', b"gone\0", &mut pipeline, &mut server, &mut sent));
    }
    if pipeline.has_open_batch() || pipeline.skipping() {
        assert!(send(b'S', b"", &mut pipeline, &mut server, &mut sent));
    }
    while !server.inbox.is_empty() {
        server.step();
    }
    while !server.outbox.is_empty() {
        if !receive(&mut pipeline, &mut server) {
            return;
        }
    }
    if server.unclear {
        return;
    }
    assert!(pipeline.settled(), "a server at rest is still owed for: {pipeline:?}");
    check(&pipeline, &server);
}

/// What the session remembers of what it has sent.
struct Sent {
    opens: Opening,
    copy_bound: bool,
    copy_asked: bool,
    copy_query: bool,
}

impl Default for Sent {
    fn default() -> Self {
        Self { opens: Opening::Empty, copy_bound: false, copy_asked: false, copy_query: false }
    }
}

/// Accounts for a message as `session/request.rs` does; `false` when the client is cut off for it.
fn send(tag: u8, body: &[u8], pipeline: &mut Pipeline, server: &mut Model<'_>, sent: &mut Sent) -> bool {
    if matches!(tag, b'd' | b'c' | b'f') && pipeline.settled() {
        return true; // late data of a COPY that has failed goes nowhere
    }
    let ignored = tag == b'S' && pipeline.reads_copy();
    if let Some(owed) = owed(tag, body)
        && pipeline.push(owed).is_err()
    {
        return false;
    }
    sent.copy_query &= !pipeline.quiet() && !pipeline.reads_copy();
    match tag {
        b'Q' if sent.opens == Opening::Copy => sent.copy_query = true,
        b'P' => sent.copy_bound |= sent.opens == Opening::Copy,
        b'E' => sent.copy_asked = sent.copy_bound,
        b'c' | b'f' => (sent.copy_asked, sent.copy_query) = (false, false),
        b'S' if !ignored => {
            server.unclear |= sent.copy_query;
            (sent.copy_bound, sent.copy_asked) = (false, false);
        }
        _ => {}
    }
    if !ignored {
        server.inbox.push_back(match (tag, body.first()) {
            (b'D', Some(b'S')) => b's',
            (b'D', _) => b'p',
            (b'Q', _) if sent.opens == Opening::Copy => b'q',
            (b'E', _) if sent.copy_bound => b'e',
            _ => tag,
        });
    }
    true
}

/// Takes one message of the server's; `false` when the connection must be closed, which only a client that mixes
/// other messages into its COPY may cause.
fn receive(pipeline: &mut Pipeline, server: &mut Model<'_>) -> bool {
    let Some((tag, first)) = server.outbox.pop_front() else { return true };
    let readies = pipeline.readies();
    match pipeline.receive(tag, Some(first)) {
        Ok(Receipt::Unsolicited) | Err(_) if server.unclear => false,
        Ok(receipt) => {
            assert_ne!(receipt, Receipt::Unsolicited, "an error without an owner");
            assert_eq!(receipt == Receipt::Ready, tag == b'Z');
            if tag == b'Z' {
                assert_eq!((pipeline.readies() + 1, pipeline.status()), (readies, first));
            }
            true
        }
        Err(desync) => {
            assert_eq!(desync.tag, b'G', "an answer without an owner: {pipeline:?}");
            false
        }
    }
}

fn check(pipeline: &Pipeline, server: &Model<'_>) {
    assert!(pipeline.readies() <= pipeline.len());
    let said = server.outbox.iter().filter(|(tag, _)| *tag == b'Z').count();
    assert!(server.gone || server.unclear || pipeline.readies() >= said, "a ReadyForQuery nobody is owed");
    if pipeline.settled() && !server.gone && !server.unclear {
        let rests = server.inbox.iter().all(|tag| matches!(tag, b'd' | b'c' | b'f' | b'H'));
        assert!(rests && !server.skipping && server.copying.is_none() && !server.open, "settled, and not at rest");
        assert!(server.outbox.is_empty(), "settled, and more to come");
    }
}

/// A server that says anything: the connection is given up at the latest when it makes no sense, and nothing panics.
fn against_nonsense(mut client: &[u8], mut nonsense: &[u8]) {
    let mut pipeline = Pipeline::new();
    while let Some((tag, body)) = next_message(&mut client) {
        if let Some(owed) = owed(tag, body)
            && pipeline.push(owed).is_err()
        {
            return;
        }
        let Some(([count], rest)) = nonsense.split_first_chunk::<1>() else { return };
        nonsense = rest;
        for _ in 0..count % 8 {
            let Some(([tag, first], rest)) = nonsense.split_first_chunk::<2>() else { return };
            nonsense = rest;
            let tag = b"123ACDEGHINRSTVWZcdnst"[usize::from(*tag) % 22];
            let status = b"ITE"[usize::from(*first) % 3];
            if pipeline.receive(tag, Some(status)).is_err() {
                return;
            }
            assert!(pipeline.readies() <= pipeline.len());
        }
    }
}
