//! `commit_outcome = "resolve"`: whoever is told what became of a COMMIT without an answer is told the truth.
//!
//! Sessions commit until every process of the primary is killed, and what each of them is told is compared with what is there afterwards,
//! at the node that has taken over. What the outcome is without the setting is in `outage`; every history that a model can have, and
//! what goes wrong without the rule, is in `src/proxy/verdict/tests.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::managed::{A_WHILE, managed};
use crate::support::wire::{self, Client};
use crate::support::{Howdah, Node, SOON, Tenant, builder, eventually};

const RESOLVE: &str = "[pool]\nsize = 40\ncommit_outcome = \"resolve\"\n[timeouts]\nquery_wait = \"30s\"\n";
const SESSIONS: usize = 24;
/// By then the monitor has asked every node again, whose turn comes each 500 ms at the latest.
const ASKED_WITHIN: Duration = Duration::from_millis(1_200);

/// What the client of a COMMIT was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Done,
    Lost,
    Doubtful,
    /// Something had gone wrong before it.
    NotSent,
}

/// Transactions that were tried: who, which, and what came of it.
type Tried = BTreeMap<(usize, u64), Told>;

/// Sessions that commit as fast as they can.
struct Committers {
    over: Arc<AtomicBool>,
    started: mpsc::Receiver<()>,
    threads: Vec<JoinHandle<Tried>>,
}

impl Committers {
    fn start(howdah: &Howdah, tenant: &Tenant, sessions: Range<usize>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ready, started) = mpsc::channel();
        let threads = sessions
            .map(|session| {
                let (client, over, ready) = (howdah.login(tenant), Arc::clone(&over), ready.clone());
                std::thread::spawn(move || commit_on(client, session, &over, &ready))
            })
            .collect();
        Self { over, started, threads }
    }

    /// Returns once each has committed for a while.
    fn are_busy(self) -> Self {
        self.threads.iter().for_each(|_| self.started.recv_timeout(A_WHILE).unwrap());
        self
    }

    fn end(self) -> Tried {
        self.over.store(true, Ordering::Release);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// Waits until so many COMMITs wait for a standby.
fn wait_for_commits(node: &Node, count: usize) {
    let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("COMMITs wait", A_WHILE, || node.sql(sql).unwrap().column().len() == count);
}

/// In turns by the simple and the extended protocol, with and without a savepoint.
fn commit_on(mut client: Client, session: usize, over: &AtomicBool, ready: &mpsc::Sender<()>) -> Tried {
    client.read_timeout(A_WHILE);
    let (mut tried, began, mut told) = (Tried::new(), Instant::now(), false);
    for seq in 0_u64.. {
        if over.load(Ordering::Acquire) {
            break;
        }
        let insert = format!("INSERT INTO doubts VALUES ({session}, {seq})");
        let mut statements = vec!["BEGIN", &insert];
        if seq % 3 == 0 {
            statements = vec!["BEGIN", "SAVEPOINT s", &insert, "RELEASE s"];
        }
        let failed = statements.iter().any(|sql| client.query(sql).iter().any(|message| message.tag == b'E'));
        let messages = if seq % 2 == 0 { client.query("COMMIT") } else { client.extended("COMMIT", &[]) };
        let outcome = match wire::short(&messages).iter().map(String::as_str).collect::<Vec<_>>()[..] {
            _ if failed => Told::NotSent,
            ["C:COMMIT", "Z:I"] | ["1", "2", "n", "C:COMMIT", "Z:I"] => Told::Done,
            // by the batch that ends a block which was lost before, a COMMIT is parsed
            [.., "E:40001", "Z:I"] => Told::Lost,
            ["E:08007", "Z:I"] => Told::Doubtful,
            ref other => panic!("{other:?}"),
        };
        tried.insert((session, seq), outcome);
        if !told && began.elapsed() > ASKED_WITHIN {
            ready.send(()).unwrap();
            told = true;
        }
    }
    tried
}

/// Compares with what is there, and prints how many were told what. The counts of those that were told: done, lost, that nobody
/// knows; of the first only those that were in doubt.
fn judge(what: &str, tried: &Tried, node: &Node, tenant: &Tenant, howdah: &Howdah) -> [usize; 3] {
    let rows = node.sql_in(&tenant.name, "SELECT session || ' ' || seq FROM doubts").unwrap();
    let pair = |text: &&str| text.split_once(' ').map(|(one, other)| (one.parse().unwrap(), other.parse().unwrap()));
    let there: BTreeSet<(usize, u64)> = rows.column().iter().filter_map(pair).collect();
    assert_eq!(there.len(), rows.column().len());
    let with = |told: Told| tried.iter().filter(move |(_, its)| **its == told).map(|(who, _)| *who);
    let missing: Vec<_> = with(Told::Done).filter(|who| !there.contains(who)).collect();
    let present: Vec<_> = with(Told::Lost).chain(with(Told::NotSent)).filter(|who| there.contains(who)).collect();
    let log = howdah.log();
    let resolved = log.lines().filter(|line| line.contains("commit in doubt") && line.contains("Committed"));
    let resolved = resolved.count(); // as long as there was one such loss only
    let counts = [resolved, with(Told::Lost).count(), with(Told::Doubtful).count()];
    let doubtful_there = with(Told::Doubtful).filter(|who| there.contains(who)).count();
    println!(
        "{what}: {} acknowledged; in doubt: {} told done, {} lost, {} unknown ({doubtful_there} there); before COMMIT: {}",
        with(Told::Done).count() - resolved,
        counts[0],
        counts[1],
        counts[2],
        with(Told::NotSent).count(),
    );
    assert!(
        missing.is_empty() && present.is_empty(),
        "{what}: told done and missing: {missing:?}; told lost: {present:?}\n{log}"
    );
    counts
}

/// The ids of transactions that were told to be lost.
fn lost_xids(howdah: &Howdah) -> Vec<u64> {
    let log = howdah.log();
    let lost = log.lines().filter(|line| line.contains("commit in doubt") && line.contains("Lost"));
    let xid = |line: &str| line.split("xid=").nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    lost.filter_map(xid).collect()
}

fn signal_all(node: &Node, sql: &str, signal: Signal) {
    for pid in node.sql(sql).unwrap().column() {
        let _ = kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), signal); // some have ended
    }
}

