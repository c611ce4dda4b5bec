//! Costs of single functions: the list functions at run time, and every function that upstream estimates by itself.

use super::{
    AUTHORIZATION, COMPARISONS, CostRange, LIST, PATTERN, TRAVERSAL, copied, has_text, scaled, selector, size,
};
use crate::{ast::Literal, library::devices::MAX_VALUES, types::Type, value::Value};

/// What is known of an argument before run time.
#[derive(Debug)]
pub(super) struct Operand<'e> {
    /// Its type.
    pub(super) cel_type: Type,
    /// The value, where it is a literal.
    pub(super) literal: Option<&'e Literal>,
    /// Its size, where anything is known of it.
    pub(super) known: Option<CostRange>,
    /// The size of its items, of a list whose schema says it.
    pub(super) items: Option<CostRange>,
}

impl Operand<'_> {
    fn size(&self) -> CostRange {
        self.known.unwrap_or(CostRange::UNKNOWN)
    }

    /// A whole number in the source.
    fn int(&self) -> Option<u64> {
        match self.literal {
            Some(Literal::Int(i)) => Some(u64::try_from(*i).unwrap_or(0)),
            _ => None,
        }
    }
}

/// An estimate: the cost of the call without its arguments, and the size of its result where it is known.
pub(super) type Estimate = (CostRange, Option<CostRange>);

