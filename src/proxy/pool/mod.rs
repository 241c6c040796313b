//! Lends server connections to clients and takes them back: one pool per (node, database, user), over all workers.
//!
//! Not here: who is primary (`topology`), how a connection logs in (`server`), which node to use (`session`). The
//! numbers are [`accounting`]'s; this file is the lock around them and the closing, [`dialling`] the opening, [`gate`] what
//! shuts a pool for a while.
//!
//! Invariant: `connecting + idle + lent + closing <= size` (`+ reserve_size` while somebody has waited for long), over all
//! workers: raised before the dial, lowered after the server has seen the close. A dial belongs to the pool, not to the
//! client that caused it.

pub mod accounting;
pub mod budget;
pub mod claim;
pub mod dialling;
pub mod gate;
pub mod login;
pub mod look;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use parking_lot::Mutex;

use self::accounting::{Accounting, Bounds, Checkout, Counts, Release, Ticket};
use self::budget::{Budgets, Standing};
use self::gate::Rounds;
use super::client::ClientHandle;
use super::error::ClientError;
use super::server::connect::{self, DialError};
use super::server::{Endpoint, Server};
use super::session::settings::{Reported, Settings};
use super::tally::block::Blocks;
use super::worker::Worker;
use crate::catalog::{HiddenCatalog, HiddenView};
use crate::config::Profile;
use crate::protocol::messages;
use crate::sql::effects::Effects;

/// How long a server may take to hang up after Terminate before its place is given on.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// What a pool is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The node.
    pub node: Arc<str>,
    /// The database's name in the configuration's eyes: what the client asked for.
    pub database: Arc<str>,
    /// The user.
    pub user: Arc<str>,
}

/// Timeouts and limits of a pool, replaced as a whole at reload.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// The database's name on the server.
    pub dbname: String,
    /// Server connections, and clients that wait for one.
    pub bounds: Bounds,
    /// `timeouts.server_connect`.
    pub server_connect: Option<Duration>,
    /// `timeouts.server_lifetime`.
    pub server_lifetime: Option<Duration>,
    /// `timeouts.server_idle`.
    pub server_idle: Option<Duration>,
    /// `timeouts.server_check_delay`.
    pub server_check_delay: Option<Duration>,
    /// `timeouts.cancel_wait`.
    pub cancel_wait: Option<Duration>,
}

impl From<&Profile> for PoolSettings {
    fn from(profile: &Profile) -> Self {
        let timeouts = &profile.timeouts;
        Self {
            dbname: profile.dbname.clone(),
            bounds: Bounds {
                size: profile.size,
                reserve: profile.reserve_size,
                reserve_after_us: u64::try_from(profile.reserve_timeout.as_micros()).unwrap_or(u64::MAX),
                min: profile.min_size,
                waiting_max: profile.waiting_max,
            },
            server_connect: timeouts.server_connect,
            server_lifetime: timeouts.server_lifetime,
            server_idle: timeouts.server_idle,
            server_check_delay: timeouts.server_check_delay,
            cancel_wait: timeouts.cancel_wait,
        }
    }
}

/// One pool.
#[derive(Debug)]
pub struct Pool {
    /// What it is for.
    pub key: PoolKey,
    settings: ArcSwap<PoolSettings>,
    endpoint: ArcSwap<Endpoint>,
    hidden: ArcSwap<HiddenView>,
    /// Somebody reads that view: a pool of nothing but claimed places may not even have a database.
    looks_into: AtomicBool,
    budgets: Budgets,
    /// What the workers have counted here.
    pub blocks: Blocks,
    books: Mutex<Accounting<Box<Server>, Arc<ClientHandle>>>,
    /// What a server of this pool reports at login.
    welcome: ArcSwapOption<Reported>,
    /// What the next server says in its startup packet ([`login`]).
    startup: ArcSwapOption<Settings>,
    /// Why the last dial failed, until one succeeds.
    trouble: Mutex<Option<DialError>>,
    /// Nobody should use it any more: its node is not the primary, or gone from the configuration.
    retired: AtomicBool,
    /// Why it is held ([`gate::Hold`]), for whoever does not want the books' lock.
    held: AtomicU8,
    rounds: Mutex<Rounds>,
    /// Connections that were dialled in an older epoch are not used again.
    least_epoch: AtomicU64,
    transactions: AtomicU64,
    desyncs: AtomicU64,
    /// Servers that are pinned to a client, by [`Effects::PINS`].
    pinned: [AtomicU64; Effects::PINS.len()],
    /// Somebody has asked for `currval` or `lastval` here.
    reads_sequences: AtomicBool,
    /// When it last got a connection, or gave way to another pool.
    turned_us: AtomicU64,
    /// How long the last login took.
    login_us: AtomicU64,
    /// When a dial to a standby failed last; 0 when the last one did not.
    failed_ms: AtomicU64,
    /// Somebody will look whether an idle server should go to another pool.
    yields: AtomicBool,
}

