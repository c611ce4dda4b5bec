//! Table output: server-side columns for kubectl.
//!
//! Contract: `meta.k8s.io/v1 Table`; ages as kubectl prints them (`duration.HumanDuration`).

use jiff::Timestamp;

use crate::object::Object;

/// What the first column of every table shows.
pub const NAME_DESCRIPTION: &str = "The name of the object, one of its kind in its namespace.";
/// What the column of ages shows.
pub const CREATED_DESCRIPTION: &str = "When the object was made, by the clock of the server.";

/// The AGE cell of an object: time since creation, `<unknown>` when there is none.
pub fn age(obj: &Object, now: Timestamp) -> String {
    since(obj.meta_str("creationTimestamp"), now)
}

/// Human time between an RFC 3339 timestamp and now, `<unknown>` when it does not parse.
pub fn since(timestamp: &str, now: Timestamp) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(t) => human_duration(now.as_second() - t.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// Seconds as kubectl's short form: `5s`, `3m12s`, `12m`, `5h3m`, `2d4h`, `13d`, `3y20d`.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let s = seconds.max(0);
    let (minutes, hours, days) = (s / 60, s / 3600, s / 86_400);
    let with = |a: i64, unit: &str, b: i64, sub: &str| {
        if b == 0 { format!("{a}{unit}") } else { format!("{a}{unit}{b}{sub}") }
    };
    if s < 120 {
        format!("{s}s")
    } else if minutes < 10 {
        with(minutes, "m", s % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        with(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        with(days, "d", hours % 24, "h")
    } else if hours < 24 * 365 * 2 {
        format!("{days}d")
    } else if hours < 24 * 365 * 8 {
        with(days / 365, "y", days % 365, "d")
    } else {
        format!("{}y", days / 365)
    }
}
