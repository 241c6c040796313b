//! Frames both ways until the server owes nothing.
//!
//! Server to client: headers are scanned in place and whole slices passed on; a message of any size streams through one
//! buffer. Only where the client must read something else than the server wrote (answers of howdah's own, swallowed
//! ones, parameters that changed) are bytes put together anew. Client to server is `session/request.rs`.
//!
//! Answers are passed on as they come, never batched; a client that does not take them stops its own server from being
//! read, and nobody else's.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::client::Signal;
use super::error::ClientError;
use super::pool::Pool;
use super::server::Server;
use super::session::again;
use super::session::doubt::ROW_MAX;
use super::session::outbox::Outbox;
use super::session::request::local_message;
use super::session::run::End;
use super::session::trail::Trail;
use super::session::visit::Elsewhere;
use super::session::{Alone, Loan, Session};
use super::statements::Statement;
use crate::net::buffer::{self, Growing, Lent};
use crate::pg::SqlState;
use crate::protocol::error_response::{self, ServerError, Severity};
use crate::protocol::frame::{HEADER_LEN, Scan, ready_status, scan_header};
use crate::protocol::messages;
use crate::protocol::pipeline::{Event, Owed, Receipt, Reply};
use crate::sql::effects::Effects;

/// Room in front of what is read, for answers of howdah's own that go out before it.
const HEADROOM: usize = 64;

/// Messages whose content matters are waited for up to this size; a larger one of them is no server's.
const LOOKED_INTO_MAX: usize = 60_000;

/// Any other message is passed on whole up to this size, as much as a server process sends at a time (`PqSendBuffer`): one that
/// dies between two parts of a result leaves half a message behind, and nothing can be said to a client that has read half of one.
const WHOLE_MAX: usize = 8 * 1024;

/// What goes to the client of one read: the buffer itself, or something put together.
struct Incoming {
    lent: Lent,
    /// Where the run begins that has not been copied.
    run: usize,
    /// Up to where everything is accounted for.
    upto: usize,
    made: Option<Growing>,
    /// How much of `made` was not read here.
    front: usize,
    /// Where the answer begins that is being read, as far as it is in here.
    turn: Mark,
}

/// A place in what goes to the client.
#[derive(Clone, Copy)]
struct Mark {
    at: usize,
    run: usize,
    made: Option<usize>,
}

impl Incoming {
    /// The bytes being put together, with everything before `at` in them.
    fn at(&mut self, at: usize, pending: &mut Vec<u8>) -> &mut Growing {
        let made = self.made.get_or_insert_with(|| {
            let mut made = buffer::lend_growing();
            self.front = pending.len();
            made.append(pending);
            made
        });
        made.extend_from_slice(self.lent.get(self.run..at).unwrap_or_default());
        self.run = at;
        made
    }

    /// An answer ends at `end`.
    fn turn_ends(&mut self, end: usize) {
        self.turn = Mark { at: end, run: self.run, made: self.made.as_ref().map(|made| made.len()) };
    }

    /// Whether anything of the answer that is being read goes to the client: replies to howdah's own messages do not.
    fn tells(&self) -> bool {
        let length = |made: Option<usize>, run: usize, at: usize| made.unwrap_or(self.front) + at.saturating_sub(run);
        let made = self.made.as_ref().map(|made| made.len());
        length(made, self.run, self.upto) > length(self.turn.made, self.turn.run, self.turn.at)
    }

    /// Leaves out all of the answer that is being read, up to `at`.
    fn forget_turn(&mut self, at: usize, pending: &mut Vec<u8>) {
        self.run = self.turn.run;
        match (self.turn.made, &mut self.made) {
            (Some(len), Some(made)) => made.truncate(len),
            _ => self.made = None,
        }
        if self.turn.at == HEADROOM {
            pending.clear(); // answers of howdah's own to the same request
        } else {
            self.at(self.turn.at, pending);
        }
        self.run = at;
    }

    /// Leaves out what stands between `at` and `end`.
    fn skip(&mut self, at: usize, end: usize, pending: &mut Vec<u8>) {
        self.at(at, pending);
        self.run = end;
    }
}

