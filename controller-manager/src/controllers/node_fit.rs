//! Whether a pod may run on a node, as far as the node's name, labels and taints say. Pure.
//!
//! Contract: node selectors and affinity, taints and tolerations of the API reference; upstream's
//! `component-helpers/scheduling/corev1`.

use std::collections::BTreeMap;

use component_base::taints::tolerates;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// Whether one of the node's taints with one of the effects is not tolerated.
/// `compare` says whether tolerations may compare numbers.
pub(super) fn is_repelled(node: &Node, tolerations: &[Toleration], effects: &[&str], compare: bool) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let counts = |t: &&Taint| effects.contains(&t.effect.as_str());
    taints.iter().filter(counts).any(|taint| !tolerations.iter().any(|t| tolerates(t, taint, compare)))
}

/// Whether the pod's node selector and required node affinity take the node.
pub(super) fn is_selected(node: &Node, pod: &PodSpec) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let wanted = pod.node_selector.iter().flatten();
    if !wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = pod.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| matches(node, selector))
}

/// Whether one of a selector's terms takes the node. A term without requirements takes none.
pub(super) fn matches(node: &Node, selector: &NodeSelector) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(node, term))
}

fn matches_term(node: &Node, term: &NodeSelectorTerm) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    let field = |key: &str| node.metadata.name.as_deref().filter(|_| key == "metadata.name");
    expressions.iter().all(|r| holds(r, label(&r.key))) && fields.iter().all(|r| holds(r, field(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let wanted = requirement.values.as_deref().unwrap_or_default();
    let contains = value.is_some_and(|v| wanted.iter().any(|w| w == v));
    let compare = |test: fn(i64, i64) -> bool| {
        let pair = value.and_then(|v| v.parse().ok()).zip(wanted.first().and_then(|w| w.parse().ok()));
        wanted.len() == 1 && pair.is_some_and(|(v, w)| test(v, w))
    };
    match requirement.operator.as_str() {
        "In" => contains,
        "NotIn" => !contains,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|v, w| v > w),
        "Lt" => compare(|v, w| v < w),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cpus": "8"}},
            "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"},
                {"key": "e", "effect": "NoExecute"}]}}))
        .unwrap()
    }

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn affinity_and_selector_take_nodes() {
        let term = |requirement: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}})
        };
        let cases = [
            (json!({"containers": []}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "a"}}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "b"}}), false),
            (term(json!({"key": "zone", "operator": "In", "values": ["a", "b"]})), true),
            (term(json!({"key": "zone", "operator": "NotIn", "values": ["a"]})), false),
            (term(json!({"key": "absent", "operator": "NotIn", "values": ["a"]})), true),
            (term(json!({"key": "zone", "operator": "Exists"})), true),
            (term(json!({"key": "zone", "operator": "DoesNotExist"})), false),
            (term(json!({"key": "cpus", "operator": "Gt", "values": ["4"]})), true),
            (term(json!({"key": "cpus", "operator": "Lt", "values": ["4"]})), false),
            (term(json!({"key": "zone", "operator": "Gt", "values": ["4"]})), false),
        ];
        for (pod, want) in cases {
            assert_eq!(is_selected(&node(), &spec(pod.clone())), want, "{pod}");
        }
        let by_name = |name: &str| {
            spec(
                json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}}),
            )
        };
        assert!(is_selected(&node(), &by_name("n1")) && !is_selected(&node(), &by_name("n2")));
        let empty = json!({"containers": [], "affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}}});
        assert!(!is_selected(&node(), &spec(empty)));
    }

    #[test]
    fn taints_repel_what_does_not_tolerate_them() {
        let tolerations = |value: Value| -> Vec<Toleration> { serde_json::from_value(value).unwrap() };
        let both = ["NoSchedule", "NoExecute"];
        assert!(is_repelled(&node(), &[], &both, false));
        assert!(!is_repelled(&node(), &[], &["PreferNoSchedule"], false));
        let all = tolerations(json!([{"operator": "Exists"}]));
        assert!(!is_repelled(&node(), &all, &both, false));
        let one = tolerations(json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]));
        assert!(
            !is_repelled(&node(), &one, &["NoSchedule"], false) && is_repelled(&node(), &one, &both, false)
        );
        let other = tolerations(json!([{"key": "k", "value": "w"}]));
        assert!(is_repelled(&node(), &other, &["NoSchedule"], false));
    }
}
