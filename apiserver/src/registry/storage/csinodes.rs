//! `csinodes` of storage.k8s.io.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, format, semantic},
        pod_spec::sources,
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Drivers", "integer"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Count(&["/spec/drivers"]), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("storage.k8s.io", "CSINode", "csinodes", "csinode")
    }
}

/// Bytes of the name a driver has for a node.
const MAX_ID: usize = 256;

fn validate(node: &Object, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for driver in At::spec(node).get("drivers").items() {
        let (name, id) = (driver.get("name"), driver.get("nodeID"));
        sources::check_driver(&name, errors);
        id.check_required(errors);
        if id.text().len() > MAX_ID {
            id.invalid(errors, format!("must be {MAX_ID} characters or less"));
        }
        driver.get("allocatable").get("count").check_non_negative(errors);
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        let mut keys = BTreeSet::new();
        for key in driver.get("topologyKeys").items() {
            // Told of as the driver.
            let key = key.named(driver.path().clone());
            key.check_required(errors);
            if !keys.insert(key.text()) {
                key.duplicate(errors);
            }
            key.check_format(errors, format::qualified_name);
        }
    }
}

/// A driver that stays is what it was, but for how much it can take.
fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let drivers = At::spec(new).get("drivers");
    let plain = |driver: &At<'_>| {
        let mut driver = driver.value().clone();
        if let Some(fields) = driver.as_object_mut() {
            fields.remove("allocatable");
        }
        driver
    };
    for before in At::spec(old).get("drivers").items() {
        for now in drivers.items().filter(|now| now.text_of("name") == before.text_of("name")) {
            let (was, is) = (plain(&before), plain(&now));
            if !semantic::same(&was, &is) {
                errors.push(Error::invalid(drivers.path(), is, "field is immutable"));
            }
        }
    }
}
