//! Places for connections that never come into a pool: a replication connection belongs to one client from its dial to
//! its close, and counts against every limit of the pool all the same.
//!
//! A claim waits in the order of arrival like any client, and where the pool is full it gets the place of a server that
//! is closed for it. Dropping a claim's future leaves the queue; dropping a [`Place`] frees it.
//!
//! Not here: what is done with such a connection (`proxy/replication.rs`).

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::accounting::{Claim, Ticket};
use super::login::told;
use super::{Pool, hang_up};
use crate::proxy::client::{Claimed, ClientHandle};
use crate::proxy::error::ClientError;
use crate::proxy::server::Server;
use crate::proxy::session::settings::Settings;
use crate::proxy::worker::Worker;

/// A place in a pool; dropping it frees it.
#[derive(Debug)]
pub struct Place {
    pool: Arc<Pool>,
    worker: Rc<Worker>,
}

impl Place {
    /// Whose it is.
    #[must_use]
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Place {
    /// Opens the connection that the place is for, with what `startup` sets in its startup packet.
    ///
    /// # Errors
    /// What the client is told: the server's own words, if it had any.
    pub async fn open(&self, startup: &Arc<Settings>) -> Result<Box<Server>, ClientError> {
        self.pool.connect(&self.worker, startup).await.map_err(|error| told(&error))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.pool.books.lock().closed_apart();
            self.pool.place_freed(&self.worker);
        }
    }
}

impl Pool {
    /// Waits for a place, as long as the caller does.
    ///
    /// # Errors
    /// [`ClientError::TooManyWaiting`], and [`ClientError::PoolRetired`] when the place to wait is elsewhere by now.
    pub async fn claim(
        self: &Arc<Self>,
        worker: &Rc<Worker>,
        client: &Arc<ClientHandle>,
    ) -> Result<Place, ClientError> {
        let (claim, refused) = self.ask_for_place(worker, client);
        let instead = match claim {
            Claim::Place => None,
            Claim::Instead(mut server) => {
                let _ = server.stream.detach(); // it may be registered with another worker's reactor
                Some(server)
            }
            Claim::Full => return Err(ClientError::TooManyWaiting),
            Claim::Queued(ticket) => {
                let waiting = Waiting { pool: self, worker, client, ticket: Some(ticket) };
                if refused && !self.starve(worker) {
                    self.dial_for_waiters(worker);
                }
                waiting.wait().await?
            }
        };
        self.books.lock().set_apart();
        let place = Place { pool: Arc::clone(self), worker: Rc::clone(worker) };
        if let Some(server) = instead {
            hang_up(server).await;
        }
        Ok(place)
    }

    /// The books' answer, and whether only a limit above the pool stands in the way.
    fn ask_for_place(&self, worker: &Worker, client: &Arc<ClientHandle>) -> (Claim<Box<Server>>, bool) {
        let now_us = worker.shared.now_us();
        let mut books = self.books.lock();
        let claim = books.claim(
            now_us,
            || self.budgets.take(),
            |ticket| {
                client.begin_wait(ticket);
                Arc::clone(client)
            },
        );
        (claim, books.wants_more(now_us))
    }
}

/// A place in the queue that is left when it is dropped.
struct Waiting<'a> {
    pool: &'a Arc<Pool>,
    worker: &'a Rc<Worker>,
    client: &'a Arc<ClientHandle>,
    ticket: Option<Ticket>,
}

impl Waiting<'_> {
    /// Until there is a place; with a server where that one has to go first.
    async fn wait(mut self) -> Result<Option<Box<Server>>, ClientError> {
        let claimed = poll_fn(|cx| {
            self.client.listen(cx);
            self.client.take_claimed().map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        self.ticket = None;
        self.client.end_wait();
        match claimed {
            Claimed::Place => Ok(None),
            Claimed::Instead(server) => Ok(Some(server)),
            Claimed::Refused(error) => Err(error),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        self.pool.books.lock().leave_claim(ticket);
        match self.client.take_claimed() {
            Some(Claimed::Place) => self.pool.closed(self.worker),
            Some(Claimed::Instead(server)) => self.pool.pass_on(self.worker, server),
            Some(Claimed::Refused(_)) | None => {}
        }
        self.client.end_wait();
    }
}
