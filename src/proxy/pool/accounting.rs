//! The books of one pool over all workers: who is idle, who waits, how many connections exist.
//!
//! Pure: no socket, no clock, no lock. The pool's lock is around this and nothing else. Servers `S` and waiters `W` are
//! the caller's; times are microseconds on any common clock.
//!
//! Invariants, held by `tests::the_books_always_balance` over random schedules:
//! - `connecting + idle + lent + closing == open`, and `open <= limit` unless the limit was lowered meanwhile;
//! - idle servers and waiters never exist together;
//! - nobody is served before someone who arrived more than [`OVERTAKING_MAX_US`] earlier.

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
    limit: u32,
    open: u32,
    connecting: u32,
    waiting: u32,
    /// Dialling has just failed; only the one who rests may dial again.
    resting: bool,
    next_ticket: u64,
    lanes: Vec<Lane<S, W>>,
}

impl<S, W> Accounting<S, W> {
    /// Books of an empty pool for `workers` workers.
    #[must_use]
    pub fn new(limit: u32, workers: usize) -> Self {
        let lanes = (0..workers).map(|_| Lane { idle: Vec::new(), queue: VecDeque::new() }).collect();
        Self { limit, open: 0, connecting: 0, waiting: 0, resting: false, next_ticket: 0, lanes }
    }

