//! howdah finds its way to a node: Unix sockets, several addresses, TLS as libpq's `sslmode` and `sslnegotiation` have it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::support::tls::Authority;
use crate::support::wire;
use crate::support::{Cluster, Howdah, SOON, Tenant, config, eventually, free_port, shared};
use crate::tls::{node_tls, serve, tls_cluster, tls_cluster_of, tls_config};

/// howdah before the shared primary, with another `host`.
fn at(host: &str, extra: &str) -> Howdah {
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml = config(shared().nodes(), port, http_port, extra);
    // a monitor with patience: what is slow here is a dead address, and not the machine
    let toml = toml.replace("[clusters.main.monitor]\n", "[clusters.main.monitor]\ntimeout = \"5s\"\n");
    Howdah::start(&toml.replace("host = \"127.0.0.1\"", &format!("host = \"{host}\"")), port, http_port)
}

/// An address where nothing answers: a listening socket whose queue is full.
fn black_hole(last: u8, port: u16) -> (OwnedFd, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    let mut queued = Vec::new();
    while let Ok(client) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queued.push(client);
    }
    (socket.into(), queued)
}

#[test]
fn a_node_is_reached_through_its_socket_directory_and_so_are_cancels() {
    let tenant = Tenant::shared();
    let howdah = at(&shared().primary().sockets().display().to_string(), "");
    let mut client = howdah.login(&tenant);
    assert_eq!(client.column("SELECT client_addr FROM pg_stat_activity WHERE pid = pg_backend_pid()"), [""]);
    client.send(&wire::query("SELECT pg_sleep(600)"));
    client.expect_silence(Duration::from_millis(100));
    howdah.wire().send(&wire::cancel_request(&client.key));
    assert_eq!(wire::error(&client.read_until_ready()).code, "57014");
    let monitored = "SELECT count(*) FROM pg_stat_activity
                     WHERE application_name = 'howdah monitor' AND client_addr IS NULL AND backend_type = 'client backend'";
    assert_eq!(shared().primary().sql(monitored).unwrap().cell(), Some("1"));
}

#[test]
fn an_address_that_does_not_answer_costs_a_moment_once() {
    let port = shared().primary().port();
    let tenant = Tenant::shared();
    // one that is silent, one that refuses, and the one where PostgreSQL is
    let _hole = black_hole(2, port);
    let howdah = at("127.0.0.2,127.0.0.3,127.0.0.1", "[pool]\nsize = 20\n\n[timeouts]\nserver_connect = \"60s\"\n");
    let begun = Instant::now();
    let mut clients: Vec<_> = (0..20).map(|_| howdah.login(&tenant)).collect();
    for client in &mut clients {
        assert_eq!(client.query_short("BEGIN"), ["C:BEGIN", "Z:T"]); // each has a server of its own
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let mut client = clients.pop().unwrap();
    client.send(&wire::query("SELECT pg_sleep(600)"));
    client.expect_silence(Duration::from_millis(100));
    howdah.wire().send(&wire::cancel_request(&client.key));
    assert_eq!(wire::error(&client.read_until_ready()).code, "57014");
}

#[test]
fn an_address_that_takes_connections_and_says_nothing_is_passed_over() {
    let port = shared().primary().port();
    let tenant = Tenant::shared();
    let _mute = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 4), port)).unwrap();
    let howdah = at("127.0.0.4,127.0.0.1", "[timeouts]\nserver_connect = \"3s\"\n");
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
}

#[test]
fn when_no_address_answers_it_says_what_each_of_them_did_and_comes_back() {
    let tenant = Tenant::shared();
    let free = free_port().unwrap();
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let real = shared().primary().port();
    let toml = config(shared().nodes(), port, http_port, "")
        .replace("host = \"127.0.0.1\"", "host = \"127.0.0.2,127.0.0.3\"")
        .replace(&format!("port = {real}\n"), &format!("port = {free}\n"));
    let howdah = Howdah::start_unready(&toml, port, http_port);
    eventually("it says why", SOON, || {
        howdah.get("/readyz").is_some_and(|(status, missing)| {
            status == 503
                && ["2", "3"].iter().all(|last| missing.contains(&format!("127.0.0.{last}:{free}: connection")))
        })
    });
    let mended = toml
        .replace("127.0.0.2,127.0.0.3", "127.0.0.2,localhost")
        .replace(&format!("port = {free}\n"), &format!("port = {real}\n"));
    howdah.reload(&mended);
    howdah.wait_ready();
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
}

