//! What the operator has ordered: PAUSE, RESUME, SUSPEND, DISABLE, ENABLE, RECONNECT, KILL, WAIT_CLOSE, SHUTDOWN … as PgBouncer's
//! console has them, for all workers and all pools of a database, those that come into being meanwhile included.
//!
//! - this file: the state, and who is told when it changes
//! - [`pause`]: PAUSE and RESUME; [`suspend`]: SUSPEND
//! - [`close`]: RECONNECT, WAIT_CLOSE, KILL, KILL_CLIENT
//! - [`daemon`]: what the daemon as a whole is asked for: SHUTDOWN, RELOAD, SET
//!
//! An order that waits is undone when its future is dropped. Pools are held under their own lock (`pool/gate.rs`), beside a hold
//! for a switchover: neither opens the other's gate.
//!
//! Not here: how it is asked for (`console`), what a hold does (`pool/gate.rs`).

pub mod close;
pub mod daemon;
pub mod pause;
pub mod suspend;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use self::daemon::{Ask, Shutdown};
use super::roster::ClientFacts;
use super::shared::Shared;

/// How often an order that waits looks whether it is done.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Why an order is not carried out. The words are PgBouncer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No entry of the configuration fits.
    #[error("no such database: {0}")]
    NoSuchDatabase(String),
    /// Everything is paused, or suspended.
    #[error("already suspended/paused")]
    AlreadyPaused,
    /// Nothing to go on with.
    #[error("pooler is not paused/suspended")]
    NotPaused,
    /// The same for one database.
    #[error("database {0} is not paused")]
    DatabaseNotPaused(String),
    /// What a paused database holds cannot be flushed.
    #[error("cannot suspend with paused databases")]
    PausedDatabases,
    /// Too late for this.
    #[error("pooler is shutting down")]
    ShuttingDown,
    /// Nobody has this number.
    #[error("client not found")]
    ClientNotFound,
    /// The log says why.
    #[error("RELOAD failed, see logs for additional details")]
    ReloadFailed,
    /// The key cannot be set, or not to this.
    #[error("SET failed")]
    SetFailed(String),
    /// Somebody else has ended the wait: a RESUME that came before a PAUSE was complete.
    #[error("canceling statement due to user request")]
    Undone,
}

/// What is ordered of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// PAUSE.
    Paused,
    /// SUSPEND.
    Suspended,
}

/// What has been ordered, and who wants to know.
#[derive(Debug)]
pub struct Orders {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    daemon: mpsc::UnboundedSender<Ask>,
    /// Until the daemon takes it.
    asks: Mutex<Option<mpsc::UnboundedReceiver<Ask>>>,
}

#[derive(Debug, Default)]
struct State {
    all: Option<(Mode, Number)>,
    databases: BTreeMap<Arc<str>, Number>,
    disabled: BTreeSet<Arc<str>>,
    shutdown: Option<Shutdown>,
    consoles: u32,
    last: u64,
}

/// Tells one order from the next of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number(u64);

impl State {
    const fn next(&mut self) -> Number {
        self.last += 1;
        Number(self.last)
    }
}

impl Default for Orders {
    fn default() -> Self {
        let (daemon, asks) = mpsc::unbounded_channel();
        Self { state: Mutex::default(), changed: watch::Sender::new(0), daemon, asks: Mutex::new(Some(asks)) }
    }
}

/// What is ordered now, for SHOW STATE and SHOW DATABASES.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// PAUSE or SUSPEND of everything.
    pub all: Option<Mode>,
    /// PAUSE db, KILL db.
    pub paused: BTreeSet<Arc<str>>,
    /// DISABLE db.
    pub disabled: BTreeSet<Arc<str>>,
    /// SHUTDOWN that waits.
    pub shutdown: Option<Shutdown>,
}

impl Orders {
    /// Tells whenever there may be something to do about servers that rest.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn notify(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// What is ordered now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let state = self.state.lock();
        Standing {
            all: state.all.map(|(mode, _)| mode),
            paused: state.databases.keys().cloned().collect(),
            disabled: state.disabled.clone(),
            shutdown: state.shutdown,
        }
    }

    /// New clients of this database are refused from now on, or not any more.
    ///
    /// # Errors
    /// [`OrderError::NoSuchDatabase`].
    pub fn set_disabled(&self, shared: &Shared, database: &str, disabled: bool) -> Result<(), OrderError> {
        known(shared, database)?;
        tracing::info!(database, disabled, "ordered: DISABLE or ENABLE");
        let mut state = self.state.lock();
        if disabled {
            state.disabled.insert(database.into());
        } else {
            state.disabled.remove(database);
        }
        Ok(())
    }

    /// Whether new clients of this database are refused.
    #[must_use]
    pub fn is_disabled(&self, database: &str) -> bool {
        self.state.lock().disabled.contains(database)
    }
}

/// The clients that orders are about: not those at a console.
fn clients(shared: &Shared) -> Vec<Arc<ClientFacts>> {
    let mut clients = shared.roster.clients();
    clients.retain(|client| !client.is_caller);
    clients
}

/// Whether there is such a database. `*` stands for every name.
fn known(shared: &Shared, database: &str) -> Result<(), OrderError> {
    let running = shared.running();
    match running.config.profile(database, "") {
        Some(_) => Ok(()),
        None => Err(OrderError::NoSuchDatabase(database.to_owned())),
    }
}
