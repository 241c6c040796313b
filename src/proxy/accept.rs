//! Listeners: where clients come in, and which worker they go to.
//!
//! One acceptor for all listeners, on the control thread; it hands each socket to the worker with the fewest clients.
//! How many clients may come is the handshake's to say, as only it can answer.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use super::shared::Shared;
use super::worker::{Accepted, WorkerGate};
use crate::config::{Address, Host, Listener};
use crate::net::stream::Socket;

/// Connections the kernel may hold for us. PgBouncer: `listen_backlog`.
const BACKLOG: i32 = 1_024;

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

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
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
                let tcp = listen_tcp(host, *port).await.map_err(at)?;
                let address = tcp.local_addr().map_err(at)?.to_string();
                Ok(Self { kind: Kind::Tcp(tcp), index, address })
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
                Kind::Tcp(listener) => listener.accept().await.and_then(|(stream, peer)| {
                    stream.set_nodelay(true)?;
                    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
                    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                    Ok((Socket::TcpDetached(stream.into_std()?), peer.to_string()))
                }),
                Kind::Unix(listener, path) => listener
                    .accept()
                    .await
                    .and_then(|(stream, _)| Ok((Socket::UnixDetached(stream.into_std()?), path.display().to_string()))),
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

async fn listen_tcp(host: &Host, port: u16) -> io::Result<TcpListener> {
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
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn listen_unix(listener: &Listener, path: &PathBuf) -> io::Result<UnixListener> {
    if path.exists() {
        // a socket somebody listens on is somebody's; one nobody does is what a crash left
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let unix = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(listener.socket_mode.bits()))?;
    if listener.socket_gid.is_some() {
        std::os::unix::fs::chown(path, None, listener.socket_gid)?;
    }
    Ok(unix)
}