impl Session {
    /// Relays until the server may go back to its pool.
    ///
    /// # Errors
    /// [`End`]: why it may not.
    pub(super) fn poll_relay(
        &mut self,
        loan: &mut Loan,
        server: &mut Server,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), End>> {
        if self.handle.has_any() {
            self.heed_signals(loan, server)?;
        }
        loop {
            let mut moved = false;
            if server.out.is_some() && server.poll_send(cx).is_ready() {
                moved = true;
            }
            if !self.outbox.is_empty() {
                match self.poll_outbox(cx) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
                    Poll::Pending => {}
                }
                self.arm_write(!self.outbox.is_empty());
            }
            let suspended = self.handle.has_any() && self.handle.has(Signal::Suspend);
            if self.outbox.is_empty()
                && !(suspended && server.is_between_messages())
                && let Poll::Ready(read) = self.poll_server(loan, server, cx)
            {
                read?;
                moved = true;
            }
            if server.is_settled() && server.pipeline.status() == b'I' && loan.used && self.may_release(loan) {
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = loan.ended(server) {
                return Poll::Ready(Err(end));
            }
            if loan.repair_due && self.message_left == 0 && server.out.is_none() {
                repair(loan, server)?;
                moved = true;
            }
            #[cfg(feature = "negative-control")]
            if super::defect::has(super::defect::Defect::EarlyRelease)
                && loan.rested
                && server.pipeline.status() == b'I'
                && server.out.is_none()
                && self.may_release(loan)
            {
                // the defect: what is still owed will be read by whoever comes next
                server.pipeline = crate::protocol::pipeline::Pipeline::new();
                return Poll::Ready(Ok(()));
            }
            if suspended && self.message_left == 0 {
                if !moved && self.outbox.is_empty() && server.out.is_none() && server.is_between_messages() {
                    self.handle.be_still();
                }
            } else if !self.waits(loan, server) && !self.yields(loan, server) {
                moved |= self.poll_client(loan, server, cx)?;
                moved |= loan.ended(server).is_some();
            } else if loan.ending.is_none() {
                self.watch_client(cx)?;
            }
            if !moved {
                if self.handle.has_any() {
                    self.heed_signals(loan, server)?; // what came before may have brought it to a boundary
                }
                if self.leaves_batch_open(loan, server) {
                    close_batch(server)?;
                    continue;
                }
                self.count_volume(loan, server);
                self.inbox.park();
                return Poll::Pending;
            }
        }
    }

    /// Whether nothing may be taken from the client now. The rest of a message always may: the server waits for it.
    fn waits(&self, loan: &Loan, server: &Server) -> bool {
        if self.message_left > 0 { server.out.is_some() } else { loan.is_gated(server) }
    }

    /// Whether a client that keeps its server busy with pipelined batches must let others have it first.
    fn yields(&self, loan: &Loan, server: &Server) -> bool {
        loan.rested
            && self.message_left == 0
            && !server.pipeline.has_open_batch()
            && !self.depends_on(loan)
            && (loan.pool.wants_back() || server.round.is_over())
    }

    /// Whether the client has prepared something without a Sync, and rests: the server need not stand by for what comes next.
    fn leaves_batch_open(&self, loan: &Loan, server: &Server) -> bool {
        server.pipeline.has_open_batch()
            && server.pipeline.quiet()
            && server.pipeline.status() == b'I'
            && !server.pipeline.skipping()
            && !loan.acts
            && loan.used
            && server.out.is_none()
            && self.message_left == 0
            && self.discard_left == 0
            && !self.depends_on(loan)
            && loan.ending.is_none()
    }

