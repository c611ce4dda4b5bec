//! `clusterroles` of rbac.authorization.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Resource,
        kit::{NAME_AND_AGE, Plain, Rules, at::At, path_segment},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        strategy: Arc::new(Rules {
            create_on_update: true,
            name: path_segment,
            validate_over,
            ..Rules::new(Plain { status: false, generation: false, cells: NAME_AND_AGE })
        }),
        ..Resource::of("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", "clusterrole")
    }
}

fn validate_over(obj: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    super::check_rules(obj, false, errors);
    let rule = At::field(obj, "aggregationRule");
    let selectors = rule.get("clusterRoleSelectors");
    if rule.is_set() && selectors.is_empty() {
        selectors.required(errors, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    let broken = old.is_some_and(|old| {
        let before = At::field(old, "aggregationRule").get("clusterRoleSelectors");
        before.items().any(|selector| !selector.selects())
    });
    for selector in selectors.items() {
        selector.check_selector_after(broken, errors);
        if !selector.selects() {
            selector.invalid_as(errors, serde_json::Value::Null, "invalid label selector.");
        }
    }
}
