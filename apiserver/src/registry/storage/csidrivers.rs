//! `csidrivers` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, column, fill},
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
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
        ..Resource::of("storage.k8s.io", "CSIDriver", "csidrivers", "csidriver")
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
