//! Texts that were read lately, by their shape: what is known of one holds for the next that differs in literals only, and is
//! found without reading it as SQL.
//!
//! Sets of a few places each, found by how a text begins. A text gets a place when its set has missed its fingerprint twice in
//! a row, so that those that never come again cost no copy; buffers are kept, so that nothing is allocated while the texts
//! are the same. One per worker, as a part of [`super::cache::ClassCache`].

use std::hash::BuildHasher;
use std::sync::Arc;

use super::analysis::Analysis;
use super::effects::Effects;
use super::shape::Shape;

/// Sets, a power of two.
const SETS: usize = 64;
/// Places in each.
const WAYS: usize = 4;
/// How much of a text's beginning finds its set, at most.
const HEAD_MAX: usize = 256;

/// What is known of texts of one shape.
#[derive(Debug, Default)]
pub struct Text {
    /// The hash of its beginning; 0 is nobody's.
    head: u64,
    shape: Shape,
    /// What it leaves behind; `None` if that depends on the values of its literals.
    pub effects: Option<Effects>,
    /// Its fingerprint's hash.
    pub fingerprint: u64,
    /// What it says about where it may run, if somebody has asked.
    pub analysis: Option<Arc<Analysis>>,
}

#[derive(Debug, Default)]
struct Set {
    places: [Text; WAYS],
    /// Which place is taken next.
    hand: usize,
    /// What was looked for last and not found.
    missed: u64,
}

/// The table.
#[derive(Debug)]
pub struct Texts {
    sets: Box<[Set]>,
    hasher: foldhash::fast::RandomState,
}

impl Default for Texts {
    fn default() -> Self {
        Self {
            sets: std::iter::repeat_with(Set::default).take(SETS).collect(),
            hasher: foldhash::fast::RandomState::default(),
        }
    }
}

impl Texts {
    /// What is known of texts like `sql`.
    pub fn find(&mut self, sql: &[u8]) -> Option<&mut Text> {
        let head = self.head(sql);
        let set = self.sets.get_mut(place(head))?;
        set.places.iter_mut().find(|text| text.head == head && text.shape.matches(sql))
    }

    /// `sql` was not found, and this is what it is. Remembers it if that has happened before.
    pub fn missed(&mut self, sql: &[u8], fingerprint: u64, effects: Option<Effects>) {
        let head = self.head(sql);
        let Some(set) = self.sets.get_mut(place(head)) else { return };
        if std::mem::replace(&mut set.missed, fingerprint) != fingerprint {
            return;
        }
        set.hand = (set.hand + 1) % WAYS;
        let Some(text) = set.places.get_mut(set.hand) else { return };
        let has_shape = text.shape.become_of(sql);
        text.head = if has_shape { head } else { 0 };
        (text.effects, text.fingerprint, text.analysis) = (effects, fingerprint, None);
    }

    /// A hash of how `sql` begins, up to where its first literal may be.
    fn head(&self, sql: &[u8]) -> u64 {
        let front = sql.get(..HEAD_MAX).unwrap_or(sql);
        self.hasher.hash_one(front.get(..before_literals(front)).unwrap_or_default()) | 1
    }
}

/// How much of `text` stands before the first byte that a literal may begin with.
fn before_literals(text: &[u8]) -> usize {
    let may_begin = |byte: &u8| byte.is_ascii_digit() || *byte == b'\'';
    // sixteen bytes at once, without a branch in between
    let (blocks, _) = text.as_chunks::<16>();
    let without = |block: &&[u8; 16]| !block.iter().fold(false, |any, byte| any | may_begin(byte));
    let passed = 16 * blocks.iter().take_while(without).count();
    let rest = text.get(passed..).unwrap_or_default();
    passed + rest.iter().position(may_begin).unwrap_or(rest.len())
}

fn place(head: u64) -> usize {
    usize::try_from(head >> 32).unwrap_or_default() & (SETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_where_a_literal_may_begin() {
        for len in 0..70 {
            let mut text = vec![b'x'; len];
            assert_eq!(before_literals(&text), len);
            for (at, byte) in (0..len).zip([b'0', b'9', b'\''].into_iter().cycle()) {
                text[at] = byte;
                assert_eq!(before_literals(&text), at, "{len}");
                text[at] = b'x';
            }
        }
    }

    #[test]
    fn a_text_that_comes_again_is_known_from_the_third_time_on() {
        let mut texts = Texts::default();
        for n in 0..2 {
            let sql = format!("select a from t where b = {n}");
            assert!(texts.find(sql.as_bytes()).is_none());
            texts.missed(sql.as_bytes(), 7, Some(Effects::NONE));
        }
        let found = texts.find(b"select a from t where b = 1234").unwrap();
        assert_eq!((found.fingerprint, found.effects), (7, Some(Effects::NONE)));
        assert!(texts.find(b"select a from t where b = 1.5").is_none());
    }

    #[test]
    fn texts_that_begin_alike_take_each_others_places_and_nobody_elses() {
        let mut texts = Texts::default();
        let sql = |n: u64| format!("select 1 + {}", "1 + ".repeat(n as usize));
        for n in 1..20 {
            texts.missed(sql(n).as_bytes(), n, None);
            texts.missed(sql(n).as_bytes(), n, None);
            assert_eq!(texts.find(sql(n).as_bytes()).map(|text| text.fingerprint), Some(n));
        }
        let known = (1..20).filter(|n| texts.find(sql(*n).as_bytes()).is_some()).count();
        assert_eq!(known, WAYS);
    }

    #[test]
    fn a_text_without_a_shape_is_never_found() {
        let mut texts = Texts::default();
        for _ in 0..3 {
            texts.missed(b"select 'open", 3, None);
            assert!(texts.find(b"select 'open").is_none());
            assert!(texts.find(b"").is_none());
        }
    }
}
