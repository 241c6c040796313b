//! Session and statement mode, where they differ from transaction mode.

use std::time::Duration;

use crate::support::script::Stage;
use crate::support::wire::{self, bind, execute, parse, query, sync};
use crate::support::{Howdah, SOON, Tenant, connection_count, eventually, shared};

#[test]
fn session_mode_keeps_everything_until_the_client_leaves_and_nothing_after() {
    let stage = Stage::new("");
    let mut other = stage.login("session");
    let others = other.value("SELECT pg_backend_pid()");
    let mut client = stage.login("session");
    let pid = client.value("SELECT pg_backend_pid()");
    assert_ne!(pid, others);
    client.query("SET statement_timeout = '77s'");
    client.query("SET TimeZone = 'Asia/Tokyo'");
    client.query("CREATE TEMP TABLE mine (i int)");
    client.query("LISTEN news");
    client.query("SELECT pg_advisory_lock(7)");
    client.query("PREPARE q AS SELECT 'prepared'");
    client.send(&[parse("p", "SELECT 'protocol'", &[]), sync()].concat());
    client.read_until_ready();
    for _ in 0..3 {
        assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
        assert_eq!(client.value("SHOW statement_timeout"), "77s");
        assert_eq!(client.value("SELECT count(*) FROM mine"), "0");
        assert_eq!(client.value("EXECUTE q"), "prepared");
        assert_eq!(other.value("SHOW TimeZone"), "UTC");
    }
    other.query("NOTIFY news, 'hello'");
    let answers = client.query("SELECT 1");
    let heard = answers.iter().any(|m| m.short() == "A:news") || client.expect().short() == "A:news";
    assert!(heard, "a notification reaches a session that listens");
    client.query("BEGIN");
    client.send(&wire::terminate());
    client.read_until_closed();

    // the same server, clean
    eventually("the server is back", SOON, || {
        let mut next = stage.login("session");
        next.value("SELECT pg_backend_pid()") == pid
    });
    let mut next = stage.login("session");
    assert_eq!(next.value("SELECT pg_backend_pid()"), pid);
    assert_eq!(next.value("SHOW statement_timeout"), "0");
    assert_eq!(next.value("SHOW TimeZone"), "UTC");
    assert_eq!(wire::error(&next.query("SELECT * FROM mine")).code, "42P01");
    assert_eq!(wire::error(&next.query("EXECUTE q")).code, "26000");
    assert_eq!(next.value("SELECT count(*) FROM pg_listening_channels()"), "0");
    assert_eq!(next.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"), "0");
    next.send(&[bind("", "p", &[]), execute("", 0), sync()].concat());
    assert_eq!(wire::error(&next.read_until_ready()).code, "26000");
    next.send(&[parse("p", "SELECT 'mine'", &[]), bind("", "p", &[]), execute("", 0), sync()].concat());
    assert_eq!(wire::first_column(&next.read_until_ready()), ["mine"]);
    assert_eq!(connection_count(shared().primary(), &stage.tenant.name), 2);
}

#[test]
fn sessions_go_on_while_others_wait_for_a_server() {
    let stage = Stage::new("");
    let mut clients: Vec<_> = (0..3).map(|_| stage.login("session")).collect();
    let pids: Vec<_> = clients.iter_mut().map(|client| client.value("SELECT pg_backend_pid()")).collect();
    let mut waiter = stage.login("session");
    waiter.send(&query("SELECT 'served'"));
    eventually("somebody waits", SOON, || {
        let status = stage.howdah.status();
        status["pools"].as_array().unwrap().iter().any(|pool| pool["waiting"] == 1)
    });
    for (client, pid) in clients.iter_mut().zip(&pids) {
        assert_eq!(client.value("SELECT pg_backend_pid()"), *pid);
        client.send(&[query("SELECT 1"), query("SELECT 2")].concat());
        assert_eq!(wire::first_column(&client.read_until_ready()), ["1"]);
        assert_eq!(wire::first_column(&client.read_until_ready()), ["2"]);
    }
    drop(clients.pop());
    assert_eq!(wire::first_column(&waiter.read_until_ready()), ["served"]);
}

#[test]
fn a_session_goes_back_to_what_its_own_startup_packet_said() {
    let stage = Stage::new("");
    let startup = [
        ("DateStyle", "Postgres, DMY"),
        ("TimeZone", "Europe/Paris"), // goes before the one in the options
        ("options", "-c statement_timeout=77s -c timezone=Asia/Tokyo"),
        ("my.tenant", "seven"),
    ];
    let script = [
        "SHOW DateStyle",
        "SET DateStyle = 'ISO'; SET statement_timeout = '5s'; SET my.tenant = 'eight'",
        "RESET DateStyle",
        "SHOW DateStyle",
        "SHOW statement_timeout",
        "SET statement_timeout TO DEFAULT",
        "SHOW statement_timeout",
        "RESET ALL",
        "SHOW my.tenant",
        "SHOW TimeZone",
        "SET TimeZone = 'UTC'",
        "DISCARD ALL",
        "SHOW TimeZone",
        "SHOW ignore_system_indexes",
        "SELECT name, setting, reset_val, source FROM pg_settings WHERE source = 'client' ORDER BY name",
        "SELECT pg_backend_pid() <> 0",
    ];
    let play = |client: &mut wire::Client, database: &str, startup: &[(&str, &str)]| {
        let who = [("user", stage.tenant.name.as_str()), ("database", database)];
        client.login_with(&[&who, startup].concat(), &stage.tenant.password);
        script.map(|sql| wire::short(&client.query(sql)).join(" "))
    };
    let direct = |startup: &[(&str, &str)]| {
        let mut client = wire::Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
        play(&mut client, &stage.tenant.name, startup)
    };
    // one after the other and at once, with other startup packets between; there are three servers
    let plain = [("application_name", "plain")];
    let only_at_login = [("options", "-c ignore_system_indexes=on")];
    let mut clients = Vec::new();
    for startup in [&startup[..], &startup, &plain, &[], &only_at_login, &startup] {
        let mut client = stage.howdah.wire();
        assert_eq!(play(&mut client, "session", startup), direct(startup), "{startup:?}");
        clients.push(client);
        if clients.len() == 3 {
            clients.clear();
        }
    }
    eventually("the direct connections are gone, and howdah has no more than three", SOON, || {
        connection_count(shared().primary(), &stage.tenant.name) <= 3
    });

    // what a login refuses is refused in the server's words, and nobody else's affair
    let bad = [("user", stage.tenant.name.as_str()), ("database", "session"), ("work_mem", "much")];
    let mut client = stage.howdah.wire();
    client.login_with(&bad, &stage.tenant.password);
    let _ = client.try_send(&query("SELECT 1"));
    let error = wire::error(&client.read_until_closed());
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "22023"));
    clients.clear();
    let mut client = stage.howdah.wire();
    assert_eq!(play(&mut client, "session", &plain), direct(&plain));
}

