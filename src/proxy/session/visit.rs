//! A server that is lent for reads: what it has not answered is kept, so that it can be asked of another node when this one
//! goes away or refuses. A replica's gets nothing but reads; one of the primary's only as long as no other request follows.
//!
//! Outside a block nobody can tell a read that was asked twice from one that was asked once, as long as nothing of the first
//! answer has been passed on. Inside one its earlier answers have been: such a block is lost with its server (`lost.rs`).

use super::destination::Need;
use super::inbox::Inbox;
use super::replicas::Visited;
use super::{Loan, Session};
use crate::pg::SqlState;
use crate::protocol::error_response::ServerError;
use crate::protocol::messages;
use crate::proxy::error::ClientError;
use crate::proxy::route::counters::Event;
use crate::proxy::server::Server;

/// How often a request is asked again because its server has gone: one that takes its servers along must not take all.
const ASKED_AGAIN_MAX: u8 = 2;

/// What matters of a loan because it is for reads.
#[derive(Debug)]
pub struct Visit {
    /// The replica; `None` at the primary, where there was no replica for it.
    pub at: Option<Visited>,
    /// It was begun with `BEGIN READ ONLY`: everything up to its end runs here.
    pub block: bool,
    /// Everything runs here, as no other node will do.
    pub all: bool,
    /// Some request was not kept: nothing can be asked again.
    pub unkept: bool,
    /// Part of the answer to the oldest request has been passed on.
    pub told: bool,
    /// The oldest request has been refused: it goes to the primary as soon as the server has come to its end, or without that
    /// where more has been asked behind it.
    pub refused: bool,
    /// The client's next request does not belong here.
    pub over: bool,
}

impl Visit {
    /// One that has just begun.
    #[must_use]
    pub const fn at(at: Option<Visited>) -> Self {
        Self { at, block: false, all: false, unkept: false, told: false, refused: false, over: false }
    }
}

/// What is asked of the primary because a replica has refused a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// That read, once the server has come to its end.
    One,
    /// That read and those behind it. Their answers are not waited for: the server is given up.
    All,
}

/// Why a standby refuses what the primary would do.
fn refusal(error: &ServerError) -> Option<Event> {
    match error.code? {
        SqlState::READ_ONLY_SQL_TRANSACTION
        | SqlState::FEATURE_NOT_SUPPORTED
        | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            if !error.stale_plan =>
        {
            Some(Event::Refused)
        }
        // a read at the default isolation conflicts with nothing but recovery
        SqlState::SERIALIZATION_FAILURE | SqlState::DEADLOCK_DETECTED => Some(Event::Conflict),
        _ => None,
    }
}

impl Loan {
    /// Whether what is being read can still be asked of another node when this one says that it goes: what it sends out
    /// with its last words is no answer yet.
    pub(in crate::proxy) fn may_ask_again(&self, server: &Server) -> bool {
        self.visit.as_ref().is_some_and(|visit| !visit.told && !visit.unkept) && server.pipeline.status() == b'I'
    }
}

impl Session {
    /// Keeps a turn that is being sent to a replica, as far as that is wanted.
    ///
    /// `None` when it is not here as a whole.
    pub(super) fn keep_turn(&self, loan: &mut Loan, server: &mut Server, turn: Option<&[u8]>) {
        let Some(visit) = &mut loan.visit else { return };
        if server.pipeline.status() != b'I' || visit.unkept {
            return; // in a block, or behind what could not be kept
        }
        let fits = |turn: &&[u8]| server.kept.bytes() + turn.len() <= self.member.profile.replay_max;
        // where everything runs here it has not been looked at: what reaches another server must not do so twice
        let reads = |turn: &&[u8]| !visit.all || self.reads(turn);
        match turn.filter(fits).filter(reads) {
            Some(turn) => server.kept.push(turn, self.names.last_serial()),
            None => visit.unkept = true,
        }
    }

