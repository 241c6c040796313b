//! `[clusters.NAME]`: the nodes that share one system identifier, how they are watched, and who fails over.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::address::NodeHost;
use super::agents::{AgentAddress, Agents};
use super::duration::Period;
use super::failover::{Failover, FailoverMode, Switchover};
use super::routing::{Balance, Consistency};
use super::secret::Secret;
use super::size::ByteSize;
use super::tls::NodeTls;

/// PostgreSQL instances that share one system identifier: a primary and its standbys. Which one is the primary is
/// found out, not configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Which replica a session reads from.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live"))]
    pub balance: Balance,

    /// What a session may be shown of the past. With `"session"` nothing older than it has written or seen, whichever node
    /// it reads from; with `"own-writes"` nothing older than it has written, which lets sessions that read much go on reading
    /// from standbys that lag, but one read may show less than the one before; with `"eventual"` anything within
    /// `max_lag`; with `"strict"` every statement goes to the primary.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live"))]
    pub consistency: Consistency,

    /// A standby that is further behind than this gets no reads, until it has caught up to half of it. "0" = no bound.
    #[serde(default = "default_max_lag")]
    #[schemars(extend("x-reload" = "live"))]
    pub max_lag: ByteSize,

    /// The node that should be the primary. Who is it is found out without this; a change of it and a reload is a switchover to
    /// the node it names. Not with failover mode `"observe"`.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "a"))]
    pub primary: Option<String>,

    /// How howdah looks after the nodes: a connection of its own to each. Absent, which a cluster of one node may be: nobody looks, the
    /// node is taken for the primary whatever it is, and nothing can be read from its catalogues.
    #[serde(default)]
    pub monitor: Option<Monitor>,

    /// Who acts when the primary fails, and under which conditions.
    #[serde(default)]
    pub failover: Failover,

    /// How a planned change of the primary goes about the clients.
    #[serde(default)]
    pub switchover: Switchover,

    /// Mutual TLS towards the agents at `https://` addresses. Each side checks the other's certificate; there is no other way in
    /// over a network.
    #[serde(default)]
    pub agents: Agents,

    /// The PostgreSQL instances of this cluster, at least one.
    #[serde(default)]
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Who fails over: what the file says, or what follows from the nodes.
    #[must_use]
    pub fn failover_mode(&self) -> FailoverMode {
        let all = !self.nodes.is_empty() && self.nodes.iter().all(|node| node.agent.is_some());
        self.failover.mode.unwrap_or(if all { FailoverMode::Automatic } else { FailoverMode::Observe })
    }
}

/// How howdah looks after the nodes: a connection of its own to each. Outside of every pool and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// The user howdah logs in as. Membership in `pg_monitor` is enough to watch, and without it no standby gets reads, as it
    /// cannot be seen whether it streams; reading passwords from the cluster
    /// takes more. It also needs `CONNECT` on each database that clients use: howdah reads there which functions,
    /// triggers and views change a session's settings.
    #[schemars(extend("x-reload" = "live", "x-example" = "howdah"))]
    pub user: String,

    /// The user's password. At most one of `password`, `password_file`, `password_env`; none where the node trusts
    /// this user, or where its password stands in `[users.NAME]` or `auth.users_file`.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "secret"))]
    pub password: Option<Secret>,

    /// A file whose first line is the password. Relative to the configuration file; read again on reload.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "monitor.password"))]
    pub password_file: Option<PathBuf>,

    /// An environment variable of the daemon that holds the password.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "HOWDAH_MONITOR_PASSWORD"))]
    pub password_env: Option<String>,

    /// The database howdah connects to.
    #[serde(default = "default_dbname")]
    #[schemars(extend("x-reload" = "live"))]
    pub dbname: String,

    /// How often each node is asked at least whether it lives and what it is; where there are standbys, the same question is
    /// asked every `lag_interval`. It cannot be switched off.
    #[serde(default = "default_interval")]
    #[schemars(extend("x-reload" = "live"))]
    pub interval: Period,

    /// How long an answer may take, connecting included. It may be longer than `interval`.
    #[serde(default = "default_timeout")]
    #[schemars(extend("x-reload" = "live"))]
    pub timeout: Period,

    /// Failed checks in a row after which a node counts as lost.
    #[serde(default = "default_failure_threshold")]
    #[schemars(extend("x-reload" = "live", "x-unit" = "checks"), range(min = 1))]
    pub failure_threshold: u32,

    /// How often the primary is asked for the position of its log and each standby for how much of it has been replayed. They
    /// are also asked, at most every 2 ms, when a session waits for it (`routing.fresh_wait`). When the end of the primary's
    /// log stands still for so long and is not flushed, because of an open transaction that has written, howdah flushes it
    /// with a message of 96 bytes (`pg_logical_emit_message`), or no standby could get that far.
    #[serde(default = "default_lag_interval")]
    #[schemars(extend("x-reload" = "live"))]
    pub lag_interval: Period,

    /// What the three password keys led to.
    #[serde(skip)]
    pub resolved_password: Option<Secret>,
}

