//! `SHOW CONFIG`: PgBouncer's keys with the values of howdah's configuration that mean the same; keys without a counterpart show
//! PgBouncer's default. What a change needs is howdah's to say: `no` is a restart.

use super::super::answer::Kind::Text;
use super::super::answer::Row;
use super::pools::{listen_port, mode_word};
use super::{Look, View};
use crate::config::{Address, AuthMethod, Config, ConfigDuration, Listener, LogLevel, TlsMode};

/// SHOW CONFIG.
pub const CONFIG: View = View {
    name: "config",
    columns: &[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)],
    rows: config,
};

fn config(look: &Look) -> Vec<Row> {
    let config = &look.running.config;
    let line = |(key, default, changeable): &(&'static str, Option<&'static str>, bool)| -> Row {
        let value = match *key {
            "conffile" => Some(look.seat.sources.config.display().to_string()),
            key => value(config, key).or_else(|| default.map(str::to_owned)),
        };
        vec![(*key).into(), value.into(), (*default).into(), if *changeable { "yes" } else { "no" }.into()]
    };
    KEYS.iter().map(line).collect()
}

/// PgBouncer's name, its default, and whether a reload of howdah changes it.
const KEYS: &[(&str, Option<&str>, bool)] = &[
    ("admin_users", Some(""), true),
    ("application_name_add_host", Some("0"), true),
    ("auth_dbname", None, true),
    ("auth_file", None, true),
    ("auth_hba_file", Some(""), true),
    ("auth_ident_file", None, true),
    ("auth_ldap_options", None, true),
    (
        "auth_query",
        Some(
            "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin",
        ),
        true,
    ),
    ("auth_type", Some("md5"), true),
    ("auth_user", None, true),
    ("autodb_idle_timeout", Some("3600"), true),
    ("cancel_wait_timeout", Some("10"), true),
    ("client_idle_timeout", Some("0"), true),
    ("client_login_timeout", Some("60"), true),
    ("client_tls13_ciphers", None, true),
    ("client_tls_ca_file", Some(""), true),
    ("client_tls_cert_file", Some(""), true),
    ("client_tls_ciphers", Some("default"), true),
    ("client_tls_dheparams", Some("auto"), true),
    ("client_tls_ecdhcurve", Some("auto"), true),
    ("client_tls_key_file", Some(""), true),
    ("client_tls_protocols", Some("secure"), true),
    ("client_tls_sslmode", Some("disable"), true),
    ("conffile", None, true),
    ("default_pool_size", Some("20"), true),
    ("disable_pqexec", Some("0"), false),
    ("dns_max_ttl", Some("15"), true),
    ("dns_nxdomain_ttl", Some("15"), true),
    ("dns_zone_check_period", Some("0"), true),
    ("idle_transaction_timeout", Some("0"), true),
    ("ignore_startup_parameters", Some(""), true),
    ("job_name", Some("pgbouncer"), false),
    ("listen_addr", Some(""), false),
    ("listen_backlog", Some("128"), false),
    ("listen_port", Some("6432"), false),
    ("log_connections", Some("1"), true),
    ("log_disconnections", Some("1"), true),
    ("log_pooler_errors", Some("1"), true),
    ("log_stats", Some("1"), true),
    ("logfile", Some(""), true),
    ("login_notify_message", Some(""), true),
    ("max_client_conn", Some("100"), true),
    ("max_db_client_connections", Some("0"), true),
    ("max_db_connections", Some("0"), true),
    ("max_packet_size", Some("2147483647"), true),
    ("max_prepared_statements", Some("200"), true),
    ("max_user_client_connections", Some("0"), true),
    ("max_user_connections", Some("0"), true),
    ("min_pool_size", Some("0"), true),
    ("peer_id", Some("0"), true),
    ("pidfile", Some(""), false),
    ("pkt_buf", Some("4096"), false),
    ("pool_idle_timeout", Some("0"), true),
    ("pool_mode", Some("session"), true),
    ("query_timeout", Some("0"), true),
    ("query_wait_notify", Some("5"), true),
    ("query_wait_timeout", Some("120"), true),
    ("reserve_pool_size", Some("0"), true),
    ("reserve_pool_timeout", Some("5"), true),
    ("resolv_conf", Some(""), false),
    ("sbuf_loopcnt", Some("5"), true),
    ("scram_iterations", Some("4096"), true),
    ("server_check_delay", Some("30"), true),
    ("server_check_query", Some("<empty>"), true),
    ("server_connect_timeout", Some("15"), true),
    ("server_fast_close", Some("0"), true),
    ("server_idle_timeout", Some("600"), true),
    ("server_lifetime", Some("3600"), true),
    ("server_login_retry", Some("15"), true),
    ("server_reset_query", Some("DISCARD ALL"), true),
    ("server_reset_query_always", Some("0"), true),
    ("server_round_robin", Some("0"), true),
    ("server_tls13_ciphers", None, true),
    ("server_tls_ca_file", Some(""), true),
    ("server_tls_cert_file", Some(""), true),
    ("server_tls_ciphers", Some("default"), true),
    ("server_tls_key_file", Some(""), true),
    ("server_tls_protocols", Some("secure"), true),
    ("server_tls_sslmode", Some("prefer"), true),
    ("so_reuseport", Some("0"), false),
    ("stats_period", Some("60"), true),
    ("stats_users", Some(""), true),
    ("suspend_timeout", Some("10"), true),
    ("syslog", Some("0"), true),
    ("syslog_facility", Some("daemon"), true),
    ("syslog_ident", Some("pgbouncer"), true),
    ("tcp_defer_accept", Some("1"), true),
    ("tcp_keepalive", Some("1"), true),
    ("tcp_keepcnt", Some("0"), true),
    ("tcp_keepidle", Some("0"), true),
    ("tcp_keepintvl", Some("0"), true),
    ("tcp_socket_buffer", Some("0"), true),
    ("tcp_user_timeout", Some("0"), true),
    ("track_extra_parameters", Some("IntervalStyle"), false),
    ("transaction_timeout", Some("0"), true),
    ("unix_socket_dir", Some("/tmp"), false),
    ("unix_socket_group", Some(""), false),
    ("unix_socket_mode", Some("0777"), false),
    ("user", None, false),
    ("verbose", None, true),
];

