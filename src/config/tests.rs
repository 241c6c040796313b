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

#[test]
fn wrong_types_and_values_are_reported_with_place_and_excerpt() {
    let text = "[pool]\nsize = \"twenty\"\nmode = \"transactions\"\n\n[timeouts]\nquery_wait = 120\nread = \"60\"\n";
    assert_eq!(
        said(text),
        [
            "2:8: pool.size: expected a whole number, found a string",
            "3:8: pool.mode: \"transactions\" is not valid here; did you mean \"transaction\"? \
             (valid: \"session\", \"transaction\", \"statement\")",
            "6:14: timeouts.query_wait: expected a duration in quotes, found a number; write \"120s\" for seconds \
             (units: us, ms, s, min, h, d)",
            "7:8: timeouts.read: \"60\" has no unit; write \"60s\" for seconds (units: us, ms, s, min, h, d)",
        ]
    );
    let problems = read(text).unwrap_err().to_string();
    let excerpt = "found a string\n    size = \"twenty\"\n           ^^^^^^^^\n/etc/howdah";
    assert!(problems.contains(excerpt), "{problems}");
}

#[test]
fn columns_count_characters_and_not_bytes() {
    assert_eq!(
        said("log = { level = \"ü\", formt = \"ü\" }"),
        [
            "1:17: log.level: \"ü\" is not valid here; valid: \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
            "1:22: log.formt: unknown key; did you mean \"format\"?",
        ]
    );
}

#[test]
fn numbers_out_of_range_say_the_bound() {
    let text =
        "[limits]\nworkers = 0\nmax_client_connections = 4294967296\n[pool]\nsize = 0\nprepared_statements = -1\n";
    assert_eq!(
        said(text),
        [
            "2:11: limits.workers: 0 is too small; the least is 1",
            "3:26: limits.max_client_connections: 4294967296 is too large; the largest is 4294967295",
            "5:8: pool.size: 0 is too small; the least is 1",
            "6:23: pool.prepared_statements: -1 is too small; the least is 0",
        ]
    );
    assert_eq!(
        said("[limits]\nworkers = \"many\""),
        ["2:11: limits.workers: \"many\" is not valid here; valid: a number or \"auto\""]
    );
    assert_eq!(read("[limits]\nworkers = 3").unwrap().limits.workers.count(), 3);
}

#[test]
fn a_missing_key_is_reported_at_its_table() {
    let text = "[[clusters.main.nodes]]\nname = \"a\"\n\n[databases.app]\ndbname = \"x\"\n";
    assert_eq!(
        said(text),
        [
            "1:1: clusters.main.nodes[0]: \"host\" is missing; write it, as in host = \"127.0.0.1\"",
            "1:12: clusters.main: \"monitor\" is missing",
            "4:12: databases.app: \"cluster\" is missing; write it, as in cluster = \"main\"",
        ]
    );
}

#[test]
fn a_timeout_of_the_whole_daemon_cannot_differ_by_user() {
    assert_eq!(
        said("[users.app.timeouts]\nclient_login = \"1s\"\nqurey = \"1s\""),
        [
            "2:1: users.app.timeouts.client_login: cannot differ by database or user; write it under [timeouts]",
            "3:1: users.app.timeouts.qurey: unknown key; did you mean \"query\"?",
        ]
    );
}

#[test]
fn keys_of_later_features_are_refused() {
    let lines = said("[routing]\nhints = true\n[[listeners]]\naddress = \"127.0.0.1:1\"\nrole = \"auto\"\n");
    assert!(lines[0].starts_with("1:2: routing: unknown key; known here: limits, listeners,"), "{lines:?}");
    assert!(lines[1].starts_with("5:1: listeners[0].role: unknown key"), "{lines:?}");
}

#[test]
fn all_errors_of_grammar_are_reported() {
    let problems = read("[pool\nsize = \n[log]\nlevel = info\n").unwrap_err();
    assert!(problems.iter().count() >= 2, "{problems}");
    assert_eq!(problems.iter().next().unwrap().place.map(|place| place.line), Some(1));
}

