//! Listeners: where clients come in, and which worker they go to.
//!
//! One acceptor for all listeners, on the control thread; it hands each socket to the worker with the fewest clients.
//! How many clients may come is the handshake's to say, as only it can answer.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;

use super::shared::Shared;
use super::worker::{Accepted, WorkerGate};
use crate::config::{Address, Host, Listener};
use crate::net::stream::Socket;

/// Connections the kernel may hold for us. PgBouncer: `listen_backlog`.
const BACKLOG: i32 = 1_024;

/// Quiet time before the first keepalive. PgBouncer: `tcp_keepalive`.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connections that may be open beyond the clients' limit: cancels, and clients to be told that there is no room.
const STRANGERS_MAX: usize = 200;

/// A listening socket.
#[derive(Debug)]
pub struct Door {
    kind: Kind,
    index: usize,
    /// Where, for people; with the port the kernel chose where it was left to it.
    pub address: String,
}

/// Not tokio's listeners: those register each socket with the acceptor's reactor, which is never its worker's.
#[derive(Debug)]
enum Kind {
    Tcp(AsyncFd<OwnedFd>),
    Unix(AsyncFd<OwnedFd>, PathBuf),
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Kind::Unix(_, path) = &self.kind {
            let _ = std::fs::remove_file(path); // nobody listens there any more
        }
    }
}

impl Door {
    /// Opens the listener that stands at `index` in the configuration.
    ///
    /// # Errors
    /// The kernel's, with the address in front.
    pub async fn open(listener: &Listener, index: usize) -> io::Result<Self> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("listener {}: {error}", listener.address));
        match &listener.address {
            Address::Tcp { host, port } => {
                let (tcp, address) = listen_tcp(host, *port).await.map_err(at)?;
                Ok(Self { kind: Kind::Tcp(tcp), index, address: address.to_string() })
            }
            Address::Unix(_) => {
                let path = listener.address.socket_path().ok_or_else(|| at(io::ErrorKind::InvalidInput.into()))?;
                let unix = listen_unix(listener, &path).map_err(at)?;
                Ok(Self { address: path.display().to_string(), kind: Kind::Unix(unix, path), index })
            }
        }
    }

    /// Lets clients in until it is dropped.
    pub async fn serve(self, shared: Arc<Shared>, workers: Rc<Vec<WorkerGate>>) {
        loop {
            let accepted = match &self.kind {
                Kind::Tcp(listener) => next(listener).await.map(|(socket, peer)| {
                    let peer = peer.and_then(|peer| std::net::SocketAddr::try_from(peer).ok());
                    (Socket::TcpDetached(socket.into()), peer.map_or_else(String::new, |peer| peer.to_string()))
                }),
                Kind::Unix(listener, path) => next(listener)
                    .await
                    .map(|(socket, _)| (Socket::UnixDetached(socket.into()), path.display().to_string())),
            };
            match accepted {
                Ok((socket, peer)) => {
                    let accepted = Accepted { socket, listener: self.index, peer: peer.into() };
                    let connected: usize = workers.iter().map(WorkerGate::load).sum();
                    let max = shared.running().config.limits.max_client_connections;
                    if connected >= usize::try_from(max).unwrap_or(usize::MAX).saturating_add(STRANGERS_MAX) {
                        continue; // closed without a word: whoever it is, there is no room to ask
                    }
                    if let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) {
                        worker.send(accepted).await;
                    }
                }
                // a client that left before it was let in
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(listener = self.address, %error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: let some be closed
                }
            }
        }
    }
}

/// Has the acceptor's reactor watch a listening socket.
#[allow(unsafe_code)]
fn register(listener: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and names the same socket from here until it is dropped, which the `AsyncFd` that owns
    // it does after it has taken it off the reactor; nothing else can close or replace it.
    Ok(unsafe { AsyncFd::register(listener) }?)
}

/// The next connection of a listener, ready to be read without blocking.
async fn next(listener: &AsyncFd<OwnedFd>) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    loop {
        let mut ready = listener.readable().await?;
        let accepted = ready.try_io(|listener| Ok(acceptfrom_with(listener.get_ref(), flags)?));
        if let Ok(accepted) = accepted {
            return accepted;
        }
    }
}

async fn listen_tcp(host: &Host, port: u16) -> io::Result<(AsyncFd<OwnedFd>, std::net::SocketAddr)> {
    let mut addresses = match host {
        Host::Ip(ip) => vec![(*ip, port).into()],
        Host::Name(name) => tokio::net::lookup_host((name.as_str(), port)).await?.collect(),
    };
    let address: std::net::SocketAddr = if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    } else {
        addresses.swap_remove(0)
    };
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    // accepted sockets inherit these
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = std::net::TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((register(listener.into())?, address))
}

fn listen_unix(listener: &Listener, path: &PathBuf) -> io::Result<AsyncFd<OwnedFd>> {
    if path.exists() {
        // a socket somebody listens on is somebody's; one nobody does is what a crash left
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let unix = std::os::unix::net::UnixListener::bind(path)?;
    unix.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(listener.socket_mode.bits()))?;
    if listener.socket_gid.is_some() {
        std::os::unix::fs::chown(path, None, listener.socket_gid)?;
    }
    register(unix.into())
}
