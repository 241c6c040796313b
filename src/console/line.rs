//! The line to a console's client: messages in, messages out, and what interrupts either.
//!
//! The messages are pgwire's. Frames are cut here before pgwire sees them: it believes no length and panics on bodies that are too
//! short, so each is read as a frame of its own, of at most [`FRAME_MAX`] bytes, and what panics is a broken message.
//!
//! Who does not take its answer is disconnected after [`STALL_MAX`], and an operator's KILL_CLIENT or a shutdown reaches it before.
//!
//! Not here: what is said (`talk`).

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pgwire::messages::response::{CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage};

use super::refusal::ConsoleError;
use crate::net::stream::Stream;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_header, split_cstr};
use crate::proxy::client::{ClientHandle, Signal};
use crate::proxy::error::ClientError;
use crate::proxy::sounding::{Level, Levels};

/// The longest message that is read, in bytes. Commands are short.
pub(super) const FRAME_MAX: usize = 64 * 1_024;
/// How much of an answer is gathered before it is sent, in bytes.
pub(super) const GATHERED_MAX: usize = 64 * 1_024;
/// How long a client may take nothing of its answer.
const STALL_MAX: Duration = Duration::from_secs(60);
/// What last words may take.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// Why a conversation ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client said goodbye, or went without.
    Left,
    /// The operator, or a shutdown.
    Told(ClientError),
    /// The client does not speak the protocol.
    Broken(ConsoleError),
}

/// When a shutdown that lets clients finish ends a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// Where it stands.
    Now,
    /// Not before what it does is done.
    Later,
}

/// A message of the client's.
pub(super) enum Said {
    /// One that can be read.
    Message(PgWireFrontendMessage),
    /// A command whose text is none; `whole` when it is a request by itself.
    NoText { whole: bool },
}

/// Both directions.
pub(super) struct Line {
    pub(super) handle: Arc<ClientHandle>,
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    context: DecodeContext,
    /// Nothing can follow half a message, not even an error.
    half_sent: bool,
}

impl Line {
    /// To this client, which has sent something behind its login, and is owed a greeting.
    pub(super) fn new(stream: Stream, handle: Arc<ClientHandle>, sent: &[u8], greeting: BytesMut) -> Self {
        let mut context = DecodeContext::default();
        (context.awaiting_frontend_ssl, context.awaiting_frontend_startup) = (false, false);
        Self { handle, stream, input: BytesMut::from(sent), output: greeting, context, half_sent: false }
    }

    /// The next whole message that has come.
    pub(super) fn next(&mut self) -> Result<Option<Said>, End> {
        let broken = || End::Broken(ConsoleError::BadPacket);
        let (tag, total) = match scan_header(&self.input).map_err(|_| broken())? {
            Scan::Header { tag, body_len } => {
                (tag, HEADER_LEN.saturating_add(usize::try_from(body_len).unwrap_or(usize::MAX)))
            }
            Scan::More(_) => return Ok(None),
        };
        if total > FRAME_MAX {
            return Err(End::Broken(ConsoleError::TooLong));
        }
        if self.input.len() < total {
            return Ok(None);
        }
        let mut frame = self.input.split_to(total);
        // pgwire would put something else in the place of what is no text
        let is_text = is_text(tag, frame.get(HEADER_LEN..).unwrap_or_default());
        let decode = || PgWireFrontendMessage::decode(&mut frame, &self.context);
        match catch_unwind(AssertUnwindSafe(decode)) {
            Ok(Ok(Some(_))) if !is_text => Ok(Some(Said::NoText { whole: tag == b'Q' })),
            Ok(Ok(Some(message))) if frame.is_empty() => Ok(Some(Said::Message(message))),
            _ => Err(broken()),
        }
    }

    /// Waits for more of the client, or for the end.
    pub(super) async fn read(&mut self) -> Result<(), End> {
        poll_fn(|cx| {
            self.heed(Goodbye::Now)?;
            self.handle.clear(Signal::Cancel); // there is nothing to cancel
            self.poll_fill(cx)
        })
        .await
    }

    /// Ready when the client must not be waited for any more. A console that is not there any more does not wait.
    pub(super) fn poll_watch(&mut self, cx: &mut Context<'_>, goodbye: Goodbye) -> Poll<End> {
        if let Err(end) = self.heed(goodbye) {
            return Poll::Ready(end);
        }
        while self.input.len() < FRAME_MAX {
            match ready!(self.poll_fill(cx)) {
                Ok(()) => {}
                Err(end) => return Poll::Ready(end),
            }
        }
        Poll::Pending
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut chunk = [0; 4_096];
        match ready!(self.stream.poll_read(cx, &mut chunk)) {
            Ok(read) if read > 0 => {
                self.input.extend_from_slice(chunk.get(..read).unwrap_or_default());
                Poll::Ready(Ok(()))
            }
            Ok(_) | Err(_) => Poll::Ready(Err(End::Left)),
        }
    }

