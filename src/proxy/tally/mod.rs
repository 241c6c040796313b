//! What the workers have counted, put together for whoever looks.
//!
//! Each worker writes numbers of its own, which nobody else writes ([`block`], by pool; [`followed`], by statement); what is
//! counted beside all pools is seldom, and stands behind a lock per worker. Whoever looks adds up. Pools that vanish leave their
//! share with their database.
//!
//! - [`runs`]: which answer belongs to which statement
//! - [`period`]: averages over the last whole period, and the line in the log
//!
//! Not here: when a session counts what (`session/count.rs`).

pub mod block;
pub mod followed;
pub mod period;
pub mod runs;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use self::followed::Shelf;
use self::period::Last;
use super::pool::Pool;
use super::shared::Shared;
use crate::pg::SqlState;
use crate::stats::{DatabaseStatistics, PoolStatistics, StatementStatistics, Statistics, Totals};

/// SQLSTATEs that a worker tells apart; whatever else comes counts as [`OTHER`].
const CODES_MAX: usize = 1_000;
/// The code of errors beyond those, and of those that have none.
pub const OTHER: &str = "other";

type Database = Arc<str>;

/// What one worker counts beside the pools.
#[derive(Debug, Default)]
pub struct Beside {
    databases: Mutex<HashMap<Database, Totals>>,
    /// By database, and `None` for codes that are not told apart.
    errors: Mutex<HashMap<(Database, Option<SqlState>), u64>>,
    /// The statements it follows.
    pub shelf: Arc<Shelf>,
}

impl Beside {
    /// Counts something that belongs to a database and to no pool.
    pub fn count(&self, database: &Database, totals: Totals) {
        *self.databases.lock().entry(Arc::clone(database)).or_default() += totals;
    }

    /// Counts an error that a client is told.
    pub fn count_error(&self, database: &Database, code: Option<SqlState>) {
        let mut errors = self.errors.lock();
        let key = (Arc::clone(database), code);
        let key = if errors.len() < CODES_MAX || errors.contains_key(&key) { key } else { (key.0, None) };
        *errors.entry(key).or_default() += 1;
    }
}

/// What is counted beside the pools, and what follows from all of it.
#[derive(Debug)]
pub struct Tallies {
    /// By worker.
    pub workers: Vec<Beside>,
    last: Mutex<Last>,
}

impl Tallies {
    /// Nothing yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers.max(1)).map(|_| Beside::default()).collect(), last: Mutex::default() }
    }

    /// A worker's own.
    #[must_use]
    pub fn beside(&self, worker: usize) -> Option<&Beside> {
        self.workers.get(worker)
    }
}

impl Pool {
    /// What it has served, at this moment.
    #[must_use]
    pub fn statistics(&self) -> PoolStatistics {
        let key = &self.key;
        let mut statistics = PoolStatistics {
            cluster: Arc::clone(&key.cluster),
            node: Arc::clone(&key.node),
            database: Arc::clone(&key.database),
            user: Arc::clone(&key.user),
            totals: Totals::default(),
            wait: crate::stats::Histogram::default(),
            server: crate::stats::Histogram::default(),
            total: crate::stats::Histogram::default(),
        };
        for block in self.blocks.all() {
            statistics.totals += block.totals();
            block.wait.add_to(&mut statistics.wait);
            block.server.add_to(&mut statistics.server);
            block.total.add_to(&mut statistics.total);
        }
        statistics
    }
}

impl Shared {
    /// Everything that was counted, at this moment.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let (pools, departed) = self.pools.all_and_departed();
        let pools: Vec<PoolStatistics> = pools.iter().map(|pool| pool.statistics()).collect();
        let mut databases: BTreeMap<Arc<str>, DatabaseStatistics> = BTreeMap::new();
        let mut add = |name: &Arc<str>, totals| {
            databases.entry(Arc::clone(name)).or_default().totals += totals;
        };
        pools.iter().for_each(|pool| add(&pool.database, pool.totals));
        departed.iter().for_each(|(name, totals)| add(name, *totals));
        let mut errors: BTreeMap<(Arc<str>, String), u64> = BTreeMap::new();
        for worker in &self.tallies.workers {
            worker.databases.lock().iter().for_each(|(name, totals)| add(name, *totals));
            for ((database, code), count) in &*worker.errors.lock() {
                let code = code.map_or_else(|| OTHER.to_owned(), |code| code.to_string());
                *errors.entry((Arc::clone(database), code)).or_default() += count;
            }
        }
        let last = self.tallies.last.lock();
        for (name, database) in &mut databases {
            database.averages = last.averages(name);
        }
        Statistics { pools, databases, errors }
    }

    /// The statements that are followed, in no order. Their times are the server's, without the wait for one.
    #[must_use]
    pub fn statements(&self) -> Vec<StatementStatistics> {
        type Key = (u64, Arc<str>, Arc<str>, Arc<str>);
        let mut all: BTreeMap<Key, StatementStatistics> = BTreeMap::new();
        for statement in self.tallies.workers.iter().flat_map(|worker| followed::look(&worker.shelf)) {
            let [database, user, node] = [&statement.database, &statement.user, &statement.node].map(Arc::clone);
            match all.entry((statement.fingerprint, database, user, node)) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(statement);
                }
                std::collections::btree_map::Entry::Occupied(mut same) => {
                    let same = same.get_mut();
                    same.calls += statement.calls;
                    same.errors += statement.errors;
                    same.rows += statement.rows;
                    same.total.merge(&statement.total);
                }
            }
        }
        all.into_values().collect()
    }
}
