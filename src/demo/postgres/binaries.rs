//! Where PostgreSQL's programs are, and as whom they run.

use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{LocalError, io_error};

/// Debian's place for PostgreSQL: one directory per major version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The environment variable that overrides it.
const OVERRIDE: &str = "HOWDAH_PG_BIN";

/// The programs of one PostgreSQL version, run as a user it accepts: the present one, or an unprivileged one when the
/// present one is root (which `initdb` and `postgres` refuse).
#[derive(Clone, Debug)]
pub struct Binaries {
    directory: PathBuf,
    run_as: Option<(u32, u32)>,
}

impl Binaries {
    /// `HOWDAH_PG_BIN`, or else the highest version below `/usr/lib/postgresql`.
    ///
    /// # Errors
    /// [`LocalError::NoPostgres`], which says what to install.
    pub fn find() -> Result<Self, LocalError> {
        let directory = match std::env::var_os(OVERRIDE) {
            Some(directory) => PathBuf::from(directory),
            None => highest_version(Path::new(VERSIONS))
                .ok_or_else(|| LocalError::NoPostgres { looked: format!("{VERSIONS}/*/bin") })?,
        };
        for program in ["initdb", "postgres", "pg_basebackup"] {
            if !directory.join(program).is_file() {
                return Err(LocalError::NoPostgres { looked: directory.join(program).display().to_string() });
            }
        }
        Ok(Self { directory, run_as: run_as()? })
    }

    /// A copy, made at `to`, of the PostgreSQL that has its `bin`, `lib` and `share` in `from`. A copy, because whoever
    /// PostgreSQL runs as may not be able to enter the place it comes from. It may lack programs, `pg_basebackup` for
    /// one: a call that needs one fails then.
    ///
    /// # Errors
    /// [`LocalError::NoPostgres`] when there is no server in `from`, and what the copying says.
    pub(super) fn copied(from: &Path, to: &Path) -> Result<Self, LocalError> {
        for program in ["initdb", "postgres"] {
            let program = from.join("bin").join(program);
            if !program.is_file() {
                return Err(LocalError::NoPostgres { looked: program.display().to_string() });
            }
        }
        let copied = Command::new("cp").args(["-R", "-P", "--"]).args([from, to]).status();
        match copied {
            Ok(status) if status.success() => Ok(Self { directory: to.join("bin"), run_as: run_as()? }),
            Ok(status) => Err(io_error("copy PostgreSQL")(io::Error::other(status.to_string()))),
            Err(error) => Err(io_error("copy PostgreSQL")(error)),
        }
    }

    /// Where the programs are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The user and group that own the data directories, when that is not the present user.
    #[must_use]
    pub fn run_as(&self) -> Option<(u32, u32)> {
        self.run_as
    }

    /// One program, in the C locale, without the caller's `PG…` environment, as the right user. The caller's groups are
    /// dropped along with root (the standard library does that when it changes the user).
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.owned(&self.directory.join(program))
    }

    /// Any program, in the C locale, without the caller's `PG…` environment, as the owner of the data directories.
    #[must_use]
    pub fn owned(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("LC_")) {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("TZ", "UTC");
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or directory to the user that PostgreSQL runs as.
    ///
    /// # Errors
    /// What `chown(2)` says.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        match self.run_as {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
}

fn highest_version(versions: &Path) -> Option<PathBuf> {
    std::fs::read_dir(versions)
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let major: u32 = entry.file_name().to_str()?.parse().ok()?;
            let directory = entry.path().join("bin");
            directory.join("initdb").is_file().then_some((major, directory))
        })
        .max()
        .map(|(_, directory)| directory)
}

/// Who runs PostgreSQL in place of root; `None` is the present user.
fn run_as() -> Result<Option<(u32, u32)>, LocalError> {
    rustix::process::geteuid().is_root().then(unprivileged).transpose()
}

/// `postgres` if there is such a user, else `nobody`.
fn unprivileged() -> Result<(u32, u32), LocalError> {
    let id = |flag: &str, user: &str| -> Option<u32> {
        let output = Command::new("id").args([flag, user]).output().ok()?;
        if !output.status.success() {
            return None;
        }
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|user| Some((id("-u", user)?, id("-g", user)?)))
        .ok_or(LocalError::NoUser)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_is_taken_by_number_not_by_letter() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["9.6", "9", "15", "16", "17-broken"] {
            std::fs::create_dir_all(dir.path().join(version).join("bin")).unwrap();
            std::fs::write(dir.path().join(version).join("bin/initdb"), "").unwrap();
        }
        std::fs::create_dir_all(dir.path().join("18/bin")).unwrap(); // client only
        assert_eq!(highest_version(dir.path()).unwrap(), dir.path().join("16/bin"));
        assert_eq!(highest_version(&dir.path().join("nowhere")), None);
    }

    #[test]
    fn a_missing_postgresql_names_the_packages() {
        let error = LocalError::NoPostgres { looked: "/usr/lib/postgresql/*/bin".to_owned() }.to_string();
        assert!(error.contains("apt-get install postgresql-15 postgresql-contrib"), "{error}");
    }
}
