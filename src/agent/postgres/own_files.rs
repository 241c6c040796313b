//! A node's own files in its data directory: configuration, certificates, whatever an administrator has put there. `pg_rewind` and a
//! base backup bring the other node's instead, and `pg_rewind` removes what the other does not have.
//!
//! Kept as copies in the state directory, and put back.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::files::{self, trouble};
use crate::directive::Failure;

/// Files of PostgreSQL's at the top of a data directory that say something about this very directory's contents.
const NOT_OWN: [&str; 12] = [
    "PG_VERSION",
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles",
    "postmaster.pid",
    "promote",
    "promote.signal",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
];
/// Directories of PostgreSQL's, and those of its logs.
const NOT_OWN_DIRECTORIES: [&str; 6] = ["base", "global", "log", "pg_log", "lost+found", "core"];
/// What is larger is no configuration.
const BYTES_MAX: u64 = 4 << 20;

/// Copies a data directory's own files into `kept`, which is made; one that is there from before is replaced.
///
/// # Errors
/// What the disk says.
pub fn keep(data_directory: &Path, kept: &Path) -> Result<(), Failure> {
    discard(kept)?;
    let made = files::beside(kept, ".howdah-tmp");
    discard(&made)?;
    fs::create_dir_all(&made).map_err(trouble("make", &made))?;
    for own in own(data_directory)? {
        copy(&data_directory.join(&own), &made.join(&own))?;
    }
    fs::rename(&made, kept).map_err(trouble("rename", &made))?;
    files::sync_directory(kept).map_err(trouble("flush", kept))
}

/// Puts what was kept into a data directory: the same bytes and rights. What is the same already is not written.
///
/// # Errors
/// What the disk says.
pub fn put_back(kept: &Path, data_directory: &Path) -> Result<(), Failure> {
    for own in walk(kept, Path::new(""), &|_| true)? {
        copy(&kept.join(&own), &data_directory.join(&own))?;
    }
    Ok(())
}

/// Removes what was kept.
///
/// # Errors
/// What the disk says.
pub fn discard(kept: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(kept) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(trouble("remove", kept)),
    }
}

/// Below a data directory, relative to it.
fn own(data_directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let is_own = |path: &Path| {
        let name = path.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
        let top = path.components().count() == 1;
        let is_directory = data_directory.join(path).is_dir();
        if !top {
            true
        } else if is_directory {
            !(name.starts_with("pg_") || NOT_OWN_DIRECTORIES.contains(&name))
        } else {
            !(NOT_OWN.contains(&name) || name.contains(".howdah-") || name.starts_with("core."))
        }
    };
    walk(data_directory, Path::new(""), &is_own)
}

/// Plain files below `root/below` that `take` takes, and of directories that it takes; links are somebody else's files.
fn walk(root: &Path, below: &Path, take: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Failure> {
    let directory = root.join(below);
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).map_err(trouble("read", &directory))? {
        let entry = entry.map_err(trouble("read", &directory))?;
        let path = below.join(entry.file_name());
        let Ok(metadata) = entry.metadata() else { continue };
        if !take(&path) {
            continue;
        }
        if metadata.is_dir() {
            found.extend(walk(root, &path, take)?);
        } else if metadata.is_file() && metadata.len() <= BYTES_MAX {
            found.push(path);
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let bytes = fs::read(from).map_err(trouble("read", from))?;
    let metadata = fs::metadata(from).map_err(trouble("read", from))?;
    if files::read(to)?.as_deref() != Some(&bytes) {
        let parent = to.parent().unwrap_or(Path::new("/"));
        if !parent.is_dir() {
            fs::create_dir_all(parent).map_err(trouble("make", parent))?;
            files::own(parent, None).map_err(trouble("make", parent))?;
        }
        files::write(to, &bytes)?;
    }
    let rights = fs::Permissions::from_mode(metadata.mode() & 0o7777);
    fs::set_permissions(to, rights).map_err(trouble("set the rights of", to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_nodes_own_comes_back_and_what_is_postgresqls_is_left_alone() {
        let (data, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (data, kept) = (data.path(), state.path().join("kept"));
        for directory in ["base/1", "pg_wal", "conf.d", "log"] {
            fs::create_dir_all(data.join(directory)).unwrap();
        }
        for file in
            ["PG_VERSION", "postgresql.conf", "server.key", "conf.d/a.conf", "base/1/1", "log/x", "standby.signal"]
        {
            fs::write(data.join(file), file).unwrap();
        }
        fs::set_permissions(data.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
        keep(data, &kept).unwrap();
        keep(data, &kept).unwrap();
        let mut own = walk(&kept, Path::new(""), &|_| true).unwrap();
        own.sort();
        assert_eq!(own, ["conf.d/a.conf", "postgresql.conf", "server.key"].map(PathBuf::from));

        fs::write(data.join("postgresql.conf"), "the other's").unwrap();
        fs::remove_dir_all(data.join("conf.d")).unwrap();
        fs::remove_file(data.join("server.key")).unwrap();
        fs::write(data.join("PG_VERSION"), "newer").unwrap();
        put_back(&kept, data).unwrap();
        for file in ["postgresql.conf", "conf.d/a.conf", "server.key"] {
            assert_eq!(fs::read_to_string(data.join(file)).unwrap(), file);
        }
        assert_eq!(fs::metadata(data.join("server.key")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(data.join("PG_VERSION")).unwrap(), "newer");
        discard(&kept).unwrap();
        discard(&kept).unwrap();
    }
}
