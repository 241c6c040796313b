//! Who may talk to the agent, and the listeners that find out: a Unix socket, and TCP with certificates on both sides.
//!
//! Not here: what they may say (`api`). Everybody who is let in may say everything.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Uid, geteuid};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::config::{AgentConfig, Listen};
use crate::net::listen::file::{self, SocketFile};
use crate::net::tls;

/// The socket is for its owner and its group.
const SOCKET_MODE: u32 = 0o660;
/// For a TLS handshake.
const HANDSHAKE_BOUND: Duration = Duration::from_secs(5);
/// Handshakes at a time: whoever has no certificate costs no more than this.
const HANDSHAKES_MAX: usize = 32;
/// After an `accept()` that failed, such as for want of descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// For logs.
    pub name: String,
    /// Why nothing is done for it.
    pub refused: Option<String>,
}

/// Accepts connections whose other end is known.
pub struct PeerListener {
    door: Door,
    name: String,
    _file: Option<SocketFile>,
}

enum Door {
    Unix { socket: UnixListener, gid: Option<u32> },
    Tls { ready: mpsc::Receiver<(TlsStream<TcpStream>, Peer)> },
}

impl std::fmt::Debug for PeerListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PeerListener").field(&self.name).finish()
    }
}

/// Why the agent does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The kernel refuses.
    #[error("cannot listen on \"{at}\": {source}")]
    Bind {
        /// Where.
        at: String,
        /// Why.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("[listen]: {0}")]
    Tls(#[from] tls::TlsError),
}

impl PeerListener {
    /// All that the configuration asks for.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn all(config: &AgentConfig) -> Result<Vec<Self>, ListenError> {
        let mut all = Vec::new();
        if let Some(path) = &config.listen.unix {
            let at = path.display().to_string();
            let refused = |source| ListenError::Bind { at: at.clone(), source };
            let gid = config.found.gid;
            let (socket, file) = file::listen(path, SOCKET_MODE, gid).map_err(refused)?;
            let socket = UnixListener::from_std(OwnedFd::into(socket)).map_err(refused)?;
            all.push(Self { door: Door::Unix { socket, gid }, name: at, _file: Some(file) });
        }
        if let Some(address) = &config.listen.address {
            all.push(Self::tls(address, &config.listen).await?);
        }
        Ok(all)
    }

    async fn tls(address: &str, listen: &Listen) -> Result<Self, ListenError> {
        let missing = |what: &str| ListenError::Bind {
            at: address.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, format!("{what} is not set")),
        };
        let (cert, key) = (
            listen.cert.as_deref().ok_or_else(|| missing("cert"))?,
            listen.key.as_deref().ok_or_else(|| missing("key"))?,
        );
        let ca = listen.ca.as_deref().ok_or_else(|| missing("ca"))?;
        let server = tls::server_config(cert, key, Some(ca), true)?;
        let mut config = rustls::ServerConfig::clone(&server.config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let socket =
            TcpListener::bind(address).await.map_err(|source| ListenError::Bind { at: address.to_owned(), source })?;
        let name = socket.local_addr().map_or_else(|_| address.to_owned(), |local| local.to_string());
        let (give, ready) = mpsc::channel(HANDSHAKES_MAX);
        tokio::spawn(shake_hands(socket, acceptor, Arc::from(listen.allow.clone()), give));
        Ok(Self { door: Door::Tls { ready }, name, _file: None })
    }

    /// Where it listens.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Accepts and shakes hands for ever; whoever stalls keeps nobody else waiting.
async fn shake_hands(
    socket: TcpListener,
    acceptor: TlsAcceptor,
    allow: Arc<[String]>,
    give: mpsc::Sender<(TlsStream<TcpStream>, Peer)>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, from) = match TcpListener::accept(&socket).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (acceptor, allow, give) = (acceptor.clone(), Arc::clone(&allow), give.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_BOUND, acceptor.accept(stream)).await;
            drop(place);
            match shaken {
                Ok(Ok(stream)) => {
                    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    let name = leaf.and_then(|leaf| tls::common_name(leaf));
                    let _ = give.send((stream, certified(name, &allow, &from.to_string()))).await;
                }
                Ok(Err(error)) => tracing::warn!(peer = %from, %error, "refused"),
                Err(_) => tracing::warn!(peer = %from, "refused: no handshake in time"),
            }
        });
    }
}

