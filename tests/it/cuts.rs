//! A server that goes in the middle of a conversation, at any message and within any, takes no client with it that does not depend
//! on it; and what the client is told of each row is true.
//!
//! A relay between howdah and the shared primary cuts a connection after so many bytes, in the one direction or the other.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use crate::fake::FakeNode;
use crate::support::wire::{self, Client, Message};
use crate::support::{Tenant, shared};

/// One direction of the relay.
#[derive(Default)]
struct Way {
    /// So many bytes more pass; `None`: all.
    left: Option<usize>,
    /// What has passed, where that is wanted.
    passed: Option<Vec<u8>>,
}

/// Both: from the server, and to it.
type Ways = Arc<[Mutex<Way>; 2]>;

fn relay(ways: &Ways, mut howdah: TcpStream, packet: &[u8]) {
    let mut server = TcpStream::connect(("127.0.0.1", shared().primary().port())).unwrap();
    server.set_nodelay(true).unwrap();
    server.write_all(packet).unwrap();
    let (from, to) = (howdah.try_clone().unwrap(), server.try_clone().unwrap());
    let there = Arc::clone(ways);
    thread::spawn(move || pump(&there[1], from, to));
    pump(&ways[0], server.try_clone().unwrap(), howdah.try_clone().unwrap());
    let _ = howdah.flush();
}

fn pump(way: &Mutex<Way>, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let passing = {
            let mut way = way.lock();
            let passing = way.left.map_or(read, |left| left.min(read));
            way.left = way.left.map(|left| left - passing);
            if let Some(passed) = &mut way.passed {
                passed.extend(&buffer[..passing]);
            }
            passing
        };
        if to.write_all(&buffer[..passing]).is_err() {
            break;
        }
        let mut way = way.lock();
        if passing < read || way.left == Some(0) {
            way.left = None; // the next connection is a good one
            break;
        }
    }
    for socket in [from, to] {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// What came of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    NotDone,
    Unknown,
}

/// What an answer says; it is whole, and of errors only those that leave a client where it was.
fn told(messages: &[Message]) -> Told {
    let errors: Vec<_> = messages.iter().filter(|message| message.tag == b'E').map(Message::short).collect();
    match errors.as_slice() {
        [] => Told::Done,
        [one] if one == "E:40001" => Told::NotDone,
        [one] if one == "E:08007" => Told::Unknown,
        other => panic!("{other:?}"),
    }
}

/// Everything a client does, with rows of this number, and what it was told of each.
fn converse(client: &mut Client, number: usize) -> Vec<(usize, Told)> {
    let row = |part: usize| number * 10 + part;
    let mut rows = vec![(row(0), told(&client.query(&format!("INSERT INTO cut VALUES ({})", row(0)))))];
    let texts = ["BEGIN".to_owned(), format!("INSERT INTO cut VALUES ({})", row(1)), "COMMIT".to_owned()];
    let mut block = Told::Done;
    for text in &texts {
        block = told(&client.query(text));
        if block != Told::Done {
            break;
        }
    }
    rows.push((row(1), block));
    // ends what has been lost; where nothing has it is a warning, and no server that goes makes an error of it
    assert_eq!(client.query_short("ROLLBACK").last().map(String::as_str), Some("Z:I"));
    let ends = ["ROLLBACK", "COMMIT"].map(|text| told(&client.query(text)));
    assert!(!ends.contains(&Told::Unknown), "there is nothing to lose, at worst an answer that was half given");
    let number = row(2).to_string();
    client.send(&[wire::bind("", "insert", &[Some(&number)]), wire::execute("", 0), wire::sync()].concat());
    rows.push((row(2), told(&client.read_until_ready())));
    // more than one row in each read, and reads that end within rows
    told(&client.query("SELECT repeat('x', 3000) FROM generate_series(1, 4)"));
    rows
}

/// Where messages begin, behind their headers, and before they end.
fn places(bytes: &[u8]) -> BTreeSet<usize> {
    let (mut places, mut at) = (BTreeSet::new(), 0);
    while let Some(header) = bytes.get(at..at + 5) {
        let end = at + 1 + usize::try_from(u32::from_be_bytes(header[1..].try_into().unwrap())).unwrap();
        places.extend([at, at + 5, end - 1].into_iter().filter(|place| *place > 0 && *place < bytes.len()));
        at = end;
    }
    places
}

#[test]
fn a_server_that_goes_at_any_message_takes_no_client_with_it() {
    let tenant = Tenant::shared();
    let ways = Ways::default();
    let relayed = Arc::clone(&ways);
    let node = FakeNode::start_reading(&tenant.name, move |socket, packet| relay(&relayed, socket, packet));
    let howdah = node.howdah_that_asks("[pool]\nsize = 1\n");
    let (mut client, mut other) = (howdah.login(&tenant), howdah.login(&tenant));
    other.query("CREATE TABLE cut (i int)");
    other.query("SET work_mem = '5MB'");
    client.query("SET work_mem = '6MB'");
    client.send(&[wire::parse("insert", "INSERT INTO cut VALUES ($1)", &[]), wire::sync()].concat());
    client.read_until_ready();
    // the server is as another client has left it: a state prefix travels with the first turn
    let mut begin = |client: &mut Client| {
        assert_eq!(client.value("SHOW work_mem"), "6MB");
        assert_eq!(other.value("SHOW work_mem"), "5MB");
    };
    begin(&mut client);
    for way in &*ways {
        way.lock().passed = Some(Vec::new());
    }
    assert_eq!(converse(&mut client, 0).iter().map(|(_, told)| *told).collect::<Vec<_>>(), [Told::Done; 3]);
    let passed = [0, 1].map(|way| places(&ways[way].lock().passed.take().unwrap()));
    let mut rows = Vec::new();
    for (way, place) in
        passed.iter().enumerate().flat_map(|(way, places)| places.iter().map(move |place| (way, *place)))
    {
        begin(&mut client);
        ways[way].lock().left = Some(place);
        rows.extend(converse(&mut client, rows.len() + 10));
        assert_eq!(ways[way].lock().left, None, "it was not cut at {place} of {way}");
    }
    let there: Vec<usize> = client.column("SELECT i FROM cut").iter().map(|i| i.parse().unwrap()).collect();
    let count = |row: usize| there.iter().filter(|there| **there == row).count();
    for (row, told) in &rows {
        let fits = match told {
            Told::Done => count(*row) == 1,
            Told::NotDone => count(*row) == 0,
            Told::Unknown => count(*row) <= 1,
        };
        assert!(fits, "row {row}: {told:?}, and is there {} times", count(*row));
    }
    let of = |kind: Told| rows.iter().filter(|(_, told)| *told == kind).count();
    println!(
        "{} cuts, rows {} done, {} not, {} in doubt",
        rows.len() / 3,
        of(Told::Done),
        of(Told::NotDone),
        of(Told::Unknown)
    );
    assert!(of(Told::NotDone) > 5 && of(Told::Unknown) > 5, "the cuts were somewhere else");

    // a message of more than is ever held back, cut on its way
    begin(&mut client);
    ways[1].lock().left = Some(150_000);
    let long = client.query(&format!("INSERT INTO cut SELECT length('{}')", "x".repeat(400_000)));
    assert_eq!(told(&long), Told::Unknown);
    assert_eq!(client.value("SELECT count(*) FROM cut WHERE i = 400000"), "0");
}
