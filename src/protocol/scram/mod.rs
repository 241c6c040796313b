//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it: the SASL data inside AuthenticationSASL and its answers.
//!
//! Both sides are here, because they meet: the [`ClientKey`] that [`ServerExchange`] recovers from a client's proof logs
//! in to PostgreSQL through [`ClientExchange`] as the same user, with no password anywhere.
//!
//! - [`Verifier`]: what `pg_authid.rolpassword` holds. - [`Keys`], [`Credential`]: what a login takes.
//!
//! Not here: the messages around the data (`protocol/messages`), nonces (the caller draws them), which mechanism is
//! offered or chosen. Source: `SASL-SCRAM-SHA-256`, `src/backend/libpq/auth-scram.c`, `src/interfaces/libpq/fe-auth-scram.c`.
//!
//! Invariants: a secret is compared only in constant time, printed never and wiped when dropped; no message makes
//! anything here panic (`tests::any_changed_byte_is_refused`).

mod client;
mod server;
mod verifier;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

pub use client::{ClientExchange, ExpectedSignature, ServerFirst};
pub use server::ServerExchange;
pub use verifier::{ParseVerifierError, Verifier};

use crate::pg::SqlState;

/// The mechanism without channel binding.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// The mechanism with it; offered only over TLS.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The largest SCRAM message read here; PostgreSQL's `PG_MAX_SASL_MESSAGE_LENGTH`. A usual one has about 100 bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// The largest iteration count a server may ask of us: about a third of a second of one core. PostgreSQL's default is
/// 4096 (`scram_iterations`); without a bound a hostile server picks how long our core is busy.
pub const ITERATIONS_MAX: u32 = 1_000_000;
/// What PostgreSQL uses unless `scram_iterations` says otherwise.
pub const ITERATIONS_DEFAULT: u32 = 4096;

const KEY_LEN: usize = 32;
const BINDING_TYPE: &str = "tls-server-end-point";

/// What secures the channel below, as one side sees it (RFC 5802 section 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing to bind to: no TLS, or a certificate whose hash is undefined. The server offers no `-PLUS`; a client
    /// says `n`.
    Unavailable,
    /// There is, and it is not used. For a server: it offered `-PLUS`, the client chose the plain mechanism. For a client:
    /// it could bind, the server did not offer it (`y`); if the server did offer it, choose `EndPoint`.
    Unused,
    /// `-PLUS` was chosen; the hash of the server's certificate (RFC 5929 section 4, `net::tls::end_point_hash`).
    EndPoint(Vec<u8>),
}

impl Binding {
    /// The gs2 header a client opens with.
    fn gs2_header(&self) -> String {
        match self {
            Self::Unavailable => "n,,".to_owned(),
            Self::Unused => "y,,".to_owned(),
            Self::EndPoint(_) => format!("p={BINDING_TYPE},,"),
        }
    }

    /// The value of `c=` that belongs to a gs2 header: the header, and what the channel is bound to.
    fn echo(&self, gs2_header: &str) -> String {
        let mut input = gs2_header.as_bytes().to_vec();
        if let Self::EndPoint(hash) = self {
            input.extend_from_slice(hash);
        }
        STANDARD.encode(input)
    }
}

/// Why an exchange ends without a login. Texts and SQLSTATEs are PostgreSQL's where it has them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("SCRAM message is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// Not what the grammar of RFC 5802 section 7 allows; says what was being read.
    #[error("malformed SCRAM message ({0})")]
    Malformed(&'static str),
    /// An `m=` attribute: an extension one must understand, and nobody does.
    #[error("peer requires an unsupported SCRAM extension")]
    UnsupportedExtension,
    /// `a=` in the gs2 header.
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// `p=` with something other than `tls-server-end-point`.
    #[error("unsupported SCRAM channel-binding type")]
    UnsupportedBindingType,
    /// The mechanism chosen and the gs2 header disagree.
    #[error("the selected SCRAM mechanism and the channel binding flag of the SCRAM message do not match")]
    BindingFlag,
    /// `y` although `-PLUS` was offered: somebody between removed the offer.
    #[error("the client supports SCRAM channel binding but thinks the server does not; however, this server does")]
    BindingDowngrade,
    /// The client is bound to another channel than this one: somebody is between.
    #[error("SCRAM channel binding check failed")]
    BindingMismatch,
    /// `c=` of a client that is not bound does not repeat its header.
    #[error("unexpected SCRAM channel-binding attribute in client-final-message")]
    UnexpectedBinding,
    /// The client's nonce is empty, or not printable.
    #[error("non-printable characters in SCRAM nonce")]
    NonceCharacters,
    /// The nonce is not the one agreed on.
    #[error("invalid SCRAM nonce")]
    Nonce,
    /// The proof does not fit the verifier. The client hears PostgreSQL's text for its method instead of this one.
    #[error("password authentication failed")]
    WrongPassword,
    /// A server asks for more than [`ITERATIONS_MAX`].
    #[error("server asks for {0} SCRAM iterations, more than the {ITERATIONS_MAX} that are accepted")]
    TooManyIterations(u32),
    /// Keys cannot log in to a server that has another verifier for the user.
    #[error(
        "SCRAM keys are for {ours_iterations} iterations and another salt or count than the server's {theirs_iterations} \
         iterations: the role's password was changed, or differs between the servers"
    )]
    KeysDoNotFit {
        /// What the keys were derived with.
        ours_iterations: u32,
        /// What the server asks for.
        theirs_iterations: u32,
    },
    /// `e=` in server-final.
    #[error("server refused the SCRAM login: {0}")]
    Refused(String),
    /// The server does not know the verifier: it is not the server it claims to be.
    #[error("incorrect server signature")]
    ServerSignature,
}

