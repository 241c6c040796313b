//! A client's messages on their way to a server.
//!
//! Each is accounted for in the server's pipeline first, then passed on as it is wherever possible: a run of unchanged
//! messages goes out as one slice of the buffer it was read into. In transaction and statement mode the messages that
//! name a prepared statement are rewritten (`naming.rs`); in session mode nothing is touched.

use std::task::{Context, Poll};

use super::again::{Again, Batch};
use super::inbox::{HOLD_MAX, Inbox};
use super::naming::{fail, refuse_query};
use super::notice::effects_of_call;
use super::run::End;
use super::statements::Unnamed;
use super::{Loan, Session};
use crate::config::PoolMode;
use crate::net::buffer::{self, Growing};
use crate::protocol::frame::{HEADER_LEN, Scan, scan_client, split_cstr};
use crate::protocol::messages;
use crate::protocol::pipeline::{InCopy, Local, Owed, Reply};
use crate::proxy::error::ClientError;
use crate::proxy::server::Server;
use crate::sql::effects::Effects;
use crate::sql::opening::Opening;

/// Replies a client may be owed before more is read from it.
pub(super) const OWED_MAX: usize = 4_096;

/// What becomes of a message.
pub(super) enum Way {
    /// It goes on as it is.
    AsIs,
    /// It goes nowhere.
    Nowhere,
    /// Something else has been written in place of its first so many bytes.
    Replaced(usize),
}

/// The bytes for a server: unchanged runs are copied only once something else has to go between them.
pub(super) struct Outgoing<'a> {
    data: &'a [u8],
    /// Where the run begins that has not been copied.
    run: usize,
    made: Option<Growing>,
}

impl Outgoing<'_> {
    /// The buffer, with everything before `at` in it.
    pub(super) fn at(&mut self, at: usize) -> &mut Growing {
        let made = self.made.get_or_insert_with(buffer::lend_growing);
        made.extend_from_slice(self.data.get(self.run..at).unwrap_or_default());
        self.run = at;
        made
    }
}

impl Loan {
    /// Whether the client's next message has to wait.
    pub(in crate::proxy) fn is_gated(&self, server: &Server) -> bool {
        self.ending.is_some()
            || server.out.is_some()
            || self.copy_asked && !server.pipeline.quiet() && !server.pipeline.reads_copy()
            || self.turn_sent && server.pipeline.prefix_open()
            || self.prefix_failed
            || self.block.asks
            || self.again == Again::Due
            || self.visit.as_ref().is_some_and(|visit| visit.over || visit.refused)
            || server.pipeline.len() >= OWED_MAX
    }
}

impl Loan {
    /// How the session ends, once what the client had asked before is answered. A COPY that waits for data, and a batch
    /// without its Sync, never would be.
    pub(in crate::proxy) fn ended(&self, server: &Server) -> Option<End> {
        let over = server.out.is_none() && (server.pipeline.readies() == 0 || server.pipeline.reads_copy());
        self.ending.clone().filter(|_| over)
    }
}

