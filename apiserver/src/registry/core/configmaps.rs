//! `configmaps`.

use std::sync::Arc;

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, contents},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Data", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Count(&["/data", "/binaryData"]), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["cm"],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("", "ConfigMap", "configmaps", "configmap")
    }
}

/// Keys are good ones, in one place each, and all values together have a size.
fn validate(map: &Object, errors: &mut ErrorList) {
    let (texts, bytes) = (At::field(map, "data"), At::field(map, "binaryData"));
    for (key, text) in texts.entries() {
        contents::check_key(key, &text, errors);
        if bytes.has(key) {
            text.invalid_as(errors, key, "duplicate of key present in binaryData");
        }
    }
    bytes.entries().for_each(|(key, value)| contents::check_key(key, &value, errors));
    let size: usize = texts.entries().map(|(_, text)| text.text().len()).sum();
    if size + contents::size(&bytes) > contents::MAX {
        // The whole object is meant.
        let error = Error::too_long(&Path::root(), contents::MAX);
        errors.push(Error { field: String::new(), ..error });
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    contents::check_immutable(new, old, &["data", "binaryData"], errors);
}
