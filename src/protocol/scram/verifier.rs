//! What a server keeps of a password: salt, iterations and two keys, as `pg_authid.rolpassword` spells them.
//!
//! Not here: where verifiers come from (`catalog`).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroize;

use super::{ClientKey, KEY_LEN, Keys, MECHANISM, ServerKey, decode_key, derive, hmac, sha256};

/// A SCRAM verifier, PostgreSQL's "SCRAM secret" (`CATALOG-PG-AUTHID`, `parse_scram_secret()`).
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// At least 1.
    pub iterations: u32,
    /// Never empty.
    pub salt: Vec<u8>,
    /// `H(ClientKey)`: checks a client's proof.
    pub stored_key: [u8; KEY_LEN],
    /// Signs the server's answer.
    pub server_key: [u8; KEY_LEN],
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

/// A text that is not `SCRAM-SHA-256$iterations:salt$stored:server`. Does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM verifier: expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")]
pub struct ParseVerifierError;

impl Verifier {
    /// Makes a verifier, as `ALTER ROLE … PASSWORD` does. The salt is the caller's; PostgreSQL draws 16 bytes.
    #[must_use]
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.max(1);
        let (client_key, server_key) = derive(password, salt, iterations);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: client_key.stored_key(),
            server_key: *server_key.as_bytes(),
        }
    }

    /// A verifier that no password fits, for a user who does not exist or has no SCRAM password, so that asking does not
    /// tell (`mock_scram_secret()`). The same user gets the same salt as long as the process keeps its secret.
    ///
    /// `iterations` is what real users have.
    #[must_use]
    pub fn mock(user: &[u8], process_secret: &[u8], iterations: u32) -> Self {
        let key = sha256(&[process_secret]);
        let mut salt = hmac(&key, &[b"salt", user]).to_vec();
        salt.truncate(16);
        Self {
            iterations: iterations.max(1),
            salt,
            stored_key: hmac(&key, &[b"stored", user]),
            server_key: hmac(&key, &[b"server", user]),
        }
    }

    /// What logs in to every server that has this verifier, given the key a client's proof has shown
    /// ([`super::ServerExchange::finish`]).
    #[must_use]
    pub fn keys(&self, client_key: ClientKey) -> Keys {
        let server_key = ServerKey::new(self.server_key);
        Keys { client_key, server_key, salt: self.salt.clone(), iterations: self.iterations }
    }
}

impl FromStr for Verifier {
    type Err = ParseVerifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let rest = text.strip_prefix(MECHANISM)?.strip_prefix('$')?;
            let (parameters, keys) = rest.split_once('$')?;
            let (iterations, salt) = parameters.split_once(':')?;
            let (stored, server) = keys.split_once(':')?;
            let digits = !iterations.is_empty() && iterations.bytes().all(|b| b.is_ascii_digit());
            let iterations = iterations.parse().ok().filter(|n| digits && *n > 0)?;
            let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
            Some(Self { iterations, salt, stored_key: decode_key(stored)?, server_key: decode_key(server)? })
        };
        parse().ok_or(ParseVerifierError)
    }
}

/// As in `pg_authid.rolpassword`. It goes where passwords go, and not into a log.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key[..], &self.server_key[..]].map(|part| STANDARD.encode(part));
        write!(f, "{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}
