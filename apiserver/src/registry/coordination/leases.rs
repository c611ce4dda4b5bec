//! `leases` of coordination.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Holder", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/spec/holderIdentity", ""), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            create_on_update: true,
            validate,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("coordination.k8s.io", "Lease", "leases", "lease")
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    let duration = spec.get("leaseDurationSeconds");
    if duration.is_set() && duration.int() <= 0 {
        duration.invalid(errors, "must be greater than 0");
    }
    spec.get("leaseTransitions").check_non_negative(errors);
    if spec.has("strategy") {
        super::check_strategy(&spec.get("strategy"), errors);
    }
    if !spec.get("preferredHolder").is_empty() && spec.get("strategy").is_empty() {
        spec.get("preferredHolder").forbidden(errors, "may only be specified if `strategy` is defined");
    }
}
