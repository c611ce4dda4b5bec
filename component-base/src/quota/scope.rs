//! Which pods and claims a quota is about: `scopes` and `scopeSelector`.

use serde_json::Value;

use super::{Fields, items, text};

/// Whether a quota is about objects of some scope alone.
pub fn has_scopes(quota: &impl Fields) -> bool {
    items(quota, "/spec/scopes").next().is_some()
        || items(quota, "/spec/scopeSelector/matchExpressions").next().is_some()
}

/// Whether every scope of the quota matches the pod or claim.
pub fn matches(quota: &impl Fields, object: &impl Fields) -> bool {
    let scopes = items(quota, "/spec/scopes").filter_map(Value::as_str);
    let plain = scopes.into_iter().all(|scope| has(scope, "Exists", &[], object));
    plain
        && items(quota, "/spec/scopeSelector/matchExpressions").all(|expression| selects(expression, object))
}

/// The names of the quota's scopes that match the pod or claim.
pub fn matched<'q>(quota: &'q impl Fields, object: &impl Fields) -> Vec<&'q str> {
    let plain = items(quota, "/spec/scopes").filter_map(Value::as_str);
    let plain = plain.filter(|scope| has(scope, "Exists", &[], object));
    let selected = items(quota, "/spec/scopeSelector/matchExpressions");
    let selected = selected.filter(|expression| selects(expression, object));
    plain.chain(selected.filter_map(|expression| expression.get("scopeName")?.as_str())).collect()
}

/// Whether one expression of a scope selector matches the pod or claim.
pub fn selects(expression: &Value, object: &impl Fields) -> bool {
    let field = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
    let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
    let values: Vec<&str> = values.filter_map(Value::as_str).collect();
    has(field("scopeName"), field("operator"), &values, object)
}

fn has(scope: &str, operator: &str, values: &[&str], object: &impl Fields) -> bool {
    let terminating = object.field("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_some();
    // Pods have scopes of their own, and so have claims.
    if object.field("/spec/containers").is_some() == (scope == "VolumeAttributesClass") {
        return false;
    }
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(object),
        "NotBestEffort" => !best_effort(object),
        "PriorityClass" => names(operator, values, &[text(object, "/spec/priorityClassName")]),
        "CrossNamespacePodAffinity" => crosses_namespaces(object),
        // What a claim has, and what it is on the way from or to.
        "VolumeAttributesClass" => {
            let fields = [
                "/spec/volumeAttributesClassName",
                "/status/currentVolumeAttributesClassName",
                "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
            ];
            names(operator, values, &fields.map(|field| text(object, field)))
        }
        _ => false,
    }
}

/// Whether one of the names an object has (empty: none) is as an operator asks; having none is a case of its own.
fn names(operator: &str, values: &[&str], named: &[&str]) -> bool {
    let mut named = named.iter().filter(|name| !name.is_empty()).peekable();
    let none = named.peek().is_none();
    match operator {
        "In" => named.any(|name| values.contains(name)),
        "NotIn" => none || named.any(|name| !values.contains(name)),
        "Exists" => !none,
        "DoesNotExist" => none,
        _ => false,
    }
}

/// Neither the pod nor a container asks for or limits cpu or memory.
fn best_effort(pod: &impl Fields) -> bool {
    let lists = ["/spec/initContainers", "/spec/containers"];
    let mut containers = lists.iter().flat_map(|list| items(pod, list));
    let says = |resources: Option<&Value>| {
        ["requests", "limits"].iter().any(|field| {
            let list = resources.and_then(|r| r.get(field)).and_then(Value::as_object);
            list.is_some_and(|l| l.contains_key("cpu") || l.contains_key("memory"))
        })
    };
    !says(pod.field("/spec/resources")) && !containers.any(|container| says(container.get("resources")))
}

fn crosses_namespaces(pod: &impl Fields) -> bool {
    let crosses = |term: &Value| {
        term.get("namespaces").and_then(Value::as_array).is_some_and(|n| !n.is_empty())
            || term.get("namespaceSelector").is_some_and(Value::is_object)
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let base = format!("/spec/affinity/{kind}");
        items(pod, &format!("{base}/requiredDuringSchedulingIgnoredDuringExecution")).any(crosses)
            || items(pod, &format!("{base}/preferredDuringSchedulingIgnoredDuringExecution"))
                .any(|t| t.get("podAffinityTerm").is_some_and(crosses))
    })
}
