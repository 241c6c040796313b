//! SCRAM with channel binding, and everything a client can get wrong on its way in: the same answers as PostgreSQL's own.

use std::sync::Arc;

use base64::Engine as _;
use howdah::net::tls::end_point_hash;
use postgres_protocol::authentication::sasl::ChannelBinding;

use super::drivers::{finish, python};
use super::tls::{Authority, serve, tls_cluster, tls_config};
use crate::support::wire::{self, Client, Message};
use crate::support::{Cluster, Howdah, SOON, Tenant, config, eventually, free_port, poll, shared};

/// A PostgreSQL with TLS, and howdah with TLS in front of it.
struct Pair {
    cluster: Cluster,
    howdah: Howdah,
    tenant: Tenant,
    trust: Arc<rustls::ClientConfig>,
}

impl Pair {
    fn new() -> Self {
        let authority = Authority::new("ours");
        let cluster = tls_cluster(&authority, "127.0.0.1");
        authority.sign("server", "127.0.0.1");
        let tenant = Tenant::on(cluster.primary());
        let howdah = serve(&cluster, &authority.listener("server", "prefer"), "");
        Self { cluster, howdah, tenant, trust: authority.client(None) }
    }

    /// What both answer.
    fn both(&self, ask: impl Fn(u16) -> Vec<Message>) -> [Vec<Message>; 2] {
        [self.cluster.primary().port(), self.howdah.port()].map(ask)
    }

    fn over_tls(&self, port: u16) -> (Client, Vec<u8>) {
        let (mut client, certificate) = Client::connect_tls(("127.0.0.1", port), &self.trust).unwrap();
        client.send(&wire::startup(wire::PROTOCOL_3_0, &[("user", &self.tenant.name)]));
        (client, end_point_hash(&certificate).unwrap())
    }

    fn log_in(&self, port: u16, mechanism: &str, binding: impl Fn(Vec<u8>) -> ChannelBinding) -> Vec<Message> {
        let (mut client, hash) = self.over_tls(port);
        let binding = || binding(hash.clone());
        client.authenticate_by(&self.tenant.name, &self.tenant.password, mechanism, &binding).unwrap()
    }
}

/// The beginning, up to what differs from server to server: parameters, keys.
fn login(messages: &[Message]) -> Vec<String> {
    wire::short(messages).into_iter().take_while(|short| !short.starts_with("S:")).collect()
}

#[track_caller]
fn same_error([direct, through]: &[Vec<Message>; 2], what: &str) {
    assert_eq!(login(through), login(direct), "{what}");
    let [direct, through] = [direct, through].map(|messages| {
        let error = wire::error(messages);
        (error.severity, error.code, error.message)
    });
    assert_eq!(through, direct, "{what}");
}

const PLUS: &str = "SCRAM-SHA-256-PLUS";
const PLAIN: &str = "SCRAM-SHA-256";

#[test]
fn channel_binding_is_offered_over_tls_and_a_downgrade_is_refused_as_postgresql_refuses_it() {
    let pair = Pair::new();
    let [direct, through] = pair.both(|port| pair.log_in(port, PLUS, ChannelBinding::tls_server_end_point));
    assert_eq!(through[0], direct[0], "the same mechanisms in the same order");
    assert_eq!(login(&through), ["R:10", "R:11", "R:12", "R:0"]);
    assert_eq!(through.last().unwrap().short(), "Z:I");
    // whoever cannot bind need not
    let plain = pair.log_in(pair.howdah.port(), PLAIN, |_| ChannelBinding::unsupported());
    assert_eq!(plain.last().unwrap().short(), "Z:I");

    // "y": somebody removed the offer on its way
    same_error(&pair.both(|port| pair.log_in(port, PLAIN, |_| ChannelBinding::unrequested())), "downgrade");
    // bound to another certificate: somebody is in between
    let wrong = |_| ChannelBinding::tls_server_end_point(vec![7; 32]);
    let answers = pair.both(|port| pair.log_in(port, PLUS, wrong));
    same_error(&answers, "mismatch");
    assert_eq!(wire::error(&answers[1]).message, "SCRAM channel binding check failed");
    // a flag that does not belong to the mechanism
    same_error(&pair.both(|port| pair.log_in(port, PLUS, |_| ChannelBinding::unsupported())), "plus without");
    same_error(&pair.both(|port| pair.log_in(port, PLAIN, ChannelBinding::tls_server_end_point)), "plain with");
    // without TLS it is not offered
    let answers = pair.both(|port| {
        let mut client = Client::connect(("127.0.0.1", port)).unwrap();
        client.send(&wire::startup(wire::PROTOCOL_3_0, &[("user", &pair.tenant.name)]));
        let bound = || ChannelBinding::tls_server_end_point(vec![7; 32]);
        client.authenticate_by(&pair.tenant.name, &pair.tenant.password, PLUS, &bound).unwrap()
    });
    assert_eq!(answers[1][0], answers[0][0]);
    same_error(&answers, "not offered");
}

