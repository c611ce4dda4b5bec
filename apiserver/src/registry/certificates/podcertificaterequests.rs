//! `podcertificaterequests` of certificates.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, SelectableField, Subresource,
    kit::{Cell, Plain, Rules, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "certificates.k8s.io",
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        kind: "PodCertificateRequest",
        plural: "podcertificaterequests",
        singular: "podcertificaterequest",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::Status],
        storage_prefix: "podcertificaterequests",
        selectable: const {
            &[
                SelectableField::at("spec.signerName", "/spec/signerName"),
                SelectableField::at("spec.nodeName", "/spec/nodeName"),
                SelectableField::at("spec.podName", "/spec/podName"),
            ]
        },
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
    }
}