    /// Reads ahead while nothing may be passed on: a client that leaves must be seen leaving.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while !self.inbox.is_full() {
            match self.poll_fill(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return Err(End::Gone),
                Poll::Ready(Ok(_)) => {}
            }
        }
        Ok(())
    }

    /// Takes what the client has sent, or reads more.
    fn poll_client(&mut self, loan: &mut Loan, server: &mut Server, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        if !self.inbox.is_empty() {
            moved = self.forward(loan, server, cx)?;
            if self.waits(loan, server) {
                return Ok(moved);
            }
        }
        if self.inbox.is_full() {
            return Ok(moved);
        }
        match self.poll_fill(cx) {
            Poll::Pending => Ok(moved),
            Poll::Ready(Ok(0) | Err(_)) => Err(End::Gone),
            Poll::Ready(Ok(_)) => {
                self.forward(loan, server, cx)?;
                Ok(true)
            }
        }
    }

    /// Reads once from the server and passes it on.
    fn poll_server(&mut self, loan: &mut Loan, server: &mut Server, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut lent = buffer::lend();
        let carried = server.carry.len();
        let Some(room) = lent.get_mut(HEADROOM + carried..) else {
            return Poll::Ready(Err(End::Fault(ClientError::Internal("a carried message outgrew its buffer"))));
        };
        let read = match server.stream.poll_read(cx, room) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(read)) if read > 0 => read,
            Poll::Ready(_) => return Poll::Ready(Err(End::ServerLost)),
        };
        self.time_passes();
        if carried > 0 {
            if let Some(front) = lent.get_mut(HEADROOM..HEADROOM + carried) {
                front.copy_from_slice(&server.carry);
            }
            server.carry.clear();
        }
        let end = HEADROOM + carried + read;
        let turn = Mark { at: HEADROOM, run: HEADROOM, made: None };
        let mut incoming = Incoming { lent, run: HEADROOM, upto: HEADROOM, made: None, front: 0, turn };
        let scanned = self.scan(loan, server, &mut incoming, end);
        if let Some(visit) = &mut loan.visit {
            visit.told = !visit.refused && (incoming.tells() || visit.told && incoming.turn.at == HEADROOM);
        }
        // what was understood before something went wrong is the client's all the same
        self.hand_on(incoming);
        if !self.outbox.is_empty() {
            loan.is_answered();
        }
        if !self.outbox.is_empty()
            && let Poll::Ready(Err(_)) = self.poll_outbox(cx)
        {
            return Poll::Ready(Err(End::Gone));
        }
        Poll::Ready(scanned)
    }

    /// Puts what was read and accounted for into the outbox.
    fn hand_on(&mut self, incoming: Incoming) {
        let Incoming { mut lent, run, upto: at, made, front: _, turn: _ } = incoming;
        if let Some(mut made) = made {
            made.extend_from_slice(lent.get(run..at).unwrap_or_default());
            if !made.is_empty() {
                self.outbox = Outbox::Made { buffer: made, sent: 0 };
            }
            return;
        }
        let mut start = run;
        if !self.pending.is_empty() && at > run {
            let front = HEADROOM.saturating_sub(self.pending.len());
            match lent.get_mut(front..HEADROOM) {
                Some(room) if room.len() == self.pending.len() && run == HEADROOM => {
                    room.copy_from_slice(&self.pending);
                    self.pending.clear();
                    start = front;
                }
                _ => {
                    let mut made = buffer::lend_growing();
                    made.append(&mut self.pending);
                    made.extend_from_slice(lent.get(run..at).unwrap_or_default());
                    self.outbox = Outbox::Made { buffer: made, sent: 0 };
                    return;
                }
            }
        }
        if at > start {
            self.outbox = Outbox::Read { buffer: lent, start, end: at };
        }
    }

    /// Goes over what was read, message by message; a message that is cut short is carried over to the next read.
    fn scan(&mut self, loan: &mut Loan, server: &mut Server, incoming: &mut Incoming, end: usize) -> Result<(), End> {
        let mut at = HEADROOM;
        while at < end {
            if server.body_left > 0 {
                let here = server.body_left.min(end - at);
                if server.body_dropped {
                    incoming.skip(at, at + here, &mut self.pending);
                }
                server.body_left -= here;
                at += here;
                incoming.upto = at;
                continue;
            }
            let rest = incoming.lent.get(at..end).unwrap_or_default();
            let (tag, total) = match scan_header(rest) {
                Ok(Scan::Header { tag, body_len }) => {
                    (tag, HEADER_LEN + usize::try_from(body_len).unwrap_or(usize::MAX - HEADER_LEN))
                }
                Ok(Scan::More(_)) => {
                    server.carry.extend_from_slice(rest);
                    return Ok(());
                }
                Err(_) => return Err(desync(loan, server, rest.first().copied().unwrap_or(0))),
            };
            let is_own = loan.block.asks && tag == b'D' && total <= ROW_MAX;
            if total > rest.len() && (is_own || matches!(tag, b'Z' | b'S' | b'C' | b'E' | b'A')) {
                if total <= LOOKED_INTO_MAX {
                    server.carry.extend_from_slice(rest);
                    return Ok(());
                }
                if matches!(tag, b'Z' | b'S' | b'C') {
                    return Err(desync(loan, server, tag));
                }
            }
            if total > rest.len() && total <= WHOLE_MAX {
                server.carry.extend_from_slice(rest);
                return Ok(());
            }
            let here = total.min(rest.len());
            let first = ready_status(tag, total, rest);
            let Ok(receipt) = server.pipeline.receive(tag, first) else {
                return Err(desync(loan, server, tag));
            };
            if tag == b'D' && receipt == Receipt::Forward {
                server.runs.row();
            }
            // rows, the bulk of everything, need nothing more
            if receipt == Receipt::Forward
                && matches!(tag, b'D' | b'd' | b'T' | b'2' | b'1')
                && !server.pipeline.has_events()
                && loan.alone == Alone::No
            {
                server.body_left = total - here;
                server.body_dropped = false;
                at += here;
            } else {
                let keep = self.heed(loan, server, incoming, at, here, tag, receipt)?;
                if !keep {
                    incoming.skip(at, at + here, &mut self.pending);
                }
                server.body_left = total - here;
                server.body_dropped = !keep;
                at += here;
            }
            while let Some(local) = server.pipeline.due() {
                if at == HEADROOM {
                    self.pending.extend_from_slice(local_message(local));
                } else {
                    incoming.at(at, &mut self.pending).extend_from_slice(local_message(local));
                }
            }
            incoming.upto = at;
        }
        Ok(())
    }

    /// Looks into one message and does what it takes; `true` when the client gets it as it is.
    #[allow(clippy::too_many_arguments)] // one message's circumstances; a struct of them would be used once
    fn heed(
        &mut self,
        loan: &mut Loan,
        server: &mut Server,
        incoming: &mut Incoming,
        at: usize,
        here: usize,
        tag: u8,
        receipt: Receipt,
    ) -> Result<bool, End> {
        if server.pipeline.has_events() {
            self.note_events(server);
        }
        if loan.block.asks && tag == b'E' {
            self.hear_xid(loan, server, tag, &[])?;
        }
        if tag == b'E' {
            server.unnamed = None; // a failed Parse destroys it, and one behind any error has been skipped
        }
        let body = |incoming: &Incoming| -> Vec<u8> {
            incoming.lent.get(at + HEADER_LEN..at + here).unwrap_or_default().to_vec()
        };
        match receipt {
            // the client has been told another end
            Receipt::Forward if loan.alone == Alone::Told && !matches!(tag, b'S' | b'A' | b'N' | b'E') => Ok(false),
            Receipt::Forward => match tag {
                b'S' => {
                    let body = incoming.lent.get(at + HEADER_LEN..at + here).unwrap_or_default();
                    let noted = server.note_parameter(body, &self.worker.shared.reported);
                    if noted.is_none() {
                        return Err(desync(loan, server, tag));
                    }
                    Ok(false) // the client is told in front of ReadyForQuery
                }
                b'A' => Ok(self.is_session_mode() || loan.listens()),
                b'c' => {
                    server.runs.copied();
                    Ok(true)
                }
                b'C' => {
                    let tag = incoming.lent.get(at + HEADER_LEN..at + here).unwrap_or_default();
                    server.runs.tagged(tag);
                    self.count_command(b'C', server);
                    self.note_command(loan, server, tag);
                    if self.resolves() {
                        loan.block.completed(tag);
                    }
                    if loan.alone == Alone::Warned {
                        loan.alone = Alone::Told;
                        self.count_error(loan, server, Some(ClientError::CommitAlone.code()));
                        ClientError::CommitAlone.write(incoming.at(at, &mut self.pending));
                        return Ok(false);
                    }
                    Ok(true)
                }
                b'N' => {
                    let notice = ServerError::read(&body(incoming));
                    // where the server goes on it will report success
                    if notice.commit_alone && notice.code == Some(SqlState::WARNING) {
                        loan.alone = Alone::Warned;
                    }
                    // the end of the server's connection, not of the client's
                    let ends = matches!(notice.code, Some(SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN));
                    let is_last = ends && !self.is_session_mode();
                    if is_last && loan.may_ask_again(server) {
                        incoming.forget_turn(at, &mut self.pending);
                        return Err(End::ServerLost);
                    }
                    Ok(!is_last)
                }
                b'E' => self.heed_error(loan, server, incoming, at, &body(incoming)),
                b'I' | b's' => {
                    self.count_command(tag, server);
                    Ok(true)
                }
                _ => Ok(true),
            },
            Receipt::Swallow if loan.block.asks => {
                let body = incoming.lent.get(at + HEADER_LEN..at + here).unwrap_or_default();
                self.hear_xid(loan, server, tag, body)?;
                Ok(false)
            }
            Receipt::Swallow => {
                if tag == b'E' {
                    tracing::debug!(client = self.handle.id, "an answer of howdah's own was an error");
                }
                Ok(false)
            }
            Receipt::Replace(message) => {
                if tag == b'E' {
                    let told = ServerError::read(message.get(HEADER_LEN..).unwrap_or_default());
                    self.count_error(loan, server, told.code);
                }
                incoming.at(at, &mut self.pending).extend_from_slice(&message);
                Ok(false)
            }
            Receipt::PrefixDone => {
                server.applied = Arc::clone(&self.wants);
                if server.dirty.is_some_and(|by| by != self.handle.id) {
                    (server.dirty, server.sequence_of) = (None, None); // it was swept
                }
                Ok(false)
            }
            Receipt::PrefixFailed => {
                self.prefix_failed(loan, server, incoming, at, &body(incoming))?;
                Ok(false)
            }
            Receipt::Ready => {
                self.note_ready(loan, server, incoming, at)?;
                self.count_ready(loan, server);
                if let Some(visit) = &mut loan.visit {
                    self.turn_answered(server);
                    visit.told = false;
                    incoming.turn_ends(at + here);
                }
                if self.resolves() {
                    self.ask_xid(loan, server)?;
                }
                Ok(true)
            }
            Receipt::ReadySwallowed if loan.block.asks => {
                self.hear_xid(loan, server, tag, &[])?;
                Ok(false)
            }
            Receipt::ReadySwallowed => {
                self.send_again(loan, server);
                self.take_back(loan, server);
                Ok(false)
            }
            Receipt::Unsolicited => {
                loan.fatal = Some(body(incoming).into());
                Err(End::ServerLost)
            }
        }
    }

    /// ReadyForQuery: what has changed is told in front of it, and learned where it will last.
    fn note_ready(
        &mut self,
        loan: &mut Loan,
        server: &mut Server,
        incoming: &mut Incoming,
        at: usize,
    ) -> Result<(), End> {
        if !Arc::ptr_eq(&self.told, &server.reported) {
            let reset = loan.trail.effects().any(Effects::RESETS) && !self.startup.is_empty();
            let now = if reset {
                // the server's defaults are not the client's, who has its own back with its next statement
                let its_own = server.reported.back_to(&server.login, &self.startup, &self.told);
                self.worker.shared.reported.intern(its_own)
            } else {
                Arc::clone(&server.reported)
            };
            let told = std::mem::replace(&mut self.told, now);
            for (name, value) in self.told.iter().filter(|(name, value)| told.value(name) != Some(value)) {
                messages::parameter_status(incoming.at(at, &mut self.pending), name, value);
            }
        }
        // a statement outside a block may be committed behind its CommandComplete
        if std::mem::replace(&mut loan.alone, Alone::No) == Alone::Warned {
            self.count_error(loan, server, Some(ClientError::CommitAlone.code()));
            ClientError::CommitAlone.write(incoming.at(at, &mut self.pending));
        }
        let status = server.pipeline.status();
        if status == b'I' {
            loan.rested = true;
            if std::mem::take(&mut loan.redefines) {
                self.worker.shared.statements.renew();
            }
            if !Arc::ptr_eq(&loan.reported, &server.reported) && server.pipeline.settled() {
                let shared = &self.worker.shared;
                self.wants = shared.settings.intern(self.wants.learn(&server.reported, &server.login));
                server.applied = Arc::clone(&self.wants);
                loan.reported = Arc::clone(&server.reported);
            }
        } else if self.is_statement_mode() {
            return Err(End::Fault(ClientError::StatementMode));
        }
        if server.pipeline.quiet() {
            self.names.settled();
            (loan.commits, loan.acts) = (false, false); // whatever might have committed has been answered
        }
        // it ended by itself, or has eaten its cancel, unless that is still on its way; the next has its own time
        loan.query_expired = false;
        loan.expiry_underway &= server.identity.is_being_cancelled();
        self.arm_deadline(loan, server);
        Ok(())
    }

    /// CommandComplete: some commands change what the next client would find.
    fn note_command(&mut self, loan: &mut Loan, server: &mut Server, tag: &[u8]) {
        match tag {
            b"DISCARD SEQUENCES\0" => loan.set_pins(loan.pins().without(Effects::MOVES_SEQUENCE)),
            b"DISCARD ALL\0" | b"DEALLOCATE ALL\0" => {
                if tag == b"DISCARD ALL\0" {
                    loan.set_pins(loan.pins().without(Effects::MOVES_SEQUENCE));
                }
                server.prepared.distrust();
                server.unnamed = None;
                self.names.clear();
            }
            // DROP is not among them: temporary tables come and go, and what replaces a table usually looks like it
            b"ALTER TABLE\0" | b"ALTER VIEW\0" | b"ALTER MATERIALIZED VIEW\0" | b"ALTER TYPE\0" | b"CREATE VIEW\0" => {
                loan.redefines = true;
            }
            _ => {}
        }
    }

    /// An ErrorResponse for the client; `true` when it gets it as it is.
    fn heed_error(
        &mut self,
        loan: &mut Loan,
        server: &mut Server,
        incoming: &mut Incoming,
        at: usize,
        body: &[u8],
    ) -> Result<bool, End> {
        let error = ServerError::read(body);
        loan.trail.fail();
        if error.fatal {
            loan.fatal = Some(body.into());
            if loan.may_ask_again(server) {
                incoming.forget_turn(at, &mut self.pending);
            }
            return Err(End::ServerLost);
        }
        if error.stale_plan {
            self.worker.shared.statements.renew(); // something has changed that was not seen here
        }
        if again::is_first(incoming.made.as_ref(), incoming.run, at) && self.takes_again(loan, server, &error) {
            return Ok(false);
        }
        match self.takes_elsewhere(loan, server, &error) {
            Some(Elsewhere::One) => {
                incoming.forget_turn(at, &mut self.pending);
                return Ok(false);
            }
            Some(Elsewhere::All) => {
                incoming.forget_turn(at, &mut self.pending);
                return Err(End::ServerLost);
            }
            None => {}
        }
        if loan.expiry_underway && error.code == Some(SqlState::QUERY_CANCELED) {
            loan.query_expired = false;
            self.count_error(loan, server, Some(ClientError::QueryTimeout.code()));
            ClientError::QueryTimeout.write(incoming.at(at, &mut self.pending));
            return Ok(false);
        }
        self.count_error(loan, server, error.code);
        // the server knows the statement by another name than the client
        if error.code == Some(SqlState::PROTOCOL_VIOLATION)
            && let Some((id, servers)) = Statement::named_in(&error.message)
        {
            let clients = self.names.name_of(id);
            error_response::reworded(incoming.at(at, &mut self.pending), body, servers, clients);
            return Ok(false);
        }
        Ok(true)
    }

    /// The state prefix failed: the client's turn was skipped. It is told, and the server put right.
    fn prefix_failed(
        &mut self,
        loan: &mut Loan,
        server: &mut Server,
        incoming: &mut Incoming,
        at: usize,
        body: &[u8],
    ) -> Result<(), End> {
        if self.depends_on(loan) {
            // its server would go on without the client's settings: PostgreSQL would not have let it in
            return Err(End::Fault(ClientError::ServerRefused(body.into())));
        }
        if ServerError::read(body).fatal {
            // it had gone before; nothing was wrong with the settings
            loan.fatal = Some(body.into());
            loan.untaken = loan.turn_sent;
            incoming.forget_turn(at, &mut self.pending);
            return Err(End::ServerLost);
        }
        let turn_ended = loan.turn_sent;
        server.pipeline.swallow_readies();
        server.unnamed = None;
        loan.trail = Trail::default(); // nothing of it has run
        loan.prefix_failed = true;
        loan.repair_due = true;
        if turn_ended && self.is_refused_whole(loan, server) {
            incoming.forget_turn(at, &mut self.pending);
            return Ok(());
        }
        server.kept.clear(); // the client is told
        self.count_error(loan, server, ServerError::read(body).code);
        if turn_ended {
            self.count_ready(loan, server);
        }
        server.runs.forget();
        let made = incoming.at(at, &mut self.pending);
        error_response::relabel(made, Severity::Error, body);
        if turn_ended {
            made.extend_from_slice(&messages::ready_for_query(b'I'));
        } else {
            self.skip_to_sync = true;
        }
        Ok(())
    }

    /// Tells the server's statements and the client's names what the pipeline has learned.
    pub(super) fn note_events(&mut self, server: &mut Server) {
        for event in server.pipeline.take_events() {
            match event {
                Event::Parsed(id) => server.prepared.parsed(id),
                Event::NotParsed(id) => server.prepared.not_parsed(id),
                Event::Closed(id) => server.prepared.closed(id),
                Event::NotClosed(id) => server.prepared.not_closed(id),
                Event::Undone(serial) => self.names.undo(serial),
                Event::Failed(serial) => self.names.fail(serial),
            }
        }
    }

    /// Something asks for attention while a server is lent.
    fn heed_signals(&mut self, loan: &mut Loan, server: &mut Server) -> Result<(), End> {
        if let Some(error) = self.handle.ends_now() {
            return Err(error.into());
        }
        self.handle.tell(|| self.levels(Some(server)));
        if self.handle.has(Signal::Cancel) {
            self.handle.clear(Signal::Cancel); // its wait is over already
        }
        if self.handle.has(Signal::Goodbye)
            && self.depends_on(loan)
            && server.is_settled()
            && server.pipeline.status() == b'I'
        {
            return Err(End::Fault(ClientError::ShuttingDown));
        }
        if self.handle.has(Signal::Expired) {
            self.handle.clear(Signal::Expired);
            self.heed_deadline(loan, server)?;
        }
        Ok(())
    }
}

