//! What is counted is what happened: as pgbench, `pg_stat_statements` and a relay that counts bytes say.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::drivers::finish;
use crate::support::wire::{self, bind, copy_data, copy_done, describe, execute, parse, query, sync};
use crate::support::{Howdah, SOON, Tenant, builder, eventually, shared};

/// An answer of the API.
fn get(howdah: &Howdah, path: &str) -> Value {
    let (status, body) = howdah.get(path).unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// A database's totals, by the names of the API; all 0 where it has none.
fn totals(howdah: &Howdah, database: &str) -> BTreeMap<String, u64> {
    let all = get(howdah, "/statistics");
    let rows = all["databases"].as_array().unwrap();
    let row = rows.iter().find(|row| row["database"] == database);
    let totals = row.map(|row| row["totals"].as_object().unwrap().clone()).unwrap_or_default();
    totals.into_iter().map(|(name, count)| (name, count.as_u64().unwrap())).collect()
}

/// What has been counted between two looks.
fn between(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, name: &str) -> u64 {
    after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0)
}

/// pgbench, each client with a script of its own making.
fn pgbench(tenant: &Tenant, port: u16, arguments: &[&str]) {
    let mut command: Command = shared().primary().command("pgbench");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", &tenant.name]).args(arguments);
    command.env("PGPASSWORD", &tenant.password).env("PGDATABASE", &tenant.name).env("LC_ALL", "C.UTF-8");
    finish(command, "").unwrap_or_else(|failed| panic!("{failed}"));
}

const BLOCK: &str = "\\set aid random(1, 1000)\n\\set delta random(1, 9)\nBEGIN;\n\
    UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n\
    SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\
    SELECT aid FROM pgbench_accounts ORDER BY aid LIMIT 3;\nEND;\n";
const LONE: &str = "\\set aid random(1, 1000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
const PIPELINE: &str = "\\startpipeline\nBEGIN;\nSELECT 1;\nSELECT :client_id;\nCOMMIT;\nSELECT 2;\n\\endpipeline\n";
const CLIENTS: u64 = 4;
const TIMES: u64 = 40;

/// A statement's text in no spelling at all: `pg_stat_statements` keeps that of the first call and writes `$1` for literals.
fn bare(text: &str) -> String {
    let mut bare = String::new();
    let mut text = text.chars().peekable();
    while let Some(letter) = text.next() {
        match letter {
            '$' => {
                while text.next_if(char::is_ascii_digit).is_some() {}
                bare.push('?');
            }
            ' ' | ';' => {}
            letter => bare.extend(letter.to_lowercase()),
        }
    }
    bare
}

