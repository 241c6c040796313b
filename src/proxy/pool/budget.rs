//! Limits above the pools: how many server connections a database may have over all its users, or a user over all its
//! databases.
//!
//! A pool asks both budgets before it dials and gives back after the close. One that is refused is remembered, and told
//! when there is room; pools of the same budget then give up connections rather than keep or lend them to clients who
//! came later. PgBouncer: `max_db_connections`, `max_user_connections`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Pool;

/// One limit.
#[derive(Debug)]
pub struct Budget {
    /// 0 is no limit.
    max: AtomicU32,
    used: AtomicU32,
    /// Pools that were refused and have not been told yet, in the order they came.
    starved: Mutex<Vec<Weak<Pool>>>,
    /// One writes this and then reads `used`, another the other way round: both sequentially consistent, or each could
    /// miss the other.
    pressed: AtomicBool,
}

impl Budget {
    /// A limit nobody uses yet.
    #[must_use]
    pub fn new(max: Option<u32>) -> Self {
        Self {
            max: AtomicU32::new(max.unwrap_or(0)),
            used: AtomicU32::new(0),
            starved: Mutex::default(),
            pressed: AtomicBool::new(false),
        }
    }

    /// Changes the limit.
    pub fn set_max(&self, max: Option<u32>) {
        self.max.store(max.unwrap_or(0), Ordering::Release);
    }

    /// Takes one, if there is one.
    fn take(&self) -> bool {
        let max = self.max.load(Ordering::Acquire);
        let more = |used: u32| (max == 0 || used < max).then_some(used + 1);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Sequentially consistent with [`Self::press`]: either this sees who is starved, or they see the room.
    fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether somebody was refused and waits.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::SeqCst)
    }

    fn is_full(&self) -> bool {
        let max = self.max.load(Ordering::Acquire);
        max != 0 && self.used.load(Ordering::SeqCst) >= max
    }

    fn press(&self, pool: &Arc<Pool>) {
        let mut starved = self.starved.lock();
        if !starved.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(pool))) {
            starved.push(Arc::downgrade(pool));
        }
        self.pressed.store(true, Ordering::SeqCst);
    }

    fn take_starved(&self) -> Vec<Arc<Pool>> {
        let mut starved = self.starved.lock();
        self.pressed.store(false, Ordering::SeqCst);
        starved.drain(..).filter_map(|pool| pool.upgrade()).collect()
    }

    /// When the oldest client of a starved pool came.
    fn oldest_us(&self) -> Option<u64> {
        let starved: Vec<_> = self.starved.lock().iter().filter_map(Weak::upgrade).collect();
        starved.iter().filter_map(|pool| pool.oldest_us()).min()
    }
}

/// The budgets a pool is under.
#[derive(Debug)]
pub struct Budgets {
    /// Of the database.
    pub database: Arc<Budget>,
    /// Of the user.
    pub user: Arc<Budget>,
}

impl Budgets {
    /// Takes one of each, or none.
    #[must_use]
    pub fn take(&self) -> bool {
        if !self.database.take() {
            return false;
        }
        let both = self.user.take();
        if !both {
            self.database.give_back();
        }
        both
    }

    /// Gives one of each back; the answer is the pools that waited for it, first the one whose client waits longest. Not to
    /// be called under the lock of a pool's books.
    #[must_use]
    pub fn give_back(&self) -> Vec<Arc<Pool>> {
        self.database.give_back();
        self.user.give_back();
        let mut starved = Vec::new();
        for budget in [&self.database, &self.user] {
            if budget.is_pressed() {
                starved.extend(budget.take_starved());
            }
        }
        // or whoever was refused first would take every place again
        starved.sort_by_cached_key(|pool| pool.oldest_us().unwrap_or(u64::MAX));
        starved
    }

    /// Remembers that `pool` was refused, with the limits that are full: others have nothing to give. `false` when there
    /// is room by now, and the pool may as well try again.
    #[must_use]
    pub fn press(&self, pool: &Arc<Pool>) -> bool {
        let full = [&self.database, &self.user].into_iter().filter(|budget| budget.is_full());
        full.map(|budget| budget.press(pool)).count() > 0 && (self.database.is_full() || self.user.is_full()) // a place freed before it was remembered told nobody
    }

    /// Whether a pool of the same budget waits for longer than anybody of a pool whose oldest client came at
    /// `oldest_us`.
    #[must_use]
    pub fn is_pressed(&self, oldest_us: impl FnOnce() -> Option<u64>) -> bool {
        if !self.database.is_pressed() && !self.user.is_pressed() {
            return false;
        }
        let starved = [&self.database, &self.user].into_iter().filter_map(|budget| budget.oldest_us()).min();
        match (starved, oldest_us()) {
            (Some(starved), Some(own)) => starved < own,
            (starved, None) => starved.is_some(),
            (None, Some(_)) => false,
        }
    }

    /// Whether two pools share a budget that is full: one of them could give the other room.
    #[must_use]
    pub fn share_a_full_one(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.database, &other.database) && self.database.is_full()
            || Arc::ptr_eq(&self.user, &other.user) && self.user.is_full()
    }
}
