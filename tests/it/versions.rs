//! howdah speaks protocol 3.2 to servers that do, and whatever they do speak to the others.
//!
//! The servers are scripted, so that each can be as old or as odd as it likes; PostgreSQL itself is in `eighteen`.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::fake::{self, FakeNode};
use crate::support::wire::{self, Client};
use crate::support::{Howdah, SOON, Tenant, eventually};

/// What a server was sent first, cancels included.
type Packets = Receiver<Vec<u8>>;

/// A server that greets as `greeting` says, given the version that is asked for; `None` hangs up.
fn server(tenant: &Tenant, greeting: impl Fn(u32) -> Option<Vec<u8>> + Send + Sync + 'static) -> (FakeNode, Packets) {
    let (seen, packets): (Sender<Vec<u8>>, _) = channel();
    let seen = parking_lot::Mutex::new(seen);
    let node = FakeNode::start_reading(&tenant.name, move |mut socket, packet| {
        let _ = seen.lock().send(packet.to_vec());
        let version = u32::from_be_bytes(packet[4..8].try_into().unwrap());
        if version != wire::CANCEL_REQUEST
            && let Some(greeting) = greeting(version)
        {
            let _ = serve(&mut socket, &greeting);
        }
        let _ = socket.shutdown(Shutdown::Both);
    });
    (node, packets)
}

fn serve(socket: &mut TcpStream, greeting: &[u8]) -> std::io::Result<()> {
    socket.write_all(greeting)?;
    loop {
        match fake::read_message(socket)? {
            (b'Q', body) if body.starts_with(b"sleep") => {}
            (b'Q', _) => socket.write_all(&[fake::row("fine"), fake::ready(b'I')].concat())?,
            (b'S', _) => socket.write_all(&fake::ready(b'I'))?,
            (b'X', _) => return Ok(()),
            _ => {}
        }
    }
}

/// What lets somebody in, with this secret.
fn welcome(secret: &[u8]) -> Vec<u8> {
    let key = [&[0, 0, 0, 7][..], secret].concat();
    [
        wire::tagged(b'R', &[0; 4]),
        wire::tagged(b'S', b"server_version\x0018.0\0"),
        wire::tagged(b'K', &key),
        fake::ready(b'I'),
    ]
    .concat()
}

fn negotiate(version: u32, options: u32) -> Vec<u8> {
    wire::tagged(b'v', &[version.to_be_bytes(), options.to_be_bytes()].concat())
}

fn refusal(code: &str, text: &str) -> Vec<u8> {
    wire::tagged(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0").as_bytes())
}

fn version(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[4..8].try_into().unwrap())
}

#[track_caller]
fn next(packets: &Packets) -> Vec<u8> {
    packets.recv_timeout(SOON).expect("the server is spoken to")
}

#[track_caller]
fn login(howdah: &Howdah, tenant: &Tenant) -> Client {
    let mut client = howdah.wire();
    client.login_with(&[("user", &tenant.name), ("database", &tenant.name)], "");
    assert_eq!(client.value("anything"), "fine");
    client
}

#[test]
fn cancels_carry_the_servers_key_whatever_its_length() {
    for length in [4_usize, 32, 256] {
        let tenant = Tenant::shared();
        let secret: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let greeting = welcome(&secret);
        let (node, packets) = server(&tenant, move |_| Some(greeting.clone()));
        let howdah = node.howdah("[pool]\nsize = 1\n\n");
        let mut client = login(&howdah, &tenant);
        assert_eq!(version(&next(&packets)), wire::PROTOCOL_3_2);
        client.send(&wire::query("sleep"));
        client.expect_silence(Duration::from_millis(100));
        howdah.wire().send(&wire::cancel_request(&client.key));
        let cancel = next(&packets);
        assert_eq!(version(&cancel), wire::CANCEL_REQUEST);
        assert_eq!(cancel[8..], [&[0, 0, 0, 7][..], &secret].concat(), "{length}");
    }
}

