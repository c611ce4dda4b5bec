//! What roles and bindings allow, and that nobody grants more than they have.

use serde_json::json;

use super::{escalation::Escalation, *};
use crate::{authz::Union, objects::CLUSTER_ROLE_BINDINGS as CRB};

fn rbac() -> Arc<Rbac> {
    let rbac = Rbac::default();
    let put = |kind: Kind, value: Value| rbac.apply(kind, &Object::from_value(value).unwrap());
    let role = |ns: &str, name: &str, rules: Value| json!({"metadata": {"namespace": ns, "name": name}, "rules": rules});
    put(
        CLUSTER_ROLES,
        role(
            "",
            "reader",
            json!([
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
        {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/metrics/*"]}]),
        ),
    );
    put(
        ROLES,
        role(
            "a",
            "named",
            json!([
        {"verbs": ["update"], "apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["web"]}]),
        ),
    );
    put(
        CLUSTER_ROLES,
        role(
            "",
            "stars",
            json!([
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/status"]}]),
        ),
    );
    put(
        CLUSTER_ROLES,
        role(
            "",
            "binder",
            json!([
        {"verbs": ["create"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings"]},
        {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
            "resourceNames": ["reader"]}]),
        ),
    );
    let binding = |ns: &str, name: &str, kind: &str, role: &str, subject: Value| json!({"metadata": {"namespace": ns, "name": name}, "roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
    let group = |name: &str| json!({"kind": "Group", "name": name});
    put(CRB, binding("", "all-devs", "ClusterRole", "reader", group("devs")));
    put(ROLE_BINDINGS, binding("a", "ann", "Role", "named", json!({"kind": "User", "name": "ann"})));
    put(
        ROLE_BINDINGS,
        binding("a", "app", "ClusterRole", "reader", json!({"kind": "ServiceAccount", "name": "app"})),
    );
    put(ROLE_BINDINGS, binding("b", "star", "ClusterRole", "stars", json!({"kind": "User", "name": "ann"})));
    put(CRB, binding("", "dangling", "ClusterRole", "gone", group("ghosts")));
    put(CRB, binding("", "bob", "ClusterRole", "binder", json!({"kind": "User", "name": "bob"})));
    Arc::new(rbac)
}

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..User::default()
    }
}

/// `verb namespace group resource/subresource name`, `-` for empty.
fn ask(user: User, words: &str) -> Attributes {
    let w: Vec<&str> = words.split(' ').map(|w| if w == "-" { "" } else { w }).collect();
    let (resource, subresource) = w[3].split_once('/').unwrap_or((w[3], ""));
    let s = smol_str::SmolStr::new;
    Attributes {
        user: Arc::new(user),
        verb: s(w[0]),
        namespace: s(w[1]),
        group: s(w[2]),
        resource: s(resource),
        subresource: s(subresource),
        name: s(w[4]),
        is_resource: true,
        ..Attributes::default()
    }
}

#[tokio::test]
async fn bindings_allow_what_their_role_says() {
    let rbac = rbac();
    let ann = || user("ann", &[]);
    let dev = || user("eve", &["devs"]);
    let app = || user("system:serviceaccount:a:app", &[]);
    for (who, words, allowed) in [
        (dev(), "get a - pods x", true),
        (dev(), "list - - pods -", true),
        (dev(), "get a - pods/log x", true),
        (dev(), "get a - pods/exec x", false),
        (dev(), "create a - pods -", false),
        (dev(), "get a apps pods x", false),
        (ann(), "update a apps deployments/scale web", true),
        (ann(), "update a apps deployments/scale db", false),
        (ann(), "update a apps deployments web", false),
        (ann(), "update b apps deployments/scale web", false),
        (ann(), "patch b batch jobs/status x", true),
        (ann(), "patch b batch jobs x", false),
        (ann(), "patch - batch jobs/status x", false),
        (app(), "get a - pods x", true),
        (app(), "get b - pods x", false),
        (app(), "list - - pods -", false),
        (user("nobody", &[]), "get a - pods x", false),
    ] {
        let attributes = ask(who, words);
        let decision = rbac.authorize(&attributes).await;
        assert_eq!(matches!(decision, Decision::Allow(_)), allowed, "{} {words}", attributes.user.name);
    }
}

#[tokio::test]
async fn paths_match_whole_or_by_prefix() {
    let rbac = rbac();
    for (path, allowed) in [
        ("/healthz", true),
        ("/healthz/etcd", false),
        ("/metrics/", true),
        ("/metrics/x", true),
        ("/metrics", false),
    ] {
        let attributes = Attributes {
            user: Arc::new(user("eve", &["devs"])),
            verb: "get".into(),
            path: path.to_owned(),
            ..Attributes::default()
        };
        assert_eq!(matches!(rbac.authorize(&attributes).await, Decision::Allow(_)), allowed, "{path}");
    }
}

#[tokio::test]
async fn a_removed_binding_or_role_allows_no_more() {
    let rbac = rbac();
    let attributes = ask(user("eve", &["devs"]), "get a - pods x");
    rbac.remove(CRB, "", "all-devs");
    assert_eq!(rbac.authorize(&attributes).await, Decision::NoOpinion(String::new()));
    let ghost = ask(user("g", &["ghosts"]), "get a - pods x");
    let expected = "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found";
    assert_eq!(rbac.authorize(&ghost).await, Decision::NoOpinion(expected.to_owned()));
}

#[tokio::test]
async fn granting_needs_having() {
    let rbac = rbac();
    let chain: Arc<dyn Authorizer> = Arc::new(Union(vec![rbac.clone()]));
    let escalation = Escalation::new(rbac, chain);
    let role =
        |rules: Value| Object::from_value(json!({"metadata": {"name": "new"}, "rules": rules})).unwrap();
    let binding = |kind: &str, name: &str| {
        Object::from_value(json!({"metadata": {"name": "new"}, "roleRef": {"kind": kind, "name": name}}))
            .unwrap()
    };
    let own = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]}]);
    let more = json!([{"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]}]);
    let dev = || user("eve", &["devs"]);
    let group = "rbac.authorization.k8s.io";
    for (who, resource, object, code) in [
        (dev(), "roles", role(own.clone()), 200),
        (dev(), "roles", role(more.clone()), 403),
        (user("root", &["system:masters"]), "roles", role(more.clone()), 200),
        (dev(), "rolebindings", binding("ClusterRole", "reader"), 200),
        (dev(), "rolebindings", binding("ClusterRole", "stars"), 403),
        (dev(), "rolebindings", binding("ClusterRole", "missing"), 404),
        (dev(), "rolebindings", binding("Role", "named"), 403),
        (user("bob", &[]), "rolebindings", binding("ClusterRole", "reader"), 200),
        (user("bob", &[]), "rolebindings", binding("ClusterRole", "stars"), 403),
    ] {
        let attributes = ask(who, &format!("create a {group} {resource} new"));
        let got = escalation.check(&attributes, &object, None).await.map_or_else(|s| s.code, |()| 200);
        assert_eq!(got, code, "{} {resource} {:?}", attributes.user.name, object);
    }
    let attributes = ask(dev(), &format!("create a {group} roles new"));
    let refused = escalation.check(&attributes, &role(more.clone()), None).await.unwrap_err();
    assert_eq!(
        refused.message,
        "roles.rbac.authorization.k8s.io \"new\" is forbidden: user \"eve\" (groups=[\"devs\"]) is attempting to grant \
         RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
    );
    let mut owned = role(more.clone());
    owned.metadata_mut().insert("finalizers".to_owned(), json!(["x"]));
    assert!(
        escalation.check(&attributes, &owned, Some(&role(more))).await.is_ok(),
        "garbage collection may go on"
    );
}
