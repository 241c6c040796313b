//! The wire, bytes in and bytes out. No I/O, no clock, no randomness.
//!
//! - [`frame`]: where a message ends. [`messages`], [`error_response`]: the ones howdah writes itself.
//! - [`pipeline`]: who owes which reply.

pub mod error_response;
pub mod frame;
pub mod messages;
pub mod pipeline;
