//! `agent.toml`: where PostgreSQL is, who may talk to the agent, and the secrets that no directive carries.
//!
//! Not here: what the daemon is told (`config`).

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::kindred::fields_of;
use crate::config::{ByteSize, Period, Secret};

/// The whole file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Which version of these keys the file is written for; absent: 1. A newer one than [`VERSION`] is refused.
    #[serde(default = "first_version")]
    #[schemars(range(min = 1))]
    pub version: u32,
    /// The cluster's name, as in `[clusters.NAME]` of the daemon.
    #[schemars(extend("x-example" = "main"))]
    pub cluster: String,
    /// The node's name, as in `[[clusters.NAME.nodes]] name`.
    #[schemars(extend("x-example" = "a"))]
    pub node: String,
    /// PostgreSQL's data directory. The agent touches nothing else of PostgreSQL's, but for copies of it beside it.
    #[schemars(extend("x-example" = "/var/lib/postgresql/15/main"))]
    pub data_directory: PathBuf,
    /// Where the agent keeps its journal, its epoch and its backups of configuration files; outlives a reboot.
    #[schemars(extend("x-example" = "/var/lib/howdah-agent"))]
    pub state_directory: PathBuf,
    /// Where PostgreSQL's programs are; `"auto"` finds those of the data directory's version.
    #[serde(default = "auto")]
    pub bin_directory: String,
    /// The systemd unit that runs PostgreSQL; `"auto"` looks for one, `"none"`: the agent runs `pg_ctl` itself.
    #[serde(default = "auto")]
    pub service: String,
    /// Where it listens.
    pub listen: Listen,
    /// How it asks its own PostgreSQL.
    #[serde(default)]
    pub superuser: Superuser,
    /// How its PostgreSQL follows another.
    pub replication: Login,
    /// How `pg_rewind` asks another; as `replication` when absent.
    pub rewind: Option<Login>,
    /// What it keeps.
    #[serde(default)]
    pub backups: Backups,
    /// How long things may take.
    #[serde(default)]
    pub jobs: Jobs,
    /// What was found on this machine; not in the file.
    #[serde(skip)]
    pub found: Found,
}

/// What the file leaves open, and the start finds out ([`surroundings`](super::surroundings)).
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Where PostgreSQL's programs are.
    pub programs: PathBuf,
    /// The major version of the data directory, and so of the programs.
    pub major: u32,
    /// The systemd unit that starts and stops PostgreSQL; none: `pg_ctl`.
    pub unit: Option<String>,
    /// The number of `[listen] group`.
    pub gid: Option<u32>,
}

impl Found {
    /// One of PostgreSQL's programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// `[listen]`
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// A Unix socket.
    pub unix: Option<PathBuf>,
    /// The group that may use it, besides the user that the agent runs as and root; nobody else when absent.
    pub group: Option<String>,
    /// A TCP address, for mutual TLS only.
    pub address: Option<String>,
    /// The agent's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Whose certificates it takes.
    pub ca: Option<PathBuf>,
    /// Common names of daemons that may talk to it.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// `[superuser]`
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Superuser {
    /// The role.
    pub user: String,
    /// The directory of PostgreSQL's socket; found in `postmaster.pid` or the configuration when absent.
    pub socket: Option<PathBuf>,
}

impl Default for Superuser {
    fn default() -> Self {
        Self { user: "postgres".to_owned(), socket: None }
    }
}

/// `[replication]`, `[rewind]`
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The role.
    #[schemars(extend("x-example" = "replicator"))]
    pub user: String,
    /// A file whose first line is its password; none where the other side trusts.
    pub password_file: Option<PathBuf>,
    /// As in libpq.
    #[serde(default = "prefer")]
    pub sslmode: String,
    /// What the file says.
    #[serde(skip)]
    pub password: Option<Secret>,
}

/// `[backups]`: of data directories that were replaced.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backups {
    /// So many are kept at most.
    pub keep: u32,
    /// And none for longer.
    pub keep_days: u32,
    /// A copy is not begun if less than this would be left.
    pub min_free: ByteSize,
    /// Where there is no room for two: the old one is given up before its replacement runs. Not built yet: true is refused.
    pub discard_old: bool,
}

impl Default for Backups {
    fn default() -> Self {
        Self { keep: 2, keep_days: 7, min_free: ByteSize::from_mb(10 * 1024), discard_old: false }
    }
}

/// `[jobs]`
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Jobs {
    /// For each step, but for copies.
    pub step_timeout: Period,
    /// For the whole.
    pub job_timeout: Period,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { step_timeout: Period::from_millis(60_000), job_timeout: Period::from_millis(3_600_000) }
    }
}

/// The newest version of the keys that this howdah reads.
pub const VERSION: u32 = 1;

const fn first_version() -> u32 {
    1
}

/// The fields of the struct of this name.
pub(super) fn fields(name: &str) -> &'static [&'static str] {
    match name {
        "AgentConfig" => fields_of::<AgentConfig>(),
        "Listen" => fields_of::<Listen>(),
        "Superuser" => fields_of::<Superuser>(),
        "Login" => fields_of::<Login>(),
        "Backups" => fields_of::<Backups>(),
        "Jobs" => fields_of::<Jobs>(),
        _ => &[],
    }
}

fn auto() -> String {
    "auto".to_owned()
}

fn prefer() -> String {
    "prefer".to_owned()
}
