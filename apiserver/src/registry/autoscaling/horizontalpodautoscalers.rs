//! `horizontalpodautoscalers` of autoscaling.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Strategy, StrategyContext, Subresource,
        kit::{Cell, Plain, STANDARD_VERBS, column, text},
    },
    status::Status,
};

mod conversion;
mod defaults;

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

const PLAIN: Plain = Plain { status: true, generation: false, cells: CELLS };

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
        strategy: Arc::new(Autoscalers),
    }
}

/// Autoscalers, stored as v2.
struct Autoscalers;

impl Strategy for Autoscalers {
    fn default(&self, obj: &mut Object, version: &str) -> Result<(), Status> {
        defaults::apply(obj, version);
        Ok(())
    }

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

    fn convert(&self, obj: &mut Object, _from: &str, to: &str) -> Result<(), Status> {
        conversion::convert(obj, to);
        Ok(())
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        PLAIN.row(obj, now)
    }
}

fn scaletarget(obj: &Object) -> Value {
    let target = obj.pointer("/spec/scaleTargetRef").cloned().unwrap_or_default();
    format!("{}/{}", text(&target, "/kind"), text(&target, "/name")).into()
}
