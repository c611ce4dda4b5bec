//! `certificatesigningrequests` of certificates.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, SelectableField, Subresource,
    kit::{Cell, Plain, STANDARD_VERBS, column},
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("SignerName", "string"),
    column("Requestor", "string"),
    column("Age", "date"),
];
const CELLS: &[Cell] =
    &[Cell::Name, Cell::Field("/spec/signerName", ""), Cell::Field("/spec/username", ""), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "certificates.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[Subresource::View("approval"), Subresource::Status],
        storage_prefix: "certificatesigningrequests",
        selectable: &[SelectableField { name: "spec.signerName", pointer: "/spec/signerName", default: "" }],
        columns: COLUMNS,
        strategy: Arc::new(Plain { status: true, generation: false, cells: CELLS }),
    }
}
