//! Whole handshakes in memory, for every mode and every way to get it wrong.

use std::io::{Read, Write};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::{CertificateError, ClientConnection, HandshakeKind, ServerConnection};
use tempfile::TempDir;

use super::*;

/// A folder with two CAs and what they signed.
struct Files {
    folder: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let files = Self { folder, ca: authority("test CA") };
        files.write("ca", &files.ca.pem());
        files.write("other-ca", &authority("other CA").pem());
        files.signed("server", |_| ());
        files.signed("client", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// `name` and `name.key`, for `db.example` and 127.0.0.1.
    fn signed(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["db.example".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        self.write(name, &params.signed_by(&key, &self.ca).unwrap().pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn server(&self, name: &str) -> ServerTls {
        server_config(&self.path(name), &self.path(&format!("{name}.key")), None, false).unwrap()
    }

    fn client(&self, mode: TlsMode, ca: Option<&str>) -> ClientTls {
        client_config(mode, TlsNegotiation::Postgres, ca.map(|ca| self.path(ca)).as_deref(), None, None)
            .unwrap()
            .unwrap()
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Hands bytes to and fro until both sides have nothing more to say.
fn shake(
    server: &ServerTls,
    client: &ClientTls,
    host: &str,
) -> Result<(ServerConnection, ClientConnection), rustls::Error> {
    let mut ours = ServerConnection::new(server.config.clone())?;
    let mut theirs = ClientConnection::new(client.config.clone(), client.server_name(host).unwrap())?;
    while theirs.wants_write() || ours.wants_write() {
        let mut wire = Vec::new();
        theirs.write_tls(&mut wire).unwrap();
        ours.read_tls(&mut wire.as_slice()).unwrap();
        ours.process_new_packets()?;
        wire.clear();
        ours.write_tls(&mut wire).unwrap();
        theirs.read_tls(&mut wire.as_slice()).unwrap();
        theirs.process_new_packets()?;
    }
    assert!(!ours.is_handshaking() && !theirs.is_handshaking());
    Ok((ours, theirs))
}

fn refusal(server: &ServerTls, client: &ClientTls, host: &str) -> CertificateError {
    match shake(server, client, host) {
        Err(rustls::Error::InvalidCertificate(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn without_a_ca_the_weak_modes_take_any_certificate() {
    let files = Files::new();
    for mode in [TlsMode::Allow, TlsMode::Prefer, TlsMode::Require] {
        shake(&files.server("server"), &files.client(mode, None), "another.example").unwrap();
    }
    shake(&files.server("server"), &files.client(TlsMode::Require, None), "not a host name").unwrap();
    assert!(client_config(TlsMode::Disable, TlsNegotiation::Postgres, None, None, None).unwrap().is_none());
}

#[test]
fn no_mode_takes_a_certificate_whose_key_the_server_does_not_hold() {
    let files = Files::new();
    let mut forged = files.server("server");
    let identity = read_identity(&files.path("server"), &files.path("server.key")).unwrap();
    let thief = read_identity(&files.path("client"), &files.path("client.key")).unwrap();
    let stolen = CertifiedKey::new(identity.cert.clone(), thief.key.clone());
    Arc::make_mut(&mut forged.config).cert_resolver = presenting(Arc::new(stolen));
    let ca = Some("ca");
    for (mode, ca) in
        [(TlsMode::Prefer, None), (TlsMode::Require, None), (TlsMode::VerifyCa, ca), (TlsMode::VerifyFull, ca)]
    {
        assert_eq!(refusal(&forged, &files.client(mode, ca), "db.example"), CertificateError::BadSignature, "{mode:?}");
    }
}

#[test]
fn verify_ca_looks_at_the_chain_and_not_at_the_host() {
    let files = Files::new();
    for mode in [TlsMode::Require, TlsMode::VerifyCa] {
        shake(&files.server("server"), &files.client(mode, Some("ca")), "another.example").unwrap();
        let error = refusal(&files.server("server"), &files.client(mode, Some("other-ca")), "db.example");
        assert_eq!(error, CertificateError::UnknownIssuer);
    }
}

#[test]
fn verify_full_looks_at_both() {
    let files = Files::new();
    let client = files.client(TlsMode::VerifyFull, Some("ca"));
    for host in ["db.example", "127.0.0.1"] {
        shake(&files.server("server"), &client, host).unwrap();
    }
    for host in ["another.example", "127.0.0.2", "db.example.evil"] {
        assert!(matches!(
            refusal(&files.server("server"), &client, host),
            CertificateError::NotValidForNameContext { .. }
        ));
    }
    let stranger = files.client(TlsMode::VerifyFull, Some("other-ca"));
    assert_eq!(refusal(&files.server("server"), &stranger, "db.example"), CertificateError::UnknownIssuer);
    assert!(matches!(client.server_name("not a host name"), Err(TlsError::HostName(_))));
}

#[test]
fn verify_full_without_a_ca_trusts_only_what_the_system_trusts() {
    let files = Files::new();
    match client_config(TlsMode::VerifyFull, TlsNegotiation::Postgres, None, None, None) {
        Ok(client) => {
            let error = refusal(&files.server("server"), &client.unwrap(), "db.example");
            assert_eq!(error, CertificateError::UnknownIssuer);
        }
        Err(error) => assert!(matches!(error, TlsError::NoSystemCertificates(_)), "{error}"),
    }
}

#[test]
fn an_expired_certificate_is_refused_where_certificates_matter() {
    let files = Files::new();
    files.signed("old", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let server = files.server("old");
    assert_eq!(*server.validity.clone().unwrap().end(), 1_577_836_800);
    shake(&server, &files.client(TlsMode::Require, None), "db.example").unwrap();
    let error = refusal(&server, &files.client(TlsMode::VerifyCa, Some("ca")), "db.example");
    assert!(matches!(error, CertificateError::ExpiredContext { .. }), "{error:?}");
}

#[test]
fn a_self_signed_certificate_may_be_its_own_root() {
    let files = Files::new();
    let own = |name: &str, until: i32| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["db.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained); // as `openssl req -x509` makes them
        params.not_after = date_time_ymd(until, 1, 1);
        files.write(name, &params.self_signed(&key).unwrap().pem());
        files.write(&format!("{name}.key"), &key.serialize_pem());
    };
    own("self", 2100);
    own("old-self", 2020);
    let client = |ca: &str| files.client(TlsMode::VerifyFull, Some(ca));
    shake(&files.server("self"), &client("self"), "db.example").unwrap();
    let error = refusal(&files.server("self"), &client("self"), "another.example");
    assert!(matches!(error, CertificateError::NotValidForNameContext { .. }), "{error:?}");
    assert_eq!(refusal(&files.server("old-self"), &client("old-self"), "db.example"), CertificateError::Expired);
    assert!(shake(&files.server("self"), &client("old-self"), "db.example").is_err());
}

#[test]
fn client_certificates_are_verified_and_where_required_missed() {
    let files = Files::new();
    let server = |ca: &str, required| {
        server_config(&files.path("server"), &files.path("server.key"), Some(&files.path(ca)), required).unwrap()
    };
    let (cert, key) = (files.path("client"), files.path("client.key"));
    let known =
        client_config(TlsMode::Require, TlsNegotiation::Postgres, None, Some(&cert), Some(&key)).unwrap().unwrap();
    let unknown = files.client(TlsMode::Require, None);

    let (ours, _) = shake(&server("ca", true), &known, "db.example").unwrap();
    assert_eq!(ours.peer_certificates().unwrap(), read_certificates(&cert).unwrap());
    assert!(matches!(shake(&server("ca", true), &unknown, "db.example"), Err(rustls::Error::NoCertificatesPresented)));
    let (ours, _) = shake(&server("ca", false), &unknown, "db.example").unwrap();
    assert_eq!(ours.peer_certificates(), None);
    assert_eq!(refusal(&server("other-ca", false), &known, "db.example"), CertificateError::UnknownIssuer);
}

#[test]
fn alpn_is_postgresql_or_nothing() {
    let files = Files::new();
    let server = files.server("server");
    let mut client = files.client(TlsMode::Require, None);
    assert_eq!(shake(&server, &client, "h").unwrap().0.alpn_protocol(), Some(ALPN));
    Arc::make_mut(&mut client.config).alpn_protocols.clear();
    assert_eq!(shake(&server, &client, "h").unwrap().0.alpn_protocol(), None);
    Arc::make_mut(&mut client.config).alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(matches!(shake(&server, &client, "h"), Err(rustls::Error::NoApplicationProtocol)));
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_the_server_is_told_which_host_is_meant() {
    let files = Files::new();
    let server = files.server("server");
    let versions = [(&rustls::version::TLS12, "TLSv1_2"), (&rustls::version::TLS13, "TLSv1_3")];
    for (version, name) in versions {
        let mut roots = RootCertStore::empty();
        roots.add(files.ca.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = files.client(TlsMode::VerifyFull, Some("ca"));
        client.config = Arc::new(config);
        let (ours, _) = shake(&server, &client, "db.example").unwrap();
        assert_eq!(format!("{:?}", ours.protocol_version().unwrap()), name);
        assert_eq!(ours.server_name(), Some("db.example"));
    }
    let client = files.client(TlsMode::VerifyFull, Some("ca"));
    assert_eq!(shake(&server, &client, "db.example").unwrap().0.server_name(), Some("db.example"));
    assert_eq!(shake(&server, &client, "127.0.0.1").unwrap().0.server_name(), None, "an address is no name");
}

#[test]
fn both_sides_see_the_same_end_point_and_bytes_arrive() {
    let files = Files::new();
    let server = files.server("server");
    let (mut ours, theirs) = shake(&server, &files.client(TlsMode::VerifyFull, Some("ca")), "db.example").unwrap();
    let seen = theirs.peer_certificates().and_then(|chain| chain.first()).and_then(|leaf| end_point_hash(leaf));
    assert_eq!(seen, server.end_point_hash);
    assert_eq!(seen.map(|hash| hash.len()), Some(32));

    let mut theirs = theirs;
    theirs.writer().write_all(b"hello").unwrap();
    let mut wire = Vec::new();
    theirs.write_tls(&mut wire).unwrap();
    ours.read_tls(&mut wire.as_slice()).unwrap();
    ours.process_new_packets().unwrap();
    let mut heard = [0; 5];
    ours.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

#[test]
fn a_client_that_comes_back_resumes_its_session() {
    let files = Files::new();
    let server = files.server("server");
    let mut client = files.client(TlsMode::Require, None);
    Arc::make_mut(&mut client.config).resumption = rustls::client::Resumption::in_memory_sessions(4);
    assert_eq!(shake(&server, &client, "h").unwrap().0.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(shake(&server, &client, "h").unwrap().0.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn a_refusal_names_the_file_and_what_is_wrong_with_it() {
    let files = Files::new();
    files.write("empty", "");
    files.write("cut", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    files.write("junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    files.write("junk.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    files.write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let server = |cert: &str, key: &str, ca: Option<&str>, required: bool| {
        let ca = ca.map(|ca| files.path(ca));
        let error = server_config(&files.path(cert), &files.path(key), ca.as_deref(), required).unwrap_err();
        error.to_string().replace(&format!("{}/", files.folder.path().display()), "")
    };
    let (key, none) = ("server.key", None);
    let says = |text: String, start: &str| assert!(text.starts_with(start), "{text}");
    says(server("absent", key, none, false), "could not read \"absent\": No such file");
    says(server("server", "absent", none, false), "could not read \"absent\": No such file");
    says(server("empty", key, none, false), "no certificate found in \"empty\"");
    says(server(key, "server", none, false), "no certificate found in \"server.key\"");
    says(server("server", "server", none, false), "no private key found in \"server\"");
    says(server("server", "locked.key", none, false), "no private key found in \"locked.key\"");
    says(server("cut", key, none, false), "\"cut\" is not a PEM file");
    says(server("junk", key, none, false), "certificate in \"junk\" cannot be used");
    says(server("server", "junk.key", none, false), "private key in \"junk.key\" cannot be used");
    says(
        server("server", "client.key", none, false),
        "private key \"client.key\" does not match certificate \"server\"",
    );
    says(server("server", key, Some("junk"), false), "certificate in \"junk\" cannot be used");
    says(server("server", key, none, true), "client certificates cannot be required without a ca file");

    let client = |mode, cert: Option<&Path>| {
        client_config(mode, TlsNegotiation::Postgres, None, cert, None).unwrap_err().to_string()
    };
    says(client(TlsMode::VerifyCa, None), "sslmode verify-ca needs a ca file");
    says(client(TlsMode::Require, Some(&files.path("client"))), "a client certificate needs both cert and key");
}

#[test]
fn sslmode_is_spelled_as_in_libpq() {
    for mode in
        [TlsMode::Disable, TlsMode::Allow, TlsMode::Prefer, TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull]
    {
        let read: TlsMode = serde_json::from_str(&format!("\"{}\"", mode.as_str())).unwrap();
        assert_eq!(read, mode);
    }
    assert!(TlsMode::Require.needs_tls() && !TlsMode::Prefer.needs_tls());
}
