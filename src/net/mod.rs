//! Sockets and what lies on them before a message does. Knows bytes, not messages.
//!
//! - [`stream`]: one connection, plain or TLS, TCP or Unix, movable between workers.
//! - [`buffer`]: memory that belongs to the thread and is lent while bytes move.
//! - [`tls`]: TLS both ways, with libpq's `sslmode` towards servers.
//! - [`listen`]: listening sockets, our own and systemd's.
//! - [`tcp`]: what the kernel is told about connections.
//! - [`dial`]: from a host and a port to a socket, however many addresses there are.
//! - [`way`]: from there to an encrypted connection.

pub mod buffer;
pub mod dial;
pub mod listen;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod way;
