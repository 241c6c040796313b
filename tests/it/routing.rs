//! Where statements go: reads to standbys, everything else to the primary, and a block to one node.
//!
//! One cluster for all of it, which nobody stops or holds up; what that does is in `consistency` and `replicas_lost`.

use std::process::Command;
use std::sync::OnceLock;

use crate::support::wire::{self, Client, Message};
use crate::support::{Cluster, Howdah, SOON, Tenant, binary, config, eventually, free_port};

mod blocks;
mod choice;
mod input;
mod state;

/// A primary `a` and its standbys `b` and `c`.
pub fn three() -> Cluster {
    let cluster = Cluster::builder().prefix("howdah-routing").standby("b").standby("c");
    let cluster = cluster.setting("max_connections", "200").setting("max_prepared_transactions", "10");
    cluster.start().unwrap_or_else(|error| panic!("{error}"))
}

/// One for the tests of this file.
fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(three)
}

/// A tenant whom every node knows.
pub fn tenant_of(cluster: &Cluster) -> Tenant {
    let tenant = Tenant::on(cluster.primary());
    cluster.wait_streaming(2 * SOON).unwrap();
    tenant
}

/// The node that answers, by its port: a read like any other.
pub const PORT: &str = "SELECT current_setting('port')";

/// A client of a howdah whose reads go to a standby.
#[track_caller]
pub fn reader(howdah: &Howdah, tenant: &Tenant) -> Client {
    let mut client = howdah.login(tenant);
    eventually("reads go to a standby", 2 * SOON, || client.value("SELECT pg_is_in_recovery()") == "t");
    client
}

/// howdah in front of a cluster, with `extra` in its configuration. On a busy machine a second is no time for an answer.
pub fn serve(howdah: Command, cluster: &Cluster, extra: &str) -> Howdah {
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml = config(cluster.nodes(), port, http_port, extra);
    let howdah = Howdah::start_command(howdah, &patiently(&toml), port, http_port);
    howdah.wait_ready();
    howdah
}

fn patiently(toml: &str) -> String {
    toml.replace("[clusters.main.monitor]\n", "[clusters.main.monitor]\ntimeout = \"10s\"\n")
}

/// howdah in front of the shared cluster, with `extra` in its configuration, and a tenant.
fn served(extra: &str) -> (Howdah, Tenant) {
    let tenant = tenant_of(shared());
    (serve(Command::new(binary()), shared(), extra), tenant)
}

/// Patient, so that a busy machine does not send to the primary what a standby has a moment later.
const PATIENT: &str = "[routing]\nfresh_wait = \"5s\"\n";

const WHERE: &str = "SELECT pg_is_in_recovery()";

fn batch(sql: &str) -> Vec<u8> {
    [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::execute("", 0)].concat()
}

/// The answers up to so many ReadyForQuery.
pub fn answers(client: &mut Client, readies: usize) -> Vec<Message> {
    (0..readies).flat_map(|_| client.read_until_ready()).collect()
}

