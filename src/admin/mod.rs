//! The window on both paths: reads snapshots, sends commands.
//!
//! - [`http`]: health, readiness and status for load balancers, scripts and people.

pub mod http;

pub use http::{AddressOf, HttpAddress, HttpError, HttpListener, PoolRow, Sources};
