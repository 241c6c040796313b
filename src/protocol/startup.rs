//! The first packet of a connection: a request for encryption, a cancel, or a session's startup message.
//!
//! Not here: the SSLRequest's answer (`net`), what the parameters mean (`proxy/handshake`), who may connect (HBA). Text
//! stays bytes: its encoding is the database's, and nobody knows it yet.
//!
//! Relies on the caller to ask [`scan_length`] first and to hand over exactly that many bytes. Source: PostgreSQL's
//! `PROTOCOL-FLOW-START-UP`, `PROTOCOL-MESSAGE-FORMATS` and `ProcessStartupPacket()`.

use crate::pg::SqlState;

/// The largest packet PostgreSQL reads before it knows who is there, length word not counted
/// (`MAX_STARTUP_PACKET_LENGTH`).
pub const BODY_BYTES_MAX: usize = 10_000;
/// The only major protocol version spoken here.
pub const MAJOR: u16 = 3;
/// The newest minor version spoken here: 3.2, with cancel keys of any length.
pub const NEWEST_MINOR: u16 = 2;

const CODE_CANCEL: u32 = 80_877_102;
const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;
/// The smallest body: the protocol version alone.
const BODY_BYTES_MIN: usize = 4;
/// A cancel key is four bytes in protocol 3.0 and up to 256 in 3.2.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

/// What a stranger wants (`PROTOCOL-MESSAGE-FORMATS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    /// SSLRequest: answer one byte, then TLS or another first packet.
    Ssl,
    /// GSSENCRequest: answer one byte.
    Gss,
    /// CancelRequest: nothing is answered, ever.
    Cancel {
        /// The process id of the session's BackendKeyData.
        pid: i32,
        /// Its secret: 4 bytes, or up to 256 since protocol 3.2. Compare in constant time.
        secret: &'a [u8],
    },
    /// StartupMessage: a session is wanted.
    Session(StartupMessage<'a>),
}

/// A session's first message (`PROTOCOL-FLOW-START-UP`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage<'a> {
    /// The minor version asked for; above [`NEWEST_MINOR`] it is negotiated down.
    pub minor: u16,
    /// Never empty.
    pub user: &'a [u8],
    /// The user's name if the client named none.
    pub database: &'a [u8],
    /// Everything else in the order sent, `options` and `replication` included. A name may come twice; the last wins.
    pub params: Vec<(&'a [u8], &'a [u8])>,
    /// Names that begin with `_pq_.`, all of them unknown here: reported with [`negotiate_protocol_version`].
    pub unknown_protocol_options: Vec<&'a [u8]>,
}

impl<'a> StartupMessage<'a> {
    /// The value of a parameter in [`StartupMessage::params`]; of several the last, as in PostgreSQL.
    #[must_use]
    pub fn param(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.params.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    /// The minor version that is spoken: the client's, or ours if that is older.
    #[must_use]
    pub fn spoken_minor(&self) -> u16 {
        self.minor.min(NEWEST_MINOR)
    }

    /// Whether `replication` asks for a replication connection, read as PostgreSQL reads it.
    ///
    /// # Errors
    /// [`StartupError::Replication`] (`22023`) for a value that is neither `database` nor a boolean.
    pub fn replication(&self) -> Result<Option<Replication>, StartupError> {
        let Some(value) = self.param(b"replication") else { return Ok(None) };
        let lower = value.to_ascii_lowercase();
        // `parse_bool()`: any beginning of these words that fits only one of them
        let is = |word: &[u8], least: usize| lower.len() >= least && word.starts_with(&lower);
        if value == b"database" {
            Ok(Some(Replication::Logical))
        } else if is(b"true", 1) || is(b"yes", 1) || is(b"on", 2) || lower == b"1" {
            Ok(Some(Replication::Physical))
        } else if is(b"false", 1) || is(b"no", 1) || is(b"off", 2) || lower == b"0" {
            Ok(None)
        } else {
            Err(StartupError::Replication(String::from_utf8_lossy(value).into_owned()))
        }
    }

    /// NegotiateProtocolVersion, if it is owed before authentication.
    #[must_use]
    pub fn negotiation(&self) -> Option<Vec<u8>> {
        let owed = self.minor > NEWEST_MINOR || !self.unknown_protocol_options.is_empty();
        owed.then(|| negotiate_protocol_version(self.spoken_minor(), &self.unknown_protocol_options))
    }
}

/// What kind of replication a connection is for (PostgreSQL: PROTOCOL-REPLICATION).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// Of whole clusters: it has no database.
    Physical,
    /// Of one database, where it can run SQL too.
    Logical,
}

