//! From a node's host and port to a connected socket, however many addresses there are behind them.
//!
//! - this file: trying the addresses, one beside the other, and options of the socket
//! - [`names`]: host names and their addresses
//! - [`standing`]: which addresses have not answered lately
//!
//! Addresses are tried in their order, the next one as soon as one has failed or has had a head start (RFC 8305 section 5);
//! the first that connects wins, and one that did not answer comes last for a while. So an address that is dead costs one
//! dial its head start, and the following ones nothing. Where all of them are dead, one dial at a time probes them, and
//! whoever else comes meanwhile shares what it finds.
//!
//! Not here: TLS ([`super::way`]), how often somebody dials (`proxy/pool`, `cluster/observe`).

pub mod names;
pub mod standing;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::names::{KnownName, Lookup, Names};
use self::standing::Standing;
use super::stream::Socket;
use super::tcp::TcpOptions;
use crate::config::{Host, Network, NodeHost};

/// How long an address is waited for before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);
/// The longest probe of addresses that are all known not to answer, so that nobody shares a wait for ever.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// Where something listens: what the configuration says of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// One host or several, or the directory of a Unix socket.
    pub host: NodeHost,
    /// The port; also part of the name of a Unix socket.
    pub port: u16,
}

impl std::fmt::Display for Target {
    /// As people write it: `10.0.0.1:5432`, `[::1]:5432`, `/run/postgresql:5432`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            NodeHost::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Where a connection has ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this address, by this host.
    Tcp(SocketAddr, Host),
    /// At this socket.
    Unix(PathBuf),
}

/// Why nobody was reached, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody listens there.
    Refused,
    /// Nothing came back in time.
    Silent,
    /// Anything else: no such name, no route.
    Failed,
}

/// Why nobody was reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unreached {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

impl Unreached {
    fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    fn silent() -> Self {
        Self::new(Reason::Silent, "no answer")
    }

    /// Of all addresses that were tried: each with its own, where there are several.
    fn of_all(failures: &[(SocketAddr, Self)]) -> Self {
        let reason = |wanted: Reason| failures.iter().any(|(_, failure)| failure.reason == wanted);
        let reason = match () {
            () if reason(Reason::Silent) => Reason::Silent,
            () if reason(Reason::Failed) => Reason::Failed,
            () => Reason::Refused,
        };
        match failures {
            [(_, only)] => only.clone(),
            several => {
                let texts: Vec<String> = several.iter().map(|(at, failure)| format!("{at}: {failure}")).collect();
                Self::new(reason, texts.join("; "))
            }
        }
    }
}

impl From<io::Error> for Unreached {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::new(Reason::Refused, "connection refused"),
            io::ErrorKind::ConnectionReset => Self::new(Reason::Refused, "connection reset"),
            io::ErrorKind::NotFound => Self::new(Reason::Refused, "no such socket"),
            io::ErrorKind::TimedOut => Self::silent(),
            _ => Self::new(Reason::Failed, error.to_string()),
        }
    }
}

/// Reaches nodes. One for the whole daemon: what one dial has learned of an address, the others know.
#[derive(Debug)]
pub struct Dialer {
    names: Arc<Names>,
    options: ArcSwap<TcpOptions>,
    standing: Mutex<Standing>,
    probes: Mutex<HashMap<Target, watch::Receiver<Probed>>>,
    started: Instant,
}

/// How a probe ended; `None` before that.
type Probed = Option<Result<(), Unreached>>;

impl Dialer {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(network: &Network) -> Arc<Self> {
        Self::asking(network, None)
    }

    fn asking(network: &Network, system: Option<Lookup>) -> Arc<Self> {
        let this = Self {
            names: Arc::new(Names::new(system)),
            options: ArcSwap::default(),
            standing: Mutex::default(),
            probes: Mutex::default(),
            started: Instant::now(),
        };
        this.reload(network);
        Arc::new(this)
    }

