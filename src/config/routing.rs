//! `[routing]`: which statements may go to replicas.

use schemars::JsonSchema;
use serde::Deserialize;

use super::duration::ConfigDuration;

/// Which statements may go to replicas. Where a cluster has only one node nothing of it matters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Routing {
    /// Whether a leading comment `/* howdah: primary */` or `/* howdah: replica */` decides where its statement goes.
    #[schemars(extend("x-reload" = "live"))]
    pub hints: bool,

    /// Functions that may run on a replica although they are declared volatile. Names without schema and arguments, for all
    /// functions that are called so. Pgpool-II: `read_only_function_list`.
    #[schemars(extend("x-reload" = "live"))]
    pub read_functions: Vec<String>,

    /// Functions that must run on the primary although they are declared stable or immutable. It goes before
    /// `read_functions`. Pgpool-II: `write_function_list`.
    #[schemars(extend("x-reload" = "live"))]
    pub write_functions: Vec<String>,

    /// How long a read waits for a replica that has all its session has seen, before it goes to the primary. "0" = it does
    /// not wait.
    #[schemars(extend("x-reload" = "live"))]
    pub fresh_wait: ConfigDuration,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            hints: true,
            read_functions: Vec::new(),
            write_functions: Vec::new(),
            fresh_wait: ConfigDuration::from_millis(10),
        }
    }
}

/// Where the statements of a listener or a database go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoutingRole {
    /// Each where it can run: reads to replicas, all others to the primary.
    #[default]
    Auto,
    /// All to the primary.
    Primary,
    /// All to replicas, which refuse writes.
    Replica,
}

impl RoutingRole {
    /// This one, or where it leaves it open the other.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        match self {
            Self::Auto => other,
            Self::Primary | Self::Replica => self,
        }
    }
}

/// Which replica reads go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The one that the fewest sessions read from, by its weight.
    #[default]
    LeastConnections,
    /// Each in turn, by its weight.
    RoundRobin,
}

/// What a session may be shown of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Nothing older than it has written or seen.
    #[default]
    Session,
    /// Nothing older than it has written; two reads may see two standbys of different age.
    OwnWrites,
    /// Anything within `max_lag`.
    Eventual,
    /// Nothing at all: every statement goes to the primary.
    Strict,
}
