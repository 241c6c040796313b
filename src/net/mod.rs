//! Sockets and what lies on them before a message does. Knows bytes, not messages.
//!
//! - [`stream`]: one connection, plain or TLS, TCP or Unix, movable between workers.
//! - [`buffer`]: memory that belongs to the thread and is lent while bytes move.
//! - [`tls`]: TLS both ways, with libpq's `sslmode` towards servers.

pub mod buffer;
pub mod stream;
pub mod tls;
