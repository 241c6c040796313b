//! PAUSE and RESUME: of everything, or of one database.
//!
//! A paused pool lends nothing and dials nothing; clients that want a server wait. Its servers are closed, each as soon as its client
//! lets go of it: at the end of the transaction, or in session mode and with a pin at the end of the session. PAUSE is done when
//! none is left, so PostgreSQL may be stopped then.

use std::sync::Arc;

use super::{LOOK_AGAIN, Mode, Number, OrderError, Orders, State, known};
use crate::proxy::shared::{Paused, Shared};

impl Orders {
    /// PAUSE: done when all servers, of the database or at all, are closed.
    ///
    /// # Errors
    /// [`OrderError`].
    ///
    /// # Cancel safety
    /// Dropped before it is done, the pause is undone, unless it was there before.
    pub async fn pause(&self, shared: &Shared, database: Option<&str>) -> Result<(), OrderError> {
        let mut pausing = self.begin_pause(shared, database)?;
        while !is_closed(shared, database) {
            tokio::time::sleep(LOOK_AGAIN).await;
            if !self.holds(pausing.number, database) {
                pausing.owned = false;
                return Err(OrderError::Undone);
            }
        }
        pausing.owned = false;
        Ok(())
    }

    /// PAUSE that nobody waits for. PgBouncer: SIGUSR1.
    ///
    /// # Errors
    /// [`OrderError::AlreadyPaused`].
    pub fn pause_now(&self, shared: &Shared) -> Result<(), OrderError> {
        self.begin_pause(shared, None).map(|mut pausing| pausing.owned = false)
    }

    fn begin_pause<'a>(&'a self, shared: &'a Shared, database: Option<&str>) -> Result<Pausing<'a>, OrderError> {
        let mut state = self.state.lock();
        if state.all.is_some() {
            return Err(OrderError::AlreadyPaused);
        }
        let (number, owned) = match database {
            None => {
                let number = state.next();
                state.all = Some((Mode::Paused, number));
                (number, true)
            }
            Some(name) => {
                known(shared, name)?;
                let before = state.databases.get(name).copied();
                let number = before.unwrap_or_else(|| state.next());
                state.databases.insert(name.into(), number);
                (number, before.is_none())
            }
        };
        self.enforce(shared, &state);
        tracing::info!(database, "ordered: PAUSE");
        Ok(Pausing { orders: self, shared, database: database.map(Into::into), number, owned })
    }

    /// RESUME.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn resume(&self, shared: &Shared, database: Option<&str>) -> Result<(), OrderError> {
        let mut state = self.state.lock();
        match database {
            None if state.shutdown.is_some() => return Err(OrderError::ShuttingDown),
            None => {
                let (mode, _) = state.all.take().ok_or(OrderError::NotPaused)?;
                if mode == Mode::Suspended {
                    super::suspend::wake(shared);
                }
            }
            Some(name) => {
                known(shared, name)?;
                state.databases.remove(name).ok_or_else(|| OrderError::DatabaseNotPaused(name.to_owned()))?;
            }
        }
        self.enforce(shared, &state);
        tracing::info!(database, "ordered: RESUME");
        Ok(())
    }

    /// Has the pools follow the state, under its lock.
    pub(super) fn enforce(&self, shared: &Shared, state: &State) {
        let all = state.all.is_some_and(|(mode, _)| mode == Mode::Paused);
        let databases = state.databases.keys().cloned().collect();
        shared.pools.pause(|paused| *paused = Paused { all, databases });
        self.notify();
    }

    fn holds(&self, number: Number, database: Option<&str>) -> bool {
        let state = self.state.lock();
        match database {
            None => state.all == Some((Mode::Paused, number)),
            Some(name) => state.databases.get(name) == Some(&number),
        }
    }
}

/// Whether no server is left.
pub(super) fn is_closed(shared: &Shared, database: Option<&str>) -> bool {
    shared.pools.of(database).iter().all(|pool| pool.counts().open == 0)
}

/// A pause that is not complete.
struct Pausing<'a> {
    orders: &'a Orders,
    shared: &'a Shared,
    database: Option<Arc<str>>,
    number: Number,
    /// Whether it is undone with this.
    owned: bool,
}

impl Drop for Pausing<'_> {
    fn drop(&mut self) {
        if !self.owned || !self.orders.holds(self.number, self.database.as_deref()) {
            return;
        }
        let mut state = self.orders.state.lock();
        if state.shutdown.is_some() {
            return;
        }
        match &self.database {
            None => state.all = None,
            Some(name) => {
                state.databases.remove(name);
            }
        }
        self.orders.enforce(self.shared, &state);
        tracing::info!(database = self.database.as_deref(), "PAUSE undone: nobody waits for it any more");
    }
}
