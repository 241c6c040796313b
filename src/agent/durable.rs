//! A file that is either as it was or as it should be, whatever happens while it is written.
//!
//! Blocking: `fsync` may take seconds. Callers on the runtime use [`write()`], which goes to a thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::directive::{Code, Failure};

/// Ends the name of a file that is being written. What is found with it is left of a crash.
pub const UNFINISHED: &str = ".unfinished";

/// Replaces a file's content: beside it, synced, renamed, and the directory synced.
///
/// # Errors
/// The kernel's; the file is as it was then, or, if only the last sync failed, perhaps as it should be.
pub fn write_now(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    sync_directory_of(path)
}

/// Makes what was done in a file's directory outlive a power cut.
///
/// # Errors
/// The kernel's.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// [`write_now`], on a thread.
///
/// # Errors
/// [`Code::DiskFull`], [`Code::Permission`] or [`Code::Internal`], with the path.
///
/// # Cancel safety
/// What was begun is finished all the same.
pub async fn write(path: PathBuf, content: Vec<u8>) -> Result<(), Failure> {
    let written = tokio::task::spawn_blocking(move || {
        write_now(&path, &content).map_err(|error| failure(&format!("write \"{}\"", path.display()), &error))
    });
    written.await.unwrap_or_else(|ended| Err(Failure::new(Code::Internal, format!("writing ended: {ended}"))))
}

/// What the kernel refuses, with what was tried.
#[must_use]
pub fn failure(what: &str, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Code::DiskFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Code::Permission,
        _ => Code::Internal,
    };
    Failure::new(code, format!("could not {what}: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for content in ["long content", "short"] {
            write_now(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_the_file_and_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_now(&path, b"before").unwrap();
        fs::create_dir(directory.path().join("file.unfinished")).unwrap();
        assert!(write_now(&path, b"after").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"before");
        let full = failure("write x", &io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        assert_eq!(full.code, Code::DiskFull);
    }
}
