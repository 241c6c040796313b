//! The latch: `standby.signal`. While it is there, whatever starts PostgreSQL (systemd, a reboot, a person) starts it read-only.
//!
//! Only a promotion, which PostgreSQL ends by removing it, and a restart as primary under the order's epoch take it away.

use std::path::{Path, PathBuf};

use super::files;
use crate::directive::Failure;

/// Where it is.
#[must_use]
pub fn path(data_directory: &Path) -> PathBuf {
    data_directory.join("standby.signal")
}

/// Whether it is set.
#[must_use]
pub fn is_set(data_directory: &Path) -> bool {
    path(data_directory).exists()
}

/// Sets it, and returns when a power cut cannot take it away.
///
/// # Errors
/// What the disk says.
pub fn set(data_directory: &Path) -> Result<(), Failure> {
    // also when it is there: it may have been written by somebody who did not flush it
    files::write(&path(data_directory), b"")
}

/// Takes it away, likewise.
///
/// # Errors
/// What the disk says.
pub fn clear(data_directory: &Path) -> Result<(), Failure> {
    files::remove(&path(data_directory))
}