#[test]
fn counts_equal_pgbenchs_and_those_of_pg_stat_statements() {
    let cluster = builder().prefix("howdah-counted").setting("shared_preload_libraries", "pg_stat_statements");
    let cluster = cluster.start().unwrap_or_else(|error| panic!("{error}"));
    let node = cluster.primary();
    let tenant = Tenant::on(node);
    node.sql("CREATE EXTENSION pg_stat_statements").unwrap();
    let howdah = Howdah::before(cluster.nodes(), "[pool]\nsize = 3\n");
    pgbench(&tenant, node.port(), &["-i", "-q"]);
    node.sql("SELECT pg_stat_statements_reset()").unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap(); // pgbench is not root
    let (clients, times) = (CLIENTS.to_string(), TIMES.to_string());
    // with -M prepared each command is prepared before its first use, in a request of its own; in a block that is one of the block's
    for (name, script, queries, commands, outside, protocols) in [
        ("block", BLOCK, 5, 5, 1, &["simple", "extended", "prepared"][..]),
        ("lone", LONE, 1, 1, 1, &["simple", "extended", "prepared"]),
        ("pipeline", PIPELINE, 1, 5, 5, &["extended", "prepared"]),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, script).unwrap();
        for protocol in protocols {
            let before = totals(&howdah, &tenant.name);
            let path = path.to_str().unwrap();
            pgbench(
                &tenant,
                howdah.port(),
                &["-n", "-c", &clients, "-j", "4", "-t", &times, "-M", protocol, "-f", path],
            );
            let prepared = |count| if *protocol == "prepared" { CLIENTS * count } else { 0 };
            let happened = [CLIENTS * TIMES + prepared(outside), CLIENTS * TIMES * queries + prepared(commands), 0];
            let mut counted = [0; 3];
            for _ in 0..100 {
                let after = totals(&howdah, &tenant.name);
                counted = ["xacts", "queries", "errors"].map(|name| between(&before, &after, name));
                if counted >= happened {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(counted, happened, "{name}, {protocol}");
            let after = totals(&howdah, &tenant.name);
            assert!(between(&before, &after, "query_us") <= between(&before, &after, "xact_us"));
            assert_eq!(between(&before, &after, "client_logins"), CLIENTS + 1);
        }
    }
    let sql = format!(
        "SELECT query || E'\\t' || sum(calls) || E'\\t' || sum(rows) FROM pg_stat_statements AS s
         JOIN pg_roles AS r ON r.oid = s.userid WHERE rolname = '{}' GROUP BY query",
        tenant.name
    );
    let mut theirs: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for row in node.sql(&sql).unwrap().column() {
        let [text, calls, rows] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let sum = theirs.entry(bare(text)).or_default();
        *sum = (sum.0 + calls.parse::<u64>().unwrap(), sum.1 + rows.parse::<u64>().unwrap());
    }
    let mut ours: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for statement in get(&howdah, "/statements?limit=1000").as_array().unwrap() {
        assert_eq!(statement["errors"], 0, "{statement}");
        let number = |name: &str| statement[name].as_u64().unwrap();
        let sum = ours.entry(bare(statement["text"].as_str().unwrap())).or_default();
        *sum = (sum.0 + number("calls"), sum.1 + number("rows"));
        assert_eq!(statement["time"]["count"], statement["calls"], "{statement}");
    }
    // what howdah asks for itself is no client's statement
    theirs.retain(|text, _| !text.contains("pg_catalog"));
    // PostgreSQL counts BEGIN and its like only once for each time it is planned, and prepared ones are not planned again
    let controls = ["begin", "end", "commit"].map(|text| {
        theirs.remove(text);
        ours.remove(text).map(|(calls, _)| calls)
    });
    let (blocks, pipelines) = (3 * CLIENTS * TIMES, 2 * CLIENTS * TIMES);
    assert_eq!(controls, [blocks + pipelines, blocks, pipelines].map(Some));
    for (text, counts) in &mut theirs {
        if text.starts_with("update") {
            counts.1 = 0; // changed, and not sent
        }
    }
    assert_eq!(ours, theirs);
    let queries: u64 = totals(&howdah, &tenant.name)["queries"];
    let pools = get(&howdah, "/statistics");
    let answered: u64 =
        pools["pools"].as_array().unwrap().iter().map(|pool| pool["total"]["count"].as_u64().unwrap()).sum();
    assert_eq!(answered, queries, "each request is in the histogram once");
}

/// Passes on to a port what comes to its own, and counts: bytes up, bytes down.
struct Relay {
    port: u16,
    counts: Arc<[AtomicU64; 2]>,
}

impl Relay {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), counts: Arc::default() };
        let counts = Arc::clone(&relay.counts);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
                let ways =
                    [(&client, &server), (&server, &client)].map(|(from, to)| (from.try_clone(), to.try_clone()));
                for (way, (from, to)) in ways.into_iter().enumerate() {
                    let (mut from, mut to, counts) = (from.unwrap(), to.unwrap(), Arc::clone(&counts));
                    thread::spawn(move || {
                        let mut buffer = [0; 16_384];
                        while let Ok(read @ 1..) = from.read(&mut buffer) {
                            counts[way].fetch_add(read as u64, Ordering::SeqCst);
                            if to.write_all(&buffer[..read]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        relay
    }

    fn counts(&self) -> [u64; 2] {
        [0, 1].map(|way| self.counts[way].load(Ordering::SeqCst))
    }
}

#[test]
fn bytes_behind_the_login_equal_those_that_a_relay_in_front_of_howdah_counts() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n");
    let relay = Relay::to(howdah.port());
    let mut client = wire::Client::connect(("127.0.0.1", relay.port)).unwrap();
    client.login(&tenant.name, &tenant.password, &tenant.name);
    let before = relay.counts();
    client.query("CREATE TABLE t (i int, t text)");
    client.send(&query("COPY t FROM STDIN"));
    client.read_until(b'G');
    (0..200).for_each(|_| client.send(&copy_data(&b"1\tsome text that is not short\n".repeat(100))));
    client.send(&copy_done());
    client.read_until_ready();
    client.query("SELECT * FROM t");
    client.query("COPY t TO STDOUT");
    client.query("SELECT 1/0");
    client.query(&format!("SELECT '{}'", "x".repeat(100_000)));
    client.send(&[parse("s", "SELECT $1::text", &[]), describe(b'S', "s"), sync()].concat());
    client.read_until_ready();
    let run = |value| [bind("", "s", &[Some(value)]), execute("", 0), sync()].concat();
    client.send(&[run("a"), run("b"), run("c"), query("SELECT 2")].concat());
    (0..4).for_each(|_| drop(client.read_until_ready()));
    // refused by howdah alone
    client.send(&[bind("", "missing", &[]), execute("", 0), sync()].concat());
    client.read_until_ready();
    client.query("SET application_name = 'counted'");
    let volume = || {
        let totals = totals(&howdah, &tenant.name);
        [totals["received"], totals["sent"]]
    };
    let saw = || {
        let now = relay.counts();
        [now[0] - before[0], now[1] - before[1]]
    };
    eventually("the bytes of a session that is still there", SOON, || volume() == saw());
    let there = saw();
    client.send(&wire::terminate());
    client.read_until_closed();
    eventually("the bytes of a session that has ended", SOON, || volume() == saw() && saw()[0] == there[0] + 5);
    assert!(there[0] > 700_000 && there[1] > 1_200_000, "{there:?}");
}

#[test]
fn errors_are_counted_by_their_sqlstate_whoever_made_them() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n[timeouts]\nquery_wait = \"200ms\"\n");
    let mut client = howdah.login(&tenant);
    for _ in 0..3 {
        client.query("SELECT 1/0");
    }
    client.send(&[parse("", "SELEC", &[]), bind("", "", &[]), execute("", 0), sync()].concat());
    client.read_until_ready();
    client.send(&[bind("", "missing", &[]), execute("", 0), sync()].concat());
    client.read_until_ready();
    client.query("BEGIN");
    let mut other = howdah.login(&tenant);
    let refused = wire::error(&other.query("SELECT 'in vain'")).code;
    client.query("SELECT * FROM missing");
    client.query("COMMIT");
    let mut expected = BTreeMap::from(
        [("22012", 3), ("42601", 1), ("26000", 1), ("42P01", 1)].map(|(code, count)| (code.to_owned(), count)),
    );
    *expected.entry(refused).or_default() += 1;
    let counted = || {
        let all = get(&howdah, "/statistics");
        let rows = all["errors"].as_array().unwrap().iter().filter(|row| row["database"] == *tenant.name);
        rows.map(|row| (row["sqlstate"].as_str().unwrap().to_owned(), row["count"].as_u64().unwrap()))
            .collect::<BTreeMap<_, _>>()
    };
    eventually("the last error", SOON, || counted() == expected);
    let totals = totals(&howdah, &tenant.name);
    assert_eq!(totals["errors"], expected.values().sum::<u64>());
    assert_eq!((totals["queries"], totals["xacts"]), (9, 7), "{totals:?}");
    assert!(totals["wait_us"] >= 200_000, "{totals:?}");
    let statements = get(&howdah, "/statements?limit=100");
    let of = |text: &str| {
        let statement = statements.as_array().unwrap().iter().find(|statement| statement["text"] == text);
        statement.map(|statement| (statement["calls"].as_u64().unwrap(), statement["errors"].as_u64().unwrap()))
    };
    assert_eq!((of("select ? / ?"), of("select * from missing")), (Some((3, 3)), Some((1, 1))), "{statements}");
    assert_eq!(of("select ?"), None, "it was never sent");
}

