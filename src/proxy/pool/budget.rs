//! Limits above the pools: how many server connections a database may have over all its users, or a user over all its
//! databases.
//!
//! A pool asks both budgets before it dials and gives back after the close. One that is refused is remembered, and told
//! when there is room. Who gives way to it is [`gives_way`]'s to say: pools that want more than there is get equal
//! shares, and where that leaves a rest, take turns with it. Inside a pool it is first come, first served. A turn lasts
//! several times as long as it takes to hand a place over (a close and a login), so that a budget's places are used
//! rather than passed around. PgBouncer: `max_db_connections`, `max_user_connections`; it gives a free place to the first
//! pool in its list.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Pool;

/// How many times as long as a login a turn lasts: so much of its time a place may be lost in changing hands.
const LOGINS_PER_TURN: u64 = 10;
/// The shortest turn, and the longest.
const TURN_US: std::ops::RangeInclusive<u64> = 10_000..=250_000;

/// How long a pool keeps what others want too, when its last login took `login_us`.
#[must_use]
pub fn turn_us(login_us: u64) -> u64 {
    login_us.saturating_mul(LOGINS_PER_TURN).clamp(*TURN_US.start(), *TURN_US.end())
}

/// How a pool stands among those of its budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Connections it has.
    pub held: u32,
    /// When it last got one, or gave way.
    pub turned_us: u64,
    /// How long its turns are.
    pub turn_us: u64,
}

/// Whether a pool that stands so gives a connection to one that has `starved_held` and clients in vain.
#[must_use]
pub const fn gives_way(own: Standing, starved_held: u32, now_us: u64) -> bool {
    match own.held.saturating_sub(starved_held) {
        0 => false,
        1 => own.turned_us.saturating_add(own.turn_us) <= now_us, // they only change places
        _ => true,
    }
}

/// One limit.
#[derive(Debug)]
pub struct Budget {
    /// 0 is no limit.
    max: AtomicU32,
    used: AtomicU32,
    /// Places that are being given up for starved pools.
    vacating: AtomicU32,
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
            vacating: AtomicU32::new(0),
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

    /// Whether a pool that stands so gives way to a starved one: each of them is promised one place at a time.
    fn is_owed(&self, own: Standing, now_us: u64) -> bool {
        let starved: Vec<_> = self.starved.lock().iter().filter_map(Weak::upgrade).collect();
        let waiting =
            starved.iter().filter(|pool| pool.is_contended() && !pool.is_held()).map(|pool| pool.standing().held);
        let entitled = waiting.filter(|held| gives_way(own, *held, now_us)).count();
        usize::try_from(self.vacating.load(Ordering::Acquire)).is_ok_and(|promised| promised < entitled)
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

    /// Gives one of each back; the answer is the pools that waited for it, first the one that has least, and of equal ones the
    /// one whose last turn is longest ago. Not to be called under the lock of a pool's books.
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
        starved.sort_by_cached_key(|pool| {
            let standing = pool.standing();
            (standing.held, standing.turned_us)
        });
        starved
    }

    /// Remembers that `pool` was refused, with the limits that are full: others have nothing to give. `false` when there
    /// is room by now, and the pool may as well try again.
    #[must_use]
    pub fn press(&self, pool: &Arc<Pool>) -> bool {
        let full = [&self.database, &self.user].into_iter().filter(|budget| budget.is_full());
        full.map(|budget| budget.press(pool)).count() > 0 && (self.database.is_full() || self.user.is_full()) // a place freed before it was remembered told nobody
    }

    /// Whether a pool was refused and still waits that has less than one that stands so, by a whole connection or by its
    /// turn.
    #[must_use]
    pub fn is_owed(&self, own: impl Fn() -> Standing, now_us: u64) -> bool {
        let mut pressed = [&self.database, &self.user].into_iter().filter(|budget| budget.is_pressed());
        pressed.any(|budget| budget.is_owed(own(), now_us))
    }

