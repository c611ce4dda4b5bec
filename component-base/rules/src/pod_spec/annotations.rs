//! Annotations of pods that mean something: mirror pods, deletion costs, and profiles as they were set before fields.
//!
//! Contract: "Well-Known Labels, Annotations and Taints".

use serde_json::Value;

use super::{affinity, containers};
use crate::{
    at::At,
    capabilities::ANY_DELETION_COST,
    field::{Error, ErrorList},
    format,
};

/// Marks the copy of a pod that a kubelet runs from a file.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Stem of the annotations that name AppArmor profiles of containers.
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations of a pod, or of pods made of a template; `cost` lets the deletion cost be anything.
pub(super) fn check(annotations: &At<'_>, spec: &At<'_>, cost: bool, errors: &mut ErrorList) {
    let of = |key: &str| annotations.value().get(key).and_then(Value::as_str);
    let at = |key: &str| annotations.path().key(key);
    if let Some(mirror) = of(MIRROR)
        && spec.text_of("nodeName").is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(Error::invalid(&at(MIRROR), mirror, detail));
    }
    if let Some(text) = of(TOLERATIONS).filter(|text| !text.is_empty()) {
        tolerations(annotations, text, errors);
    }
    if let Some(text) = of(DELETION_COST)
        && !cost
        && !ANY_DELETION_COST.is_allowed()
        && !is_cost(text)
    {
        errors.push(Error::invalid(&at(DELETION_COST), text, "must be a 32bit integer"));
    }
    for (key, value) in annotations.entries() {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp(&value.named(annotations.path().child(key)), errors);
        }
        if let Some(container) = key.strip_prefix(APPARMOR) {
            apparmor(&value, container, spec, errors);
        }
    }
}

/// Whether the deletion cost among annotations cannot be read.
pub(super) fn has_wrong_cost(annotations: &At<'_>) -> bool {
    let cost = annotations.value().get(DELETION_COST).and_then(Value::as_str);
    cost.is_some_and(|text| !is_cost(text))
}

fn is_cost(text: &str) -> bool {
    // A sign and leading zeros are what people do not write.
    let plain = text.strip_prefix('-').unwrap_or(text);
    let leading =
        plain.starts_with('+') || text.starts_with('+') || plain.len() > 1 && plain.starts_with('0');
    !leading && text.parse::<i32>().is_ok()
}

fn tolerations(annotations: &At<'_>, text: &str, errors: &mut ErrorList) {
    match serde_json::from_str::<Value>(text) {
        Ok(list) => {
            let at = At::new(&list, annotations.path().child(TOLERATIONS));
            affinity::check_tolerations(&at, errors);
            affinity::check_comparing(&at, false, errors);
        }
        Err(error) => annotations.invalid_as(errors, TOLERATIONS, error.to_string()),
    }
}

fn seccomp(profile: &At<'_>, errors: &mut ErrorList) {
    match profile.text() {
        "runtime/default" | "docker/default" | "unconfined" => {}
        text => match text.strip_prefix("localhost/") {
            Some(path) => {
                for detail in format::descending_path(path) {
                    profile.invalid_as(errors, path, detail);
                }
            }
            None => profile.invalid_as(errors, text, "must be a valid seccomp profile"),
        },
    }
}

fn apparmor(profile: &At<'_>, container: &str, spec: &At<'_>, errors: &mut ErrorList) {
    if !containers::all(spec).any(|one| one.text_of("name") == container) {
        profile.invalid_as(errors, container, "container not found");
    }
    let text = profile.text();
    if !matches!(text, "" | "runtime/default" | "unconfined") && !text.starts_with("localhost/") {
        profile.invalid_as(errors, text, format!("invalid AppArmor profile name: {text:?}"));
    }
}

/// Profiles set by annotation and by field have to be the same.
pub(super) fn check_match(annotations: &At<'_>, spec: &At<'_>, errors: &mut ErrorList) {
    let of = |key: &str| annotations.value().get(key).and_then(Value::as_str);
    let own = spec.get("securityContext");
    if let Some(annotation) = of(SECCOMP_POD) {
        matches(&own.get("seccompProfile"), annotation, "seccomp", errors);
    }
    for container in containers::all(spec) {
        if let Some(annotation) = of(&format!("{SECCOMP_CONTAINER}{}", container.text_of("name"))) {
            matches(&container.get("securityContext").get("seccompProfile"), annotation, "seccomp", errors);
        }
    }
    if spec.get("os").text_of("name") == "windows" {
        return;
    }
    for container in containers::all(spec) {
        let Some(annotation) = of(&format!("{APPARMOR}{}", container.text_of("name"))) else { continue };
        let profile = container.get("securityContext").get("appArmorProfile");
        let of_pod = own.get("appArmorProfile").named(profile.path().clone());
        matches(if profile.is_set() { &profile } else { &of_pod }, annotation, "apparmor", errors);
    }
}

fn matches(profile: &At<'_>, annotation: &str, what: &str, errors: &mut ErrorList) {
    let kind = profile.get("type");
    let same = match kind.text() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || what == "seccomp" && annotation == "docker/default"
        }
        "Localhost" => match annotation.strip_prefix("localhost/") {
            Some(path) => {
                let local = profile.get("localhostProfile");
                if local.text() != path || !local.is_set() {
                    local.forbidden(errors, format!("{what} profile in annotation and field must match"));
                }
                true
            }
            None => false,
        },
        _ => true,
    };
    if !same {
        kind.forbidden(errors, format!("{what} type in annotation and field must match"));
    }
}

/// What an update may not do to annotations.
pub(super) fn check_change(new: &At<'_>, old: &At<'_>, errors: &mut ErrorList) {
    for (key, value) in old.entries() {
        if new.value().get(key) == Some(value.value()) {
            continue;
        }
        let at = new.path().key(key);
        if key.starts_with(APPARMOR) {
            errors.push(Error::forbidden(&at, "may not remove or update AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(Error::forbidden(&at, "may not remove or update mirror pod annotation"));
        }
    }
    for (key, value) in new.entries().filter(|(key, _)| old.value().get(key).is_none()) {
        if key.starts_with(APPARMOR) {
            value.forbidden(errors, "may not add AppArmor annotations");
        }
        if key == MIRROR {
            value.forbidden(errors, "may not add mirror pod annotation");
        }
    }
}