/// A way out of [`Pool::checkout`].
#[derive(Debug)]
pub enum Lent {
    /// A server, at once.
    Server(Box<Server>),
    /// A place in the queue; the server comes through the client's handle.
    Queued(Ticket),
    /// Enough clients wait already.
    Full,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(
        key: PoolKey,
        settings: PoolSettings,
        endpoint: Arc<Endpoint>,
        budgets: Budgets,
        workers: usize,
    ) -> Self {
        Self {
            hidden: ArcSwap::new(HiddenView::unread(&key.cluster, &settings.dbname)),
            looks_into: AtomicBool::new(false),
            key,
            books: Mutex::new(Accounting::new(settings.bounds, workers)),
            settings: ArcSwap::from_pointee(settings),
            endpoint: ArcSwap::new(endpoint),
            budgets,
            blocks: Blocks::new(workers),
            welcome: ArcSwapOption::empty(),
            startup: ArcSwapOption::empty(),
            trouble: Mutex::default(),
            retired: AtomicBool::new(false),
            held: AtomicU8::new(0),
            rounds: Mutex::default(),
            least_epoch: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            desyncs: AtomicU64::new(0),
            pinned: Default::default(),
            reads_sequences: AtomicBool::new(false),
            turned_us: AtomicU64::new(0),
            login_us: AtomicU64::new(0),
            failed_ms: AtomicU64::new(0),
            yields: AtomicBool::new(false),
        }
    }

    /// Takes over a new configuration.
    pub fn reload(&self, settings: PoolSettings, endpoint: Arc<Endpoint>, hidden: &HiddenCatalog) {
        self.books.lock().set_bounds(settings.bounds);
        if self.looks_into.load(Ordering::Acquire) {
            self.hidden.store(hidden.view(&self.key.cluster, &settings.dbname));
        }
        self.settings.store(Arc::new(settings));
        self.endpoint.store(endpoint);
    }

    /// What statements in its database may do without saying so.
    #[must_use]
    pub fn hidden(&self) -> Guard<Arc<HiddenView>> {
        self.hidden.load()
    }

    /// How long a check of an idle server may take.
    #[must_use]
    pub fn check_within(&self) -> Duration {
        self.settings.load().server_connect.unwrap_or(Duration::from_secs(15))
    }