#[test]
fn prefer_and_allow_do_without_tls_or_with_it_as_pg_hba_wants() {
    let authority = Authority::new("ours");
    let builder = Cluster::builder().hba("hostnossl all +only_tls all reject").hba("hostssl all +no_tls all reject");
    let cluster = tls_cluster_of(builder, &authority, "127.0.0.1");
    let node = cluster.primary();
    let (either, only, none) = (Tenant::on(node), Tenant::on(node), Tenant::on(node));
    node.sql("CREATE ROLE only_tls; CREATE ROLE no_tls").unwrap();
    node.sql(&format!("GRANT only_tls TO {}; GRANT no_tls TO {}", only.name, none.name)).unwrap();
    let is_tls = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let expected = [
        ("disable", Some("f"), None, Some("f")),
        ("allow", Some("f"), Some("t"), Some("f")),
        ("prefer", Some("t"), Some("t"), Some("f")),
        ("require", Some("t"), Some("t"), None),
    ];
    for (mode, of_either, of_only, of_none) in expected {
        let howdah = serve(&cluster, "", &node_tls(mode, &authority.path("ca.crt")));
        for (tenant, expected) in [(&either, of_either), (&only, of_only), (&none, of_none)] {
            let mut client = howdah.wire();
            let said = client.try_login(&[("user", &tenant.name)], &tenant.password).unwrap();
            match expected {
                Some(encrypted) => {
                    assert_eq!(client.value(is_tls), encrypted, "{mode} {said:?}");
                    // a cancel takes the same way
                    client.send(&wire::query("SELECT pg_sleep(600)"));
                    client.expect_silence(Duration::from_millis(50));
                    howdah.wire().send(&wire::cancel_request(&client.key));
                    assert_eq!(wire::error(&client.read_until_ready()).code, "57014", "{mode}");
                }
                None => {
                    let error = wire::error(&said);
                    assert_eq!((error.code.as_str(), error.routine.is_empty()), ("28000", false), "{mode}: {error:?}");
                }
            }
        }
    }
}

#[test]
fn tls_from_the_first_byte_needs_a_server_that_agrees_on_alpn() {
    let authority = Authority::new("ours");
    authority.sign("server", "127.0.0.1");
    let cluster = tls_cluster(&authority, "127.0.0.1");
    let tenant = Tenant::on(cluster.primary());
    let direct = |ca: &Authority| {
        let ca = ca.path("ca.crt").display().to_string();
        format!("tls = {{ mode = \"verify-full\", negotiation = \"direct\", ca = \"{ca}\" }}\n")
    };
    // PostgreSQL 15 takes it for a packet
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml = tls_config(&config(cluster.nodes(), port, http_port, ""), "", &direct(&authority));
    let howdah = Howdah::start_unready(&toml, port, http_port);
    eventually("it says why", SOON, || {
        howdah.get("/readyz").is_some_and(|(status, missing)| status == 503 && missing.contains("TLS"))
    });

    // another howdah knows it
    let inner = serve(&cluster, &authority.listener("server", "require"), "");
    let chain = |ca: &Authority| {
        let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
        let toml = tls_config(&config(cluster.nodes(), port, http_port, ""), "", &direct(ca));
        let node = format!("port = {}\n", cluster.primary().port());
        Howdah::start_unready(&toml.replace(&node, &format!("port = {}\n", inner.port())), port, http_port)
    };
    let outer = chain(&authority);
    outer.wait_ready();
    let mut client = outer.login(&tenant);
    assert_eq!(client.value("SELECT 'served'"), "served");
    client.send(&wire::query("SELECT pg_sleep(600)"));
    client.expect_silence(Duration::from_millis(100));
    outer.wire().send(&wire::cancel_request(&client.key));
    assert_eq!(wire::error(&client.read_until_ready()).code, "57014");
    let theirs = Authority::new("theirs");
    let stranger = chain(&theirs);
    eventually("it says why", SOON, || {
        stranger.get("/readyz").is_some_and(|(status, missing)| status == 503 && missing.contains("certificate"))
    });
}

#[test]
fn an_answer_to_the_request_for_tls_that_is_none_is_not_believed() {
    let answers: [(&[u8], &str); 3] = [
        (b"Sbehind it", "unencrypted data behind the answer"),
        (b"?", "unexpected answer"),
        (b"E\0\0\0\x05\0", "the server refused the request"),
    ];
    for (bytes, expected) in answers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let node = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                let mut request = [0; 8];
                let _ = socket.read_exact(&mut request).and_then(|()| socket.write_all(bytes));
                let _ = socket.read(&mut request);
            }
        });
        let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
        let toml = tls_config(&config(shared().nodes(), port, http_port, ""), "", "tls = { mode = \"require\" }\n");
        let real = format!("port = {}\n", shared().primary().port());
        let howdah = Howdah::start_unready(&toml.replace(&real, &format!("port = {node}\n")), port, http_port);
        eventually(expected, SOON, || {
            howdah.get("/readyz").is_some_and(|(status, missing)| status == 503 && missing.contains(expected))
        });
    }
}

#[test]
fn the_authority_of_a_node_is_read_again_on_reload() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let cluster = tls_cluster(&ours, "127.0.0.1");
    let tenant = Tenant::on(cluster.primary());
    let root = ours.path("root.crt");
    std::fs::copy(ours.path("ca.crt"), &root).unwrap();
    let howdah = serve(&cluster, "", &node_tls("verify-full", &root));
    let toml = std::fs::read_to_string(howdah.config()).unwrap();
    let mut before = howdah.login(&tenant);
    before.query("BEGIN");
    std::fs::write(&root, "no certificate").unwrap();
    howdah.reload(&toml);
    eventually("refused", SOON, || howdah.log().contains("reload refused"));
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
    std::fs::copy(theirs.path("ca.crt"), &root).unwrap();
    howdah.reload(&toml);
    eventually("the node is not believed any more", SOON, || {
        howdah.get("/readyz").is_some_and(|(status, missing)| status == 503 && missing.contains("certificate"))
    });
    assert_eq!(before.query_short("COMMIT"), ["C:COMMIT", "Z:I"], "what was open goes on");
    std::fs::copy(ours.path("ca.crt"), &root).unwrap();
    howdah.reload(&toml);
    howdah.wait_ready();
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
}
