//! `podtemplates`.

use std::sync::Arc;

use crate::registry::{
    Column, Resource,
    kit::{Cell, Plain, Rules, STANDARD_VERBS, at::At, column, fill, workload},
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "podtemplates",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default: |obj| fill::template(obj.as_map_mut(), "template"),
            validate: |obj, errors| workload::check_template(&At::field(obj, "template"), errors),
            warnings: |new, old| workload::warnings(new, old, false, &["template"]),
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
    }
}
