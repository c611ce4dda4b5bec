//! `rolebindings` of rbac.authorization.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, column, path_segment, text},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Role", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::With(roleref), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default: super::default_binding,
            name: path_segment,
            create_on_update: true,
            validate,
            validate_change: super::keeps_role,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", "rolebinding")
    }
}

fn roleref(obj: &Object) -> Value {
    let role = obj.get("roleRef").cloned().unwrap_or_default();
    format!("{}/{}", text(&role, "/kind"), text(&role, "/name")).into()
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    super::check_binding(obj, true, errors);
}
