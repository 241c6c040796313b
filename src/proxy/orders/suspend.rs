//! SUSPEND: nothing is read any more, from clients and from servers, and what has been read is passed on.
//!
//! Servers stay with their clients, in the middle of a transaction too. Whoever cannot be brought to a message's end within
//! `timeouts.suspend` is disconnected. Who comes meanwhile is let in, and not read. Undone when the console goes away.

use std::time::Instant;

use super::{LOOK_AGAIN, Mode, OrderError, Orders};
use crate::proxy::client::Signal;
use crate::proxy::roster::ClientFacts;
use crate::proxy::shared::Shared;

impl Orders {
    /// SUSPEND: done when nothing is held back for anybody.
    ///
    /// # Errors
    /// [`OrderError`].
    ///
    /// # Cancel safety
    /// Dropped before it is done, it is undone.
    pub async fn suspend(&self, shared: &Shared) -> Result<(), OrderError> {
        let number = {
            let mut state = self.state.lock();
            if state.all.is_some() {
                return Err(OrderError::AlreadyPaused);
            }
            if !state.databases.is_empty() {
                return Err(OrderError::PausedDatabases);
            }
            let number = state.next();
            state.all = Some((Mode::Suspended, number));
            number
        };
        tracing::info!("ordered: SUSPEND");
        let begun = Instant::now();
        let mut suspending = Suspending { orders: self, shared, done: false };
        loop {
            // those who have come meanwhile too
            let clients = super::clients(shared);
            clients.iter().filter(|client| !client.handle.has(Signal::Suspend)).for_each(|client| {
                client.handle.signal(Signal::Suspend);
            });
            let mut restless = clients.iter().filter(|client| !client.handle.is_still()).peekable();
            if restless.peek().is_none() {
                break;
            }
            let patience = shared.running().config.timeouts.suspend.limit();
            if patience.is_some_and(|patience| begun.elapsed() >= patience) {
                restless.for_each(|client| client.handle.signal(Signal::SuspendOver));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            if self.state.lock().all != Some((Mode::Suspended, number)) {
                suspending.done = true;
                return Err(OrderError::Undone);
            }
        }
        suspending.done = true;
        Ok(())
    }

    /// A client has come onto the roster: while everything is suspended, it is too.
    pub fn comes(&self, client: &ClientFacts) {
        // under the lock, or a RESUME might miss it
        let state = self.state.lock();
        if matches!(state.all, Some((Mode::Suspended, _))) {
            client.handle.signal(Signal::Suspend);
        }
    }

    /// An operator is at the console, for as long as this is kept.
    #[must_use]
    pub fn console<'a>(&'a self, shared: &'a Shared) -> Console<'a> {
        self.state.lock().consoles += 1;
        Console { orders: self, shared }
    }
}

/// An operator at the console: who has suspended everything and goes away must not leave it so.
#[derive(Debug)]
pub struct Console<'a> {
    orders: &'a Orders,
    shared: &'a Shared,
}

impl Drop for Console<'_> {
    fn drop(&mut self) {
        let mut state = self.orders.state.lock();
        state.consoles -= 1;
        let alone = state.consoles == 0 && matches!(state.all, Some((Mode::Suspended, _)));
        drop(state);
        if alone && self.orders.resume(self.shared, None).is_ok() {
            tracing::info!("SUSPEND undone: nobody is at the console any more");
        }
    }
}

/// Sessions read again.
pub(super) fn wake(shared: &Shared) {
    shared.roster.clients().iter().for_each(|client| client.handle.go_on());
}

/// A suspension that is not complete.
struct Suspending<'a> {
    orders: &'a Orders,
    shared: &'a Shared,
    done: bool,
}

impl Drop for Suspending<'_> {
    fn drop(&mut self) {
        if !self.done && self.orders.resume(self.shared, None).is_ok() {
            tracing::info!("SUSPEND undone: nobody waits for it any more");
        }
    }
}
