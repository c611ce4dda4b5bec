//! `volumeattachments` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        Column, Resource, Subresource,
        core::check_inline_volume,
        kit::{Cell, Rules, at::At, column, format, semantic},
        pod_spec::sources,
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Attacher", "string").name(),
    column("PV", "string"),
    column("Node", "string"),
    column("Attached", "boolean"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/attacher", ""),
    Cell::Field("/spec/source/persistentVolumeName", ""),
    Cell::Field("/spec/nodeName", ""),
    Cell::Field("/status/attached", "false"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            validate,
            validate_change,
            // What is attached is not changed by telling how it went, but all of it is looked at again.
            validate_status: |new, old, errors| {
                validate(new, errors);
                validate_change(new, old, errors);
            },
            ..Rules::apart(CELLS)
        }),
        returns_deleted: true,
        ..Resource::of("storage.k8s.io", "VolumeAttachment", "volumeattachments", "volumeattachment")
    }
}

const MAX_METADATA: usize = 256 * 1024;
const MAX_MESSAGE: usize = 1024;

fn validate(attachment: &Object, errors: &mut ErrorList) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let spec = At::spec(attachment);
    sources::check_driver(&spec.get("attacher"), errors);
    let source = spec.get("source");
    let (inline, name) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    match (inline.is_set(), name.is_set()) {
        (false, false) => source.required(errors, ONE),
        (true, true) => source.forbidden(errors, ONE),
        (true, false) => check_inline_volume(&inline, errors),
        (false, true) if name.is_empty() => {
            name.required(errors, "must specify non empty persistentVolumeName")
        }
        (false, true) => {}
    }
    spec.get("nodeName").check_format(errors, format::dns_subdomain);
    check_status(&At::status(attachment), errors);
    if name.is_set() {
        name.check_format(errors, format::dns_subdomain);
    }
}

fn check_status(status: &At<'_>, errors: &mut ErrorList) {
    let metadata = status.get("attachmentMetadata");
    let size: usize = metadata.entries().map(|(key, value)| key.len() + value.text().len()).sum();
    if size > MAX_METADATA {
        errors.push(Error::too_long(metadata.path(), MAX_METADATA));
    }
    for error in ["attachError", "detachError"].map(|field| status.get(field)) {
        if error.text_of("message").len() > MAX_MESSAGE {
            errors.push(Error::too_long(error.get("message").path(), MAX_METADATA));
        }
        let code = error.get("errorCode");
        if code.int() < 0 {
            code.invalid(errors, format!("must be between 0 and {}, inclusive", i32::MAX));
        }
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(new), At::spec(old));
    if !semantic::same(was.value(), spec.value()) {
        spec.invalid(errors, "field is immutable");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::registry::testing::Kind;

    #[test]
    fn what_is_attached_where_stays() {
        let kind = Kind::new("storage.k8s.io", "volumeattachments");
        let spec = json!({"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "p"}});
        let errors =
            kind.change(&json!({"metadata": {"name": "v"}, "spec": spec}), &[("/spec/nodeName", json!("m"))]);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].starts_with("spec: Invalid value") && errors[0].ends_with("field is immutable"));
    }
}
