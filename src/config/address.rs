//! Where something listens or is reached: a host and a port, or a place in the file system.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use super::listener::SOCKET_PORT;
use super::text::text_value;

/// What `sockaddr_un` holds without its final zero byte.
const SOCKET_PATH_MAX: usize = 107;

/// A host: an address, or a name that is resolved each time it is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A name for the resolver.
    Name(String),
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `"host:port"`; port 0 lets the kernel choose.
    Tcp {
        /// The interface.
        host: Host,
        /// The port.
        port: u16,
    },
    /// `"unix:/dir"`, `"unix:/dir:port"`: the directory in which the socket `.s.PGSQL.port` is made, as in PostgreSQL.
    Unix {
        /// The directory.
        directory: PathBuf,
        /// The number in the socket's name, 6432 unless it is written.
        port: u16,
    },
    /// `"systemd:NAME"`: the socket that systemd hands over under this name.
    Systemd(String),
}

impl Address {
    /// The socket file of a Unix listener: `.s.PGSQL.port` in its directory.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        match self {
            Self::Tcp { .. } | Self::Systemd(_) => None,
            Self::Unix { directory, port } => Some(directory.join(socket_name(*port))),
        }
    }
}

/// Where the HTTP server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HttpAddress {
    /// `"off"`: nowhere.
    Off,
    /// `"host:port"`.
    Tcp {
        /// The interface.
        host: Host,
        /// The port.
        port: u16,
    },
    /// `"unix:/path"`: the socket file itself, which is no PostgreSQL socket and follows no naming rule.
    Unix(PathBuf),
}

/// Where PostgreSQL runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeHost {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A name for the resolver.
    Name(String),
    /// The directory of PostgreSQL's socket (`unix_socket_directories`); the port completes the file name.
    SocketDirectory(PathBuf),
    /// Several ways to the same instance, in the order in which they are tried; as libpq writes them, with commas.
    Several(Vec<Host>),
}

impl NodeHost {
    /// The socket file, if this is a socket's directory.
    #[must_use]
    pub fn socket_path(&self, port: u16) -> Option<PathBuf> {
        match self {
            Self::Ip(_) | Self::Name(_) | Self::Several(_) => None,
            Self::SocketDirectory(directory) => Some(directory.join(socket_name(port))),
        }
    }

    /// The hosts on a network, in the order in which they are tried; none for a socket's directory.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        match self {
            Self::Ip(ip) => vec![Host::Ip(*ip)],
            Self::Name(name) => vec![Host::Name(name.clone())],
            Self::SocketDirectory(_) => Vec::new(),
            Self::Several(hosts) => hosts.clone(),
        }
    }
}

/// Why a text is not an address, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No port after the host.
    #[error("\"{0}\" has no port; write \"{0}:{1}\"")]
    NoPort(String, u16),
    /// No host before the port.
    #[error("\"{0}\" is a port without a host; write \"127.0.0.1:{0}\"")]
    PortAlone(String),
    /// The port is not a number from 0 to 65535.
    #[error("\"{0}\" has no valid port; a port is a number from 0 to 65535")]
    BadPort(String),
    /// An IPv6 address without its brackets.
    #[error("\"{0}\" needs brackets around the IPv6 address, as in \"[::1]:6432\"")]
    NoBrackets(String),
    /// The host has characters no host name has.
    #[error("\"{0}\" is not a host name, an IP address or a path")]
    BadHost(String),
    /// A path that does not start at the root.
    #[error("\"{0}\" is not an absolute path; write \"unix:/run/howdah\"")]
    RelativePath(String),
    /// The kernel takes no longer name for a socket.
    #[error("\"{0}\" makes a socket name longer than the 107 bytes that the kernel allows")]
    LongPath(String),
    /// Nothing, or a character systemd does not allow, behind `systemd:`.
    #[error("\"{0}\" has no valid name; write the FileDescriptorName of the socket unit, as in \"systemd:howdah\"")]
    SocketUnit(String),
    /// A socket's directory in a list of hosts.
    #[error("\"{0}\" mixes a socket directory with other hosts; write the directory alone")]
    MixedHosts(String),
    /// PostgreSQL's and PgBouncer's word for every interface.
    #[error(
        "\"*\" is not an address; write \"0.0.0.0:{0}\" for every IPv4 interface, \"[::]:{0}\" for every interface"
    )]
    Star(u16),
}

/// The file name PostgreSQL and libpq give to a socket.
fn socket_name(port: u16) -> String {
    format!(".s.PGSQL.{port}")
}

fn parse_host(text: &str, whole: &str) -> Result<Host, AddressError> {
    if let Ok(ip) = text.parse() {
        return Ok(Host::Ip(ip));
    }
    // Digits and dots only is a mistyped address; the resolver would take "10.0.1" for 10.0.0.1.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if plain && !numeric { Ok(Host::Name(text.to_owned())) } else { Err(AddressError::BadHost(whole.to_owned())) }
}

pub(super) fn parse_tcp(text: &str, usual_port: u16) -> Result<(Host, u16), AddressError> {
    if text == "*" || text.starts_with("*:") {
        return Err(AddressError::Star(usual_port));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(AddressError::NoBrackets(text.to_owned()));
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) else {
        return Err(match text.parse::<u16>() {
            Ok(_) => AddressError::PortAlone(text.to_owned()),
            Err(_) => AddressError::NoPort(text.to_owned(), usual_port),
        });
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let Some(port) = port.parse().ok().filter(|_| digits) else {
        return Err(AddressError::BadPort(text.to_owned()));
    };
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse().map(|ip: Ipv6Addr| Host::Ip(ip.into())).ok(),
        None if host.contains(':') => return Err(AddressError::NoBrackets(text.to_owned())),
        None => parse_host(host, text).ok(),
    };
    host.map(|host| (host, port)).ok_or_else(|| AddressError::BadHost(text.to_owned()))
}

