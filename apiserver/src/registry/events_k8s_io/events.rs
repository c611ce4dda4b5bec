//! `events` of events.k8s.io.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, SelectableField, Strategy, StrategyContext, event_form, event_row, event_rules,
        kit::column,
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
        strategy: Arc::new(Events),
        ..Resource::of("events.k8s.io", "Event", "events", "event")
    }
}

/// Something that happened; events.k8s.io/v1 form of what is stored as core/v1.
struct Events;

impl Strategy for Events {
    fn validate_create(&self, obj: &Object, _ctx: &StrategyContext<'_>) -> Result<ErrorList, Status> {
        let mut errors = ErrorList::new();
        event_rules::check(obj, false, &mut errors);
        event_rules::check_new(obj, &mut errors);
        Ok(errors)
    }

    fn validate_update(
        &self,
        new: &Object,
        old: &Object,
        _ctx: &StrategyContext<'_>,
    ) -> Result<ErrorList, Status> {
        let mut errors = ErrorList::new();
        event_rules::check(new, false, &mut errors);
        event_rules::check_change(new, old, &mut errors);
        Ok(errors)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn stored_as(&self) -> Option<&'static str> {
        Some(event_form::CORE)
    }

    fn convert(&self, obj: &mut Object, _from: &str, to: &str) -> Result<(), Status> {
        event_form::convert(obj, to == event_form::CORE);
        Ok(())
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        event_row::row(obj, now)
    }
}
