//! `nodes`.

mod validation;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, SelectableField, StrategyContext, Subresource,
        kit::{Plain, Rules, column, fill, items, keep, resources, text},
    },
    table,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Status", "string"),
    column("Roles", "string"),
    column("Age", "string"),
    column("Version", "string"),
    column("Internal-IP", "string").wide(),
    column("External-IP", "string").wide(),
    column("OS-Image", "string").wide(),
    column("Kernel-Version", "string").wide(),
    column("Container-Runtime", "string").wide(),
];
const PLAIN: Plain = Plain { status: false, generation: false, cells: &[] };

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["no"],
        namespaced: false,
        subresources: &[
            Subresource::Action {
                name: "proxy",
                kind: ("", "", "NodeProxyOptions"),
                verbs: &["create", "delete", "get", "patch", "update"],
            },
            Subresource::Status,
        ],
        storage_prefix: "minions",
        selectable: const { &[SelectableField::at("spec.unschedulable", "/spec/unschedulable").or("false")] },
        columns: COLUMNS,
        // A node registers with its status.
        strategy: Arc::new(Rules {
            default,
            create,
            change,
            validate: validation::check,
            validate_change: validation::check_change,
            validate_status: validation::check_change,
            warnings: |node, _| validation::warnings(node),
            row: Some(row),
            ..Rules::new(PLAIN)
        }),
        ..Resource::of("", "Node", "nodes", "node")
    }
}

/// What a node can give is what it has, where it does not say.
fn default(node: &mut Object) {
    if let Some(spec) = fill::child(node.as_map_mut(), "spec") {
        join_networks(spec);
    }
    let Some(status) = fill::child(node.as_map_mut(), "status") else { return };
    ["capacity", "allocatable"].iter().for_each(|field| resources::round_up(status.get_mut(*field)));
    if let Some(capacity) = status.get("capacity").filter(|capacity| capacity.is_object()).cloned()
        && !fill::is_set(status, "allocatable")
    {
        status.insert("allocatable".to_owned(), capacity);
    }
}

/// The one network of older clients is the first of the list.
fn join_networks(spec: &mut fill::Fields) {
    let one = fill::string(spec, "podCIDR").to_owned();
    let first = spec.get("podCIDRs").and_then(|all| all.get(0)).and_then(Value::as_str).unwrap_or_default();
    if one == first {
        return;
    }
    if one.is_empty() {
        let first = first.to_owned();
        spec.insert("podCIDR".to_owned(), first.into());
    } else {
        spec.insert("podCIDRs".to_owned(), serde_json::json!([one]));
    }
}

/// The configuration that once came through the API server.
fn drop_config(node: &mut Object, part: &str, field: &str) {
    if let Some(part) = fill::child(node.as_map_mut(), part) {
        part.remove(field);
    }
}

fn create(node: &mut Object, _ctx: &StrategyContext<'_>) {
    drop_config(node, "spec", "configSource");
    drop_config(node, "status", "config");
}

fn change(new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
    let gone = |pointer: &str| old.pointer(pointer).is_none_or(Value::is_null);
    if ctx.subresource == "status" {
        if gone("/status/config") {
            drop_config(new, "status", "config");
        }
    } else {
        keep(new, old, &["status"]);
        if gone("/spec/configSource") {
            drop_config(new, "spec", "configSource");
        }
    }
}

fn row(obj: &Object, now: Timestamp) -> Vec<Value> {
    let info = |field: &str| match obj.pointer(&format!("/status/nodeInfo/{field}")).and_then(Value::as_str) {
        Some(value) if !value.is_empty() => Value::from(value),
        _ => Value::from("<unknown>"),
    };
    let version = obj.pointer("/status/nodeInfo/kubeletVersion").cloned().unwrap_or_else(|| "".into());
    vec![
        obj.name().into(),
        condition(obj).into(),
        roles(obj).into(),
        table::age(obj, now).into(),
        version,
        address(obj, "InternalIP"),
        address(obj, "ExternalIP"),
        info("osImage"),
        kernel(obj, info("kernelVersion")),
        info("containerRuntimeVersion"),
    ]
}

/// The version of the kernel and what it runs on.
fn kernel(obj: &Object, version: Value) -> Value {
    match obj.pointer("/status/nodeInfo/architecture").and_then(Value::as_str) {
        Some(architecture) if !architecture.is_empty() => {
            format!("{} ({architecture})", version.as_str().unwrap_or_default()).into()
        }
        _ => version,
    }
}

fn condition(obj: &Object) -> String {
    let ready = items(obj.pointer("/status/conditions")).find(|c| text(c, "/type") == "Ready");
    let mut out = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if obj.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        out.push_str(",SchedulingDisabled");
    }
    out
}

fn roles(obj: &Object) -> String {
    let mut out: Vec<&str> = obj
        .meta_pairs("labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" && !value.is_empty() => Some(value),
            _ => None,
        })
        .collect();
    out.sort_unstable();
    if out.is_empty() { "<none>".into() } else { out.join(",") }
}

fn address(obj: &Object, kind: &str) -> Value {
    let found = items(obj.pointer("/status/addresses")).find(|a| text(a, "/type") == kind);
    found.map_or("<none>", |a| text(a, "/address")).into()
}