    /// The limits it is under.
    #[must_use]
    pub const fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Its numbers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.books.lock().counts()
    }

    /// When the client that waits longest began to, on the clock of [`Shared::now_us`](super::shared::Shared::now_us).
    #[must_use]
    pub fn oldest_us(&self) -> Option<u64> {
        self.books.lock().oldest_us()
    }

    /// Server connections at most, without the reserve.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.books.lock().bounds().size
    }

    /// Times a server was given back settled.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Servers that said something nobody had asked for.
    #[must_use]
    pub fn desyncs(&self) -> u64 {
        self.desyncs.load(Ordering::Relaxed)
    }

    /// Counts one; see [`Self::desyncs`].
    pub fn count_desync(&self) {
        self.desyncs.fetch_add(1, Ordering::Relaxed);
    }

    /// Servers pinned to clients now, by reason; one may have several.
    pub fn pinned(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.pinned.iter().map(|count| count.load(Ordering::Relaxed));
        Effects::PINS.iter().zip(counts).filter(|(_, count)| *count > 0).map(|((_, reason), count)| (*reason, count))
    }

    /// The pins of one server have changed.
    pub fn count_pins(&self, before: Effects, now: Effects) {
        for ((pin, _), count) in Effects::PINS.iter().zip(&self.pinned) {
            match (before.any(*pin), now.any(*pin)) {
                (false, true) => count.fetch_add(1, Ordering::Relaxed),
                (true, false) => count.fetch_sub(1, Ordering::Relaxed),
                _ => continue,
            };
        }
    }

    /// Whether anybody has asked for `currval` or `lastval` here: whoever moves a sequence then keeps its server.
    #[must_use]
    pub fn reads_sequences(&self) -> bool {
        self.reads_sequences.load(Ordering::Relaxed)
    }

    /// Somebody asks for one; see [`Self::reads_sequences`].
    pub fn sequence_is_read(&self) {
        if !self.reads_sequences() {
            self.reads_sequences.store(true, Ordering::Relaxed);
        }
    }

    /// What its servers report at login, once one has logged in.
    #[must_use]
    pub fn welcome(&self) -> Option<Arc<Reported>> {
        self.welcome.load_full()
    }

    /// Why dialling fails, if it does.
    #[must_use]
    pub fn trouble(&self) -> Option<DialError> {
        self.trouble.lock().clone()
    }

    /// `timeouts.server_check_delay`: after how much idling a server is asked whether it is still there.
    #[must_use]
    pub fn wants_check(&self, server: &Server) -> bool {
        self.settings.load().server_check_delay.is_some_and(|delay| server.idle_since.elapsed() >= delay)
    }

    /// See [`Self::wants_check`].
    #[must_use]
    pub fn check_delay(&self) -> Option<Duration> {
        self.settings.load().server_check_delay
    }

    /// `timeouts.cancel_wait`, with a bound even when it is off: a server must come to rest some time.
    #[must_use]
    pub fn cancel_wait(&self) -> Duration {
        self.settings.load().cancel_wait.unwrap_or(Duration::from_secs(600))
    }

    /// When a client that begins to wait at `now_us` may be given of the reserve, in milliseconds of the same clock; 0
    /// when there is none.
    #[must_use]
    pub fn reserve_due_ms(&self, now_us: u64) -> u64 {
        let bounds = self.settings.load().bounds;
        if bounds.reserve == 0 { 0 } else { now_us.saturating_add(bounds.reserve_after_us) / 1_000 + 1 }
    }

    /// How it stands among the pools of its budgets.
    fn standing(&self) -> Standing {
        Standing {
            held: self.books.lock().held(),
            turned_us: self.turned_us.load(Ordering::Relaxed),
            turn_us: budget::turn_us(self.login_us.load(Ordering::Relaxed)),
        }
    }

    fn owes(&self, worker: &Worker) -> bool {
        self.budgets.is_pressed() && self.budgets.is_owed(|| self.standing(), worker.shared.now_us())
    }

    /// Whether clients wait.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.books.lock().waiting() > 0
    }

    /// Lends an idle server or queues the client.
    pub fn checkout(self: &Arc<Self>, worker: &Rc<Worker>, client: &Arc<ClientHandle>) -> Lent {
        loop {
            let mut books = self.books.lock();
            let now_us = worker.shared.now_us();
            let checkout = books.checkout(
                worker.id,
                now_us,
                || self.budgets.take(),
                |ticket| {
                    client.begin_wait(ticket);
                    Arc::clone(client)
                },
            );
            let refused = books.wants_more(now_us);
            drop(books);
            let (mut server, moved) = match checkout {
                Checkout::Own(server) => (server, false),
                Checkout::Moved(server) => (server, true),
                Checkout::Queued { ticket, dial } => {
                    if dial {
                        self.dial(worker);
                    } else if refused && !self.starve(worker) {
                        self.dial_for_waiters(worker);
                    }
                    return Lent::Queued(ticket);
                }
                Checkout::Full => return Lent::Full,
            };
            if server.is_silent() && !self.is_outdated(&server) && (!moved || server.stream.detach().is_ok()) {
                return Lent::Server(server);
            }
            self.discard(worker, server);
        }
    }

    /// Leaves the queue. Whatever was granted meanwhile is given on.
    pub fn leave(self: &Arc<Self>, worker: &Rc<Worker>, client: &ClientHandle, ticket: Ticket) {
        self.books.lock().leave(worker.id, ticket);
        if let Some(server) = client.end_wait() {
            self.pass_on(worker, server);
        }
    }

    /// Takes back a server whose every reply has come, at ReadyForQuery `I`. Anything else is a [`Self::discard`].
    pub fn give_back(self: &Arc<Self>, worker: &Rc<Worker>, mut server: Box<Server>) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        if server.identity.is_being_cancelled() {
            return self.wait_for_cancels(worker, server);
        }
        server.idle_since = Instant::now();
        self.pass_on(worker, server);
    }

    /// A cancel that names the server must not meet the next client's statement.
    fn wait_for_cancels(self: &Arc<Self>, worker: &Rc<Worker>, mut server: Box<Server>) {
        let (pool, worker) = (Arc::clone(self), Rc::clone(worker));
        tokio::task::spawn_local(async move {
            let waited = tokio::time::timeout(pool.cancel_wait(), server.identity.cancels_over()).await;
            if waited.is_err() {
                return pool.discard(&worker, server);
            }
            server.idle_since = Instant::now();
            pool.pass_on(&worker, server);
        });
    }

    /// Gives a settled server to whoever is next, or keeps it, or closes it.
    fn pass_on(self: &Arc<Self>, worker: &Rc<Worker>, mut server: Box<Server>) {
        if server.identity.is_tainted() || self.is_outdated(&server) {
            return self.discard(worker, server);
        }
        if self.owes(worker) {
            return self.give_way(worker, server);
        }
        loop {
            let release = self.books.lock().release(worker.id, server);
            let kept = matches!(release, Release::Kept);
            if let Some(refused) = self.hand_over(worker, release) {
                server = refused;
                continue;
            }
            // whoever has starved since it was asked above may have looked for an idle server before there was one
            if kept && self.budgets.is_pressed() {
                self.yield_idle(worker);
            }
            return;
        }
    }

    /// Closes an idle server, to make room for a pool that waits and has less, or if it was not used for a turn: its
    /// clients do not want it back in a moment. `false` when none was closed; then this is looked at again in a turn.
    fn yield_idle(self: &Arc<Self>, worker: &Rc<Worker>) -> bool {
        let turn = Duration::from_micros(self.standing().turn_us);
        let owes = self.owes(worker);
        let mut books = self.books.lock();
        let idle = books.take_idle_if(|server| owes || server.idle_since.elapsed() >= turn);
        let has_more = books.has_idle();
        drop(books);
        let yielded = idle.is_some();
        if let Some(mut server) = idle {
            // it may be registered with another worker's reactor
            let _ = server.stream.detach();
            self.give_way(worker, server);
        }
        if has_more && !self.yields.swap(true, Ordering::AcqRel) {
            let (pool, worker) = (Arc::clone(self), Rc::clone(worker));
            tokio::task::spawn_local(async move {
                tokio::time::sleep(turn).await;
                pool.yields.store(false, Ordering::Release);
                if pool.budgets.is_pressed() {
                    pool.yield_idle(&worker);
                }
            });
        }
        yielded
    }

    /// Closes a server so that another pool gets its place.
    fn give_way(self: &Arc<Self>, worker: &Rc<Worker>, server: Box<Server>) {
        self.turned_us.store(worker.shared.now_us(), Ordering::Relaxed);
        self.books.lock().closes();
        self.budgets.vacates();
        let (pool, closer) = (Arc::clone(self), Rc::clone(worker));
        worker.see_through(async move {
            hang_up(server).await;
            pool.budgets.vacated();
            pool.hung_up(&closer);
        });
    }

    /// Carries out what the books decided; a server comes back when its receiver has gone.
    fn hand_over(
        self: &Arc<Self>,
        worker: &Rc<Worker>,
        release: Release<Box<Server>, Arc<ClientHandle>>,
    ) -> Option<Box<Server>> {
        match release {
            Release::Kept => None,
            Release::Close(server) => {
                self.discard(worker, server);
                None
            }
            Release::Instead { mut server, ticket, waiter } => {
                let _ = server.stream.detach(); // whoever closes it may live on another worker
                waiter.grant(ticket, server).err()
            }
            Release::Grant { mut server, ticket, waiter, moved } => {
                if moved && server.stream.detach().is_err() {
                    self.discard(worker, server);
                    // somebody else's turn was taken for it: the place it frees goes to those who wait
                    waiter.refuse(ticket, ClientError::Internal("a server was lost between two workers"));
                    return None;
                }
                waiter.grant(ticket, server).err()
            }
        }
    }

    /// Closes a server that must not be used again; its place is free when the server has hung up.
    pub fn discard(self: &Arc<Self>, worker: &Rc<Worker>, server: Box<Server>) {
        self.books.lock().closes();
        let (pool, closer) = (Arc::clone(self), Rc::clone(worker));
        worker.see_through(async move {
            hang_up(server).await;
            pool.hung_up(&closer);
        });
    }

    /// A connection is gone, or a dial was given up: the place is free.
    pub(in crate::proxy) fn closed(self: &Arc<Self>, worker: &Rc<Worker>) {
        self.books.lock().closed();
        self.place_freed(worker);
    }

    /// A server that was told to hang up has.
    fn hung_up(self: &Arc<Self>, worker: &Rc<Worker>) {
        self.books.lock().hung_up();
        self.place_freed(worker);
    }

    fn place_freed(self: &Arc<Self>, worker: &Rc<Worker>) {
        for starved in self.budgets.give_back() {
            starved.dial_for_waiters(worker);
        }
        self.dial_for_waiters(worker);
    }

    /// Opens what may be opened for those who wait.
    pub fn dial_for_waiters(self: &Arc<Self>, worker: &Rc<Worker>) {
        loop {
            let now_us = worker.shared.now_us();
            let mut unwanted = 0;
            let mut books = self.books.lock();
            loop {
                if let Some((ticket, client)) = books.next_claim(now_us, || self.budgets.take()) {
                    if !client.grant_place(ticket) {
                        unwanted += 1;
                    }
                } else if books.dial(now_us, || self.budgets.take()) {
                    self.dial(worker);
                } else {
                    break;
                }
            }
            for _ in 0..unwanted {
                books.closed();
            }
            let refused = books.wants_more(now_us);
            drop(books);
            for _ in 0..unwanted {
                for starved in self.budgets.give_back() {
                    starved.dial_for_waiters(worker);
                }
            }
            if !refused || self.starve(worker) {
                return;
            }
        }
    }

    /// Somebody waits and a limit above the pool refuses: another pool under it gives up an idle connection, now or in a
    /// turn. `false` when there is room after all.
    fn starve(self: &Arc<Self>, worker: &Rc<Worker>) -> bool {
        if !self.budgets.press(self) {
            return false;
        }
        for other in worker.shared.pools.all() {
            if !Arc::ptr_eq(&other, self) && other.budgets.share_a_full_one(&self.budgets) && other.yield_idle(worker) {
                break;
            }
        }
        true
    }

    /// Whether a settled server should not be used again: too old, or of a place that is not this pool's any more.
    fn is_outdated(&self, server: &Server) -> bool {
        let old = |lifetime: Duration| server.born.elapsed() >= lifetime;
        let settings = self.settings.load();
        self.retired.load(Ordering::Acquire)
            || server.epoch.0 < self.least_epoch.load(Ordering::Relaxed)
            || self.closes(&server.round)
            || settings.server_lifetime.is_some_and(old)
            || *settings.dbname != *server.database
            || !self.endpoint.load().same_place(&server.identity.endpoint)
    }

    /// Looks after the idle servers of a worker: those that hung up, grew old, or idle too long are closed.
    pub fn sweep(self: &Arc<Self>, worker: &Rc<Worker>) {
        let settings = self.settings.load();
        let kept = settings.bounds.min > 0 && self.has_clients(worker);
        let mut books = self.books.lock();
        let mut spare = if kept { books.spare() } else { u32::MAX };
        let swept = books.take_idle(worker.id, |server| {
            let expired = settings.server_idle.is_some_and(|idle| server.idle_since.elapsed() >= idle) && spare > 0;
            let swept = expired || self.is_outdated(server) || !server.is_silent();
            spare = spare.saturating_sub(u32::from(swept));
            swept
        });
        drop(books);
        for server in swept {
            self.discard(worker, server);
        }
        // limits may have been changed meanwhile: nobody was told
        let excess = self.books.lock().take_excess();
        for mut server in excess {
            let _ = server.stream.detach(); // it may be registered with another worker's reactor
            self.discard(worker, server);
        }
        if self.is_contended() {
            self.dial_for_waiters(worker);
        }
        if kept && !self.retired.load(Ordering::Acquire) {
            while self.books.lock().dial_spare(|| self.budgets.take()) {
                self.dial(worker);
            }
        }
    }

    /// Whether any client is logged in that would use this pool.
    fn has_clients(&self, worker: &Worker) -> bool {
        worker.shared.census.has_clients(&self.key.database, &self.key.user)
    }

    /// Whether it holds nothing and nobody wants it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counts = self.counts();
        counts.open == 0 && counts.waiting == 0
    }
}

/// Closes a connection, and waits until the server has seen it: [`CLOSE_MAX`] at most, as a frozen one never does.
pub async fn hang_up(mut server: Box<Server>) {
    let goodbye = async {
        // one that is at work does not hear us hang up before it is done
        if !server.pipeline.quiet() && server.identity.cancel_begins() {
            let sent = connect::cancel(&server.identity, Some(CLOSE_MAX)).await;
            server.identity.cancel_over(sent.is_ok());
        }
        if server.out.is_none() {
            let _ = server.stream.write_all(&messages::TERMINATE).await;
        }
        // in the middle of a message a Terminate is only more of it; the end of the stream is understood there too
        server.stream.close().await;
        let mut rest = crate::net::buffer::lend();
        while server.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(CLOSE_MAX, goodbye).await;
}
