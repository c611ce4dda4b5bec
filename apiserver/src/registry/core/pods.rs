//! `pods`.

mod changes;
mod qos;
mod resize;
mod status;
mod status_rules;
#[cfg(test)]
mod tests;
mod updates;

pub(crate) use self::qos::class as qos_class;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, SelectableField, Subresource,
        kit::{Plain, Rules, column, fill, items, text},
        pod_spec,
    },
    table,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Ready", "string"),
    column("Status", "string"),
    column("Restarts", "string"),
    column("Age", "string"),
    column("IP", "string").wide(),
    column("Node", "string").wide(),
    column("Nominated Node", "string").wide(),
    column("Readiness Gates", "string").wide(),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Subresource::Action {
                name: "attach",
                kind: ("", "", "PodAttachOptions"),
                verbs: &["create", "get"],
            },
            Subresource::Action { name: "binding", kind: ("", "", "Binding"), verbs: &["create"] },
            Subresource::View("ephemeralcontainers"),
            Subresource::Action { name: "eviction", kind: ("policy", "v1", "Eviction"), verbs: &["create"] },
            Subresource::Action { name: "exec", kind: ("", "", "PodExecOptions"), verbs: &["create", "get"] },
            Subresource::Action { name: "log", kind: ("", "", "Pod"), verbs: &["get"] },
            Subresource::Action {
                name: "portforward",
                kind: ("", "", "PodPortForwardOptions"),
                verbs: &["create", "get"],
            },
            Subresource::Action {
                name: "proxy",
                kind: ("", "", "PodProxyOptions"),
                verbs: &["create", "delete", "get", "patch", "update"],
            },
            Subresource::View("resize"),
            Subresource::Status,
        ],
        selectable: const {
            &[
                SelectableField::at("spec.nodeName", "/spec/nodeName"),
                SelectableField::at("spec.restartPolicy", "/spec/restartPolicy"),
                SelectableField::at("spec.schedulerName", "/spec/schedulerName"),
                SelectableField::at("spec.serviceAccountName", "/spec/serviceAccountName"),
                SelectableField::at("spec.hostNetwork", "/spec/hostNetwork").or("false"),
                SelectableField::at("status.phase", "/status/phase"),
                SelectableField::at("status.podIP", "/status/podIP"),
                SelectableField::at("status.nominatedNodeName", "/status/nominatedNodeName"),
            ]
        },
        columns: COLUMNS,
        // A pod is what it was created as, but for what its views change; it is deleted with the grace it asks for.
        strategy: Arc::new(Rules {
            default,
            create: |pod, ctx| changes::created(pod, ctx.now, ctx.gates),
            change: |new, old, ctx| changes::updated(new, old, ctx.subresource),
            validate_new,
            validate_change: updates::check,
            validate_views: &[("ephemeralcontainers", updates::check_ephemeral), ("resize", resize::check)],
            validate_status: status_rules::check,
            warnings,
            grace,
            completed,
            row: Some(row),
            // Generations of pods are counted by rules of their own.
            ..Rules::new(Plain { status: false, generation: false, cells: &[] })
        }),
        returns_deleted: true,
        ..Resource::of("", "Pod", "pods", "pod")
    }
}

fn default(pod: &mut Object) {
    if let Some(spec) = pod.as_map_mut().get_mut("spec") {
        pod_spec::fill_pod(spec);
    }
    if let Some(status) = fill::child(pod.as_map_mut(), "status") {
        join_addresses(status);
    }
}

/// The one address of older clients is the first of the list.
fn join_addresses(status: &mut fill::Fields) {
    let one = fill::string(status, "podIP");
    let first = status.get("podIPs").and_then(|all| all.pointer("/0/ip")).and_then(Value::as_str);
    if one == first.unwrap_or_default() {
        return;
    }
    if one.is_empty() {
        let first = Value::from(first.unwrap_or_default());
        status.insert("podIP".to_owned(), first);
    } else {
        let only = serde_json::json!([{"ip": one}]);
        status.insert("podIPs".to_owned(), only);
    }
}

fn validate_new(pod: &Object, errors: &mut ErrorList) {
    pod_spec::check_pod(pod, None, errors);
    pod_spec::check_new_pod(pod, errors);
}

fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    if old.is_some() { Vec::new() } else { pod_spec::warnings_of_pod(new) }
}

/// Nobody has to stop anything for a pod that runs nowhere or has ended.
fn grace(pod: &Object, requested: Option<i64>) -> Option<i64> {
    let own = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let unscheduled = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().is_empty();
    Some(match requested.unwrap_or(own) {
        _ if unscheduled || completed(pod).is_some() => 0,
        negative if negative < 0 => 1,
        seconds => seconds,
    })
}

fn completed(pod: &Object) -> Option<(&'static str, &'static str)> {
    match pod.pointer("/status/phase").and_then(Value::as_str) {
        Some("Succeeded") => Some(("Succeeded", "The pod has completed successfully.")),
        Some("Failed") => Some(("Failed", "The pod failed.")),
        _ => None,
    }
}

fn row(obj: &Object, now: Timestamp) -> Vec<Value> {
    let or_none = |pointer: &str| match obj.pointer(pointer).and_then(Value::as_str) {
        Some(value) if !value.is_empty() => Value::from(value),
        _ => Value::from("<none>"),
    };
    let shown = status::of(obj);
    vec![
        obj.name().into(),
        format!("{}/{}", shown.ready, shown.total).into(),
        shown.status.as_str().into(),
        shown.restarts(now).into(),
        table::age(obj, now).into(),
        or_none("/status/podIPs/0/ip"),
        or_none("/spec/nodeName"),
        or_none("/status/nominatedNodeName"),
        readiness_gates(obj),
    ]
}

fn readiness_gates(obj: &Object) -> Value {
    let gates: Vec<&str> =
        items(obj.pointer("/spec/readinessGates")).map(|g| text(g, "/conditionType")).collect();
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = |gate: &&&str| {
        items(obj.pointer("/status/conditions"))
            .any(|c| text(c, "/type") == **gate && text(c, "/status") == "True")
    };
    format!("{}/{}", gates.iter().filter(met).count(), gates.len()).into()
}
