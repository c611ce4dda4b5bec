//! `storageclasses` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, fill, format},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Provisioner", "string"),
    column("ReclaimPolicy", "string"),
    column("VolumeBindingMode", "string"),
    column("AllowVolumeExpansion", "boolean"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/provisioner", ""),
    Cell::Field("/reclaimPolicy", "Delete"),
    Cell::Field("/volumeBindingMode", "Immediate"),
    Cell::Field("/allowVolumeExpansion", "false"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["sc"],
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate_updated: false,
            validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("storage.k8s.io", "StorageClass", "storageclasses", "storageclass")
    }
}

/// Volumes are bound at once and go with their claims.
fn default(obj: &mut Object) {
    fill::missing(obj.as_map_mut(), "reclaimPolicy", "Delete");
    fill::missing(obj.as_map_mut(), "volumeBindingMode", "Immediate");
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    let provisioner = At::field(obj, "provisioner");
    if provisioner.check_required(errors) {
        format::qualified_name(&provisioner.text().to_lowercase())
            .into_iter()
            .for_each(|detail| provisioner.invalid(errors, detail));
    }
    let parameters = At::field(obj, "parameters");
    if parameters.len() > 512 {
        errors.push(Error::too_long(parameters.path(), 512));
    }
    At::field(obj, "reclaimPolicy").check_option_of(errors, &["Delete", "Retain"]);
    let mode = At::field(obj, "volumeBindingMode");
    if mode.check_there(errors) {
        mode.check_option_of(errors, &["Immediate", "WaitForFirstConsumer"]);
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let parameters = At::field(new, "parameters");
    if parameters.value() != At::field(old, "parameters").value() {
        parameters.forbidden(errors, "updates to parameters are forbidden.");
    }
    let provisioner = At::field(new, "provisioner");
    if provisioner.value() != At::field(old, "provisioner").value() {
        provisioner.forbidden(errors, "updates to provisioner are forbidden.");
    }
    for field in ["reclaimPolicy", "volumeBindingMode"] {
        At::field(new, field).check_unchanged(&At::field(old, field), errors);
    }
}
