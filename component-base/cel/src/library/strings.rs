//! Text: the standard functions and upstream's strings extension, version 2.
//!
//! Positions count code points.

use super::{Call, Line, regex, time};
use crate::value::{EvalError, List, Map, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("contains_string", "string :: contains(string) -> bool", |c| {
        Ok(Value::Bool(c.str(0)?.contains(c.str(1)?)))
    }),
    ("starts_with_string", "string :: startsWith(string) -> bool", |c| {
        Ok(Value::Bool(c.str(0)?.starts_with(c.str(1)?)))
    }),
    ("ends_with_string", "string :: endsWith(string) -> bool", |c| {
        Ok(Value::Bool(c.str(0)?.ends_with(c.str(1)?)))
    }),
    ("matches_string", "string :: matches(string) -> bool", |c| {
        Ok(Value::Bool(regex::compiled(c, 1)?.is_match(c.str(0)?)))
    }),
    ("matches", "matches(string, string) -> bool", |c| {
        Ok(Value::Bool(regex::compiled(c, 1)?.is_match(c.str(0)?)))
    }),
    ("string_char_at_int", "string :: charAt(int) -> string", |c| {
        let (text, index) = (c.str(0)?, c.int(1)?);
        let size = text.chars().count();
        match usize::try_from(index) {
            Ok(i) if i == size => Ok(Value::text("")),
            Ok(i) if i < size => Ok(Value::text(text.chars().skip(i).take(1).collect::<String>())),
            _ => Err(out_of_range(index)),
        }
    }),
    ("string_index_of_string", "string :: indexOf(string) -> int", |c| index_of(c, 0)),
    ("string_index_of_string_int", "string :: indexOf(string, int) -> int", |c| index_of(c, c.int(2)?)),
    ("string_last_index_of_string", "string :: lastIndexOf(string) -> int", |c| last_index_of(c, None)),
    ("string_last_index_of_string_int", "string :: lastIndexOf(string, int) -> int", |c| {
        last_index_of(c, Some(c.int(2)?))
    }),
    ("string_lower_ascii", "string :: lowerAscii() -> string", |c| {
        Ok(Value::text(c.str(0)?.to_ascii_lowercase()))
    }),
    ("string_upper_ascii", "string :: upperAscii() -> string", |c| {
        Ok(Value::text(c.str(0)?.to_ascii_uppercase()))
    }),
    ("string_replace_string_string", "string :: replace(string, string) -> string", |c| {
        bounded_replace(c.str(0)?, c.str(1)?, c.str(2)?, usize::MAX)
    }),
    ("string_replace_string_string_int", "string :: replace(string, string, int) -> string", |c| {
        let count = usize::try_from(c.int(3)?).unwrap_or(usize::MAX);
        bounded_replace(c.str(0)?, c.str(1)?, c.str(2)?, count)
    }),
    ("string_split_string", "string :: split(string) -> list<string>", |c| split(c.str(0)?, c.str(1)?, -1)),
    ("string_split_string_int", "string :: split(string, int) -> list<string>", |c| {
        split(c.str(0)?, c.str(1)?, c.int(2)?)
    }),
    ("string_substring_int", "string :: substring(int) -> string", |c| {
        let (text, start) = (c.str(0)?, c.int(1)?);
        let size = text.chars().count();
        let from = usize::try_from(start).ok().filter(|s| *s <= size).ok_or_else(|| out_of_range(start))?;
        Ok(Value::text(text.chars().skip(from).collect::<String>()))
    }),
    ("string_substring_int_int", "string :: substring(int, int) -> string", |c| {
        let (text, start, end) = (c.str(0)?, c.int(1)?, c.int(2)?);
        let size = text.chars().count();
        if start > end {
            let message = format!("invalid substring range. start: {start}, end: {end}");
            return Err(EvalError::failed(message));
        }
        let within = |i: i64| usize::try_from(i).ok().filter(|s| *s <= size).ok_or_else(|| out_of_range(i));
        let (from, to) = (within(start)?, within(end)?);
        Ok(Value::text(text.chars().skip(from).take(to - from).collect::<String>()))
    }),
    ("string_trim", "string :: trim() -> string", |c| Ok(Value::text(c.str(0)?.trim()))),
    ("string_format", "string :: format(list<dyn>) -> string", |c| format(c.str(0)?, &c.list(1)?.items()?)),
    ("strings_quote", "strings.quote(string) -> string", |c| Ok(Value::text(quote(c.str(0)?)))),
    ("list_join", "list<string> :: join() -> string", |c| join(c.list(0)?, "")),
    ("list_join_string", "list<string> :: join(string) -> string", |c| join(c.list(0)?, c.str(1)?)),
];

/// Bytes of the largest text a function makes; more is an error before it is memory.
const MAX_TEXT: usize = 16 * 1024 * 1024;

