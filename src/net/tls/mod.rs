//! TLS both ways: towards clients with our certificate, towards PostgreSQL with libpq's `sslmode`.
//!
//! Makes configurations and reads certificates; the handshake is `tokio_rustls`'. Not here: SSLRequest and its answer
//! (`proxy/handshake`, [`super::way`]).
//!
//! Relies on ring, passed to every builder: rustls' default provider panics when two are linked in. Files are read when a
//! configuration is made and never again; a reload makes a new one. Source: `SSL-TCP`, `LIBPQ-SSL`.

mod certificate;
mod client;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use zeroize::Zeroizing;

pub use certificate::{common_name, end_point_hash, validity};
pub use client::{ClientTls, client_config};
pub use server::{Accepted, ServerTls, accept, server_config};

use crate::config::{TlsMode, TlsNegotiation};

/// PostgreSQL's name in ALPN. Sent always, demanded by nobody but direct TLS (`PROTOCOL-FLOW-SSL`).
pub const ALPN: &[u8] = b"postgresql";

/// Why a TLS configuration cannot be made. The fault is the operator's; every text names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there or not ours to read.
    #[error("could not read \"{}\": {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not PEM.
    #[error("\"{}\" is not a PEM file: {source}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The file holds other things, or nothing.
    #[error("no certificate found in \"{}\": expected \"-----BEGIN CERTIFICATE-----\"", path.display())]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// The file holds other things, nothing, or a key with a passphrase.
    #[error(
        "no private key found in \"{}\": expected \"-----BEGIN PRIVATE KEY-----\" (a key with a passphrase cannot be used)",
        path.display()
    )]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// There is a certificate, and rustls does not take it.
    #[error("certificate in \"{}\" cannot be used: {source}", path.display())]
    BadCertificate {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// There is a key, and ring does not take it.
    #[error("private key in \"{}\" cannot be used: {source}", path.display())]
    BadKey {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Two files that do not belong together.
    #[error("private key \"{}\" does not match certificate \"{}\"", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate's.
        cert: PathBuf,
        /// The key's.
        key: PathBuf,
    },
    /// `cert` without `key`, or the other way.
    #[error("a client certificate needs both cert and key, and only one of them is set")]
    HalfACertificate,
    /// `verify-ca` against every CA on earth would verify nothing, and libpq refuses it too.
    #[error("sslmode verify-ca needs a ca file: without one use verify-full, which trusts the system's certificates")]
    NoCa,
    /// A client certificate is demanded, and nothing says from whom.
    #[error("client certificates cannot be required without a ca file to check them against")]
    NoClientCa,
    /// `verify-full` without a `ca`, on a system without certificates.
    #[error("found no certificates that the system trusts ({0}): set ca to a file with the server's root certificate")]
    NoSystemCertificates(String),
    /// A name that no certificate can be for.
    #[error("\"{0}\" is neither a host name nor an address, so no certificate can be for it")]
    HostName(String),
    /// Anything else rustls refuses.
    #[error("could not set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// All certificates in a PEM file, leaf first.
///
/// # Errors
/// [`TlsError::Read`], [`TlsError::Pem`], [`TlsError::NoCertificate`].
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    if certificates.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(certificates) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    PrivateKeyDer::from_pem_slice(&Zeroizing::new(bytes)).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::NoKey { path: path.to_owned() },
        source => TlsError::Pem { path: path.to_owned(), source },
    })
}

/// A certificate with its chain and its key, proved to belong together.
fn read_identity(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let (chain, private) = (read_certificates(cert)?, read_key(key)?);
    CertifiedKey::from_der(chain, private, &provider()).map(Arc::new).map_err(|source| match source {
        rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch { cert: cert.to_owned(), key: key.to_owned() },
        rustls::Error::InvalidCertificate(_) => TlsError::BadCertificate { path: cert.to_owned(), source },
        _ => TlsError::BadKey { path: key.to_owned(), source },
    })
}

/// Presents one certificate to whoever asks.
fn presenting(identity: Arc<CertifiedKey>) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(identity))
}

/// A `ca` file, and its certificates as they are.
fn read_roots(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let certificates = read_certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|source| TlsError::BadCertificate { path: path.to_owned(), source })?;
    }
    Ok((roots, certificates))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
