//! Nodes and agents, asked as the daemon would ask them: do they answer, may the monitor's user see what it must, are they what the
//! file says they are.
//!
//! All at the same time, each within the monitor's timeout or a few seconds. Nothing is written anywhere. Not here: what the daemon makes of it later
//! (`cluster/observe`, `catalog`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Finding, Level};
use crate::catalog::connection::{ConnectionError, ControlConnection};
use crate::catalog::{CatalogError, Lookup, Monitor, WatchedCluster, WatchedNode, try_lookup};
use crate::cli::managed::agents;
use crate::cli::serve::{lookup, watched};
use crate::cluster::act::AgentWay;
use crate::config::{AuthMethod, Config, toml_key};
use crate::directive::AgentStatus;
use crate::pg::SystemIdentifier;
use crate::proxy::shared::Running;
use crate::topology::NodeName;

/// Shown in the nodes' `pg_stat_activity`.
const APPLICATION_NAME: &str = "howdah check";
/// The major versions of PostgreSQL that are supported in full.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;
/// The least patience with a node: whoever runs this would rather know that it is slow than that it is silent.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
/// Before it nothing is promised.
const MAJOR_MIN: u32 = 10;

/// What a node is, whatever the monitor's user may see; and what its log is received by.
const STANDING: &str = "\
    SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num'), \
        pg_catalog.pg_is_in_recovery(), pg_catalog.pg_has_role(current_user, 'pg_monitor', 'USAGE'), \
        (SELECT w.status FROM pg_catalog.pg_stat_get_wal_receiver() w)";
const IDENTIFIER: &str = "SELECT c.system_identifier FROM pg_catalog.pg_control_system() c";

/// What a node that answers has said.
#[derive(Clone, Debug)]
struct Facts {
    identifier: Option<SystemIdentifier>,
    is_primary: bool,
}

/// What became of one question.
enum Seen {
    Node(NodeName, Vec<Finding>, Option<Facts>),
    Agent(NodeName, Result<Box<AgentStatus>, String>),
}

/// Looks at every cluster's nodes and agents.
pub(super) async fn clusters(running: &Running) -> Vec<Finding> {
    let lookup = lookup(&running.config);
    let mut looking = JoinSet::new();
    for (at, cluster) in watched(running).into_iter().enumerate() {
        let (config, lookup) = (running.config.clone(), lookup.clone());
        looking.spawn(async move { (at, one(&config, &cluster, &lookup).await) });
    }
    let mut found: Vec<(usize, Vec<Finding>)> = looking.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().flat_map(|(_, findings)| findings).collect()
}

async fn one(config: &Config, cluster: &WatchedCluster, lookup: &Lookup) -> Vec<Finding> {
    let Some(configured) = config.clusters.get(&*cluster.name) else { return Vec::new() };
    let mut found = Vec::new();
    let mut asking = JoinSet::new();
    for node in &cluster.nodes {
        let (node, monitor) = (node.clone(), cluster.monitor.clone());
        let about = about_node(&cluster.name, &node.name);
        let table = format!("[clusters.{}.monitor]", toml_key(&cluster.name));
        asking.spawn(async move {
            let (findings, facts) = match &monitor {
                Some(monitor) => standing(&about, &table, &node, monitor).await,
                None => (vec![reachable(&about, &node).await], None),
            };
            Seen::Node(node.name, findings, facts)
        });
    }
    let ways = agents(configured).unwrap_or_else(|error| {
        let about = format!("agents of {}", cluster.name);
        found.push(Finding::new(
            Level::Error,
            &about,
            error.to_string(),
            format!("see [clusters.{}.agents]", toml_key(&cluster.name)),
        ));
        Vec::new()
    });
    for (node, way) in ways {
        asking.spawn(async move {
            let status = AgentWay::status(&way).await.map(Box::new);
            Seen::Agent(node, status)
        });
    }
    let (mut nodes, mut statuses) = (BTreeMap::new(), BTreeMap::new());
    for seen in asking.join_all().await {
        match seen {
            Seen::Node(node, findings, facts) => drop(nodes.insert(node, (findings, facts))),
            Seen::Agent(node, status) => drop(statuses.insert(node, status)),
        }
    }
    let mut facts = Vec::new();
    for node in &cluster.nodes {
        let Some((findings, known)) = nodes.remove(&node.name) else { continue };
        found.extend(findings);
        let identifier = known.as_ref().and_then(|known| known.identifier);
        facts.extend(known.map(|known| (node, known)));
        if let Some(status) = statuses.remove(&node.name) {
            found.extend(agent(&cluster.name, &node.name, identifier, status));
        }
    }
    if cluster.monitor.is_some() {
        found.extend(whole(&cluster.name, configured.primary.as_deref(), &facts, cluster.nodes.len()));
        let asked = facts.iter().find(|(_, known)| known.is_primary).or(facts.first());
        if let (Some((node, _)), Some(monitor)) = (asked, &cluster.monitor) {
            found.push(passwords(config, &cluster.name, node, monitor, lookup).await);
        }
    }
    found
}

