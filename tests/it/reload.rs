//! SIGHUP applies all of a change or nothing, and drops nobody.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::Stdio;

use crate::support::wire;
use crate::support::{Howdah, SOON, Tenant, connection_count, eventually, free_port, shared};

fn reloads(howdah: &Howdah) -> usize {
    howdah.log().matches(" reloaded ").count()
}

/// Replaces the file, and waits until it is in force.
#[track_caller]
fn reload(howdah: &Howdah, toml: &str) {
    let before = reloads(howdah);
    howdah.reload(toml);
    eventually("reloaded", SOON, || reloads(howdah) > before);
}

fn file(howdah: &Howdah) -> String {
    std::fs::read_to_string(howdah.config()).unwrap()
}

#[test]
fn a_pools_size_grows_and_shrinks_under_its_clients() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 1\n");
    let mut clients: Vec<_> = (0..4).map(|_| howdah.login(&tenant)).collect();
    clients[0].query("BEGIN");
    for client in &mut clients[1..] {
        client.send(&wire::query("BEGIN"));
    }
    eventually("they wait", SOON, || howdah.status()["pools"][0]["waiting"] == 3);
    reload(&howdah, &file(&howdah).replace("size = 1", "size = 4"));
    for client in &mut clients[1..] {
        assert_eq!(wire::short(&client.read_until_ready()), ["C:BEGIN", "Z:T"]);
    }
    assert_eq!(connection_count(shared().primary(), &tenant.name), 4);
    clients.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    reload(&howdah, &file(&howdah).replace("size = 4", "size = 2"));
    eventually("two are closed", SOON, || connection_count(shared().primary(), &tenant.name) == 2);
    clients.iter_mut().for_each(|client| assert_eq!(client.value("SELECT 1"), "1"));
    eventually("the books are right", SOON, || howdah.status()["pools"][0]["open"] == 2);
}

#[test]
fn timeouts_and_databases_change_for_clients_that_are_there() {
    let tenant = Tenant::shared();
    let other = Tenant::shared();
    let name = &tenant.name;
    let howdah = Howdah::shared("");
    let only = file(&howdah).replace("[databases.\"*\"]", &format!("[databases.{name}]"));
    reload(&howdah, &only);
    let mut client = howdah.login(&tenant);
    let connect_new =
        |howdah: &Howdah| howdah.wire().try_login(&[("user", name), ("database", "new")], &tenant.password).unwrap();
    assert_eq!(wire::error(&connect_new(&howdah)).code, "3D000");
    let more =
        format!("{only}\n[timeouts]\nquery = \"300ms\"\n\n[databases.new]\ncluster = \"main\"\ndbname = \"{name}\"\n");
    reload(&howdah, &more);
    assert_eq!(wire::short(&client.query("SELECT pg_sleep(600)")), ["T", "E:57014", "Z:I"]);
    let mut new = howdah.wire();
    new.login(name, &tenant.password, "new");
    assert_eq!(new.value("SELECT current_database()"), *name);
    // the name may come to mean another database: nobody is left in the old one
    reload(&howdah, &more.replace(&format!("dbname = \"{name}\""), &format!("dbname = \"{}\"", other.name)));
    assert_eq!(new.value("SELECT current_database()"), other.name);
    // and may go away
    reload(&howdah, &only);
    let _ = new.try_send(&wire::query("SELECT 1"));
    assert_eq!(wire::error(&new.read_until_closed()).code, "3D000");
    eventually("its servers are closed", SOON, || connection_count(shared().primary(), &other.name) == 0);
}

