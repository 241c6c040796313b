//! A client's own names for its prepared statements, the unnamed one included.
//!
//! Names belong to the client and mean nothing to a server; changes are made when the client's message is sent and
//! undone when the server says that it was skipped or failed ([`crate::protocol::pipeline::Event::Undone`]).

use std::sync::Arc;

use super::request::OWED_MAX;
use crate::proxy::statements::{ByName, Named, Statement};

/// What the empty name stands for.
#[derive(Clone, Debug, Default)]
pub enum Unnamed {
    /// Nothing: never parsed, or destroyed by a simple query.
    #[default]
    None,
    /// A statement seen for the first time; a server holds it without a name, if at all.
    Once(Arc<Statement>),
    /// A statement that servers hold under its shared name.
    Shared(Arc<Statement>),
    /// One too large to be remembered: only the server it was sent to has it.
    OnServer,
}

/// All names of one client. Empty ones take one pointer.
#[derive(Debug, Default)]
pub struct ClientStatements(Option<Box<Names>>);

#[derive(Debug, Default)]
struct Names {
    unnamed: Unnamed,
    named: ByName,
    last_serial: u32,
    /// The last change of which it is known whether it has happened.
    settled_serial: u32,
    /// The last change in a turn that has been sent to its end.
    sent_serial: u32,
    /// Names closed by messages that are not answered yet, to be put back if those were skipped.
    closing: Vec<(u32, Box<[u8]>, Named)>,
    /// What the empty name stood for before changes that are not answered yet, oldest first.
    replaced: Vec<(u32, Unnamed)>,
}

impl ClientStatements {
    fn names(&mut self) -> &mut Names {
        self.0.get_or_insert_default()
    }

    /// What `name` stands for.
    #[must_use]
    pub fn named(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        Some(&self.0.as_ref()?.named.get(name)?.statement)
    }

    /// What the client calls the statement `id`: one of its names, or the empty one.
    #[must_use]
    pub fn name_of(&self, id: u64) -> &[u8] {
        let mut named = self.0.iter().flat_map(|names| names.named.iter());
        named.find(|(_, named)| named.statement.id == id).map_or(b"", |(name, _)| name)
    }

    /// What the empty name stands for.
    #[must_use]
    pub fn unnamed(&self) -> Unnamed {
        self.0.as_ref().map(|names| names.unnamed.clone()).unwrap_or_default()
    }

    /// Changes what the empty name stands for, for good.
    pub fn set_unnamed(&mut self, unnamed: Unnamed) {
        if self.0.is_some() || !matches!(unnamed, Unnamed::None) {
            self.names().unnamed = unnamed;
        }
    }

    /// Changes what the empty name stands for; the answer identifies the change.
    pub fn change_unnamed(&mut self, unnamed: Unnamed) -> u32 {
        let names = self.names();
        let serial = names.next_serial();
        let before = std::mem::replace(&mut names.unnamed, unnamed);
        forget_settled(&mut names.replaced);
        names.replaced.push((serial, before));
        serial
    }

    /// Gives `statement` a name; the answer identifies the change.
    pub fn add(&mut self, name: &[u8], statement: Arc<Statement>) -> u32 {
        let names = self.names();
        let serial = names.next_serial();
        names.named.insert(name.into(), Named { statement, serial });
        serial
    }

    /// Takes a name away; the answer identifies the change, 0 when there was none.
    pub fn remove(&mut self, name: &[u8]) -> u32 {
        let Some(names) = &mut self.0 else { return 0 };
        let Some((name, named)) = names.named.remove_entry(name) else { return 0 };
        let serial = names.next_serial();
        forget_settled(&mut names.closing);
        names.closing.push((serial, name, named));
        serial
    }

    /// The Parse of the change `serial` failed: its name stands for nothing.
    pub fn fail(&mut self, serial: u32) {
        let Some(names) = &mut self.0 else { return };
        if let Some(replaced) = names.replaced.iter_mut().find(|(change, _)| *change == serial) {
            replaced.1 = Unnamed::None; // PostgreSQL drops it before it looks at the new text
        }
        self.undo(serial);
    }

    /// The message of the change `serial` was skipped.
    pub fn undo(&mut self, serial: u32) {
        let Some(names) = &mut self.0 else { return };
        if let Some(at) = names.replaced.iter().position(|(change, _)| *change == serial) {
            let (_, before) = names.replaced.remove(at);
            match names.replaced.get_mut(at) {
                Some(later) => later.1 = before,
                None => names.unnamed = before,
            }
        } else if let Some(at) = names.closing.iter().position(|(closing, ..)| *closing == serial) {
            let (_, name, named) = names.closing.remove(at);
            names.named.insert(name, named);
        } else {
            names.named.retain(|_, named| named.serial != serial);
            names.closing.retain(|(.., named)| named.serial != serial); // it was closed again before that was known
        }
    }

    /// Whether what `name` stands for depends on a turn that has been sent and, as far as is known here, not answered.
    #[must_use]
    pub fn is_unsure(&self, name: &[u8]) -> bool {
        let Some(names) = &self.0 else { return false };
        if names.sent_serial <= names.settled_serial {
            return false;
        }
        let last_change = if name.is_empty() {
            names.replaced.last().map(|(serial, _)| *serial)
        } else if let Some(named) = names.named.get(name) {
            Some(named.serial)
        } else {
            names.closing.iter().rev().find(|(_, closed, _)| **closed == *name).map(|(serial, ..)| *serial)
        };
        last_change.is_some_and(|serial| serial > names.settled_serial && serial <= names.sent_serial)
    }