fn about_node(cluster: &str, node: &str) -> String {
    format!("node {node} of {cluster}")
}

/// A node that nobody may log in to for howdah's own sake.
async fn reachable(about: &str, node: &WatchedNode) -> Finding {
    let address = node.address();
    let mut refusal = None;
    for demand in node.way.attempts() {
        match node.way.open(*demand).await {
            Ok(_) => return Finding::ok(about, format!("reached at {address}; without a monitor no more is known")),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    let why = refusal.map(|error| error.to_string()).unwrap_or_default();
    Finding::new(Level::Error, about, format!("not reached at {address}: {why}"), UNREACHED)
}

const UNREACHED: &str = "see that PostgreSQL runs there and listens on that address (listen_addresses, port)";

/// What a node says of itself to the monitor's user.
async fn standing(about: &str, table: &str, node: &WatchedNode, monitor: &Monitor) -> (Vec<Finding>, Option<Facts>) {
    let address = node.address();
    let user = &monitor.user;
    let limit = monitor.timeout;
    let monitor = &Monitor { timeout: limit.max(PATIENCE_MIN), ..monitor.clone() };
    let began = Instant::now();
    let connection = match ControlConnection::open(node, monitor, APPLICATION_NAME).await {
        Ok(connection) => connection,
        Err(error) => return (vec![refused(about, table, &address, monitor, &error)], None),
    };
    let took = began.elapsed();
    let asked = async {
        let rows = connection.rows(STANDING).await?;
        let text = |column: usize| {
            rows.first().and_then(|row| row.try_get(column).ok().flatten()).map(str::to_owned).unwrap_or_default()
        };
        Ok::<_, ConnectionError>([text(0), text(1), text(2), text(3), text(4)])
    };
    let [version, number, in_recovery, sees_all, receiver] = match asked.await {
        Ok(answers) => answers,
        Err(error) => {
            let text = format!("\"{user}\" logs in at {address}, and asks in vain: {error}");
            return (vec![Finding::new(Level::Error, about, text, "is that PostgreSQL itself, and no pooler?")], None);
        }
    };
    let is_primary = in_recovery == "f";
    let role = if is_primary { "the primary" } else { "a standby" };
    let mut found = vec![Finding::ok(about, format!("PostgreSQL {version} at {address}, {role}"))];
    if took > limit {
        let text =
            format!("it has let the monitor in after {} ms, and timeout is {} ms", took.as_millis(), limit.as_millis());
        let advice =
            format!("howdah takes such a node for silent: write a longer timeout in {table}, or see why it is slow");
        found.push(Finding::new(Level::Warning, about, text, advice));
    }
    let major = number.parse::<u32>().map_or(0, |number| number / 10_000);
    if major < MAJOR_MIN {
        let text = format!("PostgreSQL {version} is not supported");
        let advice = format!("PostgreSQL {} to {} are", MAJORS.start(), MAJORS.end());
        found.push(Finding::new(Level::Error, about, text, advice));
    } else if !MAJORS.contains(&major) {
        let text = format!("PostgreSQL {version} is not among the versions that are supported in full");
        let advice = format!("those are {} to {}", MAJORS.start(), MAJORS.end());
        found.push(Finding::new(Level::Warning, about, text, advice));
    }
    if sees_all != "t" {
        let text = format!("\"{user}\" is no member of pg_monitor: how a standby receives is hidden from it");
        found.push(Finding::new(Level::Error, about, text, format!("GRANT pg_monitor TO {}", quoted(user))));
    } else if !is_primary && receiver != "streaming" {
        let text = "a standby that receives no log";
        let advice = "see its primary_conninfo, and its log; until it streams it falls behind";
        found.push(Finding::new(Level::Warning, about, text, advice));
    }
    let identifier = match connection.rows(IDENTIFIER).await {
        Ok(rows) => {
            let text = rows.first().and_then(|row| row.try_get(0).ok().flatten()).and_then(|text| text.parse().ok());
            text.map(|signed: i64| SystemIdentifier(signed.cast_unsigned()))
        }
        Err(error) => {
            let advice = format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO {}", quoted(user));
            found.push(Finding::new(
                Level::Error,
                about,
                format!("its system identifier is not told: {error}"),
                advice,
            ));
            None
        }
    };
    connection.close().await;
    (found, Some(Facts { identifier, is_primary }))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Why the monitor's user is not let in, and who can change that.
fn refused(about: &str, table: &str, address: &str, monitor: &Monitor, error: &ConnectionError) -> Finding {
    let (user, dbname) = (&monitor.user, &monitor.dbname);
    let code = match error {
        ConnectionError::Reported { sqlstate, .. } => sqlstate.map(|code| code.to_string()).unwrap_or_default(),
        _ => String::new(),
    };
    let not_let_in = |why: &dyn std::fmt::Display| format!("\"{user}\" is not let in at {address}: {why}");
    let (text, advice) = match (error, code.as_str()) {
        (_, "28P01") => {
            let how = match monitor.password {
                Some(_) => format!("write the password that this role has there in {table}"),
                None => format!("write password_file in {table}"),
            };
            (not_let_in(error), format!("{how}; or CREATE ROLE {} LOGIN PASSWORD '…' IN ROLE pg_monitor", quoted(user)))
        }
        (_, "28000") => {
            let advice = format!(
                "let it in by the node's pg_hba.conf: this machine, user {user}, database {dbname}; then reload it"
            );
            (not_let_in(error), advice)
        }
        (_, "3D000") => (not_let_in(error), format!("write a dbname that is there in {table}")),
        (ConnectionError::Reported { .. }, _) => (not_let_in(error), String::new()),
        (ConnectionError::Full(_), _) => (
            format!("no connection is left at {address}: {error}"),
            "raise max_connections there, or see who takes them all (pg_stat_activity)".to_owned(),
        ),
        (ConnectionError::Tls(_), _) => {
            (format!("no TLS at {address}: {error}"), "see tls of this node here, and its own ssl settings".to_owned())
        }
        (ConnectionError::Failed(_), _) if monitor.password.is_none() => {
            (not_let_in(error), format!("write password_file in {table}"))
        }
        _ => (format!("not reached at {address}: {error}"), UNREACHED.to_owned()),
    };
    Finding::new(Level::Error, about, text, advice)
}

/// What all nodes together must be: of one origin, with one that takes writes.
fn whole(cluster: &str, declared: Option<&str>, facts: &[(&WatchedNode, Facts)], nodes: usize) -> Vec<Finding> {
    let mut found = Vec::new();
    let primaries: Vec<&str> =
        facts.iter().filter(|(_, known)| known.is_primary).map(|(node, _)| &*node.name).collect();
    let about = format!("cluster {cluster}");
    let first = facts.iter().find(|(_, known)| known.is_primary).or(facts.first());
    let reference = first.and_then(|(node, known)| Some((&node.name, known.identifier?)));
    if let Some((of, right)) = reference {
        for (node, known) in facts {
            if let Some(other) = known.identifier.filter(|other| *other != right) {
                let text = format!(
                    "its system identifier is {}, and that of {of} is {}: it is no copy of it",
                    other.0, right.0
                );
                let advice = "correct its host and port, or build it anew from the primary";
                found.push(Finding::new(Level::Error, &about_node(cluster, &node.name), text, advice));
            }
        }
    }
    match primaries[..] {
        [] if facts.is_empty() => {}
        [] if facts.len() < nodes => {
            let text = "none of the nodes that answer is the primary: nothing can be written";
            found.push(Finding::new(Level::Error, &about, text, "start the one that is"));
        }
        [] => {
            let text = "all nodes are standbys: nothing can be written";
            found.push(Finding::new(
                Level::Error,
                &about,
                text,
                "promote one of them: howdah failover, or pg_promote()",
            ));
        }
        [primary] => match declared.filter(|declared| *declared != primary) {
            Some(declared) => {
                let text =
                    format!("{primary} is the primary, and the file declares {declared}: howdah will switch over");
                found.push(Finding::new(Level::Warning, &about, text, ""));
            }
            None => found.push(Finding::ok(&about, format!("{primary} is the primary"))),
        },
        _ => {
            let text = format!("more than one node takes writes: {}", primaries.join(", "));
            found.push(Finding::new(Level::Error, &about, text, "stop all but the one whose data is right"));
        }
    }
    found
}

/// An agent, and whether it is the one beside that node.
fn agent(
    cluster: &str,
    node: &str,
    identifier: Option<SystemIdentifier>,
    status: Result<Box<AgentStatus>, String>,
) -> Vec<Finding> {
    let about = format!("agent of {node} of {cluster}");
    let status = match status {
        Ok(status) => status,
        Err(why) => {
            let advice = "see that it runs there (systemctl status howdah-agent), and lets this machine in ([listen])";
            return vec![Finding::new(Level::Error, &about, why, advice)];
        }
    };
    let ours = env!("CARGO_PKG_VERSION");
    let mut found = Vec::new();
    if (&*status.cluster, &*status.node) != (cluster, node) {
        let text = format!("the agent there is that of {} of {}", status.node, status.cluster);
        let advice = "correct the agent's address here, or cluster and node in its agent.toml";
        found.push(Finding::new(Level::Error, &about, text, advice));
    } else if let (Some(its), Some(right)) = (status.postgres.system_identifier, identifier)
        && its != right
    {
        let text = format!("its PostgreSQL has system identifier {}, and the node {}", its.0, right.0);
        let advice = "correct data_directory in its agent.toml, or the node's host and port here";
        found.push(Finding::new(Level::Error, &about, text, advice));
    } else {
        found.push(Finding::ok(&about, format!("howdah {}", status.version)));
    }
    if status.version != ours {
        let text = format!("it is of version {}, and this howdah of {ours}", status.version);
        found.push(Finding::new(Level::Warning, &about, text, "install the same version on both sides"));
    }
    found.extend(status.warnings.iter().map(|warning| Finding::new(Level::Warning, &about, warning.as_str(), "")));
    found
}

/// Whether the passwords of clients can be read.
async fn passwords(config: &Config, cluster: &str, node: &WatchedNode, monitor: &Monitor, lookup: &Lookup) -> Finding {
    let about = format!("passwords of {cluster}");
    let error = match try_lookup(node, monitor, lookup).await {
        Ok(()) => {
            let by = if lookup.query.is_some() { "auth.query" } else { "pg_authid" };
            return Finding::ok(&about, format!("read by {by} on node {}", node.name));
        }
        Err(error) => error,
    };
    let known_otherwise = !config.auth.file_users.is_empty()
        || config.users.values().any(|user| user.credential.is_some())
        || matches!(config.auth.method, AuthMethod::Trust | AuthMethod::Cert | AuthMethod::Peer);
    let level = if known_otherwise { Level::Warning } else { Level::Error };
    let advice = match &error {
        CatalogError::BadQuery { .. } => "correct auth.query, or give the monitor's user the right to run it",
        _ => "",
    };
    let users = if known_otherwise { ": only those that the file knows can log in" } else { "" };
    Finding::new(level, &about, format!("{error}{users}"), advice)
}
