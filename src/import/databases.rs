//! The sections `[databases]` and `[users]`: which clusters there are, who watches them, and what differs for a database or a user.
//!
//! Databases at the same hosts and port are of one cluster, unless another user asks there for passwords.

use std::collections::BTreeMap;

use super::Surroundings;
use super::connstr;
use super::daemon::{lifetime, size_of};
use super::document::{Document, Kind, bare, quoted};
use super::ini::{Entry, Place};
use super::keys::{self, Fate, Key};
use super::values::{Settings, duration, leading_number, list};

/// The name that stands for all others, here and there.
const ANY: &str = "*";

/// A line of `[databases]`.
struct Database<'e> {
    name: &'e str,
    place: &'e Place,
    pairs: Pairs,
}

/// What stands behind a name.
struct Pairs(BTreeMap<String, String>);

impl Pairs {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.text(key).map(leading_number).filter(|value| *value >= 0)
    }

    fn micros(&self, key: &str) -> Option<u64> {
        self.number(key)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(|seconds| seconds.saturating_mul(1_000_000))
    }
}

/// Where a cluster is, and who asks it for passwords.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    hosts: Vec<String>,
    port: i64,
    auth_user: Option<String>,
}

/// Reads what stands behind a name; what PgBouncer would not start with is noted.
fn pairs(entry: &Entry, section: &str, table: &'static [Key], document: &mut Document) -> Option<Pairs> {
    let read = match connstr::parse(&entry.value) {
        Ok(read) => read,
        Err(error) => {
            document.note(Kind::Todo, Some(&entry.place), &format!("[{section}] {}", entry.key), &error.to_string());
            return None;
        }
    };
    for (key, _) in &read {
        let named = format!("[{section}] {} {key}", entry.key);
        match keys::find(table, key).map(|key| key.fate) {
            Some(Fate::To(_)) => {}
            Some(Fate::Nowhere(why)) => document.note(Kind::NoCounterpart, Some(&entry.place), &named, why),
            None => {
                let why = "PgBouncer has no such key, as far as howdah knows";
                document.note(Kind::NoCounterpart, Some(&entry.place), &named, why);
            }
        }
    }
    Some(Pairs(read.into_iter().collect()))
}

pub(super) fn write(
    settings: &Settings,
    databases: &[Entry],
    users: &[Entry],
    surroundings: Surroundings<'_>,
    document: &mut Document,
) {
    let mut known: Vec<Database<'_>> = Vec::new();
    for entry in databases {
        let Some(pairs) = pairs(entry, "databases", keys::DATABASE, document) else { continue };
        if entry.key == "pgbouncer" {
            document.note(
                Kind::Todo,
                Some(&entry.place),
                "[databases] pgbouncer",
                "the name is the console's: left out",
            );
        } else {
            known.push(Database { name: &entry.key, place: &entry.place, pairs });
        }
    }
    let databases = known;
    if databases.is_empty() {
        document.note(Kind::Todo, None, "[databases]", "there is none: clients can reach nothing");
    }
    auth_query(settings, &databases, document);
    let mut seats: Vec<(Seat, String)> = Vec::new();
    for database in &databases {
        let seat = seat(settings, database, document);
        if !seats.iter().any(|(known, _)| *known == seat) {
            let name = cluster_name(&seat, &seats);
            seats.push((seat, name));
        }
    }
    if let [(_, only)] = seats.as_mut_slice() {
        "main".clone_into(only);
    }
    for (seat, name) in &seats {
        let there: Vec<&Database<'_>> =
            databases.iter().filter(|database| self::seat(settings, database, document) == *seat).collect();
        cluster(settings, seat, name, &there, surroundings, document);
    }
    for written in &databases {
        let seat = seat(settings, written, document);
        let name = seats.iter().find(|(known, _)| *known == seat).map_or("main", |(_, name)| name);
        database(written, name, document);
    }
    write_users(users, document);
}

fn seat(settings: &Settings, database: &Database<'_>, document: &mut Document) -> Seat {
    let mut hosts = list(database.pairs.text("host").unwrap_or_else(|| settings.text("unix_socket_dir")));
    hosts.dedup();
    if hosts.is_empty() || hosts.iter().any(|host| host.starts_with('@')) {
        let text = "its host is no host name, address or directory: write one";
        document.note(Kind::Todo, Some(database.place), &format!("[databases] {}", database.name), text);
    }
    let auth_user = database.pairs.text("auth_user").or_else(|| settings.some("auth_user"));
    Seat { hosts, port: database.pairs.number("port").unwrap_or(5432), auth_user: auth_user.map(str::to_owned) }
}

