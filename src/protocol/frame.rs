//! Where one message ends and the next begins: tag, length, body.
//!
//! Asks only about bytes already here: no socket, no wait, no copy. A peer's length is checked against what PostgreSQL
//! accepts for that tag before anybody waits or makes room for it (PostgreSQL: PROTOCOL-MESSAGE-FORMATS; the limits are
//! those of `SocketBackend` and of libpq).

/// The tag byte and the four bytes of length.
pub const HEADER_LEN: usize = 5;

/// The largest message PostgreSQL accepts where it expects a large one (`PQ_LARGE_MESSAGE_LIMIT`), in bytes with length.
pub const LARGE_LIMIT: u32 = 0x3fff_ffff - 1;

/// The largest message PostgreSQL accepts where it expects a small one (`PQ_SMALL_MESSAGE_LIMIT`).
pub const SMALL_LIMIT: u32 = 10_000;

/// What the first bytes of a message say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// So many bytes of the header are missing.
    More(usize),
    /// A message begins here; its body may be here or still to come.
    Header {
        /// What kind of message.
        tag: u8,
        /// Bytes behind the header.
        body_len: u32,
    },
}

/// The peer's bytes are not a message. There is no way to find the next one: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is smaller than itself or larger than PostgreSQL would accept for this tag.
    #[error("invalid message length")]
    BadLength {
        /// The message's tag.
        tag: u8,
    },
    /// A client sent a tag that PostgreSQL does not know.
    #[error("invalid frontend message type {tag}")]
    UnknownTag {
        /// The tag.
        tag: u8,
    },
}

/// Reads a header. The length is only checked to be possible at all.
///
/// # Errors
/// [`FrameError::BadLength`] when the length field is below 4 or negative.
pub fn scan_header(buf: &[u8]) -> Result<Scan, FrameError> {
    let Some([tag, len @ ..]) = buf.first_chunk::<HEADER_LEN>() else {
        return Ok(Scan::More(HEADER_LEN - buf.len()));
    };
    match u32::try_from(i32::from_be_bytes(*len).saturating_sub(4)) {
        Ok(body_len) => Ok(Scan::Header { tag: *tag, body_len }),
        Err(_) => Err(FrameError::BadLength { tag: *tag }),
    }
}

/// Reads the header of a client's message after login, with PostgreSQL's own limit for its tag.
///
/// # Errors
/// [`FrameError`] as soon as tag and length are here; nothing is waited for.
pub fn scan_client(buf: &[u8]) -> Result<Scan, FrameError> {
    if let Some(&tag) = buf.first()
        && limit(tag).is_none()
    {
        return Err(FrameError::UnknownTag { tag });
    }
    match scan_header(buf)? {
        Scan::Header { tag, body_len } if limit(tag).is_none_or(|limit| body_len > limit) => {
            Err(FrameError::BadLength { tag })
        }
        scan => Ok(scan),
    }
}

/// The largest body a client may send under `tag`; `None` for tags PostgreSQL does not take after login.
const fn limit(tag: u8) -> Option<u32> {
    match tag {
        b'Q' | b'P' | b'B' | b'F' | b'd' => Some(LARGE_LIMIT),
        b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => Some(SMALL_LIMIT),
        _ => None,
    }
}

/// Where a stream of messages stands that is passed on unread: inside one, or between two.
#[derive(Clone, Debug, Default)]
pub struct Boundary {
    /// The beginning of a header that was cut by the end of a read.
    header: [u8; HEADER_LEN],
    known: usize,
    body_left: usize,
}

impl Boundary {
    /// Whether what has passed so far ends where a message does.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        self.known == 0 && self.body_left == 0
    }

    /// How many bytes are known to come before the next end of a message: all of its body, or of its header.
    #[must_use]
    pub const fn left(&self) -> usize {
        match (self.body_left, self.known) {
            (0, 0) => 0,
            (0, known) => HEADER_LEN.saturating_sub(known),
            (left, _) => left,
        }
    }

    /// Goes over the next bytes; `begins` is told the tag of each message whose header is complete in them.
    ///
    /// # Errors
    /// [`FrameError::BadLength`]: where the next message begins is not known any more.
    pub fn advance(&mut self, mut bytes: &[u8], mut begins: impl FnMut(u8)) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let here = self.body_left.min(bytes.len());
                self.body_left -= here;
                bytes = bytes.get(here..).unwrap_or_default();
                continue;
            }
            let missing = self.header.get_mut(self.known..).unwrap_or_default();
            let here = missing.len().min(bytes.len());
            for (to, from) in missing.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.known += here;
            bytes = bytes.get(here..).unwrap_or_default();
            if self.known == HEADER_LEN
                && let Scan::Header { tag, body_len } = scan_header(&self.header)?
            {
                self.known = 0;
                self.body_left = usize::try_from(body_len).unwrap_or(usize::MAX);
                begins(tag);
            }
        }
        Ok(())
    }
}

