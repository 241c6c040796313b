//! `SET key = value`: PgBouncer's keys on howdah's configuration. ◇ What is set holds until the next reload, as with PgBouncer.
//!
//! Only what can change while the daemon runs, and what howdah has a counterpart for. A database or a user with a setting of its
//! own keeps it.

use crate::config::{Config, ConfigDuration, LogLevel, Network, Period, PoolMode};

/// Changes a setting.
///
/// # Errors
/// Why it cannot be set, or not to this.
pub fn set(config: &mut Config, key: &str, value: &str) -> Result<(), String> {
    let (pool, timeouts, network) = (&mut config.pool, &mut config.timeouts, &mut config.network);
    match key.to_ascii_lowercase().as_str() {
        "default_pool_size" => pool.size = at_least_one(value)?,
        "min_pool_size" => pool.min_size = number(value)?,
        "reserve_pool_size" => pool.reserve_size = number(value)?,
        "reserve_pool_timeout" => pool.reserve_timeout = seconds(value)?,
        "max_db_connections" => pool.max_server_connections = number(value)?,
        "max_db_client_connections" => pool.max_client_connections = number(value)?,
        "max_prepared_statements" => pool.prepared_statements = number(value)?,
        "pool_mode" => {
            pool.mode = match value.to_ascii_lowercase().as_str() {
                "session" => PoolMode::Session,
                "transaction" => PoolMode::Transaction,
                "statement" => PoolMode::Statement,
                _ => return Err(format!("\"{value}\" is no pool mode: session, transaction or statement")),
            }
        }
        "max_user_connections" => config.limits.max_user_server_connections = number(value)?,
        "max_user_client_connections" => config.limits.max_user_client_connections = number(value)?,
        "max_client_conn" => config.limits.max_client_connections = at_least_one(value)?,
        "query_wait_timeout" => timeouts.query_wait = seconds(value)?,
        "query_wait_notify" => timeouts.query_wait_notify = seconds(value)?,
        "query_timeout" => timeouts.query = seconds(value)?,
        "transaction_timeout" => timeouts.transaction = seconds(value)?,
        "idle_transaction_timeout" => timeouts.idle_in_transaction = seconds(value)?,
        "client_idle_timeout" => timeouts.client_idle = seconds(value)?,
        "client_login_timeout" => timeouts.client_login = seconds(value)?,
        "server_connect_timeout" => timeouts.server_connect = seconds(value)?,
        "server_lifetime" => timeouts.server_lifetime = seconds(value)?,
        "server_idle_timeout" => timeouts.server_idle = seconds(value)?,
        "server_check_delay" => timeouts.server_check_delay = seconds(value)?,
        "cancel_wait_timeout" => timeouts.cancel_wait = seconds(value)?,
        "suspend_timeout" => timeouts.suspend = seconds(value)?,
        "tcp_keepalive" => match (boolean(value)?, network.keepalive_idle.limit()) {
            (true, Some(_)) => {} // as it is
            (true, None) => network.keepalive_idle = Network::default().keepalive_idle,
            (false, _) => network.keepalive_idle = ConfigDuration::OFF,
        },
        "tcp_keepidle" => network.keepalive_idle = seconds(value)?,
        "tcp_keepintvl" => network.keepalive_interval = seconds(value)?,
        "tcp_keepcnt" => match number(value)? {
            count @ 1..=127 => network.keepalive_count = count,
            _ => return Err("between 1 and 127 questions can be asked".to_owned()),
        },
        "tcp_user_timeout" => network.tcp_user_timeout = ConfigDuration::from_millis(number(value)?.into()),
        "dns_max_ttl" => network.dns_ttl = seconds(value)?,
        "dns_nxdomain_ttl" => network.dns_negative_ttl = seconds(value)?,
        "admin_users" => config.admin.users = names(value),
        "stats_users" => config.admin.stats_users = names(value),
        "stats_period" => {
            let period = seconds(value)?.limit().ok_or("statistics need a period: write a number of seconds")?;
            config.stats.period = Period::from_millis(u64::try_from(period.as_millis()).unwrap_or(u64::MAX));
        }
        "log_stats" => config.stats.log = boolean(value)?,
        "log_connections" | "log_disconnections" => config.log.connections = boolean(value)?,
        "verbose" => {
            config.log.level = match number(value)? {
                0 => LogLevel::Info,
                1 => LogLevel::Debug,
                _ => LogLevel::Trace,
            }
        }
        _ => return Err(format!("\"{key}\" is nothing that can be set here: change howdah.toml, and RELOAD")),
    }
    Ok(())
}

fn number(value: &str) -> Result<u32, String> {
    value.trim().parse().map_err(|_| format!("\"{value}\" is not a whole number"))
}

fn at_least_one(value: &str) -> Result<u32, String> {
    match number(value)? {
        0 => Err("howdah has no unlimited value here: write a number".to_owned()),
        number => Ok(number),
    }
}

/// PgBouncer's times: seconds, perhaps with a fraction; 0 is off.
fn seconds(value: &str) -> Result<ConfigDuration, String> {
    let none = || format!("\"{value}\" is not a number of seconds");
    let seconds: f64 = value.trim().parse().map_err(|_| none())?;
    // a hundred years: what comes of it can be added to now
    let millis = (0.0..3.2e9).contains(&seconds).then(|| (seconds * 1e3).round()).ok_or_else(none)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the range is looked at above
    Ok(ConfigDuration::from_millis(millis as u64))
}