impl Session {
    /// Takes messages from the inbox, as far as they are whole or stream, and sends them. `true` when any was taken.
    pub(in crate::proxy) fn forward(
        &mut self,
        loan: &mut Loan,
        server: &mut Server,
        cx: &mut Context<'_>,
    ) -> Result<bool, End> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let forwarded = self.forward_from(&mut inbox, loan, server, cx);
        self.inbox = inbox;
        forwarded
    }

    fn forward_from(
        &mut self,
        inbox: &mut Inbox,
        loan: &mut Loan,
        server: &mut Server,
        cx: &mut Context<'_>,
    ) -> Result<bool, End> {
        if loan.used {
            self.time_passes();
        }
        let data = inbox.bytes();
        // else the beginning of this turn has been sent and is not here any more; a prefix that has not been sent is none
        let begins = self.message_left == 0 && (loan.prefix.is_some() || !server.pipeline.has_open_batch());
        let mut turn_from = begins.then_some(0);
        // a state prefix travels with the first turn
        let mut out = Outgoing { data, run: 0, made: loan.prefix.take() };
        let mut at = 0;
        let mut flush = false;
        let mut batch = Batch::default();
        while at < data.len() {
            let rest = data.get(at..).unwrap_or_default();
            if self.message_left > 0 {
                let taken = self.message_left.min(rest.len());
                self.message_left -= taken;
                at += taken;
                continue;
            }
            if self.discard_left > 0 {
                let taken = self.discard_left.min(rest.len());
                self.discard_left -= taken;
                out.at(at);
                at += taken;
                out.run = at;
                continue;
            }
            loan.copy_asked &= !server.pipeline.quiet(); // answered
            if loan.is_gated(server) {
                break;
            }
            let scanned = match scan_client(rest) {
                Ok(scanned) => scanned,
                Err(error) => {
                    loan.ending = Some(ClientError::from(error).into());
                    break;
                }
            };
            let Scan::Header { tag, body_len } = scanned else { break };
            let total = HEADER_LEN + usize::try_from(body_len).unwrap_or(usize::MAX - HEADER_LEN);
            if total > rest.len() && (total <= HOLD_MAX || rest.len() < HOLD_MAX.min(total) && !inbox.is_full()) {
                break; // held back until it is whole, or there is as much of it as is ever looked at
            }
            let here = total.min(rest.len());
            let body = rest.get(HEADER_LEN..here).unwrap_or_default();
            if server.pipeline.has_events() {
                self.note_events(server); // a name that a skipped message would have taken is free again
            }
            if self.waits_for_name(tag, body, server) {
                break;
            }
            if loan.visit.is_some() && turn_from == Some(at) && !self.may_follow(rest, loan, server) {
                break;
            }
            let way = match self.account(tag, body, total, loan, server, &mut out, at) {
                Ok(way) => way,
                // what stands before it has been accounted for and must go out all the same
                Err(end) => {
                    loan.ending = Some(end);
                    break;
                }
            };
            match &way {
                Way::AsIs => {
                    self.message_left = total - here;
                    at += here;
                }
                Way::Nowhere => {
                    out.at(at);
                    self.discard_left = total - here;
                    at += here;
                    out.run = at;
                }
                Way::Replaced(taken) if *taken < total => {
                    // what follows the replaced part goes on as it is
                    out.run = at + taken;
                    self.message_left = total - here;
                    at += here;
                }
                Way::Replaced(_) => {
                    self.discard_left = total - here;
                    at += here;
                    out.run = at;
                }
            }
            self.count_message(tag, body, matches!(way, Way::AsIs), loan, server);
            batch.note(tag, body, matches!(way, Way::Replaced(_)));
            match tag {
                b'H' => flush = true,
                b'E' if loan.copy_bound => {
                    // whether the server ignores the Sync behind it depends on the answer: ask for that first
                    out.at(at).extend_from_slice(&messages::FLUSH);
                    loan.copy_asked = true;
                }
                b'Q' | b'S' | b'F' => {
                    loan.turn_sent = true;
                    loan.turns = loan.turns.saturating_add(1);
                    self.names.turn_sent();
                    if loan.visit.is_some() {
                        self.keep_turn(loan, server, turn_from.and_then(|from| data.get(from..at)));
                    }
                    turn_from = Some(at);
                }
                _ => {}
            }
        }
        self.scanned = 0;
        if self.message_left == 0 && self.discard_left == 0 {
            loan.keep_batch(batch, data.get(..at).unwrap_or_default(), server);
        }
        loan.used |= at > 0;
        if let Some(mut made) = out.made.take() {
            made.extend_from_slice(data.get(out.run..at).unwrap_or_default());
            server.out = Some(made);
            server.out_sent = 0;
        } else if at > 0 {
            send_slice(server, data.get(..at).unwrap_or_default(), cx);
        }
        inbox.consume(at);
        self.flush_local(server, flush);
        let _ = server.poll_send(cx);
        self.arm_sent(server, at > 0);
        Ok(at > 0)
    }

    /// Whether what a message names depends on an earlier batch that is not answered: whether that has failed decides
    /// what the name stands for.
    fn waits_for_name(&self, tag: u8, body: &[u8], server: &Server) -> bool {
        if server.pipeline.readies() == 0 || !self.renames() {
            return false;
        }
        let name = match (tag, body.split_first()) {
            (b'P', _) => split_cstr(body),
            (b'B', _) => split_cstr(body).and_then(|(_, rest)| split_cstr(rest)),
            (b'C' | b'D', Some((b'S', name))) => split_cstr(name),
            _ => None,
        };
        name.is_some_and(|(name, _)| !(tag == b'P' && name.is_empty()) && self.names.is_unsure(name))
    }

    /// Whether the names of prepared statements are replaced.
    pub(super) fn renames(&self) -> bool {
        self.member.profile.mode != PoolMode::Session && self.member.profile.prepared_statements > 0
    }

    /// Answers of howdah's own whose turn it is; a Flush wants them now.
    fn flush_local(&mut self, server: &mut Server, flush: bool) {
        while let Some(local) = server.pipeline.due() {
            self.pending.extend_from_slice(local_message(local));
        }
        if flush && server.pipeline.quiet() && !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            self.outbox.append(|out| out.extend_from_slice(&pending));
        }
    }

    /// Accounts for one message and says where it goes. `body` may be only the beginning of a message of `total` bytes.
    #[allow(clippy::too_many_arguments)] // one message's circumstances; a struct of them would be used once
    fn account(
        &mut self,
        tag: u8,
        body: &[u8],
        total: usize,
        loan: &mut Loan,
        server: &mut Server,
        out: &mut Outgoing<'_>,
        at: usize,
    ) -> Result<Way, End> {
        let in_copy = |_: InCopy| End::Fault(ClientError::InCopy(tag));
        let renames = self.renames();
        if self.resolves() {
            self.note_sent(tag, body, total, loan, server);
        }
        let pipeline = &mut server.pipeline;
        loan.acts |= matches!(tag, b'Q' | b'B' | b'E' | b'F'); // a portal lives up to the Sync
        match tag {
            b'Q' => {
                let effects = self.read_text((HEADER_LEN + body.len() == total).then_some(body));
                if let Err(error) = self.notice(effects, body, b"", loan, server) {
                    return refuse_query(server, out, at, error, total).map_err(in_copy);
                }
                let opening = Opening::of(body);
                loan.commits |= may_commit(opening, body);
                server.unnamed = None;
                self.names.set_unnamed(Unnamed::None);
                if opening == Opening::Discards && renames {
                    return self.deallocate(body, total, server, out, at).map_err(in_copy);
                }
                server.pipeline.push(Owed::Query(Reply::Forward)).map_err(in_copy)?;
                Ok(Way::AsIs)
            }
            b'P' if renames => self.parse(body, total, loan, server, out, at).map_err(in_copy),
            b'B' if renames => self.bind(body, total, loan, server, out, at),
            b'D' if renames && body.first() == Some(&b'S') => self.describe(body, loan, server, out, at),
            b'C' if renames && body.first() == Some(&b'S') => self.close(body, server).map_err(in_copy),
            b'P' => {
                loan.commits = true; // statements are not followed here: any may commit
                let sql = split_cstr(body).map_or(body, |(_, sql)| sql);
                let whole = HEADER_LEN + body.len() == total;
                let effects = if whole { Effects::of(sql) } else { Effects::HIDES };
                if let Err(error) = self.notice(effects, sql, b"", loan, server) {
                    return fail(server, out, at, error, total).map_err(in_copy);
                }
                loan.copy_bound |= Opening::of(sql) == Opening::Copy;
                server.pipeline.push(Owed::Parse { id: 0, serial: 0, reply: Reply::Forward }).map_err(in_copy)?;
                Ok(Way::AsIs)
            }
            b'B' => {
                pipeline.push(Owed::Bind(Reply::Forward)).map_err(in_copy)?;
                loan.commits = true;
                Ok(Way::AsIs)
            }
            b'D' => {
                let owed = if body.first() == Some(&b'S') { Owed::DescribeStatement } else { Owed::DescribePortal };
                pipeline.push(owed).map_err(in_copy)?;
                Ok(Way::AsIs)
            }
            b'E' => {
                pipeline.push(Owed::Execute(Reply::Forward)).map_err(in_copy)?;
                Ok(Way::AsIs)
            }
            b'C' => {
                pipeline.push(Owed::Close { id: 0, reply: Reply::Forward }).map_err(in_copy)?;
                Ok(Way::AsIs)
            }
            b'S' => {
                let ignored = pipeline.reads_copy();
                pipeline.push(Owed::Sync(Reply::Forward)).map_err(in_copy)?;
                if ignored {
                    return Ok(Way::Nowhere);
                }
                server.prepared.next_batch();
                loan.copy_bound = false;
                loan.copy_asked = false;
                Ok(Way::AsIs)
            }
            b'H' => Ok(Way::AsIs),
            b'F' => {
                loan.commits = true;
                if let Err(error) = self.notice(effects_of_call(body), b"", body, loan, server) {
                    return refuse_query(server, out, at, error, total).map_err(in_copy);
                }
                server.pipeline.push(Owed::Function).map_err(in_copy)?;
                Ok(Way::AsIs)
            }
            // late data of a COPY that has failed: the server would ignore it too
            b'd' | b'c' | b'f' if pipeline.settled() => Ok(Way::Nowhere),
            b'd' => Ok(Way::AsIs),
            b'c' | b'f' => {
                pipeline.push(Owed::CopyEnd).map_err(in_copy)?;
                loan.copy_asked = false; // it was one, and the answer to its end waits for the next Sync
                Ok(Way::AsIs)
            }
            b'X' => Err(End::Gone),
            _ => Err(End::Fault(ClientError::BadMessage)),
        }
    }
}

