//! Every timeout ends what it is for, in time, and nothing else.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::fake::FakeNode;
use crate::support::wire::{self, Client};
use crate::support::{Howdah, SOON, Tenant, connection_count, eventually, shared};

/// A howdah for one tenant: `extra` may hold `NAME`.
fn served(extra: &str) -> (Howdah, Tenant) {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(&extra.replace("NAME", &tenant.name));
    (howdah, tenant)
}

/// Stops or wakes a server process; the kernel does it at once.
fn signal(pid: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
}

/// Stops a server that has been idle for longer than the shortest `server_check_delay`.
fn stop_idle(howdah: &Howdah, pid: &str) {
    eventually("it is idle", SOON, || howdah.status()["pools"][0]["idle"] == 1);
    thread::sleep(Duration::from_millis(5));
    signal(pid, "-STOP");
}

/// What a server process does now, in PostgreSQL's own words.
fn state(pid: &str) -> String {
    let rows = shared().primary().sql(&format!("SELECT state FROM pg_stat_activity WHERE pid = {pid}")).unwrap();
    rows.cell().unwrap_or_default().to_owned()
}

/// Insists on an error that ends the session, and on the end.
#[track_caller]
fn fatal(client: &mut Client) -> wire::Fields {
    let messages = client.read_until_closed();
    let error = wire::error(&messages);
    assert_eq!((error.severity.as_str(), error.routine.as_str()), ("FATAL", ""), "{error:?}");
    error
}