#[test]
fn statements_that_differ_in_literals_are_one_and_the_heaviest_come_first() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n");
    let mut client = howdah.login(&tenant);
    for (sql, _) in
        [("SELECT 1", 1), ("select   2;", 1), ("SELECT /* why */ 77", 1), ("SELECT generate_series(1, 5)", 5)]
    {
        client.query(sql);
    }
    client.extended("SELECT 3", &[]);
    client.query("SELECT pg_sleep(0.3)");
    for _ in 0..5 {
        client.query("SELECT pg_sleep(0.1)");
    }
    client.query("SELECT pg_sleep(0.4), 1");
    let list = |by: &str| get(&howdah, &format!("/statements?by={by}&limit=2"));
    let texts = |list: &Value| {
        list.as_array().unwrap().iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts(&list("time")), ["select pg_sleep(?)", "select pg_sleep(?), ?"]);
    assert_eq!(texts(&list("p99")), ["select pg_sleep(?), ?", "select pg_sleep(?)"]);
    assert_eq!(texts(&list("calls"))[0], "select pg_sleep(?)");
    let all = get(&howdah, "/statements?limit=100");
    let one =
        all.as_array().unwrap().iter().find(|row| row["text"] == "select ?" && row["user"] == *tenant.name).unwrap();
    assert_eq!(
        (&one["calls"], &one["rows"], &one["node"], &one["database"]),
        (&4.into(), &4.into(), &"a".into(), &(*tenant.name).into())
    );
    let series = all.as_array().unwrap().iter().find(|row| row["text"] == "select generate_series(?, ?)").unwrap();
    assert_eq!((&series["calls"], &series["rows"]), (&1.into(), &5.into()));
    client.query("COPY (SELECT generate_series(1, 7)) TO STDOUT");
    let all = get(&howdah, "/statements?limit=100");
    let copied = all.as_array().unwrap().iter().find(|row| row["text"].as_str().unwrap().starts_with("copy")).unwrap();
    assert_eq!(copied["rows"], 7, "{copied}");
    let (status, body) = howdah.get("/statements?by=beauty").unwrap();
    assert_eq!(status, 400, "{body}");
}

