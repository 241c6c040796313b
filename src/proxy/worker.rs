//! One thread, one runtime, its clients and its idle servers.
//!
//! A client lives on its worker from accept to close, so sessions need no locks among themselves. The worker's own
//! chores run as tasks beside them: deadlines (one scan for all clients instead of a timer each, and none at all while
//! nobody has one) and the sweep of idle servers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::client::{ClientHandle, Signal};
use super::entrance::Entrance;
use super::handshake;
use super::shared::Shared;
use super::statements::Cache;
use super::tally::followed::Followers;
use crate::net::stream::Socket;
use crate::sql::cache::ClassCache;

/// How exact deadlines are.
const DEADLINE_STEP_MS: u64 = 10;
/// How often idle servers are looked after, and the longest pause between scans of deadlines.
const SWEEP: Duration = Duration::from_secs(1);
/// Accepted sockets that may wait for a worker.
const INTAKE: usize = 1_024;

/// A socket on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// Not registered with any reactor yet.
    pub socket: Socket,
    /// What the listener it came by means.
    pub entrance: Arc<Entrance>,
    /// From where, for logs.
    pub peer: Box<str>,
}

/// The acceptor's side of a worker.
#[derive(Debug)]
pub struct WorkerGate {
    intake: mpsc::Sender<Accepted>,
    load: Arc<AtomicUsize>,
    told: Arc<Told>,
}

/// What the control thread tells a worker.
#[derive(Debug, Default)]
struct Told {
    drain: AtomicBool,
    stop: AtomicBool,
    changed: Notify,
}

