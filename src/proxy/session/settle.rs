//! At rest: what a transaction has left behind goes with its client, or keeps the server for it.
//!
//! Settings are read back from the server where the texts did not say what became of them; from then on they are the
//! client's, and a prefix brings them to whichever server it gets next (`server/prefix.rs`). State that cannot move pins the
//! server to the client until the server says that it is gone. A question that fails pins it too: then nobody knows.
//!
//! Not here: what is worth a question (`trail.rs`).

use std::sync::Arc;

use super::run::End;
use super::settings::Settings;
use super::trail::{Left, Question};
use super::{Loan, Session};
use crate::protocol::messages;
use crate::proxy::error::ClientError;
use crate::proxy::server::Server;
use crate::proxy::server::prefix::{self, Change};
use crate::sql::assignment::Lone;
use crate::sql::effects::Effects;

/// How the server is asked for each kind of state, by what it leaves in the catalogue's views. What is not here cannot be
/// asked for, and lasts.
const PINS_ASKED: [(Effects, &str); 6] = [
    (Effects::TEMPORARY, {
        "SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 2615 AND refobjid \
         OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()"
    }),
    (Effects::ADVISORY, {
        "SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid \
         OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
    }),
    (Effects::LISTENS, "SELECT FROM pg_catalog.pg_listening_channels()"),
    (Effects::HOLDS, "SELECT FROM pg_catalog.pg_cursors WHERE is_holdable"),
    (Effects::PREPARES, "SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql"),
    (Effects::SLOTS, {
        "SELECT FROM pg_catalog.pg_replication_slots WHERE temporary AND active_pid OPERATOR(pg_catalog.=) \
         pg_catalog.pg_backend_pid()"
    }),
];

/// What a server has answered.
#[derive(Debug, Default)]
struct Answer {
    /// The session's settings, with `None` for those that are not set.
    settings: Vec<(Box<[u8]>, Option<Box<[u8]>>)>,
    pins: Effects,
    failed: bool,
    /// Notifications that came meanwhile: whole messages.
    notifications: Vec<u8>,
}

impl Session {
    /// Looks after what the client's last transactions have left on the server. `true` when the server stays with the
    /// client.
    pub(super) async fn settle(&mut self, loan: &mut Loan, server: &mut Server) -> Result<bool, End> {
        let effects = loan.trail.effects();
        let (pins, unread) = (loan.pins(), loan.trail.hides());
        loan.doubt_catalogue();
        match loan.trail.left(pins) {
            Left::Nothing => {}
            Left::Known(lone) => {
                let names = self.emptied_by(&lone);
                self.record(lone, server);
                if !names.is_empty() {
                    self.inquire(Question { names, ..Question::default() }, loan, server).await?;
                }
            }
            Left::Ask(question) => self.inquire(question, loan, server).await?,
        }
        if unread && !self.is_session_mode() {
            server.dirty = Some(self.handle.id); // what nobody can ask for
        }
        let lasting = effects.and(Effects::LASTING);
        loan.set_pins(loan.pins() | lasting);
        if !self.depends_on(loan) {
            return Ok(false);
        }
        self.write_prefix(loan, server)?;
        Ok(true)
    }

    /// A statement that did what it said.
    fn record(&mut self, lone: Lone, server: &mut Server) {
        let (mut wants, mut applied) = (Settings::clone(&self.wants), Settings::clone(&server.applied));
        match lone {
            Lone::Set(name, value) => {
                // where there is a report it is the truth: `SET DateStyle = dmy` says half of a value
                let value = server.reported.value_of(&name).map_or(value, Into::into);
                for settings in [&mut wants, &mut applied] {
                    settings.set(&name, &value);
                    settings.forget_role_of(&name);
                }
            }
            Lone::Reset(name) => {
                match self.startup.value(&name) {
                    Some(value) => wants.set(&name, value),
                    None => wants.remove(&name),
                }
                applied.remove(&name);
                wants.forget_role_of(&name);
                applied.forget_role_of(&name);
            }
            Lone::ResetAll => {
                // they are no settings to `RESET ALL`
                let who = |settings: &Settings| {
                    let mut kept = Settings::default();
                    for name in [&b"session_authorization"[..], b"role"] {
                        settings.value(name).into_iter().for_each(|value| kept.set(name, value));
                    }
                    kept
                };
                (wants, applied) = (self.startup.overlaid(&who(&wants)), who(&applied));
            }
        }
        self.has_settings(wants, applied, server);
    }

