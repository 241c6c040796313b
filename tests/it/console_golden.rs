//! The database `pgbouncer` beside a real PgBouncer with an equivalent configuration: the heads of results, their types, sizes
//! and formats, the tags and the refusals are the same.
//!
//! Debian's is 1.18. What later releases have added (up to those whose console this is) stands in [`LATER`], by the release's
//! own documentation; without those columns the rest must be the same in the same order.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::console::{ADMIN, console};
use crate::support::wire::{self, Client, Message};
use crate::support::{Howdah, SOON, eventually, shared};

/// Columns that 1.18 does not have, by SHOW.
const LATER: &[(&str, &[&str])] = &[
    (
        "DATABASES",
        &[
            "reserve_pool_size",
            "server_lifetime",
            "load_balance_hosts",
            "max_client_connections",
            "current_client_connections",
        ],
    ),
    ("POOLS", &["load_balance_hosts"]),
    (
        "USERS",
        &[
            "pool_size",
            "reserve_pool_size",
            "max_user_connections",
            "current_connections",
            "max_user_client_connections",
            "current_client_connections",
        ],
    ),
    ("CLIENTS", &["replication", "prepared_statements", "id"]),
    ("SERVERS", &["replication", "prepared_statements", "id"]),
    ("SOCKETS", &["replication", "prepared_statements", "id"]),
    ("ACTIVE_SOCKETS", &["replication", "prepared_statements", "id"]),
    (
        "STATS",
        &[
            "total_server_assignment_count",
            "total_client_parse_count",
            "total_server_parse_count",
            "total_bind_count",
            "total_client_login_count",
            "avg_server_assignment_count",
            "avg_client_parse_count",
            "avg_server_parse_count",
            "avg_bind_count",
            "avg_client_login_count",
        ],
    ),
    (
        "STATS_TOTALS",
        &["server_assignment_count", "client_parse_count", "server_parse_count", "bind_count", "client_login_count"],
    ),
    (
        "STATS_AVERAGES",
        &[
            "server_assignment_count",
            "avg_client_parse_count",
            "avg_server_parse_count",
            "avg_bind_count",
            "avg_client_login_count",
        ],
    ),
];

/// Columns of 1.18 that later releases have renamed or dropped.
const EARLIER: &[(&str, &[&str])] = &[("DATABASES", &["reserve_pool"])];

/// What both have. `PGBOUNCER=/path` compares with another one.
const SHOWS: &[&str] = &[
    "VERSION",
    "CONFIG",
    "DATABASES",
    "POOLS",
    "USERS",
    "CLIENTS",
    "SERVERS",
    "SOCKETS",
    "ACTIVE_SOCKETS",
    "LISTS",
    "MEM",
    "DNS_HOSTS",
    "DNS_ZONES",
    "FDS",
    "STATS",
    "STATS_TOTALS",
    "STATS_AVERAGES",
    "TOTALS",
    "client_encoding",
    "default_transaction_isolation",
    "standard_conforming_strings",
    "datestyle",
    "timezone",
];

struct PgBouncer {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> PathBuf {
    let named = std::env::var_os("PGBOUNCER").map(PathBuf::from);
    let found = named.into_iter().chain(["/usr/sbin/pgbouncer".into(), "/usr/bin/pgbouncer".into()]);
    found.into_iter().find(|path: &PathBuf| path.exists()).expect("PgBouncer: run scripts/need pgbouncer, or make test")
}

fn pgbouncer() -> PgBouncer {
    let directory = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let node = shared().primary();
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={0}\n* = host=127.0.0.1 port={0}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         auth_type = any\nadmin_users = boss\nstats_users = watcher\nunix_socket_dir =\npool_mode = transaction\n",
        node.port()
    );
    let path = directory.path().join("pgbouncer.ini");
    fs::write(&path, ini).unwrap();
    let mut command = Command::new(binary());
    command.arg(&path).stderr(Stdio::null()).stdout(Stdio::null());
    if rustix::process::geteuid().is_root() {
        // it refuses to run as root; nobody must read its file
        use std::os::unix::fs::{PermissionsExt, chown};
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(&path, Some(65_534), Some(65_534)).unwrap();
        command.uid(65_534).gid(65_534);
    }
    let process = command.spawn().unwrap();
    let bouncer = PgBouncer { process, port, _directory: directory };
    eventually("PgBouncer listens", SOON, || Client::connect(("127.0.0.1", port)).is_ok());
    bouncer
}

