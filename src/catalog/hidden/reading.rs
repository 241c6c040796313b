//! Which names in one database keep a statement from running on a standby: functions that may write, and what reaches them.
//!
//! A closure of its own beside the one for session state: triggers, defaults and checks of tables do not run when somebody
//! reads, and a function's own word for it (`provolatile`) counts here. Pure. Not here: where the facts come from
//! (`answer`), which of PostgreSQL's own functions are known better than `pg_proc` knows them (`sql`).
//!
//! Invariant: more facts never let more run on a standby (`tests::more_facts_never_let_more_run_on_a_standby`).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use foldhash::fast::FixedState;
use parking_lot::Mutex;

use super::graph::{Graph, Kind, Object};
use super::names::cut;
use crate::sql::effects::Effects;
use crate::sql::knowledge::{Knowledge, Standing};

/// PostgreSQL's own functions that are volatile and still as good on a standby, for whoever finds them inside a view or a
/// function. Sorted.
pub const HARMLESS: [&str; 24] = [
    "amvalidate",
    "bernoulli",
    "clock_timestamp",
    "gen_random_uuid",
    "pg_collation_actual_version",
    "pg_database_size",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_jit_available",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "random",
    "random_normal",
    "system",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// PostgreSQL's own views that show what is replicated; all others tell something about the node. Sorted.
pub const PLAIN_VIEWS: [&str; 21] = [
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_config",
    "pg_group",
    "pg_indexes",
    "pg_matviews",
    "pg_policies",
    "pg_publication_tables",
    "pg_roles",
    "pg_rules",
    "pg_seclabels",
    "pg_shadow",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_tables",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "pg_user",
    "pg_user_mappings",
    "pg_views",
];

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

/// PostgreSQL's own functions. The same in all databases of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own(Functions);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Functions {
    by_name: HashMap<Box<[u8]>, Standing, FixedState>,
    /// One that writes has a name that is not ASCII.
    foreign: bool,
}

impl Functions {
    fn add(&mut self, name: &[u8], standing: Standing) {
        self.foreign |= standing == Standing::Writes && !name.is_ascii();
        match self.by_name.get_mut(name) {
            Some(known) => *known = known.or(standing),
            None => drop(self.by_name.insert(name.into(), standing)),
        }
    }

    fn standing(&self, name: &[u8]) -> Standing {
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
        self.facts.own.0.standing(name).or(self.facts.functions.standing(name))
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

impl Own {
    /// From their names, parted by spaces.
    #[must_use]
    pub fn of(reading: &str, writing: &str) -> Self {
        let mut own = Functions::default();
        for (names, standing) in [(reading, Standing::Reads), (writing, Standing::Writes)] {
            names.split_ascii_whitespace().for_each(|name| own.add(name.as_bytes(), standing));
        }
        Self(own)
    }

    /// Whether a function of this name writes, whoever calls it.
    #[must_use]
    fn writes(&self, name: &[u8]) -> bool {
        self.0.standing(name) == Standing::Writes && !HARMLESS.iter().any(|harmless| harmless.as_bytes() == name)
    }
}

/// Sets of PostgreSQL's own functions, each once: all databases of a cluster share one.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<Vec<Weak<Own>>>);

impl Shelf {
    /// This one, or the one that is there already.
    pub fn share(&self, own: Own) -> Arc<Own> {
        let mut shelf = self.0.lock();
        if let Some(same) = shelf.iter().filter_map(Weak::upgrade).find(|same| **same == own) {
            return same;
        }
        let own = Arc::new(own);
        shelf.retain(|other| other.strong_count() > 0);
        shelf.push(Arc::downgrade(&own));
        own
    }
}

/// What a user's function says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Stable or immutable.
    Reads,
    /// Volatile, or a procedure.
    Writes,
    /// It cannot be called: a trigger's.
    Uncallable,
}

/// Takes facts, in any order but for PostgreSQL's own functions, which come first.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    own: Arc<Own>,
    graph: Graph,
    functions: Functions,
    /// Functions that `t.f` calls.
    attributes: HashSet<u32, FixedState>,
}

impl Collector {
    /// Says which functions PostgreSQL has.
    pub fn own(&mut self, own: Arc<Own>) {
        self.own = own;
    }

    /// Says that there is a function. With `attribute`, `t.f` calls it.
    pub fn function(&mut self, oid: u32, name: &[u8], manner: Manner, attribute: bool) {
        let function = Object(Kind::Function, oid);
        match manner {
            Manner::Uncallable => return self.functions.add(name, Standing::Writes),
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
