//! The console answers as PgBouncer's does, to whom it may, in both protocols; what it shows is true.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::drivers;
use crate::support::wire::{self, Client, Message};
use crate::support::{Howdah, SOON, Tenant, eventually, rss_bytes, shared};

/// Who may do everything, and who may look.
pub const ADMIN: &str = "[admin]\nusers = [\"boss\"]\nstats_users = [\"watcher\"]\n\n\
    [users.boss]\npassword = \"of-boss\"\n\n[users.watcher]\npassword = \"of-watcher\"\n\n";

pub fn console(howdah: &Howdah, user: &str, database: &str) -> Client {
    let mut client = howdah.wire();
    client.login(user, &format!("of-{user}"), database);
    client
}

/// A SHOW's lines, by column.
pub fn show(client: &mut Client, sql: &str) -> Vec<BTreeMap<String, Option<String>>> {
    let messages = client.query(sql);
    let head = messages.iter().find(|m| m.tag == b'T').unwrap_or_else(|| panic!("{sql}: {messages:?}"));
    let names = head.column_names();
    let rows = messages.iter().filter(|m| m.tag == b'D').map(Message::columns);
    rows.map(|row| names.iter().cloned().zip(row).collect()).collect()
}

fn cell(row: &BTreeMap<String, Option<String>>, column: &str) -> String {
    row.get(column).unwrap_or_else(|| panic!("no column {column} in {row:?}")).clone().unwrap_or_default()
}

fn number(row: &BTreeMap<String, Option<String>>, column: &str) -> i64 {
    cell(row, column).parse().unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

/// The line of one database, or of one pool.
fn of(client: &mut Client, sql: &str, column: &str, value: &str) -> BTreeMap<String, Option<String>> {
    let rows = show(client, sql);
    let found = rows.iter().find(|row| cell(row, column) == value);
    found.unwrap_or_else(|| panic!("no {column} {value} in {rows:?}")).clone()
}

#[test]
fn who_is_named_comes_in_by_its_password_and_nobody_else() {
    let (tenant, howdah) = (Tenant::shared(), Howdah::shared(ADMIN));
    for database in ["pgbouncer", "howdah"] {
        let mut boss = console(&howdah, "boss", database);
        assert_eq!(boss.parameter("server_version"), Some("1.25.2/bouncer"));
        assert_eq!(boss.parameter("is_superuser"), Some("on"));
        assert_eq!(boss.query_short("SHOW STATE"), ["T", "D", "D", "D", "C:SHOW", "Z:I"]);
        let refused = |user: &str, password: &str| {
            let messages = howdah.wire().try_login(&[("user", user), ("database", database)], password).unwrap();
            let error = wire::error(&messages);
            (error.severity, error.code, error.message)
        };
        let (severity, code, message) = refused("boss", "wrong");
        assert_eq!((severity.as_str(), code.as_str()), ("FATAL", "28P01"), "{message}");
        let not_allowed = refused(&tenant.name, &tenant.password);
        assert_eq!(not_allowed, ("FATAL".into(), "28000".into(), "not allowed".into()));
    }
}

#[test]
fn a_stats_user_looks_and_changes_nothing() {
    let howdah = Howdah::shared(ADMIN);
    let mut watcher = console(&howdah, "watcher", "pgbouncer");
    assert!(!show(&mut watcher, "SHOW CONFIG").is_empty());
    for command in ["PAUSE", "RELOAD", "SHOW FDS", "KILL_CLIENT 1", "SHUTDOWN", "SET max_client_conn = 5"] {
        let error = wire::error(&watcher.query(command));
        assert_eq!((error.code.as_str(), error.message.as_str()), ("42501", "admin access needed"), "{command}");
    }
    assert_eq!(watcher.query_short("SET DateStyle = 'ISO'"), ["N:00000", "C:SET", "Z:I"]);
    assert_eq!(console(&howdah, "boss", "pgbouncer").query_short("SHOW FDS"), ["T", "C:SHOW", "Z:I"]);
}

#[test]
fn what_is_no_command_is_refused_in_pgbouncers_words_and_the_console_goes_on() {
    let howdah = Howdah::shared(ADMIN);
    let mut boss = console(&howdah, "boss", "pgbouncer");
    for text in ["show foo", "foo", "select 1", "SELECT version()", "SHOW NODES", "show pools like 'a'", "BEGIN"] {
        let error = wire::error(&boss.query(text));
        let words = format!("invalid command '{text}', use SHOW HELP;");
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "42601"));
        assert_eq!((error.message, error.routine), (words, String::new()));
    }
    let long = format!("SHOW {}", "x".repeat(100));
    assert_eq!(wire::error(&boss.query(&long)).message, "bad arguments");
    assert_eq!(boss.query_short("foo; SHOW POOLS"), ["E:42601", "Z:I"]);
    assert_eq!(wire::short(&boss.query("SHOW VERSION; SHOW STATE;")).join(" "), "T D C:SHOW T D D D C:SHOW Z:I");
    assert_eq!(boss.query_short(" ; "), ["I", "Z:I"]);
    let help = boss.query("SHOW HELP");
    assert_eq!(wire::short(&help), ["N:00000", "C:SHOW", "Z:I"]);
    let notice = help[0].fields();
    assert_eq!(notice.message, "Console usage");
    assert!(notice.detail.contains("SHOW PEERS|PEER_POOLS"), "{}", notice.detail);
}

