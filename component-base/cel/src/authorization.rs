//! The names expressions of authorization and of authentication know: what is asked about, and who somebody is.
//!
//! Contract: "Using matchConditions" of AuthorizationConfiguration and `userValidationRules` of AuthenticationConfiguration;
//! upstream's `authorization/cel` and `authentication/cel`.

use std::sync::{Arc, LazyLock};

use crate::{
    Env, Program, Type,
    schema::{DeclKind, DeclType},
};

fn text() -> DeclType {
    DeclType::simple(DeclKind::String)
}

fn texts() -> DeclType {
    DeclType::list_of(text())
}

/// The spec of a review of access.
static REQUEST: LazyLock<Arc<DeclType>> = LazyLock::new(|| {
    let selector = |name: &str| {
        let requirement = DeclType::object(
            "kubernetes.SelectorRequirement",
            [("key", text()), ("operator", text()), ("values", texts())],
        );
        DeclType::object(name, [("rawSelector", text()), ("requirements", DeclType::list_of(requirement))])
    };
    let resource = DeclType::object(
        "kubernetes.ResourceAttributes",
        [
            ("namespace", text()),
            ("verb", text()),
            ("group", text()),
            ("version", text()),
            ("resource", text()),
            ("subresource", text()),
            ("name", text()),
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes")),
        ],
    );
    let path = DeclType::object("kubernetes.NonResourceAttributes", [("path", text()), ("verb", text())]);
    Arc::new(DeclType::object(
        "kubernetes.SubjectAccessReviewSpec",
        [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
            ("user", text()),
            ("groups", texts()),
            ("extra", DeclType::map_of(texts())),
            ("uid", text()),
        ],
    ))
});

/// Somebody who was authenticated.
static USER: LazyLock<Arc<DeclType>> = LazyLock::new(|| {
    Arc::new(DeclType::object(
        "kubernetes.UserInfo",
        [("username", text()), ("uid", text()), ("groups", texts()), ("extra", DeclType::map_of(texts()))],
    ))
});

/// A condition on `request`.
///
/// # Errors
/// When it does not compile, or is neither true nor false.
pub fn condition(source: &str) -> Result<Program, String> {
    truth(&Env::new().declared("request", &REQUEST), source)
}

/// A rule for `user`.
///
/// # Errors
/// When it does not compile, or is neither true nor false.
pub fn user_rule(source: &str) -> Result<Program, String> {
    truth(&Env::new().declared("user", &USER), source)
}

fn truth(env: &Env, source: &str) -> Result<Program, String> {
    let program = env.compile(source).map_err(|error| format!("compilation failed: {error}"))?;
    match program.result_type() {
        Type::Bool => Ok(program),
        other => Err(format!("must evaluate to bool but got {other}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Value;

    #[test]
    fn conditions_know_what_is_asked_about() {
        let asked = json!({"user": "u", "groups": ["g"], "uid": "", "extra": {}, "resourceAttributes": {
            "namespace": "", "verb": "list", "group": "", "version": "v1", "resource": "pods", "subresource": "", "name": "",
            "fieldSelector": {"requirements": [{"key": "k", "operator": "In", "values": ["v"]}]}}});
        for (source, holds) in [
            ("has(request.resourceAttributes)", true),
            ("has(request.nonResourceAttributes)", false),
            ("request.resourceAttributes.namespace == ''", true),
            ("!('system:serviceaccounts:kube-system' in request.groups)", true),
            ("request.uid == '' && request.extra.size() == 0", true),
            (
                "request.resourceAttributes.fieldSelector.requirements.exists(r, r.key == 'k' && r.values == ['v'])",
                true,
            ),
            ("has(request.resourceAttributes.labelSelector)", false),
        ] {
            let result = condition(source).unwrap().eval(&[("request", Value::json(&asked))]).result;
            assert_eq!(result.unwrap().to_json(), Some(json!(holds)), "{source}");
        }
        for (source, why) in [
            ("request.resourceAttributes.verbs == 'get'", "undefined field 'verbs'"),
            ("request.user", "must evaluate to bool but got string"),
            ("request.groups.size()", "must evaluate to bool but got int"),
            ("object.spec == 1", "undeclared reference to 'object'"),
        ] {
            let told = condition(source).unwrap_err();
            assert!(told.contains(why), "{source}: {told}");
        }
    }

    #[test]
    fn rules_know_who_somebody_is() {
        let user = json!({"username": "u", "uid": "", "groups": [], "extra": {"example.com/k": ["v"]}});
        for (source, holds) in [
            ("!user.username.startsWith('system:')", true),
            ("user.groups.all(group, !group.startsWith('system:'))", true),
            ("user.extra['example.com/k'] == ['w']", false),
        ] {
            let result = user_rule(source).unwrap().eval(&[("user", Value::json(&user))]).result;
            assert_eq!(result.unwrap().to_json(), Some(json!(holds)), "{source}");
        }
        assert!(user_rule("user.name == 'u'").unwrap_err().contains("undefined field 'name'"));
        assert_eq!(user_rule("user.username").unwrap_err(), "must evaluate to bool but got string");
    }
}
