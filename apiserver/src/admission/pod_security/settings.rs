//! PodSecurityConfiguration: what counts in namespaces without labels, and who is exempt.
//!
//! Contract: pod-security.admission.config.k8s.io/v1.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use super::{Level, Policy, Version, label};
use crate::{
    admission::{Configuration, Request},
    object::Object,
    validate,
};

const VERSIONS: &[&str] = &[
    "pod-security.admission.config.k8s.io/v1alpha1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1",
];

/// What is done about a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Enforce,
    Audit,
    Warn,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Enforce, Self::Audit, Self::Warn];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
            Self::Warn => "warn",
        }
    }

    pub(super) const fn version_word(self) -> &'static str {
        match self {
            Self::Enforce => "enforce-version",
            Self::Audit => "audit-version",
            Self::Warn => "warn-version",
        }
    }
}

/// The configuration.
#[derive(Debug)]
pub(super) struct Settings {
    /// By mode, in the order of [`Mode::ALL`].
    defaults: [Policy; 3],
    usernames: Vec<String>,
    pub(super) namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

impl Settings {
    /// Reads the configuration; without one nothing is restricted and nobody exempt.
    pub(super) fn read(configuration: Option<&Configuration>) -> Result<Self, String> {
        let file: Option<File> = configuration
            .map(|one| one.decode(VERSIONS, "PodSecurityConfiguration"))
            .transpose()
            .map_err(|error| error.to_string())?;
        let File { defaults, exemptions } = file.unwrap_or_default();
        let given = [
            (Mode::Enforce, &defaults.enforce, &defaults.enforce_version),
            (Mode::Audit, &defaults.audit, &defaults.audit_version),
            (Mode::Warn, &defaults.warn, &defaults.warn_version),
        ];
        let mut policies = [Policy { level: Level::Privileged, version: Version::Latest }; 3];
        for (policy, (mode, level, version)) in policies.iter_mut().zip(given) {
            *policy = default(mode, level, version)?;
        }
        let Exemptions { usernames, namespaces, runtime_classes } = exemptions;
        check_names("namespaces", &namespaces, |name| validate::dns_label(name, false))?;
        check_names("runtimeClasses", &runtime_classes, |name| validate::dns_subdomain(name, false))?;
        check_names("usernames", &usernames, |name| match name {
            "" => vec!["username must not be empty".to_owned()],
            _ => Vec::new(),
        })?;
        Ok(Self { defaults: policies, usernames, namespaces, runtime_classes })
    }

    /// What counts in a namespace.
    pub(super) fn policy(&self, namespace: &Object, mode: Mode) -> Policy {
        Policy::of(namespace, mode, self.defaults[mode as usize])
    }

    /// Why a write is exempt, if it is.
    pub(super) fn exempts(&self, request: &Request<'_>, spec: &Value) -> Option<&'static str> {
        let names = |list: &[String], name: &str| list.iter().any(|one| one == name);
        let class = spec.get("runtimeClassName").and_then(Value::as_str).unwrap_or_default();
        if names(&self.namespaces, &request.attributes.namespace) {
            Some("namespace")
        } else if names(&self.usernames, &request.attributes.user.name) {
            Some("user")
        } else if !class.is_empty() && names(&self.runtime_classes, class) {
            Some("runtimeClass")
        } else {
            None
        }
    }

    /// What to tell of an exempt namespace that asks for something all the same.
    pub(super) fn ignored(&self, namespace: &Object) -> Option<String> {
        let asked = Mode::ALL.map(|mode| (mode, self.policy(namespace, mode)));
        let restricts = |policy: &Policy| policy.level != Level::Privileged;
        let same = |a: &Policy, b: &Policy| a.level == b.level && (a.version == b.version || !restricts(a));
        let is_default = asked.iter().zip(&self.defaults).all(|((_, policy), default)| same(policy, default));
        if is_default || !asked.iter().any(|(_, policy)| restricts(policy)) {
            return None;
        }
        let labelled = |mode: Mode| {
            [mode.word(), mode.version_word()].iter().any(|name| label(namespace, name).is_some())
        };
        let shown = asked.iter().filter(|(mode, policy)| restricts(policy) && labelled(*mode));
        let shown: Vec<String> = shown.map(|(mode, policy)| format!("{}={policy}", mode.word())).collect();
        Some(format!(
            "namespace {:?} is exempt from Pod Security, and the policy ({}) will be ignored",
            namespace.name(),
            shown.join(", ")
        ))
    }
}

/// The policy of a mode where namespaces say nothing.
fn default(mode: Mode, level: &str, version: &str) -> Result<Policy, String> {
    let parsed_level = if level.is_empty() { Some(Level::Privileged) } else { Level::parse(level) };
    let level = parsed_level.ok_or_else(|| {
        let field = mode.word();
        format!("defaults.{field}: Invalid value: {level:?}: must be one of privileged, baseline, restricted")
    })?;
    let parsed_version = if version.is_empty() { Some(Version::Latest) } else { Version::parse(version) };
    let version = parsed_version.ok_or_else(|| {
        let field = mode.version_word();
        format!("defaults.{field}: Invalid value: {version:?}: must be \"latest\" or \"v1.x\"")
    })?;
    Ok(Policy { level, version })
}

fn check_names(field: &str, names: &[String], errors: impl Fn(&str) -> Vec<String>) -> Result<(), String> {
    let mut seen = HashSet::new();
    for (at, name) in names.iter().enumerate() {
        let wrong = errors(name);
        if !wrong.is_empty() {
            let why = wrong.join(", ");
            return Err(format!("exemptions.{field}[{at}]: Invalid value: {name:?}: {why}"));
        }
        if !seen.insert(name) {
            return Err(format!("exemptions.{field}[{at}]: Duplicate value: {name:?}"));
        }
    }
    Ok(())
}
