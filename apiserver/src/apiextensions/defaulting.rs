//! Defaults of a schema, filled in on writes and on reads of what was stored before.
//!
//! Contract: KEP-575.

use serde_json::{Map, Value};

use super::schema::Schema;

/// Fills in what is missing, and what is null where null is no value.
pub fn fill(object: &mut Map<String, Value>, schema: &Schema) {
    for (name, below) in &schema.properties {
        let Some(default) = &below.default else { continue };
        if object.get(name).is_none_or(|value| value.is_null() && !below.nullable) {
            object.insert(name.clone(), default.clone());
        }
    }
    for (name, value) in object.iter_mut() {
        if let Some(below) = schema.member(name) {
            fill_value(value, below);
        }
    }
}

fn fill_value(value: &mut Value, schema: &Schema) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
    match value {
        Value::Object(members) => fill(members, schema),
        Value::Array(members) => {
            if let Some(below) = schema.items.as_deref() {
                members.iter_mut().for_each(|member| fill_value(member, below));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_and_null_values_become_defaults_in_defaults_too() {
        let schema = Schema::read(&json!({"properties": {
            "a": {"default": "A"},
            "n": {"default": "N", "nullable": true},
            "o": {"default": {}, "properties": {"p": {"default": 1}}},
            "q": {"properties": {"r": {"default": 2}}},
            "l": {"items": {"properties": {"s": {"default": 3}}}},
            "m": {"additionalProperties": {"default": 4}},
        }}));
        let Value::Object(mut object) = json!({"a": null, "n": null, "l": [{}, {"s": 9}], "m": {"x": null}})
        else {
            panic!("an object")
        };
        fill(&mut object, &schema);
        let want = json!({"a": "A", "n": null, "o": {"p": 1}, "l": [{"s": 3}, {"s": 9}], "m": {"x": 4}});
        assert_eq!(Value::Object(object), want);
    }
}
