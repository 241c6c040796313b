//! What a file says, key by key, so that two of them can be compared and every key found again in its text.
//!
//! An entry of a list is known by its name or address, not by its number: a node that moves up in the file is the same node.
//! Secrets, and the content of files that keys name, are compared by their hashes and never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use super::super::document::{At, Document, Step, key_name, toml_key};
use super::super::problem::{Place, Problem};
use super::super::schema::{self, Leaf, Shape, Table};

/// A key that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its full name; entries of lists by name or address.
    pub key: String,
    /// What it was; absent for what is new, and for secrets.
    pub from: Option<String>,
    /// What it is; absent for what is gone, and for secrets.
    pub to: Option<String>,
    /// In words: `added`, `removed`, `changed`, `the file's content has changed`.
    pub how: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, from, to, how } = self;
        match (from, to) {
            (Some(from), Some(to)) => write!(f, "{key}: {from} → {to}"),
            _ => write!(f, "{key}: {how}"),
        }
    }
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    file: PathBuf,
    said: BTreeMap<String, Said>,
}

/// One key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    /// As a reader of the file calls it: entries of lists by number.
    name: String,
    place: Option<Place>,
    value: Value,
    /// The table or list entry it is in, if it may come and go as a whole.
    entry: Option<String>,
    /// It waits for a restart.
    restart: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Entry,
    Shown(String),
    Hidden([u8; 32]),
    /// A file: its name, and what is in it.
    File(String, Option<[u8; 32]>),
}

impl Written {
    pub(in crate::config) fn of(document: &Document<'_>, file: &Path) -> Self {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let mut walk =
            Walk { document, base: file.parent().unwrap_or(Path::new("/")).to_owned(), said: BTreeMap::new() };
        walk.table(schema::root(), document.tree(), "", &[], None);
        Self { said: walk.said, file }
    }

    /// The first key whose value is a secret itself.
    pub(in crate::config) fn first_secret(&self) -> Option<&str> {
        let secrets = self.said.iter().filter(|(_, said)| matches!(said.value, Value::Hidden(_)));
        secrets.min_by_key(|(_, said)| said.place).map(|(key, _)| key.as_str())
    }

    /// A problem at a key, which is named as in a [`Change`]; at the file where it does not have the key.
    #[must_use]
    pub fn problem(&self, key: &str, message: impl Into<String>, advice: &str) -> Problem {
        // a table is no key of its own: the first thing that is written in it
        let within = format!("{key}.");
        let in_it = || {
            self.said.range(within.clone()..).next().filter(|(name, _)| name.starts_with(&within)).map(|(_, said)| said)
        };
        let said = self.said.get(key).or_else(in_it);
        Problem {
            file: self.file.clone(),
            place: said.and_then(|said| said.place),
            key: said.map_or_else(|| key.to_owned(), |said| said.name.clone()),
            message: message.into(),
            advice: (!advice.is_empty()).then(|| advice.to_owned()),
            excerpt: None,
        }
    }

    /// What is different in `after`. Keys that need a restart are not among them.
    #[must_use]
    pub fn changes(&self, after: &Self) -> Vec<Change> {
        let mut keys: Vec<&String> = self.said.keys().chain(after.said.keys()).collect();
        keys.sort();
        keys.dedup();
        let change = |key: &&String| {
            let (from, to) = (self.said.get(*key), after.said.get(*key));
            let whole = |side: &Self, said: Option<&Said>| {
                said.and_then(|said| said.entry.as_ref()).is_none_or(|entry| side.said.contains_key(entry))
            };
            // an entry that comes or goes is one change, not one for each of its keys
            if !whole(self, to) || !whole(after, from) || from.or(to).is_none_or(|said| said.restart) {
                return None;
            }
            compare(key, from.map(|said| &said.value), to.map(|said| &said.value))
        };
        keys.iter().filter_map(change).collect()
    }
}

fn compare(key: &str, from: Option<&Value>, to: Option<&Value>) -> Option<Change> {
    let told = |how: &str| Change { key: key.to_owned(), from: None, to: None, how: how.to_owned() };
    let shown =
        |from: String, to: String| (from != to).then(|| Change { from: Some(from), to: Some(to), ..told("changed") });
    let text = |value: Option<&Value>| match value {
        Some(Value::Shown(text) | Value::File(text, _)) => text.clone(),
        Some(Value::Entry | Value::Hidden(_)) => "***".to_owned(),
        None => default_of(key).unwrap_or_else(|| "absent".to_owned()),
    };
    match (from, to) {
        (None, Some(Value::Entry)) => Some(told("added")),
        (Some(Value::Entry), None) => Some(told("removed")),
        (Some(Value::File(a, before)), Some(Value::File(b, after))) if a == b => {
            (before != after).then(|| told("the file's content has changed"))
        }
        (Some(Value::Hidden(a)), Some(Value::Hidden(b))) => (a != b).then(|| told("changed")),
        (Some(Value::Hidden(_)), None) => Some(told("removed")),
        (None, Some(Value::Hidden(_))) => Some(told("added")),
        (from, to) => shown(text(from), text(to)),
    }
}