#[test]
fn no_problem_shows_a_password() {
    let wrong = [
        "[users.app]\npassword = 12345678",
        "[users.app]\npasword = \"hunter2\"",
        "[users.app]\npassword = hunter2",
        "[users.app]\npassword = \"hunter2",
        "users.app = \"hunter2\"",
        "[users]\napp = \"hunter2\"",
        "[users.app]\npassword = [\"hunter2\"]",
        "users.app = { pasword = \"hunter2\", pool = { size = 0 } }",
        "users.app = { password = \"hunter2\", password_env = \"PATH\" }",
        "[users.app]\npassword = \"SCRAM-SHA-256$hunter2\"",
        "[clusters.main]\nmonitor = \"hunter2\"\nnodes = \"hunter2\"",
    ];
    for text in wrong {
        let problems = read(text).unwrap_err();
        let shown = format!("{problems} {problems:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("12345678"), "{text}: {shown}");
    }
    let config = read("[users.app]\npassword = \"hunter2\"").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_password_comes_from_one_of_three_places() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("app.password"), "from file\r\n\n").unwrap();
    let path = directory.path().join("howdah.toml");
    let text = "[users.a]\npassword = \"from text\"\n[users.b]\npassword_file = \"app.password\"\n\
                [users.c]\npassword_env = \"PATH\"\n[users.d]\npool.size = 1\n";
    std::fs::write(&path, text).unwrap();
    let config = load(&path).unwrap();
    let password = |user: &str| match config.users[user].credential.as_ref()? {
        Credential::Password(secret) => Some(secret.reveal().to_owned()),
        Credential::Verifier(_) => panic!("not a password"),
    };
    assert_eq!(password("a").as_deref(), Some("from text"));
    assert_eq!(password("b").as_deref(), Some("from file"));
    assert_eq!(password("c"), std::env::var("PATH").ok());
    assert_eq!(password("d"), None);
    assert_eq!(config.users["b"].password_file, Some(directory.path().join("app.password")));
}

#[test]
fn a_password_that_cannot_be_found_or_used_is_a_problem() {
    let text = "[users.a]\npassword = \"x\"\npassword_file = \"y\"\n[users.b]\npassword_file = \"/nowhere\"\n\
                [users.c]\npassword_env = \"HOWDAH_NO_SUCH\"\n[users.d]\npassword = \"\"\n";
    assert_eq!(
        said(text),
        [
            "3:1: users.a.password_file: the password is given twice, by \"password\" and by \"password_file\"; \
             keep one of them",
            "5:17: users.b.password_file: \"/nowhere\" cannot be read: No such file or directory (os error 2)",
            "7:16: users.c.password_env: the environment has no variable \"HOWDAH_NO_SUCH\" that is text",
            "9:1: users.d.password: the password is empty",
        ]
    );
}

#[test]
fn a_monitor_needs_a_password_and_not_a_verifier() {
    let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let text = MAIN.replace(
        "user = \"howdah\"",
        &format!("user = \"howdah\", password = \"SCRAM-SHA-256$4096:c2FsdA==${key}:{key}\""),
    );
    let lines = said(&text);
    assert!(lines[0].contains("clusters.main.monitor.password: a SCRAM verifier is not enough"), "{lines:?}");
    let text = MAIN.replace("user = \"howdah\"", "user = \"howdah\", password = \"secret\"");
    let config = read(&text).unwrap();
    assert_eq!(config.clusters["main"].monitor.resolved_password.as_ref().map(Secret::reveal), Some("secret"));
}

#[test]
fn a_database_must_name_a_cluster_with_nodes() {
    let text = format!("{MAIN}[databases.app]\ncluster = \"mian\"\n[clusters.empty]\nmonitor = {{ user = \"h\" }}\n");
    assert_eq!(
        said(&text),
        [
            "6:11: databases.app.cluster: there is no cluster \"mian\"; did you mean \"main\"?",
            "7:11: clusters.empty: the cluster has no nodes; write [[clusters.empty.nodes]] with name and host",
        ]
    );
}

#[test]
fn nodes_and_listeners_cannot_be_in_the_same_place_twice() {
    let text = "[clusters.main]\nmonitor.user = \"h\"\nnodes = [\n  { name = \"a\", host = \"db\" },\n  \
                { name = \"a\", host = \"db\" },\n  { name = \"b\", host = \"db\", port = 5433 },\n]\n\
                [[listeners]]\naddress = \"0.0.0.0:6433\"\n[[listeners]]\naddress = \"127.0.0.1:6433\"\n";
    let lines = said(text);
    assert_eq!(lines.len(), 4, "{lines:?}");
    // The file does not write http.address, so its problem has no line.
    assert!(lines[0].starts_with(" http.address: \"127.0.0.1:6433\" is taken"), "{lines:?}");
    assert!(lines[1].starts_with("5:12: clusters.main.nodes[1].name: there is another node \"a\""), "{lines:?}");
    assert!(lines[2].starts_with("5:24: clusters.main.nodes[1].host: there is another node at \"db\""), "{lines:?}");
    assert!(lines[3].starts_with("11:11: listeners[1].address: \"127.0.0.1:6433\" is taken by the"), "{lines:?}");
}

