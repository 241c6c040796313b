//! `[databases.NAME]`: the names a client may connect to.

use schemars::JsonSchema;
use serde::Deserialize;

use super::pool::PoolOverlay;
use super::routing::RoutingRole;
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
}
