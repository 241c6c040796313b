//! `[stats]`: over what time averages are taken, whether they are written to the log, and an operator's own questions.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::duration::Period;
use super::queries::Query;

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

    /// Questions of your own to the nodes, whose answers become metrics: the shape of `postgres_exporter`'s `queries.yaml`, in TOML
    /// (docs/metrics.md). Relative to this file, and read again at every reload.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "queries.toml"))]
    pub queries_file: Option<PathBuf>,

    /// What `queries_file` says.
    #[serde(skip)]
    pub queries: Arc<Vec<Query>>,
}

impl Default for Stats {
    fn default() -> Self {
        Self { period: Period::from_millis(60_000), log: true, queries_file: None, queries: Arc::default() }
    }
}
