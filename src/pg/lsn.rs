//! Positions in the write-ahead log, and the history they belong to.
//!
//! An LSN alone orders nothing: two nodes with different system identifiers or timelines can hold the same LSN with
//! different content behind it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A byte position in the write-ahead log, written `16/B374D848` (PostgreSQL: `pg_lsn`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// How many bytes of log lie between `earlier` and this position; 0 when `earlier` is not earlier.
    #[must_use]
    pub fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How a server's log is divided (`wal_segment_size`, `wal_block_size`): every page begins with a header, that of a segment's
/// first page is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLayout {
    /// Bytes of a segment.
    pub segment_size: u64,
    /// Bytes of a page.
    pub block_size: u64,
}

impl LogLayout {
    /// `SizeOfXLogLongPHD` in `xlog_internal.h`.
    const LONG_HEADER: u64 = 40;
    /// `SizeOfXLogShortPHD`.
    const SHORT_HEADER: u64 = 24;

    /// Where the log ends that `pg_current_wal_insert_lsn()` speaks of. That is where the next record would begin: when the last
    /// record fills its page, a header further on, and nobody gets there before there is a next record, which on an idle
    /// server may take for ever.
    #[must_use]
    pub fn end_before(self, insert: Lsn) -> Lsn {
        let (in_segment, in_page) = (insert.0.checked_rem(self.segment_size), insert.0.checked_rem(self.block_size));
        let header = match (in_segment, in_page) {
            (Some(Self::LONG_HEADER), _) => Self::LONG_HEADER,
            // in a segment's first page this is the middle of the header, where nothing begins
            (Some(Self::SHORT_HEADER), _) => 0,
            (_, Some(Self::SHORT_HEADER)) => Self::SHORT_HEADER,
            (_, _) => 0,
        };
        Lsn(insert.0.saturating_sub(header))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// As it is written in SQL.
impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The text was not two hexadecimal numbers of at most eight digits around a slash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN \"{0}\": expected two hexadecimal numbers around a slash, like 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let plain = digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if plain { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        let parsed = text.split_once('/').and_then(|(high, low)| Some((half(high)? << 32) | half(low)?));
        parsed.map(Lsn).ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// PostgreSQL's count of histories: every promotion starts a new one. Not howdah's epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What all nodes of one cluster share: chosen by `initdb`, kept by every copy (`pg_control_system()`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SystemIdentifier(pub u64);

/// As text: programs that read JSON's numbers as floating point would change it.
impl Serialize for SystemIdentifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemIdentifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_what_it_prints() {
        for value in [0, 1, 0x16_B374_D848, u64::MAX] {
            assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }
    }

    /// `XLogBytePosToRecPtr` and `XLogBytePosToEndRecPtr` of `xlog.c`: the same place in the log as the beginning of the next
    /// record, and as the end of the last.
    fn places(layout: LogLayout, usable: u64) -> (Lsn, Lsn) {
        let place = |usable: u64, ends: bool| {
            let pages = layout.segment_size / layout.block_size;
            let (long, short) =
                (layout.block_size - LogLayout::LONG_HEADER, layout.block_size - LogLayout::SHORT_HEADER);
            let in_segment = long + (pages - 1) * short;
            let (segment, rest) = (usable / in_segment, usable % in_segment);
            let offset = match rest {
                0 if ends => 0,
                rest if rest < long || ends && rest == long => rest + LogLayout::LONG_HEADER,
                rest => {
                    let (page, left) = ((rest - long) / short, (rest - long) % short);
                    let header = if ends && left == 0 { 0 } else { LogLayout::SHORT_HEADER };
                    layout.block_size * (page + 1) + left + header
                }
            };
            Lsn(segment * layout.segment_size + offset)
        };
        (place(usable, false), place(usable, true))
    }

    #[test]
    fn the_end_before_the_insert_position_is_where_the_last_record_ends_at_every_offset() {
        for (segment_size, block_size) in [(1 << 15, 1 << 13), (1 << 14, 1 << 12), (1 << 16, 1 << 16)] {
            let layout = LogLayout { segment_size, block_size };
            let mut before = Lsn(0);
            // records are a multiple of 8 bytes long
            for usable in (8..3 * segment_size).step_by(8) {
                let (insert, end) = places(layout, usable);
                assert_eq!(layout.end_before(insert), end, "{insert} {layout:?}");
                assert!(end > before);
                before = end;
            }
        }
    }

    #[test]
    fn the_end_before_the_positions_that_were_once_seen_to_stand_still() {
        let layout = LogLayout { segment_size: 16 << 20, block_size: 8192 };
        let end = |insert: &str| layout.end_before(insert.parse().unwrap()).to_string();
        assert_eq!(end("0/401C018"), "0/401C000");
        assert_eq!(end("0/6000028"), "0/6000000");
        assert_eq!(end("0/6000018"), "0/6000018");
        assert_eq!(end("0/401C028"), "0/401C028");
        let unknown = LogLayout { segment_size: 0, block_size: 0 };
        assert_eq!(unknown.end_before(Lsn(24)), Lsn(24));
    }

    #[test]
    fn an_lsn_refuses_what_postgresql_would_refuse() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "+1/2", "1/123456789", "g/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
