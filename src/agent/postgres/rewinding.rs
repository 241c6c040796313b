//! The sentinel of a rewind: a file in the state directory, there from before `pg_rewind` writes until the data directory is whole
//! again. One that is found later means an interrupted rewind: half of the files are another server's. Nothing may start on it.

use std::path::{Path, PathBuf};

use super::files;
use crate::directive::{Code, Failure};

/// For whoever wants to start it.
pub const TEXT: &str = "a rewind of this data directory was interrupted: it must be rewound again or rebuilt";

/// Where it is.
#[must_use]
pub fn path(state_directory: &Path) -> PathBuf {
    state_directory.join("rewinding")
}

/// Whether a rewind is under way, or was interrupted.
#[must_use]
pub fn is_set(state_directory: &Path) -> bool {
    path(state_directory).exists()
}

/// Before `pg_rewind` writes.
///
/// # Errors
/// What the disk says.
pub fn set(state_directory: &Path) -> Result<(), Failure> {
    files::write(&path(state_directory), b"")
}

/// When the data directory is whole.
///
/// # Errors
/// What the disk says.
pub fn clear(state_directory: &Path) -> Result<(), Failure> {
    files::remove(&path(state_directory))
}

/// Whether the data directory may be started.
///
/// # Errors
/// [`Code::WrongState`] when a rewind was interrupted.
pub fn check(state_directory: &Path) -> Result<(), Failure> {
    if is_set(state_directory) { Err(Failure::new(Code::WrongState, TEXT)) } else { Ok(()) }
}
