//! What a database's answer says: facts, in rows of text.
//!
//! Not here: what was asked (`question`), what follows from the facts (`graph`, `reading`).

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::SimpleQueryRow;

use super::graph::{Graph, Kind, Object};
use super::names::Names;
use super::own::Own;
use super::question::{FUNCTIONS_MAX, TEXT_MAX, USES_MAX, text};
use super::reading::{Collector, Facts, Manner};
use super::source::{Source, built_in, library_effects, literal_words, tree_effects, tree_settings};
use crate::sql::built_ins;
use crate::sql::effects::Effects;

/// What statements hide, and what keeps them from a standby. Takes long for a large catalogue: not for a thread that
/// others need.
#[must_use]
pub fn read(rows: &[SimpleQueryRow], own: Arc<Own>) -> (Names, Facts) {
    let mut answer = Answer { reading: Collector::new(own), ..Answer::default() };
    for row in rows {
        if answer.read(row).is_none() {
            // a name in an encoding that is none, or a catalogue from the future
            return (Names::everything(), Facts::nothing());
        }
    }
    match answer.functions > FUNCTIONS_MAX || answer.uses > USES_MAX {
        true => (Names::everything(), Facts::nothing()),
        false => (answer.graph.names(), answer.reading.facts()),
    }
}

#[derive(Default)]
struct Answer {
    graph: Graph,
    reading: Collector,
    /// PostgreSQL's own functions that do something: by number, and by their symbol.
    built_ins: HashMap<u32, Effects>,
    symbols: HashMap<Box<str>, Effects>,
    /// How expressions name the view that sets what is written to it.
    settings_view: String,
    functions: usize,
    uses: usize,
}

impl Answer {
    /// `None` when it makes no sense.
    fn read(&mut self, row: &SimpleQueryRow) -> Option<()> {
        match text(row, 0)? {
            "s" => self.settings_view = format!(":relid {} ", text(row, 1)?),
            "b" => {
                let effects = built_in(text(row, 2)?);
                self.built_ins.insert(text(row, 1)?.parse().ok()?, effects);
                *self.symbols.entry(text(row, 3)?.into()).or_default() |= effects;
            }
            "f" => self.function(row)?,
            "t" => {
                let (object, name) = (object(row, 1)?, text(row, 3)?);
                if let Some(tree) = text(row, 4) {
                    self.tree(object, name, tree);
                }
                if says(row, 5)? {
                    self.reading.name(object, name.as_bytes());
                    self.reading.writes(object);
                }
            }
            "w" => {
                let object = object(row, 1)?;
                text(row, 3).into_iter().for_each(|name| self.reading.name(object, name.as_bytes()));
                self.reading.writes(object);
            }
            "u" => {
                self.uses += 1;
                let (user, used) = (object(row, 1)?, object(row, 4)?);
                let name = text(row, 3).unwrap_or_default().as_bytes();
                if says(row, 6)? {
                    self.graph.name(user, name);
                    self.graph.uses(user, used);
                }
                if says(row, 7)? {
                    self.reading.name(user, name);
                    self.reading.uses(user, used);
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn function(&mut self, row: &SimpleQueryRow) -> Option<()> {
        self.functions += 1;
        let oid = text(row, 1)?.parse().ok()?;
        let (function, name) = (Object(Kind::Function, oid), text(row, 2)?.as_bytes());
        self.graph.name(function, name);
        let manner = match text(row, 6) {
            None => None, // PostgreSQL's own
            Some("t") => Some(Manner::Apart),
            Some(_) if built_ins::function(name).is_some() => Some(Manner::Writes),
            Some("r") => Some(Manner::Reads),
            Some(_) if built_ins::is_harmless(name) && text(row, 3)? == "c" => Some(Manner::Harmless),
            Some(_) => Some(Manner::Writes),
        };
        if let Some(manner) = manner {
            self.reading.function(oid, name, manner, says(row, 7)?);
        }
        let reads = manner == Some(Manner::Reads);
        let effects = match (text(row, 3)?, text(row, 4)) {
            // too long, or not text
            (_, None) => {
                self.reading.writes(function);
                Effects::HIDES
            }
            ("internal", Some(symbol)) => self.symbols.get(symbol).copied().unwrap_or_default(),
            ("c", Some(symbol)) => library_effects(text(row, 5).unwrap_or_default(), symbol),
            ("sql" | "plpgsql", Some(source)) => {
                let text = source.as_bytes();
                let source = Source::of(text);
                if reads {
                    // text that is put together may do what its parts name, if not what it says it does not
                    let dynamic = source.effects.any(Effects::HIDES);
                    self.reading.mentions(oid, &source.words);
                    self.reading.mentions(oid, &if dynamic { literal_words(text) } else { Vec::new() });
                }
                self.graph.mentions(function, source.words);
                self.graph.sets(source.settings);
                source.effects
            }
            // any other language can do anything
            (_, Some(_)) => Effects::HIDES,
        };
        if reads && !effects.without(Effects::HIDES).is_empty() {
            self.reading.writes(function);
        }
        self.graph.does(function, effects);
        Some(())
    }

    fn tree(&mut self, object: Object, name: &str, tree: &str) {
        let known = &self.built_ins;
        let mut effects = tree_effects(tree, |oid| known.get(&oid).copied().unwrap_or_default());
        if tree.contains(&self.settings_view) || tree.len() > TEXT_MAX || effects.is_empty() {
            effects |= Effects::HIDES;
        }
        self.graph.name(object, name.as_bytes());
        self.graph.does(object, effects);
        self.graph.sets(tree_settings(tree));
    }
}

/// A column that is true or false.
fn says(row: &SimpleQueryRow, column: usize) -> Option<bool> {
    text(row, column).map(|text| text == "t")
}

/// An object in two columns, kind and number.
fn object(row: &SimpleQueryRow, column: usize) -> Option<Object> {
    let kind = match text(row, column)? {
        "f" => Kind::Function,
        "r" => Kind::Relation,
        "y" => Kind::Type,
        "e" => Kind::Everywhere,
        _ => return None,
    };
    Some(Object(kind, text(row, column.checked_add(1)?)?.parse().ok()?))
}
