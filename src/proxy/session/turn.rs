//! What a client's request is, for routing: everything up to its ReadyForQuery, looked at before any of it is sent.
//!
//! A request may go to a replica only if it is here as a whole and every statement in it only reads. What cannot be said for
//! certain goes to the primary. Statements are judged once, when they are first seen (`sql/cache.rs`); here they are looked up.
//!
//! Not here: what a text is (`sql/analysis.rs`), where the request then goes (`destination.rs`).

use std::sync::Arc;

use super::destination::Need;
use super::settings::{Reported, Settings};
use super::statements::Unnamed;
use super::visit::Visit;
use super::{Loan, Session};
use crate::config::RoutingRole;
use crate::protocol::frame::{split_client, split_cstr};
use crate::proxy::error::ClientError;
use crate::proxy::route::counters::Event;
use crate::proxy::route::lens::Lens;
use crate::proxy::route::token::Done;
use crate::proxy::server::Server;
use crate::sql::analysis::Analysis;
use crate::sql::begin::Access;
use crate::sql::class::{Class, Reason, Verdict};
use crate::sql::effects::Effects;

/// Where a request goes, and what that will have shown its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Which nodes will do.
    pub need: Need,
    /// It begins a block that stays where it begins.
    pub block: bool,
    /// What its answer from the primary means; `None` when it shows no data.
    pub done: Option<Done>,
}

impl Routed {
    /// To the primary, whatever it is.
    pub const PRIMARY: Self = Self { need: Need::Primary, block: false, done: Some(Done::Wrote) };

    /// What follows from a verdict.
    #[must_use]
    pub const fn by(verdict: Verdict) -> Self {
        match verdict.class {
            Class::Read => Self { need: Need::Read, block: false, done: Some(Done::Read) },
            Class::ReadOnlyBegin => Self { need: Need::Read, block: true, done: Some(Done::Read) },
            // the end of a block that is none shows nothing either: pools of applications send it all the time
            Class::SessionState | Class::End => Self { need: Need::Anywhere, block: false, done: None },
            Class::Write | Class::Begin | Class::Unknown => Self::PRIMARY,
        }
    }
}

/// What of a session's settings matters for routing, as long as they are the same.
#[derive(Debug)]
pub struct Mood {
    wants: Arc<Settings>,
    told: Arc<Reported>,
    /// Why nothing of it goes to a replica.
    apart: Option<Reason>,
    /// Its blocks only read unless they say otherwise.
    read_only: bool,
}

impl Mood {
    fn of(wants: &Arc<Settings>, told: &Arc<Reported>) -> Self {
        let value = |name: &[u8]| wants.value(name).or_else(|| told.value(name));
        let is = |name: &[u8], words: &[&[u8]]| {
            value(name).is_some_and(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word)))
        };
        let off: &[&[u8]] = &[b"off", b"false", b"no", b"0", b"of", b"f", b"n"];
        let on: &[&[u8]] = &[b"on", b"true", b"yes", b"1", b"t", b"y"];
        let apart = if is(b"standard_conforming_strings", off) {
            Some(Reason::Ambiguous) // texts end elsewhere than they seem to
        } else if is(b"default_transaction_isolation", &[b"serializable"]) {
            Some(Reason::BeginSerializable)
        } else {
            None
        };
        let read_only = is(b"default_transaction_read_only", on);
        Self { wants: Arc::clone(wants), told: Arc::clone(told), apart, read_only }
    }
}

/// The statements of a batch, as far as they have been looked at.
#[derive(Default)]
struct Batch<'a> {
    verdict: Option<Verdict>,
    /// Parsed in it, and what it is: not known under its name before it is sent.
    parsed: Option<(&'a [u8], Verdict)>,
}

impl Batch<'_> {
    /// Takes in one statement. `false` when the rest need not be looked at.
    fn add(&mut self, verdict: Verdict) -> bool {
        let before = self.verdict.get_or_insert(verdict);
        if before.class == Class::ReadOnlyBegin {
            return false; // what follows is in the block
        }
        if before.class != verdict.class {
            *before = match (before.class, verdict.class) {
                (Class::Read, Class::Write | Class::Unknown) => verdict,
                _ => Verdict::unknown(Reason::SeveralStatements),
            };
        }
        before.class == Class::Read || before.class == Class::SessionState
    }
}