#[test]
fn the_extended_protocol_is_spoken_with_portals_limits_and_binary_results() {
    let howdah = Howdah::shared(ADMIN);
    let mut boss = console(&howdah, "boss", "pgbouncer");
    let mut sent = wire::parse("s", "SHOW LISTS", &[]);
    sent.extend(wire::describe(b'S', "s"));
    sent.extend(wire::bind_formats("p", "s", &[], &[], &[0, 1]));
    sent.extend(wire::describe(b'P', "p"));
    sent.extend(wire::execute("p", 2));
    sent.extend(wire::execute("p", 0));
    sent.extend(wire::close(b'S', "s"));
    sent.extend(wire::sync());
    boss.send(&sent);
    let answer = boss.read_until_ready();
    let rows = 14;
    let expected = format!("1 t T 2 T D D s {}C:SHOW 3 Z:I", "D ".repeat(rows - 2));
    assert_eq!(wire::short(&answer).join(" "), expected);
    let first = answer.iter().find(|m| m.tag == b'D').unwrap();
    let databases = "databases".len();
    assert_eq!(&first.body[2 + 4 + databases..2 + 4 + databases + 4], [0, 0, 0, 4], "an int4 in binary");

    // an error skips everything up to the Sync
    let mut sent = wire::parse("", "SHOW nothing", &[]);
    sent.extend(wire::bind("", "", &[]));
    sent.extend(wire::execute("", 0));
    sent.extend(wire::sync());
    boss.send(&sent);
    assert_eq!(wire::short(&boss.read_until_ready()), ["E:42601", "Z:I"]);
    let mut sent = wire::parse("a", "SHOW STATE", &[]);
    sent.extend(wire::parse("a", "SHOW STATE", &[]));
    sent.extend(wire::sync());
    boss.send(&sent);
    assert_eq!(wire::short(&boss.read_until_ready()), ["1", "E:42P05", "Z:I"]);
    for (broken, code) in [
        (wire::bind("", "gone", &[]), "26000"),
        (wire::bind("", "a", &[Some("1")]), "08P01"),
        (wire::bind_formats("", "a", &[], &[], &[1, 1, 1]), "08P01"),
        (wire::execute("gone", 0), "34000"),
    ] {
        boss.send(&[broken, wire::sync()].concat());
        assert_eq!(wire::short(&boss.read_until_ready()), [format!("E:{code}"), "Z:I".to_owned()]);
    }
    // a statement that says nothing
    let mut sent = wire::parse("", "", &[]);
    sent.extend(wire::bind("", "", &[]));
    sent.extend(wire::describe(b'P', ""));
    sent.extend(wire::execute("", 0));
    sent.extend(wire::sync());
    boss.send(&sent);
    assert_eq!(wire::short(&boss.read_until_ready()), ["1", "2", "n", "I", "Z:I"]);
}