    /// A place is being given up, until [`Self::vacated`].
    pub fn vacates(&self) {
        for budget in [&self.database, &self.user] {
            budget.vacating.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// It is free.
    pub fn vacated(&self) {
        for budget in [&self.database, &self.user] {
            budget.vacating.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether any pool was refused and waits.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.database.is_pressed() || self.user.is_pressed()
    }

    /// Whether two pools share a budget that is full: one of them could give the other room.
    #[must_use]
    pub fn share_a_full_one(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.database, &other.database) && self.database.is_full()
            || Arc::ptr_eq(&self.user, &other.user) && self.user.is_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn standing(held: u32, turned_us: u64) -> Standing {
        Standing { held, turned_us, turn_us: 100 }
    }

    #[test]
    fn a_pool_gives_way_to_less_at_once_and_to_one_less_after_its_turn() {
        assert!(gives_way(standing(3, 50), 1, 50));
        assert!(!gives_way(standing(2, 50), 1, 149));
        assert!(gives_way(standing(2, 50), 1, 150));
        assert!(gives_way(standing(1, 50), 0, 150));
        for held in 0..3 {
            assert!(!gives_way(standing(held, 0), held, 1_000_000), "among equals nobody gives way");
            assert!(!gives_way(standing(held, 0), held + 1, 1_000_000));
        }
    }

    /// Pools whose clients always want more, under one budget.
    struct World {
        pools: Vec<Standing>,
        served: Vec<u64>,
        /// When which pool's server is next given back, or logged in.
        due: Vec<(u64, usize, bool)>,
    }

    impl World {
        /// Runs for `until_us`; the answer is how much of the places' time went into logins.
        fn run(&mut self, budget: u32, until_us: u64, login_us: u64, mut work_us: impl FnMut() -> u64) -> f64 {
            let mut lost_us = 0;
            loop {
                let held = self.pools.iter().map(|pool| pool.held).sum::<u32>();
                assert!(held <= budget);
                let next = (0..self.due.len()).min_by_key(|at| self.due[*at].0);
                let (now, pool, arrives) = self.due.swap_remove(next.unwrap());
                if now >= until_us {
                    return lost_us as f64 / (f64::from(budget) * until_us as f64);
                }
                if arrives {
                    self.pools[pool].turned_us = now;
                } else {
                    self.served[pool] += 1;
                }
                let least = self.pools.iter().map(|pool| pool.held).min().unwrap();
                if !arrives && gives_way(self.pools[pool], least, now) {
                    self.pools[pool].held -= 1;
                    self.pools[pool].turned_us = now;
                    let next = (0..self.pools.len()).min_by_key(|at| (self.pools[*at].held, self.pools[*at].turned_us));
                    let next = next.unwrap();
                    self.pools[next].held += 1;
                    self.pools[next].turned_us = now; // it is a turn from the dial on, and a whole one from the login
                    lost_us += login_us;
                    self.due.push((now + login_us, next, true));
                } else {
                    self.due.push((now + work_us(), pool, false));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn pools_that_always_want_more_get_the_same_and_little_is_lost(
            pools in 2..7usize,
            budget in 1..13u32,
            login_us in 1_000..20_000u64,
            work_us in 500..20_000u64,
            seed in any::<u64>(),
        ) {
            let turn_us = turn_us(login_us);
            let stood = Standing { held: 0, turned_us: 0, turn_us };
            let mut world = World { pools: vec![stood; pools], served: vec![0; pools], due: Vec::new() };
            world.pools[0].held = budget; // whoever was there first
            world.due.extend((0..budget).map(|at| (u64::from(at), 0, false)));
            let mut random = seed | 1;
            let work = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                work_us / 2 + random % work_us
            };
            let lost = world.run(budget, 300 * turn_us, login_us, work);
            let (most, least) = (world.served.iter().max().unwrap(), world.served.iter().min().unwrap());
            prop_assert!(*most as f64 <= *least as f64 * 1.1 + 100.0, "{:?}", world.served);
            prop_assert!(lost < 0.12, "{lost}");
        }
    }
}
