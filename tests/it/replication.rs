//! Replication connections: PostgreSQL's own tools, a subscription and a standby stream through howdah as they would
//! directly; they count against every limit, and end with a word.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use howdah::demo::process::Process;

use crate::support::wire::{self, Client, Message};
use crate::support::{Cluster, Howdah, Node, SOON, Signal, Tenant, eventually, free_port, poll, rss_bytes, shared};

/// Starting PostgreSQL's tools and copying a cluster, on a busy machine.
const A_WHILE: Duration = Duration::from_secs(60);

/// A role that may replicate, with a database.
fn replicator(node: &Node) -> Tenant {
    let tenant = Tenant::on(node);
    node.sql(&format!("ALTER ROLE {} REPLICATION", tenant.name)).unwrap();
    tenant
}

fn login(port: u16, tenant: &Tenant, kind: &str, database: &str) -> Client {
    let mut client = Client::connect(("127.0.0.1", port)).unwrap();
    let startup = [("user", tenant.name.as_str()), ("database", database), ("replication", kind)];
    client.login_with(&startup, &tenant.password);
    client
}

fn refused(port: u16, startup: &[(&str, &str)], password: &str) -> (String, String, String) {
    let mut client = Client::connect(("127.0.0.1", port)).unwrap();
    let error = wire::error(&client.try_login(startup, password).unwrap());
    client.read_until_closed();
    (error.severity, error.code, error.message)
}

/// Starts streaming where the server's log ends.
fn stream(client: &mut Client) {
    let answer = client.query("IDENTIFY_SYSTEM");
    let row = answer[1].columns();
    let (timeline, at) = (row[1].clone().unwrap(), row[2].clone().unwrap());
    client.send(&wire::query(&format!("START_REPLICATION PHYSICAL {at} TIMELINE {timeline}")));
    client.read_until(b'W');
}

fn open(howdah: &Howdah) -> u64 {
    howdah.status()["pools"].as_array().unwrap().iter().map(|pool| pool["open"].as_u64().unwrap()).sum()
}

fn walsenders(node: &Node, user: &str) -> usize {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender' AND usename = '{user}'");
    node.sql(&sql).unwrap().column().len()
}

#[test]
fn what_a_replication_connection_answers_is_postgresqls() {
    let howdah = Howdah::shared("");
    let tenant = replicator(shared().primary());
    let direct = shared().primary().port();
    let same = |messages: &[Message]| -> Vec<String> {
        messages.iter().map(|m| if m.tag == b'D' { m.columns().len().to_string() } else { m.short() }).collect()
    };
    for (kind, database) in [("true", "replication"), ("on", &*tenant.name), ("database", &*tenant.name)] {
        let (mut here, mut there) =
            (login(howdah.port(), &tenant, kind, database), login(direct, &tenant, kind, database));
        for name in ["server_version", "TimeZone", "is_superuser", "in_hot_standby"] {
            assert_eq!(here.parameter(name), there.parameter(name), "{name}");
        }
        for sql in ["IDENTIFY_SYSTEM", "SHOW wal_level", "SELECT 1", "NONSENSE", "", "SELECT 1; SELECT 2"] {
            assert_eq!(same(&here.query(sql)), same(&there.query(sql)), "{kind}: {sql}");
        }
        let extended = [wire::parse("", "SELECT 1", &[]), wire::sync()].concat();
        for client in [&mut here, &mut there] {
            client.send(&extended);
        }
        assert_eq!(same(&here.read_until_ready()), same(&there.read_until_ready()), "{kind}: extended");
        assert_eq!(here.query_short("SELECT 1").last().unwrap(), "Z:I");
        // what stands in the startup packet is the server's to read
        assert_eq!(here.query_short("SHOW replication_nonsense"), there.query_short("SHOW replication_nonsense"));
    }
    let startup = |user: &'static str| [("user", user), ("replication", "perhaps")];
    assert_eq!(
        refused(howdah.port(), &startup("x"), ""),
        refused(direct, &startup("x"), ""),
        "a value that means nothing"
    );
    let plain = Tenant::shared();
    let startup = [("user", &*plain.name), ("replication", "true")];
    let (here, there) = (refused(howdah.port(), &startup, &plain.password), refused(direct, &startup, &plain.password));
    assert_eq!(here, there, "a role without REPLICATION");
    assert_eq!(refused(howdah.port(), &startup, "wrong").1, "28P01");
    eventually("nothing is left", SOON, || open(&howdah) == 0 && walsenders(shared().primary(), &tenant.name) == 0);
}