/// Whether a text may end a block with its work done. Several statements in one text may.
pub(super) fn may_commit(opening: Opening, sql: &[u8]) -> bool {
    match opening {
        Opening::Commit | Opening::PrepareTransaction => true,
        _ => is_several(sql),
    }
}

/// Whether a text may be several statements.
pub(super) fn is_several(sql: &[u8]) -> bool {
    let text = split_cstr(sql).map_or(sql, |(text, _)| text);
    let text = text.trim_ascii_end();
    memchr::memchr(b';', text.strip_suffix(b";").unwrap_or(text)).is_some()
}

/// The message of an answer of howdah's own.
pub(in crate::proxy) const fn local_message(local: Local) -> &'static [u8] {
    match local {
        Local::ParseComplete => &messages::PARSE_COMPLETE,
        Local::CloseComplete => &messages::CLOSE_COMPLETE,
    }
}

/// Sends a slice as far as the server takes it; the rest waits in its own buffer.
fn send_slice(server: &mut Server, bytes: &[u8], cx: &mut Context<'_>) {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match server.stream.poll_write(cx, rest) {
            Poll::Ready(Ok(written)) if written > 0 => sent += written,
            Poll::Ready(_) => {
                server.deaf = true; // what it still has to say is read
                return;
            }
            Poll::Pending => {
                let mut waiting = buffer::lend_growing();
                waiting.extend_from_slice(rest);
                server.out = Some(waiting);
                server.out_sent = 0;
                return;
            }
        }
    }
    if server.stream.is_tls() {
        server.out = Some(buffer::lend_growing());
        server.out_sent = 0;
    }
}

impl Server {
    /// Sends what waits for it; ready when nothing waits any more.
    pub(in crate::proxy) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(out) = &self.out {
            let rest = out.get(self.out_sent..).unwrap_or_default();
            let step = if rest.is_empty() {
                self.stream.poll_flush(cx).map_ok(|()| None)
            } else {
                self.stream.poll_write(cx, rest).map_ok(Some)
            };
            match step {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(written))) if written > 0 => self.out_sent += written,
                Poll::Ready(Ok(None)) => {
                    self.out = None;
                    self.out_sent = 0;
                }
                Poll::Ready(Ok(Some(_)) | Err(_)) => {
                    self.deaf = true;
                    self.out = None;
                    self.out_sent = 0;
                }
            }
        }
        Poll::Ready(())
    }
}