#[test]
fn a_session_that_listens_hears_while_it_does_nothing_and_nobody_else_does_after_it() {
    let stage = Stage::new("");
    let (mut listening, mut direct) = (stage.login("session"), stage.direct());
    assert_eq!(listening.query_short("LISTEN news"), ["C:LISTEN", "Z:I"]);
    for payload in ["one", "two"] {
        direct.query(&format!("NOTIFY news, '{payload}'"));
        let heard = listening.expect();
        assert_eq!(heard.short(), "A:news");
        assert!(heard.body.windows(3).any(|text| text == payload.as_bytes()), "{heard:?}");
    }
    // in a block it is told at the end, as PostgreSQL does
    listening.query("BEGIN");
    direct.query("NOTIFY news, 'three'");
    listening.expect_silence(Duration::from_millis(200));
    assert_eq!(listening.query_short("SELECT 1"), ["T", "D", "C:SELECT 1", "Z:T"]);
    listening.send(&query("COMMIT"));
    let mut end = vec![listening.expect().short(), listening.expect().short(), listening.expect().short()];
    end.sort();
    assert_eq!(end, ["A:news", "C:COMMIT", "Z:I"]);
    drop(listening);
    let mut next = stage.login("session");
    assert_eq!(next.value("SELECT count(*) FROM pg_listening_channels()"), "0");
    direct.query("NOTIFY news, 'four'");
    next.expect_silence(Duration::from_millis(200));
}