#[test]
fn tls_is_whole_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    for file in ["server.crt", "server.key", "ca.crt"] {
        std::fs::write(directory.path().join(file), "").unwrap();
    }
    let path = directory.path().join("howdah.toml");
    let listener = |address: &str, tls: &str| {
        parse(&path, &format!("[[listeners]]\naddress = \"{address}\"\ntls = {{ {tls} }}")).map_err(|p| p.to_string())
    };
    let pair = "cert = \"server.crt\", key = \"server.key\"";
    let config = listener("127.0.0.1:1", pair).unwrap();
    let tls = config.listeners[0].tls.as_ref().unwrap();
    assert_eq!((tls.mode, tls.cert.clone()), (TlsMode::Prefer, Some(directory.path().join("server.crt"))));
    let refused = |address: &str, tls: &str, why: &str| {
        let said = listener(address, tls).unwrap_err();
        assert!(said.contains(why), "{tls}: {said}");
    };
    refused("127.0.0.1:1", "cert = \"server.crt\"", "\"cert\" without \"key\"");
    refused("127.0.0.1:1", "mode = \"require\"", "needs a certificate");
    refused("127.0.0.1:1", &format!("{pair}, mode = \"verify-full\""), "write \"ca\" too");
    refused("127.0.0.1:1", "cert = \"no.crt\", key = \"server.key\"", "cannot be read");
    refused("127.0.0.1:1", "cert = \".\", key = \"server.key\"", "is a directory");
    refused("unix:/tmp", pair, "a Unix socket has no TLS");
    assert!(listener("127.0.0.1:1", "mode = \"disable\"").is_ok());

    let node = |host: &str, tls: &str| {
        let nodes = format!("nodes = [{{ name = \"a\", host = \"{host}\", tls = {{ {tls} }} }}]");
        parse(&path, &format!("[clusters.main]\nmonitor.user = \"h\"\n{nodes}")).map_err(|p| p.to_string())
    };
    assert!(node("db", "mode = \"verify-full\"").is_ok());
    assert!(node("db", "mode = \"verify-ca\", ca = \"ca.crt\"").is_ok());
    assert!(node("db", "mode = \"verify-ca\"").unwrap_err().contains("which authority to trust"));
    assert!(node("db", "ca = \"ca.crt\"").unwrap_err().contains("\"ca\" is not used with mode \"prefer\""));
    assert!(node("/tmp", "mode = \"require\"").unwrap_err().contains("a Unix socket has no TLS"));
}

#[test]
fn socket_settings_belong_to_unix_listeners() {
    let config =
        read("[[listeners]]\naddress = \"unix:/run/h\"\nsocket_mode = \"0770\"\nsocket_group = \"0\"\n").unwrap();
    assert_eq!((config.listeners[0].socket_mode.bits(), config.listeners[0].socket_gid), (0o770, Some(0)));
    let config = read("[[listeners]]\naddress = \"unix:/run/h\"\nsocket_group = \"root\"\n").unwrap();
    assert_eq!(config.listeners[0].socket_gid, Some(0));
    let lines = said("[[listeners]]\naddress = \"127.0.0.1:1\"\nsocket_mode = \"0770\"\nsocket_group = \"no such\"\n");
    assert!(lines[0].starts_with("3:1: listeners[0].socket_mode: \"127.0.0.1:1\" is no Unix socket"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("/etc/group has no group \"no such\"")), "{lines:?}");
}

