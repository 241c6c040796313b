//! `[users.NAME]`: what is known of a user beyond what the cluster says.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::credential::Credential;
use super::pool::PoolOverlay;
use super::secret::Secret;
use super::timeouts::TimeoutsOverlay;

/// A user whose password cannot be read from the cluster, or who gets other limits than the rest. At most one of
/// `password`, `password_file` and `password_env`; none is right for a user who only gets other limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    /// The password, or a SCRAM verifier as in `pg_authid` (it starts with `SCRAM-SHA-256$`). A verifier is
    /// enough to let the client in, and alone not enough to log in to a server.
    #[schemars(extend("x-reload" = "live", "x-example" = "secret"))]
    pub password: Option<Secret>,

    /// A file whose first line is the password or the verifier. Relative to the configuration file; read again on
    /// reload.
    #[schemars(extend("x-reload" = "live", "format" = "path", "x-example" = "app.password"))]
    pub password_file: Option<PathBuf>,

    /// An environment variable of the daemon that holds the password or the verifier.
    #[schemars(extend("x-reload" = "live", "x-example" = "APP_PASSWORD"))]
    pub password_env: Option<String>,

    /// Pool settings for this user, before those of the database and of `[pool]`.
    pub pool: PoolOverlay,

    /// Timeouts for this user, before those of the database and of `[timeouts]`.
    pub timeouts: TimeoutsOverlay,

    /// What the three password keys led to; `None` when none of them is there.
    #[serde(skip)]
    pub credential: Option<Credential>,
}