    /// Custom settings that a reset leaves known and empty, where another server may not know them; or at the default of an
    /// extension's: only the server can tell.
    fn emptied_by(&self, lone: &Lone) -> Vec<Box<[u8]>> {
        let is_left = |name: &[u8]| is_custom(name) && self.startup.value(name).is_none();
        match lone {
            Lone::Set(..) => Vec::new(),
            Lone::Reset(name) => Some(name).filter(|name| is_left(name)).cloned().into_iter().collect(),
            Lone::ResetAll => {
                self.wants.iter().map(|(name, _)| name).filter(|name| is_left(name)).map(Box::from).collect()
            }
        }
    }

    fn has_settings(&mut self, wants: Settings, applied: Settings, server: &mut Server) {
        let interner = &self.worker.shared.settings;
        self.wants = interner.intern(wants);
        self.presence.entry.facts.set_settings(&self.wants);
        server.applied = interner.intern(applied);
    }

    /// Asks the server, and takes its word.
    async fn inquire(&mut self, mut question: Question, loan: &mut Loan, server: &mut Server) -> Result<(), End> {
        if question.all {
            // custom ones are in no view, and what was set earlier may be in no text that is looked at now
            let custom = self.wants.iter().map(|(name, _)| name).filter(|name| is_custom(name));
            let unasked: Vec<_> = custom.filter(|name| question.names.iter().all(|known| **known != **name)).collect();
            question.names.extend(unasked.into_iter().map(Box::from));
        }
        let sql = write(&question);
        let mut answer = Answer::default();
        let shared = Arc::clone(&self.worker.shared);
        let asked = async {
            server.identity.cancels_over().await; // one that comes late must not meet the question
            server.ask(&sql, &shared.reported, &mut |tag, body| answer.take(tag, body)).await
        };
        match tokio::time::timeout(loan.pool.cancel_wait(), asked).await {
            Ok(Ok(())) => {}
            _ => return Err(End::ServerLost),
        }
        if !answer.notifications.is_empty() {
            self.outbox.append(|out| out.extend_from_slice(&answer.notifications));
        }
        if answer.failed {
            // what it has set is not known, so it keeps the server that knows
            let (client, user, database) = (self.handle.id, self.user(), self.database());
            tracing::warn!(
                client,
                user,
                database,
                "what a session has set could not be read back; its server is pinned"
            );
            loan.trail.keep_asking();
            loan.set_pins(loan.pins() | Effects::LASTING);
            return Ok(());
        }
        self.learn_answer(&question, &answer, &loan.pool.key.user, server);
        let asked_for = question.pins.without(Effects::LASTING);
        loan.set_pins(loan.pins().without(asked_for) | answer.pins);
        Ok(())
    }

    fn learn_answer(&mut self, question: &Question, answer: &Answer, login: &str, server: &mut Server) {
        let (mut wants, mut applied) = if question.all {
            (Settings::clone(&self.startup), Settings::default())
        } else {
            (Settings::clone(&self.wants), Settings::clone(&server.applied))
        };
        for (name, value) in &answer.settings {
            let unset = match name.as_ref() {
                b"role" => b"none".as_slice(),
                b"session_authorization" => login.as_bytes(),
                // one that was never set and one that was reset look alike, but for whoever has set it to nothing
                _ if question.resets || question.all && self.wants.value(name).is_none() => b"",
                _ => b"\0",
            };
            match value.as_deref().filter(|value| *value != unset) {
                Some(value) => {
                    wants.set(name, value);
                    applied.set(name, value);
                }
                None => {
                    wants.remove(name);
                    applied.remove(name);
                    if let Some(value) = self.startup.value(name) {
                        wants.set(name, value);
                    }
                }
            }
        }
        self.has_settings(wants, applied, server);
    }

