//! howdah goes down without taking work with it, and comes up without a server.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::wire;
use crate::support::{
    Howdah, SOON, Signal, StopMode, Tenant, builder, config, connection_count, eventually, free_port, shared,
};

#[test]
fn a_shutdown_ends_each_client_at_its_boundary() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 2\n");
    let (mut idle, mut block, mut running) = (howdah.login(&tenant), howdah.login(&tenant), howdah.login(&tenant));
    block.query("CREATE TABLE t (i int)");
    block.query("BEGIN");
    block.query("INSERT INTO t VALUES (1)");
    running.send(&wire::query("SELECT 'done' FROM pg_sleep(1)"));
    let mut waiting = howdah.login(&tenant);
    waiting.send(&wire::query("SELECT 1"));
    eventually("it waits", SOON, || howdah.status()["pools"][0]["waiting"] == 1);
    let silent = TcpStream::connect(("127.0.0.1", howdah.port())).unwrap();
    let mut half = howdah.wire();
    half.send(&wire::startup(wire::PROTOCOL_3_0, &[("user", &tenant.name)]));
    assert_eq!(half.expect().short(), "R:10");

    howdah.signal(Signal::TERM);
    for client in [&mut idle, &mut waiting] {
        let error = wire::error(&client.read_until_closed());
        let said = (error.severity.as_str(), error.code.as_str(), error.message.as_str());
        assert_eq!(said, ("FATAL", "57P01", "pooler is shutting down"));
    }
    assert!(TcpStream::connect(("127.0.0.1", howdah.port())).is_err(), "nobody comes in");
    assert_eq!(howdah.get("/readyz").unwrap(), (503, "shutting down\n".to_owned()));
    assert_eq!(howdah.get("/healthz").unwrap().0, 200);
    assert_eq!(wire::first_column(&running.read_until_ready()), ["done"]);
    assert_eq!(wire::error(&running.read_until_closed()).code, "57P01");
    assert_eq!(block.query_short("INSERT INTO t VALUES (2)"), ["C:INSERT 0 1", "Z:T"]);
    assert_eq!(block.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
    assert_eq!(wire::error(&block.read_until_closed()).code, "57P01");
    // neither of the two strangers holds it up
    assert!(howdah.exit_status(Duration::from_secs(10)).success());
    drop((silent, half));
    let count = shared().primary().sql_in(&tenant.name, "SELECT count(*) FROM t").unwrap();
    assert_eq!(count.cell(), Some("2"));
    eventually("no server is left", SOON, || connection_count(shared().primary(), &tenant.name) == 0);
}

#[test]
fn a_shutdown_waits_no_longer_than_configured_and_leaves_nothing_running() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[timeouts]\nshutdown = \"500ms\"\n");
    let (mut running, mut block) = (howdah.login(&tenant), howdah.login(&tenant));
    block.query("BEGIN");
    running.send(&wire::query("SELECT pg_sleep(600)"));
    running.expect_silence(Duration::from_millis(100));
    let begun = Instant::now();
    howdah.signal(Signal::TERM);
    for client in [&mut running, &mut block] {
        assert_eq!(wire::error(&client.read_until_closed()).code, "57P01");
    }
    assert!(begun.elapsed() >= Duration::from_millis(490));
    assert!(howdah.exit_status(Duration::from_secs(10)).success());
    eventually("no server is left", SOON, || connection_count(shared().primary(), &tenant.name) == 0);
}

#[test]
fn a_second_signal_ends_at_once() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("");
    let mut client = howdah.login(&tenant);
    client.send(&wire::query("SELECT pg_sleep(600)"));
    client.expect_silence(Duration::from_millis(100));
    howdah.signal(Signal::TERM);
    eventually("it has begun", SOON, || howdah.get("/readyz").is_some_and(|(status, _)| status == 503));
    howdah.signal(Signal::INT);
    assert!(howdah.exit_status(Duration::from_secs(10)).success());
    assert_eq!(wire::error(&client.read_until_closed()).code, "57P01");
    eventually("no server is left", SOON, || connection_count(shared().primary(), &tenant.name) == 0);
}

#[test]
fn a_session_in_session_mode_ends_between_its_transactions() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nmode = \"session\"\n");
    let (mut idle, mut block) = (howdah.login(&tenant), howdah.login(&tenant));
    idle.query("SELECT 1");
    block.query("BEGIN");
    howdah.signal(Signal::TERM);
    assert_eq!(wire::error(&idle.read_until_closed()).code, "57P01");
    assert_eq!(block.query_short("COMMIT"), ["C:COMMIT", "Z:I"]);
    assert_eq!(wire::error(&block.read_until_closed()).code, "57P01");
    assert!(howdah.exit_status(Duration::from_secs(10)).success());
}

#[test]
fn without_any_server_it_starts_says_what_is_missing_and_serves_once_there_is_one() {
    let cluster = builder().start().unwrap_or_else(|error| panic!("{error}"));
    let primary = cluster.primary();
    let tenant = Tenant::on(primary);
    primary.stop(StopMode::Fast).unwrap();
    let (port, http_port) = (free_port().unwrap(), free_port().unwrap());
    let toml = config(
        cluster.nodes(),
        port,
        http_port,
        &format!("[users.{0}]\npassword = \"{1}\"\n", tenant.name, tenant.password),
    );
    let howdah = Howdah::start_unready(&toml, port, http_port);
    let mut said = String::new();
    eventually("it says what is missing", SOON, || {
        said = howdah.get("/readyz").filter(|(status, _)| *status == 503).map(|(_, body)| body).unwrap_or_default();
        said.contains(&primary.port().to_string())
    });
    assert!(said.contains("main") && said.contains("primary"), "{said}");
    let mut client = howdah.wire();
    client.send(&wire::startup(wire::PROTOCOL_3_0, &[("user", &tenant.name)]));
    let waiting = std::thread::spawn(move || {
        let messages = client.authenticate(&tenant.name, &tenant.password).unwrap();
        assert_eq!(messages.last().unwrap().short(), "Z:I");
        client.value("SELECT 'served'")
    });
    primary.start().unwrap();
    assert_eq!(waiting.join().unwrap(), "served");
    eventually("ready", SOON, || howdah.get("/readyz").is_some_and(|(status, _)| status == 200));
    howdah.stop(SOON);
}
