//! `runtimeclasses` of node.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, format},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Handler", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/handler", ""), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            create_on_update: true,
            validate_updated: false,
            validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("node.k8s.io", "RuntimeClass", "runtimeclasses", "runtimeclass")
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    let handler = At::field(obj, "handler");
    if handler.check_required(errors) {
        handler.check_format(errors, format::dns_label);
    }
    At::field(obj, "scheduling").get("nodeSelector").check_labels(errors);
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    At::field(new, "handler").check_unchanged(&At::field(old, "handler"), errors);
}
