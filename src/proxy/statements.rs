//! Statements as clients parse them: one per (SQL text, parameter types), shared by all clients and servers.
//!
//! A [`Statement`] has a name of its own, under which any server connection may hold it. Each worker looks in a
//! [`Cache`] of its own first; the [`Registry`] behind them is shared and hands out one [`Statement`] per key, so that a
//! server connection that changes worker keeps what it has prepared. Identity is the whole text, never a hash of it.
//!
//! Not here: which server has which (`server/statements.rs`), what a client calls it (`session/statements.rs`).

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::protocol::frame::split_cstr;
use crate::sql::analysis::Analysis;
use crate::sql::cache::ClassCache;
use crate::sql::effects::Effects;
use crate::sql::opening::Opening;

/// Statements the registry keeps that no client and no server holds.
const FORGOTTEN_KEPT: usize = 1_000;

/// Statements a worker's cache holds before it starts anew.
const CACHED_MAX: usize = 4_096;

/// One SQL text with its parameter types.
#[derive(Debug)]
pub struct Statement {
    /// Distinct among all statements of this process; never 0.
    pub id: u64,
    /// What servers call it.
    pub name: Box<[u8]>,
    /// What follows the name in a Parse message: the text, its zero byte, the parameter types.
    pub definition: Box<[u8]>,
    /// What its text opens with.
    pub opening: Opening,
    /// What it may leave behind in a session.
    pub effects: Effects,
    /// What it is for routing, once somebody has asked.
    analysis: OnceLock<Arc<Analysis>>,
    /// The hash of its fingerprint, likewise.
    fingerprint: OnceLock<u64>,
    /// Whether it has been parsed as an unnamed statement before.
    seen: AtomicBool,
}

impl Statement {
    /// What servers call the statement `id`.
    #[must_use]
    pub fn name_of(id: u64) -> Vec<u8> {
        format!("howdah_{id}").into_bytes()
    }

    /// The first server's name of a statement that a text has in quotes, and which statement that is.
    #[must_use]
    pub fn named_in(text: &[u8]) -> Option<(u64, &[u8])> {
        let at = memchr::memmem::find(text, b"\"howdah_")? + 1;
        let name = text.get(at..)?;
        let name = name.get(..memchr::memchr(b'"', name)?)?;
        let id = std::str::from_utf8(name.strip_prefix(b"howdah_")?).ok()?.parse().ok()?;
        Some((id, name))
    }

    /// Its text.
    #[must_use]
    pub fn sql(&self) -> &[u8] {
        split_cstr(&self.definition).map_or(&self.definition, |(sql, _)| sql)
    }

    /// What it is for routing.
    pub fn analysis(&self, classes: &ClassCache) -> &Arc<Analysis> {
        self.analysis.get_or_init(|| classes.analyse(self.sql(), true))
    }

    /// By what statistics know it: [`ClassCache::fingerprint`].
    pub fn fingerprint(&self, classes: &ClassCache) -> u64 {
        *self.fingerprint.get_or_init(|| classes.fingerprint(self.sql()))
    }

    /// Notes one more use as an unnamed statement; `true` when it was not the first.
    pub fn seen_again(&self) -> bool {
        self.seen.load(Ordering::Relaxed) || self.seen.swap(true, Ordering::Relaxed)
    }
}

/// Compares by definition.
#[derive(Clone, Debug)]
struct ByDefinition(Arc<Statement>);

impl PartialEq for ByDefinition {
    fn eq(&self, other: &Self) -> bool {
        self.0.definition == other.0.definition
    }
}

impl Eq for ByDefinition {}

impl Hash for ByDefinition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.definition.as_ref().hash(state);
    }
}

impl Borrow<[u8]> for ByDefinition {
    fn borrow(&self) -> &[u8] {
        &self.0.definition
    }
}

/// All statements of the process.
#[derive(Debug, Default)]
pub struct Registry {
    known: Mutex<HashSet<ByDefinition, foldhash::fast::RandomState>>,
    last_id: AtomicU64,
    /// Grows with every [`Registry::renew`].
    generation: AtomicU64,
}

