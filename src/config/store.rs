//! `[store]`: where the daemon keeps what must outlive it: who the primary is, and what it was about to do.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the daemon keeps what must outlive it: who the primary of each cluster is, what it was about to do, the history. Only
/// used for clusters whose failover mode is not `"observe"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Which kind of store.
    #[schemars(extend("x-reload" = "restart"))]
    pub kind: StoreKind,

    /// The directory of a local store, made if it is not there. It must survive a reboot, and belong to one daemon only.
    #[schemars(extend("x-reload" = "restart"))]
    pub path: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self { kind: StoreKind::Local, path: PathBuf::from("/var/lib/howdah") }
    }
}

/// Which kind of store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Files on this machine, synced to its disk: one daemon.
    #[default]
    Local,
    /// A quorum of daemons. Not built yet.
    Raft,
    /// An etcd that is there already. Not built yet.
    Etcd,
}

impl StoreKind {
    /// As it is written in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Raft => "raft",
            Self::Etcd => "etcd",
        }
    }
}
