//! What is known of statements, remembered by fingerprint: one per worker, so no lock.
//!
//! A table of buckets, bounded in entries and in bytes. A text is compared in full: its hash only finds the bucket, so that
//! nobody gets another statement's answer by making hashes meet. Whoever makes a new entry pays for the few old ones it
//! takes the place of; nothing ever walks the whole table. A hit allocates nothing.
//!
//! Not here: verdicts, which depend on a database ([`Analysis::verdict`] remembers the last).

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::sync::Arc;

use super::analysis::{Analysis, TEXT_MAX};
use super::effects::Effects;
use super::fingerprint;
use super::texts::Texts;

/// Entries that can have hashes which lead to one place.
const WAYS: usize = 8;

/// What fingerprints are hashed with where the same hash is wanted everywhere.
const SEED: u64 = 0x686f_7764_6168;

/// Buckets that are looked through for something to forget, at most, per new entry.
const SWEEP_MAX: usize = 256;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Statements, rounded up to a power of two.
    pub entries: usize,
    /// Their fingerprints and analyses.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 8 << 20 }
    }
}

/// Statements and what is known of them.
#[derive(Debug)]
pub struct ClassCache {
    /// In front of the table: what needs no lexing to be found.
    texts: RefCell<Texts>,
    table: RefCell<Table>,
    hasher: foldhash::fast::RandomState,
    too_long: Arc<Analysis>,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

#[derive(Debug)]
struct Table {
    /// As many as a power of two.
    buckets: Vec<Bucket>,
    /// The fingerprint that is being looked up.
    scratch: Vec<u8>,
    /// The text whose fingerprint that is: who asks what it is and who counts it ask one after the other.
    last: Vec<u8>,
    last_hints: bool,
    /// What was found for it.
    found: Option<Arc<Analysis>>,
    len: usize,
    bytes: usize,
    bytes_max: usize,
    /// The bucket where forgetting goes on.
    hand: usize,
}

#[derive(Debug, Default)]
struct Bucket {
    /// 0 where there is no entry; otherwise the upper half of its hash, so that most misses touch nothing else.
    tags: [u32; WAYS],
    /// The place where forgetting goes on.
    hand: usize,
    entries: [Option<Entry>; WAYS],
}

#[derive(Debug)]
struct Entry {
    fingerprint: Box<[u8]>,
    analysis: Arc<Analysis>,
    /// Whether it was asked for again since somebody last looked for something to forget.
    used: Cell<bool>,
}

impl Entry {
    fn size(&self) -> usize {
        self.fingerprint.len() + self.analysis.size()
    }
}

impl Default for ClassCache {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

impl ClassCache {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let buckets = bounds.entries.div_ceil(WAYS).next_power_of_two();
        let table = Table {
            buckets: std::iter::repeat_with(Bucket::default).take(buckets).collect(),
            scratch: Vec::with_capacity(TEXT_MAX),
            last: Vec::with_capacity(TEXT_MAX),
            last_hints: true,
            found: None,
            len: 0,
            bytes: 0,
            bytes_max: bounds.bytes,
            hand: 0,
        };
        Self {
            texts: RefCell::default(),
            table: RefCell::new(table),
            hasher: foldhash::fast::RandomState::default(),
            too_long: Arc::new(Analysis::too_long()),
            hits: Cell::new(0),
            misses: Cell::new(0),
        }
    }

    /// What `sql` says, looked up or found out. Longer than [`TEXT_MAX`], it is not looked into, and has no opening.
    #[must_use]
    pub fn analyse(&self, sql: &[u8], hints: bool) -> Arc<Analysis> {
        if sql.len() > TEXT_MAX {
            return Arc::clone(&self.too_long);
        }
        if !hints {
            return self.analyse_text(sql, hints);
        }
        let Ok(mut texts) = self.texts.try_borrow_mut() else { return Arc::new(Analysis::of(sql, hints)) };
        let Some(text) = texts.find(sql) else { return self.analyse_text(sql, hints) };
        if text.analysis.is_some() {
            self.hits.set(self.hits.get().wrapping_add(1));
        }
        Arc::clone(text.analysis.get_or_insert_with(|| self.analyse_text(sql, hints)))
    }

    fn analyse_text(&self, sql: &[u8], hints: bool) -> Arc<Analysis> {
        let Ok(mut table) = self.table.try_borrow_mut() else { return Arc::new(Analysis::of(sql, hints)) };
        let table = &mut *table;
        if table.reads(sql, hints)
            && let Some(found) = &table.found
        {
            self.hits.set(self.hits.get().wrapping_add(1));
            return Arc::clone(found);
        }
        let hash = self.hasher.hash_one(table.scratch.as_slice());
        if let Some(entry) = table.find(hash) {
            entry.used.set(true);
            self.hits.set(self.hits.get().wrapping_add(1));
            let analysis = Arc::clone(&entry.analysis);
            table.found = Some(Arc::clone(&analysis));
            return analysis;
        }
        self.misses.set(self.misses.get().wrapping_add(1));
        let analysis = Arc::new(Analysis::of_fingerprint(&table.scratch));
        table.insert(hash, Arc::clone(&analysis));
        table.found = Some(Arc::clone(&analysis));
        analysis
    }

