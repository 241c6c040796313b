//! Statements that are followed: how often each ran, how it went and how long it took, by pool.
//!
//! Each worker has a table of its own, bounded, and finds a statement by a hash of its fingerprint: a collision would add two
//! statements up, and nothing worse. What is found allocates nothing. Where the table is full, the next entry takes the
//! place of one of those that were called least of late: each look for a place halves what is remembered of their calls.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::block::{Buckets, Counter};
use crate::proxy::pool::PoolKey;
use crate::sql::cache::ClassCache;
use crate::stats::{Histogram, StatementStatistics};

/// Statements that a worker follows.
pub const FOLLOWED_MAX: usize = 1_000;
/// How much of a statement is shown, in bytes.
pub const TEXT_MAX: usize = 1_000;
/// How many are looked at to find the one whose place a new one takes.
const LOOKED_AT: usize = 16;

/// One statement in one pool.
#[derive(Debug)]
pub struct Followed {
    fingerprint: u64,
    text: Arc<str>,
    pool: PoolKey,
    calls: Counter,
    errors: Counter,
    rows: Counter,
    total: Buckets,
    /// Calls of late.
    recent: AtomicU32,
}

impl Followed {
    /// It has run to its end. Only by the worker whose entry it is.
    pub fn ran(&self, us: u64, rows: u64, failed: bool) {
        self.calls.raise(1);
        self.errors.raise(u64::from(failed));
        self.rows.raise(rows);
        self.total.add(us);
    }

    /// It has sent rows, and will send more. Only by the worker whose entry it is.
    pub fn sent(&self, rows: u64) {
        self.rows.raise(rows);
    }

    fn found(&self) {
        let recent = self.recent.load(Ordering::Relaxed);
        self.recent.store(recent.saturating_add(1), Ordering::Relaxed);
    }

    fn statistics(&self) -> StatementStatistics {
        let mut total = Histogram::default();
        self.total.add_to(&mut total);
        StatementStatistics {
            fingerprint: self.fingerprint,
            text: Arc::clone(&self.text),
            database: Arc::clone(&self.pool.database),
            user: Arc::clone(&self.pool.user),
            node: Arc::clone(&self.pool.node),
            calls: self.calls.value(),
            errors: self.errors.value(),
            rows: self.rows.value(),
            total,
        }
    }
}

/// Where others find the entries of one worker.
pub type Shelf = Mutex<Vec<Arc<Followed>>>;

/// What is on a shelf, as far as it has run.
pub fn look(shelf: &Shelf) -> Vec<StatementStatistics> {
    let entries = shelf.lock().clone();
    entries.iter().map(|entry| entry.statistics()).filter(|statement| statement.calls > 0).collect()
}

/// A worker's table. The key is a fingerprint's hash and the number of a pool.
#[derive(Debug)]
pub struct Followers {
    known: RefCell<Known>,
    shelf: Arc<Shelf>,
}

#[derive(Debug, Default)]
struct Known {
    by_key: HashMap<(u64, u64), Arc<Followed>, foldhash::fast::RandomState>,
    /// As they stand on the shelf.
    keys: Vec<(u64, u64)>,
    /// Where the next look for a place begins.
    hand: usize,
}

impl Followers {
    /// An empty table whose entries others find on `shelf`.
    #[must_use]
    pub fn new(shelf: Arc<Shelf>) -> Self {
        Self { known: RefCell::default(), shelf }
    }

    /// The statement with this fingerprint in the pool `number`; `text` is asked for if it is new.
    pub fn follow(
        &self,
        fingerprint: u64,
        number: u64,
        pool: &PoolKey,
        text: impl FnOnce() -> String,
    ) -> Arc<Followed> {
        let mut known = self.known.borrow_mut();
        if let Some(entry) = known.by_key.get(&(fingerprint, number)) {
            entry.found();
            return Arc::clone(entry);
        }
        let entry = Arc::new(Followed {
            fingerprint,
            text: text().into(),
            pool: pool.clone(),
            calls: Counter::default(),
            errors: Counter::default(),
            rows: Counter::default(),
            total: Buckets::default(),
            recent: AtomicU32::new(1),
        });
        known.place((fingerprint, number), Arc::clone(&entry), &self.shelf);
        entry
    }
}

impl Known {
    fn place(&mut self, key: (u64, u64), entry: Arc<Followed>, shelf: &Shelf) {
        let mut shelf = shelf.lock();
        self.by_key.insert(key, Arc::clone(&entry));
        if shelf.len() < FOLLOWED_MAX {
            shelf.push(entry);
            self.keys.push(key);
            return;
        }
        let mut least = (u32::MAX, self.hand);
        for _ in 0..LOOKED_AT {
            self.hand = (self.hand + 1) % shelf.len();
            if let Some(other) = shelf.get(self.hand) {
                let recent = other.recent.load(Ordering::Relaxed);
                other.recent.store(recent / 2, Ordering::Relaxed);
                least = least.min((recent, self.hand));
            }
        }
        if let (Some(place), Some(old)) = (shelf.get_mut(least.1), self.keys.get_mut(least.1)) {
            *place = entry;
            self.by_key.remove(&std::mem::replace(old, key));
        }
    }
}

/// A statement's text for people: no literals, and not longer than [`TEXT_MAX`]. Without a fingerprint it is any that is too long.
#[must_use]
pub fn shown(classes: &ClassCache, sql: &[u8], fingerprint: u64) -> String {
    let text = if fingerprint == 0 { None } else { classes.shown(sql) };
    let mut text = text.unwrap_or_else(|| "(too long to be looked into)".to_owned());
    if text.len() > TEXT_MAX {
        let cut = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> PoolKey {
        let name = || Arc::<str>::from("a");
        PoolKey { cluster: name(), node: name(), database: name(), user: name() }
    }

    #[test]
    fn what_is_called_often_stays_while_many_pass_by() {
        let shelf = Arc::new(Shelf::default());
        let followers = Followers::new(Arc::clone(&shelf));
        for n in 0..10 * FOLLOWED_MAX as u64 {
            followers.follow(n + 1_000, 1, &pool(), || format!("select {n}")).ran(1, 1, false);
            for often in 0..10 {
                followers.follow(often, 1, &pool(), || format!("often {often}")).ran(1, 1, false);
            }
        }
        let statements = look(&shelf);
        assert_eq!(statements.len(), FOLLOWED_MAX);
        let often = statements.iter().filter(|statement| statement.text.starts_with("often"));
        let calls: Vec<u64> = often.map(|statement| statement.calls).collect();
        assert_eq!(calls, [10 * FOLLOWED_MAX as u64; 10]);
        assert_eq!(followers.known.borrow().by_key.len(), FOLLOWED_MAX);
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let classes = ClassCache::default();
        let sql = format!("select {}é", "é".repeat(800));
        let text = shown(&classes, sql.as_bytes(), 1);
        assert!(text.len() <= TEXT_MAX + 3 && text.ends_with("é…"), "{text}");
    }
}
