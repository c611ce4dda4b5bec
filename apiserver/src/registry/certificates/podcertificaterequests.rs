//! `podcertificaterequests` of certificates.k8s.io.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, SelectableField, Subresource,
        kit::{Cell, Plain, Rules, column, items, text},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("PodName", "string"),
    column("ServiceAccountName", "string"),
    column("NodeName", "string"),
    column("SignerName", "string"),
    column("State", "string"),
    column("UnverifiedUserAnnotations", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/podName", ""),
    Cell::Field("/spec/serviceAccountName", ""),
    Cell::Field("/spec/nodeName", ""),
    Cell::Field("/spec/signerName", ""),
    Cell::With(state),
    Cell::Pairs("/spec/unverifiedUserAnnotations"),
];

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
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
        ..Resource::of(
            "certificates.k8s.io",
            "PodCertificateRequest",
            "podcertificaterequests",
            "podcertificaterequest",
        )
    }
}

/// What came of the request.
fn state(request: &Object) -> Value {
    let kinds = items(request.pointer("/status/conditions")).map(|condition| text(condition, "/type"));
    kinds.filter(|kind| matches!(*kind, "Issued" | "Denied" | "Failed")).last().unwrap_or("Pending").into()
}
