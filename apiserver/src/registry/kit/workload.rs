//! What kinds that make pods of a template have in common.

use super::at::At;
use crate::field::ErrorList;

/// What is wrong with a pod template.
pub(in crate::registry) fn check_template(template: &At<'_>, errors: &mut ErrorList) {
    template.get("metadata").get("labels").named(template.path().child("labels")).check_labels(errors);
    template.get("spec").get("containers").check_required(errors);
}

/// A template whose pods are kept running by their owner.
pub(in crate::registry) fn check_lasting_template(template: &At<'_>, kind: &str, errors: &mut ErrorList) {
    check_template(template, errors);
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

/// The selector of a workload: there, good, not empty, and its pods' own.
pub(in crate::registry) fn check_own_selector(
    spec: &At<'_>,
    kind: &str,
    detail: &str,
    errors: &mut ErrorList,
) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if !selector.is_set() {
        return selector.required(errors, "");
    }
    selector.check_selector(errors);
    if selector.selects_all() {
        selector.invalid(errors, format!("empty selector is invalid for {kind}"));
    }
    if !selector.selects() {
        return selector.invalid(errors, detail);
    }
    check_selects_template(&selector, &template, errors);
}

/// A selector selects the pods of a template.
pub(in crate::registry) fn check_selects_template(
    selector: &At<'_>,
    template: &At<'_>,
    errors: &mut ErrorList,
) {
    let labels = template.get("metadata").get("labels");
    if !selector.matches(&labels) {
        labels.invalid(errors, "`selector` does not match template `labels`");
    }
}

/// A counter that never goes down.
pub(in crate::registry) fn check_grows(new: &At<'_>, old: &At<'_>, errors: &mut ErrorList) {
    if old.is_set() && new.int() < old.int() {
        new.named(new.path().clone()).invalid(errors, "cannot be decremented");
    }
}
