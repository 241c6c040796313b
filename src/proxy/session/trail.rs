//! What a client's statements may have left behind on the server it has, and what is to be done about it before anyone
//! else gets the server.
//!
//! A transaction that touched nothing costs a count. A lone `SET` that went well is taken at its word; after anything else
//! that touched settings the server is asked for the names involved, and for all of them where the text did not say
//! which. Blocks, savepoints and errors are not modelled: the server knows what became of them.
//!
//! Pure. Not here: what a text does (`sql/effects`), the asking (`settle.rs`).

use crate::sql::assignment::{Assignments, Lone, custom_names};
use crate::sql::effects::Effects;

/// Custom settings that are asked for by name, at most; more are not remembered for one transaction.
const CUSTOM_MAX: usize = 64;

/// What has been seen since the server last was at rest.
#[derive(Debug, Default)]
pub struct Trail {
    effects: Effects,
    /// Statements and texts, with effects or without.
    texts: u32,
    /// One of them failed.
    failed: bool,
    /// What functions and the like do has changed: until others can see that, nobody but this session knows.
    redefines: bool,
    found: Option<Box<Found>>,
}

/// The details, once there are any.
#[derive(Debug, Default)]
struct Found {
    names: Vec<Box<[u8]>>,
    custom: Vec<Box<[u8]>>,
    lone: Option<Lone>,
}

/// What is to be done at rest.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing has changed.
    Nothing,
    /// Exactly this has.
    Known(Lone),
    /// The server must be asked.
    Ask(Question),
}

/// What the server is asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Settings by name.
    pub names: Vec<Box<[u8]>>,
    /// All settings of the session, not only those.
    pub all: bool,
    /// A text has said that some were reset.
    pub resets: bool,
    /// Which pins there are, among these.
    pub pins: Effects,
}

impl Trail {
    /// A statement or a text is being sent that leaves nothing behind.
    pub const fn step(&mut self) {
        self.texts = self.texts.saturating_add(1);
    }

    /// One is being sent that has `effects`. `hints` are further places where names of custom settings may stand: the
    /// values of its parameters.
    pub fn note(&mut self, effects: Effects, sql: &[u8], hints: &[u8]) {
        self.effects |= effects;
        if !effects.any(Effects::SETS | Effects::HIDES | Effects::PREPARES) {
            return;
        }
        let found = self.found.get_or_insert_default();
        let Assignments { names, all, lone } = Assignments::of(sql);
        if all {
            self.effects |= Effects::RESETS;
        }
        found.lone = lone;
        for name in names {
            if !found.names.contains(&name) {
                found.names.push(name);
            }
        }
        if effects.any(Effects::HIDES | Effects::PREPARES) {
            for text in [sql, hints] {
                custom_names(text, CUSTOM_MAX, &mut |name| found.add_custom(name));
            }
        }
    }

    /// Settings that something in this database is known to touch.
    pub fn suspect(&mut self, names: &[Box<[u8]>]) {
        let found = self.found.get_or_insert_default();
        names.iter().for_each(|name| found.add_custom(name));
    }

    /// The server has said that something failed.
    pub const fn fail(&mut self) {
        self.failed = true;
    }

    /// What functions, triggers and views do is different from now on.
    pub const fn redefine(&mut self) {
        self.redefines = true;
    }

    /// Whether [`Self::redefine`] has been said.
    #[must_use]
    pub const fn redefines(&self) -> bool {
        self.redefines
    }

    /// All effects.
    #[must_use]
    pub const fn effects(&self) -> Effects {
        self.effects
    }

    /// Whether something may have changed that nobody can ask for.
    #[must_use]
    pub const fn hides(&self) -> bool {
        self.effects.any(Effects::HIDES)
    }

    /// Whether nothing needs to be looked after at rest, the server having `pins` already. A pinned server is nobody
    /// else's, so its settings can wait until a pin may have gone, or they went back to its defaults, which are not the
    /// client's.
    #[must_use]
    pub const fn is_quiet(&self, pins: Effects) -> bool {
        let urgent = if pins.is_empty() {
            Effects::SETS.or(Effects::HIDES).or(Effects::PINNING.without(Effects::MOVES_SEQUENCE))
        } else {
            Effects::FREES.or(Effects::RESETS)
        };
        !self.redefines && !self.effects.any(urgent.or(Effects::OUTDATES))
    }

