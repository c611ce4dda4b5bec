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
        selectable: &[
            SelectableField { name: "spec.signerName", pointer: "/spec/signerName", default: "" },
            SelectableField { name: "spec.nodeName", pointer: "/spec/nodeName", default: "" },
            SelectableField { name: "spec.podName", pointer: "/spec/podName", default: "" },
        ],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
    }
}
