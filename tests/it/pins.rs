//! State that cannot move keeps its server with the client: found, told with its reason, and given up when it is gone.

use std::time::Duration;

use crate::support::script::Stage;
use crate::support::wire::{self, Client, bind, execute, parse, query, sync};
use crate::support::{Howdah, eventually};

const SOON: Duration = Duration::from_secs(20);

/// How many servers are pinned for this reason, by `/status`.
fn pinned(howdah: &Howdah, reason: &str) -> u64 {
    let pools = howdah.status()["pools"].as_array().unwrap().clone();
    pools.iter().filter_map(|pool| pool["pinned"][reason].as_u64()).sum()
}

/// Whether others get the server that the client had last, in a pool of two.
fn is_free(client: &mut Client, others: &mut [Client; 2]) -> bool {
    let last = client.value("SELECT pg_backend_pid()");
    let taken = others.each_mut().map(|other| {
        other.query("BEGIN");
        other.value("SELECT pg_backend_pid()")
    });
    others.iter_mut().for_each(|other| drop(other.query("COMMIT")));
    taken.contains(&last)
}

/// Whether the client keeps its server while another is used beside it.
fn stays(client: &mut Client, others: &mut [Client; 2]) -> bool {
    let last = client.value("SELECT pg_backend_pid()");
    (0..3).all(|_| {
        let theirs = others[0].value("SELECT pg_backend_pid()");
        theirs != last && client.value("SELECT pg_backend_pid()") == last
    })
}

#[test]
fn state_that_cannot_move_keeps_its_server_until_it_is_gone() {
    let stage = Stage::new("");
    let (mut client, mut others) = (stage.login("two"), [stage.login("two"), stage.login("two")]);
    stage.direct().query("CREATE FUNCTION lock_up() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(77)'");
    for (begin, use_it, expected, end, reason) in [
        ("CREATE TEMP TABLE tt AS SELECT 1 AS a", "SELECT a FROM tt", "1", "DROP TABLE tt", "temporary objects"),
        ("CREATE TABLE pg_temp.u AS SELECT 2 AS a", "SELECT a FROM u", "2", "DISCARD TEMP", "temporary objects"),
        (
            "SELECT pg_advisory_lock(7)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "1",
            "SELECT pg_advisory_unlock(7)",
            "advisory lock",
        ),
        (
            "DO $$ BEGIN PERFORM lock_up(); END $$",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "1",
            "SELECT pg_advisory_unlock_all()",
            "advisory lock",
        ),
        ("LISTEN here", "SELECT pg_listening_channels()", "here", "UNLISTEN *", "listen"),
        (
            "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 3; COMMIT",
            "SELECT count(*) FROM pg_cursors WHERE name = 'c'",
            "1",
            "CLOSE c",
            "cursor with hold",
        ),
        ("PREPARE p AS SELECT 4", "EXECUTE p", "4", "DEALLOCATE p", "prepared statement"),
    ] {
        assert!(is_free(&mut client, &mut others), "before {begin}");
        let answer = wire::short(&client.query(begin));
        assert!(!answer.iter().any(|message| message.starts_with("E:")), "{begin}: {answer:?}");
        eventually(begin, SOON, || pinned(&stage.howdah, reason) == 1);
        assert!(stays(&mut client, &mut others), "{begin}");
        assert_eq!(client.value(use_it), expected, "{begin}");
        client.query(end);
        eventually(end, SOON, || pinned(&stage.howdah, reason) == 0);
        assert!(is_free(&mut client, &mut others), "after {end}");
    }
    // nothing stays that ends with its transaction
    client.query("BEGIN");
    client.query("CREATE TEMP TABLE x (a int) ON COMMIT DROP");
    client.query("SELECT pg_advisory_xact_lock(1)");
    client.query("DECLARE c CURSOR FOR SELECT 1");
    client.query("COMMIT");
    assert!(is_free(&mut client, &mut others));
}

