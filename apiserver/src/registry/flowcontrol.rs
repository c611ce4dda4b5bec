//! Resources of the group flowcontrol.apiserver.k8s.io, one file each, one line each in [`resources`].

use serde_json::Value;

use crate::registry::{Resource, kit::fill::Fields};

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
