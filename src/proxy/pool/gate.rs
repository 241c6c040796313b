//! Shutting a pool for a while, or for good, and sending those who wait in it elsewhere.
//!
//! A *held* pool lends nothing and dials nothing: whoever comes waits in its queue. The gate is in the books, under their lock,
//! so a count of what is busy that was taken after [`Pool::hold`] only falls: what is lent comes back and stays, or is closed while
//! the pool is paused. Whoever still waits when the last hold ends is sent on, and asks again wherever the primary is by then.
//!
//! Not here: when a pool is held (`proxy/pause.rs`, `proxy/orders`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Pool;
use crate::proxy::error::ClientError;
use crate::topology::Epoch;

/// Why a pool is held. Each reason opens no more than its own gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hold {
    /// Its node is about to cease to be the primary.
    Switchover = 1,
    /// The operator has paused its database, or everything. Its servers are closed as they come back.
    Paused = 2,
}

/// The servers that were dialled between one RECONNECT and the next. Each holds a share of it from the beginning of its dial to its
/// end, so that those of the past can be counted.
#[derive(Debug, Default)]
pub struct Round {
    over: AtomicBool,
}

impl Round {
    /// Whether its servers are not to be used again. PgBouncer: `close_needed`.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// The rounds of a pool.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    now: Arc<Round>,
    past: Vec<std::sync::Weak<Round>>,
}

impl Pool {
    /// Whether it should not be used any more. Those who wait in it go and wait elsewhere.
    pub fn set_retired(&self, retired: bool) {
        self.retired.store(retired, Ordering::Release);
        if retired && self.is_contended() {
            self.send_on();
        }
    }

    /// Nothing is lent and nothing dialled from now on.
    pub fn hold(&self, why: Hold) {
        let mut books = self.books.lock();
        books.hold();
        self.held.fetch_or(why as u8, Ordering::AcqRel);
    }

    /// This hold is over; if it was the last, those who have waited ask again.
    pub fn go_on(&self, why: Hold) {
        if !self.is_held_for(why) {
            return;
        }
        let mut books = self.books.lock();
        let left = self.held.fetch_and(!(why as u8), Ordering::AcqRel) & !(why as u8);
        if left != 0 {
            return;
        }
        books.go_on();
        drop(books);
        self.send_on();
    }

    /// Whether it is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) != 0
    }

    /// Whether it is held for this reason, among others.
    #[must_use]
    pub fn is_held_for(&self, why: Hold) -> bool {
        self.held.load(Ordering::Acquire) & why as u8 != 0
    }

    /// Every server that there is, or that is being dialled, is closed as soon as nobody uses it. PgBouncer: RECONNECT.
    pub fn reconnect(&self) {
        let mut rounds = self.rounds.lock();
        let before = std::mem::take(&mut rounds.now);
        before.over.store(true, Ordering::Release);
        rounds.past.retain(|past| past.strong_count() > 0);
        rounds.past.push(Arc::downgrade(&before));
    }

    /// Whether there still is a server of a round that is over.
    #[must_use]
    pub fn has_to_close(&self) -> bool {
        self.rounds.lock().past.iter().any(|past| past.strong_count() > 0)
    }

    /// The round that a server belongs to whose dial begins now.
    pub(super) fn round(&self) -> Arc<Round> {
        Arc::clone(&self.rounds.lock().now)
    }

    /// Whether a server must be closed now that nobody uses it, whatever it is fit for.
    pub(super) fn closes(&self, round: &Round) -> bool {
        round.is_over() || self.is_held_for(Hold::Paused)
    }

    /// How many of its connections are at work, or may be: lent, connecting, closing.
    #[must_use]
    pub fn busy(&self) -> u32 {
        self.books.lock().busy()
    }

    /// Whether a client that could give its server back has to, instead of beginning something else with it.
    #[must_use]
    pub fn wants_back(&self) -> bool {
        let books = self.books.lock();
        books.is_held() || books.waiting() > 0
    }

    /// Connections that were dialled in an older epoch are not used again.
    pub fn only_since(&self, epoch: Epoch) {
        self.least_epoch.store(epoch.0, Ordering::Relaxed);
    }

    /// Those who wait ask again where to wait.
    pub fn send_on(&self) {
        let mut books = self.books.lock();
        let mut dismissed: Vec<_> = books.dismiss().collect();
        dismissed.extend(books.dismiss_claims());
        drop(books);
        for (ticket, client) in dismissed {
            client.refuse(ticket, ClientError::PoolRetired);
        }
    }
}
