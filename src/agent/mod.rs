//! The process beside PostgreSQL, and the only one that touches a data directory: `howdah agent`.
//!
//! It decides nothing about roles: a coordinator tells it ([`directive`](crate::directive)), under an epoch, and it refuses what is
//! older than what it has seen.
//!
//! - [`config`][]: `agent.toml`, read by [`load`]; [`surroundings`]: what it finds on the machine
//! - [`step`]: one reversible act of a job
//! - [`sweep`]: finds every server process of the data directory, and leaves none

pub mod config;
pub mod load;
pub mod step;
pub mod surroundings;
pub mod sweep;