/// Sends these in turn, each after one more message, and reads what comes until the end.
fn play(port: u16, user: &str, turns: &[&dyn Fn(&Message) -> Vec<u8>]) -> Vec<Message> {
    let mut client = Client::connect(("127.0.0.1", port)).unwrap();
    client.send(&wire::startup(wire::PROTOCOL_3_0, &[("user", user), ("database", user)]));
    let mut messages = Vec::new();
    for turn in turns {
        let Ok(message) = client.read() else { return messages };
        messages.push(message);
        let _ = client.try_send(&turn(messages.last().unwrap())); // a server that has hung up hears nothing
    }
    messages.extend(client.read_until_closed());
    messages
}

#[test]
fn what_is_not_scram_is_refused_as_postgresql_refuses_it() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("");
    let ports = [shared().primary().port(), howdah.port()];
    let first = |text: &str| wire::sasl_initial(PLAIN, text.as_bytes());
    let good_first = || first("n,,n=,r=abcdefgh");
    for (what, bytes) in [
        ("no gs2 header", first("hello")),
        ("unknown flag", first("x,,n=,r=abc")),
        ("authorization identity", first("n,a=bob,n=,r=abc")),
        ("no user", first("n,,r=abc")),
        ("no nonce", first("n,,n=")),
        ("nonce not printable", first("n,,n=,r=a\u{1}c")),
        ("mandatory extension", first("n,,m=x,n=,r=abc")),
        ("binding of unknown kind", first("p=tls-unique,,n=,r=abc")),
        ("mechanism of unknown name", wire::sasl_initial("PLAIN", b"n,,n=,r=abc")),
        ("not a password message", wire::query("SELECT 1")),
    ] {
        let answers = ports.map(|port| play(port, &tenant.name, &[&|_| bytes.clone()]));
        same_error(&answers, what);
    }
    let nonce_of = |message: &Message| {
        let text = String::from_utf8_lossy(&message.body[4..]).into_owned();
        text.split(',').next().unwrap().to_owned()
    };
    let proof = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    let last = |text: String| wire::tagged(b'p', text.as_bytes());
    let finals: [(&str, &dyn Fn(&Message) -> Vec<u8>); 8] = [
        ("wrong proof", &|message| last(format!("c=biws,{},p={proof}", nonce_of(message)))),
        ("no channel binding", &|message| last(format!("{},p={proof}", nonce_of(message)))),
        ("another channel binding", &|message| last(format!("c=eSws,{},p={proof}", nonce_of(message)))),
        ("no nonce", &|_| last(format!("c=biws,p={proof}"))),
        ("another nonce", &|_| last(format!("c=biws,r=abcdefgh,p={proof}"))),
        ("no proof", &|message| last(format!("c=biws,{}", nonce_of(message)))),
        ("a short proof", &|message| last(format!("c=biws,{},p=AAAA", nonce_of(message)))),
        ("nothing", &|_| last(String::new())),
    ];
    for (what, bytes) in finals {
        let answers = ports.map(|port| play(port, &tenant.name, &[&|_| good_first(), bytes]));
        same_error(&answers, what);
    }
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
}

