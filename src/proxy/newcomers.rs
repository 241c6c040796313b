//! Who is logging in: each connection from its accept until it is a client on the roster, or refused. So orders reach it too, and
//! `SHOW SOCKETS` shows it.
//!
//! Not here: who has logged in ([`super::roster`]), what a login is (`handshake`).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::client::ClientHandle;
use super::roster::Ends;
use super::shared::Shared;

/// Everybody who is logging in.
#[derive(Debug, Default)]
pub struct Newcomers(Mutex<BTreeMap<u64, Arc<Newcomer>>>);

/// A connection that is logging in.
#[derive(Debug)]
pub struct Newcomer {
    /// Where it is, and where it came in.
    pub ends: Ends,
    /// When it was accepted.
    pub connected: SystemTime,
    /// What others may do to it.
    pub handle: Arc<ClientHandle>,
    claim: OnceLock<Claimed>,
}

/// Who it says it is; nothing is proven.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The database it asks for.
    pub database: Arc<str>,
    /// Its user.
    pub user: Arc<str>,
    /// Whether it goes through the door, and will have no servers.
    pub is_caller: bool,
}

impl Newcomer {
    /// It has said who it is.
    pub fn claims(&self, claimed: Claimed) {
        let _ = self.claim.set(claimed); // it says so once
    }

    /// Who it says it is, once it has.
    #[must_use]
    pub fn claim(&self) -> Option<&Claimed> {
        self.claim.get()
    }

    /// Whether it will be a client of a database, of this one if there is a name.
    #[must_use]
    pub fn is_client_of(&self, database: Option<&str>) -> bool {
        let fits = |claim: &Claimed| !claim.is_caller && database.is_none_or(|name| *claim.database == *name);
        self.claim().is_some_and(fits)
    }
}

/// Keeps a connection among those who log in.
#[derive(Debug)]
pub struct NewcomerEntry {
    shared: Arc<Shared>,
    /// What is known of it.
    pub facts: Arc<Newcomer>,
}

impl Drop for NewcomerEntry {
    fn drop(&mut self) {
        self.shared.newcomers.0.lock().remove(&self.facts.handle.id);
    }
}

impl Newcomers {
    /// A connection has been accepted.
    #[must_use]
    pub fn enter(shared: &Arc<Shared>, handle: &Arc<ClientHandle>, ends: Ends) -> NewcomerEntry {
        let facts = Arc::new(Newcomer {
            ends,
            connected: SystemTime::now(),
            handle: Arc::clone(handle),
            claim: OnceLock::new(),
        });
        shared.newcomers.0.lock().insert(handle.id, Arc::clone(&facts));
        NewcomerEntry { shared: Arc::clone(shared), facts }
    }

    /// All of them, in the order in which they came. Whoever goes on the roster leaves only then: look here first, and nobody is missed.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Newcomer>> {
        self.0.lock().values().cloned().collect()
    }

    /// The one with this number.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<Arc<Newcomer>> {
        self.0.lock().get(&id).cloned()
    }
}
