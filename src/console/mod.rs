//! The admin console: the databases `pgbouncer` (PgBouncer's console to the byte) and `howdah` (the same and more).
//!
//! A client comes in through the data path's own front door ([`crate::proxy::door`]): TLS, startup and authentication are those
//! of everybody. Behind it:
//!
//! - [`seat`]: who may come in, and what a console needs to know of the daemon
//! - [`talk`]: the protocol, with [`line`] (messages as bytes), [`names`] (what is prepared) and [`answer`] (rows and their formats)
//! - [`divide`], [`command`]: from a text to commands; [`refusal`]: PgBouncer's words when it says no
//! - [`show`]: every `SHOW`
//!
//! It lives on its client's worker, in that client's task: what panics there ends this console and nothing else.

pub mod answer;
pub mod carry_out;
pub mod command;
pub mod divide;
mod line;
pub mod names;
mod own;
pub mod refusal;
pub mod seat;
pub mod setting;
pub mod show;
pub mod talk;
mod words;

pub use seat::{Console, Sources};
