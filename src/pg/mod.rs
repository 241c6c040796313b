//! PostgreSQL's nouns as types. Imports nothing of ours.
//!
//! - [`SqlState`]: the five characters that say what went wrong.
//! - [`Lsn`], [`Timeline`], [`SystemIdentifier`]: where a node stands in which history.

mod lsn;
mod sqlstate;

pub use lsn::{LogLayout, Lsn, ParseLsnError, SystemIdentifier, Timeline};
pub use sqlstate::SqlState;
