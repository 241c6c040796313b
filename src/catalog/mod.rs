//! What a cluster's own catalog says, as snapshots, and the control connections it is read through.
//!
//! - [`connection`]: one connection to one node as the monitor's user. `cluster` asks its questions through it as well.
//! - [`hidden`]: what may change a session's state without a statement showing it.
//! - [`verifiers`]: secrets and groups of users, asked for at each login. `reader` does the asking, [`role`] is the answer.
//!
//! Not here: who is primary (`topology`), how a client proves its password (`proxy/handshake`).

pub mod connection;
pub mod hidden;
mod reader;
pub mod role;
pub mod verifiers;

pub use connection::{Monitor, WatchedCluster, WatchedNode};
pub use hidden::{Hidden, HiddenCatalog, HiddenView};
pub use reader::try_lookup;
pub use role::{Ordinary, Role, RoleSecret};
pub use verifiers::{CatalogError, Lookup, Verifiers};
