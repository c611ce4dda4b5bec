//! What is wrong with webhooks; policies beside it.
//!
//! Contract: admissionregistration/v1 `ValidatingWebhook` and `MutatingWebhook`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::kit::{at::At, format, webhook_client},
};

mod matching;
pub(super) mod policies;

/// Versions of reviews that are sent, the preferred one first.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const HARMLESS: &[&str] = &["None", "NoneOnDryRun"];

/// What webhooks of an old configuration break, which then stays allowed.
#[derive(Clone, Copy, Default)]
struct Allowed {
    side_effects: bool,
    unknown_reviews: bool,
    repeated_names: bool,
    selectors: bool,
    /// Expressions that were compiled once are not compiled again as long as they stay.
    same_conditions: bool,
}

impl Allowed {
    fn by(new: &Object, old: &Object) -> Self {
        let hooks: Vec<At<'_>> = At::field(old, "webhooks").items().collect();
        let harmless = |hook: &At<'_>| HARMLESS.contains(&hook.text_of("sideEffects"));
        let known = |hook: &At<'_>| {
            let versions = hook.get("admissionReviewVersions");
            versions.is_empty() || versions.items().any(|version| REVIEWS.contains(&version.text()))
        };
        let names: BTreeSet<&str> = hooks.iter().map(|hook| hook.text_of("name")).collect();
        let selects =
            |hook: &At<'_>| hook.get("namespaceSelector").selects() && hook.get("objectSelector").selects();
        Self {
            side_effects: !hooks.iter().all(harmless),
            unknown_reviews: !hooks.iter().all(known),
            repeated_names: names.len() != hooks.len(),
            selectors: !hooks.iter().all(selects),
            same_conditions: conditions(new) == conditions(old),
        }
    }
}

fn conditions(obj: &Object) -> Vec<&Value> {
    At::field(obj, "webhooks").items().map(|hook| hook.get("matchConditions").value()).collect()
}

/// New webhooks: they have names of their own, one address each, and no side effects.
pub(super) fn new_webhooks(obj: &Object, errors: &mut ErrorList) {
    webhooks(obj, Allowed::default(), errors);
}

/// Webhooks as they are to become.
pub(super) fn changed_webhooks(new: &Object, old: &Object, errors: &mut ErrorList) {
    webhooks(new, Allowed::by(new, old), errors);
}

fn webhooks(obj: &Object, allowed: Allowed, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for hook in At::field(obj, "webhooks").items() {
        webhook(&hook, allowed, errors);
        check_reviews(&hook.get("admissionReviewVersions"), allowed, errors);
        let name = hook.get("name");
        if !allowed.repeated_names && !name.is_empty() && !names.insert(name.text()) {
            name.duplicate(errors);
        }
    }
}

fn webhook(hook: &At<'_>, allowed: Allowed, errors: &mut ErrorList) {
    let name = hook.get("name");
    if name.check_required(errors) {
        let wrong = format::dns_subdomain(name.text());
        if !wrong.is_empty() {
            name.invalid(errors, wrong.join(","));
        } else if name.text().split('.').count() < 3 {
            name.invalid(errors, "should be a domain with at least three segments separated by dots");
        }
    }
    hook.get("rules").items().for_each(|rule| matching::rule(&rule, errors));
    hook.get("failurePolicy").check_option_of(errors, &["Fail", "Ignore"]);
    hook.get("matchPolicy").check_option_of(errors, &["Equivalent", "Exact"]);
    let known: &[&str] =
        if allowed.side_effects { &["None", "NoneOnDryRun", "Some", "Unknown"] } else { HARMLESS };
    let effects = hook.get("sideEffects");
    if effects.is_set() {
        effects.check_option_of(errors, known);
    } else {
        effects.required(errors, format!("must specify one of {}", known.join(", ")));
    }
    let timeout = hook.get("timeoutSeconds");
    if timeout.is_set() && !(1..=30).contains(&timeout.int()) {
        timeout.invalid(errors, "the timeout value must be between 1 and 30 seconds");
    }
    for selector in ["namespaceSelector", "objectSelector"] {
        hook.get(selector).check_selector_after(allowed.selectors, errors);
    }
    hook.get("reinvocationPolicy").check_option_of(errors, &["IfNeeded", "Never"]);
    webhook_client::check(&hook.get("clientConfig"), errors);
    if !allowed.same_conditions {
        matching::conditions(&hook.get("matchConditions"), false, errors);
    }
}

