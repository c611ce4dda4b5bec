//! `clustertrustbundles` of certificates.k8s.io.

use std::sync::Arc;

use crate::registry::{
    Column, Resource, SelectableField,
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
        kind: "ClusterTrustBundle",
        plural: "clustertrustbundles",
        singular: "clustertrustbundle",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "clustertrustbundles",
        selectable: const { &[SelectableField::at("spec.signerName", "/spec/signerName")] },
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
    }
}
