//! `[clusters.NAME.failover]`, `[clusters.NAME.switchover]`: who changes the primary of a cluster, and how.
//!
//! Not here: how it is decided (`cluster/decide`), what the agents are reached with (`agents`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::{ConfigDuration, Period};
use super::size::ByteSize;

/// Who acts when the primary fails, and under which conditions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Failover {
    /// Who fails over. Absent: `"automatic"` when every node has an agent, else `"observe"`. Any other than `"observe"` needs an
    /// agent beside every node.
    #[schemars(extend("x-reload" = "live", "x-example" = "automatic"))]
    pub mode: Option<FailoverMode>,

    /// When a commit counts as kept.
    #[schemars(extend("x-reload" = "live"))]
    pub durability: Durability,

    /// A standby that lacks more of the primary's log than this, as far as howdah knows, is not promoted unless somebody accepts
    /// the loss (`howdah failover --allow-data-loss`). "0" = one that is known to lack anything is not.
    #[schemars(extend("x-reload" = "live"))]
    pub max_lag_on_failover: ByteSize,

    /// A primary whose process has died is started again where it was, instead of a failover, when its recovery is expected to
    /// take no longer than this. "0" = never while a standby can take over.
    #[schemars(extend("x-reload" = "live"))]
    pub restart_if: ConfigDuration,

    /// For how long a failover counts: within this time the first is free, the second waits two seconds longer for evidence, and
    /// the third waits for somebody (`howdah failover`); until then the primary is only started again where it is. "0" = none
    /// is held back.
    #[schemars(extend("x-reload" = "live"))]
    pub flap_window: ConfigDuration,

    /// So much log a primary keeps for a member that is away, at most; one that has missed more is copied anew when it comes
    /// back. Set as PostgreSQL's `max_slot_wal_keep_size` on a primary where that is -1, without a bound: a setting of
    /// somebody's own stays. "0" = it is left alone, and a member that never comes back fills the primary's disk.
    #[schemars(extend("x-reload" = "live"))]
    pub slot_wal_max: ByteSize,

    /// Whether a primary's right to take writes runs out by itself when it hears nothing.
    #[schemars(extend("x-reload" = "live"))]
    pub lease: Lease,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            mode: None,
            durability: Durability::Async,
            max_lag_on_failover: ByteSize::from_mb(16),
            restart_if: ConfigDuration::from_secs(2),
            flap_window: ConfigDuration::from_secs(600),
            slot_wal_max: ByteSize::from_mb(16 * 1024),
            lease: Lease::Off,
        }
    }
}

/// Who fails over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailoverMode {
    /// howdah, by itself.
    Automatic,
    /// howdah, when somebody tells it to.
    Manual,
    /// Somebody else: howdah follows whatever promotes nodes, and touches none.
    Observe,
}

impl FailoverMode {
    /// As it is written in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Manual => "manual",
            Self::Observe => "observe",
        }
    }
}

/// When a commit counts as kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When the primary has it: what no standby had received is lost with the primary.
    #[default]
    Async,
    /// When a standby has it, too. Not built yet.
    Sync,
}

/// Whether a primary's right to take writes runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lease {
    /// It does not: the death of the daemon stops no database, and a machine that is gone without proof waits for a person.
    #[default]
    Off,
}

/// How a planned change of the primary goes about the clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Switchover {
    /// How long new transactions are held at most, from the beginning to the new primary's first; then the switchover is undone,
    /// if it still can be.
    #[schemars(extend("x-reload" = "live"))]
    pub hold_timeout: Period,

    /// How long the transactions that are open when it begins may take to finish. Less than `hold_timeout`.
    #[schemars(extend("x-reload" = "live"))]
    pub drain_timeout: Period,

    /// What becomes of transactions, and of sessions that depend on their server, that are still there when `drain_timeout` is
    /// over.
    #[schemars(extend("x-reload" = "live"))]
    pub on_open: OnOpen,
}

impl Default for Switchover {
    fn default() -> Self {
        Self {
            hold_timeout: Period::from_millis(5_000),
            drain_timeout: Period::from_millis(2_000),
            on_open: OnOpen::Abort,
        }
    }
}

/// What a switchover does with what is still open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnOpen {
    /// The switchover is given up, and nobody has lost anything.
    #[default]
    Abort,
    /// They are ended, as a failover would.
    Kill,
}
