//! What the section `[pgbouncer]` says of the daemon as a whole: limits, listeners, the pool's defaults, timeouts, the network, logins,
//! the log. Where PgBouncer's default is another than howdah's it is written out, so that what clients see stays as it was.
//!
//! Not here: databases, clusters and users (`databases`).

use super::Surroundings;
use super::document::{Document, Kind, quoted, quoted_list};
use super::values::{Settings, duration, list, number};

/// What stands for "no limit" where howdah wants a number.
pub(super) const UNLIMITED: &str = "1000000";

pub(super) fn write(settings: &Settings, surroundings: Surroundings<'_>, document: &mut Document) {
    limits(settings, document);
    listeners(settings, surroundings, document);
    pool(settings, document);
    timeouts(settings, document);
    network(settings, document);
    auth(settings, surroundings, document);
    log(settings, document);
    stats(settings, document);
    admin(settings, document);
}

/// Where a value is from: the key in the file, or PgBouncer's own default.
fn from(settings: &Settings, key: &str) -> String {
    match settings.entry(key) {
        Some(_) => key.to_owned(),
        None => format!("PgBouncer's default for {key}"),
    }
}

fn limits(settings: &Settings, document: &mut Document) {
    let clients = settings.number("max_client_conn", document).max(1);
    document.table("[limits]");
    document.key("max_client_connections", &clients.to_string(), &from(settings, "max_client_conn"));
    for (key, name) in [
        ("max_user_connections", "max_user_server_connections"),
        ("max_user_client_connections", "max_user_client_connections"),
    ] {
        if settings.entry(key).is_some() {
            let limit = settings.number(key, document);
            document.key(name, &limit.to_string(), key);
        }
    }
}

fn listeners(settings: &Settings, surroundings: Surroundings<'_>, document: &mut Document) {
    let port = settings.number("listen_port", document);
    let mut any = false;
    for address in list(settings.text("listen_addr")) {
        let host = match address.as_str() {
            "*" if surroundings.ipv6 => "[::]".to_owned(),
            "*" => "0.0.0.0".to_owned(),
            ip if ip.contains(':') => format!("[{ip}]"),
            host => host.to_owned(),
        };
        document.table("[[listeners]]");
        document.key("address", &quoted(&format!("{host}:{port}")), "listen_addr, listen_port");
        tls(settings, surroundings, document);
        any = true;
    }
    match settings.text("unix_socket_dir") {
        "" => {}
        directory if directory.starts_with('@') => {
            let text = "there are no sockets in the abstract namespace; clients need a directory";
            document.note(Kind::Todo, settings.place("unix_socket_dir"), "unix_socket_dir", text);
        }
        directory => {
            document.table("[[listeners]]");
            let port = if port == 6432 { String::new() } else { format!(":{port}") };
            document.key("address", &quoted(&format!("unix:{directory}{port}")), &from(settings, "unix_socket_dir"));
            if let Some(entry) = settings.entry("unix_socket_mode") {
                match number(&entry.value).filter(|mode| (0..=0o777).contains(mode)) {
                    Some(mode) => document.key("socket_mode", &quoted(&format!("{mode:04o}")), "unix_socket_mode"),
                    None => document.note(Kind::Todo, Some(&entry.place), "unix_socket_mode", "is no file mode"),
                }
            }
            if let Some(group) = settings.some("unix_socket_group") {
                document.key("socket_group", &quoted(group), "unix_socket_group");
            }
            any = true;
        }
    }
    if !any {
        let text = "neither listen_addr nor unix_socket_dir: PgBouncer listens nowhere, howdah at 127.0.0.1:6432";
        document.note(Kind::Differs, settings.place("unix_socket_dir"), "listen_addr", text);
    }
}

fn tls(settings: &Settings, surroundings: Surroundings<'_>, document: &mut Document) {
    let mode = settings.text("client_tls_sslmode").to_ascii_lowercase();
    if mode == "disable" {
        return;
    }
    let mut parts = vec![format!("mode = {}", quoted(&mode))];
    let wants_certificates = matches!(settings.text("auth_type").to_ascii_lowercase().as_str(), "cert" | "hba");
    for (key, name) in [("client_tls_cert_file", "cert"), ("client_tls_key_file", "key"), ("client_tls_ca_file", "ca")]
    {
        let Some(path) = settings.some(key) else { continue };
        if name == "ca" && !mode.starts_with("verify") && !wants_certificates {
            let text =
                format!("PgBouncer looks at no certificate of a client's with client_tls_sslmode = {mode}: left out");
            document.note(Kind::Differs, settings.place(key), key, &text);
            continue;
        }
        parts.push(format!("{name} = {}", quoted(&super::file(path, surroundings))));
    }
    document.key("tls", &format!("{{ {} }}", parts.join(", ")), "client_tls_*");
}

