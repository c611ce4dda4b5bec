//! `poddisruptionbudgets` of policy.

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
    column("Min Available", "string"),
    column("Max Unavailable", "string"),
    column("Allowed Disruptions", "integer"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/minAvailable", "N/A"),
    Cell::Field("/spec/maxUnavailable", "N/A"),
    Cell::Field("/status/disruptionsAllowed", "0"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["pdb"],
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            validate,
            validate_status,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        ..Resource::of("policy", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    let (available, unavailable) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if available.is_set() && unavailable.is_set() {
        spec.invalid(errors, "minAvailable and maxUnavailable cannot be both set");
    }
    for number in [available, unavailable] {
        number.check_count_or_percent(errors);
        number.check_at_most_whole(errors);
    }
    spec.get("selector").check_selector(errors);
    spec.get("unhealthyPodEvictionPolicy").check_option_of(errors, &["IfHealthyBudget", "AlwaysAllow"]);
}

fn validate_status(new: &Object, _old: &Object, errors: &mut ErrorList) {
    At::status(new)
        .check_counts(&["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"], errors);
}
