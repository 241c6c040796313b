//! Where a coordinator keeps what must outlive it: one record per cluster, replaced as a whole.
//!
//! - `local`: a file, fsynced; one daemon
//!
//! Knows records, not their meaning. Writing is compare-and-set by generation, so that a store that several daemons share can stand
//! behind the same trait. Generations grow, and are never used twice: of a record whose storing has failed nobody knows whether it
//! is there after all, and the next one has another number.

mod local;

use std::future::Future;
use std::pin::Pin;

pub use local::LocalStore;

use super::decide::Record;

/// What a store's functions return.
pub type Stored<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A place for records.
pub trait Store: Send + Sync {
    /// The record of a cluster; `None` when there never was one.
    fn load<'a>(&'a self, cluster: &'a str) -> Stored<'a, Option<Record>>;

    /// Replaces the record of generation `last`, the last one that its writer has read or knows to be stored (0: there was none), for
    /// good: it survives a power cut when this returns. Between the two may be generations that this writer could not store, as
    /// far as it was told.
    ///
    /// # Errors
    /// [`StoreError::Moved`] when another one is there; then nothing has changed.
    fn save<'a>(&'a self, cluster: &'a str, last: u64, record: &'a Record) -> Stored<'a, ()>;
}

/// Why a record cannot be read or written. The fault is the operator's, or the disk's.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system says no.
    #[error("could not {what} \"{path}\": {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no record.
    #[error(
        "\"{path}\" is not a record of howdah's: {source}; restore it from a backup, or move it away to begin anew"
    )]
    Unreadable {
        /// Which file.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A later howdah has written it.
    #[error("\"{path}\": {source}")]
    Newer {
        /// Which file.
        path: String,
        /// Which version.
        source: crate::config::version::StateError,
    },
    /// Another daemon has the place.
    #[error("\"{0}\" is in use by another howdah")]
    InUse(String),
    /// Somebody else has written.
    #[error("the stored record is of generation {found}, not {expected}: somebody else writes here")]
    Moved {
        /// Which is there.
        found: u64,
        /// Which should be.
        expected: u64,
    },
}
