//! `howdah status`, `nodes`, `history`, `explain`: what the daemon knows and has done. They change nothing.

use std::fmt::Write as _;

use clap::Args;

use super::advice::advice;
use super::daemon::{Daemon, DaemonArgs, Status, encoded, read};
use super::operate::print;
use super::table::{moment, table, took};
use crate::admin::{ClusterRow, NodeRow};
use crate::cluster::decide::{Change, Refused};
use crate::pg::size_pretty;

/// Which daemon, and nothing else.
#[derive(Debug, Args)]
pub struct LookArgs {
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `howdah status`
///
/// # Errors
/// When there is no answer.
pub fn status(args: &LookArgs) -> anyhow::Result<()> {
    clusters(args, |status| {
        let mut text: Vec<String> = status.clusters.iter().map(status_of).collect();
        text.push(format!("{} clients\n", status.clients) + &missing(status));
        text.join("\n")
    })
}

/// `howdah nodes`
///
/// # Errors
/// When there is no answer.
pub fn nodes(args: &LookArgs) -> anyhow::Result<()> {
    clusters(args, |status| {
        let several = status.clusters.len() > 1;
        let of = |cluster: &ClusterRow| {
            let title = if several { format!("cluster {}\n", cluster.name) } else { String::new() };
            title + &nodes_of(cluster)
        };
        status.clusters.iter().map(of).collect::<Vec<_>>().join("\n")
    })
}

/// `howdah explain`
///
/// # Errors
/// When there is no answer.
pub fn explain(args: &LookArgs) -> anyhow::Result<()> {
    if args.daemon.json {
        let daemon = Daemon::of(&args.daemon)?;
        let cluster = daemon.cluster(args.daemon.cluster.as_deref())?;
        return print(&(daemon.ask(&format!("/clusters/{}", encoded(&cluster)), None)? + "\n"));
    }
    clusters(args, |status| status.clusters.iter().map(explained).collect::<Vec<_>>().join("\n"))
}

/// `howdah history`
///
/// # Errors
/// When there is no answer.
pub fn history(args: &LookArgs) -> anyhow::Result<()> {
    let daemon = Daemon::of(&args.daemon)?;
    let cluster = daemon.cluster(args.daemon.cluster.as_deref())?;
    let body = daemon.ask(&format!("/clusters/{}/history", encoded(&cluster)), None)?;
    if args.daemon.json {
        return print(&(body + "\n"));
    }
    print(&changes(&read::<Vec<Change>>(&body)?))
}

fn clusters(args: &LookArgs, render: impl Fn(&Status) -> String) -> anyhow::Result<()> {
    let daemon = Daemon::of(&args.daemon)?;
    let body = daemon.ask("/status", None)?;
    if args.daemon.json {
        return print(&(body + "\n"));
    }
    let mut status: Status = read(&body)?;
    if let Some(named) = &args.daemon.cluster {
        let known: Vec<String> = status.clusters.iter().map(|cluster| cluster.name.clone()).collect();
        status.clusters.retain(|cluster| cluster.name == *named);
        if status.clusters.is_empty() {
            anyhow::bail!("there is no cluster \"{named}\"; there are: {}", known.join(", "));
        }
    }
    print(&render(&status))
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn status_of(cluster: &ClusterRow) -> String {
    let state = cluster.state.as_deref().unwrap_or("observing");
    let mut text = format!("cluster {}: {state}, {}, epoch {}\n", cluster.name, cluster.mode, cluster.epoch);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line("primary", cluster.primary.as_deref().unwrap_or("none"));
    if cluster.paused {
        line("paused", "no failovers and no repairs until \"howdah resume\"");
    }
    if let Some(operation) = &cluster.operation {
        line("under way", operation);
    }
    for blocked in &cluster.blocked {
        line("in the way", &refusal(blocked));
        if let Some(advice) = advice(&word(blocked)) {
            line("", advice);
        }
    }
    text.push('\n');
    let row = |node: &NodeRow| {
        vec![
            node.name.clone(),
            or_dash(node.role.clone()),
            or_dash(node.state.clone()),
            if node.healthy { "yes" } else { "no" }.to_owned(),
            or_dash(lag(node)),
            if node.replica { "yes" } else { "no" }.to_owned(),
            note(node),
        ]
    };
    let rows: Vec<Vec<String>> = cluster.nodes.iter().map(row).collect();
    text + &table(&["NODE", "ROLE", "STATE", "HEALTHY", "LAG", "READS", "NOTE"], &rows)
}

/// Of a standby.
fn lag(node: &NodeRow) -> Option<String> {
    (node.role.as_deref() == Some("standby")).then_some(node.lag_bytes?).map(size_pretty)
}

/// What is most worth saying of a node.
fn note(node: &NodeRow) -> String {
    let silent = (node.agent == Some(false)).then(|| "its agent is not heard".to_owned());
    let unfit = node.unfit.clone().filter(|_| node.role.as_deref() == Some("standby") && node.healthy);
    let told: Vec<String> = [node.trouble.clone(), node.note.clone(), silent, unfit].into_iter().flatten().collect();
    told.join("; ")
}

fn missing(status: &Status) -> String {
    status.missing.iter().map(|missing| format!("missing: {missing}\n")).collect()
}

fn nodes_of(cluster: &ClusterRow) -> String {
    let row = |node: &NodeRow| {
        let promote = match (&node.refused, node.state.as_deref()) {
            (_, None) => "-".to_owned(),
            (_, Some("primary")) => "is the primary".to_owned(),
            (None, Some(_)) => "yes".to_owned(),
            (Some(refused), Some(_)) => refusal(refused),
        };
        vec![
            node.name.clone(),
            or_dash(node.role.clone()),
            match node.agent {
                None => "-",
                Some(true) => "heard",
                Some(false) => "silent",
            }
            .to_owned(),
            or_dash(node.timeline.map(|timeline| timeline.to_string())),
            or_dash(node.received_lsn.clone()),
            or_dash(node.replayed_lsn.clone()),
            or_dash(lag(node)),
            node.sessions.to_string(),
            promote,
        ]
    };
    let rows: Vec<Vec<String>> = cluster.nodes.iter().map(row).collect();
    let head = ["NODE", "ROLE", "AGENT", "TIMELINE", "RECEIVED", "REPLAYED", "LAG", "SESSIONS", "MAY BE PROMOTED"];
    table(&head, &rows)
}

fn explained(cluster: &ClusterRow) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    let ClusterRow { name, mode, .. } = cluster;
    line(format!("cluster {name}: {}", cluster.state.as_deref().unwrap_or("observing")));
    match &cluster.primary {
        Some(primary) => line(format!("  {primary} is the primary of epoch {}", cluster.epoch)),
        None => line("  there is no primary: writes wait".to_owned()),
    }
    if let Some(appointed) = cluster.appointed.as_ref().filter(|appointed| cluster.primary.as_ref() != Some(*appointed))
    {
        line(format!("  {appointed} should be, and does not say yet that it accepts writes"));
    }
    line(match (mode.as_str(), cluster.paused) {
        ("observe", _) => "  howdah follows whatever promotes nodes, and touches none (mode \"observe\")".to_owned(),
        (_, true) => "  howdah does nothing by itself until \"howdah resume\"".to_owned(),
        ("manual", _) => "  when it fails, howdah waits for \"howdah failover\" (mode \"manual\")".to_owned(),
        _ => format!("  when it fails, howdah starts it again or fails over, by itself (mode \"{mode}\")"),
    });
    if let Some(operation) = &cluster.operation {
        line(format!("  under way: {operation}"));
    }
    for blocked in &cluster.blocked {
        line(format!("  in the way: {}", refusal(blocked)));
        if let Some(advice) = advice(&word(blocked)) {
            line(format!("    what to do: {advice}"));
        }
    }
    for node in &cluster.nodes {
        let verdict = match (&node.refused, node.state.as_deref()) {
            (_, None) => node.role.clone().unwrap_or_else(|| "nobody knows what it is".to_owned()),
            (_, Some("primary")) => "primary".to_owned(),
            (None, Some(state)) => format!("{state}; may be promoted"),
            (Some(refused), Some(state)) => format!("{state}; would not be promoted: {}", refusal(refused)),
        };
        line(format!("  {}: {verdict}", node.name));
        if let Some(advice) = node.refused.as_ref().and_then(|refused| advice(&word(refused))) {
            line(format!("    what to do: {advice}"));
        }
        if !note(node).is_empty() {
            line(format!("    {}", note(node)));
        }
    }
    text
}

fn word(refused: &Refused) -> String {
    serde_json::to_value(refused.reason).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default()
}

fn refusal(refused: &Refused) -> String {
    format!("{}: {}", word(refused), refused.text)
}

fn changes(history: &[Change]) -> String {
    if history.is_empty() {
        return "no change of the primary is known\n".to_owned();
    }
    let row = |change: &Change| {
        vec![
            change.epoch.to_string(),
            moment(change.wall_ms),
            or_dash(change.from.as_deref().map(str::to_owned)),
            change.to.to_string(),
            if change.planned { "switchover" } else { "failover" }.to_owned(),
            took(change.took_ms),
            or_dash(change.lost_bytes.map(size_pretty)),
            change.cause.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = history.iter().map(row).collect();
    table(&["EPOCH", "WHEN (UTC)", "FROM", "TO", "HOW", "TOOK", "LOST", "WHY"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::Reason;
    use crate::topology::Epoch;

    fn node(name: &str, role: &str, state: &str) -> NodeRow {
        NodeRow {
            name: name.to_owned(),
            role: Some(role.to_owned()),
            healthy: true,
            timeline: Some(3),
            received_lsn: Some("0/5000060".to_owned()),
            lag_bytes: Some(0),
            replica: role == "standby",
            sessions: 7,
            agent: Some(true),
            state: Some(state.to_owned()),
            ..NodeRow::default()
        }
    }

    fn cluster() -> ClusterRow {
        let mut b = node("b", "standby", "standby");
        (b.replayed_lsn, b.lag_bytes) = (Some("0/5000000".to_owned()), Some(16 << 20));
        let text = "it lacks 16 MB of the log".to_owned();
        b.refused = Some(Refused { reason: Reason::Lagging, text });
        b.unfit = Some("further behind than max_lag".to_owned());
        b.replica = false;
        let c = NodeRow {
            name: "c".to_owned(),
            trouble: Some("connection refused".to_owned()),
            agent: Some(false),
            state: Some("unknown".to_owned()),
            ..NodeRow::default()
        };
        let text = "the agent of \"c\" has not proven that no server process is left".to_owned();
        ClusterRow {
            name: "main".to_owned(),
            epoch: 3,
            primary: Some("a".to_owned()),
            appointed: Some("a".to_owned()),
            mode: "automatic".to_owned(),
            state: Some("steady".to_owned()),
            blocked: vec![Refused { reason: Reason::NoProof, text }],
            nodes: vec![node("a", "primary", "primary"), b, c],
            ..ClusterRow::default()
        }
    }

    #[test]
    fn status_says_who_is_what_and_what_is_in_the_way() {
        let golden = "\
cluster main: steady, automatic, epoch 3
primary    a
in the way no-proof: the agent of \"c\" has not proven that no server process is left
           start the old primary's agent again; if its machine is off and stays off: howdah failover --vouch NODE

NODE  ROLE     STATE    HEALTHY  LAG    READS  NOTE
a     primary  primary  yes      -      no
b     standby  standby  yes      16 MB  no     further behind than max_lag
c     -        unknown  no       -      no     connection refused; its agent is not heard
";
        assert_eq!(status_of(&cluster()), golden);
    }

    #[test]
    fn nodes_says_who_might_be_promoted() {
        let golden = "\
NODE  ROLE     AGENT   TIMELINE  RECEIVED   REPLAYED   LAG    SESSIONS  MAY BE PROMOTED
a     primary  heard   3         0/5000060  -          -      7         is the primary
b     standby  heard   3         0/5000060  0/5000000  16 MB  7         lagging: it lacks 16 MB of the log
c     -        silent  -         -          -          -      0         yes
";
        assert_eq!(nodes_of(&cluster()), golden);
    }

    #[test]
    fn explain_says_what_would_happen_and_what_to_do() {
        let golden = "\
cluster main: steady
  a is the primary of epoch 3
  when it fails, howdah starts it again or fails over, by itself (mode \"automatic\")
  in the way: no-proof: the agent of \"c\" has not proven that no server process is left
    what to do: start the old primary's agent again; if its machine is off and stays off: howdah failover --vouch NODE
  a: primary
  b: standby; would not be promoted: lagging: it lacks 16 MB of the log
    what to do: wait until it has caught up; in a failover --allow-data-loss accepts the loss
    further behind than max_lag
  c: unknown; may be promoted
    connection refused; its agent is not heard
";
        assert_eq!(explained(&cluster()), golden);
        let observed = ClusterRow { name: "main".to_owned(), mode: "observe".to_owned(), ..ClusterRow::default() };
        let golden = "\
cluster main: observing
  there is no primary: writes wait
  howdah follows whatever promotes nodes, and touches none (mode \"observe\")
";
        assert_eq!(explained(&observed), golden);
    }

    #[test]
    fn history_is_one_line_per_change() {
        let change = |epoch, planned, lost_bytes| Change {
            epoch: Epoch(epoch),
            wall_ms: 1_795_293_481_123,
            from: Some("a".into()),
            to: "b".into(),
            planned,
            cause: "the postmaster has died".to_owned(),
            took_ms: 312,
            lost_bytes,
        };
        let golden = "\
EPOCH  WHEN (UTC)           FROM  TO  HOW         TOOK     LOST  WHY
2      2026-11-21 20:38:01  a     b   failover    0.312 s  96 B  the postmaster has died
3      2026-11-21 20:38:01  a     b   switchover  0.312 s  -     the postmaster has died
";
        assert_eq!(changes(&[change(2, false, Some(96)), change(3, true, None)]), golden);
        assert_eq!(changes(&[]), "no change of the primary is known\n");
    }
}
