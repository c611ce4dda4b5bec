//! Which webhooks see a write, and as which version. Pure, but for the namespace's labels, which are read when needed.

use std::collections::BTreeMap;

use component_base::selector::LabelSelector;

use super::hook::{Hook, Rule, Scope};
use crate::{
    admission::{Operation, Request},
    object::Object,
    objects::{NAMESPACES, Objects},
    status::Status,
};

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) operation: &'a str,
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) resource: &'a str,
    pub(super) subresource: &'a str,
    /// The namespace written to; of a namespace its own name.
    pub(super) namespace: &'a str,
}

/// Upstream's word for an operation.
pub(super) fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl<'a> Facts<'a> {
    pub(super) fn of(request: &'a Request<'_>) -> Self {
        let attributes = request.attributes;
        Self {
            operation: word(request.operation),
            group: &attributes.group,
            version: &attributes.version,
            resource: &attributes.resource,
            subresource: &attributes.subresource,
            namespace: namespace(request),
        }
    }

    fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }
}

/// The namespace of a write; of a namespace its own name.
pub(super) fn namespace<'a>(request: &'a Request<'_>) -> &'a str {
    if request.is_any(NAMESPACES) { name(request) } else { &request.attributes.namespace }
}

/// The name of what is written.
pub(super) fn name<'a>(request: &'a Request<'_>) -> &'a str {
    let named = || request.object.as_deref().or(request.old).map_or("", Object::name);
    if request.attributes.name.is_empty() { named() } else { &request.attributes.name }
}

impl Rule {
    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let scope = match self.scope {
            Scope::All => true,
            Scope::Cluster => facts.is_namespace() || facts.namespace.is_empty(),
            Scope::Namespaced => !facts.is_namespace() && !facts.namespace.is_empty(),
            Scope::Unknown => false,
        };
        scope
            && any(&self.operations, facts.operation)
            && any(&self.groups, facts.group)
            && any(&self.versions, facts.version)
            && self.resources.iter().any(|resource| {
                let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
                (resource == "*" || resource == facts.resource) && (sub == "*" || sub == facts.subresource)
            })
    }
}

impl Hook {
    /// The version a write is shown in, of those that are served; `None` when no rule wants it.
    pub(super) fn version_of(&self, facts: &Facts<'_>, served: &[&str]) -> Option<String> {
        if self.rules.iter().any(|rule| rule.matches(facts)) {
            return Some(facts.version.to_owned());
        }
        if !self.takes_equivalents {
            return None;
        }
        // Earlier rules first.
        let others = || served.iter().filter(|version| **version != facts.version);
        self.rules.iter().find_map(|rule| {
            let found = others().find(|version| rule.matches(&Facts { version, ..*facts }));
            found.map(|version| (*version).to_owned())
        })
    }
}

/// Whether a webhook sees a write, and in which version.
///
/// # Errors
/// When it would, but what its selectors need cannot be learned.
pub(super) async fn shown(
    hook: &Hook,
    request: &Request<'_>,
    objects: &dyn Objects,
) -> Result<Option<String>, Status> {
    let facts = Facts::of(request);
    let served: Vec<&str> = match request.resource.strategy.custom() {
        Some(custom) => custom.served().collect(),
        None => request.resource.versions.to_vec(),
    };
    let Some(version) = hook.version_of(&facts, &served) else { return Ok(None) };
    if !object_matches(hook, request)? || !namespace_matches(hook, request, objects).await? {
        return Ok(None);
    }
    if hook.has_conditions {
        return Err(request.forbid("matchConditions of webhooks are not supported by this server"));
    }
    Ok(Some(version))
}

fn usable(selector: &Result<LabelSelector, String>) -> Result<&LabelSelector, Status> {
    selector.as_ref().map_err(Status::internal)
}

fn object_matches(hook: &Hook, request: &Request<'_>) -> Result<bool, Status> {
    let selector = usable(&hook.labels)?;
    let matches = |object: &Object| selector.matches(&labels(object));
    let either = || request.object.as_deref().is_some_and(matches) || request.old.is_some_and(matches);
    Ok(selector.is_everything() || either())
}

async fn namespace_matches(
    hook: &Hook,
    request: &Request<'_>,
    objects: &dyn Objects,
) -> Result<bool, Status> {
    let selector = usable(&hook.namespaces)?;
    let namespace = namespace(request);
    let of_none = namespace.is_empty() && request.resource.plural != "namespaces";
    if of_none || selector.is_everything() {
        return Ok(true);
    }
    let is_written = matches!(request.operation, Operation::Create | Operation::Update);
    if let (true, true, Some(object)) = (request.is(NAMESPACES), is_written, request.object.as_deref()) {
        return Ok(selector.matches(&labels(object)));
    }
    let found = match objects.get(NAMESPACES, "", namespace).await? {
        Some(found) => Some(found),
        // The cache may be behind.
        None => objects.get_latest(NAMESPACES, "", namespace).await?,
    };
    let found = found.ok_or_else(|| Status::not_found(&NAMESPACES.group_name(), namespace))?;
    Ok(selector.matches(&labels(&found)))
}

fn labels(object: &Object) -> BTreeMap<&str, &str> {
    object.meta_pairs("labels").collect()
}
