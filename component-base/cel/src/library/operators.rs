//! Operators and `size`, `in`, `[]`.
//!
//! Contract: the standard definitions of the CEL specification, arithmetic checked for overflow.

use std::cmp::Ordering;

use super::{Call, Line, time};
use crate::value::{EvalError, Map, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("logical_not", "!_(bool) -> bool", |c| match c.args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => Err(EvalError::NoSuchOverload),
    }),
    // These four and the conditional choose what to evaluate; the evaluator does them itself.
    ("logical_and", "_&&_(bool, bool) -> bool", |_| Err(EvalError::NoSuchOverload)),
    ("logical_or", "_||_(bool, bool) -> bool", |_| Err(EvalError::NoSuchOverload)),
    ("not_strictly_false", "@not_strictly_false(bool) -> bool", |_| Err(EvalError::NoSuchOverload)),
    ("conditional", "_?_:_(bool, A, A) -> A", |_| Err(EvalError::NoSuchOverload)),
    ("equals", "_==_(A, A) -> bool", |c| Ok(Value::Bool(c.arg(0)?.equals(c.arg(1)?)))),
    ("not_equals", "_!=_(A, A) -> bool", |c| Ok(Value::Bool(!c.arg(0)?.equals(c.arg(1)?)))),
    ("add_bytes", "_+_(bytes, bytes) -> bytes", add),
    ("add_double", "_+_(double, double) -> double", add),
    ("add_duration_duration", "_+_(duration, duration) -> duration", add),
    ("add_duration_timestamp", "_+_(duration, timestamp) -> timestamp", add),
    ("add_timestamp_duration", "_+_(timestamp, duration) -> timestamp", add),
    ("add_int64", "_+_(int, int) -> int", add),
    ("add_list", "_+_(list<A>, list<A>) -> list<A>", add),
    ("add_string", "_+_(string, string) -> string", add),
    ("add_uint64", "_+_(uint, uint) -> uint", add),
    ("subtract_double", "_-_(double, double) -> double", subtract),
    ("subtract_duration_duration", "_-_(duration, duration) -> duration", subtract),
    ("subtract_int64", "_-_(int, int) -> int", subtract),
    ("subtract_timestamp_duration", "_-_(timestamp, duration) -> timestamp", subtract),
    ("subtract_timestamp_timestamp", "_-_(timestamp, timestamp) -> duration", subtract),
    ("subtract_uint64", "_-_(uint, uint) -> uint", subtract),
    ("multiply_double", "_*_(double, double) -> double", multiply),
    ("multiply_int64", "_*_(int, int) -> int", multiply),
    ("multiply_uint64", "_*_(uint, uint) -> uint", multiply),
    ("divide_double", "_/_(double, double) -> double", divide),
    ("divide_int64", "_/_(int, int) -> int", divide),
    ("divide_uint64", "_/_(uint, uint) -> uint", divide),
    ("modulo_int64", "_%_(int, int) -> int", modulo),
    ("modulo_uint64", "_%_(uint, uint) -> uint", modulo),
    ("negate_double", "-_(double) -> double", negate),
    ("negate_int64", "-_(int) -> int", negate),
    ("less_bool", "_<_(bool, bool) -> bool", less),
    ("less_int64", "_<_(int, int) -> bool", less),
    ("less_int64_double", "_<_(int, double) -> bool", less),
    ("less_int64_uint64", "_<_(int, uint) -> bool", less),
    ("less_uint64", "_<_(uint, uint) -> bool", less),
    ("less_uint64_double", "_<_(uint, double) -> bool", less),
    ("less_uint64_int64", "_<_(uint, int) -> bool", less),
    ("less_double", "_<_(double, double) -> bool", less),
    ("less_double_int64", "_<_(double, int) -> bool", less),
    ("less_double_uint64", "_<_(double, uint) -> bool", less),
    ("less_string", "_<_(string, string) -> bool", less),
    ("less_bytes", "_<_(bytes, bytes) -> bool", less),
    ("less_timestamp", "_<_(timestamp, timestamp) -> bool", less),
    ("less_duration", "_<_(duration, duration) -> bool", less),
    ("less_equals_bool", "_<=_(bool, bool) -> bool", less_equals),
    ("less_equals_int64", "_<=_(int, int) -> bool", less_equals),
    ("less_equals_int64_double", "_<=_(int, double) -> bool", less_equals),
    ("less_equals_int64_uint64", "_<=_(int, uint) -> bool", less_equals),
    ("less_equals_uint64", "_<=_(uint, uint) -> bool", less_equals),
    ("less_equals_uint64_double", "_<=_(uint, double) -> bool", less_equals),
    ("less_equals_uint64_int64", "_<=_(uint, int) -> bool", less_equals),
    ("less_equals_double", "_<=_(double, double) -> bool", less_equals),
    ("less_equals_double_int64", "_<=_(double, int) -> bool", less_equals),
    ("less_equals_double_uint64", "_<=_(double, uint) -> bool", less_equals),
    ("less_equals_string", "_<=_(string, string) -> bool", less_equals),
    ("less_equals_bytes", "_<=_(bytes, bytes) -> bool", less_equals),
    ("less_equals_timestamp", "_<=_(timestamp, timestamp) -> bool", less_equals),
    ("less_equals_duration", "_<=_(duration, duration) -> bool", less_equals),
    ("greater_bool", "_>_(bool, bool) -> bool", greater),
    ("greater_int64", "_>_(int, int) -> bool", greater),
    ("greater_int64_double", "_>_(int, double) -> bool", greater),
    ("greater_int64_uint64", "_>_(int, uint) -> bool", greater),
    ("greater_uint64", "_>_(uint, uint) -> bool", greater),
    ("greater_uint64_double", "_>_(uint, double) -> bool", greater),
    ("greater_uint64_int64", "_>_(uint, int) -> bool", greater),
    ("greater_double", "_>_(double, double) -> bool", greater),
    ("greater_double_int64", "_>_(double, int) -> bool", greater),
    ("greater_double_uint64", "_>_(double, uint) -> bool", greater),
    ("greater_string", "_>_(string, string) -> bool", greater),
    ("greater_bytes", "_>_(bytes, bytes) -> bool", greater),
    ("greater_timestamp", "_>_(timestamp, timestamp) -> bool", greater),
    ("greater_duration", "_>_(duration, duration) -> bool", greater),
    ("greater_equals_bool", "_>=_(bool, bool) -> bool", greater_equals),
    ("greater_equals_int64", "_>=_(int, int) -> bool", greater_equals),
    ("greater_equals_int64_double", "_>=_(int, double) -> bool", greater_equals),
    ("greater_equals_int64_uint64", "_>=_(int, uint) -> bool", greater_equals),
    ("greater_equals_uint64", "_>=_(uint, uint) -> bool", greater_equals),
    ("greater_equals_uint64_double", "_>=_(uint, double) -> bool", greater_equals),
    ("greater_equals_uint64_int64", "_>=_(uint, int) -> bool", greater_equals),
    ("greater_equals_double", "_>=_(double, double) -> bool", greater_equals),
    ("greater_equals_double_int64", "_>=_(double, int) -> bool", greater_equals),
    ("greater_equals_double_uint64", "_>=_(double, uint) -> bool", greater_equals),
    ("greater_equals_string", "_>=_(string, string) -> bool", greater_equals),
    ("greater_equals_bytes", "_>=_(bytes, bytes) -> bool", greater_equals),
    ("greater_equals_timestamp", "_>=_(timestamp, timestamp) -> bool", greater_equals),
    ("greater_equals_duration", "_>=_(duration, duration) -> bool", greater_equals),
    ("index_list", "_[_](list<A>, int) -> A", index),
    ("index_map", "_[_](map<A, B>, A) -> B", index),
    ("optional_list_index_int", "_[_](optional<list<V>>, int) -> optional<V>", index),
    ("optional_map_index_value", "_[_](optional<map<K, V>>, K) -> optional<V>", index),
    ("in_list", "@in(A, list<A>) -> bool", |c| {
        let list = c.list(1)?;
        for i in 0..list.len() {
            if let Some(item) = list.get(i)
                && item?.equals(c.arg(0)?)
            {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }),
    ("in_map", "@in(A, map<A, B>) -> bool", |c| Ok(Value::Bool(c.map(1)?.get(c.arg(0)?)?.is_some()))),
    ("size_bytes", "size(bytes) -> int", size),
    ("size_list", "size(list<A>) -> int", size),
    ("size_map", "size(map<A, B>) -> int", size),
    ("size_string", "size(string) -> int", size),
    ("bytes_size", "bytes :: size() -> int", size),
    ("list_size", "list<A> :: size() -> int", size),
    ("map_size", "map<A, B> :: size() -> int", size),
    ("string_size", "string :: size() -> int", size),
];

const INT_OVERFLOW: EvalError = EvalError::Failed(std::borrow::Cow::Borrowed("integer overflow"));
const UINT_OVERFLOW: EvalError = EvalError::Failed(std::borrow::Cow::Borrowed("unsigned integer overflow"));
const DURATION_OVERFLOW: EvalError = EvalError::Failed(std::borrow::Cow::Borrowed("duration overflow"));

fn pair<'c, 'a>(call: &'c Call<'_, 'a>) -> Result<(&'c Value<'a>, &'c Value<'a>), EvalError> {
    Ok((call.arg(0)?, call.arg(1)?))
}

fn add<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    match pair(call)? {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int).ok_or(INT_OVERFLOW),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint).ok_or(UINT_OVERFLOW),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(Value::text([a.as_str(), b.as_str()].concat())),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([a.as_ref(), b.as_ref()].concat().into())),
        (Value::List(a), Value::List(b)) => a.concat(b),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map(Value::Duration).ok_or(DURATION_OVERFLOW)
        }
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            time::shifted(*t, (*d).into()).map(Value::Timestamp)
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn subtract<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    match pair(call)? {
        (Value::Int(a), Value::Int(b)) => a.checked_sub(*b).map(Value::Int).ok_or(INT_OVERFLOW),
        (Value::Uint(a), Value::Uint(b)) => a.checked_sub(*b).map(Value::Uint).ok_or(UINT_OVERFLOW),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_sub(*b).map(Value::Duration).ok_or(DURATION_OVERFLOW)
        }
        (Value::Timestamp(t), Value::Duration(d)) => time::shifted(*t, -i128::from(*d)).map(Value::Timestamp),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            i64::try_from(nanos).map(Value::Duration).map_err(|_| DURATION_OVERFLOW)
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn multiply<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    match pair(call)? {
        (Value::Int(a), Value::Int(b)) => a.checked_mul(*b).map(Value::Int).ok_or(INT_OVERFLOW),
        (Value::Uint(a), Value::Uint(b)) => a.checked_mul(*b).map(Value::Uint).ok_or(UINT_OVERFLOW),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn divide<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    match pair(call)? {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            Err(EvalError::failed("division by zero"))
        }
        (Value::Int(a), Value::Int(b)) => a.checked_div(*b).map(Value::Int).ok_or(INT_OVERFLOW),
        (Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a / b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn modulo<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    match pair(call)? {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            Err(EvalError::failed("modulus by zero"))
        }
        (Value::Int(a), Value::Int(b)) => a.checked_rem(*b).map(Value::Int).ok_or(INT_OVERFLOW),
        (Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a % b)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn negate<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    match call.arg(0)? {
        Value::Int(a) => a.checked_neg().map(Value::Int).ok_or(INT_OVERFLOW),
        Value::Double(a) => Ok(Value::Double(-a)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn ordered<'a>(call: &Call<'_, 'a>, holds: fn(Ordering) -> bool) -> Result<Value<'a>, EvalError> {
    let (a, b) = pair(call)?;
    match a.compare(b)? {
        Some(order) => Ok(Value::Bool(holds(order))),
        None => Err(EvalError::failed("NaN values cannot be ordered")),
    }
}

fn less<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    ordered(call, Ordering::is_lt)
}

fn less_equals<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    ordered(call, Ordering::is_le)
}

fn greater<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    ordered(call, Ordering::is_gt)
}

fn greater_equals<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    ordered(call, Ordering::is_ge)
}