#[test]
fn a_server_that_negotiates_down_or_does_not_even_know_how_is_served_all_the_same() {
    let negotiates = |version| match version {
        wire::PROTOCOL_3_2 => Some([negotiate(wire::PROTOCOL_3_0, 0), welcome(&[7; 4])].concat()),
        _ => None,
    };
    let refuses = |version| match version {
        wire::PROTOCOL_3_0 => Some(welcome(&[7; 4])),
        _ => Some(refusal("0A000", "unsupported frontend protocol 3.2: server supports 1.0 to 3.0")),
    };
    let hangs_up = |version| (version == wire::PROTOCOL_3_0).then(|| welcome(&[7; 4]));
    type Greeting = Arc<dyn Fn(u32) -> Option<Vec<u8>> + Send + Sync>;
    let (new, old) = (wire::PROTOCOL_3_2, wire::PROTOCOL_3_0);
    let servers: [(&str, Greeting, &[u32]); 3] = [
        ("negotiates", Arc::new(negotiates), &[new, new]),
        // once it has been found out, it is not asked again
        ("refuses", Arc::new(refuses), &[new, old, old]),
        ("hangs up", Arc::new(hangs_up), &[new, old, old]),
    ];
    for (what, greeting, asked) in servers {
        let tenant = Tenant::shared();
        let (node, packets) = server(&tenant, move |version| greeting(version));
        let howdah = node.howdah("[pool]\nsize = 2\n\n");
        let mut first = login(&howdah, &tenant);
        first.send(&wire::query("sleep"));
        first.expect_silence(Duration::from_millis(50));
        login(&howdah, &tenant);
        let seen: Vec<u32> = asked.iter().map(|_| version(&next(&packets))).collect();
        assert_eq!(seen, asked, "{what}");
        assert!(packets.try_recv().is_err(), "{what}");
    }
}

#[test]
fn a_server_that_negotiates_what_nobody_asked_for_is_not_believed() {
    let nonsense: [(&str, Vec<u8>); 7] = [
        ("a newer version", negotiate(0x0003_0003, 0)),
        ("the same version", negotiate(wire::PROTOCOL_3_2, 0)),
        ("another major version", negotiate(0x0004_0000, 0)),
        ("options", negotiate(wire::PROTOCOL_3_0, 1)),
        ("half a message", wire::tagged(b'v', &[0, 3, 0, 0])),
        (
            "a key of three bytes",
            [wire::tagged(b'R', &[0; 4]), wire::tagged(b'K', &[0; 7]), fake::ready(b'I')].concat(),
        ),
        ("a key of 257", [wire::tagged(b'R', &[0; 4]), wire::tagged(b'K', &[0; 261]), fake::ready(b'I')].concat()),
    ];
    for (what, bytes) in nonsense {
        let tenant = Tenant::shared();
        let (node, _packets) = server(&tenant, move |_| Some([bytes.clone(), welcome(&[7; 4])].concat()));
        let howdah = node.howdah("[timeouts]\nquery_wait = \"1s\"\n\n");
        let said = howdah.wire().try_login(&[("user", &tenant.name)], "").unwrap();
        let error = wire::error(&said);
        assert_eq!(error.code, "57P03", "{what}: {error:?}");
        eventually("it says why", SOON, || howdah.log().contains("server login failed"));
    }
}

#[test]
fn what_a_server_refuses_for_another_reason_is_asked_for_once() {
    let tenant = Tenant::shared();
    let (node, packets) = server(&tenant, |_| Some(refusal("53300", "sorry, too many clients already")));
    let howdah = node.howdah("[timeouts]\nquery_wait = \"300ms\"\n\n");
    let said = howdah.wire().try_login(&[("user", &tenant.name)], "").unwrap();
    assert!(wire::error(&said).message.contains("too many clients"), "{said:?}");
    assert!(packets.try_iter().all(|packet| version(&packet) == wire::PROTOCOL_3_2));
}
