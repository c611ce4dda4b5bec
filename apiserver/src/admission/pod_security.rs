//! PodSecurity: the Pod Security Standards, asked for by labels of the namespace.
//!
//! `enforce` refuses pods, `warn` warns the client and `audit` notes it, both also about templates of workloads; each by
//! the rules of the release its version label names. Contract: Kubernetes "Pod Security Admission",
//! "Pod Security Standards"; upstream `pod-security-admission`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use serde_json::Value;

use self::settings::{Mode, Settings};
use super::{Configuration, Parts, Plugin, Request};
use crate::{
    audit,
    field::{Error as FieldError, ErrorList, Path},
    object::Object,
    objects::{NAMESPACES, Objects, PODS},
    status::{GroupName, Status},
};

mod checks;
mod metrics;
mod settings;

pub(super) const NAME: &str = "PodSecurity";

const LABEL: &str = "pod-security.kubernetes.io/";
/// Pods looked at when a namespace becomes stricter.
const MAX_PODS: usize = 3000;
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
    settings: Settings,
}

pub(super) fn new(parts: &Parts, configuration: Option<&Configuration>) -> Result<Arc<dyn Plugin>, String> {
    let settings = Settings::read(configuration)?;
    Ok(Arc::new(PodSecurity { objects: parts.objects.clone(), settings }))
}

#[async_trait]
impl Plugin for PodSecurity {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        if request.is(NAMESPACES) {
            check_labels(object, request.old)?;
            return self.look_at_pods(request).await;
        }
        let Some(pointer) = spec_pointer(request) else { return Ok(()) };
        let Some(spec) = object.pointer(pointer) else { return Ok(()) };
        if let Some(exempt) = self.settings.exempts(request, spec) {
            metrics::exempt(request);
            audit::annotate(&format!("{LABEL}exempt"), exempt.to_owned());
            return Ok(());
        }
        if request.old.and_then(|old| old.pointer(pointer)) == Some(spec) {
            return Ok(());
        }
        let namespace = self.objects.get(NAMESPACES, "", &request.attributes.namespace).await;
        let namespace = namespace.inspect_err(|_| metrics::failed(request, true))?;
        let Some(namespace) = namespace else { return Ok(()) };
        let wrong = wrong_labels(&namespace);
        if !wrong.is_empty() {
            let why: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            audit::annotate(&format!("{LABEL}error"), format!("Failed to parse policy: {}", why.join(", ")));
            metrics::failed(request, false);
        }
        let mut refusal = None;
        if request.is_any(PODS) {
            let policy = self.settings.policy(&namespace, Mode::Enforce);
            audit::annotate(&format!("{LABEL}enforce-policy"), policy.to_string());
            let found = policy.violations(spec);
            metrics::evaluated(request, Mode::Enforce, policy, found.is_none());
            refusal = found.map(|found| request.forbid(format!("violates {found}")));
        }
        let policy = self.settings.policy(&namespace, Mode::Audit);
        if let Some(found) = policy.violations(spec) {
            audit::annotate(&format!("{LABEL}audit-violations"), format!("would violate {found}"));
            metrics::evaluated(request, Mode::Audit, policy, false);
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let policy = self.settings.policy(&namespace, Mode::Warn);
        if let Some(found) = policy.violations(spec) {
            metrics::evaluated(request, Mode::Warn, policy, false);
            request.warnings.push(format!("would violate {found}"));
        }
        Ok(())
    }
}

impl PodSecurity {
    /// Tells whoever makes a namespace stricter which pods would not be let in any more, or that nothing comes of it.
    async fn look_at_pods(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(new) = request.object.as_deref() else { return Ok(()) };
        let exempt = self.settings.namespaces.iter().any(|name| name == new.name());
        let Some(old) = request.old else {
            request.warnings.extend(exempt.then(|| self.settings.ignored(new)).flatten());
            return Ok(());
        };
        let of = |namespace| self.settings.policy(namespace, Mode::Enforce);
        let (policy, before) = (of(new), of(old));
        let relaxed = policy.version == before.version && policy.level <= before.level;
        if relaxed || policy.level == Level::Privileged {
            return Ok(());
        }
        if exempt {
            request.warnings.extend(self.settings.ignored(new));
            return Ok(());
        }
        let name = new.name().to_owned();
        let pods = self.objects.list(PODS, Some(&name)).await?;
        request.warnings.extend(policy.warnings(&name, &pods));
        Ok(())
    }
}