#[test]
fn a_broken_message_ends_that_console_and_nothing_else() {
    let howdah = Howdah::shared(&format!("[auth]\nmethod = \"trust\"\n\n{ADMIN}"));
    let mut other = console(&howdah, "boss", "pgbouncer");
    // every message with every body that is too short for it, and one that is too long for a console
    for tag in b"PBCDEQdpcfHSX\x00\xff" {
        for len in 0..8 {
            let mut boss = console(&howdah, "boss", "howdah");
            let _ = boss.try_send(&wire::tagged(*tag, &vec![0; len]));
            let _ = boss.try_send(&wire::sync());
        }
    }
    let mut boss = console(&howdah, "boss", "pgbouncer");
    let _ = boss.try_send(&[b"Q".as_slice(), &1_000_000_i32.to_be_bytes()].concat());
    let last = boss.read_until_closed();
    assert_eq!(wire::error(&last).code, "08P01");
    assert_eq!(other.query_short("SHOW STATE").last().unwrap(), "Z:I");
    assert_eq!(howdah.status()["panics"], 0);
    eventually("all consoles but one are gone", SOON, || show(&mut other, "SHOW CLIENTS").len() == 1);
}

#[test]
fn what_is_shown_is_what_postgresql_says() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(&format!("{ADMIN}[pool]\nsize = 2\n"));
    let mut boss = console(&howdah, "boss", "pgbouncer");
    let login = |name: &str| {
        let mut client = howdah.wire();
        let who = [("user", &*tenant.name), ("database", &*tenant.name), ("application_name", name)];
        client.login_with(&who, &tenant.password);
        client
    };
    let (mut one, mut two, mut three, mut idle) = (login("one"), login("two"), login("three"), login("idle"));
    idle.value("SELECT 1");
    let (pid_one, pid_two) = {
        one.query("BEGIN");
        two.query("BEGIN");
        (one.value("SELECT pg_backend_pid()"), two.value("SELECT pg_backend_pid()"))
    };
    three.send(&wire::query("SELECT 3"));
    let pool = |boss: &mut Client| of(boss, "SHOW POOLS", "database", &tenant.name);
    eventually("the third waits", SOON, || number(&pool(&mut boss), "cl_waiting") == 1);
    let line = pool(&mut boss);
    assert_eq!((number(&line, "cl_active"), number(&line, "sv_active"), number(&line, "sv_idle")), (3, 2, 0));
    assert_eq!(cell(&line, "pool_mode"), "transaction");
    eventually("its wait grows", SOON, || number(&pool(&mut boss), "maxwait") >= 1);

    let servers = show(&mut boss, "SHOW SERVERS");
    let servers: Vec<_> = servers.iter().filter(|row| cell(row, "database") == tenant.name).collect();
    let pids: BTreeSet<_> = servers.iter().map(|row| cell(row, "remote_pid")).collect();
    assert_eq!(pids, BTreeSet::from([pid_one.clone(), pid_two]));
    let sql =
        format!("SELECT pid FROM pg_stat_activity WHERE datname = '{}' AND state = 'idle in transaction'", tenant.name);
    let busy = shared().primary().sql(&sql).unwrap();
    assert_eq!(busy.column().into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), pids);
    let clients = show(&mut boss, "SHOW CLIENTS");
    let client = |name: &str| clients.iter().find(|row| cell(row, "application_name") == name).unwrap();
    assert_eq!(["one", "three", "idle"].map(|name| cell(client(name), "state")), ["active", "waiting", "idle"]);
    let linked = servers.iter().find(|row| cell(row, "ptr") == cell(client("one"), "link")).unwrap();
    assert_eq!((cell(linked, "remote_pid"), cell(linked, "link")), (pid_one, cell(client("one"), "ptr")));
    assert!(number(client("three"), "wait") >= 1 && cell(client("idle"), "link").is_empty());
    assert_eq!(
        (cell(client("one"), "addr"), number(client("one"), "local_port")),
        ("127.0.0.1".into(), howdah.port().into())
    );

    // what has come by a socket and not gone on
    let sockets = show(&mut boss, "SHOW SOCKETS");
    let positions = |row: &BTreeMap<String, Option<String>>| {
        ["recv_pos", "pkt_pos", "pkt_remain", "send_pos", "send_remain", "pkt_avail", "send_avail"]
            .map(|at| number(row, at))
    };
    let socket = |name: &str| positions(sockets.iter().find(|row| cell(row, "application_name") == name).unwrap());
    let held = i64::try_from(wire::query("SELECT 3").len()).unwrap();
    assert_eq!((socket("three"), socket("idle")), ([held, 0, 0, 0, 0, held, 0], [0; 7]));
    assert!(sockets.iter().filter(|row| cell(row, "state") == "sv_active").all(|row| positions(row) == [0; 7]));

    let database = of(&mut boss, "SHOW DATABASES", "name", &tenant.name);
    assert_eq!((number(&database, "current_connections"), number(&database, "current_client_connections")), (2, 4));
    assert_eq!((number(&database, "pool_size"), number(&database, "paused")), (2, 0));
    assert_eq!(cell(&database, "port"), shared().primary().port().to_string());
    let lists = show(&mut boss, "SHOW LISTS");
    let list = |name: &str| number(lists.iter().find(|row| cell(row, "list") == name).unwrap(), "items");
    assert_eq!((list("used_clients"), list("used_servers"), list("login_clients")), (5, 2, 0));

    one.query("COMMIT");
    two.query("COMMIT");
    assert_eq!(wire::first_column(&three.read_until_ready()), ["3"]);
    eventually("everything rests", SOON, || {
        let line = pool(&mut boss);
        (number(&line, "sv_idle"), number(&line, "sv_active"), number(&line, "cl_waiting")) == (2, 0, 0)
    });
    drop(idle);
    eventually("who has gone is not shown", SOON, || number(&pool(&mut boss), "cl_active") == 3);
    one.query("SET application_name = 'renamed'");
    two.query("BEGIN"); // so that there is one server for the next two
    one.send(&[wire::parse("named", "SELECT 1", &[]), wire::sync()].concat());
    one.read_until_ready();
    eventually("its new name is shown, and what it has prepared", SOON, || {
        let clients = show(&mut boss, "SHOW CLIENTS");
        let renamed = clients.iter().find(|row| cell(row, "application_name") == "renamed");
        renamed.is_some_and(|row| number(row, "prepared_statements") == 1)
    });
    one.query("BEGIN");
    assert_eq!(boss.query_short(&format!("RECONNECT {}", tenant.name)), ["C:RECONNECT", "Z:I"]);
    let servers = show(&mut boss, "SHOW SERVERS");
    let active: Vec<_> = servers.iter().filter(|row| cell(row, "state") == "active").collect();
    assert_eq!(active.iter().map(|row| number(row, "close_needed")).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(active.iter().map(|row| number(row, "prepared_statements")).sum::<i64>(), 1);
    one.query("COMMIT");
    two.query("COMMIT");
    assert_eq!(boss.query_short("WAIT_CLOSE"), ["C:WAIT_CLOSE", "Z:I"]);
}

