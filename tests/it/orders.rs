//! What is typed at the console happens: to all clients and servers it is about, to no others, and to no statement's cost.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use howdah::demo::scratch::Scratch;

use crate::console::show;
use crate::support::managed::lent;
use crate::support::wire::{self, Client};
use crate::support::{
    Howdah, SOON, Signal, StopMode, Tenant, builder, config, connection_count, eventually, free_port, shared,
};

/// A daemon whose console `tenant` may use.
fn daemon(tenant: &Tenant, extra: &str) -> Howdah {
    Howdah::shared(&format!("[admin]\nusers = [\"{}\"]\n\n{extra}", tenant.name))
}

fn console(howdah: &Howdah, tenant: &Tenant) -> Client {
    let mut console = howdah.wire();
    console.login(&tenant.name, &tenant.password, "pgbouncer");
    console
}

/// The answer to a command: its tag, or SQLSTATE and text.
fn said(messages: &[wire::Message]) -> String {
    match messages.iter().find(|message| message.tag == b'E') {
        Some(error) => {
            let error = error.fields();
            format!("{} {}", error.code, error.message)
        }
        None => {
            let tag = messages.iter().find(|message| message.tag == b'C').map(wire::Message::short);
            tag.unwrap_or_default().trim_start_matches("C:").to_owned()
        }
    }
}

fn order(console: &mut Client, command: &str) -> String {
    said(&console.query(command))
}

/// The process ids of the servers of a database.
fn servers(tenant: &Tenant) -> BTreeSet<String> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE usename = '{}' AND backend_type = 'client backend'",
        tenant.name
    );
    shared().primary().sql(&sql).unwrap().0.into_iter().filter_map(|mut row| row.swap_remove(0)).collect()
}

