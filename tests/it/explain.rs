//! howdah says what a statement is, where it would go and why: by itself, and as a running daemon sees it.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Cluster, Howdah, SOON, Tenant, binary, config, eventually, free_port, poll};

fn howdah(arguments: &[&OsStr], input: Option<&[u8]>) -> Output {
    let mut command = Command::new(binary());
    command.arg("route").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    if let Some(input) = input {
        stdin.write_all(input).unwrap();
    }
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn route(arguments: &[&str]) -> Output {
    howdah(&arguments.iter().map(OsStr::new).collect::<Vec<_>>(), None)
}

/// What it says, if it ends well.
#[track_caller]
fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_str(&said(output)).unwrap()
}

/// What it complains of, with the exit code it has then.
#[track_caller]
fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn without_a_daemon_the_text_speaks_for_itself() {
    let text = said(&route(&["SELECT f(balance) FROM accounts WHERE id = 7"]));
    for part in ["read, if all it names only reads", "select f(balance) from accounts where id = ?", "functions    f\n"]
    {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let offline = json(&route(&["-d", "app", "-U", "app", "--offline", "--json", "UPDATE t SET a = 1"]));
    assert_eq!((&offline["class"], &offline["reason"]), (&"write".into(), &"changes_data".into()));
    assert_eq!((&offline["catalogue"], &offline["routing"]), (&"not_needed".into(), &Value::Null));

    let from_input = |sql: &[u8]| json(&howdah(&["--json".as_ref(), "-".as_ref()], Some(sql)));
    assert_eq!(from_input(b"select 1;\n")["fingerprint"], "select ?");
    assert_eq!(from_input(b"select 'open")["reason"], "not_text");
    assert_eq!(from_input(b"select 'caf\xe9'")["reason"], "not_text");
    assert_eq!(from_input(b"")["reason"], "empty");
    let megabytes = from_input(&b"select 1 and ".repeat(300_000));
    assert_eq!((&megabytes["reason"], &megabytes["fingerprint"]), (&"too_long".into(), &Value::Null));
    let argument = OsString::from_vec(b"select '\xff'".to_vec());
    assert_eq!(json(&howdah(&["--json".as_ref(), &argument], None))["class"], "unknown");
}

#[test]
fn who_cannot_be_asked_is_named() {
    let nobody = free_port().unwrap().to_string();
    let asked = |api: &str| refused(&route(&["-d", "app", "-U", "app", "--api", api, "select 1"]), 1);
    let told = asked(&format!("127.0.0.1:{nobody}"));
    assert!(told.contains("no answer from the daemon at 127.0.0.1:") && told.contains("--offline"), "{told}");
    assert!(asked("unix:/nonexistent/api.sock").contains("unix:/nonexistent/api.sock"));
    let told = refused(&route(&["-d", "app", "-U", "app", "-c", "/nonexistent.toml", "select 1"]), 1);
    assert!(told.contains("/nonexistent.toml") && told.contains("--api"), "{told}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = socket.read(&mut request).unwrap();
        socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").unwrap();
    });
    assert!(asked(&other).contains("answers 404"));
    server.join().unwrap();

    for wrong in
        [&["-d", "app", "select 1"][..], &["-d", "a", "-U", "b"], &["--api", "nonsense", "-d", "a", "-U", "b", "x"]]
    {
        refused(&route(wrong), 2);
    }
}

