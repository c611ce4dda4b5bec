//! The audit policy: which requests are recorded, and how much of them. Evaluation is pure.

use serde::Deserialize;

use super::Stage;
use crate::{
    auth::Attributes,
    field::{Error, ErrorList, Path},
};

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when, with which outcome.
    Metadata,
    /// The object sent besides.
    Request,
    /// The object answered besides.
    RequestResponse,
}

/// A policy file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    #[expect(dead_code, reason = "allowed for, and of no meaning")]
    #[serde(default)]
    metadata: serde_json::Value,
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

/// One rule; the first that matches counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(default)]
    level: String,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the policy says of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    omitted: Vec<String>,
    /// Whether objects are recorded without their managed fields.
    pub(super) omits_managed_fields: bool,
}

impl Level {
    const ALL: [Self; 4] = [Self::None, Self::Metadata, Self::Request, Self::RequestResponse];

    /// As the API spells it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.word() == word)
    }
}

impl Verdict {
    pub(super) fn omits(&self, stage: Stage) -> bool {
        self.omitted.iter().any(|omitted| omitted == stage.word())
    }
}

impl Policy {
    /// What is wrong with it.
    pub(super) fn validate(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        check_stages(&self.omit_stages, &Path::new("omitStages"), &mut errors);
        for (at, rule) in self.rules.iter().enumerate() {
            rule.validate(&Path::new("rules").index(at), &mut errors);
        }
        errors
    }

    /// The first rule that matches, or nothing to record.
    pub(super) fn evaluate(&self, request: &Attributes) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.matches(request));
        let mut omitted = self.omit_stages.clone();
        omitted.extend(rule.into_iter().flat_map(|rule| rule.omit_stages.iter().cloned()));
        Verdict {
            level: rule.and_then(|rule| Level::parse(&rule.level)).unwrap_or_default(),
            omitted,
            omits_managed_fields: rule
                .and_then(|rule| rule.omit_managed_fields)
                .unwrap_or(self.omit_managed_fields),
        }
    }
}

fn check_stages(stages: &[String], path: &Path, errors: &mut ErrorList) {
    for (at, stage) in stages.iter().enumerate() {
        if !Stage::ALL.iter().any(|known| known.word() == stage) {
            let known = Stage::ALL.map(Stage::word).join(",");
            errors.push(Error::invalid(
                &path.index(at),
                stage.clone(),
                format!("allowed stages are {known}"),
            ));
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

impl Rule {
    fn validate(&self, path: &Path, errors: &mut ErrorList) {
        match Level::parse(&self.level) {
            Some(_) => {}
            None if self.level.is_empty() => errors.push(Error::required(&path.child("level"), "")),
            None => {
                let known = Level::ALL.map(Level::word);
                errors.push(Error::not_supported(&path.child("level"), self.level.clone(), &known));
            }
        }
        let urls = path.child("nonResourceURLs");
        for (at, url) in self.urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let mut wrong =
                |why: &'static str| errors.push(Error::invalid(&urls.index(at), url.clone(), why));
            if !url.starts_with('/') {
                wrong("non-resource URL rules must begin with a '/' character");
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                wrong("non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        for one in &self.resources {
            if !one.resource_names.is_empty() && one.resources.is_empty() {
                let path = path.child("resources").child("resourceNames");
                let why = "using resourceNames requires at least one resource";
                errors.push(Error::invalid(&path, one.resource_names.join(","), why));
            }
        }
        check_stages(&self.omit_stages, &path.child("omitStages"), errors);
        let is_of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if !self.urls.is_empty() && is_of_resources {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(Error::invalid(&urls, self.urls.join(","), why));
        }
    }

    fn matches(&self, request: &Attributes) -> bool {
        let user = &request.user;
        let of_user = (self.users.is_empty() || has(&self.users, &user.name))
            && (self.user_groups.is_empty() || user.groups.iter().any(|group| has(&self.user_groups, group)))
            && (self.verbs.is_empty() || has(&self.verbs, &request.verb));
        if !of_user {
            return false;
        }
        if !(self.namespaces.is_empty() && self.resources.is_empty()) {
            return request.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &request.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|one| one.matches(request)));
        }
        let path = request.path.as_str();
        let below = |url: &String| url.strip_suffix('*').is_some_and(|folder| path.starts_with(folder));
        self.urls.is_empty()
            || (!request.is_resource && self.urls.iter().any(|url| url == path || below(url)))
    }
}

impl Resources {
    fn matches(&self, request: &Attributes) -> bool {
        if self.group != "*" && self.group != request.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty() || has(&self.resource_names, &request.name);
        named
            && self.resources.iter().any(|wanted| match wanted.split_once('/') {
                _ if wanted == "*" => true,
                None => request.subresource.is_empty() && *wanted == request.resource,
                Some((resource, "*")) if resource == request.resource => true,
                Some((_, _)) if request.subresource.is_empty() => false,
                Some((resource, sub)) => {
                    sub == request.subresource && (resource == "*" || resource == request.resource)
                }
            })
    }
}
