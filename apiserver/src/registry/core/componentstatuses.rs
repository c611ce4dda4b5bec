//! `componentstatuses`.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, column, items, text},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Status", "string"),
    column("Message", "string"),
    column("Error", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::With(health),
    Cell::With(|status| told(status, "/message")),
    Cell::With(|status| told(status, "/error")),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["cs"],
        namespaced: false,
        verbs: &["get", "list"],
        columns: COLUMNS,
        strategy: Arc::new(Rules::new(Plain { status: false, generation: false, cells: CELLS })),
        ..Resource::of("", "ComponentStatus", "componentstatuses", "componentstatus")
    }
}

/// The condition that tells of health.
fn healthy(status: &Object) -> Option<&Value> {
    items(status.get("conditions")).find(|condition| text(condition, "/type") == "Healthy")
}

fn health(status: &Object) -> Value {
    match healthy(status).map(|condition| text(condition, "/status")) {
        Some("True") => "Healthy".into(),
        Some(_) => "Unhealthy".into(),
        None => "Unknown".into(),
    }
}

fn told(status: &Object, pointer: &str) -> Value {
    healthy(status).map(|condition| text(condition, pointer)).unwrap_or_default().into()
}
