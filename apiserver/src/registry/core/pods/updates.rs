//! What an update of a pod may change: images, deadlines, tolerations that are added, gates that are opened.
//!
//! Contract: upstream's `ValidatePodUpdate` and `ValidatePodEphemeralContainersUpdate`; what gated pods may change is
//! KEP-3838.

use serde_json::{Value, json};

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        kit::{at::At, items, semantic, shape, text},
        pod_spec,
    },
};

const FIELDS: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set \
     to 1 if it was previously negative)";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// An error about the pod as a whole.
pub(super) fn of_pod(detail: &str) -> Error {
    Error { field: String::new(), ..Error::forbidden(&Path::root(), detail) }
}

/// What is wrong with an update of a pod.
pub(super) fn check(new: &Object, old: &Object, errors: &mut ErrorList) {
    pod_spec::check_pod(new, Some(old), errors);
    pod_spec::check_annotation_change(new, old, errors);
    let (spec, before) = (At::spec(new), At::spec(old));
    for list in ["containers", "initContainers"] {
        if !check_images(&spec.get(list), &before.get(list), errors) {
            return;
        }
    }
    if !check_deadline(&spec, &before, errors) {
        return;
    }
    check_tolerations(new, old, errors);
    check_gates(&spec.get("schedulingGates"), &before.get("schedulingGates"), errors);
    if semantic::same(before.value(), spec.value()) {
        return;
    }
    let mut rest = spec.value().clone();
    put_back(&mut rest, before.value());
    if !before.get("schedulingGates").is_empty() {
        check_gated(&mut rest, &before, errors);
    }
    let changed = semantic::differences(before.value(), &rest);
    if !changed.is_empty() {
        let detail =
            format!("pod updates may not change fields other than {FIELDS}\n{}\n", changed.join("\n"));
        spec.forbidden(errors, detail);
    }
}

/// Containers stay who they are; says whether they do.
fn check_images(new: &At<'_>, old: &At<'_>, errors: &mut ErrorList) -> bool {
    if new.len() != old.len() {
        new.forbidden(errors, "pod updates may not add or remove containers");
        return false;
    }
    for image in new.items().map(|container| container.get("image")) {
        image.check_required(errors);
        if image.text().trim() != image.text() {
            image.invalid(errors, "must not have leading or trailing whitespace");
        }
    }
    true
}

/// A deadline may be set and come nearer; says whether the rest is worth a look.
fn check_deadline(new: &At<'_>, old: &At<'_>, errors: &mut ErrorList) -> bool {
    let (deadline, before) = (new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds").number());
    match (deadline.number(), before) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            deadline.check_range(errors, 0, i64::from(i32::MAX));
            return false;
        }
        (Some(seconds), Some(before)) if before < seconds => {
            deadline.invalid(errors, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => deadline.invalid(errors, "must not update from a positive integer to nil value"),
        _ => {}
    }
    true
}

fn check_tolerations(new: &Object, old: &Object, errors: &mut ErrorList) {
    let without_time = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.as_object_mut().map(|fields| fields.remove("tolerationSeconds"));
        toleration
    };
    let list =
        |pod: &Object| -> Vec<Value> { items(pod.pointer("/spec/tolerations")).map(without_time).collect() };
    let now = list(new);
    if list(old).iter().any(|old| !now.iter().any(|new| semantic::same(old, new))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        return At::spec(new).get("tolerations").forbidden(errors, detail);
    }
    pod_spec::check_tolerations(&At::spec(new).get("tolerations"), errors);
}

fn check_gates(new: &At<'_>, old: &At<'_>, errors: &mut ErrorList) {
    for gate in new.items().map(|gate| gate.get("name")) {
        if !old.items().any(|old| old.text_of("name") == gate.text()) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.text());
            gate.forbidden(errors, detail);
        }
    }
}

/// Puts back what an update may change, so that what is left is what it may not.
fn put_back(spec: &mut Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        let images: Vec<Value> = items(old.get(list)).map(|c| c["image"].clone()).collect();
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        containers.zip(images).for_each(|(container, image)| container["image"] = image);
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        set(spec, field, old.get(field));
    }
    let grace = "terminationGracePeriodSeconds";
    let was_negative = old.get(grace).and_then(Value::as_i64).is_some_and(|seconds| seconds < 0);
    if was_negative && spec.get(grace).is_some_and(|seconds| *seconds == 1) {
        set(spec, grace, old.get(grace));
    }
}

