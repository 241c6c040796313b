//! How soon a node that does not answer is known to: `interval`, `timeout` and `failure_threshold` of `[clusters.NAME.monitor]`, each
//! changed by a reload.

use std::time::{Duration, Instant};

use crate::standbys::shared_three;
use crate::support::{Howdah, Node, SOON, config, eventually, free_port, poll};

/// The three, in milliseconds and times.
type Checks = (u64, u64, u32);

/// The bounds of a machine that has other things to do.
const TRIES: usize = 5;

fn toml(nodes: &[Node], ports: (u16, u16), (interval, timeout, threshold): Checks) -> String {
    let checks = format!(
        "\ninterval = \"{interval}ms\"\nlag_interval = \"{interval}ms\"\ntimeout = \"{timeout}ms\"\nfailure_threshold = {threshold}\n"
    );
    config(nodes, ports.0, ports.1, "").replace("[clusters.main.monitor]", &format!("[clusters.main.monitor]{checks}"))
}

fn is_healthy(howdah: &Howdah, name: &str) -> bool {
    let status = howdah.status();
    let nodes = status["clusters"][0]["nodes"].as_array().cloned().unwrap_or_default();
    nodes.iter().any(|node| node["name"] == name && node["healthy"] == true)
}

/// When the monitor was last heard, in the node's words.
fn last_asked(node: &Node) -> Option<String> {
    let sql = "SELECT max(query_start) FROM pg_stat_activity WHERE application_name = 'howdah monitor'";
    node.sql(sql).ok()?.cell().map(str::to_owned)
}

/// Stops all processes of the node right after it was asked; how long howdah takes it for healthy still.
#[track_caller]
fn detection(howdah: &Howdah, node: &Node) -> Duration {
    eventually("it is healthy", SOON, || is_healthy(howdah, node.name()) && last_asked(node).is_some());
    let before = last_asked(node);
    assert!(poll(SOON, || (last_asked(node) != before).then_some(())).is_some(), "nobody asks");
    node.freeze();
    let since = Instant::now();
    let noticed = poll(2 * SOON, || (!is_healthy(howdah, node.name())).then(|| since.elapsed()));
    node.thaw();
    noticed.expect("a node that does not answer")
}

#[test]
fn how_soon_a_silent_node_is_known_follows_interval_timeout_and_threshold_at_each_reload() {
    let cluster = shared_three();
    let node = cluster.find("c").unwrap();
    let ports = (free_port().unwrap(), free_port().unwrap());
    let quick: Checks = (100, 300, 1);
    let howdah = Howdah::start(&toml(cluster.nodes(), ports, quick), ports.0, ports.1);
    // what each of them asks for at least: after the question that was answered
    let slow: [(&str, Checks, u64); 3] = [
        ("interval", (4_000, 300, 1), 2_500),
        ("timeout", (100, 3_000, 1), 3_000),
        ("failure_threshold", (100, 300, 8), 8 * 300),
    ];
    for (key, checks, at_least) in slow {
        let reload = |checks: Checks| {
            let before = howdah.log().matches(" reloaded ").count();
            howdah.reload(&toml(cluster.nodes(), ports, checks));
            eventually("reloaded", SOON, || howdah.log().matches(" reloaded ").count() > before);
        };
        reload(checks);
        let took = detection(&howdah, node);
        assert!(took >= Duration::from_millis(at_least), "{key}: {took:?}");
        reload(quick);
        let quickest =
            (0..TRIES).map(|_| detection(&howdah, node)).find(|took| *took < Duration::from_millis(at_least));
        println!("{key}: {took:?}, and {quickest:?} after the next reload");
        assert!(quickest.is_some(), "{key}: it stays slow");
    }
}
