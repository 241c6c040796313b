//! The one rule for files that hold a secret: tokens, passwords, lists of users, private keys, and a configuration with a password in
//! it. Its owner may do anything, its group may read, nobody else may do anything: mode 0640 or stricter. A file that is wider is
//! refused wherever a secret is read from one: by `howdah check`, at a start, and by a reload, which then changes nothing.
//!
//! PostgreSQL and libpq hold private keys to the same, and want 0600 where the owner is not root. Who owns a file is not looked at
//! here: a configuration is also checked by people who are neither its owner nor root, and a secret that is mounted into a container
//! belongs to whomever the orchestrator likes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Write and execute for the group, anything for others.
const FORBIDDEN: u32 = 0o037;

/// What is wrong with a file's mode, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    pub(crate) message: String,
    pub(crate) advice: String,
}

/// Whether others can see or change what is in a file. Nothing is said of one that is not there, or no file.
pub(crate) fn exposed(path: &Path) -> Option<Exposed> {
    let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mode = found.permissions().mode() & 0o7777;
    (mode & FORBIDDEN != 0).then(|| Exposed {
        message: format!("\"{}\" holds a secret, and others can read or change it (mode {mode:04o})", path.display()),
        advice: format!("chmod 0640 \"{}\", or stricter", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_may_write_the_group_may_read_and_nobody_else_may_do_anything() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, is_right) in [
            (0o400, true),
            (0o600, true),
            (0o440, true),
            (0o640, true),
            (0o740, true),
            (0o660, false),
            (0o650, false),
            (0o644, false),
            (0o604, false),
            (0o602, false),
            (0o601, false),
        ] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposed(file.path()).is_none(), is_right, "{mode:o}");
        }
        let said = exposed(file.path()).unwrap();
        assert!(said.message.ends_with("(mode 0601)") && said.advice.starts_with("chmod 0640 \""), "{said:?}");
        assert_eq!((exposed(Path::new("/nonexistent")), exposed(Path::new("/"))), (None, None));
    }
}
