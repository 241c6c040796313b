//! TLS to clients and to servers, with libpq's modes on both sides.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::drivers::{finish, python};
pub use crate::support::tls::Authority;
use crate::support::tls::{ALPN, Begin, connect};
use crate::support::wire;
use crate::support::{Builder, Cluster, Howdah, SOON, Tenant, config, eventually, free_port, shared};

/// Serves these with a line under the listener and one under the node.
pub fn serve(cluster: &Cluster, listener: &str, node: &str) -> Howdah {
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml = tls_config(&config(cluster.nodes(), port, http_port, ""), listener, node);
    Howdah::start(&toml, port, http_port)
}

pub fn tls_config(plain: &str, listener: &str, node: &str) -> String {
    plain.replacen("\n\n[http]", &format!("\n{listener}\n[http]"), 1).trim_end().to_owned() + "\n" + node
}

/// How a client gets in that shows the certificate of this name, if any: with an answer, or not at all.
fn shows(howdah: &Howdah, tenant: &Tenant, tls: ClientConfig) -> Result<String, String> {
    let mut client = connect(howdah.port(), Begin::Asking, tls).map_err(|error| error.to_string())?;
    let user = [("user", tenant.name.as_str())];
    // in TLS 1.3 the client is done before the server has looked at its certificate
    client.try_login(&user, &tenant.password).map_err(|error| error.to_string())?;
    Ok(client.value("SELECT 'served'"))
}

