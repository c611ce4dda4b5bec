//! `poddisruptionbudgets` of policy.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, conditions, shape},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Min Available", "string"),
    column("Max Unavailable", "string"),
    column("Allowed Disruptions", "integer"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::With(|budget| told(budget, "/spec/minAvailable")),
    Cell::With(|budget| told(budget, "/spec/maxUnavailable")),
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
            validate_over: |budget, old, errors| {
                check(budget, old.is_some_and(|old| !At::spec(old).get("selector").selects()), errors);
            },
            validate_status,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        ..Resource::of("policy", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
    }
}

/// A budget; `broken` tells that its selector was no good one before.
fn check(obj: &Object, broken: bool, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    let (available, unavailable) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if available.is_set() && unavailable.is_set() {
        let why = "minAvailable and maxUnavailable cannot be both set";
        spec.invalid_go(errors, &shape::POD_DISRUPTION_BUDGET_SPEC, why);
    }
    for number in [available, unavailable] {
        number.check_count_or_percent(errors);
        number.check_at_most_whole(errors);
    }
    spec.get("selector").check_selector_after(broken, errors);
    spec.get("unhealthyPodEvictionPolicy").check_option_of(errors, &["IfHealthyBudget", "AlwaysAllow"]);
}

fn validate_status(new: &Object, _old: &Object, errors: &mut ErrorList) {
    let status = At::status(new);
    conditions::check(&status.get("conditions"), errors);
    status.check_counts(&["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"], errors);
}

/// A number or a share as text.
fn told(budget: &Object, pointer: &str) -> Value {
    match budget.pointer(pointer) {
        None | Some(Value::Null) => "N/A".into(),
        Some(Value::String(share)) => share.as_str().into(),
        Some(number) => number.to_string().into(),
    }
}
