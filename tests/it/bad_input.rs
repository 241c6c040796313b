//! Bad input gets a clear error, costs nobody else, loses nothing.

use std::time::{Duration, Instant};

use crate::support::wire::{self, Client, bind, copy_data, describe, execute, flush, parse, query, sync};
use crate::support::{Howdah, SOON, Tenant, connection_count, eventually, rss_bytes, shared};

/// howdah with one server, and a client that must not notice anything.
struct Bystander {
    tenant: Tenant,
    howdah: Howdah,
    client: Client,
    pid: String,
}

impl Bystander {
    fn new(extra: &str) -> Self {
        let tenant = Tenant::shared();
        let howdah = Howdah::shared(&format!("[pool]\nsize = 1\n{extra}"));
        shared()
            .primary()
            .sql_in(&tenant.name, &format!("CREATE TABLE t (x text); ALTER TABLE t OWNER TO {}", tenant.name))
            .unwrap();
        let mut client = howdah.login(&tenant);
        let pid = client.value("SELECT pg_backend_pid()");
        Self { tenant, howdah, client, pid }
    }

    fn login(&self) -> Client {
        self.howdah.login(&self.tenant)
    }

    /// The pool still works, with as many servers as it may have.
    #[track_caller]
    fn works(&mut self) {
        assert_eq!(self.client.value("SELECT 'works'"), "works");
        assert_eq!(connection_count(shared().primary(), &self.tenant.name), 1);
    }

    /// [`Self::works`], on the same server as ever.
    #[track_caller]
    fn unharmed(&mut self) {
        assert_eq!(self.client.value("SELECT pg_backend_pid()"), self.pid);
        eventually("one server", SOON, || connection_count(shared().primary(), &self.tenant.name) == 1);
        self.works();
    }
}

fn with_length(tag: u8, length: i32) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes()].concat()
}

#[test]
fn a_bad_first_packet_is_refused_or_dropped_at_once() {
    let mut bystander = Bystander::new("");
    let before = rss_bytes(bystander.howdah.pid());
    let name = bystander.tenant.name.clone();
    let user = [("user", name.as_str())];
    let good = wire::startup(wire::PROTOCOL_3_0, &user);
    let mut unterminated = good.clone();
    unterminated.pop();
    let length = i32::try_from(unterminated.len()).unwrap().to_be_bytes();
    unterminated[..4].copy_from_slice(&length);
    let told: [(&str, Vec<u8>, &str); 8] = [
        ("version 2", wire::startup(0x0002_0000, &user), "0A000"),
        ("version 4", wire::startup(0x0004_0000, &user), "0A000"),
        ("no user", wire::startup(wire::PROTOCOL_3_0, &[("database", "x")]), "28000"),
        ("no terminator", unterminated, "08P01"),
        ("a switch", wire::startup(wire::PROTOCOL_3_0, &[("user", &name), ("options", "-z")]), "42601"),
        ("an empty name", wire::startup(wire::PROTOCOL_3_0, &[("user", &name), ("options", "-c=")]), "42601"),
        (
            "an empty name and a value",
            wire::startup(wire::PROTOCOL_3_0, &[("user", &name), ("options", "-c =x")]),
            "42601",
        ),
        ("a request for TLS behind another", [wire::ssl_request(), wire::ssl_request()].concat(), "08P01"),
    ];
    for (what, packet, code) in told {
        let mut client = bystander.howdah.wire();
        client.send(&packet);
        if what.contains("TLS") {
            assert_eq!(client.read_byte(), b'N');
        }
        let error = wire::error(&client.read_until_closed());
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", code), "{what}: {error:?}");
    }
    let dropped: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS ClientHello",
        &[0xff; 64],
        &[0; 64],
        &0x7fff_ffff_i32.to_be_bytes(),
        &(-1_i32).to_be_bytes(),
        &10_005_i32.to_be_bytes(),
        &7_i32.to_be_bytes(),
    ];
    for packet in dropped {
        let mut client = bystander.howdah.wire();
        client.send(packet);
        assert!(client.read_until_closed().is_empty(), "{packet:?}");
    }
    // a cancel for nobody, and one that is no cancel
    for body in [&[0; 8][..], &[1; 4], &[2; 100]] {
        let mut client = bystander.howdah.wire();
        client.send(&wire::untagged(wire::CANCEL_REQUEST, body));
        client.read_until_closed();
    }
    bystander.unharmed();
    assert!(rss_bytes(bystander.howdah.pid()) < before + 8_000_000);
}