#[test]
fn a_wait_for_a_server_ends_at_query_wait_and_the_session_goes_on() {
    let (howdah, tenant) = served("[pool]\nsize = 1\n\n[timeouts]\nquery_wait = \"300ms\"\n");
    let (mut holder, mut waiter) = (howdah.login(&tenant), howdah.login(&tenant));
    holder.query("BEGIN");
    let begun = Instant::now();
    let messages = waiter.query("SELECT 1");
    assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
    assert_eq!(wire::short(&messages), ["E:53300", "Z:I"]);
    let error = wire::error(&messages);
    assert_eq!((error.severity.as_str(), error.message.as_str()), ("ERROR", "query_wait_timeout"));
    assert!(error.hint.contains("query_wait"), "{error:?}");
    assert_eq!(wire::short(&waiter.extended("SELECT 1", &[])), ["E:53300", "Z:I"]);
    // two batches are two refusals
    let batch =
        [wire::parse("", "SELECT 1", &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()].concat();
    waiter.send(&[batch.clone(), batch].concat());
    assert_eq!(wire::short(&waiter.read_until_ready()), ["E:53300", "Z:I"]);
    assert_eq!(wire::short(&waiter.read_until_ready()), ["E:53300", "Z:I"]);
    holder.query("COMMIT");
    assert_eq!(waiter.value("SELECT 2"), "2");
}

#[test]
fn a_query_that_runs_too_long_is_cancelled_and_its_server_kept() {
    for table in ["timeouts", "databases.NAME.timeouts", "users.NAME.timeouts"] {
        let outer = match table {
            "timeouts" => "",
            _ => "[timeouts]\nquery = \"1h\"\n\n",
        };
        let (howdah, tenant) = served(&format!(
            "{outer}[databases.NAME]\ncluster = \"main\"\n\n[pool]\nsize = 1\n\n[{table}]\nquery = \"300ms\"\n"
        ));
        let mut client = howdah.login(&tenant);
        let pid = client.value("SELECT pg_backend_pid()");
        let begun = Instant::now();
        let messages = client.query("SELECT pg_sleep(600)");
        assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
        assert_eq!(wire::short(&messages), ["T", "E:57014", "Z:I"], "{table}");
        let error = wire::error(&messages);
        assert_eq!(error.message, "query timeout");
        assert!(error.hint.contains("query"), "{error:?}");
        eventually("the server rests", SOON, || state(&pid) == "idle");
        assert_eq!(client.value("SELECT pg_backend_pid()"), pid);

        let messages = client.extended("SELECT pg_sleep($1::float)", &[Some("600")]);
        assert_eq!(wire::short(&messages), ["1", "2", "T", "E:57014", "Z:I"]);
        client.query("BEGIN");
        assert_eq!(wire::short(&client.query("SELECT pg_sleep(600)")), ["T", "E:57014", "Z:E"]);
        assert_eq!(client.query_short("ROLLBACK"), ["C:ROLLBACK", "Z:I"]);
        // an idle transaction is not a query
        client.query("BEGIN");
        client.expect_silence(Duration::from_millis(600));
        assert_eq!(client.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
        assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
    }
}

#[test]
fn a_query_whose_server_does_not_even_hear_the_cancel_ends_with_its_session() {
    let (howdah, tenant) = served("[pool]\nsize = 1\n\n[timeouts]\nquery = \"200ms\"\ncancel_wait = \"300ms\"\n");
    let mut client = howdah.login(&tenant);
    let pid = client.value("SELECT pg_backend_pid()");
    signal(&pid, "-STOP");
    client.send(&wire::query("SELECT 1"));
    let error = fatal(&mut client);
    signal(&pid, "-CONT");
    assert_eq!((error.code.as_str(), error.message.as_str()), ("57014", "query timeout"));
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
}

#[test]
fn a_transaction_that_lasts_too_long_ends_with_its_session() {
    let (howdah, tenant) =
        served("[pool]\nsize = 1\n\n[databases.NAME]\ncluster = \"main\"\ntimeouts = { transaction = \"400ms\" }\n");
    let mut client = howdah.login(&tenant);
    let pid = client.value("SELECT pg_backend_pid()");
    // each statement is short
    client.query("BEGIN");
    client.query("CREATE TABLE t ()");
    let error = loop {
        client.send(&wire::query("SELECT pg_sleep(0.05)"));
        let messages = read_to_ready_or_end(&mut client);
        if let Some(error) = messages.iter().find(|message| message.tag == b'E') {
            break error.fields();
        }
    };
    assert_eq!(
        (error.severity.as_str(), error.code.as_str(), error.message.as_str()),
        ("FATAL", "25P04", "transaction timeout")
    );
    let mut next = howdah.login(&tenant);
    assert_eq!(next.value("SELECT to_regclass('t') IS NULL"), "t");
    assert_eq!(next.value("SELECT pg_backend_pid()"), pid, "rolled back, and kept");
    // a statement outside a block is a transaction too
    next.send(&wire::query("SELECT pg_sleep(600)"));
    assert_eq!(fatal(&mut next).code, "25P04");
    eventually("the server rests", SOON, || state(&pid) == "idle");
}

fn read_to_ready_or_end(client: &mut Client) -> Vec<wire::Message> {
    let mut messages = Vec::new();
    while let Ok(message) = client.read() {
        let last = message.tag == b'Z';
        messages.push(message);
        if last {
            break;
        }
    }
    messages
}

#[test]
fn a_client_that_does_nothing_in_a_transaction_is_ended() {
    let (howdah, tenant) = served("[pool]\nsize = 1\n\n[users.NAME.timeouts]\nidle_in_transaction = \"300ms\"\n");
    let half = &wire::query("SELECT 1")[..8];
    for leftover in [&b""[..], half] {
        let mut client = howdah.login(&tenant);
        assert_eq!(client.query_short("BEGIN"), ["C:BEGIN", "Z:T"]);
        assert_eq!(client.value("SELECT 'x' FROM pg_sleep(0.6)"), "x", "a running statement is not idling");
        client.send(leftover);
        let error = fatal(&mut client);
        assert_eq!((error.code.as_str(), error.message.as_str()), ("25P03", "idle transaction timeout"));
        let mut next = howdah.login(&tenant);
        assert_eq!(next.value("SELECT 1"), "1");
        next.expect_silence(Duration::from_millis(500)); // outside a block it does not run
    }
}

#[test]
fn a_client_that_does_nothing_at_all_is_ended_only_if_so_configured() {
    let (howdah, tenant) = served("[pool]\nsize = 1\n\n[users.NAME.timeouts]\nclient_idle = \"500ms\"\n");
    let mut client = howdah.login(&tenant);
    assert_eq!(client.value("SELECT 'x' FROM pg_sleep(1)"), "x");
    client.query("BEGIN");
    client.expect_silence(Duration::from_millis(800));
    client.query("COMMIT");
    let error = fatal(&mut client);
    assert_eq!((error.code.as_str(), error.message.as_str()), ("57P05", "client_idle_timeout"));
}

#[test]
fn a_stranger_who_does_not_log_in_is_ended_wherever_it_stopped() {
    let (howdah, tenant) = served("[timeouts]\nclient_login = \"500ms\"\n");
    let startup = wire::startup(wire::PROTOCOL_3_0, &[("user", &tenant.name)]);
    let stages: [&[u8]; 4] = [b"", &startup[..3], &startup[..9], &startup];
    for stage in stages {
        let mut client = howdah.wire();
        client.send(stage);
        let error = fatal_after_requests(&mut client);
        assert_eq!((error.code.as_str(), error.message.as_str()), ("08006", "client_login_timeout"));
        assert!(error.hint.contains("client_login"));
    }
    let mut client = howdah.login(&tenant);
    client.expect_silence(Duration::from_millis(800));
    assert_eq!(client.value("SELECT 1"), "1");
}

fn fatal_after_requests(client: &mut Client) -> wire::Fields {
    let messages = client.read_until_closed();
    wire::error(&messages)
}

#[test]
fn a_client_that_stalls_in_a_large_message_is_cut_and_one_in_a_small_message_holds_nothing() {
    let (howdah, tenant) = served("[pool]\nsize = 1\n\n[timeouts]\nread = \"500ms\"\n");
    let large = wire::query(&format!("SELECT '{}'", "x".repeat(500_000)));
    let mut stalled = howdah.login(&tenant);
    let mut small = howdah.login(&tenant);
    small.send(&large[..20_000]);
    let pid = howdah.login(&tenant).value("SELECT pg_backend_pid()");
    stalled.send(&large[..300_000]);
    let error = fatal(&mut stalled);
    assert_eq!(error.code, "08006");
    assert!(error.hint.contains("read"), "{error:?}");
    let mut next = howdah.login(&tenant);
    assert_ne!(next.value("SELECT pg_backend_pid()"), pid, "half a message is not taken back");
    small.send(&large[20_000..]);
    assert_eq!(wire::short(&small.read_until_ready()), ["T", "D", "C:SELECT 1", "Z:I"]);
}

#[test]
fn a_server_that_does_not_take_a_large_message_is_not_the_clients_fault() {
    let (howdah, tenant) = served("[pool]\nsize = 1\n\n[timeouts]\nread = \"300ms\"\n");
    let mut client = howdah.login(&tenant);
    client.query("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()");
    signal(&pid, "-STOP");
    let waker = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1_500));
        signal(&pid, "-CONT");
    });
    let large = wire::query(&format!("SELECT length('{}')", "x".repeat(40_000_000)));
    let sent = client.try_send(&large);
    waker.join().unwrap();
    sent.unwrap();
    assert_eq!(wire::first_column(&client.read_until_ready()), ["40000000"]);
}

