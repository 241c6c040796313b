//! The books of one pool over all workers: who is idle, who waits, how many connections exist.
//!
//! Pure: no socket, no clock, no lock. The pool's lock is around this and nothing else. Servers `S` and waiters `W` are
//! the caller's; times are microseconds on any common clock.
//!
//! Invariants, held by `tests::the_books_always_balance` over random schedules:
//! - `connecting + idle + lent + closing == open`, and `open <= size + reserve` unless either was lowered meanwhile;
//! - above `size` nothing is opened but for somebody who has waited `reserve_after_us`, and nothing is idle;
//! - idle servers and waiters never exist together;
//! - nobody is served before someone who arrived more than [`OVERTAKING_MAX_US`] earlier.
//!
//! Most waiters want any server of the pool. A *claim* wants a place for a connection of its own (replication): it waits
//! in the same order, and gets a free place or the place of a server that is closed for it.

use std::collections::VecDeque;

/// How much later a waiter of the releasing worker may have arrived than another worker's and still be served first:
/// moving a socket between reactors costs 2–4 µs of CPU, and 1 ms of unfairness buys most of them back (measured: 16 %
/// of CPU per transaction under contention).
pub const OVERTAKING_MAX_US: u64 = 1_000;

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a checkout got.
#[derive(Debug, PartialEq, Eq)]
pub enum Checkout<S> {
    /// An idle server of the same worker.
    Own(S),
    /// An idle server of another worker: it must change reactor.
    Moved(S),
    /// A place in the queue; with `dial`, a connection is to be opened (it is counted already).
    Queued {
        /// The place.
        ticket: Ticket,
        /// Whether the caller must dial.
        dial: bool,
    },
    /// Enough clients wait already.
    Full,
}

/// What became of a claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim<S> {
    /// A place, counted already.
    Place,
    /// The place of this idle server, once it is closed.
    Instead(S),
    /// A place in the queue.
    Queued(Ticket),
    /// Enough clients wait already.
    Full,
}

/// What became of a server that was given back.
#[derive(Debug, PartialEq, Eq)]
pub enum Release<S, W> {
    /// It is idle now.
    Kept,
    /// It goes to this waiter.
    Grant {
        /// The server.
        server: S,
        /// Whose place it was.
        ticket: Ticket,
        /// Who waited.
        waiter: W,
        /// Whether the waiter lives on another worker.
        moved: bool,
    },
    /// A claim gets its place once it is closed.
    Instead {
        /// The server.
        server: S,
        /// Whose place it was.
        ticket: Ticket,
        /// Who waited.
        waiter: W,
    },
    /// There are more connections than the limit: close it (and say [`Accounting::closed`] afterwards).
    Close(S),
}

#[derive(Debug)]
struct Waiting<W> {
    ticket: Ticket,
    since_us: u64,
    waiter: W,
}

/// What belongs to one worker.
#[derive(Debug)]
struct Lane<S, W> {
    /// The most recently used last.
    idle: Vec<S>,
    /// The oldest first.
    queue: VecDeque<Waiting<W>>,
}

/// How many of what there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Connections.
    pub size: u32,
    /// Connections beyond that while somebody waits for long.
    pub reserve: u32,
    /// How long that is.
    pub reserve_after_us: u64,
    /// Connections that are kept open although nobody needs them; more than `size` are not.
    pub min: u32,
    /// Clients that may wait although nobody dials for them; 0 is any number.
    pub waiting_max: u32,
}

/// How many connections a pool has, and in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them: connecting, idle, lent and closing.
    pub open: u32,
    /// Being dialled.
    pub connecting: u32,
    /// Waiting for a client.
    pub idle: u32,
    /// Clients waiting for a server.
    pub waiting: u32,
}

/// The books.
#[derive(Debug)]
pub struct Accounting<S, W> {
    bounds: Bounds,
    open: u32,
    connecting: u32,
    waiting: u32,
    /// Dialling has just failed; only the one who rests may dial again.
    resting: bool,
    next_ticket: u64,
    lanes: Vec<Lane<S, W>>,
    /// The oldest first.
    claims: VecDeque<Waiting<W>>,
    /// Of `open`, those that never come back into this pool.
    apart: u32,
    /// Of `open`, those that have been told to hang up.
    closing: u32,
}

