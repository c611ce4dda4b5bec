//! `leasecandidates` of coordination.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Resource,
    kit::{NAME_AND_AGE, Plain, Rules},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        strategy: Arc::new(Rules {
            unconditional_update: false,
            create_on_update: true,
            ..Rules::new(Plain { status: false, generation: false, cells: NAME_AND_AGE })
        }),
        ..Resource::of("coordination.k8s.io", "LeaseCandidate", "leasecandidates", "leasecandidate")
    }
}
