//! Node and pod affinity terms, compiled once per pod.

use std::collections::BTreeSet;

use component_base::selector::{LabelSelector, Operator as LabelOperator, Requirement};
use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector};

use super::Labels;

/// One requirement of a node selector term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NodeRequirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// Node selector operators (API reference, NodeSelectorRequirement).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    /// Written by a newer client: matches nothing.
    Unknown,
}

/// One node selector term: all of its requirements must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    labels: Vec<NodeRequirement>,
    fields: Vec<NodeRequirement>,
}

/// Node selector terms: one of them must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSelectorTerms(Vec<NodeTerm>);

/// A pod affinity or anti-affinity term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    /// Namespaces named, or the pod's own when neither names nor a selector are given.
    pub namespaces: BTreeSet<String>,
    /// Selects namespaces by label, if given.
    pub namespace_selector: Option<LabelSelector>,
    /// Selects pods.
    pub selector: LabelSelector,
    /// Node label whose equal values make nodes one place.
    pub topology_key: String,
}

/// A preferred term with its weight, 1 to 100.
#[derive(Clone, Debug)]
pub struct WeightedPodTerm {
    /// The term.
    pub term: PodTerm,
    /// Added per match.
    pub weight: i64,
}

/// Compiles a pod selector of a pod with `labels`: the pod's own values of `same` keys join it, those of
/// `other` keys are excluded (matchLabelKeys, KEP-3633). A selector validation would refuse selects nothing.
pub(super) fn compile<'k>(
    selector: Option<&ApiSelector>,
    labels: &Labels,
    same: impl IntoIterator<Item = &'k String>,
    other: impl IntoIterator<Item = &'k String>,
) -> LabelSelector {
    let Ok(compiled) = LabelSelector::from_api(selector) else {
        return LabelSelector::nothing();
    };
    let own = |key: &String, operator| {
        let value = labels.get(key)?.clone();
        Requirement::new(key, operator, vec![value]).ok()
    };
    let mut requirements: Vec<Requirement> = compiled.requirements().to_vec();
    let given = requirements.len();
    requirements.extend(same.into_iter().filter_map(|k| own(k, LabelOperator::In)));
    requirements.extend(other.into_iter().filter_map(|k| own(k, LabelOperator::NotIn)));
    // An absent selector stays one that selects nothing.
    if requirements.len() == given || selector.is_none() {
        compiled
    } else {
        LabelSelector::new(requirements)
    }
}

// === impl NodeRequirement ===

impl NodeRequirement {
    fn new(r: &core::NodeSelectorRequirement) -> Self {
        let operator = match r.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => Operator::Unknown,
        };
        Self { key: r.key.clone(), operator, values: r.values.clone().unwrap_or_default() }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        let number = |s: &str| s.parse::<i64>().ok();
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt | Operator::Lt => {
                let (Some(have), Some(want)) =
                    (value.and_then(number), self.values.first().and_then(|v| number(v)))
                else {
                    return false;
                };
                if self.operator == Operator::Gt { have > want } else { have < want }
            }
            Operator::Unknown => false,
        }
    }
}

// === impl NodeTerm ===

impl NodeTerm {
    /// Compiles one term.
    pub fn new(term: &core::NodeSelectorTerm) -> Self {
        let compile = |list: &Option<Vec<core::NodeSelectorRequirement>>| {
            list.iter().flatten().map(NodeRequirement::new).collect()
        };
        Self { labels: compile(&term.match_expressions), fields: compile(&term.match_fields) }
    }

    /// Whether a node matches; an empty term matches nothing (API reference).
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        self.labels.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
            && self.fields.iter().all(|r| r.matches((r.key == "metadata.name").then_some(name)))
    }

    /// The node names this term is limited to by `metadata.name In`, if it is.
    fn names(&self) -> Option<BTreeSet<&str>> {
        let mut found: Option<BTreeSet<&str>> = None;
        for r in self.fields.iter().filter(|r| r.key == "metadata.name" && r.operator == Operator::In) {
            let these: BTreeSet<&str> = r.values.iter().map(String::as_str).collect();
            found = Some(match found {
                Some(before) => before.intersection(&these).copied().collect(),
                None => these,
            });
        }
        found
    }
}

// === impl NodeSelectorTerms ===

impl NodeSelectorTerms {
    /// Compiles a node selector.
    pub fn new(selector: &core::NodeSelector) -> Self {
        Self(selector.node_selector_terms.iter().map(NodeTerm::new).collect())
    }

    /// Whether one term matches.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.0.iter().any(|t| t.matches(name, labels))
    }

    /// The node names all terms together are limited to, if every term is limited.
    pub fn names(&self) -> Option<BTreeSet<&str>> {
        let mut all = BTreeSet::new();
        for term in &self.0 {
            all.extend(term.names()?);
        }
        (!self.0.is_empty()).then_some(all)
    }
}

// === impl PodTerm ===

impl PodTerm {
    /// Compiles a term of a pod in `namespace` with `labels`.
    pub fn new(term: &core::PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        let selector = compile(
            term.label_selector.as_ref(),
            labels,
            term.match_label_keys.iter().flatten(),
            term.mismatch_label_keys.iter().flatten(),
        );
        Self {
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|s| compile(Some(s), labels, [], [])),
            selector,
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether a pod is meant; `namespace_labels` are those of the pod's namespace.
    pub fn matches(&self, namespace: &str, labels: &Labels, namespace_labels: &Labels) -> bool {
        let in_namespace = self.namespaces.contains(namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| s.matches(namespace_labels));
        in_namespace && self.selector.matches(labels)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn operators_follow_the_api_reference() {
        let have = labels(&[("zone", "a"), ("cores", "8")]);
        let cases = [
            (json!({"key": "zone", "operator": "In", "values": ["a", "b"]}), true),
            (json!({"key": "zone", "operator": "NotIn", "values": ["a"]}), false),
            (json!({"key": "none", "operator": "NotIn", "values": ["a"]}), true),
            (json!({"key": "zone", "operator": "Exists"}), true),
            (json!({"key": "none", "operator": "DoesNotExist"}), true),
            (json!({"key": "cores", "operator": "Gt", "values": ["7"]}), true),
            (json!({"key": "cores", "operator": "Lt", "values": ["8"]}), false),
            (json!({"key": "zone", "operator": "Gt", "values": ["1"]}), false),
            (json!({"key": "zone", "operator": "Near", "values": ["a"]}), false),
        ];
        for (requirement, want) in cases {
            let term = serde_json::from_value(json!({"matchExpressions": [requirement]})).unwrap();
            assert_eq!(NodeTerm::new(&term).matches("n", &have), want, "{requirement}");
        }
        assert!(
            !NodeTerm::new(&core::NodeSelectorTerm::default()).matches("n", &have),
            "an empty term matches nothing"
        );
    }

    #[test]
    fn daemon_set_pods_are_limited_to_their_node_by_name() {
        let selector = serde_json::from_value(json!({"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}))
        .unwrap();
        let terms = NodeSelectorTerms::new(&selector);
        assert_eq!(terms.names(), Some(BTreeSet::from(["n1"])));
        assert!(terms.matches("n1", &Labels::new()) && !terms.matches("n2", &Labels::new()));
    }
}
