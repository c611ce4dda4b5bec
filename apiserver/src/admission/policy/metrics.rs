//! Metrics of policies, by upstream's names and labels.

use std::sync::LazyLock;

use component_base::metrics::{self, Stability};
use prometheus::IntCounterVec;

use super::binding::Action;

static CHECKS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "apiserver_validating_admission_policy_check_total",
        "Validations of policies that failed, by what was done about it.",
        Stability::Beta,
        &["enforcement_action", "error_type", "policy", "policy_binding"],
    )
});

/// Counts a validation that failed.
pub(super) fn validated(policy: &str, binding: &str, action: Action) {
    let action = match action {
        Action::Deny => "deny",
        Action::Warn => "warn",
        Action::Audit => "audit",
    };
    CHECKS.with_label_values(&[action, "no_error", policy, binding]).inc();
}
