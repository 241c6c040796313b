//! Whether the listeners and the HTTP API can be opened: by opening them, for a moment.
//!
//! Not here: who listens there (`ss -ltnp` knows), and sockets that systemd hands over.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Finding, Level};
use crate::admin::client;
use crate::admin::http::HttpAddress;
use crate::config::{self, Address, Config};
use crate::net::listen::handed::Handed;
use crate::net::listen::{Beside, Listening};

/// For a daemon that may be there to answer.
const ANSWER_BOUND: Duration = Duration::from_secs(2);

/// Tries all of them.
pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let http = match &config.http.address {
        config::HttpAddress::Off => None,
        config::HttpAddress::Unix(path) => Some(HttpAddress::Unix(path.clone())),
        tcp @ config::HttpAddress::Tcp { .. } => Some(HttpAddress::Tcp(tcp.to_string())),
    };
    let daemon = match &http {
        None => Daemon::Unknown,
        Some(address) => {
            let address = address.clone();
            let asked = tokio::task::spawn_blocking(move || client::get(&address, "/healthz", ANSWER_BOUND));
            match asked.await {
                Ok(Ok(answer)) if answer.status == 200 => Daemon::Runs,
                _ => Daemon::Absent,
            }
        }
    };
    let mut found = Vec::new();
    for listener in &config.listeners {
        let about = format!("listener {}", listener.address);
        if matches!(listener.address, Address::Systemd(_)) {
            found.push(Finding::ok(&about, "systemd opens it"));
            continue;
        }
        let opened = Listening::open(listener, &mut Handed::default(), Beside::Nobody).await.map(drop);
        found.push(finding(&about, opened, daemon));
    }
    if let Some(address) = http {
        let opened = match &address {
            HttpAddress::Tcp(address) => tokio::net::TcpListener::bind(address).await.map(drop),
            HttpAddress::Unix(path) => free(path),
        };
        found.push(finding(&format!("http {address}"), opened, daemon));
    }
    found
}

/// Whether a howdah runs with this configuration: then it is what listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    Runs,
    Absent,
    /// It would have no API to be asked by.
    Unknown,
}

fn finding(about: &str, opened: io::Result<()>, daemon: Daemon) -> Finding {
    let Err(error) = opened else { return Finding::ok(about, "free") };
    let who = "another program listens there, \"ss -lxtnp\" says which: stop it, or write another address";
    match (error.kind(), daemon) {
        (io::ErrorKind::AddrInUse, Daemon::Runs) => Finding::ok(about, "in use, and a howdah runs here"),
        (io::ErrorKind::AddrInUse, Daemon::Absent) => Finding::new(Level::Error, about, "in use", who),
        (io::ErrorKind::AddrInUse, Daemon::Unknown) => {
            let advice = "by a howdah that runs, or by another program: \"ss -lxtnp\" says which";
            Finding::new(Level::Warning, about, "in use", advice)
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            Finding::new(Level::Error, about, error.to_string(), "write an address of this machine, or 0.0.0.0 for all")
        }
        (io::ErrorKind::PermissionDenied, _) => {
            let advice = "run this as the daemon's user; ports below 1024 need CAP_NET_BIND_SERVICE";
            Finding::new(Level::Warning, about, format!("cannot be opened: {error}"), advice)
        }
        (io::ErrorKind::NotFound, _) => Finding::new(
            Level::Error,
            about,
            format!("cannot be opened: {error}"),
            "make the directory, or write another one",
        ),
        _ => Finding::new(Level::Error, about, format!("cannot be opened: {error}"), "write another address"),
    }
}

/// Whether a socket file could be made; none is.
fn free(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => std::fs::metadata(path.parent().unwrap_or(Path::new("/"))).map(drop),
    }
}
