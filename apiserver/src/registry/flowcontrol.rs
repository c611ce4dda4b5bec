//! Resources of the group flowcontrol.apiserver.k8s.io, one file each, one line each in [`resources`].

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Resource,
        kit::{at::At, fill::Fields},
    },
};

mod flowschemas;
mod prioritylevelconfigurations;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![flowschemas::resource(), prioritylevelconfigurations::resource()]
}

/// Sets a number that is missing or 0.
fn zero(object: &mut Fields, field: &str, number: i64) {
    if object.get(field).is_none_or(|v| v.is_null() || v.as_i64() == Some(0)) {
        object.insert(field.to_owned(), Value::from(number));
    }
}

/// Conditions have types, each once.
fn check_conditions(object: &Object, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for kind in At::status(object).get("conditions").items().map(|condition| condition.get("type")) {
        if !seen.insert(kind.text()) {
            kind.duplicate(errors);
        }
        kind.check_required(errors);
    }
}