    /// What somebody else wants of this console.
    fn heed(&self, goodbye: Goodbye) -> Result<(), End> {
        self.handle.tell(|| Levels {
            client: Level { received: self.input.len(), unsent: self.output.len(), ..Level::default() },
            server: Level::default(),
        });
        match self.handle.ends_now() {
            Some(reason) => Err(End::Told(reason)),
            None if goodbye == Goodbye::Now && self.handle.has(Signal::Goodbye) => {
                Err(End::Told(ClientError::ShuttingDown))
            }
            None => Ok(()),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.output.len() > GATHERED_MAX
    }

    /// Sends all that is owed.
    pub(super) async fn send(&mut self) -> Result<(), End> {
        let bytes = self.output.split();
        self.send_all(bytes).await
    }

    /// Sends messages that have been put together already, behind what is owed.
    pub(super) async fn send_lines(&mut self, lines: BytesMut) -> Result<(), End> {
        if self.output.len() + lines.len() <= GATHERED_MAX {
            self.output.extend_from_slice(&lines);
            return Ok(());
        }
        self.send().await?;
        self.send_all(lines).await
    }

    async fn send_all(&mut self, mut bytes: BytesMut) -> Result<(), End> {
        self.half_sent = true;
        while !bytes.is_empty() {
            let sending = poll_fn(|cx| {
                self.heed(Goodbye::Later)?;
                match ready!(self.stream.poll_write(cx, bytes.get(..GATHERED_MAX).unwrap_or(&bytes))) {
                    Ok(taken) if taken > 0 => Poll::Ready(Ok(taken)),
                    Ok(_) | Err(_) => Poll::Ready(Err(End::Left)),
                }
            });
            let taken = tokio::time::timeout(STALL_MAX, sending).await;
            bytes.advance(taken.unwrap_or(Err(End::Told(ClientError::SlowReader)))?);
        }
        self.half_sent = false;
        let flushed = tokio::time::timeout(STALL_MAX, poll_fn(|cx| self.stream.poll_flush(cx))).await;
        flushed.map_err(|_| End::Told(ClientError::SlowReader))?.map_err(|_| End::Left)
    }

    /// Sends what is left, if the client takes it, and closes.
    pub(super) async fn close(mut self) {
        if self.half_sent {
            return;
        }
        let last = async {
            let _ = self.stream.write_all(&self.output).await;
            self.stream.close().await;
        };
        let _ = tokio::time::timeout(GOODBYE_MAX, last).await;
    }

    pub(super) fn put(&mut self, message: &PgWireBackendMessage) {
        put(&mut self.output, message);
    }

    pub(super) fn put_tag(&mut self, tag: &str) {
        self.put(&PgWireBackendMessage::CommandComplete(CommandComplete::new(tag.to_owned())));
    }

    pub(super) fn put_ready(&mut self) {
        self.put(&PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(TransactionStatus::Idle)));
    }

    pub(super) fn put_error(&mut self, error: &ConsoleError) {
        self.put_refusal("ERROR", &error.to_string(), error.sqlstate().as_bytes(), error.hint());
    }

    /// The last words.
    pub(super) fn put_end(&mut self, end: &End) {
        match end {
            End::Left => {}
            End::Told(error) => self.put_refusal("FATAL", &error.to_string(), error.code().as_bytes(), None),
            End::Broken(error) => self.put_refusal("FATAL", &error.to_string(), error.sqlstate().as_bytes(), None),
        }
    }

    fn put_refusal(&mut self, severity: &str, text: &str, code: &[u8], hint: Option<&str>) {
        let clean = |text: &str| text.replace('\0', "?");
        let code = String::from_utf8_lossy(code).into_owned();
        let mut fields = vec![(b'S', severity.to_owned()), (b'V', severity.to_owned()), (b'C', code)];
        fields.push((b'M', clean(text)));
        fields.extend(hint.map(|hint| (b'H', clean(hint))));
        self.put(&PgWireBackendMessage::ErrorResponse(ErrorResponse::new(fields)));
    }

    pub(super) fn put_notice(&mut self, text: &str, detail: Option<&str>) {
        let severity = || "NOTICE".to_owned();
        let mut fields = vec![(b'S', severity()), (b'V', severity()), (b'C', "00000".to_owned())];
        fields.push((b'M', text.to_owned()));
        fields.extend(detail.map(|detail| (b'D', detail.to_owned())));
        self.put(&PgWireBackendMessage::NoticeResponse(NoticeResponse::new(fields)));
    }
}

pub(super) fn put(output: &mut BytesMut, message: &PgWireBackendMessage) {
    // what cannot be encoded is too long for any client; there is none of it here
    let _ = message.encode(output);
}

/// Whether the texts of a Query or a Parse are UTF-8, as far as there are any.
fn is_text(tag: u8, body: &[u8]) -> bool {
    let is_utf8 = |text: &[u8]| std::str::from_utf8(text).is_ok();
    match tag {
        b'Q' => is_utf8(body),
        b'P' => split_cstr(body)
            .is_none_or(|(name, rest)| is_utf8(name) && split_cstr(rest).is_none_or(|(query, _)| is_utf8(query))),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_commands_are_utf8_and_what_is_binary_beside_them_is_not_looked_at() {
        assert!(is_text(b'Q', b"SHOW POOLS\0") && is_text(b'Q', "DISABLE \"bücher\"\0".as_bytes()));
        assert!(!is_text(b'Q', b"DISABLE \"\xff\"\0"));
        assert!(is_text(b'P', b"s\0SHOW POOLS\0\0\x01\x00\x00\x04\xa0"), "the number of a type");
        assert!(!is_text(b'P', b"\xff\0SHOW POOLS\0\0\0") && !is_text(b'P', b"s\0\xfe\0\0\0"));
        assert!(is_text(b'B', b"\xff\0") && is_text(b'P', b"") && is_text(b'P', b"s"));
    }
}