/// Name, type, length, modifier and format of each column.
fn columns(messages: &[Message]) -> Vec<(String, [i32; 4])> {
    let Some(head) = messages.iter().find(|m| m.tag == b'T') else { return Vec::new() };
    let (mut rest, mut columns) = (&head.body[2..], Vec::new());
    while let Some(end) = rest.iter().position(|b| *b == 0) {
        let name = String::from_utf8_lossy(&rest[..end]).into_owned();
        let fixed = &rest[end + 1..end + 19];
        let short = |at: usize| i32::from(i16::from_be_bytes([fixed[at], fixed[at + 1]]));
        let long = |at: usize| i32::from_be_bytes(fixed[at..at + 4].try_into().unwrap());
        assert_eq!((long(0), short(4)), (0, 0), "of no table");
        columns.push((name, [long(6), short(10), long(12), short(16)]));
        rest = &rest[end + 19..];
    }
    columns
}

fn list(of: &[(&'static str, &'static [&'static str])], show: &str) -> &'static [&'static str] {
    of.iter().find(|(name, _)| *name == show).map_or(&[], |(_, columns)| *columns)
}

#[test]
fn every_show_has_the_columns_types_and_tag_of_a_real_pgbouncer() {
    let (bouncer, howdah) = (pgbouncer(), Howdah::shared(ADMIN));
    let mut theirs = Client::connect(("127.0.0.1", bouncer.port)).unwrap();
    theirs.login("boss", "", "pgbouncer");
    let mut ours = console(&howdah, "boss", "pgbouncer");
    for show in SHOWS {
        let sql = format!("SHOW {show}");
        let (theirs, ours) = (theirs.query(&sql), ours.query(&sql));
        let (mut expected, mut found) = (columns(&theirs), columns(&ours));
        assert!(!expected.is_empty() && !found.is_empty(), "{show}: {theirs:?} {ours:?}");
        expected.retain(|(name, _)| !list(EARLIER, show).contains(&name.as_str()));
        let later = list(LATER, show);
        found.retain(|(name, _)| !later.contains(&name.as_str()) || expected.iter().any(|(old, _)| old == name));
        assert_eq!(found, expected, "{show}");
        let tags = |messages: &[Message]| messages.iter().rev().take(2).map(Message::short).collect::<Vec<_>>();
        assert_eq!(tags(&ours), tags(&theirs), "{show}");
    }
    for name in
        ["server_encoding", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "is_superuser"]
    {
        assert_eq!(ours.parameter(name), theirs.parameter(name), "{name}");
    }
}

#[test]
fn what_a_real_pgbouncer_refuses_is_refused_in_the_same_words() {
    let (bouncer, howdah) = (pgbouncer(), Howdah::shared(ADMIN));
    let mut theirs = Client::connect(("127.0.0.1", bouncer.port)).unwrap();
    theirs.login("boss", "", "pgbouncer");
    let mut ours = console(&howdah, "boss", "pgbouncer");
    let same = [
        "SHOW foo",
        "foo",
        "SELECT 1",
        "SELECT VERSION",
        "select pools;",
        "SET datestyle TO 'ISO'",
        "SET timezone = 'x'",
        "BEGIN",
        "PAUSE a b",
        "RESUME",
        "DISABLE",
        "DISABLE pgbouncer",
        "KILL pgbouncer",
        "PAUSE pgbouncer",
        "RECONNECT pgbouncer",
        "WAIT_CLOSE pgbouncer",
        "RESUME pgbouncer",
        "SET nothing = 'x'",
        "SHUTDOWN now",
        "SUSPEND x",
        "RELOAD x",
        "SHOW",
        "SHOW STATE x",
        "PAUSE",
        "PAUSE",
        "RESUME",
        "RECONNECT",
        "WAIT_CLOSE",
        "RELOAD",
        "DISABLE app",
        "ENABLE app",
        "PAUSE app",
        "PAUSE app",
        "RESUME app",
        "RESUME app",
        "KILL app",
        "RESUME app",
        "SUSPEND",
        "RESUME",
        "SET query_timeout = '5'",
    ];
    // tags, notices and words; codes are better than PgBouncer's
    let words = |messages: &[Message]| -> Vec<String> {
        let word = |message: &Message| match message.tag {
            b'E' | b'N' => message.fields().message,
            b'T' | b'D' => String::new(),
            _ => message.short(),
        };
        messages.iter().map(word).filter(|word| !word.is_empty()).collect()
    };
    for text in same {
        assert_eq!(words(&ours.query(text)), words(&theirs.query(text)), "{text}");
    }
    for (user, command) in [("watcher", "PAUSE"), ("watcher", "RELOAD"), ("watcher", "SHOW FDS")] {
        let mut theirs = Client::connect(("127.0.0.1", bouncer.port)).unwrap();
        theirs.login(user, "", "pgbouncer");
        let mut ours = console(&howdah, user, "pgbouncer");
        let both = [words(&ours.query(command)), words(&theirs.query(command))];
        assert_eq!(both[0], both[1], "{user}: {command}");
        assert_eq!(wire::error(&ours.query(command)).code, "42501");
    }
}