    /// Puts what brings the server to the client's settings in front of its next turn, if it takes anything.
    pub(super) fn write_prefix(&self, loan: &mut Loan, server: &mut Server) -> Result<(), End> {
        let change = Change::needed(server, self.handle.id, &self.wants);
        if change == Change::None {
            return Ok(());
        }
        let mut out = crate::net::buffer::lend_growing();
        if prefix::write(server, &mut out, change, &self.wants).is_err() {
            return Err(ClientError::Internal("a server was lent in the middle of a COPY").into());
        }
        loan.prefix = Some(out);
        loan.turn_sent = false;
        Ok(())
    }
}

impl Answer {
    fn take(&mut self, tag: u8, body: &[u8]) {
        match tag {
            b'D' => self.take_row(body),
            b'E' => self.failed = true,
            b'A' => messages::message(&mut self.notifications, b'A', |out| out.extend_from_slice(body)),
            _ => {}
        }
    }

    /// A row of three texts: its kind, a name, a value.
    fn take_row(&mut self, body: &[u8]) {
        let mut rest = body.get(2..).unwrap_or_default();
        let mut column = || -> Option<&[u8]> {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                rest = after;
                return None;
            };
            let (value, after) = after.split_at_checked(length)?;
            rest = after;
            Some(value)
        };
        let (kind, name, value) = (column(), column(), column());
        match (kind, name) {
            (Some(b"s"), Some(name)) => self.settings.push((name.to_ascii_lowercase().into(), value.map(Into::into))),
            (Some(b"p"), Some(name)) => {
                for (at, (pin, _)) in PINS_ASKED.iter().enumerate() {
                    if name == at.to_string().as_bytes() {
                        self.pins |= *pin;
                    }
                }
            }
            _ => self.failed = true, // a row too large to be looked into, or none of ours
        }
    }
}

/// Whether it is the name of a custom setting, which is in none of PostgreSQL's views.
fn is_custom(name: &[u8]) -> bool {
    name.contains(&b'.')
}

/// The question in SQL: whatever the session's search path is, and whoever it is.
fn write(question: &Question) -> Vec<u8> {
    let mut sql = Vec::new();
    let mut part = |text: &[u8]| {
        if !sql.is_empty() {
            sql.extend_from_slice(b" UNION ALL ");
        }
        sql.extend_from_slice(text);
    };
    if question.all {
        part(b"SELECT 's', name, setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session'");
    }
    let always: &[&[u8]] = if question.all { &[b"session_authorization", b"role"] } else { &[] };
    for name in always.iter().copied().chain(question.names.iter().map(AsRef::as_ref)) {
        let name = literal(name);
        let mut ask = b"SELECT 's', ".to_vec();
        ask.extend_from_slice(&name);
        ask.extend_from_slice(b", pg_catalog.current_setting(");
        ask.extend_from_slice(&name);
        ask.extend_from_slice(b", true)");
        if question.all {
            // what the view has, it has told above; what it has not told has been reset
            ask.extend_from_slice(b" WHERE ");
            ask.extend_from_slice(&name);
            ask.extend_from_slice(
                b" OPERATOR(pg_catalog.<>) ALL (SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings)",
            );
        }
        part(&ask);
    }
    for (at, (pin, exists)) in PINS_ASKED.iter().enumerate() {
        if question.pins.any(*pin) {
            part(format!("SELECT 'p', '{at}', NULL WHERE EXISTS ({exists})").as_bytes());
        }
    }
    sql
}

/// A text literal that reads the same whatever `standard_conforming_strings` is.
fn literal(text: &[u8]) -> Vec<u8> {
    let mut out = b"E'".to_vec();
    for byte in text {
        if matches!(byte, b'\'' | b'\\') {
            out.push(*byte);
        }
        out.push(*byte);
    }
    out.push(b'\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(literal(br"a'b\c"), br"E'a''b\\c'");
    }

    #[test]
    fn rows_are_taken_apart() {
        let mut answer = Answer::default();
        let mut row = vec![0, 3];
        for value in [&b"s"[..], b"App.X"] {
            row.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            row.extend(value);
        }
        row.extend((-1_i32).to_be_bytes());
        answer.take(b'D', &row);
        assert_eq!(answer.settings, [(b"app.x".as_slice().into(), None)]);
        assert!(!answer.failed);
        answer.take(b'D', b"");
        assert!(answer.failed);
    }
}
