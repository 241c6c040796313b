//! Files that are wrong, and what is said about them.

use std::path::Path;

use super::*;

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
fn a_list_wants_its_brackets_and_strings_in_them() {
    assert_eq!(
        said("[routing]\nread_functions = \"f\"\nwrite_functions = [\"g\", 1]\n"),
        [
            "2:18: routing.read_functions: expected a list of strings, found a string; write [\"f\"]",
            "3:19: routing.write_functions: expected a list of strings, found a number in it",
        ]
    );
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
    let lines = said("[raft]\nmembers = []\n[clusters.main.standby_of]\nhost = \"x\"\n");
    assert!(lines.iter().any(|line| line.starts_with("1:2: raft: unknown key; known here:")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("clusters.main.standby_of: unknown key")), "{lines:?}");
}

#[test]
fn all_errors_of_grammar_are_reported_at_once() {
    assert_eq!(
        said("[pool\n[log]\nlevel = info\nformat = \"text\"\nformat = \"json\"\n"),
        [
            "1:6: a bracket has no end; write ] behind the name",
            "3:9: a text without quotes; write it as in key = \"text\"",
            "5:1: format: is there twice; keep one of them: a table is written once, with all of its keys",
        ]
    );
}

#[test]
fn a_table_and_a_list_of_tables_are_told_apart() {
    assert_eq!(
        said("[[pool]]\nsize = 3\n[listeners]\naddress = \"127.0.0.1:1\"\n"),
        [
            "1:3: pool: expected one table, found a list; write [pool] with one pair of brackets",
            "3:2: listeners: expected a list of tables, found a table; write [[listeners]] with two pairs of brackets",
        ]
    );
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
    assert!(
        lines[0].contains("clusters.main.monitor.password: what PostgreSQL stores of a password is not enough"),
        "{lines:?}"
    );
    let text = MAIN.replace("user = \"howdah\"", "user = \"howdah\", password = \"secret\"");
    let config = read(&text).unwrap();
    assert_eq!(
        config.clusters["main"].monitor.as_ref().unwrap().resolved_password.as_ref().map(Secret::reveal),
        Some("secret")
    );
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
        private(&directory.path().join(file), "");
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
    assert!(node("a,b", "mode = \"require\", negotiation = \"direct\"").is_ok());
    assert!(node("db", "negotiation = \"direct\"").unwrap_err().contains("write mode = \"require\" or stricter"));
    assert!(node("db", "mode = \"verify-ca\"").unwrap_err().contains("which authority to trust"));
    assert!(node("db", "ca = \"ca.crt\"").unwrap_err().contains("\"ca\" is not used with mode \"prefer\""));
    assert!(node("/tmp", "mode = \"require\"").unwrap_err().contains("a Unix socket has no TLS"));
}

#[test]
fn a_file_that_is_not_there_is_one_problem() {
    let problems = load(Path::new("/nowhere/howdah.toml")).unwrap_err().to_string();
    assert_eq!(problems, "/nowhere/howdah.toml: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn a_mistyped_required_key_is_not_called_missing_too() {
    let text = MAIN.replace("host =", "hots =");
    assert_eq!(said(&text), ["4:24: clusters.main.nodes[0].hots: unknown key; did you mean \"host\"?"]);
}

#[test]
fn a_key_in_the_wrong_table_is_shown_the_right_one() {
    assert_eq!(
        said("max_client_connections = 5\n[pool]\nquery_wait = \"5s\"\n"),
        [
            "1:1: max_client_connections: unknown key; there is one in [limits]",
            "3:1: pool.query_wait: unknown key; there is one in [timeouts]",
        ]
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "([\\[\\]{}=\", .\n#0-9]|pool|size|users|app|clusters|nodes|tls|ü){0,40}") {
        let _ = read(&text);
    }
}

#[test]
fn what_became_of_a_commit_can_only_be_told_where_a_monitor_looks() {
    let text = |pool: &str, monitor: &str| {
        format!(
            "{pool}[clusters.m]\n{monitor}nodes = [{{ name = \"a\", host = \"db\" }}]\n[databases.app]\ncluster = \"m\"\n"
        )
    };
    let key = "commit_outcome = \"resolve\"\n";
    let (pool, monitor) = (format!("[pool]\n{key}"), "monitor.user = \"h\"\n");
    assert!(
        said(&text(&pool, ""))[0]
            .contains("pool.commit_outcome: \"resolve\" needs a monitor; write [clusters.m.monitor]")
    );
    let own = format!("{}[databases.app.pool]\n{key}", text("", ""));
    assert!(
        said(&own)[0].contains("databases.app.pool.commit_outcome: \"resolve\" needs a monitor"),
        "{:?}",
        said(&own)
    );
    assert!(read(&text(&pool, monitor)).is_ok() && read(&text("", "")).is_ok());
    assert!(read(&format!("{}[databases.app.pool]\ncommit_outcome = \"report\"\n", text(&pool, ""))).is_ok());
}
