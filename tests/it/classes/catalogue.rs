//! Just enough of a catalogue for the corpus: read once, by SQL, without an eye to speed.

use std::collections::{HashMap, HashSet};

use howdah::sql::analysis::Analysis;
use howdah::sql::class::Class;
use howdah::sql::knowledge::{Knowledge, Standing};

use crate::support::Node;

#[derive(Debug, Default)]
pub struct Catalogue {
    functions: HashMap<Vec<u8>, Standing>,
    writing: HashSet<Vec<u8>>,
    generation: u64,
}

impl Knowledge for Catalogue {
    fn generation(&self) -> u64 {
        self.generation
    }
    fn function(&self, name: &[u8]) -> Standing {
        self.functions.get(name).copied().unwrap_or(Standing::Unknown)
    }
    fn writes(&self, name: &[u8]) -> bool {
        self.writing.contains(name)
    }
    fn writes_everywhere(&self) -> bool {
        false
    }
}

impl Catalogue {
    pub fn read(node: &Node, database: &str) -> Self {
        let pairs = |sql: &str| -> Vec<(String, String)> {
            let rows = node.sql_in(database, sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
            rows.0.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect()
        };
        let mut read = Self { generation: 1, ..Self::default() };
        for (name, volatile) in pairs("SELECT proname, bool_or(provolatile = 'v') FROM pg_proc GROUP BY 1") {
            let standing = if volatile == "t" { Standing::Writes } else { Standing::Reads };
            read.functions.insert(name.into_bytes(), standing);
        }
        // a type is called like a function to cast to it
        for (name, _) in pairs("SELECT typname, 1 FROM pg_type") {
            read.functions.entry(name.into_bytes()).or_insert(Standing::Reads);
        }
        // of a row, or of anything: x.f is f(x)
        let columns = "SELECT proname, 1 FROM pg_proc WHERE provolatile = 'v' AND pronargs - pronargdefaults <= 1
             AND pronargs > 0 AND pronamespace <> 'pg_catalog'::regnamespace";
        let relations = "SELECT relname, 1 FROM pg_class WHERE relpersistence <> 'p' OR relkind = 'f'";
        for (name, _) in [pairs(columns), pairs(relations)].concat() {
            read.writing.insert(name.into_bytes());
        }
        let definitions = [
            pairs("SELECT relname, pg_get_viewdef(oid) FROM pg_class WHERE relkind = 'v' AND oid >= 16384"),
            pairs(
                "SELECT typname, 'SELECT ' || substr(pg_get_constraintdef(c.oid), 6) FROM pg_type t
                 JOIN pg_constraint c ON contypid = t.oid WHERE t.oid >= 16384",
            ),
        ]
        .concat();
        // once more for each that can be built on another
        for _ in 0..definitions.len() {
            for (name, definition) in &definitions {
                read.generation += 1;
                if Analysis::of(definition.as_bytes(), false).verdict(&read).class != Class::Read {
                    read.writing.insert(name.clone().into_bytes());
                }
            }
        }
        read
    }
}
