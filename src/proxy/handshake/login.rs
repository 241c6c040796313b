//! Proving who the client is: SCRAM-SHA-256 against a verifier, without ever seeing a password.
//!
//! A user who does not exist, has no password, or has one that is not SCRAM gets the same challenge and the same refusal
//! as one who mistyped (PostgreSQL: SASL-AUTHENTICATION, `mock_scram_secret()`).

use std::sync::Arc;

use super::intake::Intake;
use super::{Claim, Refusal};
use crate::net::stream::Stream;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_header, split_cstr};
use crate::protocol::messages;
use crate::protocol::scram::{self, Binding, ScramError, ServerExchange};
use crate::proxy::error::ClientError;
use crate::proxy::shared::Shared;

/// The largest answer of a client that is not known yet. libpq's are below 200 bytes.
const ANSWER_MAX: u32 = 2_048;

/// Runs the exchange up to its last message, which is the answer: it travels with AuthenticationOk. What the proof shows
/// of the user's key logs in to servers later.
///
/// # Errors
/// [`ClientError::WrongPassword`] for everything that a mistyped password could have been too.
pub async fn scram(
    shared: &Arc<Shared>,
    stream: &mut Stream,
    intake: &mut Intake,
    cluster: Option<&Arc<str>>,
    claim: &Claim,
) -> Result<Vec<u8>, Refusal> {
    let (mut verifier, mut real) = shared.verifier(cluster.map(AsRef::as_ref), &claim.user);
    if !real && let Some(cluster) = cluster {
        // a role made since the last look; the catalogue bounds how often this asks
        if shared.catalog.refresh(cluster).await.is_ok() {
            (verifier, real) = shared.verifier(Some(cluster), &claim.user);
        }
    }
    let mechanisms = [scram::MECHANISM.as_bytes(), b"\0\0"].concat();
    stream.write_all(&request(10, &mechanisms)).await?;
    let answer = read_answer(stream, intake).await?;
    let first = initial_response(&answer).ok_or_else(|| malformed("malformed SASLInitialResponse"))?;
    let keys_of = verifier.clone();
    let (exchange, challenge) =
        ServerExchange::start(first, verifier, &crate::proxy::nonce(), Binding::Unavailable).map_err(sasl)?;
    stream.write_all(&request(11, &challenge)).await?;
    let answer = read_answer(stream, intake).await?;
    match exchange.finish(&answer) {
        Ok((last, client_key)) if real => {
            if let Some(cluster) = cluster {
                shared.remember_keys(cluster, &claim.user, keys_of.keys(client_key));
            }
            Ok(request(12, &last))
        }
        Ok(_) | Err(ScramError::WrongPassword) => {
            if let Some(cluster) = cluster {
                // perhaps the password has changed: the next try should find the new one
                let (shared, cluster) = (Arc::clone(shared), Arc::clone(cluster));
                tokio::task::spawn_local(async move {
                    let _ = shared.catalog.refresh(&cluster).await; // it says in the log why it failed
                });
            }
            Err(ClientError::WrongPassword(claim.user.to_string()).into())
        }
        Err(error) => Err(sasl(error).into()),
    }
}

fn sasl(error: ScramError) -> ClientError {
    ClientError::Sasl(error.to_string())
}

fn malformed(what: &str) -> ClientError {
    ClientError::Sasl(what.to_owned())
}

/// An authentication request of this kind.
fn request(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    messages::message(&mut out, b'R', |body| {
        body.extend(kind.to_be_bytes());
        body.extend(data);
    });
    out
}

/// Reads a message of type `p`.
async fn read_answer(stream: &mut Stream, intake: &mut Intake) -> Result<Vec<u8>, Refusal> {
    let header = intake.take(stream, HEADER_LEN).await?;
    match scan_header(&header).map_err(ClientError::from)? {
        Scan::Header { tag: b'p', body_len } if body_len <= ANSWER_MAX => {
            Ok(intake.take(stream, usize::try_from(body_len).unwrap_or(0)).await?)
        }
        Scan::Header { tag: b'p', .. } => Err(malformed("answer too long").into()),
        Scan::Header { tag: b'X', .. } => Err(Refusal::Gone),
        Scan::Header { tag, .. } => Err(ClientError::NotAPassword(tag).into()),
        Scan::More(_) => Err(Refusal::Gone),
    }
}

/// The client-first message in a SASLInitialResponse that chose our mechanism.
fn initial_response(body: &[u8]) -> Option<&[u8]> {
    let (mechanism, rest) = split_cstr(body)?;
    let (length, data) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    (mechanism == scram::MECHANISM.as_bytes() && length == data.len()).then_some(data)
}
