//! Optional values: `optional.of(x)`, `a.?b`, `a[?b]`, `orValue`.
//!
//! Contract: cel-go's optional types, version 2. Selection itself is the evaluator's.

use std::sync::Arc;

use super::{Call, Line, operators};
use crate::value::{EvalError, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("optional_of", "optional.of(V) -> optional<V>", |c| Ok(Value::some(c.arg(0)?.clone()))),
    ("optional_ofNonZeroValue", "optional.ofNonZeroValue(V) -> optional<V>", |c| {
        let value = c.arg(0)?;
        Ok(if is_zero(value) { Value::Optional(None) } else { Value::some(value.clone()) })
    }),
    ("optional_none", "optional.none() -> optional<V>", |_| Ok(Value::Optional(None))),
    ("optional_value", "optional<V> :: value() -> V", |c| match c.arg(0)? {
        Value::Optional(Some(value)) => Ok(value.as_ref().clone()),
        Value::Optional(None) => Err(EvalError::failed("optional.none() dereference")),
        _ => Err(EvalError::NoSuchOverload),
    }),
    ("optional_hasValue", "optional<V> :: hasValue() -> bool", |c| match c.arg(0)? {
        Value::Optional(value) => Ok(Value::Bool(value.is_some())),
        _ => Err(EvalError::NoSuchOverload),
    }),
    ("optional_or_optional", "optional<V> :: or(optional<V>) -> optional<V>", |c| match c.arg(0)? {
        Value::Optional(None) => Ok(c.arg(1)?.clone()),
        some => Ok(some.clone()),
    }),
    ("optional_orValue_value", "optional<V> :: orValue(V) -> V", |c| match c.arg(0)? {
        Value::Optional(Some(value)) => Ok(value.as_ref().clone()),
        Value::Optional(None) => Ok(c.arg(1)?.clone()),
        _ => Err(EvalError::NoSuchOverload),
    }),
    ("select_optional_field", "_?._(dyn, string) -> optional<V>", |_| Err(EvalError::NoSuchOverload)),
    ("list_optindex_optional_int", "_[?_](list<V>, int) -> optional<V>", index),
    ("optional_list_optindex_optional_int", "_[?_](optional<list<V>>, int) -> optional<V>", index),
    ("map_optindex_optional_value", "_[?_](map<K, V>, K) -> optional<V>", index),
    ("optional_map_optindex_optional_value", "_[?_](optional<map<K, V>>, K) -> optional<V>", index),
    ("list_first", "list<V> :: first() -> optional<V>", |c| {
        Ok(Value::Optional(c.list(0)?.get(0).transpose()?.map(Arc::new)))
    }),
    ("list_last", "list<V> :: last() -> optional<V>", |c| {
        let list = c.list(0)?;
        let last = list.len().checked_sub(1).and_then(|i| list.get(i)).transpose()?;
        Ok(Value::Optional(last.map(Arc::new)))
    }),
    ("optional_unwrap", "optional.unwrap(list<optional<V>>) -> list<V>", unwrap),
    ("optional_unwrapOpt", "list<optional<V>> :: unwrapOpt() -> list<V>", unwrap),
];

fn unwrap<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    let mut values = Vec::new();
    for item in call.list(0)?.items()? {
        match item {
            Value::Optional(Some(value)) => values.push(value.as_ref().clone()),
            Value::Optional(None) => {}
            _ => return Err(EvalError::failed("value in list is not optional")),
        }
    }
    Ok(Value::list(values))
}

fn index<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    let (container, key) = (call.arg(0)?, call.arg(1)?);
    let found = match container {
        Value::Optional(Some(inner)) => operators::find(inner, key)?,
        Value::Optional(None) => None,
        other => operators::find(other, key)?,
    };
    Ok(Value::Optional(found.map(Arc::new)))
}

/// Zero, empty, false or null.
fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(b) => !b,
        Value::Int(i) => *i == 0,
        Value::Uint(u) => *u == 0,
        Value::Double(d) => *d == 0.0,
        Value::Duration(d) => *d == 0,
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size() == 0,
        Value::Object(message) => message.fields.is_empty(),
        _ => false,
    }
}