#[test]
fn a_users_settings_go_before_the_databases_and_those_before_everybodys() {
    let text = format!(
        "{MAIN}
[pool]
size = 1
prepared_statements = 1
max_server_connections = 100
[timeouts]
query = \"1s\"
transaction = \"1s\"
client_idle = \"1s\"
[databases.app]
cluster = \"main\"
dbname = \"app_production\"
pool = {{ size = 2, mode = \"session\", max_client_connections = 5 }}
timeouts = {{ transaction = \"2s\", client_idle = \"2s\" }}
[databases.\"*\"]
cluster = \"main\"
[databases.free]
cluster = \"main\"
pool.max_server_connections = 0
[users.batch]
pool = {{ size = 3, max_server_connections = 7, max_client_connections = 0 }}
timeouts = {{ client_idle = \"0\" }}
"
    );
    let config = read(&text).unwrap();
    let batch = config.profile("app", "batch").unwrap();
    assert_eq!((&*batch.cluster, batch.dbname.as_str()), ("main", "app_production"));
    assert_eq!((batch.size, batch.mode, batch.prepared_statements), (3, PoolMode::Session, 1));
    assert_eq!((batch.database_server_max, batch.user_server_max), (Some(100), Some(7)));
    assert_eq!((batch.database_client_max, batch.user_client_max), (Some(5), None));
    let secs = |limit: Option<std::time::Duration>| limit.map(|limit| limit.as_secs());
    assert_eq!(secs(batch.timeouts.query), Some(1));
    assert_eq!(secs(batch.timeouts.transaction), Some(2));
    assert_eq!(secs(batch.timeouts.client_idle), None);

    let other = config.profile("app", "somebody").unwrap();
    assert_eq!((other.size, other.user_server_max), (2, None));
    assert_eq!(secs(other.timeouts.client_idle), Some(2));
    let any = config.profile("other", "somebody").unwrap();
    assert_eq!((any.dbname.as_str(), any.size, any.mode), ("other", 1, PoolMode::Transaction));
    assert_eq!(config.profile("free", "somebody").unwrap().database_server_max, None);
}

#[test]
fn a_database_nobody_configured_has_no_profile() {
    let config = read(&format!("{MAIN}[databases.app]\ncluster = \"main\"\n")).unwrap();
    assert!(config.profile("app", "x").is_some());
    assert!(config.profile("other", "x").is_none());
}

#[test]
fn the_contracts_example_loads() {
    let text = r#"
[limits]
max_client_connections = 10000
workers = "auto"

[[listeners]]
address = "0.0.0.0:6432"

[[listeners]]
address = "unix:/run/howdah"

[pool]
mode = "transaction"
size = 20
prepared_statements = 200

[timeouts]
query_wait = "120s"
client_login = "60s"
server_connect = "15s"
server_lifetime = "1h"
server_idle = "10min"
server_check_delay = "30s"
cancel_wait = "10s"
shutdown = "30s"

[auth]
method = "scram-sha-256"

[users.app]
password = "secret"

[clusters.main.monitor]
user = "howdah"
interval = "500ms"
timeout = "1s"
failure_threshold = 3

[[clusters.main.nodes]]
name = "a"
host = "10.0.0.1"
port = 5432

[[clusters.main.nodes]]
name = "b"
host = "10.0.0.2"
tls = { mode = "verify-full" }

[databases.app]
cluster = "main"

[databases."*"]
cluster = "main"

[http]
address = "127.0.0.1:6433"

[log]
level = "info"
format = "text"
connections = true
"#;
    let config = read(text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.clusters["main"].nodes.len(), 2);
    assert_eq!(config.clusters["main"].monitor.interval.get().as_millis(), 500);
    assert_eq!(config.listeners.len(), 2);
}

#[test]
fn a_reload_says_what_waits_for_a_restart_and_nothing_else() {
    let running = read("").unwrap();
    let live = "[pool]\nsize = 3\n[log]\nlevel = \"debug\"\n[limits]\nmax_client_connections = 5\n[auth]\n\
                method = \"trust\"\n[[listeners]]\naddress = \"127.0.0.1:6432\"\ntls = { mode = \"disable\" }\n";
    assert_eq!(compare(&running, &read(live).unwrap()), []);
    let restart = "[limits]\nworkers = 3\n[http]\naddress = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:6435\"\n";
    let changes: Vec<String> = compare(&running, &read(restart).unwrap()).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "limits.workers: \"3\" needs a restart, \"auto\" stays until then",
            "listeners: \"127.0.0.1:6435\" needs a restart, \"127.0.0.1:6432\" stays until then",
            "http.address: \"off\" needs a restart, \"127.0.0.1:6433\" stays until then",
        ]
    );
}

#[test]
fn a_file_that_is_not_there_is_one_problem() {
    let problems = load(Path::new("/nowhere/howdah.toml")).unwrap_err().to_string();
    assert_eq!(problems, "/nowhere/howdah.toml: cannot be read: No such file or directory (os error 2)");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "([\\[\\]{}=\", .\n#0-9]|pool|size|users|app|clusters|nodes|tls|ü){0,40}") {
        let _ = read(&text);
    }
}
