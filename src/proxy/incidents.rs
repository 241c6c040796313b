//! What happens seldom enough to be counted by everybody in one place: cancels, logins to servers, reloads. For metrics.
//!
//! Not here: what happens with every request (`tally`), errors that clients are told (there, too).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Logins to servers, by cluster and node: how many were done, how many failed.
pub type ServerLogins = BTreeMap<(Arc<str>, Arc<str>), (u64, u64)>;

/// The counts.
#[derive(Debug, Default)]
pub struct Incidents {
    cancels_sent: AtomicU64,
    cancels_in_vain: AtomicU64,
    server_logins: Mutex<ServerLogins>,
    reloads: Mutex<Reloads>,
}

/// How reloads have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// How many were applied.
    pub applied: u64,
    /// How many were refused.
    pub refused: u64,
    /// Whether the last one was refused.
    pub last_refused: bool,
    /// When the last one was, in seconds since 1970; 0 when there was none.
    pub last_at: u64,
    /// How long it took.
    pub last_took: Duration,
}

impl Incidents {
    /// A client has asked for a cancel; `sent` says whether something of its own was running.
    pub fn cancel(&self, sent: bool) {
        let count = if sent { &self.cancels_sent } else { &self.cancels_in_vain };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Cancels that were sent on, and those that nothing ran for.
    #[must_use]
    pub fn cancels(&self) -> (u64, u64) {
        (self.cancels_sent.load(Ordering::Relaxed), self.cancels_in_vain.load(Ordering::Relaxed))
    }

    /// A connection to a node was opened, or could not be.
    pub fn server_login(&self, cluster: &Arc<str>, node: &Arc<str>, done: bool) {
        let mut logins = self.server_logins.lock();
        let counts = logins.entry((Arc::clone(cluster), Arc::clone(node))).or_default();
        if done {
            counts.0 += 1;
        } else {
            counts.1 += 1;
        }
    }

    /// See [`ServerLogins`].
    #[must_use]
    pub fn server_logins(&self) -> ServerLogins {
        self.server_logins.lock().clone()
    }

    /// A reload has ended.
    pub fn reloaded(&self, applied: bool, last_took: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut reloads = self.reloads.lock();
        let Reloads { applied: done, refused, .. } = *reloads;
        let (done, refused) = if applied { (done + 1, refused) } else { (done, refused + 1) };
        *reloads = Reloads { applied: done, refused, last_refused: !applied, last_at: now, last_took };
    }

    /// How reloads have ended.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        *self.reloads.lock()
    }
}