fn certified(name: Option<String>, allow: &[String], from: &str) -> Peer {
    let refused = match &name {
        Some(name) if allow.contains(name) => None,
        Some(name) => Some(format!("\"{name}\" is not in [listen] allow")),
        None => Some("the certificate has no common name".to_owned()),
    };
    Peer { name: format!("{} at {from}", name.unwrap_or_default()), refused }
}

/// The other end of a Unix socket: the agent's user, root, and members of the group.
fn credentials(stream: &UnixStream, group: Option<u32>) -> Peer {
    let Ok(peer) = socket_peercred(stream) else {
        return Peer { name: "?".to_owned(), refused: Some("the kernel does not say who you are".to_owned()) };
    };
    let member = |gid: u32| {
        peer.gid.as_raw() == gid
            || groups_of(peer.pid.as_raw_pid()).contains(&gid)
            || listed(gid, &fs::read_to_string("/etc/group").unwrap_or_default(), peer.uid)
    };
    let may = peer.uid == geteuid() || peer.uid.is_root() || group.is_some_and(member);
    let refused = (!may).then(|| {
        format!("user {} is neither the agent's user, nor root, nor a member of [listen] group", peer.uid.as_raw())
    });
    Peer { name: format!("user {}, process {}", peer.uid.as_raw(), peer.pid.as_raw_pid()), refused }
}

/// The groups of a process that may have been started before it was made a member.
fn groups_of(pid: i32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.map_or_else(Vec::new, |groups| groups.split_whitespace().filter_map(|gid| gid.parse().ok()).collect())
}

/// Whether `/etc/group` lists a user in a group.
fn listed(gid: u32, groups: &str, uid: Uid) -> bool {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid.as_raw())).then_some(name)
    });
    let Some(name) = name else { return false };
    groups.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, number, members] = fields.as_slice() else { return false };
        number.parse() == Ok(gid) && members.split(',').any(|member| member == name)
    })
}

/// A connection that was let in, or is to be told why not.
pub enum Stream {
    /// Over the socket.
    Unix(UnixStream, Peer),
    /// Over TCP.
    Tls(Box<TlsStream<TcpStream>>, Peer),
}

impl Listener for PeerListener {
    type Io = Stream;
    type Addr = String;

    async fn accept(&mut self) -> (Stream, String) {
        loop {
            match &mut self.door {
                Door::Unix { socket, gid } => match UnixListener::accept(socket).await {
                    Ok((stream, _)) => {
                        let peer = credentials(&stream, *gid);
                        return (Stream::Unix(stream, peer), self.name.clone());
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    }
                },
                Door::Tls { ready } => match ready.recv().await {
                    Some((stream, peer)) => return (Stream::Tls(Box::new(stream), peer), self.name.clone()),
                    None => std::future::pending().await,
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.name.clone())
    }
}

impl Connected<IncomingStream<'_, PeerListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, PeerListener>) -> Self {
        match stream.io() {
            Stream::Unix(_, peer) | Stream::Tls(_, peer) => peer.clone(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_of_the_list_are_let_in() {
        let allow = ["howdah".to_owned()];
        assert_eq!(certified(Some("howdah".to_owned()), &allow, "x").refused, None);
        for name in [Some("Howdah".to_owned()), Some("other".to_owned()), Some(String::new()), None] {
            assert!(certified(name, &allow, "x").refused.is_some());
        }
    }

    #[test]
    fn a_member_is_listed_by_its_name() {
        let groups = "root:x:0:\nhowdah:x:970:daemon,root\nother:x:971:daemon\n";
        assert!(listed(970, groups, Uid::ROOT));
        assert!(!listed(971, groups, Uid::ROOT) && !listed(0, groups, Uid::ROOT));
    }
}