/// What prometheus-community/pgbouncer_exporter asks, and the columns it reads.
const EXPORTER: &[(&str, &[&str])] = &[
    (
        "SHOW DATABASES",
        &[
            "name",
            "host",
            "port",
            "database",
            "force_user",
            "pool_mode",
            "pool_size",
            "reserve_pool_size",
            "max_connections",
            "current_connections",
            "paused",
            "disabled",
        ],
    ),
    (
        "SHOW STATS_TOTALS",
        &[
            "database",
            "query_count",
            "query_time",
            "bytes_received",
            "bytes_sent",
            "wait_time",
            "xact_count",
            "xact_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
            "server_assignment_count",
        ],
    ),
    (
        "SHOW POOLS",
        &[
            "database",
            "user",
            "cl_active",
            "cl_waiting",
            "cl_active_cancel_req",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
        ],
    ),
    ("SHOW CLIENTS", &["database", "user", "application_name", "state"]),
];

/// What its SHOW LISTS must have.
const LISTS: [&str; 11] = [
    "databases",
    "users",
    "pools",
    "free_clients",
    "used_clients",
    "login_clients",
    "free_servers",
    "used_servers",
    "dns_names",
    "dns_zones",
    "dns_queries",
];

#[test]
fn the_exporter_and_datadogs_check_read_it_without_a_warning() {
    let (tenant, howdah) = (Tenant::shared(), Howdah::shared(ADMIN));
    let mut client = howdah.login(&tenant);
    client.value("SELECT 1");
    let mut watcher = console(&howdah, "watcher", "pgbouncer");
    // labels are text, everything else must be a number
    let labels = ["name", "host", "database", "force_user", "pool_mode", "user", "application_name", "state"];
    for (sql, columns) in EXPORTER {
        let rows = show(&mut watcher, sql);
        assert!(rows.len() > 1, "{sql}: {rows:?}");
        for row in &rows {
            for column in *columns {
                let cell = cell(row, column);
                assert!(labels.contains(column) || cell.parse::<f64>().is_ok(), "{sql}: {column} is {cell:?}");
            }
        }
    }
    let lists: BTreeSet<_> = show(&mut watcher, "SHOW LISTS").iter().map(|row| cell(row, "list")).collect();
    assert!(LISTS.iter().all(|list| lists.contains(*list)), "{lists:?}");
    let config = show(&mut watcher, "SHOW CONFIG");
    assert_eq!(config[0].len(), 4);
    let value = |key: &str| cell(config.iter().find(|row| cell(row, "key") == key).unwrap(), "value");
    assert_eq!((value("max_client_conn").as_str(), value("max_user_connections").as_str()), ("10000", "0"));
    assert_eq!((value("default_pool_size").as_str(), value("pool_mode").as_str()), ("20", "transaction"));

    // Datadog: the first d.d.d of the first cell; rows by name; times cut behind the second blank
    let version = watcher.value("SHOW VERSION");
    let digits = version.split(|c: char| !(c.is_ascii_digit() || c == '.')).find(|part| part.split('.').count() == 3);
    assert_eq!(digits, Some("1.25.2"), "{version}");
    assert!(version.starts_with("PgBouncer ") && version.contains("howdah"), "{version}");
    let stats = show(&mut watcher, "SHOW STATS");
    let skipped = stats.iter().filter(|row| cell(row, "database") == "pgbouncer").count();
    assert_eq!(skipped, 1);
    for row in &stats {
        for column in
            ["total_xact_count", "total_query_time", "total_received", "avg_recv", "avg_sent", "avg_wait_time"]
        {
            number(row, column);
        }
    }
    for row in show(&mut watcher, "SHOW CLIENTS").iter().chain(&show(&mut watcher, "SHOW SERVERS")) {
        for column in ["connect_time", "request_time"] {
            let at = cell(row, column);
            let parts: Vec<_> = at.split(' ').collect();
            assert!(parts.len() == 3 && parts[0].len() == 10 && parts[1].len() == 8, "{at}");
        }
    }
}