impl ScramError {
    /// The SQLSTATE PostgreSQL sends when a client is at fault; for a server's fault, that of a failed login.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::TooLong
            | Self::Malformed(_)
            | Self::UnsupportedBindingType
            | Self::BindingFlag
            | Self::UnexpectedBinding
            | Self::NonceCharacters
            | Self::Nonce => SqlState::PROTOCOL_VIOLATION,
            Self::UnsupportedExtension | Self::AuthorizationIdentity => SqlState::FEATURE_NOT_SUPPORTED,
            Self::BindingDowngrade | Self::BindingMismatch => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::WrongPassword => SqlState::INVALID_PASSWORD,
            Self::TooManyIterations(_) | Self::KeysDoNotFit { .. } | Self::Refused(_) | Self::ServerSignature => {
                SqlState::INVALID_PASSWORD
            }
        }
    }
}

macro_rules! secret_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name([u8; KEY_LEN]);

        impl $name {
            /// Takes the bytes over.
            #[must_use]
            pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
                Self(bytes)
            }

            /// The bytes. Whoever copies them wipes the copy.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.zeroize();
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

secret_key! {
    /// Logs in as the user (RFC 5802 section 3). As good as the password towards every server with the same verifier.
    ClientKey
}
secret_key! {
    /// Proves to a client that one knows the user's verifier (RFC 5802 section 3).
    ServerKey
}

impl ClientKey {
    fn stored_key(&self) -> [u8; KEY_LEN] {
        sha256(&[&self.0])
    }
}

/// What a password became for one salt and iteration count: enough to log in wherever the verifier is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Of the password, or recovered from a client's proof.
    pub client_key: ClientKey,
    /// Checks the server's signature.
    pub server_key: ServerKey,
    /// What the keys were derived with.
    pub salt: Vec<u8>,
    /// What the keys were derived with.
    pub iterations: u32,
}

impl Keys {
    /// Derives keys from a password, as [`derive`].
    #[must_use]
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let (client_key, server_key) = derive(password, salt, iterations);
        Self { client_key, server_key, salt: salt.to_vec(), iterations }
    }
}

/// What one logs in with.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// A password. Every use costs the server's iteration count of hashing: cache [`Keys::derive`] instead.
    Password(&'a [u8]),
    /// Keys, which cost nothing and fit one salt and iteration count only.
    Keys(&'a Keys),
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(…)",
            Self::Keys(_) => "Keys(…)",
        })
    }
}

/// Derives a password's keys (RFC 5802 section 3). Costs `iterations` rounds of HMAC, about 0.3 µs each: do it once per
/// (salt, iterations), and not on a worker's thread if there are many.
#[must_use]
pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> (ClientKey, ServerKey) {
    let prepared = prepare(password);
    let mut salted = Zeroizing::new([0; KEY_LEN]);
    pbkdf2::pbkdf2_hmac::<Sha256>(&prepared, salt, iterations.max(1), salted.as_mut_slice());
    (ClientKey(hmac(&salted, &[b"Client Key"])), ServerKey(hmac(&salted, &[b"Server Key"])))
}

/// SASLprep (RFC 4013); a password that it forbids, or that is not UTF-8, is taken as it is (`pg_saslprep()` and its callers).
fn prepare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    Zeroizing::new(prepared.map_or_else(|| password.to_vec(), |text| text.into_owned().into_bytes()))
}

fn sha256(parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut digest = Sha256::new();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize().into()
}

/// HMAC with a key of exactly our length: zero-padded to a block, which is what HMAC does with a short key, so that
/// no length can be wrong.
fn hmac(key: &[u8; KEY_LEN], parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut block = Zeroizing::new([0; 64]);
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<Sha256>::new(&(*block).into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn xor(mut left: [u8; KEY_LEN], right: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    left.iter_mut().zip(right).for_each(|(l, r)| *l ^= r);
    left
}

fn decode_key(text: &str) -> Option<[u8; KEY_LEN]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// A message is bounded, UTF-8 and free of zero bytes before anything looks into it.
fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::TooLong);
    }
    match std::str::from_utf8(message) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(ScramError::Malformed("not text")),
    }
}

/// Reads attributes in the order the grammar gives them: `x=value,y=value`.
struct Attributes<'a>(Option<&'a str>);

impl<'a> Attributes<'a> {
    const fn new(text: &'a str) -> Self {
        Self(Some(text))
    }

    /// The value of the attribute that must come now.
    fn required(&mut self, name: char, what: &'static str) -> Result<&'a str, ScramError> {
        match self.any()? {
            Some(('m', _)) if name != 'm' => Err(ScramError::UnsupportedExtension),
            Some((found, value)) if found == name => Ok(value),
            _ => Err(ScramError::Malformed(what)),
        }
    }

    /// Whatever comes now.
    fn any(&mut self) -> Result<Option<(char, &'a str)>, ScramError> {
        let Some(rest) = self.0 else { return Ok(None) };
        let (attribute, rest) = match rest.split_once(',') {
            Some((attribute, rest)) => (attribute, Some(rest)),
            None => (rest, None),
        };
        self.0 = rest;
        match attribute.split_once('=') {
            Some((name, value)) => match (name.as_bytes(), name.chars().next()) {
                ([b'a'..=b'z' | b'A'..=b'Z'], Some(name)) => Ok(Some((name, value))),
                _ => Err(ScramError::Malformed("attribute name")),
            },
            None => Err(ScramError::Malformed("attribute without value")),
        }
    }

    /// Optional extensions may follow and are ignored, as the RFC asks; a second `m=` is not optional.
    fn end(mut self) -> Result<(), ScramError> {
        while let Some((name, _)) = self.any()? {
            if name == 'm' {
                return Err(ScramError::UnsupportedExtension);
            }
        }
        Ok(())
    }
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b',')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
