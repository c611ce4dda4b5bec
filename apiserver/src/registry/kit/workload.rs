//! What kinds that make pods of a template have in common.

use super::{Cell, Plain, Rules, at::At, column, format, shape};
use crate::{
    field::ErrorList,
    object::Object,
    registry::{Column, Subresource, pod_spec},
};

const OTHER_LABELS: &str = "`selector` does not match template `labels`";

/// What there is beside a workload whose number of pods is set.
pub(in crate::registry) const SCALED: &[Subresource] = &[
    Subresource::Scale { spec: "/spec/replicas", status: "/status/replicas", selector: "/spec/selector" },
    Subresource::Status,
];

/// Columns of kinds that keep a number of equal pods.
pub(in crate::registry) const REPLICA_COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Desired", "integer"),
    column("Current", "integer"),
    column("Ready", "integer"),
    column("Age", "string"),
    column("Containers", "string").wide(),
    column("Images", "string").wide(),
    column("Selector", "string").wide(),
];

/// What workloads that name pods after themselves have in common.
pub(in crate::registry) const fn rules(cells: &'static [Cell]) -> Rules {
    Rules {
        warnings: |new, old| warnings(new, old, true, &["spec", "template"]),
        ..Rules::new(Plain { status: true, generation: true, cells })
    }
}

/// The template of an object's spec.
pub(in crate::registry) fn template(obj: &Object) -> At<'_> {
    At::spec(obj).get("template")
}

/// What is wrong with a pod template; what is wrong with the one it replaces already may stay.
pub(in crate::registry) fn check_template(template: &At<'_>, old: Option<&At<'_>>, errors: &mut ErrorList) {
    pod_spec::check_template(template, old, errors);
}

/// A template whose pods are kept running by their owner.
pub(in crate::registry) fn check_lasting_template(
    template: &At<'_>,
    old: Option<&At<'_>>,
    kind: &str,
    errors: &mut ErrorList,
) {
    check_template(template, old, errors);
    check_lasting(template, kind, errors);
}

/// Pods that are kept running are started again and have no deadline.
pub(in crate::registry) fn check_lasting(template: &At<'_>, kind: &str, errors: &mut ErrorList) {
    let spec = template.get("spec");
    let restart = spec.get("restartPolicy");
    if restart.text() != "Always" {
        restart.not_supported(errors, &["Always"]);
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.is_set() {
        deadline.forbidden(errors, format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// The counts in the status of kinds that keep a number of equal pods, and others it has.
pub(in crate::registry) fn check_replica_status(status: &At<'_>, others: &[&str], errors: &mut ErrorList) {
    let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    status.check_counts(&["replicas"], errors);
    status.check_counts(&parts, errors);
    status.check_counts(others, errors);
    status.check_at_most(&parts, "replicas", "cannot be greater than status.replicas", errors);
    let detail = "cannot be greater than readyReplicas";
    status.check_at_most(&["availableReplicas"], "readyReplicas", detail, errors);
}

/// The selector of a workload: there, good, not empty, and its pods' own.
pub(in crate::registry) fn check_own_selector(
    spec: &At<'_>,
    kind: &str,
    detail: &str,
    errors: &mut ErrorList,
) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if !selector.is_set() {
        selector.required(errors, "");
        // What selects nothing does not select the pods either.
        let labels = template.get("metadata").get("labels");
        return labels.invalid(errors, OTHER_LABELS);
    }
    selector.check_selector(errors);
    if selector.selects_all() {
        selector.invalid_go(errors, &shape::LABEL_SELECTOR, format!("empty selector is invalid for {kind}"));
    }
    if !selector.selects() {
        return selector.invalid_go(errors, &shape::LABEL_SELECTOR, detail);
    }
    check_selects_template(&selector, &template, errors);
}

/// The selector of a spec stays what it is.
pub(in crate::registry) fn keeps_selector(new: &At<'_>, old: &At<'_>, errors: &mut ErrorList) {
    let (selector, was) = (new.get("selector"), old.get("selector"));
    if selector.value() != was.value() && !(selector.is_empty() && was.is_empty()) {
        selector.invalid_go(errors, &shape::LABEL_SELECTOR, "field is immutable");
    }
}

/// A selector selects the pods of a template.
pub(in crate::registry) fn check_selects_template(
    selector: &At<'_>,
    template: &At<'_>,
    errors: &mut ErrorList,
) {
    let labels = template.get("metadata").get("labels");
    if !selector.matches(&labels) {
        labels.invalid(errors, OTHER_LABELS);
    }
}

/// A counter that never goes down.
pub(in crate::registry) fn check_grows(new: &At<'_>, old: &At<'_>, errors: &mut ErrorList) {
    if old.is_set() && new.int() < old.int() {
        new.invalid_as(errors, new.int(), "cannot be decremented");
    }
}

/// What to warn of at a workload: its own name, where pods are called after it, and its template, when it is new or
/// the workload has changed.
pub(in crate::registry) fn warnings(
    new: &Object,
    old: Option<&Object>,
    names_pods: bool,
    template: &[&str],
) -> Vec<String> {
    let mut warnings = Vec::new();
    let wrong = format::dns_label(new.name());
    if old.is_none() && names_pods && !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS \
             label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    if old.is_none_or(|old| old.generation() != new.generation()) {
        let (first, rest) = template.split_first().unwrap_or((&"template", &[]));
        let at = rest.iter().fold(At::field(new, first), |at, field| at.get(field));
        warnings.extend(pod_spec::warnings_of_template(&at));
    }
    warnings
}
