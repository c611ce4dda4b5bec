//! `nodes`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, SelectableField, Strategy, StrategyContext, Subresource,
        kit::{Plain, column, items, text},
    },
    status::Status,
    table,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Status", "string"),
    column("Roles", "string"),
    column("Age", "date"),
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
        strategy: Arc::new(Nodes),
        ..Resource::of("", "Node", "nodes", "node")
    }
}

/// A node registers with its status.
struct Nodes;

impl Strategy for Nodes {
    fn prepare_create(&self, obj: &mut Object, ctx: &StrategyContext<'_>) -> Result<(), Status> {
        PLAIN.prepare_create(obj, ctx)
    }

    fn prepare_update(
        &self,
        new: &mut Object,
        old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<(), Status> {
        PLAIN.prepare_update(new, old, ctx)
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let info =
            |field: &str| match obj.pointer(&format!("/status/nodeInfo/{field}")).and_then(Value::as_str) {
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
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
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