#[test]
fn a_file_with_mistakes_changes_nothing_and_every_mistake_is_in_the_log() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[timeouts]\nquery = \"1h\"\n");
    let mut client = howdah.login(&tenant);
    let good = file(&howdah);
    let bad =
        good.replace("query = \"1h\"", "query = \"100ms\"\nquerry_wait = \"1s\"\nread = 5") + "\n[pool]\nsize = 0\n";
    howdah.reload(&bad);
    eventually("refused", SOON, || howdah.log().contains("reload refused"));
    let log = howdah.log();
    for mistake in ["querry_wait", "query_wait", "read", "size"] {
        assert!(log.contains(mistake), "{mistake} is not in the log:\n{log}");
    }
    assert_eq!(client.value("SELECT 'x' FROM pg_sleep(0.4)"), "x");
    assert_eq!(howdah.login(&tenant).value("SELECT 'x' FROM pg_sleep(0.4)"), "x");
    reload(&howdah, &good.replace("1h", "100ms"));
    assert_eq!(wire::short(&client.query("SELECT pg_sleep(600)")), ["T", "E:57014", "Z:I"]);
}

/// The parts of a howdah.toml: key by table, a table of a list in brackets of its own.
#[derive(Clone)]
struct File(BTreeMap<String, BTreeMap<String, String>>);

impl File {
    fn new(howdah: &Howdah, tenant: &Tenant) -> Self {
        let node = shared().primary();
        let mut file = Self(BTreeMap::new());
        let (port, http_port) = (howdah.port(), howdah.http_port());
        file.set("[listeners]", "address", &format!("\"127.0.0.1:{port}\""));
        file.set("http", "address", &format!("\"127.0.0.1:{http_port}\""));
        file.set("databases.\"*\"", "cluster", "\"main\"");
        file.set("users.app.pool", "max_waiting", "1000");
        file.set("databases.app", "cluster", "\"main\"");
        file.set("databases.app", "dbname", &format!("\"{}\"", tenant.name));
        for (name, port) in [("main", node.port()), ("spare", 1)] {
            file.set(&format!("clusters.{name}.monitor"), "user", &format!("\"{}\"", node.superuser()));
            if name == "main" {
                file.set("clusters.main.monitor", "password", &format!("\"{}\"", node.password()));
            }
            let nodes = format!("[clusters.{name}.nodes]");
            file.set(&nodes, "name", "\"a\"");
            file.set(&nodes, "host", &format!("\"{}\"", node.host()));
            file.set(&nodes, "port", &port.to_string());
        }
        file
    }

