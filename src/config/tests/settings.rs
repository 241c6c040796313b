//! Files that are right, and what they mean.

use super::*;

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
    assert_eq!(config.network.keepalive_idle.to_string(), "30s");
    assert_eq!((config.network.keepalive_count, config.network.tcp_user_timeout.limit()), (3, None));
    assert_eq!(config.http.address.to_string(), "127.0.0.1:6433");
    assert_eq!((config.log.level, config.log.format, config.log.connections), (LogLevel::Info, LogFormat::Text, true));
    assert!(config.profile("app", "app").is_none());
}

#[test]
fn a_password_comes_from_one_of_three_places() {
    let directory = tempfile::tempdir().unwrap();
    private(&directory.path().join("app.password"), "from file\r\n\n");
    let path = directory.path().join("howdah.toml");
    let text = "[users.a]\npassword = \"from text\"\n[users.b]\npassword_file = \"app.password\"\n\
                [users.c]\npassword_env = \"PATH\"\n[users.d]\npool.size = 1\n";
    private(&path, text);
    let config = load(&path).unwrap();
    let password = |user: &str| match config.users[user].credential.as_ref()? {
        Credential::Password(secret) => Some(secret.reveal().to_owned()),
        Credential::Verifier(_) | Credential::Md5(_) => panic!("not a password"),
    };
    assert_eq!(password("a").as_deref(), Some("from text"));
    assert_eq!(password("b").as_deref(), Some("from file"));
    assert_eq!(password("c"), std::env::var("PATH").ok());
    assert_eq!(password("d"), None);
    assert_eq!(config.users["b"].password_file, Some(directory.path().join("app.password")));
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
    assert_eq!(config.clusters["main"].monitor.as_ref().unwrap().interval.get().as_millis(), 500);
    assert_eq!(config.listeners.len(), 2);
}

#[test]
fn a_reload_says_what_waits_for_a_restart_and_nothing_else() {
    let running = read("").unwrap();
    let live = "[pool]\nsize = 3\n[log]\nlevel = \"debug\"\n[limits]\nmax_client_connections = 5\n[auth]\n\
                method = \"trust\"\n[[listeners]]\naddress = \"127.0.0.1:6432\"\ntls = { mode = \"disable\" }\n";
    assert_eq!(compare(&running, &read(live).unwrap()), []);
    let restart = "[limits]\nworkers = 3\n[http]\naddress = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:6435\"\n";
    let mut stored = running.clone();
    stored.store.kind = crate::config::StoreKind::Etcd; // which no file may say yet
    assert_eq!(compare(&running, &stored).iter().map(|change| &*change.key).collect::<Vec<_>>(), ["store.kind"]);
    let changes: Vec<String> = compare(&running, &read(restart).unwrap()).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        ["limits.workers: \"3\" needs a restart, \"auto\" stays until then: a client stays on the thread it came to",]
    );
}