    /// A hash of the fingerprint of `sql`, the same in every process of this version; 0 for a text that is not looked into.
    #[must_use]
    pub fn fingerprint(&self, sql: &[u8]) -> u64 {
        let known = self.texts.try_borrow_mut().ok().and_then(|mut texts| texts.find(sql).map(|text| text.fingerprint));
        known.unwrap_or_else(|| self.fingerprint_text(sql))
    }

    fn fingerprint_text(&self, sql: &[u8]) -> u64 {
        let Ok(mut table) = self.table.try_borrow_mut() else { return 0 };
        if sql.len() > TEXT_MAX {
            return 0;
        }
        table.reads(sql, true);
        foldhash::quality::FixedState::with_seed(SEED).hash_one(table.scratch.as_slice())
    }

    /// What `sql`, which is about to be sent, may leave behind, and [`Self::fingerprint`]: looked up together, or found out and
    /// remembered.
    #[must_use]
    pub fn read(&self, sql: &[u8]) -> (Effects, u64) {
        let Ok(mut texts) = self.texts.try_borrow_mut() else { return (Effects::of(sql), self.fingerprint_text(sql)) };
        if let Some(text) = texts.find(sql) {
            return (text.effects.unwrap_or_else(|| Effects::of(sql)), text.fingerprint);
        }
        let (read, fingerprint) = (Effects::read(sql), self.fingerprint_text(sql));
        texts.missed(sql, fingerprint, (!read.by_values).then_some(read.effects));
        (read.effects, fingerprint)
    }

    /// The fingerprint of `sql` for people; `None` for a text that is not looked into.
    #[must_use]
    pub fn shown(&self, sql: &[u8]) -> Option<String> {
        let mut table = self.table.try_borrow_mut().ok()?;
        (sql.len() <= TEXT_MAX).then(|| {
            table.reads(sql, true);
            fingerprint::shown(&table.scratch)
        })
    }

    /// How many statements it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.borrow().len
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes it holds, beside the table itself.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.table.borrow().bytes
    }

    /// Lookups that found what they looked for, and those that did not.
    #[must_use]
    pub const fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }
}

/// The part of a hash that is kept beside an entry.
fn tag(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default() | 1
}

impl Table {
    /// Sees to it that `scratch` is the fingerprint of `sql`; `true` when it was.
    fn reads(&mut self, sql: &[u8], hints: bool) -> bool {
        if self.last == sql && self.last_hints == hints {
            return true;
        }
        self.found = None;
        self.last.clear();
        self.last.extend_from_slice(sql);
        self.last_hints = hints;
        self.scratch.clear();
        fingerprint::write(sql, hints, &mut self.scratch);
        false
    }

    fn place(&self, hash: u64) -> usize {
        usize::try_from(hash & 0xffff_ffff).unwrap_or_default() & (self.buckets.len() - 1)
    }

    /// The entry of the fingerprint in `scratch`.
    fn find(&self, hash: u64) -> Option<&Entry> {
        let bucket = self.buckets.get(self.place(hash))?;
        let tag = tag(hash);
        let found = bucket.tags.iter().zip(&bucket.entries).filter(|(other, _)| **other == tag);
        found.filter_map(|(_, entry)| entry.as_ref()).find(|entry| *entry.fingerprint == *self.scratch)
    }

    /// Remembers what is known of the fingerprint in `scratch`.
    fn insert(&mut self, hash: u64, analysis: Arc<Analysis>) {
        let entry = Entry { fingerprint: self.scratch.as_slice().into(), analysis, used: Cell::new(false) };
        let size = entry.size();
        let mut swept = 0;
        while self.bytes + size > self.bytes_max && swept < SWEEP_MAX {
            self.hand = (self.hand + 1) & (self.buckets.len() - 1);
            self.forget(self.hand, WAYS);
            swept += 1;
        }
        if self.bytes + size > self.bytes_max {
            return;
        }
        let place = self.place(hash);
        let is_full = |bucket: &Bucket| bucket.tags.iter().all(|tag| *tag != 0);
        if self.buckets.get(place).is_some_and(is_full) {
            self.forget(place, 1);
        }
        let Some(bucket) = self.buckets.get_mut(place) else { return };
        let free = bucket.tags.iter_mut().zip(&mut bucket.entries).find(|(tag, _)| **tag == 0);
        if let Some((free_tag, there)) = free {
            *free_tag = tag(hash);
            *there = Some(entry);
            self.len += 1;
            self.bytes += size;
        }
    }

    /// Forgets entries of a bucket that nobody has asked for again since the last time, at most so many; one of them in any
    /// case if it is only to be one.
    fn forget(&mut self, place: usize, mut at_most: usize) {
        let Some(bucket) = self.buckets.get_mut(place) else { return };
        let rounds = if at_most == 1 { 2 } else { 1 };
        for _ in 0..rounds * WAYS {
            bucket.hand = (bucket.hand + 1) % WAYS;
            let (Some(entry), Some(tag)) = (bucket.entries.get_mut(bucket.hand), bucket.tags.get_mut(bucket.hand))
            else {
                return;
            };
            if entry.as_ref().is_some_and(|entry| !entry.used.replace(false)) {
                self.bytes -= entry.take().map_or(0, |entry| entry.size());
                self.len -= 1;
                *tag = 0;
                at_most -= 1;
                if at_most == 0 {
                    return;
                }
            }
        }
    }
}
