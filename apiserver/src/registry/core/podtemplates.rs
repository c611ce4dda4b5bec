//! `podtemplates`.

use std::sync::Arc;

use crate::registry::{
    Resource,
    kit::{NAME_AND_AGE, Plain, Rules, at::At, fill, workload},
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        strategy: Arc::new(Rules {
            default: |obj| fill::template(obj.as_map_mut(), "template"),
            validate: |obj, errors| workload::check_template(&At::field(obj, "template"), errors),
            warnings: |new, old| workload::warnings(new, old, false, &["template"]),
            ..Rules::new(Plain { status: false, generation: true, cells: NAME_AND_AGE })
        }),
        ..Resource::of("", "PodTemplate", "podtemplates", "podtemplate")
    }
}
