//! Other files that are written and checked as `howdah.toml` is, such as `agent.toml`: keys compared with structs, everything wrong at
//! once, each with its place.
//!
//! Not here: what the keys are (whoever owns the file), what only the whole of it shows.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;
use toml::de::DeValue;

use super::check::check;
use super::document::{At, Document, Step, key_path};
use super::problem::{Problem, Problems};
pub(crate) use super::schema::fields_of;
use super::schema::{Fields, Table, table_of};
use super::version;

/// The keys of a file.
#[derive(Debug)]
pub(crate) struct Keys(Table);

impl Keys {
    /// Those of a struct; `fields` says of each struct in it, by name, which fields it has.
    pub(crate) fn of<T: JsonSchema>(name: &str, fields: Fields) -> Self {
        Self(table_of::<T>(name, fields))
    }
}

/// A file whose keys and values are right one by one.
pub(crate) struct Kindred<'t> {
    document: Document<'t>,
}

impl<'t> Kindred<'t> {
    /// Reads a text whose version is at most `newest`.
    ///
    /// # Errors
    /// Everything that is wrong with its keys and values.
    pub(crate) fn read<T: for<'de> Deserialize<'de>>(
        path: &'t Path,
        text: &'t str,
        keys: &'static Keys,
        newest: u32,
    ) -> Result<(T, Self), Problems> {
        let document = Document::parse(path, text)?;
        not_newer(&document, newest)?; // whatever else is unknown in it is no mistake
        Problems::none_or_all(check(&document, &keys.0))?;
        let tree = Document::parse(path, text)?.into_tree();
        let content = T::deserialize(toml::de::Deserializer::from(tree)).map_err(|error| {
            // `check` let something pass that serde does not: a defect of ours, but the file is not loaded
            Problems::from(document.problem_at(error.span(), error.message().to_owned()))
        })?;
        Ok((content, Self { document }))
    }

    /// A problem at a key such as `listen.unix`, or at the table around it where the file does not have the key.
    pub(crate) fn problem(&self, key: &str, message: impl Into<String>, advice: &str) -> Problem {
        let path: Vec<Step<'_>> = key.split('.').map(Step::Key).collect();
        self.document.problem(&path, At::Value, message, advice)
    }
}

/// Refuses a file of a version that did not exist yet.
pub(super) fn not_newer(document: &Document<'_>, newest: u32) -> Result<(), Problems> {
    let Some(DeValue::Integer(number)) = document.tree().get("version").map(Spanned::get_ref) else { return Ok(()) };
    let found = i64::from_str_radix(number.as_str(), number.radix()).ok();
    match found.and_then(|found| version::newer(found, newest)) {
        Some((message, advice)) => Err(document.problem(key_path!["version"], At::Value, message, advice).into()),
        None => Ok(()), // what is wrong with it otherwise is found with the rest
    }
}
