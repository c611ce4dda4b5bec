//! What the server itself sets in a pod when it is created, and what an update may not touch.
//!
//! Contract: upstream's pod strategies; generations of pods are KEP-5067, label keys KEP-3633 and KEP-3243.

use component_base::features::{Gate, Gates};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::qos;
use crate::{
    object::Object,
    objects::rfc3339,
    registry::kit::{fill, items, keep, semantic, text},
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// A new pod is pending in its class, and selects by its own labels where it says so.
pub(super) fn created(pod: &mut Object, now: Timestamp, gates: Gates) {
    let class = pod.get("spec").map_or("BestEffort", qos::class);
    let mut status = json!({"phase": "Pending", "qosClass": class});
    if items(pod.pointer("/spec/schedulingGates")).next().is_some() {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastTransitionTime": rfc3339(now),
        }]);
    }
    pod.set("status", status);
    pod.metadata_mut().insert("generation".to_owned(), 1.into());
    merge_label_keys(pod, gates);
    profiles_of_annotations(pod);
}

/// Adds the pod's own labels to the selectors of terms that ask for it.
fn merge_label_keys(pod: &mut Object, gates: Gates) {
    let labels = pod.pointer("/metadata/labels").cloned().unwrap_or_default();
    let Some(spec) = pod.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) else { return };
    if gates.has(Gate::MatchLabelKeysInPodTopologySpreadSelectorMerge) {
        fill::members(spec, "topologySpreadConstraints").for_each(|constraint| {
            merge(constraint, &labels, &[("matchLabelKeys", "In")]);
        });
    }
    let both = [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")];
    let Some(affinity) = fill::child(spec, "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(kind) = fill::child(affinity, kind) else { continue };
        for term in fill::members(kind, PREFERRED) {
            if let Some(term) = fill::child(term, "podAffinityTerm") {
                merge(term, &labels, &both);
            }
        }
        fill::members(kind, REQUIRED).for_each(|term| merge(term, &labels, &both));
    }
}

fn merge(term: &mut fill::Fields, labels: &Value, keys: &[(&str, &str)]) {
    let mut expressions = Vec::new();
    for (field, operator) in keys {
        for key in items(term.get(*field)).filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                expressions.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if expressions.is_empty() {
        return;
    }
    // Without a selector nothing is selected, whatever the labels.
    let Some(selector) = fill::child(term, "labelSelector") else { return };
    fill::missing(selector, "matchExpressions", json!([]));
    if let Some(all) = selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        all.extend(expressions);
    }
}

/// AppArmor profiles that old clients set by annotation become fields.
fn profiles_of_annotations(pod: &mut Object) {
    if pod.pointer("/spec/os/name").is_some_and(|os| os == "windows") {
        return;
    }
    let marks: Vec<(String, Value)> = pod
        .meta_pairs("annotations")
        .filter_map(|(key, value)| Some((key.strip_prefix(APPARMOR)?.to_owned(), profile_of(value)?)))
        .collect();
    if marks.is_empty() {
        return;
    }
    let of_pod = pod.pointer("/spec/securityContext/appArmorProfile").cloned();
    let Some(spec) = pod.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) else { return };
    for list in ["initContainers", "containers"] {
        for container in fill::members(spec, list) {
            let name = fill::string(container, "name").to_owned();
            let Some((_, profile)) = marks.iter().find(|(of, _)| *of == name) else { continue };
            if of_pod.as_ref() == Some(profile) {
                continue;
            }
            if let Some(context) = fill::made(container, "securityContext") {
                fill::missing(context, "appArmorProfile", profile.clone());
            }
        }
    }
}

fn profile_of(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        _ => {
            let path = annotation.strip_prefix("localhost/").filter(|path| !path.trim().is_empty())?;
            (path.trim() == path).then(|| json!({"type": "Localhost", "localhostProfile": path}))
        }
    }
}

