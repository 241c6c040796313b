//! Sockets and buffers. Knows bytes, not messages.
//!
//! - [`stream`]: one connection, plain or TLS, TCP or Unix, movable between workers.
//! - [`buffer`]: memory that belongs to the thread and is lent while bytes move.

pub mod buffer;
pub mod stream;
