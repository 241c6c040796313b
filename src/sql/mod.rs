//! What a statement is, from its text alone. Knows no nodes and no sessions.
//!
//! - [`opening`]: the words a statement opens with
//! - [`lexer`]: its tokens
//! - [`effects`]: what it may leave behind in its session
//! - [`texts`]: what is known of it already, by its [`shape`], without lexing it again
//! - [`assignment`]: which settings it changes; [`deallocate`]: which prepared statement it takes away
//!
//! And where it may run, in the order in which it is found out:
//!
//! - [`cache`]: what is known of a statement already, by its [`fingerprint`]
//! - [`analysis`]: all that it says, from its [`statement`]s, which may [`begin`] a block or hold a [`query`]: names, among
//!   them [`built_ins`], and [`keywords`]
//! - [`second_opinion`]: another grammar that must agree
//! - [`class`]: the answer, and the reason for it
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
pub mod shape;
pub mod statement;
pub mod texts;
