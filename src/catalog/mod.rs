//! What a cluster's own catalog says, as snapshots, and the control connections it is read through.
//!
//! - [`connection`]: one connection to one node as the monitor's user. `cluster` asks its questions through it as well.
//! - [`hidden`]: what may change a session's state without a statement showing it.
//! - [`verifiers`]: the password verifiers of login roles.
//!
//! Not here: who is primary (`topology`), how a client proves its password (`proxy/handshake`).

pub mod connection;
pub mod hidden;
pub mod verifiers;

pub use connection::{Monitor, WatchedCluster, WatchedNode};
pub use hidden::{Hidden, HiddenCatalog, HiddenView};
pub use verifiers::{CatalogError, RoleSecret, Verifiers};