#[test]
fn settings_of_the_startup_packet_reach_the_server() {
    let howdah = Howdah::shared("");
    let tenant = replicator(shared().primary());
    let mut client = howdah.wire();
    let startup = [
        ("user", tenant.name.as_str()),
        ("replication", "database"),
        ("application_name", "me"),
        ("options", "-c datestyle=German -c work_mem=7MB"),
    ];
    client.login_with(&startup, &tenant.password);
    assert_eq!(client.parameter("DateStyle"), Some("German, DMY"));
    assert_eq!(client.value("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"), "me");
    assert_eq!(client.value("SELECT current_setting('work_mem')"), "7MB");
}

#[test]
fn replication_connections_count_against_every_limit_and_are_nobody_elses() {
    let tenant = replicator(shared().primary());
    let name = &tenant.name;
    let howdah = Howdah::shared(&format!(
        "[pool]\nsize = 2\n\n[timeouts]\nquery_wait = \"300ms\"\n\n\
         [users.{name}.pool]\nmax_client_connections = 4\n"
    ));
    let full = || {
        let startup = [("user", name.as_str()), ("database", name), ("replication", "database")];
        refused(howdah.port(), &startup, &tenant.password)
    };
    let busy = || ("FATAL".to_owned(), "53300".to_owned(), "query_wait_timeout".to_owned());
    // an idle server goes for it, a busy one does not
    let mut plain = howdah.login(&tenant);
    plain.query("SELECT 1");
    let first = login(howdah.port(), &tenant, "database", name);
    let mut second = login(howdah.port(), &tenant, "database", name);
    assert_eq!((open(&howdah), walsenders(shared().primary(), name)), (2, 2));
    assert_eq!(full(), busy());
    assert_eq!(wire::error(&plain.query("SELECT 1")).code, "53300");
    assert_eq!(second.value("SELECT 1"), "1");
    drop(first);
    let pid = poll(SOON, || {
        let answer = plain.query("SELECT pg_backend_pid()");
        wire::first_column(&answer).first().cloned()
    });
    assert!(pid.is_some(), "the place of a client that has left is free");
    plain.query("BEGIN");
    assert_eq!(full(), busy());
    // a place that is waited for comes with the server that is given back
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            poll(SOON, || {
                let mut client = howdah.wire();
                let startup = [("user", name.as_str()), ("database", name), ("replication", "database")];
                let answer = client.try_login(&startup, &tenant.password).unwrap();
                answer.iter().all(|message| message.tag != b'E').then_some(client)
            })
        });
        eventually("it waits", SOON, || howdah.status()["pools"][0]["waiting"] == 1);
        plain.query("COMMIT");
        waiting.join().unwrap()
    });
    let mut waiting = waiting.expect("a place");
    assert_eq!((waiting.value("SELECT 1"), open(&howdah)), ("1".to_owned(), 2));
    // and the clients' own limit
    let _fourth = howdah.login(&tenant);
    assert_eq!(full().2, "client connections exceeded (max_user_client_connections)");
    drop((waiting, second));
    eventually("only the plain one is left", SOON, || walsenders(shared().primary(), name) == 0 && open(&howdah) <= 1);
}