/// Why a first packet, or the `options` in it, is refused. Every one ends the connection; the fault is the client's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The length word is negative, too small or too large; whatever is there does not speak PostgreSQL.
    #[error("invalid length of startup packet")]
    Length,
    /// A cancel key of a length that no server gave out.
    #[error("invalid length of cancel request packet")]
    CancelLength,
    /// A request for encryption with something behind it.
    #[error("invalid length of encryption request packet")]
    EncryptionRequestLength,
    /// Protocol 2, 4, or noise.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to {MAJOR}.{NEWEST_MINOR}")]
    Version {
        /// As sent.
        major: u16,
        /// As sent.
        minor: u16,
    },
    /// Names and values are not pairs, or the closing zero byte is missing or early.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// No `user`, or an empty one.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// `replication` is neither a boolean nor `database`.
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    Replication(String),
    /// `-c name`, `--name`, or `-c` at the end.
    #[error("{0} requires a value")]
    OptionWithoutValue(String),
    /// `-c =value` or `--=value`.
    #[error("invalid command-line argument for server process: empty parameter name in \"{0}\"")]
    OptionWithoutName(String),
    /// Any other switch of `postgres`.
    #[error("invalid command-line argument for server process: {0}")]
    UnknownOption(String),
}

impl StartupError {
    /// The SQLSTATE PostgreSQL sends for it.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Length | Self::CancelLength | Self::EncryptionRequestLength | Self::Layout => {
                SqlState::PROTOCOL_VIOLATION
            }
            Self::Version { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Self::Replication(_) => SqlState::INVALID_PARAMETER_VALUE,
            Self::NoUser => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::OptionWithoutValue(_) | Self::OptionWithoutName(_) | Self::UnknownOption(_) => SqlState::SYNTAX_ERROR,
        }
    }
}

/// Reads the length word of a first packet: how many bytes follow it, 4 to [`BODY_BYTES_MAX`].
///
/// # Errors
/// [`StartupError::Length`] (`08P01`) for anything else. PostgreSQL closes without a word when it is not even plausible.
pub fn scan_length(word: &[u8; 4]) -> Result<usize, StartupError> {
    let total = usize::try_from(i32::from_be_bytes(*word)).map_err(|_| StartupError::Length)?;
    let body = total.checked_sub(word.len()).ok_or(StartupError::Length)?;
    if (BODY_BYTES_MIN..=BODY_BYTES_MAX).contains(&body) { Ok(body) } else { Err(StartupError::Length) }
}

/// Parses a first packet. `body` is what follows the length word, all of it and nothing else.
///
/// # Errors
/// [`StartupError`], with PostgreSQL's words where it has some.
pub fn parse(body: &[u8]) -> Result<Startup<'_>, StartupError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(StartupError::Length);
    }
    let (code, rest) = body.split_first_chunk::<4>().ok_or(StartupError::Length)?;
    match u32::from_be_bytes(*code) {
        CODE_SSL if rest.is_empty() => Ok(Startup::Ssl),
        CODE_GSS if rest.is_empty() => Ok(Startup::Gss),
        CODE_SSL | CODE_GSS => Err(StartupError::EncryptionRequestLength),
        CODE_CANCEL => match rest.split_first_chunk::<4>() {
            Some((pid, secret)) if SECRET_BYTES.contains(&secret.len()) => {
                Ok(Startup::Cancel { pid: i32::from_be_bytes(*pid), secret })
            }
            _ => Err(StartupError::CancelLength),
        },
        _ => {
            let [a, b, c, d] = *code;
            let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            if major != MAJOR {
                return Err(StartupError::Version { major, minor });
            }
            parse_params(minor, rest).map(Startup::Session)
        }
    }
}

fn parse_params(minor: u16, mut rest: &[u8]) -> Result<StartupMessage<'_>, StartupError> {
    let (mut user, mut database): (&[u8], &[u8]) = (b"", b"");
    let (mut params, mut unknown_protocol_options) = (Vec::new(), Vec::new());
    loop {
        let (name, after) = split_string(rest)?;
        if name.is_empty() {
            if !after.is_empty() {
                return Err(StartupError::Layout);
            }
            break;
        }
        let (value, after) = split_string(after)?;
        rest = after;
        match name {
            b"user" => user = value,
            b"database" => database = value,
            _ if name.starts_with(b"_pq_.") => unknown_protocol_options.push(name),
            _ => params.push((name, value)),
        }
    }
    if user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if database.is_empty() {
        database = user;
    }
    Ok(StartupMessage { minor, user, database, params, unknown_protocol_options })
}