    fn set(&mut self, table: &str, key: &str, value: &str) {
        self.0.entry(table.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (table, keys) in &self.0 {
            if !table.is_empty() {
                text += &format!("[{table}]\n");
            }
            keys.iter().for_each(|(key, value)| text += &format!("{key} = {value}\n"));
        }
        text
    }
}

/// The table that a key of the schema is written in here, and its name there.
fn written(key: &str) -> (String, String) {
    let key = key.replace("users.NAME", "users.app").replace("databases.NAME", "databases.app");
    let key = key.replace("clusters.NAME", "clusters.spare");
    let (table, name) = key.rsplit_once('.').unwrap_or(("", &key));
    match table.split_once("[]") {
        Some((list, "")) => (format!("[{list}]"), name.to_owned()),
        Some((list, inner)) => (format!("[{list}]"), format!("{}.{name}", inner.trim_start_matches('.'))),
        None => (table.to_owned(), name.to_owned()),
    }
}

/// Another value for a key, and what must be written beside it. A key of the schema without one fails the test.
fn another(key: &str, free: u16) -> Option<(String, Vec<(&'static str, &'static str, &'static str)>)> {
    let tls = ("[listeners]", "tls.mode", "\"disable\"");
    let node = ("[clusters.spare.nodes]", "tls.mode", "\"verify-full\"");
    let agent = ("[clusters.spare.nodes]", "agent", "\"unix:/nowhere/agent.sock\"");
    let user = ("databases.app", "user", "\"something\"");
    let observe = ("clusters.spare.failover", "mode", "\"observe\"");
    let quoted = |text: &str| format!("\"{text}\"");
    let name = key.rsplit('.').next().unwrap();
    let mut beside = vec![];
    let value = match key {
        "version" => "1".to_owned(),
        "http.address" => quoted(&format!("127.0.0.1:{free}")),
        "listeners[].address" => quoted(&format!("127.0.0.1:{free}")),
        // only for Unix sockets: a_listener_is_moved_… has them
        "listeners[].socket_mode" | "listeners[].socket_group" => return Some((String::new(), vec![])),
        "listeners[].tls.cert" => (beside.extend([tls, ("[listeners]", "tls.key", "\"x.key\"")]), quoted("x.crt")).1,
        "listeners[].tls.key" => (beside.extend([tls, ("[listeners]", "tls.cert", "\"x.crt\"")]), quoted("x.key")).1,
        "listeners[].tls.ca" => (beside.push(tls), quoted("x.crt")).1,
        "listeners[].tls.mode" => quoted("disable"),
        "auth.method" => quoted("md5"),
        "auth.hba_file" => (beside.push(("auth", "method", "\"hba\"")), quoted("hba")).1,
        "auth.ident_file" => quoted("empty"),
        "auth.users_file" => quoted("empty"),
        "auth.query" => quoted("SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1"),
        "auth.dbname" => {
            let query = "\"SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1\"";
            (beside.push(("auth", "query", query)), quoted("postgres")).1
        }
        "users.NAME.password_env" | "clusters.NAME.monitor.password_env" => quoted("PATH"),
        "clusters.NAME.nodes[].agent" => (beside.push(observe), quoted("unix:/nowhere/agent.sock")).1,
        "clusters.NAME.failover.mode" => (beside.push(agent), quoted("manual")).1,
        "clusters.NAME.primary" => (beside.push(agent), quoted("a")).1,
        "clusters.NAME.switchover.drain_timeout" => quoted("1s"),
        "databases.NAME.password" => (beside.push(user), quoted("something")).1,
        "databases.NAME.password_file" => (beside.push(user), quoted("password")).1,
        "databases.NAME.password_env" => (beside.push(user), quoted("PATH")).1,
        "clusters.NAME.nodes[].host" => quoted("localhost"),
        "clusters.NAME.nodes[].name" => quoted("b"),
        "clusters.NAME.nodes[].tls.mode" => quoted("require"),
        "clusters.NAME.nodes[].tls.negotiation" => (beside.push(node), quoted("direct")).1,
        "clusters.NAME.nodes[].tls.channel_binding" => (beside.push(node), quoted("require")).1,
        "clusters.NAME.nodes[].tls.ca" => (beside.push(node), quoted("x.crt")).1,
        "clusters.NAME.nodes[].tls.cert" => {
            (beside.push(("[clusters.spare.nodes]", "tls.key", "\"x.key\"")), quoted("x.crt")).1
        }
        "clusters.NAME.nodes[].tls.key" => {
            (beside.push(("[clusters.spare.nodes]", "tls.cert", "\"x.crt\"")), quoted("x.key")).1
        }
        "clusters.NAME.agents.ca" => quoted("x.crt"),
        "clusters.NAME.agents.cert" => (beside.push(("clusters.spare.agents", "key", "\"x.key\"")), quoted("x.crt")).1,
        "clusters.NAME.agents.key" => (beside.push(("clusters.spare.agents", "cert", "\"x.crt\"")), quoted("x.key")).1,
        "databases.NAME.cluster" => quoted("spare"),
        "databases.NAME.dbname" => quoted("postgres"),
        "http.read_token_file" => {
            (beside.push(("http", "admin_token_file", "\"admin.token\"")), quoted("read.token")).1
        }
        "http.admin_token_file" => quoted("admin.token"),
        "store.kind" => return Some((String::new(), vec![])), // there is only one yet
        "store.path" => quoted("elsewhere"),
        "log.format" => quoted("json"),
        "log.level" => quoted("warn"),
        "stats.queries_file" => quoted("empty"),
        _ => match name {
            "password_file" => quoted("password"),
            "password" | "user" | "connect_query" => quoted("something"),
            "mode" => quoted("session"),
            "role" => quoted("primary"),
            "pins" => quoted("forbid"),
            "commit_outcome" => quoted("resolve"),
            "replay_buffer" | "max_lag" | "max_lag_on_failover" | "slot_wal_max" => quoted("1MB"),
            "balance" => quoted("round_robin"),
            "consistency" => quoted("eventual"),
            "durability" => quoted("async"),
            "lease" => quoted("off"),
            "on_open" => quoted("kill"),
            "replication_host" => quoted("10.1.0.1"),
            "replication_port" | "port" => "7".to_owned(),
            "workers" => "3".to_owned(),
            "hints" | "connections" | "log" | "statements" => "false".to_owned(),
            "read_functions" | "write_functions" | "users" | "stats_users" => "[\"nobody\"]".to_owned(),
            "size"
            | "prepared_statements"
            | "max_client_connections"
            | "failure_threshold"
            | "priority"
            | "weight"
            | "keepalive_count" => "50".to_owned(),
            "min_size"
            | "reserve_size"
            | "max_waiting"
            | "max_server_connections"
            | "max_user_server_connections"
            | "max_user_client_connections" => "40".to_owned(),
            _ if key.contains("timeouts.") || key.starts_with("network.") => quoted("95s"),
            "reserve_timeout" | "fresh_wait" | "dbname" | "interval" | "timeout" | "lag_interval" | "restart_if"
            | "flap_window" | "hold_timeout" | "drain_timeout" | "period" => quoted("7s"),
            _ => return None,
        },
    };
    Some((value, beside))
}

/// `POST /reload`: its status and its answer.
fn post_reload(port: u16, token: &str) -> Option<(u16, serde_json::Value)> {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    let head = "POST /reload HTTP/1.1\r\nhost: howdah\r\nconnection: close\r\ncontent-length: 0\r\n";
    write!(socket, "{head}authorization: Bearer {token}\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).unwrap_or_default()))
}

#[test]
fn every_key_of_the_schema_is_reloaded_or_named_under_pgbench_without_one_failed_statement() {
    const TOKEN: &str = "0123456789abcdef-admin";
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("");
    let directory = howdah.config().parent().unwrap().to_owned();
    let put = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(directory.join(name), text).unwrap();
        std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    put("empty", "");
    put("hba", "host all all all scram-sha-256\n");
    put("password", "something\n");
    put("admin.token", &format!("{TOKEN}\n"));
    put("read.token", "0123456789abcdef-read\n");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    put("x.crt", &made.cert.pem());
    put("x.key", &made.signing_key.serialize_pem());
    let base = File::new(&howdah, &tenant);
    let (port, free) = (howdah.port().to_string(), free_port().unwrap());
    let mut http_port = howdah.http_port();
    let pgbench = |arguments: &[&str]| {
        let mut command = shared().primary().command("pgbench");
        command.args(arguments).args(["-h", "127.0.0.1", "-p", &port, "-U", &tenant.name, &tenant.name]);
        command.env("PGPASSWORD", &tenant.password).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let made = pgbench(&["-i", "-q"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut bench = pgbench(&["-c", "4", "-j", "4", "-T", "30", "-M", "prepared", "-n"]).spawn().unwrap();
    let (mut under_load, mut trouble) = (0, Vec::new());
    for (key, live) in howdah::config::keys() {
        let Some((value, beside)) = another(&key, free) else {
            trouble.push(format!("{key} has no case in this test"));
            continue;
        };
        if value.is_empty() {
            continue;
        }
        let (table, name) = written(&key);
        let mut changed = base.clone();
        beside.iter().for_each(|(table, name, value)| changed.set(table, name, value));
        changed.set(&table, &name, &value);
        std::fs::write(howdah.config(), changed.text()).unwrap();
        let Some((status, answer)) = post_reload(http_port, TOKEN) else {
            panic!("{key}: no answer\n{}", howdah.log())
        };
        under_load += usize::from(bench.try_wait().unwrap().is_none());
        if status != 200 {
            trouble.push(format!("{key}: {status} {answer}\n{}", changed.text()));
            continue;
        }
        if key == "http.address" {
            http_port = free;
            eventually("the API has moved", SOON, || post_reload(free, TOKEN).is_some());
        }
        let rows = answer[if live { "changed" } else { "restart" }].as_array().unwrap();
        let named = |row: &serde_json::Value| {
            let row = row["key"].as_str().unwrap_or_default();
            row.ends_with(&name)
                || row.contains(&format!("[{free}"))
                || row.contains(&format!(":{free}]"))
                || row.ends_with("[b]")
        };
        if key != "version" && !rows.iter().any(named) {
            trouble.push(format!("{key}: not named in {answer}"));
        }
        std::fs::write(howdah.config(), base.text()).unwrap();
        let back = post_reload(http_port, TOKEN);
        under_load += usize::from(bench.try_wait().unwrap().is_none());
        http_port = howdah.http_port();
        if back.as_ref().is_none_or(|(status, _)| *status != 200) {
            trouble.push(format!("{key}: the way back: {back:?}"));
        }
        if key == "http.address" {
            eventually("the API is back", SOON, || post_reload(http_port, TOKEN).is_some());
        }
    }
    let done = bench.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(trouble.is_empty(), "{}", trouble.join("\n"));
    assert!(done.status.success() && said.contains("number of failed transactions: 0"), "{said}");
    assert!(under_load >= 50, "only {under_load} reloads while pgbench ran");
}

#[test]
fn a_listener_is_moved_added_and_removed_while_clients_who_came_by_it_stay() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[timeouts]\nquery_wait = \"2s\"\n");
    let mut client = howdah.login(&tenant);
    let (port, other, first) = (howdah.port(), free_port().unwrap(), file(&howdah));
    let at = |port: u16| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    let address = |address: &str| first.replace(&format!("\"127.0.0.1:{port}\""), &format!("\"{address}\""));
    // added, and to replicas only, of which there are none
    let role = format!("[[listeners]]\naddress = \"127.0.0.1:{other}\"\nrole = \"replica\"\n\n");
    reload(&howdah, &(role + &first));
    let mut replica = wire::Client::connect(("127.0.0.1", other)).unwrap();
    replica.login(&tenant.name, &tenant.password, &tenant.name);
    assert_eq!(replica.query_short("SELECT 1").first().map(String::as_str), Some("E:57P03"));
    // moved
    reload(&howdah, &address(&format!("127.0.0.1:{other}")));
    eventually("the old one is closed", SOON, || !at(port));
    assert!(at(other));
    assert_eq!(client.value("SELECT 1"), "1");
    // to every interface at a port that is ours: both stand there for a moment
    reload(&howdah, &address(&format!("0.0.0.0:{other}")));
    eventually("it listens", SOON, || at(other));
    reload(&howdah, &first);
    eventually("it is back", SOON, || at(port) && !at(other));
    // the API likewise, and back
    let http = howdah.http_port();
    let api = first.replace(&format!("\"127.0.0.1:{http}\""), &format!("\"0.0.0.0:{http}\""));
    for text in [&api, &first] {
        reload(&howdah, text);
        eventually("the API answers", SOON, || howdah.get("/readyz").is_some_and(|(status, _)| status == 200));
    }
    // a port that is somebody else's
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_at = taken.local_addr().unwrap();
    howdah.reload(&address(&taken_at.to_string()));
    eventually("refused", SOON, || howdah.log().contains("reload refused"));
    assert!(
        howdah.log().contains(&format!("howdah.toml:2:11: listeners[0].address: listener {taken_at}")),
        "{}",
        howdah.log()
    );
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
    // a socket file: its permissions follow
    let directory = howdah.config().parent().unwrap().display().to_string();
    let unix = |mode: &str| {
        first.clone() + &format!("[[listeners]]\naddress = \"unix:{directory}\"\nsocket_mode = \"{mode}\"\n")
    };
    reload(&howdah, &unix("0700"));
    let mode = || {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(format!("{directory}/.s.PGSQL.6432")).map_or(0, |file| file.permissions().mode() & 0o777)
    };
    assert_eq!(mode(), 0o700);
    reload(&howdah, &unix("0770"));
    assert_eq!(mode(), 0o770);
    // and so does its group: as root any, else one's own
    let said = |command: &str, arguments: &[&str]| {
        let output = std::process::Command::new(command).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let group = if said("id", &["-u"]) == "0" { "nogroup".to_owned() } else { said("id", &["-gn"]) };
    reload(&howdah, &(unix("0770") + &format!("socket_group = \"{group}\"\n")));
    assert_eq!(said("stat", &["-c", "%G %a", &format!("{directory}/.s.PGSQL.6432")]), format!("{group} 770"));
    reload(&howdah, &first);
    eventually("the file is gone", SOON, || mode() == 0);
    assert_eq!(client.value("SELECT 2"), "2");
}

#[test]
fn the_api_says_what_has_changed_what_waits_and_every_problem_with_its_place() {
    let howdah = Howdah::shared("[limits]\nworkers = 1\n\n[pool]\nsize = 3\n");
    let first = file(&howdah);
    let answer = |text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(howdah.config(), text).unwrap();
        std::fs::set_permissions(howdah.config(), std::fs::Permissions::from_mode(0o600)).unwrap(); // it holds a password
        post_reload(howdah.http_port(), "").unwrap()
    };
    let (status, said) = answer(&first.replace("size = 3", "size = 4").replace("workers = 1", "workers = 2"));
    assert_eq!(status, 200);
    assert_eq!(said["changed"][0]["key"], "pool.size");
    assert_eq!((said["changed"][0]["from"].as_str(), said["changed"][0]["to"].as_str()), (Some("3"), Some("4")));
    assert_eq!(said["restart"][0]["key"], "limits.workers");
    let (status, said) = answer(&first.replace("size = 3", "size = 0\nsise = 1"));
    assert_eq!(status, 422);
    let problems = said["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{said}");
    assert_eq!((problems[0]["key"].as_str(), problems[0]["column"].as_u64()), (Some("pool.size"), Some(8)));
    assert!(problems[1]["advice"].as_str().unwrap().contains("size"), "{said}");
    let (status, said) = answer(&format!("{first}\n[store]\nkind = \"etcd\"\n"));
    assert_eq!((status, said["problems"][0]["key"].as_str()), (422, Some("store.kind")), "{said}");
    let metric = |name: &str| {
        let page = howdah.get("/metrics").unwrap().1;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse::<f64>().unwrap()
    };
    assert!(metric("howdah_config_reload_duration_seconds") > 0.0);
    let counts = [("applied", 1.0), ("refused", 2.0)];
    counts.iter().for_each(|(outcome, n)| {
        assert!(
            (metric(&format!("howdah_config_reloads_total{{outcome=\"{outcome}\"}}")) - n).abs() < 0.5,
            "{outcome}"
        );
    });
    std::fs::remove_file(howdah.config()).unwrap();
    assert_eq!(post_reload(howdah.http_port(), "").unwrap().0, 422);
    assert_eq!(howdah.get("/readyz").unwrap().0, 200);
    let (status, said) = answer(&first);
    assert_eq!((status, said["changed"][0]["to"].as_str()), (200, Some("3")), "{said}");
}

#[test]
fn what_needs_a_restart_is_said_each_time_and_stays_as_it_was() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[limits]\nworkers = 1\n");
    let first = file(&howdah);
    let changed = first.replace("workers = 1", "workers = 2") + "\n[store]\npath = \"elsewhere\"\n";
    for times in 1..=2 {
        reload(&howdah, &changed);
        for key in ["limits.workers", "store.path"] {
            let said = howdah.log().lines().filter(|line| line.contains("next start") && line.contains(key)).count();
            assert_eq!(said, times, "{}", howdah.log());
        }
    }
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
    reload(&howdah, &first);
    assert_eq!(howdah.log().matches("next start").count(), 4);
}