#[test]
fn a_session_that_vanishes_in_any_state_leaves_a_clean_server() {
    let stage = Stage::new("");
    stage.direct().query("CREATE TABLE t (x text)");
    for left in [
        query("BEGIN"),
        query("BEGIN; SELECT 1/0"),
        query("SELECT pg_sleep(600)"),
        query("COPY t FROM STDIN"),
        query("SELECT repeat('x', 100000) FROM generate_series(1, 100000)"),
        [parse("p", "SELECT 1", &[]), wire::flush()].concat(),
        [parse("p", "SELECT pg_sleep(600)", &[]), bind("", "p", &[]), execute("", 0), sync()].concat(),
        wire::query("CREATE TEMP TABLE x (i int)")[..12].to_vec(),
    ] {
        let mut clients: Vec<_> = (0..3).map(|_| stage.login("session")).collect();
        for client in &mut clients {
            client.query("CREATE TEMP TABLE mine (i int)");
            client.send(&left);
        }
        clients.iter_mut().for_each(wire::Client::cut);
        let mut next: Vec<_> = (0..3).map(|_| stage.login("session")).collect();
        for client in &mut next {
            assert_eq!(wire::error(&client.query("SELECT * FROM mine")).code, "42P01");
            assert_eq!(client.value("SELECT 1"), "1");
        }
        assert_eq!(connection_count(shared().primary(), &stage.tenant.name), 3);
    }
}

#[test]
fn statement_mode_refuses_blocks_and_the_session_goes_on() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nmode = \"statement\"\nsize = 1\n");
    tenant_table(&tenant);
    let (mut client, mut other) = (howdah.login(&tenant), howdah.login(&tenant));
    let pid = other.value("SELECT pg_backend_pid()");
    let words = "transaction blocks not allowed in statement pooling mode";
    for sql in ["BEGIN", "start transaction", "/* x */ begin; insert into t values (1); commit", "BEGIN; SELECT 1"] {
        let answers = client.query(sql);
        assert_eq!(wire::error(&answers).message, words, "{sql}");
        assert_eq!(client.value("SELECT 1"), "1");
    }
    // the unnamed and the named statement
    for name in ["", "b"] {
        client.send(&[parse(name, "BEGIN", &[]), bind("", name, &[]), execute("", 0), sync()].concat());
        let answers = client.read_until_ready();
        assert_eq!(wire::error(&answers).message, words);
        assert_eq!(wire::short(&answers).last().unwrap(), "Z:I");
        assert_eq!(client.value("SELECT 2"), "2");
        assert_eq!(other.value("SELECT count(*) FROM t"), "0");
    }
    // a block that hides behind another statement
    for sql in ["SELECT 1; BEGIN", "SELECT 1; BEGIN; INSERT INTO t VALUES (1)", "DO $$ BEGIN END $$; START TRANSACTION"]
    {
        let mut hidden = howdah.login(&tenant);
        hidden.send(&query(sql));
        let mut answers = vec![hidden.expect()];
        while let Ok(message) = hidden.read() {
            answers.push(message);
            if answers.last().is_some_and(|m| m.tag == b'Z') {
                break;
            }
        }
        assert_eq!(wire::error(&answers).message, words, "{answers:?}");
        assert_eq!(other.value("SELECT count(*) FROM t"), "0");
        assert_eq!(other.query_short("SELECT 1"), ["T", "D", "C:SELECT 1", "Z:I"]);
    }
    client.send(
        &[parse("ok", "SELECT 1", &[]), parse("late", "BEGIN", &[]), bind("", "late", &[]), execute("", 0), sync()]
            .concat(),
    );
    let answers = client.read_until(b'E');
    assert_eq!(wire::error(&answers).message, words);
    // autocommit work of several statements is fine, and batches are one statement's
    let mut client = howdah.login(&tenant);
    assert_eq!(
        client.query_short("INSERT INTO t VALUES (5); SELECT 1"),
        ["C:INSERT 0 1", "T", "D", "C:SELECT 1", "Z:I"]
    );
    client.send(&[parse("s", "SELECT i FROM t", &[]), bind("", "s", &[]), execute("", 0), sync()].concat());
    assert_eq!(wire::first_column(&client.read_until_ready()), ["5"]);
    assert_eq!(other.value("SELECT pg_backend_pid()"), pid);
    assert_eq!(connection_count(shared().primary(), &tenant.name), 1);
}

fn tenant_table(tenant: &Tenant) {
    shared()
        .primary()
        .sql_in(&tenant.name, &format!("CREATE TABLE t (i int); ALTER TABLE t OWNER TO {}", tenant.name))
        .unwrap();
}
