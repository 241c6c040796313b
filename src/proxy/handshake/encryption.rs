//! TLS or not: what comes before a client's first packet (PostgreSQL: PROTOCOL-FLOW-SSL, PROTOCOL-FLOW-GSSAPI).
//!
//! Three ways in: a packet at once, a packet behind questions about encryption, or TLS from the first byte (libpq:
//! `sslnegotiation=direct`). Not here: whether a client without TLS may come in.

use super::intake::Intake;
use super::{ClientError, Refusal};
use crate::net::stream::{Socket, Stream};
use crate::net::tls;
use crate::protocol::startup::{self, Startup};
use crate::proxy::entrance::ListenerTls;

/// The first byte of a TLS handshake record. No packet begins with it: it would be 369 MB long.
const TLS_HANDSHAKE: u8 = 0x16;

/// Reads first packets until one is not a question about encryption. `None`: the peer is no client at all.
///
/// # Errors
/// [`Refusal`].
pub async fn first_packet(
    stream: &mut Stream,
    intake: &mut Intake,
    tls: Option<&ListenerTls>,
) -> Result<Option<Vec<u8>>, Refusal> {
    if let Some(tls) = tls
        && intake.look(stream).await? == TLS_HANDSHAKE
    {
        let heard = intake.take_all();
        shake_hands(stream, tls, &heard).await?;
        // Without ALPN nobody has said that PostgreSQL is meant: it might be another protocol's client, sent here by
        // somebody in between.
        if stream.alpn() != Some(tls::ALPN) {
            return Err(Refusal::NoTls("direct TLS without ALPN \"postgresql\"".to_owned()));
        }
    }
    let (mut asked_gss, mut asked_tls) = (false, false);
    loop {
        let length: [u8; 4] = intake.take(stream, 4).await?.try_into().map_err(|_| Refusal::Gone)?;
        // what is not even plausible gets no answer, as from PostgreSQL: it is a port scanner or another protocol
        let Ok(length) = startup::scan_length(&length) else { return Ok(None) };
        let packet = intake.take(stream, length).await?;
        match startup::parse(&packet) {
            Ok(Startup::Gss) if !asked_gss && !stream.is_tls() => {
                asked_gss = true;
                stream.write_all(b"N").await?;
            }
            Ok(Startup::Ssl) if !asked_tls && !stream.is_tls() => match tls {
                Some(tls) => {
                    // Bytes behind the request were written by somebody who had not seen the answer: refuse them
                    // rather than let them pass for encrypted ones (CVE-2021-23214).
                    if !intake.is_empty() || !stream.socket().is_silent() {
                        return Err(ClientError::PlaintextBeforeTls.into());
                    }
                    stream.write_all(b"S").await?;
                    shake_hands(stream, tls, &[]).await?;
                }
                None => {
                    asked_tls = true;
                    stream.write_all(b"N").await?;
                }
            },
            _ => return Ok(Some(packet)),
        }
    }
}

async fn shake_hands(stream: &mut Stream, tls: &ListenerTls, heard: &[u8]) -> Result<(), Refusal> {
    let Stream::Plain(socket) = std::mem::replace(stream, Stream::Plain(Socket::Closed)) else {
        return Err(Refusal::Gone);
    };
    let accepted = tls::accept(&tls.tls, socket, heard).await.map_err(|error| Refusal::NoTls(error.to_string()))?;
    *stream = Stream::Accepted(Box::new(accepted));
    Ok(())
}