fn pool(settings: &Settings, document: &mut Document) {
    document.table("[pool]");
    document.key("mode", &quoted(&settings.text("pool_mode").to_ascii_lowercase()), &from(settings, "pool_mode"));
    let size = settings.number("default_pool_size", document);
    document.key("size", &size_of(size), &from(settings, "default_pool_size"));
    for (key, name) in [
        ("min_pool_size", "min_size"),
        ("reserve_pool_size", "reserve_size"),
        ("max_db_connections", "max_server_connections"),
        ("max_db_client_connections", "max_client_connections"),
        ("max_prepared_statements", "prepared_statements"),
    ] {
        if settings.entry(key).is_some() {
            let number = settings.number(key, document).max(0);
            document.key(name, &number.to_string(), key);
        }
    }
    written(settings, "reserve_pool_timeout", "reserve_timeout", document);
}

/// `pool_size`, where 0 is no limit.
pub(super) fn size_of(size: i64) -> String {
    if size <= 0 { UNLIMITED.to_owned() } else { size.to_string() }
}

fn time(settings: &Settings, key: &str, name: &str, document: &mut Document) {
    let value = settings.time(key, document);
    document.key(name, &quoted(&duration(value)), &from(settings, key));
}

/// A time that is written; howdah's default is the same.
fn written(settings: &Settings, key: &str, name: &str, document: &mut Document) {
    if settings.entry(key).is_some() {
        time(settings, key, name, document);
    }
}

fn timeouts(settings: &Settings, document: &mut Document) {
    document.table("[timeouts]");
    for (key, name) in [
        ("query_wait_timeout", "query_wait"),
        ("query_timeout", "query"),
        ("transaction_timeout", "transaction"),
        ("idle_transaction_timeout", "idle_in_transaction"),
        ("client_idle_timeout", "client_idle"),
        ("client_login_timeout", "client_login"),
        ("server_connect_timeout", "server_connect"),
        ("server_idle_timeout", "server_idle"),
        ("cancel_wait_timeout", "cancel_wait"),
        ("suspend_timeout", "suspend"),
    ] {
        written(settings, key, name, document);
    }
    if settings.entry("query_wait_notify").is_some() {
        // a whole number there
        let notify = u64::try_from(settings.number("query_wait_notify", document)).unwrap_or(0);
        document.key("query_wait_notify", &quoted(&duration(notify.saturating_mul(1_000_000))), "query_wait_notify");
    }
    if settings.entry("server_lifetime").is_some() {
        let server_lifetime = settings.time("server_lifetime", document);
        document.key("server_lifetime", &lifetime(server_lifetime), "server_lifetime");
    }
    let delay = match settings.entry("server_check_query") {
        Some(entry) if entry.value.is_empty() => "\"0\"".to_owned(), // nothing is asked
        _ => match settings.time("server_check_delay", document) {
            0 => "\"1us\"".to_owned(), // always asked; "0" would be never
            delay => quoted(&duration(delay)),
        },
    };
    if delay != "\"30s\"" {
        document.key("server_check_delay", &delay, "server_check_delay, server_check_query");
    }
    document.key("read", "\"0\"", "PgBouncer has no such limit");
    if let Some(entry) =
        settings.entry("server_check_query").filter(|entry| !matches!(entry.value.as_str(), "" | "<empty>"))
    {
        let text = "howdah asks for a sign of life in its own words";
        document.note(Kind::Differs, Some(&entry.place), "server_check_query", text);
    }
}

/// `server_lifetime`, where 0 is a server for every client anew and not "for ever".
pub(super) fn lifetime(micros: u64) -> String {
    if micros == 0 { "\"1us\"".to_owned() } else { quoted(&duration(micros)) }
}

