//! A transaction that has waited for a server in vain: its BEGIN is accepted, and whatever needs a server is refused.

use crate::support::wire::{self, Client};
use crate::support::{Howdah, SOON, Tenant, builder, eventually};

fn batch(statements: &[&str]) -> Vec<u8> {
    let one = |sql: &&str| [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::execute("", 0)].concat();
    [statements.iter().flat_map(one).collect(), wire::sync()].concat()
}

fn run(client: &mut Client, bytes: &[u8]) -> Vec<String> {
    client.send(bytes);
    wire::short(&client.read_until_ready())
}

/// Two clients of a pool of one server, which the first has.
fn contended(howdah: &Howdah) -> (Client, Client) {
    let tenant = Tenant::shared();
    let (mut first, mut second) = (howdah.login(&tenant), howdah.login(&tenant));
    second.query("CREATE TABLE t (i int)");
    second.send(&[wire::parse("b", "BEGIN", &[]), wire::parse("c", "COMMIT", &[]), wire::sync()].concat());
    second.read_until_ready();
    first.query("BEGIN");
    (first, second)
}

#[test]
fn a_begin_that_waits_in_vain_is_accepted_and_its_first_statement_refused() {
    let howdah = Howdah::shared("[pool]\nsize = 1\n[timeouts]\nquery_wait = \"800ms\"");
    let (mut first, mut second) = contended(&howdah);
    assert_eq!(second.query_short("INSERT INTO t VALUES (1)"), ["E:53300", "Z:I"]);
    // nothing was refused in it: it is what PostgreSQL makes of an empty block
    for (begin, end, tag) in [
        ("BEGIN", "COMMIT", "C:COMMIT"),
        ("START TRANSACTION ISOLATION LEVEL SERIALIZABLE;", "END", "C:COMMIT"),
        ("begin", "ROLLBACK", "C:ROLLBACK"),
    ] {
        assert_eq!(second.query_short(begin), ["C:BEGIN", "Z:T"]);
        assert_eq!(second.query_short(end), [tag, "Z:I"]);
    }
    for (end, answer) in [("COMMIT", "E:53300"), ("PREPARE TRANSACTION 'x'", "E:53300"), ("ROLLBACK", "C:ROLLBACK")] {
        assert_eq!(second.query_short("BEGIN"), ["C:BEGIN", "Z:T"]);
        assert_eq!(second.query_short("INSERT INTO t VALUES (1)"), ["E:53300", "Z:E"]);
        assert_eq!(second.query_short("SAVEPOINT a"), ["E:53300", "Z:E"]);
        assert_eq!(second.query_short("ROLLBACK TO a"), ["E:53300", "Z:E"]);
        assert_eq!(second.query_short(end), [answer, "Z:I"], "never the tag COMMIT");
    }
    // what else comes with a BEGIN is refused with it
    assert_eq!(second.query_short("BEGIN; INSERT INTO t VALUES (1)"), ["E:53300", "Z:I"]);
    first.query("COMMIT");
    assert_eq!(second.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn in_the_extended_protocol_a_begin_alone_is_accepted_and_a_batch_refused_as_a_whole() {
    let howdah = Howdah::shared("[pool]\nsize = 1\n[timeouts]\nquery_wait = \"800ms\"");
    let (mut first, mut second) = contended(&howdah);
    assert_eq!(run(&mut second, &batch(&["BEGIN", "INSERT INTO t VALUES (1)"])), ["E:53300", "Z:I"]);
    assert_eq!(run(&mut second, &batch(&["BEGIN"])), ["1", "2", "C:BEGIN", "Z:T"]);
    assert_eq!(run(&mut second, &batch(&["INSERT INTO t VALUES (1)"])), ["E:53300", "Z:E"]);
    assert_eq!(run(&mut second, &batch(&["COMMIT"])), ["1", "2", "E:53300", "Z:I"]);
    let named =
        |name: &str| [wire::bind("", name, &[]), wire::describe(b'P', ""), wire::execute("", 0), wire::sync()].concat();
    assert_eq!(run(&mut second, &named("b")), ["2", "n", "C:BEGIN", "Z:T"]);
    assert_eq!(run(&mut second, &named("c")), ["2", "n", "C:COMMIT", "Z:I"]);
    // pipelined behind it: each has its own answer
    second.send(&[wire::query("BEGIN"), wire::query("SELECT 1"), wire::query("ROLLBACK")].concat());
    let answers: Vec<_> = (0..3).map(|_| wire::short(&second.read_until_ready())).collect();
    assert_eq!(answers, [vec!["C:BEGIN", "Z:T"], vec!["E:53300", "Z:E"], vec!["C:ROLLBACK", "Z:I"]]);
    first.query("COMMIT");
    assert_eq!(run(&mut second, &named("b")), ["2", "n", "C:BEGIN", "Z:T"]);
    assert_eq!(second.query_short("INSERT INTO t VALUES (1)"), ["C:INSERT 0 1", "Z:T"]);
    assert_eq!(run(&mut second, &named("c")), ["2", "n", "C:COMMIT", "Z:I"]);
    assert_eq!(second.value("SELECT count(*) FROM t"), "1");
}

#[test]
fn a_begin_without_a_primary_is_accepted_and_its_first_statement_told_why() {
    let cluster = builder().start().unwrap();
    let tenant = Tenant::on(cluster.primary());
    let howdah = Howdah::before(cluster.nodes(), "[timeouts]\nquery_wait = \"800ms\"");
    let mut client = howdah.login(&tenant);
    client.query("SELECT 1");
    cluster.primary().kill_all().unwrap();
    eventually("there is no primary", SOON, || howdah.status()["clusters"][0]["primary"].is_null());
    assert_eq!(client.query_short("BEGIN"), ["C:BEGIN", "Z:T"]);
    assert_eq!(client.query_short("SELECT 1"), ["E:57P03", "Z:E"]);
    assert_eq!(client.query_short("COMMIT"), ["E:57P03", "Z:I"]);
    assert_eq!(client.query_short("SELECT 1"), ["E:57P03", "Z:I"]);
}

#[test]
fn a_commit_whose_wait_for_standbys_was_cancelled_is_not_reported_as_done() {
    let cluster = builder().start().unwrap();
    let primary = cluster.primary();
    let tenant = Tenant::on(primary);
    let howdah = Howdah::before(cluster.nodes(), "");
    let mut client = howdah.login(&tenant);
    client.query("CREATE TABLE t (i int)");
    primary.set("synchronous_standby_names", "nobody").unwrap();
    eventually("commits wait", SOON, || {
        primary.sql("SHOW synchronous_standby_names").unwrap().cell() == Some("nobody")
    });
    let mut cancelled = |bytes: &[u8], expected: &[&str]| {
        client.send(bytes);
        let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        eventually("it waits for a standby", SOON, || !primary.sql(sql).unwrap().column().is_empty());
        primary.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").unwrap();
        let messages = client.read_until_ready();
        assert_eq!(wire::short(&messages), expected);
        let error = wire::error(&messages);
        assert!(error.message.contains("may yet be lost") && error.routine.is_empty(), "{error:?}");
    };
    let in_doubt = ["N:01000", "E:08007", "Z:I"];
    cancelled(&wire::query("INSERT INTO t VALUES (1)"), &in_doubt);
    cancelled(
        &wire::query("BEGIN; INSERT INTO t VALUES (1); COMMIT"),
        &["C:BEGIN", "C:INSERT 0 1", "N:01000", "E:08007", "Z:I"],
    );
    cancelled(&batch(&["INSERT INTO t VALUES (1)"]), &["1", "2", "C:INSERT 0 1", "N:01000", "E:08007", "Z:I"]);
    cancelled(
        &batch(&["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"]),
        &["1", "2", "C:BEGIN", "1", "2", "C:INSERT 0 1", "1", "2", "N:01000", "E:08007", "Z:I"],
    );
    // the session goes on as if nothing had been
    assert_eq!(client.value("SELECT count(*) FROM t"), "4");
}
