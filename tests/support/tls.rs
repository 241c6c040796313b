//! Certificates for tests, and the wire client's TLS.

use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::private;
use super::wire::{self, Client};

/// What PostgreSQL calls itself in ALPN.
pub const ALPN: &[u8] = b"postgresql";

/// An authority, and a folder for what it signs.
pub struct Authority {
    folder: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one; its certificate is `ca.crt`.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap(); // psql's user reads it
        std::fs::write(folder.path().join("ca.crt"), ca.pem()).unwrap();
        Self { folder, ca }
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `NAME.crt` and `NAME.key`, for this host and with the common name NAME.
    pub fn sign(&self, name: &str, host: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        std::fs::write(self.path(&format!("{name}.crt")), params.signed_by(&key, &self.ca).unwrap().pem()).unwrap();
        private(&self.path(&format!("{name}.key")), &key.serialize_pem());
    }

    /// `NAME.crt` and `NAME.key`, for a client of this name.
    pub fn sign_client(&self, name: &str, common_name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        std::fs::write(self.path(&format!("{name}.crt")), params.signed_by(&key, &self.ca).unwrap().pem()).unwrap();
        private(&self.path(&format!("{name}.key")), &key.serialize_pem()); // libpq insists as well
    }

    /// A `tls` line of a listener with this certificate.
    pub fn listener(&self, name: &str, mode: &str) -> String {
        self.listener_with(name, mode, "")
    }

    /// [`Self::listener`] that verifies clients by this file.
    pub fn listener_with_ca(&self, name: &str, mode: &str, ca: &str) -> String {
        self.listener_with(name, mode, &format!(", ca = \"{}\"", self.path(ca).display()))
    }

    fn listener_with(&self, name: &str, mode: &str, more: &str) -> String {
        let (cert, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        let (cert, key) = (cert.display(), key.display());
        format!("tls = {{ cert = \"{cert}\", key = \"{key}\", mode = \"{mode}\"{more} }}\n")
    }

    /// What a client trusts, and shows if `name` is one that was signed.
    pub fn client(&self, name: Option<&str>) -> Arc<ClientConfig> {
        Arc::new(self.offering(&[], name.map(|name| (self, name))))
    }

    /// A client that trusts this authority and offers these protocols; with `identity`, it shows that certificate.
    pub fn offering(&self, alpn: &[&[u8]], identity: Option<(&Self, &str)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((authority, name)) => {
                let cert = CertificateDer::from_pem_file(authority.path(&format!("{name}.crt"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }
}

/// How a client begins TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With an SSLRequest.
    Asking,
    /// At once.
    Directly,
}

/// A wire client that has shaken hands with 127.0.0.1 and sent nothing else.
pub fn connect(port: u16, begin: Begin, config: ClientConfig) -> io::Result<Client> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    if begin == Begin::Asking {
        socket.write_all(&wire::ssl_request())?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
        assert_eq!(answer, *b"S");
    }
    let host = ServerName::try_from("127.0.0.1").unwrap();
    let session = ClientConnection::new(Arc::new(config), host).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Client::over(Box::new(stream)))
}
