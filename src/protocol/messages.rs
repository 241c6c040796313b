//! The few messages howdah writes itself, appended to a buffer the caller owns (PostgreSQL: PROTOCOL-MESSAGE-FORMATS).
//!
//! Not here: errors (`error_response`), anything that is only passed on.

use super::startup;

/// `ParseComplete`, whole.
pub const PARSE_COMPLETE: [u8; 5] = [b'1', 0, 0, 0, 4];
/// BindComplete.
pub const BIND_COMPLETE: [u8; 5] = [b'2', 0, 0, 0, 4];
/// NoData.
pub const NO_DATA: [u8; 5] = [b'n', 0, 0, 0, 4];
/// CommandComplete of a BEGIN, and ReadyForQuery in the block.
pub const BEGUN: [u8; 17] = *b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T";
/// `CloseComplete`, whole.
pub const CLOSE_COMPLETE: [u8; 5] = [b'3', 0, 0, 0, 4];
/// `Sync`, whole.
pub const SYNC: [u8; 5] = [b'S', 0, 0, 0, 4];
/// `Flush`, whole.
pub const FLUSH: [u8; 5] = [b'H', 0, 0, 0, 4];
/// `Terminate`, whole.
pub const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];
/// `AuthenticationOk`, whole.
pub const AUTHENTICATION_OK: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];

/// Writes one message: the tag, a length, and whatever `body` appends.
pub fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - length_at).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(length_at..length_at + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends `text` and the zero byte that ends it.
pub fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

/// A header whose body the caller sends itself. `body_len` is without the length field.
pub fn header(out: &mut Vec<u8>, tag: u8, body_len: u32) {
    out.push(tag);
    out.extend_from_slice(&body_len.saturating_add(4).to_be_bytes());
}

/// `ReadyForQuery` with its status: `I`, `T` or `E`.
#[must_use]
pub const fn ready_for_query(status: u8) -> [u8; 6] {
    [b'Z', 0, 0, 0, 5, status]
}

/// `Query`.
pub fn query(out: &mut Vec<u8>, sql: &[u8]) {
    message(out, b'Q', |b| cstr(b, sql));
}

/// `Parse` without parameter types.
pub fn parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8]) {
    message(out, b'P', |b| {
        cstr(b, name);
        cstr(b, sql);
        b.extend_from_slice(&[0, 0]);
    });
}

/// `Bind` of the unnamed portal to `statement`, text parameters, text results.
pub fn bind(out: &mut Vec<u8>, statement: &[u8], values: &[&[u8]]) {
    message(out, b'B', |b| {
        cstr(b, b"");
        cstr(b, statement);
        b.extend_from_slice(&[0, 0]);
        b.extend_from_slice(&u16::try_from(values.len()).unwrap_or(u16::MAX).to_be_bytes());
        for value in values {
            b.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            b.extend_from_slice(value);
        }
        b.extend_from_slice(&[0, 0]);
    });
}

/// `Execute` of the unnamed portal, all rows.
pub fn execute(out: &mut Vec<u8>) {
    message(out, b'E', |b| b.extend_from_slice(&[0; 5]));
}

/// `Close` of a prepared statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    message(out, b'C', |b| {
        b.push(b'S');
        cstr(b, name);
    });
}

/// `ParameterStatus`.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    message(out, b'S', |b| {
        cstr(b, name);
        cstr(b, value);
    });
}

/// `BackendKeyData`.
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    message(out, b'K', |b| {
        b.extend_from_slice(&pid.to_be_bytes());
        b.extend_from_slice(secret);
    });
}

/// `CancelRequest`: no tag, as it is a connection's first message (PostgreSQL: PROTOCOL-FLOW-CANCELING-REQUESTS).
pub fn cancel_request(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    let length = u32::try_from(secret.len()).unwrap_or(0).saturating_add(12);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&80_877_102_u32.to_be_bytes());
    out.extend_from_slice(&pid.to_be_bytes());
    out.extend_from_slice(secret);
}

/// `StartupMessage` of protocol 3 and this minor version.
pub fn startup(out: &mut Vec<u8>, minor: u16, parameters: &[(&[u8], &[u8])]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&startup::MAJOR.to_be_bytes());
    out.extend_from_slice(&minor.to_be_bytes());
    for (name, value) in parameters {
        cstr(out, name);
        cstr(out, value);
    }
    out.push(0);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// `SASLInitialResponse` or `SASLResponse`/`PasswordMessage`: tag `p` and a body.
pub fn password(out: &mut Vec<u8>, body: &[u8]) {
    message(out, b'p', |b| b.extend_from_slice(body));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves_and_the_body() {
        let mut out = Vec::new();
        query(&mut out, b"select 1");
        assert_eq!(out, b"Q\0\0\0\x0dselect 1\0");
        out.clear();
        startup(&mut out, 0, &[(b"user", b"u")]);
        assert_eq!(out, b"\0\0\0\x10\0\x03\0\0user\0u\0\0");
    }
}