fn out_of_range(index: i64) -> EvalError {
    EvalError::failed(format!("index out of range: {index}"))
}

fn too_large() -> EvalError {
    EvalError::failed("result is too large")
}

fn index_of<'a>(call: &Call<'_, 'a>, offset: i64) -> Result<Value<'a>, EvalError> {
    let text: Vec<char> = call.str(0)?.chars().collect();
    let wanted: Vec<char> = call.str(1)?.chars().collect();
    let from = usize::try_from(offset).map_err(|_| out_of_range(offset))?;
    if wanted.is_empty() {
        return Ok(Value::Int(from.min(text.len()) as i64));
    }
    let found = text.get(from..).and_then(|rest| rest.windows(wanted.len()).position(|w| w == wanted));
    Ok(Value::Int(found.map_or(-1, |i| (i + from) as i64)))
}

fn last_index_of<'a>(call: &Call<'_, 'a>, offset: Option<i64>) -> Result<Value<'a>, EvalError> {
    let text: Vec<char> = call.str(0)?.chars().collect();
    let wanted: Vec<char> = call.str(1)?.chars().collect();
    let offset = match offset {
        Some(offset) => Some(usize::try_from(offset).map_err(|_| out_of_range(offset))?),
        None => None,
    };
    if wanted.is_empty() {
        return Ok(Value::Int(offset.unwrap_or(text.len()).min(text.len()) as i64));
    }
    if offset.is_some_and(|o| o >= text.len()) {
        return Ok(Value::Int(-1));
    }
    let mut windows = text.windows(wanted.len()).enumerate();
    let found = windows.by_ref().rev().find(|(i, w)| offset.is_none_or(|o| *i <= o) && *w == wanted);
    Ok(Value::Int(found.map_or(-1, |(i, _)| i as i64)))
}

fn bounded_replace<'a>(text: &str, old: &str, new: &str, count: usize) -> Result<Value<'a>, EvalError> {
    let times = text.matches(old).take(count).count();
    if text.len().saturating_add(times.saturating_mul(new.len())) > MAX_TEXT {
        return Err(too_large());
    }
    Ok(Value::text(text.replacen(old, new, count)))
}

fn split<'a>(text: &str, separator: &str, limit: i64) -> Result<Value<'a>, EvalError> {
    let limit = match limit {
        0 => return Ok(Value::list(Vec::new())),
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let parts: Vec<Value<'a>> = if separator.is_empty() {
        // Each character; the last part takes what the limit leaves.
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (first, after) =
                if parts.len() + 1 == limit { (rest, "") } else { rest.split_at(c.len_utf8()) };
            parts.push(Value::text(first));
            rest = after;
        }
        parts
    } else {
        text.splitn(limit, separator).map(Value::text).collect()
    };
    Ok(Value::list(parts))
}

fn join<'a>(list: &List<'a>, separator: &str) -> Result<Value<'a>, EvalError> {
    let mut joined = String::new();
    for (i, item) in list.items()?.iter().enumerate() {
        if i > 0 {
            joined.push_str(separator);
        }
        joined.push_str(item.as_str().ok_or_else(|| {
            EvalError::failed(format!("join: invalid input: {}", super::operators::shown(item)))
        })?);
        if joined.len() > MAX_TEXT {
            return Err(too_large());
        }
    }
    Ok(Value::text(joined))
}

fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `"%d of %s".format([1, "x"])`.
fn format<'a>(pattern: &str, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            let wrong =
                || EvalError::failed("could not parse formatting clause: precision is not an integer");
            precision = Some(digits.parse::<usize>().map_err(|_| wrong())?.min(1000));
        }
        let verb = chars.next().ok_or_else(|| {
            EvalError::failed("could not parse formatting clause: unexpected end of string")
        })?;
        if !"sdfebxXo".contains(verb) {
            let message =
                format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"");
            return Err(EvalError::failed(message));
        }
        let arg = args.get(next).ok_or_else(|| EvalError::failed(format!("index {next} out of range")))?;
        next += 1;
        formatted(&mut out, verb, precision, arg)?;
        if out.len() > MAX_TEXT {
            return Err(too_large());
        }
    }
    Ok(Value::text(out))
}

