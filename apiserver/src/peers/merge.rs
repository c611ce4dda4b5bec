//! Aggregated discovery of all servers: what each serves, in an order that is none of theirs turned round. Pure.

use serde_json::Value;

use super::Known;
use std::sync::Arc;

/// The groups of this server with those of the others; each group has all versions, each version all resources.
pub fn merged(mut groups: Vec<Value>, others: &[Arc<Known>]) -> Vec<Value> {
    for other in others {
        merge(&mut groups, &other.groups, "/metadata/name", &|own, other| {
            of_lists(own, other, "versions", "/version", &|own, other| {
                of_lists(own, other, "resources", "/resource", &|_, _| ());
            });
        });
    }
    groups
}

/// What is done with two entries of one name.
type Join<'a> = &'a dyn Fn(&mut Value, &Value);

fn of_lists(own: &mut Value, other: &Value, field: &str, name_at: &str, join: Join<'_>) {
    let theirs = other.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if let Some(ours) = own.get_mut(field).and_then(Value::as_array_mut) {
        merge(ours, theirs, name_at, join);
    }
}

/// Adds what is missing, each behind what it was behind over there.
fn merge(ours: &mut Vec<Value>, theirs: &[Value], name_at: &str, join: Join<'_>) {
    let mut next = 0;
    for their in theirs {
        let name = their.pointer(name_at);
        match ours.iter().position(|own| own.pointer(name_at) == name) {
            Some(at) => {
                join(&mut ours[at], their);
                next = next.max(at + 1);
            }
            None => {
                ours.insert(next, their.clone());
                next += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn group(name: &str, versions: &[(&str, &[&str])]) -> Value {
        let version = |(name, resources): &(&str, &[&str])| {
            let resources: Vec<Value> = resources.iter().map(|name| json!({"resource": name})).collect();
            json!({"version": name, "resources": resources})
        };
        json!({"metadata": {"name": name}, "versions": versions.iter().map(version).collect::<Vec<_>>()})
    }

    #[test]
    fn all_is_there_and_in_the_order_of_each() {
        let own = vec![group("apps", &[("v1", &["a", "c"])]), group("batch", &[("v1", &["jobs"])])];
        let other = Known {
            groups: vec![
                group("new", &[("v1", &["x"])]),
                group("apps", &[("v2", &["a"]), ("v1", &["a", "b", "c"])]),
                group("between", &[("v1", &["y"])]),
                group("batch", &[("v1", &["jobs"])]),
            ],
            ..Known::default()
        };
        let expected = other.groups.clone();
        assert_eq!(merged(own.clone(), &[Arc::new(other)]), expected);
        assert_eq!(merged(own.clone(), &[Arc::new(Known { groups: own.clone(), ..Known::default() })]), own);
    }
}
