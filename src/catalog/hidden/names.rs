//! The names in one database that hide a change of session state, and what each may do.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::sql::effects::Effects;

/// PostgreSQL cuts identifiers to this length (`NAMEDATALEN - 1`).
const NAME_MAX: usize = 63;
/// Settings that are remembered at most.
pub const SETTINGS_MAX: usize = 64;

/// A snapshot: what statements may do to their session by naming something.
///
/// Effects that a harmless statement has as well do not make a name one that hides: see [`Names::contains`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    by_name: HashMap<Box<[u8]>, Effects, FixedState>,
    everywhere: Effects,
    /// Whether any of it [`hides`].
    hides: bool,
    settings: Vec<Box<[u8]>>,
    /// Some name in it is not ASCII: its bytes depend on the encoding of whoever writes it.
    foreign: Effects,
}

/// What an `INSERT` does in plain sight (`MOVES_SEQUENCE`), and what is only good news (`FREES`).
fn hides(effects: Effects) -> bool {
    !effects.without(Effects::MOVES_SEQUENCE | Effects::FREES).is_empty()
}

/// A name as PostgreSQL cuts it.
pub(super) fn cut(identifier: &[u8]) -> &[u8] {
    identifier.get(..NAME_MAX).unwrap_or(identifier)
}

impl Names {
    /// Every name may do everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { everywhere: Effects::HIDES, hides: true, ..Self::default() }
    }

    /// What a statement may do because `identifier`, folded as PostgreSQL folds it, stands in it.
    #[must_use]
    pub fn effects(&self, identifier: &[u8]) -> Effects {
        let known = self.by_name.get(cut(identifier)).copied().unwrap_or_default();
        let foreign = if identifier.is_ascii() { Effects::NONE } else { self.foreign };
        known | foreign | self.everywhere
    }

    /// Whether a statement with `identifier` in it may change what the next borrower of its server finds, or need what the
    /// last one left there. That it may move a sequence does not count: an `INSERT` does, and says so itself.
    #[must_use]
    pub fn contains(&self, identifier: &[u8]) -> bool {
        hides(self.effects(identifier))
    }

    /// What any statement may do, whatever it names: operators, casts and event triggers have no name in a statement.
    #[must_use]
    pub const fn everywhere(&self) -> Effects {
        self.everywhere
    }

    /// Whether no statement can hide anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.hides
    }

    /// Placeholders such as `app.tenant` that something in the database sets, in order, [`SETTINGS_MAX`] at most. A name
    /// put together at run time is not among them.
    #[must_use]
    pub fn settings(&self) -> &[Box<[u8]>] {
        &self.settings
    }

    /// Adds `effects` to a name.
    pub(super) fn add(&mut self, name: &[u8], effects: Effects) {
        if effects.is_empty() {
            return;
        }
        *self.by_name.entry(name.into()).or_default() |= effects;
        self.hides |= hides(effects);
        if !name.is_ascii() {
            self.foreign |= effects;
        }
    }

    /// Adds `effects` to all statements.
    pub(super) fn add_everywhere(&mut self, effects: Effects) {
        self.everywhere |= effects;
        self.hides |= hides(effects);
    }

    /// Adds settings; names without a dot are none of the database's own.
    pub(super) fn add_settings(&mut self, names: impl Iterator<Item = Box<[u8]>>) {
        self.settings.extend(names.filter(|name| name.contains(&b'.')));
        self.settings.sort();
        self.settings.dedup();
        self.settings.truncate(SETTINGS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_as_postgresql_would_find_it() {
        let mut names = Names::default();
        names.add(&[b'x'; NAME_MAX], Effects::HIDES);
        assert!(names.contains(&[b'x'; NAME_MAX + 10]) && !names.contains(&[b'x'; NAME_MAX - 1]));
        assert!(!names.contains("größe".as_bytes()));
        names.add("größe".as_bytes(), Effects::SETS);
        assert!(names.contains("größe".as_bytes()));
        assert!(names.contains(b"gr\xf6\xdfe"), "in LATIN1");
    }

    #[test]
    fn a_sequence_that_moves_hides_nothing() {
        let mut names = Names::default();
        names.add(b"audit", Effects::MOVES_SEQUENCE);
        assert!(!names.contains(b"audit") && names.is_empty());
        assert_eq!(names.effects(b"audit"), Effects::MOVES_SEQUENCE);
        names.add(b"audit", Effects::SETS);
        assert!(names.contains(b"audit") && !names.is_empty());
        assert!(Names::everything().contains(b"anything") && !Names::everything().is_empty());
    }

    #[test]
    fn only_so_many_settings_are_remembered() {
        let mut names = Names::default();
        names.add_settings((0..200).map(|n| format!("app.s{n}").into_bytes().into()));
        names.add_settings(std::iter::once(b"work_mem".as_slice().into()));
        assert_eq!(names.settings().len(), SETTINGS_MAX);
    }
}
