//! `csidrivers` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column, fill},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("AttachRequired", "boolean"),
    column("PodInfoOnMount", "boolean"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/attachRequired", "true"),
    Cell::Field("/spec/podInfoOnMount", "false"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "storage.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "CSIDriver",
        plural: "csidrivers",
        singular: "csidriver",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "csidrivers",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
    }
}

/// Volumes are attached, and of lasting claims.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    fill::missing(spec, "attachRequired", true);
    fill::missing(spec, "podInfoOnMount", false);
    fill::missing(spec, "storageCapacity", false);
    fill::missing(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if fill::none(spec, "volumeLifecycleModes") {
        spec.insert("volumeLifecycleModes".to_owned(), ["Persistent"].as_slice().into());
    }
    fill::missing(spec, "requiresRepublish", false);
    fill::missing(spec, "seLinuxMount", false);
}
