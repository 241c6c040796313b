//! Blocks: one node for each, and what a standby would get wrong in silence is refused there.

use std::process::Command;

use super::{PATIENT, WHERE, answers, batch, reader, serve, served, shared, tenant_of};
use crate::support::wire;
use crate::support::{SOON, binary, eventually, poll};

#[test]
fn a_block_runs_on_one_node_and_one_that_only_reads_on_a_standby() {
    let (howdah, tenant) = served(PATIENT);
    let mut client = reader(&howdah, &tenant);
    client.query("CREATE TABLE t (i int)");
    client.query("BEGIN");
    assert_eq!(client.value(WHERE), "f");
    client.query("COMMIT");
    for begin in ["BEGIN READ ONLY", "START TRANSACTION READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"]
    {
        eventually(begin, SOON, || {
            client.query(begin);
            let on_standby = client.value(WHERE) == "t";
            assert_eq!(client.query_short("SAVEPOINT s"), ["C:SAVEPOINT", "Z:T"]);
            assert_eq!(client.query_short("SELECT 1/0"), ["E:22012", "Z:E"]);
            assert_eq!(client.query_short("SELECT 1"), ["E:25P02", "Z:E"]);
            assert_eq!(client.query_short("ROLLBACK TO s"), ["C:ROLLBACK", "Z:T"]);
            assert_eq!(
                client.query_short("DECLARE c CURSOR FOR SELECT generate_series(1, 3)"),
                ["C:DECLARE CURSOR", "Z:T"]
            );
            assert_eq!(client.column("FETCH 2 FROM c"), ["1", "2"]);
            assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["E:25006", "Z:E"]);
            assert_eq!(client.query_short("COMMIT"), ["C:ROLLBACK", "Z:I"]);
            assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["C:INSERT 0 1", "Z:I"]);
            on_standby
        });
    }
    // as JDBC sends it: in one batch with the first statement
    eventually("a block in a batch", SOON, || {
        client.send(&[batch("BEGIN READ ONLY"), batch(WHERE), wire::sync()].concat());
        let first = wire::first_column(&client.read_until_ready());
        client.send(
            &[
                batch(WHERE),
                wire::sync(),
                batch("COMMIT"),
                wire::sync(),
                batch("INSERT INTO t VALUES (2)"),
                wire::sync(),
            ]
            .concat(),
        );
        let rest = answers(&mut client, 3);
        assert_eq!(wire::short(&rest).last_chunk().unwrap(), &["C:INSERT 0 1", "Z:I"]);
        assert_eq!(wire::first_column(&rest), first);
        first == ["t"]
    });
    for begin in
        ["BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY", "BEGIN READ WRITE", "BEGIN ISOLATION LEVEL SERIALIZABLE"]
    {
        client.query(begin);
        assert_eq!(client.value(WHERE), "f", "{begin}");
        client.query("COMMIT");
    }
    // sessions that only read
    client.query("SET default_transaction_read_only = on");
    eventually("a block of such a session", SOON, || {
        client.query("BEGIN");
        let on_standby = client.value(WHERE) == "t";
        assert_eq!(client.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
        on_standby
    });
    client.query("BEGIN READ WRITE");
    assert_eq!(client.value(WHERE), "f");
    assert_eq!(client.query_short("INSERT INTO t VALUES (3)"), ["C:INSERT 0 1", "Z:T"]);
    client.query("COMMIT");
    assert_eq!(client.query_short("INSERT INTO t VALUES (4)"), ["E:25006", "Z:I"]);
    client.query("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE");
    assert_eq!(client.query_short("INSERT INTO t VALUES (4)"), ["C:INSERT 0 1", "Z:I"]);
    client.query("SET default_transaction_isolation = serializable");
    assert_eq!(client.value(WHERE), "f");
}