#[test]
fn answers_of_any_length_and_a_second_startup_packet_end_one_login_and_nothing_else() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[limits]\nworkers = 1\n");
    let mut bystander = howdah.login(&tenant);
    let first = || wire::sasl_initial(PLAIN, b"n,,n=,r=abcdefgh");
    let startup = || wire::startup(wire::PROTOCOL_3_0, &[("user", &tenant.name), ("search_path", "evil")]);
    let long = |length: usize| wire::tagged(b'p', &vec![b'x'; length]);
    let long_nonce = || wire::sasl_initial(PLAIN, format!("n,,n=,r={}", "x".repeat(1_100)).as_bytes());
    let turns: [(&str, Vec<Box<dyn Fn() -> Vec<u8>>>); 7] = [
        ("second startup packet", vec![Box::new(startup)]),
        ("second startup packet, later", vec![Box::new(first), Box::new(startup)]),
        ("client-final of 3 kB", vec![Box::new(first), Box::new(move || long(3_000))]),
        ("client-final of 10 MB", vec![Box::new(first), Box::new(move || long(10_000_000))]),
        ("password of 64 kB", vec![Box::new(move || long(65_536))]),
        ("nonce of 1 kB", vec![Box::new(long_nonce)]),
        ("length of 2 GB", vec![Box::new(|| vec![b'p', 0x7f, 0xff, 0xff, 0xff])]),
    ];
    for (what, turns) in turns {
        let sent: Vec<_> = turns.iter().map(|bytes| move |_: &Message| bytes()).collect();
        let sent: Vec<&dyn Fn(&Message) -> Vec<u8>> = sent.iter().map(|turn| turn as _).collect();
        let messages = play(howdah.port(), &tenant.name, &sent);
        let error = wire::error(&messages);
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08P01"), "{what}: {error:?}");
        assert!(messages.iter().all(|message| message.tag != b'Z'), "{what}");
    }
    assert_eq!(bystander.value("SHOW search_path"), "\"$user\", public");
}

#[test]
fn libpq_connects_with_channel_binding_required_and_only_over_tls() {
    let pair = Pair::new();
    let common = |port: u16| {
        let Tenant { name, password } = &pair.tenant;
        format!("host=127.0.0.1 port={port} user={name} password={password} dbname={name} channel_binding=require")
    };
    let ask = |port: u16| {
        let mut command = python("binding_checks.py", "psycopg");
        command.args(["require", "disable"].map(|mode| format!("{} sslmode={mode}", common(port))));
        finish(command, "").unwrap()
    };
    let [direct, through] = [pair.cluster.primary().port(), pair.howdah.port()].map(ask);
    let lines: Vec<&str> = through.lines().collect();
    assert_eq!(lines[0], format!("connected {}", pair.tenant.name));
    assert!(lines[1].starts_with("refused"), "{through}");
    let without_port = |text: &str| {
        text.replace(&pair.cluster.primary().port().to_string(), "P").replace(&pair.howdah.port().to_string(), "P")
    };
    assert_eq!(without_port(&through), without_port(&direct));
}

/// What somebody between howdah and the node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    /// Passes on what it has decrypted.
    Listens,
    /// And takes the offer of channel binding away.
    Downgrades,
}

/// Stands between howdah and a node, with a certificate of its own for the same address; its port.
fn stand_between(authority: &Authority, node: u16, between: Between) -> u16 {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
    authority.sign("between", "127.0.0.1");
    let chain = vec![CertificateDer::from_pem_file(authority.path("between.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(authority.path("between.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let server = Arc::new(server.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let client = authority.client(None);
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut from, _)) = listener.accept().await {
                let (server, client) = (Arc::clone(&server), Arc::clone(&client));
                tokio::spawn(async move {
                    let mut request = [0; 8];
                    from.read_exact(&mut request).await?;
                    from.write_all(b"S").await?;
                    let mut from = tokio_rustls::TlsAcceptor::from(server).accept(from).await?;
                    let mut to = tokio::net::TcpStream::connect(("127.0.0.1", node)).await?;
                    to.write_all(&wire::ssl_request()).await?;
                    to.read_exact(&mut request[..1]).await?;
                    let name = ServerName::try_from("127.0.0.1").unwrap();
                    let mut to = tokio_rustls::TlsConnector::from(client).connect(name, to).await?;
                    let mut startup = vec![0; 1_000];
                    let read = from.read(&mut startup).await?;
                    to.write_all(&startup[..read]).await?;
                    let mut answer = vec![0; 1_000];
                    let mut read = to.read(&mut answer).await?;
                    if answer[..read].starts_with(b"v") && read == 13 {
                        read += to.read(&mut answer[read..]).await?; // the offer comes behind NegotiateProtocolVersion
                    }
                    let mut answer = answer[..read].to_vec();
                    let offer = answer.windows(9).position(|bytes| bytes == [b'R', 0, 0, 0, 42, 0, 0, 0, 10]);
                    if let (Between::Downgrades, Some(at)) = (between, offer) {
                        answer.truncate(at);
                        answer.extend(wire::tagged(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"));
                    }
                    from.write_all(&answer).await?;
                    copy_bidirectional(&mut from, &mut to).await
                });
            }
        });
    });
    port
}

