//! LimitRanger: fills in default requests and limits, refuses what is outside a namespace's bounds.
//!
//! Contract: core/v1 LimitRange; upstream `plugin/pkg/admission/limitranger`.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::quota::{self, Amounts};
use serde_json::{Map, Value, json};

use super::{Operation, Parts, Plugin, Request, items};
use crate::{
    object::Object,
    objects::{LIMIT_RANGES, Objects, PERSISTENT_VOLUME_CLAIMS, PODS},
    status::Status,
};

pub(super) const NAME: &str = "LimitRanger";

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

struct LimitRanger {
    objects: Arc<dyn Objects>,
}

/// Requests and limits of a container, a pod or a claim.
#[derive(Default)]
struct Usage {
    requests: Amounts,
    limits: Amounts,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(LimitRanger { objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for LimitRanger {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PODS) || request.operation != Operation::Create {
            return Ok(());
        }
        for range in self.objects.list(LIMIT_RANGES, Some(&request.attributes.namespace)).await? {
            if let Some(pod) = request.object.as_deref_mut() {
                fill(pod, &range);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let pod = request.is(PODS) && request.operation == Operation::Create;
        let resize = request.is_any(PODS) && request.attributes.subresource == "resize";
        let claim = request.is(PERSISTENT_VOLUME_CLAIMS);
        let Some(object) = request.object.as_deref().filter(|_| pod || resize || claim) else {
            return Ok(());
        };
        if object.is_terminating() {
            return Ok(());
        }
        let mut errors = Vec::new();
        for range in self.objects.list(LIMIT_RANGES, Some(&request.attributes.namespace)).await? {
            for limit in items(&range, "/spec/limits") {
                check(limit, object, claim, &mut errors);
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(request.forbid(one)),
            many => Err(request.forbid(format!("[{}]", many.join(", ")))),
        }
    }
}

/// Gives every container the range's defaults for what it leaves out, and notes that in an annotation.
fn fill(pod: &mut Object, range: &Object) {
    let containers: Vec<&Value> =
        items(range, "/spec/limits").filter(|l| l.get("type") == Some(&json!("Container"))).collect();
    let merged = |field: &str| {
        let mut all = Map::new();
        for limit in &containers {
            all.extend(limit.get(field).and_then(Value::as_object).cloned().unwrap_or_default());
        }
        all
    };
    let (limits, requests) = (merged("default"), merged("defaultRequest"));
    let mut notes = Vec::new();
    let Some(spec) = pod.as_map_mut().get_mut("spec") else { return };
    for (list, word) in [("initContainers", "init container"), ("containers", "container")] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            for (field, defaults, what) in [("requests", &requests, "request"), ("limits", &limits, "limit")]
            {
                let set = fill_list(container, field, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {what} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        pod.set_annotation(ANNOTATION, &format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

/// Adds missing amounts; the names of those added.
fn fill_list(container: &mut Value, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    let Some(container) = container.as_object_mut().filter(|_| !defaults.is_empty()) else { return set };
    let resources = container.entry("resources").or_insert_with(|| json!({}));
    let Some(resources) = resources.as_object_mut() else { return set };
    let list = resources.entry(field).or_insert_with(|| json!({}));
    let Some(list) = list.as_object_mut() else { return set };
    for (name, amount) in defaults {
        if !list.contains_key(name) {
            list.insert(name.clone(), amount.clone());
            set.push(name.clone());
        }
    }
    set
}

/// Checks one line of a range against what it is about.
fn check(limit: &Value, object: &Object, claim: bool, errors: &mut Vec<String>) {
    let kind = limit.get("type").and_then(Value::as_str).unwrap_or_default();
    match (kind, claim) {
        ("Container", false) => {
            for list in ["/spec/initContainers", "/spec/containers"] {
                for container in items(object, list) {
                    bounds(limit, kind, &Usage::of(container.get("resources")), errors);
                }
            }
        }
        ("Pod", false) => bounds(limit, kind, &pod_usage(object), errors),
        ("PersistentVolumeClaim", true) => {
            let usage = Usage::of(object.pointer("/spec/resources"));
            for (field, low) in [("min", true), ("max", false)] {
                for (name, enforced) in amounts(limit.get(field)) {
                    let got = usage.requests.get(&name).copied();
                    let bad = got.is_none_or(|got| if low { got < enforced } else { got > enforced });
                    if bad {
                        let word = if low { "minimum" } else { "maximum" };
                        let got =
                            got.map_or("No request is specified".to_owned(), |g| format!("request is {g}"));
                        errors.push(format!("{word} {name} usage per {kind} is {enforced}, but {got}"));
                    }
                }
            }
        }
        _ => {}
    }
}

fn bounds(limit: &Value, kind: &str, usage: &Usage, errors: &mut Vec<String>) {
    for (name, low) in amounts(limit.get("min")) {
        let (request, limit) = (usage.requests.get(&name), usage.limits.get(&name));
        let words = format!("minimum {name} usage per {kind} is {low}");
        match (request, limit) {
            (None, _) => errors.push(format!("{words}.  No request is specified")),
            (Some(r), _) if *r < low => errors.push(format!("{words}, but request is {r}")),
            (_, Some(l)) if *l < low => errors.push(format!("{words}, but limit is {l}")),
            _ => {}
        }
    }
    for (name, high) in amounts(limit.get("max")) {
        let (request, limit) = (usage.requests.get(&name), usage.limits.get(&name));
        let words = format!("maximum {name} usage per {kind} is {high}");
        match (request, limit) {
            (_, None) => errors.push(format!("{words}.  No limit is specified")),
            (_, Some(l)) if *l > high => errors.push(format!("{words}, but limit is {l}")),
            (Some(r), _) if *r > high => errors.push(format!("{words}, but request is {r}")),
            _ => {}
        }
    }
    for (name, most) in amounts(limit.get("maxLimitRequestRatio")) {
        let words = format!("{name} max limit to request ratio per {kind} is {most}, but");
        let request = usage.requests.get(&name).map(|q| q.as_f64()).filter(|r| *r > 0.0);
        match (request, usage.limits.get(&name)) {
            (None, _) => errors.push(format!("{words} no request is specified or request is 0")),
            (_, None) => errors.push(format!("{words} no limit is specified")),
            (Some(r), Some(l)) if l.as_f64() / r > most.as_f64() => {
                errors.push(format!("{words} provided ratio is {:.6}", l.as_f64() / r));
            }
            _ => {}
        }
    }
}

fn amounts(list: Option<&Value>) -> Amounts {
    let list = list.and_then(Value::as_object).into_iter().flatten();
    list.filter_map(|(name, value)| Some((name.clone(), quota::quantity(value)?))).collect()
}

/// A pod's sum: containers and sidecars together, or the largest init container.
fn pod_usage(pod: &Object) -> Usage {
    let (requests, limits) = quota::pod_amounts(pod);
    Usage { requests, limits }
}

impl Usage {
    fn of(resources: Option<&Value>) -> Self {
        let list = |field: &str| amounts(resources.and_then(|r| r.get(field)));
        Self { requests: list("requests"), limits: list("limits") }
    }
}
