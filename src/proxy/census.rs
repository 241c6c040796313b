//! Who is connected, counted exactly: in all, per database, per user.
//!
//! Touched when a client comes and when it goes, never in between.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::ClientError;

/// The counts.
#[derive(Debug, Default)]
pub struct Census {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    databases: HashMap<Arc<str>, u32>,
    users: HashMap<Arc<str>, u32>,
    /// By database and user.
    pairs: HashMap<(Arc<str>, Arc<str>), u32>,
}

/// The limits that hold for one client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientLimits {
    /// Over everything.
    pub all: u32,
    /// Of its database.
    pub database: Option<u32>,
    /// Of its user.
    pub user: Option<u32>,
}

/// A connection's place in the census; dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    census: Arc<CensusOwner>,
    /// Its database with the user of its pools, and who it is itself, once it has named them.
    named: Option<(Pair, Arc<str>)>,
}

/// A database, and as whom its servers are logged in to.
type Pair = (Arc<str>, Arc<str>);

/// Whatever owns the census for as long as places exist.
pub type CensusOwner = super::shared::Shared;

impl Census {
    /// Counts a connection that has not said who it is.
    ///
    /// # Errors
    /// [`ClientError::TooManyClients`]. The connection is not counted then.
    pub fn enter(owner: &Arc<CensusOwner>, max: u32) -> Result<Place, ClientError> {
        let mut counts = owner.census.counts.lock();
        if counts.all >= max {
            return Err(ClientError::TooManyClients);
        }
        counts.all += 1;
        Ok(Place { census: Arc::clone(owner), named: None })
    }

    /// Whether this user has clients in this database.
    #[must_use]
    pub fn has_clients(&self, database: &Arc<str>, user: &Arc<str>) -> bool {
        self.counts.lock().pairs.contains_key(&(Arc::clone(database), Arc::clone(user)))
    }

    /// How many are connected.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.counts.lock().all
    }
}

impl Place {
    /// The connection has said who it is: counts it there too.
    ///
    /// # Errors
    /// [`ClientError::TooManyClientsOfDatabase`], [`ClientError::TooManyClientsOfUser`].
    pub fn name(
        &mut self,
        database: &Arc<str>,
        user: &Arc<str>,
        server_user: &Arc<str>,
        limits: ClientLimits,
    ) -> Result<(), ClientError> {
        let mut counts = self.census.census.counts.lock();
        let of = |counts: &HashMap<Arc<str>, u32>, name| counts.get(name).copied().unwrap_or(0);
        if limits.database.is_some_and(|max| of(&counts.databases, database) >= max) {
            return Err(ClientError::TooManyClientsOfDatabase);
        }
        if limits.user.is_some_and(|max| of(&counts.users, user) >= max) {
            return Err(ClientError::TooManyClientsOfUser);
        }
        *counts.databases.entry(Arc::clone(database)).or_default() += 1;
        *counts.users.entry(Arc::clone(user)).or_default() += 1;
        let pair = (Arc::clone(database), Arc::clone(server_user));
        *counts.pairs.entry(pair.clone()).or_default() += 1;
        self.named = Some((pair, Arc::clone(user)));
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.census.census.counts.lock();
        counts.all -= 1;
        if let Some((pair, user)) = self.named.take() {
            leave(&mut counts.databases, &pair.0);
            leave(&mut counts.users, &user);
            leave(&mut counts.pairs, &pair);
        }
    }
}

fn leave<K: Eq + Hash>(counts: &mut HashMap<K, u32>, name: &K) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}
