//! Getting a server for a request, and giving it back.
//!
//! A request waits `query_wait` at most, for a primary and for its turn in the pool alike; while it waits it can be
//! cancelled, and a client that leaves is seen leaving. A server that comes is brought to the client's settings by a prefix
//! that travels with the request (`server/prefix.rs`).
//!
//! Not here: who is served when (`pool/accounting.rs`), what is sent (`request.rs`).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::deadlines::{after, is_over};
use super::destination::{Destination, Need};
use super::replicas::Visited;
use super::run::End;
use super::settings::Settings;
use super::visit::Visit;
use super::{Loan, Session};
use crate::proxy::client::Signal;
use crate::proxy::error::{self, ClientError};
use crate::proxy::pool::gate::Hold;
use crate::proxy::pool::{Lent, Pool};
use crate::proxy::route::counters::Event;
use crate::proxy::server::Server;

/// How often a request looks whether there is a replica for it by now.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The same for a primary: whoever waits for one is told, and looks by itself only as the configuration may have changed.
const LOOK_FOR_PRIMARY: Duration = Duration::from_millis(250);

impl Session {
    /// Borrows a server and brings it to the client's state, waiting `query_wait` at most.
    pub(super) async fn borrow(&mut self, need: Need) -> Result<Loan, End> {
        self.deadlines.end_wait();
        let (pool, replica, server) = self.obtain(need).await?;
        self.server_is_lent(&pool, self.deadlines.waits);
        self.deadlines.end_wait();
        self.arm_if_any();
        self.handle.working_on(&server.identity);
        let mut loan = Loan::new(server, pool, std::rc::Rc::clone(&self.worker));
        loan.visit = replica.map(|visited| Visit::at(Some(visited)));
        self.count(if replica.is_some() { Event::ToReplica } else { Event::ToPrimary });
        let Some(mut server) = loan.server.take() else { return Err(ClientError::Internal("an empty loan").into()) };
        let written = self.write_prefix(&mut loan, &mut server);
        loan.server = Some(server);
        written.map(|()| loan)
    }

    /// A server as it is: whoever had it last may have left settings on it.
    pub(super) async fn obtain(&mut self, need: Need) -> Result<(Arc<Pool>, Option<Visited>, Box<Server>), End> {
        loop {
            let Destination { pool, replica } = match self.destination(need).await {
                Ok(destination) => destination,
                Err(End::Fault(error @ (ClientError::NoPrimary(_) | ClientError::NoReplica(_)))) => {
                    self.wait_for_node(error).await?;
                    continue;
                }
                Err(end) => return Err(end),
            };
            let mut server = match pool.checkout(&self.worker, &self.handle) {
                Lent::Server(server) => server,
                Lent::Full => return Err(ClientError::TooManyWaiting.into()),
                Lent::Queued(ticket)
                    if replica.is_none() && self.worker.shared.board.version() != self.member.version =>
                {
                    // the primary has changed while this one came to the queue: whoever sends those on who wait here may have been
                    pool.leave(&self.worker, &self.handle, ticket);
                    continue;
                }
                Lent::Queued(ticket) if self.worker.shared.orders.turns_away() => {
                    pool.leave(&self.worker, &self.handle, ticket);
                    return Err(ClientError::ShuttingDown.into());
                }
                Lent::Queued(ticket) => {
                    self.deadlines.reserve = pool.reserve_due_ms(self.worker.shared.now_us());
                    self.begin_wait();
                    match poll_fn(|cx| self.poll_grant(&pool, cx)).await {
                        Ok(server) => {
                            self.handle.end_wait();
                            server
                        }
                        Err(end) => {
                            pool.leave(&self.worker, &self.handle, ticket);
                            if end == End::Fault(ClientError::PoolRetired) {
                                self.turned_away(replica);
                                continue;
                            }
                            return Err(end);
                        }
                    }
                }
            };
            let startup = if self.is_session_mode() { &self.startup } else { &self.worker.shared.neutral };
            if !Arc::ptr_eq(&server.startup, startup) {
                server = self.log_in_anew(&pool, server, Arc::clone(startup)).await?;
            } else if pool.wants_check(&server) {
                let checked = self.check(&pool, &mut server).await;
                if checked != Ok(true) {
                    pool.discard(&self.worker, server);
                    checked?;
                    continue;
                }
            }
            // the node may have restarted meanwhile, further back than what it was chosen for
            if let (Some(visited), Some(replicas)) = (replica, &self.member.replicas)
                && !replicas.is_same_life(visited)
            {
                pool.give_back(&self.worker, server);
                continue;
            }
            if replica.is_none() {
                match self.is_of_primary(&pool, &server) {
                    Ok(true) => {}
                    // kept, closed or lent, as it fits the pool it is of
                    Ok(false) if server.epoch >= self.member.epoch => {
                        pool.give_back(&self.worker, server);
                        continue;
                    }
                    Ok(false) => {
                        pool.discard(&self.worker, server);
                        continue;
                    }
                    Err(end) => {
                        pool.give_back(&self.worker, server);
                        return Err(end);
                    }
                }
            }
            return Ok((pool, replica, server));
        }
    }

