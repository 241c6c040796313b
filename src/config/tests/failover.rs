//! Who fails over, with what, and who may ask for it.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A cluster of two nodes; what stands in its table, and what in that of each node.
fn two(cluster: &str, a: &str, b: &str) -> String {
    format!(
        "[clusters.main]\n{cluster}\n[clusters.main.monitor]\nuser = \"howdah\"\n\
         [[clusters.main.nodes]]\nname = \"a\"\nhost = \"10.0.0.1\"\n{a}\n\
         [[clusters.main.nodes]]\nname = \"b\"\nhost = \"10.0.0.2\"\n{b}\n"
    )
}

const A: &str = "agent = \"unix:/run/a.sock\"";
const B: &str = "agent = \"unix:/run/b.sock\"";

#[test]
fn who_fails_over_follows_from_the_agents_unless_it_is_said() {
    let mode = |text: &str| read(text).unwrap().clusters["main"].failover_mode();
    assert_eq!(mode(&two("", "", "")), FailoverMode::Observe);
    assert_eq!(mode(&two("", A, "")), FailoverMode::Observe);
    assert_eq!(mode(&two("", A, B)), FailoverMode::Automatic);
    assert_eq!(mode(&two("failover.mode = \"manual\"", A, B)), FailoverMode::Manual);
    assert_eq!(mode(&two("failover.mode = \"observe\"", A, B)), FailoverMode::Observe);
}

#[test]
fn the_defaults_of_failover_are_those_of_the_design() {
    let config = read(&two("", A, B)).unwrap();
    let cluster = &config.clusters["main"];
    assert_eq!(cluster.failover.max_lag_on_failover.to_string(), "16MB");
    assert_eq!(cluster.failover.restart_if.to_string(), "2s");
    assert_eq!((cluster.failover.durability, cluster.failover.lease), (Durability::Async, Lease::Off));
    assert_eq!(cluster.switchover.hold_timeout.to_string(), "5s");
    assert_eq!(cluster.switchover.drain_timeout.to_string(), "2s");
    assert_eq!(cluster.switchover.on_open, OnOpen::Abort);
    assert_eq!(cluster.nodes[0].priority, 100);
    assert_eq!(cluster.nodes[0].replication_place(), ("10.0.0.1".to_owned(), 5432));
    assert_eq!((config.store.kind, config.store.path.to_str()), (StoreKind::Local, Some("/var/lib/howdah")));
    let elsewhere = read(&two("", "replication_host = \"10.1.0.1\"\nreplication_port = 6000", "")).unwrap();
    assert_eq!(elsewhere.clusters["main"].nodes[0].replication_place(), ("10.1.0.1".to_owned(), 6000));
    let relative = read("[store]\npath = \"state\"\n").unwrap();
    assert_eq!(relative.store.path.to_str(), Some("/etc/howdah/state"));
}

#[track_caller]
fn is_said(text: &str, words: &str) {
    let lines = said(text);
    assert!(lines.len() == 1 && lines[0].contains(words), "{lines:?}");
}

#[test]
fn what_contradicts_itself_about_failover_is_said() {
    is_said(
        &two("failover.mode = \"automatic\"", A, ""),
        "failover.mode: mode \"automatic\" needs an agent beside every node: none at node \"b\"",
    );
    is_said(
        &two("failover.mode = \"manual\"", "", ""),
        "none at nodes \"a\", \"b\"; write \"agent\" there, or mode = \"observe\"",
    );
    is_said(&two("failover.durability = \"sync\"", A, B), "\"sync\" is not built yet; write \"async\"");
    is_said(&two("failover.lease = \"on\"", A, B), "failover.lease: \"on\" is not valid here; valid: \"off\"");
    is_said(&two("primary = \"c\"", A, B), "primary: there is no node \"c\"; the nodes are: a, b");
    is_said(&two("primary = \"b\"", A, ""), "the failover mode is \"observe\": howdah changes no primary");
    is_said(&two("primary = \"b\"", A, &format!("{B}\npriority = 0")), "has priority 0: it is never promoted");
    is_said(&two("", A, A), "\"unix:/run/a.sock\" is the agent of node \"a\"");
    is_said(&two("switchover.drain_timeout = \"5s\"", A, B), "5s leave nothing of the hold_timeout of 5s");
    is_said(&two("switchover.on_open = \"wait\"", A, B), "valid: \"abort\", \"kill\"");
    is_said(&two("", "agent = \"10.0.0.1:6434\"", ""), "agent: \"10.0.0.1:6434\" is not an agent's address");
    is_said("[store]\nkind = \"raft\"\n", "a store of kind \"raft\" is not built yet; write \"local\"");
}

#[test]
fn agents_over_a_network_need_mutual_tls() {
    let https = "agent = \"https://10.0.0.1:6434\"";
    is_said(&two("", https, ""), "needs mutual TLS: [clusters.main.agents] lacks ca, cert, key");
    let directory = tempfile::tempdir().unwrap();
    for file in ["ca", "cert", "key"] {
        private(&directory.path().join(file), "");
    }
    let path = directory.path().join("howdah.toml");
    std::fs::write(&path, two("agents = { ca = \"ca\", cert = \"cert\", key = \"key\" }", https, "")).unwrap();
    let config = load(&path).unwrap();
    assert_eq!(config.clusters["main"].agents.key, Some(directory.path().join("key")));
    std::fs::write(&path, two("agents = { ca = \"ca\", cert = \"cert\" }", "", "")).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("\"cert\" without \"key\""));
}

#[test]
fn tokens_are_files_that_not_everybody_reads() {
    let directory = tempfile::tempdir().unwrap();
    let token = |name: &str, text: &str, mode: u32| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    token("admin", "0123456789abcdef-admin\nmore\n", 0o640);
    token("read", "0123456789abcdef-read\n", 0o600);
    token("open", "0123456789abcdef-open\n", 0o644);
    token("short", "secret\n", 0o600);
    let path = directory.path().join("howdah.toml");
    let load = |http: &str| {
        std::fs::write(&path, format!("[http]\n{http}\n")).unwrap();
        load(&path)
    };
    let http = load("admin_token_file = \"admin\"\nread_token_file = \"read\"").unwrap().http;
    assert_eq!(http.admin_token.unwrap().reveal(), "0123456789abcdef-admin");
    assert_eq!(http.read_token.unwrap().reveal(), "0123456789abcdef-read");
    for (text, words) in [
        ("admin_token_file = \"open\"", "holds a secret, and others can read or change it (mode 0644)"),
        ("admin_token_file = \"short\"", "no token of 16 characters"),
        ("admin_token_file = \"missing\"", "cannot be read"),
        ("read_token_file = \"read\"", "a token to look needs one to change things"),
        ("admin_token_file = \"admin\"\nread_token_file = \"admin\"", "the same token"),
    ] {
        let problems = load(text).unwrap_err().to_string();
        assert!(problems.contains(words) && !problems.contains("0123"), "{problems}");
    }
}

#[test]
fn a_store_moves_only_with_a_restart_and_everything_else_about_failover_at_once() {
    let before = read(&two("", A, B)).unwrap();
    let mut after =
        read(&(two("failover.mode = \"manual\"\nprimary = \"b\"", A, B) + "[store]\npath = \"/new\"\n")).unwrap();
    let changes: Vec<String> = compare(&before, &after).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "store.path: \"/new\" needs a restart, \"/var/lib/howdah\" stays until then: what is under way is written where it was begun"
        ]
    );
    keep_running(&before, &mut after);
    assert_eq!(after.store, before.store);
    assert_eq!(after.clusters["main"].failover_mode(), FailoverMode::Manual);
}