#[test]
fn a_client_that_does_not_take_its_results_is_cut_and_its_server_kept() {
    let (howdah, tenant) = served("[pool]\nsize = 1\n\n[timeouts]\nwrite = \"500ms\"\n");
    let mut slow = howdah.login(&tenant);
    let pid = slow.value("SELECT pg_backend_pid()");
    slow.send(&wire::query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"));
    eventually("the server is free again", SOON, || howdah.status()["clients"] == 0);
    assert_eq!(howdah.login(&tenant).value("SELECT pg_backend_pid()"), pid);
}

#[test]
fn a_client_that_takes_its_results_late_but_in_time_is_not_cut_afterwards() {
    let (howdah, tenant) = served("[pool]\nsize = 1\n\n[timeouts]\nwrite = \"400ms\"\n");
    let mut client = howdah.login(&tenant);
    // somewhere between all in the kernel's buffers and a server held, only the end waits in howdah
    for kilobytes in (1_000..7_000).step_by(50) {
        client.send(&wire::query(&format!("SELECT repeat('x', 1000) FROM generate_series(1, {kilobytes})")));
        thread::sleep(Duration::from_millis(30));
        assert_eq!(client.read_until_ready().last().unwrap().short(), "Z:I");
    }
    client.expect_silence(Duration::from_millis(700));
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let tenant = Tenant::shared();
    let node = FakeNode::start(&tenant.name, |socket| {
        thread::sleep(Duration::from_secs(30));
        drop(socket);
    });
    let howdah = node.howdah("[timeouts]\nserver_connect = \"300ms\"\nquery_wait = \"1500ms\"\n");
    let mut client = howdah.wire();
    let messages = client.try_login(&[("user", &tenant.name)], "").unwrap();
    let error = wire::error(&messages);
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P03"));
    assert!(error.message.contains("server_connect"), "{error:?}");
    assert!(howdah.log().contains("server login failed"));
    eventually("no place is lost", SOON, || howdah.status()["pools"][0]["open"] == 0);
}

#[test]
fn servers_that_are_old_or_unused_are_closed() {
    let (howdah, tenant) = served("[databases.NAME]\ncluster = \"main\"\ntimeouts = { server_lifetime = \"1s\" }\n");
    let mut client = howdah.login(&tenant);
    let first = client.value("SELECT pg_backend_pid()");
    eventually("another server", SOON, || client.value("SELECT pg_backend_pid()") != first);

    let (howdah, tenant) = served("[users.NAME.timeouts]\nserver_idle = \"1s\"\n");
    let mut client = howdah.login(&tenant);
    client.query("BEGIN");
    client.expect_silence(Duration::from_millis(2_500));
    assert_eq!(connection_count(shared().primary(), &tenant.name), 1, "lent is not idle");
    client.query("COMMIT");
    eventually("closed", SOON, || connection_count(shared().primary(), &tenant.name) == 0);
    eventually("the books say so too", SOON, || howdah.status()["pools"][0]["open"] == 0);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_server_that_stopped_answering_while_idle_is_noticed_before_it_is_lent() {
    let (howdah, tenant) =
        served("[timeouts]\nserver_check_delay = \"1ms\"\nserver_connect = \"1s\"\nquery_wait = \"10s\"\n");
    let mut client = howdah.login(&tenant);
    let pid = client.value("SELECT pg_backend_pid()");
    stop_idle(&howdah, &pid);
    let other = client.value("SELECT pg_backend_pid()");
    signal(&pid, "-CONT");
    assert_ne!(other, pid);
    // one that is gone is noticed without asking
    shared().primary().sql(&format!("SELECT pg_terminate_backend({other})")).unwrap();
    eventually("gone", SOON, || connection_count(shared().primary(), &tenant.name) == 0);
    assert_ne!(client.value("SELECT pg_backend_pid()"), other);
}

#[test]
fn a_check_of_a_silent_server_is_part_of_the_wait() {
    let (howdah, tenant) =
        served("[pool]\nsize = 1\n\n[timeouts]\nserver_check_delay = \"1ms\"\nquery_wait = \"400ms\"\n");
    let mut client = howdah.login(&tenant);
    let pid = client.value("SELECT pg_backend_pid()");
    stop_idle(&howdah, &pid);
    let begun = Instant::now();
    let messages = client.query("SELECT 1");
    let took = begun.elapsed();
    signal(&pid, "-CONT");
    assert_eq!(wire::short(&messages), ["E:53300", "Z:I"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_server_that_cannot_be_brought_to_rest_is_closed_after_cancel_wait() {
    let (howdah, tenant) = served("[pool]\nsize = 1\n\n[timeouts]\ncancel_wait = \"300ms\"\n");
    let mut client = howdah.login(&tenant);
    let pid = client.value("SELECT pg_backend_pid()");
    client.query("BEGIN");
    signal(&pid, "-STOP");
    client.cut();
    let other = howdah.login(&tenant).value("SELECT pg_backend_pid()");
    signal(&pid, "-CONT");
    assert_ne!(other, pid);
}

#[test]
fn a_setting_of_the_user_goes_before_one_of_the_database_and_that_before_the_files() {
    let (howdah, tenant) = served(
        "[timeouts]\nclient_idle = \"200ms\"\n\n[databases.NAME]\ncluster = \"main\"\ntimeouts = { client_idle = \"400ms\" }\n\n\
         [users.NAME.timeouts]\nclient_idle = \"0\"\n",
    );
    let mut client = howdah.login(&tenant);
    client.expect_silence(Duration::from_millis(800));
    assert_eq!(client.value("SELECT 1"), "1");
}
