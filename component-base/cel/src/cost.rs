//! Cost: what an expression may cost by the sizes its schemas allow, and what a call did cost.
//!
//! Contract: upstream's numbers. The estimate decides which rules a custom resource definition may have, so that a
//! definition valid there must be valid here; the run-time cost decides when an evaluation is stopped.

use crate::{
    ast::Literal,
    library::format::Named,
    value::{List, Map, Value},
};

mod calls;
mod estimate;

pub(crate) use estimate::estimate;

/// A character compared or copied.
const TRAVERSAL: f64 = 0.1;
/// A character of a pattern.
const PATTERN: f64 = 0.25;
/// Making a list.
pub(crate) const LIST: u64 = 10;
/// Making a map.
pub(crate) const MAP: u64 = 30;
/// Making an object.
pub(crate) const OBJECT: u64 = 40;
/// A question to the authorizer: dear enough that an expression can ask only twice.
const AUTHORIZATION: u64 = 350_000;
/// Items of two lists that are copied for one unit beyond upstream's, where copying is free.
const COPIED_PER_UNIT: u64 = 100;

/// Comparisons that look at as much as the shorter side has.
const COMPARISONS: &[&str] = &[
    "equals",
    "not_equals",
    "less_string",
    "greater_string",
    "less_equals_string",
    "greater_equals_string",
    "less_bytes",
    "greater_bytes",
    "less_equals_bytes",
    "greater_equals_bytes",
];

/// A range of costs or sizes; arithmetic saturates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostRange {
    /// The least it can be.
    pub min: u64,
    /// The most it can be.
    pub max: u64,
}

impl CostRange {
    /// Known exactly.
    pub const fn fixed(value: u64) -> Self {
        Self { min: value, max: value }
    }

    /// Nothing is known.
    pub(crate) const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Scaled and rounded up.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        Self { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// A product rounded up; more than 64 bits hold is the most they do.
fn scaled(value: u64, factor: f64) -> u64 {
    // Casting a float saturates.
    (value as f64 * factor).ceil() as u64
}

/// The cost of a selector of some length given to the authorizer.
fn selector(length: CostRange) -> CostRange {
    // A requirement takes two characters at least, and makes a list and an object.
    let requirements = length.scaled(0.5).scaled((LIST + OBJECT) as f64);
    CostRange::fixed(LIST).plus(length.scaled(TRAVERSAL)).plus(requirements)
}

/// What a call costs before it is made: what its arguments say.
pub(crate) fn before(function: &str, overload: &str, args: &[Value<'_>]) -> u64 {
    call(function, overload, args, None)
}

/// What a call did cost.
pub(crate) fn actual(function: &str, overload: &str, args: &[Value<'_>], result: &Value<'_>) -> u64 {
    call(function, overload, args, Some(result))
}

fn size(args: &[Value<'_>], index: usize) -> u64 {
    args.get(index).map_or(1, Value::size)
}

fn call(function: &str, overload: &str, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
    let length = |index: usize| scaled(size(args, index), TRAVERSAL);
    let regex = |text: usize, pattern: u64| {
        // One character more, as a pattern costs on an empty text too.
        scaled(size(args, text).saturating_add(1), TRAVERSAL).saturating_mul(scaled(pattern, PATTERN))
    };
    match function {
        "check" => return AUTHORIZATION,
        "fieldSelector" | "labelSelector" => return selector(CostRange::fixed(size(args, 1))).max,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            return args.first().map_or(0, traversal);
        }
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => return length(0),
        "replace" | "split" | "ip.isCanonical" => return scaled(size(args, 0), 2.0 * TRAVERSAL),
        "join" => return result.map_or(1, |joined| scaled(joined.size(), 2.0 * TRAVERSAL)),
        "find" | "findAll" => return regex(0, size(args, 1)),
        "ip" if overload != "cidr_ip" => return length(0),
        "containsIP" | "containsCIDR" => {
            let compared = scaled(2 * size(args, 0), TRAVERSAL);
            let masked = if function == "containsCIDR" { length(0) + 1 } else { 0 };
            return compared + masked + if overload.ends_with("_string") { length(1) } else { 0 };
        }
        "validate" => {
            if let Some(Ok(named)) = args.first().map(Value::downcast::<Named>) {
                return regex(1, named.0.max_regex_size);
            }
        }
        "_==_" if matches!(args.first(), Some(Value::Opaque(_))) => return 1,
        _ => {}
    }
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => length(0),
        "in_list" => size(args, 1),
        _ if COMPARISONS.contains(&overload) => scaled(size(args, 0).min(size(args, 1)), TRAVERSAL),
        "add_string" | "add_bytes" => scaled(size(args, 0).saturating_add(size(args, 1)), TRAVERSAL),
        "add_list" => 1 + size(args, 0).saturating_add(size(args, 1)) / COPIED_PER_UNIT,
        "matches_string" | "matches" => regex(0, size(args, 1)),
        "contains_string" => length(0).saturating_mul(length(1)),
        "list_sets_contains_list" | "list_sets_intersects_list" => {
            1 + size(args, 0).saturating_mul(size(args, 1))
        }
        "list_sets_equivalent_list" => 1 + size(args, 0).saturating_mul(size(args, 1)).saturating_mul(2),
        _ => calls::list_cost(overload, args, result).unwrap_or(1),
    }
}

/// The cost of looking at every part of a value.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.as_str().len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => (0..list.len()).fold(0, |sum: u64, i| match list.get(i) {
            Some(Ok(item)) => sum.saturating_add(traversal(&item)),
            _ => sum.saturating_add(1),
        }),
        Value::Map(map) => map.keys().iter().fold(0, |sum: u64, key| {
            let value = map.get(key).ok().flatten().map_or(1, |v| traversal(&v));
            sum.saturating_add(traversal(key)).saturating_add(value)
        }),
        _ => 1,
    }
}

/// The size of a literal in the source.
fn literal_size(literal: &Literal) -> u64 {
    match literal {
        Literal::String(text) => text.chars().count() as u64,
        Literal::Bytes(bytes) => bytes.len() as u64,
        _ => 1,
    }
}

/// The first item of a list, whose type decides what comparing costs.
fn has_text(list: &List<'_>) -> bool {
    matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))))
}

/// What copying a map costs beyond upstream's, where it is free.
pub(crate) fn copied(map: &Map<'_>) -> u64 {
    map.len() as u64 / COPIED_PER_UNIT
}
