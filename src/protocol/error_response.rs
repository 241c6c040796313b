//! ErrorResponse and NoticeResponse: writing ours, and reading the few fields of a server's that decide something.
//!
//! Ours carry no routine, file or line: some drivers re-run statements by routine name (PostgreSQL:
//! PROTOCOL-ERROR-FIELDS).

use super::frame::split_cstr;
use super::messages::{cstr, message};
use crate::pg::SqlState;

/// Whether the session goes on after the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The request failed, the session goes on.
    Error,
    /// The session ends.
    Fatal,
}

impl Severity {
    const fn word(self) -> &'static [u8] {
        match self {
            Self::Error => b"ERROR",
            Self::Fatal => b"FATAL",
        }
    }
}

/// Appends an ErrorResponse.
pub fn error(
    out: &mut Vec<u8>,
    severity: Severity,
    code: SqlState,
    text: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    fields(out, b'E', severity.word(), code, text, detail, hint);
}

/// Appends a NoticeResponse of severity NOTICE.
pub fn notice(out: &mut Vec<u8>, code: SqlState, text: &str) {
    fields(out, b'N', b"NOTICE", code, text, None, None);
}

fn fields(
    out: &mut Vec<u8>,
    tag: u8,
    severity: &[u8],
    code: SqlState,
    text: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    let field = |b: &mut Vec<u8>, key: u8, value: &[u8]| {
        b.push(key);
        // a zero byte inside a text would end it early and shift every field behind it
        b.extend(value.iter().map(|&byte| if byte == 0 { b'?' } else { byte }));
        b.push(0);
    };
    message(out, tag, |b| {
        field(b, b'S', severity);
        field(b, b'V', severity);
        field(b, b'C', code.as_bytes());
        field(b, b'M', text.as_bytes());
        if let Some(detail) = detail {
            field(b, b'D', detail.as_bytes());
        }
        if let Some(hint) = hint {
            field(b, b'H', hint.as_bytes());
        }
        b.push(0);
    });
}

/// Appends the ErrorResponse with these fields, with `from` in its primary message replaced by `to`.
pub fn reworded(out: &mut Vec<u8>, mut fields: &[u8], from: &[u8], to: &[u8]) {
    message(out, b'E', |body| {
        while let Some((&key, rest)) = fields.split_first()
            && key != 0
            && let Some((value, rest)) = split_cstr(rest)
        {
            body.push(key);
            match memchr::memmem::find(value, from).filter(|_| key == b'M') {
                Some(at) => {
                    body.extend(value.get(..at).unwrap_or_default());
                    body.extend(to);
                    cstr(body, value.get(at + from.len()..).unwrap_or_default());
                }
                None => cstr(body, value),
            }
            fields = rest;
        }
        body.push(0);
    });
}

/// What a server's error says that howdah acts on. Texts stay bytes: they are in the session's encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// Whether the server ends the session (`FATAL` or `PANIC`).
    pub fatal: bool,
    /// Its SQLSTATE; `None` when it sent none or nonsense.
    pub code: Option<SqlState>,
    /// The primary message.
    pub message: Vec<u8>,
    /// A prepared statement would return other columns than when it was parsed. The SQLSTATE (`0A000`) says less.
    pub stale_plan: bool,
    /// A commit does not wait for its synchronous standbys any longer.
    pub commit_alone: bool,
}

impl ServerError {
    /// Reads the body of an ErrorResponse, or as much of it as is here.
    #[must_use]
    pub fn read(mut body: &[u8]) -> Self {
        let mut error = Self { fatal: false, code: None, message: Vec::new(), stale_plan: false, commit_alone: false };
        while let Some((&key, rest)) = body.split_first()
            && key != 0
            && let Some((value, rest)) = split_cstr(rest)
        {
            match key {
                b'V' => error.fatal = value == b"FATAL" || value == b"PANIC",
                b'C' => error.code = SqlState::from_wire(value),
                b'M' => error.message = value.to_vec(),
                b'R' => {
                    error.stale_plan = value == b"RevalidateCachedQuery";
                    error.commit_alone = value == b"SyncRepWaitForLSN";
                }
                _ => {}
            }
            body = rest;
        }
        error
    }

    /// The message for people and logs.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.message).into_owned()
    }
}

/// Appends the body of a server's error again, as a whole message of the given severity. Everything but the severity
/// stays as the server wrote it.
pub fn relabel(out: &mut Vec<u8>, severity: Severity, mut body: &[u8]) {
    message(out, b'E', |b| {
        while let Some((&key, rest)) = body.split_first()
            && key != 0
            && let Some((value, rest)) = split_cstr(rest)
        {
            b.push(key);
            cstr(b, if key == b'S' || key == b'V' { severity.word() } else { value });
            body = rest;
        }
        b.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = Vec::new();
        error(&mut out, Severity::Fatal, SqlState::ADMIN_SHUTDOWN, "pooler is shutting down", None, Some("come back"));
        let read = ServerError::read(out.get(5..).unwrap_or_default());
        assert!(read.fatal);
        assert_eq!(read.code, Some(SqlState::ADMIN_SHUTDOWN));
        assert_eq!(read.text(), "pooler is shutting down");
    }

    #[test]
    fn an_error_without_sqlstate_or_end_is_read_as_far_as_it_goes() {
        let read = ServerError::read(b"SERROR\0Mbroken\0Hcut of");
        assert_eq!(
            read,
            ServerError {
                fatal: false,
                code: None,
                message: b"broken".to_vec(),
                stale_plan: false,
                commit_alone: false
            }
        );
    }

    #[test]
    fn a_zero_byte_in_a_text_does_not_shift_the_fields() {
        let mut out = Vec::new();
        error(&mut out, Severity::Error, SqlState::INTERNAL_ERROR, "a\0b", None, None);
        assert_eq!(ServerError::read(out.get(5..).unwrap_or_default()).text(), "a?b");
    }
}