/// What a namespace asks for in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    version: Version,
}

/// The value of a label of a namespace, by its name below [`LABEL`].
fn label<'n>(namespace: &'n Object, name: &str) -> Option<&'n str> {
    let mut labels = namespace.meta_pairs("labels");
    labels.find(|(key, _)| key.strip_prefix(LABEL) == Some(name)).map(|(_, value)| value)
}

/// Whose rules count: a minor release's, or today's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Minor(u16),
    Latest,
}

impl Policy {
    /// What a namespace asks for, and `default` where it does not.
    fn of(namespace: &Object, mode: Mode, default: Self) -> Self {
        // A level nobody knows is taken for the strictest one, a version nobody knows for the latest, as upstream does.
        let level = label(namespace, mode.word())
            .map_or(default.level, |text| Level::parse(text).unwrap_or(Level::Restricted));
        let version = label(namespace, mode.version_word())
            .map_or(default.version, |text| Version::parse(text).unwrap_or(Version::Latest));
        Self { level, version }
    }

    /// `PodSecurity "level:version": reasons`, when a spec violates it.
    fn violations(self, spec: &Value) -> Option<String> {
        let found = checks::run(spec, self.level, self.version);
        (!found.is_empty()).then(|| format!("PodSecurity \"{self}\": {}", found.join(", ")))
    }

    /// What to say of pods that violate it already.
    fn warnings(self, namespace: &str, pods: &[Arc<Object>]) -> Vec<String> {
        // Every violation is a reason with its details in brackets; only reasons count here.
        let reasons = |pod: &Object| -> Vec<String> {
            let spec = pod.get("spec").unwrap_or(&Value::Null);
            let found = checks::run(spec, self.level, self.version);
            found.iter().map(|one| one.split(" (").next().unwrap_or_default().to_owned()).collect()
        };
        let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for pod in pods.iter().take(MAX_PODS) {
            let reasons = reasons(pod);
            if !reasons.is_empty() {
                by_reason.entry(reasons.join(", ")).or_default().push(pod.name());
            }
        }
        let mut all = Vec::new();
        if pods.len() > MAX_PODS {
            all.push(format!(
                "new PodSecurity enforce level only checked against the first {MAX_PODS} of {} existing pods",
                pods.len()
            ));
        }
        if !by_reason.is_empty() {
            all.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{self}\""
            ));
        }
        let mut of_pods: Vec<String> = by_reason
            .into_iter()
            .map(|(reason, names)| {
                let first = names.iter().min().copied().unwrap_or_default();
                match names.len() {
                    1 => format!("{first}: {reason}"),
                    2 => format!("{first} (and 1 other pod): {reason}"),
                    many => format!("{first} (and {} other pods): {reason}", many - 1),
                }
            })
            .collect();
        of_pods.sort_unstable();
        all.extend(of_pods);
        all
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Latest => write!(f, "{}:latest", self.level.name()),
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level.name()),
        }
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "latest" => Some(Self::Latest),
            text => text.strip_prefix("v1.")?.parse().ok().map(Self::Minor),
        }
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

/// Refuses labels that mean nothing, unless they were there before.
fn check_labels(namespace: &Object, old: Option<&Object>) -> Result<(), Status> {
    let wrong = wrong_labels(namespace);
    if wrong.is_empty() || old.is_some_and(|old| bad_pairs(old) == bad_pairs(namespace)) {
        return Ok(());
    }
    Err(Status::invalid(&GroupName::new("", "Namespace"), namespace.name(), &wrong))
}

/// The labels that mean nothing.
fn bad_pairs(namespace: &Object) -> Vec<(&str, &str)> {
    let is_bad = |(key, value): &(&str, &str)| match key.strip_prefix(LABEL) {
        Some("enforce" | "audit" | "warn") => Level::parse(value).is_none(),
        Some("enforce-version" | "audit-version" | "warn-version") => Version::parse(value).is_none(),
        _ => false,
    };
    namespace.meta_pairs("labels").filter(is_bad).collect()
}

fn wrong_labels(namespace: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in bad_pairs(namespace) {
        let path = Path::new("metadata").child("labels").key(key);
        let detail = match key.ends_with("-version") {
            true => "must be \"latest\" or \"v1.x\"",
            false => "must be one of privileged, baseline, restricted",
        };
        errors.push(FieldError::invalid(&path, value, detail));
    }
    errors
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
