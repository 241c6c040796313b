//! The books of one pool over all workers: who is idle, who waits, how many connections exist.
//!
//! Pure: no socket, no clock, no lock. The pool's lock is around this and nothing else. Servers `S` and waiters `W` are
//! the caller's; times are microseconds on any common clock.
//!
//! Invariants, held by `tests::the_books_always_balance` over random schedules:
//! - `connecting + idle + lent + closing == open`, and `open <= size + reserve` unless either was lowered meanwhile;
//! - above `size` nothing is opened but for somebody who has waited `reserve_after_us`, and nothing is idle;
//! - idle servers and waiters never exist together;
//! - nobody is served before someone who arrived more than [`OVERTAKING_MAX_US`] earlier;
//! - while the books are held ([`Accounting::hold`]) nothing is lent and nothing opened, and servers that come back stay.
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
    /// Nothing is lent and nothing opened.
    held: bool,
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
            held: false,
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

    /// The servers at rest.
    pub fn idle(&self) -> impl Iterator<Item = &S> {
        self.lanes.iter().flat_map(|lane| lane.idle.iter())
    }

    /// Those who wait, and since when.
    pub fn queued(&self) -> impl Iterator<Item = (&W, u64)> {
        let queued = self.lanes.iter().flat_map(|lane| lane.queue.iter()).chain(&self.claims);
        queued.map(|waiting| (&waiting.waiter, waiting.since_us))
    }

    /// How many connections are being closed.
    #[must_use]
    pub const fn closing(&self) -> u32 {
        self.closing
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
        if !self.held {
            if let Some(server) = self.lanes.get_mut(worker).and_then(|lane| lane.idle.pop()) {
                return Checkout::Own(server);
            }
            if let Some(server) = self.lanes.iter_mut().find_map(|lane| lane.idle.pop()) {
                return Checkout::Moved(server);
            }
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

    /// Whether more wait than may. Everybody may while nobody could be served.
    fn is_full(&self) -> bool {
        !self.held
            && self.bounds.waiting_max != 0
            && self.waiting().saturating_sub(self.connecting) > self.bounds.waiting_max
    }

    /// Asks for a place for a connection that never comes into this pool: `room` as in [`Self::checkout`].
    pub fn claim(&mut self, now_us: u64, room: impl FnOnce() -> bool, waiter: impl FnOnce(Ticket) -> W) -> Claim<S> {
        if !self.held
            && let Some(server) = self.take_oldest_idle()
        {
            return Claim::Instead(server);
        }
        let others_first = self.waiting > self.connecting && !self.resting;
        if !self.held && !others_first && self.claims.is_empty() && self.open < self.bounds.size && room() {
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
        let dial = !self.held && !self.resting && self.open < self.bounds.min.min(self.bounds.size) && room();
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
        !self.held
            && !self.resting
            && self.waiting > self.connecting
            && (self.open < self.bounds.size || self.has_reserve() && self.overdue(now_us) > self.connecting)
    }

    fn wants_claim(&self, now_us: u64) -> bool {
        let Some(claim) = self.claims.front().filter(|_| !self.held) else { return false };
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
        if self.held {
            return self.keep(worker, server);
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
            (None, None) => return self.keep(worker, server),
        };
        match self.lanes.get_mut(from).and_then(|lane| lane.queue.pop_front()) {
            Some(first) => {
                self.waiting -= 1;
                Release::Grant { server, ticket: first.ticket, waiter: first.waiter, moved: from != worker }
            }
            None => Release::Close(server),
        }
    }

    fn keep(&mut self, worker: usize, server: S) -> Release<S, W> {
        if self.open > self.bounds.size {
            return Release::Close(server); // the reserve is for as long as somebody is served from it
        }
        if let Some(lane) = self.lanes.get_mut(worker) {
            lane.idle.push(server);
        }
        Release::Kept
    }

    /// Nothing is lent and nothing opened from now on, until [`Self::go_on`].
    pub const fn hold(&mut self) {
        self.held = true;
    }

    /// The hold is over. Those who wait beside idle servers are to be [dismissed](Self::dismiss): they come again.
    pub const fn go_on(&mut self) {
        self.held = false;
    }

    /// Whether nothing is lent.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// How many connections are at work, or may be: everything but the idle ones.
    #[must_use]
    pub fn busy(&self) -> u32 {
        let counts = self.counts();
        counts.open.saturating_sub(counts.idle)
    }

    /// A dial has succeeded: the new server goes the way of every released one.
    pub fn dialled(&mut self, worker: usize, server: S) -> Release<S, W> {
        self.connecting -= 1;
        self.release(worker, server)
    }

    /// A dial has succeeded for a server that nobody may use: it is lent until it is [closed](Self::closes).
    pub const fn dialled_in_vain(&mut self) {
        self.connecting -= 1;
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
mod tests;
