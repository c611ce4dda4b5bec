//! Schedules of CronJobs: five fields, names, ranges, steps, `@` forms.
//!
//! Contract: CronJob's `spec.schedule` and `spec.timeZone` (API reference; the syntax of Wikipedia's Cron page, as
//! upstream's robfig/cron v3 reads it): a day matches by month day *or* week day when both are restricted, Sunday is
//! 0 (7 too is not), `?` is `*`, times a clock change skips do not happen.

use std::time::Duration;

use jiff::{Timestamp, civil, tz::TimeZone};

use crate::goduration;

/// Years after which a schedule counts as one that never comes.
const HORIZON_YEARS: i16 = 5;

/// When something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At these minutes.
    Fields(Fields),
    /// This long after the time before.
    Every(Duration),
}

/// Sets of minutes, hours and days as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    month_days: u64,
    months: u64,
    week_days: u64,
    /// Whether month days and week days are both restricted: one of them is enough then.
    either_day: bool,
    zone: Option<String>,
}

/// Why a schedule is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Nothing is there.
    #[error("empty spec string")]
    Empty,
    /// Not five fields.
    #[error("expected exactly 5 fields, found {found}: [{fields}]")]
    Fields {
        /// How many there are.
        found: usize,
        /// What they are.
        fields: String,
    },
    /// An `@` form that is none.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// `@every` without a duration.
    #[error("failed to parse duration @every {0}: time: invalid duration {0:?}")]
    Duration(String),
    /// Not a number where one must be.
    #[error("failed to parse int from {0}: strconv.Atoi: parsing {0:?}: invalid syntax")]
    Number(String),
    /// A number outside of the field.
    #[error("{what} ({value}) {side} ({limit}): {text}")]
    Range {
        /// Which end.
        what: &'static str,
        /// What it is.
        value: u32,
        /// Above or below.
        side: &'static str,
        /// What it may be.
        limit: u32,
        /// The expression.
        text: String,
    },
    /// Ends before it begins.
    #[error("beginning of range ({0}) beyond end of range ({1}): {2}")]
    Reversed(u32, u32, String),
    /// A step of zero.
    #[error("step of range should be a positive number: {0}")]
    Step(String),
    /// Several slashes or hyphens.
    #[error("too many {0}: {1}")]
    TooMany(&'static str, String),
    /// A zone nobody knows.
    #[error("provided bad location {0}: unknown time zone {0}")]
    Zone(String),
}

struct Field {
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const MINUTES: Field = Field { least: 0, most: 59, names: &[] };
const HOURS: Field = Field { least: 0, most: 23, names: &[] };
const MONTH_DAYS: Field = Field { least: 1, most: 31, names: &[] };
const MONTHS: Field = Field {
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEK_DAYS: Field =
    Field { least: 0, most: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// A field's bits, and whether it was `*` or `?`.
type Bits = (u64, bool);

impl Field {
    fn parse(&self, text: &str) -> Result<Bits, CronError> {
        let (mut bits, mut any) = (0, false);
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (more, star) = self.range(part)?;
            bits |= more;
            any |= star;
        }
        Ok((bits, any))
    }

    fn number(&self, text: &str) -> Result<u32, CronError> {
        let lower = text.to_ascii_lowercase();
        if let Some(at) = self.names.iter().position(|n| *n == lower) {
            // Names are few.
            return Ok(self.least + u32::try_from(at).unwrap_or_default());
        }
        text.parse().map_err(|_| CronError::Number(text.to_owned()))
    }

    fn range(&self, text: &str) -> Result<Bits, CronError> {
        let mut halves = text.split('/');
        let (span, step) = (halves.next().unwrap_or_default(), halves.next());
        if halves.next().is_some() {
            return Err(CronError::TooMany("slashes", text.to_owned()));
        }
        let mut ends = span.split('-');
        let (first, last) = (ends.next().unwrap_or_default(), ends.next());
        if ends.next().is_some() {
            return Err(CronError::TooMany("hyphens", text.to_owned()));
        }
        let star = matches!(first, "*" | "?");
        let (start, mut end) = match (star, last) {
            (true, _) => (self.least, self.most),
            (false, Some(last)) => (self.number(first)?, self.number(last)?),
            (false, None) => (self.number(first)?, self.number(first)?),
        };
        let step_value = match step {
            None => 1,
            Some(step) => {
                // `5/15` goes on to the end of the field.
                if !star && last.is_none() {
                    end = self.most;
                }
                step.parse().map_err(|_| CronError::Number(step.to_owned()))?
            }
        };
        self.check(start, end, step_value, text)?;
        let bits = (start..=end).step_by(usize::try_from(step_value).unwrap_or(usize::MAX));
        Ok((bits.fold(0, |all, at| all | 1 << at), star && step_value == 1))
    }

    fn check(&self, start: u32, end: u32, step: u32, text: &str) -> Result<(), CronError> {
        let range =
            |what, value, side, limit| CronError::Range { what, value, side, limit, text: text.to_owned() };
        if start < self.least {
            return Err(range("beginning of range", start, "below minimum", self.least));
        }
        if end > self.most {
            return Err(range("end of range", end, "above maximum", self.most));
        }
        if start > end {
            return Err(CronError::Reversed(start, end, text.to_owned()));
        }
        if step == 0 { Err(CronError::Step(text.to_owned())) } else { Ok(()) }
    }
}

impl Schedule {
    /// Reads a schedule; `TZ=` or `CRON_TZ=` in front names its zone.
    ///
    /// # Errors
    /// When it is none; the message says which part.
    pub fn parse(text: &str) -> Result<Schedule, CronError> {
        let mut text = text.trim();
        let mut zone = None;
        if let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            zone_of(name)?;
            zone = Some(name.to_owned());
            text = rest.trim();
        }
        if text.is_empty() {
            return Err(CronError::Empty);
        }
        if text.starts_with('@') {
            return Self::descriptor(text, zone);
        }
        Self::fields(text, zone)
    }

    fn descriptor(text: &str, zone: Option<String>) -> Result<Schedule, CronError> {
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => {
                let Some(duration) = text.strip_prefix("@every ") else {
                    return Err(CronError::Descriptor(text.to_owned()));
                };
                let parsed = goduration::parse(duration).ok();
                let parsed = parsed.ok_or_else(|| CronError::Duration(duration.to_owned()))?;
                return Ok(Schedule::Every(Duration::from_secs(parsed.as_secs().max(1))));
            }
        };
        Self::fields(fields, zone)
    }