    /// The numbers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let idle = self.lanes.iter().map(|lane| lane.idle.len()).sum::<usize>();
        Counts {
            open: self.open,
            connecting: self.connecting,
            idle: u32::try_from(idle).unwrap_or(u32::MAX),
            waiting: self.waiting,
        }
    }

    /// How many clients wait.
    #[must_use]
    pub const fn waiting(&self) -> u32 {
        self.waiting
    }

    /// When the oldest waiter came.
    #[must_use]
    pub fn oldest_us(&self) -> Option<u64> {
        self.lanes.iter().filter_map(|lane| lane.queue.front()).map(|first| first.since_us).min()
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
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        if let Some(lane) = self.lanes.get_mut(worker) {
            lane.queue.push_back(Waiting { ticket, since_us: now_us, waiter: waiter(ticket) });
            self.waiting += 1;
        }
        Checkout::Queued { ticket, dial: self.dial(room) }
    }

    /// Whether the caller must dial for those who wait; counted when so.
    pub fn dial(&mut self, room: impl FnOnce() -> bool) -> bool {
        let dial = !self.resting && self.waiting > self.connecting && self.open < self.limit && room();
        if dial {
            self.open += 1;
            self.connecting += 1;
        }
        dial
    }

    /// Whether somebody waits whom only a connection beyond what is being dialled would serve.
    #[must_use]
    pub const fn wants_to_dial(&self) -> bool {
        !self.resting && self.waiting > self.connecting && self.open < self.limit
    }

    /// Takes back a lent server that is fit for anybody.
    pub fn release(&mut self, worker: usize, server: S) -> Release<S, W> {
        if self.open > self.limit {
            return Release::Close(server);
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

    /// Leaves the queue; `false` when the place was given a server (or refused) already.
    pub fn leave(&mut self, worker: usize, ticket: Ticket) -> bool {
        let Some(lane) = self.lanes.get_mut(worker) else { return false };
        let Ok(at) = lane.queue.binary_search_by_key(&ticket, |waiting| waiting.ticket) else { return false };
        lane.queue.remove(at);
        self.waiting -= 1;
        true
    }

    /// Empties the queue: nobody who waits now can be served. Whoever comes next dials at once, as nobody else will for
    /// it.
    pub fn dismiss(&mut self) -> impl Iterator<Item = (Ticket, W)> + '_ {
        self.waiting = 0;
        self.resting = false;
        self.lanes.iter_mut().flat_map(|lane| lane.queue.drain(..)).map(|waiting| (waiting.ticket, waiting.waiter))
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

    /// Takes as many idle servers as there are connections above the limit.
    pub fn take_excess(&mut self) -> Vec<S> {
        (self.limit..self.open).map_while(|_| self.take_oldest_idle()).collect()
    }

    /// Looks at every idle server.
    pub fn idle_servers(&self) -> impl Iterator<Item = &S> {
        self.lanes.iter().flat_map(|lane| lane.idle.iter())
    }

    /// The most connections there may be.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Changes the limit; what is above it goes as it is given back.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    type Books = Accounting<u32, u32>;

    fn queue(books: &mut Books, worker: usize, now_us: u64, who: u32) -> Checkout<u32> {
        books.checkout(worker, now_us, || true, |_| who)
    }

    #[test]
    fn a_released_server_goes_to_the_oldest_waiter_of_its_worker_unless_another_waited_1_ms_longer() {
        for (other_since, granted_to) in [(1_000, 1), (999, 2)] {
            let mut books = Books::new(1, 2);
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
        let mut books = Books::new(2, 1);
        assert!(matches!(queue(&mut books, 0, 0, 0), Checkout::Queued { dial: true, .. }));
        books.dial_failed();
        assert!(matches!(queue(&mut books, 0, 1, 1), Checkout::Queued { dial: false, .. }));
        books.rested();
        assert!(books.dial(|| true));
        assert_eq!(books.counts(), Counts { open: 1, connecting: 1, idle: 0, waiting: 2 });
    }

    #[test]
    fn whoever_comes_after_a_dismissal_has_somebody_who_dials() {
        let mut books = Books::new(2, 1);
        assert!(matches!(queue(&mut books, 0, 0, 0), Checkout::Queued { dial: true, .. }));
        books.dial_failed();
        assert_eq!(books.dismiss().map(|(_, who)| who).collect::<Vec<_>>(), [0]);
        assert!(matches!(queue(&mut books, 0, 1, 1), Checkout::Queued { dial: true, .. }));
    }

    #[test]
    fn a_lowered_limit_takes_servers_away_as_they_come_back() {
        let mut books = Books::new(2, 1);
        for who in 0..2 {
            queue(&mut books, 0, 0, who);
            books.dialled(0, who);
        }
        books.set_limit(1);
        assert_eq!(books.release(0, 0), Release::Close(0));
        books.closed();
        assert_eq!(books.release(0, 1), Release::Kept);
        books.set_limit(0);
        assert_eq!((books.take_excess(), books.take_excess()), (vec![1], vec![]));
    }

    /// What happens next in a schedule; numbers pick among what is possible.
    #[derive(Clone, Debug)]
    enum Event {
        Checkout(usize),
        Release(usize, usize),
        Close(usize),
        Dialled(bool),
        Leave(usize),
        Sweep(usize),
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..3usize).prop_map(Event::Checkout),
            4 => (any::<usize>(), 0..3usize).prop_map(|(which, worker)| Event::Release(which, worker)),
            1 => any::<usize>().prop_map(Event::Close),
            3 => any::<bool>().prop_map(Event::Dialled),
            1 => any::<usize>().prop_map(Event::Leave),
            1 => (0..3usize).prop_map(Event::Sweep),
            2 => (0..3_000u64).prop_map(Event::Pass),
        ]
    }

    /// Everything the books do not know: who holds what.
    #[derive(Default)]
    struct World {
        lent: Vec<u32>,
        dialling: Vec<usize>,
        waiting: HashMap<u32, (usize, u64, Ticket)>,
        resting: bool,
        now_us: u64,
        next: u32,
    }

    impl World {
        fn settle(&mut self, books: &mut Books, release: Release<u32, u32>) {
            match release {
                Release::Kept => {}
                Release::Close(_) => books.closed(),
                Release::Grant { server, waiter, ticket, .. } => {
                    let (_, since, queued) = self.waiting.remove(&waiter).expect("a grant goes to one who waits");
                    assert_eq!(ticket, queued);
                    let oldest = self.waiting.values().map(|(_, since, _)| *since).min();
                    assert!(oldest.is_none_or(|oldest| oldest + OVERTAKING_MAX_US >= since), "overtaken");
                    self.lent.push(server);
                }
            }
            if books.dial(|| true) {
                self.dialling.push(0);
            }
        }
    }

    proptest! {
        #[test]
        fn the_books_always_balance(limit in 1..5u32, events in prop::collection::vec(event(), 1..300)) {
            let mut books = Books::new(limit, 3);
            let mut world = World::default();
            for event in events {
                match event {
                    Event::Checkout(worker) => {
                        world.next += 1;
                        let who = world.next;
                        match books.checkout(worker, world.now_us, || true, |_| who) {
                            Checkout::Own(server) | Checkout::Moved(server) => {
                                prop_assert!(world.waiting.is_empty(), "a newcomer overtook the queue");
                                world.lent.push(server);
                            }
                            Checkout::Queued { ticket, dial } => {
                                world.waiting.insert(who, (worker, world.now_us, ticket));
                                if dial {
                                    world.dialling.push(worker);
                                }
                            }
                        }
                    }
                    Event::Release(which, worker) if !world.lent.is_empty() => {
                        let server = world.lent.swap_remove(which % world.lent.len());
                        let release = books.release(worker, server);
                        world.settle(&mut books, release);
                    }
                    Event::Close(which) if !world.lent.is_empty() => {
                        world.lent.swap_remove(which % world.lent.len());
                        books.closed();
                        if books.dial(|| true) {
                            world.dialling.push(0);
                        }
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
                        let (worker, _, ticket) = world.waiting.remove(&who).unwrap();
                        prop_assert!(books.leave(worker, ticket));
                        prop_assert!(!books.leave(worker, ticket));
                    }
                    Event::Sweep(worker) => {
                        for _ in books.take_idle(worker, |_| true) {
                            books.closed();
                        }
                    }
                    Event::Pass(us) => {
                        world.now_us += us;
                        if std::mem::take(&mut world.resting) {
                            books.rested();
                            while books.dial(|| true) {
                                world.dialling.push(0);
                            }
                        }
                    }
                    _ => {}
                }
                let counts = books.counts();
                let known = world.lent.len() + world.dialling.len() + counts.idle as usize;
                prop_assert_eq!(counts.open as usize, known, "a permit was lost or made up");
                prop_assert!(counts.open <= limit);
                prop_assert_eq!(counts.connecting as usize, world.dialling.len());
                prop_assert_eq!(counts.waiting as usize, world.waiting.len());
                prop_assert!(counts.idle == 0 || counts.waiting == 0, "an idle server beside a waiter");
                let unique: HashSet<_> = world.lent.iter().chain(books.idle_servers()).collect();
                prop_assert_eq!(unique.len(), world.lent.len() + counts.idle as usize, "a server lent twice");
            }
            // whoever still waits is served once servers come back and dials succeed
            books.rested();
            for _ in 0..1_000 {
                if books.dial(|| true) {
                    world.dialling.push(0);
                }
                if world.dialling.pop().is_some() {
                    world.next += 1;
                    let release = books.dialled(0, world.next);
                    world.settle(&mut books, release);
                } else if let Some(server) = world.lent.pop() {
                    let release = books.release(0, server);
                    world.settle(&mut books, release);
                }
            }
            prop_assert!(world.waiting.is_empty(), "a waiter starved");
        }
    }
}