impl<S, W> Accounting<S, W> {
    /// Books of an empty pool for `workers` workers.
    #[must_use]
    pub fn new(bounds: Bounds, workers: usize) -> Self {
        let lanes = (0..workers).map(|_| Lane { idle: Vec::new(), queue: VecDeque::new() }).collect();
        let claims = VecDeque::new();
        Self {
            bounds,
            open: 0,
            connecting: 0,
            waiting: 0,
            resting: false,
            next_ticket: 0,
            lanes,
            claims,
            apart: 0,
            closing: 0,
        }
    }

    /// The numbers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let idle = self.lanes.iter().map(|lane| lane.idle.len()).sum::<usize>();
        Counts {
            open: self.open,
            connecting: self.connecting,
            idle: u32::try_from(idle).unwrap_or(u32::MAX),
            waiting: self.waiting(),
        }
    }

    /// How many clients wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting + u32::try_from(self.claims.len()).unwrap_or(u32::MAX)
    }

    /// When the oldest waiter came.
    #[must_use]
    pub fn oldest_us(&self) -> Option<u64> {
        let claim = self.claims.front().map(|first| first.since_us);
        self.oldest_queued_us().into_iter().chain(claim).min()
    }

    fn oldest_queued_us(&self) -> Option<u64> {
        self.lanes.iter().filter_map(|lane| lane.queue.front()).map(|first| first.since_us).min()
    }

    /// How many of those who want any server have waited long enough for the reserve.
    fn overdue(&self, now_us: u64) -> u32 {
        let is_overdue = |waiting: &Waiting<W>| is_overdue(waiting.since_us, self.bounds.reserve_after_us, now_us);
        let overdue = self.lanes.iter().map(|lane| lane.queue.partition_point(is_overdue)).sum::<usize>();
        u32::try_from(overdue).unwrap_or(u32::MAX)
    }

    /// Lends an idle server or queues the caller. `room` is asked before a connection beyond this pool's books is
    /// opened: limits above the pool live there.
    pub fn checkout(
        &mut self,
        worker: usize,
        now_us: u64,
        room: impl FnOnce() -> bool,
        waiter: impl FnOnce(Ticket) -> W,
    ) -> Checkout<S> {
        if let Some(server) = self.lanes.get_mut(worker).and_then(|lane| lane.idle.pop()) {
            return Checkout::Own(server);
        }
        if let Some(server) = self.lanes.iter_mut().find_map(|lane| lane.idle.pop()) {
            return Checkout::Moved(server);
        }
        // counted first: whom the dial is for does not wait in vain
        self.waiting += 1;
        let dial = self.dial(now_us, room);
        if !dial && self.is_full() {
            self.waiting -= 1;
            return Checkout::Full;
        }
        let ticket = self.ticket();
        match self.lanes.get_mut(worker) {
            Some(lane) => lane.queue.push_back(Waiting { ticket, since_us: now_us, waiter: waiter(ticket) }),
            None => self.waiting -= 1,
        }
        Checkout::Queued { ticket, dial }
    }

    const fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }

    /// Whether more wait than may.
    fn is_full(&self) -> bool {
        self.bounds.waiting_max != 0 && self.waiting().saturating_sub(self.connecting) > self.bounds.waiting_max
    }

    /// Asks for a place for a connection that never comes into this pool: `room` as in [`Self::checkout`].
    pub fn claim(&mut self, now_us: u64, room: impl FnOnce() -> bool, waiter: impl FnOnce(Ticket) -> W) -> Claim<S> {
        if let Some(server) = self.take_oldest_idle() {
            return Claim::Instead(server);
        }
        let others_first = self.waiting > self.connecting && !self.resting;
        if !others_first && self.claims.is_empty() && self.open < self.bounds.size && room() {
            self.open += 1;
            return Claim::Place;
        }
        let ticket = self.ticket();
        self.claims.push_back(Waiting { ticket, since_us: now_us, waiter: waiter(ticket) });
        if self.is_full() {
            self.claims.pop_back();
            return Claim::Full;
        }
        Claim::Queued(ticket)
    }

    /// Whether the caller must dial for those who wait; counted when so.
    pub fn dial(&mut self, now_us: u64, room: impl FnOnce() -> bool) -> bool {
        let dial = self.wants_to_dial(now_us) && room();
        if dial {
            self.open += 1;
            self.connecting += 1;
        }
        dial
    }

    /// Whether the caller must dial so that there are as many connections as are always kept; counted when so.
    pub fn dial_spare(&mut self, room: impl FnOnce() -> bool) -> bool {
        let dial = !self.resting && self.open < self.bounds.min.min(self.bounds.size) && room();
        if dial {
            self.open += 1;
            self.connecting += 1;
        }
        dial
    }

    /// The claim that gets a free place now; counted when there is one.
    pub fn next_claim(&mut self, now_us: u64, room: impl FnOnce() -> bool) -> Option<(Ticket, W)> {
        if !self.wants_claim(now_us) || !room() {
            return None;
        }
        self.open += 1;
        self.claims.pop_front().map(|claim| (claim.ticket, claim.waiter))
    }

    /// Whether somebody waits whom only a connection beyond what is being dialled would serve, and there could be one.
    #[must_use]
    pub fn wants_more(&self, now_us: u64) -> bool {
        self.wants_to_dial(now_us) || self.wants_claim(now_us)
    }

    fn wants_to_dial(&self, now_us: u64) -> bool {
        !self.resting
            && self.waiting > self.connecting
            && (self.open < self.bounds.size || self.has_reserve() && self.overdue(now_us) > self.connecting)
    }

    fn wants_claim(&self, now_us: u64) -> bool {
        let Some(claim) = self.claims.front() else { return false };
        let others_first = self.waiting > self.connecting
            && !self.resting
            && self.oldest_queued_us().is_some_and(|oldest| oldest < claim.since_us);
        let overdue = || is_overdue(claim.since_us, self.bounds.reserve_after_us, now_us);
        !others_first && (self.open < self.bounds.size || self.has_reserve() && overdue())
    }

    const fn has_reserve(&self) -> bool {
        self.open < self.most()
    }

    const fn most(&self) -> u32 {
        self.bounds.size.saturating_add(self.bounds.reserve)
    }

    /// Takes back a lent server that is fit for anybody.
    pub fn release(&mut self, worker: usize, server: S) -> Release<S, W> {
        if self.open > self.most() {
            return Release::Close(server);
        }
        if let Some(claim) = self.claims.front()
            && self.oldest_queued_us().is_none_or(|oldest| claim.since_us <= oldest)
            && let Some(Waiting { ticket, waiter, .. }) = self.claims.pop_front()
        {
            return Release::Instead { server, ticket, waiter };
        }
        let oldest_of =
            |lane: &Lane<S, W>, at: usize| lane.queue.front().map(|first| (first.since_us, first.ticket, at));
        let own = self.lanes.get(worker).and_then(|lane| oldest_of(lane, worker));
        let others = self.lanes.iter().enumerate().filter(|(at, _)| *at != worker);
        let other = others.filter_map(|(at, lane)| oldest_of(lane, at)).min();
        let from = match (own, other) {
            (Some(own), Some(other)) if other.0.saturating_add(OVERTAKING_MAX_US) < own.0 => other.2,
            (Some(own), _) => own.2,
            (None, Some(other)) => other.2,
            (None, None) => {
                if self.open > self.bounds.size {
                    return Release::Close(server); // the reserve is for as long as somebody waits
                }
                if let Some(lane) = self.lanes.get_mut(worker) {
                    lane.idle.push(server);
                }
                return Release::Kept;
            }
        };
        match self.lanes.get_mut(from).and_then(|lane| lane.queue.pop_front()) {
            Some(first) => {
                self.waiting -= 1;
                Release::Grant { server, ticket: first.ticket, waiter: first.waiter, moved: from != worker }
            }
            None => Release::Close(server),
        }
    }

    /// A dial has succeeded: the new server goes the way of every released one.
    pub fn dialled(&mut self, worker: usize, server: S) -> Release<S, W> {
        self.connecting -= 1;
        self.release(worker, server)
    }

    /// A dial has failed: its place is free again, and until [`Self::rested`] nobody dials.
    pub fn dial_failed(&mut self) {
        self.connecting -= 1;
        self.open -= 1;
        self.resting = true;
    }

    /// The pause after a failed dial is over.
    pub fn rested(&mut self) {
        self.resting = false;
    }

    /// A server that was lent or idle is closed: its place is free.
    pub fn closed(&mut self) {
        self.open -= 1;
    }

    /// A place has been taken for a connection that never comes back into this pool.
    pub const fn set_apart(&mut self) {
        self.apart += 1;
    }

    /// Such a connection is closed: its place is free.
    pub const fn closed_apart(&mut self) {
        self.apart -= 1;
        self.open -= 1;
    }

    /// A server that was lent or idle is told to hang up: it keeps its place until [`Self::hung_up`].
    pub const fn closes(&mut self) {
        self.closing += 1;
    }

    /// Such a server is gone: its place is free.
    pub const fn hung_up(&mut self) {
        self.closing -= 1;
        self.open -= 1;
    }

    /// How many connections there are, or will be in a moment, that serve whoever comes.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.open.saturating_sub(self.apart + self.closing)
    }

    /// Leaves the queue; `false` when the place was given a server (or refused) already.
    pub fn leave(&mut self, worker: usize, ticket: Ticket) -> bool {
        let Some(lane) = self.lanes.get_mut(worker) else { return false };
        let Ok(at) = lane.queue.binary_search_by_key(&ticket, |waiting| waiting.ticket) else { return false };
        lane.queue.remove(at);
        self.waiting -= 1;
        true
    }

    /// [`Self::leave`] for a claim.
    pub fn leave_claim(&mut self, ticket: Ticket) -> bool {
        let Ok(at) = self.claims.binary_search_by_key(&ticket, |waiting| waiting.ticket) else { return false };
        self.claims.remove(at);
        true
    }

    /// Empties the queue: nobody who waits now can be served. Whoever comes next dials at once, as nobody else will for
    /// it.
    pub fn dismiss(&mut self) -> impl Iterator<Item = (Ticket, W)> + '_ {
        self.waiting = 0;
        self.resting = false;
        self.lanes.iter_mut().flat_map(|lane| lane.queue.drain(..)).map(|waiting| (waiting.ticket, waiting.waiter))
    }

    /// Takes all claims out of the queue: there is nothing to claim here any more.
    pub fn dismiss_claims(&mut self) -> impl Iterator<Item = (Ticket, W)> + '_ {
        self.claims.drain(..).map(|waiting| (waiting.ticket, waiting.waiter))
    }

    /// Takes the idle servers of a worker for which `pick` says so, the least recently used first. They are lent until
    /// [`Self::release`] or [`Self::closed`].
    pub fn take_idle(&mut self, worker: usize, pick: impl FnMut(&mut S) -> bool) -> Vec<S> {
        self.lanes.get_mut(worker).map(|lane| lane.idle.extract_if(.., pick).collect()).unwrap_or_default()
    }

    /// Takes the least recently used idle server of any worker.
    pub fn take_oldest_idle(&mut self) -> Option<S> {
        self.lanes.iter_mut().find(|lane| !lane.idle.is_empty()).map(|lane| lane.idle.remove(0))
    }

    /// Takes an idle server of any worker that `fits`, if one of those unused for longest in their lanes does.
    pub fn take_idle_if(&mut self, fits: impl Fn(&S) -> bool) -> Option<S> {
        self.lanes.iter_mut().find(|lane| lane.idle.first().is_some_and(&fits)).map(|lane| lane.idle.remove(0))
    }

    /// Whether any server is idle.
    #[must_use]
    pub fn has_idle(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.idle.is_empty())
    }

    /// Takes as many idle servers as there are connections above the size.
    pub fn take_excess(&mut self) -> Vec<S> {
        (self.bounds.size..self.open).map_while(|_| self.take_oldest_idle()).collect()
    }

    /// How many connections there are beyond those that are always kept.
    #[must_use]
    pub const fn spare(&self) -> u32 {
        self.open.saturating_sub(self.bounds.min)
    }

    /// Looks at every idle server.
    pub fn idle_servers(&self) -> impl Iterator<Item = &S> {
        self.lanes.iter().flat_map(|lane| lane.idle.iter())
    }

    /// How many of what there may be.
    #[must_use]
    pub const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Changes the bounds; connections above them go as they are given back.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }
}

