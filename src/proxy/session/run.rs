//! The loop of a session's life: read a request, borrow a server, relay, give it back.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::deadlines::{after, is_over};
use super::inbox::HOLD_MAX;
use super::lost::LostBlock;
use super::{Loan, Session};
use crate::config::PoolMode;
use crate::net::buffer;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_client};
use crate::protocol::messages;
use crate::proxy::cancel;
use crate::proxy::client::Signal;
use crate::proxy::error::ClientError;
use crate::proxy::pool::{Lent, Pool};
use crate::proxy::server::Server;
use crate::proxy::server::prefix::{self, Change};
use crate::sql::opening::Opening;

/// How often a request looks whether there is a primary by now.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(20);

/// Why a session, or the loan of a server, ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client said goodbye or vanished.
    Gone,
    /// The client is told why, and the session ends (or, where the error allows it, goes on).
    Fault(ClientError),
    /// The server went away, or what it says makes no sense any more.
    ServerLost,
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Fault(error)
    }
}

impl Session {
    /// Lives. The answer says how it ended, for the log.
    pub async fn run(&mut self) -> &'static str {
        poll_fn(|cx| {
            self.handle.listen(cx);
            Poll::Ready(())
        })
        .await;
        let end = loop {
            if let Err(end) = self.serve_request().await {
                break end;
            }
        };
        let reason = match end {
            End::Gone => return "client left",
            End::ServerLost => "server lost",
            End::Fault(error) => {
                if !matches!(error, ClientError::ShuttingDown) {
                    let (client, sqlstate) = (self.handle.id, error.code());
                    tracing::info!(client, user = self.user(), database = self.database(), %sqlstate, %error, "session ended");
                }
                self.outbox.append(|out| error.write_fatal(out));
                "refused"
            }
        };
        self.say_goodbye().await;
        reason
    }

    /// The last bytes, for a client that takes them.
    async fn say_goodbye(&mut self) {
        let last = async {
            let sent = poll_fn(|cx| self.outbox.poll_send(&mut self.stream, cx)).await;
            if sent.is_ok() {
                self.stream.close().await;
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), last).await;
    }

    /// One request: `Err` when the session is over.
    async fn serve_request(&mut self) -> Result<(), End> {
        poll_fn(|cx| self.poll_request(cx)).await?;
        if let Some(error) = self.session_lost.take() {
            return Err(error.into());
        }
        if self.is_statement_mode() && self.begins_block() {
            return self.refuse(ClientError::StatementMode);
        }
        let mut loan = match self.borrow().await {
            Ok(loan) => loan,
            Err(End::Fault(error)) if error.severity() == crate::protocol::error_response::Severity::Error => {
                return self.refuse(error);
            }
            Err(end) => return Err(end),
        };
        let Some(mut server) = loan.server.take() else { return Err(ClientError::Internal("an empty loan").into()) };
        let relayed = poll_fn(|cx| self.poll_relay(&mut loan, &mut server, cx)).await;
        self.handle.not_working();
        self.quiet_deadlines();
        self.names.leave_server();
        loan.server = Some(server);
        match relayed {
            Ok(()) => {
                self.give_back(loan);
                Ok(())
            }
            // nothing can follow half a message, not even an error
            Err(End::Fault(_)) if loan.server.as_ref().is_some_and(|server| server.is_half_told()) => {
                self.end_loan(loan, End::Gone).await
            }
            Err(end) => self.end_loan(loan, end).await,
        }
    }

    /// Waits for a whole request, or as much of one as is ever held back.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            if self.handle.has_any() {
                self.heed_idle_signals()?;
            }
            if !self.outbox.is_empty()
                && let Poll::Ready(Err(_)) = self.outbox.poll_send(&mut self.stream, cx)
            {
                return Poll::Ready(Err(End::Gone));
            }
            self.arm_write(!self.outbox.is_empty());
            if let Some(mut lost) = self.lost.take() {
                let over = self.answer_lost(&mut lost)?;
                self.lost = (!over).then_some(lost);
                if over || !self.outbox.is_empty() && self.outbox_moves(cx)? {
                    continue;
                }
            } else if self.has_request()? {
                self.deadlines.client_idle = 0;
                return Poll::Ready(Ok(()));
            } else if !self.outbox.is_empty() && self.outbox_moves(cx)? {
                continue; // it was the Sync of a refused batch
            }
            // a client that does not take its answers is not read either
            if !self.outbox.is_empty() || self.inbox.is_full() && self.lost.is_none() && self.discard_left == 0 {
                return self.rest();
            }
            match self.inbox.poll_fill(&mut self.stream, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return self.rest(),
            }
        }
    }

    fn outbox_moves(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.outbox.poll_send(&mut self.stream, cx) {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(_)) => Err(End::Gone),
            Poll::Pending => Ok(false),
        }
    }

    /// Nothing to do: the buffers go back.
    fn rest<T>(&mut self) -> Poll<T> {
        self.inbox.park();
        if self.member.profile.timeouts.client_idle.is_some() && self.deadlines.client_idle == 0 {
            let now = self.worker.shared.now_ms();
            self.deadlines.client_idle = after(now, self.member.profile.timeouts.client_idle);
            self.arm();
        }
        Poll::Pending
    }

    /// Whether the inbox holds a request that a server is needed for. What is nobody's is dropped on the way.
    fn has_request(&mut self) -> Result<bool, End> {
        loop {
            let data = self.inbox.bytes();
            if self.discard_left > 0 && !data.is_empty() {
                let gone = self.discard_left.min(data.len());
                self.discard_left -= gone;
                self.inbox.consume(gone);
                continue;
            }
            let rest = data.get(self.scanned..).unwrap_or_default();
            let Scan::Header { tag, body_len } = scan_client(rest).map_err(ClientError::from)? else {
                return Ok(data.len() >= HOLD_MAX && !self.skip_to_sync);
            };
            let total = HEADER_LEN + usize::try_from(body_len).unwrap_or(usize::MAX - HEADER_LEN);
            let here = total.min(rest.len());
            if self.skip_to_sync || self.scanned == 0 && matches!(tag, b'd' | b'c' | b'f') {
                // what follows a refused request, and late data of a COPY that has failed
                match tag {
                    b'X' => return Err(End::Gone),
                    b'S' => {
                        self.skip_to_sync = false;
                        self.outbox.append(|out| out.extend_from_slice(&messages::ready_for_query(b'I')));
                    }
                    _ => {}
                }
                self.discard_left = total - here;
                self.inbox.consume(here);
                continue;
            }
            if total > rest.len() {
                // larger than what is held back: it streams
                return Ok(self.scanned + total > HOLD_MAX && data.len() >= HOLD_MAX);
            }
            match tag {
                b'X' if self.scanned == 0 => return Err(End::Gone),
                b'Q' | b'S' | b'H' | b'F' | b'X' => return Ok(true),
                _ => self.scanned += total,
            }
        }
    }

    fn heed_idle_signals(&mut self) -> Result<(), End> {
        if self.handle.has(Signal::Now) || self.handle.has(Signal::Goodbye) && self.lost.is_none() {
            return Err(ClientError::ShuttingDown.into());
        }
        self.handle.clear(Signal::Cancel);
        if self.handle.has(Signal::Expired) {
            self.handle.clear(Signal::Expired);
            let now = self.worker.shared.now_ms();
            if is_over(self.deadlines.client_idle, now) {
                return Err(ClientError::ClientIdle.into());
            }
            if is_over(self.deadlines.write, now) {
                return Err(ClientError::SlowReader.into());
            }
            self.arm();
        }
        Ok(())
    }

    /// Answers the request in the inbox with an error; the session goes on.
    fn refuse(&mut self, error: ClientError) -> Result<(), End> {
        self.outbox.append(|out| error.write(out));
        loop {
            let rest = self.inbox.bytes();
            let Scan::Header { tag, body_len } = scan_client(rest).map_err(ClientError::from)? else { break };
            let total = HEADER_LEN + usize::try_from(body_len).unwrap_or(usize::MAX - HEADER_LEN);
            let here = total.min(rest.len());
            self.scanned = 0;
            self.discard_left = total - here;
            self.inbox.consume(here);
            if matches!(tag, b'Q' | b'S' | b'F') {
                self.outbox.append(|out| out.extend_from_slice(&messages::ready_for_query(b'I')));
                return Ok(());
            }
            if self.discard_left > 0 {
                break;
            }
        }
        self.skip_to_sync = true;
        Ok(())
    }

    /// Whether the request opens a transaction block.
    fn begins_block(&self) -> bool {
        let data = self.inbox.bytes();
        match scan_client(data) {
            Ok(Scan::Header { tag: b'Q', .. }) => {
                Opening::of(data.get(HEADER_LEN..).unwrap_or_default()) == Opening::Begin
            }
            Ok(Scan::Header { tag: b'P', .. }) => {
                let body = data.get(HEADER_LEN..).unwrap_or_default();
                let sql = crate::protocol::frame::split_cstr(body).map_or(body, |(_, sql)| sql);
                Opening::of(sql) == Opening::Begin
            }
            _ => false,
        }
    }

    /// The pool of now: the configuration or the primary may have changed since the last request.
    fn pool(&mut self) -> Result<Arc<Pool>, End> {
        let shared = &self.worker.shared;
        let (version, generation) = (shared.board.version(), shared.generation());
        if let Some(pool) = &self.member.pool
            && self.member.version == version
            && self.member.generation == generation
        {
            return Ok(Arc::clone(pool));
        }
        if self.member.generation != generation {
            let profile = shared.running().config.profile(&self.member.database, &self.member.user);
            let Some(profile) = profile else {
                return Err(ClientError::NoSuchDatabase(self.member.database.to_string()).into());
            };
            self.member.profile = profile;
            self.member.generation = generation;
        }
        self.member.version = version;
        match shared.route(&self.member.profile, &self.member.database, &self.member.user) {
            Ok(pool) => {
                self.member.pool = Some(Arc::clone(&pool));
                Ok(pool)
            }
            Err(missing) => {
                self.member.pool = None;
                Err(ClientError::NoPrimary(missing).into())
            }
        }
    }

    /// Borrows a server and brings it to the client's state, waiting `query_wait` at most.
    async fn borrow(&mut self) -> Result<Loan, End> {
        self.deadlines.query_wait = 0;
        let lent = loop {
            let pool = match self.pool() {
                Ok(pool) => pool,
                Err(End::Fault(error @ ClientError::NoPrimary(_))) => {
                    self.wait_for_primary(error).await?;
                    continue;
                }
                Err(end) => return Err(end),
            };
            let mut server = match pool.checkout(&self.worker, &self.handle) {
                Lent::Server(server) => server,
                Lent::Queued(ticket) => {
                    self.begin_wait();
                    let waited = poll_fn(|cx| self.poll_grant(&pool, cx)).await;
                    match waited {
                        Ok(server) => {
                            self.handle.end_wait();
                            server
                        }
                        Err(end) => {
                            pool.leave(&self.worker, &self.handle, ticket);
                            if end == End::Fault(ClientError::PoolRetired) {
                                self.member.pool = None;
                                continue;
                            }
                            return Err(end);
                        }
                    }
                }
            };
            if pool.wants_check(&server) {
                let checked = self.check(&pool, &mut server).await;
                if checked != Ok(true) {
                    pool.discard(&self.worker, server);
                    checked?;
                    continue;
                }
            }
            break (pool, server);
        };
        self.deadlines.query_wait = 0;
        self.arm_if_any();
        let (pool, mut server) = lent;
        self.handle.working_on(&server.identity);
        let change = Change::needed(&server, self.handle.id, &self.wants);
        let prefix = (change != Change::None).then(|| {
            let mut prefix = buffer::lend_growing();
            let written = prefix::write(&mut server, &mut prefix, change, &self.wants);
            written.map(|()| prefix)
        });
        let mut loan = Loan::new(server, pool, std::rc::Rc::clone(&self.worker));
        loan.prefix = match prefix {
            Some(Ok(prefix)) => Some(prefix),
            Some(Err(_)) => return Err(ClientError::Internal("a server was lent in the middle of a COPY").into()),
            None => None,
        };
        Ok(loan)
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

    fn begin_wait(&mut self) {
        if self.deadlines.query_wait == 0 {
            self.deadlines.query_wait = after(self.worker.shared.now_ms(), self.member.profile.timeouts.query_wait);
        }
        self.inbox.park();
        self.arm();
    }

    /// Waits a moment for a primary.
    async fn wait_for_primary(&mut self, error: ClientError) -> Result<(), End> {
        self.begin_wait();
        if is_over(self.deadlines.query_wait, self.worker.shared.now_ms()) {
            return Err(error.into());
        }
        self.handle.begin_hold();
        let waited = tokio::time::timeout(LOOK_AGAIN, poll_fn(|cx| self.poll_wait_ends(cx))).await.unwrap_or(Ok(()));
        self.handle.not_working();
        match waited {
            Err(End::Fault(ClientError::QueryWait)) => Err(error.into()),
            waited => waited,
        }
    }

    /// Ready when the wait must end whatever comes of it.
    fn poll_wait_ends(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.handle.has_any() {
            if self.handle.has(Signal::Now) || self.handle.has(Signal::Goodbye) {
                return Poll::Ready(Err(ClientError::ShuttingDown.into()));
            }
            if self.handle.has(Signal::Cancel) {
                self.handle.clear(Signal::Cancel);
                return Poll::Ready(Err(ClientError::Cancelled.into()));
            }
            if self.handle.has(Signal::Expired) {
                self.handle.clear(Signal::Expired);
                if is_over(self.deadlines.query_wait, self.worker.shared.now_ms()) {
                    return Poll::Ready(Err(ClientError::QueryWait.into()));
                }
                self.arm();
            }
        }
        // a client that leaves the queue must be seen leaving
        while !self.inbox.is_full() {
            match self.inbox.poll_fill(&mut self.stream, cx) {
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
    fn give_back(&mut self, mut loan: Loan) {
        if let Some(server) = loan.server.take() {
            loan.pool.give_back(&self.worker, server);
        }
    }

    /// A loan has ended otherwise than by giving the server back.
    async fn end_loan(&mut self, mut loan: Loan, end: End) -> Result<(), End> {
        let Some(server) = loan.server.take() else { return Err(end) };
        match end {
            End::ServerLost => self.server_lost(&loan, server),
            End::Gone | End::Fault(_) => {
                self.recover(&loan, server);
                Err(end)
            }
        }
    }

    /// The client is gone, its server is not: what it left is ended in the background, and the server kept.
    fn recover(&self, loan: &Loan, mut server: Box<Server>) {
        let (pool, worker) = (Arc::clone(&loan.pool), std::rc::Rc::clone(&self.worker));
        if self.message_left > 0 || loan.prefix.is_some() || server.deaf {
            // half a message has been sent; or nothing can be
            return pool.discard(&worker, server);
        }
        let discard = self.is_session_mode();
        std::rc::Rc::clone(&worker).see_through(async move {
            let shared = Arc::clone(&worker.shared);
            let recovered = tokio::time::timeout(pool.cancel_wait(), server.recover(discard, &shared.reported)).await;
            match recovered {
                Ok(Ok(())) => {
                    if discard {
                        server.forget_settings(&shared.neutral);
                    }
                    pool.give_back(&worker, server);
                }
                _ => pool.discard(&worker, server),
            }
        });
    }

    /// The server went away. What the client is told depends on what was on its way.
    fn server_lost(&mut self, loan: &Loan, server: Box<Server>) -> Result<(), End> {
        let pipeline = &server.pipeline;
        let (status, readies, open) = (pipeline.status(), pipeline.readies(), pipeline.has_open_batch());
        let idle = pipeline.quiet() && !open;
        let half_told = server.is_half_told();
        {
            let (node, user, database) = (&*loan.pool.key.node, &*loan.pool.key.user, &*loan.pool.key.database);
            let server_pid = server.identity.pid;
            let said =
                loan.fatal.as_deref().map(|fields| crate::protocol::error_response::ServerError::read(fields).text());
            tracing::warn!(client = self.handle.id, node, user, database, server_pid, said, "server went away");
        }
        loan.pool.discard(&self.worker, server);
        let rest_of_message = std::mem::take(&mut self.message_left);
        self.discard_left += rest_of_message;
        self.pending.clear();
        if half_told {
            return Err(End::Gone); // nothing can follow half a message
        }
        if self.is_session_mode() {
            let error = match &loan.fatal {
                Some(fields) => ClientError::ServerRefused(fields.clone()),
                None => ClientError::SessionLost,
            };
            if idle || status != b'I' && !loan.commits {
                return Err(error.into());
            }
            // that its outcome is in doubt must not be lost behind the end of the session
            self.tell_lost(&ClientError::OutcomeUnknown, readies, open, b'I');
            self.session_lost = Some(error);
            return Ok(());
        }
        if status != b'I' && !loan.commits {
            let mut lost = LostBlock::new(status);
            if !idle {
                // the statement that was running learns it; what was pipelined behind it likewise
                self.tell_lost(&ClientError::BlockLost, readies, open, b'E');
                lost.status = b'E';
            }
            self.lost = Some(lost);
            return Ok(());
        }
        if !idle {
            self.tell_lost(&ClientError::OutcomeUnknown, readies, open, b'I');
        }
        Ok(())
    }

    /// Answers every turn that was on its way with an error.
    fn tell_lost(&mut self, error: &ClientError, readies: usize, open: bool, status: u8) {
        for _ in 0..readies {
            self.outbox.append(|out| {
                error.write(out);
                out.extend_from_slice(&messages::ready_for_query(status));
            });
        }
        if open {
            self.outbox.append(|out| error.write(out));
            self.skip_to_sync = true;
        }
    }

    pub(in crate::proxy) fn is_session_mode(&self) -> bool {
        self.member.profile.mode == PoolMode::Session
    }

    pub(in crate::proxy) fn is_statement_mode(&self) -> bool {
        self.member.profile.mode == PoolMode::Statement
    }

    /// Whether the server may go back although the session goes on.
    pub(in crate::proxy) fn may_release(&self, loan: &Loan) -> bool {
        !self.is_session_mode() && self.message_left == 0 && loan.prefix.is_none() && !loan.repair_due
    }

    /// Tells the worker when the nearest timeout ends.
    pub(in crate::proxy) fn arm(&self) {
        self.worker.set_deadline_ms(&self.handle, self.deadlines.nearest());
    }

    fn arm_if_any(&self) {
        if self.handle.deadline_ms() != 0 {
            self.arm();
        }
    }

    /// What follows from a ReadyForQuery for the timeouts.
    pub(in crate::proxy) fn arm_deadline(&mut self, _: &Loan, server: &Server) {
        let timeouts = &self.member.profile.timeouts;
        if timeouts.query.is_none() && timeouts.transaction.is_none() && timeouts.idle_in_transaction.is_none() {
            return;
        }
        let now = self.worker.shared.now_ms();
        let in_block = server.pipeline.status() != b'I';
        self.deadlines.query = if server.pipeline.quiet() { 0 } else { after(now, timeouts.query) };
        self.deadlines.idle_in_transaction =
            if in_block && server.pipeline.quiet() { after(now, timeouts.idle_in_transaction) } else { 0 };
        if !in_block {
            self.deadlines.transaction = 0;
        } else if self.deadlines.transaction == 0 {
            self.deadlines.transaction = after(now, timeouts.transaction);
        }
        self.arm();
    }

    /// Something was sent to the server: its timeouts begin.
    pub(in crate::proxy) fn arm_sent(&mut self, server: &Server, taken: bool) {
        let timeouts = &self.member.profile.timeouts;
        let streams = self.message_left > 0;
        if timeouts.query.is_none()
            && timeouts.idle_in_transaction.is_none()
            && timeouts.transaction.is_none()
            && !streams
            && self.deadlines.read == 0
        {
            return;
        }
        let now = self.worker.shared.now_ms();
        if taken {
            self.deadlines.idle_in_transaction = 0; // part of a message that is held back is nothing yet
        }
        self.deadlines.read = if streams { after(now, timeouts.read) } else { 0 };
        if self.deadlines.query == 0 && !server.pipeline.quiet() {
            self.deadlines.query = after(now, timeouts.query);
        }
        if self.deadlines.transaction == 0 {
            self.deadlines.transaction = after(now, timeouts.transaction);
        }
        self.arm();
    }

    /// The client does, or does not, take what it is sent.
    pub(in crate::proxy) fn arm_write(&mut self, stuck: bool) {
        if stuck == (self.deadlines.write == 0) && self.member.profile.timeouts.write.is_some() {
            let now = self.worker.shared.now_ms();
            self.deadlines.write = if stuck { after(now, self.member.profile.timeouts.write) } else { 0 };
            self.arm();
        }
    }

    fn quiet_deadlines(&mut self) {
        if self.deadlines.nearest() != 0 {
            let write = self.deadlines.write;
            self.deadlines = super::deadlines::Deadlines { write, ..Default::default() };
            self.arm();
        }
    }

    /// A timeout has run out while a server is lent.
    pub(in crate::proxy) fn heed_deadline(&mut self, loan: &mut Loan, server: &Server) -> Result<(), End> {
        let now = self.worker.shared.now_ms();
        let at = self.deadlines;
        if is_over(at.read, now) {
            if server.out.is_none() {
                return Err(ClientError::Stalled.into());
            }
            // it is the server that does not take what the client has sent
            self.deadlines.read = after(now, self.member.profile.timeouts.read);
        }
        if is_over(at.write, now) {
            return Err(ClientError::SlowReader.into());
        }
        if is_over(at.idle_in_transaction, now) {
            return Err(ClientError::IdleInTransaction.into());
        }
        if is_over(at.transaction, now) {
            return Err(ClientError::TransactionTimeout.into());
        }
        if is_over(at.query, now) {
            if loan.query_expired {
                return Err(ClientError::QueryTimeout.into()); // its cancel has not helped
            }
            loan.query_expired = true;
            if server.identity.cancel_begins() {
                let within = self.member.profile.timeouts.cancel_wait;
                tokio::task::spawn_local(cancel::deliver(Arc::clone(&server.identity), within));
            }
            self.deadlines.query = after(now, Some(loan.pool.cancel_wait()));
        }
        self.arm();
        Ok(())
    }
}
