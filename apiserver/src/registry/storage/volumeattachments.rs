//! `volumeattachments` of storage.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, at::At, column},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Attacher", "string"),
    column("PV", "string"),
    column("Node", "string"),
    column("Attached", "boolean"),
    column("Age", "date"),
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
            validate_change,
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
        ..Resource::of("storage.k8s.io", "VolumeAttachment", "volumeattachments", "volumeattachment")
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    At::spec(new).check_unchanged(&At::spec(old), errors);
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