fn create_table(howdah: &Howdah, tenant: &Tenant) {
    let created = howdah.login(tenant).query_short("CREATE TABLE doubts (session int, seq bigint)");
    assert_eq!(created, ["C:CREATE TABLE", "Z:I"]);
}

#[test]
fn after_a_promotion_by_somebody_else_every_outcome_that_is_told_is_true() {
    let cluster = builder().standby("b").setting("max_connections", "100").start().unwrap();
    let (old, new) = (cluster.primary(), cluster.find("b").unwrap());
    let tenant = Tenant::on(old);
    let howdah = Howdah::before(cluster.nodes(), RESOLVE);
    create_table(&howdah, &tenant);
    // one half of the COMMITs has arrived and is not acknowledged; then nothing arrives any more
    let half = SESSIONS / 2;
    let arrived = Committers::start(&howdah, &tenant, 0..half).are_busy();
    old.set("synchronous_standby_names", "nobody").unwrap();
    wait_for_commits(old, half);
    let (end, reached) =
        ("SELECT pg_current_wal_flush_lsn()", |lsn: &str| format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"));
    let end = old.sql(end).unwrap().cell().unwrap().to_owned();
    eventually("they have arrived", A_WHILE, || new.sql(&reached(&end)).unwrap().cell() == Some("t"));
    signal_all(old, "SELECT pid FROM pg_stat_replication", Signal::STOP);
    let did_not = Committers::start(&howdah, &tenant, half..SESSIONS);
    wait_for_commits(old, SESSIONS);
    std::thread::sleep(ASKED_WITHIN);
    old.kill_all().unwrap();
    new.promote().unwrap();
    eventually("the new primary serves", A_WHILE, || howdah.status()["clusters"][0]["primary"] == "b");
    // others take the ids of those that were lost
    new.sql("DO $$ BEGIN FOR i IN 1..500 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$").unwrap();
    let mut tried = arrived.end();
    tried.extend(did_not.end());
    let counts = judge("promotion", &tried, new, &tenant, &howdah);
    assert_eq!(counts, [half, half, 0], "{}", howdah.log());
    let is_committed = |xid: &&u64| new.sql(&format!("SELECT txid_status({xid})")).unwrap().cell() == Some("committed");
    let lost = lost_xids(&howdah);
    let reused = lost.iter().filter(is_committed).count();
    println!("{reused} of {} lost ones are taken for committed by who asks for their status alone", lost.len());
    assert!(reused > 0, "the rule was not put to the test");
}

#[test]
fn after_a_failover_every_outcome_that_is_told_is_true() {
    let managed = managed().standbys(1).failover("restart_if = \"0\"").extra(RESOLVE).start();
    let (howdah, tenant) = (managed.howdah(), managed.tenant());
    create_table(howdah, tenant);
    let old = managed.settled();
    managed.node(&old).set("synchronous_standby_names", "*").unwrap();
    let committers = Committers::start(howdah, tenant, 0..SESSIONS).are_busy();
    managed.node(&old).kill_all().unwrap();
    let new = managed.other_primary(&old);
    let tried = committers.end();
    let counts = judge("failover", &tried, managed.node(&new), tenant, howdah);
    assert!(counts[0] + counts[1] > 0, "{counts:?}\n{}", howdah.log());
}

#[test]
fn after_a_restart_in_place_every_outcome_that_is_told_is_true() {
    let cluster = builder().setting("max_connections", "100").setting("commit_delay", "3000").start().unwrap();
    let node = cluster.primary();
    let tenant = Tenant::on(node);
    let howdah = Howdah::before(cluster.nodes(), RESOLVE);
    create_table(&howdah, &tenant);
    // of one server process, whereupon PostgreSQL starts the others anew: what was not flushed is lost
    let committers = Committers::start(&howdah, &tenant, 0..SESSIONS).are_busy();
    let one = format!("SELECT min(pid) FROM pg_stat_activity WHERE datname = '{}'", tenant.name);
    signal_all(node, &one, Signal::KILL);
    eventually("it serves", A_WHILE, || node.sql("SELECT 1").is_ok());
    node.sql("DO $$ BEGIN FOR i IN 1..500 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$").unwrap();
    let tried = committers.end();
    let crashed = judge("one server process killed", &tried, node, &tenant, &howdah);
    assert!(crashed[0] + crashed[1] > 0, "{crashed:?}");
    // of all of them, while all COMMITs wait for a standby that there is not: what has been flushed is there
    howdah.login(&tenant).query("TRUNCATE doubts");
    let committers = Committers::start(&howdah, &tenant, 0..SESSIONS).are_busy();
    node.set("synchronous_standby_names", "nobody").unwrap();
    wait_for_commits(node, SESSIONS);
    node.kill_all().unwrap();
    node.set("synchronous_standby_names", "").unwrap();
    node.start().unwrap();
    let tried = committers.end();
    let restarted = judge("all killed, restarted", &tried, node, &tenant, &howdah);
    assert_eq!(restarted[1], 0, "{restarted:?}\n{}", howdah.log());
}

#[test]
fn a_commit_whose_connection_alone_broke_is_found_out_at_the_same_primary() {
    let cluster = builder().start().unwrap();
    let node = cluster.primary();
    let tenant = Tenant::on(node);
    let howdah = Howdah::before(cluster.nodes(), RESOLVE);
    let mut client = howdah.login(&tenant);
    client.query("CREATE TABLE doubts (i int)");
    client.query(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(20); RETURN NULL; END'",
    );
    client.query("CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON doubts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle()");
    client.query("BEGIN");
    client.query("INSERT INTO doubts VALUES (1)");
    client.send(&wire::query("COMMIT"));
    let sleeps = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually("it commits", SOON, || !node.sql(sleeps).unwrap().column().is_empty());
    signal_all(node, sleeps, Signal::TERM);
    assert_eq!(wire::short(&client.read_until_ready()), ["E:40001", "Z:I"], "{}", howdah.log());
    assert_eq!(client.value("SELECT count(*) FROM doubts"), "0");
    // without a write there is nothing to find out, and without a primary nothing is found out
    client.query("BEGIN");
    client.query("INSERT INTO doubts VALUES (2)");
    client.send(&wire::query("COMMIT"));
    eventually("it commits", SOON, || !node.sql(sleeps).unwrap().column().is_empty());
    node.kill_all().unwrap();
    let key = client.key.clone();
    std::thread::sleep(Duration::from_millis(300));
    howdah.wire().send(&wire::cancel_request(&key));
    assert_eq!(wire::short(&client.read_until_ready()), ["E:08007", "Z:I"], "its cancel ends the wait");
}

#[test]
fn a_client_reads_the_same_with_and_without_the_question() {
    let script = |client: &mut Client| -> Vec<Vec<String>> {
        let mut said = Vec::new();
        client.query("DROP TABLE IF EXISTS t; CREATE TABLE t (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
        for sql in [
            "BEGIN",
            "INSERT INTO t VALUES (1)",
            "SAVEPOINT s",
            "INSERT INTO t VALUES (2)",
            "SELECT 1/0",
            "ROLLBACK TO s",
            "UPDATE t SET i = 9 WHERE i = 7",
            "COMMIT AND CHAIN",
            "DELETE FROM t WHERE i = 7",
            "COMMIT",
            "BEGIN",
            "CREATE TEMP TABLE tt ON COMMIT DROP AS SELECT 1",
            "COMMIT; SELECT 5",
            "BEGIN; INSERT INTO t VALUES (3)",
            "ROLLBACK AND CHAIN",
            "INSERT INTO t VALUES (1)",
            "COMMIT",
            "BEGIN",
            "DEALLOCATE ALL",
            "INSERT INTO t VALUES (4)",
            "DISCARD PLANS",
            "DECLARE c CURSOR FOR SELECT * FROM t",
            "FETCH 1 FROM c",
            "INSERT INTO t VALUES (5)",
            "FETCH 1 FROM c",
            "ROLLBACK",
            "SELECT count(*) FROM t",
        ] {
            said.push(client.query_short(sql));
        }
        // a portal that is suspended goes on behind the question
        client.query("BEGIN");
        client.query("INSERT INTO t SELECT generate_series(10, 20)");
        client.send(
            &[
                wire::parse("", "SELECT i FROM t ORDER BY i", &[]),
                wire::bind("", "", &[]),
                wire::execute("", 2),
                wire::sync(),
            ]
            .concat(),
        );
        said.push(wire::short(&client.read_until_ready()));
        client.send(&[wire::execute("", 2), wire::sync()].concat());
        said.push(wire::short(&client.read_until_ready()));
        said.push(client.query_short("COMMIT"));
        // all at once
        let batch = [
            wire::query("BEGIN"),
            wire::query("INSERT INTO t VALUES (30)"),
            wire::query("COMMIT"),
            wire::query("SELECT 1"),
        ];
        client.send(&batch.concat());
        said.extend((0..4).map(|_| wire::short(&client.read_until_ready())));
        said
    };
    let tenant = Tenant::shared();
    let (asks, does_not) = (Howdah::shared(RESOLVE), Howdah::shared("[pool]\nsize = 40"));
    let expected = script(&mut does_not.login(&tenant));
    for _ in 0..2 {
        assert_eq!(script(&mut asks.login(&tenant)), expected);
    }
    assert!(asks.log().lines().all(|line| !line.contains("went away")), "{}", asks.log());
}
