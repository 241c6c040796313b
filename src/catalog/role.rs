//! What a cluster's catalogue says of one user.

use std::fmt;

use tokio::time::Instant;

use crate::config::Secret;
use crate::protocol::md5::is_md5_hash;
use crate::protocol::scram::{ITERATIONS_DEFAULT, Verifier};

/// What a user's password is known by.
#[derive(Clone, PartialEq, Eq)]
pub enum RoleSecret {
    /// A SCRAM verifier.
    Scram(Verifier),
    /// `md5` and 32 hexadecimal digits.
    Md5(Secret),
    /// No password, one that has expired, or one in a form nobody uses any more: no proof can be right.
    None,
}

impl RoleSecret {
    /// Reads `pg_authid.rolpassword`.
    #[must_use]
    pub fn from_stored(stored: Option<&str>) -> Self {
        match stored {
            Some(text) if is_md5_hash(text.as_bytes()) => Self::Md5(Secret::new(text.to_owned())),
            Some(text) => text.parse().map_or(Self::None, Self::Scram),
            None => Self::None,
        }
    }
}

impl fmt::Debug for RoleSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scram(_) => "Scram(…)",
            Self::Md5(_) => "Md5(…)",
            Self::None => "None",
        })
    }
}

/// A user, as the catalogue knew it when it was asked. One who does not exist has no secret and no groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub(super) secret: RoleSecret,
    pub(super) expires: Option<Instant>,
    pub(super) groups: Vec<Box<str>>,
    /// When it was asked for.
    pub asked: Instant,
}

impl Role {
    /// One of whom nothing is known.
    pub(super) fn unknown(asked: Instant) -> Self {
        Self { secret: RoleSecret::None, expires: None, groups: Vec::new(), asked }
    }

    /// Whether there is nothing to remember.
    pub(super) const fn is_unknown(&self) -> bool {
        matches!(self.secret, RoleSecret::None) && self.groups.is_empty()
    }

    /// What its secret is like.
    pub(super) const fn kind(&self) -> Option<Ordinary> {
        match &self.secret {
            RoleSecret::Scram(verifier) => Some(Ordinary::Scram(verifier.iterations)),
            RoleSecret::Md5(_) => Some(Ordinary::Md5),
            RoleSecret::None => None,
        }
    }

    /// Its secret, as long as that is valid (`VALID UNTIL`).
    #[must_use]
    pub fn secret(&self) -> RoleSecret {
        match self.expires {
            Some(expires) if expires <= Instant::now() => RoleSecret::None,
            Some(_) | None => self.secret.clone(),
        }
    }

    /// Whether it is this role or a member of it, directly or not. Only known where rules ask for groups.
    #[must_use]
    pub fn is_member_of(&self, group: &str) -> bool {
        self.groups.iter().any(|name| **name == *group)
    }
}

/// What most of a cluster's users have: what a challenge for a user who does not exist must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ordinary {
    /// SCRAM verifiers with so many iterations.
    Scram(u32),
    /// md5 hashes.
    Md5,
}

impl Default for Ordinary {
    fn default() -> Self {
        Self::Scram(ITERATIONS_DEFAULT)
    }
}

impl Ordinary {
    /// Of `SCRAM-SHA-256$4096` or `md5`, the beginning of a stored secret.
    pub(super) fn of(kind: &str) -> Option<Self> {
        match kind.strip_prefix("SCRAM-SHA-256$") {
            Some(iterations) => iterations.parse().ok().filter(|count| *count > 0).map(Self::Scram),
            None => (kind == "md5").then_some(Self::Md5),
        }
    }

    /// The iterations of a challenge; those of PostgreSQL where nobody has SCRAM.
    #[must_use]
    pub const fn iterations(self) -> u32 {
        match self {
            Self::Scram(iterations) => iterations,
            Self::Md5 => ITERATIONS_DEFAULT,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_secret_never_shows_itself() {
        let verifier = Verifier::from_password(b"hunter2", b"0123456789abcdef", 2).to_string();
        let secret = RoleSecret::from_stored(Some(&verifier));
        assert_eq!(format!("{secret:?}"), "Scram(…)");
        assert!(matches!(secret, RoleSecret::Scram(_)));
    }

    #[test]
    fn a_password_of_unknown_form_is_no_password() {
        let md5 = format!("md5{}", "0".repeat(32));
        assert_eq!(RoleSecret::from_stored(Some(&md5)), RoleSecret::Md5(Secret::new(md5)));
        for text in [Some("md5 is my favourite"), Some("plain"), Some("SCRAM-SHA-256$x"), None] {
            assert_eq!(RoleSecret::from_stored(text), RoleSecret::None);
        }
    }

    #[test]
    fn an_expired_secret_is_none() {
        let now = Instant::now();
        let md5 = RoleSecret::Md5(Secret::new(format!("md5{}", "0".repeat(32))));
        let role = |expires| Role { secret: md5.clone(), expires, ..Role::unknown(now) };
        assert_eq!(role(None).secret(), md5);
        assert_eq!(role(Some(now + Duration::from_secs(60))).secret(), md5);
        assert_eq!(role(Some(now)).secret(), RoleSecret::None);
    }

    #[test]
    fn the_ordinary_secret_is_told_from_its_beginning() {
        assert_eq!(Ordinary::of("SCRAM-SHA-256$8192"), Some(Ordinary::Scram(8192)));
        assert_eq!(Ordinary::of("md5"), Some(Ordinary::Md5));
        assert_eq!((Ordinary::of("SCRAM-SHA-256$0"), Ordinary::of("plain")), (None, None));
    }
}