/// One PostgreSQL instance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name in logs, metrics and commands; unique in the cluster.
    #[schemars(extend("x-reload" = "live", "x-example" = "a"))]
    pub name: String,

    /// A host name, an IP address, or the directory of PostgreSQL's socket, which starts with a slash and is the
    /// quickest way to a PostgreSQL on the same machine. Several ways to the same instance are written with commas
    /// between them. A name may have several addresses, too: all of them are tried in their order, each a quarter of a
    /// second after the one before; those that did not answer lately come last.
    #[schemars(extend("x-reload" = "live", "x-example" = "127.0.0.1"))]
    pub host: NodeHost,

    /// PostgreSQL's port; with a socket directory the number in the socket's name.
    #[serde(default = "default_port")]
    #[schemars(extend("x-reload" = "live"), range(min = 1))]
    pub port: u16,

    /// Its share of the reads, beside the weights of the others. 0 = none while another replica can have them.
    #[serde(default = "default_weight")]
    #[schemars(extend("x-reload" = "live"))]
    pub weight: u32,

    /// The agent beside this PostgreSQL (`howdah agent`): `"unix:/path"`, its socket on this machine, or `"https://host:port"`, which
    /// needs `[clusters.NAME.agents]`. Absent: the node is only observed.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "unix:/run/howdah/agent.sock"))]
    pub agent: Option<AgentAddress>,

    /// Which of two standbys is promoted that have the same of the primary's log: the one with the greater number, then the one
    /// that stands first. 0 = never.
    #[serde(default = "default_priority")]
    #[schemars(extend("x-reload" = "live"))]
    pub priority: u32,

    /// Where the other nodes find this one for replication, if not at `host`: what is written into their `primary_conninfo`.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "10.1.0.1"))]
    pub replication_host: Option<NodeHost>,

    /// The port for replication, if not `port`.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "5432"), range(min = 1))]
    pub replication_port: Option<u16>,

    /// TLS towards this node. Absent: mode prefer, as in libpq. Not with a socket directory, which has no TLS.
    #[serde(default)]
    #[schemars(extend("x-inline" = true, "x-example" = "{ mode = \"verify-full\", ca = \"root.crt\" }"))]
    pub tls: Option<NodeTls>,
}

impl Node {
    /// Where the other nodes replicate from: a host as libpq takes it, and a port.
    #[must_use]
    pub fn replication_place(&self) -> (String, u16) {
        let host = self.replication_host.as_ref().unwrap_or(&self.host);
        (host.to_string(), self.replication_port.unwrap_or(self.port))
    }
}

fn default_dbname() -> String {
    "postgres".to_owned()
}

fn default_interval() -> Period {
    Period::from_millis(500)
}

fn default_timeout() -> Period {
    Period::from_millis(1000)
}

fn default_max_lag() -> ByteSize {
    ByteSize::from_mb(16)
}

fn default_lag_interval() -> Period {
    Period::from_millis(100)
}

fn default_weight() -> u32 {
    1
}

fn default_priority() -> u32 {
    100
}

fn default_failure_threshold() -> u32 {
    3
}

fn default_port() -> u16 {
    5432
}
