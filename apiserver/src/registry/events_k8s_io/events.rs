//! `events` of events.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Propagation, Resource, SelectableField, event_form, event_row, event_rules,
    kit::{Plain, Rules, column},
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

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["ev"],
        selectable: const {
            &[
                SelectableField::at("regarding.kind", "/involvedObject/kind"),
                SelectableField::at("regarding.namespace", "/involvedObject/namespace"),
                SelectableField::at("regarding.name", "/involvedObject/name"),
                SelectableField::at("regarding.uid", "/involvedObject/uid"),
                SelectableField::at("regarding.apiVersion", "/involvedObject/apiVersion"),
                SelectableField::at("regarding.resourceVersion", "/involvedObject/resourceVersion"),
                SelectableField::at("regarding.fieldPath", "/involvedObject/fieldPath"),
                SelectableField::at("reason", "/reason"),
                SelectableField::at("reportingController", "/reportingComponent"),
                SelectableField::at("type", "/type"),
            ]
        },
        columns: COLUMNS,
        // The form of events.k8s.io/v1; stored is that of core/v1.
        strategy: Arc::new(Rules {
            validate: |event, errors| event_rules::check(event, false, errors),
            validate_new: event_rules::check_new,
            validate_change: event_rules::check_change,
            row: Some(event_row::row),
            create_on_update: true,
            propagation: Propagation::Unsupported,
            stored_as: Some(event_form::CORE),
            convert: |event, _, to| event_form::convert(event, to == event_form::CORE),
            ..Rules::new(Plain { status: false, generation: false, cells: &[] })
        }),
        ..Resource::of("events.k8s.io", "Event", "events", "event")
    }
}