#[test]
fn a_console_that_does_not_read_its_answers_costs_little_and_can_be_disconnected() {
    let howdah = Howdah::shared(ADMIN);
    let (mut boss, mut deaf) = (console(&howdah, "boss", "pgbouncer"), console(&howdah, "watcher", "howdah"));
    show(&mut boss, "SHOW CONFIG");
    let before = rss_bytes(howdah.pid());
    // as many as it takes in at once: some 40 MB of answers
    deaf.send(&wire::query("SHOW CONFIG").repeat(3_000));
    thread::sleep(Duration::from_millis(500));
    show(&mut boss, "SHOW CLIENTS");
    let grown = rss_bytes(howdah.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
    let watcher = |boss: &mut Client| {
        let mut clients = show(boss, "SHOW CLIENTS");
        clients.retain(|row| cell(row, "database") == "howdah");
        clients.first().map(|row| cell(row, "id"))
    };
    let id = watcher(&mut boss).unwrap();
    assert_eq!(boss.query_short(&format!("KILL_CLIENT {id}")), ["C:KILL_CLIENT", "Z:I"]);
    eventually("it is gone", SOON, || watcher(&mut boss).is_none());

    // what portals keep is bounded too, and so are texts
    let mut many = Vec::new();
    for portal in 0..1_001 {
        many.extend(wire::parse("", "SHOW STATE", &[]));
        many.extend(wire::bind(&format!("p{portal}"), "", &[]));
        many.extend(wire::execute(&format!("p{portal}"), 1));
    }
    many.extend(wire::sync());
    let mut keeps = console(&howdah, "watcher", "howdah");
    thread::scope(|scope| {
        let mut reader = scope.spawn(|| {
            keeps.send(&many);
            wire::short(&keeps.read_until_ready())
        });
        let _ = &mut reader;
        let said = reader.join().unwrap();
        assert_eq!(said.last_chunk::<2>().unwrap(), &["E:54000".to_owned(), "Z:I".to_owned()]);
        assert_eq!(said.iter().filter(|short| *short == "s").count(), 1_000);
    });
    for (bytes, code) in [
        (wire::tagged(b'Q', b"DISABLE \"\xff\"\0"), "22021"),
        ([wire::tagged(b'P', b"s\0SHOW \xfe\0\0\0"), wire::execute("", 0), wire::sync()].concat(), "22021"),
        (wire::query(&format!("SHOW \"{}\"", "x".repeat(60_000))), "54000"),
        (wire::query(&"x".repeat(60_000)), "54000"),
    ] {
        boss.send(&bytes);
        assert_eq!(wire::short(&boss.read_until_ready()), [format!("E:{code}"), "Z:I".to_owned()]);
    }
    boss.send(&wire::query("SHOW STATE").repeat(2_000));
    (0..2_000).for_each(|_| assert_eq!(boss.read_until_ready().len(), 6));
}

#[test]
fn names_of_nodes_are_shown_with_their_addresses() {
    let (port, http) = (demo_port(), demo_port());
    let node = shared().primary();
    let toml = crate::support::config(shared().nodes(), port, http, ADMIN);
    let toml = toml.replace(&format!("host = \"{}\"", node.host()), "host = \"localhost\"");
    let howdah = Howdah::start(&toml, port, http);
    let mut boss = console(&howdah, "boss", "pgbouncer");
    let known = of(&mut boss, "SHOW DNS_HOSTS", "hostname", "localhost");
    assert!(cell(&known, "addrs").split(',').any(|address| address == "127.0.0.1:0"), "{known:?}");
    assert!((0..=15).contains(&number(&known, "ttl")), "{known:?}");
    assert_eq!(cell(&of(&mut boss, "SHOW LISTS", "list", "dns_names"), "items"), "1");
}

#[test]
fn psql_its_completion_and_drivers_probe_the_console_and_stay_connected() {
    let howdah = Howdah::shared(ADMIN);
    for database in ["pgbouncer", "howdah"] {
        let url = format!("postgres://boss:of-boss@127.0.0.1:{}/{database}", howdah.port());
        let psql = |commands: &[&str]| {
            let mut psql = shared().primary().command("psql");
            psql.args(["-X", "-A", "-t", "-d", &url]);
            commands.iter().for_each(|command| {
                psql.args(["-c", command]);
            });
            let output = psql.output().unwrap();
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
        };
        // what describes PostgreSQL's catalogue is refused, and the next command works
        let (out, error) = psql(&["\\l", "\\d", "\\dt", "\\du", "SHOW VERSION"]);
        assert_eq!(out, "PgBouncer 1.25.2 (howdah 0.1.0)\n", "{error}");
        assert!(error.contains("invalid command"), "{error}");
        let mut typed = shared().primary().command("psql");
        typed.args(["-X", "-A", "-t", "-d", &url]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut typed = typed.spawn().unwrap();
        let text = "SHOW STATE \\gdesc\nSHOW VERSION \\gset\n\\echo :version\nSHOW STATE \\crosstabview\nSELECT 1;\nSHOW timezone;\n";
        typed.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let typed = typed.wait_with_output().unwrap();
        let out = String::from_utf8_lossy(&typed.stdout).into_owned();
        assert!(out.contains("PgBouncer 1.25.2 (howdah 0.1.0)\n") && out.ends_with("GMT\n"), "{typed:?}");
        let (out, _) = psql(&["SHOW client_encoding", "SHOW timezone", "SET client_encoding TO 'UTF8'"]);
        assert_eq!(out, "UTF-8\nGMT\nSET\n");
        for (package, script) in [("psycopg", "console_psycopg.py"), ("asyncpg", "console_asyncpg.py")] {
            let output = drivers::python(script, package).env("URL", &url).output().unwrap();
            assert!(output.status.success(), "{package}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn the_database_howdah_has_views_of_its_own_and_filters_all_of_them() {
    let (tenant, howdah) = (Tenant::shared(), Howdah::shared(ADMIN));
    howdah.login(&tenant).value("SELECT 1");
    let mut boss = console(&howdah, "boss", "howdah");
    let node = of(&mut boss, "SHOW NODES", "node", shared().primary().name());
    assert_eq!((cell(&node, "role").as_str(), cell(&node, "healthy").as_str()), ("primary", "yes"));
    assert_eq!(cell(&of(&mut boss, "SHOW CLUSTER", "cluster", "main"), "mode"), "observe");
    for view in [
        "NODE_POOLS",
        "ROUTING",
        "STATEMENTS",
        "PINS",
        "FAILOVERS",
        "OPERATIONS",
        "EVENTS",
        "JOBS",
        "EPOCH",
        "ERRORS",
        "HISTOGRAMS",
        "MEM",
    ] {
        show(&mut boss, &format!("SHOW {view}"));
    }
    assert_eq!(show(&mut boss, &format!("SHOW POOLS LIKE '{}'", tenant.name)).len(), 1);
    assert_eq!(show(&mut boss, "SHOW NODES LIKE 'nothing like it'").len(), 0);
    assert_eq!(show(&mut boss, "SHOW LISTS LIKE 'used\\_%'").len(), 2);
}

#[test]
fn the_console_opens_while_no_primary_is_there_and_while_no_client_more_may_come() {
    let dead = demo_port();
    let toml = |port: u16, http: u16| {
        format!(
            "[[listeners]]\naddress = \"127.0.0.1:{port}\"\n\n[http]\naddress = \"127.0.0.1:{http}\"\n\n\
             [limits]\nmax_client_connections = 1\n\n[databases.\"*\"]\ncluster = \"main\"\n\n\
             [clusters.main.monitor]\nuser = \"m\"\npassword = \"m\"\n\n\
             [[clusters.main.nodes]]\nname = \"a\"\nhost = \"127.0.0.1\"\nport = {dead}\n\n{ADMIN}"
        )
    };
    let (port, http) = (demo_port(), demo_port());
    let howdah = Howdah::start_unready(&toml(port, http), port, http);
    eventually("it listens", SOON, || Client::connect(("127.0.0.1", port)).is_ok());
    let mut first = console(&howdah, "boss", "howdah");
    let mut second = console(&howdah, "watcher", "pgbouncer");
    assert_eq!(cell(&of(&mut first, "SHOW NODES", "node", "a"), "healthy"), "no");
    assert_eq!(cell(&of(&mut second, "SHOW LISTS", "list", "used_clients"), "items"), "2");
    assert!(
        howdah
            .wire()
            .try_login(&[("user", "boss"), ("database", "app")], "of-boss")
            .is_ok_and(|messages| { wire::error(&messages).code == "53300" })
    );
}

fn demo_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_process_of_the_daemons_own_user_needs_no_password_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let (port, http) = (demo_port(), demo_port());
    let toml = crate::support::config(shared().nodes(), port, http, ADMIN);
    let unix = format!("[[listeners]]\naddress = \"unix:{}\"\n\n", directory.path().display());
    let howdah = Howdah::start(&(unix + &toml), port, http);
    let path = Path::new(directory.path()).join(".s.PGSQL.6432");
    for user in ["pgbouncer", "howdah"] {
        let mut own = Client::connect_unix(&path).unwrap();
        own.login(user, "", "pgbouncer");
        let clients = show(&mut own, "SHOW CLIENTS");
        assert_eq!((cell(&clients[0], "addr"), number(&clients[0], "port")), ("unix".to_owned(), 6432));
        let mut other = howdah.wire();
        let refused = other.try_login(&[("user", user), ("database", "pgbouncer")], "").unwrap();
        assert_eq!(wire::error(&refused).code, "28P01");
    }
}

#[test]
fn a_database_that_is_really_called_so_wins() {
    let tenant = Tenant::shared();
    let howdah =
        Howdah::shared(&format!("{ADMIN}[databases.howdah]\ncluster = \"main\"\ndbname = \"{}\"\n", tenant.name));
    let mut client = howdah.wire();
    client.login(&tenant.name, &tenant.password, "howdah");
    assert_eq!(client.value("SELECT current_database()"), tenant.name);
    let mut boss = console(&howdah, "boss", "pgbouncer");
    assert_eq!(boss.query_short("SHOW STATE").last().unwrap(), "Z:I");
    boss.read_timeout(Duration::from_secs(5));
}
