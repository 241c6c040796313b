//! Whether a directory is a data directory, whose it is, and how much room there is.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::files::trouble;
use crate::directive::{Code, Failure};

/// Checks that a directory holds a PostgreSQL cluster which the agent may work on; its major version.
///
/// # Errors
/// [`Code::WrongState`] when there is none; [`Code::Permission`] when it is another user's.
pub fn check(data_directory: &Path) -> Result<u32, Failure> {
    let refuse = |text: &str| Failure::new(Code::WrongState, format!("{} {text}", data_directory.display()));
    let metadata = fs::metadata(data_directory).map_err(trouble("look at", data_directory))?;
    if !metadata.is_dir() {
        return Err(refuse("is not a directory"));
    }
    let user = rustix::process::geteuid();
    if !user.is_root() && metadata.uid() != user.as_raw() {
        let text = format!(
            "{} belongs to user {}, and the agent runs as user {}: run it as the one that PostgreSQL runs as",
            data_directory.display(),
            metadata.uid(),
            user.as_raw()
        );
        return Err(Failure::new(Code::Permission, text));
    }
    version(data_directory).ok_or_else(|| refuse("holds no PostgreSQL cluster: there is no PG_VERSION in it"))
}

/// The major version of a cluster.
#[must_use]
pub fn version(data_directory: &Path) -> Option<u32> {
    fs::read_to_string(data_directory.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// Bytes that a user's process can still write where a path is.
///
/// # Errors
/// When it cannot be asked.
pub fn free_bytes(path: &Path) -> Result<u64, Failure> {
    let room = rustix::fs::statvfs(path).map_err(|error| trouble("look at", path)(error.into()))?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Tablespaces that lie outside the data directory: their links.
#[must_use]
pub fn tablespaces(data_directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data_directory.join("pg_tblspc")).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// Bytes of all files below a directory; links are not followed.
#[must_use]
pub fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_cluster_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let failure = check(directory.path()).unwrap_err();
        assert!(failure.code == Code::WrongState && failure.text.contains("PG_VERSION"), "{failure}");
        fs::write(directory.path().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(check(directory.path()), Ok(15));
        assert!(check(Path::new("/nonexistent")).is_err());
        assert_eq!(size(directory.path()), 3);
        assert!(free_bytes(directory.path()).unwrap() > 0);
    }
}
