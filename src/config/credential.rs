//! What proves who somebody is: a password, or what PostgreSQL stores instead of it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::secret::Secret;

/// How PostgreSQL starts a stored SCRAM password (`pg_authid.rolpassword`).
const VERIFIER_PREFIX: &str = "SCRAM-SHA-256$";

/// The password of a user, in one of the two forms it can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The password itself.
    Password(Secret),
    /// A SCRAM verifier: enough to let a client in, not enough to log in to a server.
    Verifier(ScramVerifier),
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, decoded (RFC 5803; PostgreSQL: `CATALOG-PG-AUTHID`).
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2; at least 1.
    pub iterations: u32,
    /// The salt.
    pub salt: Vec<u8>,
    /// `H(ClientKey)`.
    pub stored_key: Zeroizing<[u8; 32]>,
    /// `HMAC(SaltedPassword, "Server Key")`.
    pub server_key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SCRAM-SHA-256$***")
    }
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
    /// `md5` and 32 hexadecimal digits.
    #[error("an md5 hash cannot serve for scram-sha-256; write the password or a SCRAM verifier")]
    Md5,
    /// A zero byte, which no startup packet can carry.
    #[error("a password cannot contain a zero byte")]
    ZeroByte,
}

impl Credential {
    /// Tells the two forms apart by the prefix, as PostgreSQL does in `CREATE ROLE … PASSWORD`.
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
        if let Some(rest) = text.strip_prefix(VERIFIER_PREFIX) {
            return parse_verifier(rest).map(Self::Verifier).ok_or(CredentialError::BadVerifier);
        }
        let md5 = text.strip_prefix("md5").is_some_and(|h| h.len() == 32 && h.bytes().all(|b| b.is_ascii_hexdigit()));
        if md5 { Err(CredentialError::Md5) } else { Ok(Self::Password(secret)) }
    }
}

fn parse_verifier(text: &str) -> Option<ScramVerifier> {
    let (parameters, keys) = text.split_once('$')?;
    let (iterations, salt) = parameters.split_once(':')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    let key = |text: &str| -> Option<Zeroizing<[u8; 32]>> {
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        bytes.as_slice().try_into().ok().map(Zeroizing::new)
    };
    let iterations = iterations.parse().ok().filter(|n| *n >= 1)?;
    let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
    Some(ScramVerifier { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Credential, CredentialError> {
        Credential::from_secret(Secret::new(text.to_owned()))
    }

    #[test]
    fn a_verifier_is_told_from_a_password_by_its_prefix() {
        let key = STANDARD.encode([7; 32]);
        let text = format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}");
        let Ok(Credential::Verifier(verifier)) = read(&text) else { panic!("not a verifier") };
        assert_eq!((verifier.iterations, verifier.salt.as_slice()), (4096, b"salt".as_slice()));
        assert_eq!(*verifier.stored_key, [7; 32]);
        assert_eq!(format!("{verifier:?}"), "SCRAM-SHA-256$***");
        assert!(matches!(read("secret"), Ok(Credential::Password(_))));
    }

    #[test]
    fn a_broken_verifier_or_an_md5_hash_is_no_password() {
        for text in ["SCRAM-SHA-256$", "SCRAM-SHA-256$4096:c2FsdA==$a:b", "SCRAM-SHA-256$0:c2FsdA==$a:b"] {
            assert_eq!(read(text), Err(CredentialError::BadVerifier));
        }
        assert_eq!(read("md5d41d8cd98f00b204e9800998ecf8427e"), Err(CredentialError::Md5));
        assert_eq!(read(""), Err(CredentialError::Empty));
        assert!(matches!(read("md5"), Ok(Credential::Password(_))));
    }
}