    /// What is to be done; the trail begins anew.
    pub fn left(&mut self, pins: Effects) -> Left {
        let Self { effects, texts, failed, redefines: _, found } = std::mem::take(self);
        let Found { mut names, custom, lone } = found.map(|found| *found).unwrap_or_default();
        if (effects | pins).any(Effects::PREPARES) && !custom.is_empty() {
            // the statement will be executed without its text
            self.found = Some(Box::new(Found { custom: custom.clone(), ..Found::default() }));
        }
        if !effects.any(Effects::SETS | Effects::HIDES | Effects::PINNING | Effects::FREES) {
            return Left::Nothing;
        }
        let settings_only = !effects.any(Effects::HIDES | Effects::PINNING.without(Effects::MOVES_SEQUENCE));
        if settings_only && pins.is_empty() && texts == 1 {
            match lone {
                Some(_) if failed => return Left::Nothing, // it was rolled back with its error
                Some(lone) => return Left::Known(lone),
                None if !effects.any(Effects::SETS) => return Left::Nothing,
                None => {}
            }
        }
        let all = effects.any(Effects::HIDES | Effects::RESETS);
        if all {
            names.extend(custom);
        }
        let sought = if effects.any(Effects::HIDES) { Effects::PINNING } else { effects };
        let sought = (sought.and(Effects::PINNING) | pins).without(Effects::LASTING | Effects::MOVES_SEQUENCE);
        if names.is_empty() && !all && sought.is_empty() {
            return Left::Nothing;
        }
        Left::Ask(Question { names, all, resets: effects.any(Effects::RESETS), pins: sought })
    }

    /// Puts back what [`Self::left`] has taken, as far as it matters: the question was not answered.
    pub fn keep_asking(&mut self) {
        self.effects |= Effects::HIDES;
    }
}

impl Found {
    fn add_custom(&mut self, name: &[u8]) {
        let name: Box<[u8]> = name.to_ascii_lowercase().into();
        if self.custom.len() < CUSTOM_MAX && !self.custom.contains(&name) {
            self.custom.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(texts: &[&str]) -> Trail {
        let mut trail = Trail::default();
        for text in texts {
            trail.step();
            trail.note(Effects::of(text.as_bytes()), text.as_bytes(), b"");
        }
        trail
    }

    fn names(question: &Question) -> Vec<&str> {
        question.names.iter().map(|name| std::str::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn a_lone_set_is_known_unless_it_failed() {
        let set = Lone::Set(b"a".as_slice().into(), b"1".as_slice().into());
        assert_eq!(trail(&["set a = 1"]).left(Effects::NONE), Left::Known(set));
        let mut failed = trail(&["set a = 1"]);
        failed.fail();
        assert_eq!(failed.left(Effects::NONE), Left::Nothing);
    }

    #[test]
    fn a_set_in_company_is_asked_for_by_name() {
        let Left::Ask(question) = trail(&["begin", "set a = 1", "rollback"]).left(Effects::NONE) else { panic!() };
        assert_eq!((names(&question), question.all), (vec!["a"], false));
        let Left::Ask(question) = trail(&["set a = 1; reset b"]).left(Effects::NONE) else { panic!() };
        assert_eq!((names(&question), question.all), (vec!["a", "b"], true));
    }

    #[test]
    fn what_hides_its_settings_is_asked_for_everything() {
        let Left::Ask(question) = trail(&["do $$ begin perform f('app.x'); end $$"]).left(Effects::NONE) else {
            panic!()
        };
        assert_eq!((names(&question), question.all), (vec!["app.x"], true));
        assert!(question.pins.any(Effects::TEMPORARY) && !question.pins.any(Effects::LASTING));
    }

    #[test]
    fn plain_statements_are_quiet_and_a_pinned_server_is_until_a_pin_may_go() {
        assert!(trail(&["select 1", "insert into t values (1)", "begin", "drop table t"]).is_quiet(Effects::NONE));
        assert!(!trail(&["create temp table t (a int)"]).is_quiet(Effects::NONE));
        assert!(trail(&["set a = 1"]).is_quiet(Effects::TEMPORARY));
        let mut drop = trail(&["drop table t"]);
        assert!(!drop.is_quiet(Effects::TEMPORARY));
        let Left::Ask(question) = drop.left(Effects::TEMPORARY) else { panic!() };
        assert_eq!(question.pins, Effects::TEMPORARY);
    }
}
