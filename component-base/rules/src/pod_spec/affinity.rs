//! Where a pod may run: node selectors, affinity to nodes and pods, tolerations, spreading, gates.
//!
//! Contract: core/v1 `Affinity`, `Toleration`, `TopologySpreadConstraint`; label keys of pods are KEP-3633 and
//! KEP-3243, scheduling gates KEP-3521.

use std::collections::BTreeSet;

use super::validation::Whole;
use crate::{
    at::At,
    field::{Error, ErrorList},
    format, validate,
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The affinity of a pod.
pub(super) fn check(affinity: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    let nodes = affinity.get("nodeAffinity");
    if nodes.has(REQUIRED) {
        check_node_selector(&nodes.get(REQUIRED), whole.allowed.node_labels, errors);
    }
    for term in nodes.get(PREFERRED).items() {
        check_weight(&term, errors);
        // A preference nobody meets does no harm, whatever its labels.
        node_term(&term.get("preference"), true, errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"].map(|kind| affinity.get(kind)) {
        for term in kind.get(REQUIRED).items() {
            pod_term(&term, whole.allowed.pod_labels, errors);
        }
        for term in kind.get(PREFERRED).items() {
            check_weight(&term, errors);
            pod_term(&term.get("podAffinityTerm"), whole.allowed.pod_labels, errors);
        }
    }
}

fn check_weight(term: &At<'_>, errors: &mut ErrorList) {
    let weight = term.get("weight");
    if !(1..=100).contains(&weight.int()) {
        weight.invalid_as(errors, weight.int(), "must be in the range 1-100");
    }
}

/// A selector of nodes: some of its terms have to match. `loose` lets values be no labels.
pub fn check_node_selector(selector: &At<'_>, loose: bool, errors: &mut ErrorList) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_empty() {
        return terms.required(errors, "must have at least one node selector term");
    }
    terms.items().for_each(|term| node_term(&term, loose, errors));
}

fn node_term(term: &At<'_>, loose: bool, errors: &mut ErrorList) {
    for requirement in term.get("matchExpressions").items() {
        node_requirement(&requirement, loose, errors);
    }
    for requirement in term.get("matchFields").items() {
        node_field(&requirement, errors);
    }
}

fn node_requirement(requirement: &At<'_>, loose: bool, errors: &mut ErrorList) {
    let (operator, values) = (requirement.get("operator"), requirement.get("values"));
    match operator.text() {
        "In" | "NotIn" if values.is_empty() => {
            values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            values.forbidden(errors, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            values.required(errors, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => operator.invalid_as(errors, other, "not a valid selector operator"),
    }
    requirement.get("key").check_format(errors, format::qualified_name);
    if !loose {
        values.items().for_each(|value| value.check_format(errors, format::label_value));
    }
}

fn node_field(requirement: &At<'_>, errors: &mut ErrorList) {
    let (operator, values) = (requirement.get("operator"), requirement.get("values"));
    match operator.text() {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            values.required(errors, detail);
        }
        "In" | "NotIn" => {}
        other => operator.invalid_as(errors, other, "not a valid selector operator"),
    }
    let key = requirement.get("key");
    if key.text() == "metadata.name" {
        values.items().for_each(|value| value.check_format(errors, format::dns_subdomain));
    } else {
        key.invalid_as(errors, key.text(), "not a valid field selector key");
    }
}

fn pod_term(term: &At<'_>, loose: bool, errors: &mut ErrorList) {
    for selector in ["labelSelector", "namespaceSelector"].map(|field| term.get(field)) {
        selector.check_selector_after(loose, errors);
    }
    for namespace in term.get("namespaces").items() {
        for detail in validate::dns_label(namespace.text(), false) {
            errors.push(Error::invalid(&term.path().child("namespace"), namespace.text(), detail));
        }
    }
    check_label_keys(term, errors);
    let topology = term.get("topologyKey");
    if topology.is_empty() {
        topology.required(errors, "can not be empty");
    }
    topology.check_format(errors, format::qualified_name);
}

/// Keys of the pod's own labels a term selects by.
fn check_label_keys(term: &At<'_>, errors: &mut ErrorList) {
    let selector = term.get("labelSelector");
    let keys = ["matchLabelKeys", "mismatchLabelKeys"].map(|field| term.get(field));
    for keys in keys.iter().filter(|keys| !keys.is_empty()) {
        if selector.is_set() {
            keys.items().for_each(|key| key.check_format(errors, format::qualified_name));
        } else {
            keys.forbidden(errors, "must not be specified when labelSelector is not set");
        }
    }
    let [matching, mismatching] = keys;
    let mut seen: BTreeSet<&str> = selector.get("matchLabels").entries().map(|(key, _)| key).collect();
    for expression in selector.get("matchExpressions").items() {
        let key = expression.text_of("key");
        // The server adds an expression for each of the keys, so only a second one is the client's.
        let at = matching.items().enumerate().filter(|(_, k)| k.text() == key).last();
        if let Some((i, _)) = at.filter(|_| seen.contains(key)) {
            let path = term.path().index(i);
            errors.push(Error::invalid(&path, key, "exists in both matchLabelKeys and labelSelector"));
        }
        seen.insert(key);
    }
    for key in matching.items().filter(|key| mismatching.items().any(|other| other.text() == key.text())) {
        key.invalid(errors, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

/// Tolerations of a pod.
pub fn check_tolerations(tolerations: &At<'_>, errors: &mut ErrorList) {
    for toleration in tolerations.items() {
        let get = |field: &'static str| toleration.get(field);
        let (key, operator, value, effect) = (get("key"), get("operator"), get("value"), get("effect"));
        key.check_option_format(errors, format::qualified_name);
        if key.is_empty() && operator.text() != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            operator.invalid_as(errors, operator.text(), detail);
        }
        if toleration.has("tolerationSeconds") && effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            effect.invalid_as(errors, effect.text(), detail);
        }
        match operator.text() {
            "Equal" | "" => {
                let wrong = format::label_value(value.text());
                if !wrong.is_empty() {
                    operator.invalid_as(errors, value.text(), wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                operator.invalid_as(errors, value.text(), "value must be empty when `operator` is 'Exists'");
            }
            // See `check_comparing`.
            "Exists" | "Lt" | "Gt" => {}
            _ => operator.not_among(errors, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect.text()) {
            effect.not_among(errors, EFFECTS);
        }
    }
}

/// Tolerations that compare numbers.
fn comparing<'v>(tolerations: &At<'v>) -> impl Iterator<Item = At<'v>> + use<'v> {
    tolerations.items().filter(|toleration| matches!(toleration.text_of("operator"), "Lt" | "Gt"))
}

/// Whether there are tolerations that compare numbers.
pub fn compares(tolerations: &At<'_>) -> bool {
    comparing(tolerations).next().is_some()
}

/// What is wrong with tolerations that compare numbers; all of them are where there are no such operators.
pub fn check_comparing(tolerations: &At<'_>, allowed: bool, errors: &mut ErrorList) {
    for toleration in comparing(tolerations) {
        if allowed {
            compared(&toleration.get("value"), errors);
        } else {
            toleration.get("operator").not_among(errors, &["Equal", "Exists", "Lt", "Gt"]);
        }
    }
}

fn compared(value: &At<'_>, errors: &mut ErrorList) {
    value.check_format(errors, format::decimal);
    let text = value.text();
    if text.parse::<i64>().is_err() {
        let plain = text.strip_prefix(['-', '+']).unwrap_or(text);
        let digits = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit());
        let why = if digits { "value out of range" } else { "invalid syntax" };
        value.invalid_as(errors, text, format!("strconv.ParseInt: parsing {text:?}: {why}"));
    }
}

/// The effect of a taint.
pub fn check_effect(effect: &At<'_>, errors: &mut ErrorList) {
    effect.check_among(errors, EFFECTS);
}

/// How pods are spread.
pub(super) fn check_spreading(constraints: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    let all: Vec<At<'_>> = constraints.items().collect();
    for (i, constraint) in all.iter().enumerate() {
        constraint.get("maxSkew").check_positive(errors);
        let (key, action) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if key.is_empty() {
            key.required(errors, "can not be empty");
        }
        action.check_is_one_of(errors, &["DoNotSchedule", "ScheduleAnyway"]);
        let same = |other: &At<'_>| {
            other.text_of("topologyKey") == key.text() && other.text_of("whenUnsatisfiable") == action.text()
        };
        if all[i + 1..].iter().any(same) {
            let path = constraint.path().child("{topologyKey, whenUnsatisfiable}");
            errors.push(Error::duplicate(&path, format!("{{{}, {}}}", key.text(), action.text())));
        }
        let domains = constraint.get("minDomains");
        if domains.is_set() {
            domains.check_positive(errors);
            if action.text() != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.text()
                );
                domains.invalid(errors, detail);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.get(policy).check_option_of(errors, &["Honor", "Ignore"]);
        }
        if whole.allowed.spread_keys {
            old_label_keys(constraint, errors);
        } else {
            check_label_keys(constraint, errors);
        }
        if !whole.allowed.spread_selector {
            constraint.get("labelSelector").check_selector(errors);
        }
    }
}

/// The rule for label keys that pods were made under before the server merged them into the selector.
fn old_label_keys(constraint: &At<'_>, errors: &mut ErrorList) {
    let (keys, selector) = (constraint.get("matchLabelKeys"), constraint.get("labelSelector"));
    if keys.is_empty() {
        return;
    }
    if !selector.is_set() {
        keys.forbidden(errors, "must not be specified when labelSelector is not set");
    }
    let mut selected: BTreeSet<&str> = selector.get("matchLabels").entries().map(|(key, _)| key).collect();
    selected.extend(selector.get("matchExpressions").items().map(|e| e.text_of("key")));
    for key in keys.items() {
        key.check_format(errors, format::qualified_name);
        if selected.contains(key.text()) {
            key.invalid(errors, "exists in both matchLabelKeys and labelSelector");
        }
    }
}

/// Gates that keep a pod from being scheduled.
pub(super) fn check_gates(gates: &At<'_>, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.get("name").named(gate.path().clone());
        name.check_format(errors, format::qualified_name);
        if !seen.insert(name.text()) {
            errors.push(Error::duplicate(gate.path(), name.text()));
        }
    }
}

/// Whether a spec's rules about other pods select by what labels cannot be.
pub fn breaks_selectors(spec: &At<'_>) -> bool {
    let [_, pod_labels, ..] = broken(spec);
    pod_labels
}

/// What of a pod's rules an old pod breaks, which then stays allowed: labels of node affinity, labels of pod
/// affinity, selectors of spreading, label keys of spreading.
pub(super) fn broken(spec: &At<'_>) -> [bool; 4] {
    let breaks = |check: &dyn Fn(&mut ErrorList)| {
        let mut errors = ErrorList::new();
        check(&mut errors);
        !errors.is_empty()
    };
    let affinity = spec.get("affinity");
    let required = affinity.get("nodeAffinity").get(REQUIRED);
    let node_values = breaks(&|errors| {
        for term in required.get("nodeSelectorTerms").items() {
            for requirement in term.get("matchExpressions").items() {
                requirement.get("values").items().for_each(|v| v.check_format(errors, format::label_value));
            }
        }
    });
    let pod_values = breaks(&|errors| {
        for kind in ["podAffinity", "podAntiAffinity"].map(|kind| affinity.get(kind)) {
            let preferred = kind.get(PREFERRED);
            let terms = kind.get(REQUIRED);
            for term in terms.items().chain(preferred.items().map(|term| term.get("podAffinityTerm"))) {
                term.get("labelSelector").check_selector(errors);
                term.get("namespaceSelector").check_selector(errors);
            }
        }
    });
    let constraints = spec.get("topologySpreadConstraints");
    let selectors = breaks(&|errors| {
        constraints.items().for_each(|constraint| constraint.get("labelSelector").check_selector(errors));
    });
    let keys = breaks(&|errors| constraints.items().for_each(|c| check_label_keys(&c, errors)));
    [node_values, pod_values, selectors, keys]
}
