//! NodeAffinity: node selector, required and preferred node affinity, of the pod and of the profile.

use component_base::selector::{label_key_errors, label_value_errors};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use crate::{
    config::args::{ArgsError, NodeAffinityArgs},
    framework::{ClusterEvent, Filter, Plugin, Prepared, Score, Scorer, Verdict, normalize_to_max},
    model::{Cluster, NodeInfo, NodeSelectorTerms, NodeTerm, PodInfo},
};

/// The plugin.
#[derive(Default)]
pub struct NodeAffinity {
    /// What every pod of the profile requires.
    required: Option<NodeSelectorTerms>,
    /// What every pod of the profile prefers.
    preferred: Vec<(NodeTerm, i64)>,
}

struct Affine<'a> {
    pod: &'a PodInfo,
    required: Option<NodeSelectorTerms>,
}

struct Preference<'a> {
    pod: &'a PodInfo,
    added: Vec<(NodeTerm, i64)>,
}

impl NodeAffinity {
    /// The plugin with what a profile adds.
    ///
    /// # Errors
    /// When a term of it cannot be.
    pub fn new(args: &NodeAffinityArgs) -> Result<Self, ArgsError> {
        let Some(added) = &args.added_affinity else { return Ok(Self::default()) };
        let required = added.required_during_scheduling_ignored_during_execution.as_ref();
        let terms = required.iter().flat_map(|selector| &selector.node_selector_terms);
        for (at, term) in terms.enumerate() {
            let path = "addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
            check_term(term, &format!("{path}[{at}]"))?;
        }
        let preferred = || added.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (at, preference) in preferred().enumerate() {
            let path = "addedAffinity.preferredDuringSchedulingIgnoredDuringExecution";
            check_term(&preference.preference, &format!("{path}[{at}]"))?;
        }
        Ok(Self {
            required: required.map(NodeSelectorTerms::new),
            preferred: preferred().map(|p| (NodeTerm::new(&p.preference), p.weight.into())).collect(),
        })
    }

    fn accepts(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        self.required.as_ref().is_none_or(|r| r.matches(&node.name, &node.labels))
            && pod.accepts_node(&node.name, &node.labels)
    }
}

/// Refuses a term that no node could be asked.
fn check_term(term: &NodeSelectorTerm, path: &str) -> Result<(), ArgsError> {
    let lists = [("matchExpressions", &term.match_expressions), ("matchFields", &term.match_fields)];
    for (list, requirements) in lists {
        for (at, requirement) in requirements.iter().flatten().enumerate() {
            let wrong = match list {
                "matchFields" => wrong_field(requirement),
                _ => wrong_label(requirement),
            };
            if let Some((field, why)) = wrong {
                return Err(ArgsError::Item(format!("{path}.{list}[{at}].{field}"), why));
            }
        }
    }
    Ok(())
}

/// The field of a requirement on labels that is wrong, and why.
fn wrong_label(requirement: &NodeSelectorRequirement) -> Option<(&'static str, String)> {
    let values = requirement.values.as_deref().unwrap_or_default();
    let wrong = match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => "for 'in', 'notin' operators, values set can't be empty",
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            "values set must be empty for exists and does not exist"
        }
        "Gt" | "Lt" if values.len() != 1 => "for 'Gt', 'Lt' operators, exactly one value is required",
        "Gt" | "Lt" if values.iter().any(|value| value.parse::<i64>().is_err()) => {
            "for 'Gt', 'Lt' operators, the value must be an integer"
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {
            let key = label_key_errors(&requirement.key).into_iter().next().map(|why| ("key", why));
            let value = || values.iter().find_map(|value| label_value_errors(value).into_iter().next());
            return key.or_else(|| Some(("values", value()?)));
        }
        other => return Some(("operator", format!("Unsupported value: {other:?}"))),
    };
    Some(("values", wrong.to_owned()))
}

