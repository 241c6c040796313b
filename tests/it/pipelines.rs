//! What is asked ahead is answered as if it had been asked in turn, and what failed in between is not built on.
//!
//! Every script is played to PostgreSQL itself first: howdah must say the same, message by message.

use std::time::Duration;

use crate::support::wire::{self, Client};
use crate::support::{Howdah, Tenant, shared};

/// One server for everybody, so that each client meets what the last one left.
fn one_server() -> (Howdah, Tenant) {
    let howdah = Howdah::shared("[limits]\nworkers = 1\n\n[pool]\nsize = 1\n");
    (howdah, Tenant::shared())
}

fn direct(tenant: &Tenant) -> Client {
    let mut client = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
    client.login(&tenant.name, &tenant.password, &tenant.name);
    client
}

/// The short forms of everything up to the last of `turns` ReadyForQuery, with the first column of rows.
fn answers(client: &mut Client, script: &[u8], turns: usize) -> Vec<String> {
    client.send(script);
    let read = (0..turns).flat_map(|_| client.read_until_ready());
    read.map(|message| match message.tag {
        b'D' => format!("D:{}", message.columns()[0].clone().unwrap_or_default()),
        _ => message.short(),
    })
    .collect()
}

#[track_caller]
fn same_as_postgresql(howdah: &Howdah, tenant: &Tenant, script: &[Vec<u8>], turns: usize) {
    let script = script.concat();
    let expected = answers(&mut direct(tenant), &script, turns);
    assert_eq!(answers(&mut howdah.login(tenant), &script, turns), expected);
}

fn run(name: &str) -> Vec<u8> {
    [wire::bind("", name, &[]), wire::execute("", 0), wire::sync()].concat()
}

/// Skips the rest of its batch.
fn fails() -> Vec<u8> {
    wire::parse("", "SELECT 'x'::int", &[])
}

#[test]
fn a_name_whose_parse_was_skipped_is_free_for_the_next_batch() {
    let (howdah, tenant) = one_server();
    let script =
        [fails(), wire::parse("a", "SELECT 1", &[]), wire::sync(), wire::parse("a", "SELECT 2", &[]), run("a")];
    same_as_postgresql(&howdah, &tenant, &script, 2);
    same_as_postgresql(&howdah, &tenant, &[fails(), wire::parse("a", "SELECT 1", &[]), wire::sync(), run("a")], 2);
}

#[test]
fn a_name_whose_close_was_skipped_still_stands_in_the_next_batch() {
    let (howdah, tenant) = one_server();
    let made = [wire::parse("a", "SELECT 1", &[]), wire::sync()].concat();
    let skipped = [fails(), wire::close(b'S', "a"), wire::sync()].concat();
    same_as_postgresql(&howdah, &tenant, &[made.clone(), skipped.clone(), run("a")], 3);
    same_as_postgresql(&howdah, &tenant, &[made, skipped, wire::parse("a", "SELECT 2", &[]), run("a")], 3);
}

#[test]
fn a_name_made_and_closed_by_skipped_messages_stays_free() {
    let (howdah, tenant) = one_server();
    let skipped = [fails(), wire::parse("a", "SELECT 1", &[]), wire::close(b'S', "a"), wire::sync()].concat();
    same_as_postgresql(&howdah, &tenant, &[skipped.clone(), run("a")], 2);
    same_as_postgresql(&howdah, &tenant, &[skipped, wire::parse("a", "SELECT 2", &[]), run("a")], 2);
}

#[test]
fn a_statement_parsed_before_in_and_after_failed_batches_runs() {
    let (howdah, tenant) = one_server();
    let named =
        |name: &str| [wire::parse(name, "SELECT 7", &[]), wire::bind("", name, &[]), wire::execute("", 0)].concat();
    let batches = [
        [named("a"), fails(), wire::sync()].concat(),
        [fails(), named("b"), wire::sync()].concat(),
        [named("c"), wire::sync()].concat(),
        [fails(), named("d"), wire::sync()].concat(),
        [named("e"), wire::sync()].concat(),
    ];
    for _ in 0..3 {
        same_as_postgresql(&howdah, &tenant, &batches, batches.len());
    }
}

