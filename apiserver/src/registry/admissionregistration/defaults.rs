//! Defaults the kinds of this group share.

use serde_json::json;

use crate::{
    object::Object,
    registry::kit::fill::{self, Fields},
};

/// Webhooks fail closed within ten seconds; mutating ones are not called again.
pub(super) fn webhooks(obj: &mut Object, mutating: bool) {
    for webhook in fill::members(obj.as_map_mut(), "webhooks") {
        fill::absent(webhook, "failurePolicy", "Fail");
        fill::missing(webhook, "timeoutSeconds", 10);
        selection(webhook);
        if mutating {
            fill::absent(webhook, "reinvocationPolicy", "Never");
        }
        fill::members(webhook, "rules").for_each(scope);
        if let Some(service) = fill::child(webhook, "clientConfig").and_then(|c| fill::child(c, "service")) {
            fill::missing(service, "port", 443);
        }
    }
}

/// What a policy or a binding matches.
pub(super) fn match_resources(matched: &mut Fields) {
    selection(matched);
    for rules in ["resourceRules", "excludeResourceRules"] {
        fill::members(matched, rules).for_each(scope);
    }
}

fn selection(object: &mut Fields) {
    fill::absent(object, "matchPolicy", "Equivalent");
    fill::missing(object, "namespaceSelector", json!({}));
    fill::missing(object, "objectSelector", json!({}));
}

fn scope(rule: &mut Fields) {
    fill::absent(rule, "scope", "*");
}