/// The same of a requirement on fields.
fn wrong_field(requirement: &NodeSelectorRequirement) -> Option<(&'static str, String)> {
    let count = requirement.values.as_ref().map_or(0, Vec::len);
    match requirement.operator.as_str() {
        "In" | "NotIn" if count == 1 => None,
        "In" | "NotIn" => Some(("values", "must have one element".to_owned())),
        other => Some(("operator", format!("Unsupported value: {other:?}"))),
    }
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter<'a>(&self, pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        let filter = Box::new(Affine { pod, required: self.required.clone() });
        match &pod.node_required {
            None if pod.node_selector.is_empty() && self.required.is_none() => Prepared::Skip,
            None => Prepared::Filter(filter),
            Some(terms) => match terms.names() {
                Some(names) if names.is_empty() => Prepared::Reject("pod affinity terms conflict".into()),
                // A DaemonSet's pod names its only node: there is no need to ask the others.
                Some(names) => Prepared::Restrict(names, filter),
                None => Prepared::Filter(filter),
            },
        }
    }

    fn score<'a>(&self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Scorer<'a> {
        if pod.node_preferred.is_empty() && self.preferred.is_empty() {
            return None;
        }
        Some(Box::new(Preference { pod, added: self.preferred.clone() }))
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => self.accepts(pod, node),
            ClusterEvent::NodeUpdated { old, new } => !self.accepts(pod, old) && self.accepts(pod, new),
            _ => false,
        }
    }
}

impl Filter for Affine<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if self.required.as_ref().is_some_and(|r| !r.matches(&node.name, &node.labels)) {
            return Verdict::unresolvable("node(s) didn't match scheduler-enforced node affinity");
        }
        Verdict::fits_or(self.pod.accepts_node(&node.name, &node.labels), || {
            Verdict::unresolvable("node(s) didn't match Pod's node affinity/selector")
        })
    }
}

