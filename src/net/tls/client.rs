//! TLS towards PostgreSQL, with libpq's `sslmode`.
//!
//! Stricter than libpq in one thing: a host is looked for in subjectAltName only, never in the common name.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{ALPN, TlsError, TlsMode, TlsNegotiation, presenting, provider, read_identity, read_roots, validity};

/// How to speak TLS to a node.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// For `tokio_rustls::TlsConnector`.
    pub config: Arc<rustls::ClientConfig>,
    /// What happens when the server has no TLS.
    pub mode: TlsMode,
    /// Whether TLS is asked for first.
    pub negotiation: TlsNegotiation,
}

impl ClientTls {
    /// The name for the handshake. It is verified in `verify-full` only; elsewhere one that no certificate can be for is
    /// replaced, since it would only be sent as SNI.
    ///
    /// # Errors
    /// [`TlsError::HostName`], in `verify-full`.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(_) if self.mode < TlsMode::VerifyFull => {
                Ok(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0]))))
            }
            Err(_) => Err(TlsError::HostName(host.to_owned())),
        }
    }
}

/// Makes the configuration for `sslmode`, `sslnegotiation`, `sslrootcert`, `sslcert` and `sslkey`; `None` for `disable`.
///
/// `require` with a `ca` verifies as `verify-ca`, as in libpq. `verify-full` without one trusts what the system trusts
/// (libpq's `sslrootcert=system`). Sessions are never resumed: PostgreSQL hands out no tickets, and the certificate to
/// bind SCRAM to is always the one just seen.
///
/// # Errors
/// [`TlsError`], which names the file.
pub fn client_config(
    mode: TlsMode,
    negotiation: TlsNegotiation,
    ca: Option<&Path>,
    cert: Option<&Path>,
    key: Option<&Path>,
) -> Result<Option<ClientTls>, TlsError> {
    let check = match (mode, ca) {
        (TlsMode::Disable, _) => return Ok(None),
        (TlsMode::Allow | TlsMode::Prefer, _) | (TlsMode::Require, None) => Check::Nothing,
        (TlsMode::Require | TlsMode::VerifyCa, Some(_)) => Check::Chain,
        (TlsMode::VerifyCa, None) => return Err(TlsError::NoCa),
        (TlsMode::VerifyFull, _) => Check::ChainAndHost,
    };
    let (roots, pinned) = match (check, ca) {
        (Check::Nothing, _) => (RootCertStore::empty(), Vec::new()),
        (Check::Chain | Check::ChainAndHost, Some(path)) => read_roots(path)?,
        (Check::Chain | Check::ChainAndHost, None) => (system_roots()?, Vec::new()),
    };
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = ServerVerifier { check, roots, pinned, algorithms };
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous() // what is verified is `Check`'s to say; signatures always are
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (cert, key) {
        (Some(cert), Some(key)) => builder.with_client_cert_resolver(presenting(read_identity(cert, key)?)),
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(TlsError::HalfACertificate),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Some(ClientTls { config: Arc::new(config), mode, negotiation }))
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoSystemCertificates(errors.join("; ")));
    }
    Ok(roots)
}

/// How much of a server's certificate is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndHost,
}

#[derive(Debug)]
struct ServerVerifier {
    check: Check,
    roots: RootCertStore,
    /// The `ca` file's own certificates: a self-signed server certificate may be its own root, as PostgreSQL's manual makes
    /// them, and webpki does not take a CA for a server.
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if !self.pinned.iter().any(|pinned| pinned == end_entity) {
            let algorithms = self.algorithms.all;
            return verify_server_cert_signed_by_trust_anchor(parsed, &self.roots, intermediates, now, algorithms);
        }
        let period = validity(end_entity).ok_or(CertificateError::BadEncoding)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now > *period.end() {
            Err(CertificateError::Expired.into())
        } else if now < *period.start() {
            Err(CertificateError::NotValidYet.into())
        } else {
            Ok(())
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        self.verify_chain(end_entity, &parsed, intermediates, now)?;
        if self.check == Check::ChainAndHost {
            verify_server_name(&parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // In every mode: whoever shows a certificate must hold its key, or SCRAM's channel binding would bind to nothing.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
