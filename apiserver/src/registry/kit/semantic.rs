//! Whether two values say the same: amounts by what they are, and nothing as the empty form of everything.
//!
//! Contract: apimachinery `equality.Semantic` over API types, where a field that is no pointer does not tell its zero
//! from being left out.

use serde_json::Value;

use super::at::At;
use crate::field::Path;

/// Fields whose zero means something else than their absence.
const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "apiGroup",
    "automountServiceAccountToken",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "expirationSeconds",
    "fsGroup",
    "fsGroupChangePolicy",
    "gmsaCredentialSpec",
    "gmsaCredentialSpecName",
    "hostProcess",
    "hostUsers",
    "hostnameOverride",
    "localhostProfile",
    "minDomains",
    "mode",
    "mountPropagation",
    "namespaceSelector",
    "optional",
    "preemptionPolicy",
    "priority",
    "privileged",
    "readOnlyRootFilesystem",
    "recursiveReadOnly",
    "resourceClaimName",
    "resourceClaimTemplateName",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "runAsUserName",
    "runtimeClassName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "storageClassName",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "type",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Maps of amounts.
const AMOUNTS: &[&str] = &["limits", "requests", "overhead", "capacity", "hard", "allocatedResources"];

/// Whether two values say the same.
pub(in crate::registry) fn same(a: &Value, b: &Value) -> bool {
    differences(a, b).is_empty()
}

/// The paths at which two values say something else, as lines of a difference.
pub(in crate::registry) fn differences(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", old, new, &Path::root(), false, &mut found);
    found
}

fn compare(field: &str, a: &Value, b: &Value, path: &Path, amounts: bool, found: &mut Vec<String>) {
    if a == b {
        return;
    }
    let amount = amounts || matches!(field, "sizeLimit" | "divisor");
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let amounts = AMOUNTS.contains(&field);
            let keys = x.keys().chain(y.keys().filter(|key| !x.contains_key(*key)));
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                let at = if amounts { path.key(key) } else { path.child(key) };
                compare(key, &of(x), &of(y), &at, amounts, found);
            }
        }
        (Value::Array(x), Value::Array(y)) => {
            for i in 0..x.len().max(y.len()) {
                let of = |list: &[Value]| list.get(i).cloned().unwrap_or_default();
                if i >= x.len() || i >= y.len() {
                    tell(&of(x), &of(y), &path.index(i), found);
                } else {
                    compare("", &x[i], &y[i], &path.index(i), false, found);
                }
            }
        }
        _ if is_zero(field, a) && is_zero(field, b) => {}
        _ if amount && is_same_amount(a, b) => {}
        _ => tell(a, b, path, found),
    }
}

fn tell(a: &Value, b: &Value, path: &Path, found: &mut Vec<String>) {
    found.push(format!("  {path}: {a} -> {b}"));
}

fn is_same_amount(a: &Value, b: &Value) -> bool {
    let quantity = |value| At::new(value, Path::root()).quantity();
    quantity(a).is_some_and(|a| quantity(b) == Some(a))
}

fn is_zero(field: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty() && field != "emptyDir",
        _ if POINTERS.contains(&field) => false,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_says_the_same_is_the_same() {
        let cases = [
            (json!({"tty": false, "a": []}), json!({}), true),
            (json!({"hostUsers": false}), json!({}), false),
            (json!({"limits": {"cpu": "1000m"}}), json!({"limits": {"cpu": 1}}), true),
            (json!({"limits": {"cpu": "1000m"}}), json!({"limits": {"cpu": "2"}}), false),
            (json!({"args": ["1000m"]}), json!({"args": ["1"]}), false),
            (json!({"l": [{"a": 1}]}), json!({"l": [{"a": 1}, {}]}), false),
        ];
        for (a, b, want) in cases {
            assert_eq!(same(&a, &b), want, "{a} {b}");
        }
        let found = differences(&json!({"c": [{"image": "a"}]}), &json!({"c": [{"image": "b"}]}));
        assert_eq!(found, ["  c[0].image: \"a\" -> \"b\""]);
    }
}
