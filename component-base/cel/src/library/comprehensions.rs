//! What the comprehensions of two variables need at run time.
//!
//! Contract: cel-go's two-variable comprehensions extension.

use std::sync::Arc;

use super::{Call, Line, operators::shown};
use crate::value::{EvalError, Map, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("@mapInsert_map_map", "cel.@mapInsert(map<K, V>, map<K, V>) -> map<K, V>", |c| insert(c)),
    ("@mapInsert_map_key_value", "cel.@mapInsert(map<K, V>, K, V) -> map<K, V>", |c| insert(c)),
];

fn insert<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    let mut made = match call.map(0)? {
        Map::Made(made) => made.as_ref().clone(),
        Map::Json(..) => return Err(EvalError::NoSuchOverload),
    };
    let mut add = |key: Value<'a>, value: Value<'a>| {
        let name = shown(&key);
        match made.insert(key, value)? {
            true => Ok(()),
            false => Err(EvalError::failed(format!("insert failed: key {name} already exists"))),
        }
    };
    match call.args {
        [_, key, value] => add(key.clone(), value.clone())?,
        [_, Value::Map(entries)] => {
            for key in entries.keys() {
                if let Some(value) = entries.get(&key)? {
                    add(key, value)?;
                }
            }
        }
        _ => return Err(EvalError::NoSuchOverload),
    }
    Ok(Value::Map(Map::Made(Arc::new(made))))
}
