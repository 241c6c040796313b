//! What a whole file leads to.

use std::path::Path;

use super::*;

/// A file that configures one cluster, after the text of a test.
const MAIN: &str = r#"
[clusters.main]
monitor = { user = "howdah" }
nodes = [{ name = "a", host = "127.0.0.1" }]
"#;

fn read(text: &str) -> Result<Config, Problems> {
    parse(Path::new("/etc/howdah/howdah.toml"), text)
}

/// The problems of a text, one line each, without excerpts and the path.
fn said(text: &str) -> Vec<String> {
    let problems = read(text).expect_err("this file should be wrong");
    let first_line = |problem: &Problem| problem.to_string().lines().next().unwrap_or_default().to_owned();
    problems.iter().map(first_line).map(|line| line.replace("/etc/howdah/howdah.toml:", "")).collect()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = read("").unwrap();
    assert_eq!(config.limits.max_client_connections, 10_000);
    assert!(config.limits.workers.count() >= 1);
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:6432");
    assert_eq!(config.listeners[0].socket_mode.bits(), 0o777);
    assert_eq!((config.pool.mode, config.pool.size), (PoolMode::Transaction, 20));
    assert_eq!(config.pool.prepared_statements, 200);
    assert_eq!(config.timeouts.query_wait.to_string(), "2min");
    assert_eq!(config.timeouts.query.limit(), None);
    assert_eq!(config.timeouts.server_lifetime.to_string(), "1h");
    assert_eq!(config.auth.method, AuthMethod::ScramSha256);
    assert_eq!(config.http.address.to_string(), "127.0.0.1:6433");
    assert_eq!((config.log.level, config.log.format, config.log.connections), (LogLevel::Info, LogFormat::Text, true));
    assert!(config.profile("app", "app").is_none());
}

#[test]
fn every_unknown_key_is_reported_at_once_with_its_place_and_a_suggestion() {
    let text = "[pool]\nsiez = 5\n\n[log]\n  lvel = \"info\"\n[pol]\nsize = 1\n";
    assert_eq!(
        said(text),
        [
            "2:1: pool.siez: unknown key; did you mean \"size\"?",
            "5:3: log.lvel: unknown key; did you mean \"level\"?",
            "6:2: pol: unknown key; did you mean \"pool\"?",
        ]
    );
}
