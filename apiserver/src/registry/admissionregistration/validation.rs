//! What is wrong with webhooks; policies beside it.

use crate::{
    field::ErrorList,
    object::Object,
    registry::kit::{at::At, format},
};

mod matching;
pub(super) mod policies;

/// Webhooks have names of their own, one address each, and no side effects.
pub(super) fn webhooks(obj: &Object, errors: &mut ErrorList) {
    let mut names = Vec::new();
    for hook in At::field(obj, "webhooks").items() {
        webhook(&hook, errors);
        let name = hook.get("name");
        if names.contains(&name.text()) {
            name.duplicate(errors);
        }
        names.push(name.text());
    }
}

fn webhook(hook: &At<'_>, errors: &mut ErrorList) {
    let name = hook.get("name");
    if name.check_required(errors) {
        let wrong = format::dns_subdomain(name.text());
        if !wrong.is_empty() {
            name.invalid(errors, wrong.join(","));
        } else if name.text().split('.').count() < 3 {
            name.invalid(errors, "should be a domain with at least three segments separated by dots");
        }
    }
    hook.get("failurePolicy").check_option_of(errors, &["Fail", "Ignore"]);
    hook.get("matchPolicy").check_option_of(errors, &["Equivalent", "Exact"]);
    let effects = hook.get("sideEffects");
    if effects.is_set() {
        effects.check_option_of(errors, &["None", "NoneOnDryRun"]);
    } else {
        effects.required(errors, "must specify one of None, NoneOnDryRun");
    }
    let timeout = hook.get("timeoutSeconds");
    if timeout.is_set() && !(1..=30).contains(&timeout.int()) {
        timeout.invalid(errors, "the timeout value must be between 1 and 30 seconds");
    }
    hook.get("rules").items().for_each(|rule| matching::rule(&rule, errors));
    matching::conditions(&hook.get("matchConditions"), false, errors);
    hook.get("namespaceSelector").check_selector(errors);
    hook.get("objectSelector").check_selector(errors);
    hook.get("reinvocationPolicy").check_option_of(errors, &["IfNeeded", "Never"]);
    let client = hook.get("clientConfig");
    if client.get("url").is_set() == client.get("service").is_set() {
        client.required(errors, "exactly one of url or service is required");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::registry::testing::Kind;

    #[test]
    fn webhooks_are_named_and_reached() {
        let kind = Kind::new("admissionregistration.k8s.io", "validatingwebhookconfigurations");
        let good = json!({"name": "a.b.c", "sideEffects": "None", "clientConfig": {"url": "https://x"}});
        assert!(kind.errors(json!({"webhooks": [good]})).is_empty());
        assert_eq!(
            kind.errors(json!({"webhooks": [{"name": "a.b", "timeoutSeconds": 31, "clientConfig": {}}]})),
            [
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ]
        );
    }
}