    /// Takes over a new configuration, for connections made from now on.
    pub fn reload(&self, network: &Network) {
        self.options.store(Arc::new(TcpOptions::from(network)));
        let of = |ttl: crate::config::ConfigDuration| ttl.limit().unwrap_or_default();
        self.names.hold(of(network.dns_ttl), of(network.dns_negative_ttl));
    }

    /// What is known of host names.
    #[must_use]
    pub fn names(&self) -> Vec<KnownName> {
        self.names.known()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Connects to the first address of a target that lets us.
    ///
    /// # Errors
    /// [`Unreached`]: what each of them said.
    ///
    /// # Cancel safety
    /// Safe. Addresses that had their head start and have not answered count as silent then.
    pub async fn dial(self: &Arc<Self>, target: &Target) -> Result<(Socket, Place), Unreached> {
        if let Some(path) = target.host.socket_path(target.port) {
            return Ok((Socket::Unix(UnixStream::connect(&path).await?), Place::Unix(path)));
        }
        let known = self.addresses(target).await?;
        let addresses: Vec<SocketAddr> = known.iter().map(|(address, _)| *address).collect();
        let order = self.standing.lock().order(&addresses, self.now_ms());
        let reached = match order.hopeless {
            false => self.race(order.tries).await,
            true => self.probe(target, order.tries).await,
        };
        match reached {
            Ok((socket, address)) => {
                let host = known.into_iter().find(|(known, _)| *known == address).map(|(_, host)| host);
                let host = host.unwrap_or_else(|| Host::Ip(address.ip()));
                Ok((Socket::Tcp(socket), Place::Tcp(address, host)))
            }
            Err(error) => {
                for host in target.host.hosts() {
                    if let Host::Name(name) = host {
                        self.names.doubt(&name);
                    }
                }
                Err(error)
            }
        }
    }

    /// Connects to where a connection has ended up before: a cancel must reach the same instance.
    ///
    /// # Errors
    /// [`Unreached`].
    pub async fn dial_again(&self, place: &Place) -> Result<Socket, Unreached> {
        Ok(match place {
            Place::Tcp(address, _) => Socket::Tcp(self.connect(*address).await?),
            Place::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
        })
    }

    /// A connection has been made there; what comes of it is remembered.
    #[must_use]
    pub fn trial(self: &Arc<Self>, place: &Place) -> Trial {
        match place {
            Place::Tcp(address, _) => Trial { dialer: Some(Arc::clone(self)), address: Some(*address) },
            Place::Unix(_) => Trial { dialer: None, address: None },
        }
    }

    /// All addresses of a target in their order, each with the host it is of.
    async fn addresses(&self, target: &Target) -> Result<Vec<(SocketAddr, Host)>, Unreached> {
        let mut addresses: Vec<(SocketAddr, Host)> = Vec::new();
        let mut trouble = None;
        for host in target.host.hosts() {
            let found = match &host {
                Host::Ip(ip) => Ok(vec![*ip]),
                Host::Name(name) => self.names.addresses(name).await,
            };
            match found {
                Ok(found) => {
                    for ip in found {
                        let address = SocketAddr::new(ip, target.port);
                        if addresses.iter().all(|(known, _)| *known != address) {
                            addresses.push((address, host.clone()));
                        }
                    }
                }
                Err(text) => trouble = Some(text),
            }
        }
        match (addresses.is_empty(), trouble) {
            (true, Some(text)) => Err(Unreached::new(Reason::Failed, text)),
            (true, None) => Err(Unreached::new(Reason::Failed, "no host")),
            (false, _) => Ok(addresses),
        }
    }

    /// Tries addresses none of which has answered lately, or shares what somebody else finds who does so already.
    async fn probe(
        self: &Arc<Self>,
        target: &Target,
        addresses: Vec<SocketAddr>,
    ) -> Result<(TcpStream, SocketAddr), Unreached> {
        let (mut shared, probing) = {
            let mut probes = self.probes.lock();
            match probes.get(target) {
                Some(shared) => (shared.clone(), None),
                None => {
                    let (ended, shared) = watch::channel(None);
                    probes.insert(target.clone(), shared.clone());
                    (shared, Some(Probing { dialer: self, target, ended }))
                }
            }
        };
        let Some(probing) = probing else {
            return match shared.wait_for(Option::is_some).await.map(|probed| probed.clone()) {
                Ok(Some(Ok(()))) => self.race(addresses).await,
                Ok(Some(Err(error))) => Err(error),
                Ok(None) | Err(_) => Err(Unreached::silent()), // its time was up
            };
        };
        let reached = tokio::time::timeout(PROBE_MAX, self.race(addresses)).await.unwrap_or(Err(Unreached::silent()));
        let _ = probing.ended.send(Some(reached.as_ref().map(|_| ()).map_err(Clone::clone)));
        reached
    }

    /// Tries addresses in their order, each with a head start; the first that connects wins.
    async fn race(self: &Arc<Self>, addresses: Vec<SocketAddr>) -> Result<(TcpStream, SocketAddr), Unreached> {
        if let [only] = addresses.as_slice() {
            return self.connect(*only).await.map(|socket| (socket, *only));
        }
        let (mut waiting, mut running) = (addresses.into_iter(), JoinSet::new());
        let mut failures = Vec::new();
        loop {
            if let Some(address) = waiting.next() {
                let dialer = Arc::clone(self);
                running.spawn(async move { (address, dialer.connect(address).await) });
            }
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(Ok((address, Ok(socket)))) => return Ok((socket, address)),
                    Some(Ok((address, Err(error)))) => failures.push((address, error)),
                    Some(Err(_)) => {} // it panicked: the others go on
                    None => return Err(Unreached::of_all(&failures)),
                },
                () = tokio::time::sleep(HEAD_START), if waiting.len() > 0 => {}
            }
        }
    }

    /// One address. What it does is remembered, also when nobody waits for it any more.
    async fn connect(&self, address: SocketAddr) -> Result<TcpStream, Unreached> {
        let mut attempt = Attempt { dialer: self, address, begun: Instant::now(), outcome: None };
        let connected = TcpStream::connect(address).await;
        attempt.outcome = Some(connected.is_ok());
        let socket = connected?;
        socket.set_nodelay(true)?;
        self.options.load().apply(&socket2::SockRef::from(&socket))?;
        Ok(socket)
    }
}

