//! Shutting a pool for a while, or for good, and sending those who wait in it elsewhere.
//!
//! A *held* pool lends nothing and dials nothing: whoever comes waits in its queue. The gate is in the books, under their lock,
//! so a count of what is busy that was taken after [`Pool::hold`] only falls: what is lent comes back and stays. Whoever still
//! waits when the hold ends is sent on, and asks again wherever the primary is by then.
//!
//! Not here: when a pool is held (`proxy/pause.rs`).

use std::sync::atomic::Ordering;

use super::Pool;
use crate::proxy::error::ClientError;
use crate::topology::Epoch;

impl Pool {
    /// Whether it should not be used any more. Those who wait in it go and wait elsewhere.
    pub fn set_retired(&self, retired: bool) {
        self.retired.store(retired, Ordering::Release);
        if retired && self.is_contended() {
            self.send_on();
        }
    }

    /// Nothing is lent and nothing dialled from now on.
    pub fn hold(&self) {
        let mut books = self.books.lock();
        books.hold();
        self.held.store(true, Ordering::Release);
    }

    /// The hold is over; those who have waited ask again.
    pub fn go_on(&self) {
        if !self.is_held() {
            return;
        }
        let mut books = self.books.lock();
        books.go_on();
        self.held.store(false, Ordering::Release);
        drop(books);
        self.send_on();
    }

    /// Whether it is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
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
