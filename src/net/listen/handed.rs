//! Sockets that systemd has opened for us (`sd_listen_fds(3)`): a port below 1024 without privileges, and clients that
//! wait instead of being refused while howdah restarts.
//!
//! What systemd has opened stays open in systemd: such a socket file is never ours to remove.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketType, getsockname, sockopt};

use super::Place;

/// What was handed over and has not been taken.
#[derive(Debug, Default)]
pub struct Handed {
    sockets: Vec<Socket>,
}

#[derive(Debug)]
struct Socket {
    socket: OwnedFd,
    name: String,
    place: Place,
}

impl Handed {
    /// Takes over what the process was started with. To be called once, before anything else is opened; a second time
    /// there is nothing.
    ///
    /// # Errors
    /// When the environment promises descriptors that are not there, or are no sockets that listen.
    #[allow(unsafe_code)]
    pub fn at_start() -> io::Result<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Ok(Self::default());
        }
        let mut sockets = Vec::new();
        // fails for a descriptor that is not open
        for (number, name) in sd_notify::listen_fds_with_names()? {
            // SAFETY: the descriptor is open, as it has just been given FD_CLOEXEC. Nothing in this process owns it: the
            // environment, with this very process's id in it, says that it was opened for us by whoever started us, the
            // caller has opened nothing yet, and `TAKEN` lets each number come by here once.
            let socket = unsafe { OwnedFd::from_raw_fd(number) };
            let place = place(&socket).map_err(|error| {
                io::Error::new(error.kind(), format!("descriptor {number} (\"{name}\") from systemd: {error}"))
            })?;
            sockets.push(Socket { socket, name, place });
        }
        Ok(Self { sockets })
    }

    /// Takes the socket at this place, if there is one.
    pub fn take_at(&mut self, place: &Place) -> Option<(OwnedFd, Place)> {
        let at = self.sockets.iter().position(|handed| handed.place == *place)?;
        let taken = self.sockets.swap_remove(at);
        Some((taken.socket, taken.place))
    }

    /// Takes the first socket of this name.
    ///
    /// # Errors
    /// `NotFound`, with the names there are.
    pub fn take_named(&mut self, name: &str) -> io::Result<(OwnedFd, Place)> {
        let Some(at) = self.sockets.iter().position(|handed| handed.name == name) else {
            let names: Vec<String> = self.sockets.iter().map(|handed| format!("\"{}\"", handed.name)).collect();
            let there = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            let text = format!("systemd has handed over no socket of this name (FileDescriptorName=), but {there}");
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        };
        let taken = self.sockets.remove(at);
        Ok((taken.socket, taken.place))
    }

    /// What no listener has taken, for people.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        self.sockets.iter().map(|handed| format!("{} (\"{}\")", handed.place, handed.name)).collect()
    }
}

/// Where a socket listens; an error if it does not.
fn place(socket: &OwnedFd) -> io::Result<Place> {
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
    if sockopt::socket_type(socket)? != SocketType::STREAM || !sockopt::socket_acceptconn(socket)? {
        return Err(wrong("not a stream socket that listens"));
    }
    let address: SocketAddrAny = getsockname(socket)?;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Ok(Place::Tcp(address));
    }
    let unix = SocketAddrUnix::try_from(address).map_err(|_| wrong("neither TCP nor a Unix socket"))?;
    let path = unix.path().ok_or_else(|| wrong("a Unix socket without a file"))?;
    Ok(Place::Unix(std::ffi::OsStr::new(path.to_str().map_err(|_| wrong("a file name that is not UTF-8"))?).into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_address_or_its_name_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".s.PGSQL.6432");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = Place::Tcp(tcp.local_addr().unwrap());
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut handed = Handed::default();
        for (socket, name) in [(OwnedFd::from(tcp), "tcp"), (OwnedFd::from(unix), "local")] {
            let place = place(&socket).unwrap();
            handed.sockets.push(Socket { socket, name: name.to_owned(), place });
        }
        assert!(handed.take_at(&Place::Tcp("127.0.0.1:1".parse().unwrap())).is_none());
        assert_eq!(handed.take_at(&at).unwrap().1, at);
        assert!(handed.take_at(&at).is_none());
        let refused = handed.take_named("howdah").unwrap_err();
        assert!(refused.to_string().ends_with("but \"local\""), "{refused}");
        assert_eq!(handed.left(), [format!("{} (\"local\")", path.display())]);
        assert_eq!(handed.take_named("local").unwrap().1, Place::Unix(path));
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(place(&udp.into()).is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(place(&connected.into()).is_err());
    }
}
