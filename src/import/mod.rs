//! A howdah.toml from a PgBouncer configuration.
//!
//! - [`ini`]: the file as PgBouncer reads it, includes and all.
//! - [`connstr`]: what stands behind a name in `[databases]`, `[users]` and `[peers]`.
//! - [`keys`]: every key PgBouncer knows, and what becomes of it.
//! - `values`: numbers, times and lists as PgBouncer reads them.
//! - `daemon`: the section `[pgbouncer]`; `databases`: the others.
//! - `document`: the file that is written, and what its reader must be told.
//!
//! Pure but for what [`Surroundings`] lends. Not here: the command line and the file system (`cli/import`), whether the outcome is
//! right (`config`).
//!
//! Every key is either carried over or named as one that has no counterpart, with the reason; nothing is dropped in silence.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

pub mod connstr;
mod daemon;
mod databases;
mod document;
pub mod ini;
pub mod keys;
mod values;

use std::path::{Path, PathBuf};

use document::Document;
pub use document::{Kind, Note};
use ini::{Entry, IniError};
use values::Settings;

/// What an import may ask of the machine it runs on.
#[derive(Clone, Copy)]
pub struct Surroundings<'s> {
    /// Reads a file; a relative path starts wherever PgBouncer would have started it. The path as it was found comes back.
    pub read: &'s dyn Fn(&Path) -> Result<(PathBuf, String), String>,
    /// Where a file is that PgBouncer would look for under this path; absolute.
    pub locate: &'s dyn Fn(&Path) -> PathBuf,
    /// Whether there is IPv6 here: `listen_addr = *` is both.
    pub ipv6: bool,
}

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The text of howdah.toml.
    pub toml: String,
    /// What its reader must know; also at the head of the text.
    pub notes: Vec<Note>,
    /// Whether passwords stand in the text.
    pub holds_secrets: bool,
}

/// Reads `pgbouncer.ini` and everything it points at.
///
/// # Errors
/// What PgBouncer would not have started with.
pub fn import(path: &Path, surroundings: Surroundings<'_>) -> Result<Imported, IniError> {
    let items = ini::read(path, surroundings.read)?;
    let mut document = Document::new(path);
    let mut sections = Sections::default();
    for item in items {
        match item {
            ini::Item::Section { name, place } => sections.enter(&name, place)?,
            ini::Item::Entry(entry) => sections.take(entry),
        }
    }
    if !sections.entered_main {
        return Err(IniError::no_main_section(path));
    }
    let settings = Settings::new(sections.pgbouncer, &mut document);
    daemon::write(&settings, surroundings, &mut document);
    databases::write(&settings, &sections.databases, &sections.users, surroundings, &mut document);
    databases::peers(&sections.peers, &mut document);
    Ok(document.finish())
}

/// A path of PgBouncer's, as howdah finds it wherever its own file is.
fn file(path: &str, surroundings: Surroundings<'_>) -> String {
    (surroundings.locate)(Path::new(path)).display().to_string()
}

/// The entries of the file by section, as far as they hold: PgBouncer begins `[pgbouncer]` with the defaults each time it is
/// there, and lets a later line go before an earlier one.
#[derive(Default)]
struct Sections {
    current: Option<Section>,
    entered_main: bool,
    pgbouncer: Vec<Entry>,
    databases: Vec<Entry>,
    users: Vec<Entry>,
    peers: Vec<Entry>,
}

#[derive(Clone, Copy)]
enum Section {
    Pgbouncer,
    Databases,
    Users,
    Peers,
}

impl Sections {
    fn enter(&mut self, name: &str, place: ini::Place) -> Result<(), IniError> {
        self.current = Some(match name {
            "pgbouncer" => {
                self.entered_main = true;
                self.pgbouncer.clear();
                Section::Pgbouncer
            }
            "databases" => Section::Databases,
            "users" => Section::Users,
            "peers" => Section::Peers,
            _ => return Err(IniError::new(place, format!("there is no section \"{name}\""))),
        });
        Ok(())
    }

    fn take(&mut self, entry: Entry) {
        let list = match self.current {
            Some(Section::Databases) => &mut self.databases,
            Some(Section::Users) => &mut self.users,
            Some(Section::Peers) => &mut self.peers,
            Some(Section::Pgbouncer) | None => &mut self.pgbouncer,
        };
        list.retain(|earlier| earlier.key != entry.key);
        list.push(entry);
    }
}

#[cfg(test)]
mod tests;