/// PgBouncer's lists: names with commas between them.
fn names(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn boolean(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Ok(true),
        "0" | "off" | "no" | "false" => Ok(false),
        _ => Err(format!("\"{value}\" is neither yes nor no")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let toml =
            "[clusters.main.monitor]\nuser = \"m\"\n[[clusters.main.nodes]]\nname = \"a\"\nhost = \"127.0.0.1\"\n";
        crate::config::parse(std::path::Path::new("howdah.toml"), toml).unwrap()
    }

    #[test]
    fn pgbouncers_keys_are_howdahs_settings() {
        let mut config = config();
        set(&mut config, "Default_Pool_Size", "7").unwrap();
        set(&mut config, "query_wait_timeout", "1.5").unwrap();
        set(&mut config, "server_idle_timeout", "0").unwrap();
        set(&mut config, "pool_mode", "session").unwrap();
        set(&mut config, "log_connections", "off").unwrap();
        assert_eq!((config.pool.size, config.pool.mode), (7, PoolMode::Session));
        assert_eq!(config.timeouts.query_wait, ConfigDuration::from_millis(1_500));
        assert_eq!(config.timeouts.server_idle, ConfigDuration::OFF);
        assert!(!config.log.connections);
        set(&mut config, "stats_users", " watcher, exporter,").unwrap();
        set(&mut config, "stats_period", "15").unwrap();
        set(&mut config, "max_user_connections", "3").unwrap();
        set(&mut config, "suspend_timeout", "0.5").unwrap();
        assert_eq!(config.admin.stats_users, ["watcher", "exporter"]);
        assert_eq!(config.stats.period, Period::from_millis(15_000));
        assert_eq!(config.profile("app", "anybody").map(|profile| profile.user_server_max), None);
        assert_eq!(config.limits.max_user_server_connections, 3);
        assert_eq!(config.timeouts.suspend, ConfigDuration::from_millis(500));
        set(&mut config, "tcp_keepalive", "0").unwrap();
        assert_eq!(config.network.keepalive_idle, ConfigDuration::OFF);
        set(&mut config, "tcp_keepalive", "1").unwrap();
        assert_eq!(config.network.keepalive_idle, Network::default().keepalive_idle);
    }

    #[test]
    fn what_is_set_is_what_show_config_says() {
        use crate::console::show::settings::value;
        for (key, is) in [
            ("default_pool_size", "7"),
            ("min_pool_size", "3"),
            ("reserve_pool_size", "2"),
            ("reserve_pool_timeout", "1.5"),
            ("max_db_connections", "9"),
            ("max_db_client_connections", "8"),
            ("max_user_connections", "4"),
            ("max_user_client_connections", "5"),
            ("max_prepared_statements", "0"),
            ("pool_mode", "statement"),
            ("max_client_conn", "77"),
            ("query_wait_timeout", "11"),
            ("query_wait_notify", "12"),
            ("query_timeout", "13"),
            ("transaction_timeout", "14"),
            ("idle_transaction_timeout", "15"),
            ("client_idle_timeout", "16"),
            ("client_login_timeout", "17"),
            ("server_connect_timeout", "18"),
            ("server_lifetime", "19"),
            ("server_idle_timeout", "20"),
            ("server_check_delay", "21"),
            ("cancel_wait_timeout", "22"),
            ("suspend_timeout", "23"),
            ("tcp_keepalive", "0"),
            ("tcp_keepidle", "24"),
            ("tcp_keepintvl", "25"),
            ("tcp_keepcnt", "26"),
            ("tcp_user_timeout", "27000"),
            ("dns_max_ttl", "28"),
            ("dns_nxdomain_ttl", "29"),
            ("admin_users", "a, b"),
            ("stats_users", "c"),
            ("stats_period", "30"),
            ("log_stats", "0"),
            ("log_connections", "0"),
            ("log_disconnections", "0"),
            ("verbose", "1"),
        ] {
            let mut config = config();
            assert_ne!(value(&config, key).as_deref(), Some(is), "{key}: the default");
            set(&mut config, key, is).unwrap();
            assert_eq!(value(&config, key).as_deref(), Some(is), "{key}");
        }
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        let mut config = config();
        let mut why = |key: &str, value: &str| set(&mut config, key, value).unwrap_err();
        assert!(why("listen_port", "1").contains("RELOAD"));
        assert!(why("default_pool_size", "0").contains("unlimited"));
        assert!(why("default_pool_size", "-1").contains("whole number"));
        for bad in ["-1", "NaN", "inf", "1e300", "soon", ""] {
            assert!(why("query_timeout", bad).contains("seconds"), "{bad}");
        }
        assert!(why("tcp_keepcnt", "128").contains("127") && why("tcp_keepcnt", "0").contains("1"));
        assert!(why("stats_period", "0").contains("period"));
        assert!(why("pool_mode", "polite").contains("session"));
        assert!(why("log_connections", "perhaps").contains("yes"));
    }
}
