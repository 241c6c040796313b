//! Addresses that answer, refuse, and say nothing, all on this machine.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;

use super::*;

fn dialer() -> Arc<Dialer> {
    Dialer::new(&Network::default())
}

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

fn hosts(last: &[u8]) -> NodeHost {
    match last {
        [one] => NodeHost::Ip(ip(*one)),
        several => NodeHost::Several(several.iter().map(|last| Host::Ip(ip(*last))).collect()),
    }
}

/// Listens at 127.0.0.`last`, on any port or on this one.
fn listen(last: u8, port: u16) -> (TcpListener, u16) {
    let listener = TcpListener::bind((ip(last), port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// An address where nothing answers: a listening socket whose queue is full.
struct BlackHole {
    _socket: OwnedFd,
    _queued: Vec<std::net::TcpStream>,
}

impl BlackHole {
    fn at(last: u8, port: u16) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let address = SocketAddr::new(ip(last), port);
        socket.bind(&address.into()).unwrap();
        socket.listen(0).unwrap();
        let mut queued = Vec::new();
        while let Ok(client) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queued.push(client);
        }
        Self { _socket: socket.into(), _queued: queued }
    }
}

async fn reached(dialer: &Arc<Dialer>, target: &Target) -> Result<u8, Unreached> {
    match dialer.dial(target).await?.1 {
        Place::Tcp(SocketAddr::V4(address), _) => Ok(address.ip().octets()[3]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_address_that_refuses_is_passed_over_and_the_error_names_them_all() {
    let (listener, port) = listen(3, 0);
    let target = Target { host: hosts(&[1, 2, 3]), port };
    let dialer = dialer();
    assert_eq!(reached(&dialer, &target).await, Ok(3));
    drop(listener);
    let error = reached(&dialer, &target).await.unwrap_err();
    assert_eq!(error.reason, Reason::Refused);
    for last in 1..=3 {
        assert!(error.text.contains(&format!("127.0.0.{last}:{port}: connection refused")), "{error}");
    }
    let only = Target { host: hosts(&[1]), port };
    assert_eq!(reached(&dialer, &only).await.unwrap_err().text, "connection refused");
}

#[tokio::test]
async fn an_address_that_is_silent_costs_one_dial_its_head_start_and_the_next_nothing() {
    let (_listener, port) = listen(2, 0);
    let _hole = BlackHole::at(1, port);
    let target = Target { host: hosts(&[1, 2]), port };
    let dialer = dialer();
    let begun = Instant::now();
    assert_eq!(reached(&dialer, &target).await, Ok(2));
    assert!((HEAD_START..Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let (silent, quick) = (SocketAddr::new(ip(1), port), SocketAddr::new(ip(2), port));
    let first = || dialer.standing.lock().order(&[silent, quick], dialer.now_ms()).tries.first().copied();
    eventually(|| first() == Some(quick)).await;
}

#[tokio::test]
async fn those_who_come_while_dead_addresses_are_probed_share_what_is_found() {
    let (holder, port) = listen(9, 0);
    drop(holder);
    let hole = BlackHole::at(1, port);
    let target = Target { host: hosts(&[1]), port };
    let dialer = dialer();
    // one dial learns that nobody answers
    assert!(tokio::time::timeout(2 * HEAD_START, dialer.dial(&target)).await.is_err());
    let begun = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..50 {
        let (dialer, target) = (Arc::clone(&dialer), target.clone());
        all.spawn(async move { reached(&dialer, &target).await });
    }
    eventually(|| !dialer.probes.lock().is_empty()).await;
    let syns = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!("0100007F:{port:04X} 02"); // SYN_SENT
    assert_eq!(syns.matches(&remote).count(), 1, "one probe, whoever waits");
    for ended in all.join_all().await {
        assert_eq!(ended.unwrap_err().reason, Reason::Silent);
    }
    assert!(begun.elapsed() < PROBE_MAX + Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(hole);
    let (_listener, _) = listen(1, port);
    assert_eq!(reached(&dialer, &target).await, Ok(1), "nothing is given up");
}

#[tokio::test]
async fn a_probe_whose_time_is_up_lets_the_next_one_begin() {
    let (holder, port) = listen(9, 0);
    drop(holder);
    let hole = BlackHole::at(1, port);
    let target = Target { host: hosts(&[1]), port };
    let dialer = dialer();
    for _ in 0..2 {
        assert!(tokio::time::timeout(2 * HEAD_START, dialer.dial(&target)).await.is_err());
    }
    assert!(dialer.probes.lock().is_empty());
    drop(hole);
    let (_listener, _) = listen(1, port);
    assert_eq!(reached(&dialer, &target).await, Ok(1));
}

#[tokio::test]
async fn a_name_with_several_addresses_is_as_good_as_a_list_and_is_asked_again_when_none_answers() {
    let (listener, port) = listen(3, 0);
    let moved = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = Arc::clone(&moved);
    let system: Lookup = Box::new(move |name| match (name, now.load(std::sync::atomic::Ordering::Relaxed)) {
        ("db", false) => Ok(vec![ip(2), ip(3)]),
        ("db", true) => Ok(vec![ip(4)]),
        _ => Err(io::Error::other("no such host")),
    });
    let dialer = Dialer::asking(&Network::default(), Some(system));
    let target = Target { host: NodeHost::Name("db".to_owned()), port };
    assert_eq!(reached(&dialer, &target).await, Ok(3));
    drop(listener);
    moved.store(true, std::sync::atomic::Ordering::Relaxed);
    let (_listener, _) = listen(4, port);
    let deadline = Instant::now() + Duration::from_secs(15);
    while reached(&dialer, &target).await != Ok(4) {
        assert!(Instant::now() < deadline, "it has moved");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unknown = Target { host: NodeHost::Name("other".to_owned()), port };
    let error = reached(&dialer, &unknown).await.unwrap_err();
    assert_eq!((error.reason, error.text.as_str()), (Reason::Failed, "\"other\": no such host"));
}

#[tokio::test]
async fn a_cancel_goes_to_the_address_where_its_connection_is() {
    let (_first, port) = listen(1, 0);
    let (second, _) = listen(2, port);
    let place = Place::Tcp(SocketAddr::new(ip(2), port), Host::Ip(ip(2)));
    let _socket = dialer().dial_again(&place).await.unwrap();
    second.set_nonblocking(true).unwrap();
    eventually(|| second.accept().is_ok()).await;
}

#[tokio::test]
async fn an_address_where_nobody_answers_a_login_comes_last() {
    let (_first, port) = listen(1, 0);
    let (_second, _) = listen(2, port);
    let target = Target { host: hosts(&[1, 2]), port };
    let dialer = dialer();
    for expected in [1, 2] {
        let (_, place) = dialer.dial(&target).await.unwrap();
        assert!(matches!(&place, Place::Tcp(address, _) if address.ip() == ip(expected)), "{place:?}");
        drop(dialer.trial(&place)); // it was given up
    }
    let (_, place) = dialer.dial(&target).await.unwrap();
    dialer.trial(&place).answered();
    assert_eq!(reached(&dialer, &target).await, Ok(1), "the one that answered");
}

#[tokio::test]
async fn options_of_tcp_reach_the_socket() {
    let (_listener, port) = listen(1, 0);
    let network = Network {
        keepalive_idle: crate::config::ConfigDuration::from_secs(7),
        keepalive_interval: crate::config::ConfigDuration::from_secs(3),
        keepalive_count: 5,
        tcp_user_timeout: crate::config::ConfigDuration::from_secs(11),
        ..Network::default()
    };
    let dialer = Dialer::new(&network);
    let (socket, _) = dialer.dial(&Target { host: hosts(&[1]), port }).await.unwrap();
    let options = socket.options().unwrap();
    assert!(options.keepalive().unwrap() && options.tcp_nodelay().unwrap());
    assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
    assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(3));
    assert_eq!(options.tcp_keepalive_retries().unwrap(), 5);
    assert_eq!(options.tcp_user_timeout().unwrap(), Some(Duration::from_secs(11)));
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !condition() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