fn size<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    i64::try_from(call.arg(0)?.size()).map(Value::Int).map_err(|_| INT_OVERFLOW)
}

fn index<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    let (container, key) = pair(call)?;
    if let Value::Optional(inner) = container {
        return Ok(match inner {
            Some(inner) => Value::Optional(find(inner, key)?.map(std::sync::Arc::new)),
            None => Value::Optional(None),
        });
    }
    match (find(container, key)?, container, key) {
        (Some(value), ..) => Ok(value),
        (None, Value::List(_), Value::Int(i)) => Err(EvalError::IndexOutOfBounds(*i)),
        (None, ..) => Err(EvalError::NoSuchKey(shown(key))),
    }
}

/// The element at a key; `None` where there is none.
pub(crate) fn find<'a>(container: &Value<'a>, key: &Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
    match (container, key) {
        (Value::List(list), key) => {
            let index = match key {
                Value::Int(i) => *i,
                Value::Uint(u) => i64::try_from(*u).map_err(|_| EvalError::NoSuchOverload)?,
                Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => *d as i64,
                other => {
                    let message = format!("unsupported index type '{}' in list", other.type_of());
                    return Err(EvalError::failed(message));
                }
            };
            usize::try_from(index).ok().and_then(|i| list.get(i)).transpose()
        }
        (Value::Map(Map::Json(..) | Map::Made(_)), key) => match container {
            Value::Map(map) => map.get(key),
            _ => Ok(None),
        },
        (Value::Object(_), Value::String(field)) => container.field(field.as_str()),
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// A key in an error message.
pub(crate) fn shown(key: &Value<'_>) -> String {
    match key {
        Value::String(s) => s.as_str().to_owned(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Double(d) => d.to_string(),
        other => other.type_of().to_string(),
    }
}
