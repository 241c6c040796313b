//! Durations as `postgresql.conf` spells them (PostgreSQL: "Parameter Names and Values"), with the unit mandatory:
//! a bare number would mean seconds to one reader and milliseconds to another.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::text::text_value;

/// Units, largest first, in microseconds.
const UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// A hundred years: longer than any process lives, short enough that adding it to now cannot overflow.
const LONGEST_US: u64 = 36_500 * 86_400_000_000;

/// A limit in time, where `"0"` means that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigDuration(Duration);

impl ConfigDuration {
    /// No limit, written `"0"`.
    pub const OFF: Self = Self(Duration::ZERO);

    /// A limit of whole seconds; 0 is [`ConfigDuration::OFF`].
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// A limit of whole milliseconds; 0 is [`ConfigDuration::OFF`].
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The limit; `None` when it is off.
    #[must_use]
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

/// A time between two things that happen again and again; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

impl Period {
    /// Whole milliseconds, at least one.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(if millis == 0 { 1 } else { millis }))
    }

    /// The time itself.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

/// Why a text is not a duration, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Only digits.
    #[error("\"{0}\" has no unit; write \"{0}s\" for seconds (units: us, ms, s, min, h, d)")]
    NoUnit(String),
    /// Digits and something that is no unit.
    #[error("\"{0}\" has an unknown unit; the units are us, ms, s, min, h, d, as in \"30s\"")]
    BadUnit(String),
    /// A fraction.
    #[error("\"{0}\" is not a whole number of units; write it in a smaller unit, as in \"1500ms\"")]
    Fraction(String),
    /// Anything else.
    #[error("\"{0}\" is not a duration; write a number and a unit, as in \"30s\" (units: us, ms, s, min, h, d)")]
    NotADuration(String),
    /// More than a hundred years.
    #[error("\"{0}\" is too long; the longest duration is \"36500d\"")]
    TooLong(String),
    /// Zero where a pause is needed.
    #[error("\"{0}\" is too short; this duration cannot be switched off")]
    Zero(String),
}

fn parse_us(text: &str) -> Result<u64, DurationError> {
    let owned = || text.to_owned();
    if text == "0" {
        return Ok(0);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return Err(DurationError::NotADuration(owned()));
    }
    let unit = rest.trim_start_matches(' ');
    if unit.is_empty() {
        return Err(DurationError::NoUnit(number.to_owned()));
    }
    if unit.starts_with('.') {
        return Err(DurationError::Fraction(owned()));
    }
    let Some((_, unit_us)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(DurationError::BadUnit(owned()));
    };
    // Digits that do not fit are a number too, only too large a one.
    let us = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*unit_us)).filter(|us| *us <= LONGEST_US);
    us.ok_or_else(|| DurationError::TooLong(owned()))
}

fn print_us(us: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if us == 0 {
        return f.write_str("0");
    }
    match UNITS.iter().find(|(_, unit_us)| us.is_multiple_of(u128::from(*unit_us))) {
        Some((unit, unit_us)) => write!(f, "{}{unit}", us / u128::from(*unit_us)),
        None => write!(f, "{us}us"),
    }
}

impl FromStr for ConfigDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_us(text).map(|us| Self(Duration::from_micros(us)))
    }
}

impl FromStr for Period {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match parse_us(text)? {
            0 => Err(DurationError::Zero(text.to_owned())),
            us => Ok(Self(Duration::from_micros(us))),
        }
    }
}

impl fmt::Display for ConfigDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_us(self.0.as_micros(), f)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_us(self.0.as_micros(), f)
    }
}

text_value!(ConfigDuration, "duration");
text_value!(Period, "period");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_takes_the_units_of_postgresql() {
        let ms = |text: &str| text.parse::<ConfigDuration>().unwrap().limit().unwrap().as_micros();
        assert_eq!(ms("1us"), 1);
        assert_eq!(ms("250ms"), 250_000);
        assert_eq!(ms("30s"), 30_000_000);
        assert_eq!(ms("10min"), 600_000_000);
        assert_eq!(ms("1h"), 3_600_000_000);
        assert_eq!(ms("2 d"), 172_800_000_000);
    }

    #[test]
    fn zero_means_off_with_and_without_a_unit() {
        for text in ["0", "0s", "0min"] {
            assert_eq!(text.parse::<ConfigDuration>().unwrap().limit(), None, "{text}");
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_wrong_duration_says_what_to_write() {
        let said = |text: &str| text.parse::<ConfigDuration>().unwrap_err().to_string();
        assert!(said("30").contains("write \"30s\""), "{}", said("30"));
        assert!(said("1.5h").contains("smaller unit"));
        assert!(said("5m").contains("unknown unit"));
        assert!(said("5 minutes").contains("unknown unit"));
        assert!(said("").contains("not a duration"));
        assert!(said("-1s").contains("not a duration"));
        assert!(said("99999999999999999999d").contains("too long"));
        assert!(said("36501d").contains("too long"));
    }

    proptest! {
        #[test]
        fn a_duration_reads_what_it_prints(us in 0..=LONGEST_US) {
            let duration = ConfigDuration(Duration::from_micros(us));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_makes_a_duration_panic(text in ".*") {
            let _ = text.parse::<ConfigDuration>();
            let _ = text.parse::<Period>();
        }

        #[test]
        fn a_number_and_a_unit_is_a_duration_or_too_long(n in 1..u64::MAX, unit in 0..UNITS.len()) {
            let (name, unit_us) = UNITS[unit];
            match format!("{n}{name}").parse::<ConfigDuration>() {
                Ok(d) => prop_assert_eq!(d.limit().unwrap().as_micros(), u128::from(n) * u128::from(unit_us)),
                Err(DurationError::TooLong(_)) => prop_assert!(n > LONGEST_US / unit_us),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