/// Versions of reviews a webhook understands, one of those that are sent among them.
fn check_reviews(versions: &At<'_>, allowed: Allowed, errors: &mut ErrorList) {
    if versions.is_empty() {
        return versions.required(errors, format!("must specify one of {}", REVIEWS.join(", ")));
    }
    let mut seen = BTreeSet::new();
    for version in versions.items() {
        if seen.insert(version.text()) {
            version.check_format(errors, format::dns_1035_label);
        } else {
            version.invalid(errors, "duplicate version");
        }
    }
    if !allowed.unknown_reviews && !REVIEWS.iter().any(|known| seen.contains(known)) {
        versions.invalid(errors, format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::registry::testing::Kind;

    fn kind() -> Kind {
        Kind::new("admissionregistration.k8s.io", "validatingwebhookconfigurations")
    }

    fn good() -> Value {
        json!({"name": "a.b.c", "sideEffects": "None", "clientConfig": {"url": "https://x"},
            "admissionReviewVersions": ["v1"]})
    }

    #[test]
    fn webhooks_are_named_and_reached() {
        assert_eq!(kind().errors(json!({"webhooks": [good()]})), Vec::<String>::new());
        assert_eq!(
            kind().errors(json!({"webhooks": [{"name": "a.b", "timeoutSeconds": 31, "clientConfig": {}}]})),
            [
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ]
        );
    }

    #[test]
    fn rules_do_not_say_all_and_some() {
        let rule = json!({"operations": ["*", "GET"], "apiGroups": [""], "apiVersions": [""],
            "resources": ["pods/*", "pods/log", "*", "nodes"], "scope": "All"});
        let mut hook = good();
        hook["rules"] = json!([rule]);
        let at = "webhooks[0].rules[0]";
        assert_eq!(
            kind().errors(json!({"webhooks": [hook]})),
            [
                format!(
                    "{at}.operations: Invalid value: [\"*\",\"GET\"]: if '*' is present, must not specify other operations"
                ),
                format!(
                    "{at}.operations[1]: Unsupported value: \"GET\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\""
                ),
                format!("{at}.apiVersions[0]: Required value"),
                format!(
                    "{at}.resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log"
                ),
                format!(
                    "{at}.resources: Invalid value: [\"pods/*\",\"pods/log\",\"*\",\"nodes\"]: if '*' is present, must not specify other resources without subresources"
                ),
                format!(
                    "{at}.scope: Unsupported value: \"All\": supported values: \"*\", \"Cluster\", \"Namespaced\""
                ),
            ]
        );
    }

    #[test]
    fn what_old_webhooks_break_stays_allowed() {
        let mut old = good();
        old["sideEffects"] = json!("Some");
        let old = kind().defaulted(json!({"metadata": {"name": "h"}, "webhooks": [old]}));
        assert_eq!(kind().update(old.clone(), old, "").1, Vec::<String>::new());
    }

    #[test]
    fn webhooks_stand_at_urls_that_can_be_read() {
        const FORM: &str = "; desired format: https://host[/path]";
        let at = "webhooks[0].clientConfig.url";
        let cases = [
            ("HTTPS://host:8443/path", String::new()),
            (
                "http://host",
                format!("{at}: Invalid value: \"http\": 'https' is the only allowed URL scheme{FORM}"),
            ),
            ("https:host", format!("{at}: Invalid value: \"\": host must be specified{FORM}")),
            (
                "https://u:p@host",
                format!("{at}: Invalid value: \"u:p\": user information is not permitted in the URL"),
            ),
            ("https://host#f", format!("{at}: Invalid value: \"f\": fragments are not permitted in the URL")),
            (
                "https://host?q",
                format!("{at}: Invalid value: \"q\": query parameters are not permitted in the URL"),
            ),
            (
                "https://host:port",
                format!(
                    "{at}: Required value: url must be a valid URL: parse \"https://host:port\": invalid port \":port\" after host{FORM}"
                ),
            ),
        ];
        for (url, error) in cases {
            let mut hook = good();
            hook["clientConfig"]["url"] = json!(url);
            let expected: Vec<String> = Some(error).filter(|error| !error.is_empty()).into_iter().collect();
            assert_eq!(kind().errors(json!({"webhooks": [hook]})), expected, "{url}");
        }
    }
}
