//! A binding of a policy: where it holds, with which parameters, and what its failures do.

use component_base::selector::LabelSelector;
use serde_json::Value;

use super::{Constraints, list, text};
use crate::{admission::webhook, object::Object};

/// A binding.
pub(super) struct Binding {
    pub(super) name: String,
    /// The policy's name.
    pub(super) policy: String,
    /// What it looks at of what the policy does; `None` is all of it.
    pub(super) constraints: Option<Constraints>,
    pub(super) params: Option<ParamRef>,
    /// `validationActions` in their order.
    pub(super) actions: Vec<Action>,
}

/// What a failed validation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The write is refused.
    Deny,
    /// The client is warned.
    Warn,
    /// The audit event says so.
    Audit,
}

/// Which parameters a binding means.
pub(super) struct ParamRef {
    /// Empty with a selector.
    pub(super) name: String,
    /// Empty: that of the write.
    pub(super) namespace: String,
    pub(super) selector: Option<Result<LabelSelector, String>>,
    /// Whether a write is refused when there are none.
    pub(super) required: bool,
}

impl Action {
    /// Upstream's word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Action::Deny => "Deny",
            Action::Warn => "Warn",
            Action::Audit => "Audit",
        }
    }
}

impl Binding {
    /// Reads a binding of either kind of policy.
    pub(super) fn of(object: &Object) -> Self {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let action = |action: &Value| match action.as_str() {
            Some("Deny") => Some(Action::Deny),
            Some("Warn") => Some(Action::Warn),
            Some("Audit") => Some(Action::Audit),
            _ => None,
        };
        Self {
            name: object.name().to_owned(),
            policy: text(spec, "policyName").to_owned(),
            constraints: spec.get("matchResources").filter(|c| c.is_object()).map(Constraints::of),
            params: spec.get("paramRef").filter(|p| p.is_object()).map(ParamRef::of),
            actions: list(spec, "validationActions").filter_map(action).collect(),
        }
    }
}

impl ParamRef {
    fn of(value: &Value) -> Self {
        let selector = value.get("selector").filter(|s| !s.is_null());
        Self {
            name: text(value, "name").to_owned(),
            namespace: text(value, "namespace").to_owned(),
            selector: selector.map(|s| webhook::selector(Some(s))),
            required: text(value, "parameterNotFoundAction") == "Deny",
        }
    }
}