impl Session {
    /// Where the request in the inbox goes.
    pub(super) fn route(&mut self) -> Routed {
        if let Some(need) = self.rerun.take() {
            return Routed { need, ..Routed::PRIMARY };
        }
        if self.find_pools().is_err() || self.member.replicas.is_none() {
            return Routed::PRIMARY; // whatever it was is met again on the way there
        }
        if self.member.profile.role == RoutingRole::Replica {
            return Routed { need: Need::Replica, ..Routed::PRIMARY };
        }
        self.look_at_settings();
        let verdict = match self.mood.as_ref().and_then(|mood| mood.apart) {
            Some(reason) => Verdict::unknown(reason),
            None => self.verdict(self.inbox.bytes()).unwrap_or(Verdict::unknown(Reason::TooLong)),
        };
        self.count_verdict(verdict);
        Routed::by(verdict)
    }

    /// Sees to it that [`Mood`] is of the settings as they are.
    fn look_at_settings(&mut self) {
        let is_known = |mood: &Mood| Arc::ptr_eq(&mood.wants, &self.wants) && Arc::ptr_eq(&mood.told, &self.told);
        if !self.mood.as_ref().is_some_and(is_known) {
            self.mood = Some(Mood::of(&self.wants, &self.told));
        }
    }

    fn count_verdict(&self, verdict: Verdict) {
        if let Some(counters) = self.worker.shared.counters.get(self.worker.id) {
            counters.count_reason(verdict.reason.index());
        }
    }

    /// Whether the request only reads.
    pub(super) fn reads(&self, request: &[u8]) -> bool {
        self.verdict(request).is_some_and(|verdict| verdict.class == Class::Read)
    }

    /// What the first request in `data` is; `None` when it is not there as a whole.
    fn verdict(&self, data: &[u8]) -> Option<Verdict> {
        let mut batch = Batch::default();
        let mut rest = data;
        loop {
            let (tag, body, behind) = split_client(rest)?;
            rest = behind;
            let goes_on = match tag {
                b'Q' if batch.verdict.is_none() => return Some(self.judge_text(body)),
                b'P' => match split_cstr(body) {
                    Some((name, definition)) => {
                        let statement = self.worker.statements.statement(&self.worker.shared.statements, definition);
                        let verdict = self.judge(statement.analysis(&self.worker.classes));
                        batch.parsed = Some((name, verdict));
                        batch.add(verdict)
                    }
                    None => return Some(Verdict::unknown(Reason::NotText)),
                },
                b'B' => match split_cstr(body).and_then(|(_, rest)| Some(split_cstr(rest)?.0)) {
                    Some(name) => batch.add(self.judge_named(name, &batch)),
                    None => return Some(Verdict::unknown(Reason::NotText)),
                },
                b'D' => match body.split_first() {
                    Some((b'S', name)) => {
                        let name = split_cstr(name).map_or(name, |(name, _)| name);
                        batch.add(self.judge_named(name, &batch))
                    }
                    _ => true,
                },
                b'E' | b'C' => true,
                b'S' => return Some(batch.verdict.unwrap_or(Verdict::new(Class::SessionState, Reason::Empty))),
                // a batch that is answered before it is whole, a function by its number, or nothing at all
                _ => return Some(Verdict::unknown(Reason::SeveralStatements)),
            };
            if !goes_on {
                return batch.verdict;
            }
        }
    }

    /// What a simple query is.
    fn judge_text(&self, body: &[u8]) -> Verdict {
        let sql = split_cstr(body).map_or(body, |(sql, _)| sql);
        self.judge(&self.worker.classes.analyse(sql, true))
    }

    /// What the statement is that a message names.
    fn judge_named(&self, name: &[u8], batch: &Batch<'_>) -> Verdict {
        if let Some((parsed, verdict)) = batch.parsed
            && parsed == name
        {
            return verdict;
        }
        let unnamed;
        let statement = match name {
            b"" => match self.names.unnamed() {
                Unnamed::Once(statement) | Unnamed::Shared(statement) => {
                    unnamed = statement;
                    Some(&unnamed)
                }
                Unnamed::None | Unnamed::OnServer => None,
            },
            name => self.names.named(name),
        };
        match statement {
            Some(statement) => self.judge(statement.analysis(&self.worker.classes)),
            None => Verdict::unknown(Reason::Execute),
        }
    }

