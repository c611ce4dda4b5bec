//! What a resize of a pod may change: cpu and memory of what runs.
//!
//! Contract: upstream's `ValidatePodResize`; KEP-1287, pod-level resources KEP-5419.

use serde_json::{Value, json};

use super::{qos, updates::of_pod};
use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        kit::{at::At, items, semantic, text},
        pod_spec,
    },
};

const MUTABLE: &str = "only cpu and memory resources are mutable";

/// What is wrong with a resize.
pub(super) fn check(new: &Object, old: &Object, errors: &mut ErrorList) {
    if old.annotation(pod_spec::MIRROR).is_some() {
        return errors.push(of_pod("static pods cannot be resized"));
    }
    if old.pointer("/spec/os/name").is_some_and(|os| os == "windows") {
        return errors.push(of_pod("windows pods cannot be resized"));
    }
    let mut found = ErrorList::new();
    pod_spec::check_pod(new, Some(old), &mut found);
    let (spec, before) = (At::spec(new), At::spec(old));
    check_class(new, old, &mut found);
    if !is_supported(old) {
        spec.forbidden(&mut found, "Pod running on node without support for resize");
    }
    let mut rest = spec.value().clone();
    if has_own(&spec) || has_own(&before) {
        check_own(&spec, &before, &mut rest, &mut found);
    }
    if !At::status(old).get("nodeAllocatableResourceClaimStatuses").is_empty() {
        spec.forbidden(&mut found, "pods with node allocatable resource claims cannot be resized");
    }
    if check_order(&spec, &before, &mut found) {
        check_containers(&spec, &before, &mut rest, &mut found);
        if found.is_empty() && !semantic::same(before.value(), &rest) {
            spec.forbidden(&mut found, MUTABLE);
        }
    }
    errors.extend(found);
}

fn check_class(new: &Object, old: &Object, errors: &mut ErrorList) {
    let computed = |pod: &Object| pod.get("spec").map_or("BestEffort", qos::class);
    let told = old.pointer("/status/qosClass").and_then(Value::as_str).filter(|class| !class.is_empty());
    if told.unwrap_or_else(|| computed(old)) != computed(new) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        At::spec(new).invalid_as(errors, At::status(new).text_of("qosClass"), detail);
    }
}

/// A kubelet that can resize tells the resources of what runs.
fn is_supported(old: &Object) -> bool {
    items(old.pointer("/status/containerStatuses"))
        .find(|status| status.pointer("/state/running").is_some_and(|running| !running.is_null()))
        .is_none_or(|status| status.get("resources").is_some_and(|resources| !resources.is_null()))
}

fn has_own(spec: &At<'_>) -> bool {
    let own = spec.get("resources");
    !own.get("requests").is_empty() || !own.get("limits").is_empty()
}

fn is_removed(new: &At<'_>, old: &At<'_>) -> bool {
    old.entries().any(|(name, _)| new.value().get(name).is_none())
}

fn check_own(new: &At<'_>, old: &At<'_>, rest: &mut Value, errors: &mut ErrorList) {
    let (now, before) = (new.get("resources"), old.get("resources"));
    if before.is_set() && !now.is_set() {
        return now.forbidden(errors, "pod-level resources cannot be removed");
    }
    for field in ["requests", "limits"] {
        if is_removed(&now.get(field), &before.get(field)) {
            let detail = format!("pod-level resource {field} cannot be removed");
            now.get(field).forbidden(errors, detail);
        }
    }
    if let Some(fields) = rest.as_object_mut() {
        let mut masked = masked(now.value(), before.value());
        if !before.is_set() && semantic::same(&masked, &json!({"limits": {}, "requests": {}})) {
            masked = Value::Null;
        }
        fields.insert("resources".to_owned(), masked);
    }
    if !semantic::same(before.value(), rest.get("resources").unwrap_or(&Value::Null)) {
        new.forbidden(errors, "only cpu and memory resources are mutable at pod-level");
    }
}

/// Resources with the cpu and memory they had.
fn masked(resources: &Value, old: &Value) -> Value {
    let mut resources = if resources.is_object() { resources.clone() } else { json!({}) };
    for field in ["limits", "requests"] {
        let mut amounts = resources.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        for name in ["cpu", "memory"] {
            match old.get(field).and_then(|amounts| amounts.get(name)) {
                Some(amount) => drop(amounts.insert(name.to_owned(), amount.clone())),
                None => drop(amounts.remove(name)),
            }
        }
        resources[field] = amounts.into();
    }
    resources
}

/// Containers neither come, go nor swap; says whether they are in their places.
fn check_order(new: &At<'_>, old: &At<'_>, errors: &mut ErrorList) -> bool {
    let mut good = true;
    for list in ["containers", "initContainers"] {
        let (now, before) = (new.get(list), old.get(list));
        if now.len() != before.len() {
            now.forbidden(errors, format!("{list} may not be added or removed on resize"));
            good = false;
            continue;
        }
        for (now, before) in now.items().zip(before.items()) {
            if now.text_of("name") != before.text_of("name") {
                now.get("name")
                    .forbidden(errors, format!("{list} may not be renamed or reordered on resize"));
                good = false;
            }
        }
    }
    good
}

fn check_containers(new: &At<'_>, old: &At<'_>, rest: &mut Value, errors: &mut ErrorList) {
    for list in ["initContainers", "containers"] {
        for (now, before) in new.get(list).items().zip(old.get(list).items()) {
            let (now, before) = (now.get("resources"), before.get("resources"));
            for field in ["requests", "limits"] {
                if is_removed(&now.get(field), &before.get(field)) {
                    now.get(field).forbidden(errors, format!("resource {field} cannot be removed"));
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        let before: Vec<Value> = items(old.value().get(list)).cloned().collect();
        let containers = rest.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (i, (container, before)) in containers.zip(&before).enumerate() {
            let changed = !semantic::same(before, container);
            let none = Value::Null;
            let resources = masked(&container["resources"], before.get("resources").unwrap_or(&none));
            container["resources"] =
                json!({"limits": resources["limits"], "requests": resources["requests"]});
            let at = new.get(list).named(new.get(list).path().index(i));
            if !semantic::same(before, container) {
                if list == "containers" {
                    new.forbidden(errors, MUTABLE);
                } else {
                    at.forbidden(
                        errors,
                        "only cpu and memory resources for init or sidecar containers are mutable",
                    );
                }
            }
            let sidecar = text(container, "/restartPolicy") == "Always";
            if list == "initContainers" && changed && !sidecar {
                for _ in items(container.get("resizePolicy"))
                    .filter(|policy| text(policy, "/restartPolicy") == "RestartContainer")
                {
                    let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                    at.forbidden(errors, detail);
                }
            }
        }
    }
}
