//! `metav1.Time` and `MicroTime`: RFC 3339 in JSON, seconds and nanoseconds on the wire.

use jiff::Timestamp;

/// Seconds and nanoseconds of an RFC 3339 text.
pub(super) fn parse(text: &str) -> Option<(i64, i32)> {
    let at: Timestamp = text.parse().ok()?;
    let (mut seconds, mut nanos) = (at.as_second(), at.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    Some((seconds, nanos))
}

/// The text of `metav1.Time`: whole seconds.
pub(super) fn seconds(seconds: i64) -> Option<String> {
    let at = Timestamp::from_second(seconds).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The text of `metav1.MicroTime`: six digits.
pub(super) fn micros(seconds: i64, nanos: i32) -> Option<String> {
    let at = Timestamp::new(seconds, nanos - nanos % 1000).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}
