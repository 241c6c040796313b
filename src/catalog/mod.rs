//! What a cluster's own catalog says, as snapshots, and the control connections it is read through.
//!
//! - [`connection`]: one connection to one node as the monitor's user. `cluster` asks its questions through it as well.
//! - [`verifiers`]: the password verifiers of login roles.
//!
//! Not here: who is primary (`topology`), how a client proves its password (`proxy/handshake`).

pub mod connection;
pub mod verifiers;

pub use connection::{Monitor, WatchedCluster, WatchedNode};
pub use verifiers::{CatalogError, RoleSecret, Verifiers};
