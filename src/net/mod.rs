//! Sockets and what lies on them before a message does. Knows bytes, not messages.
//!
//! - [`tls`]: TLS both ways, with libpq's `sslmode` towards servers.

pub mod tls;