fn formatted(
    out: &mut String,
    verb: char,
    precision: Option<usize>,
    arg: &Value<'_>,
) -> Result<(), EvalError> {
    let wrong = |what: &str| {
        EvalError::failed(format!("error during formatting: {what}, was given {}", arg.type_of()))
    };
    let precision_or_6 = precision.unwrap_or(6);
    let text = match (verb, arg) {
        ('s', arg) => return shown(out, arg),
        ('d', Value::Int(i)) => i.to_string(),
        ('d', Value::Uint(u)) => u.to_string(),
        ('d', Value::Double(d)) if !d.is_finite() => special(*d),
        ('d', _) => return Err(wrong("decimal clause can only be used on integers")),
        ('f' | 'e', Value::Double(d)) if !d.is_finite() => special(*d),
        ('f', Value::Double(d)) => format!("{d:.precision_or_6$}"),
        ('f', Value::Int(i)) => format!("{:.precision_or_6$}", *i as f64),
        ('f', Value::Uint(u)) => format!("{:.precision_or_6$}", *u as f64),
        ('f', _) => return Err(wrong("fixed-point clause can only be used on doubles")),
        ('e', Value::Double(d)) => exponential(*d, precision_or_6),
        ('e', Value::Int(i)) => exponential(*i as f64, precision_or_6),
        ('e', Value::Uint(u)) => exponential(*u as f64, precision_or_6),
        ('e', _) => return Err(wrong("scientific clause can only be used on doubles")),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('b', Value::Int(i)) => radix(*i, |u| format!("{u:b}")),
        ('b', Value::Uint(u)) => format!("{u:b}"),
        ('b', _) => return Err(wrong("only integers and bools can be formatted as binary")),
        ('o', Value::Int(i)) => radix(*i, |u| format!("{u:o}")),
        ('o', Value::Uint(u)) => format!("{u:o}"),
        ('o', _) => return Err(wrong("octal clause can only be used on integers")),
        ('x', Value::Int(i)) => radix(*i, |u| format!("{u:x}")),
        ('X', Value::Int(i)) => radix(*i, |u| format!("{u:X}")),
        ('x', Value::Uint(u)) => format!("{u:x}"),
        ('X', Value::Uint(u)) => format!("{u:X}"),
        ('x', Value::String(s)) => hex(s.as_str().as_bytes()),
        ('X', Value::String(s)) => hex(s.as_str().as_bytes()).to_uppercase(),
        ('x', Value::Bytes(b)) => hex(b),
        ('X', Value::Bytes(b)) => hex(b).to_uppercase(),
        _ => return Err(wrong("only integers, byte buffers, and strings can be formatted as hex")),
    };
    out.push_str(&text);
    Ok(())
}

fn special(d: f64) -> String {
    match (d.is_nan(), d > 0.0) {
        (true, _) => "NaN",
        (_, true) => "Infinity",
        _ => "-Infinity",
    }
    .to_owned()
}

fn exponential(d: f64, precision: usize) -> String {
    let text = format!("{d:.precision$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn radix(i: i64, print: fn(u64) -> String) -> String {
    let sign = if i < 0 { "-" } else { "" };
    format!("{sign}{}", print(i.unsigned_abs()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `%s` of any value; lists and maps recurse, keys in order.
fn shown(out: &mut String, value: &Value<'_>) -> Result<(), EvalError> {
    if out.len() > MAX_TEXT {
        return Err(too_large());
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(&b.to_string()),
        Value::Int(i) => out.push_str(&i.to_string()),
        Value::Uint(u) => out.push_str(&u.to_string()),
        Value::Double(d) if !d.is_finite() => out.push_str(&special(*d)),
        Value::Double(d) => out.push_str(&time::number_text(*d)),
        Value::String(s) => out.push_str(s.as_str()),
        Value::Bytes(b) => out.push_str(&String::from_utf8_lossy(b)),
        Value::Duration(nanos) => out.push_str(&time::duration_text(*nanos)),
        Value::Timestamp(t) => out.push_str(&time::timestamp_text(*t)),
        Value::Type(t) => out.push_str(&type_name(t)),
        Value::List(list) => {
            out.push('[');
            for (i, item) in list.items()?.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                shown(out, item)?;
            }
            out.push(']');
        }
        Value::Map(map) => shown_map(out, map)?,
        other => {
            let message = format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                other.type_of()
            );
            return Err(EvalError::failed(message));
        }
    }
    Ok(())
}

fn shown_map(out: &mut String, map: &Map<'_>) -> Result<(), EvalError> {
    let mut entries = Vec::new();
    for key in map.keys() {
        let (mut name, mut text) = (String::new(), String::new());
        shown(&mut name, &key)?;
        if let Some(value) = map.get(&key)? {
            shown(&mut text, &value)?;
        }
        entries.push(format!("{name}: {text}"));
    }
    entries.sort();
    out.push('{');
    out.push_str(&entries.join(", "));
    out.push('}');
    Ok(())
}

fn type_name(t: &crate::types::Type) -> String {
    use crate::types::Type;
    match t {
        Type::List(_) => "list".to_owned(),
        Type::Map(..) => "map".to_owned(),
        Type::Null => "null_type".to_owned(),
        Type::Type(_) => "type".to_owned(),
        other => other.to_string(),
    }
}