/// A name from the first host, which no other cluster has.
fn cluster_name(seat: &Seat, others: &[(Seat, String)]) -> String {
    let host = seat.hosts.first().map_or("local", String::as_str);
    let is_ip = host.parse::<std::net::IpAddr>().is_ok();
    let short = match host {
        directory if directory.starts_with('/') => "local",
        ip if is_ip => ip,
        name => name.split('.').next().unwrap_or(name),
    };
    let plain: String = short.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let taken = |name: &str| others.iter().any(|(_, other)| other == name);
    let candidates = [plain.clone(), format!("{plain}-{}", seat.port)];
    let free = candidates.into_iter().find(|name| !taken(name));
    free.or_else(|| (2..).map(|i| format!("{plain}-{}-{i}", seat.port)).find(|name| !taken(name))).unwrap_or(plain)
}

/// One question for all logins: howdah asks every cluster the same.
fn auth_query(settings: &Settings, databases: &[Database<'_>], document: &mut Document) {
    let asks =
        |database: &Database<'_>| database.pairs.text("auth_user").is_some() || settings.some("auth_user").is_some();
    let asked = databases.iter().any(asks);
    for (key, name) in [("auth_query", "query"), ("auth_dbname", "dbname")] {
        let mut values: Vec<&str> =
            databases.iter().filter(|database| asks(database)).filter_map(|d| d.pairs.text(key)).collect();
        values.extend(settings.some(key));
        values.dedup();
        match values.as_slice() {
            [] => {}
            _ if !asked => {
                let text = "nobody asks it without an auth_user: left out";
                document.note(Kind::Differs, settings.place(key), key, text);
            }
            [value, more @ ..] => {
                if name == "query"
                    || settings.some("auth_query").is_some()
                    || databases.iter().any(|d| d.pairs.text("auth_query").is_some())
                {
                    document.append("[auth]", name, &quoted(value), key);
                }
                if more.iter().any(|other| other != value) {
                    let text = "howdah asks all clusters the same question in a database of the same name: the first one is written";
                    document.note(Kind::Todo, settings.place(key), key, text);
                }
            }
        }
    }
}

fn cluster(
    settings: &Settings,
    seat: &Seat,
    name: &str,
    there: &[&Database<'_>],
    surroundings: Surroundings<'_>,
    document: &mut Document,
) {
    let table = format!("clusters.{}", bare(name));
    match &seat.auth_user {
        Some(user) => {
            document.table(&format!("[{table}.monitor]"));
            document.key("user", &quoted(user), "auth_user");
            document.comment("Its password is the one in [users] or in auth.users_file.");
            let first = there.iter().find(|database| database.name != ANY);
            let dbname = there
                .iter()
                .find_map(|database| database.pairs.text("auth_dbname"))
                .or_else(|| settings.some("auth_dbname"))
                .or_else(|| first.map(|database| database.pairs.text("dbname").unwrap_or(database.name)));
            if let Some(dbname) = dbname {
                document.key("dbname", &quoted(dbname), "where PgBouncer asks for passwords");
            }
            let text = format!(
                "auth_user \"{user}\" also watches the nodes of cluster \"{name}\"; a user of its own is better: CREATE ROLE \
                 howdah LOGIN PASSWORD '…' IN ROLE pg_monitor"
            );
            document.note(Kind::Differs, None, "auth_user", &text);
        }
        None if seat.hosts.len() > 1 => {
            let text = format!(
                "cluster \"{name}\" has several nodes: howdah must log in to see which is the primary. CREATE ROLE howdah LOGIN \
                 PASSWORD '…' IN ROLE pg_monitor, and write [{table}.monitor] with user and password_file"
            );
            document.note(Kind::Todo, there.first().map(|database| database.place), "host", &text);
        }
        None => {
            let text = format!(
                "nobody watches cluster \"{name}\", as PgBouncer does not either: its node is taken for the primary. With a role \
                 in pg_monitor and [{table}.monitor] howdah looks after it, and knows what functions do to sessions"
            );
            document.note(Kind::Differs, None, "monitor", &text);
        }
    }
    if seat.hosts.len() > 1 {
        let text = "PgBouncer spreads server connections over the hosts; howdah takes them for a primary and its standbys: writes \
                    go to the primary, reads to the standbys, in session mode all to the primary";
        document.note(Kind::Differs, there.first().map(|database| database.place), "host", text);
    }
    let mode = settings.text("server_tls_sslmode").to_ascii_lowercase();
    for (i, host) in seat.hosts.iter().enumerate() {
        document.table(&format!("[[{table}.nodes]]"));
        document.key("name", &quoted(&node_name(i)), "");
        document.key("host", &quoted(host), "host");
        document.key("port", &seat.port.to_string(), "port");
        if !host.starts_with('/') {
            tls(settings, &mode, surroundings, document);
        }
    }
}

/// a, b, … z, node27, …
fn node_name(i: usize) -> String {
    let letter = u8::try_from(i).ok().filter(|i| *i < 26).map(|i| char::from(b'a' + i));
    letter.map_or_else(|| format!("node{}", i + 1), String::from)
}

fn tls(settings: &Settings, mode: &str, surroundings: Surroundings<'_>, document: &mut Document) {
    let mut parts = vec![format!("mode = {}", quoted(mode))];
    for (key, name) in [("server_tls_ca_file", "ca"), ("server_tls_cert_file", "cert"), ("server_tls_key_file", "key")]
    {
        let Some(path) = settings.some(key) else { continue };
        if name == "ca" && !mode.starts_with("verify") {
            let text = format!("PgBouncer checks no server's certificate with server_tls_sslmode = {mode}: left out");
            document.note(Kind::Differs, settings.place(key), key, &text);
            continue;
        }
        parts.push(format!("{name} = {}", quoted(&super::file(path, surroundings))));
    }
    let from = if settings.entry("server_tls_sslmode").is_some() {
        "server_tls_*"
    } else {
        "PgBouncer's default for server_tls_sslmode"
    };
    document.key("tls", &format!("{{ {} }}", parts.join(", ")), from);
}

fn database(database: &Database<'_>, cluster: &str, document: &mut Document) {
    let (pairs, table) = (&database.pairs, format!("databases.{}", bare(database.name)));
    document.table(&format!("[{table}]"));
    document.key("cluster", &quoted(cluster), "");
    if let Some(dbname) = pairs.text("dbname").filter(|dbname| *dbname != database.name) {
        document.key("dbname", &quoted(dbname), "dbname");
    }
    if let Some(user) = pairs.text("user") {
        document.key("user", &quoted(user), "user");
        if let Some(password) = pairs.text("password") {
            document.key("password", &quoted(password), "password");
            document.secret();
        }
    }
    let mut pool = common(pairs);
    pool.extend(pairs.number("min_pool_size").map(|size| ("min_size", size.to_string(), "min_pool_size")));
    pool.extend(pairs.number("reserve_pool").map(|size| ("reserve_size", size.to_string(), "reserve_pool")));
    pool.extend(limit(pairs, "max_db_connections", "max_server_connections"));
    pool.extend(limit(pairs, "max_db_client_connections", "max_client_connections"));
    subtable(&table, "pool", pool, document);
    let mut timeouts = Vec::new();
    timeouts.extend(wait(pairs, "query_wait_timeout", "query_wait"));
    timeouts
        .extend(pairs.micros("server_lifetime").map(|micros| ("server_lifetime", lifetime(micros), "server_lifetime")));
    subtable(&table, "timeouts", timeouts, document);
}

/// A key, its value, and what it is from.
type Line = (&'static str, String, &'static str);

/// What a database and a user have in common.
fn common(pairs: &Pairs) -> Vec<Line> {
    let mut lines = Vec::new();
    lines.extend(pairs.text("pool_mode").map(|mode| ("mode", quoted(&mode.to_ascii_lowercase()), "pool_mode")));
    lines.extend(pairs.number("pool_size").map(|size| ("size", size_of(size), "pool_size")));
    if !pairs.0.contains_key("reserve_pool") {
        lines.extend(
            pairs.number("reserve_pool_size").map(|size| ("reserve_size", size.to_string(), "reserve_pool_size")),
        );
    }
    lines
}

fn limit(pairs: &Pairs, key: &'static str, name: &'static str) -> Option<Line> {
    pairs.number(key).map(|limit| (name, limit.to_string(), key))
}

fn wait(pairs: &Pairs, key: &'static str, name: &'static str) -> Option<Line> {
    pairs.micros(key).map(|micros| (name, quoted(&duration(micros)), key))
}

fn subtable(table: &str, name: &str, lines: Vec<Line>, document: &mut Document) {
    if lines.is_empty() {
        return;
    }
    document.table(&format!("[{table}.{name}]"));
    for (key, value, from) in lines {
        document.key(key, &value, from);
    }
}

fn write_users(users: &[Entry], document: &mut Document) {
    for entry in users {
        let Some(pairs) = pairs(entry, "users", keys::USER, document) else { continue };
        let table = format!("users.{}", bare(&entry.key));
        let mut pool = common(&pairs);
        for (key, name) in [
            ("max_user_connections", "max_server_connections"),
            ("max_user_client_connections", "max_client_connections"),
        ] {
            pool.extend(pairs.number(key).map(|limit| (name, limit.to_string(), key)));
        }
        let mut timeouts = Vec::new();
        for (key, name) in [
            ("query_timeout", "query"),
            ("query_wait_timeout", "query_wait"),
            ("idle_transaction_timeout", "idle_in_transaction"),
            ("transaction_timeout", "transaction"),
            ("client_idle_timeout", "client_idle"),
        ] {
            timeouts.extend(wait(&pairs, key, name));
        }
        if pool.is_empty() && timeouts.is_empty() {
            document.table(&format!("[{table}]"));
        }
        subtable(&table, "pool", pool, document);
        subtable(&table, "timeouts", timeouts, document);
    }
}

/// The section `[peers]`.
pub(super) fn peers(peers: &[Entry], document: &mut Document) {
    for entry in peers {
        document.note(Kind::NoCounterpart, Some(&entry.place), &format!("[peers] {}", entry.key), keys::NO_PEERS);
    }
}