/// The client's message that `data` begins with, as tag and body, and what follows it; `None` when it is not there as a whole
/// or is none.
#[must_use]
pub fn split_client(data: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let Ok(Scan::Header { tag, body_len }) = scan_client(data) else { return None };
    let body = data.get(HEADER_LEN..)?;
    let (body, rest) = body.split_at_checked(usize::try_from(body_len).ok()?)?;
    Some((tag, body, rest))
}

/// A C string at the start of `body`: what stands before the zero byte, and what follows it.
#[must_use]
pub fn split_cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, body)?;
    let (text, rest) = body.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}

/// The transaction status in a ReadyForQuery of `total` bytes; `None` for any other message, and for one that is not as
/// long as it must be.
#[must_use]
pub fn ready_status(tag: u8, total: usize, message: &[u8]) -> Option<u8> {
    if tag == b'Z' && total == HEADER_LEN + 1 { message.get(HEADER_LEN).copied() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_below_itself_is_refused() {
        for len in [i32::MIN, -1, 0, 3] {
            let mut bytes = vec![b'Q'];
            bytes.extend(len.to_be_bytes());
            assert_eq!(scan_header(&bytes), Err(FrameError::BadLength { tag: b'Q' }), "{len}");
        }
    }

    #[test]
    fn a_huge_length_is_refused_before_its_body_is_waited_for() {
        let huge = |tag: u8| [tag, 0x7f, 0xff, 0xff, 0xff];
        assert_eq!(scan_client(&huge(b'Q')), Err(FrameError::BadLength { tag: b'Q' }));
        assert_eq!(scan_client(&[b'S', 0, 1, 0, 0]), Err(FrameError::BadLength { tag: b'S' }));
        assert_eq!(scan_client(b"!"), Err(FrameError::UnknownTag { tag: b'!' }));
    }

    #[test]
    fn a_stream_that_is_passed_on_is_between_two_messages_where_one_ends() {
        let mut boundary = Boundary::default();
        let mut tags = Vec::new();
        assert!(boundary.is_between());
        for (bytes, between) in
            [(&b"d\0"[..], false), (b"\0\0\x06x", false), (b"y", true), (b"Z\0\0\0\x05Ic\0\0\0\x04", true)]
        {
            boundary.advance(bytes, |tag| tags.push(tag)).unwrap();
            assert_eq!(boundary.is_between(), between, "{bytes:?}");
        }
        assert_eq!(tags, b"dZc");
        assert_eq!(boundary.advance(b"d\0\0\0\x03", |_| ()), Err(FrameError::BadLength { tag: b'd' }));
    }

    proptest! {
        #[test]
        fn any_prefix_asks_for_exactly_what_is_missing(tag in any::<u8>(), len in 4..i32::MAX, cut in 0..HEADER_LEN) {
            let mut bytes = vec![tag];
            bytes.extend(len.to_be_bytes());
            let prefix = bytes.get(..cut).unwrap_or_default();
            prop_assert_eq!(scan_header(prefix), Ok(Scan::More(HEADER_LEN - cut)));
            prop_assert_eq!(scan_header(&bytes), Ok(Scan::Header { tag, body_len: len.cast_unsigned() - 4 }));
        }

        #[test]
        fn however_a_stream_is_cut_its_messages_are_the_same(
            bodies in prop::collection::vec((any::<u8>(), 0..40usize), 1..20),
            cuts in prop::collection::vec(1..9usize, 1..400),
        ) {
            let mut bytes = Vec::new();
            for (tag, len) in &bodies {
                bytes.push(*tag);
                bytes.extend(u32::try_from(len + 4).unwrap().to_be_bytes());
                bytes.extend(vec![0xff; *len]);
            }
            let (mut boundary, mut tags) = (Boundary::default(), Vec::new());
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                boundary.advance(now, |tag| tags.push(tag)).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(boundary.is_between());
            prop_assert_eq!(tags, bodies.iter().map(|(tag, _)| *tag).collect::<Vec<_>>());
        }
    }
}
