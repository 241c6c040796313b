//! Listeners: where clients come in, and which worker they go to.
//!
//! One acceptor for all listeners, on the control thread; it hands each socket to the worker with the fewest clients.
//! How many clients may come is the handshake's to say, as only it can answer.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;

use super::shared::Shared;
use super::worker::{Accepted, WorkerGate};
use crate::config::Listener;
use crate::net::listen::handed::Handed;
use crate::net::listen::{Listening, Place};
use crate::net::stream::Socket;
use crate::net::tcp::TcpOptions;

/// Connections that may be open beyond the clients' limit: cancels, and clients to be told that there is no room.
const STRANGERS_MAX: usize = 200;

/// A listening socket.
#[derive(Debug)]
pub struct Door {
    /// Not one of tokio's listeners: those register each socket with the acceptor's reactor, which is never its worker's.
    listening: AsyncFd<Listening>,
    index: usize,
    /// Where, for people; with the port the kernel chose where it was left to it.
    pub address: String,
}

impl Door {
    /// Opens the listener that stands at `index` in the configuration.
    ///
    /// # Errors
    /// The kernel's, with the address in front.
    pub async fn open(listener: &Listener, index: usize, handed: &mut Handed) -> io::Result<Self> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("listener {}: {error}", listener.address));
        let listening = Listening::open(listener, handed).await.map_err(at)?;
        let address = listening.place().to_string();
        Ok(Self { listening: register(listening).map_err(at)?, index, address })
    }

    /// Whether it is no Unix socket.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        matches!(self.listening.get_ref().place(), Place::Tcp(_))
    }

    /// Lets clients in until it is dropped.
    pub async fn serve(self, shared: Arc<Shared>, workers: Rc<Vec<WorkerGate>>) {
        let mut tuned = None;
        loop {
            // what the listening socket is told, those it accepts inherit
            let generation = shared.generation();
            if tuned != Some(generation) {
                tuned = Some(generation);
                let options = TcpOptions::from(&shared.running().config.network);
                if let Err(error) = self.listening.get_ref().tune(&options) {
                    tracing::warn!(listener = self.address, %error, "TCP options refused");
                }
            }
            let accepted = next(&self.listening).await.map(|(socket, peer)| match self.listening.get_ref().place() {
                Place::Tcp(_) => {
                    let peer = peer.and_then(|peer| std::net::SocketAddr::try_from(peer).ok());
                    (Socket::TcpDetached(socket.into()), peer.map_or_else(String::new, |peer| peer.to_string()))
                }
                Place::Unix(path) => (Socket::UnixDetached(socket.into()), path.display().to_string()),
            });
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
fn register(listening: Listening) -> io::Result<AsyncFd<Listening>> {
    // SAFETY: the `OwnedFd` in it is open and names the same socket from here until it is dropped, which the `AsyncFd` that
    // owns it does after it has taken it off the reactor; nothing else can close or replace it.
    Ok(unsafe { AsyncFd::register(listening) }?)
}

/// The next connection of a listener, ready to be read without blocking.
async fn next(listening: &AsyncFd<Listening>) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    loop {
        let mut ready = listening.readable().await?;
        let accepted = ready.try_io(|listening| Ok(acceptfrom_with(listening.get_ref(), flags)?));
        if let Ok(accepted) = accepted {
            return accepted;
        }
    }
}