const fn is_overdue(since_us: u64, after_us: u64, now_us: u64) -> bool {
    since_us.saturating_add(after_us) <= now_us
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    type Books = Accounting<u32, u32>;

    fn sized(size: u32) -> Bounds {
        Bounds { size, ..Bounds::default() }
    }

    fn queue(books: &mut Books, worker: usize, now_us: u64, who: u32) -> Checkout<u32> {
        books.checkout(worker, now_us, || true, |_| who)
    }

    #[test]
    fn a_released_server_goes_to_the_oldest_waiter_of_its_worker_unless_another_waited_1_ms_longer() {
        for (other_since, granted_to) in [(1_000, 1), (999, 2)] {
            let mut books = Books::new(sized(1), 2);
            assert!(matches!(queue(&mut books, 0, 0, 0), Checkout::Queued { dial: true, .. }));
            assert!(matches!(books.dialled(0, 7), Release::Grant { waiter: 0, .. }));
            assert!(matches!(queue(&mut books, 1, other_since, 2), Checkout::Queued { dial: false, .. }));
            assert!(matches!(queue(&mut books, 0, 2_000, 1), Checkout::Queued { dial: false, .. }));
            let Release::Grant { waiter, moved, .. } = books.release(0, 7) else { panic!() };
            assert_eq!((waiter, moved), (granted_to, granted_to == 2));
        }
    }

    #[test]
    fn after_a_failed_dial_nobody_dials_until_it_has_rested() {
        let mut books = Books::new(sized(2), 1);
        assert!(matches!(queue(&mut books, 0, 0, 0), Checkout::Queued { dial: true, .. }));
        books.dial_failed();
        assert!(matches!(queue(&mut books, 0, 1, 1), Checkout::Queued { dial: false, .. }));
        books.rested();
        assert!(books.dial(2, || true));
        assert_eq!(books.counts(), Counts { open: 1, connecting: 1, idle: 0, waiting: 2 });
    }

    #[test]
    fn whoever_comes_after_a_dismissal_has_somebody_who_dials() {
        let mut books = Books::new(sized(2), 1);
        assert!(matches!(queue(&mut books, 0, 0, 0), Checkout::Queued { dial: true, .. }));
        books.dial_failed();
        assert_eq!(books.dismiss().map(|(_, who)| who).collect::<Vec<_>>(), [0]);
        assert!(matches!(queue(&mut books, 0, 1, 1), Checkout::Queued { dial: true, .. }));
    }

    #[test]
    fn a_lowered_limit_takes_servers_away_as_they_come_back() {
        let mut books = Books::new(sized(2), 1);
        for who in 0..2 {
            queue(&mut books, 0, 0, who);
            books.dialled(0, who);
        }
        books.set_bounds(sized(1));
        assert_eq!(books.release(0, 0), Release::Close(0));
        books.closed();
        assert_eq!(books.release(0, 1), Release::Kept);
        books.set_bounds(sized(0));
        assert_eq!((books.take_excess(), books.take_excess()), (vec![1], vec![]));
    }

    #[test]
    fn the_reserve_is_for_whoever_has_waited_long_and_for_as_long_as_anybody_waits() {
        let bounds = Bounds { reserve: 1, reserve_after_us: 100, ..sized(1) };
        let mut books = Books::new(bounds, 1);
        for (at, who) in [(0, 0), (10, 1), (20, 2)] {
            queue(&mut books, 0, at, who);
        }
        assert!(matches!(books.dialled(0, 7), Release::Grant { waiter: 0, .. }));
        assert!(!books.dial(109, || true), "nobody has waited long enough");
        assert!(books.dial(110, || true));
        assert!(!books.dial(1_000, || true), "there is only one more");
        assert!(matches!(books.dialled(0, 8), Release::Grant { waiter: 1, .. }));
        assert!(matches!(books.release(0, 8), Release::Grant { waiter: 2, .. }));
        assert_eq!(books.release(0, 8), Release::Close(8));
        books.closed();
        assert_eq!(books.release(0, 7), Release::Kept);
    }

    #[test]
    fn no_more_wait_than_may_and_whom_a_dial_serves_does_not_count() {
        let mut books = Books::new(Bounds { waiting_max: 1, ..sized(2) }, 1);
        for who in 0..2 {
            assert!(matches!(queue(&mut books, 0, 0, who), Checkout::Queued { dial: true, .. }));
        }
        let Checkout::Queued { ticket, dial: false } = queue(&mut books, 0, 0, 2) else { panic!() };
        assert_eq!(queue(&mut books, 0, 0, 3), Checkout::Full);
        assert_eq!(books.claim(0, || true, |_| 4), Claim::Full);
        assert_eq!(books.counts().waiting, 3);
        assert!(books.leave(0, ticket));
        assert!(matches!(books.claim(0, || true, |_| 5), Claim::Queued(_)));
    }

    #[test]
    fn a_claim_waits_its_turn_and_gets_the_place_of_a_server_that_is_closed_for_it() {
        let mut books = Books::new(sized(1), 1);
        queue(&mut books, 0, 0, 0);
        books.dialled(0, 7);
        queue(&mut books, 0, 1, 1);
        assert!(matches!(books.claim(2, || true, |_| 2), Claim::Queued(_)));
        queue(&mut books, 0, 3, 3);
        assert!(matches!(books.release(0, 7), Release::Grant { waiter: 1, .. }));
        assert!(matches!(books.release(0, 7), Release::Instead { server: 7, waiter: 2, .. }));
        assert_eq!((books.counts().open, books.counts().waiting), (1, 1));
        books.closed();
        assert!(books.dial(4, || true), "the place is for whoever is next");
        // a place that is free, and one that is an idle server's
        let mut books = Books::new(sized(2), 1);
        assert_eq!(books.claim(0, || true, |_| 0), Claim::Place);
        assert!(matches!(books.claim(0, || false, |_| 1), Claim::Queued(_)));
        assert_eq!(books.next_claim(0, || true).map(|(_, who)| who), Some(1));
        assert!(books.next_claim(0, || true).is_none());
        books.closed();
        queue(&mut books, 0, 0, 2);
        books.dialled(0, 7);
        books.release(0, 7);
        assert_eq!(books.claim(0, || true, |_| 3), Claim::Instead(7));
        assert_eq!(books.counts(), Counts { open: 2, connecting: 0, idle: 0, waiting: 0 });
    }

    #[test]
    fn as_many_as_are_always_kept_are_dialled_and_not_more_than_the_size() {
        let mut books = Books::new(Bounds { min: 9, ..sized(2) }, 1);
        assert!(books.dial_spare(|| true) && books.dial_spare(|| true) && !books.dial_spare(|| true));
        assert_eq!(books.dialled(0, 1), Release::Kept);
        assert_eq!((books.dialled(0, 2), books.spare()), (Release::Kept, 0));
    }

    /// What happens next in a schedule; numbers pick among what is possible.
    #[derive(Clone, Debug)]
    enum Event {
        Checkout(usize),
        Claim,
        Release(usize, usize),
        Close(usize),
        Dialled(bool),
        Leave(usize),
        Sweep(usize),
        Pass(u64),
        Room(bool),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..3usize).prop_map(Event::Checkout),
            1 => Just(Event::Claim),
            4 => (any::<usize>(), 0..3usize).prop_map(|(which, worker)| Event::Release(which, worker)),
            1 => any::<usize>().prop_map(Event::Close),
            3 => any::<bool>().prop_map(Event::Dialled),
            1 => any::<usize>().prop_map(Event::Leave),
            1 => (0..3usize).prop_map(Event::Sweep),
            2 => (0..3_000u64).prop_map(Event::Pass),
            1 => any::<bool>().prop_map(Event::Room),
        ]
    }

    /// What the server with this number is when it belongs to a claim: nobody's.
    const CLAIMED: u32 = 0;

    /// Everything the books do not know: who holds what.
    struct World {
        lent: Vec<u32>,
        dialling: Vec<usize>,
        waiting: HashMap<u32, Place>,
        resting: bool,
        /// What the limits above the pool say.
        room: bool,
        now_us: u64,
        next: u32,
    }

    /// Where somebody waits.
    struct Place {
        /// `None` for a claim.
        worker: Option<usize>,
        since_us: u64,
        ticket: Ticket,
    }

    impl World {
        fn new() -> Self {
            let (lent, dialling, waiting) = (Vec::new(), Vec::new(), HashMap::new());
            Self { lent, dialling, waiting, resting: false, room: true, now_us: 0, next: CLAIMED }
        }

        fn settle(&mut self, books: &mut Books, release: Release<u32, u32>) {
            match release {
                Release::Kept => assert!(books.counts().open <= books.bounds().size, "idle above the size"),
                Release::Close(_) => books.closed(),
                Release::Grant { server, waiter, ticket, .. } => {
                    let place = self.waiting.remove(&waiter).expect("a grant goes to one who waits");
                    assert_eq!((ticket, place.worker.is_some()), (place.ticket, true));
                    self.not_overtaken(&place);
                    self.lent.push(server);
                }
                Release::Instead { ticket, waiter, .. } => self.claimed(ticket, waiter, 0),
            }
            self.dial(books);
        }

        fn not_overtaken(&self, place: &Place) {
            let oldest = self.waiting.values().map(|other| other.since_us).min();
            assert!(oldest.is_none_or(|oldest| oldest + OVERTAKING_MAX_US >= place.since_us), "overtaken");
        }

        /// A claim gets a place; that many who came before it are being dialled for.
        fn claimed(&mut self, ticket: Ticket, waiter: u32, dialled_for: usize) {
            let place = self.waiting.remove(&waiter).expect("a place goes to one who waits");
            assert_eq!((ticket, place.worker), (place.ticket, None));
            let before = self.waiting.values().filter(|other| other.since_us < place.since_us).count();
            assert!(before <= dialled_for || self.resting, "overtaken by a claim");
            self.lent.push(CLAIMED);
        }

        fn dial(&mut self, books: &mut Books) {
            loop {
                let (open, size) = (books.counts().open, books.bounds().size);
                if let Some((ticket, waiter)) = books.next_claim(self.now_us, || self.room) {
                    self.claimed(ticket, waiter, self.dialling.len());
                } else if books.dial(self.now_us, || self.room) {
                    self.dialling.push(0);
                } else {
                    return;
                }
                self.reserve_is_earned(books, open >= size);
            }
        }

        /// Whoever has just been given something above the size, or is dialled for, has waited.
        fn reserve_is_earned(&self, books: &Books, above: bool) {
            let Some(then) = self.now_us.checked_sub(books.bounds().reserve_after_us) else {
                assert!(!above, "the reserve was used too early");
                return;
            };
            let overdue = self.waiting.values().filter(|place| place.since_us <= then).count();
            let claims = self.lent.iter().filter(|server| **server == CLAIMED).count();
            assert!(!above || overdue > 0 || claims > 0, "the reserve was used for nobody");
        }
    }

    proptest! {
        #[test]
        fn the_books_always_balance(
            size in 1..5u32,
            reserve in 0..3u32,
            waiting_max in 0..9u32,
            events in prop::collection::vec(event(), 1..300),
        ) {
            let bounds = Bounds { reserve, reserve_after_us: 5_000, waiting_max, ..sized(size) };
            let mut books = Books::new(bounds, 3);
            let mut world = World::new();
            for event in events {
                match event {
                    Event::Checkout(worker) => {
                        world.next += 1;
                        let who = world.next;
                        match books.checkout(worker, world.now_us, || world.room, |_| who) {
                            Checkout::Own(server) | Checkout::Moved(server) => {
                                prop_assert!(world.waiting.is_empty(), "a newcomer overtook the queue");
                                world.lent.push(server);
                            }
                            Checkout::Queued { ticket, dial } => {
                                let place = Place { worker: Some(worker), since_us: world.now_us, ticket };
                                world.waiting.insert(who, place);
                                if dial {
                                    world.dialling.push(worker);
                                }
                            }
                            Checkout::Full => prop_assert!(waiting_max > 0),
                        }
                    }
                    Event::Claim => {
                        world.next += 1;
                        let who = world.next;
                        match books.claim(world.now_us, || world.room, |_| who) {
                            Claim::Place | Claim::Instead(_) => {
                                prop_assert!(
                                    world.waiting.len() <= world.dialling.len() || world.resting,
                                    "a claim overtook the queue"
                                );
                                world.lent.push(CLAIMED);
                            }
                            Claim::Queued(ticket) => {
                                world.waiting.insert(who, Place { worker: None, since_us: world.now_us, ticket });
                            }
                            Claim::Full => prop_assert!(waiting_max > 0),
                        }
                    }
                    Event::Release(which, worker) if !world.lent.is_empty() => {
                        let server = world.lent.swap_remove(which % world.lent.len());
                        if server == CLAIMED {
                            books.closed();
                            world.dial(&mut books);
                        } else {
                            let release = books.release(worker, server);
                            world.settle(&mut books, release);
                        }
                    }
                    Event::Close(which) if !world.lent.is_empty() => {
                        world.lent.swap_remove(which % world.lent.len());
                        books.closed();
                        world.dial(&mut books);
                    }
                    Event::Dialled(works) if !world.dialling.is_empty() => {
                        let worker = world.dialling.remove(0);
                        if works {
                            world.next += 1;
                            let release = books.dialled(worker, world.next);
                            world.settle(&mut books, release);
                        } else {
                            books.dial_failed();
                            world.resting = true;
                        }
                    }
                    Event::Leave(which) if !world.waiting.is_empty() => {
                        let who = *world.waiting.keys().nth(which % world.waiting.len()).unwrap();
                        let Place { worker, ticket, .. } = world.waiting.remove(&who).unwrap();
                        let mut leave = || match worker {
                            Some(worker) => books.leave(worker, ticket),
                            None => books.leave_claim(ticket),
                        };
                        prop_assert!(leave() && !leave());
                    }
                    Event::Sweep(worker) => {
                        let swept = books.take_idle(worker, |_| true).len();
                        (0..swept).for_each(|_| books.closes());
                        prop_assert_eq!(books.held(), books.counts().open - u32::try_from(swept).unwrap());
                        (0..swept).for_each(|_| books.hung_up());
                    }
                    Event::Pass(us) => {
                        world.now_us += us;
                        if std::mem::take(&mut world.resting) {
                            books.rested();
                        }
                        world.dial(&mut books);
                    }
                    Event::Room(room) => {
                        world.room = room;
                        world.dial(&mut books);
                    }
                    _ => {}
                }
                let counts = books.counts();
                let known = world.lent.len() + world.dialling.len() + counts.idle as usize;
                prop_assert_eq!(counts.open as usize, known, "a permit was lost or made up");
                prop_assert!(counts.open <= size + reserve);
                prop_assert_eq!(counts.connecting as usize, world.dialling.len());
                prop_assert_eq!(counts.waiting as usize, world.waiting.len());
                prop_assert!(counts.idle == 0 || counts.waiting == 0, "an idle server beside a waiter");
                let servers = || world.lent.iter().chain(books.idle_servers()).filter(|server| **server != CLAIMED);
                prop_assert_eq!(servers().collect::<HashSet<_>>().len(), servers().count(), "a server lent twice");
            }
            // whoever still waits is served once servers come back and dials succeed
            books.rested();
            world.room = true;
            for _ in 0..1_000 {
                world.dial(&mut books);
                if world.dialling.pop().is_some() {
                    world.next += 1;
                    let release = books.dialled(0, world.next);
                    world.settle(&mut books, release);
                } else if let Some(server) = world.lent.pop() {
                    if server == CLAIMED {
                        books.closed();
                    } else {
                        let release = books.release(0, server);
                        world.settle(&mut books, release);
                    }
                }
            }
            prop_assert!(world.waiting.is_empty(), "a waiter starved");
        }
    }
}
