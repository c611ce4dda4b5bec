//! `events`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, SelectableField, Strategy, StrategyContext, event_row,
        kit::{Plain, column},
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
        short_names: &["ev"],
        selectable: const {
            &[
                SelectableField::at("involvedObject.kind", "/involvedObject/kind"),
                SelectableField::at("involvedObject.namespace", "/involvedObject/namespace"),
                SelectableField::at("involvedObject.name", "/involvedObject/name"),
                SelectableField::at("involvedObject.uid", "/involvedObject/uid"),
                SelectableField::at("involvedObject.apiVersion", "/involvedObject/apiVersion"),
                SelectableField::at("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
                SelectableField::at("involvedObject.fieldPath", "/involvedObject/fieldPath"),
                SelectableField::at("reason", "/reason"),
                SelectableField::at("reportingComponent", "/reportingComponent"),
                SelectableField::at("source", "/source/component").or_field("reportingComponent"),
                SelectableField::at("type", "/type"),
            ]
        },
        columns: COLUMNS,
        strategy: Arc::new(Events),
        ..Resource::of("", "Event", "events", "event")
    }
}

/// Something that happened; core/v1 form.
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