    /// What a statement is in this database, by this session's settings.
    fn judge(&self, analysis: &Analysis) -> Verdict {
        let Some(replicas) = &self.member.replicas else { return Verdict::unknown(Reason::CatalogueUnread) };
        if let Some(hinted) = analysis.hinted().filter(|_| replicas.hints) {
            return hinted;
        }
        let reading = replicas.hidden.reading();
        let verdict = analysis.verdict(&Lens { lists: &replicas.lists, catalogue: &**reading });
        let reads = self.mood.as_ref().is_some_and(|mood| mood.read_only);
        if reads && verdict == Verdict::new(Class::Begin, Reason::Begin) && analysis.access != Some(Access::ReadWrite) {
            return Verdict::new(Class::ReadOnlyBegin, Reason::BeginReadOnly);
        }
        verdict
    }

    /// A replica has refused a request that was taken for a read: its statements are no reads from now on.
    pub(super) fn note_refusal(&self, mut data: &[u8]) {
        let Some(replicas) = &self.member.replicas else { return };
        let reading = replicas.hidden.reading();
        let lens = Lens { lists: &replicas.lists, catalogue: &**reading };
        while let Some((tag, body, rest)) = split_client(data) {
            data = rest;
            let text = match tag {
                b'Q' => Some(body),
                b'P' => split_cstr(body).map(|(_, definition)| definition),
                b'B' => {
                    let name = split_cstr(body).and_then(|(_, rest)| Some(split_cstr(rest)?.0));
                    name.and_then(|name| self.names.named(name)).map(|statement| statement.definition.as_ref())
                }
                _ => None,
            };
            if let Some((sql, _)) = text.and_then(split_cstr) {
                self.worker.classes.analyse(sql, true).refused(&lens);
            }
        }
    }

    /// Whether the next request, which begins with `data`, may be sent to the replica that is lent, behind what it is asked
    /// already.
    pub(super) fn may_follow(&self, data: &[u8], loan: &mut Loan, server: &Server) -> bool {
        let kept = self.depends_on(loan);
        let Some(visit) = &mut loan.visit else { return true };
        if visit.all || loan.turns == 0 {
            return true; // the first has been looked at
        }
        if visit.at.is_none() {
            visit.unkept = true; // what follows at the primary may be anything
            return true;
        }
        if visit.block || kept || server.pipeline.status() != b'I' {
            return server.pipeline.quiet(); // whether the block goes on is known once it is answered
        }
        let full = server.kept.bytes() + data.len() > self.member.profile.replay_max;
        match self.verdict(data) {
            _ if full && !server.pipeline.quiet() => false,
            Some(verdict) if verdict.class == Class::Read => {
                self.count_verdict(verdict);
                self.count(Event::ToReplica);
                true
            }
            Some(_) => {
                visit.over = true;
                false
            }
            // the rest of it has not come
            None => {
                visit.over = data.len() >= super::inbox::HOLD_MAX;
                false
            }
        }
    }

    /// Whether a text must not be run on the replica that is lent, because it would do something else there in silence.
    /// `hidden` is what it does by the functions it calls.
    pub(super) fn is_silent_here(&self, sql: &[u8], hidden: Effects, visit: &Visit) -> Option<ClientError> {
        if visit.at.is_none() || !(visit.block || visit.all) || self.is_session_mode() {
            return None; // it has been looked at, and only reads
        }
        let sql = split_cstr(sql).map_or(sql, |(sql, _)| sql);
        let locks = || hidden.any(Effects::ADVISORY).then_some(Reason::AdvisoryLock);
        let reason = self.worker.classes.analyse(sql, true).silent(sql).or_else(locks)?;
        self.count(Event::Silent);
        Some(ClientError::SilentOnReplica(reason.text()))
    }

    /// A loan has come to its end: what was read from its server has been seen from now on.
    pub(super) fn stamp(&mut self, loan: &Loan, routed: Routed) {
        let Some(replicas) = self.member.replicas.as_mut().filter(|_| loan.used) else { return };
        match (&loan.visit, routed.done) {
            (Some(visit), _) if visit.at.is_some() => replicas.saw_standby(),
            (_, done) if loan.turns <= 1 => done.into_iter().for_each(|done| replicas.saw_primary(done)),
            (_, _) => replicas.saw_primary(Done::Wrote), // several requests, only the first of which was looked at
        }
    }
}
