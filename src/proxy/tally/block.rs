//! What one worker has counted of one pool: numbers that only it writes, and anybody may read.
//!
//! Not here: when something is counted (`session/count.rs`), adding up over workers (`mod.rs`).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::stats::histogram::BOUNDS;
use crate::stats::{Histogram, Totals};

/// A number with one writer: no locked instruction is needed.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. Only by the worker whose number it is.
    pub fn raise(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// What it has come to.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A [`Histogram`] with one writer.
#[derive(Debug, Default)]
pub struct Buckets([(Counter, Counter); BOUNDS + 1]);

impl Buckets {
    /// Takes in one time.
    pub fn add(&self, us: u64) {
        if let Some((count, sum)) = self.0.get(Histogram::bucket(us)) {
            count.raise(1);
            sum.raise(us);
        }
    }

    /// Adds it to `all`.
    pub fn add_to(&self, all: &mut Histogram) {
        for (mine, theirs) in self.0.iter().zip(&mut all.buckets) {
            theirs.0 += mine.0.value();
            theirs.1 += mine.1.value();
        }
    }
}

/// The counters of [`Totals`], and how long things took. On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
#[allow(missing_docs)] // they are those of `Totals`, and of `PoolStatistics`
pub struct Block {
    pub server_assignments: Counter,
    pub xacts: Counter,
    pub queries: Counter,
    pub received: Counter,
    pub sent: Counter,
    pub xact_us: Counter,
    pub query_us: Counter,
    pub wait_us: Counter,
    pub client_parses: Counter,
    pub server_parses: Counter,
    pub binds: Counter,
    pub errors: Counter,
    pub rows: Counter,
    pub wait: Buckets,
    pub server: Buckets,
    pub total: Buckets,
}

impl Block {
    /// The counters, at this moment.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            server_assignments: self.server_assignments.value(),
            xacts: self.xacts.value(),
            queries: self.queries.value(),
            received: self.received.value(),
            sent: self.sent.value(),
            xact_us: self.xact_us.value(),
            query_us: self.query_us.value(),
            wait_us: self.wait_us.value(),
            client_parses: self.client_parses.value(),
            server_parses: self.server_parses.value(),
            binds: self.binds.value(),
            client_logins: 0, // counted beside the pools
            errors: self.errors.value(),
            rows: self.rows.value(),
        }
    }
}

/// A pool's blocks: one for each worker that has used it.
#[derive(Debug)]
pub struct Blocks {
    /// Distinct among all pools there have been.
    pub number: u64,
    workers: Box<[OnceLock<Box<Block>>]>,
}

/// The last pool's number.
static LAST: AtomicU64 = AtomicU64::new(0);

impl Blocks {
    /// None yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Self { number, workers: (0..workers.max(1)).map(|_| OnceLock::new()).collect() }
    }

    /// A worker's own.
    #[must_use]
    pub fn of(&self, worker: usize) -> Option<&Block> {
        self.workers.get(worker).map(|block| &**block.get_or_init(Box::default))
    }

    /// Those that there are.
    pub fn all(&self) -> impl Iterator<Item = &Block> {
        self.workers.iter().filter_map(|block| block.get().map(|block| &**block))
    }

    /// The counters of all of them.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.all().fold(Totals::default(), |sum, block| sum + block.totals())
    }
}