/// A zero-terminated string and what follows it.
fn split_string(bytes: &[u8]) -> Result<(&[u8], &[u8]), StartupError> {
    let end = memchr::memchr(0, bytes).ok_or(StartupError::Layout)?;
    match bytes.split_at_checked(end) {
        Some((text, [0, rest @ ..])) => Ok((text, rest)),
        _ => Err(StartupError::Layout),
    }
}

/// Builds NegotiateProtocolVersion: the version that will be spoken, and the `_pq_.` options that are not known.
///
/// The version is written whole (`3 << 16 | minor`), as PostgreSQL writes it and libpq reads it, though older
/// documentation says that only the minor number is sent.
#[must_use]
pub fn negotiate_protocol_version(newest_minor: u16, unknown_options: &[&[u8]]) -> Vec<u8> {
    let version = (u32::from(MAJOR) << 16) | u32::from(newest_minor);
    let mut body = version.to_be_bytes().to_vec();
    // Both numbers are bounded by the startup packet the names came from.
    let count = u32::try_from(unknown_options.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&count.to_be_bytes());
    for name in unknown_options {
        body.extend_from_slice(name);
        body.push(0);
    }
    let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
    let mut message = vec![b'v'];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&body);
    message
}

/// Reads a server's NegotiateProtocolVersion: the minor version that it speaks instead of the newer one it was asked for.
/// `None` for what no server may say: a newer one, another major one, options that nobody asked for.
///
/// The version is whole, as PostgreSQL writes it, or the minor number alone, as older documentation has it.
#[must_use]
pub fn read_negotiation(body: &[u8], asked_minor: u16) -> Option<u16> {
    let (version, rest) = body.split_first_chunk::<4>()?;
    let [a, b, c, d] = *version;
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    (rest == [0; 4] && matches!(major, 0 | MAJOR) && minor < asked_minor).then_some(minor)
}

/// A setting's name and value out of `options`.
pub type OptionPair = (Vec<u8>, Vec<u8>);

/// Reads the `options` parameter: `-c name=value`, `-cname=value` and `--name=value`, any number of them.
///
/// Split like `pg_split_opts()` (blanks part words, a backslash takes the next byte as it is); `-` in a name becomes `_`
/// as in `ParseLongOption()`. Only settings are understood: the other switches of `postgres` are refused, not ignored.
///
/// # Errors
/// `42601` for a switch that is not a setting, a setting without a value and a value without a name (`-c=`).
pub fn parse_options(options: &[u8]) -> Result<Vec<OptionPair>, StartupError> {
    let mut pairs = Vec::new();
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let shown = String::from_utf8_lossy(&word).into_owned();
        let pair = match word.as_slice() {
            b"-c" => match words.next() {
                Some(setting) => parse_setting("-c ", &setting)?,
                None => return Err(StartupError::OptionWithoutValue(shown)),
            },
            [b'-', b'c', setting @ ..] => parse_setting("-c ", setting)?,
            b"--" => return Err(StartupError::UnknownOption(shown)),
            [b'-', b'-', setting @ ..] => parse_setting("--", setting)?,
            _ => return Err(StartupError::UnknownOption(shown)),
        };
        pairs.push(pair);
    }
    Ok(pairs)
}

fn parse_setting(switch: &str, setting: &[u8]) -> Result<OptionPair, StartupError> {
    let shown = || format!("{switch}{}", String::from_utf8_lossy(setting));
    let mut halves = setting.splitn(2, |b| *b == b'=');
    let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
        return Err(StartupError::OptionWithoutValue(shown()));
    };
    if name.is_empty() {
        return Err(StartupError::OptionWithoutName(shown()));
    }
    let name = name.iter().map(|b| if *b == b'-' { b'_' } else { *b }).collect();
    Ok((name, value.to_vec()))
}

