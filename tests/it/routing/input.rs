//! Texts that make no sense, or too much of it: answered by the primary, and nobody waits for them.

use std::time::{Duration, Instant};

use super::{PATIENT, WHERE, reader, served, shared};
use crate::support::wire::{self, Client, Message};
use crate::support::{SOON, eventually};

#[test]
fn bad_input_is_answered_as_postgresql_answers_it_and_stalls_nobody() {
    let (howdah, tenant) = served(&format!("[limits]\nworkers = 1\n\n{PATIENT}"));
    let (mut client, mut other) = (reader(&howdah, &tenant), reader(&howdah, &tenant));
    let mut direct = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
    direct.login(&tenant.name, &tenant.password, &tenant.name);
    let deep = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n)).into_bytes();
    let chain = |n: usize| format!("SELECT true{}", " AND true".repeat(n)).into_bytes();
    let inputs: Vec<(&str, Vec<u8>)> = vec![
        ("nonsense", b"SELEC 1 FRM".to_vec()),
        ("1 MB of nonsense", b"SELEC 1 ".repeat(130_000)),
        ("1 MB of comment", [b"/* ".as_slice(), &b"x".repeat(1 << 20), b" */ SELECT 1"].concat()),
        ("1 MB of a string", [b"SELECT length('".as_slice(), &b"x".repeat(1 << 20), b"')"].concat()),
        ("a short chain", chain(500)),
        ("a chain of 100,000", chain(100_000)),
        ("a hundred parentheses", deep(100)),
        ("a thousand parentheses", deep(1_000)),
        ("ten thousand parentheses", deep(10_000)),
        ("not UTF-8", b"SELECT '\xff\xfe'".to_vec()),
        ("half a character", b"SELECT 'a\xc3".to_vec()),
        ("no end of a string", b"SELECT 'a".to_vec()),
        ("no end of an identifier", b"SELECT \"a".to_vec()),
        ("no end of a comment", b"SELECT 1 /* /* */".to_vec()),
        ("no end of a dollar quote", b"SELECT $a$ $b$".to_vec()),
        ("an empty text", b"".to_vec()),
        ("semicolons", b";;;".to_vec()),
        ("comments alone", b"-- x\n/* y */".to_vec()),
        ("a backslash", b"SELECT E'\\'', 1 --'".to_vec()),
        ("many statements", b"SELECT 1;".repeat(2_000)),
    ];
    let simple = |sql: &[u8]| wire::tagged(b'Q', &[sql, &[0]].concat());
    let extended = |sql: &[u8]| {
        [
            wire::tagged(b'P', &[&[0], sql, &[0, 0, 0]].concat()),
            wire::bind("", "", &[]),
            wire::execute("", 0),
            wire::sync(),
        ]
        .concat()
    };
    let comparable = |messages: Vec<Message>| -> Vec<String> {
        let show = |m: &Message| match m.tag {
            b'E' => format!("{} {}", m.fields().code, m.fields().message),
            b'D' => format!("{:?}", m.columns()),
            _ => m.short(),
        };
        messages.iter().map(show).collect()
    };
    let mut longest = (Duration::ZERO, "");
    for (what, sql) in &inputs {
        for bytes in [simple(sql), extended(sql)] {
            direct.send(&bytes);
            let expected = comparable(direct.read_until_ready());
            client.send(&bytes);
            let since = Instant::now();
            assert_eq!(other.value("SELECT 1"), "1");
            longest = longest.max((since.elapsed(), *what));
            assert_eq!(comparable(client.read_until_ready()), expected, "{what}");
        }
    }
    eprintln!("longest another client on the same worker waited: {longest:?}");
    assert!(longest.0 < SOON / 3, "{longest:?}");
    for client in [&mut direct, &mut client] {
        client.query("SET standard_conforming_strings = off");
    }
    for sql in ["SELECT 'a\\'', pg_is_in_recovery() --'", "SELECT 'a\\\\', 1", "SELECT '\\'; SELECT 1 --'"] {
        assert_eq!(comparable(client.query(sql)), comparable(direct.query(sql)), "{sql}");
    }
    assert_eq!(client.value(WHERE), "f", "what a text is cannot be told apart there");
    client.query("RESET standard_conforming_strings");
    eventually("reads go to a standby again", SOON, || client.value(WHERE) == "t");
}