#[test]
fn one_that_leaves_while_it_waits_for_a_place_is_in_nobodys_way() {
    let tenant = replicator(shared().primary());
    let name = &tenant.name;
    let howdah = Howdah::shared("[pool]\nsize = 1\n");
    let mut plain = howdah.login(&tenant);
    plain.query("BEGIN");
    let mut waiting = howdah.wire();
    waiting
        .send(&wire::startup(wire::PROTOCOL_3_0, &[("user", name), ("database", name), ("replication", "database")]));
    waiting.read_timeout(Duration::from_millis(500));
    assert!(waiting.authenticate(name, &tenant.password).is_err(), "it waits");
    assert_eq!(howdah.status()["pools"][0]["waiting"], 1);
    waiting.cut();
    eventually("it has left the queue", SOON, || howdah.status()["pools"][0]["waiting"] == 0);
    plain.query("COMMIT");
    assert_eq!((plain.value("SELECT 1"), open(&howdah)), ("1".to_owned(), 1));
}

#[test]
fn a_cancel_ends_the_stream_it_is_meant_for_and_the_connection_goes_on() {
    let howdah = Howdah::shared("");
    let tenant = replicator(shared().primary());
    let mut client = login(howdah.port(), &tenant, "true", "replication");
    let key = client.key.clone();
    for _ in 0..2 {
        stream(&mut client);
        howdah.wire().send(&wire::cancel_request(&key));
        let answer = client.read_until_ready();
        assert_eq!(wire::error(&answer).code, "57014", "{answer:?}");
        assert_eq!(client.query_short("IDENTIFY_SYSTEM").last().unwrap(), "Z:I");
    }
}

#[test]
fn a_shutdown_ends_streams_at_once_and_lets_a_command_finish() {
    let howdah = Howdah::shared("[timeouts]\nshutdown = \"5s\"\n");
    let tenant = replicator(shared().primary());
    let mut streaming = login(howdah.port(), &tenant, "true", "replication");
    stream(&mut streaming);
    let mut idle = login(howdah.port(), &tenant, "true", "replication");
    let mut running = login(howdah.port(), &tenant, "database", &tenant.name);
    running.send(&wire::query("SELECT 'done' FROM pg_sleep(1)"));
    eventually("it runs", SOON, || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%done%pg_sleep(1)%' AND state = 'active'
                   AND backend_type = 'walsender'";
        shared().primary().sql(sql).unwrap().cell() == Some("1")
    });
    let begun = Instant::now();
    howdah.signal(Signal::TERM);
    for client in [&mut streaming, &mut idle] {
        let error = wire::error(&client.read_until_closed());
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P01"), "{}", error.message);
    }
    assert_eq!(wire::first_column(&running.read_until_ready()), ["done"]);
    assert_eq!(wire::error(&running.read_until_closed()).code, "57P01");
    assert!(howdah.exit_status(SOON).success());
    assert!(begun.elapsed() < SOON);
    eventually("no walsender is left", SOON, || walsenders(shared().primary(), &tenant.name) == 0);
}

#[test]
fn a_client_that_does_not_read_its_stream_costs_no_memory_and_delays_nobody() {
    let cluster = Cluster::builder().start().unwrap_or_else(|error| panic!("{error}"));
    let primary = cluster.primary();
    let howdah = Howdah::before(cluster.nodes(), "[limits]\nworkers = 1\n");
    let tenant = replicator(primary);
    let mut slow = login(howdah.port(), &tenant, "true", "replication");
    let mut swift = login(howdah.port(), &tenant, "true", "replication");
    stream(&mut slow);
    stream(&mut swift);
    let mut plain = howdah.login(&tenant);
    plain.query("CREATE TABLE t (x text)");
    let before = rss_bytes(howdah.pid());
    let fill = std::thread::spawn(move || {
        for _ in 0..8 {
            plain.query("INSERT INTO t SELECT repeat(md5(i::text), 30) FROM generate_series(1, 10000) i");
        }
        plain
    });
    let mut read = 0;
    while read < 60_000_000 {
        read += swift.expect().body.len();
    }
    let mut plain = fill.join().unwrap();
    assert_eq!(plain.value("SELECT count(*) FROM t"), "80000");
    let grown = rss_bytes(howdah.pid()).saturating_sub(before);
    assert!(grown < 8_000_000, "{grown} bytes for {read} that nobody read");
    drop(slow);
}