pub(super) fn parse_path(path: &str, whole: &str, added_bytes: usize) -> Result<PathBuf, AddressError> {
    if !path.starts_with('/') {
        return Err(AddressError::RelativePath(whole.to_owned()));
    }
    if path.contains('\0') {
        return Err(AddressError::BadHost(whole.escape_default().to_string()));
    }
    if path.len().saturating_add(added_bytes) > SOCKET_PATH_MAX {
        return Err(AddressError::LongPath(whole.to_owned()));
    }
    // Through components, so that "/run/howdah/" and "/run/howdah" are the same directory.
    Ok(PathBuf::from(path).components().collect())
}

/// What a socket's name adds to its directory: a slash and the name with the longest port.
fn socket_name_bytes() -> usize {
    socket_name(u16::MAX).len().saturating_add(1)
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(name) = text.strip_prefix("systemd:") {
            let plain = name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
            let fits = (1..=255).contains(&name.len()) && plain;
            return fits
                .then(|| Self::Systemd(name.to_owned()))
                .ok_or_else(|| AddressError::SocketUnit(text.to_owned()));
        }
        match text.strip_prefix("unix:") {
            Some(path) => {
                let numbered = path.rsplit_once(':').and_then(|(path, port)| Some((path, port.parse().ok()?)));
                let (path, port) = numbered.unwrap_or((path, SOCKET_PORT));
                parse_path(path, text, socket_name_bytes()).map(|directory| Self::Unix { directory, port })
            }
            None => parse_tcp(text, SOCKET_PORT).map(|(host, port)| Self::Tcp { host, port }),
        }
    }
}

impl FromStr for HttpAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        match text.strip_prefix("unix:") {
            Some(path) => parse_path(path, text, 0).map(Self::Unix),
            None => parse_tcp(text, 6433).map(|(host, port)| Self::Tcp { host, port }),
        }
    }
}

impl FromStr for NodeHost {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('/') && !text.contains(',') {
            return parse_path(text, text, socket_name_bytes()).map(Self::SocketDirectory);
        }
        if text.contains(',') {
            if text.split(',').any(|host| host.starts_with('/')) {
                return Err(AddressError::MixedHosts(text.to_owned()));
            }
            return text.split(',').map(|host| parse_host(host, text)).collect::<Result<_, _>>().map(Self::Several);
        }
        Ok(match parse_host(text, text)? {
            Host::Ip(ip) => Self::Ip(ip),
            Host::Name(name) => Self::Name(name),
        })
    }
}

pub(super) fn print_tcp(host: &Host, port: u16, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match host {
        Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{port}"),
        Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{port}"),
        Host::Name(name) => write!(f, "{name}:{port}"),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => print_tcp(host, *port, f),
            Self::Unix { directory, port: SOCKET_PORT } => write!(f, "unix:{}", directory.display()),
            Self::Unix { directory, port } => write!(f, "unix:{}:{port}", directory.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Tcp { host, port } => print_tcp(host, *port, f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for NodeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::SocketDirectory(path) => path.display().fmt(f),
            Self::Several(hosts) => {
                for (i, host) in hosts.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma}{host}")?;
                }
                Ok(())
            }
        }
    }
}

text_value!(Address, "address");
text_value!(HttpAddress, "http address");
text_value!(NodeHost, "host");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_what_it_prints() {
        for text in [
            "127.0.0.1:6432",
            "[::1]:0",
            "db.example.com:5432",
            "localhost:6432",
            "unix:/run/howdah",
            "unix:/run/a:5432",
            "systemd:howdah",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["off", "127.0.0.1:6433", "unix:/run/howdah/api.sock"] {
            assert_eq!(text.parse::<HttpAddress>().unwrap().to_string(), text);
        }
        for text in ["10.0.0.1", "::1", "db1", "/var/run/postgresql", "10.0.0.1,::1,db1"] {
            assert_eq!(text.parse::<NodeHost>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_address_says_what_to_write() {
        let said = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        assert!(said("127.0.0.1").contains("write \"127.0.0.1:6432\""));
        assert!(said("::1").contains("brackets"));
        assert!(said("fe80::1:6432x").contains("port"));
        assert!(said("localhost:70000").contains("0 to 65535"));
        assert!(said("localhost:+80").contains("0 to 65535"));
        assert!(said("unix:run").contains("absolute"));
        assert!(said("*:6432").contains("0.0.0.0:6432"));
        assert!(said("10.0.0.300:1").contains("not a host name"));
        assert!(said(&format!("unix:/{}", "x".repeat(100))).contains("107 bytes"));
        assert!("a b".parse::<NodeHost>().is_err());
        assert!("".parse::<NodeHost>().is_err());
        assert!("a,".parse::<NodeHost>().is_err());
        let mixed = "10.0.0.1,/run/postgresql".parse::<NodeHost>().unwrap_err().to_string();
        assert!(mixed.contains("the directory alone"), "{mixed}");
        assert!(said("systemd:").contains("FileDescriptorName"));
    }

    #[test]
    fn a_unix_listener_names_its_socket_as_postgresql_does() {
        let address: Address = "unix:/run/howdah/".parse().unwrap();
        assert_eq!(address.socket_path().unwrap().to_str(), Some("/run/howdah/.s.PGSQL.6432"));
        let address: Address = "unix:/run/howdah:5433".parse().unwrap();
        assert_eq!(address.socket_path().unwrap().to_str(), Some("/run/howdah/.s.PGSQL.5433"));
    }
}
