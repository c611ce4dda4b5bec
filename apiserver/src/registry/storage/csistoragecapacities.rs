//! `csistoragecapacities` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, format, resources},
        pod_spec::warnings_of_node_label,
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("StorageClassName", "string"), column("Capacity", "string")];
const CELLS: &[Cell] =
    &[Cell::Name, Cell::Field("/storageClassName", ""), Cell::Field("/capacity", "<unset>")];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            validate_new: |capacity, errors| check(capacity, false, errors),
            validate_change,
            warnings,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("storage.k8s.io", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity")
    }
}

fn check(capacity: &Object, broken: bool, errors: &mut ErrorList) {
    At::field(capacity, "nodeTopology").check_selector_after(broken, errors);
    At::field(capacity, "storageClassName").check_format(errors, format::dns_subdomain);
    resources::check_not_negative(&At::field(capacity, "capacity"), errors);
}

/// What was asked of the driver stays; a topology that was no good selector need not become one.
fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    check(new, !At::field(old, "nodeTopology").selects(), errors);
    for field in ["nodeTopology", "storageClassName"] {
        At::field(new, field).check_unchanged(&At::field(old, field), errors);
    }
}

fn warnings(capacity: &Object, _old: Option<&Object>) -> Vec<String> {
    let topology = At::field(capacity, "nodeTopology");
    let keys = topology.get("matchExpressions");
    let mut warnings: Vec<String> = keys
        .items()
        .map(|expression| expression.get("key"))
        .filter_map(|key| {
            Some(format!("{}: {} is {}", key.path(), key.text(), warnings_of_node_label(key.text())?))
        })
        .collect();
    for (label, _) in topology.get("matchLabels").entries() {
        let path = topology.path().child("matchLabels").child(label);
        warnings.extend(warnings_of_node_label(label).map(|message| format!("{path}: {message}")));
    }
    warnings
}