fn set(spec: &mut Value, field: &str, value: Option<&Value>) {
    let Some(fields) = spec.as_object_mut() else { return };
    match value {
        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
        None => drop(fields.remove(field)),
    }
}

/// A gated pod may be told more narrowly where to run.
fn check_gated(spec: &mut Value, old: &At<'_>, errors: &mut ErrorList) {
    let selector = old.get("nodeSelector");
    let wanted = spec.get("nodeSelector").cloned().unwrap_or_default();
    if selector.entries().any(|(key, value)| wanted.get(key) != Some(value.value())) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        selector.invalid_as(errors, wanted, detail);
    }
    set(spec, "nodeSelector", old.value().get("nodeSelector"));
    let before = old.get("affinity").get("nodeAffinity");
    let wanted = spec.pointer("/affinity/nodeAffinity").cloned().unwrap_or_default();
    if semantic::same(before.value(), &wanted) {
        return;
    }
    check_node_affinity(&before, &wanted, errors);
    let mut affinity = spec.get("affinity").cloned().unwrap_or_else(|| json!({}));
    set(&mut affinity, "nodeAffinity", old.value().pointer("/affinity/nodeAffinity"));
    let nothing_else = affinity.as_object().is_none_or(|fields| fields.values().all(Value::is_null));
    let none = nothing_else && old.value().get("affinity").is_none_or(Value::is_null);
    set(spec, "affinity", (!none).then_some(&affinity));
}

fn check_node_affinity(before: &At<'_>, wanted: &Value, errors: &mut ErrorList) {
    let terms = before.get(REQUIRED).get("nodeSelectorTerms");
    if terms.is_empty() {
        return;
    }
    let now: Vec<&Value> = items(wanted.get(REQUIRED).and_then(|r| r.get("nodeSelectorTerms"))).collect();
    if now.len() != terms.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let other = Error::invalid(terms.path(), json!(now), detail);
        return errors.push(other.shown_as(&shape::NODE_SELECTOR_TERM));
    }
    for (old, new) in terms.items().zip(now) {
        if !only_adds(old.value(), new) {
            let detail = "only additions are allowed (no mutations or deletions)";
            let changed = Error::invalid(old.path(), new.clone(), detail);
            errors.push(changed.shown_as(&shape::NODE_SELECTOR_TERM));
        }
    }
}

/// Whether a term keeps its requirements in their place; one without any selects nothing and stays so.
fn only_adds(old: &Value, new: &Value) -> bool {
    let list = |term: &Value, field: &str| -> Vec<Value> { items(term.get(field)).cloned().collect() };
    let lists = ["matchExpressions", "matchFields"].map(|field| (list(old, field), list(new, field)));
    let was_empty = lists.iter().all(|(old, _)| old.is_empty());
    let is_empty = lists.iter().all(|(_, new)| new.is_empty());
    lists.iter().all(|(old, new)| {
        new.len() >= old.len() && old.iter().zip(new).all(|(old, new)| semantic::same(old, new))
    }) && (!was_empty || is_empty)
}

/// What is wrong with an update of ephemeral containers: they come, and stay as they are.
pub(super) fn check_ephemeral(new: &Object, old: &Object, errors: &mut ErrorList) {
    if old.annotation(pod_spec::MIRROR).is_some() {
        return errors.push(of_pod("static pods do not support ephemeral containers"));
    }
    pod_spec::check_pod(new, Some(old), errors);
    pod_spec::check_annotation_change(new, old, errors);
    let at = At::spec(new).get("ephemeralContainers");
    for before in At::spec(old).get("ephemeralContainers").items() {
        let name = before.text_of("name");
        let now = items(Some(at.value())).filter(|container| text(container, "/name") == name).last();
        let Some(now) = now else {
            at.forbidden(errors, format!("existing ephemeral containers {name:?} may not be removed\n"));
            continue;
        };
        let changed = semantic::differences(before.value(), now);
        if !changed.is_empty() {
            let detail = format!(
                "existing ephemeral containers {name:?} may not be changed\n{}\n",
                changed.join("\n")
            );
            at.forbidden(errors, detail);
        }
    }
}
