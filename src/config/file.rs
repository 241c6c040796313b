//! [`Config`]: the whole file, and the tables that are too small for a file of their own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::HttpAddress;
use super::admin::Admin;
use super::auth::Auth;
use super::cluster::Cluster;
use super::database::Database;
use super::listener::Listener;
use super::network::Network;
use super::pool::Pool;
use super::reload::change::Written;
use super::routing::Routing;
use super::secret::Secret;
use super::stats::Stats;
use super::store::Store;
use super::timeouts::Timeouts;
use super::user::User;

/// The configuration of the daemon, `howdah.toml`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which version of these keys the file is written for; it stands above the first table. Absent: 1. A howdah refuses a file of
    /// a newer version than its own, and reads those before it.
    #[serde(default = "first_version")]
    #[schemars(extend("x-reload" = "live"), range(min = 1))]
    pub version: u32,

    /// What the daemon may use as a whole.
    #[serde(default)]
    pub limits: Limits,

    /// Where clients connect. Without any: 127.0.0.1:6432.
    #[serde(default = "Listener::defaults")]
    pub listeners: Vec<Listener>,

    /// How many server connections there are, and who may have one. A pool is one user in one database on one node.
    /// Every key can be given again for a database and for a user; the user's goes before the database's.
    #[serde(default)]
    pub pool: Pool,

    /// How long things may take. `"0"` switches a limit off. Units: us, ms, s, min, h, d, as in `postgresql.conf`.
    /// Most keys can be given again for a database and for a user; the user's goes before the database's.
    #[serde(default)]
    pub timeouts: Timeouts,

    /// TCP and names, towards clients and servers alike. Connections that are open keep what they were opened with.
    #[serde(default)]
    pub network: Network,

    /// How clients prove who they are.
    #[serde(default)]
    pub auth: Auth,

    /// Users whose password cannot be read from the cluster, or who get other limits than the rest. At most one of
    /// `password`, `password_file` and `password_env`; none is right for a user who only gets other limits.
    #[serde(default)]
    #[schemars(extend("x-example" = "app"))]
    pub users: BTreeMap<String, User>,

    /// Which statements may go to replicas. Where a cluster has only one node nothing of it matters.
    #[serde(default)]
    pub routing: Routing,

    /// PostgreSQL instances that share one system identifier: a primary and its standbys. Which one is the primary is
    /// found out, not configured.
    #[serde(default)]
    #[schemars(extend("x-example" = "main"))]
    pub clusters: BTreeMap<String, Cluster>,

    /// The names a client may connect to. `[databases."*"]` is every other name, forwarded as it is. Without any
    /// database every client is refused.
    #[serde(default)]
    #[schemars(extend("x-example" = "app"))]
    pub databases: BTreeMap<String, Database>,

    /// Who may use the console.
    #[serde(default)]
    pub admin: Admin,

    /// Metrics, health and the API.
    #[serde(default)]
    pub http: Http,

    /// Over what time averages are taken, and whether they are written to the log.
    #[serde(default)]
    pub stats: Stats,

    /// Where the daemon keeps what must outlive it: who the primary of each cluster is, what it was about to do, the history. Only
    /// used for clusters whose failover mode is not `"observe"`.
    #[serde(default)]
    pub store: Store,

    /// What howdah says about itself, on standard error.
    #[serde(default)]
    pub log: Log,

    /// What the file says, key by key.
    #[serde(skip)]
    pub written: Arc<Written>,
}

/// The newest version of the keys that this howdah reads.
pub const VERSION: u32 = 1;

const fn first_version() -> u32 {
    1
}

