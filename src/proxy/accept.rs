//! Listeners: where clients come in, and which worker they go to.
//!
//! One acceptor for all listeners, on the control thread; it hands each socket to the worker with the fewest clients.
//! How many clients may come is the handshake's to say, as only it can answer.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::entrance::Entrance;
use super::shared::Shared;
use super::worker::{Accepted, WorkerGate};
use crate::config::Listener;
use crate::net::listen::handed::Handed;
use crate::net::listen::{Beside, Listening, Place};
use crate::net::stream::Socket;
use crate::net::tcp::TcpOptions;

/// Connections that may be open beyond the clients' limit: cancels, and clients to be told that there is no room.
const STRANGERS_MAX: usize = 200;
/// Of accepted sockets.
const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// A listening socket.
#[derive(Clone, Debug)]
pub struct Door {
    /// Not one of tokio's listeners: those register each socket with the acceptor's reactor, which is never its worker's.
    listening: Rc<AsyncFd<Listening>>,
    entrance: Rc<RefCell<Arc<Entrance>>>,
    gone: Rc<Notify>,
    /// Where, for people; with the port the kernel chose where it was left to it.
    pub address: String,
}

impl Door {
    /// Opens a listener's socket.
    ///
    /// # Errors
    /// The kernel's, with the address in front.
    pub async fn open(
        listener: &Listener,
        entrance: Arc<Entrance>,
        handed: &mut Handed,
        beside: Beside,
    ) -> io::Result<Self> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("listener {}: {error}", listener.address));
        let listening = Listening::open(listener, handed, beside).await.map_err(at)?;
        let address = listening.place().to_string();
        let entrance = Rc::new(RefCell::new(entrance));
        Ok(Self { listening: Rc::new(register(listening).map_err(at)?), entrance, gone: Rc::default(), address })
    }

    /// Whether it is no Unix socket.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        matches!(self.listening.get_ref().place(), Place::Tcp(_))
    }

    /// The socket.
    #[must_use]
    pub fn listening(&self) -> &Listening {
        self.listening.get_ref()
    }

    /// Whoever comes in from now on finds this.
    pub fn lead_to(&self, entrance: Arc<Entrance>) {
        self.entrance.replace(entrance);
    }

    /// Has [`Self::serve`] end, with nobody between the door and a worker.
    pub fn go(&self) {
        self.gone.notify_one();
    }

    /// Lets in who has knocked already, and nobody else: the last thing before a listener that goes is closed.
    pub async fn close(self, shared: Arc<Shared>, workers: Rc<Vec<WorkerGate>>) {
        while let Ok((socket, peer)) = acceptfrom_with(self.listening.get_ref(), FLAGS) {
            self.let_in(socket, peer, &shared, &workers).await;
        }
    }

    /// Lets clients in until it has to go.
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
            let accepted = tokio::select! {
                biased;
                () = self.gone.notified() => return,
                accepted = next(&self.listening) => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.let_in(socket, peer, &shared, &workers).await,
                // a client that left before it was let in
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(listener = self.address, %error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: let some be closed
                }
            }
        }
    }

    /// To the worker with the fewest clients.
    async fn let_in(&self, socket: OwnedFd, peer: Option<SocketAddrAny>, shared: &Shared, workers: &[WorkerGate]) {
        let (socket, peer) = match self.listening.get_ref().place() {
            Place::Tcp(_) => {
                let peer = peer.and_then(|peer| std::net::SocketAddr::try_from(peer).ok());
                (Socket::TcpDetached(socket.into()), peer.map_or_else(String::new, |peer| peer.to_string()))
            }
            Place::Unix(path) => (Socket::UnixDetached(socket.into()), path.display().to_string()),
        };
        let accepted = Accepted { socket, entrance: Arc::clone(&self.entrance.borrow()), peer: peer.into() };
        let connected: usize = workers.iter().map(WorkerGate::load).sum();
        let max = shared.running().config.limits.max_client_connections;
        if connected >= usize::try_from(max).unwrap_or(usize::MAX).saturating_add(STRANGERS_MAX) {
            return; // closed without a word: whoever it is, there is no room to ask
        }
        if let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) {
            worker.send(accepted).await;
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
    loop {
        let mut ready = listening.readable().await?;
        let accepted = ready.try_io(|listening| Ok(acceptfrom_with(listening.get_ref(), FLAGS)?));
        if let Ok(accepted) = accepted {
            return accepted;
        }
    }
}
