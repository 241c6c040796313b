//! The control path: who is the primary, and what is known of every node.
//!
//! - [`decide`] ◇ is the coordinator: what follows from what is known
//! - [`ledger`] keeps what they have done, for people
//! - [`act`] carries its directives to agents, [`store`] keeps its record
//! - [`observe`] asks the nodes and publishes what it learns on the [`topology::Board`](crate::topology::Board). Without
//!   agents this is all there is: howdah follows whatever promotes nodes.
//!
//! Not here: how clients reach the primary (`proxy`). The two never call each other.

pub mod act;
pub mod coordinator;
pub mod decide;
pub mod ledger;
pub mod observe;
pub mod store;

pub use crate::catalog::{Monitor, WatchedCluster, WatchedNode};
pub use coordinator::{Coordinators, ManagedCluster};
pub use observe::{Watch, watch};
