//! `clusterrolebindings` of rbac.authorization.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Resource,
        kit::{Plain, Rules, path_segment},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        columns: super::BINDING_COLUMNS,
        strategy: Arc::new(Rules {
            default: super::default_binding,
            name: path_segment,
            create_on_update: true,
            validate,
            validate_change: super::keeps_role,
            ..Rules::new(Plain { status: false, generation: false, cells: super::BINDING_CELLS })
        }),
        ..Resource::of(
            "rbac.authorization.k8s.io",
            "ClusterRoleBinding",
            "clusterrolebindings",
            "clusterrolebinding",
        )
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    super::check_binding(obj, false, errors);
}
