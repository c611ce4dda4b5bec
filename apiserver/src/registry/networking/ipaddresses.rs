//! `ipaddresses` of networking.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, STANDARD_VERBS, column, text},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("ParentRef", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::With(parent), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "networking.k8s.io",
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "ipaddresses",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: false, generation: false, cells: CELLS }),
    }
}

fn parent(obj: &Object) -> Value {
    let parent = obj.pointer("/spec/parentRef").cloned().unwrap_or_default();
    format!("{}/{}/{}", text(&parent, "/resource"), text(&parent, "/namespace"), text(&parent, "/name"))
        .into()
}
