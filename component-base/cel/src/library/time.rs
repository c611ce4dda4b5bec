//! Points in time and durations: parsing, printing, parts in a time zone.
//!
//! Contract: the time functions of the CEL specification; Go's duration syntax, RFC 3339, zones of the tz database
//! or fixed offsets (`+02:00`), UTC without one.

use jiff::{
    Timestamp, Zoned,
    tz::{Offset, TimeZone},
};

use super::{Call, Line, conversions::double_text};
use crate::value::{EvalError, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("duration_to_duration", "duration(duration) -> duration", |c| Ok(c.arg(0)?.clone())),
    // It compiles as upstream's does, which has no way to do it either.
    ("int64_to_duration", "duration(int) -> duration", |_| {
        Err(EvalError::failed("type conversion error from 'int' to 'google.protobuf.Duration'"))
    }),
    ("string_to_duration", "duration(string) -> duration", |c| {
        let text = c.str(0)?;
        parse_duration(text)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::failed(format!("time: invalid duration {text:?}")))
    }),
    ("timestamp_to_timestamp", "timestamp(timestamp) -> timestamp", |c| Ok(c.arg(0)?.clone())),
    ("string_to_timestamp", "timestamp(string) -> timestamp", |c| {
        let text = c.str(0)?;
        parse_timestamp(text).map(Value::Timestamp).ok_or_else(|| {
            EvalError::failed(format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse"))
        })
    }),
    ("int64_to_timestamp", "timestamp(int) -> timestamp", |c| {
        shifted(Timestamp::UNIX_EPOCH, i128::from(c.int(0)?) * NANOS).map(Value::Timestamp)
    }),
    ("timestamp_to_year", "timestamp :: getFullYear() -> int", |c| part(c, |z| z.year().into())),
    ("timestamp_to_year_with_tz", "timestamp :: getFullYear(string) -> int", |c| {
        part(c, |z| z.year().into())
    }),
    ("timestamp_to_month", "timestamp :: getMonth() -> int", |c| part(c, |z| i64::from(z.month()) - 1)),
    ("timestamp_to_month_with_tz", "timestamp :: getMonth(string) -> int", |c| {
        part(c, |z| i64::from(z.month()) - 1)
    }),
    ("timestamp_to_day_of_year", "timestamp :: getDayOfYear() -> int", |c| {
        part(c, |z| i64::from(z.day_of_year()) - 1)
    }),
    ("timestamp_to_day_of_year_with_tz", "timestamp :: getDayOfYear(string) -> int", |c| {
        part(c, |z| i64::from(z.day_of_year()) - 1)
    }),
    ("timestamp_to_day_of_month", "timestamp :: getDayOfMonth() -> int", |c| {
        part(c, |z| i64::from(z.day()) - 1)
    }),
    ("timestamp_to_day_of_month_with_tz", "timestamp :: getDayOfMonth(string) -> int", |c| {
        part(c, |z| i64::from(z.day()) - 1)
    }),
    ("timestamp_to_day_of_month_1_based", "timestamp :: getDate() -> int", |c| part(c, |z| z.day().into())),
    ("timestamp_to_day_of_month_1_based_with_tz", "timestamp :: getDate(string) -> int", |c| {
        part(c, |z| z.day().into())
    }),
    ("timestamp_to_day_of_week", "timestamp :: getDayOfWeek() -> int", |c| {
        part(c, |z| z.weekday().to_sunday_zero_offset().into())
    }),
    ("timestamp_to_day_of_week_with_tz", "timestamp :: getDayOfWeek(string) -> int", |c| {
        part(c, |z| z.weekday().to_sunday_zero_offset().into())
    }),
    ("timestamp_to_hours", "timestamp :: getHours() -> int", |c| part(c, |z| z.hour().into())),
    ("timestamp_to_hours_with_tz", "timestamp :: getHours(string) -> int", |c| part(c, |z| z.hour().into())),
    ("timestamp_to_minutes", "timestamp :: getMinutes() -> int", |c| part(c, |z| z.minute().into())),
    ("timestamp_to_minutes_with_tz", "timestamp :: getMinutes(string) -> int", |c| {
        part(c, |z| z.minute().into())
    }),
    ("timestamp_to_seconds", "timestamp :: getSeconds() -> int", |c| part(c, |z| z.second().into())),
    ("timestamp_to_seconds_tz", "timestamp :: getSeconds(string) -> int", |c| part(c, |z| z.second().into())),
    ("timestamp_to_milliseconds", "timestamp :: getMilliseconds() -> int", |c| {
        part(c, |z| z.millisecond().into())
    }),
    ("timestamp_to_milliseconds_with_tz", "timestamp :: getMilliseconds(string) -> int", |c| {
        part(c, |z| z.millisecond().into())
    }),
    ("duration_to_hours", "duration :: getHours() -> int", |c| whole(c, 3_600_000_000_000)),
    ("duration_to_minutes", "duration :: getMinutes() -> int", |c| whole(c, 60_000_000_000)),
    ("duration_to_seconds", "duration :: getSeconds() -> int", |c| whole(c, 1_000_000_000)),
    ("duration_to_milliseconds", "duration :: getMilliseconds() -> int", |c| whole(c, 1_000_000)),
];