    /// A turn ends with what has been sent: if it fails, so have the changes in it.
    pub fn turn_sent(&mut self) {
        if let Some(names) = &mut self.0 {
            names.sent_serial = names.last_serial;
        }
    }

    /// The last change there has been.
    #[must_use]
    pub fn last_serial(&self) -> u32 {
        self.0.as_ref().map_or(0, |names| names.last_serial)
    }

    /// Changes up to `serial` have been answered: they cannot be undone any more.
    pub fn settled_to(&mut self, serial: u32) {
        if let Some(names) = &mut self.0
            && serial > names.settled_serial
        {
            names.settled_serial = serial;
            names.closing.retain(|(closing, ..)| *closing > serial);
            names.replaced.retain(|(change, _)| *change > serial);
        }
    }

    /// Nothing that has not been answered has happened: it will be asked again.
    pub fn undo_unanswered(&mut self) {
        let Some((settled, last)) = self.0.as_ref().map(|names| (names.settled_serial, names.last_serial)) else {
            return;
        };
        (settled..last).rev().for_each(|before| self.undo(before + 1));
    }

    /// Everything sent so far is answered: nothing can be undone any more.
    pub fn settled(&mut self) {
        if let Some(names) = &mut self.0 {
            names.settled_serial = names.last_serial;
            names.closing.clear();
            names.replaced.clear();
        }
    }

    /// The server that was lent goes back: what only it knew is gone.
    pub fn leave_server(&mut self) {
        if let Some(names) = &mut self.0
            && matches!(names.unnamed, Unnamed::OnServer)
        {
            names.unnamed = Unnamed::None;
        }
    }

    /// Forgets all names (`DEALLOCATE ALL`, `DISCARD ALL`).
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Whether there has been any name since the client came, or has forgotten all.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.0.is_some()
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |names| names.named.len())
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A client whose pipeline is never empty never settles: the oldest of so many changes have been answered.
fn forget_settled<T>(changes: &mut Vec<T>) {
    if changes.len() >= 4 * OWED_MAX {
        changes.drain(..2 * OWED_MAX);
    }
}

impl Names {
    fn next_serial(&mut self) -> u32 {
        self.last_serial = self.last_serial.checked_add(1).unwrap_or(1);
        self.last_serial
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::statements::Registry;

    #[test]
    fn a_skipped_parse_frees_its_name_and_a_skipped_close_gives_it_back() {
        let statement = Registry::default().statement(b"select 1\0\0\0");
        let mut names = ClientStatements::default();
        let added = names.add(b"a", Arc::clone(&statement));
        names.undo(added);
        assert!(names.named(b"a").is_none());
        names.add(b"a", statement);
        names.settled();
        let closed = names.remove(b"a");
        assert!(names.named(b"a").is_none());
        names.undo(closed);
        assert!(names.named(b"a").is_some());
    }

    #[test]
    fn what_is_asked_again_finds_its_names_free_and_what_was_answered_stays() {
        let registry = Registry::default();
        let statement = |n: u32| registry.statement(format!("select {n}\0\0\0").as_bytes());
        let mut names = ClientStatements::default();
        names.add(b"answered", statement(1));
        names.settled_to(names.last_serial());
        names.add(b"a", statement(2));
        names.change_unnamed(Unnamed::Once(statement(3)));
        names.remove(b"answered");
        names.remove(b"a");
        names.add(b"a", statement(4));
        names.undo_unanswered();
        assert!(names.named(b"answered").is_some() && names.named(b"a").is_none());
        assert!(matches!(names.unnamed(), Unnamed::None));
    }

    #[test]
    fn a_failed_parse_destroys_the_unnamed_statement_and_a_skipped_one_keeps_it() {
        let registry = Registry::default();
        let [a, b, c] = [b"select 1\0\0\0", b"select 2\0\0\0", b"select 3\0\0\0"].map(|d| registry.statement(d));
        let holds = |names: &ClientStatements, id: u64| matches!(names.unnamed(), Unnamed::Once(s) if s.id == id);
        let mut names = ClientStatements::default();
        names.change_unnamed(Unnamed::Once(Arc::clone(&a)));
        names.settled();
        let skipped = [&b, &c].map(|statement| names.change_unnamed(Unnamed::Once(Arc::clone(statement))));
        skipped.into_iter().for_each(|serial| names.undo(serial));
        assert!(holds(&names, a.id));

        let failed = names.change_unnamed(Unnamed::Once(Arc::clone(&b)));
        let later = names.change_unnamed(Unnamed::Once(Arc::clone(&c)));
        names.fail(failed);
        assert!(holds(&names, c.id));
        names.undo(later);
        assert!(matches!(names.unnamed(), Unnamed::None));
    }

    #[test]
    fn a_name_given_and_taken_back_by_skipped_messages_stays_free() {
        let statement = Registry::default().statement(b"select 1\0\0\0");
        let mut names = ClientStatements::default();
        let added = names.add(b"a", statement);
        let closed = names.remove(b"a");
        assert!(!names.is_unsure(b"a"), "what is sent now is skipped with them");
        names.turn_sent();
        assert!(names.is_unsure(b"a") && !names.is_unsure(b"b"));
        names.undo(added);
        names.undo(closed);
        assert!(names.named(b"a").is_none());
        names.settled();
        assert!(!names.is_unsure(b"a"));
    }
}