#[test]
fn reads_go_to_standbys_and_everything_else_to_the_primary() {
    let (howdah, tenant) = served(PATIENT);
    let mut client = reader(&howdah, &tenant);
    let setup = "CREATE TABLE t (i int); CREATE SEQUENCE s; CREATE UNLOGGED TABLE u (i int);
        CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (-1); SELECT 1';
        CREATE FUNCTION reads() RETURNS bool STABLE LANGUAGE sql AS 'SELECT pg_is_in_recovery()'";
    assert!(client.query(setup).iter().all(|m| m.tag != b'E'));
    for i in 0..50 {
        client.query(&format!("INSERT INTO t VALUES ({i})"));
        assert_eq!(client.value("SELECT count(*) FROM t"), (i + 1).to_string());
    }
    assert_eq!(client.value(WHERE), "t");
    assert_eq!(wire::first_column(&client.extended(WHERE, &[])), ["t"]);
    client.query("TRUNCATE t");
    // whatever writes, and whatever only the primary can answer, however it is dressed
    for sql in [
        "SELECT writes(), pg_is_in_recovery()",
        "SELECT nextval('s'), pg_is_in_recovery()",
        "SELECT 1, pg_is_in_recovery() FROM u",
        "SELECT pg_advisory_xact_lock(1), pg_is_in_recovery()",
        "SELECT txid_current(), pg_is_in_recovery()",
        "SELECT 1, pg_is_in_recovery() FROM t FOR UPDATE",
        "WITH w AS (INSERT INTO t VALUES (7) RETURNING i) SELECT i, pg_is_in_recovery() FROM w",
        "/* howdah: primary */ SELECT 1, pg_is_in_recovery()",
        "DO $$ BEGIN PERFORM 1; END $$",
        "NOTIFY x",
        "SELECT pg_notify('x', ''), pg_is_in_recovery()",
        "LOCK TABLE t",
        "EXPLAIN ANALYZE INSERT INTO t VALUES (8)",
        "SELECT i INTO copied FROM t",
    ] {
        for extended in [false, true] {
            let answer = if extended { client.extended(sql, &[]) } else { client.query(sql) };
            let refused = answer.iter().find(|m| m.tag == b'E').map(|m| m.fields().code);
            let fine = refused.is_none() || ["25P01", "42P07"].contains(&refused.as_deref().unwrap_or(""));
            assert!(fine, "{sql}: {answer:?}");
            for row in answer.iter().filter(|m| m.tag == b'D').map(Message::columns).filter(|row| row.len() == 2) {
                assert_eq!(row[1].as_deref(), Some("f"), "{sql}");
            }
        }
    }
    // and reads that look like something else
    let again = |client: &mut Client, sql: &str| {
        eventually(sql, SOON, || wire::first_column(&client.query(sql)) == ["t"]);
    };
    for sql in [
        "SELECT reads()",
        "  -- a comment\n/* and /* another */ one */ ((SELECT pg_is_in_recovery()))",
        "VALUES (pg_is_in_recovery())",
        "WITH w AS (SELECT pg_is_in_recovery() AS r) SELECT r FROM w",
        "SELECT pg_is_in_recovery(); SELECT 1 WHERE false",
        "COPY (SELECT pg_is_in_recovery()) TO STDOUT",
    ] {
        if sql.starts_with("COPY") {
            eventually(sql, SOON, || client.query(sql).iter().any(|m| m.tag == b'd' && m.body == b"t\n"));
        } else {
            again(&mut client, sql);
        }
    }
}

#[test]
fn every_statement_behind_a_write_of_one_pipeline_sees_it_and_answers_come_in_order() {
    let (howdah, tenant) = served(PATIENT);
    let mut client = reader(&howdah, &tenant);
    client.query("CREATE TABLE t (i int)");
    let counted = "SELECT count(*) FROM t";
    for round in 0..20 {
        let insert = [batch("INSERT INTO t VALUES (1)"), wire::sync()].concat();
        let read = [batch(counted), wire::sync()].concat();
        // several Syncs in one packet, then simple queries, then a batch that does both
        let both = [batch(counted), batch("INSERT INTO t VALUES (2)"), batch(counted), wire::sync()].concat();
        let all = [
            read.clone(),
            insert,
            read.clone(),
            read.clone(),
            wire::query("INSERT INTO t VALUES (3)"),
            wire::query(counted),
            both,
            read,
        ];
        client.send(&all.concat());
        let before = 3 * round;
        let column = wire::first_column(&answers(&mut client, 8));
        let expected = [0, 1, 1, 2, 2, 3, 3].map(|more| (before + more).to_string());
        assert_eq!(column, expected);
    }
    eventually("reads go to a standby again", SOON, || client.value(WHERE) == "t");
    // a pipeline of reads alone stays on a standby
    client.send(&[batch(WHERE), wire::sync()].concat().repeat(50));
    assert_eq!(wire::first_column(&answers(&mut client, 50)), ["t"; 50]);
    // one that fails is skipped to its Sync, and what follows is answered
    let broken = [batch(WHERE), batch("SELECT 1/0"), batch(WHERE), wire::sync(), batch(WHERE), wire::sync()];
    client.send(&broken.concat());
    let said = answers(&mut client, 2);
    assert_eq!(
        wire::short(&said),
        ["1", "2", "D", "C:SELECT 1", "1", "E:22012", "Z:I", "1", "2", "D", "C:SELECT 1", "Z:I"]
    );
}
