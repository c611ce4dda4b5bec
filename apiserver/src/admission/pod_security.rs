//! PodSecurity: the Pod Security Standards, asked for by labels of the namespace.
//!
//! `enforce` refuses pods, `warn` warns the client, also about templates of workloads. Every version
//! label is answered with the rules of this release. Contract: Kubernetes "Pod Security Admission",
//! "Pod Security Standards"; upstream `pod-security-admission`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Parts, Plugin, Request};
use crate::{
    field::{Error as FieldError, ErrorList, Path},
    object::Object,
    objects::{NAMESPACES, Objects, PODS},
    status::{GroupName, Status},
};

mod checks;

pub(super) const NAME: &str = "PodSecurity";

const LABEL: &str = "pod-security.kubernetes.io/";
/// Workloads with a pod template: group, resource, where the pod's spec is.
const TEMPLATES: [(&str, &str, &str); 8] = [
    ("", "podtemplates", "/template/spec"),
    ("", "replicationcontrollers", "/spec/template/spec"),
    ("apps", "daemonsets", "/spec/template/spec"),
    ("apps", "deployments", "/spec/template/spec"),
    ("apps", "replicasets", "/spec/template/spec"),
    ("apps", "statefulsets", "/spec/template/spec"),
    ("batch", "jobs", "/spec/template/spec"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template/spec"),
];

/// How much a pod may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

struct PodSecurity {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(PodSecurity { objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        if request.is(NAMESPACES) {
            return check_labels(object);
        }
        let Some(pointer) = spec_pointer(request) else { return Ok(()) };
        let Some(spec) = object.pointer(pointer) else { return Ok(()) };
        if request.old.and_then(|old| old.pointer(pointer)) == Some(spec) {
            return Ok(());
        }
        let Some(namespace) = self.objects.get(NAMESPACES, "", &request.attributes.namespace).await? else {
            return Ok(());
        };
        let pod = request.is_any(PODS);
        if pod && let Some(found) = violations(&namespace, "enforce", spec) {
            return Err(request.forbid(format!("violates {found}")));
        }
        if let Some(found) = violations(&namespace, "warn", spec) {
            request.warnings.push(format!("would violate {found}"));
        }
        Ok(())
    }
}

/// Where the pod's spec is in what is written, if it holds one.
fn spec_pointer(request: &Request<'_>) -> Option<&'static str> {
    if request.is_any(PODS) {
        let covered = ["", "ephemeralcontainers"].contains(&request.attributes.subresource.as_str());
        return covered.then_some("/spec");
    }
    if !request.attributes.subresource.is_empty() {
        return None;
    }
    let resource = (request.resource.group, request.resource.plural);
    TEMPLATES.iter().find(|(group, plural, _)| (*group, *plural) == resource).map(|(.., pointer)| *pointer)
}

/// `PodSecurity "level:version": reasons`, when the spec violates what the namespace asks for in a mode.
fn violations(namespace: &Object, mode: &str, spec: &Value) -> Option<String> {
    let label = |name: &str| {
        let wanted = format!("{LABEL}{name}");
        namespace.meta_pairs("labels").find(|(key, _)| *key == wanted).map(|(_, value)| value)
    };
    let stated = label(mode)?;
    // A level nobody knows is taken for the strictest one, as upstream does.
    let level = Level::parse(stated).unwrap_or(Level::Restricted);
    let found = checks::run(spec, level);
    if found.is_empty() {
        return None;
    }
    let version = label(&format!("{mode}-version")).unwrap_or("latest");
    Some(format!("PodSecurity \"{}:{version}\": {}", level.name(), found.join(", ")))
}

fn check_labels(namespace: &Object) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    for (key, value) in namespace.meta_pairs("labels") {
        let Some(mode) = key.strip_prefix(LABEL) else { continue };
        let path = Path::new("metadata").child("labels").key(key);
        if ["enforce", "audit", "warn"].contains(&mode) && Level::parse(value).is_none() {
            let detail = "must be one of privileged, baseline, restricted";
            errors.push(FieldError::invalid(&path, value, detail));
        }
        if ["enforce-version", "audit-version", "warn-version"].contains(&mode) && !is_version(value) {
            errors.push(FieldError::invalid(&path, value, "must be \"latest\" or \"v1.x\""));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupName::new("", "Namespace"), namespace.name(), &errors))
}

fn is_version(text: &str) -> bool {
    text == "latest" || text.strip_prefix("v1.").is_some_and(|minor| minor.parse::<u16>().is_ok())
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

#[cfg(test)]
mod tests;
