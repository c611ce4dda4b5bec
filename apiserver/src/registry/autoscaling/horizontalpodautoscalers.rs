//! `horizontalpodautoscalers` of autoscaling.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, STANDARD_VERBS, column, text},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Reference", "string"),
    column("MinPods", "string"),
    column("MaxPods", "integer"),
    column("Replicas", "integer"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::With(scaletarget),
    Cell::Field("/spec/minReplicas", "<unset>"),
    Cell::Field("/spec/maxReplicas", "0"),
    Cell::Field("/status/currentReplicas", "0"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "autoscaling",
        versions: &["v2", "v1"],
        storage_version: "v2",
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "horizontalpodautoscalers",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: false, cells: CELLS }),
    }
}

fn scaletarget(obj: &Object) -> Value {
    let target = obj.pointer("/spec/scaleTargetRef").cloned().unwrap_or_default();
    format!("{}/{}", text(&target, "/kind"), text(&target, "/name")).into()
}