#[test]
fn what_would_silently_be_wrong_on_a_standby_is_refused_there_with_a_hint() {
    let extra = "[databases.reads]\ncluster = \"main\"\nrole = \"replica\"\n";
    let tenant = tenant_of(shared());
    let own = format!("dbname = \"{}\"\n{PATIENT}", tenant.name);
    let howdah = serve(Command::new(binary()), shared(), &format!("{extra}{own}"));
    let mut client = reader(&howdah, &tenant);
    let silent = [
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1, 2)",
        "SELECT pg_export_snapshot()",
    ];
    for sql in silent {
        for extended in [false, true] {
            let begun = poll(SOON, || {
                client.query("BEGIN READ ONLY");
                (client.value(WHERE) == "t" || client.query("ROLLBACK").is_empty()).then_some(())
            });
            assert!(begun.is_some(), "no standby");
            let answer = if extended { client.extended(sql, &[]) } else { client.query(sql) };
            let error = wire::error(&answer);
            assert_eq!(error.code, "25006", "{sql}: {answer:?}");
            assert!(!error.hint.is_empty(), "{sql}: {error:?}");
            assert_eq!(answer.last().unwrap().short(), "Z:E", "{sql}");
            assert_eq!(client.query_short("ROLLBACK"), ["C:ROLLBACK", "Z:I"]);
        }
        let mut reads = howdah.wire();
        reads.login(&tenant.name, &tenant.password, "reads");
        let answer = reads.query(sql);
        assert_eq!(
            (wire::error(&answer).code.as_str(), answer.last().unwrap().short().as_str()),
            ("25006", "Z:I"),
            "{sql}"
        );
        assert_eq!(reads.value(WHERE), "t");
        // outside of such a block it is the primary's, where it means what it says
        assert!(client.query(sql).iter().all(|m| m.tag != b'E'), "{sql}");
        client.query("SELECT pg_advisory_unlock_all()");
    }
    // wherever in a statement it stands, and in a function too
    let locks = "CREATE FUNCTION locks() RETURNS int LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_lock(1); RETURN 1; END'";
    client.query(locks);
    for sql in [
        "SELECT 1; SELECT pg_advisory_lock(1)",
        "EXPLAIN ANALYZE SELECT pg_advisory_lock(1)",
        "DECLARE c CURSOR FOR SELECT pg_advisory_xact_lock(1)",
        "PREPARE p AS SELECT pg_try_advisory_lock(1)",
        "DO $$ BEGIN PERFORM pg_advisory_lock(1); END $$",
        "SELECT locks()",
        "SELECT 1 WHERE locks() = 1; SELECT 2",
    ] {
        let refused = poll(SOON, || {
            client.query("BEGIN READ ONLY");
            let on_standby = client.value(WHERE) == "t";
            let answer = client.query(sql);
            assert_eq!(client.query("ROLLBACK").last().unwrap().short(), "Z:I");
            let code = answer.iter().find(|m| m.tag == b'E').map(|m| m.fields().code);
            // until the function is known there it is only unknown
            (on_standby && code.as_deref() != Some("42883")).then_some(code)
        });
        assert_eq!(refused, Some(Some("25006".to_owned())), "{sql}");
        let hinted = format!("/* howdah: replica */ {sql}");
        if sql.starts_with("DO") || sql.starts_with("SELECT 1;") {
            assert!(client.query(&hinted).iter().all(|m| m.tag != b'E'), "{hinted}");
            let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
            assert_eq!(shared().find("b").unwrap().sql(held).unwrap().cell(), Some("0"), "{hinted}");
            assert_eq!(shared().find("c").unwrap().sql(held).unwrap().cell(), Some("0"), "{hinted}");
            client.query("SELECT pg_advisory_unlock_all()");
        }
    }
}

#[test]
fn a_cursor_held_on_a_standby_is_read_to_its_end_and_writes_go_to_the_primary_afterwards() {
    let (howdah, tenant) = served(PATIENT);
    let mut client = reader(&howdah, &tenant);
    client.query("CREATE TABLE t (i int)");
    eventually("a block on a standby", SOON, || {
        client.query("BEGIN READ ONLY");
        let on_standby = client.value(WHERE) == "t";
        client.query("DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5)");
        client.query("COMMIT");
        assert_eq!(client.column("FETCH 2 FROM c"), ["1", "2"]);
        if !on_standby {
            client.query("CLOSE c");
        }
        on_standby
    });
    // as long as the cursor is open there is no other server for this session: it is told why
    assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["E:25006", "Z:I"]);
    assert_eq!(client.column("FETCH ALL FROM c"), ["3", "4", "5"]);
    client.query("CLOSE c");
    assert_eq!(client.query_short("INSERT INTO t VALUES (1)"), ["C:INSERT 0 1", "Z:I"]);
}
