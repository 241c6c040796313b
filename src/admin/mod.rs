//! The window on both paths: reads snapshots, sends commands.
//!
//! - [`http`]: which request is answered by what; health and readiness
//! - [`listen`]: where it listens; `access`: who may ask for what
//! - [`survey`]: asks the nodes' catalogs, for `metrics`
//! - `probes`: yes or no, for load balancers
//! - `status`, `look`, [`metrics`]: what is, and what was done; `operate`: commands for the coordinators ([`control`])
//! - [`route`]: where a statement would go, and why
//! - [`reload`]: the files are read again
//! - [`refusal`]: every answer that is none
//! - [`client`]: asks a daemon's API, for commands and the demo

pub mod access;
pub mod client;
pub mod control;
pub mod http;
pub mod listen;
mod look;
pub mod metrics;
pub mod operate;
mod probes;
pub mod refusal;
pub mod reload;
pub mod route;
mod statistics;
mod status;
pub mod survey;

pub use access::Access;
pub use control::Control;
pub use http::{AddressOf, Sources};
pub use listen::{HttpAddress, HttpError, HttpListener};
pub use status::{ClusterRow, NodeRow, PoolRow, RoutingRow};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod tests;
