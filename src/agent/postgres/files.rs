//! Files that survive a power cut, and files as they were.
//!
//! A file is replaced as a whole: a temporary one beside it, fsync, rename, fsync of the directory. Whoever looks sees the old
//! one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::directive::{Code, Failure};

/// What `mode` a file gets that was not there.
const MODE: u32 = 0o600;

/// Says what was tried, and which kind of failure it is.
pub fn trouble(what: &str, path: &Path) -> impl Fn(io::Error) -> Failure {
    let what = format!("cannot {what} {}", path.display());
    move |error| {
        let code = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::DiskFull,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Code::Permission,
            _ => Code::Program,
        };
        Failure::new(code, format!("{what}: {error}"))
    }
}

/// The text of a file; `None` when there is none.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(trouble("read", path)(error)),
    }
}

/// Makes a file hold these bytes, with the mode and owner it had (as the directory's owner when it is new).
///
/// # Errors
/// What the disk says; the old file is untouched then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let old = fs::metadata(path).ok();
    let temporary = beside(path, ".howdah-tmp");
    let attempt = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
        if let Some(old) = &old {
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        own(&temporary, old.as_ref().map(|old| (old.uid(), old.gid())))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(path)
    };
    attempt().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        trouble("write", path)(error)
    })
}

/// Removes a file, if it is there.
///
/// # Errors
/// What the disk says.
pub fn remove(path: &Path) -> Result<(), Failure> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed.and_then(|()| sync_directory(path)),
    };
    removed.map_err(trouble("remove", path))
}

/// Flushes the directory that a path is in, so that names in it last.
///
/// # Errors
/// What the disk says.
pub fn sync_directory(of: &Path) -> io::Result<()> {
    File::open(of.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// The same path with something behind its name.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// An agent that is root makes nothing that PostgreSQL cannot read: files go to who had them, else to the directory's owner.
pub(super) fn own(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = match owner {
        Some(owner) => owner,
        None => {
            let directory = fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
            (directory.uid(), directory.gid())
        }
    };
    chown(path, Some(uid), Some(gid))
}

/// A file as it was: its bytes, or that there was none. For a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image(Option<String>);

impl Image {
    /// That of a file now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        Ok(Self(read(path)?.map(|bytes| STANDARD.encode(bytes))))
    }

    /// The bytes; `None` when there was no file.
    ///
    /// # Errors
    /// When the journal is broken.
    pub fn bytes(&self) -> Result<Option<Vec<u8>>, Failure> {
        let decode = |text: &String| STANDARD.decode(text);
        self.0.as_ref().map(decode).transpose().map_err(|error| {
            Failure::new(Code::Internal, format!("the journal's copy of a file does not read: {error}"))
        })
    }

    /// Makes the file what it was, byte for byte. Writes nothing when it is.
    ///
    /// # Errors
    /// What the disk says.
    pub fn restore(&self, path: &Path) -> Result<(), Failure> {
        let bytes = self.bytes()?;
        if read(path)? == bytes {
            return Ok(());
        }
        match bytes {
            Some(bytes) => write(path, &bytes),
            None => remove(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_keeps_its_mode_and_goes_back_to_what_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let absent = Image::of(&path).unwrap();
        write(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let one = Image::of(&path).unwrap();
        write(&path, b"\xff\0two").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"\xff\0two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        one.restore(&path).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"one");
        absent.restore(&path).unwrap();
        absent.restore(&path).unwrap();
        assert!(read(&path).unwrap().is_none());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no temporary file is left");
    }

    #[test]
    fn a_file_that_cannot_be_written_says_where_and_leaves_the_old_one() {
        let failure = write(Path::new("/nonexistent/howdah"), b"x").unwrap_err();
        assert!(failure.text.contains("/nonexistent/howdah"), "{failure}");
    }
}
