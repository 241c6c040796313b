//! What others may know of a client and do to it: wake it, cancel it, hand it a server.
//!
//! The session itself lives on one worker and is nobody else's; a [`ClientHandle`] is the part that is shared. Lock
//! order: a pool's books, then a handle's locks; none is held over an await or a system call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;

use super::error::ClientError;
use super::pool::accounting::Ticket;
use super::server::{Identity, Server};
use super::sounding::{Levels, Sounding};

/// Something happened to the client that its session must look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Signal {
    /// Its cancel came while it waits.
    Cancel = 1,
    /// Its deadline has passed.
    Expired = 2,
    /// howdah is shutting down: end at the next boundary.
    Goodbye = 4,
    /// howdah has waited long enough: end now.
    Now = 8,
    /// KILL of its database: end now.
    Kill = 16,
    /// KILL_CLIENT: end now.
    Disconnect = 32,
    /// SUSPEND: read nothing more, until [`ClientHandle::go_on`].
    Suspend = 64,
    /// That has taken too long: end now.
    SuspendOver = 128,
    /// Somebody asks how far its buffers are filled: [`ClientHandle::tell`].
    Sound = 256,
}

/// The shared part of a client.
#[derive(Debug)]
pub struct ClientHandle {
    /// Distinct among all clients of this process.
    pub id: u64,
    /// Where its session lives.
    pub worker: usize,
    signals: AtomicU16,
    /// Suspended, and nothing is held back for it.
    still: AtomicBool,
    /// Milliseconds on the worker's clock; 0 is none.
    deadline_ms: AtomicU64,
    /// When its last request was here, in microseconds since the start; 0 before the first.
    pub asked_us: AtomicU64,
    /// When the request that waits for a server was; 0 when none does.
    pub waits_since_us: AtomicU64,
    waker: Mutex<Option<Waker>>,
    slot: Mutex<Slot>,
    target: Mutex<Target>,
    sounding: Mutex<Option<Arc<Sounding>>>,
}

/// Where a waiter gets its server.
#[derive(Debug, Default)]
enum Slot {
    /// Not waiting.
    #[default]
    Away,
    /// In a pool's queue.
    Waiting(Ticket),
    /// A server has come.
    Granted(Box<Server>),
    /// A place for a connection of its own has come.
    Place,
    /// No server will come.
    Refused(ClientError),
}

/// What a claim has brought.
#[derive(Debug)]
pub enum Claimed {
    /// A free place.
    Place,
    /// The place of this server.
    Instead(Box<Server>),
    /// Nothing.
    Refused(ClientError),
}

/// What a cancel of this client would hit.
#[derive(Debug, Default)]
enum Target {
    /// Nothing.
    #[default]
    Idle,
    /// Its wait for a server.
    Waiting,
    /// The server that works for it.
    Server(Arc<Identity>),
}

/// What a client does, as far as others can see.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Nothing that needs a server.
    Idle,
    /// It waits for a server.
    Waiting,
    /// This server works for it, or is kept for it.
    Working(Arc<Identity>),
}

impl ClientHandle {
    /// A client of `worker`.
    #[must_use]
    pub fn new(id: u64, worker: usize) -> Self {
        Self {
            id,
            worker,
            signals: AtomicU16::new(0),
            still: AtomicBool::new(false),
            deadline_ms: AtomicU64::new(0),
            asked_us: AtomicU64::new(0),
            waits_since_us: AtomicU64::new(0),
            waker: Mutex::default(),
            slot: Mutex::default(),
            target: Mutex::default(),
            sounding: Mutex::default(),
        }
    }

    /// The session's task will be woken from now on. To be called once, by the task itself.
    pub fn listen(&self, cx: &Context<'_>) {
        *self.waker.lock() = Some(cx.waker().clone());
    }

    /// Makes the session look.
    pub fn signal(&self, signal: Signal) {
        self.signals.fetch_or(signal as u16, Ordering::AcqRel);
        self.wake();
    }

    /// Whether a signal has come. It stays until [`Self::clear`].
    #[must_use]
    pub fn has(&self, signal: Signal) -> bool {
        self.signals.load(Ordering::Acquire) & signal as u16 != 0
    }

    /// Why the session has to end at once, if it has to.
    #[must_use]
    pub fn ends_now(&self) -> Option<ClientError> {
        let signals = self.signals.load(Ordering::Acquire);
        let reasons = [
            (Signal::Now, ClientError::ShuttingDown),
            (Signal::Kill, ClientError::Killed),
            (Signal::Disconnect, ClientError::Disconnected),
            (Signal::SuspendOver, ClientError::SuspendTimeout),
        ];
        reasons.into_iter().find(|(signal, _)| signals & *signal as u16 != 0).map(|(_, error)| error)
    }

    /// The session is suspended, and has passed on whatever it had.
    pub fn be_still(&self) {
        self.still.store(true, Ordering::Release);
    }

