//! `roles` of rbac.authorization.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Resource,
        kit::{NAME_AND_AGE, Plain, Rules, path_segment},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        strategy: Arc::new(Rules {
            create_on_update: true,
            name: path_segment,
            validate,
            ..Rules::new(Plain { status: false, generation: false, cells: NAME_AND_AGE })
        }),
        ..Resource::of("rbac.authorization.k8s.io", "Role", "roles", "role")
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    super::check_rules(obj, true, errors);
}
