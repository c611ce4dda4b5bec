//! `roles` of rbac.authorization.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, path_segment},
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "rbac.authorization.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "Role",
        plural: "roles",
        singular: "role",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "roles",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            create_on_update: true,
            name: path_segment,
            validate,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    super::check_rules(obj, true, errors);
}
