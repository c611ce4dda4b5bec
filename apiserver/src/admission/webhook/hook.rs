//! A webhook of a configuration, compiled.

use std::{collections::HashMap, time::Duration};

use component_base::selector::LabelSelector;
use serde_json::Value;

use crate::{expressions::Condition, object::Object, webhook::ClientConfig};

/// One webhook.
#[derive(Debug)]
pub(super) struct Hook {
    /// Its own name, with dots.
    pub(super) name: String,
    /// The configuration's name.
    pub(super) configuration: String,
    /// Unique among all of its kind.
    pub(super) id: String,
    pub(super) rules: Vec<Rule>,
    /// Whether rules mean other versions of the same resource too.
    pub(super) takes_equivalents: bool,
    pub(super) namespaces: Result<LabelSelector, String>,
    pub(super) labels: Result<LabelSelector, String>,
    pub(super) conditions: Vec<Condition>,
    pub(super) ignores_failures: bool,
    /// Whether a dry run has no effects: `sideEffects` of None or NoneOnDryRun.
    pub(super) can_dry_run: bool,
    pub(super) timeout: Duration,
    /// `reinvocationPolicy: IfNeeded`.
    pub(super) if_needed: bool,
    /// The AdmissionReview version it is asked in: the first of its own that this server speaks.
    pub(super) review: Option<&'static str>,
    pub(super) client: Option<ClientConfig>,
}

/// What a webhook or policy wants to see.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::admission) struct Rule {
    pub(super) operations: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) versions: Vec<String>,
    /// `resource` or `resource/subresource`, either may be `*`.
    pub(super) resources: Vec<String>,
    /// Names of objects; none means all.
    pub(super) names: Vec<String>,
    pub(super) scope: Scope,
}

/// `scope` of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::admission) enum Scope {
    /// `*`.
    #[default]
    All,
    /// `Cluster`: namespaces themselves too.
    Cluster,
    /// `Namespaced`.
    Namespaced,
    /// A word this server does not know matches nothing.
    Unknown,
}

impl Hook {
    /// The webhooks of a configuration in their order.
    pub(super) fn all_of(configuration: &Object) -> Vec<Self> {
        let mut seen = HashMap::new();
        let hooks = configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten();
        let one = |hook: &Value| {
            let name = text(hook, "name").to_owned();
            let count: &mut usize = seen.entry(name.clone()).or_default();
            let id = format!("{}/{name}/{count}", configuration.name());
            *count += 1;
            Self::new(hook, name, configuration.name().to_owned(), id)
        };
        hooks.map(one).collect()
    }

    fn new(hook: &Value, name: String, configuration: String, id: String) -> Self {
        let list = |field: &str| hook.get(field).and_then(Value::as_array).into_iter().flatten();
        let known = |version: &Value| ["v1", "v1beta1"].into_iter().find(|known| version == known);
        let seconds = hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10);
        Self {
            rules: list("rules").map(Rule::of).collect(),
            takes_equivalents: text(hook, "matchPolicy") != "Exact",
            namespaces: selector(hook.get("namespaceSelector")),
            labels: selector(hook.get("objectSelector")),
            conditions: Condition::all_of(hook.get("matchConditions"), false),
            ignores_failures: text(hook, "failurePolicy") == "Ignore",
            can_dry_run: matches!(text(hook, "sideEffects"), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(seconds.clamp(1, 30)),
            if_needed: text(hook, "reinvocationPolicy") == "IfNeeded",
            review: list("admissionReviewVersions").find_map(known),
            client: hook.get("clientConfig").and_then(ClientConfig::of),
            name,
            configuration,
            id,
        }
    }
}

impl Rule {
    pub(in crate::admission) fn of(rule: &Value) -> Self {
        let list = |field: &str| -> Vec<String> {
            let all = rule.get(field).and_then(Value::as_array).into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let scope = match text(rule, "scope") {
            "" | "*" => Scope::All,
            "Cluster" => Scope::Cluster,
            "Namespaced" => Scope::Namespaced,
            _ => Scope::Unknown,
        };
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources"),
            names: list("resourceNames"),
            scope,
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A selector; a missing one selects everything, as the default does.
pub(in crate::admission) fn selector(value: Option<&Value>) -> Result<LabelSelector, String> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(LabelSelector::everything()) };
    let api = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    LabelSelector::from_api(Some(&api)).map_err(|e| e.to_string())
}