#[test]
fn each_period_ends_with_averages_and_a_line_in_the_log_unless_that_is_off() {
    let tenant = Tenant::shared();
    let extra = |log: bool| format!("[pool]\nsize = 1\n[stats]\nperiod = \"1s\"\nlog = {log}\n");
    let (loud, quiet) = (Howdah::shared(&extra(true)), Howdah::shared(&extra(false)));
    let averages = |howdah: &Howdah| {
        let all = get(howdah, "/statistics");
        let row = all["databases"].as_array().unwrap().iter().find(|row| row["database"] == *tenant.name).cloned();
        row.map(|row| ["xacts", "queries", "sent"].map(|name| row["averages"][name].as_u64().unwrap()))
    };
    for howdah in [&loud, &quiet] {
        let mut client = howdah.login(&tenant);
        eventually("a period in which something happened", SOON, || {
            client.query("BEGIN");
            client.query("COMMIT");
            averages(howdah).is_some_and(|[xacts, queries, sent]| xacts > 0 && queries > xacts && sent > queries)
        });
        eventually("a period in which nothing did", SOON, || averages(howdah) == Some([0, 0, 0]));
    }
    let busy = |line: &str| {
        line.contains("stats: ")
            && !line.contains("stats: 0 xacts/s")
            && line.contains("cluster main: primary a, 1/1 nodes fit")
    };
    assert!(loud.log().lines().any(busy), "{}", loud.log());
    assert!(!quiet.log().contains("stats: "), "{}", quiet.log());
}