#[test]
fn a_login_that_is_not_finished_is_cut_after_client_login() {
    let mut bystander = Bystander::new("[timeouts]\nclient_login = \"4s\"\n");
    let name = bystander.tenant.name.clone();
    let packet = wire::startup(wire::PROTOCOL_3_0, &[("user", &name), ("database", &name)]);
    let silent = bystander.howdah.wire();
    let mut partial = bystander.howdah.wire();
    partial.send(&packet[..packet.len() - 3]);
    let mut mute = bystander.howdah.wire();
    mute.send(&packet);
    let mut dripping = bystander.howdah.wire();
    let begun = Instant::now();
    for byte in &packet[..packet.len() - 1] {
        if dripping.try_send(&[*byte]).is_err() || begun.elapsed() > SOON {
            break;
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    for mut client in [silent, partial, mute, dripping] {
        let said = client.read_until_closed();
        let error = wire::error(&said);
        assert!(error.message.contains("client_login_timeout"), "{error:?}");
    }
    bystander.unharmed();
}

#[test]
fn something_else_than_a_password_is_refused() {
    let mut bystander = Bystander::new("");
    let name = bystander.tenant.name.clone();
    let packet = wire::startup(wire::PROTOCOL_3_0, &[("user", &name), ("database", &name)]);
    let answers: [Vec<u8>; 10] = [
        packet.clone(),
        query("SELECT 1"),
        wire::tagged(b'p', b""),
        wire::tagged(b'p', b"SCRAM-SHA-256\0"),
        wire::tagged(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=x"),
        wire::sasl_initial("SCRAM-SHA-256-PLUS", b"n,,n=,r=abc"),
        wire::sasl_initial("SCRAM-SHA-256", &[0xff; 100]),
        wire::sasl_initial("SCRAM-SHA-256", &[b'x'; 5_000]),
        with_length(b'p', 0x7fff_ffff),
        with_length(b'p', -5),
    ];
    for answer in answers {
        let mut client = bystander.howdah.wire();
        client.send(&packet);
        assert_eq!(client.expect().short(), "R:10");
        client.send(&answer);
        let said = client.read_until_closed();
        assert!(said.iter().all(|m| m.tag == b'E'), "{said:?}");
        assert!(!said.is_empty(), "{answer:?}");
    }
    bystander.unharmed();
}

#[test]
fn impossible_lengths_and_unknown_messages_end_the_session_at_once() {
    let mut bystander = Bystander::new("");
    let before = rss_bytes(bystander.howdah.pid());
    let mut bad: Vec<Vec<u8>> = Vec::new();
    for tag in *b"QPBDECHSFdcfX" {
        for length in [i32::MIN, -1, 0, 3, i32::MAX] {
            bad.push(with_length(tag, length));
        }
    }
    bad.extend(b"DECHScf".map(|tag| with_length(tag, 20_000)));
    bad.extend(b"!ARTZ1pN\0\xff".map(|tag| wire::tagged(tag, b"whatever")));
    for state in ["idle", "block", "batch"] {
        for bytes in &bad {
            let mut client = bystander.login();
            match state {
                "block" => drop(client.query("BEGIN")),
                "batch" => {
                    client.send(&[parse("", "SELECT 1", &[]), flush()].concat());
                    client.expect();
                }
                _ => {}
            }
            client.send(bytes);
            let said = client.read_until_closed();
            let error = wire::error(&said);
            assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08P01"), "{state} {bytes:?}");
        }
        bystander.unharmed();
    }
    // behind a good request: that is answered first
    let mut client = bystander.login();
    client.send(&[query("INSERT INTO t VALUES ('kept')"), with_length(b'Q', -1)].concat());
    let said = client.read_until_closed();
    assert_eq!(wire::short(&said), ["C:INSERT 0 1", "Z:I", "E:08P01"]);
    bystander.unharmed();
    assert!(rss_bytes(bystander.howdah.pid()) < before + 8_000_000);
}

#[test]
fn messages_with_broken_bodies_get_an_error_and_cost_no_server() {
    let mut bystander = Bystander::new("");
    let broken: Vec<Vec<u8>> = vec![
        wire::tagged(b'Q', b""),
        wire::tagged(b'Q', b"SELECT 1"),
        wire::tagged(b'Q', b"SELECT 1\0SELECT 2\0"),
        wire::tagged(b'P', b""),
        wire::tagged(b'P', b"x"),
        wire::tagged(b'P', b"x\0"),
        wire::tagged(b'P', b"x\0SELECT 1"),
        wire::tagged(b'P', b"x\0SELECT 1\0"),
        wire::tagged(b'P', b"x\0SELECT 1\0\0\x05"),
        wire::tagged(b'P', b"\0SELECT 1\0\x7f\xff"),
        wire::tagged(b'B', b""),
        wire::tagged(b'B', b"p"),
        wire::tagged(b'B', b"\0"),
        wire::tagged(b'B', b"\0s"),
        wire::tagged(b'B', b"\0\0"),
        wire::tagged(b'B', b"\0\0\0\x01"),
        wire::tagged(b'B', b"\0\0\0\0\x7f\xff\0\0"),
        wire::tagged(b'D', b""),
        wire::tagged(b'D', b"S"),
        wire::tagged(b'D', b"Sx"),
        wire::tagged(b'D', b"P"),
        wire::tagged(b'D', b"X\0"),
        wire::tagged(b'C', b""),
        wire::tagged(b'C', b"S"),
        wire::tagged(b'C', b"Sx"),
        wire::tagged(b'C', b"X\0"),
        wire::tagged(b'E', b""),
        wire::tagged(b'E', b"x"),
        wire::tagged(b'E', b"\0\0"),
        wire::tagged(b'E', b"\0\0\0\0\0\0"),
        wire::tagged(b'S', b"xyz"),
        wire::tagged(b'H', b"xyz"),
        wire::tagged(b'F', b""),
        wire::tagged(b'F', b"\0\0"),
        wire::tagged(b'F', b"\0\0\0\x01\x7f\xff\x7f\xff"),
    ];
    for before in [vec![], query("BEGIN"), parse("", "SELECT 1", &[])] {
        for message in &broken {
            let script = [before.clone(), message.clone(), sync(), query("ROLLBACK"), query("SELECT 'after'")].concat();
            let mut direct = Client::connect(("127.0.0.1", shared().primary().port())).unwrap();
            direct.login(&bystander.tenant.name, &bystander.tenant.password, &bystander.tenant.name);
            let expected = until_after(&mut direct, &script);
            let mut client = bystander.login();
            assert_eq!(until_after(&mut client, &script), expected, "{message:?} behind {before:?}");
            client.cut();
            drop(direct);
        }
        bystander.unharmed();
    }
}

/// Plays a script up to its last answer or to the end of the connection.
fn until_after(client: &mut Client, script: &[u8]) -> Vec<String> {
    client.send(script);
    let mut said = Vec::new();
    while let Ok(message) = client.read() {
        if message.tag == b'E' {
            let fields = message.fields();
            said.push(format!("{} {} {}", fields.severity, fields.code, fields.message));
        } else {
            said.push(message.short());
        }
        if message.tag == b'D' && message.columns()[0].as_deref() == Some("after") {
            break;
        }
    }
    said
}

#[test]
fn half_a_request_holds_no_server() {
    let mut bystander = Bystander::new("");
    let whole = query(&format!("SELECT '{}'", "x".repeat(60_000)));
    let half = [
        whole[..whole.len() - 1].to_vec(),
        whole[..5].to_vec(),
        b"Q".to_vec(),
        [parse("", "SELECT 1", &[]), bind("", "", &[]), execute("", 0)].concat(),
        [parse("", "SELECT 1", &[]), describe(b'S', "")[..3].to_vec()].concat(),
    ];
    let mut holding: Vec<Client> = Vec::new();
    for bytes in half.iter().cycle().take(20) {
        let mut client = bystander.login();
        client.send(bytes);
        holding.push(client);
    }
    bystander.unharmed();
    let busy = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = '{}' AND state <> 'idle' AND application_name <> 'howdah hidden'",
        bystander.tenant.name
    );
    assert_eq!(shared().primary().sql(&busy).unwrap().cell(), Some("0"));
    assert_eq!(bystander.howdah.status()["pools"][0]["in_use"], 0);
    // and goes on where it stopped
    holding[0].send(&whole[whole.len() - 1..]);
    assert_eq!(wire::short(&holding[0].read_until_ready()), ["T", "D", "C:SELECT 1", "Z:I"]);
    holding[3].send(&sync());
    assert_eq!(wire::first_column(&holding[3].read_until_ready()), ["1"]);
    holding.iter_mut().for_each(Client::cut);
    bystander.unharmed();
}

#[test]
fn a_client_that_stalls_inside_a_large_message_is_cut() {
    let mut bystander = Bystander::new("[timeouts]\nread = \"1s\"\n");
    let large = query(&format!("SELECT '{}'", "x".repeat(500_000)));
    let messages = [
        large.clone(),
        parse("", &format!("SELECT '{}'", "x".repeat(500_000)), &[]),
        [parse("", "SELECT $1", &[]), bind("", "", &[Some(&"x".repeat(500_000))])].concat(),
    ];
    for message in messages {
        let mut client = bystander.login();
        client.send(&message[..300_000]);
        bystander.works(); // waits until the server is free again
        let said = client.read_until_closed();
        assert!(wire::error(&said).message.contains("stalled"), "{said:?}");
    }
    let mut client = bystander.login();
    client.send(&query("COPY t FROM STDIN"));
    client.expect();
    client.send(&copy_data(&[b'x'; 500_000])[..300_000]);
    bystander.works();
    // one that is only slow is not
    let mut slow = bystander.login();
    for chunk in large.chunks(60_000) {
        slow.send(chunk);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(wire::short(&slow.read_until_ready()), ["T", "D", "C:SELECT 1", "Z:I"]);
}

#[test]
fn slow_readers_of_huge_results_hold_nobody_else_up() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 5\n");
    let before = rss_bytes(howdah.pid());
    let mut readers: Vec<Client> = (0..4).map(|_| howdah.login(&tenant)).collect();
    for reader in &mut readers {
        reader.send(&query("SELECT repeat('x', 1000000) FROM generate_series(1, 200)"));
        assert_eq!(reader.expect().short(), "T");
    }
    let mut quick = howdah.login(&tenant);
    for _ in 0..200 {
        assert_eq!(quick.value("SELECT 1"), "1");
    }
    let stalled = rss_bytes(howdah.pid());
    assert!(stalled < before + 8_000_000, "from {before} to {stalled}");
    let rows = readers[0].read_until_ready();
    assert_eq!(rows.iter().filter(|m| m.tag == b'D' && m.body.len() == 1_000_006).count(), 200);
    readers.iter_mut().for_each(Client::cut);
    let mut all: Vec<Client> = (0..5).map(|_| howdah.login(&tenant)).collect();
    for client in &mut all {
        assert_eq!(client.query_short("BEGIN"), ["C:BEGIN", "Z:T"]);
    }
    assert_eq!(connection_count(shared().primary(), &tenant.name), 5);
}

#[test]
fn clients_that_vanish_at_any_stage_give_their_servers_back_usable() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared("[pool]\nsize = 2\n");
    shared()
        .primary()
        .sql_in(&tenant.name, &format!("CREATE TABLE t (x text); ALTER TABLE t OWNER TO {}", tenant.name))
        .unwrap();
    let one = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
    let stages: [(&str, Vec<u8>); 16] = [
        ("idle", vec![]),
        ("half a query", query("SELECT 1")[..7].to_vec()),
        ("a query", query("SELECT 1")),
        ("a long query", query("SELECT pg_sleep(600)")),
        ("a block", query("BEGIN; INSERT INTO t VALUES ('lost')")),
        ("a failed block", query("BEGIN; SELECT 1/0")),
        ("an open batch", [one("INSERT INTO t VALUES ('lost')"), flush()].concat()),
        ("a failed batch", [one("SELECT 1/0"), flush()].concat()),
        ("a parse", [parse("p", "SELECT 1", &[]), flush()].concat()),
        ("copy in", query("COPY t FROM STDIN")),
        ("copy in with data", [query("COPY t FROM STDIN"), copy_data(b"lost\n")].concat()),
        ("copy out", query("COPY (SELECT repeat('x', 10000) FROM generate_series(1, 100000)) TO STDOUT")),
        ("rows", query("SELECT repeat('x', 10000) FROM generate_series(1, 100000)")),
        (
            "a pipeline",
            [one("SELECT 1"), sync(), one("SELECT pg_sleep(600)"), sync(), one("SELECT 3"), sync()].concat(),
        ),
        ("a large query", query(&format!("SELECT '{}'", "x".repeat(500_000)))[..300_000].to_vec()),
        ("a lock", query("SELECT pg_advisory_xact_lock(1), pg_sleep(600)")),
    ];
    for (stage, bytes) in &stages {
        // two have a server, two wait in the queue
        let mut clients: Vec<Client> = (0..4).map(|_| howdah.login(&tenant)).collect();
        for client in &mut clients {
            client.send(bytes);
        }
        std::thread::yield_now();
        clients.iter_mut().for_each(Client::cut);
        let mut next: Vec<Client> = (0..2).map(|_| howdah.login(&tenant)).collect();
        for client in &mut next {
            client.send(&query("BEGIN"));
            let begun = client.read().unwrap_or_else(|error| panic!("behind {stage}: {error}"));
            assert_eq!((begun.short().as_str(), client.expect().short().as_str()), ("C:BEGIN", "Z:T"), "{stage}");
            assert_eq!(client.value("SELECT count(*) FROM t"), "0", "{stage}");
        }
        for client in &mut next {
            assert_eq!(client.query_short("COMMIT"), ["C:COMMIT", "Z:I"], "{stage}");
        }
        let count = connection_count(shared().primary(), &tenant.name);
        assert!(count <= 2, "{stage}: {count}");
        drop(next);
        eventually("nobody is left", SOON, || {
            let status = howdah.status();
            status["pools"][0]["in_use"] == 0 && status["pools"][0]["waiting"] == 0 && status["clients"] == 0
        });
    }
    // in login
    let packet = wire::startup(wire::PROTOCOL_3_0, &[("user", &tenant.name), ("database", &tenant.name)]);
    for cut in [0, 3, packet.len() - 1, packet.len()] {
        let mut client = howdah.wire();
        client.send(&packet[..cut]);
        client.cut();
    }
    eventually("nobody is left", SOON, || howdah.status()["clients"] == 0);
    assert_eq!(howdah.login(&tenant).value("SELECT 1"), "1");
}
