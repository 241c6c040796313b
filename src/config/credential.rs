//! What proves who somebody is: a password, or what PostgreSQL stores instead of it.

use super::secret::Secret;
use crate::protocol::md5::is_md5_hash;
use crate::protocol::scram::Verifier;

/// How PostgreSQL starts a stored SCRAM password (`pg_authid.rolpassword`).
const VERIFIER_PREFIX: &str = "SCRAM-SHA-256$";

/// The password of a user, in one of the three forms it can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The password itself.
    Password(Secret),
    /// A SCRAM verifier: enough to let a client in, not enough to log in to a server.
    Verifier(Verifier),
    /// An md5 hash: as good as the password wherever md5 is asked for, and no use for SCRAM.
    Md5(Secret),
}

/// Why a text cannot serve as a password. It never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Nobody can log in with it: PostgreSQL refuses it too.
    #[error("the password is empty")]
    Empty,
    /// Starts like a verifier and goes on otherwise.
    #[error("not a SCRAM verifier; copy rolpassword from pg_authid, SCRAM-SHA-256$<iterations>:<salt>$<key>:<key>")]
    BadVerifier,
    /// A zero byte, which no startup packet can carry.
    #[error("a password cannot contain a zero byte")]
    ZeroByte,
}

impl Credential {
    /// Tells the forms apart as PostgreSQL does in `CREATE ROLE … PASSWORD` (`get_password_type()`).
    ///
    /// # Errors
    /// When the text is neither a password nor a whole verifier.
    pub fn from_secret(secret: Secret) -> Result<Self, CredentialError> {
        let text = secret.reveal();
        if text.is_empty() {
            return Err(CredentialError::Empty);
        }
        if text.contains('\0') {
            return Err(CredentialError::ZeroByte);
        }
        if text.starts_with(VERIFIER_PREFIX) {
            return text.parse().map(Self::Verifier).map_err(|_| CredentialError::BadVerifier);
        }
        if is_md5_hash(text.as_bytes()) { Ok(Self::Md5(secret)) } else { Ok(Self::Password(secret)) }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn read(text: &str) -> Result<Credential, CredentialError> {
        Credential::from_secret(Secret::new(text.to_owned()))
    }

    #[test]
    fn the_forms_are_told_apart_by_their_prefix() {
        let key = STANDARD.encode([7; 32]);
        let text = format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}");
        let Ok(Credential::Verifier(verifier)) = read(&text) else { panic!("not a verifier") };
        assert_eq!((verifier.iterations, verifier.salt.as_slice()), (4096, b"salt".as_slice()));
        assert_eq!(verifier.stored_key, [7; 32]);
        assert!(matches!(read("secret"), Ok(Credential::Password(_))));
        assert!(matches!(read("md5d41d8cd98f00b204e9800998ecf8427e"), Ok(Credential::Md5(_))));
        assert!(matches!(read("md5"), Ok(Credential::Password(_))));
    }

    #[test]
    fn a_broken_verifier_is_no_password() {
        for text in ["SCRAM-SHA-256$", "SCRAM-SHA-256$4096:c2FsdA==$a:b", "SCRAM-SHA-256$0:c2FsdA==$a:b"] {
            assert_eq!(read(text), Err(CredentialError::BadVerifier));
        }
        assert_eq!(read(""), Err(CredentialError::Empty));
    }

    #[test]
    fn no_form_shows_itself() {
        let key = STANDARD.encode([7; 32]);
        for text in
            ["hunter2", "md5d41d8cd98f00b204e9800998ecf8427e", &format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}")]
        {
            let shown = format!("{:?}", read(text).unwrap());
            assert!(!shown.contains("hunter2") && !shown.contains("d41d8") && !shown.contains("[7"), "{shown}");
        }
    }
}
