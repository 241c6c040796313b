//! What a reload cannot change. Everything that is not listed here takes effect without dropping a client.

use std::fmt;

use super::file::Config;
use super::listener::Listener;

/// A change that waits for a restart. Until then the running value stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartNeeded {
    /// The full name of the key.
    pub key: String,
    /// What the daemon runs with.
    pub running: String,
    /// What the file says now.
    pub configured: String,
}

impl fmt::Display for RestartNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, running, configured } = self;
        write!(f, "{key}: \"{configured}\" needs a restart, \"{running}\" stays until then")
    }
}

/// The changes from one configuration to another that need a restart.
#[must_use]
pub fn compare(running: &Config, configured: &Config) -> Vec<RestartNeeded> {
    let pairs = [
        ("limits.workers", running.limits.workers.to_string(), configured.limits.workers.to_string()),
        ("listeners", sockets(&running.listeners), sockets(&configured.listeners)),
        ("http.address", running.http.address.to_string(), configured.http.address.to_string()),
        ("store.kind", running.store.kind.as_str().to_owned(), configured.store.kind.as_str().to_owned()),
        ("store.path", running.store.path.display().to_string(), configured.store.path.display().to_string()),
    ];
    pairs
        .into_iter()
        .filter(|(_, running, configured)| running != configured)
        .map(|(key, running, configured)| RestartNeeded { key: key.to_owned(), running, configured })
        .collect()
}

/// Puts what is bound back into a configuration that is about to take over: the keys [`compare`] names keep their running
/// values, in the order of the running sockets. TLS and role of a listener that both have are the new ones.
pub fn keep_bound(running: &Config, configured: &mut Config) {
    let wanted = std::mem::replace(&mut configured.listeners, running.listeners.clone());
    for listener in &mut configured.listeners {
        if let Some(same) = wanted.iter().find(|wanted| wanted.address == listener.address) {
            listener.tls.clone_from(&same.tls);
            listener.role = same.role;
        }
    }
    configured.limits.workers = running.limits.workers;
    configured.http.address = running.http.address.clone();
    configured.store = running.store.clone();
}

/// What is bound, whatever the order: the address, and for a Unix socket who may use it. TLS is not part of it.
fn sockets(listeners: &[Listener]) -> String {
    let mut sockets: Vec<String> = listeners
        .iter()
        .map(|listener| match (listener.address.socket_path(), listener.socket_gid) {
            (None, _) => listener.address.to_string(),
            (Some(_), None) => format!("{} mode {}", listener.address, listener.socket_mode),
            (Some(_), Some(gid)) => format!("{} mode {} group {gid}", listener.address, listener.socket_mode),
        })
        .collect();
    sockets.sort();
    sockets.join(", ")
}
