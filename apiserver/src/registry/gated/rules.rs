//! What is wrong with an object only because a gate is off. What is wrong already may stay.
//!
//! Contract: the options that upstream's `pkg/api/pod` makes of gates, as `pkg/apis/core/validation` follows them.

use component_base::features::{Gate, Gates};
use serde_json::Value;

use super::{PODS, steps};
use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::kit::{items, semantic, text},
};

/// Adds what is wrong with an object, or with what an update through a view makes of it.
pub(in crate::registry) fn check(
    (group, plural): (&str, &str),
    new: &Object,
    (old, view): (Option<&Object>, &str),
    gates: Gates,
    errors: &mut ErrorList,
) {
    let Some((.., root)) = PODS.iter().find(|(of, kind, _)| *of == group && *kind == plural) else { return };
    let pointer = format!("/{root}");
    let Some(spec) = new.pointer(&pointer) else { return };
    let before = old.and_then(|old| old.pointer(&pointer));
    let path = steps(root, "").iter().fold(Path::root(), |path, step| path.child(step));
    match view {
        "resize" => check_resize(spec, before.unwrap_or(&Value::Null), &path, gates, errors),
        "" => {
            if !gates.has(Gate::RestartAllContainersOnContainerExits) && !before.is_some_and(restarts_all) {
                check_restarts(spec, &path, errors);
            }
            let merges = Gate::MatchLabelKeysInPodTopologySpreadSelectorMerge;
            if !gates.has(merges) && before.is_none_or(|old| twice(old).next().is_none()) {
                let at = path.child("topologySpreadConstraints");
                for (i, j, key) in twice(spec) {
                    let at = at.index(i).child("matchLabelKeys").index(j);
                    errors.push(Error::invalid(&at, key, "exists in both matchLabelKeys and labelSelector"));
                }
            }
        }
        _ => {}
    }
}

const ALL: &str = "RestartAllContainers";
const LISTS: [&str; 2] = ["initContainers", "containers"];

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

/// Whether containers of a pod have the others restarted, or sidecars have rules.
fn restarts_all(spec: &Value) -> bool {
    LISTS.iter().any(|list| {
        items(spec.get(*list)).any(|container| {
            let mut rules = items(container.get("restartPolicyRules")).peekable();
            (*list == "initContainers" && is_sidecar(container) && rules.peek().is_some())
                || rules.any(|rule| text(rule, "/action") == ALL)
        })
    })
}

fn check_restarts(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for list in LISTS {
        for (i, container) in items(spec.get(list)).enumerate() {
            let at = path.child(list).index(i).child("restartPolicyRules");
            let rules = items(container.get("restartPolicyRules"));
            if list == "initContainers" && is_sidecar(container) {
                if rules.count() > 0 {
                    let why =
                        "restartPolicyRules are not allowed for init containers with restart policy Always";
                    errors.push(Error::forbidden(&at, why));
                }
                continue;
            }
            for (j, _) in rules.enumerate().filter(|(_, rule)| text(rule, "/action") == ALL) {
                errors.push(Error::not_supported(&at.index(j).child("action"), ALL, &["Restart"]));
            }
        }
    }
}

/// Keys that a constraint has as such and in its selector: its place, theirs, and what they are.
fn twice(spec: &Value) -> impl Iterator<Item = (usize, usize, &str)> {
    items(spec.get("topologySpreadConstraints")).enumerate().flat_map(|(i, constraint)| {
        let selector = constraint.get("labelSelector");
        let in_labels = move |key: &str| {
            let labels = selector.and_then(|selector| selector.get("matchLabels")?.as_object());
            labels.is_some_and(|labels| labels.contains_key(key))
                || items(selector.and_then(|selector| selector.get("matchExpressions")))
                    .any(|expression| text(expression, "/key") == key)
        };
        let keys = items(constraint.get("matchLabelKeys")).enumerate();
        keys.filter_map(move |(j, key)| Some((i, j, key.as_str().filter(|key| in_labels(key))?)))
    })
}

fn check_resize(new: &Value, old: &Value, path: &Path, gates: Gates, errors: &mut ErrorList) {
    let has_own = |spec: &Value| {
        let of = |field: &str| {
            spec.pointer(&format!("/resources/{field}"))
                .and_then(Value::as_object)
                .is_some_and(|all| !all.is_empty())
        };
        of("requests") || of("limits")
    };
    if !gates.has(Gate::InPlacePodLevelResourcesVerticalScaling) && (has_own(new) || has_own(old)) {
        let why = "resize of pods with pod-level resources is forbidden when \
                   InPlacePodLevelResourcesVerticalScalingEnabled feature gate is disabled";
        errors.push(Error::forbidden(&Path::new(""), why));
    }
    if !gates.has(Gate::InPlacePodVerticalScalingInitContainers) {
        let both = items(new.get("initContainers")).zip(items(old.get("initContainers")));
        for _ in both.filter(|(new, old)| !is_sidecar(new) && !semantic::same(new, old)) {
            errors.push(Error::forbidden(path, "resources for non-sidecar init containers are immutable"));
        }
    }
}
