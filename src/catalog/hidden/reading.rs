//! Which names in one database keep a statement from running on a standby: functions that may write, and what reaches them.
//!
//! A closure of its own beside the one for session state: triggers, defaults and checks of tables do not run when somebody
//! reads, and a function's own word for it (`provolatile`) counts here. Pure. Not here: where the facts come from
//! (`answer`), which of PostgreSQL's own functions are known better than `pg_proc` knows them (`sql`).
//!
//! Invariant: more facts never let more run on a standby (`tests::more_facts_never_let_more_run_on_a_standby`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::graph::{Graph, Kind, Object};
use super::names::cut;
use super::own::Own;
use crate::sql::effects::Effects;
use crate::sql::knowledge::{Knowledge, Standing};

/// What an object does that may write, in a graph that only tells this from nothing.
const WRITES: Effects = Effects::HIDES;

/// A snapshot: what may be read on a standby, as [`Knowledge`].
#[derive(Debug, Default)]
pub struct Reading {
    /// 0 when nothing is known.
    generation: u64,
    facts: Facts,
}

/// What a [`Reading`] says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    own: Arc<Own>,
    functions: Functions,
    /// Names of anything but functions that must not be read on a standby.
    writes: HashSet<Box<[u8]>, FixedState>,
    /// One of them is not ASCII: its bytes depend on the encoding of whoever writes it.
    foreign: bool,
    everywhere: bool,
}

/// Functions by name, each with the most cautious of what there is to say of those of that name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    by_name: HashMap<Box<[u8]>, Standing, FixedState>,
    /// One that writes has a name that is not ASCII.
    foreign: bool,
}

impl Functions {
    /// Adds one.
    pub(super) fn add(&mut self, name: &[u8], standing: Standing) {
        self.foreign |= standing == Standing::Writes && !name.is_ascii();
        match self.by_name.get_mut(name) {
            Some(known) => *known = known.or(standing),
            None => drop(self.by_name.insert(name.into(), standing)),
        }
    }

    /// What is known of a name.
    #[must_use]
    pub fn standing(&self, name: &[u8]) -> Standing {
        match self.by_name.get(cut(name)) {
            _ if self.foreign && !name.is_ascii() => Standing::Writes,
            Some(standing) => *standing,
            None => Standing::Unknown,
        }
    }
}

impl Reading {
    /// These facts. `generation` is that of no others, and not 0.
    pub(super) const fn new(generation: u64, facts: Facts) -> Self {
        Self { generation, facts }
    }

    /// Whether it says the same.
    pub(super) fn says(&self, facts: &Facts) -> bool {
        self.generation > 0 && self.facts == *facts
    }
}

impl Knowledge for Reading {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn function(&self, name: &[u8]) -> Standing {
        self.facts.own.functions.standing(name).or(self.facts.functions.standing(name))
    }

    fn writes(&self, name: &[u8]) -> bool {
        let foreign = self.facts.foreign && !name.is_ascii();
        self.writes_everywhere() || foreign || self.facts.writes.contains(cut(name))
    }

    fn writes_everywhere(&self) -> bool {
        self.generation == 0 || self.facts.everywhere
    }
}

impl Facts {
    /// Nothing may run on a standby.
    #[must_use]
    pub fn nothing() -> Self {
        Self { everywhere: true, ..Self::default() }
    }

    fn add(&mut self, name: &[u8]) {
        self.foreign |= !name.is_ascii();
        self.writes.insert(name.into());
    }
}

/// What a user's function says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Stable or immutable.
    Reads,
    /// Volatile, or a procedure.
    Writes,
    /// Who uses it is none the worse: it cannot be called (a trigger's).
    Apart,
    /// Volatile only by name: an extension's that touches nothing.
    Harmless,
}

/// Takes facts, in any order.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    own: Arc<Own>,
    graph: Graph,
    functions: Functions,
    /// Functions that `t.f` calls.
    attributes: HashSet<u32, FixedState>,
}

