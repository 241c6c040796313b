//! A door beside the data path: databases that are in no cluster. Who asks for one is let in as everybody is (TLS, startup,
//! authentication), and then handed over.
//!
//! The data path knows no more of what is behind it (the console): the daemon fills it in (`cli/serve.rs`).

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use super::client::ClientHandle;
use super::handshake::{Claim, Presence};
use super::shared::Running;
use crate::net::stream::{Socket, Stream};

/// Who comes through the door.
#[derive(Debug)]
pub struct Caller {
    /// Its connection.
    pub stream: Stream,
    /// The last message of its authentication, to be sent with the greeting.
    pub last: Vec<u8>,
    /// What it has sent behind its login.
    pub sent: Vec<u8>,
    /// Who it says it is, which is proven.
    pub claim: Claim,
    /// Whether it is a process of the daemon's own user, at the other end of a Unix socket.
    pub is_own: bool,
    /// What others may do to it.
    pub handle: Arc<ClientHandle>,
    /// What must end with it.
    pub presence: Presence,
}

/// What is behind the door. It lives on the caller's worker.
pub type Behind = Pin<Box<dyn Future<Output = &'static str>>>;

/// What decides who goes through.
pub trait Door: Debug + Send + Sync {
    /// Whether this database is behind it.
    fn leads_to(&self, running: &Running, database: &str) -> bool;

    /// Whether this user needs no password when it is a process of the daemon's own user.
    fn knows_own(&self, user: &str) -> bool;

    /// Whether this user, who has proven who it is, may enter.
    fn admits(&self, running: &Running, user: &str) -> bool;

    /// Lets it in, until it leaves. The answer says how it ended, for the log.
    fn enter(&self, caller: Caller) -> Behind;
}

/// Whether the other end of a Unix socket is a process of the daemon's own user.
#[must_use]
pub fn is_own(stream: &Stream) -> bool {
    let credentials = match stream.socket() {
        Socket::Unix(socket) => rustix::net::sockopt::socket_peercred(socket).ok(),
        Socket::UnixDetached(socket) => rustix::net::sockopt::socket_peercred(socket).ok(),
        Socket::Tcp(_) | Socket::TcpDetached(_) | Socket::Closed => None,
    };
    credentials.is_some_and(|credentials| credentials.uid == rustix::process::geteuid())
}
