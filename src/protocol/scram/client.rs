//! The side that logs in to PostgreSQL, with a password or with the keys a client's proof has shown.
//!
//! Not here: which mechanism is chosen, and whether a server that asks for no proof at all is acceptable. Source:
//! `fe-auth-scram.c`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::{
    Attributes, Binding, Credential, ITERATIONS_MAX, KEY_LEN, Keys, ScramError, decode_key, hmac, is_nonce, text, xor,
};

/// An exchange that waits for server-first.
#[derive(Debug)]
pub struct ClientExchange {
    binding: Binding,
    nonce: String,
    client_first_bare: String,
}

/// What server-first says: which keys are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFirst {
    /// Ours, and the server's behind it.
    nonce: String,
    /// Never empty.
    pub salt: Vec<u8>,
    /// From 1 to [`ITERATIONS_MAX`].
    pub iterations: u32,
}

/// What the server must answer to show that it knows the verifier.
pub struct ExpectedSignature([u8; KEY_LEN]);

impl ClientExchange {
    /// Starts an exchange and makes client-first. `nonce` must be fresh, random and printable (libpq: 18 bytes in base64).
    ///
    /// # Errors
    /// [`ScramError::Nonce`] when the nonce is empty or not printable.
    pub fn start(nonce: &str, binding: Binding) -> Result<(Self, Vec<u8>), ScramError> {
        // PostgreSQL takes the user from the startup packet and ignores this one; libpq sends none.
        Self::start_as("", nonce, binding)
    }

    pub(super) fn start_as(user: &str, nonce: &str, binding: Binding) -> Result<(Self, Vec<u8>), ScramError> {
        if !is_nonce(nonce) {
            return Err(ScramError::Nonce);
        }
        let client_first_bare = format!("n={user},r={nonce}");
        let message = format!("{}{client_first_bare}", binding.gs2_header()).into_bytes();
        Ok((Self { binding, nonce: nonce.to_owned(), client_first_bare }, message))
    }

    /// Reads server-first, for whoever looks for cached keys before [`ClientExchange::respond`].
    ///
    /// # Errors
    /// See [`ScramError`]: malformed, a nonce that does not extend ours, too many iterations.
    pub fn read_server_first(&self, server_first: &[u8]) -> Result<ServerFirst, ScramError> {
        let mut attributes = Attributes::new(text(server_first)?);
        let nonce = attributes.required('r', "server nonce")?;
        let salt = attributes.required('s', "salt")?;
        let iterations = attributes.required('i', "iteration count")?;
        attributes.end()?;
        match nonce.strip_prefix(self.nonce.as_str()) {
            Some(theirs) if is_nonce(theirs) => (),
            _ => return Err(ScramError::Nonce),
        }
        let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty()).ok_or(ScramError::Malformed("salt"))?;
        let digits = !iterations.is_empty() && iterations.bytes().all(|b| b.is_ascii_digit());
        let iterations: u32 = match iterations.parse() {
            Ok(count) if digits && count > 0 => count,
            _ => return Err(ScramError::Malformed("iteration count")),
        };
        if iterations > ITERATIONS_MAX {
            return Err(ScramError::TooManyIterations(iterations));
        }
        Ok(ServerFirst { nonce: nonce.to_owned(), salt, iterations })
    }

    /// Answers server-first with client-final. With a password this hashes as often as the server asks.
    ///
    /// # Errors
    /// As [`ClientExchange::read_server_first`], and [`ScramError::KeysDoNotFit`] when keys are for another salt or count.
    pub fn respond(
        self,
        server_first: &[u8],
        credential: &Credential<'_>,
    ) -> Result<(Vec<u8>, ExpectedSignature), ScramError> {
        let asked = self.read_server_first(server_first)?;
        let derived;
        let keys = match credential {
            Credential::Password(password) => {
                derived = Keys::derive(password, &asked.salt, asked.iterations);
                &derived
            }
            Credential::Keys(keys) if keys.salt == asked.salt && keys.iterations == asked.iterations => *keys,
            Credential::Keys(keys) => {
                return Err(ScramError::KeysDoNotFit {
                    ours_iterations: keys.iterations,
                    theirs_iterations: asked.iterations,
                });
            }
        };
        let echo = self.binding.echo(&self.binding.gs2_header());
        let without_proof = format!("c={echo},r={}", asked.nonce);
        let auth_message = [self.client_first_bare.as_bytes(), b",", server_first, b",", without_proof.as_bytes()];
        let signature = hmac(&keys.client_key.stored_key(), &auth_message);
        let proof = xor(signature, keys.client_key.as_bytes());
        let expected = ExpectedSignature(hmac(keys.server_key.as_bytes(), &auth_message));
        Ok((format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes(), expected))
    }
}

impl ExpectedSignature {
    /// Reads server-final. Until this has succeeded nothing the server says is to be believed.
    ///
    /// # Errors
    /// [`ScramError::Refused`] for `e=`, [`ScramError::ServerSignature`] when the server does not know the verifier.
    pub fn verify(self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes::new(text(server_final)?);
        let signature = match attributes.any()? {
            Some(('v', signature)) => signature,
            Some(('e', reason)) => {
                return Err(ScramError::Refused(reason.chars().filter(char::is_ascii_graphic).collect()));
            }
            _ => return Err(ScramError::Malformed("server signature")),
        };
        attributes.end()?;
        let signature = decode_key(signature).ok_or(ScramError::Malformed("server signature"))?;
        if bool::from(signature.ct_eq(&self.0)) { Ok(()) } else { Err(ScramError::ServerSignature) }
    }
}

impl fmt::Debug for ExpectedSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExpectedSignature(…)")
    }
}
