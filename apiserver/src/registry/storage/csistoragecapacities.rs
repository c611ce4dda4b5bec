//! `csistoragecapacities` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, at::At, column, format},
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "storage.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "csistoragecapacities",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
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