impl WorkerGate {
    /// How many clients the worker has.
    #[must_use]
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Hands over a socket; waits while the worker has too many to look at.
    pub async fn send(&self, accepted: Accepted) {
        self.load.fetch_add(1, Ordering::Relaxed);
        if self.intake.send(accepted).await.is_err() {
            self.load.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Every client ends at its next boundary.
    pub fn drain(&self) {
        self.told.drain.store(true, Ordering::Release);
        self.told.changed.notify_one();
    }

    /// Every client ends now, and then the thread.
    pub fn stop(&self) {
        self.told.stop.store(true, Ordering::Release);
        self.told.changed.notify_one();
    }
}

/// One worker, as its own tasks see it.
#[derive(Debug)]
pub struct Worker {
    /// Its number, from 0.
    pub id: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Its own view of the statements.
    pub statements: Cache,
    /// What texts are, for routing.
    pub classes: ClassCache,
    /// The statements it follows.
    pub followers: Followers,
    clients: RefCell<HashMap<u64, Arc<ClientHandle>, foldhash::fast::RandomState>>,
    load: Arc<AtomicUsize>,
    draining: Cell<bool>,
    /// Tasks that a stop waits for: servers on their way to rest, or to their end.
    to_see_through: Cell<usize>,
    /// When the deadlines are looked at next; `u64::MAX` while nobody has one.
    next_scan_ms: Cell<u64>,
    sooner: Notify,
}

impl Worker {
    /// Starts a worker's thread.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be had.
    pub fn spawn(id: usize, shared: Arc<Shared>) -> std::io::Result<(WorkerGate, std::thread::JoinHandle<()>)> {
        let (intake, sockets) = mpsc::channel(INTAKE);
        let load = Arc::new(AtomicUsize::new(0));
        let told = Arc::new(Told::default());
        let gate = WorkerGate { intake, load: Arc::clone(&load), told: Arc::clone(&told) };
        let runtime_failed = std::sync::mpsc::sync_channel(1);
        let (report, reported) = runtime_failed;
        let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = report.send(Ok(()));
                    runtime.block_on(Rc::new(Self::new(id, shared, load)).run(sockets, told));
                }
                Err(error) => {
                    let _ = report.send(Err(error));
                }
            }
        })?;
        match reported.recv() {
            Ok(Ok(())) => Ok((gate, thread)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(std::io::Error::other("a worker died while it started")),
        }
    }

    /// A worker without clients; `load` is what its gate shows.
    #[must_use]
    pub fn new(id: usize, shared: Arc<Shared>, load: Arc<AtomicUsize>) -> Self {
        let shelf = shared.tallies.beside(id).map(|beside| Arc::clone(&beside.shelf)).unwrap_or_default();
        Self {
            id,
            shared,
            followers: Followers::new(shelf),
            statements: Cache::default(),
            classes: ClassCache::default(),
            clients: RefCell::default(),
            load,
            draining: Cell::new(false),
            to_see_through: Cell::new(0),
            next_scan_ms: Cell::new(u64::MAX),
            sooner: Notify::new(),
        }
    }

    async fn run(self: Rc<Self>, mut sockets: mpsc::Receiver<Accepted>, told: Arc<Told>) {
        tokio::task::spawn_local(Rc::clone(&self).keep_deadlines());
        tokio::task::spawn_local(Rc::clone(&self).sweep());
        loop {
            tokio::select! {
                accepted = sockets.recv() => match accepted {
                    Some(accepted) => self.welcome(accepted),
                    None => break,
                },
                () = told.changed.notified() => {
                    if told.drain.load(Ordering::Acquire) && !self.draining.replace(true) {
                        self.signal_all(Signal::Goodbye);
                    }
                    if told.stop.load(Ordering::Acquire) {
                        self.signal_all(Signal::Now);
                        break;
                    }
                }
            }
        }
        // sessions say their last word and free their places; what runs on a server for them is cancelled
        let gone = async {
            while !self.clients.borrow().is_empty() || self.to_see_through.get() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
    }

    fn welcome(self: &Rc<Self>, accepted: Accepted) {
        let handle = Arc::new(ClientHandle::new(self.shared.next_client(), self.id));
        self.clients.borrow_mut().insert(handle.id, Arc::clone(&handle));
        if self.draining.get() {
            handle.signal(Signal::Goodbye);
        }
        let guest = Guest { worker: Rc::clone(self), id: handle.id };
        tokio::task::spawn_local(handshake::serve(Rc::clone(self), handle, accepted, guest));
    }

    fn signal_all(&self, signal: Signal) {
        for client in self.clients.borrow().values() {
            client.signal(signal);
        }
    }

    /// Runs a task that a stop of the worker waits for, a moment at least.
    pub fn see_through(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.to_see_through.update(|tasks| tasks + 1);
        let seen = SeenThrough(Rc::clone(self));
        tokio::task::spawn_local(async move {
            task.await;
            drop(seen);
        });
    }

    /// How many clients it has.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.borrow().len()
    }

    /// Whether howdah is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// A client wants [`Signal::Expired`] at `at_ms` ([`Shared::now_ms`]); 0 takes the wish back.
    pub fn set_deadline_ms(&self, client: &ClientHandle, at_ms: u64) {
        client.set_deadline_ms(at_ms);
        if at_ms != 0 && at_ms < self.next_scan_ms.get() {
            self.next_scan_ms.set(at_ms);
            self.sooner.notify_one();
        }
    }

    async fn keep_deadlines(self: Rc<Self>) {
        loop {
            match self.next_scan_ms.get() {
                u64::MAX => self.sooner.notified().await,
                at => {
                    let wait = at.saturating_sub(self.shared.now_ms()).max(DEADLINE_STEP_MS);
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(wait)) => {}
                        () = self.sooner.notified() => continue,
                    }
                }
            }
            let now = self.shared.now_ms();
            let mut next = u64::MAX;
            for client in self.clients.borrow().values() {
                match client.deadline_ms() {
                    0 => {}
                    at if at <= now => {
                        client.set_deadline_ms(0);
                        client.signal(Signal::Expired);
                    }
                    at => next = next.min(at),
                }
            }
            self.next_scan_ms.set(next);
        }
    }

    async fn sweep(self: Rc<Self>) {
        let mut every = tokio::time::interval(SWEEP);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ordered = self.shared.orders.changes();
        loop {
            tokio::select! {
                _ = every.tick() => {
                    if self.id == 0 {
                        self.shared.tidy_pools();
                    }
                }
                _ = ordered.changed() => {} // servers that rest may have to be closed
            }
            for pool in self.shared.pools.all() {
                pool.sweep(&self);
            }
        }
    }
}

/// A task that a stop of its worker waits for, until it is dropped.
struct SeenThrough(Rc<Worker>);

impl Drop for SeenThrough {
    fn drop(&mut self) {
        self.0.to_see_through.update(|tasks| tasks - 1);
    }
}

/// A client's entry in its worker's book; dropping it takes the client out. A session that panics takes only itself with
/// it: what it had is dropped on the way, and this is the last of it.
#[derive(Debug)]
pub struct Guest {
    worker: Rc<Worker>,
    id: u64,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.worker.clients.borrow_mut().remove(&self.id);
        self.worker.load.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            self.worker.shared.count_panic();
            tracing::error!(client = self.id, "a session broke down: a defect of howdah");
        }
    }
}