#[test]
fn what_a_client_leaves_pinned_is_gone_before_anybody_else_comes() {
    let stage = Stage::new("");
    let mut client = stage.login("one");
    for leave in [
        "CREATE TEMP TABLE mine (a int)",
        "SELECT pg_advisory_lock(9)",
        "LISTEN mine",
        "PREPARE mine AS SELECT 1",
        "LOAD 'plpgsql'",
    ] {
        client.query(leave);
    }
    client.send(&wire::terminate());
    let mut next = stage.login("one");
    assert_eq!(next.query_short("SELECT * FROM mine"), ["E:42P01", "Z:I"]);
    assert_eq!(next.value("SELECT count(*) FROM pg_listening_channels()"), "0");
    assert_eq!(next.value("SELECT count(*) FROM pg_prepared_statements WHERE from_sql"), "0");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 9";
    eventually("the lock is gone", SOON, || next.value(locks) == "0");
    eventually("nothing is pinned", SOON, || pinned(&stage.howdah, "temporary objects") == 0);
}

#[test]
fn notifications_reach_a_listener_while_it_idles_in_transaction_mode() {
    let stage = Stage::new("");
    let (mut listener, mut other) = (stage.login("two"), stage.login("two"));
    listener.send(&[parse("", "LISTEN news", &[]), bind("", "", &[]), execute("", 0), sync()].concat());
    listener.read_until_ready();
    for n in 0..5 {
        other.query(&format!("NOTIFY news, '{n}'"));
        let message = listener.expect();
        assert_eq!(message.tag, b'A', "{message:?}");
        assert_eq!(message.body[4..].split(|byte| *byte == 0).nth(1), Some(n.to_string().as_bytes()));
    }
    // what is rolled back was never asked for
    listener.query("UNLISTEN *");
    listener.query("BEGIN");
    listener.query("LISTEN news");
    listener.query("ROLLBACK");
    eventually("nothing is pinned", SOON, || pinned(&stage.howdah, "listen") == 0);
}

#[test]
fn pins_that_are_forbidden_are_refused_and_leave_nothing() {
    let stage = Stage::new("pins = \"forbid\"");
    let mut client = stage.login("one");
    for sql in ["CREATE TEMP TABLE t (a int)", "SELECT pg_advisory_lock(1)", "LISTEN x", "PREPARE p AS SELECT 1"] {
        assert_eq!(client.query_short(sql), ["E:0A000", "Z:I"], "{sql}");
        client.send(&[parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat());
        assert_eq!(wire::short(&client.read_until_ready()), ["1", "E:0A000", "Z:I"], "{sql}");
    }
    client.query("BEGIN");
    assert_eq!(client.query_short("LISTEN x"), ["E:0A000", "Z:E"]);
    assert_eq!(client.query_short("COMMIT"), ["C:ROLLBACK", "Z:I"]);
    client.send(&query("SELECT set_config('work_mem', '1MB', false)"));
    client.read_until_ready();
    assert_eq!(client.value("SHOW work_mem"), "1MB");
}

#[test]
fn currval_is_the_sessions_own_or_an_error_and_never_somebody_elses() {
    let stage = Stage::new("");
    stage.direct().query("CREATE SEQUENCE s");
    let (mut client, mut other) = (stage.login("one"), stage.login("one"));
    assert_eq!(client.value("SELECT nextval('s')"), "1");
    assert_eq!(client.value("SELECT currval('s')"), "1");
    assert_eq!(client.value("SELECT nextval('s')"), "2");
    client.query("SELECT 1");
    // from here on who moves a sequence keeps the server; before, another session may have come between
    let (mut first, mut second) = (stage.login("two"), stage.login("two"));
    first.query("SELECT nextval('s')");
    second.query("SELECT nextval('s')");
    let answer = first.query("SELECT lastval()");
    let refused = answer[0].tag == b'E' && wire::error(&answer).code == "55000";
    assert!(refused || wire::first_column(&answer) == ["3"], "{answer:?}");
    let mine = first.value("SELECT nextval('s')");
    second.query("SELECT nextval('s')");
    assert_eq!(first.value("SELECT lastval()"), mine);
    drop(client);
    eventually("the only server is free", SOON, || other.query_short("SELECT 1").len() == 4);
}
