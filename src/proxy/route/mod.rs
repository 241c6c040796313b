//! Where a request goes: its class, what its session has seen, and what is known of the nodes.
//!
//! - [`token`] ◇: what a session has seen, and which standby may show it more
//! - [`choice`] ◇: which of several standbys
//! - [`standbys`]: what all sessions share: who is at home where, and whether waiting is worth while
//! - [`lens`]: what is known of a database, with the operator's own lists in front
//! - [`counters`]: how many requests went where, and why
//! - [`explain`]: the same for a statement that nobody has sent, in words
//!
//! Not here: what a text is (`sql/analysis.rs`), what a request is (`session/turn.rs`), getting there
//! (`session/destination.rs`).

pub mod choice;
pub mod counters;
pub mod explain;
pub mod lens;
pub mod standbys;
pub mod token;
