//! PostgreSQL's nouns as types. Imports nothing of ours.
//!
//! - [`SqlState`]: the five characters that say what went wrong.
//! - [`Lsn`], [`Timeline`], [`SystemIdentifier`]: where a node stands in which history.
//! - [`size_pretty`]: how many bytes, for people.
//! - [`moment`]: when, as PostgreSQL writes it.

mod lsn;
pub mod moment;
mod size;
mod sqlstate;

pub use lsn::{LogLayout, Lsn, ParseLsnError, SystemIdentifier, Timeline};
pub use size::size_pretty;
pub use sqlstate::SqlState;
