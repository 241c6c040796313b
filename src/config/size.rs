//! Sizes as `postgresql.conf` spells them (PostgreSQL: "Parameter Names and Values"), with the unit mandatory: a bare number
//! would mean bytes to one reader and pages to another.

use std::fmt;
use std::str::FromStr;

use super::text::text_value;

/// Units, largest first, in bytes.
const UNITS: [(&str, u64); 5] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

/// A number of bytes. "0" needs no unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// Whole kilobytes, of 1024 bytes.
    #[must_use]
    pub const fn from_kb(kb: u64) -> Self {
        Self(kb << 10)
    }

    /// Whole megabytes.
    #[must_use]
    pub const fn from_mb(mb: u64) -> Self {
        Self(mb << 20)
    }

    /// How many bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Why a text is not a size, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a size; write a number with its unit, such as \"64kB\": B, kB, MB, GB, TB")]
pub struct ByteSizeError(String);

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ByteSizeError(text.to_owned());
        if text == "0" {
            return Ok(Self(0));
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(*scale).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale)) {
            Some((name, scale)) => write!(f, "{}{name}", self.0 / scale),
            None => f.write_str("0"),
        }
    }
}

text_value!(ByteSize, "size");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_needs_its_unit_and_is_printed_as_short_as_it_goes() {
        for (text, bytes, shown) in [
            ("64kB", 65_536, "64kB"),
            ("16 MB", 16 << 20, "16MB"),
            ("1024kB", 1 << 20, "1MB"),
            ("0", 0, "0"),
            ("7B", 7, "7B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown));
        }
        for text in ["", "64", "kB", "64KB", "-1kB", "1.5MB", "99999999999999TB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
