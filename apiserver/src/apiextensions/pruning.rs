//! Dropping of fields that a schema does not have.
//!
//! Contract: KEP-95; `x-kubernetes-preserve-unknown-fields` and `x-kubernetes-embedded-resource`.

use serde_json::{Map, Value};

use super::schema::{Additional, Schema};

/// What every object has whether its schema says so or not.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops what the schema of a whole object does not have; answers the paths of what went, sorted.
pub fn prune(object: &mut Map<String, Value>, schema: &Schema) -> Vec<String> {
    let mut walk = Walk::default();
    walk.members(object, schema, true);
    walk.unknown.sort();
    walk.unknown
}

/// Drops what the schema of a value does not have.
pub fn prune_value(value: &mut Value, schema: &Schema) {
    Walk::default().value(value, Some(schema));
}

/// Drops nulls where the schema takes none and has no default for them.
pub fn drop_nulls(object: &mut Map<String, Value>, schema: Option<&Schema>) {
    object.retain(|name, value| {
        let below = schema.and_then(|s| s.member(name));
        let refused = value.is_null() && below.is_some_and(|s| !s.nullable && s.default.is_none());
        if !refused {
            drop_nulls_below(value, below);
        }
        !refused
    });
}

fn drop_nulls_below(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(members) => drop_nulls(members, schema),
        Value::Array(members) => {
            let schema = schema.and_then(|s| s.items.as_deref());
            members.iter_mut().for_each(|member| drop_nulls_below(member, schema));
        }
        _ => {}
    }
}

#[derive(Default)]
struct Walk {
    path: String,
    unknown: Vec<String>,
}

impl Walk {
    fn value(&mut self, value: &mut Value, schema: Option<&Schema>) {
        match (value, schema) {
            (Value::Object(members), Some(schema)) => self.members(members, schema, schema.embedded),
            (Value::Object(members), None) => {
                let names: Vec<String> = members.keys().cloned().collect();
                names.iter().for_each(|name| self.note(name));
                members.clear();
            }
            (Value::Array(members), schema) => {
                let preserved = schema.is_some_and(|s| s.preserve_unknown);
                let below = schema.and_then(|s| s.items.as_deref());
                // Below a list of anything nothing is unknown.
                if preserved && below.is_none() {
                    return;
                }
                for (at, member) in members.iter_mut().enumerate() {
                    let mark = self.path.len();
                    self.path.push_str(&format!("[{at}]"));
                    self.value(member, below);
                    self.path.truncate(mark);
                }
            }
            _ => {}
        }
    }

    fn members(&mut self, members: &mut Map<String, Value>, schema: &Schema, embedded: bool) {
        let names: Vec<String> = members.keys().cloned().collect();
        for name in names {
            if embedded && META.contains(&name.as_str()) {
                continue;
            }
            let below = match (schema.properties.get(&name), &schema.additional) {
                (Some(below), _) => Some(below),
                (None, Some(Additional::Schema(below))) => Some(&**below),
                (None, None) if schema.preserve_unknown => continue,
                (None, None) => {
                    if !META.contains(&name.as_str()) || !self.path.is_empty() {
                        self.note(&name);
                    }
                    members.remove(&name);
                    continue;
                }
                // Anything may be there, but of that nothing is known.
                (None, Some(Additional::Allowed(_))) => None,
            };
            if let Some(value) = members.get_mut(&name) {
                let mark = self.path.len();
                if mark > 0 {
                    self.path.push('.');
                }
                self.path.push_str(&name);
                self.value(value, below);
                self.path.truncate(mark);
            }
        }
    }

    fn note(&mut self, name: &str) {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.unknown.push(format!("{}{dot}{name}", self.path));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pruned(schema: &Value, object: Value) -> (Value, Vec<String>) {
        let Value::Object(mut object) = object else { panic!("an object") };
        let unknown = prune(&mut object, &Schema::read(schema));
        (Value::Object(object), unknown)
    }

    #[test]
    fn what_the_schema_does_not_have_goes() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "string"}}}},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"x": {"type": "string"}}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"c": {}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
        }}}});
        let object = json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n", "x": 1}, "other": 1, "spec": {
            "a": "1", "z": 1,
            "list": [{"b": "1", "d": 2}, 3],
            "any": {"free": {"a": 1}, "known": {"x": "1", "y": "2"}},
            "map": {"k": {"c": 1, "e": 2}},
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"q": 1}, "status": {}},
        }});
        let (got, unknown) = pruned(&schema, object);
        let want = json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n", "x": 1}, "spec": {
            "a": "1",
            "list": [{"b": "1"}, 3],
            "any": {"free": {"a": 1}, "known": {"x": "1"}},
            "map": {"k": {"c": 1}},
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
        }});
        assert_eq!(got, want);
        let paths = [
            "other",
            "spec.any.known.y",
            "spec.list[0].d",
            "spec.map.k.e",
            "spec.pod.spec.q",
            "spec.pod.status",
            "spec.z",
        ];
        assert_eq!(unknown, paths);
    }

    #[test]
    fn nulls_stay_where_they_are_values_or_become_defaults() {
        let schema = Schema::read(&json!({"properties": {
            "a": {"type": "string"}, "b": {"type": "string", "nullable": true}, "c": {"type": "string", "default": "x"},
            "d": {"type": "array", "items": {"properties": {"e": {"type": "string"}}}}}}));
        let Value::Object(mut object) =
            json!({"a": null, "b": null, "c": null, "d": [{"e": null}, null], "z": null})
        else {
            panic!("an object")
        };
        drop_nulls(&mut object, Some(&schema));
        assert_eq!(Value::Object(object), json!({"b": null, "c": null, "d": [{}, null], "z": null}));
    }
}
