//! Replicas that die, refuse or conflict, and a primary that is away: reads go on.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::routing::{PORT, answers, reader, serve, tenant_of, three};
use crate::support::wire::{self, Client};
use crate::support::{Cluster, Howdah, Node, SOON, StopMode, Tenant, binary, eventually, poll};

/// What sessions that read met.
#[derive(Debug, Default)]
struct Met {
    reads: u64,
    errors: Vec<String>,
    longest: Duration,
}

/// Sessions that read in every way for as long as `meanwhile` takes.
fn under_load(howdah: &Howdah, tenant: &Tenant, meanwhile: impl FnOnce()) -> Met {
    let over = AtomicBool::new(false);
    let mut sum = Met::default();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..6)
            .map(|at| {
                let (over, mut client) = (&over, reader(howdah, tenant));
                scope.spawn(move || read(&mut client, at, over))
            })
            .collect();
        meanwhile();
        over.store(true, Ordering::Release);
        for reader in readers {
            let met = reader.join().unwrap();
            sum.reads += met.reads;
            sum.errors.extend(met.errors);
            sum.longest = sum.longest.max(met.longest);
        }
    });
    sum
}

fn read(client: &mut Client, at: usize, over: &AtomicBool) -> Met {
    let mut met = Met::default();
    let sql = "SELECT count(*) FROM t WHERE i > $1";
    let run = |statement: &str| [wire::bind("", statement, &[Some("10")]), wire::execute("", 0), wire::sync()].concat();
    client.read_timeout(Duration::from_secs(30));
    // settings of its own, which come in front of what is asked: half of them share a server's
    client.query(&format!("SET work_mem = '{}MB'", 1 + at % 2));
    client.send(&[wire::parse("s", sql, &[23]), wire::sync()].concat());
    client.read_until_ready();
    let mut round = 0_u32;
    while !over.load(Ordering::Acquire) {
        round += 1;
        let (bytes, readies) = match at {
            0 => (wire::query("SELECT count(*) FROM t WHERE i > 10"), 1),
            1 => ([wire::parse("", sql, &[23]), run("")].concat(), 1),
            2 => (run("s"), 1),
            // a name that is given and closed again in the batch that is lost
            3 => (
                [
                    wire::parse("own", sql, &[23]),
                    wire::bind("", "own", &[Some("10")]),
                    wire::execute("", 0),
                    wire::close(b'S', "own"),
                    wire::sync(),
                ]
                .concat(),
                1,
            ),
            4 => (run("s").repeat(10), 10),
            // one that takes its time
            _ => (
                wire::query(&format!("SELECT count(*) + length(pg_sleep(0.05)::text) FROM t WHERE i > 10 -- {round}")),
                1,
            ),
        };
        let since = Instant::now();
        client.send(&bytes);
        let messages = answers(client, readies);
        met.longest = met.longest.max(since.elapsed());
        met.reads += readies as u64;
        let wrong =
            messages.iter().find(|m| m.tag == b'E' || m.tag == b'D' && m.columns()[0].as_deref() != Some("990"));
        met.errors.extend(wrong.map(|message| format!("reader {at}: {message:?}")));
        let rows = messages.iter().filter(|m| m.tag == b'D').count();
        if wrong.is_none() && rows != readies {
            met.errors.push(format!("reader {at}: {rows} rows of {readies}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
    met
}

struct Stage {
    howdah: Howdah,
    tenant: Tenant,
    cluster: Cluster,
}

impl Stage {
    fn new(extra: &str) -> Self {
        let cluster = three();
        let tenant = tenant_of(&cluster);
        let howdah = serve(Command::new(binary()), &cluster, extra);
        let mut client = howdah.login(&tenant);
        client.query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
        client.query("CREATE TABLE u AS SELECT 1 AS i");
        cluster.wait_streaming(SOON).unwrap();
        drop(reader(&howdah, &tenant));
        Self { howdah, tenant, cluster }
    }

    fn node(&self, name: &str) -> &Node {
        self.cluster.find(name).unwrap()
    }

    /// Waits until this node answers reads.
    fn answers(&self, name: &str) {
        let port = self.node(name).port().to_string();
        let what = format!("{name} has its share of the reads");
        let mut clients: Vec<_> = (0..4).map(|_| self.howdah.login(&self.tenant)).collect();
        eventually(&what, 4 * SOON, || clients.iter_mut().any(|client| client.value(PORT) == port));
    }

    /// Ends the server process that runs a statement like this on a standby, another than this one; says on which.
    #[track_caller]
    fn terminate(&self, like: &str, but: &str) -> &'static str {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE query LIKE '%{like}%' AND state = 'active' AND pid <> pg_backend_pid()"
        );
        let runs = |name: &&str| *name != but && !self.node(name).sql(&sql).unwrap().0.is_empty();
        match poll(SOON, || ["b", "c"].into_iter().find(runs)) {
            Some(name) => name,
            None => panic!("no standby runs {like}"),
        }
    }
}

/// `kill -9` of one server process of a client's: PostgreSQL ends all and recovers.
fn kill_one(node: &Node, tenant: &Tenant) {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE datname = '{}' LIMIT 1", tenant.name);
    if let Some(pid) = node.sql(&sql).unwrap().cell() {
        assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    }
}

#[test]
fn replicas_that_die_in_any_way_under_a_load_of_reads_cost_no_read() {
    let stage = Stage::new("");
    let (b, c) = (stage.node("b"), stage.node("c"));
    let terminate =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", stage.tenant.name);
    let wait = || thread::sleep(Duration::from_millis(700));
    type Death<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let deaths: [Death<'_>; 5] = [
        ("every process is killed", Box::new(|| b.kill_all().unwrap())),
        ("fast shutdown", Box::new(|| c.stop(StopMode::Fast).unwrap())),
        ("one server process is killed", Box::new(|| kill_one(b, &stage.tenant))),
        (
            "server processes are terminated",
            Box::new(|| {
                (0..5).for_each(|_| {
                    b.sql(&terminate).unwrap();
                    c.sql(&terminate).unwrap();
                    thread::sleep(Duration::from_millis(50));
                })
            }),
        ),
        (
            "both are killed",
            Box::new(|| {
                b.kill_all().unwrap();
                c.kill_all().unwrap();
            }),
        ),
    ];
    for (what, die) in &deaths {
        let met = under_load(&stage.howdah, &stage.tenant, || {
            wait();
            die();
            wait();
        });
        println!("{what}: {} reads, longest gap {:?}, {} errors", met.reads, met.longest, met.errors.len());
        assert!(met.errors.is_empty(), "{what}: {:?}", &met.errors[..met.errors.len().min(5)]);
        // a second by itself, more beside other tests on two cores
        assert!(met.longest < Duration::from_secs(5), "{what}: {:?}", met.longest);
        for node in [b, c] {
            if node.postmaster_pid().is_none() {
                node.start().unwrap();
            }
        }
        stage.answers("b");
        stage.answers("c");
    }
}

#[test]
fn what_cannot_be_asked_again_is_an_error_and_the_session_lives() {
    let stage = Stage::new("[pool]\nreplay_buffer = \"1kB\"\n\n[routing]\nfresh_wait = \"5s\"\n");
    let mut client = reader(&stage.howdah, &stage.tenant);
    let lost = |client: &mut Client, sql: &str, like: &str| {
        client.send(&wire::query(sql));
        stage.terminate(like, "");
        let messages = client.read_until_ready();
        wire::short(&messages[messages.len().saturating_sub(2)..])
    };
    let on_standby = |client: &mut Client| {
        eventually("reads go to a standby", SOON, || client.value("SELECT pg_is_in_recovery()") == "t");
    };
    // larger than what is kept
    let large = format!("SELECT 'large', pg_sleep(600) -- {}", "x".repeat(2_000));
    assert_eq!(lost(&mut client, &large, "''large''"), ["E:40001", "Z:I"]);
    on_standby(&mut client);
    // rows have been passed on
    let rows = "SELECT 'rows', repeat('x', 20000), pg_sleep(CASE WHEN i < 100 THEN 0 ELSE 600 END) FROM t ORDER BY i";
    client.send(&wire::query(rows));
    for _ in 0..20 {
        client.read().unwrap();
    }
    stage.terminate("''rows''", "");
    let messages = client.read_until_ready();
    assert_eq!(wire::short(&messages[messages.len() - 2..]), ["E:40001", "Z:I"]);
    on_standby(&mut client);
    // in a block
    for end in ["COMMIT", "ROLLBACK"] {
        eventually("a block on a standby", SOON, || {
            client.query("BEGIN READ ONLY");
            client.value("SELECT pg_is_in_recovery()") == "t" || client.query("ROLLBACK").is_empty()
        });
        assert_eq!(lost(&mut client, "SELECT 'block', pg_sleep(600)", "''block''"), ["E:40001", "Z:E"]);
        assert_eq!(client.query_short("SELECT 1"), ["E:40001", "Z:E"]);
        let ended = if end == "COMMIT" { "E:40001" } else { "C:ROLLBACK" };
        assert_eq!(client.query_short(end), [ended, "Z:I"]);
        on_standby(&mut client);
    }
    // and what can be is: on the other standby, and then on the primary
    client.send(&wire::query("SELECT 'again', pg_sleep(1.5), current_setting('port')"));
    let first = stage.terminate("''again''", "");
    stage.terminate("''again''", first);
    let messages = client.read_until_ready();
    let row = messages.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{messages:?}")).columns();
    assert_eq!(row[2], Some(stage.cluster.primary().port().to_string()));
    what_leaves_with_the_last_words_is_no_answer(&stage, &mut client);
    reads_at_the_primary_are_asked_again_twice_at_most(&stage, &mut client);
    conflicts_are_asked_of_the_primary(&stage);
}

/// A server process that has to go at once sends what it has put together so far, half an answer, and a warning behind it.
fn what_leaves_with_the_last_words_is_no_answer(stage: &Stage, client: &mut Client) {
    eventually("reads go to a standby", SOON, || client.value("SELECT pg_is_in_recovery()") == "t");
    client.send(&wire::query("SELECT 'half' UNION ALL SELECT 'whole' || pg_sleep(1.5)"));
    let running = "SELECT pid FROM pg_stat_activity
                   WHERE query LIKE '%''half''%' AND state = 'active' AND pid <> pg_backend_pid()";
    let pid =
        poll(SOON, || ["b", "c"].iter().find_map(|name| Some(stage.node(name).sql(running).ok()?.cell()?.to_owned())));
    let pid = pid.expect("it runs on a standby");
    assert!(Command::new("kill").args(["-QUIT", &pid]).status().unwrap().success());
    let messages = client.read_until_ready();
    let rows: Vec<_> = messages.iter().filter(|m| m.tag == b'D').map(|m| m.columns()[0].clone()).collect();
    assert_eq!(rows, [Some("half".to_owned()), Some("whole".to_owned())], "{messages:?}");
    for node in ["b", "c"] {
        stage.answers(node);
    }
}

/// A session that may not read on a standby has its reads in flight at the primary.
fn reads_at_the_primary_are_asked_again_twice_at_most(stage: &Stage, client: &mut Client) {
    let primary = stage.cluster.primary();
    // ends the server process of a statement once each time; never the same one twice
    let mut ended = Vec::new();
    let mut end = |like: &str| {
        let sql = format!(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE query LIKE '%{like}%' AND state = 'active' AND pid <> pg_backend_pid() AND pid NOT IN (0{})",
            ended.iter().map(|pid| format!(", {pid}")).collect::<String>()
        );
        let pid = poll(SOON, || primary.sql(&sql).unwrap().cell().map(str::to_owned));
        ended.push(pid.unwrap_or_else(|| panic!("the primary does not run {like}")));
    };
    let replay = |change: &str| {
        ["b", "c"]
            .iter()
            .for_each(|name| drop(stage.node(name).sql(&format!("SELECT pg_wal_replay_{change}()")).unwrap()));
    };
    replay("pause");
    // as long as they wait it would find one otherwise
    let mut quick = stage.howdah.login(&stage.tenant);
    quick.query("UPDATE u SET i = i");
    quick.send(&wire::query("SELECT 'there', pg_sleep(3), pg_is_in_recovery()"));
    end("''there''");
    let messages = quick.read_until_ready();
    let row = messages.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{messages:?}")).columns();
    assert_eq!(row[2].as_deref(), Some("f"));
    quick.send(&wire::query("SELECT 'takes its server along', pg_sleep(600)"));
    (0..3).for_each(|_| end("''takes its server along''"));
    assert_eq!(wire::short(&quick.read_until_ready()), ["E:40001", "Z:I"]);
    replay("resume");
    eventually("reads go to a standby", SOON, || client.value("SELECT pg_is_in_recovery()") == "t");
}

/// What a standby cancels because of what it has to replay.
fn conflicts_are_asked_of_the_primary(stage: &Stage) {
    for name in ["b", "c"] {
        for (setting, value) in [("max_standby_streaming_delay", "0"), ("hot_standby_feedback", "off")] {
            stage.node(name).set(setting, value).unwrap();
        }
        let shown = "SELECT setting FROM pg_settings WHERE name = 'hot_standby_feedback'";
        eventually("no feedback", SOON, || stage.node(name).sql(shown).unwrap().cell() == Some("off"));
    }
    let mut client = reader(&stage.howdah, &stage.tenant);
    let primary = stage.cluster.primary();
    let run = |sql: &str| primary.sql_in(&stage.tenant.name, sql).unwrap();
    eventually("the primary knows of no old snapshot", SOON, || {
        primary.sql("SELECT 1 FROM pg_replication_slots WHERE xmin IS NOT NULL").unwrap().0.is_empty()
    });
    let running =
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%''slow''%' AND state = 'active' AND pid <> pg_backend_pid()";
    let wait_running = || {
        eventually("it runs on a standby", SOON, || {
            ["b", "c"].iter().any(|name| !stage.node(name).sql(running).unwrap().0.is_empty())
        });
    };
    let slow = "SELECT 'slow', count(*), min(length(pg_sleep(3)::text)), pg_is_in_recovery() FROM u";
    for extended in [false, true] {
        // rows that it may still see are removed; then the table changes under it
        for change in [&["UPDATE u SET i = i + 1", "VACUUM u"][..], &["ALTER TABLE u ADD COLUMN more int"][..]] {
            eventually("reads go to a standby", SOON, || client.value("SELECT pg_is_in_recovery()") == "t");
            let request = |sql: &str| match extended {
                true => {
                    [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()].concat()
                }
                false => wire::query(sql),
            };
            // with others behind it, which must not overtake it
            let behind =
                if change.len() == 1 { &["SELECT 'second'", "SELECT 'third', count(*) FROM u"][..] } else { &[] };
            let requests = std::iter::once(&slow).chain(behind).map(|sql| request(sql)).collect::<Vec<_>>();
            client.send(&requests.concat());
            wait_running();
            change.iter().for_each(|sql| drop(run(sql)));
            let messages = client.read_until_ready();
            let row =
                messages.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{change:?}: {messages:?}")).columns();
            assert_eq!((row[1].as_deref(), row[3].as_deref()), (Some("1"), Some("f")), "{change:?}");
            let rest: Vec<_> = behind.iter().flat_map(|_| wire::first_column(&client.read_until_ready())).collect();
            assert_eq!(rest, ["second", "third"][..behind.len()], "{change:?}");
        }
        run("ALTER TABLE u DROP COLUMN more");
    }
}

#[test]
fn while_the_primary_is_away_reads_go_on_writes_wait_and_go_on_when_it_is_back() {
    let stage = Stage::new("[timeouts]\nquery_wait = \"4s\"\n");
    let a = stage.node("a");
    let mut client = reader(&stage.howdah, &stage.tenant);
    let mut wrote = stage.howdah.login(&stage.tenant);
    assert_eq!(wrote.query_short("UPDATE u SET i = 2"), ["C:UPDATE 1", "Z:I"]);
    eventually("it reads on a standby", SOON, || wrote.value("SELECT pg_is_in_recovery()") == "t");
    let mut idle = stage.howdah.login(&stage.tenant);
    for (what, go) in [
        ("killed", Box::new(|| a.kill_all().unwrap()) as Box<dyn Fn()>),
        ("stopped", Box::new(|| a.stop(StopMode::Fast).unwrap())),
    ] {
        idle.query("UPDATE u SET i = 3");
        eventually("a sample bounds what it has written", SOON, || {
            wrote.query("UPDATE u SET i = 3");
            wrote.value("SELECT pg_is_in_recovery()") == "t"
        });
        go();
        eventually("the primary is away", SOON, || {
            stage.howdah.get("/readyz").is_some_and(|(status, _)| status == 503)
        });
        for client in [&mut client, &mut wrote] {
            for _ in 0..20 {
                let since = Instant::now();
                assert_eq!(client.value("SELECT i FROM u"), "3", "{what}");
                assert!(since.elapsed() < Duration::from_secs(2), "{what}: {:?}", since.elapsed());
            }
            client.query("BEGIN READ ONLY");
            assert_eq!(client.value("SELECT pg_is_in_recovery()"), "t", "{what}");
            assert_eq!(client.query_short("SET LOCAL work_mem = '1MB'"), ["C:SET", "Z:T"]);
            assert_eq!(client.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
        }
        // also one that had written, some samples ago, and not read since
        assert_eq!(idle.value("SELECT i FROM u"), "3", "{what}");
        // whoever logs in now reads
        let mut fresh = stage.howdah.login(&stage.tenant);
        assert_eq!(fresh.value("SELECT i FROM u"), "3", "{what}");
        // a write waits, and is told in the end
        let since = Instant::now();
        let refused = fresh.query("UPDATE u SET i = 4");
        assert_eq!(wire::short(&refused), ["E:57P03", "Z:I"], "{what}");
        assert!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
        assert_eq!(fresh.value("SELECT i FROM u"), "3", "{what}");
        // one that waits when it comes back goes on
        let restarted = thread::scope(|scope| {
            let back = scope.spawn(|| {
                thread::sleep(Duration::from_millis(300));
                a.start().unwrap();
            });
            let answer = poll(2 * SOON, || {
                let answer = fresh.query_short("UPDATE u SET i = 3");
                (answer == ["C:UPDATE 1", "Z:I"]).then_some(answer)
            });
            back.join().unwrap();
            answer
        });
        assert!(restarted.is_some(), "{what}: writes go on");
        assert_eq!(fresh.value("SELECT i FROM u"), "3", "{what}");
        eventually("reads go to a standby again", 2 * SOON, || {
            [&mut client, &mut wrote, &mut idle]
                .into_iter()
                .all(|client| client.value("SELECT pg_is_in_recovery()") == "t")
        });
    }
}
