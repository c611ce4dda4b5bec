//! Roles and bindings through their strategies.

use serde_json::json;

use crate::registry::testing::Kind;

const GROUP: &str = "rbac.authorization.k8s.io";

#[test]
fn rules_are_of_resources_or_of_paths() {
    let role = Kind::new(GROUP, "roles");
    assert!(
        role.errors(json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}))
            .is_empty()
    );
    assert_eq!(
        role.errors(json!({"rules": [{}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]})),
        [
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[0].resources: Required value: resource rules must supply at least one resource",
            "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ]
    );
}

#[test]
fn a_binding_gets_its_groups_and_keeps_its_role() {
    let kind = Kind::new(GROUP, "clusterrolebindings");
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
    let (made, errors) = kind.create(binding.clone());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        (&made["roleRef"]["apiGroup"], &made["subjects"][0]["apiGroup"]),
        (&json!(GROUP), &json!(GROUP))
    );
    assert_eq!(
        kind.change(&binding, &[("/roleRef/name", json!("x"))]),
        [
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"x\"}: \
         cannot change roleRef",
        ]
    );
    assert_eq!(
        kind.errors(
            json!({"roleRef": {"kind": "Role"}, "subjects": [{"kind": "ServiceAccount", "name": "s"}]})
        ),
        [
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            "roleRef.name: Required value",
            "subjects[0].namespace: Required value",
        ]
    );
}