/// What howdah's configuration says of it; `None` where it says nothing.
#[must_use]
pub fn value(config: &Config, key: &str) -> Option<String> {
    let (timeouts, pool, network) = (&config.timeouts, &config.pool, &config.network);
    let paths = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let listener_tls = config.listeners.iter().find_map(|listener| listener.tls.as_ref());
    let node_tls = config.clusters.values().flat_map(|cluster| &cluster.nodes).find_map(|node| node.tls.as_ref());
    Some(match key {
        "admin_users" => config.admin.users.join(", "),
        "stats_users" => config.admin.stats_users.join(", "),
        "auth_type" => match config.auth.method {
            AuthMethod::ScramSha256 => "scram-sha-256",
            AuthMethod::Md5 => "md5",
            AuthMethod::Cert => "cert",
            AuthMethod::Trust => "trust",
            AuthMethod::Peer | AuthMethod::Hba => "hba",
        }
        .to_owned(),
        "auth_file" => return paths(&config.auth.users_file),
        "auth_hba_file" => return paths(&config.auth.hba_file),
        "auth_ident_file" => return paths(&config.auth.ident_file),
        "auth_query" => return config.auth.query.clone(),
        "auth_dbname" => return config.auth.dbname.clone(),
        "cancel_wait_timeout" => seconds(timeouts.cancel_wait),
        "client_idle_timeout" => seconds(timeouts.client_idle),
        "client_login_timeout" => seconds(timeouts.client_login),
        "idle_transaction_timeout" => seconds(timeouts.idle_in_transaction),
        "query_timeout" => seconds(timeouts.query),
        "query_wait_notify" => seconds(timeouts.query_wait_notify),
        "query_wait_timeout" => seconds(timeouts.query_wait),
        "server_check_delay" => seconds(timeouts.server_check_delay),
        "server_connect_timeout" => seconds(timeouts.server_connect),
        "server_idle_timeout" => seconds(timeouts.server_idle),
        "server_lifetime" => seconds(timeouts.server_lifetime),
        "suspend_timeout" => seconds(timeouts.suspend),
        "transaction_timeout" => seconds(timeouts.transaction),
        "stats_period" => seconds(ConfigDuration::from_millis(
            u64::try_from(config.stats.period.get().as_millis()).unwrap_or(u64::MAX),
        )),
        "log_stats" => u8::from(config.stats.log).to_string(),
        "verbose" => match config.log.level {
            LogLevel::Error | LogLevel::Warn | LogLevel::Info => "0",
            LogLevel::Debug => "1",
            LogLevel::Trace => "2",
        }
        .to_owned(),
        "default_pool_size" => pool.size.to_string(),
        "min_pool_size" => pool.min_size.to_string(),
        "reserve_pool_size" => pool.reserve_size.to_string(),
        "reserve_pool_timeout" => seconds(pool.reserve_timeout),
        "max_user_connections" => config.limits.max_user_server_connections.to_string(),
        "max_user_client_connections" => config.limits.max_user_client_connections.to_string(),
        "max_client_conn" => config.limits.max_client_connections.to_string(),
        "max_db_connections" => pool.max_server_connections.to_string(),
        "max_db_client_connections" => pool.max_client_connections.to_string(),
        "max_prepared_statements" => pool.prepared_statements.to_string(),
        "pool_mode" => mode_word(pool.mode).to_owned(),
        "listen_addr" => {
            let hosts = config.listeners.iter().filter_map(|listener| match &listener.address {
                Address::Tcp { host, .. } => Some(host.to_string()),
                Address::Unix { .. } | Address::Systemd(_) => None,
            });
            hosts.collect::<Vec<_>>().join(",")
        }
        "listen_port" => listen_port(config).to_string(),
        "unix_socket_dir" => {
            let mut directories = config.listeners.iter().filter_map(|listener| match &listener.address {
                Address::Unix { directory, .. } => Some(directory.display().to_string()),
                Address::Tcp { .. } | Address::Systemd(_) => None,
            });
            directories.next().unwrap_or_default()
        }
        "unix_socket_mode" | "unix_socket_group" => {
            let unix = |listener: &&Listener| matches!(listener.address, Address::Unix { .. });
            let listener = config.listeners.iter().find(unix)?;
            match key {
                "unix_socket_mode" => format!("{:04o}", listener.socket_mode.bits()),
                _ => return listener.socket_group.clone(),
            }
        }
        "log_connections" | "log_disconnections" => u8::from(config.log.connections).to_string(),
        "client_tls_sslmode" => listener_tls.map_or(TlsMode::Disable, |tls| tls.mode).as_str().to_owned(),
        "client_tls_cert_file" => return listener_tls.and_then(|tls| paths(&tls.cert)),
        "client_tls_key_file" => return listener_tls.and_then(|tls| paths(&tls.key)),
        "client_tls_ca_file" => return listener_tls.and_then(|tls| paths(&tls.ca)),
        "server_tls_sslmode" => node_tls.map_or(TlsMode::Prefer, |tls| tls.mode).as_str().to_owned(),
        "server_tls_cert_file" => return node_tls.and_then(|tls| paths(&tls.cert)),
        "server_tls_key_file" => return node_tls.and_then(|tls| paths(&tls.key)),
        "server_tls_ca_file" => return node_tls.and_then(|tls| paths(&tls.ca)),
        "dns_max_ttl" => seconds(network.dns_ttl),
        "dns_nxdomain_ttl" => seconds(network.dns_negative_ttl),
        "tcp_keepalive" => u8::from(network.keepalive_idle.limit().is_some()).to_string(),
        "tcp_keepidle" => seconds(network.keepalive_idle),
        "tcp_keepintvl" => seconds(network.keepalive_interval),
        "tcp_keepcnt" => network.keepalive_count.to_string(),
        // milliseconds, as in PgBouncer
        "tcp_user_timeout" => network.tcp_user_timeout.limit().map_or(0, |limit| limit.as_millis()).to_string(),
        // howdah keeps whatever a client sets
        "track_extra_parameters" => "*".to_owned(),
        _ => return None,
    })
}

/// PgBouncer's times are seconds, with a fraction where there is one.
fn seconds(of: ConfigDuration) -> String {
    let limit = of.limit().unwrap_or_default();
    match limit.subsec_millis() {
        0 => limit.as_secs().to_string(),
        _ => limit.as_secs_f64().to_string(),
    }
}
