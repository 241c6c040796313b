//! `[stats]`: over what time averages are taken, and whether they are written to the log.

use schemars::JsonSchema;
use serde::Deserialize;

use super::duration::Period;

/// Over what time averages are taken, and whether they are written to the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Stats {
    /// Averages (`SHOW STATS`, `avg_…`) are over the last whole period of this length. After a reload the period that runs ends
    /// as it would have with the new length. PgBouncer: `stats_period`.
    #[schemars(extend("x-reload" = "live"))]
    pub period: Period,

    /// Whether each period ends with a line in the log, at level info: what was served per second, how long it took, and how each
    /// cluster stands. PgBouncer: `log_stats`.
    #[schemars(extend("x-reload" = "live"))]
    pub log: bool,
}

impl Default for Stats {
    fn default() -> Self {
        Self { period: Period::from_millis(60_000), log: true }
    }
}
