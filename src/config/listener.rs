//! `[[listeners]]`: where clients connect.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::address::{Address, Host};
use super::routing::RoutingRole;
use super::text::text_value;
use super::tls::ListenerTls;

/// The port of the default listener, and the one in the name of a Unix socket.
pub const SOCKET_PORT: u16 = 6432;

/// Where clients connect. Without any: 127.0.0.1:6432.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `"host:port"`, or `"unix:/dir"` for a socket named `.s.PGSQL.6432` in that directory, as in PostgreSQL
    /// (`"unix:/dir:5432"`: with this number instead).
    /// `"0.0.0.0:6432"` is every IPv4 interface, `"[::]:6432"` every interface. Where systemd hands over a socket of
    /// this very address, that one is used; `"systemd:NAME"` is the one with this `FileDescriptorName=`, whatever its
    /// address; systemd hands its sockets over at the start only. A reload opens what is new before it closes what goes, and
    /// clients who came by it stay. PgBouncer: `listen_addr`, `listen_port`, `unix_socket_dir`.
    #[schemars(extend("x-reload" = "live", "x-example" = "127.0.0.1:6432"))]
    pub address: Address,

    /// Where the statements of its clients go: `"auto"`, each where it can run; `"primary"`, all to the primary; `"replica"`,
    /// all to replicas, which refuse writes. Clients that ask (`target_session_attrs`) are told accordingly.
    /// A reload changes it for clients that log in from then on.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live"))]
    pub role: RoutingRole,

    /// Who may connect to a Unix socket, as an octal number in quotes. Only with `unix:`. PostgreSQL:
    /// `unix_socket_permissions`.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live"))]
    pub socket_mode: SocketMode,

    /// The group a Unix socket belongs to: a name or a number. Absent: that of the daemon. Only with `unix:`.
    /// PostgreSQL: `unix_socket_group`.
    #[serde(default)]
    #[schemars(extend("x-reload" = "live", "x-example" = "howdah"))]
    pub socket_group: Option<String>,

    /// TLS towards clients. Absent: no TLS. Only with `"host:port"`: a Unix socket has none, as in PostgreSQL.
    #[serde(default)]
    #[schemars(extend(
        "x-inline" = true,
        "x-example" = "{ cert = \"server.crt\", key = \"server.key\", ca = \"clients.crt\", mode = \"prefer\" }"
    ))]
    pub tls: Option<ListenerTls>,

    /// The number of `socket_group`.
    #[serde(skip)]
    pub socket_gid: Option<u32>,
}

impl Listener {
    /// What there is when the file names no listener.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        let address = Address::Tcp { host: Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: SOCKET_PORT };
        vec![Self {
            address,
            role: RoutingRole::Auto,
            socket_mode: SocketMode::default(),
            socket_group: None,
            tls: None,
            socket_gid: None,
        }]
    }
}

/// The permissions of a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(u32);

impl SocketMode {
    /// The permission bits, as `chmod(2)` takes them.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl Default for SocketMode {
    fn default() -> Self {
        Self(0o777)
    }
}

/// Why a text is not a file mode, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a file mode; write an octal number from \"0000\" to \"0777\"")]
pub struct SocketModeError(String);

impl FromStr for SocketMode {
    type Err = SocketModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = matches!(text.len(), 3 | 4) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        let bits = if plain { u32::from_str_radix(text, 8).ok() } else { None };
        bits.filter(|bits| *bits <= 0o777).map(Self).ok_or_else(|| SocketModeError(text.to_owned()))
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

text_value!(SocketMode, "file mode");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_mode_is_octal() {
        assert_eq!("0770".parse::<SocketMode>().unwrap().bits(), 0o770);
        assert_eq!("700".parse::<SocketMode>().unwrap().to_string(), "0700");
        for text in ["", "7", "0o777", "0888", "1777", "rwx"] {
            assert!(text.parse::<SocketMode>().is_err(), "{text}");
        }
    }
}