/// What holds where a key is absent.
fn default_of(key: &str) -> Option<String> {
    let Some((table, key)) = key.split_once('.') else {
        let Shape::Value(leaf) = &schema::root().key(key)?.shape else { return None };
        return leaf.default.as_ref().map(ToString::to_string);
    };
    let Shape::Table(table) = &schema::root().key(table)?.shape else { return None };
    let Shape::Value(leaf) = &table.key(key)?.shape else { return None };
    leaf.default.as_ref().map(ToString::to_string)
}

struct Walk<'d, 't> {
    document: &'d Document<'t>,
    base: PathBuf,
    said: BTreeMap<String, Said>,
}

impl<'d> Walk<'d, '_> {
    fn table(&mut self, known: &Table, table: &'d DeTable<'_>, at: &str, path: &[Step<'d>], entry: Option<&str>) {
        for (name, value) in table.iter() {
            let Some(key) = known.key(name.get_ref()) else { continue };
            let within: Vec<Step<'d>> = path.iter().copied().chain([Step::Key(name.get_ref())]).collect();
            let full = join(at, name.get_ref());
            match (&key.shape, value.get_ref()) {
                (Shape::Value(leaf), value) => {
                    let value = self.value(leaf, name.get_ref(), value);
                    self.put(full, &within, value, entry, key.reload.as_deref() == Some("restart"));
                }
                (Shape::Table(known), DeValue::Table(table)) => self.table(known, table, &full, &within, entry),
                (Shape::Map(known), DeValue::Table(entries)) => {
                    for (name, item) in entries.iter() {
                        let DeValue::Table(table) = item.get_ref() else { continue };
                        let path: Vec<Step<'d>> = within.iter().copied().chain([Step::Key(name.get_ref())]).collect();
                        let full = join(&full, name.get_ref());
                        self.put(full.clone(), &path, Value::Entry, entry, false);
                        self.table(known, table, &full, &path, Some(&full));
                    }
                }
                (Shape::List(known), DeValue::Array(items)) => {
                    for (i, item) in items.iter().enumerate() {
                        let DeValue::Table(table) = item.get_ref() else { continue };
                        let path: Vec<Step<'d>> = within.iter().copied().chain([Step::Item(i)]).collect();
                        let full = format!("{full}[{}]", identity(table, i));
                        self.put(full.clone(), &path, Value::Entry, entry, false);
                        self.table(known, table, &full, &path, Some(&full));
                    }
                }
                (Shape::Table(_) | Shape::Map(_) | Shape::List(_), _) => {}
            }
        }
    }

    fn put(&mut self, full: String, path: &[Step<'d>], value: Value, entry: Option<&str>, restart: bool) {
        let place = self.document.problem(path, At::Value, "", "").place;
        let said = Said { name: key_name(path), place, value, entry: entry.map(str::to_owned), restart };
        self.said.insert(full, said);
    }

    fn value(&self, leaf: &Leaf, name: &str, value: &DeValue<'_>) -> Value {
        let format = if name.ends_with("_file") { Some("path") } else { leaf.format.as_deref() };
        match (format, value) {
            (Some("secret"), DeValue::String(text)) => Value::Hidden(Sha256::digest(text.as_bytes()).into()),
            (Some("path"), DeValue::String(text)) => {
                let path = self.base.join(text.as_ref());
                // a pipe would be waited for
                let is_file = std::fs::metadata(&path).is_ok_and(|found| found.is_file());
                let content = is_file.then(|| std::fs::read(&path).ok()).flatten();
                let content = content.map(zeroize::Zeroizing::new).map(|content| Sha256::digest(&*content).into());
                Value::File(format!("{:?}", text.as_ref()), content)
            }
            (_, value) => Value::Shown(shown(value)),
        }
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { toml_key(name) } else { format!("{at}.{}", toml_key(name)) }
}

/// What tells the entries of a list apart.
fn identity(table: &DeTable<'_>, i: usize) -> String {
    let text = |key: &str| match table.get(key)?.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        _ => None,
    };
    text("name").or_else(|| text("address")).unwrap_or_else(|| i.to_string())
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", text.as_ref()),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| shown(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(_) => "a table".to_owned(),
    }
}
