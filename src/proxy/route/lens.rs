//! What is known of a database, seen through the operator's own lists: `routing.read_functions` and `write_functions` go
//! before what the catalogue says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;

use crate::config::Routing;
use crate::sql::knowledge::{Knowledge, Standing};

/// Bits of a generation that tell lists apart.
const LISTS_BITS: u32 = 12;

/// The operator's lists.
#[derive(Debug)]
pub struct Lists {
    functions: HashMap<Box<[u8]>, Standing, FixedState>,
    /// Tells these from the lists of other configurations.
    number: u64,
}

impl Lists {
    /// Those of a configuration.
    #[must_use]
    pub fn of(routing: &Routing) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let folded = |name: &String| -> Box<[u8]> { name.to_ascii_lowercase().into_bytes().into() };
        let mut functions = HashMap::default();
        functions.extend(routing.read_functions.iter().map(|name| (folded(name), Standing::Reads)));
        functions.extend(routing.write_functions.iter().map(|name| (folded(name), Standing::Writes)));
        Self { functions, number: LAST.fetch_add(1, Ordering::Relaxed) & ((1 << LISTS_BITS) - 1) }
    }
}

/// A database's catalogue behind the lists.
#[derive(Debug)]
pub struct Lens<'a, K> {
    /// What the operator says.
    pub lists: &'a Lists,
    /// What the catalogue says.
    pub catalogue: &'a K,
}

impl<K: Knowledge> Knowledge for Lens<'_, K> {
    fn generation(&self) -> u64 {
        match self.catalogue.generation() {
            0 => 0,
            generation => generation << LISTS_BITS | self.lists.number,
        }
    }

    fn function(&self, name: &[u8]) -> Standing {
        match self.lists.functions.get(name) {
            Some(said) => *said,
            None => self.catalogue.function(name),
        }
    }

    fn writes(&self, name: &[u8]) -> bool {
        // a function that is called without parentheses
        let listed = self.lists.functions.get(name);
        listed == Some(&Standing::Writes) || self.catalogue.writes(name)
    }

    fn writes_everywhere(&self) -> bool {
        self.catalogue.writes_everywhere()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::knowledge::Assumed;

    const SEVEN: Assumed = Assumed { generation: 7, functions: Standing::Unknown };

    #[test]
    fn the_operators_word_goes_first_and_writes_before_reads() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let routing =
            Routing { read_functions: names(&["F", "g"]), write_functions: names(&["g"]), ..Routing::default() };
        let (lists, others) = (Lists::of(&routing), Lists::of(&routing));
        let lens = Lens { lists: &lists, catalogue: &SEVEN };
        assert_eq!(lens.function(b"f"), Standing::Reads);
        assert_eq!(lens.function(b"g"), Standing::Writes);
        assert_eq!(lens.function(b"h"), Standing::Unknown);
        assert!(lens.writes(b"g") && !lens.writes(b"f"));
        assert_ne!(lens.generation(), Lens { lists: &others, catalogue: &SEVEN }.generation());
        assert_eq!(Lens { lists: &lists, catalogue: &Assumed { generation: 0, ..SEVEN } }.generation(), 0);
    }
}
