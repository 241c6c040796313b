//! `[databases.NAME]`: the names a client may connect to.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::credential::Credential;
use super::pool::PoolOverlay;
use super::routing::RoutingRole;
use super::secret::Secret;
use super::timeouts::TimeoutsOverlay;

/// The name that stands for every database that has no table of its own.
pub const ANY_DATABASE: &str = "*";

/// A name a client may connect to. `[databases."*"]` is every other name, forwarded as it is. A physical replication
/// connection is told its cluster by the name it asks for too, which PostgreSQL ignores: `pg_receivewal` and
/// `pg_basebackup` ask for `replication` unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The cluster it is in: a NAME of `[clusters.NAME]`.
    #[schemars(extend("x-reload" = "live", "x-example" = "main"))]
    pub cluster: String,

    /// Its name there. Absent: the name the client asked for.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "app_production"))]
    pub dbname: Option<String>,

    /// As whom its clients log in to servers, whoever they are; one pool for all of them. Absent: as themselves. Settings of
    /// `[users.NAME]` then are this user's, but for how many clients may come. A change holds for clients that log in from then on.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "app"))]
    pub user: Option<String>,

    /// That user's password. At most one of `password`, `password_file` and `password_env`; without any, what `[users.NAME]` or
    /// `auth.users_file` says, or what the user has shown when it logged in itself.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "secret"))]
    pub password: Option<Secret>,

    /// A file whose first line is the password. Relative to the configuration file; read again on reload.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "app.password"))]
    pub password_file: Option<PathBuf>,

    /// An environment variable of the daemon that holds the password.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "APP_PASSWORD"))]
    pub password_env: Option<String>,

    /// Where its statements go: `"auto"`, `"primary"` or `"replica"`. One that is not `"auto"` goes before the listener's.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live"))]
    pub role: RoutingRole,

    /// Pool settings for this database, before those of `[pool]`.
    #[serde(default)]
    pub pool: PoolOverlay,

    /// Timeouts for this database, before those of `[timeouts]`.
    #[serde(default)]
    pub timeouts: TimeoutsOverlay,

    /// What the three password keys led to.
    #[serde(skip)]
    pub credential: Option<Credential>,
}