const NANOS: i128 = 1_000_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z in seconds.
const RANGE: std::ops::RangeInclusive<i128> = -62_135_596_800..=253_402_300_799;

fn whole<'a>(call: &Call<'_, 'a>, unit: i64) -> Result<Value<'a>, EvalError> {
    match call.arg(0)? {
        Value::Duration(nanos) => Ok(Value::Int(nanos / unit)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn part<'a>(call: &Call<'_, 'a>, of: fn(&Zoned) -> i64) -> Result<Value<'a>, EvalError> {
    let Value::Timestamp(t) = call.arg(0)? else { return Err(EvalError::NoSuchOverload) };
    let zone = match call.args.get(1) {
        Some(zone) => zone_of(zone.as_str().ok_or(EvalError::NoSuchOverload)?)?,
        None => TimeZone::UTC,
    };
    Ok(Value::Int(of(&t.to_zoned(zone))))
}

fn zone_of(name: &str) -> Result<TimeZone, EvalError> {
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let unknown = || EvalError::failed(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        return TimeZone::get(name).map_err(|_| unknown());
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    let seconds =
        hours.checked_mul(3600).and_then(|h| h.checked_add(minutes.checked_mul(60)?)).ok_or_else(unknown)?;
    let offset = Offset::from_seconds(if negative { -seconds } else { seconds }).map_err(|_| unknown())?;
    Ok(TimeZone::fixed(offset))
}

/// A point in time moved; outside of the years 1 to 9999 it is an error.
pub(super) fn shifted(t: Timestamp, nanos: i128) -> Result<Timestamp, EvalError> {
    let overflow = || EvalError::failed("timestamp overflow");
    let moved = t.as_nanosecond().checked_add(nanos).ok_or_else(overflow)?;
    if !RANGE.contains(&moved.div_euclid(NANOS)) {
        return Err(overflow());
    }
    Timestamp::from_nanosecond(moved).map_err(|_| overflow())
}

/// An RFC 3339 date and time with zone.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let digits =
        |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|b| b.iter().all(u8::is_ascii_digit));
    let shaped = digits(0..4)
        && bytes.get(4) == Some(&b'-')
        && bytes.get(7) == Some(&b'-')
        && bytes.get(10) == Some(&b'T')
        && bytes.get(13) == Some(&b':')
        && bytes.get(16) == Some(&b':')
        && digits(17..19)
        && !text.contains('[');
    let zoned =
        text.ends_with('Z') || bytes.len().checked_sub(6).is_some_and(|i| matches!(bytes[i], b'+' | b'-'));
    if !shaped || !zoned {
        return None;
    }
    let t: Timestamp = text.parse().ok()?;
    RANGE.contains(&t.as_nanosecond().div_euclid(NANOS)).then_some(t)
}

/// RFC 3339 in UTC with as many digits of the second as needed.
pub fn timestamp_text(t: Timestamp) -> String {
    t.to_string()
}

/// Go's duration syntax (`1h15m30.5s`) in nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS,
            "m" => 60 * NANOS,
            "h" => 3_600 * NANOS,
            _ => return None,
        };
        if whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        // Digits below a nanosecond of an hour do not count.
        let fraction = &fraction[..fraction.len().min(15)];
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        total += whole * unit + fraction * unit / scale;
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Seconds as a decimal number: `3723s`, `0.5s`.
pub fn duration_text(nanos: i64) -> String {
    let seconds = nanos / 1_000_000_000;
    let rest = (nanos % 1_000_000_000).unsigned_abs();
    if rest == 0 {
        return format!("{seconds}s");
    }
    let sign = if nanos < 0 && seconds == 0 { "-" } else { "" };
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

/// A double as `%f` or `%g` would need it; shared with formatting.
pub(super) fn number_text(d: f64) -> String {
    double_text(d)
}