/// A probe that is under way; dropping it lets the next one begin.
struct Probing<'a> {
    dialer: &'a Dialer,
    target: &'a Target,
    ended: watch::Sender<Probed>,
}

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        self.dialer.probes.lock().remove(self.target);
    }
}

/// A connection on which nobody has answered yet. Dropped before that, for whatever reason, it speaks against its address.
#[derive(Debug)]
pub struct Trial {
    dialer: Option<Arc<Dialer>>,
    address: Option<SocketAddr>,
}

impl Trial {
    /// Somebody has answered, be it with a refusal: the address works.
    pub fn answered(mut self) {
        if let (Some(dialer), Some(address)) = (&self.dialer, self.address.take()) {
            dialer.standing.lock().worked(address);
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let (Some(dialer), Some(address)) = (&self.dialer, self.address) {
            let now_ms = dialer.now_ms();
            dialer.standing.lock().failed(address, now_ms);
        }
    }
}

/// A connection attempt, which leaves its mark on the address when it fails.
struct Attempt<'a> {
    dialer: &'a Dialer,
    address: SocketAddr,
    begun: Instant,
    outcome: Option<bool>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let failed = match self.outcome {
            // whether it is any good, the login will tell
            Some(connected) => !connected,
            // given up: for somebody who was quicker, which says nothing, or for its silence
            None => self.begun.elapsed() >= HEAD_START,
        };
        if failed {
            let now_ms = self.dialer.now_ms();
            self.dialer.standing.lock().failed(self.address, now_ms);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
