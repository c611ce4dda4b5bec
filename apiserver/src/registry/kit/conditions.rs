//! Conditions of a status, as newer kinds have them.
//!
//! Contract: meta/v1 `Condition`.

use std::collections::BTreeSet;

use super::{at::At, format};
use crate::field::ErrorList;

const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;

/// Conditions: one of each type, complete.
pub(in crate::registry) fn check(conditions: &At<'_>, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for condition in conditions.items() {
        let kind = condition.get("type");
        if !seen.insert(kind.text()) {
            kind.duplicate(errors);
        }
        check_one(&condition, errors);
    }
}

fn check_one(condition: &At<'_>, errors: &mut ErrorList) {
    condition.get("type").check_format(errors, format::qualified_name);
    condition.get("status").check_is_one_of(errors, &["False", "True", "Unknown"]);
    let generation = condition.get("observedGeneration");
    if generation.int() < 0 {
        generation.invalid(errors, "must be greater than or equal to zero");
    }
    condition.get("lastTransitionTime").check_required(errors);
    let reason = condition.get("reason");
    if reason.check_required(errors) {
        reason.check_format(errors, format::condition_reason);
        reason.check_length(errors, MAX_REASON);
    }
    condition.get("message").check_length(errors, MAX_MESSAGE);
}