/// pgbench with a script of its own, for so many seconds.
fn pgbench(howdah: &Howdah, tenant: &Tenant, seconds: u32, script: &str) -> Child {
    let mut command = shared().primary().command("pgbench");
    command
        .args(["-n", "-c", "8", "-j", "2", "-T", &seconds.to_string(), "-f", "-", &tenant.url(howdah.port())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut pgbench = command.spawn().unwrap();
    pgbench.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    pgbench
}

/// Every transaction of it was done.
#[track_caller]
fn nothing_failed(pgbench: Child) {
    let output = pgbench.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("number of failed transactions: 0 (0.000%)"), "{out}{err}");
    assert!(!out.contains("actually processed: 0"), "{out}");
}

#[test]
fn under_pgbench_a_pause_leaves_no_server_and_a_reconnect_replaces_all_and_nothing_fails() {
    let tenant = Tenant::shared();
    let howdah = daemon(&tenant, "[pool]\nsize = 4\n");
    let mut console = console(&howdah, &tenant);
    let pgbench = pgbench(&howdah, &tenant, 6, "BEGIN;\nSELECT 1;\nSELECT 2;\nEND;\n");
    eventually("pgbench is at work", SOON, || servers(&tenant).len() == 4);

    let before = servers(&tenant);
    assert_eq!(order(&mut console, "RECONNECT"), "RECONNECT");
    assert_eq!(order(&mut console, "WAIT_CLOSE"), "WAIT_CLOSE");
    eventually("others have come", SOON, || servers(&tenant).len() == 4);
    assert!(servers(&tenant).is_disjoint(&before), "every server is another one");

    for command in ["PAUSE", &format!("PAUSE {}", tenant.name)] {
        assert_eq!(order(&mut console, command), "PAUSE");
        for _ in 0..10 {
            assert_eq!(connection_count(shared().primary(), &tenant.name), 0, "{command}");
        }
        let resume = command.replace("PAUSE", "RESUME");
        assert_eq!(order(&mut console, &resume), "RESUME");
        eventually("it goes on", SOON, || servers(&tenant).len() == 4);
    }
    nothing_failed(pgbench);
}

#[test]
fn a_pause_waits_for_transactions_and_is_undone_when_nobody_waits_for_it_any_more() {
    let (tenant, other) = (Tenant::shared(), Tenant::shared());
    let howdah = daemon(&tenant, "[pool]\nsize = 4\n");
    let (mut block, mut bystander) = (howdah.login(&tenant), howdah.login(&other));
    block.query("BEGIN");
    for gone in [true, false] {
        let mut pausing = console(&howdah, &tenant);
        pausing.send(&wire::query(&format!("PAUSE {}", tenant.name)));
        pausing.expect_silence(Duration::from_millis(200));
        let mut waiting = howdah.login(&tenant);
        waiting.send(&wire::query("SELECT 1"));
        waiting.expect_silence(Duration::from_millis(200));
        assert_eq!(block.value("SELECT 1"), "1", "what has begun goes on");
        assert_eq!(bystander.value("SELECT 1"), "1", "another database is not paused");
        if gone {
            pausing.cut();
        } else {
            let mut cancel = howdah.wire();
            cancel.send(&wire::cancel_request(&pausing.key));
            assert!(said(&pausing.read_until_ready()).starts_with("57014 "));
        }
        assert_eq!(wire::first_column(&waiting.read_until_ready()), ["1"], "undone");
    }
    // one that is complete stays, and a database that is paused is waited for no longer than its own servers
    let mut pausing = console(&howdah, &tenant);
    pausing.send(&wire::query("PAUSE"));
    pausing.expect_silence(Duration::from_millis(200));
    assert_eq!(order(&mut console(&howdah, &tenant), "PAUSE"), "55000 already suspended/paused");
    block.query("COMMIT");
    assert_eq!(said(&pausing.read_until_ready()), "PAUSE");
    drop(pausing);
    bystander.send(&wire::query("SELECT 1"));
    bystander.expect_silence(Duration::from_millis(300));
    assert_eq!(order(&mut console(&howdah, &tenant), "RESUME"), "RESUME");
    assert_eq!(wire::first_column(&bystander.read_until_ready()), ["1"]);
}

#[test]
fn servers_that_stay_with_their_clients_are_waited_for_until_those_leave() {
    let tenant = Tenant::shared();
    let howdah = daemon(&tenant, "[pool]\nsize = 4\n");
    let mut pinned = howdah.login(&tenant);
    pinned.query("CREATE TEMP TABLE t (i int)");
    let mut loose = howdah.login(&tenant);
    loose.query("SELECT 1");
    let pid = pinned.value("SELECT pg_backend_pid()");
    let mut console_ = console(&howdah, &tenant);
    assert_eq!(order(&mut console_, "RECONNECT"), "RECONNECT");
    eventually("only the pinned one is left", SOON, || servers(&tenant) == BTreeSet::from([pid.clone()]));
    console_.send(&wire::query("WAIT_CLOSE"));
    console_.expect_silence(Duration::from_millis(200));
    assert_eq!(pinned.value("SELECT pg_backend_pid()"), pid, "what is pinned is kept");
    assert_ne!(loose.value("SELECT pg_backend_pid()"), pid);
    pinned.send(&wire::terminate());
    assert_eq!(said(&console_.read_until_ready()), "WAIT_CLOSE");
    assert!(!servers(&tenant).contains(&pid));
}

#[test]
fn a_disabled_database_takes_no_new_clients_and_keeps_those_it_has() {
    let (tenant, other) = (Tenant::shared(), Tenant::shared());
    let howdah = daemon(&tenant, "");
    let mut old = howdah.login(&other);
    let mut console = console(&howdah, &tenant);
    assert_eq!(order(&mut console, &format!("DISABLE {}", other.name)), "DISABLE");
    let mut refused = howdah.wire();
    let answer = refused.try_login(&[("user", &other.name), ("database", &other.name)], &other.password).unwrap();
    let error = wire::error(&answer);
    let words = format!("database \"{}\" is disabled", other.name);
    assert_eq!((&*error.severity, &*error.code, error.message), ("FATAL", "55000", words));
    assert_eq!(old.value("SELECT 1"), "1");
    howdah.login(&tenant).query("SELECT 1");
    assert_eq!(order(&mut console, &format!("ENABLE {};", other.name)), "ENABLE");
    assert_eq!(howdah.login(&other).value("SELECT 1"), "1");
}

#[test]
fn kill_drops_a_databases_clients_and_servers_and_kill_client_drops_one() {
    let (tenant, other) = (Tenant::shared(), Tenant::shared());
    let howdah = daemon(&tenant, "[pool]\nsize = 2\n");
    let mut bystander = howdah.login(&other);
    let (mut idle, mut running, mut block) = (howdah.login(&tenant), howdah.login(&tenant), howdah.login(&tenant));
    block.query("BEGIN");
    running.send(&wire::query("SELECT pg_sleep(600)"));
    eventually("it runs", SOON, || servers(&tenant).len() == 2);
    let mut waiting = howdah.login(&tenant);
    waiting.send(&wire::query("SELECT 1"));
    eventually("it waits", SOON, || howdah.status()["pools"].to_string().contains("\"waiting\":1"));
    let mut console = console(&howdah, &tenant);

    // exactly one: the second to last
    let clients = console.query("SHOW CLIENTS");
    let names = clients.iter().find(|message| message.tag == b'T').unwrap().column_names();
    let at = |name: &str| names.iter().position(|column| column == name).unwrap();
    let rows = clients.iter().filter(|message| message.tag == b'D').map(wire::Message::columns);
    let of = rows.filter(|row| row[at("database")].as_deref() == Some(&*tenant.name)).collect::<Vec<_>>();
    let ids = of.iter().map(|row| row[at("id")].clone().unwrap().parse::<u64>().unwrap()).collect::<BTreeSet<_>>();
    assert_eq!(ids.len(), 4);
    let first = ids.first().unwrap();
    assert_eq!(order(&mut console, &format!("KILL_CLIENT {first}")), "KILL_CLIENT");
    let error = wire::error(&idle.read_until_closed());
    assert_eq!((&*error.severity, &*error.code, &*error.message), ("FATAL", "57P01", "admin forced disconnect"));
    eventually("it is gone", SOON, || order(&mut console, &format!("KILL_CLIENT {first}")) == "42704 client not found");
    assert_eq!(block.value("SELECT 1"), "1");

    assert_eq!(order(&mut console, &format!("KILL {}", tenant.name)), "KILL");
    for client in [&mut running, &mut block, &mut waiting] {
        let error = wire::error(&client.read_until_closed());
        assert_eq!((&*error.severity, &*error.code, &*error.message), ("FATAL", "57P01", "database removed"));
    }
    eventually("no server is left", SOON, || servers(&tenant).is_empty());
    assert_eq!(bystander.value("SELECT 1"), "1");
    thread::scope(|scope| {
        let next = scope.spawn(|| howdah.login(&tenant).value("SELECT 1"));
        thread::sleep(Duration::from_millis(200));
        assert!(!next.is_finished(), "it is paused");
        assert_eq!(order(&mut console, &format!("RESUME {}", tenant.name)), "RESUME");
        assert_eq!(next.join().unwrap(), "1");
    });
}

/// Begins to log in, and stops where the password is to be shown.
fn half_logged_in(howdah: &Howdah, tenant: &Tenant) -> Client {
    let mut stuck = howdah.wire();
    stuck.send(&wire::startup(wire::PROTOCOL_3_0, &[("user", &tenant.name), ("database", &tenant.name)]));
    assert_eq!(stuck.expect().tag, b'R', "it is asked for its password");
    stuck
}

/// The lines of a SHOW about sockets that are of this database: column by column.
fn sockets(console: &mut Client, sql: &str, database: &str) -> Vec<BTreeMap<String, Option<String>>> {
    let mut rows = show(console, sql);
    rows.retain(|row| row["database"].as_deref() == Some(database));
    rows
}

#[test]
fn who_is_still_logging_in_is_shown_and_reached_by_orders_too() {
    let (tenant, waiting) = (Tenant::shared(), Tenant::shared());
    let howdah = daemon(&tenant, "");
    let mut console = console(&howdah, &tenant);
    let told = |client: &mut Client| {
        let error = wire::error(&client.read_until_closed());
        (error.severity, error.code, error.message)
    };
    let forced = ("FATAL".to_owned(), "57P01".to_owned(), "admin forced disconnect".to_owned());
    let mut stuck = half_logged_in(&howdah, &tenant);
    let mut silent = howdah.wire();
    silent.send(&[0, 0]);
    let login = |console: &mut Client, database: &str| {
        let mut rows = sockets(console, "SHOW SOCKETS", database);
        rows.retain(|row| row["state"].as_deref() == Some("cl_login"));
        rows.first().map(|row| {
            assert!(row["recv_pos"].is_none() && row["addr"].as_deref() == Some("127.0.0.1"), "{row:?}");
            (row["user"].clone().unwrap(), row["id"].clone().unwrap())
        })
    };
    eventually("both are seen", SOON, || {
        login(&mut console, &tenant.name).is_some() && login(&mut console, "(nodb)").is_some()
    });
    for (client, database, user) in [(&mut stuck, &*tenant.name, &*tenant.name), (&mut silent, "(nodb)", "(nouser)")] {
        let (shown, id) = login(&mut console, database).unwrap();
        assert_eq!(shown, user);
        assert_eq!(order(&mut console, &format!("KILL_CLIENT {id}")), "KILL_CLIENT");
        assert_eq!(told(client), forced);
    }
    assert!(login(&mut console, &tenant.name).is_none());

    // one that has proven who it is, and waits for a server
    assert_eq!(order(&mut console, &format!("PAUSE {}", waiting.name)), "PAUSE");
    thread::scope(|scope| {
        let login = scope.spawn(|| {
            let who = [("user", &*waiting.name), ("database", &*waiting.name)];
            howdah.wire().try_login(&who, &waiting.password).unwrap()
        });
        eventually("it waits", SOON, || !sockets(&mut console, "SHOW CLIENTS", &waiting.name).is_empty());
        let id = sockets(&mut console, "SHOW CLIENTS", &waiting.name)[0]["id"].clone().unwrap();
        assert_eq!(order(&mut console, &format!("KILL_CLIENT {id}")), "KILL_CLIENT");
        assert_eq!(wire::error(&login.join().unwrap()).message, forced.2);
    });
    let (mut stuck, mut other) = (half_logged_in(&howdah, &tenant), half_logged_in(&howdah, &waiting));
    assert_eq!(order(&mut console, &format!("KILL {}", tenant.name)), "KILL");
    assert_eq!(told(&mut stuck).2, "database removed");
    other.expect_silence(Duration::from_millis(100));
    assert_eq!(order(&mut console, "SHUTDOWN WAIT_FOR_CLIENTS"), "SHUTDOWN");
    assert_eq!(told(&mut other), ("FATAL".to_owned(), "57P01".to_owned(), "pooler is shutting down".to_owned()));
}

#[test]
fn while_suspended_who_comes_waits_who_goes_is_seen_and_half_a_message_has_its_time() {
    let tenant = Tenant::shared();
    let howdah = daemon(&tenant, "[pool]\nsize = 1\n");
    let mut block = howdah.login(&tenant);
    block.query("BEGIN");
    let mut console = console(&howdah, &tenant);
    let mut waits = howdah.login(&tenant);
    waits.send(&wire::query("SELECT 1"));
    let clients = |console: &mut Client| sockets(console, "SHOW CLIENTS", &tenant.name).len();
    eventually("it waits", SOON, || {
        sockets(&mut console, "SHOW CLIENTS", &tenant.name).iter().any(|row| row["state"].as_deref() == Some("waiting"))
    });
    assert_eq!(order(&mut console, "SUSPEND"), "SUSPEND");
    assert_eq!(clients(&mut console), 2);
    waits.cut();
    eventually("it is seen leaving", SOON, || clients(&mut console) == 1);
    let mut late = howdah.login(&tenant);
    late.send(&wire::query("SELECT 2"));
    late.expect_silence(Duration::from_millis(200));
    block.send(&wire::query("COMMIT"));
    block.expect_silence(Duration::from_millis(100));
    assert_eq!(order(&mut console, "RESUME"), "RESUME");
    assert_eq!(wire::short(&block.read_until_ready()), ["C:COMMIT", "Z:I"]);
    assert_eq!(wire::first_column(&late.read_until_ready()), ["2"]);

    // its server reads the first half of what it says
    let long = wire::query(&format!("SELECT '{}'", "x".repeat(300_000)));
    let (first, rest) = long.split_at(200_000);
    late.send(first);
    eventually("a server is lent to it", SOON, || {
        sockets(&mut console, "SHOW SOCKETS", &tenant.name).iter().any(|row| {
            let left = row["pkt_remain"].as_deref().map_or(0, |left| left.parse::<usize>().unwrap());
            row["type"].as_deref() == Some("C") && left == rest.len()
        })
    });
    assert_eq!(order(&mut console, "SET suspend_timeout = '0.5'"), "SET suspend_timeout=0.5");
    let begun = Instant::now();
    assert_eq!(order(&mut console, "SUSPEND"), "SUSPEND");
    assert!(begun.elapsed() >= Duration::from_millis(500));
    let error = wire::error(&late.read_until_closed());
    assert_eq!((&*error.code, &*error.message), ("57P01", "suspend_timeout"));
    assert_eq!(order(&mut console, "RESUME"), "RESUME");
    assert_eq!(block.value("SELECT 3"), "3");
}

#[test]
fn sessions_that_keep_their_server_and_replication_are_suspended_and_killed_as_all_others() {
    let tenant = Tenant::shared();
    shared().primary().sql(&format!("ALTER ROLE {} REPLICATION", tenant.name)).unwrap();
    let howdah = daemon(&tenant, "[pool]\nmode = \"session\"\n");
    let mut console = console(&howdah, &tenant);
    let mut session = howdah.login(&tenant);
    session.query("CREATE TEMP TABLE mine (i int)");
    let mut stream = howdah.wire();
    let startup = [("user", &*tenant.name), ("database", &*tenant.name), ("replication", "true")];
    stream.login_with(&startup, &tenant.password);
    let at = stream.query("IDENTIFY_SYSTEM")[1].columns()[2].clone().unwrap();
    stream.send(&wire::query(&format!("START_REPLICATION PHYSICAL {at}")));
    stream.read_until(b'W');
    let writes = || {
        // more than the sockets on the way hold, in messages that hardly ever end where a read does
        let sql = "SELECT count(pg_logical_emit_message(false, 'x', repeat('y', 8000))) FROM generate_series(1, 1500)";
        shared().primary().sql(sql).unwrap();
    };
    thread::scope(|scope| {
        let writing = scope.spawn(|| (0..3).for_each(|_| writes()));
        stream.read_until(b'd');
        let begun = Instant::now();
        console.send(&wire::query("SUSPEND"));
        // it goes on until a message of it has ended and has been taken, and then stops in the middle of the writes
        stream.read_timeout(Duration::from_millis(500));
        while stream.read().is_ok() {}
        assert_eq!(said(&console.read_until_ready()), "SUSPEND");
        assert!(begun.elapsed() < Duration::from_secs(9), "nobody had to be disconnected");
        session.send(&wire::query("SELECT count(*) FROM mine"));
        session.expect_silence(Duration::from_millis(200));
        // nothing comes although there is more
        writing.join().unwrap();
        writes();
        stream.expect_silence(Duration::from_millis(300));
    });
    assert_eq!(order(&mut console, "RESUME"), "RESUME");
    assert_eq!(wire::first_column(&session.read_until_ready()), ["0"]);
    stream.read_until(b'd');
    assert_eq!(order(&mut console, &format!("KILL {}", tenant.name)), "KILL");
    assert_eq!(wire::error(&session.read_until_closed()).message, "database removed");
    stream.read_until_closed();
    eventually("no server is left", SOON, || servers(&tenant).is_empty());
    let sql = format!("SELECT pid FROM pg_stat_replication WHERE usename = '{}'", tenant.name);
    eventually("nobody streams", SOON, || shared().primary().sql(&sql).unwrap().0.is_empty());
}

#[test]
fn what_cannot_be_done_is_refused_in_pgbouncers_words() {
    let (tenant, looker) = (Tenant::shared(), Tenant::shared());
    let (port, http) = (free_port().unwrap(), free_port().unwrap());
    let extra = format!(
        "[admin]\nusers = [\"{}\"]\nstats_users = [\"{}\"]\n\n[databases.{}]\ncluster = \"main\"\n",
        tenant.name, looker.name, tenant.name
    );
    let toml = config(shared().nodes(), port, http, &extra).replace("[databases.\"*\"]\ncluster = \"main\"\n", "");
    let howdah = Howdah::start(&toml, port, http);
    let mut client = howdah.login(&tenant);
    client.query("SELECT 1");
    let mut console = console(&howdah, &tenant);
    let mut is = |command: &str, expected: &str| assert_eq!(order(&mut console, command), expected, "{command}");
    for (verb, word) in [
        ("PAUSE", "pause"),
        ("KILL", "kill"),
        ("RECONNECT", "reconnect"),
        ("WAIT_CLOSE", "wait in"),
        ("DISABLE", "disable"),
        ("ENABLE", "enable"),
    ] {
        is(&format!("{verb} nowhere"), "3D000 no such database: nowhere");
        is(&format!("{verb} pgbouncer"), &format!("0A000 cannot {word} admin db: pgbouncer"));
    }
    is("RESUME", "55000 pooler is not paused/suspended");
    is("RESUME nowhere", "3D000 no such database: nowhere");
    is(&format!("RESUME {}", tenant.name), &format!("55000 database {} is not paused", tenant.name));
    is("DISABLE", "42601 a database is required");
    is("ENABLE ", "42601 a database is required");
    is("KILL_CLIENT", "22023 invalid client pointer supplied");
    is("KILL_CLIENT seven", "22023 invalid client pointer supplied");
    is("KILL_CLIENT 4711", "42704 client not found");
    is("SUSPEND now", "42601 invalid command 'SUSPEND now', use SHOW HELP;");
    is("SHUTDOWN now", "42601 invalid command 'SHUTDOWN now', use SHOW HELP;");
    is("SET default_pool_size = many", "22023 SET failed");
    is("SET listen_port = 1", "22023 SET failed");
    is(&format!("PAUSE {}", tenant.name), "PAUSE");
    is("SUSPEND", "55000 cannot suspend with paused databases");
    is("PAUSE", "PAUSE");
    is("KILL", "55000 already suspended/paused");
    is("SUSPEND", "55000 already suspended/paused");
    is("RESUME", "RESUME");
    is(&format!("RESUME {}", tenant.name), "RESUME");

    let mut looking = howdah.wire();
    looking.login(&looker.name, &looker.password, "pgbouncer");
    for command in
        ["PAUSE", "KILL_CLIENT x", "DISABLE", "RELOAD", "SHUTDOWN", "SET default_pool_size = 1", "KILL nowhere"]
    {
        assert_eq!(order(&mut looking, command), "42501 admin access needed", "{command}");
    }
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_setting_holds_until_the_next_reload_and_a_reload_that_fails_says_so() {
    let tenant = Tenant::shared();
    let howdah = daemon(&tenant, "[pool]\nsize = 1\n");
    let mut console = console(&howdah, &tenant);
    let (mut first, mut second) = (howdah.login(&tenant), howdah.login(&tenant));
    first.query("BEGIN");
    second.send(&wire::query("SELECT 1"));
    second.expect_silence(Duration::from_millis(200));
    assert_eq!(order(&mut console, "SET default_pool_size = 2"), "SET default_pool_size=2");
    assert_eq!(wire::first_column(&second.read_until_ready()), ["1"]);
    assert_eq!(order(&mut console, "RELOAD"), "RELOAD");
    eventually("what is too much is closed", SOON, || connection_count(shared().primary(), &tenant.name) == 1);
    second.send(&wire::query("SELECT 1"));
    second.expect_silence(Duration::from_millis(200));
    first.query("COMMIT");
    assert_eq!(wire::first_column(&second.read_until_ready()), ["1"]);
    // a limit for every user, and who may look
    assert_eq!(order(&mut console, "SET default_pool_size = 2"), "SET default_pool_size=2");
    assert_eq!(order(&mut console, "SET max_user_connections = 1"), "SET max_user_connections=1");
    first.query("BEGIN");
    second.send(&wire::query("SELECT 1"));
    second.expect_silence(Duration::from_millis(200));
    assert_eq!(order(&mut console, "SET max_user_connections = 0"), "SET max_user_connections=0");
    assert_eq!(wire::first_column(&second.read_until_ready()), ["1"]);
    first.query("COMMIT");
    let looker = Tenant::shared();
    let looks = || {
        let who = [("user", &*looker.name), ("database", "pgbouncer")];
        howdah.wire().try_login(&who, &looker.password).unwrap().last().map(|message| message.tag)
    };
    assert_eq!(looks(), Some(b'E'));
    let names = format!("SET stats_users = '{}, nobody'", looker.name);
    assert_eq!(order(&mut console, &names), format!("SET stats_users={}, nobody", looker.name));
    assert_eq!(looks(), Some(b'Z'));
    assert_eq!(order(&mut console, "RELOAD"), "RELOAD");
    assert_eq!(looks(), Some(b'E'), "it held until the next reload");
    std::fs::write(howdah.config(), "nonsense = true\n").unwrap();
    assert_eq!(order(&mut console, "RELOAD"), "F0000 RELOAD failed, see logs for additional details");
    assert_eq!(first.value("SELECT 1"), "1");
}

#[test]
fn while_suspended_nothing_is_read_and_transactions_go_on_afterwards() {
    let tenant = Tenant::shared();
    let howdah = daemon(&tenant, "[pool]\nsize = 2\n");
    let (mut idle, mut block) = (howdah.login(&tenant), howdah.login(&tenant));
    block.query("BEGIN");
    let pgbench = pgbench(&howdah, &tenant, 4, "SELECT repeat('x', 100000);\n");
    eventually("pgbench is at work", SOON, || servers(&tenant).len() == 2);
    let mut suspending = console(&howdah, &tenant);
    assert_eq!(order(&mut suspending, "SUSPEND"), "SUSPEND");
    idle.send(&wire::query("SELECT 1"));
    block.send(&wire::query("SELECT 2"));
    idle.expect_silence(Duration::from_millis(200));
    block.expect_silence(Duration::from_millis(100));
    assert_eq!(order(&mut suspending, "RESUME"), "RESUME");
    assert_eq!(wire::first_column(&block.read_until_ready()), ["2"]);
    assert_eq!(wire::first_column(&idle.read_until_ready()), ["1"]);
    // nobody is left at the console: it is undone
    assert_eq!(order(&mut suspending, "SUSPEND"), "SUSPEND");
    block.send(&wire::query("COMMIT"));
    block.expect_silence(Duration::from_millis(100));
    suspending.cut();
    assert_eq!(wire::short(&block.read_until_ready()), ["C:COMMIT", "Z:I"]);
    nothing_failed(pgbench);
}

#[test]
fn a_shutdown_waits_for_what_it_was_told_to_wait_for() {
    let tenant = Tenant::shared();
    let wait = |how: &str| {
        let sockets = Scratch::new("howdah-orders").unwrap();
        std::fs::set_permissions(sockets.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let extra = format!("[[listeners]]\naddress = \"unix:{}\"\n", sockets.path().display());
        let howdah = daemon(&tenant, &extra);
        let (mut idle, mut block) = (howdah.login(&tenant), howdah.login(&tenant));
        block.query("BEGIN");
        idle.query("SELECT 1");
        let mut stuck = half_logged_in(&howdah, &tenant);
        assert_eq!(order(&mut console(&howdah, &tenant), &format!("SHUTDOWN {how}")), "SHUTDOWN");
        assert_eq!(wire::error(&stuck.read_until_closed()).message, "pooler is shutting down");
        eventually("TCP is closed", SOON, || std::net::TcpStream::connect(("127.0.0.1", howdah.port())).is_err());
        let socket = std::fs::read_dir(sockets.path()).unwrap().filter_map(Result::ok).map(|entry| entry.path());
        let socket = socket.into_iter().find(|path| path.to_string_lossy().contains(".s.PGSQL")).unwrap();
        let mut late = Client::connect_unix(&socket).unwrap();
        let answer = late.try_login(&[("user", &tenant.name), ("database", &tenant.name)], &tenant.password).unwrap();
        assert_eq!(wire::error(&answer).message, "pooler is shutting down");
        let mut operator = Client::connect_unix(&socket).unwrap();
        operator.login(&tenant.name, &tenant.password, "pgbouncer");
        assert_eq!(order(&mut operator, "RESUME"), "57P03 pooler is shutting down");
        assert_eq!(block.value("SELECT 1"), "1");
        (howdah, idle, block, sockets)
    };
    let (howdah, mut idle, mut block, _sockets) = wait("WAIT_FOR_SERVERS");
    block.query("COMMIT");
    assert!(howdah.exit_status(SOON).success(), "no server is in use");
    assert_eq!(wire::error(&idle.read_until_closed()).code, "57P01");

    let (howdah, mut idle, mut block, _sockets) = wait("WAIT_FOR_CLIENTS");
    block.query("COMMIT");
    assert_eq!(idle.value("SELECT 1"), "1", "who is connected is served");
    block.send(&wire::terminate());
    thread::sleep(Duration::from_millis(100));
    assert_eq!(idle.value("SELECT 1"), "1");
    idle.send(&wire::terminate());
    assert!(howdah.exit_status(SOON).success(), "nobody is connected");

    let howdah = daemon(&tenant, "");
    let mut running = howdah.login(&tenant);
    running.send(&wire::query("SELECT pg_sleep(600)"));
    running.expect_silence(Duration::from_millis(100));
    let begun = Instant::now();
    console(&howdah, &tenant).send(&wire::query("SHUTDOWN"));
    assert!(howdah.exit_status(SOON).success());
    assert!(begun.elapsed() < Duration::from_secs(20), "nothing is waited for");
    assert_eq!(wire::error(&running.read_until_closed()).code, "57P01");
}

#[test]
fn signals_pause_resume_and_end_at_once() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("");
    let mut client = howdah.login(&tenant);
    client.query("SELECT 1");
    howdah.signal(Signal::USR1);
    eventually("paused", SOON, || connection_count(shared().primary(), &tenant.name) == 0);
    client.send(&wire::query("SELECT 1"));
    client.expect_silence(Duration::from_millis(200));
    howdah.signal(Signal::USR2);
    assert_eq!(wire::first_column(&client.read_until_ready()), ["1"]);
    client.send(&wire::query("SELECT pg_sleep(600)"));
    client.expect_silence(Duration::from_millis(100));
    howdah.signal(Signal::QUIT);
    assert!(howdah.exit_status(Duration::from_secs(10)).success());
    assert_eq!(wire::error(&client.read_until_closed()).code, "57P01");
}

#[test]
fn paused_clients_outlive_a_restart_of_their_server() {
    let cluster = builder().start().unwrap();
    let tenant = Tenant::on(cluster.primary());
    let howdah = Howdah::before(cluster.nodes(), &format!("[admin]\nusers = [\"{}\"]\n", tenant.name));
    let mut client = howdah.login(&tenant);
    client.query("CREATE TABLE t (i int)");
    let mut console = console(&howdah, &tenant);
    assert_eq!(order(&mut console, "PAUSE"), "PAUSE");
    client.send(&wire::query("INSERT INTO t VALUES (1)"));
    cluster.primary().stop(StopMode::Fast).unwrap();
    client.expect_silence(Duration::from_millis(200));
    cluster.primary().start().unwrap();
    assert_eq!(order(&mut console, "RESUME"), "RESUME");
    assert_eq!(wire::short(&client.read_until_ready()), ["C:INSERT 0 1", "Z:I"]);
}

#[test]
fn a_cluster_is_operated_from_the_console() {
    let lent = lent();
    let managed = lent.as_ref().unwrap();
    let old = managed.settled();
    let new = managed.cluster().nodes().iter().map(|node| node.name()).find(|name| *name != old).unwrap().to_owned();
    let first = managed.cluster().primary();
    let open = |database: &str| {
        let mut console = managed.howdah().wire();
        console.login(first.superuser(), first.password(), database);
        console
    };
    let mut console = open("howdah");
    let text = format!("SWITCHOVER TO {new}");
    assert_eq!(order(&mut open("pgbouncer"), &text), format!("42601 invalid command '{text}', use SHOW HELP;"));
    assert_eq!(order(&mut console, "MAINTENANCE ON"), "MAINTENANCE");
    managed.until("maintenance is on", || managed.main()["paused"] == true);
    assert_eq!(order(&mut console, "MAINTENANCE OFF IN main"), "MAINTENANCE");
    managed.until("maintenance is over", || managed.main()["paused"] == false);
    // and a reload meanwhile: both end well, and nothing is dropped
    let tenant = managed.tenant();
    let (mut client, file) =
        (managed.howdah().login(tenant), std::fs::read_to_string(managed.howdah().config()).unwrap());
    console.send(&wire::query(&text));
    for text in [&format!("{file}\n[network]\ndns_ttl = \"14s\"\n"), &file].into_iter().cycle().take(6) {
        std::fs::write(managed.howdah().config(), text).unwrap();
        assert_eq!(order(&mut open("pgbouncer"), "RELOAD"), "RELOAD");
        assert_eq!(client.value("SELECT 1"), "1");
    }
    assert_eq!(said(&console.read_until_ready()), "SWITCHOVER", "{}", managed.report());
    managed.until("it is seen", || managed.primary().as_deref() == Some(&*new));
    assert!(order(&mut console, &text).starts_with("55000 "), "it is the primary already");
    assert!(order(&mut console, "FENCE nobody").starts_with("55000 "));
    assert_eq!(order(&mut console, "REBUILD a IN nowhere"), "42704 no such cluster: nowhere; there are: main");
    assert_eq!(managed.settled(), new);
}

#[test]
fn a_cluster_without_agents_is_not_operated() {
    let tenant = Tenant::shared();
    let howdah = daemon(&tenant, "");
    let mut console = howdah.wire();
    console.login(&tenant.name, &tenant.password, "howdah");
    for command in ["SWITCHOVER", "FAILOVER TO b", "MAINTENANCE ON", "REBUILD a", "ATTACH a IN main", "FENCE a"] {
        let answer = order(&mut console, command);
        assert!(answer.starts_with("55000 cluster \"main\" is only observed: write \"agent\""), "{command}: {answer}");
    }
}
