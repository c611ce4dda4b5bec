//! matchConstraints and matchResources: which writes a policy or binding looks at, and in which version.

use component_base::selector::LabelSelector;
use serde_json::Value;

use super::{list, text};
use crate::{
    admission::{
        Request,
        webhook::{
            self, Rule,
            matching::{self, Facts},
        },
    },
    objects::Objects,
    status::Status,
};

/// What is looked at.
pub(super) struct Constraints {
    /// None means all.
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    takes_equivalents: bool,
    namespaces: Result<LabelSelector, String>,
    labels: Result<LabelSelector, String>,
}

impl Constraints {
    /// Reads `matchConstraints` or `matchResources`.
    pub(super) fn of(value: &Value) -> Self {
        Self {
            rules: list(value, "resourceRules").map(Rule::of).collect(),
            excluded: list(value, "excludeResourceRules").map(Rule::of).collect(),
            takes_equivalents: text(value, "matchPolicy") != "Exact",
            namespaces: webhook::selector(value.get("namespaceSelector")),
            labels: webhook::selector(value.get("objectSelector")),
        }
    }

    /// The version a write is looked at in; `None` when it is not.
    ///
    /// # Errors
    /// When it would be, but what selectors need cannot be learned.
    pub(super) async fn takes(
        &self,
        request: &Request<'_>,
        objects: &dyn Objects,
    ) -> Result<Option<String>, Status> {
        let (facts, served) = (Facts::of(request), matching::served(request));
        let version = |rules: &[Rule]| matching::version_of(rules, self.takes_equivalents, &facts, &served);
        if version(&self.excluded).is_some() {
            return Ok(None);
        }
        let version = if self.rules.is_empty() {
            Some(request.attributes.version.to_string())
        } else {
            version(&self.rules)
        };
        let Some(version) = version else { return Ok(None) };
        let selected = matching::object_matches(&self.labels, request)?
            && matching::namespace_matches(&self.namespaces, request, objects).await?;
        Ok(selected.then_some(version))
    }
}