#[test]
fn statements_evicted_in_failed_batches_are_found_again() {
    let howdah = Howdah::shared("[limits]\nworkers = 1\n\n[pool]\nsize = 1\nprepared_statements = 1\n");
    let tenant = Tenant::shared();
    let use_of = |n: u32, name: &str| {
        let sql = format!("SELECT {n}");
        [wire::parse(name, &sql, &[]), wire::bind("", name, &[]), wire::execute("", 0)].concat()
    };
    let batches = [
        [use_of(1, "a"), wire::sync()].concat(),
        [fails(), use_of(2, "b"), wire::sync()].concat(),
        [use_of(1, "c"), wire::sync()].concat(),
        [use_of(2, "d"), fails(), wire::sync()].concat(),
        [use_of(1, "e"), use_of(2, "f"), wire::sync()].concat(),
    ];
    for _ in 0..3 {
        same_as_postgresql(&howdah, &tenant, &batches, batches.len());
    }
}

#[test]
fn another_clients_unnamed_statement_never_runs_in_the_place_of_one_that_was_skipped() {
    let (howdah, tenant) = one_server();
    let mine = wire::parse("", "SELECT 'mine'", &[]);
    let missing = wire::bind("", "missing", &[]);
    // each leaves out the Parse of `mine` in another way: an error of howdah's own before it, one of the server's, and
    // one whose answer is there before the Parse is sent
    for skipped in [
        [missing, mine.clone(), wire::sync()].concat(),
        [wire::bind("", "", &[Some("too many")]), mine.clone(), wire::sync()].concat(),
        [wire::describe(b'P', "missing"), wire::flush()].concat(),
    ] {
        let mut other = howdah.login(&tenant);
        let theirs = [wire::parse("", "SELECT 'theirs'", &[]), run("")].concat();
        assert_eq!(answers(&mut other, &theirs, 1), ["1", "2", "D:theirs", "C:SELECT 1", "Z:I"]);
        for ahead in [true, false] {
            let mut client = howdah.login(&tenant);
            let waits = skipped.ends_with(&wire::flush());
            client.send(&skipped);
            if waits {
                assert_eq!(client.expect().tag, b'E');
                client.send(&[mine.clone(), wire::sync()].concat());
            }
            if !ahead {
                client.read_until_ready();
            }
            let read = answers(&mut client, &run(""), if ahead { 2 } else { 1 });
            assert!(!read.contains(&"D:theirs".to_owned()), "{read:?}");
        }
    }
}

#[test]
fn a_query_that_outlives_its_cancel_does_not_cost_the_next_one_its_session() {
    let howdah = Howdah::shared("[pool]\nsize = 1\n\n[timeouts]\nquery = \"100ms\"\n");
    let tenant = Tenant::shared();
    let mut client = howdah.login(&tenant);
    // the first takes its cancel for an answer
    let stubborn = "DO $$ BEGIN PERFORM pg_sleep(30); EXCEPTION WHEN query_canceled THEN END $$";
    client.send(&[wire::query(stubborn), wire::query("SELECT FROM pg_sleep(30)")].concat());
    assert_eq!(wire::short(&client.read_until_ready()), ["C:DO", "Z:I"]);
    let second = client.read_until_ready();
    assert_eq!(wire::error(&second).severity, "ERROR");
    assert_eq!(wire::short(&second).last().unwrap(), "Z:I");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_server_left_in_the_middle_of_a_message_gives_its_place_up_at_once() {
    let (howdah, tenant) = one_server();
    let mut half = howdah.login(&tenant);
    let message = wire::query(&format!("SELECT '{}'", "x".repeat(200_000)));
    half.send(&message[..150_000]);
    let mut next = howdah.login(&tenant);
    next.send(&wire::query("SELECT 1"));
    next.expect_silence(Duration::from_millis(200));
    half.cut();
    next.read_timeout(Duration::from_secs(4)); // PostgreSQL would not notice a Terminate there
    assert_eq!(wire::short(&next.read_until_ready()), ["T", "D", "C:SELECT 1", "Z:I"]);
}
