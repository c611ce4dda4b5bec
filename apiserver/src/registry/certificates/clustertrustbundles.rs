//! `clustertrustbundles` of certificates.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Resource, SelectableField,
    kit::{NAME_AND_AGE, Plain, Rules},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        namespaced: false,
        selectable: const { &[SelectableField::at("spec.signerName", "/spec/signerName")] },
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: false, cells: NAME_AND_AGE })
        }),
        ..Resource::of(
            "certificates.k8s.io",
            "ClusterTrustBundle",
            "clustertrustbundles",
            "clustertrustbundle",
        )
    }
}
