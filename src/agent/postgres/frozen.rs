//! What a freeze has put away, in `frozen.json` of the state directory: an unfreeze may be another job, of another life of the
//! agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::auto_conf::{self, Change};
use super::files;
use crate::config::version::{StateError, read_state, state_text};
use crate::directive::{Code, Failure};

/// The version of the file.
const VERSION: u32 = 1;
/// What makes a standby receive and restore.
pub const SETTINGS: [&str; 2] = ["primary_conninfo", "restore_command"];

/// What `postgresql.auto.conf` said of [`SETTINGS`]; `None`: nothing.
pub type Frozen = BTreeMap<String, Option<String>>;

/// Where it is.
#[must_use]
pub fn path(state_directory: &Path) -> PathBuf {
    state_directory.join("frozen.json")
}

/// Whether a freeze is in force.
#[must_use]
pub fn is_frozen(state_directory: &Path) -> bool {
    path(state_directory).exists()
}

/// What was put away; `None` when no freeze is in force.
///
/// # Errors
/// When the file does not read.
pub fn load(state_directory: &Path) -> Result<Option<Frozen>, Failure> {
    let path = path(state_directory);
    let read = |bytes: Vec<u8>| {
        let broken =
            |error: StateError| Failure::new(Code::WrongState, format!("{} does not read: {error}", path.display()));
        read_state(&bytes, VERSION).map_err(broken)
    };
    files::read(&path)?.map(read).transpose()
}

/// Puts away what the data directory says now, unless a freeze is in force: then that stays.
///
/// # Errors
/// What the disk says.
pub fn keep(state_directory: &Path, data_directory: &Path) -> Result<Frozen, Failure> {
    if let Some(kept) = load(state_directory)? {
        return Ok(kept);
    }
    let mut kept = Frozen::new();
    for name in SETTINGS {
        kept.insert(name.to_owned(), auto_conf::get(data_directory, name)?);
    }
    let text = state_text(&kept, VERSION)
        .map_err(|error| Failure::new(Code::Internal, format!("what a freeze puts away does not write: {error}")))?;
    files::write(&path(state_directory), &text)?;
    Ok(kept)
}

/// The changes that freeze.
#[must_use]
pub fn changes() -> Vec<Change> {
    SETTINGS.iter().map(|name| ((*name).to_owned(), Some(String::new()))).collect()
}

/// No freeze is in force any more.
///
/// # Errors
/// What the disk says.
pub fn clear(state_directory: &Path) -> Result<(), Failure> {
    files::remove(&path(state_directory))
}
