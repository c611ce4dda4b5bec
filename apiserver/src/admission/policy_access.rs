//! The guard of admission policies: who makes one that reads parameters must be allowed to read them himself, or the
//! policy's messages would tell him what is in them. Run after all plugins, so that it sees the final object.
//!
//! Contract: `ValidatingAdmissionPolicy.spec.paramKind` and `ValidatingAdmissionPolicyBinding.spec.paramRef` of
//! admissionregistration.k8s.io/v1, and their mutating twins.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use serde_json::Value;
use smol_str::SmolStr;

use super::{
    Parts, Plugin, Request,
    policy::{
        mutating,
        params::{ParamKind, Params},
        validating,
    },
};
use crate::{
    auth::{Attributes, Authorizer, Decision, Selected, User},
    field::{Error, ErrorList, Path},
    object::Object,
    objects::{Kind, Objects},
    status::{GroupName, Status},
};

pub(super) const NAME: &str = "PolicyAccess";

/// Policies, and the bindings that lead to them.
const FAMILIES: [(Kind, Kind); 2] =
    [(validating::POLICIES, validating::BINDINGS), (mutating::POLICIES, mutating::BINDINGS)];

struct PolicyAccess {
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
    params: Params,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(PolicyAccess {
        objects: parts.objects.clone(),
        authorizer: parts.authorizer.clone(),
        params: Params::new(parts),
    })
}

#[async_trait]
impl Plugin for PolicyAccess {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        let (attributes, old) = (request.attributes, request.old);
        if attributes.user.in_group("system:masters") {
            return Ok(());
        }
        let said =
            |object: &Object, pointer| object.pointer(pointer).filter(|value| !value.is_null()).cloned();
        let changed = |pointer| {
            let new = said(object, pointer);
            new.is_some() && old.and_then(|old| said(old, pointer)) != new
        };
        let (field, refused) = match FAMILIES.iter().find_map(|family| part_of(request, family)) {
            Some(Part::Policy) if changed("/spec/paramKind") => {
                ("paramKind", self.policy(object, attributes).await)
            }
            Some(Part::Binding(policies))
                if changed("/spec/paramRef")
                    || (changed("/spec/policyName") && said(object, "/spec/paramRef").is_some()) =>
            {
                ("paramRef", self.binding(object, policies, attributes).await)
            }
            _ => return Ok(()),
        };
        let Err(why) = refused else { return Ok(()) };
        let mut errors = ErrorList::new();
        errors.push(Error::forbidden(&Path::new("spec").child(field), why));
        let kind = GroupName::new(request.resource.group, request.resource.kind);
        Err(Status::invalid(&kind, object.name(), &errors))
    }
}

enum Part {
    Policy,
    /// A binding to a policy of this kind.
    Binding(Kind),
}

fn part_of(request: &Request<'_>, (policies, bindings): &(Kind, Kind)) -> Option<Part> {
    if request.is(*policies) {
        return Some(Part::Policy);
    }
    request.is(*bindings).then_some(Part::Binding(*policies))
}

/// What parameters are: group, version and resource; `*` for what is not known.
struct Resolved {
    group: SmolStr,
    version: SmolStr,
    resource: SmolStr,
    /// What could not be made out.
    unknown: Option<Unknown>,
}

enum Unknown {
    Policy,
    Version,
    Resource,
}

impl PolicyAccess {
    async fn policy(&self, policy: &Object, attributes: &Attributes) -> Result<(), String> {
        let Some(kind) = policy.pointer("/spec/paramKind").map(ParamKind::of) else { return Ok(()) };
        let asked = asked(attributes, "get", ("*", "*"), &self.resolve(&kind));
        self.allowed(&asked, || {
            let ParamKind { kind: name, api_version: version } = &kind;
            format!(
                "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={name}, \
                 apiVersion={version})",
                Named(&attributes.user)
            )
        })
        .await
    }

    async fn binding(&self, binding: &Object, policies: Kind, attributes: &Attributes) -> Result<(), String> {
        let Some(wanted) = binding.pointer("/spec/paramRef") else { return Ok(()) };
        let name = binding.pointer("/spec/policyName").and_then(Value::as_str).unwrap_or_default();
        let policy = self.objects.get_latest(policies, "", name).await.ok().flatten();
        let kind = policy.as_ref().and_then(|policy| policy.pointer("/spec/paramKind")).map(ParamKind::of);
        let resolved = match (&policy, &kind) {
            (None, _) => Resolved::any(Some(Unknown::Policy)),
            (Some(_), None) => Resolved::any(None),
            (Some(_), Some(kind)) => self.resolve(kind),
        };
        let one = text(wanted, "name");
        let verb = if one.is_empty() { "list" } else { "get" };
        let asked = asked(attributes, verb, (text(wanted, "namespace"), one), &resolved);
        let lacks = format!("user {} does not have \"{verb}\" permission", Named(&attributes.user));
        let of_kind = || kind.as_ref().map(ToString::to_string).unwrap_or_default();
        self.allowed(&asked, || {
            let what = match resolved.unknown {
                Some(Unknown::Policy) => format!("get policy {name}"),
                Some(Unknown::Version) => format!("parse paramKind {}", of_kind()),
                Some(Unknown::Resource) => format!("resolve paramKind {}", of_kind()),
                None => return format!("{lacks} on the object referenced by paramRef"),
            };
            format!(
                "unable to {what} to determine minimum required permissions and {lacks} for all groups, versions and \
                 resources"
            )
        })
        .await
    }

    /// Which resource has objects of a kind.
    fn resolve(&self, kind: &ParamKind) -> Resolved {
        let Some((group, version)) = kind.group_version() else {
            return Resolved::any(Some(Unknown::Version));
        };
        let of_it = Resolved { group: group.into(), version: version.into(), ..Resolved::any(None) };
        match self.params.resource(kind) {
            Some(found) => Resolved { resource: SmolStr::new_static(found.plural), ..of_it },
            None => Resolved { unknown: Some(Unknown::Resource), ..of_it },
        }
    }

    async fn allowed(&self, asked: &Attributes, why: impl FnOnce() -> String) -> Result<(), String> {
        match self.authorizer.authorize(asked).await {
            Decision::Allow(_) => Ok(()),
            Decision::Failed { error, .. } => Err(error),
            Decision::Deny(_) | Decision::NoOpinion(_) => Err(why()),
        }
    }
}

impl Resolved {
    fn any(unknown: Option<Unknown>) -> Self {
        let any = SmolStr::new_static("*");
        Self { group: any.clone(), version: any.clone(), resource: any, unknown }
    }
}

fn asked(
    attributes: &Attributes,
    verb: &'static str,
    (namespace, name): (&str, &str),
    of: &Resolved,
) -> Attributes {
    Attributes {
        user: attributes.user.clone(),
        verb: SmolStr::new_static(verb),
        namespace: namespace.into(),
        group: of.group.clone(),
        version: of.version.clone(),
        resource: of.resource.clone(),
        subresource: SmolStr::default(),
        name: name.into(),
        is_resource: true,
        path: String::new(),
        field_selector: Selected::default(),
        label_selector: Selected::default(),
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A user as upstream prints one.
struct Named<'u>(&'u User);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let User { name, uid, groups, extra } = self.0;
        let extra: Vec<String> =
            extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" "))).collect();
        write!(f, "&{{{name} {uid} [{}] map[{}]}}", groups.join(" "), extra.join(" "))
    }
}

#[cfg(test)]
mod tests;
