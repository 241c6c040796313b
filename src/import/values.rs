//! Numbers, times, words and lists as PgBouncer reads them, and the section `[pgbouncer]` as a whole.

use std::collections::BTreeMap;

use super::document::{Document, Kind};
use super::ini::{Entry, Place};
use super::keys;

/// The section `[pgbouncer]`, with PgBouncer's defaults behind it.
pub(super) struct Settings {
    given: BTreeMap<String, Entry>,
}

impl Settings {
    /// Takes the entries; keys that PgBouncer does not know are noted.
    pub(super) fn new(entries: Vec<Entry>, document: &mut Document) -> Self {
        let mut given = BTreeMap::new();
        for entry in entries {
            match keys::find(keys::PGBOUNCER, &entry.key) {
                Some(key) => {
                    if let keys::Fate::Nowhere(why) = key.fate
                        && entry.value != key.default
                    {
                        document.note(Kind::NoCounterpart, Some(&entry.place), key.name, why);
                    }
                    given.insert(key.name.to_owned(), entry);
                }
                None => {
                    let why = "PgBouncer has no such key, as far as howdah knows";
                    document.note(Kind::NoCounterpart, Some(&entry.place), &entry.key, why);
                }
            }
        }
        Self { given }
    }

    /// The entry, if the file has it.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.given.get(key)
    }

    /// Where the key is written.
    pub(super) fn place(&self, key: &str) -> Option<&Place> {
        self.given.get(key).map(|entry| &entry.place)
    }

    /// The value, or PgBouncer's default.
    pub(super) fn text(&self, key: &str) -> &str {
        match self.given.get(key) {
            Some(entry) => &entry.value,
            None => keys::find(keys::PGBOUNCER, key).map_or("", |key| key.default),
        }
    }

    /// The value, where it says anything.
    pub(super) fn some(&self, key: &str) -> Option<&str> {
        Some(self.text(key)).filter(|text| !text.is_empty())
    }

    /// A number; one that PgBouncer does not start with is noted, and the default taken.
    pub(super) fn number(&self, key: &str, document: &mut Document) -> i64 {
        self.read(key, document, number, "is not a number")
    }

    /// A time in microseconds; one that PgBouncer does not start with is noted, and the default taken.
    pub(super) fn time(&self, key: &str, document: &mut Document) -> u64 {
        self.read(key, document, micros, "is not a number of seconds")
    }

    /// Whether a number is not 0.
    pub(super) fn flag(&self, key: &str, document: &mut Document) -> bool {
        self.number(key, document) != 0
    }

    fn read<T: Default>(&self, key: &str, document: &mut Document, read: fn(&str) -> Option<T>, wrong: &str) -> T {
        read(self.text(key)).unwrap_or_else(|| {
            document.note(Kind::Todo, self.place(key), key, &format!("{wrong}, and PgBouncer does not start with it"));
            keys::find(keys::PGBOUNCER, key).and_then(|key| read(key.default)).unwrap_or_default()
        })
    }
}

/// A number as `strtol()` reads it in base 0: `0777` is octal.
pub(super) fn number(text: &str) -> Option<i64> {
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let value = match (hexadecimal, digits) {
        (Some(digits), _) => i64::from_str_radix(digits, 16),
        (None, octal) if octal.starts_with('0') => i64::from_str_radix(octal, 8),
        (None, decimal) => decimal.parse(),
    };
    value.ok()?.checked_mul(sign)
}

/// A number as `atoi()` reads it: what stands in front, and 0 for everything else.
pub(super) fn leading_number(text: &str) -> i64 {
    let text = text.trim_start();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let value: i64 = digits.get(..end).unwrap_or_default().parse().unwrap_or(0);
    if text.starts_with('-') { -value } else { value }
}

/// Seconds, possibly broken, as microseconds.
pub(super) fn micros(text: &str) -> Option<u64> {
    let seconds: f64 = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded, and not negative")]
    Some((seconds.min(1e12) * 1e6) as u64)
}

/// A time as howdah spells it, in the largest unit that leaves a whole number.
pub(super) fn duration(micros: u64) -> String {
    const UNITS: [(&str, u64); 5] =
        [("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)];
    if micros == 0 {
        return "0".to_owned();
    }
    let fits = UNITS.iter().find(|(_, unit)| micros.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{micros}us"), |(name, unit)| format!("{}{name}", micros / unit))
}

/// The names in a list with commas.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_read_as_in_c() {
        assert_eq!(
            [number("20"), number("0777"), number("0x10"), number("-1")],
            [Some(20), Some(0o777), Some(16), Some(-1)]
        );
        assert_eq!([number(""), number("1s"), number("x"), number("20 ; comment")], [None; 4]);
        assert_eq!([leading_number("5s"), leading_number("x"), leading_number("-3")], [5, 0, -3]);
        let spelled = |text| micros(text).map(duration);
        assert_eq!(spelled("0").as_deref(), Some("0"));
        assert_eq!(spelled("120").as_deref(), Some("2min"));
        assert_eq!(spelled("15.0").as_deref(), Some("15s"));
        assert_eq!(spelled("0.5").as_deref(), Some("500ms"));
        assert_eq!(spelled("3600").as_deref(), Some("1h"));
        assert_eq!([micros("-1"), micros("5s"), micros("")], [None; 3]);
    }
}
