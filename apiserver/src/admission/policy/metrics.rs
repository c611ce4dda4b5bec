//! Metrics of policies, by upstream's names and labels.

use std::{sync::LazyLock, time::Duration};

use component_base::metrics::{self, Stability};
use prometheus::{HistogramVec, IntCounterVec};

use super::binding::Action;
use crate::expressions::{Expression, OutOfBudget};

/// What went wrong with an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorType {
    /// Nothing.
    None,
    /// The expression does not compile.
    Compile,
    /// It costs more than it may.
    OutOfBudget,
    /// It failed, or said no.
    Invalid,
}

impl ErrorType {
    const fn word(self) -> &'static str {
        match self {
            Self::None => "no_error",
            Self::Compile => "compile_error",
            Self::OutOfBudget => "out_of_budget",
            Self::Invalid => "invalid_error",
        }
    }
}

/// An evaluation that gave no answer.
#[derive(Debug)]
pub(super) struct Wrong {
    /// In upstream's words.
    pub(super) message: String,
    /// For the metrics.
    pub(super) error: ErrorType,
}

impl Wrong {
    /// The expression failed, or does not compile in the first place.
    pub(super) fn evaluating(expression: &Expression, message: String) -> Self {
        let error = if expression.program.is_ok() { ErrorType::Invalid } else { ErrorType::Compile };
        Self { message, error }
    }

    /// Something else than an expression failed.
    pub(super) fn other(message: impl Into<String>) -> Self {
        Self { message: message.into(), error: ErrorType::Invalid }
    }
}

impl From<OutOfBudget> for Wrong {
    fn from(spent: OutOfBudget) -> Self {
        Self { message: spent.to_string(), error: ErrorType::OutOfBudget }
    }
}

/// Evaluations of one kind of policy: how many, and how long they took.
struct Family {
    total: IntCounterVec,
    seconds: HistogramVec,
}

impl Family {
    fn new(policies: &str, of: &str, stability: Stability, labels: &[&str]) -> Self {
        // From the least an expression takes to about the limit of its cost.
        let buckets = vec![0.000_000_5, 0.001, 0.01, 0.1, 1.0];
        Self {
            total: metrics::counter_vec(
                &format!("apiserver_{policies}_check_total"),
                &format!("{of} of policies, by what came of them."),
                stability,
                labels,
            ),
            seconds: metrics::histogram_vec(
                &format!("apiserver_{policies}_check_duration_seconds"),
                &format!("How long {of} of policies took, by what came of them."),
                stability,
                labels,
                buckets,
            ),
        }
    }

    fn count(&self, labels: &[&str], elapsed: Duration) {
        self.total.with_label_values(labels).inc();
        self.seconds.with_label_values(labels).observe(elapsed.as_secs_f64());
    }
}

static VALIDATING: LazyLock<Family> = LazyLock::new(|| {
    let labels = ["policy", "policy_binding", "error_type", "enforcement_action"];
    Family::new("validating_admission_policy", "Validations", Stability::Beta, &labels)
});
static MUTATING: LazyLock<Family> = LazyLock::new(|| {
    let labels = ["policy", "policy_binding", "error_type"];
    Family::new("mutating_admission_policy", "Mutations", Stability::Alpha, &labels)
});

/// Counts a validation that failed, and what was done about it; `None` lets the write pass.
pub(super) fn validated(
    policy: &str,
    binding: &str,
    action: Option<Action>,
    error: ErrorType,
    elapsed: Duration,
) {
    let action = match action {
        Some(Action::Deny) => "deny",
        Some(Action::Warn) => "warn",
        Some(Action::Audit) => "audit",
        None => "allow",
    };
    VALIDATING.count(&[policy, binding, error.word(), action], elapsed);
}

/// Counts a mutation.
pub(super) fn mutated(policy: &str, binding: &str, error: ErrorType, elapsed: Duration) {
    MUTATING.count(&[policy, binding, error.word()], elapsed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_are_counted_by_what_came_of_them() {
        let elapsed = Duration::from_millis(2);
        validated("p", "b", Some(Action::Warn), ErrorType::Invalid, elapsed);
        validated("p", "b", None, ErrorType::Compile, elapsed);
        mutated("p", "b", ErrorType::None, elapsed);
        let told = String::from_utf8(metrics::encode().unwrap()).unwrap();
        for want in [
            r#"apiserver_validating_admission_policy_check_total{enforcement_action="warn",error_type="invalid_error",policy="p",policy_binding="b"} 1"#,
            r#"apiserver_validating_admission_policy_check_total{enforcement_action="allow",error_type="compile_error",policy="p",policy_binding="b"} 1"#,
            r#"apiserver_mutating_admission_policy_check_total{error_type="no_error",policy="p",policy_binding="b"} 1"#,
            r#"apiserver_mutating_admission_policy_check_duration_seconds_bucket{error_type="no_error",policy="p",policy_binding="b",le="0.01"} 1"#,
        ] {
            assert!(told.contains(want), "{want}");
        }
    }
}