/// A POST of any body: status and answer.
pub fn post(port: u16, body: &[u8]) -> (u16, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let length = body.len();
    let head = format!("POST /route HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    let _ = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body)); // it may have heard enough
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_running_daemon_says_which_node_and_why_not_the_others() {
    let cluster = Cluster::builder().standby("b").standby("c").start().unwrap_or_else(|error| panic!("{error}"));
    let tenant = Tenant::on(cluster.primary());
    let owner = |sql: &str| cluster.primary().sql_in(&tenant.name, sql).unwrap();
    owner("CREATE TABLE t (i int)");
    owner("GRANT ALL ON t TO public");
    owner("CREATE FUNCTION audited() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1'");
    owner("CREATE VIEW v AS SELECT audited()");
    cluster.wait_streaming(SOON).unwrap();
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    // reads go to b as long as it can
    let toml = config(cluster.nodes(), port, http_port, "[routing]\nfresh_wait = \"2s\"\n")
        .replace("name = \"c\"\n", "name = \"c\"\nweight = 0\n")
        + &format!("[databases.writer]\ncluster = \"main\"\ndbname = \"{}\"\nrole = \"primary\"\n", tenant.name);
    let daemon = Howdah::start(&toml, port, http_port);
    let file = daemon.config();
    let ask = |sql: &str| {
        let arguments = ["-c", file.to_str().unwrap(), "-d", &tenant.name, "-U", &tenant.name, "--json", sql];
        json(&route(&arguments))
    };
    let node = |answer: &Value, name: &str| -> Value {
        let nodes = answer["routing"]["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["name"] == name).cloned().unwrap()
    };

    // a database nobody has connected to: its catalogue is read for the question
    let answer = poll(SOON, || Some(ask("SELECT count(*) FROM t")).filter(|it| it["routing"]["node"] == "b"));
    let answer = answer.unwrap_or_else(|| panic!("{}", ask("SELECT count(*) FROM t")));
    assert_eq!((&answer["class"], &answer["catalogue"]), (&"read".into(), &"read".into()), "{answer}");
    assert_eq!(node(&answer, "b")["chosen"], true);
    assert_eq!(node(&answer, "a")["why"], "the primary: reads go to replicas");
    assert_eq!(node(&answer, "c")["why"], "fit, but its weight is 0 and others can");
    assert_eq!(answer["routing"]["after_write"]["node"], "b", "{answer}");

    // as it is
    let mut client = daemon.login(&tenant);
    let b_port = cluster.find("b").unwrap().port().to_string();
    assert_eq!(client.value("/* howdah: replica */ SELECT current_setting('port')"), b_port);
    assert_eq!(node(&ask("SELECT 1"), "b")["sessions"], 1);

    for (sql, class, reason, to, culprit) in [
        ("INSERT INTO t VALUES (1)", "write", "changes_data", "a", None),
        ("SELECT audited()", "write", "writing_function", "a", Some("audited")),
        ("SELECT * FROM v", "write", "writing_name", "a", Some("v")),
        ("SELECT nowhere(1)", "unknown", "unknown_function", "a", Some("nowhere")),
        ("/* howdah: primary */ SELECT 1", "write", "hint_primary", "a", None),
        ("/* howdah: replica */ SELECT audited()", "read", "hint_replica", "b", None),
        ("BEGIN READ ONLY", "read_only_begin", "begin_read_only", "b", None),
        ("SELECT 'open", "unknown", "not_text", "a", None),
    ] {
        let answer = ask(sql);
        assert_eq!((&answer["class"], &answer["reason"]), (&class.into(), &reason.into()), "{sql}");
        assert_eq!(answer["routing"]["node"], to, "{sql}");
        let blamed = answer["depends_on"].as_array().unwrap().iter();
        let mut blamed = blamed.filter(|it| it["standing"] == "may_write" || it["standing"] == "unknown");
        assert_eq!(blamed.next().map(|it| it["name"].as_str().unwrap()), culprit, "{sql}: {answer}");
    }
    let api = format!("127.0.0.1:{http_port}");
    let by_api = |database: &str, sql: &str| route(&["-d", database, "-U", "somebody", "--api", &api, sql]);
    let text = said(&by_api("writer", "SELECT 1"));
    assert!(text.contains("role = \"primary\"") && text.contains("-> a"), "{text}");
    let text = said(&by_api("no_such_database", "SELECT f()"));
    assert!(text.contains("database \"no_such_database\" does not exist") && text.contains("-> a"), "{text}");
    let long = howdah(
        &["-d", "x", "-U", "x", "--api", &api, "--json", "-"].map(OsStr::new),
        Some(&b"select '\xff' || ".repeat(100_000)),
    );
    assert_eq!(json(&long)["reason"], "too_long");
    let odd = howdah(&["-d", "x", "-U", "x", "--api", &api, "--json", "-"].map(OsStr::new), Some(b"select '\xff'"));
    assert_eq!((&json(&odd)["reason"], &json(&odd)["routing"]["node"]), (&"not_text".into(), &"a".into()));

    // one that has written does not read from a standby that has not replayed it
    cluster.find("b").unwrap().sql("SELECT pg_wal_replay_pause()").unwrap();
    client.query("INSERT INTO t VALUES (2)");
    eventually("c has what b has not", SOON, || {
        let answer = ask("SELECT 1");
        let after = &answer["routing"]["after_write"];
        let short = after["nodes"][0]["why"].as_str().unwrap().contains("of the log short of what was written");
        short && after["node"] == "c" && answer["routing"]["node"] == "b"
    });
    cluster.find("b").unwrap().sql("SELECT pg_wal_replay_resume()").unwrap();
    cluster.find("c").unwrap().kill().unwrap();
    eventually("c is not healthy", SOON, || {
        node(&ask("SELECT 1"), "c")["why"].as_str().unwrap().starts_with("not healthy")
    });

    // what was counted meanwhile
    let status = daemon.status();
    assert!(status["routing"]["events"]["to_replica"].as_u64() >= Some(1), "{}", status["routing"]);
    assert!(status["routing"]["reasons"]["changes_data"].as_u64() >= Some(1), "{}", status["routing"]);
    assert_eq!(status["routing"]["reasons"].get("vacuum"), None);
    assert_eq!(status["panics"], 0);
    let shown = &status["clusters"][0];
    assert!(shown["sample_lsn"].as_str().unwrap().contains('/') && shown["era"].is_u64(), "{shown}");
    assert_eq!(shown["nodes"][1]["sessions"], 1, "{shown}");

    let (code, answer) = post(http_port, &vec![b' '; 1 << 20]);
    assert_eq!((code, answer.contains("larger than 128 kB")), (413, true), "{answer}");
    for wrong in ["", "[]", "{\"database\":\"a\"}", "{\"database\":\"a\",\"user\":\"b\",\"sq\":\"\"}", "\u{fffd}"] {
        assert_eq!(post(http_port, wrong.as_bytes()).0, 400, "{wrong}");
    }
}

#[test]
fn a_daemon_is_found_by_its_socket_and_refuses_a_database_it_does_not_know() {
    let tenant = Tenant::shared();
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let socket = directory.path().join("api.sock");
    let port = free_port().unwrap();
    let toml = config(crate::support::shared().nodes(), port, 1, "")
        .replace("\"127.0.0.1:1\"", &format!("\"unix:{}\"", socket.display()))
        .replace("[databases.\"*\"]", &format!("[databases.{}]", tenant.name));
    let daemon = Howdah::start(&toml, port, 0);
    let ask = |database: &str, file: &Path| {
        route(&["-d", database, "-U", &tenant.name, "-c", file.to_str().unwrap(), "SELECT 1"])
    };
    eventually("there is a primary", SOON, || said(&ask(&tenant.name, &daemon.config())).contains("-> a"));
    let text = said(&ask(&tenant.name, &daemon.config()));
    assert!(text.contains("the cluster has one node only"), "{text}");
    let told = refused(&ask("unheard_of", &daemon.config()), 1);
    assert!(told.contains("no such database: \"unheard_of\""), "{told}");
    let by_address =
        route(&["-d", &tenant.name, "-U", "x", "--api", &format!("unix:{}", socket.display()), "SELECT 1"]);
    assert!(said(&by_address).contains("-> a"));
}