#[test]
fn servers_are_bound_to_their_channel_and_whoever_stands_between_is_found_out() {
    let authority = Authority::new("ours");
    let cluster = tls_cluster(&authority, "127.0.0.1");
    let (tenant, trusted) = (Tenant::on(cluster.primary()), Tenant::on(cluster.primary()));
    let node = cluster.primary();
    // the monitor and one of the tenants need no password
    node.sql("CREATE ROLE watcher LOGIN IN ROLE pg_monitor").unwrap();
    node.sql("GRANT SELECT ON pg_catalog.pg_authid TO watcher").unwrap();
    let hba = node.data_directory().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    let trust = format!("hostssl all watcher all trust\nhostssl all {} all trust\n", trusted.name);
    std::fs::write(&hba, trust + &rules).unwrap();
    node.sql("SELECT pg_reload_conf()").unwrap();
    let real = format!("port = {}\n", node.port());
    let superuser = format!("user = \"{}\"\npassword = \"{}\"", node.superuser(), node.password());
    let start = |port: u16, channel_binding: &str, monitor: &str| {
        let (own, http) = (free_port().unwrap(), free_port().unwrap());
        let ca = authority.path("ca.crt");
        let tls = format!("tls = {{ mode = \"verify-full\", ca = \"{}\"{channel_binding} }}\n", ca.display());
        let toml = tls_config(&config(cluster.nodes(), own, http, ""), "", &tls).replace(&superuser, monitor);
        // what TLS has against a server may pass, and is waited for
        let toml = format!("[timeouts]\nquery_wait = \"2s\"\n\n{}", toml.replace(&real, &format!("port = {port}\n")));
        Howdah::start_unready(&toml, own, http)
    };
    let login = |howdah: &Howdah, tenant: &Tenant| {
        howdah.wait_ready();
        howdah.wire().try_login(&[("user", &tenant.name)], &tenant.password).unwrap()
    };
    let require = ", channel_binding = \"require\"";
    let watcher = "user = \"watcher\"";
    eventually("the monitor is trusted", SOON, || {
        let howdah = start(node.port(), "", watcher);
        poll(SOON / 5, || howdah.get("/readyz").is_some_and(|(status, _)| status == 200).then_some(())).is_some()
    });
    let demanding = start(node.port(), require, &superuser);
    for howdah in [&start(node.port(), "", watcher), &demanding] {
        assert_eq!(login(howdah, &tenant).last().unwrap().short(), "Z:I");
    }
    // a server that asks for nothing proves nothing
    let error = wire::error(&login(&demanding, &trusted));
    assert!(error.message.contains("channel binding is required"), "{error:?}");

    // the certificate is good, the name is right, and yet it is not the node that holds the session
    let listens = stand_between(&authority, node.port(), Between::Listens);
    let error = wire::error(&login(&start(listens, "", watcher), &tenant));
    assert_eq!((error.code.as_str(), error.message.as_str()), ("28000", "SCRAM channel binding check failed"));
    // the node notices that its offer did not arrive
    let downgrades = stand_between(&authority, node.port(), Between::Downgrades);
    let error = wire::error(&login(&start(downgrades, "", watcher), &tenant));
    assert_eq!(error.message, "SCRAM channel binding negotiation error");
    // demanded, the monitor notices before it has said anything
    let howdah = start(downgrades, require, &superuser);
    let said = poll(SOON, || howdah.get("/readyz").filter(|(_, body)| body.contains("hannel")));
    assert!(said.is_some_and(|(_, body)| !body.contains("negotiation error")), "{}", howdah.log());
}