/// Puts a server right whose state prefix failed. Not before the client's message is all there: half of it would swallow
/// this.
fn repair(loan: &mut Loan, server: &mut Server) -> Result<(), End> {
    let internal = |_| End::Fault(ClientError::Internal("a failed state prefix cannot be put right"));
    loan.repair_due = false;
    let mut repair = buffer::lend_growing();
    if server.pipeline.skipping() {
        repair.extend_from_slice(&messages::SYNC);
        server.pipeline.push(Owed::Sync(Reply::Swallow)).map_err(internal)?;
    }
    messages::query(&mut repair, b"ROLLBACK");
    server.pipeline.push(Owed::Query(Reply::Swallow)).map_err(internal)?;
    server.prepared.next_batch();
    server.out = Some(repair);
    server.out_sent = 0;
    Ok(())
}

/// Ends a batch in the place of its client, who is not told.
fn close_batch(server: &mut Server) -> Result<(), End> {
    let internal = |_| End::Fault(ClientError::Internal("an open batch cannot be ended"));
    server.pipeline.push(Owed::Sync(Reply::Swallow)).map_err(internal)?;
    server.prepared.next_batch();
    let mut sync = buffer::lend_growing();
    sync.extend_from_slice(&messages::SYNC);
    (server.out, server.out_sent) = (Some(sync), 0);
    Ok(())
}

/// The server said something nobody asked for: that is howdah's or the server's defect, and never the client's.
fn desync(loan: &Loan, server: &Server, tag: u8) -> End {
    let pool: &Pool = &loan.pool;
    pool.count_desync();
    let (node, database, user) = (&*pool.key.node, &*pool.key.database, &*pool.key.user);
    let tag = char::from(tag);
    tracing::error!(node, database, user, server_pid = server.identity.pid, %tag, "server lost step");
    End::ServerLost
}
