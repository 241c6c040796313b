//! Writes of small files that must be on the disk before anything else happens, on a thread: `fsync` may take seconds.

use std::path::PathBuf;

use super::postgres::files;
use crate::directive::{Code, Failure};

/// [`files::write`], on a thread.
///
/// # Errors
/// As [`files::write`].
///
/// # Cancel safety
/// What was begun is finished all the same.
pub async fn write(path: PathBuf, content: Vec<u8>) -> Result<(), Failure> {
    let written = tokio::task::spawn_blocking(move || files::write(&path, &content));
    written.await.unwrap_or_else(|ended| Err(Failure::new(Code::Internal, format!("writing ended: {ended}"))))
}
