//! Listening sockets: opened here, or handed over by systemd.
//!
//! - this file: which of the two, and TCP
//! - [`file`]: the socket file of a Unix listener, and its lock
//! - [`handed`]: what systemd has opened for us
//!
//! Not here: who is let in (`proxy/accept`).

pub mod file;
pub mod handed;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use self::file::SocketFile;
use self::handed::Handed;
use super::tcp::TcpOptions;
use crate::config::{Address, Host, Listener};

/// Connections the kernel may hold for us. PgBouncer: `listen_backlog`.
const BACKLOG: i32 = 1_024;

/// A socket that listens.
#[derive(Debug)]
pub struct Listening {
    socket: OwnedFd,
    place: Place,
    /// Only of a socket whose file is ours to remove.
    file: Option<SocketFile>,
}

/// Whether a new socket may stand where another of this process listens still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nobody may listen there.
    Nobody,
    /// One of ours may, after [`Listening::make_room`]: it goes as soon as the new one is there.
    Ours,
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this address; with the port the kernel chose where it was left to it.
    Tcp(SocketAddr),
    /// At this file.
    Unix(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listening {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Listening {
    /// Opens the socket of a listener, or takes it from what was handed over: by name, or because it has the very address.
    ///
    /// # Errors
    /// The kernel's; `NotFound` for a name that nothing was handed over under.
    pub async fn open(listener: &Listener, handed: &mut Handed, beside: Beside) -> io::Result<Self> {
        let found = match &listener.address {
            Address::Systemd(name) => Some(handed.take_named(name)?),
            Address::Tcp { host: Host::Ip(ip), port } => handed.take_at(&Place::Tcp(SocketAddr::new(*ip, *port))),
            Address::Tcp { host: Host::Name(_), .. } => None,
            Address::Unix { .. } => listener.address.socket_path().and_then(|path| handed.take_at(&Place::Unix(path))),
        };
        if let Some((socket, place)) = found {
            rustix::io::ioctl_fionbio(&socket, true)?;
            if matches!(place, Place::Tcp(_)) {
                socket2::SockRef::from(&socket).set_tcp_nodelay(true)?;
            }
            return Ok(Self { socket, place, file: None });
        }
        match (&listener.address, listener.address.socket_path()) {
            (Address::Tcp { host, port }, _) => {
                let (socket, address) = listen_tcp(host, *port, beside).await?;
                Ok(Self { socket, place: Place::Tcp(address), file: None })
            }
            (_, Some(path)) => {
                let (socket, file) = file::listen(&path, listener.socket_mode.bits(), listener.socket_gid)?;
                Ok(Self { socket, place: Place::Unix(path), file: Some(file) })
            }
            (_, None) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Where.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// Whether another socket of ours may be opened where this one listens, such as one for every interface at its port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_room(&self, room: bool) -> io::Result<()> {
        match self.place {
            Place::Tcp(_) => socket2::SockRef::from(&self.socket).set_reuse_port(room),
            Place::Unix(_) => Ok(()),
        }
    }

    /// Who may connect to a socket file from now on; nothing for one that is not ours.
    ///
    /// # Errors
    /// The kernel's.
    pub fn permit(&self, mode: u32, group: Option<u32>) -> io::Result<()> {
        match (&self.place, &self.file) {
            (Place::Unix(path), Some(_)) => file::permit(path, mode, group),
            _ => Ok(()),
        }
    }

    /// Options that the connections it accepts inherit from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn tune(&self, options: &TcpOptions) -> io::Result<()> {
        match self.place {
            Place::Tcp(_) => options.apply(&socket2::SockRef::from(&self.socket)),
            Place::Unix(_) => Ok(()),
        }
    }
}

async fn listen_tcp(host: &Host, port: u16, beside: Beside) -> io::Result<(OwnedFd, SocketAddr)> {
    let address: SocketAddr = match host {
        Host::Ip(ip) => (*ip, port).into(),
        Host::Name(name) => tokio::net::lookup_host((name.as_str(), port))
            .await?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?,
    };
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(beside == Beside::Ours)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.set_tcp_nodelay(true)?; // accepted sockets inherit it
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(false)?; // or a second howdah could listen there too, and take half of the clients
    socket.set_nonblocking(true)?;
    let listener = std::net::TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener.into(), address))
}