/// What an update through a view leaves as it was.
pub(super) fn updated(new: &mut Object, old: &Object, view: &str) {
    match view {
        "" => keep(new, old, &["status"]),
        "ephemeralcontainers" => {
            let containers = new.pointer("/spec/ephemeralContainers").cloned();
            keep(new, old, &["spec", "status"]);
            keep_metadata(new, old);
            set_in_spec(new, "ephemeralContainers", containers);
        }
        "resize" => keep_unresized(new, old),
        _ => {
            keep(new, old, &["spec"]);
            keep_of_metadata(new, old, &["ownerReferences", "deletionTimestamp"]);
            keep_of_status(new, old);
        }
    }
    let generation = match view {
        "status" => old.generation(),
        _ => {
            let none = Value::Null;
            let spec = |pod: &Object| pod.get("spec").cloned().unwrap_or_default();
            let changed = !semantic::same(&spec(old), &spec(new)) && new.get("spec") != Some(&none);
            old.generation() + i64::from(changed)
        }
    };
    if generation > 0 {
        new.metadata_mut().insert("generation".to_owned(), generation.into());
    }
}

fn set_in_spec(pod: &mut Object, field: &str, value: Option<Value>) {
    if let Some(spec) = pod.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) {
        match value {
            Some(value) => drop(spec.insert(field.to_owned(), value)),
            None => drop(spec.remove(field)),
        }
    }
}

fn keep_metadata(new: &mut Object, old: &Object) {
    let fields =
        ["deletionTimestamp", "generation", "labels", "annotations", "finalizers", "ownerReferences"];
    keep_of_metadata(new, old, &fields);
}

fn keep_of_metadata(new: &mut Object, old: &Object, fields: &[&str]) {
    for field in fields {
        match old.metadata().and_then(|meta| meta.get(*field)).cloned() {
            Some(value) => drop(new.metadata_mut().insert((*field).to_owned(), value)),
            None => drop(new.metadata_mut().remove(*field)),
        }
    }
}

/// A resize changes resources and what they restart, unless containers come, go or swap, which is told as an error.
fn keep_unresized(new: &mut Object, old: &Object) {
    let list = |pod: &Object, field: &str| -> Vec<Value> {
        items(pod.pointer(&format!("/spec/{field}"))).cloned().collect()
    };
    let lists = ["containers", "initContainers"].map(|field| (field, list(new, field), list(old, field)));
    if lists.iter().any(|(_, new, old)| new.len() != old.len()) {
        return;
    }
    let own = new.pointer("/spec/resources").cloned();
    keep(new, old, &["spec", "status"]);
    keep_metadata(new, old);
    set_in_spec(new, "resources", own);
    for (field, wanted, known) in lists {
        if known.is_empty() {
            continue;
        }
        let same_names = wanted.iter().zip(&known).all(|(a, b)| text(a, "/name") == text(b, "/name"));
        let resized = |(wanted, mut known): (&Value, Value)| {
            if let Some(fields) = known.as_object_mut() {
                for field in ["resources", "resizePolicy"] {
                    match wanted.get(field) {
                        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
                        None => drop(fields.remove(field)),
                    }
                }
            }
            known
        };
        let all: Vec<Value> =
            if same_names { wanted.iter().zip(known).map(resized).collect() } else { wanted };
        set_in_spec(new, field, Some(all.into()));
    }
}

/// A status keeps the class of the pod and the generations it has already told of.
fn keep_of_status(new: &mut Object, old: &Object) {
    let unset = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || *v == "" || *v == 0);
    let old_status = old.get("status").cloned().unwrap_or_default();
    let Some(status) = new.as_map_mut().get_mut("status").and_then(Value::as_object_mut) else { return };
    for field in ["qosClass", "observedGeneration"] {
        if unset(status.get(field))
            && let Some(value) = old_status.get(field)
        {
            status.insert(field.to_owned(), value.clone());
        }
    }
    let mut known: Vec<&Value> = items(old_status.get("conditions")).collect();
    for condition in fill::members(status, "conditions") {
        let kind = fill::string(condition, "type");
        let Some(at) = known.iter().position(|old| text(old, "/type") == kind) else { continue };
        let before = known.remove(at).get("observedGeneration");
        if unset(condition.get("observedGeneration"))
            && let Some(generation) = before
        {
            condition.insert("observedGeneration".to_owned(), generation.clone());
        }
    }
}