impl Registry {
    /// The statement with this definition.
    pub fn statement(&self, definition: &[u8]) -> Arc<Statement> {
        let mut known = self.known.lock();
        if let Some(ByDefinition(statement)) = known.get(definition) {
            return Arc::clone(statement);
        }
        if known.len() >= FORGOTTEN_KEPT && known.len().is_power_of_two() {
            known.retain(|ByDefinition(statement)| Arc::strong_count(statement) > 1);
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let sql = split_cstr(definition).map_or(definition, |(sql, _)| sql);
        let statement = Arc::new(Statement {
            id,
            name: Statement::name_of(id).into(),
            definition: definition.into(),
            opening: Opening::of(sql),
            effects: Effects::of(sql),
            analysis: OnceLock::new(),
            fingerprint: OnceLock::new(),
            seen: AtomicBool::new(false),
        });
        known.insert(ByDefinition(Arc::clone(&statement)));
        statement
    }

    /// What is parsed from now on gets new names: servers may hold plans for tables as they were. PostgreSQL refuses to
    /// run those once their columns are others ("cached plan must not change result type"), but plans anew for whoever
    /// parses again. Names that clients have already go on to mean the old ones.
    pub fn renew(&self) {
        self.known.lock().clear();
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// A worker's own view of the registry: no lock, bounded.
#[derive(Debug, Default)]
pub struct Cache {
    known: RefCell<HashSet<ByDefinition, foldhash::fast::RandomState>>,
    /// The registry's, when this was filled.
    generation: Cell<u64>,
}

impl Cache {
    /// The statement with this definition.
    pub fn statement(&self, registry: &Registry, definition: &[u8]) -> Arc<Statement> {
        let mut known = self.known.borrow_mut();
        let generation = registry.generation.load(Ordering::Acquire);
        if self.generation.replace(generation) != generation {
            known.clear();
        }
        if let Some(ByDefinition(statement)) = known.get(definition) {
            return Arc::clone(statement);
        }
        if known.len() >= CACHED_MAX {
            known.clear();
        }
        let statement = registry.statement(definition);
        known.insert(ByDefinition(Arc::clone(&statement)));
        statement
    }
}

/// Statements by a client's names for them, a hash map nobody allocates before the first name.
pub type ByName = HashMap<Box<[u8]>, Named, foldhash::fast::RandomState>;

/// What a client's name stands for.
#[derive(Clone, Debug)]
pub struct Named {
    /// The statement.
    pub statement: Arc<Statement>,
    /// The change that made the name, to be undone if its Parse fails.
    pub serial: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_part_of_a_statements_identity() {
        let registry = Registry::default();
        let one = registry.statement(b"select $1\0\0\0");
        let other = registry.statement(b"select $1\0\0\x01\0\0\0\x17");
        assert_ne!(one.id, other.id);
        assert_ne!(one.name, other.name);
        assert!(Arc::ptr_eq(&one, &Cache::default().statement(&registry, b"select $1\0\0\0")));
    }

    #[derive(Default)]
    struct EveryHashIsTheSame;

    impl Hasher for EveryHashIsTheSame {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, _: &[u8]) {}
    }

    #[test]
    #[allow(clippy::mutable_key_type)] // hashed by the definition, which stays
    fn texts_whose_hashes_collide_are_still_others() {
        let registry = Registry::default();
        let mut known: HashSet<ByDefinition, std::hash::BuildHasherDefault<EveryHashIsTheSame>> = HashSet::default();
        let texts: [&[u8]; 3] = [b"select 1\0\0\0", b"select 2\0\0\0", b"select 1\0\0\x01\0\0\0\x17"];
        known.extend(texts.map(|text| ByDefinition(registry.statement(text))));
        for text in texts {
            assert_eq!(known.get(text).map(|found| found.0.definition.as_ref()), Some(text));
        }
    }

    #[test]
    fn after_a_renewal_the_same_text_is_another_statement_for_every_worker() {
        let (registry, caches) = (Registry::default(), [Cache::default(), Cache::default()]);
        let old = caches.each_ref().map(|cache| cache.statement(&registry, b"select\0\0\0"));
        registry.renew();
        let new = caches.each_ref().map(|cache| cache.statement(&registry, b"select\0\0\0"));
        assert!(old[0].id == old[1].id && new[0].id == new[1].id && old[0].id != new[0].id);
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let registry = Registry::default();
        for n in 0..10_000 {
            registry.statement(format!("select {n}\0\0\0").as_bytes());
        }
        assert!(registry.known.lock().len() <= 2 * 1_024);
    }
}
