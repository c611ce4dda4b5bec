//! Subject access reviews: asks the authorizer on behalf of a client.
//!
//! Contract: authorization.k8s.io/v1; upstream `pkg/registry/authorization`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    auth::{Attributes, Authorizer, Decision, User},
    field::{Error as FieldError, ErrorList, Path},
    object::Object,
    status::{GroupName, Status},
};

const GROUP: &str = "authorization.k8s.io";

/// Which of the reviews about a single action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review<'a> {
    /// SubjectAccessReview: about the user in the spec.
    Subject,
    /// LocalSubjectAccessReview: the same, within the path's namespace.
    Local(&'a str),
    /// SelfSubjectAccessReview: about the asker.
    Own(&'a User),
}

/// Fills in `status` of a Subject-, LocalSubject- or SelfSubjectAccessReview.
pub async fn access_review(
    authorizer: &dyn Authorizer,
    mut review: Object,
    which: Review<'_>,
) -> Result<Object, Status> {
    let spec = review.get("spec").cloned().unwrap_or_else(|| json!({}));
    check(&spec, which)?;
    let user = match which {
        Review::Own(user) => user.clone(),
        _ => subject(&spec),
    };
    let status = match authorizer.authorize(&attributes(&spec, Arc::new(user))).await {
        Decision::Allow(reason) => with_reason(json!({"allowed": true}), reason),
        Decision::Deny(reason) => with_reason(json!({"allowed": false, "denied": true}), reason),
        Decision::NoOpinion(reason) => with_reason(json!({"allowed": false}), reason),
    };
    review.set("status", status);
    Ok(review)
}

/// Fills in `status` of a SelfSubjectRulesReview.
pub async fn rules_review(
    authorizer: &dyn Authorizer,
    mut review: Object,
    user: &User,
) -> Result<Object, Status> {
    let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (resources, paths, incomplete) = authorizer.rules(user, &namespace).await;
    review.set(
        "status",
        json!({
            "resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete,
        }),
    );
    Ok(review)
}

fn with_reason(mut status: Value, reason: String) -> Value {
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    status
}

/// Exactly one of the two kinds of attributes, and somebody to ask about.
fn check(spec: &Value, which: Review<'_>) -> Result<(), Status> {
    let path = Path::new("spec");
    let mut errors = ErrorList::new();
    let has = |field: &str| spec.get(field).is_some_and(Value::is_object);
    match (has("resourceAttributes"), has("nonResourceAttributes")) {
        (true, true) => errors.push(FieldError::invalid(
            &path.child("nonResourceAttributes"),
            spec["nonResourceAttributes"].clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(FieldError::invalid(
            &path.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    let empty = |field: &str| match spec.get(field) {
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        _ => true,
    };
    let kind = match which {
        Review::Own(_) => "SelfSubjectAccessReview",
        Review::Subject => "SubjectAccessReview",
        Review::Local(_) => "LocalSubjectAccessReview",
    };
    if !matches!(which, Review::Own(_)) && empty("user") && empty("groups") {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid(&path.child("user"), "", detail));
    }
    if let Review::Local(namespace) = which {
        let stated =
            spec.pointer("/resourceAttributes/namespace").and_then(Value::as_str).unwrap_or_default();
        if stated != namespace {
            let detail = format!("must match metadata.namespace: {namespace}");
            let path = path.child("resourceAttributes").child("namespace");
            errors.push(FieldError::invalid(&path, stated, detail));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&GroupName::new(GROUP, kind), "", &errors)) }
}

fn subject(spec: &Value) -> User {
    let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let strings = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = spec.get("extra").and_then(Value::as_object).into_iter().flatten();
    User {
        name: text("user"),
        uid: text("uid"),
        groups: spec.get("groups").map(strings).unwrap_or_default(),
        extra: extra.map(|(k, v)| (k.to_lowercase(), strings(v))).collect(),
    }
}

fn attributes(spec: &Value, user: Arc<User>) -> Attributes {
    let (from, is_resource) = match spec.get("resourceAttributes").filter(|v| v.is_object()) {
        Some(attributes) => (attributes, true),
        None => (&spec["nonResourceAttributes"], false),
    };
    let text = |field: &str| from.get(field).and_then(Value::as_str).unwrap_or_default();
    let raw = |selector: &str| {
        let found = from.get(selector).and_then(|s| s.get("rawSelector")).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    Attributes {
        user,
        verb: text("verb").into(),
        namespace: text("namespace").into(),
        group: text("group").into(),
        version: text("version").into(),
        resource: text("resource").into(),
        subresource: text("subresource").into(),
        name: text("name").into(),
        is_resource,
        path: text("path").to_owned(),
        field_selector: raw("fieldSelector"),
        label_selector: raw("labelSelector"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{Mode, build};

    fn review(spec: Value) -> Object {
        Object::from_value(json!({"spec": spec})).unwrap()
    }

    #[tokio::test]
    async fn reviews_ask_about_the_right_user() {
        let deny = build(&[Mode::AlwaysDeny]).authorizer;
        let pods = json!({"resourceAttributes": {"verb": "get", "resource": "pods"}});
        let masters = User::apiserver();
        let own = access_review(&*deny, review(pods.clone()), Review::Own(&masters)).await.unwrap();
        assert_eq!(own.pointer("/status/allowed"), Some(&json!(true)));
        let mut other = pods.clone();
        other["user"] = json!("ann");
        let about = access_review(&*deny, review(other), Review::Subject).await.unwrap();
        assert_eq!(
            about.get("status"),
            Some(&json!({"allowed": false, "reason": "Everything is forbidden."}))
        );
    }

    #[tokio::test]
    async fn incomplete_reviews_are_invalid() {
        let allow = build(&[]).authorizer;
        let resource = json!({"verb": "get", "namespace": "a"});
        for (spec, which) in [
            (json!({"user": "x"}), Review::Subject),
            (json!({"resourceAttributes": resource}), Review::Subject),
            (
                json!({"user": "x", "resourceAttributes": resource, "nonResourceAttributes": {}}),
                Review::Subject,
            ),
            (json!({"user": "x", "resourceAttributes": resource}), Review::Local("b")),
        ] {
            assert_eq!(
                access_review(&*allow, review(spec.clone()), which).await.unwrap_err().code,
                422,
                "{spec}"
            );
        }
        assert_eq!(rules_review(&*allow, review(json!({})), &User::default()).await.unwrap_err().code, 400);
    }
}
