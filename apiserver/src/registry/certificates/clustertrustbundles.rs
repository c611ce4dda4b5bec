//! `clustertrustbundles` of certificates.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, SelectableField,
    kit::{Cell, Plain, Rules, column},
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("SignerName", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/spec/signerName", "<none>")];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        namespaced: false,
        selectable: const { &[SelectableField::at("spec.signerName", "/spec/signerName")] },
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of(
            "certificates.k8s.io",
            "ClusterTrustBundle",
            "clustertrustbundles",
            "clustertrustbundle",
        )
    }
}
