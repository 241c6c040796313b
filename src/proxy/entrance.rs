//! What a listener means to a client that comes in by it: TLS, and where its statements go. Read once per client, when it is
//! accepted; a reload puts another one in place for those who come after.
//!
//! Not here: the socket (`net/listen`), letting in (`accept`).

use crate::config::{Listener, RoutingRole, TlsMode};
use crate::net::tls::{ServerTls, TlsError, server_config};

/// The meaning of a listener.
#[derive(Clone, Debug, Default)]
pub struct Entrance {
    /// TLS, unless there is none.
    pub tls: Option<ListenerTls>,
    /// Where its clients' statements go.
    pub role: RoutingRole,
}

/// TLS on a listener.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// The certificate and its key.
    pub tls: ServerTls,
    /// What is asked of clients.
    pub mode: TlsMode,
}

impl Entrance {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn new(listener: &Listener) -> Result<Self, TlsError> {
        let tls = match &listener.tls {
            Some(tls) if tls.mode != TlsMode::Disable => match (&tls.cert, &tls.key) {
                (Some(cert), Some(key)) => {
                    let mode = tls.mode;
                    let verifies = mode >= TlsMode::VerifyCa;
                    Some(ListenerTls { tls: server_config(cert, key, tls.ca.as_deref(), verifies)?, mode })
                }
                _ => None,
            },
            _ => None,
        };
        Ok(Self { tls, role: listener.role })
    }
}
