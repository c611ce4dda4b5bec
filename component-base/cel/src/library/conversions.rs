//! Conversions between types: `int("1")`, `string(2.5)`, `dyn(x)`, `type(x)`.
//!
//! Contract: the standard conversions of the CEL specification with upstream's texts of numbers and errors.

use super::{Call, Line, time};
use crate::value::{EvalError, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("type", "type(A) -> type<A>", |c| Ok(Value::Type(c.arg(0)?.type_of()))),
    ("to_dyn", "dyn(A) -> dyn", |c| Ok(c.arg(0)?.clone())),
    ("bool_to_bool", "bool(bool) -> bool", |c| Ok(c.arg(0)?.clone())),
    ("string_to_bool", "bool(string) -> bool", |c| match c.str(0)? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
        _ => Err(conversion("string", "bool")),
    }),
    ("bytes_to_bytes", "bytes(bytes) -> bytes", |c| Ok(c.arg(0)?.clone())),
    ("string_to_bytes", "bytes(string) -> bytes", |c| Ok(Value::Bytes(c.str(0)?.as_bytes().into()))),
    ("double_to_double", "double(double) -> double", |c| Ok(c.arg(0)?.clone())),
    ("int64_to_double", "double(int) -> double", to_double),
    ("string_to_double", "double(string) -> double", to_double),
    ("uint64_to_double", "double(uint) -> double", to_double),
    ("int64_to_int64", "int(int) -> int", |c| Ok(c.arg(0)?.clone())),
    ("double_to_int64", "int(double) -> int", to_int),
    ("duration_to_int64", "int(duration) -> int", to_int),
    ("string_to_int64", "int(string) -> int", to_int),
    ("timestamp_to_int64", "int(timestamp) -> int", to_int),
    ("uint64_to_int64", "int(uint) -> int", to_int),
    ("uint64_to_uint64", "uint(uint) -> uint", |c| Ok(c.arg(0)?.clone())),
    ("double_to_uint64", "uint(double) -> uint", to_uint),
    ("int64_to_uint64", "uint(int) -> uint", to_uint),
    ("string_to_uint64", "uint(string) -> uint", to_uint),
    ("string_to_string", "string(string) -> string", |c| Ok(c.arg(0)?.clone())),
    ("bool_to_string", "string(bool) -> string", to_string),
    ("bytes_to_string", "string(bytes) -> string", to_string),
    ("double_to_string", "string(double) -> string", to_string),
    ("duration_to_string", "string(duration) -> string", to_string),
    ("int64_to_string", "string(int) -> string", to_string),
    ("timestamp_to_string", "string(timestamp) -> string", to_string),
    ("uint64_to_string", "string(uint) -> string", to_string),
];

fn conversion(from: &str, to: &str) -> EvalError {
    EvalError::failed(format!("type conversion error from '{from}' to '{to}'"))
}

fn overflow(what: &'static str) -> EvalError {
    EvalError::failed(what)
}

fn to_double<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    Ok(Value::Double(match call.arg(0)? {
        Value::Int(i) => *i as f64,
        Value::Uint(u) => *u as f64,
        Value::String(s) => s.as_str().parse().map_err(|_| conversion("string", "double"))?,
        _ => return Err(EvalError::NoSuchOverload),
    }))
}

fn to_int<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    Ok(Value::Int(match call.arg(0)? {
        Value::Double(d) => {
            // Both bounds themselves are out, as rounding hides what is beyond them.
            if d.is_nan() || *d <= -9_223_372_036_854_775_808.0 || *d >= 9_223_372_036_854_775_808.0 {
                return Err(overflow("integer overflow"));
            }
            *d as i64
        }
        Value::Uint(u) => i64::try_from(*u).map_err(|_| overflow("integer overflow"))?,
        Value::Duration(nanos) => *nanos,
        Value::Timestamp(t) => t.as_nanosecond().div_euclid(1_000_000_000) as i64,
        Value::String(s) => s.as_str().parse().map_err(|_| conversion("string", "int"))?,
        _ => return Err(EvalError::NoSuchOverload),
    }))
}

fn to_uint<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    Ok(Value::Uint(match call.arg(0)? {
        Value::Double(d) => {
            if d.is_nan() || *d < 0.0 || *d >= 18_446_744_073_709_551_616.0 {
                return Err(overflow("unsigned integer overflow"));
            }
            *d as u64
        }
        Value::Int(i) => u64::try_from(*i).map_err(|_| overflow("unsigned integer overflow"))?,
        Value::String(s) => s.as_str().parse().map_err(|_| conversion("string", "uint"))?,
        _ => return Err(EvalError::NoSuchOverload),
    }))
}

fn to_string<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    Ok(Value::text(match call.arg(0)? {
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double_text(*d),
        Value::Duration(nanos) => time::duration_text(*nanos),
        Value::Timestamp(t) => time::timestamp_text(*t),
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec())
            .map_err(|_| EvalError::failed("invalid UTF-8 in bytes, cannot convert to string"))?,
        _ => return Err(EvalError::NoSuchOverload),
    }))
}

/// The shortest text that reads back as the same double, exponents from `1e+06` and `1e-05` on (Go's `%g`).
pub(super) fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{d:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{d}")
}
