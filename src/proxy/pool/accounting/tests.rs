//! The books, case by case and under any schedule.

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

#[test]
fn held_books_lend_and_open_nothing_and_keep_what_comes_back() {
    let mut books = Books::new(Bounds { min: 2, waiting_max: 1, ..sized(2) }, 1);
    queue(&mut books, 0, 0, 0);
    books.dialled(0, 7);
    books.hold();
    for who in 1..4 {
        assert!(matches!(queue(&mut books, 0, 1, who), Checkout::Queued { dial: false, .. }), "everybody may wait");
    }
    assert!(matches!(books.claim(1, || true, |_| 4), Claim::Queued(_)));
    assert!(!books.dial(9, || true) && !books.dial_spare(|| true) && books.next_claim(9, || true).is_none());
    assert_eq!((books.busy(), books.release(0, 7), books.busy()), (1, Release::Kept, 0));
    assert!(matches!(queue(&mut books, 0, 2, 5), Checkout::Queued { dial: false, .. }), "not even an idle one");
    books.go_on();
    assert_eq!((books.dismiss().count(), books.dismiss_claims().count()), (4, 1));
    assert_eq!(queue(&mut books, 0, 3, 6), Checkout::Own(7));
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
    Hold(bool),
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
        1 => any::<bool>().prop_map(Event::Hold),
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
                assert!(!books.is_held(), "granted while held");
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
                            prop_assert!(!books.is_held(), "lent while held");
                            prop_assert!(world.waiting.is_empty(), "a newcomer overtook the queue");
                            world.lent.push(server);
                        }
                        Checkout::Queued { ticket, dial } => {
                            let place = Place { worker: Some(worker), since_us: world.now_us, ticket };
                            world.waiting.insert(who, place);
                            if dial {
                                prop_assert!(!books.is_held(), "dialled while held");
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
                            prop_assert!(!books.is_held(), "claimed while held");
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
                Event::Hold(true) => books.hold(),
                Event::Hold(false) if books.is_held() => {
                    books.go_on();
                    let dismissed: Vec<_> = books.dismiss().map(|(_, who)| who).collect();
                    let claims: Vec<_> = books.dismiss_claims().map(|(_, who)| who).collect();
                    for who in dismissed.iter().chain(&claims) {
                        prop_assert!(world.waiting.remove(who).is_some());
                    }
                    world.resting = false;
                }
                _ => {}
            }
            let counts = books.counts();
            let known = world.lent.len() + world.dialling.len() + counts.idle as usize;
            prop_assert_eq!(counts.open as usize, known, "a permit was lost or made up");
            prop_assert!(counts.open <= size + reserve);
            prop_assert_eq!(counts.connecting as usize, world.dialling.len());
            prop_assert_eq!(counts.waiting as usize, world.waiting.len());
            prop_assert_eq!(books.busy() as usize, world.lent.len() + world.dialling.len());
            prop_assert!(counts.idle == 0 || counts.waiting == 0 || books.is_held(), "an idle server beside a waiter");
            let servers = || world.lent.iter().chain(books.idle_servers()).filter(|server| **server != CLAIMED);
            prop_assert_eq!(servers().collect::<HashSet<_>>().len(), servers().count(), "a server lent twice");
        }
        // whoever still waits is served once servers come back and dials succeed
        if books.is_held() {
            books.go_on();
            books.dismiss().for_each(drop);
            books.dismiss_claims().for_each(drop);
            world.waiting.clear();
        }
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