    /// Waits for a server that has logged in as this client would have. It may stop waiting as any other.
    async fn log_in_anew(
        &mut self,
        pool: &Arc<Pool>,
        server: Box<Server>,
        startup: Arc<Settings>,
    ) -> Result<Box<Server>, End> {
        self.begin_wait();
        self.handle.begin_hold();
        let mut login = pool.log_in_anew(&self.worker, server, startup);
        let waited = poll_fn(|cx| match Pin::new(&mut login).poll(cx) {
            Poll::Ready(done) => {
                let done = done.unwrap_or(Err(ClientError::Internal("a login was lost")));
                Poll::Ready(done.map_err(End::from))
            }
            Poll::Pending => match self.poll_wait_ends(cx) {
                Poll::Ready(Err(end)) => Poll::Ready(Err(end)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            },
        })
        .await;
        self.handle.not_working();
        waited
    }

    /// Asks a server whether it is still there. A client that waits for the answer may stop waiting as any other.
    async fn check(&mut self, pool: &Pool, server: &mut Server) -> Result<bool, End> {
        self.begin_wait();
        self.handle.begin_hold();
        let worker = std::rc::Rc::clone(&self.worker);
        let check = server.check(&worker.shared.reported);
        let mut check = Box::pin(tokio::time::timeout(pool.check_within(), check));
        let checked = poll_fn(|cx| match check.as_mut().poll(cx) {
            Poll::Ready(checked) => Poll::Ready(Ok(checked == Ok(Ok(())))),
            Poll::Pending => self.poll_wait_ends(cx).map_ok(|()| false),
        })
        .await;
        self.handle.not_working();
        checked
    }

    pub(super) fn begin_wait(&mut self) {
        if !self.deadlines.waits {
            let (now, timeouts) = (self.worker.shared.now_ms(), &self.member.profile.timeouts);
            self.deadlines.waits = true;
            self.waits_for_server();
            let resolve = self.deadlines.resolve;
            self.deadlines.query_wait = if resolve == 0 { after(now, timeouts.query_wait) } else { resolve };
            self.deadlines.wait_notify = after(now, timeouts.query_wait_notify);
        }
        self.inbox.park();
        self.arm();
    }

    /// The place to wait is not there any more.
    fn turned_away(&mut self, replica: Option<Visited>) {
        match (replica, &mut self.member.replicas) {
            (Some(visited), Some(replicas)) => replicas.avoid(visited),
            _ => self.member.leave_pool(),
        }
    }

    /// Waits a moment for a primary, or for a replica.
    async fn wait_for_node(&mut self, error: ClientError) -> Result<(), End> {
        self.begin_wait();
        if is_over(self.deadlines.query_wait, self.worker.shared.now_ms()) {
            return Err(error.into());
        }
        self.handle.begin_hold();
        // seldom, and its own memory: the session's future is as large as the largest it may wait for
        let waited = Box::pin(self.wait_for_news(&error)).await;
        self.handle.not_working();
        match waited {
            Err(End::Fault(ClientError::QueryWait)) => Err(error.into()),
            waited => waited,
        }
    }

    /// Waits until there may be a node that the error has missed.
    async fn wait_for_news(&mut self, missing: &ClientError) -> Result<(), End> {
        let board = Arc::clone(&self.worker.shared.board);
        let mut rerouted = std::pin::pin!(board.rerouted());
        if board.version() != self.member.version {
            return Ok(()); // it came meanwhile
        }
        let is_primary = matches!(missing, ClientError::NoPrimary(_));
        let news = poll_fn(|cx| {
            if is_primary && rerouted.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            self.poll_wait_ends(cx)
        });
        let patience = if is_primary { LOOK_FOR_PRIMARY } else { LOOK_AGAIN };
        tokio::time::timeout(patience, news).await.unwrap_or(Ok(()))
    }

    /// Ready when the wait must end whatever comes of it.
    pub(super) fn poll_wait_ends(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.handle.has_any() {
            if let Some(error) = self.handle.ends_now() {
                return Poll::Ready(Err(error.into()));
            }
            if self.handle.has(Signal::Goodbye) {
                return Poll::Ready(Err(ClientError::ShuttingDown.into()));
            }
            self.handle.tell(|| self.levels(None));
            if self.handle.has(Signal::Cancel) {
                self.handle.clear(Signal::Cancel);
                return Poll::Ready(Err(ClientError::Cancelled.into()));
            }
            if self.handle.has(Signal::Expired) {
                self.handle.clear(Signal::Expired);
                let now = self.worker.shared.now_ms();
                if is_over(self.deadlines.query_wait, now) {
                    return Poll::Ready(Err(ClientError::QueryWait.into()));
                }
                if is_over(self.deadlines.wait_notify, now) {
                    self.deadlines.wait_notify = 0;
                    // no server is lent: what is in the outbox ends where a message does
                    self.outbox.append(error::write_queued);
                }
                if is_over(self.deadlines.reserve, now) {
                    self.deadlines.reserve = 0;
                    if let Some(pool) = &self.member.pool {
                        pool.dial_for_waiters(&self.worker);
                    }
                }
                self.arm();
            }
        }
        if !self.outbox.is_empty()
            && let Poll::Ready(Err(_)) = self.poll_outbox(cx)
        {
            return Poll::Ready(Err(End::Gone));
        }
        if self.handle.has_any() && self.handle.has(Signal::Suspend) && self.outbox.is_empty() {
            self.handle.be_still(); // what it asks for has not begun
        }
        // a client that leaves the queue must be seen leaving
        while !self.inbox.is_full() {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        self.inbox.park();
        Poll::Pending
    }

    fn poll_grant(&mut self, pool: &Pool, cx: &mut Context<'_>) -> Poll<Result<Box<Server>, End>> {
        match self.handle.take_grant() {
            Some(Ok(server)) => return Poll::Ready(Ok(server)),
            Some(Err(error)) => return Poll::Ready(Err(error.into())),
            None => {}
        }
        match self.poll_wait_ends(cx) {
            Poll::Ready(Err(End::Fault(ClientError::QueryWait))) => {
                let error = match pool.trouble() {
                    _ if pool.is_held_for(Hold::Switchover) => {
                        ClientError::NoPrimary(format!("cluster \"{}\" is switching over", pool.key.cluster))
                    }
                    Some(trouble) => ClientError::ServerUnreachable(trouble.to_string()),
                    None => ClientError::QueryWait,
                };
                Poll::Ready(Err(error.into()))
            }
            Poll::Ready(Err(end)) => Poll::Ready(Err(end)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Gives back a server that has been relayed to its end.
    pub(super) fn give_back(&mut self, mut loan: Loan) {
        if let Some(server) = loan.server.take() {
            loan.pool.give_back(&self.worker, server);
        }
    }
}
