//! What clients see when their server goes away, or stops making sense.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::fake::{self, FakeNode};
use crate::support::wire::{self, Client};
use crate::support::{Howdah, SOON, StopMode, Tenant, builder, eventually, shared};

/// Ends a server process, and waits until howdah can have seen it.
fn terminate(pid: &str) {
    let primary = shared().primary();
    primary.sql(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    eventually("the server has gone", SOON, || {
        primary.sql(&format!("SELECT pid FROM pg_stat_activity WHERE pid = {pid}")).unwrap().column().is_empty()
    });
}

fn served(extra: &str) -> (Howdah, Client) {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(&format!("[pool]\nsize = 1\n{extra}"));
    let mut client = howdah.login(&tenant);
    client.query("CREATE TABLE t (i int)");
    (howdah, client)
}

/// In a block with work done and a savepoint, whose server is gone.
fn lost_block(client: &mut Client) {
    client.query("BEGIN");
    client.query("INSERT INTO t VALUES (1); SAVEPOINT a");
    let pid = client.value("SELECT pg_backend_pid()");
    terminate(&pid);
}

#[test]
fn a_client_outside_a_transaction_does_not_notice_that_its_server_has_gone() {
    let (_howdah, mut client) = served("");
    let pid = client.value("SELECT pg_backend_pid()");
    terminate(&pid);
    assert_ne!(client.value("SELECT pg_backend_pid()"), pid);
}

#[test]
fn a_statement_whose_server_goes_away_under_it_is_in_doubt_and_the_session_goes_on() {
    let (_howdah, mut client) = served("");
    for extended in [false, true] {
        let pid = client.value("SELECT pg_backend_pid()");
        let sql = "SELECT 1 FROM pg_sleep(600)";
        if extended {
            client.send(
                &[wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()].concat(),
            );
        } else {
            client.send(&wire::query(sql));
        }
        client.expect_silence(Duration::from_millis(100));
        terminate(&pid);
        let messages = client.read_until_ready();
        let error = wire::error(&messages);
        assert_eq!((error.severity.as_str(), error.code.as_str(), error.routine.as_str()), ("ERROR", "08007", ""));
        assert!(!error.hint.is_empty());
        assert_eq!(wire::short(&messages[messages.len() - 2..]), ["E:08007", "Z:I"]);
        assert_eq!(client.value("SELECT 2"), "2");
    }
}

/// The server process ends before it has looked at what has been sent to it.
fn end_unread(pid: &str, send: impl FnOnce()) {
    let signal = |name: &str| {
        assert!(Command::new("kill").args(["-s", name, pid]).status().unwrap().success());
    };
    signal("STOP");
    send();
    signal("TERM");
    signal("CONT");
}

#[test]
fn a_turn_that_came_with_settings_to_a_server_that_had_gone_is_answered_whole() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n");
    let (mut client, mut other) = (howdah.login(&tenant), howdah.login(&tenant));
    client.query("CREATE TABLE t (i int)");
    client.query("SET application_name = 'mine'; SET work_mem = '5MB'");
    let insert = wire::query("INSERT INTO t VALUES (1)");
    let begin = wire::query("BEGIN; INSERT INTO t VALUES (1)");
    let extended =
        [wire::parse("", "INSERT INTO t VALUES (1)", &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()]
            .concat();
    let commits = wire::query("INSERT INTO t VALUES (1); COMMIT");
    for (turn, status) in [(insert, "Z:I"), (begin, "Z:E"), (extended, "Z:I"), (commits, "Z:I")] {
        // the one server is in another state than this client
        other.query("SET work_mem = '6MB'");
        let pid = other.value("SELECT pg_backend_pid()");
        end_unread(&pid, || {
            client.send(&turn);
            client.expect_silence(Duration::from_millis(100));
        });
        assert_eq!(wire::short(&client.read_until_ready()), ["E:40001", status], "nothing has run");
        assert_eq!(client.query_short("ROLLBACK").last().map(String::as_str), Some("Z:I"));
        assert_eq!(client.value("SHOW work_mem"), "5MB");
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn an_end_of_no_block_is_asked_again_when_its_server_goes_away() {
    let (_howdah, mut client) = served("");
    let prepared = [wire::parse("r", "ROLLBACK", &[]), wire::sync()].concat();
    client.send(&prepared);
    client.read_until_ready();
    let extended = |sql: &str| {
        let run = [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::describe(b'P', ""), wire::execute("", 0)];
        [run.concat(), wire::sync()].concat()
    };
    let named = [wire::bind("", "r", &[]), wire::execute("", 0), wire::sync()].concat();
    // what pools send with a connection that is given back, most of all after an error
    for turn in [wire::query("ROLLBACK"), extended("ROLLBACK"), named, wire::query("COMMIT;"), extended("ABORT")] {
        let pid = client.value("SELECT pg_backend_pid()");
        end_unread(&pid, || {
            client.send(&turn);
            client.expect_silence(Duration::from_millis(50));
        });
        let answer = client.read_until_ready();
        assert!(answer.iter().all(|message| message.tag != b'E'), "{answer:?}");
        assert_eq!(answer.last().unwrap().short(), "Z:I");
    }
    // something else came with it
    let pid = client.value("SELECT pg_backend_pid()");
    end_unread(&pid, || {
        client.send(&wire::query("COMMIT; INSERT INTO t VALUES (1)"));
        client.expect_silence(Duration::from_millis(50));
    });
    assert_eq!(wire::short(&client.read_until_ready()), ["E:08007", "Z:I"]);
}

#[test]
fn every_batch_of_a_pipeline_is_answered_when_its_server_goes_away() {
    let (_howdah, mut client) = served("");
    let pid = client.value("SELECT pg_backend_pid()");
    let batch =
        |sql: &str| [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()].concat();
    client.send(&[batch("SELECT 1 FROM pg_sleep(600)"), batch("SELECT 2"), wire::query("SELECT 3")].concat());
    client.expect_silence(Duration::from_millis(100));
    terminate(&pid);
    for _ in 0..3 {
        let messages = client.read_until_ready();
        assert_eq!(wire::short(&messages[messages.len() - 2..]), ["E:08007", "Z:I"]);
    }
    assert_eq!(client.value("SELECT 4"), "4");
}

#[test]
fn a_lost_block_refuses_everything_and_its_commit_is_an_error_that_ends_it() {
    let (_howdah, mut client) = served("");
    lost_block(&mut client);
    assert_eq!(client.query_short("SELECT 1"), ["E:40001", "Z:E"]);
    assert_eq!(client.query_short("INSERT INTO t VALUES (2)"), ["E:40001", "Z:E"]);
    assert_eq!(client.query_short("COMMIT"), ["E:40001", "Z:I"]);
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    for end in ["END", "PREPARE TRANSACTION 'x'"] {
        lost_block(&mut client);
        assert_eq!(client.query_short(end), ["E:40001", "Z:I"], "{end}");
    }
    lost_block(&mut client);
    assert_eq!(client.query_short("ROLLBACK"), ["C:ROLLBACK", "Z:I"]);
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_lost_block_can_be_rolled_back_to_a_savepoint_and_stays_lost() {
    let (_howdah, mut client) = served("");
    lost_block(&mut client);
    assert_eq!(client.query_short("SELECT 1"), ["E:40001", "Z:E"]);
    assert_eq!(client.query_short("ROLLBACK TO SAVEPOINT a"), ["C:ROLLBACK", "Z:T"]);
    assert_eq!(client.query_short("RELEASE SAVEPOINT a"), ["C:RELEASE", "Z:T"]);
    assert_eq!(client.query_short("INSERT INTO t VALUES (3)"), ["E:40001", "Z:E"]);
    assert_eq!(client.query_short("COMMIT"), ["E:40001", "Z:I"]);
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_lost_block_is_the_same_in_the_extended_protocol() {
    let (_howdah, mut client) = served("");
    let batch =
        |sql: &str| [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()].concat();
    let run = |client: &mut Client, sql: &str| {
        client.send(&batch(sql));
        wire::short(&client.read_until_ready())
    };
    client.send(&[wire::parse("c", "COMMIT", &[]), wire::parse("r", "ROLLBACK", &[]), wire::sync()].concat());
    client.read_until_ready();
    let named =
        |name: &str| [wire::bind("", name, &[]), wire::describe(b'P', ""), wire::execute("", 0), wire::sync()].concat();

    lost_block(&mut client);
    assert_eq!(run(&mut client, "SELECT 1"), ["E:40001", "Z:E"]);
    assert_eq!(run(&mut client, "ROLLBACK TO a"), ["1", "2", "C:ROLLBACK", "Z:T"]);
    assert_eq!(run(&mut client, "RELEASE a"), ["1", "2", "C:RELEASE", "Z:T"]);
    assert_eq!(run(&mut client, "SELECT 1"), ["E:40001", "Z:E"]);
    assert_eq!(run(&mut client, "COMMIT"), ["1", "2", "E:40001", "Z:I"]);
    lost_block(&mut client);
    assert_eq!(run(&mut client, "ROLLBACK"), ["1", "2", "C:ROLLBACK", "Z:I"]);
    lost_block(&mut client);
    client.send(&named("c"));
    assert_eq!(wire::short(&client.read_until_ready()), ["2", "n", "E:40001", "Z:I"]);
    lost_block(&mut client);
    client.send(&named("r"));
    assert_eq!(wire::short(&client.read_until_ready()), ["2", "n", "C:ROLLBACK", "Z:I"]);
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_statement_in_a_block_whose_server_goes_away_under_it_loses_the_block() {
    let (_howdah, mut client) = served("");
    for begin in ["BEGIN", "BEGIN; SELECT 1;"] {
        client.query(begin);
        let pid = client.value("SELECT pg_backend_pid()");
        client.send(&wire::query("SELECT 1 FROM pg_sleep(600)"));
        client.expect_silence(Duration::from_millis(100));
        terminate(&pid);
        let messages = client.read_until_ready();
        assert_eq!(wire::short(&messages[messages.len() - 2..]), ["E:40001", "Z:E"], "{begin}");
        assert_eq!(client.query_short("COMMIT"), ["E:40001", "Z:I"], "{begin}");
    }
}

#[test]
fn a_block_begun_in_a_text_of_several_statements_is_lost_as_any_other() {
    let (_howdah, mut client) = served("");
    client.query("BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)");
    let pid = shared().primary().sql("SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE 'BEGIN; INSERT INTO t %'").unwrap();
    for pid in pid.column() {
        terminate(pid);
    }
    assert_eq!(client.query_short("INSERT INTO t VALUES (3)"), ["E:40001", "Z:E"]);
    assert_eq!(client.query_short("COMMIT"), ["E:40001", "Z:I"]);
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_commit_whose_server_goes_away_under_it_is_in_doubt() {
    let (_howdah, mut client) = served("");
    client.query("CREATE TABLE d (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
    client.query(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NULL; END'",
    );
    client.query("CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON d DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()");
    for text in ["COMMIT", "SELECT 1; COMMIT"] {
        client.query("BEGIN");
        client.query("INSERT INTO d VALUES (1)");
        let pid = client.value("SELECT pg_backend_pid()");
        client.send(&wire::query(text));
        thread::sleep(Duration::from_millis(200));
        terminate(&pid);
        let messages = client.read_until_ready();
        assert_eq!(wire::short(&messages[messages.len() - 2..]), ["E:08007", "Z:I"], "{text}");
    }
    assert_eq!(client.value("SELECT count(*) FROM d"), "0");
}

#[test]
fn a_block_that_had_failed_before_its_server_went_away_ends_as_postgresql_would_end_it() {
    let (_howdah, mut client) = served("");
    client.query("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()");
    client.query("SAVEPOINT a");
    client.query("SELEC");
    terminate(&pid);
    assert_eq!(client.query_short("SELECT 1"), ["E:25P02", "Z:E"]);
    assert_eq!(client.query_short("ROLLBACK TO a"), ["C:ROLLBACK", "Z:T"]);
    assert_eq!(client.query_short("SELECT 1"), ["E:40001", "Z:E"]);
    assert_eq!(client.query_short("ROLLBACK"), ["C:ROLLBACK", "Z:I"]);
    client.query("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()");
    client.query("SELEC");
    terminate(&pid);
    assert_eq!(client.query_short("COMMIT"), ["C:ROLLBACK", "Z:I"]);
}

#[test]
fn a_session_that_depends_on_its_server_ends_with_it() {
    let (howdah, mut client) = served("mode = \"session\"\n");
    let tenant_pid = client.value("SELECT pg_backend_pid()");
    terminate(&tenant_pid);
    let _ = client.try_send(&wire::query("SELECT 1"));
    assert_eq!(wire::error(&client.read_until_closed()).code, "57P01");

    let (_other, mut client) = served("mode = \"session\"\n");
    let pid = client.value("SELECT pg_backend_pid()");
    client.send(&wire::query("INSERT INTO t SELECT 1 FROM pg_sleep(600)"));
    client.expect_silence(Duration::from_millis(100));
    terminate(&pid);
    assert_eq!(wire::short(&client.read_until_ready()), ["E:08007", "Z:I"]);
    client.send(&wire::query("SELECT 1"));
    let error = wire::error(&client.read_until_closed());
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P01"));
    drop(howdah);
}

#[test]
fn clients_stay_while_postgresql_is_down_and_go_on_when_it_is_back() {
    let cluster = builder().start().unwrap_or_else(|error| panic!("{error}"));
    let primary = cluster.primary();
    let tenant = Tenant::on(primary);
    let howdah = Howdah::before(cluster.nodes(), "[timeouts]\nquery_wait = \"20s\"\n");
    let (mut idle, mut waiting, mut block) = (howdah.login(&tenant), howdah.login(&tenant), howdah.login(&tenant));
    idle.query("CREATE TABLE t (i int)");
    block.query("BEGIN");
    block.query("INSERT INTO t VALUES (1)");
    primary.stop(StopMode::Immediate).unwrap();
    waiting.send(&wire::query("SELECT 'served'"));
    waiting.expect_silence(Duration::from_millis(500));
    // a cancel ends the wait
    let mut cancelled = howdah.wire();
    cancelled.send(&wire::cancel_request(&waiting.key));
    cancelled.read_until_closed();
    assert_eq!(wire::short(&waiting.read_until_ready()), ["E:57014", "Z:I"]);
    waiting.send(&wire::query("SELECT 'served'"));
    waiting.expect_silence(Duration::from_millis(100));
    assert_eq!(block.query_short("INSERT INTO t VALUES (2)"), ["E:40001", "Z:E"]);
    assert_eq!(howdah.get("/readyz").unwrap().0, 503);
    primary.start().unwrap();
    assert_eq!(wire::first_column(&waiting.read_until_ready()), ["served"]);
    assert_eq!(block.query_short("COMMIT"), ["E:40001", "Z:I"]);
    assert_eq!(idle.value("SELECT count(*) FROM t"), "0");

    // one server process crashes: PostgreSQL ends all and recovers
    let pid = idle.value("SELECT pg_backend_pid()");
    assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    // whoever is quick may still meet a server that is about to go; nobody is dropped
    for client in [&mut waiting, &mut idle, &mut block] {
        eventually("served again", SOON, || wire::first_column(&client.query("SELECT 'again'")) == ["again"]);
    }
}

#[test]
fn without_a_primary_a_statement_is_refused_at_query_wait_and_the_session_goes_on() {
    let cluster = builder().start().unwrap_or_else(|error| panic!("{error}"));
    let tenant = Tenant::on(cluster.primary());
    let howdah = Howdah::before(cluster.nodes(), "[timeouts]\nquery_wait = \"400ms\"\n");
    let mut client = howdah.login(&tenant);
    cluster.primary().stop(StopMode::Fast).unwrap();
    eventually("nobody is primary", SOON, || howdah.get("/readyz").is_some_and(|(status, _)| status == 503));
    for _ in 0..2 {
        let messages = client.query("SELECT 1");
        assert_eq!(wire::short(&messages), ["E:57P03", "Z:I"]);
        assert!(wire::error(&messages).hint.contains("query_wait"));
    }
    cluster.primary().start().unwrap();
    eventually("served", SOON, || client.query("SELECT 1").len() == 4);
}

/// A server that lets everybody in and answers queries by `answer`, until that says to hang up.
fn fake(
    tenant: &Tenant,
    answer: impl Fn(&mut TcpStream, &str) -> std::io::Result<()> + Send + Sync + 'static,
) -> FakeNode {
    FakeNode::start(&tenant.name, move |mut socket| {
        let mut serve = || {
            socket.write_all(&fake::welcome())?;
            loop {
                match fake::read_message(&mut socket)? {
                    (b'Q', body) => answer(&mut socket, String::from_utf8_lossy(&body).trim_end_matches('\0'))?,
                    (b'X', _) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    // what howdah sends of its own: settings in the extended protocol
                    (b'S', _) => socket.write_all(&fake::ready(b'I'))?,
                    _ => {}
                }
            }
        };
        let ended: std::io::Result<()> = serve();
        drop(ended);
        let _ = socket.shutdown(Shutdown::Both);
    })
}

#[test]
fn a_server_that_talks_nonsense_is_closed_and_the_client_told() {
    let nonsense: [(&str, &[u8]); 7] = [
        ("an unknown message", b"?\0\0\0\x04"),
        ("an extra ReadyForQuery", b"Z\0\0\0\x05IZ\0\0\0\x05I"),
        ("an impossible length", b"T\0\0\0\x01"),
        ("a negative length", b"T\xff\xff\xff\xff"),
        ("a ReadyForQuery of three bytes", b"Z\0\0\0\x07III"),
        ("an answer to something else", b"1\0\0\0\x04"),
        ("a COPY nobody asked for", b"c\0\0\0\x04"),
    ];
    for (what, bytes) in nonsense {
        let tenant = Tenant::shared();
        let count = Arc::new(AtomicUsize::new(0));
        let queries = Arc::clone(&count);
        let node = fake(&tenant, move |socket, sql| match sql {
            "nonsense" if queries.fetch_add(1, Ordering::SeqCst) == 0 => socket.write_all(bytes),
            _ => socket.write_all(&[fake::row("fine"), fake::ready(b'I')].concat()),
        });
        let howdah = node.howdah("[pool]\nsize = 1\n\n[timeouts]\nquery_wait = \"5s\"\n");
        let mut client = howdah.wire();
        client.login(&tenant.name, "", &tenant.name);
        client.send(&wire::query("nonsense"));
        let messages = client.read_until_ready();
        if what == "an extra ReadyForQuery" {
            assert_eq!(wire::short(&messages), ["Z:I"]);
        } else {
            assert_eq!(wire::short(&messages), ["E:08007", "Z:I"], "{what}");
        }
        let mut other = howdah.wire();
        other.login(&tenant.name, "", &tenant.name);
        assert_eq!(other.value("SELECT"), "fine", "{what}");
        assert_eq!(client.value("SELECT"), "fine", "{what}");
        eventually("it is in the log", SOON, || howdah.log().contains("server lost step"));
        eventually("the books are right", SOON, || {
            let pool = &howdah.status()["pools"][0];
            pool["open"] == 1 && pool["idle"] == 1
        });
    }
}

#[test]
fn a_server_that_ends_in_the_middle_of_a_message_takes_only_its_client_with_it() {
    let tenant = Tenant::shared();
    let node = fake(&tenant, |socket, sql| match sql {
        "half" => {
            let mut row = fake::row(&"x".repeat(10_000));
            row.truncate(5_000);
            socket.write_all(&row)?;
            Err(std::io::ErrorKind::UnexpectedEof.into())
        }
        "header" => {
            socket.write_all(&fake::row("x")[..27])?;
            Err(std::io::ErrorKind::UnexpectedEof.into())
        }
        "nothing" => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => socket.write_all(&[fake::row("fine"), fake::ready(b'I')].concat()),
    });
    let howdah = node.howdah("[pool]\nsize = 1\n\n[timeouts]\nquery_wait = \"5s\"\n");
    let login = || {
        let mut client = howdah.wire();
        client.login(&tenant.name, "", &tenant.name);
        client
    };
    let (mut half, mut header, mut nothing, mut other) = (login(), login(), login(), login());
    half.send(&wire::query("half"));
    let mut got = Vec::new();
    while let Ok(message) = half.read() {
        got.push(message.short());
    }
    assert_eq!(got, ["T"], "nothing can follow half a message");
    assert_eq!(header.query("header").last().unwrap().short(), "Z:I");
    assert_eq!(nothing.query_short("nothing"), ["E:08007", "Z:I"]);
    for client in [&mut header, &mut nothing, &mut other] {
        assert_eq!(client.value("SELECT"), "fine");
    }
}

#[test]
fn a_server_that_stalls_in_the_middle_of_a_message_holds_up_only_its_client() {
    let tenant = Tenant::shared();
    let node = fake(&tenant, |socket, sql| match sql {
        "stall" => {
            socket.write_all(&fake::row("stalled")[..30])?;
            thread::sleep(Duration::from_secs(20));
            Ok(())
        }
        _ => socket.write_all(&[fake::row("fine"), fake::ready(b'I')].concat()),
    });
    let howdah = node.howdah("[pool]\nsize = 2\n\n[timeouts]\nquery = \"300ms\"\ncancel_wait = \"300ms\"\n");
    let login = || {
        let mut client = howdah.wire();
        client.login(&tenant.name, "", &tenant.name);
        client
    };
    let (mut stalled, mut other) = (login(), login());
    stalled.send(&wire::query("stall"));
    for _ in 0..20 {
        assert_eq!(other.value("SELECT"), "fine");
    }
    while stalled.read().is_ok() {} // ended by timeouts.query, in whatever words still fit
    assert_eq!(other.value("SELECT"), "fine");
}

#[test]
fn a_begin_whose_server_goes_away_begins_elsewhere_and_what_came_with_it_is_refused() {
    let cluster = builder().start().unwrap();
    let primary = cluster.primary();
    let tenant = Tenant::on(primary);
    let howdah = Howdah::before(cluster.nodes(), "");
    let (mut client, mut second, mut third) = (howdah.login(&tenant), howdah.login(&tenant), howdah.login(&tenant));
    client.query("CREATE TABLE t (i int)");
    for other in [&mut second, &mut third] {
        other.send(&wire::query("SELECT pg_sleep(0.2)")); // three servers
    }
    assert_eq!(client.query_short("SELECT pg_sleep(0.2)")[2], "C:SELECT 1");
    second.read_until_ready();
    third.read_until_ready();
    primary.freeze();
    let batch = |sql: &str| [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::execute("", 0)].concat();
    client.send(&wire::query("BEGIN"));
    second.send(&[batch("BEGIN"), batch("INSERT INTO t VALUES (2)"), wire::sync()].concat());
    third.send(&[wire::query("BEGIN"), wire::query("INSERT INTO t VALUES (3)")].concat());
    client.expect_silence(Duration::from_millis(200));
    primary.kill_all().unwrap();
    primary.start().unwrap();
    assert_eq!(wire::short(&client.read_until_ready()), ["C:BEGIN", "Z:T"]);
    assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["C:INSERT 0 1", "Z:T"]);
    assert_eq!(client.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
    assert_eq!(wire::short(&second.read_until_ready()), ["E:40001", "Z:E"]);
    for _ in 0..2 {
        assert_eq!(wire::short(&third.read_until_ready()), ["E:40001", "Z:E"]);
    }
    for other in [&mut second, &mut third] {
        assert_eq!(other.query_short("INSERT INTO t VALUES (4)"), ["E:40001", "Z:E"], "nothing runs outside its block");
        assert_eq!(other.query_short("ROLLBACK"), ["C:ROLLBACK", "Z:I"]);
        assert_eq!(other.value("SELECT string_agg(i::text, ',') FROM t"), "1");
    }
}

#[test]
fn names_of_statements_are_what_the_client_has_been_told_when_its_server_goes_away() {
    let (_howdah, mut client) = served("");
    let named = |name: &str, sql: &str| [wire::parse(name, sql, &[]), wire::bind("", name, &[])].concat();
    client.send(&[wire::parse("old", "SELECT 1", &[]), wire::parse("gone", "SELECT 2", &[]), wire::sync()].concat());
    client.read_until_ready();
    lost_block(&mut client);
    assert_eq!(client.query_short("ROLLBACK TO a"), ["C:ROLLBACK", "Z:T"]);
    client.send(&[wire::close(b'S', "gone"), wire::sync()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["3", "Z:T"]);
    client.query("ROLLBACK");
    // a Parse on its way when the server goes gives no name
    client.query("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()");
    let sleeping = [named("new", "SELECT 1 FROM pg_sleep(600)"), wire::execute("", 0), wire::sync()].concat();
    client.send(&[wire::query("SELECT 1 FROM pg_sleep(600)"), sleeping].concat());
    client.expect_silence(Duration::from_millis(100));
    terminate(&pid);
    assert_eq!(wire::short(&client.read_until_ready()).last().unwrap(), "Z:E");
    assert_eq!(wire::short(&client.read_until_ready()), ["E:40001", "Z:E"]);
    client.query("ROLLBACK");
    for name in ["new", "gone"] {
        client.send(&[named(name, "SELECT 3"), wire::execute("", 0), wire::sync()].concat());
        assert_eq!(wire::short(&client.read_until_ready()), ["1", "2", "D", "C:SELECT 1", "Z:I"], "{name}");
    }
    client.send(&[wire::bind("", "old", &[]), wire::execute("", 0), wire::sync()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["2", "D", "C:SELECT 1", "Z:I"]);
    // psycopg deallocates as soon as it has rolled back
    lost_block(&mut client);
    assert_eq!(client.query_short("ROLLBACK TO a"), ["C:ROLLBACK", "Z:T"]);
    assert_eq!(client.query_short("DEALLOCATE ALL"), ["C:DEALLOCATE ALL", "Z:T"]);
    assert_eq!(client.query_short("RELEASE a"), ["C:RELEASE", "Z:T"]);
    assert_eq!(client.query_short("COMMIT"), ["E:40001", "Z:I"]);
    client.send(&[wire::bind("", "old", &[]), wire::execute("", 0), wire::sync()].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["E:26000", "Z:I"]);
}

#[test]
fn a_batch_that_stands_open_after_its_statement_was_prepared_is_nothing_to_lose() {
    let (_howdah, mut client) = served("");
    for in_block in [false, true] {
        if in_block {
            client.query("BEGIN");
        }
        let pid = client.value("SELECT pg_backend_pid()");
        // asyncpg prepares without a Sync
        let name = format!("s{in_block}");
        client.send(&[wire::parse(&name, "INSERT INTO t VALUES (7)", &[]), wire::describe(b'S', &name)].concat());
        client.send(&wire::flush());
        assert_eq!(wire::short(&client.read_until(b'n')), ["1", "t", "n"]);
        terminate(&pid);
        client.expect_silence(Duration::from_millis(200));
        client.send(&[wire::bind("", &name, &[]), wire::execute("", 0), wire::sync()].concat());
        let answer = wire::short(&client.read_until_ready());
        if in_block {
            assert_eq!(answer, ["E:40001", "Z:E"]);
            assert_eq!(client.query_short("ROLLBACK"), ["C:ROLLBACK", "Z:I"]);
        } else {
            assert_eq!(answer, ["2", "C:INSERT 0 1", "Z:I"]);
        }
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "1");
}