    fn fields(text: &str, zone: Option<String>) -> Result<Schedule, CronError> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, month_days, months, week_days] = parts[..] else {
            return Err(CronError::Fields { found: parts.len(), fields: parts.join(" ") });
        };
        let (month_days, any_month_day) = MONTH_DAYS.parse(month_days)?;
        let (week_days, any_week_day) = WEEK_DAYS.parse(week_days)?;
        Ok(Schedule::Fields(Fields {
            minutes: MINUTES.parse(minutes)?.0,
            hours: HOURS.parse(hours)?.0,
            month_days,
            months: MONTHS.parse(months)?.0,
            week_days,
            either_day: !any_month_day && !any_week_day,
            zone,
        }))
    }

    /// The first time after `after`, by the clocks of `zone` unless the schedule names its own; `None` when there is
    /// none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(step) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*step).ok()
            }
            Schedule::Fields(fields) => {
                let own = fields.zone.as_deref().and_then(|name| zone_of(name).ok());
                fields.next(after, own.as_ref().unwrap_or(zone))
            }
        }
    }

    /// The last time after `since` and not after `now`, and whether there were more than `many` of them.
    pub fn latest(
        &self,
        since: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
        many: usize,
    ) -> Option<(Timestamp, bool)> {
        const HOUR: i64 = 3600;
        const WINDOWS: [i64; 5] = [HOUR, 24 * HOUR, 31 * 24 * HOUR, 366 * 24 * HOUR, 5 * 366 * 24 * HOUR];
        let mut last = None;
        for window in WINDOWS {
            // `@every` counts from where it began, so its times depend on the whole way.
            let from = match self {
                Schedule::Every(_) => since,
                Schedule::Fields(_) => {
                    since.max(Timestamp::from_second(now.as_second().saturating_sub(window)).unwrap_or(since))
                }
            };
            last = self.last_from(from, now, zone);
            if last.is_some() || from == since {
                break;
            }
        }
        let last = last?;
        let (mut at, mut passed) = (since, 0);
        while passed <= many {
            match self.next(at, zone).filter(|next| *next <= now) {
                Some(next) => (at, passed) = (next, passed + 1),
                None => break,
            }
        }
        Some((last, passed > many))
    }

    fn last_from(&self, from: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Schedule::Every(step) = self {
            let steps = u64::try_from(now.as_second() - from.as_second()).ok()? / step.as_secs();
            let whole = Timestamp::from_second(from.as_second()).ok()?;
            return (steps > 0)
                .then(|| whole.checked_add(Duration::from_secs(steps * step.as_secs())).ok())
                .flatten();
        }
        let mut last = None;
        let mut at = from;
        while let Some(next) = self.next(at, zone).filter(|next| *next <= now) {
            last = Some(next);
            at = next;
        }
        last
    }

    /// Whether the schedule names a time zone in its text.
    pub fn names_zone(&self) -> bool {
        matches!(self, Schedule::Fields(Fields { zone: Some(_), .. }))
    }
}

