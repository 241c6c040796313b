//! TLS towards clients.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring::Ticketer;
use rustls::server::{Acceptor, WebPkiClientVerifier};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::{StartHandshake, TlsStream};

use crate::net::stream::Socket;

use super::{ALPN, TlsError, end_point_hash, presenting, provider, read_identity, read_roots, validity};

/// What a listener needs for TLS.
#[derive(Clone)]
pub struct ServerTls {
    /// For `tokio_rustls::TlsAcceptor`.
    pub config: Arc<rustls::ServerConfig>,
    /// What SCRAM binds to (`tls-server-end-point`); without it `SCRAM-SHA-256-PLUS` must not be offered.
    pub end_point_hash: Option<Vec<u8>>,
    /// When the certificate is valid, in seconds since 1970. One that has run out is presented all the same, as PostgreSQL
    /// does, and the operator warned; clients that verify will refuse it.
    pub validity: Option<RangeInclusive<i64>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// Reads `ssl_cert_file`, `ssl_key_file` and `ssl_ca_file` (`SSL-SERVER-FILES`): TLS 1.2 and 1.3, sessions resumed by
/// ticket, ALPN `postgresql` or none.
///
/// With `client_ca` a certificate the client shows is verified, and with `require_client_cert` it must show one.
///
/// # Errors
/// [`TlsError`], which names the file.
pub fn server_config(
    cert: &Path,
    key: &Path,
    client_ca: Option<&Path>,
    require_client_cert: bool,
) -> Result<ServerTls, TlsError> {
    let identity = read_identity(cert, key)?;
    let builder = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        Some(path) => {
            let (roots, _) = read_roots(path)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let verifier = if require_client_cert { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        None if require_client_cert => return Err(TlsError::NoClientCa),
        None => builder.with_no_client_auth(),
    };
    let leaf = identity.cert.first();
    let (end_point_hash, validity) = (leaf.and_then(|leaf| end_point_hash(leaf)), leaf.and_then(|leaf| validity(leaf)));
    let mut config = builder.with_cert_resolver(presenting(identity));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = Ticketer::new()?;
    Ok(ServerTls { config: Arc::new(config), end_point_hash, validity })
}

/// What a handshake makes of a socket.
pub type Accepted = TlsStream<Socket>;

/// Shakes hands with a client. `heard` is what has been read from it already: nothing behind an SSLRequest, and the
/// beginning of its ClientHello where it speaks TLS from its first byte.
///
/// # Errors
/// The socket's; what does not please either side (`InvalidData`), after the client has been sent an alert.
pub async fn accept(tls: &ServerTls, mut socket: Socket, heard: &[u8]) -> io::Result<Accepted> {
    // Not `TlsAcceptor`: it loses the alert for a ClientHello that offers other protocols only.
    let (mut acceptor, mut heard) = (Acceptor::default(), heard);
    while !heard.is_empty() {
        acceptor.read_tls(&mut heard)?;
    }
    let hello = match acceptor.accept() {
        Ok(Some(accepted)) => StartHandshake::from_parts(accepted, socket),
        Ok(None) => LazyConfigAcceptor::new(acceptor, socket).await?,
        Err((error, mut alert)) => {
            let mut said = Vec::new();
            alert.write_all(&mut said)?;
            tokio::io::AsyncWriteExt::write_all(&mut socket, &said).await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    };
    hello.into_stream(Arc::clone(&tls.config)).await
}