/// What the daemon may use as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client connections over all listeners. One more is refused with SQLSTATE 53300. The limit of open files
    /// (`LimitNOFILE`) must leave room for them and for the server connections. PgBouncer: `max_client_conn`.
    #[schemars(extend("x-reload" = "live", "x-unit" = "connections"), range(min = 1))]
    pub max_client_connections: u32,

    /// Server connections of each user over all databases, for users whose own `pool.max_server_connections` says nothing.
    /// 0 = no limit. PgBouncer: `max_user_connections`.
    #[schemars(extend("x-reload" = "live", "x-unit" = "connections"))]
    pub max_user_server_connections: u32,

    /// Client connections of each user over all databases, for users whose own `pool.max_client_connections` says nothing. One
    /// more is refused with SQLSTATE 53300. 0 = no limit. PgBouncer: `max_user_client_connections`.
    #[schemars(extend("x-reload" = "live", "x-unit" = "connections"))]
    pub max_user_client_connections: u32,

    /// Threads that serve clients: a number, or `"auto"` for half the cores and at least one, which leaves the other
    /// half to whoever shares the machine.
    #[schemars(extend("x-reload" = "restart", "x-unit" = "threads"))]
    pub workers: Workers,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_client_connections: 10_000,
            max_user_server_connections: 0,
            max_user_client_connections: 0,
            workers: Workers::Auto,
        }
    }
}

/// How many threads serve clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WorkersText")]
pub enum Workers {
    /// Half the cores, at least one.
    Auto,
    /// This many.
    Count(NonZeroU32),
}

impl Workers {
    /// The number, on this machine.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Auto => available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
            Self::Count(count) => usize::try_from(count.get()).unwrap_or(usize::MAX),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WorkersText {
    Count(NonZeroU32),
    Text(String),
}

impl TryFrom<WorkersText> for Workers {
    type Error = &'static str;

    fn try_from(text: WorkersText) -> Result<Self, Self::Error> {
        match text {
            WorkersText::Count(count) => Ok(Self::Count(count)),
            WorkersText::Text(text) if text == "auto" => Ok(Self::Auto),
            WorkersText::Text(_) => Err("expected a number from 1 or \"auto\""),
        }
    }
}

impl Serialize for Workers {
    fn serialize<S: serde::Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => into.serialize_str("auto"),
            Self::Count(count) => count.serialize(into),
        }
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl JsonSchema for Workers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Workers".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["integer", "string"], "minimum": 1, "format": "uint32", "enum": ["auto"] })
    }
}

/// Metrics, health and the API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// `"host:port"`, `"unix:/path"` for a socket file, or `"off"`. A reload answers whoever has asked at the old one.
    #[schemars(extend("x-reload" = "live"))]
    pub address: HttpAddress,

    /// A file whose first line is the token for everything: who changes something must send it (`Authorization: Bearer TOKEN`). At
    /// least 16 characters; a secret. Absent: changes are accepted from whoever may use
    /// the Unix socket, and over TCP only while `address` is a loopback address. Relative to the configuration file; read again on
    /// reload.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "admin.token"))]
    pub admin_token_file: Option<PathBuf>,

    /// The same for those who may only look: with it nobody looks without one of the two tokens, but for `/healthz` and
    /// `/readyz`. Needs `admin_token_file`.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "read.token"))]
    pub read_token_file: Option<PathBuf>,

    /// What `admin_token_file` led to.
    #[serde(skip)]
    pub admin_token: Option<Secret>,

    /// What `read_token_file` led to.
    #[serde(skip)]
    pub read_token: Option<Secret>,
}

impl Default for Http {
    fn default() -> Self {
        let host = super::address::Host::Ip(std::net::Ipv4Addr::LOCALHOST.into());
        Self {
            address: HttpAddress::Tcp { host, port: 6433 },
            admin_token_file: None,
            read_token_file: None,
            admin_token: None,
            read_token: None,
        }
    }
}

/// What howdah says about itself, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least important line that is still written.
    #[schemars(extend("x-reload" = "live"))]
    pub level: LogLevel,

    /// One line of text, or one JSON object, per event.
    #[schemars(extend("x-reload" = "live"))]
    pub format: LogFormat,

    /// Whether it is written, at level info, that a client logs in, is refused or leaves. The console's and replication
    /// connections are written always. PgBouncer: `log_connections`, `log_disconnections`.
    #[schemars(extend("x-reload" = "live"))]
    pub connections: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text, connections: true }
    }
}

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// A person must act.
    Error,
    /// Something is degraded and handled.
    Warn,
    /// What belongs in an operator's diary.
    Info,
    /// Every connection and decision.
    Debug,
    /// Every protocol message.
    Trace,
}

impl LogLevel {
    /// As it is written in the file, which is also how `tracing` writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}
