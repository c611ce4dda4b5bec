//! `controllerrevisions` of apps.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Controller", "string"),
    column("Revision", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[Cell::Name, Cell::With(owner), Cell::Field("/revision", "0"), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            validate_new,
            validate_change,
            validate,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("apps", "ControllerRevision", "controllerrevisions", "controllerrevision")
    }
}

/// The controlling owner as `resource.group/name`.
fn owner(obj: &Object) -> Value {
    match obj.owner_references().first() {
        Some(owner) => {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", owner.kind.to_lowercase(), owner.name).into()
        }
        None => "<none>".into(),
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    At::field(obj, "revision").check_non_negative(errors);
}

fn validate_new(obj: &Object, errors: &mut ErrorList) {
    let data = At::field(obj, "data");
    if !data.is_set() {
        data.required(errors, "data is mandatory");
    } else if !data.value().is_object() {
        data.required(errors, "data must be a valid JSON object");
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    At::field(new, "data").check_unchanged(&At::field(old, "data"), errors);
}
