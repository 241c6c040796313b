//! The socket file of a Unix listener, and the lock beside it.
//!
//! As in PostgreSQL (`CreateSocketLockFile()`), `.s.PGSQL.6432.lock` says whose the socket is: whoever holds the lock may
//! remove a socket that a crash has left. It is locked with `flock()`, which a crash undoes, and holds the process id for
//! people and for PostgreSQL, which only looks whether that lives.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A socket file that is ours; dropping it removes it and its lock.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    lock: PathBuf,
    /// Locked for as long as it is open.
    _held: File,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // in this order: whoever finds no lock may rely on finding no socket of ours
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.lock);
    }
}

/// Listens at `path`, with these permissions and this group.
///
/// # Errors
/// `AddrInUse` when somebody listens there or holds the lock; else the kernel's.
pub fn listen(path: &Path, mode: u32, group: Option<u32>) -> io::Result<(OwnedFd, SocketFile)> {
    let mut lock = OsString::from(path);
    lock.push(".lock");
    let lock = PathBuf::from(lock);
    let held = hold(&lock)?;
    if path.exists() {
        // a socket somebody listens on is somebody's; one nobody does is what a crash left
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let file = SocketFile { path: path.to_owned(), lock, _held: held };
    let socket = UnixListener::bind(path)?;
    socket.set_nonblocking(true)?;
    permit(path, mode, group)?;
    Ok((socket.into(), file))
}

/// Who may connect to a socket.
pub(super) fn permit(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    match group {
        Some(_) => std::os::unix::fs::chown(path, None, group),
        None => Ok(()),
    }
}

/// Locks a lock file, which is made if it is not there.
fn hold(path: &Path) -> io::Result<File> {
    loop {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut owner = String::new();
            file.read_to_string(&mut owner)?;
            let owner = owner.lines().next().unwrap_or_default();
            let text = format!("process {owner} holds the lock \"{}\"", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        // its owner may have removed it between the two: then this is a lock on nothing
        match std::fs::metadata(path) {
            Ok(there) if there.ino() == file.metadata()?.ino() => {}
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        return Ok(file);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_one_processs_and_what_a_crash_left_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".s.PGSQL.6432");
        let lock = directory.path().join(".s.PGSQL.6432.lock");
        let (socket, file) = listen(&path, 0o750, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o750);
        assert_eq!(std::fs::read_to_string(&lock).unwrap(), format!("{}\n", std::process::id()));
        let refused = listen(&path, 0o777, None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        assert!(path.exists() && lock.exists(), "whoever is refused takes nothing away");
        drop((socket, file));
        assert!(!path.exists() && !lock.exists());

        // a crash: both files are there, nobody listens, nobody holds the lock
        drop(UnixListener::bind(&path).unwrap());
        std::fs::write(&lock, "1\n").unwrap();
        let (socket, file) = listen(&path, 0o777, None).unwrap();
        UnixStream::connect(&path).unwrap();
        drop((socket, file));

        // somebody who knows no locks, such as PgBouncer
        let other = UnixListener::bind(&path).unwrap();
        let refused = listen(&path, 0o777, None).unwrap_err();
        assert_eq!(refused.to_string(), "another process listens there");
        assert!(path.exists());
        drop(other);
    }
}
