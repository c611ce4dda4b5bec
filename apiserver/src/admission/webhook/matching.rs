//! Which webhooks and policies see a write, and as which version. Pure, but for the namespace's labels, which are read
//! when needed, and conditions, which may ask the authorizer.

use std::{collections::BTreeMap, sync::Arc};

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
pub(in crate::admission) struct Facts<'a> {
    pub(super) operation: &'a str,
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) resource: &'a str,
    pub(super) subresource: &'a str,
    /// The namespace written to; of a namespace its own name.
    pub(super) namespace: &'a str,
    /// The name of what is written, where it is known.
    pub(super) name: &'a str,
}

/// Upstream's word for an operation.
pub(in crate::admission) fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl<'a> Facts<'a> {
    pub(in crate::admission) fn of(request: &'a Request<'_>) -> Self {
        let attributes = request.attributes;
        Self {
            operation: word(request.operation),
            group: &attributes.group,
            version: &attributes.version,
            resource: &attributes.resource,
            subresource: &attributes.subresource,
            namespace: namespace(request),
            name: name(request),
        }
    }

    fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }
}

/// The namespace of a write; of a namespace its own name.
pub(in crate::admission) fn namespace<'a>(request: &'a Request<'_>) -> &'a str {
    if request.is_any(NAMESPACES) { name(request) } else { &request.attributes.namespace }
}

/// The name of what is written.
pub(in crate::admission) fn name<'a>(request: &'a Request<'_>) -> &'a str {
    let named = || request.object.as_deref().or(request.old).map_or("", Object::name);
    if request.attributes.name.is_empty() { named() } else { &request.attributes.name }
}

impl Rule {
    pub(in crate::admission) fn matches(&self, facts: &Facts<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let scope = match self.scope {
            Scope::All => true,
            Scope::Cluster => facts.is_namespace() || facts.namespace.is_empty(),
            Scope::Namespaced => !facts.is_namespace() && !facts.namespace.is_empty(),
            Scope::Unknown => false,
        };
        let named = self.names.is_empty() || self.names.iter().any(|name| name == facts.name);
        scope
            && named
            && any(&self.operations, facts.operation)
            && any(&self.groups, facts.group)
            && any(&self.versions, facts.version)
            && self.resources.iter().any(|resource| {
                let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
                (resource == "*" || resource == facts.resource) && (sub == "*" || sub == facts.subresource)
            })
    }
}

/// The version a write is shown in, of those that are served; `None` when no rule wants it.
pub(in crate::admission) fn version_of(
    rules: &[Rule],
    takes_equivalents: bool,
    facts: &Facts<'_>,
    served: &[&str],
) -> Option<String> {
    if rules.iter().any(|rule| rule.matches(facts)) {
        return Some(facts.version.to_owned());
    }
    if !takes_equivalents {
        return None;
    }
    // Earlier rules first.
    let others = || served.iter().filter(|version| **version != facts.version);
    rules.iter().find_map(|rule| {
        let found = others().find(|version| rule.matches(&Facts { version, ..*facts }));
        found.map(|version| (*version).to_owned())
    })
}

/// The versions a write's resource is served in.
pub(in crate::admission) fn served<'a>(request: &'a Request<'_>) -> Vec<&'a str> {
    match request.resource.strategy.custom() {
        Some(custom) => custom.served().collect(),
        None => request.resource.versions.to_vec(),
    }
}

/// Whether a webhook's rules and selectors take a write, and in which version.
///
/// # Errors
/// When they would, but what selectors need cannot be learned.
pub(super) async fn shown(
    hook: &Hook,
    request: &Request<'_>,
    objects: &dyn Objects,
) -> Result<Option<String>, Status> {
    let facts = Facts::of(request);
    let Some(version) = version_of(&hook.rules, hook.takes_equivalents, &facts, &served(request)) else {
        return Ok(None);
    };
    let selected = object_matches(&hook.labels, request)?
        && namespace_matches(&hook.namespaces, request, objects).await?;
    Ok(selected.then_some(version))
}

fn usable(selector: &Result<LabelSelector, String>) -> Result<&LabelSelector, Status> {
    selector.as_ref().map_err(Status::internal)
}

/// Whether the object, or what it was, has the labels.
///
/// # Errors
/// When the selector is none.
pub(in crate::admission) fn object_matches(
    selector: &Result<LabelSelector, String>,
    request: &Request<'_>,
) -> Result<bool, Status> {
    let selector = usable(selector)?;
    let matches = |object: &Object| selector.matches(&labels(object));
    let either = || request.object.as_deref().is_some_and(matches) || request.old.is_some_and(matches);
    Ok(selector.is_everything() || either())
}

/// Whether the namespace has the labels; what is in no namespace matches.
///
/// # Errors
/// When the selector is none, or the namespace is not there.
pub(in crate::admission) async fn namespace_matches(
    selector: &Result<LabelSelector, String>,
    request: &Request<'_>,
    objects: &dyn Objects,
) -> Result<bool, Status> {
    let selector = usable(selector)?;
    let namespace = namespace(request);
    let of_none = namespace.is_empty() && request.resource.plural != "namespaces";
    if of_none || selector.is_everything() {
        return Ok(true);
    }
    let is_written = matches!(request.operation, Operation::Create | Operation::Update);
    if let (true, true, Some(object)) = (request.is(NAMESPACES), is_written, request.object.as_deref()) {
        return Ok(selector.matches(&labels(object)));
    }
    Ok(selector.matches(&labels(&*namespace_object(namespace, objects).await?)))
}

/// A namespace by its name.
///
/// # Errors
/// When it is not there.
pub(in crate::admission) async fn namespace_object(
    name: &str,
    objects: &dyn Objects,
) -> Result<Arc<Object>, Status> {
    let found = match objects.get(NAMESPACES, "", name).await? {
        Some(found) => Some(found),
        // The cache may be behind.
        None => objects.get_latest(NAMESPACES, "", name).await?,
    };
    found.ok_or_else(|| Status::not_found(&NAMESPACES.group_name(), name))
}

fn labels(object: &Object) -> BTreeMap<&str, &str> {
    object.meta_pairs("labels").collect()
}
