//! Proving who the client is by its password, without ever seeing it: SCRAM-SHA-256, bound to the TLS connection where the
//! client can, and md5 for those whose stored secret is md5's.
//!
//! A user who does not exist, has no password, or has one of the other kind gets the same challenge and the same refusal
//! as one who mistyped, after the same steps (PostgreSQL: SASL-AUTHENTICATION, `CheckPWChallengeAuth()`).

use std::net::IpAddr;

use super::Refusal;
use super::admission::Visit;
use super::intake::Intake;
use crate::catalog::{Ordinary, RoleSecret};
use crate::net::stream::Stream;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_header, split_cstr};
use crate::protocol::md5::{md5_hash, md5_matches};
use crate::protocol::messages;
use crate::protocol::scram::{self, Binding, ScramError, ServerExchange, Verifier};
use crate::proxy::error::ClientError;
use crate::proxy::secrets::Expected;

/// The largest answer of a client that is not known yet. libpq's are below 200 bytes.
const ANSWER_MAX: u32 = 2_048;

/// How a password is to be proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// By SCRAM-SHA-256.
    Scram,
    /// As the stored secret allows: md5 for md5's, SCRAM for all others.
    AsStored,
}

/// Runs the exchange up to its last message, which is the answer: it travels with AuthenticationOk. What the proof shows
/// of the user's key logs in to servers later.
///
/// # Errors
/// [`ClientError::WrongPassword`] for everything that a mistyped password could have been too, and
/// [`ClientError::PasswordsUnreadable`] for the same while the cluster cannot be asked.
pub async fn prove(visit: &mut Visit<'_>, from: Option<IpAddr>, wants: Wants) -> Result<Vec<u8>, Refusal> {
    let (shared, cluster, user) = (visit.shared, visit.cluster, &visit.claim.user);
    let Expected { secret, blind } = shared.expected(cluster, user, from).await;
    let by_md5 = wants == Wants::AsStored
        && match &secret {
            RoleSecret::Md5(_) => true,
            RoleSecret::Scram(_) => false,
            RoleSecret::None => cluster.is_some_and(|cluster| shared.catalog.ordinary(cluster) == Ordinary::Md5),
        };
    let outcome = match (by_md5, secret) {
        (true, RoleSecret::Md5(hash)) => md5(visit, hash.reveal(), true).await,
        (true, _) => md5(visit, &md5_hash(user.as_bytes(), &rand::random::<[u8; 16]>()), false).await,
        (false, RoleSecret::Scram(verifier)) => scram(visit, verifier, true).await,
        (false, _) => scram(visit, shared.mock_verifier(cluster, user), false).await,
    };
    if let Some(cluster) = cluster {
        match &outcome {
            Ok(_) => shared.note_proof(cluster, user, from),
            Err(_) => shared.note_failure(cluster, user, from),
        }
    }
    match outcome {
        Err(Refusal::Told(ClientError::WrongPassword(user))) if blind => {
            Err(ClientError::PasswordsUnreadable(user).into())
        }
        other => other,
    }
}

async fn scram(visit: &mut Visit<'_>, verifier: Verifier, real: bool) -> Result<Vec<u8>, Refusal> {
    let Visit { shared, cluster, claim, end_point, .. } = *visit;
    let mut mechanisms = Vec::new();
    if end_point.is_some() {
        messages::cstr(&mut mechanisms, scram::MECHANISM_PLUS.as_bytes());
    }
    messages::cstr(&mut mechanisms, scram::MECHANISM.as_bytes());
    mechanisms.push(0);
    visit.stream.write_all(&request(10, &mechanisms)).await?;
    let wrong = || Refusal::Told(ClientError::WrongPassword(claim.user.to_string()));
    let answer = read_answer(visit.stream, visit.intake, ClientError::NotSasl).await?;
    let (mechanism, first) = initial_response(&answer).ok_or(ClientError::BadMessage)?;
    let binding = match (mechanism, end_point) {
        (scram::MECHANISM_PLUS, Some(hash)) => Binding::EndPoint(hash.to_vec()),
        (scram::MECHANISM, Some(_)) => Binding::Unused,
        (scram::MECHANISM, None) => Binding::Unavailable,
        _ => return Err(ClientError::NoSuchMechanism.into()),
    };
    let keys_of = verifier.clone();
    let (exchange, challenge) =
        ServerExchange::start(first, verifier, &crate::proxy::nonce(), binding).map_err(ClientError::Scram)?;
    visit.stream.write_all(&request(11, &challenge)).await?;
    let answer = read_answer(visit.stream, visit.intake, ClientError::NotSasl).await?;
    match exchange.finish(&answer) {
        Ok((last, client_key)) if real => {
            if let Some(cluster) = cluster {
                shared.remember_keys(cluster, &claim.user, keys_of.keys(client_key));
            }
            Ok(request(12, &last))
        }
        Ok(_) | Err(ScramError::WrongPassword) => Err(wrong()),
        Err(error) => Err(ClientError::Scram(error).into()),
    }
}

/// `hash` is what the catalogue would hold.
async fn md5(visit: &mut Visit<'_>, hash: &str, real: bool) -> Result<Vec<u8>, Refusal> {
    let salt: [u8; 4] = rand::random();
    visit.stream.write_all(&request(5, &salt)).await?;
    let answer = read_answer(visit.stream, visit.intake, ClientError::NotAPassword).await?;
    let user = &visit.claim.user;
    let (given, rest) = split_cstr(&answer).ok_or(ClientError::BadMessage)?;
    let right = md5_matches(user.as_bytes(), hash.as_bytes(), salt, given);
    if right && real && rest.is_empty() {
        Ok(Vec::new())
    } else {
        Err(ClientError::WrongPassword(user.to_string()).into())
    }
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

/// Reads a message of type `p`; another is an error of this kind.
async fn read_answer(
    stream: &mut Stream,
    intake: &mut Intake,
    other: fn(u8) -> ClientError,
) -> Result<Vec<u8>, Refusal> {
    let header = intake.take(stream, HEADER_LEN).await?;
    match scan_header(&header).map_err(ClientError::from)? {
        Scan::Header { tag: b'p', body_len } if body_len <= ANSWER_MAX => {
            Ok(intake.take(stream, usize::try_from(body_len).unwrap_or(0)).await?)
        }
        Scan::Header { tag: b'p', .. } => Err(ClientError::AnswerTooLong.into()),
        Scan::Header { tag: b'X', .. } => Err(Refusal::Gone),
        Scan::Header { tag, .. } => Err(other(tag).into()),
        Scan::More(_) => Err(Refusal::Gone),
    }
}

/// The mechanism that a SASLInitialResponse chose, and the client-first message in it.
fn initial_response(body: &[u8]) -> Option<(&str, &[u8])> {
    let (mechanism, rest) = split_cstr(body)?;
    let (length, data) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    (length == data.len()).then_some((std::str::from_utf8(mechanism).ok()?, data))
}
