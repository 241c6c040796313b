//! `[admin]`: who may use the console, the databases `pgbouncer` and `howdah`.

use schemars::JsonSchema;
use serde::Deserialize;

/// Who may use the console: the databases `pgbouncer` (PgBouncer's columns to the letter) and `howdah` (the same and
/// more). Whoever logs in there proves who it is as everybody does, and must be named here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Users who may do everything. The users `pgbouncer` and `howdah` may as well, without a password, over a Unix socket
    /// from a process of the daemon's own user. PgBouncer: `admin_users`.
    #[schemars(extend("x-reload" = "live"))]
    pub users: Vec<String>,

    /// Users who may look: every `SHOW` but `SHOW FDS`, no command. PgBouncer: `stats_users`.
    #[schemars(extend("x-reload" = "live"))]
    pub stats_users: Vec<String>,
}
