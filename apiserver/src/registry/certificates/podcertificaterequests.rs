//! `podcertificaterequests` of certificates.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Resource, SelectableField, Subresource,
    kit::{NAME_AND_AGE, Plain, Rules},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        subresources: &[Subresource::Status],
        selectable: const {
            &[
                SelectableField::at("spec.signerName", "/spec/signerName"),
                SelectableField::at("spec.nodeName", "/spec/nodeName"),
                SelectableField::at("spec.podName", "/spec/podName"),
            ]
        },
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: true, generation: false, cells: NAME_AND_AGE })
        }),
        ..Resource::of(
            "certificates.k8s.io",
            "PodCertificateRequest",
            "podcertificaterequests",
            "podcertificaterequest",
        )
    }
}
