//! `pods`.

mod qos;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    object::Object,
    registry::{
        Column, Resource, SelectableField, Strategy, StrategyContext, Subresource,
        kit::{Plain, STANDARD_VERBS, column, items, text},
        pod_spec,
    },
    status::Status,
    table,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Ready", "string"),
    column("Status", "string"),
    column("Restarts", "string"),
    column("Age", "date"),
    column("IP", "string").wide(),
    column("Node", "string").wide(),
    column("Nominated Node", "string").wide(),
    column("Readiness Gates", "string").wide(),
];
const PLAIN: Plain = Plain { status: true, generation: true, cells: &[] };

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        namespaced: true,
        verbs: STANDARD_VERBS,
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
        storage_prefix: "pods",
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
        strategy: Arc::new(Pods),
    }
}

/// A pod is deleted with the grace it asks for; what runs it ends the deletion.
struct Pods;

impl Strategy for Pods {
    fn default(&self, obj: &mut Object, _version: &str) -> Result<(), Status> {
        if let Some(spec) = obj.as_map_mut().get_mut("spec") {
            pod_spec::fill(spec);
            // Templates leave this to the pods made of them.
            if let Some(spec) = spec.as_object_mut() {
                spec.entry("enableServiceLinks").or_insert(true.into());
            }
        }
        Ok(())
    }

    fn prepare_create(&self, obj: &mut Object, ctx: &StrategyContext<'_>) -> Result<(), Status> {
        PLAIN.prepare_create(obj, ctx)?;
        let class = obj.get("spec").map_or("BestEffort", qos::class);
        obj.set("status", json!({"phase": "Pending", "qosClass": class}));
        Ok(())
    }

    fn prepare_update(
        &self,
        new: &mut Object,
        old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<(), Status> {
        PLAIN.prepare_update(new, old, ctx)
    }

    fn grace_period(&self, obj: &Object, requested: Option<i64>) -> Option<i64> {
        let own = obj.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
        let unscheduled =
            obj.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().is_empty();
        let ended =
            matches!(obj.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
        // Nobody has to stop anything for a pod that runs nowhere or has ended.
        Some(if unscheduled || ended { 0 } else { requested.unwrap_or(own).max(0) })
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let or_none = |pointer: &str| match obj.pointer(pointer).and_then(Value::as_str) {
            Some(value) if !value.is_empty() => Value::from(value),
            _ => Value::from("<none>"),
        };
        let containers: Vec<&Value> = items(obj.pointer("/status/containerStatuses")).collect();
        let ready = containers.iter().filter(|c| c.get("ready") == Some(&Value::Bool(true))).count();
        let total = items(obj.pointer("/spec/containers")).count();
        vec![
            obj.name().into(),
            format!("{ready}/{total}").into(),
            status::of(obj).into(),
            status::restarts(obj, now).into(),
            table::age(obj, now).into(),
            or_none("/status/podIP"),
            or_none("/spec/nodeName"),
            or_none("/status/nominatedNodeName"),
            readiness_gates(obj),
        ]
    }
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
