//! What a statement is, from its text alone. Knows no nodes and no sessions.
//!
//! - [`opening`]: the words a statement opens with
//! - [`lexer`]: its tokens
//! - [`effects`]: what it may leave behind in its session
//! - [`assignment`]: which settings it changes; [`deallocate`]: which prepared statement it takes away
//! - [`knowledge`]: what has to be known of a database besides

pub mod analysis;
pub mod assignment;
pub mod begin;
pub mod built_ins;
pub mod cache;
pub mod class;
pub mod deallocate;
pub mod effects;
pub mod fingerprint;
pub mod keywords;
pub mod knowledge;
pub mod lexer;
pub mod opening;
pub mod query;
pub mod second_opinion;