fn psql(howdah: &Howdah, tenant: &Tenant, parameters: &str, sql: &str) -> Output {
    let target = format!("host=127.0.0.1 port={} user={1} dbname={1} {parameters}", howdah.port(), tenant.name);
    let mut command = shared().primary().command("psql");
    command
        .env("HOME", "/nonexistent")
        .env("PGPASSWORD", &tenant.password)
        .args(["-XAtq", "-d", &target, "-c", sql])
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A PostgreSQL of its own that speaks TLS with a certificate for `host`.
pub fn tls_cluster(authority: &Authority, host: &str) -> Cluster {
    tls_cluster_of(Cluster::builder(), authority, host)
}

/// [`tls_cluster`], of this kind.
pub fn tls_cluster_of(builder: Builder, authority: &Authority, host: &str) -> Cluster {
    let builder = builder.hba("hostssl all postgres all scram-sha-256");
    let cluster = builder.start().unwrap_or_else(|error| panic!("{error}"));
    authority.sign("node", host);
    let node = cluster.primary();
    let owner = std::fs::metadata(node.data_directory()).unwrap();
    for (file, setting) in [("node.crt", "ssl_cert_file"), ("node.key", "ssl_key_file")] {
        let path = node.data_directory().join(file);
        std::fs::copy(authority.path(file), &path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        node.set(setting, &path.display().to_string()).unwrap();
    }
    node.set("ssl", "on").unwrap();
    eventually("TLS is on", SOON, || node.sql("SHOW ssl").unwrap().cell() == Some("on"));
    cluster
}

pub fn node_tls(mode: &str, ca: &Path) -> String {
    match mode {
        "verify-ca" | "verify-full" => format!("tls = {{ mode = \"{mode}\", ca = \"{}\" }}\n", ca.display()),
        _ => format!("tls = {{ mode = \"{mode}\" }}\n"),
    }
}

#[test]
fn a_client_that_wants_tls_gets_it_and_can_verify_it() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    authority.sign("server", "127.0.0.1");
    let tenant = Tenant::shared();
    let howdah = serve(shared(), &authority.listener("server", "prefer"), "");
    let ca = |authority: &Authority| format!("sslrootcert={}", authority.path("ca.crt").display());
    for parameters in ["sslmode=require", "sslmode=disable", &format!("sslmode=verify-full {}", ca(&authority))] {
        let done = psql(&howdah, &tenant, parameters, "SELECT 'served'");
        assert_eq!(out(&done), "served\n", "{parameters}");
    }
    let refused = psql(&howdah, &tenant, &format!("sslmode=verify-full {}", ca(&other)), "SELECT 1");
    assert!(!refused.status.success() && out(&refused).contains("certificate verify failed"), "{}", out(&refused));
    let conninfo = psql(&howdah, &tenant, "sslmode=require", "\\conninfo");
    assert!(out(&conninfo).contains("SSL connection"), "{}", out(&conninfo));

    let plain = Howdah::shared("");
    let refused = psql(&plain, &tenant, "sslmode=require", "SELECT 1");
    assert!(out(&refused).contains("server does not support SSL"), "{}", out(&refused));
}

#[test]
fn a_listener_that_requires_tls_refuses_plaintext_and_survives_those_who_leave_in_the_handshake() {
    let authority = Authority::new("ours");
    authority.sign("server", "127.0.0.1");
    let tenant = Tenant::shared();
    let howdah = serve(shared(), &authority.listener("server", "require"), "");
    let mut client = howdah.wire();
    let error = wire::error(&client.try_login(&[("user", &tenant.name)], &tenant.password).unwrap());
    assert_eq!(
        (error.severity.as_str(), error.code.as_str(), error.message.as_str()),
        ("FATAL", "28000", "SSL required")
    );
    client.read_until_closed();

    for sent in [&b""[..], b"\x16\x03\x01", b"not a handshake at all, whatever it is"] {
        let mut client = howdah.wire();
        client.send(&wire::ssl_request());
        assert_eq!(client.read_byte(), b'S');
        client.send(sent);
        client.cut();
    }
    // plaintext behind the request was put there by somebody else
    let mut client = howdah.wire();
    client.send(&[wire::ssl_request(), wire::startup(wire::PROTOCOL_3_0, &[("user", &tenant.name)])].concat());
    let messages = client.read_until_closed();
    let error = wire::error(&messages);
    assert_eq!(error.message, "received unencrypted data after SSL request");
    eventually("nobody is left", SOON, || howdah.status()["clients"] == 0);
    assert_eq!(out(&psql(&howdah, &tenant, "sslmode=require", "SELECT 1")), "1\n");
}

#[test]
fn a_server_is_verified_as_configured() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let cluster = tls_cluster(&authority, "127.0.0.1");
    let tenant = Tenant::on(cluster.primary());
    let is_tls = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for (mode, encrypted) in
        [("disable", "f"), ("allow", "f"), ("prefer", "t"), ("require", "t"), ("verify-ca", "t"), ("verify-full", "t")]
    {
        let howdah = serve(&cluster, "", &node_tls(mode, &authority.path("ca.crt")));
        let mut client = howdah.login(&tenant);
        assert_eq!(client.value(is_tls), encrypted, "{mode}");
        // a cancel takes the same way
        client.send(&wire::query("SELECT pg_sleep(600)"));
        client.expect_silence(Duration::from_millis(100));
        let mut messenger = howdah.wire();
        messenger.send(&wire::cancel_request(&client.key));
        assert_eq!(wire::error(&client.read_until_ready()).code, "57014", "{mode}");
    }
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml = config(cluster.nodes(), port, http_port, "") + &node_tls("verify-full", &other.path("ca.crt"));
    let howdah = Howdah::start_unready(&toml.replace("\n\ntls =", "\ntls ="), port, http_port);
    eventually("it says why", SOON, || howdah.log().contains("certificate"));
    let (status, missing) = howdah.get("/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(missing.contains("certificate"), "{missing}");
}

#[test]
fn a_server_certificate_for_another_host_passes_verify_ca_and_not_verify_full() {
    let authority = Authority::new("ours");
    let cluster = tls_cluster(&authority, "db.example");
    let tenant = Tenant::on(cluster.primary());
    let howdah = serve(&cluster, "", &node_tls("verify-ca", &authority.path("ca.crt")));
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml = tls_config(
        &config(cluster.nodes(), port, http_port, ""),
        "",
        &node_tls("verify-full", &authority.path("ca.crt")),
    );
    let howdah = Howdah::start_unready(&toml, port, http_port);
    eventually("it says why", SOON, || {
        howdah.get("/readyz").is_some_and(|(status, missing)| status == 503 && missing.contains("certificate"))
    });
}

#[test]
fn certificates_are_read_again_on_reload_and_nobody_is_dropped() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    old.sign("server", "127.0.0.1");
    new.sign("server", "127.0.0.1");
    let tenant = Tenant::shared();
    let howdah = serve(shared(), &old.listener("server", "prefer"), "");
    let verify = |authority: &Authority| {
        let parameters = format!("sslmode=verify-full sslrootcert={}", authority.path("ca.crt").display());
        psql(&howdah, &tenant, &parameters, "SELECT 1").status.success()
    };
    let mut before = howdah.login(&tenant);
    before.query("BEGIN");
    assert!(verify(&old) && !verify(&new));
    for file in ["server.crt", "server.key"] {
        std::fs::copy(new.path(file), old.path(file)).unwrap();
    }
    let toml = std::fs::read_to_string(howdah.config()).unwrap();
    howdah.reload(&toml);
    eventually("the new one", SOON, || verify(&new) && !verify(&old));
    // a broken one is refused, the old one goes on
    std::fs::write(old.path("server.key"), "no key").unwrap();
    howdah.reload(&toml);
    eventually("refused", SOON, || howdah.log().contains("reload refused"));
    assert!(howdah.log().contains("server.key"));
    assert!(verify(&new));
    assert_eq!(before.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
}

#[test]
fn a_listener_keeps_its_tls_when_the_file_moves_the_listeners() {
    let authority = Authority::new("ours");
    authority.sign("server", "127.0.0.1");
    let tenant = Tenant::shared();
    let howdah = serve(shared(), &authority.listener("server", "require"), "");
    let toml = std::fs::read_to_string(howdah.config()).unwrap();
    let first = format!("[[listeners]]\naddress = \"127.0.0.1:{}\"\n\n", free_port().unwrap());
    howdah.reload(&(first + &toml));
    eventually("reloaded", SOON, || howdah.log().contains(" reloaded "));
    let error = wire::error(&howdah.wire().try_login(&[("user", &tenant.name)], &tenant.password).unwrap());
    assert_eq!(error.message, "SSL required");
    assert_eq!(out(&psql(&howdah, &tenant, "sslmode=require", "SELECT 1")), "1\n");
}

#[test]
fn large_results_and_transactions_go_through_tls_on_both_sides() {
    let authority = Authority::new("ours");
    authority.sign("server", "127.0.0.1");
    let cluster = tls_cluster(&authority, "127.0.0.1");
    let tenant = Tenant::on(cluster.primary());
    let howdah =
        serve(&cluster, &authority.listener("server", "require"), &node_tls("verify-full", &authority.path("ca.crt")));
    let run = |arguments: &[&str]| {
        let mut command = cluster.primary().command("pgbench");
        command.args(arguments).args(["-h", "127.0.0.1", "-p", &howdah.port().to_string(), "-U", &tenant.name]);
        command
            .arg(&tenant.name)
            .env("PGPASSWORD", &tenant.password)
            .env("PGSSLMODE", "require")
            .env("HOME", "/nonexistent");
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", out(&done));
        out(&done)
    };
    run(&["-i", "-q"]);
    for protocol in ["simple", "extended", "prepared"] {
        let said = run(&["-c", "6", "-j", "6", "-t", "20", "-n", "-M", protocol]);
        assert!(said.contains("number of failed transactions: 0") && said.contains("120/120"), "{said}");
    }
    let large = psql(&howdah, &tenant, "sslmode=require", "SELECT repeat('x', 1000000) FROM generate_series(1, 50)");
    assert!(large.status.success(), "{}", String::from_utf8_lossy(&large.stderr));
    assert_eq!(large.stdout.len(), 50 * 1_000_001);
    let long = format!("SELECT length('{}')", "y".repeat(100_000));
    assert_eq!(out(&psql(&howdah, &tenant, "sslmode=require", &long)), "100000\n");
    // a replication connection
    cluster.primary().sql(&format!("ALTER ROLE {} REPLICATION", tenant.name)).unwrap();
    let mut backup = cluster.primary().command("pg_basebackup");
    backup.args(["-D", "-", "-Ft", "-X", "fetch", "--checkpoint=fast", "-h", "127.0.0.1", "-U", &tenant.name]);
    backup.args(["-p", &howdah.port().to_string()]).env("PGPASSWORD", &tenant.password);
    let done = backup.env("PGSSLMODE", "require").env("HOME", "/nonexistent").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.stdout.len() > 20_000_000, "{} bytes", done.stdout.len());
}

