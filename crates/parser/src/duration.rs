//! Durations as Go's `time.ParseDuration` reads them.

use std::fmt;

use crate::text::go_quote;

/// A duration that cannot be read; displays as Go's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// Not a duration.
    Invalid {
        /// The text.
        text: String,
    },
    /// A number without a unit.
    MissingUnit {
        /// The text.
        text: String,
    },
    /// A unit that does not exist.
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The text.
        text: String,
    },
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { text } => write!(f, "time: invalid duration {}", go_quote(text)),
            Self::MissingUnit { text } => {
                write!(f, "time: missing unit in duration {}", go_quote(text))
            }
            Self::UnknownUnit { unit, text } => {
                write!(f, "time: unknown unit {} in duration {}", go_quote(unit), go_quote(text))
            }
        }
    }
}

/// The largest magnitude, that of the smallest negative number of nanoseconds.
const LIMIT: u64 = 1 << 63;

/// Reads a duration such as `1h30m` or `-1.5s`, in nanoseconds.
///
/// # Errors
///
/// What Go's `time.ParseDuration` refuses.
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid { text: text.to_owned() };
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        if !rest.starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
            return Err(invalid());
        }
        let (digits, after) = take(rest, |c| c.is_ascii_digit());
        let whole = digits
            .bytes()
            .try_fold(0u64, |n, digit| n.checked_mul(10)?.checked_add(u64::from(digit - b'0')).filter(|n| *n <= LIMIT))
            .ok_or_else(invalid)?;
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => take(after, |c| c.is_ascii_digit()),
            None => ("", after),
        };
        if digits.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let (unit, after) = take(after, |c| c != '.' && !c.is_ascii_digit());
        if unit.is_empty() {
            return Err(DurationError::MissingUnit { text: text.to_owned() });
        }
        let nanos: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
            }
        };
        total = whole
            .checked_mul(nanos)
            .and_then(|n| n.checked_add(fraction_of(fraction, nanos)))
            .and_then(|n| n.checked_add(total))
            .filter(|n| *n <= LIMIT)
            .ok_or_else(invalid)?;
        rest = after;
    }
    if negative {
        return Ok(0i64.wrapping_sub_unsigned(total));
    }
    i64::try_from(total).map_err(|_| invalid())
}

/// A decimal fraction of a unit. Digits beyond what 63 bits hold do not count.
fn fraction_of(digits: &str, nanos: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale: f64 = 1.0;
    for digit in digits.bytes() {
        let next = value.checked_mul(10).and_then(|v| v.checked_add(u64::from(digit - b'0')));
        match next {
            Some(next) if next <= LIMIT => value = next,
            _ => break,
        }
        scale *= 10.0;
    }
    // The same arithmetic as Go's, in the same floating point: the results agree to the bit.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    {
        (value as f64 * (nanos as f64 / scale)) as u64
    }
}

fn take(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        for (text, nanos) in [
            ("0", 0),
            ("+0", 0),
            ("5s", 5_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("-1ms", -1_000_000),
            ("3us", 3_000),
            ("3\u{b5}s", 3_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn refuses_as_go_does() {
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("x", "time: invalid duration \"x\""),
            (".s", "time: invalid duration \".s\""),
            ("10", "time: missing unit in duration \"10\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("1sx", "time: unknown unit \"sx\" in duration \"1sx\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
        ] {
            let found = parse_duration(text).map_err(|e| e.to_string());
            assert_eq!(found, Err(error.to_owned()));
        }
    }
}