impl Score for Preference<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let all = self.added.iter().chain(&self.pod.node_preferred);
        all.filter(|(term, _)| term.matches(&node.name, &node.labels)).map(|(_, weight)| weight).sum()
    }

    fn normalize(&self, _nodes: &[&NodeInfo], scores: &mut [i64]) {
        normalize_to_max(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, node, pod, scores};

    /// What nodes `a` in zone `x` and `b` in zone `y` say to a pod with these terms; nothing where all are refused at once.
    fn takes(terms: serde_json::Value, selector: serde_json::Value) -> Option<[bool; 2]> {
        let world = cluster(vec![node("a", "x", json!({})), node("b", "y", json!({}))], vec![]);
        let path = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
        let pod = pod("p").set(path, terms).set("/spec/nodeSelector", selector).info();
        let nodes = ["a", "b"].map(|name| world.node(name).unwrap());
        match NodeAffinity::default().filter(&pod, &world) {
            Prepared::Skip => Some([true; 2]),
            Prepared::Filter(filter) => Some(nodes.map(|node| filter.check(node) == Verdict::Fits)),
            Prepared::Restrict(names, filter) => Some(
                nodes.map(|node| names.contains(node.name.as_str()) && filter.check(node) == Verdict::Fits),
            ),
            Prepared::Reject(reason) => {
                assert_eq!(reason, "pod affinity terms conflict");
                None
            }
        }
    }

    #[test]
    fn terms_are_alternatives_and_all_of_one_has_to_hold() {
        let zone = |operator: &str, values: &[&str]| json!({"key": "topology.kubernetes.io/zone", "operator": operator, "values": values});
        let name = |operator: &str, values: &[&str]| json!({"key": "metadata.name", "operator": operator, "values": values});
        let fields = |all: serde_json::Value| json!({"matchFields": all});
        let labels = |all: serde_json::Value| json!({"matchExpressions": all});
        let both = |field: serde_json::Value, label: serde_json::Value| json!({"matchFields": [field], "matchExpressions": [label]});
        let table = [
            (json!([labels(json!([zone("In", &["x"])]))]), Some([true, false])),
            (json!([labels(json!([zone("NotIn", &["x"])]))]), Some([false, true])),
            (json!([labels(json!([zone("Exists", &[]), zone("NotIn", &["y"])]))]), Some([true, false])),
            (json!([labels(json!([zone("In", &["x"]), zone("In", &["y"])]))]), Some([false, false])),
            (
                json!([labels(json!([zone("In", &["x"])])), labels(json!([zone("In", &["y"])]))]),
                Some([true; 2]),
            ),
            (json!([fields(json!([name("In", &["a"])]))]), Some([true, false])),
            (json!([fields(json!([name("NotIn", &["a"])]))]), Some([false, true])),
            (json!([fields(json!([name("In", &["c"])]))]), Some([false, false])),
            (json!([both(name("In", &["a"]), zone("In", &["x"]))]), Some([true, false])),
            (json!([both(name("In", &["a"]), zone("In", &["y"]))]), Some([false, false])),
            (
                json!([fields(json!([name("In", &["a"])])), labels(json!([zone("In", &["y"])]))]),
                Some([true; 2]),
            ),
            (
                json!([fields(json!([name("In", &["a"])])), fields(json!([name("In", &["b"])]))]),
                Some([true; 2]),
            ),
            // No node has two names.
            (json!([fields(json!([name("In", &["a"]), name("In", &["b"])]))]), None),
            (
                json!([
                    fields(json!([name("In", &["a"]), name("In", &["b"])])),
                    fields(json!([name("In", &["b"])]))
                ]),
                Some([false, true]),
            ),
            // A term that asks for nothing means no node.
            (json!([{}]), Some([false, false])),
        ];
        for (terms, expected) in table {
            let told = terms.to_string();
            assert_eq!(takes(json!({"nodeSelectorTerms": terms}), json!({})), expected, "{told}");
        }
        let of_x = || json!({"nodeSelectorTerms": [labels(json!([zone("In", &["x"])]))]});
        let selector = |zone: &str| json!({"topology.kubernetes.io/zone": zone});
        assert_eq!(takes(of_x(), selector("x")), Some([true, false]), "a selector and terms that agree");
        assert_eq!(takes(of_x(), selector("y")), Some([false, false]), "both have to hold");
        assert_eq!(takes(json!(null), selector("y")), Some([false, true]));
        assert_eq!(takes(json!(null), json!({})), Some([true; 2]));
    }

    #[test]
    fn weights_of_preferred_terms_add_up() {
        let term = |weight: i32, key: &str, value: &str| {
            let expression = json!({"key": key, "operator": "In", "values": [value]});
            json!({"weight": weight, "preference": {"matchExpressions": [expression]}})
        };
        let labelled =
            |name: &str, labels: serde_json::Value| node(name, "x", json!({"metadata": {"labels": labels}}));
        let world = cluster(
            vec![
                labelled("both", json!({"disk": "ssd", "gpu": "yes"})),
                labelled("disk", json!({"disk": "ssd"})),
                labelled("gpu", json!({"gpu": "yes"})),
                labelled("none", json!({})),
            ],
            vec![],
        );
        let preferring = |terms: serde_json::Value| {
            let path = "/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";
            pod("p").set(path, terms).info()
        };
        let empty = json!({"weight": 9, "preference": {}});
        let table = [
            (json!([term(2, "disk", "ssd"), term(6, "gpu", "yes")]), Some([100, 25, 75, 0])),
            (json!([term(4, "disk", "ssd")]), Some([100, 100, 0, 0])),
            (json!([term(4, "disk", "tape")]), Some([0; 4])),
            // A term that asks for nothing means no node.
            (json!([empty]), Some([0; 4])),
            (json!([]), None),
        ];
        for (terms, expected) in table {
            let found = scores(
                &NodeAffinity::default(),
                &preferring(terms.clone()),
                &world,
                ["both", "disk", "gpu", "none"],
            );
            assert_eq!(found, expected, "{terms}");
        }
    }

    #[test]
    fn pods_wake_when_a_node_becomes_one_of_theirs() {
        let of_zone = |zone: &str| std::sync::Arc::new(node("n", zone, json!({})));
        let selector = json!({"topology.kubernetes.io/zone": "x"});
        let pod = pod("p").set("/spec/nodeSelector", selector).info();
        let updated = |old, new| ClusterEvent::NodeUpdated { old: of_zone(old), new: of_zone(new) };
        for (event, wakes) in [
            (ClusterEvent::NodeAdded(of_zone("x")), true),
            (ClusterEvent::NodeAdded(of_zone("y")), false),
            (updated("y", "x"), true),
            (updated("x", "x"), false),
            (updated("x", "y"), false),
            (ClusterEvent::NamespaceChanged, false),
        ] {
            assert_eq!(NodeAffinity::default().wakes(&pod, &event), wakes, "{event:?}");
        }
    }

    #[test]
    fn what_a_profile_adds_has_to_be_something_nodes_can_be_asked() {
        let of = |list: &str, key: &str, operator: &str, values: &[&str]| json!({list: [{"key": key, "operator": operator, "values": values}]});
        let labels = |key, operator, values| of("matchExpressions", key, operator, values);
        let fields = |operator, values| of("matchFields", "metadata.name", operator, values);
        let table = [
            (labels("a", "In", &["x"]), None),
            (labels("a", "Exists", &[]), None),
            (labels("a", "Gt", &["3"]), None),
            (labels("a", "In", &[]), Some("values")),
            (labels("a", "Exists", &["x"]), Some("values")),
            (labels("a", "Gt", &["x"]), Some("values")),
            (labels("a", "Lt", &["1", "2"]), Some("values")),
            (labels("a", "Near", &["x"]), Some("operator")),
            (labels("-a", "In", &["x"]), Some("key")),
            (labels("a", "In", &["-x"]), Some("values")),
            (fields("In", &["n"]), None),
            (fields("In", &["n", "m"]), Some("values")),
            (fields("Exists", &[]), Some("operator")),
        ];
        for (term, wrong) in table {
            for added in [
                json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}),
                json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": term}]}),
            ] {
                let args = serde_json::from_value(json!({"addedAffinity": added})).unwrap();
                let told = NodeAffinity::new(&args).err().map(|error| error.to_string());
                let field = told.as_deref().and_then(|told| told.split(": ").next()?.rsplit('.').next());
                assert_eq!(field, wrong, "{added}: {told:?}");
            }
        }
    }

    #[test]
    fn a_profile_adds_its_own_affinity() {
        let expression = json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["x"]});
        let term = json!({"matchExpressions": [expression]});
        let args: NodeAffinityArgs = serde_json::from_value(json!({"addedAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference": term}],
        }}))
        .unwrap();
        let cluster = cluster(vec![node("a", "x", json!({})), node("b", "y", json!({}))], vec![]);
        let (plugin, pod) = (NodeAffinity::new(&args).unwrap(), pod("p").info());
        let Prepared::Filter(filter) = plugin.filter(&pod, &cluster) else { panic!() };
        let [a, b] = ["a", "b"].map(|name| cluster.node(name).unwrap());
        assert_eq!(filter.check(a), Verdict::Fits);
        let refusal = "node(s) didn't match scheduler-enforced node affinity";
        assert_eq!(filter.check(b), Verdict::unresolvable(refusal));
        let score = plugin.score(&pod, &cluster, &[a, b]).unwrap();
        assert_eq!((score.score(a), score.score(b)), (5, 0));
        assert!(matches!(NodeAffinity::default().filter(&pod, &cluster), Prepared::Skip));
    }
}