#[test]
fn tls_from_the_first_byte_is_served_if_alpn_says_that_postgresql_is_meant() {
    let authority = Authority::new("ours");
    authority.sign("server", "127.0.0.1");
    let tenant = Tenant::shared();
    let howdah = serve(shared(), &authority.listener("server", "require"), "");
    let direct = |alpn: &[&[u8]]| connect(howdah.port(), Begin::Directly, authority.offering(alpn, None));
    for alpn in [&[ALPN][..], &[b"h2", ALPN]] {
        let mut client = direct(alpn).unwrap();
        client.login(&tenant.name, &tenant.password, &tenant.name);
        client.send(&wire::query("SELECT pg_sleep(600)"));
        client.expect_silence(Duration::from_millis(100));
        let mut messenger = direct(alpn).unwrap();
        messenger.send(&wire::cancel_request(&client.key));
        // the end is a goodbye, which libpq insists on
        assert_eq!(messenger.read().unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(wire::error(&client.read_until_ready()).code, "57014");
        // encryption is not asked for twice
        client.cut();
        let mut client = direct(alpn).unwrap();
        client.send(&wire::ssl_request());
        assert_eq!(wire::error(&client.read_until_closed()).code, "08P01");
    }
    // nobody has said what is meant: closed, as PostgreSQL does
    let mut client = direct(&[]).unwrap();
    assert!(client.try_login(&[("user", &tenant.name)], &tenant.password).is_err());
    let refused = direct(&[b"h2"]).err().unwrap().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    let refused = connect(howdah.port(), Begin::Asking, authority.offering(&[b"h2"], None)).err().unwrap().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    let mut old = connect(howdah.port(), Begin::Asking, authority.offering(&[], None)).unwrap();
    old.login(&tenant.name, &tenant.password, &tenant.name);
    assert!(howdah.log().contains("direct TLS without ALPN"));

    let plain = Howdah::shared("");
    let closed = connect(plain.port(), Begin::Directly, authority.offering(&[ALPN], None)).err().unwrap();
    assert!(matches!(closed.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{closed}");
}

#[test]
fn a_client_hello_in_pieces_is_put_together() {
    let authority = Authority::new("ours");
    authority.sign("server", "127.0.0.1");
    let tenant = Tenant::shared();
    let howdah = serve(shared(), &authority.listener("server", "require"), "");
    let mut config = authority.offering(&[ALPN], None);
    // longer than what is read at once
    config.alpn_protocols.extend((0..40).map(|n| format!("{n}-{}", "x".repeat(60)).into_bytes()));
    let mut session = rustls::ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    assert!(hello.len() > 2_000);
    let mut socket = TcpStream::connect(("127.0.0.1", howdah.port())).unwrap();
    for piece in [&hello[..1], &hello[1..7], &hello[7..1_500], &hello[1_500..]] {
        socket.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut client = wire::Client::over(Box::new(rustls::StreamOwned::new(session, socket)));
    client.login(&tenant.name, &tenant.password, &tenant.name);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_client_certificate_is_demanded_by_the_strict_modes_and_verified_by_all() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    ours.sign("server", "127.0.0.1");
    ours.sign("app", "app.example");
    theirs.sign("app", "app.example");
    let tenant = Tenant::shared();
    for mode in ["verify-ca", "verify-full", "require", "prefer"] {
        let howdah = serve(shared(), &ours.listener_with_ca("server", mode, "ca.crt"), "");
        let served = |identity| shows(&howdah, &tenant, ours.offering(&[ALPN], identity));
        assert_eq!(served(Some((&ours, "app"))), Ok("served".to_owned()), "{mode}");
        let refused = served(Some((&theirs, "app"))).unwrap_err();
        assert!(refused.contains("alert"), "{mode}: {refused}");
        match mode {
            "verify-ca" | "verify-full" => {
                let refused = served(None).unwrap_err();
                assert!(refused.contains("CertificateRequired"), "{mode}: {refused}");
                let mut plain = howdah.wire();
                let said = plain.try_login(&[("user", &tenant.name)], &tenant.password).unwrap();
                assert_eq!(wire::error(&said).message, "SSL required");
                eventually("it says why", SOON, || howdah.log().contains("TLS handshake failed"));
            }
            _ => assert_eq!(served(None), Ok("served".to_owned()), "{mode}"),
        }
    }
}

#[test]
fn the_authority_of_client_certificates_is_read_again_on_reload() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    old.sign("server", "127.0.0.1");
    old.sign("app", "app.example");
    new.sign("app", "app.example");
    let tenant = Tenant::shared();
    std::fs::copy(old.path("ca.crt"), old.path("clients.crt")).unwrap();
    let howdah = serve(shared(), &old.listener_with_ca("server", "verify-ca", "clients.crt"), "");
    let served = |authority| shows(&howdah, &tenant, old.offering(&[ALPN], Some((authority, "app")))).is_ok();
    assert!(served(&old) && !served(&new));
    let toml = std::fs::read_to_string(howdah.config()).unwrap();
    std::fs::copy(new.path("ca.crt"), old.path("clients.crt")).unwrap();
    howdah.reload(&toml);
    eventually("the new one", SOON, || served(&new) && !served(&old));
    std::fs::write(old.path("clients.crt"), "no certificate").unwrap();
    howdah.reload(&toml);
    eventually("refused", SOON, || howdah.log().contains("reload refused"));
    assert!(howdah.log().contains("clients.crt"));
    assert!(served(&new) && !served(&old));
}

#[test]
fn a_handshake_that_is_not_finished_is_cut_after_client_login() {
    let authority = Authority::new("ours");
    authority.sign("server", "127.0.0.1");
    let tenant = Tenant::shared();
    let howdah = serve(
        shared(),
        &authority.listener("server", "prefer"),
        "[timeouts]\nclient_login = \"4s\"\n\n[limits]\nmax_client_connections = 3\n",
    );
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut half_open = Vec::new();
    for _ in 0..30 {
        let mut asked = howdah.wire();
        asked.send(&wire::ssl_request());
        assert_eq!(asked.read_byte(), b'S');
        asked.send(hello);
        let mut direct = howdah.wire();
        direct.send(hello);
        half_open.extend([asked, direct]);
    }
    // they have no place that others could want
    let mut client = connect(howdah.port(), Begin::Directly, authority.offering(&[ALPN], None)).unwrap();
    client.login(&tenant.name, &tenant.password, &tenant.name);
    assert_eq!(client.value("SELECT 1"), "1");
    for mut client in half_open {
        client.read_until_closed();
    }
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn libpq_18_begins_with_tls_speaks_protocol_3_2_and_cancels_through_it() {
    let authority = Authority::new("ours");
    authority.sign("server", "127.0.0.1");
    let tenant = Tenant::shared();
    let howdah = serve(shared(), &authority.listener("server", "prefer"), "");
    let mut command = python("libpq_checks.py", "psycopg");
    command.args([&howdah.port().to_string(), &tenant.name, &tenant.password]).arg(authority.path("ca.crt"));
    let said = finish(command, "").unwrap_or_else(|error| panic!("{error}"));
    let expected = [
        "disable 3.0 -> 30000 plain served cancelled",
        "disable 3.2 3.2 -> 30002 plain served cancelled",
        "verify-full latest -> 30002 tls served cancelled",
        "require direct -> 30000 tls served cancelled",
        "verify-full direct 3.2 3.2 -> 30002 tls served cancelled",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}
