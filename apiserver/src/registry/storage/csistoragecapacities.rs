//! `csistoragecapacities` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Resource,
        kit::{NAME_AND_AGE, Plain, Rules, at::At, format},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        strategy: Arc::new(Rules {
            unconditional_update: false,
            validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: false, cells: NAME_AND_AGE })
        }),
        ..Resource::of("storage.k8s.io", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity")
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    At::field(obj, "storageClassName").check_format(errors, format::dns_subdomain);
    At::field(obj, "nodeTopology").check_selector(errors);
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    for field in ["nodeTopology", "storageClassName"] {
        At::field(new, field).check_unchanged(&At::field(old, field), errors);
    }
}
