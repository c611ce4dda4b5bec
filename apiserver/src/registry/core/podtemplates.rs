//! `podtemplates`.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, Rules, at::At, column, fill, workload},
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Containers", "string"),
    column("Images", "string"),
    column("Pod Labels", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Each("/template/spec/containers", "name"),
    Cell::Each("/template/spec/containers", "image"),
    Cell::Pairs("/template/metadata/labels"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default: |obj| fill::template(obj.as_map_mut(), "template"),
            validate_over: |obj, old, errors| {
                let old = old.map(|old| At::field(old, "template"));
                workload::check_template(&At::field(obj, "template"), old.as_ref(), errors);
            },
            warnings: |new, old| workload::warnings(new, old, false, &["template"]),
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("", "PodTemplate", "podtemplates", "podtemplate")
    }
}
