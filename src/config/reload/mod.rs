//! What a reload changes, and what it cannot. Everything that is not listed here takes effect without dropping a client.
//!
//! - this file: what needs a restart, and why
//! - [`change`]: what differs between two files, key by key
//! - [`order`]: how somebody asks for a reload, and what the answer is
//!
//! Not here: doing it (`cli/reload`).

pub mod change;
pub mod order;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::file::Config;

/// A change that waits for a restart. Until then the running value stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartNeeded {
    /// The full name of the key.
    pub key: String,
    /// What the daemon runs with.
    pub running: String,
    /// What the file says now.
    pub configured: String,
    /// Why it cannot change under a running daemon.
    pub why: String,
}

impl fmt::Display for RestartNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, running, configured, why } = self;
        write!(f, "{key}: \"{configured}\" needs a restart, \"{running}\" stays until then: {why}")
    }
}

/// The changes from one configuration to another that need a restart.
#[must_use]
pub fn compare(running: &Config, configured: &Config) -> Vec<RestartNeeded> {
    const STORE: &str = "what is under way is written where it was begun";
    let rows = [
        (
            "limits.workers",
            running.limits.workers.to_string(),
            configured.limits.workers.to_string(),
            "a client stays on the thread it came to",
        ),
        ("store.kind", running.store.kind.as_str().to_owned(), configured.store.kind.as_str().to_owned(), STORE),
        ("store.path", running.store.path.display().to_string(), configured.store.path.display().to_string(), STORE),
    ];
    let differ = rows.into_iter().filter(|(_, running, configured, _)| running != configured);
    let needed = |(key, running, configured, why): (&str, _, _, &str)| RestartNeeded {
        key: key.to_owned(),
        running,
        configured,
        why: why.to_owned(),
    };
    differ.map(needed).collect()
}

/// Puts what stays back into a configuration that is about to take over: the keys [`compare`] names keep their running values.
pub fn keep_running(running: &Config, configured: &mut Config) {
    configured.limits.workers = running.limits.workers;
    configured.store = running.store.clone();
}
