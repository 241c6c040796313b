//! The wire, bytes in and bytes out: what PostgreSQL's frontend/backend protocol says, without a socket.
//!
//! Nothing here waits, reads a clock or draws a random number: nonces and secrets come in as arguments, and a peer's
//! lengths are checked before anything is sized by them. Not here: sockets and TLS (`net`), who may log in (`proxy`).
//!
//! - [`frame`]: where a message ends. [`messages`], [`error_response`]: the ones howdah writes itself.
//! - [`pipeline`]: who owes which reply.
//! - [`startup`]: the first packet of a connection, and the `options` in it.
//! - [`scram`]: SCRAM-SHA-256, as the server clients log in to and as the client of PostgreSQL.
//! - [`md5`]: the older challenge and response.

pub mod error_response;
pub mod frame;
pub mod md5;
pub mod messages;
pub mod pipeline;
pub mod scram;
pub mod startup;