/// C's `isspace()`, which knows one blank more than Rust.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn split_options(options: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut bytes = options.iter().copied().peekable();
    loop {
        while bytes.next_if(|b| is_space(*b)).is_some() {}
        if bytes.peek().is_none() {
            return words;
        }
        let mut word = Vec::new();
        let mut escaped = false;
        while let Some(byte) = bytes.next_if(|b| escaped || !is_space(*b)) {
            escaped = !escaped && byte == b'\\';
            if !escaped {
                word.push(byte);
            }
        }
        words.push(word);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(version: u32, pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        for (name, value) in pairs {
            for text in [name, value] {
                body.extend_from_slice(text);
                body.push(0);
            }
        }
        body.push(0);
        body
    }

    const V3: u32 = 3 << 16;

    #[test]
    fn a_length_is_refused_before_anything_is_sized_by_it() {
        for bad in [i32::MIN, -1, 0, 4, 7, 10_005, i32::MAX] {
            assert_eq!(scan_length(&bad.to_be_bytes()), Err(StartupError::Length), "{bad}");
        }
        assert_eq!(scan_length(&8_i32.to_be_bytes()), Ok(4));
        assert_eq!(scan_length(&10_004_i32.to_be_bytes()), Ok(BODY_BYTES_MAX));
        assert_eq!(scan_length(b"GET "), Err(StartupError::Length));
    }

    #[test]
    fn the_database_defaults_to_the_user_and_the_rest_keeps_its_order() {
        let body =
            session(V3 | 2, &[(b"b", b"1"), (b"user", b"j\xf8rgen"), (b"_pq_.x", b"y"), (b"a", b""), (b"b", b"2")]);
        let Ok(Startup::Session(message)) = parse(&body) else { panic!("{:?}", parse(&body)) };
        assert_eq!(message.minor, 2);
        assert_eq!((message.user, message.database), (&b"j\xf8rgen"[..], &b"j\xf8rgen"[..]));
        assert_eq!(message.params, [(&b"b"[..], &b"1"[..]), (b"a", b""), (b"b", b"2")]);
        assert_eq!(message.unknown_protocol_options, [b"_pq_.x"]);
        assert_eq!(message.param(b"b"), Some(&b"2"[..]));
        assert_eq!(message.negotiation(), Some(negotiate_protocol_version(2, &[b"_pq_.x"])));
    }

    #[test]
    fn replication_is_read_as_postgresql_reads_it() {
        let asked = |value: &str| {
            let body = session(V3, &[(b"user", b"u"), (b"replication", value.as_bytes())]);
            let Ok(Startup::Session(message)) = parse(&body) else { panic!() };
            message.replication()
        };
        for value in ["true", "T", "tr", "on", "yes", "y", "1", "TRUE"] {
            assert_eq!(asked(value), Ok(Some(Replication::Physical)), "{value}");
        }
        for value in ["false", "f", "off", "of", "no", "n", "0"] {
            assert_eq!(asked(value), Ok(None), "{value}");
        }
        assert_eq!(asked("database"), Ok(Some(Replication::Logical)));
        for value in ["", "o", "Database", "data", "2", "truer", "on "] {
            let error = asked(value).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid value for parameter \"replication\": \"{value}\""));
            assert_eq!(error.sqlstate(), SqlState::INVALID_PARAMETER_VALUE);
        }
    }

    #[test]
    fn a_packet_without_user_is_refused_in_postgresqls_words() {
        for pairs in [&[][..], &[(&b"database"[..], &b"x"[..])], &[(b"user", b"")]] {
            let error = parse(&session(V3, pairs)).unwrap_err();
            assert_eq!(error.to_string(), "no PostgreSQL user name specified in startup packet");
            assert_eq!(error.sqlstate(), SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        }
    }

    #[test]
    fn names_without_value_and_bytes_after_the_end_are_refused() {
        let good = session(V3, &[(b"user", b"u")]);
        for cut in 4..good.len() {
            assert_eq!(parse(&good[..cut]), Err(StartupError::Layout), "{cut}");
        }
        for extra in [&b"\0"[..], b"x", b"x\0y\0\0"] {
            assert_eq!(parse(&[&good[..], extra].concat()), Err(StartupError::Layout));
        }
        assert_eq!(parse(b"\0\x03\0\0user\0u\0lonely\0\0"), Err(StartupError::Layout));
    }

    #[test]
    fn other_protocol_versions_are_named_in_the_refusal() {
        let error = parse(&session(2 << 16, &[(b"user", b"u")])).unwrap_err();
        assert_eq!(error.to_string(), "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
        assert_eq!(error.sqlstate(), SqlState::FEATURE_NOT_SUPPORTED);
        assert!(matches!(parse(&session(4 << 16, &[])), Err(StartupError::Version { major: 4, minor: 0 })));
        // libpq's "grease": a minor version that does not exist is negotiated, not refused
        let body = session(V3 | 9999, &[(b"user", b"u")]);
        let Ok(Startup::Session(message)) = parse(&body) else { panic!() };
        assert_eq!(message.negotiation(), Some(negotiate_protocol_version(2, &[])));
    }

    #[test]
    fn requests_for_encryption_and_cancels_are_told_apart() {
        assert_eq!(parse(&CODE_SSL.to_be_bytes()), Ok(Startup::Ssl));
        assert_eq!(parse(&CODE_GSS.to_be_bytes()), Ok(Startup::Gss));
        assert_eq!(parse(&[&CODE_SSL.to_be_bytes()[..], b"x"].concat()), Err(StartupError::EncryptionRequestLength));
        let cancel = |secret: &[u8]| [&CODE_CANCEL.to_be_bytes()[..], &(-7_i32).to_be_bytes(), secret].concat();
        assert_eq!(parse(&cancel(b"abcd")), Ok(Startup::Cancel { pid: -7, secret: b"abcd" }));
        assert!(matches!(parse(&cancel(&[9; 256])), Ok(Startup::Cancel { secret, .. }) if secret.len() == 256));
        for bad in [0, 3, 257] {
            assert_eq!(parse(&cancel(&vec![1; bad])), Err(StartupError::CancelLength), "{bad}");
        }
        assert_eq!(parse(&CODE_CANCEL.to_be_bytes()), Err(StartupError::CancelLength));
    }

    #[test]
    fn negotiation_names_the_whole_version_and_every_unknown_option() {
        let message = negotiate_protocol_version(2, &[b"_pq_.a", b"_pq_.bc"]);
        assert_eq!(message, b"v\x00\x00\x00\x1b\x00\x03\x00\x02\x00\x00\x00\x02_pq_.a\0_pq_.bc\0");
        assert_eq!(negotiate_protocol_version(0, &[]), b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0");
    }

    #[test]
    fn a_server_may_only_negotiate_down() {
        assert_eq!(read_negotiation(&negotiate_protocol_version(0, &[])[5..], 2), Some(0));
        assert_eq!(read_negotiation(&[0; 8], 2), Some(0));
        for bad in [&negotiate_protocol_version(2, &[])[5..], &negotiate_protocol_version(0, &[b"_pq_.x"])[5..]] {
            assert_eq!(read_negotiation(bad, 2), None);
        }
        assert_eq!(read_negotiation(&[0, 4, 0, 0, 0, 0, 0, 0], 2), None);
        assert_eq!(read_negotiation(&[0, 3, 0, 0], 2), None);
        assert_eq!(read_negotiation(&[], 2), None);
    }

    #[test]
    fn options_are_split_as_postgresql_splits_them() {
        let pairs = parse_options(br"  -c geqo=off --work-mem=8MB -csearch_path=a\ b\\c,\d -c x.y=a=b	--z= ").unwrap();
        let expected: [(&[u8], &[u8]); 5] =
            [(b"geqo", b"off"), (b"work_mem", b"8MB"), (b"search_path", br"a b\c,d"), (b"x.y", b"a=b"), (b"z", b"")];
        assert_eq!(pairs.iter().map(|(n, v)| (&n[..], &v[..])).collect::<Vec<_>>(), expected);
        assert_eq!(parse_options(b" \t\n"), Ok(vec![]));
        // a backslash at the very end takes nothing with it
        assert_eq!(parse_options(b"-c a=b\\"), Ok(vec![(b"a".to_vec(), b"b".to_vec())]));
    }

    #[test]
    fn options_that_are_not_settings_are_refused() {
        for bad in
            [&b"-c=x"[..], b"-c =", b"--=x", b"-c", b"-c a", b"--a", b"--", b"-B 4", b"-d5", b"geqo=off", b"\\ -c a=b"]
        {
            let error = parse_options(bad).unwrap_err();
            assert_eq!(error.sqlstate(), SqlState::SYNTAX_ERROR, "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(parse_options(b"-c a").unwrap_err().to_string(), "-c a requires a value");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(body in proptest::collection::vec(any::<u8>(), 0..200), v3 in any::<bool>()) {
            let body = if v3 { [&V3.to_be_bytes()[..], &body].concat() } else { body };
            let _ = parse(&body);
            let _ = parse_options(&body);
        }

        #[test]
        fn what_was_written_is_read_back(pairs in proptest::collection::vec(("[a-z]{1,9}x", "[^\\x00]{0,9}"), 0..9)) {
            let mut all: Vec<(&[u8], &[u8])> = vec![(b"user", b"u"), (b"database", b"d")];
            all.extend(pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
            let body = session(V3, &all);
            let Ok(Startup::Session(message)) = parse(&body) else { panic!() };
            prop_assert_eq!((message.user, message.database), (&b"u"[..], &b"d"[..]));
            prop_assert_eq!(&message.params[..], &all[2..]);
        }
    }
}
