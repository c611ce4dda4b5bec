//! `volumeattributesclasses` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column},
        storage::provision,
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("DriverName", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/driverName", ""), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1", "v1beta1"],
        storage_version: "v1",
        short_names: &["vac"],
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            validate_new: validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of(
            "storage.k8s.io",
            "VolumeAttributesClass",
            "volumeattributesclasses",
            "volumeattributesclass",
        )
    }
}

fn validate(class: &Object, errors: &mut ErrorList) {
    provision::check_provisioner(&At::field(class, "driverName"), errors);
    let parameters = At::field(class, "parameters");
    provision::check_parameters(&parameters, errors);
    if parameters.is_empty() {
        parameters.required(errors, "must contain at least one key/value pair");
    }
}

/// A class is what it was made as.
fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    for field in ["driverName", "parameters"] {
        let (now, before) = (At::field(new, field), At::field(old, field));
        if now.value() != before.value() {
            now.forbidden(errors, format!("updates to {field} are forbidden."));
        }
    }
    validate(new, errors);
}
