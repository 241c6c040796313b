//! Where the API listens: addresses as people write them, TCP and Unix sockets bound and served.
//!
//! Not here: what is answered (`http`), who may ask (`access`).

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, TcpSocket, UnixListener, lookup_host};
use tokio::sync::watch;

use super::access::Reach;
use super::http::{Sources, routes};

/// Who may use the socket besides its owner: whoever is in its group.
const SOCKET_MODE: u32 = 0o660;
/// Connections the kernel may hold for us.
const BACKLOG: u32 = 1_024;

/// Where the API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAddress {
    /// `host:port`.
    Tcp(String),
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for HttpAddress {
    type Err = HttpError;

    /// Reads `127.0.0.1:6433` and `unix:/run/howdah/api.sock`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            None if port(text) => Ok(Self::Tcp(text.to_owned())),
            Some(_) | None => Err(HttpError::BadAddress(text.to_owned())),
        }
    }
}

/// Why the API does not listen.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Neither form of an address.
    #[error("invalid HTTP address \"{0}\": write host:port, or unix: and the path of a socket from the root")]
    BadAddress(String),
    /// Somebody answers on that socket file.
    #[error("another process listens on \"{0}\"")]
    InUse(HttpAddress),
    /// There is a file in the way that howdah did not make.
    #[error("\"{0}\" exists and is not a socket")]
    NotASocket(HttpAddress),
    /// The system refused.
    #[error("cannot listen on \"{address}\": {error}")]
    Bind {
        /// Where.
        address: HttpAddress,
        /// Why.
        error: io::Error,
    },
    /// Serving ended by itself.
    #[error("HTTP API: {0}")]
    Serve(io::Error),
}

/// Bound, so that a wrong address fails at start and not later.
#[derive(Debug)]
pub struct HttpListener {
    socket: Socket,
    address: HttpAddress,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl HttpListener {
    /// Listens on `address`. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`HttpError`] when somebody else listens there, or the system refuses.
    pub async fn bind(address: HttpAddress) -> Result<Self, HttpError> {
        Self::bind_beside(address, None).await
    }

    /// The same while another of ours listens, which is about to go: one for every interface and one for a single one at the same
    /// port stand beside each other for that time.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn bind_beside(address: HttpAddress, going: Option<&Going>) -> Result<Self, HttpError> {
        match &address {
            HttpAddress::Tcp(text) => match listen_tcp(text, going).await {
                Ok(socket) => {
                    // with port 0 the system has chosen one
                    let address = socket.local_addr().map_or(address, |local| HttpAddress::Tcp(local.to_string()));
                    Ok(Self { socket: Socket::Tcp(socket), address })
                }
                Err(error) => Err(HttpError::Bind { address, error }),
            },
            HttpAddress::Unix(path) => {
                make_room(path, &address).await?;
                match UnixListener::bind(path) {
                    Ok(socket) => {
                        let mode = fs::Permissions::from_mode(SOCKET_MODE);
                        match fs::set_permissions(path, mode) {
                            Ok(()) => Ok(Self { socket: Socket::Unix(socket), address }),
                            Err(error) => Err(HttpError::Bind { address, error }),
                        }
                    }
                    Err(error) => Err(HttpError::Bind { address, error }),
                }
            }
        }
    }

    /// Where it listens; with port 0 the one the system chose.
    #[must_use]
    pub fn address(&self) -> &HttpAddress {
        &self.address
    }

    /// What lets another be bound beside it later, while it serves; `None` where that needs nothing.
    #[must_use]
    pub fn going(&self) -> Option<Going> {
        match &self.socket {
            Socket::Tcp(socket) => socket2::SockRef::from(socket).try_clone().ok().map(Going),
            Socket::Unix(_) => None,
        }
    }

    fn reach(&self) -> Reach {
        match &self.socket {
            Socket::Unix(_) => Reach::Unix,
            Socket::Tcp(socket) => {
                let loopback = socket.local_addr().is_ok_and(|address| match address.ip() {
                    IpAddr::V4(ip) => ip.is_loopback(),
                    IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
                });
                if loopback { Reach::Loopback } else { Reach::Network }
            }
        }
    }

    /// Serves until `stop` resolves, then finishes the requests under way and removes its socket file.
    ///
    /// # Errors
    /// [`HttpError::Serve`].
    pub async fn serve(
        self,
        sources: Sources,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), HttpError> {
        let (close, closing) = watch::channel(false);
        let routes = routes(Sources { closing, ..sources }, self.reach());
        let stop = async move {
            stop.await;
            let _ = close.send(true); // fails when nobody reads a stream
        };
        let served = match self.socket {
            Socket::Tcp(socket) => axum::serve(socket, routes).with_graceful_shutdown(stop).await,
            Socket::Unix(socket) => axum::serve(socket, routes).with_graceful_shutdown(stop).await,
        };
        if let HttpAddress::Unix(path) = &self.address {
            // somebody may have removed it already
            let _ = fs::remove_file(path);
        }
        served.map_err(HttpError::Serve)
    }
}

/// A second hold on a socket that listens. As long as there is one it stays open.
#[derive(Debug)]
pub struct Going(socket2::Socket);

impl Going {
    /// Whether others of ours may listen there too.
    fn make_room(&self, room: bool) {
        let _ = self.0.set_reuse_port(room); // then the new one cannot be bound, and says so
    }
}

async fn listen_tcp(text: &str, going: Option<&Going>) -> io::Result<TcpListener> {
    let addresses = lookup_host(text).await?;
    let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    going.inspect(|going| going.make_room(true));
    for address in addresses {
        outcome = listen_at(address, going.is_some());
        if outcome.is_ok() {
            break;
        }
    }
    going.inspect(|going| going.make_room(false));
    outcome
}

fn listen_at(address: SocketAddr, beside: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(beside)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    socket2::SockRef::from(&listener).set_reuse_port(false)?; // or anybody could listen there too
    Ok(listener)
}

/// Removes the socket file of a process that is gone.
async fn make_room(path: &Path, address: &HttpAddress) -> Result<(), HttpError> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()), // nothing there, or bind says why not
        Ok(file) if !file.file_type().is_socket() => return Err(HttpError::NotASocket(address.clone())),
        Ok(_) => {}
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| HttpError::Bind { address: address.clone(), error })
        }
        Ok(_) => Err(HttpError::InUse(address.clone())),
        Err(error) => Err(HttpError::Bind { address: address.clone(), error }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_or_a_socket() {
        assert_eq!("127.0.0.1:6433".parse::<HttpAddress>().unwrap().to_string(), "127.0.0.1:6433");
        assert_eq!("unix:/run/api.sock".parse::<HttpAddress>().unwrap(), HttpAddress::Unix("/run/api.sock".into()));
        for wrong in ["", "6433", "host:", "unix:relative", "host:99999"] {
            assert!(wrong.parse::<HttpAddress>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_socket_file_is_replaced_only_if_nobody_listens_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let address = HttpAddress::Unix(directory.path().join("api.sock"));
        let first = HttpListener::bind(address.clone()).await.unwrap();
        assert!(matches!(HttpListener::bind(address.clone()).await, Err(HttpError::InUse(_))));
        drop(first); // leaves the file behind, as a killed process does
        HttpListener::bind(address).await.unwrap();

        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(matches!(HttpListener::bind(HttpAddress::Unix(file.clone())).await, Err(HttpError::NotASocket(_))));
        assert_eq!(fs::read_to_string(file).unwrap(), "precious");
    }
}
