//! `events` of events.k8s.io.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, SelectableField, Strategy, StrategyContext, event_row,
        kit::{Plain, STANDARD_VERBS, column},
    },
    status::Status,
};

const COLUMNS: &[Column] = &[
    column("Last Seen", "string"),
    column("Type", "string"),
    column("Reason", "string"),
    column("Object", "string"),
    column("Subobject", "string").wide(),
    column("Source", "string").wide(),
    column("Message", "string"),
    column("First Seen", "string").wide(),
    column("Count", "string").wide(),
    column("Name", "string").name().wide(),
];
const PLAIN: Plain = Plain { status: false, generation: false, cells: &[] };

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "events.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "events",
        selectable: &[
            SelectableField { name: "regarding.kind", pointer: "/regarding/kind", default: "" },
            SelectableField { name: "regarding.namespace", pointer: "/regarding/namespace", default: "" },
            SelectableField { name: "regarding.name", pointer: "/regarding/name", default: "" },
            SelectableField { name: "regarding.uid", pointer: "/regarding/uid", default: "" },
            SelectableField { name: "regarding.apiVersion", pointer: "/regarding/apiVersion", default: "" },
            SelectableField {
                name: "regarding.resourceVersion",
                pointer: "/regarding/resourceVersion",
                default: "",
            },
            SelectableField { name: "regarding.fieldPath", pointer: "/regarding/fieldPath", default: "" },
            SelectableField { name: "reason", pointer: "/reason", default: "" },
            SelectableField { name: "reportingComponent", pointer: "/reportingComponent", default: "" },
            SelectableField { name: "type", pointer: "/type", default: "" },
        ],
        columns: COLUMNS,
        strategy: Arc::new(Events),
    }
}

/// Something that happened; events.k8s.io/v1 form.
struct Events;

impl Strategy for Events {
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
        event_row::row(obj, now)
    }
}