    /// See [`Self::be_still`].
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.still.load(Ordering::Acquire)
    }

    /// Asks how far its buffers are filled.
    pub(super) fn sound(&self, sounding: &Arc<Sounding>) {
        *self.sounding.lock() = Some(Arc::clone(sounding));
        self.signal(Signal::Sound);
    }

    /// Tells whoever asks how far its buffers are filled.
    pub fn tell(&self, levels: impl FnOnce() -> Levels) {
        if self.has(Signal::Sound) {
            self.clear(Signal::Sound);
            if let Some(sounding) = self.sounding.lock().take() {
                sounding.told(self.id, levels());
            }
        }
    }

    /// It is suspended no more.
    pub fn go_on(&self) {
        self.clear(Signal::Suspend);
        self.clear(Signal::SuspendOver);
        self.still.store(false, Ordering::Release);
        self.wake();
    }

    /// Whether any signal has come.
    #[must_use]
    pub fn has_any(&self) -> bool {
        self.signals.load(Ordering::Acquire) != 0
    }

    /// The signal has been looked at.
    pub fn clear(&self, signal: Signal) {
        self.signals.fetch_and(!(signal as u16), Ordering::AcqRel);
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    /// When the session wants [`Signal::Expired`]; 0 for never.
    pub fn set_deadline_ms(&self, at: u64) {
        self.deadline_ms.store(at, Ordering::Relaxed);
    }

    /// See [`Self::set_deadline_ms`].
    #[must_use]
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms.load(Ordering::Relaxed)
    }

    /// It is in a queue now. Under the pool's lock, so that no grant can come first.
    pub fn begin_wait(&self, ticket: Ticket) {
        *self.slot.lock() = Slot::Waiting(ticket);
        *self.target.lock() = Target::Waiting;
    }

    /// It waits, and not in a queue: a cancel ends the wait. Over with [`Self::not_working`].
    pub fn begin_hold(&self) {
        *self.target.lock() = Target::Waiting;
    }

    /// Hands over a server.
    ///
    /// # Errors
    /// The server, when the client does not wait at this place any more.
    pub fn grant(&self, ticket: Ticket, server: Box<Server>) -> Result<(), Box<Server>> {
        let mut slot = self.slot.lock();
        if !matches!(*slot, Slot::Waiting(waiting) if waiting == ticket) {
            return Err(server);
        }
        *slot = Slot::Granted(server);
        drop(slot);
        self.wake();
        Ok(())
    }

    /// Says that a place is free for it; `false` when the client does not wait at this one any more.
    #[must_use]
    pub fn grant_place(&self, ticket: Ticket) -> bool {
        let mut slot = self.slot.lock();
        let waits = matches!(*slot, Slot::Waiting(waiting) if waiting == ticket);
        if waits {
            *slot = Slot::Place;
            drop(slot);
            self.wake();
        }
        waits
    }

    /// Says that no server will come.
    pub fn refuse(&self, ticket: Ticket, error: ClientError) {
        let mut slot = self.slot.lock();
        if matches!(*slot, Slot::Waiting(waiting) if waiting == ticket) {
            *slot = Slot::Refused(error);
            drop(slot);
            self.wake();
        }
    }

    /// What the wait has brought, if anything; the wait is over then.
    pub fn take_grant(&self) -> Option<Result<Box<Server>, ClientError>> {
        let mut slot = self.slot.lock();
        match std::mem::take(&mut *slot) {
            Slot::Granted(server) => Some(Ok(server)),
            Slot::Refused(error) => Some(Err(error)),
            waiting => {
                *slot = waiting;
                None
            }
        }
    }

    /// What a claim has brought, if anything; the wait is over then.
    pub fn take_claimed(&self) -> Option<Claimed> {
        let mut slot = self.slot.lock();
        match std::mem::take(&mut *slot) {
            Slot::Place => Some(Claimed::Place),
            Slot::Granted(server) => Some(Claimed::Instead(server)),
            Slot::Refused(error) => Some(Claimed::Refused(error)),
            waiting => {
                *slot = waiting;
                None
            }
        }
    }

    /// Stops waiting. What was granted in the meantime is the caller's to give on.
    pub fn end_wait(&self) -> Option<Box<Server>> {
        *self.target.lock() = Target::Idle;
        self.clear(Signal::Cancel);
        match std::mem::take(&mut *self.slot.lock()) {
            Slot::Granted(server) => Some(server),
            Slot::Away | Slot::Waiting(_) | Slot::Place | Slot::Refused(_) => None,
        }
    }

    /// `server` works for this client from now on.
    pub fn working_on(&self, server: &Arc<Identity>) {
        *self.target.lock() = Target::Server(Arc::clone(server));
    }

    /// No server works for this client from now on: a cancel that has not begun yet hits nothing.
    pub fn not_working(&self) {
        *self.target.lock() = Target::Idle;
    }

    /// What it does now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &*self.target.lock() {
            Target::Idle => Standing::Idle,
            Target::Waiting => Standing::Waiting,
            Target::Server(identity) => Standing::Working(Arc::clone(identity)),
        }
    }

    /// A cancel has come. Either its wait ends, or the answer is the server to send the cancel to, which stays out of
    /// its pool until [`Identity::cancel_over`].
    pub fn cancel(&self) -> Option<Arc<Identity>> {
        let target = self.target.lock();
        match &*target {
            Target::Idle => None,
            Target::Waiting => {
                drop(target);
                self.signal(Signal::Cancel);
                None
            }
            Target::Server(identity) => identity.cancel_begins().then(|| Arc::clone(identity)),
        }
    }
}
