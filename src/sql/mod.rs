//! What a statement is, from its text alone. Knows no nodes and no sessions.
//!
//! - [`opening`]: the words a statement opens with, which is all that pooling needs.

pub mod opening;