/// A directory that PostgreSQL's tools may write to.
fn room(node: &Node, name: &str) -> PathBuf {
    node.data_directory().with_file_name(name)
}

fn conninfo(howdah: &Howdah, tenant: &Tenant, more: &str) -> String {
    let (port, name, password) = (howdah.port(), &tenant.name, &tenant.password);
    format!("host=127.0.0.1 port={port} user={name} password={password} {more}")
}

fn run(mut command: Command, log: &Path) -> Process {
    command.env("PGCONNECT_TIMEOUT", "30");
    Process::spawn(command, log).unwrap()
}

#[track_caller]
fn succeeds(command: Command, log: &Path) {
    let status = run(command, log).wait(A_WHILE);
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", std::fs::read_to_string(log).unwrap());
}

#[test]
fn postgresqls_tools_a_subscription_and_a_standby_stream_through_howdah() {
    let cluster = Cluster::builder()
        .setting("wal_level", "logical")
        .setting("max_logical_replication_workers", "8")
        .start()
        .unwrap_or_else(|error| panic!("{error}"));
    let primary = cluster.primary();
    let howdah = Howdah::before(cluster.nodes(), "[pool]\nsize = 20\n");
    let tenant = replicator(primary);
    primary.sql(&format!("GRANT pg_read_all_data TO {}", tenant.name)).unwrap();
    let name = &tenant.name;
    let table = format!("CREATE TABLE t (i int PRIMARY KEY, x text); ALTER TABLE t OWNER TO {name}");
    primary.sql_in(name, &table).unwrap();
    let logs = tempfile::tempdir().unwrap();
    let log = |name: &str| logs.path().join(name);

    // pg_receivewal, with a slot it makes itself
    let wal = room(primary, "wal");
    let receivewal = |more: &[&str]| {
        let mut command = primary.command("pg_receivewal");
        command.arg("-d").arg(conninfo(&howdah, &tenant, "")).arg("-D").arg(&wal).args(["-S", "received"]).args(more);
        command
    };
    let mut mkdir = Command::new("mkdir");
    mkdir.arg(&wal);
    succeeds(mkdir, &log("mkdir"));
    let owner = std::fs::metadata(primary.data_directory()).unwrap();
    std::os::unix::fs::chown(&wal, Some(uid(&owner)), None).unwrap();
    succeeds(receivewal(&["--create-slot"]), &log("create"));
    let receiver = run(receivewal(&["--no-loop"]), &log("receivewal"));

    // pg_recvlogical
    let changes = room(primary, "changes");
    let recvlogical = |more: &[&str]| {
        let mut command = primary.command("pg_recvlogical");
        let dbname = format!("dbname={name}");
        command.arg("-d").arg(conninfo(&howdah, &tenant, &dbname)).args(["-S", "decoded"]).args(more);
        command
    };
    succeeds(recvlogical(&["--create-slot", "-P", "test_decoding"]), &log("create-logical"));
    let file = changes.to_str().unwrap();
    let decoder = run(recvlogical(&["--start", "-f", file, "-F", "1", "--no-loop"]), &log("recvlogical"));

    // a base backup that becomes a standby, and streams through howdah too
    let copy = room(primary, "copy");
    let mut backup = primary.command("pg_basebackup");
    backup.arg("-d").arg(conninfo(&howdah, &tenant, "application_name=copy")).arg("-D").arg(&copy);
    backup.args(["-R", "-X", "stream", "--checkpoint=fast", "--no-sync", "-C", "-S", "copied"]);
    succeeds(backup, &log("basebackup"));
    let port = free_port().unwrap();
    let mut postgres = primary.command("postgres");
    postgres.arg("-D").arg(&copy).args(["-p", &port.to_string()]).arg("-c").arg("hot_standby=on");
    let standby = run(postgres, &log("standby"));

    // a subscription
    let subscriber = Cluster::builder().start().unwrap_or_else(|error| panic!("{error}"));
    let there = subscriber.primary();
    there.sql("CREATE TABLE t (i int PRIMARY KEY, x text)").unwrap();
    primary.sql_in(name, "CREATE PUBLICATION p FOR TABLE t; INSERT INTO t VALUES (1, 'before')").unwrap();
    let publisher = conninfo(&howdah, &tenant, &format!("dbname={name}"));
    there.sql(&format!("CREATE SUBSCRIPTION s CONNECTION '{publisher}' PUBLICATION p")).unwrap();

    // what is written arrives everywhere
    primary.sql_in(name, "INSERT INTO t VALUES (2, 'after')").unwrap();
    eventually("the subscription has both rows", A_WHILE, || {
        there.sql("SELECT string_agg(x, ' ' ORDER BY i) FROM t").unwrap().cell() == Some("before after")
    });
    eventually("pg_recvlogical has decoded it", A_WHILE, || {
        assert_eq!(decoder.ended(), None, "{}", std::fs::read_to_string(log("recvlogical")).unwrap());
        let text = std::fs::read_to_string(&changes).unwrap_or_default();
        text.contains("table public.t: INSERT: i[integer]:2 x[text]:'after'")
    });
    let mut asked = None;
    eventually("the standby has it", A_WHILE, || {
        assert_eq!(standby.ended(), None, "{}", std::fs::read_to_string(log("standby")).unwrap());
        if asked.is_none() {
            let client = Client::connect(("127.0.0.1", port)).ok().and_then(|mut client| {
                let login = [("user", name.as_str()), ("database", name.as_str())];
                let answer = client.try_login(&login, &tenant.password).ok()?;
                answer.iter().all(|message| message.tag != b'E').then_some(client)
            });
            asked = client;
        }
        asked.as_mut().is_some_and(|client| client.value("SELECT count(*) FROM t") == "2")
    });
    assert_eq!(asked.unwrap().value("SELECT pg_is_in_recovery()"), "t");
    let flushed = primary.sql("SELECT pg_current_wal_flush_lsn()").unwrap().cell().unwrap().to_owned();
    let has =
        format!("SELECT bool_and(restart_lsn >= '{flushed}') FROM pg_replication_slots WHERE slot_name = 'received'");
    primary.sql("SELECT pg_switch_wal()").unwrap();
    eventually("pg_receivewal has it", A_WHILE, || primary.sql(&has).unwrap().cell() == Some("t"));
    assert!(std::fs::read_dir(&wal).unwrap().count() > 0);
    // all of them hold places
    assert_eq!(u64::try_from(walsenders(primary, name)).unwrap(), 4);
    eventually("the books say so", SOON, || open(&howdah) == 4);
    let seen = primary.sql("SELECT string_agg(application_name, ' ') FROM pg_stat_replication").unwrap();
    assert!(seen.cell().unwrap().contains("copy"), "{:?}", seen.cell());

    // a server that is killed: a last word, and nothing hangs
    let mut client = login(howdah.port(), &tenant, "true", "replication");
    stream(&mut client);
    primary.kill_all().unwrap();
    let error = wire::error(&client.read_until_closed());
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P01"), "{}", error.message);
    assert!(receiver.wait(A_WHILE).is_some_and(|status| !status.success()));
    assert!(decoder.wait(A_WHILE).is_some_and(|status| !status.success()));
    eventually("no place is held", SOON, || open(&howdah) == 0);
    // the subscription goes on when it is back
    primary.start().unwrap();
    primary.sql_in(name, "INSERT INTO t VALUES (3, 'again')").unwrap();
    eventually("the subscription has the third row", A_WHILE, || {
        there.sql("SELECT count(*) FROM t").unwrap().cell() == Some("3")
    });
    howdah.stop(SOON);
}

fn uid(metadata: &std::fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::uid(metadata)
}
