//! `flowschemas` of flowcontrol.apiserver.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "flowcontrol.apiserver.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "FlowSchema",
        plural: "flowschemas",
        singular: "flowschema",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "flowschemas",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
    }
}

/// A precedence in the middle.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    super::zero(spec, "matchingPrecedence", 1000);
}
