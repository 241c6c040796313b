//! The loop of a session's life: read a request, borrow a server, relay, give it back.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::deadlines::{after, is_over};
use super::destination::Need;
use super::inbox::HOLD_MAX;
use super::visit::Visit;
use super::{Loan, Session};
use crate::config::PoolMode;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_client};
use crate::protocol::messages;
use crate::proxy::client::Signal;
use crate::proxy::error::ClientError;
use crate::sql::opening::Opening;

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
        let reason = self.part(end).await;
        self.count_rest();
        reason
    }

    /// The client is told why, if it is there. The answer is for the log.
    async fn part(&mut self, end: End) -> &'static str {
        let reason = match end {
            End::Gone => return "client left",
            End::ServerLost => "server lost",
            End::Fault(error) => {
                if !matches!(error, ClientError::ShuttingDown) {
                    let (client, sqlstate) = (self.handle.id, error.code());
                    tracing::info!(client, user = self.user(), database = self.database(), %sqlstate, %error, "session ended");
                }
                self.count_own_error(&error);
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
            let sent = poll_fn(|cx| self.poll_outbox(cx)).await;
            if sent.is_ok() {
                self.stream.close().await;
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), last).await;
    }

    /// One request: `Err` when the session is over.
    async fn serve_request(&mut self) -> Result<(), End> {
        if let Some(in_doubt) = self.doubt.take() {
            // seldom, and its own memory
            Box::pin(self.resolve(*in_doubt)).await?;
        }
        poll_fn(|cx| self.poll_request(cx)).await?;
        if let Some(error) = self.session_lost.take() {
            return Err(error.into());
        }
        self.request_begins();
        let opening = self.opening();
        let begins = opening == Opening::Begin;
        if begins && self.is_statement_mode() {
            return self.refuse(ClientError::StatementMode);
        }
        let routed = self.route();
        let mut loan = match self.borrow(routed.need).await {
            Ok(loan) => loan,
            // a session whose own login was refused would not have come about
            Err(End::Fault(error @ ClientError::ServerRefused(_))) if self.is_session_mode() => {
                return Err(error.into());
            }
            Err(End::Fault(error)) if self.begin_unserved(&error) => return Ok(()),
            Err(End::Fault(error)) if error.severity() == crate::protocol::error_response::Severity::Error => {
                return self.refuse(error);
            }
            Err(end) => return Err(end),
        };
        let Some(mut server) = loan.server.take() else { return Err(ClientError::Internal("an empty loan").into()) };
        server.kept.clear();
        server.runs.clear();
        match &mut loan.visit {
            Some(visit) => (visit.block, visit.all) = (routed.block, routed.need == Need::Replica),
            // it can be asked again
            None if routed.need == Need::Read && !routed.block || self.is_harmless(opening) => {
                loan.visit = Some(Visit::at(None));
            }
            None => {}
        }
        loan.begins = begins;
        loan.relayed = true;
        let mut unread = false;
        let relayed = loop {
            let relayed = poll_fn(|cx| self.poll_relay(&mut loan, &mut server, cx)).await;
            if relayed.is_err() || loan.trail.is_quiet(loan.pins()) {
                break relayed;
            }
            self.handle.not_working();
            match self.settle(&mut loan, &mut server).await {
                Ok(true) => self.handle.working_on(&server.identity), // pinned: the same server goes on
                Ok(false) => break Ok(()),
                Err(end) => {
                    // everything it asked is answered, but what it has set is not known any more
                    self.session_lost = Some(ClientError::SessionLost);
                    unread = true;
                    break Err(end);
                }
            }
        };
        self.handle.not_working();
        self.count_volume(&loan, &mut server);
        self.stamp(&loan, routed);
        self.quiet_deadlines();
        self.names.leave_server();
        if self.names.is_used() {
            self.presence.entry.facts.set_prepared(self.names.len());
            if let Some(entry) = &server.entry {
                entry.set_prepared(server.prepared.len());
            }
        }
        loan.server = Some(server);
        loan.relayed = false;
        match relayed {
            Ok(()) => {
                if let Some(replicas) = &mut self.member.replicas {
                    replicas.forgive();
                }
                self.asked_again = 0;
                self.give_back(loan);
                Ok(())
            }
            Err(End::ServerLost) if unread => Ok(()), // the server is closed with its loan
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
                && let Poll::Ready(Err(_)) = self.poll_outbox(cx)
            {
                return Poll::Ready(Err(End::Gone));
            }
            self.arm_write(!self.outbox.is_empty());
            if self.handle.has_any() && self.handle.has(Signal::Suspend) {
                if self.outbox.is_empty() {
                    self.handle.be_still();
                }
                return self.rest();
            }
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
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return self.rest(),
            }
        }
    }

    fn outbox_moves(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.poll_outbox(cx) {
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
                        self.count_own_ready(b'I');
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
        if let Some(error) = self.handle.ends_now() {
            return Err(error.into());
        }
        if self.handle.has(Signal::Goodbye) && self.lost.is_none() {
            return Err(ClientError::ShuttingDown.into());
        }
        self.handle.clear(Signal::Cancel);
        self.handle.tell(|| self.levels(None));
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
        self.count_own_error(&error);
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
                self.count_own_ready(b'I');
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

    pub(in crate::proxy) fn is_session_mode(&self) -> bool {
        self.member.profile.mode == PoolMode::Session
    }

    pub(in crate::proxy) fn is_statement_mode(&self) -> bool {
        self.member.profile.mode == PoolMode::Statement
    }

    /// Whether the server may go back although the session goes on, or has to be looked after.
    pub(in crate::proxy) fn may_release(&self, loan: &Loan) -> bool {
        (!self.depends_on(loan) || !loan.trail.is_quiet(loan.pins()))
            && self.message_left == 0
            && loan.prefix.is_none()
            && !loan.repair_due
    }

    /// Whether the session would not survive the loss of its server.
    pub(in crate::proxy) fn depends_on(&self, loan: &Loan) -> bool {
        self.is_session_mode() || !loan.pins().is_empty()
    }
}
