//! Semantic versions: `semver("1.2.3").isLessThan(semver("2.0.0"))`.
//!
//! Contract: Semantic Versioning 2.0.0; `normalize` accepts a leading `v`, missing parts and leading zeros.

use std::{any::Any, cmp::Ordering};

use super::Line;
use crate::value::{EvalError, Opaque, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("string_to_semver", "semver(string) -> semver", |c| parsed(c.str(0)?, false)),
    ("string_bool_to_semver", "semver(string, bool) -> semver", |c| {
        parsed(c.str(0)?, matches!(c.arg(1)?, Value::Bool(true)))
    }),
    ("is_semver_string", "isSemver(string) -> bool", |c| {
        Ok(Value::Bool(Version::parse(c.str(0)?).is_some()))
    }),
    ("is_semver_string_bool", "isSemver(string, bool) -> bool", |c| {
        Ok(Value::Bool(parsed(c.str(0)?, matches!(c.arg(1)?, Value::Bool(true))).is_ok()))
    }),
    ("semver_is_greater_than", "semver :: isGreaterThan(semver) -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Version>(0)?.compare(c.opaque(1)?).is_gt()))
    }),
    ("semver_is_less_than", "semver :: isLessThan(semver) -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Version>(0)?.compare(c.opaque(1)?).is_lt()))
    }),
    ("semver_compare_to", "semver :: compareTo(semver) -> int", |c| {
        Ok(Value::Int(c.opaque::<Version>(0)?.compare(c.opaque(1)?) as i64))
    }),
    ("semver_major", "semver :: major() -> int", |c| number(c.opaque::<Version>(0)?.numbers[0])),
    ("semver_minor", "semver :: minor() -> int", |c| number(c.opaque::<Version>(0)?.numbers[1])),
    ("semver_patch", "semver :: patch() -> int", |c| number(c.opaque::<Version>(0)?.numbers[2])),
];

fn number<'a>(n: u64) -> Result<Value<'a>, EvalError> {
    i64::try_from(n).map(Value::Int).map_err(|_| EvalError::failed("integer overflow"))
}

fn parsed<'a>(text: &str, normalize: bool) -> Result<Value<'a>, EvalError> {
    let version = if normalize { Version::parse(&normalized(text)) } else { Version::parse(text) };
    let wrong = || EvalError::failed(format!("invalid semantic version: {text:?}"));
    version.map(Value::opaque).ok_or_else(wrong)
}

/// Removes a leading `v` and leading zeros, and fills the parts that are missing.
fn normalized(text: &str) -> String {
    let text = text.trim_start_matches('v');
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let mut parts: Vec<String> = core
        .splitn(3, '.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0".to_owned(),
            trimmed => trimmed.to_owned(),
        })
        .collect();
    while parts.len() < 3 && rest.is_empty() {
        parts.push("0".to_owned());
    }
    format!("{}{rest}", parts.join("."))
}

/// A semantic version.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    pre: Vec<String>,
    build: Vec<String>,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let (text, build) = match text.split_once('+') {
            Some((text, build)) => (text, identifiers(build)?),
            None => (text, Vec::new()),
        };
        let (core, pre) = match text.split_once('-') {
            Some((core, pre)) => {
                let pre = identifiers(pre)?;
                let zeros =
                    |p: &String| p.len() > 1 && p.starts_with('0') && p.bytes().all(|b| b.is_ascii_digit());
                if pre.iter().any(zeros) {
                    return None;
                }
                (core, pre)
            }
            None => (text, Vec::new()),
        };
        let mut parts = core.split('.').map(|part| {
            let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let plain = plain && (part == "0" || !part.starts_with('0'));
            if plain { part.parse::<u64>().ok() } else { None }
        });
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(Version { numbers, pre, build })
    }

    fn compare(&self, other: &Version) -> Ordering {
        let pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            // A version comes after its own pre-releases.
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => compare_pre(&self.pre, &other.pre),
        };
        self.numbers.cmp(&other.numbers).then_with(pre)
    }
}

fn identifiers(text: &str) -> Option<Vec<String>> {
    let parts: Vec<String> = text.split('.').map(str::to_owned).collect();
    let valid = |p: &String| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    parts.iter().all(valid).then_some(parts)
}

fn compare_pre(a: &[String], b: &[String]) -> Ordering {
    for (x, y) in a.iter().zip(b) {
        let order = match (x.parse::<u64>(), y.parse::<u64>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => x.cmp(y),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

impl Opaque for Version {
    fn type_name(&self) -> &str {
        "kubernetes.Semver"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        // Precedence ignores build metadata, and equality is precedence.
        other.as_any().downcast_ref::<Version>().is_some_and(|other| self.compare(other).is_eq())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
