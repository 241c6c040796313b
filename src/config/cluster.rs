//! `[clusters.NAME]`: the nodes that share one system identifier, and how they are watched.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::address::NodeHost;
use super::duration::Period;
use super::secret::Secret;
use super::tls::NodeTls;

/// PostgreSQL instances that share one system identifier: a primary and its standbys. Which one is the primary is
/// found out, not configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// How howdah looks after the nodes: a connection of its own to each.
    pub monitor: Monitor,

    /// The PostgreSQL instances of this cluster, at least one.
    #[serde(default)]
    pub nodes: Vec<Node>,
}

/// How howdah looks after the nodes: a connection of its own to each. Outside of every pool and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// The user howdah logs in as. Membership in `pg_monitor` is enough to watch; reading passwords from the cluster
    /// takes more. It also needs `CONNECT` on each database that clients use: howdah reads there which functions,
    /// triggers and views change a session's settings.
    #[schemars(extend("x-reload" = "live", "x-example" = "howdah"))]
    pub user: String,

    /// The user's password. At most one of `password`, `password_file`, `password_env`; none where the node trusts
    /// this user.
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

    /// How often each node is asked whether it lives and what it is. It cannot be switched off.
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

    /// TLS towards this node. Absent: mode prefer, as in libpq. Not with a socket directory, which has no TLS.
    #[serde(default)]
    #[schemars(extend("x-inline" = true, "x-example" = "{ mode = \"verify-full\", ca = \"root.crt\" }"))]
    pub tls: Option<NodeTls>,
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

fn default_failure_threshold() -> u32 {
    3
}

fn default_port() -> u16 {
    5432
}
