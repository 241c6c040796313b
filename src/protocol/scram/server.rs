//! The side clients log in to: checks a proof against a verifier and keeps the key that the proof reveals.
//!
//! Not here: what the client hears when it fails (`proxy/handshake`). Source: `auth-scram.c`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::{
    Attributes, BINDING_TYPE, Binding, ClientKey, ScramError, Verifier, decode_key, hmac, is_nonce, text, xor,
};

/// An exchange that waits for client-final.
#[derive(Debug)]
pub struct ServerExchange {
    verifier: Verifier,
    /// Whether the client has chosen `-PLUS`.
    bound: bool,
    /// The `c=` the client must send.
    echo: String,
    /// The client's and ours.
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

impl ServerExchange {
    /// Reads client-first and answers with server-first.
    ///
    /// The user in the message is ignored, as in PostgreSQL: who wants in stands in the startup packet. `server_nonce`
    /// must be fresh, random and printable (PostgreSQL: 18 bytes in base64).
    ///
    /// # Errors
    /// See [`ScramError`]; the exchange is over.
    pub fn start(
        client_first: &[u8],
        verifier: Verifier,
        server_nonce: &str,
        binding: Binding,
    ) -> Result<(Self, Vec<u8>), ScramError> {
        let message = text(client_first)?;
        let (flag, rest) = message.split_once(',').ok_or(ScramError::Malformed("gs2 header"))?;
        let (identity, bare) = rest.split_once(',').ok_or(ScramError::Malformed("gs2 header"))?;
        check_flag(flag, &binding)?;
        match identity {
            "" => (),
            _ if identity.starts_with("a=") => return Err(ScramError::AuthorizationIdentity),
            _ => return Err(ScramError::Malformed("gs2 header")),
        }
        let mut attributes = Attributes::new(bare);
        attributes.required('n', "user name")?;
        let client_nonce = attributes.required('r', "client nonce")?;
        attributes.end()?;
        if !is_nonce(client_nonce) {
            return Err(ScramError::NonceCharacters);
        }
        if !is_nonce(server_nonce) {
            return Err(ScramError::Nonce);
        }
        let nonce = format!("{client_nonce}{server_nonce}");
        let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        let answer = server_first.clone().into_bytes();
        let echo = binding.echo(&format!("{flag},{identity},"));
        let bound = matches!(binding, Binding::EndPoint(_));
        Ok((Self { verifier, bound, echo, nonce, client_first_bare: bare.to_owned(), server_first }, answer))
    }

    /// Reads client-final. On success: server-final, and the key that logs in to PostgreSQL as this user
    /// ([`Verifier::keys`]).
    ///
    /// # Errors
    /// [`ScramError::WrongPassword`] when the proof does not fit, [`ScramError::BindingMismatch`] when the client is bound
    /// to another channel, and the rest of [`ScramError`] for what is not SCRAM.
    pub fn finish(self, client_final: &[u8]) -> Result<(Vec<u8>, ClientKey), ScramError> {
        let message = text(client_final)?;
        // The proof is the last attribute and no value holds a comma, so nothing can hide behind it.
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed("proof"))?;
        let mut attributes = Attributes::new(without_proof);
        let echo = attributes.required('c', "channel binding")?;
        let nonce = attributes.required('r', "nonce")?;
        attributes.end()?;
        if echo != self.echo {
            // without a channel to be bound to it is only nonsense
            return Err(if self.bound { ScramError::BindingMismatch } else { ScramError::UnexpectedBinding });
        }
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let proof = decode_key(proof).ok_or(ScramError::Malformed("proof"))?;

        let auth_message =
            [self.client_first_bare.as_bytes(), b",", self.server_first.as_bytes(), b",", without_proof.as_bytes()];
        let client_key = ClientKey::new(xor(proof, &hmac(&self.verifier.stored_key, &auth_message)));
        if !bool::from(client_key.stored_key().ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::WrongPassword);
        }
        let signature = hmac(&self.verifier.server_key, &auth_message);
        Ok((format!("v={}", STANDARD.encode(signature)).into_bytes(), client_key))
    }
}

/// The client's flag against what was offered and chosen (RFC 5802 section 6).
fn check_flag(flag: &str, binding: &Binding) -> Result<(), ScramError> {
    let bound_to = match (flag, flag.strip_prefix("p=")) {
        ("n" | "y", _) => None,
        (_, Some(kind)) => Some(kind),
        _ => return Err(ScramError::Malformed("channel binding flag")),
    };
    match (binding, bound_to) {
        (Binding::EndPoint(_), Some(BINDING_TYPE)) | (Binding::Unavailable, None) => Ok(()),
        (Binding::EndPoint(_), Some(_)) => Err(ScramError::UnsupportedBindingType),
        (Binding::EndPoint(_), None) | (Binding::Unavailable | Binding::Unused, Some(_)) => {
            Err(ScramError::BindingFlag)
        }
        (Binding::Unused, None) if flag == "y" => Err(ScramError::BindingDowngrade),
        (Binding::Unused, None) => Ok(()),
    }
}
