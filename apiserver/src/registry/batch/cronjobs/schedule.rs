//! Whether a text is a cron schedule: five fields, or a descriptor such as `@daily` or `@every 1h`.
//!
//! Contract: cron's standard parser as upstream uses it (robfig/cron v3), in its words.

use component_base::goduration;

/// A field: its least and greatest number, and names that stand for numbers from the least on.
struct Bounds(u32, u32, &'static [&'static str]);

const FIELDS: [Bounds; 5] = [
    Bounds(0, 59, &[]),
    Bounds(0, 23, &[]),
    Bounds(1, 31, &[]),
    Bounds(1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    Bounds(0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Fails with what is wrong.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let mut text = schedule;
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let (zone, rest) = text.split_once(' ').unwrap_or((text, ""));
        let name = zone.split_once('=').map_or("", |(_, name)| name);
        if !super::is_zone(name) {
            return Err(format!("provided bad location {name}: unknown time zone {name}"));
        }
        text = rest.trim();
    }
    if text.starts_with('@') {
        return descriptor(text);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(&FIELDS).try_for_each(|(field, bounds)| {
        field.split(',').filter(|part| !part.is_empty()).try_for_each(|part| range(part, bounds))
    })
}

fn descriptor(text: &str) -> Result<(), String> {
    if matches!(text, "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly") {
        return Ok(());
    }
    match text.strip_prefix("@every ") {
        Some(every) => match goduration::parse(every) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("failed to parse duration {text}: time: invalid duration {every:?}")),
        },
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

/// `*`, `n`, `n-m`, each with a step.
fn range(text: &str, Bounds(least, greatest, names): &Bounds) -> Result<(), String> {
    let (span, step) = text.split_once('/').map_or((text, None), |(span, step)| (span, Some(step)));
    let (first, last) = span.split_once('-').map_or((span, None), |(first, last)| (first, Some(last)));
    let (from, mut to) = if first == "*" || first == "?" {
        (*least, *greatest)
    } else {
        let from = number(first, *least, names)?;
        match last {
            None => (from, from),
            Some(last) if last.contains('-') => return Err(format!("too many hyphens: {text}")),
            Some(last) => (from, number(last, *least, names)?),
        }
    };
    let every = match step {
        None => 1,
        Some(step) if step.contains('/') => return Err(format!("too many slashes: {text}")),
        Some(step) => {
            if last.is_none() {
                to = *greatest;
            }
            number(step, 0, &[])?
        }
    };
    if from < *least {
        return Err(format!("beginning of range ({from}) below minimum ({least}): {text}"));
    }
    if to > *greatest {
        return Err(format!("end of range ({to}) above maximum ({greatest}): {text}"));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {text}"));
    }
    if every == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

fn number(text: &str, least: u32, names: &[&str]) -> Result<u32, String> {
    let lower = text.to_lowercase();
    if let Some(place) = names.iter().position(|name| *name == lower) {
        return Ok(least.saturating_add(u32::try_from(place).unwrap_or(u32::MAX)));
    }
    match text.parse::<i64>() {
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
        }
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn schedules_are_told_from_other_texts() {
        for good in [
            "* * * * *",
            "*/5 0-23/2 1,15 jan-DEC mon",
            "0 0 ? * 6",
            "@daily",
            "@every 1h30m",
            "TZ=Europe/Berlin 0 1 * * *",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-2 * * * *", "beginning of range (5) beyond end of range (2): 5-2"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()), "{bad}");
        }
    }
}
