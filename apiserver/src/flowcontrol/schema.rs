//! A flow schema, compiled: which requests it matches, and which of them are one flow. Pure.

use std::sync::Arc;

use serde::Deserialize;

use super::uid;
use crate::{auth::Attributes, object::Object};

/// A compiled FlowSchema.
#[derive(Debug)]
pub(super) struct FlowSchema {
    pub(super) name: Arc<str>,
    pub(super) uid: Arc<str>,
    /// Lower ones are tried first; those of the same precedence by name.
    pub(super) precedence: i64,
    /// Name of its priority level.
    pub(super) level: String,
    by: By,
    rules: Vec<Rule>,
}

/// What tells flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nothing,
    User,
    Namespace,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    priority_level_configuration: Named,
    matching_precedence: i64,
    distinguisher_method: Option<Typed>,
    rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Typed {
    r#type: String,
}

/// Any of the subjects doing any of what the rules say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<PathRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Subject {
    user: Option<Named>,
    group: Option<Named>,
    service_account: Option<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PathRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

impl FlowSchema {
    /// Compiles a stored object; what cannot be read matches nothing.
    pub(super) fn of(object: &Object) -> Self {
        let spec = object.get("spec").cloned().unwrap_or_default();
        let spec: Spec = serde_json::from_value(spec).unwrap_or_default();
        let by = match spec.distinguisher_method.map(|method| method.r#type).as_deref() {
            Some("ByUser") => By::User,
            Some("ByNamespace") => By::Namespace,
            _ => By::Nothing,
        };
        Self {
            name: object.name().into(),
            uid: uid(object).into(),
            precedence: spec.matching_precedence,
            level: spec.priority_level_configuration.name,
            by,
            rules: spec.rules,
        }
    }

    /// Whether it is this schema that says how a request is served.
    pub(super) fn matches(&self, request: &Attributes) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.is(request))
                && if request.is_resource {
                    rule.resource_rules.iter().any(|rule| rule.matches(request))
                } else {
                    rule.non_resource_rules.iter().any(|rule| rule.matches(request))
                }
        })
    }

    /// The flow of a request among those of this schema.
    pub(super) fn flow_of(&self, request: &Attributes) -> String {
        match self.by {
            By::Nothing => String::new(),
            By::User => request.user.name.clone(),
            By::Namespace => request.namespace.to_string(),
        }
    }
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Subject {
    fn is(&self, request: &Attributes) -> bool {
        let user = &request.user;
        if let Some(named) = &self.user {
            return named.name == "*" || named.name == user.name;
        }
        if let Some(named) = &self.group {
            return named.name == "*" || user.in_group(&named.name);
        }
        let Some(wanted) = &self.service_account else { return false };
        crate::authn::serviceaccount::split_username(&user.name).is_some_and(|(namespace, name)| {
            namespace == wanted.namespace && (wanted.name == "*" || wanted.name == name)
        })
    }
}

impl ResourceRule {
    fn matches(&self, request: &Attributes) -> bool {
        let full = match request.subresource.as_str() {
            "" => request.resource.to_string(),
            sub => format!("{}/{sub}", request.resource),
        };
        let place = if request.namespace.is_empty() {
            self.cluster_scope
        } else {
            any(&self.namespaces, &request.namespace)
        };
        place
            && any(&self.verbs, &request.verb)
            && any(&self.resources, &full)
            && any(&self.api_groups, &request.group)
    }
}

impl PathRule {
    fn matches(&self, request: &Attributes) -> bool {
        let path = request.path.as_str();
        let below = |rule: &str| {
            let folder = rule.strip_suffix('*').unwrap_or(rule).trim_end_matches('/');
            path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
        };
        any(&self.verbs, &request.verb) && self.urls.iter().any(|url| url == "*" || url == path || below(url))
    }
}