fn network(settings: &Settings, document: &mut Document) {
    document.table("[network]");
    written(settings, "dns_max_ttl", "dns_ttl", document);
    time(settings, "dns_nxdomain_ttl", "dns_negative_ttl", document);
    let seconds = |seconds: i64| quoted(&duration(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000)));
    if !settings.flag("tcp_keepalive", document) {
        document.key("keepalive_idle", "\"0\"", "tcp_keepalive");
    } else if settings.entry("tcp_keepidle").is_some() {
        let idle = settings.number("tcp_keepidle", document);
        document.key("keepalive_idle", &seconds(idle), "tcp_keepidle");
    } else {
        let text = "howdah notices a machine that has vanished within a minute, PgBouncer leaves it to the system, which \
                    takes two hours";
        document.note(Kind::Differs, None, "tcp_keepidle", text);
    }
    if settings.entry("tcp_keepintvl").is_some() {
        let interval = settings.number("tcp_keepintvl", document);
        document.key("keepalive_interval", &seconds(interval), "tcp_keepintvl");
    }
    // else as the system does
    if let count @ 1..=127 = settings.number("tcp_keepcnt", document) {
        document.key("keepalive_count", &count.to_string(), "tcp_keepcnt");
    }
    if settings.entry("tcp_user_timeout").is_some() {
        let millis = u64::try_from(settings.number("tcp_user_timeout", document)).unwrap_or(0);
        document.key("tcp_user_timeout", &quoted(&duration(millis.saturating_mul(1000))), "tcp_user_timeout");
    }
}

fn auth(settings: &Settings, surroundings: Surroundings<'_>, document: &mut Document) {
    document.table("[auth]");
    let written = settings.text("auth_type").to_ascii_lowercase();
    let place = settings.place("auth_type");
    let method = match written.as_str() {
        method @ ("md5" | "scram-sha-256" | "cert" | "hba") => method,
        "trust" => {
            let text = "PgBouncer lets in whoever is named in auth_file, howdah whoever the server lets in";
            document.note(Kind::Differs, place, "auth_type", text);
            "trust"
        }
        "any" => {
            let text = "howdah knows no \"any\": with \"trust\" everybody is let in, and who has a database with a forced user is \
                        that one on the server";
            document.note(Kind::Differs, place, "auth_type", text);
            "trust"
        }
        "plain" => {
            let text = "howdah does not take a password in clear text: clients are asked for SCRAM, or for md5 where the \
                        stored secret is md5's, which drivers answer by themselves";
            document.note(Kind::Differs, place, "auth_type", text);
            "md5"
        }
        other => {
            let text = format!("howdah has no \"{other}\": scram-sha-256 is written, and needs the users' passwords");
            document.note(Kind::Todo, place, "auth_type", &text);
            "scram-sha-256"
        }
    };
    document.key("method", &quoted(method), &from(settings, "auth_type"));
    for (key, name) in [("auth_hba_file", "hba_file"), ("auth_ident_file", "ident_file"), ("auth_file", "users_file")] {
        let Some(path) = settings.some(key) else { continue };
        if name != "users_file" && method != "hba" {
            let text = format!("PgBouncer does not read it with auth_type = {written}: left out");
            document.note(Kind::Differs, settings.place(key), key, &text);
            continue;
        }
        document.key(name, &quoted(&super::file(path, surroundings)), key);
    }
}

fn log(settings: &Settings, document: &mut Document) {
    let connections = settings.flag("log_connections", document) || settings.flag("log_disconnections", document);
    if connections && settings.number("verbose", document) == 0 {
        return;
    }
    document.table("[log]");
    document.key("connections", if connections { "true" } else { "false" }, "log_connections, log_disconnections");
    match settings.number("verbose", document) {
        0 => {}
        1 => document.key("level", "\"debug\"", "verbose"),
        _ => document.key("level", "\"trace\"", "verbose"),
    }
}

fn stats(settings: &Settings, document: &mut Document) {
    if settings.entry("stats_period").is_none() && settings.entry("log_stats").is_none() {
        return;
    }
    document.table("[stats]");
    if settings.entry("stats_period").is_some() {
        let seconds = u64::try_from(settings.number("stats_period", document)).unwrap_or(0).max(1);
        document.key("period", &quoted(&duration(seconds.saturating_mul(1_000_000))), "stats_period");
    }
    if settings.entry("log_stats").is_some() {
        let log = settings.flag("log_stats", document);
        document.key("log", if log { "true" } else { "false" }, "log_stats");
    }
}

/// Who may use the console.
fn admin(settings: &Settings, document: &mut Document) {
    let lists = [("admin_users", "users"), ("stats_users", "stats_users")];
    let named = |key: &str| settings.some(key).map(list).filter(|names| !names.is_empty());
    if lists.iter().all(|(key, _)| named(key).is_none()) {
        return;
    }
    document.table("[admin]");
    for (key, name) in lists {
        if let Some(names) = named(key) {
            document.key(name, &quoted_list(&names), key);
        }
    }
}
