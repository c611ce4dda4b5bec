//! `clusterrolebindings` of rbac.authorization.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, PathNamed, Plain, STANDARD_VERBS, column, text},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Role", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::With(roleref), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "rbac.authorization.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "clusterrolebindings",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(PathNamed(Plain { status: false, generation: false, cells: CELLS })),
    }
}

fn roleref(obj: &Object) -> Value {
    let role = obj.get("roleRef").cloned().unwrap_or_default();
    format!("{}/{}", text(&role, "/kind"), text(&role, "/name")).into()
}
