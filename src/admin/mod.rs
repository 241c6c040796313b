//! The window on both paths: reads snapshots, sends commands.
//!
//! - [`http`]: health, readiness and status for load balancers, scripts and people
//! - [`route`]: where a statement would go, and why
//! - [`client`]: asks a daemon's API, for commands and the demo

pub mod client;
pub mod http;
pub mod route;

pub use http::{AddressOf, HttpAddress, HttpError, HttpListener, PoolRow, RoutingRow, Sources};
