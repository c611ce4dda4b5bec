//! Durations in Go's notation (`time.ParseDuration` and `Duration.String`): `300ms`, `-1.5h`, `2h45m`, a bare `0`.

use std::time::Duration;

/// Why a text is no duration. Display is Go's wording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
    #[error("time: duration {0:?} must not be negative")]
    Negative(String),
}

/// Parses into nanoseconds, Go's representation.
///
/// # Errors
/// When the text is not in Go's grammar or exceeds 64 bits of nanoseconds.
pub fn parse_nanos(text: &str) -> Result<i64, ParseError> {
    let invalid = || ParseError::Invalid(text.to_owned());
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
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (term, tail) = parse_term(rest, text)?;
        total += term;
        if total > i128::from(i64::MAX) + 1 {
            return Err(invalid());
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// One number with its unit, and what follows it.
fn parse_term<'a>(rest: &'a str, text: &str) -> Result<(i128, &'a str), ParseError> {
    let invalid = || ParseError::Invalid(text.to_owned());
    let whole_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (whole, mut tail) = rest.split_at(whole_end);
    let mut fraction = "";
    if let Some(after) = tail.strip_prefix('.') {
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        (fraction, tail) = after.split_at(end);
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
    let (unit, tail) = tail.split_at(unit_end);
    let scale: i128 = match unit {
        "" => return Err(ParseError::MissingUnit(text.to_owned())),
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(ParseError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
    };
    let whole: i128 =
        if whole.is_empty() { 0 } else { i128::from(whole.parse::<u64>().map_err(|_| invalid())?) };
    // Digits past the fifteenth are below a nanosecond even for hours.
    let digits = &fraction[..fraction.len().min(15)];
    let part: i128 =
        if digits.is_empty() { 0 } else { i128::from(digits.parse::<u64>().map_err(|_| invalid())?) };
    let divisor = 10_i128.pow(digits.len() as u32);
    Ok((whole * scale + part * scale / divisor, tail))
}

/// Parses a duration that may not be negative.
///
/// # Errors
/// As [`parse_nanos`], and for negative durations.
pub fn parse(text: &str) -> Result<Duration, ParseError> {
    u64::try_from(parse_nanos(text)?)
        .map(Duration::from_nanos)
        .map_err(|_| ParseError::Negative(text.to_owned()))
}

/// Prints as Go does: `1h0m0s`, `1m30s`, `1.5s`, `300ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, scale) = match nanos {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("\u{b5}s", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(nanos, scale));
    }
    let (minutes, seconds) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
    let seconds = decimal(seconds, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / scale` in decimals without trailing zeros.
fn decimal(value: u128, scale: u128) -> String {
    let (whole, part) = (value / scale, value % scale);
    if part == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{part:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// serde for configuration fields of type `metav1.Duration`.
pub mod serde_string {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Reads a duration text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse(&text).map_err(D::Error::custom)
    }

    /// Writes a duration text.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_go_parses() {
        for (text, nanos) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("-5s", -5_000_000_000),
            ("1h15m30.918s", 4_530_918_000_000),
            (".5m", 30_000_000_000),
            ("1.s", 1_000_000_000),
            ("12\u{b5}s", 12_000),
            ("1.5h", 5_400_000_000_000),
            ("2540400h10m10s", 9_145_440_610_000_000_000),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse_nanos(text), Ok(nanos), "{text}");
        }
        for text in
            ["", "3", "-", "s", ".", "-.", ".s", "1d", "9223372036854775808ns", "10000000000h", "1h 3m"]
        {
            assert!(parse_nanos(text).is_err(), "{text}");
        }
        assert_eq!(parse("3").unwrap_err().to_string(), "time: missing unit in duration \"3\"");
        assert!(parse("-1s").is_err());
    }

    #[test]
    fn prints_what_go_prints() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn round_trips(nanos in 0..=i64::MAX) {
            let duration = Duration::from_nanos(nanos.unsigned_abs());
            proptest::prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn never_panics(text in ".*") {
            // Only the absence of a panic matters here.
            let _parsed = parse_nanos(&text);
        }
    }
}
