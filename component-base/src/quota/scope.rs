//! Which pods a quota is about: `scopes` and `scopeSelector`.

use serde_json::Value;

use super::{Fields, items, text};

/// Whether a quota is about pods of some scope alone.
pub fn has_scopes(quota: &impl Fields) -> bool {
    items(quota, "/spec/scopes").next().is_some()
        || items(quota, "/spec/scopeSelector/matchExpressions").next().is_some()
}

/// Whether every scope of the quota matches the pod.
pub fn matches(quota: &impl Fields, pod: &impl Fields) -> bool {
    let scopes = items(quota, "/spec/scopes").filter_map(Value::as_str);
    let plain = scopes.into_iter().all(|scope| has(scope, "Exists", &[], pod));
    plain
        && items(quota, "/spec/scopeSelector/matchExpressions").all(|expression| {
            let field = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let values: Vec<&str> = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            has(field("scopeName"), field("operator"), &values, pod)
        })
}

fn has(scope: &str, operator: &str, values: &[&str], pod: &impl Fields) -> bool {
    let terminating = pod.field("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_some();
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "PriorityClass" => {
            let class = text(pod, "/spec/priorityClassName");
            match operator {
                "In" => values.contains(&class),
                "NotIn" => !values.contains(&class),
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                _ => false,
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// No container asks for or limits cpu or memory.
fn best_effort(pod: &impl Fields) -> bool {
    let lists = ["/spec/initContainers", "/spec/containers"];
    let mut containers = lists.iter().flat_map(|list| items(pod, list));
    !containers.any(|container| {
        let resources = container.get("resources");
        ["requests", "limits"].iter().any(|field| {
            let list = resources.and_then(|r| r.get(field)).and_then(Value::as_object);
            list.is_some_and(|l| l.contains_key("cpu") || l.contains_key("memory"))
        })
    })
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
