//! The `cache` directive.
//!
//! Contract: CoreDNS' `cache`, without `serve_stale_policy`.

use std::time::Duration;

use super::{CacheDirective, CorefileError, Line, zones};
use crate::{
    cache::{Limits, Prefetch},
    zone::Labels,
};

/// Longest a failure may be kept, in seconds.
const MAX_FAILURE: u32 = 300;

/// `cache [TTL] [ZONES…] { … }`.
pub(super) fn cache(line: &Line) -> Result<CacheDirective, CorefileError> {
    let mut directive = CacheDirective::default();
    let out = &mut directive.limits;
    let mut names = line.args();
    if let Some(first) = line.args().first().and_then(|a| a.parse::<u32>().ok()) {
        if first == 0 {
            return line.error("cache: the TTL must be more than zero");
        }
        out.max_ttl = first;
        out.denial_max_ttl = out.denial_max_ttl.min(out.max_ttl);
        names = &names[1..];
    }
    directive.zones = zones(line, names)?;
    for option in &line.block {
        apply(&mut directive, option)?;
    }
    Ok(directive)
}

fn apply(directive: &mut CacheDirective, option: &Line) -> Result<(), CorefileError> {
    let out = &mut directive.limits;
    let ttl = |at| option.args().get(at).map(|_| option.arg(at, "seconds")).transpose();
    match option.name() {
        "success" => {
            out.capacity = option.arg(0, "a capacity")?;
            out.max_ttl = ttl(1)?.unwrap_or(out.max_ttl);
            out.min_ttl = ttl(2)?.unwrap_or(out.min_ttl);
        }
        "denial" => {
            out.denial_capacity = option.arg(0, "a capacity")?;
            out.denial_max_ttl = ttl(1)?.unwrap_or(out.denial_max_ttl);
            out.denial_min_ttl = ttl(2)?.unwrap_or(out.denial_min_ttl);
        }
        "servfail" => {
            out.failure_ttl = seconds(option.duration()?);
            if out.failure_ttl > MAX_FAILURE {
                return option.error("cache: servfail must be at most 5m");
            }
        }
        "serve_stale" => stale(out, option)?,
        "prefetch" => out.prefetch = Some(prefetch(option)?),
        "keepttl" => out.keep_ttl = true,
        "disable" => match option.args() {
            [what, names @ ..] if what == "success" => directive.no_success.extend(below(option, names)?),
            [what, names @ ..] if what == "denial" => directive.no_denial.extend(below(option, names)?),
            _ => return option.error("cache: disable needs success or denial"),
        },
        "serve_stale_policy" => return option.error("cache: serve_stale_policy is not supported"),
        other => return option.error(format!("cache: unknown option {other}")),
    }
    Ok(())
}

/// Without a zone an option is for all names, which lie in the root.
fn below(option: &Line, names: &[String]) -> Result<Vec<Labels>, CorefileError> {
    if names.is_empty() { Ok(vec![Labels::parse(".")]) } else { zones(option, names) }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// `serve_stale [DURATION] [immediate [TTL [RECHECK]] | verify [TIMEOUT [TTL [RECHECK]]]]`.
fn stale(out: &mut Limits, option: &Line) -> Result<(), CorefileError> {
    out.stale = if option.args().is_empty() { Duration::from_secs(3600) } else { option.duration()? };
    // As in CoreDNS, where the way is not said.
    out.stale_at_once = match option.args().get(1).map(String::as_str) {
        None | Some("immediate") => true,
        Some("verify") => false,
        Some(_) => return option.error("cache: serve_stale is immediate or verify"),
    };
    let mut at = 2;
    let mut next = || {
        let given = option.args().get(at).map(|text| match text.as_str() {
            "0" => Ok(Duration::ZERO),
            _ => option.duration_at(at),
        });
        at += 1;
        given.transpose()
    };
    if !out.stale_at_once {
        out.verify_within = next()?.filter(|timeout| !timeout.is_zero());
    }
    let ttl = next()?.unwrap_or_default();
    if ttl.subsec_nanos() != 0 {
        return option.error("cache: serve_stale: the TTL must be whole seconds");
    }
    out.stale_ttl = seconds(ttl);
    out.recheck = next()?.unwrap_or_default();
    match option.args().get(at) {
        Some(word) => option.error(format!("cache: serve_stale: unexpected {word}")),
        None => Ok(()),
    }
}

/// `prefetch AMOUNT [DURATION [PERCENTAGE%]]`.
fn prefetch(option: &Line) -> Result<Prefetch, CorefileError> {
    let mut out =
        Prefetch { amount: option.arg(0, "an amount")?, within: Duration::from_secs(60), percentage: 10 };
    if let Some(text) = option.args().get(1) {
        out.within = match component_base::goduration::parse(text) {
            Ok(within) => within,
            Err(error) => return option.error(format!("cache: prefetch: {error}")),
        };
    }
    if let Some(text) = option.args().get(2) {
        let number = text.strip_suffix('%').and_then(|n| n.parse().ok());
        out.percentage = match number.filter(|n| (10..=90).contains(n)) {
            Some(number) => number,
            None => return option.error("cache: prefetch: a percentage is from 10% to 90%"),
        };
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};

    fn read(option: &str) -> Result<Limits, String> {
        let text = format!(". {{\ncache {{\n{option}\n}}\n}}");
        parse(&text).map(|mut blocks| blocks.remove(0).cache.unwrap().limits).map_err(|error| error.message)
    }

    #[test]
    fn old_answers_are_served_in_all_ways() {
        let second = Duration::from_secs;
        for (option, want) in [
            ("serve_stale", (3600, true, None, 0, 0)),
            ("serve_stale 1h immediate 30s 15s", (3600, true, None, 30, 15)),
            ("serve_stale 2h verify", (7200, false, None, 0, 0)),
            ("serve_stale 1h verify 2s 30s", (3600, false, Some(second(2)), 30, 0)),
            ("serve_stale 1h verify 0 30s 15s", (3600, false, None, 30, 15)),
        ] {
            let out = read(option).unwrap();
            let told = (out.stale.as_secs(), out.stale_at_once, out.verify_within, out.stale_ttl);
            assert_eq!(told, (want.0, want.1, want.2, want.3), "{option}");
            assert_eq!(out.recheck, second(want.4), "{option}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (option, want) in [
            ("serve_stale 1h soon", "cache: serve_stale is immediate or verify"),
            ("serve_stale 1h immediate 1.5s", "cache: serve_stale: the TTL must be whole seconds"),
            ("serve_stale 1h immediate 1s 1s 1s", "cache: serve_stale: unexpected 1s"),
            ("serve_stale_policy prefer_positive", "cache: serve_stale_policy is not supported"),
            ("servfail 6m", "cache: servfail must be at most 5m"),
            ("prefetch 3 1m 5%", "cache: prefetch: a percentage is from 10% to 90%"),
        ] {
            assert_eq!(read(option).unwrap_err(), want, "{option}");
        }
    }
}