/// The run-time cost of the functions of the lists extension; `None` for any other.
pub(super) fn list_cost(overload: &str, args: &[Value<'_>], result: Option<&Value<'_>>) -> Option<u64> {
    let made = |units: u64| units.saturating_add(1 + LIST);
    let compared = |index: usize| {
        let items = size(args, index);
        let text = matches!(args.get(index), Some(Value::List(list)) if has_text(list));
        made((items.saturating_mul(items) as f64 * if text { 2.1 } else { 2.0 }) as u64)
    };
    Some(match overload {
        "list_slice" | "list_reverse" => made(result.map_or(0, Value::size)),
        "lists_range" => match args.first() {
            Some(Value::Int(count)) => made(u64::try_from(*count).unwrap_or(0)),
            _ => made(0),
        },
        "list_flatten" => made(size(args, 0)).max(result.map_or(0, Value::size)),
        "list_flatten_int" => {
            let depth = match args.get(1) {
                Some(Value::Int(depth)) => u64::try_from(*depth).unwrap_or(0),
                _ => 1,
            };
            made(size(args, 0).saturating_mul(depth.min(1_000))).max(result.map_or(0, Value::size))
        }
        "list_distinct" => compared(0),
        "@mapInsert_map_map" | "@mapInsert_map_key_value" => match args.first() {
            Some(Value::Map(map)) => 1 + copied(map),
            _ => 1,
        },
        _ if overload.ends_with("_sortByAssociatedKeys") => compared(1),
        _ if overload.starts_with("list_") && overload.ends_with("_sort") => compared(0),
        _ => return None,
    })
}

/// The estimate of a function that has one of its own; `args` has the receiver first if `member`.
pub(super) fn estimate(
    function: &str,
    overload: &str,
    member: bool,
    args: &[Operand<'_>],
) -> Option<Estimate> {
    let one = Some((CostRange::fixed(1), None));
    let (target, rest) = match member {
        true => args.split_first().map(|(target, rest)| (Some(target), rest))?,
        false => (None, args),
    };
    let first = rest.first();
    let parsed = |factor: f64| first.map(|arg| (arg.size().scaled(factor), None));
    match function {
        "check" => Some((CostRange::fixed(AUTHORIZATION), None)),
        "serviceAccount"
        | "path"
        | "group"
        | "resource"
        | "subresource"
        | "namespace"
        | "name"
        | "allowed"
        | "reason"
        | "error"
        | "errored"
        | "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast"
        | "format.named"
        | "sign"
        | "asInteger"
        | "isInteger"
        | "asApproximateFloat"
        | "isGreaterThan"
        | "isLessThan"
        | "compareTo"
        | "add"
        | "sub"
        | "major"
        | "minor"
        | "patch"
        | "getScheme"
        | "getHostname"
        | "getHost"
        | "getPort"
        | "getEscapedPath"
        | "getQuery" => one,
        "fieldSelector" | "labelSelector" => Some((selector(first?.size()), None)),
        "includes" => Some((CostRange { min: 0, max: MAX_VALUES as u64 }, None)),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => Some((visited(target?), None)),
        "url" | "jsonpatch.escapeKey" => first.map(|arg| (arg.size().scaled(TRAVERSAL), Some(arg.size()))),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => {
            target.map(|text| (text.size().scaled(TRAVERSAL), Some(text.size())))
        }
        "replace" => Some(replaced(target?, rest.first()?, rest.get(1)?)),
        "split" => {
            let text = target?.size();
            let max = rest.get(1).and_then(Operand::int).unwrap_or(text.max);
            Some((text.scaled(2.0 * TRAVERSAL), Some(CostRange { min: 0, max })))
        }
        "join" => Some(joined(target?, first)),
        "find" | "findAll" => {
            let text = target?.size();
            let cost = text.plus(CostRange::fixed(1)).scaled(TRAVERSAL).times(first?.size().scaled(PATTERN));
            Some((cost, Some(CostRange { min: 0, max: text.max })))
        }
        "ip" if overload == "cidr_ip" => one,
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            parsed(TRAVERSAL)
        }
        "ip.isCanonical" => parsed(2.0 * TRAVERSAL),
        "containsIP" | "containsCIDR" => Some((contained(function, overload, first?), None)),
        "validate" => {
            // The length of the longest pattern of the named formats is upstream's estimate for all.
            Some((first?.size().scaled(TRAVERSAL).scaled(128.0 * PATTERN), None))
        }
        "_==_" => equal_objects(rest),
        _ => list_estimate(overload, target, rest),
    }
}

/// Every item of a list, or every character of a text.
fn visited(target: &Operand<'_>) -> CostRange {
    match &target.cel_type {
        Type::List(item) => {
            let each = match item.as_ref() {
                Type::String | Type::Bytes => {
                    CostRange::fixed(1).plus(target.items.unwrap_or(CostRange::UNKNOWN).scaled(TRAVERSAL))
                }
                _ => CostRange::fixed(1),
            };
            target.size().times(each)
        }
        _ => target.size().scaled(TRAVERSAL),
    }
}

/// A text with parts replaced: the shortest and the longest it can become.
fn replaced(text: &Operand<'_>, old: &Operand<'_>, new: &Operand<'_>) -> Estimate {
    let (text, old, new) = (text.size(), old.size(), new.size());
    let ratio = |size: u64, by: u64| (size as f64 / by as f64).ceil() as u64;
    let (count_max, kept_max) = match old.min {
        // An empty text stands before, between and after all characters.
        0 => (text.max.saturating_add(1), text.max),
        shortest if new.max <= shortest => (0, text.max),
        shortest => (ratio(text.max, shortest), 0),
    };
    let (count_min, kept_min) = match old.max {
        0 => (text.min.saturating_add(1), text.min),
        longest if longest <= new.min => (0, text.min),
        longest => (ratio(text.min, longest), 0),
    };
    let count = CostRange { min: count_min, max: count_max };
    let size = count.times(new).plus(CostRange { min: kept_min, max: kept_max });
    (text.scaled(2.0 * TRAVERSAL), Some(size))
}

fn joined(list: &Operand<'_>, separator: Option<&Operand<'_>>) -> Estimate {
    let count = list.size();
    let items = match &list.cel_type {
        Type::List(_) => count.times(list.items.unwrap_or(CostRange::UNKNOWN)),
        _ => CostRange::fixed(0),
    };
    let between = CostRange { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
    let size = items.plus(separator.map_or(CostRange::fixed(0), |s| s.size().times(between)));
    (size.scaled(TRAVERSAL), Some(size))
}

/// An address or network in a network: the bytes of both.
fn contained(function: &str, overload: &str, other: &Operand<'_>) -> CostRange {
    let bytes = CostRange { min: 4, max: 16 };
    let mut cost = bytes.plus(bytes).scaled(TRAVERSAL);
    if function == "containsCIDR" {
        cost = cost.plus(bytes.scaled(TRAVERSAL)).plus(CostRange::fixed(1));
    }
    match overload.ends_with("_string") {
        true => cost.plus(other.size().scaled(TRAVERSAL)),
        false => cost,
    }
}

/// Equality of values of the libraries; of anything else by size.
fn equal_objects(args: &[Operand<'_>]) -> Option<Estimate> {
    let [left, right] = args else { return None };
    let Type::Opaque(name) = &left.cel_type else { return None };
    if left.cel_type != right.cel_type {
        return None;
    }
    let cost = match name.as_ref() {
        "kubernetes.NamedFormat" => CostRange { min: 1, max: 64 }.scaled(TRAVERSAL),
        "kubernetes.URL" => {
            let max = right.known.map_or(1, |size| size.max);
            CostRange { min: 1, max }.scaled(TRAVERSAL)
        }
        _ => CostRange::fixed(1),
    };
    Some((cost, None))
}

/// The functions of the lists and sets extensions.
fn list_estimate(overload: &str, target: Option<&Operand<'_>>, args: &[Operand<'_>]) -> Option<Estimate> {
    let made = |factor: f64, size: CostRange| {
        Some((size.scaled(factor).plus(CostRange::fixed(1 + LIST)), Some(size)))
    };
    let compared = |list: &Operand<'_>| {
        let text = matches!(&list.cel_type, Type::List(item) if matches!(**item, Type::String | Type::Bytes));
        made(if text { 2.1 } else { 2.0 }, list.size().times(list.size()))
    };
    match overload {
        "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list" => {
            let [a, b] = args else { return None };
            let times = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
            Some((a.size().times(b.size()).scaled(times).plus(CostRange::fixed(1)), None))
        }
        "list_slice" => {
            let [start, end] = args else { return None };
            let end = end.int().unwrap_or(target?.size().max);
            made(1.0, CostRange::fixed(end.saturating_sub(start.int().unwrap_or(0))))
        }
        "lists_range" => made(1.0, CostRange::fixed(args.first()?.int().unwrap_or(u64::MAX))),
        "list_reverse" | "list_flatten" => made(1.0, target?.size()),
        "list_flatten_int" => made(args.first()?.int().unwrap_or(u64::MAX) as f64, target?.size()),
        "list_distinct" => made(2.0, target?.size().times(target?.size())),
        _ if overload.ends_with("_sortByAssociatedKeys") => compared(args.first()?),
        _ if overload.starts_with("list_") && overload.ends_with("_sort") => compared(target?),
        _ => None,
    }
}

/// The estimate of the language's own functions, by overload.
pub(super) fn standard(overload: &str, member: bool, args: &[Operand<'_>]) -> Estimate {
    let sized = |index: usize| args.get(index).map_or(CostRange::UNKNOWN, Operand::size);
    match overload {
        "string_format" => (sized(0).scaled(TRAVERSAL), None),
        "string_to_bytes" => {
            let size = sized(0);
            (size.scaled(TRAVERSAL), Some(CostRange { min: size.min, max: size.max.saturating_mul(4) }))
        }
        "bytes_to_string" => {
            let size = sized(0);
            (size.scaled(TRAVERSAL), Some(CostRange { min: size.min / 4, max: size.max }))
        }
        "strings_quote" => {
            let size = sized(0).plus(CostRange::fixed(2));
            let max = sized(0).max.saturating_mul(2).saturating_add(2);
            (sized(0).scaled(TRAVERSAL), Some(CostRange { min: size.min, max }))
        }
        // The argument, not the text it is looked for in.
        "starts_with_string" | "ends_with_string" => (sized(1).scaled(TRAVERSAL), None),
        "in_list" => (sized(1), None),
        "matches_string" if member => {
            let text = sized(0).plus(CostRange::fixed(1)).scaled(TRAVERSAL);
            (text.times(sized(1).scaled(PATTERN)), None)
        }
        "contains_string" => (sized(0).scaled(TRAVERSAL).times(sized(1).scaled(TRAVERSAL)), None),
        "add_string" | "add_bytes" => {
            let size = sized(0).plus(sized(1));
            (size.scaled(TRAVERSAL), Some(size))
        }
        "add_list" => (CostRange::fixed(1), Some(sized(0).plus(sized(1)))),
        _ if COMPARISONS.contains(&overload) => {
            let max = sized(0).max.min(sized(1).max);
            (CostRange { min: u64::from(max > 0), max: scaled(max, TRAVERSAL) }, None)
        }
        _ => (CostRange::fixed(1), None),
    }
}