    /// Whether the replica's error is not for the client: the request is asked of the primary instead.
    pub(in crate::proxy) fn takes_elsewhere(
        &mut self,
        loan: &mut Loan,
        server: &mut Server,
        error: &ServerError,
    ) -> Option<Elsewhere> {
        let event = refusal(error)?;
        if !self.may_go_elsewhere(loan, server) {
            return None;
        }
        loan.visit.as_mut()?.refused = true;
        self.count(event);
        if error.code == Some(SqlState::READ_ONLY_SQL_TRANSACTION) {
            self.note_refusal(server.kept.oldest());
        }
        if server.kept.turns() > 1 || server.pipeline.readies() > 1 {
            return Some(Elsewhere::All);
        }
        server.pipeline.swallow_readies();
        Some(Elsewhere::One)
    }

    /// Whether a request that the replica has skipped, as it cannot be brought to the session's settings, is asked of the
    /// primary instead: what they name may not have come here yet.
    pub(in crate::proxy) fn is_refused_whole(&self, loan: &mut Loan, server: &Server) -> bool {
        let refused = self.may_go_elsewhere(loan, server) && server.kept.turns() == 1;
        if let Some(visit) = loan.visit.as_mut().filter(|_| refused) {
            visit.refused = true;
            self.count(Event::Refused);
        }
        refused
    }

    /// Whether what a replica refuses may be asked of the primary: nobody has seen anything of its answer, what has been sent
    /// behind it is all here, and the session keeps nothing there (a cursor `WITH HOLD`, a statement prepared in SQL).
    fn may_go_elsewhere(&self, loan: &Loan, server: &Server) -> bool {
        let is_free = |visit: &Visit| visit.at.is_some() && !visit.all && !visit.unkept && !visit.told;
        loan.visit.as_ref().is_some_and(is_free)
            && !self.depends_on(loan)
            && server.pipeline.status() == b'I'
            && server.kept.turns() > 0
    }

    /// The refused request goes back to where it came from.
    pub(in crate::proxy) fn take_back(&mut self, loan: &mut Loan, server: &mut Server) {
        if let Some(visit) = &mut loan.visit
            && visit.refused
        {
            visit.over = true;
            server.runs.forget();
            self.ask_again(server.kept.take());
            self.rerun = Some(Need::Primary);
            loan.trail = super::Trail::default(); // nothing of it has run
        }
    }

    /// The oldest request has been answered.
    pub(in crate::proxy) fn turn_answered(&mut self, server: &mut Server) {
        if let Some(serial) = server.kept.answered() {
            self.names.settled_to(serial);
        }
    }

    /// What was asked of a replica and not answered is the client's next request again.
    fn ask_again(&mut self, mut bytes: Vec<u8>) {
        self.names.undo_unanswered();
        bytes.extend_from_slice(self.inbox.bytes());
        self.inbox = Inbox::holding(bytes);
        self.scanned = 0;
    }

    /// The server has gone, outside a block: what it owes, so many answers and perhaps a batch without its end, is asked of
    /// another node.
    pub(super) fn reads_lost(&mut self, visit: &Visit, server: &mut Server, readies: usize, open: bool) {
        if visit.refused {
            self.rerun = Some(Need::Primary); // the first of them; the others are looked at again
            return self.ask_again(server.kept.take());
        }
        if let (Some(replicas), Some(at)) = (&mut self.member.replicas, visit.at) {
            replicas.avoid(at);
        }
        if readies > 0 {
            self.asked_again = self.asked_again.saturating_add(1);
        }
        if visit.unkept || self.asked_again > ASKED_AGAIN_MAX {
            self.count(Event::Broken);
            return self.tell_lost(&ClientError::ReadLost, readies, open, b'I');
        }
        if visit.told {
            self.count(Event::Broken);
            self.turn_answered(server);
            self.count_own_error(&ClientError::ReadLost);
            self.count_own_ready(b'I');
            self.outbox.append(|out| {
                ClientError::ReadLost.write(out);
                out.extend_from_slice(&messages::ready_for_query(b'I'));
            });
        }
        if server.kept.turns() > 0 {
            self.count(Event::Lost);
            self.ask_again(server.kept.take());
        }
    }

    /// Counts something that has to do with routing.
    pub(in crate::proxy) fn count(&self, event: Event) {
        if let Some(counters) = self.worker.shared.counters.get(self.worker.id) {
            counters.count(event);
        }
    }
}