/// A time zone by its IANA name.
///
/// # Errors
/// When nobody knows it.
pub fn zone_of(name: &str) -> Result<TimeZone, CronError> {
    TimeZone::get(name).map_err(|_| CronError::Zone(name.to_owned()))
}

fn has(bits: u64, at: i8) -> bool {
    u32::try_from(at).is_ok_and(|at| at < 64 && bits >> at & 1 == 1)
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).date();
        let end = start.year().checked_add(HORIZON_YEARS)?;
        let mut day = start;
        while day.year() <= end {
            if has(self.months, day.month()) {
                if self.takes(day)
                    && let Some(found) = self.next_on(day, after, zone)
                {
                    return Some(found);
                }
                day = day.tomorrow().ok()?;
            } else {
                day = day.last_of_month().tomorrow().ok()?;
            }
        }
        None
    }

    fn takes(&self, day: civil::Date) -> bool {
        let by_month = has(self.month_days, day.day());
        let by_week = has(self.week_days, day.weekday().to_sunday_zero_offset());
        if self.either_day { by_month || by_week } else { by_month && by_week }
    }

    fn next_on(&self, day: civil::Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let hours = (0..24).filter(|h| has(self.hours, *h));
        let times = hours.flat_map(|h| (0..60).filter(|m| has(self.minutes, *m)).map(move |m| (h, m)));
        for (hour, minute) in times {
            let ambiguous = zone.to_ambiguous_timestamp(day.at(hour, minute, 0, 0));
            // A time the clock jumps over does not come; one it shows twice counts the first time.
            if let jiff::tz::AmbiguousOffset::Gap { .. } = ambiguous.offset() {
                continue;
            }
            if let Ok(at) = ambiguous.earlier()
                && at > after
            {
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        Schedule::parse(schedule).unwrap().next(at(after), &zone).map_or("never".into(), |t| t.to_string())
    }

    #[test]
    fn the_next_time_follows_the_fields() {
        let cases = [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:14:59Z", "2026-01-01T00:15:00Z"),
            ("5/20 * * * *", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
            ("30 4 1,15 * *", "2026-01-01T04:30:00Z", "2026-01-15T04:30:00Z"),
            ("0 0 * * MON-fri", "2026-01-02T00:00:00Z", "2026-01-05T00:00:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 ? * 5", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", "never"),
            ("@hourly", "2026-01-01T00:00:01Z", "2026-01-01T01:00:00Z"),
            ("@every 1m30s", "2026-01-01T00:00:01Z", "2026-01-01T00:01:31Z"),
        ];
        for (schedule, after, want) in cases {
            assert_eq!(next(schedule, after, "UTC"), want, "{schedule}");
        }
    }

    #[test]
    fn zones_decide_what_the_clock_shows() {
        assert_eq!(next("0 9 * * *", "2026-01-01T00:00:00Z", "Europe/Berlin"), "2026-01-01T08:00:00Z");
        // The clock jumps from 2 to 3 on 29 March 2026.
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00Z", "Europe/Berlin"), "2026-03-30T00:30:00Z");
        // It shows 2:30 twice on 25 October 2026.
        assert_eq!(next("30 2 * * *", "2026-10-24T12:00:00Z", "Europe/Berlin"), "2026-10-25T00:30:00Z");
        assert_eq!(next("TZ=Europe/Berlin 0 9 * * *", "2026-01-01T00:00:00Z", "UTC"), "2026-01-01T08:00:00Z");
    }

    #[test]
    fn the_latest_time_is_found_however_long_ago_it_began() {
        let latest = |schedule: &str, since: &str, now: &str| {
            Schedule::parse(schedule).unwrap().latest(at(since), at(now), &TimeZone::UTC, 100)
        };
        assert_eq!(
            latest("* * * * *", "2020-01-01T00:00:00Z", "2026-01-01T00:00:30Z"),
            Some((at("2026-01-01T00:00:00Z"), true))
        );
        assert_eq!(
            latest("0 0 1 * *", "2025-10-15T00:00:00Z", "2026-01-20T00:00:00Z"),
            Some((at("2026-01-01T00:00:00Z"), false))
        );
        assert_eq!(latest("0 0 1 * *", "2026-01-02T00:00:00Z", "2026-01-20T00:00:00Z"), None);
        assert_eq!(
            latest("@every 1h", "2026-01-01T00:30:00Z", "2026-01-01T03:00:00Z"),
            Some((at("2026-01-01T02:30:00Z"), false))
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused_in_words() {
        let cases = [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("@often", "unrecognized descriptor: @often"),
            (
                "TZ=Nowhere/None * * * * *",
                "provided bad location Nowhere/None: unknown time zone Nowhere/None",
            ),
        ];
        for (text, want) in cases {
            assert_eq!(Schedule::parse(text).unwrap_err().to_string(), want, "{text}");
        }
    }
}
