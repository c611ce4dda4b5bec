//! Metadata inside of objects: labels and annotations of templates.
//!
//! Contract: apimachinery `ValidateAnnotations`; templates of claims take nothing else.

use super::{at::At, format};
use crate::field::{Error, ErrorList};

const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Annotations: keys are qualified names in any case, all of them together have a size.
pub(in crate::registry) fn check_annotations(annotations: &At<'_>, errors: &mut ErrorList) {
    for (key, _) in annotations.entries() {
        for detail in format::qualified_name(&key.to_lowercase()) {
            errors.push(Error::invalid(annotations.path(), key, detail));
        }
    }
    let size: usize = annotations.entries().map(|(key, value)| key.len() + value.text().len()).sum();
    if size > MAX_ANNOTATIONS {
        errors.push(Error::too_long(annotations.path(), MAX_ANNOTATIONS));
    }
}

/// Metadata of a template whose objects get everything else from their owner.
pub(in crate::registry) fn check_of_template(meta: &At<'_>, errors: &mut ErrorList) {
    check_annotations(&meta.get("annotations"), errors);
    meta.get("labels").check_labels(errors);
    for (field, value) in meta.entries() {
        let allowed = matches!(field, "labels" | "annotations");
        // A number that may be missing is there even when it is zero.
        let empty = value.is_empty() || field == "generation" && value.int() == 0;
        if !allowed && value.is_set() && !empty {
            let told = if field == "uid" { "uID" } else { field };
            errors.push(Error::forbidden(&meta.path().child(told), "cannot be set"));
        }
    }
}