impl Collector {
    /// With what PostgreSQL has itself.
    #[must_use]
    pub fn new(own: Arc<Own>) -> Self {
        Self { own, ..Self::default() }
    }

    /// Says that there is a function. With `attribute`, `t.f` calls it.
    pub fn function(&mut self, oid: u32, name: &[u8], manner: Manner, attribute: bool) {
        let function = Object(Kind::Function, oid);
        match manner {
            Manner::Apart => return self.functions.add(name, Standing::Writes),
            Manner::Harmless => return self.functions.add(name, Standing::Reads),
            Manner::Writes => self.graph.does(function, WRITES),
            Manner::Reads => {}
        }
        self.graph.name(function, name);
        if attribute {
            self.attributes.insert(oid);
        }
    }

    /// Says which words stand in a function's source.
    pub fn mentions(&mut self, oid: u32, words: &[Box<[u8]>]) {
        let function = Object(Kind::Function, oid);
        match words.iter().any(|word| self.own.writes(word)) {
            true => self.graph.does(function, WRITES),
            false => self.graph.mentions(function, words.to_vec()),
        }
    }

    /// Says what something is called.
    pub fn name(&mut self, object: Object, name: &[u8]) {
        self.graph.name(object, name);
    }

    /// Says that it must not be read on a standby.
    pub fn writes(&mut self, object: Object) {
        self.graph.does(object, WRITES);
    }

    /// Says that whoever reads `user` reads `used`.
    pub fn uses(&mut self, user: Object, used: Object) {
        self.graph.uses(user, used);
    }

