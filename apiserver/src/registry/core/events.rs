//! `events`.

use std::sync::Arc;

use crate::registry::{
    Column, Propagation, Resource, SelectableField, event_row, event_rules,
    kit::{Plain, Rules, column, path_segment},
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
        strategy: Arc::new(Rules {
            name: path_segment,
            validate: |event, errors| event_rules::check(event, true, errors),
            row: Some(event_row::row),
            create_on_update: true,
            propagation: Propagation::Unsupported,
            ..Rules::new(PLAIN)
        }),
        ..Resource::of("", "Event", "events", "event")
    }
}
