//! The md5 challenge and response, for users whose password is still stored that way.
//!
//! Not here: whether md5 is allowed for anybody (HBA). Source: `PROTOCOL-FLOW-START-UP`, AuthenticationMD5Password. md5
//! is broken as a hash and a stored `md5…` is as good as the password; PostgreSQL 18 calls it deprecated.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// The answer to AuthenticationMD5Password: `md5` and 32 hexadecimal digits, without the closing zero byte.
///
/// `password` is the password itself or a stored `md5…` hash of it, which works as well (PgBouncer's `auth_file` too).
#[must_use]
pub fn md5_response(user: &[u8], password: &[u8], salt: [u8; 4]) -> String {
    let stored =
        if is_md5_hash(password) { String::from_utf8_lossy(password).into_owned() } else { md5_hash(user, password) };
    let inner = stored.strip_prefix("md5").unwrap_or_default();
    format!("md5{}", hex(&[inner.as_bytes(), &salt]))
}

/// What `pg_authid.rolpassword` holds for a password under `password_encryption = md5`.
#[must_use]
pub fn md5_hash(user: &[u8], password: &[u8]) -> String {
    format!("md5{}", hex(&[password, user]))
}

/// Whether `stored` is an md5 hash by the test PostgreSQL uses (`get_password_type()`).
#[must_use]
pub fn is_md5_hash(stored: &[u8]) -> bool {
    let digits = stored.strip_prefix(b"md5").unwrap_or_default();
    digits.len() == 32 && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `answer` is the right one, in constant time. `password` as in [`md5_response`].
#[must_use]
pub fn md5_matches(user: &[u8], password: &[u8], salt: [u8; 4], answer: &[u8]) -> bool {
    md5_response(user, password, salt).as_bytes().ct_eq(answer).into()
}

fn hex(parts: &[&[u8]]) -> String {
    let mut digest = Md5::new();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_one_postgres_protocol_gives() {
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        let ours = md5_response(b"md5_user", b"password", salt);
        assert_eq!(ours, "md562af4dd09bbb41884907a838a3233294");
        assert_eq!(ours, postgres_protocol::authentication::md5_hash(b"md5_user", b"password", salt));
    }

    #[test]
    fn a_stored_hash_answers_like_the_password() {
        let stored = md5_hash(b"u", b"secret");
        assert!(is_md5_hash(stored.as_bytes()));
        assert_eq!(md5_response(b"u", stored.as_bytes(), [1, 2, 3, 4]), md5_response(b"u", b"secret", [1, 2, 3, 4]));
        for not_a_hash in [&b"md5"[..], b"md5X2af4dd09bbb41884907a838a3233294", b"md562AF4DD09BBB41884907A838A3233294"]
        {
            assert!(!is_md5_hash(not_a_hash));
        }
    }

    #[test]
    fn only_the_right_answer_matches() {
        let answer = md5_response(b"u", b"secret", [1, 2, 3, 4]);
        assert!(md5_matches(b"u", b"secret", [1, 2, 3, 4], answer.as_bytes()));
        assert!(!md5_matches(b"u", b"secret", [1, 2, 3, 5], answer.as_bytes()));
        assert!(!md5_matches(b"v", b"secret", [1, 2, 3, 4], answer.as_bytes()));
        assert!(!md5_matches(b"u", b"secret", [1, 2, 3, 4], b""));
    }
}