    /// What follows from it all.
    #[must_use]
    pub fn facts(self) -> Facts {
        let Self { own, graph, functions, attributes } = self;
        let mut facts = Facts { own, functions, ..Facts::default() };
        for (Object(kind, oid), name, effects) in graph.closed() {
            let writes = !effects.is_empty();
            match (kind, name) {
                (Kind::Everywhere, _) => facts.everywhere |= writes,
                // something that has no name is not named
                (_, None) => {}
                (Kind::Function, Some(name)) => {
                    facts.functions.add(&name, if writes { Standing::Writes } else { Standing::Reads });
                    if writes && attributes.contains(&oid) {
                        facts.add(&name);
                    }
                }
                (Kind::Relation | Kind::Type, Some(name)) if writes => facts.add(&name),
                (Kind::Relation | Kind::Type, Some(_)) => {}
            }
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VIEW: Object = Object(Kind::Relation, 1);
    const TABLE: Object = Object(Kind::Relation, 2);

    fn of(say: impl FnOnce(&mut Collector)) -> Reading {
        let mut collector = Collector::default();
        say(&mut collector);
        Reading::new(1, collector.facts())
    }

    #[test]
    fn nothing_may_run_on_a_standby_as_long_as_nothing_is_known() {
        let unknown = Reading::default();
        assert_eq!((unknown.generation(), unknown.function(b"now")), (0, Standing::Unknown));
        assert!(unknown.writes(b"t") && unknown.writes_everywhere());
        assert!(!unknown.says(&Facts::default()) && Reading::new(1, Facts::default()).says(&Facts::default()));
        let too_much = Reading::new(1, Facts::nothing());
        assert!(too_much.writes(b"t") && too_much.writes_everywhere());
    }

    #[test]
    fn the_most_cautious_of_a_name_holds_and_what_only_counts_by_its_name_spoils_nobody() {
        let reading = of(|say| {
            say.function(1, b"f", Manner::Reads, false);
            say.function(2, b"f", Manner::Writes, false);
            say.function(3, b"t", Manner::Apart, true);
            say.function(4, b"g", Manner::Reads, false);
            say.mentions(4, &[b"t".as_slice().into(), b"nobody".as_slice().into()]);
            say.function(5, b"h", Manner::Reads, false);
            say.mentions(5, &[b"f".as_slice().into()]);
            say.function(6, b"column", Manner::Writes, true);
            say.function(7, b"k", Manner::Reads, false);
            say.mentions(7, &[b"nextval".as_slice().into()]);
        });
        let standing = |name: &str| reading.function(name.as_bytes());
        assert_eq!(["f", "t", "h", "column", "k"].map(standing), [Standing::Writes; 5]);
        assert_eq!((standing("g"), standing("nobody")), (Standing::Reads, Standing::Unknown));
        assert!(reading.writes(b"column") && !reading.writes(b"f") && !reading.writes(b"t"));
    }

    #[test]
    fn a_name_is_compared_as_postgresql_cuts_it_and_one_that_is_not_ascii_with_care() {
        let long = [b'x'; 70];
        let reading = of(|say| {
            say.name(VIEW, &long[..63]);
            say.writes(VIEW);
            say.function(1, "größe".as_bytes(), Manner::Reads, false);
        });
        assert!(reading.writes(&long) && !reading.writes(&long[..62]) && !reading.writes("größe".as_bytes()));
        assert_eq!(reading.function("größe".as_bytes()), Standing::Reads);
        let reading = of(|say| {
            say.name(VIEW, "größe".as_bytes());
            say.writes(VIEW);
            say.function(1, "größe".as_bytes(), Manner::Writes, false);
        });
        assert!(reading.writes(b"gr\xf6\xdfe") && reading.function(b"gr\xf6\xdfe") == Standing::Writes, "in LATIN1");
        assert!(!reading.writes(b"grosse"));
    }

    #[test]
    fn who_reads_what_writes_writes() {
        let reading = of(|say| {
            say.function(1, b"f", Manner::Writes, false);
            say.name(VIEW, b"v");
            say.name(TABLE, b"t");
            say.uses(VIEW, TABLE);
            say.uses(VIEW, Object(Kind::Function, 1));
        });
        assert!(reading.writes(b"v") && !reading.writes(b"t") && !reading.writes_everywhere());
        assert!(of(|say| say.writes(Object(Kind::Everywhere, 0))).writes_everywhere());
    }

    type Fact = (u8, (u8, u32), (u8, u32));

    /// One fact about four objects of each kind.
    fn fact() -> impl Strategy<Value = Fact> {
        (0..4_u8, (0..4_u8, 0..4_u32), (0..4_u8, 0..4_u32))
    }

    fn name(kind: u8, oid: u32) -> Vec<u8> {
        format!("n{kind}{oid}").into_bytes()
    }

    fn reading_of(facts: &[Fact]) -> Reading {
        let kinds = [Kind::Function, Kind::Relation, Kind::Type, Kind::Everywhere];
        let object = |(kind, oid): (u8, u32)| Object(kinds[usize::from(kind)], oid);
        of(|say| {
            for oid in 0..4 {
                say.function(oid, &name(0, oid), Manner::Reads, oid % 2 == 0);
                say.name(object((1, oid)), &name(1, oid));
                say.name(object((2, oid)), &name(2, oid));
            }
            for (what, a, b) in facts {
                match what {
                    0 => say.writes(object(*a)),
                    1 => say.function(a.1, &name(0, b.1), Manner::Writes, false),
                    2 => say.mentions(a.1, &[name(b.0, b.1).into()]),
                    _ => say.uses(object(*a), object(*b)),
                }
            }
        })
    }

    proptest! {
        #[test]
        fn more_facts_never_let_more_run_on_a_standby(
            facts in prop::collection::vec(fact(), 0..40),
            keep in 0..40_usize,
        ) {
            let all = reading_of(&facts);
            let some = reading_of(&facts[..keep.min(facts.len())]);
            prop_assert!(all.writes_everywhere() || !some.writes_everywhere());
            for kind in 0..3 {
                for oid in 0..4 {
                    let name = name(kind, oid);
                    prop_assert!(all.writes(&name) || !some.writes(&name));
                    prop_assert_eq!(some.function(&name).or(all.function(&name)), all.function(&name));
                }
            }
        }
    }
}
