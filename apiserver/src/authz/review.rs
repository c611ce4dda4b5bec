//! Subject access reviews: asks the authorizer on behalf of a client.
//!
//! Contract: authorization.k8s.io/v1; upstream `pkg/registry/authorization`.

use std::sync::Arc;

use api_rules::{at::At, format, items, shape};
use component_base::selector::{FieldRequirement, Operator, Requirement};
use serde_json::{Value, json};

use crate::{
    auth::{Attributes, Authorizer, Decision, Selected, User},
    field::ErrorList,
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
    check(&review, which)?;
    let user = match which {
        Review::Own(user) => user.clone(),
        _ => subject(&spec),
    };
    let attributes = attributes(&spec, Arc::new(user));
    let mut wrong = Vec::new();
    let mut status = match authorizer.authorize(&attributes).await {
        Decision::Allow(reason) => with_reason(json!({"allowed": true}), reason),
        Decision::Deny(reason) => with_reason(json!({"allowed": false, "denied": true}), reason),
        Decision::NoOpinion(reason) => with_reason(json!({"allowed": false}), reason),
        Decision::Failed { denied, reason, error } => {
            wrong.push(error);
            let status =
                if denied { json!({"allowed": false, "denied": true}) } else { json!({"allowed": false}) };
            with_reason(status, reason)
        }
    };
    wrong.extend(Some(unread(&attributes)).filter(|unread| !unread.is_empty()));
    if !wrong.is_empty() {
        status["evaluationError"] = wrong.join("; ").into();
    }
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
    // What was asked is not said again.
    review.set("metadata", json!({}));
    review.set("spec", json!({}));
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

/// Exactly one of the two kinds of attributes, somebody to ask about, selectors that say something, and nothing else.
fn check(review: &Object, which: Review<'_>) -> Result<(), Status> {
    let spec = At::spec(review);
    let mut errors = ErrorList::new();
    let (resource, path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    match (resource.is_set(), path.is_set()) {
        (true, true) => path.invalid_go(
            &mut errors,
            &shape::NON_RESOURCE_ATTRIBUTES,
            "cannot be specified in combination with resourceAttributes",
        ),
        (false, false) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            resource.invalid_as(&mut errors, Value::Null, why);
        }
        _ => {}
    }
    let nobody = spec.get("user").is_empty() && spec.get("groups").is_empty();
    if !matches!(which, Review::Own(_)) && nobody {
        let why = "at least one of user or group must be specified";
        spec.get("user").invalid_as(&mut errors, "", why);
    }
    check_selector(&resource.get("fieldSelector"), check_field, &mut errors);
    check_selector(&resource.get("labelSelector"), check_label, &mut errors);
    check_metadata(review, which, &mut errors);
    if let Review::Local(namespace) = which {
        let stated = resource.text_of("namespace");
        if resource.is_set() && stated != namespace {
            resource.get("namespace").invalid_as(&mut errors, stated, "must match metadata.namespace");
        }
        if path.is_set() {
            path.invalid_go(
                &mut errors,
                &shape::NON_RESOURCE_ATTRIBUTES,
                "disallowed on this kind of request",
            );
        }
    }
    // Reviews are no objects that have a kind by the time upstream looks at them.
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&GroupName::new(GROUP, ""), "", &errors)) }
}

fn check_metadata(review: &Object, which: Review<'_>, errors: &mut ErrorList) {
    let metadata = At::field(review, "metadata");
    let namespace = matches!(which, Review::Local(_));
    let says = |(field, value): (&str, At<'_>)| {
        !(value.is_empty() || field == "managedFields" || namespace && field == "namespace")
    };
    if metadata.entries().any(says) {
        let why = if namespace { "must be empty except for namespace" } else { "must be empty" };
        metadata.invalid_go(errors, &shape::OBJECT_META, why);
    }
}

/// A text or requirements, not both.
fn check_selector(selector: &At<'_>, check: fn(&At<'_>, &mut ErrorList), errors: &mut ErrorList) {
    if !selector.is_set() {
        return;
    }
    let (raw, requirements) = (selector.get("rawSelector"), selector.get("requirements"));
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => raw.invalid(errors, "may not specified at the same time as requirements"),
        (true, true) => {
            let path = selector.path();
            requirements.required(
                errors,
                format!("when {path} is specified, requirements or rawSelector is required"),
            );
        }
        _ => {}
    }
    requirements.items().for_each(|one| check(&one, errors));
}

/// Operators nobody knows yet are those of newer clients.
fn check_values(one: &At<'_>, errors: &mut ErrorList) {
    let values = one.get("values");
    match one.text_of("operator") {
        "In" | "NotIn" if values.is_empty() => {
            values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            values.forbidden(errors, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        _ => {}
    }
}

fn check_field(one: &At<'_>, errors: &mut ErrorList) {
    if one.get("key").is_empty() {
        one.get("key").required(errors, "must be specified");
    }
    check_values(one, errors);
}

fn check_label(one: &At<'_>, errors: &mut ErrorList) {
    check_values(one, errors);
    one.get("key").check_format(errors, format::qualified_name);
    one.get("values").items().for_each(|value| value.check_format(errors, format::label_value));
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
        extra: extra.map(|(k, v)| (k.clone(), strings(v))).collect(),
    }
}

fn attributes(spec: &Value, user: Arc<User>) -> Attributes {
    let (from, is_resource) = match spec.get("resourceAttributes").filter(|v| v.is_object()) {
        Some(attributes) => (attributes, true),
        None => (&spec["nonResourceAttributes"], false),
    };
    let text = |field: &str| from.get(field).and_then(Value::as_str).unwrap_or_default();
    let version = match text("version") {
        "" if is_resource => "*",
        version => version,
    };
    Attributes {
        user,
        verb: text("verb").into(),
        namespace: text("namespace").into(),
        group: text("group").into(),
        version: version.into(),
        resource: text("resource").into(),
        subresource: text("subresource").into(),
        name: text("name").into(),
        is_resource,
        path: text("path").to_owned(),
        field_selector: selected(from.get("fieldSelector"), Selected::fields, field_requirement),
        label_selector: selected(from.get("labelSelector"), Selected::labels, label_requirement),
    }
}

/// What a selector of a review asks for, by its text or its requirements.
fn selected<R>(
    selector: Option<&Value>,
    read: fn(&str) -> Selected<R>,
    requirement: fn(&Value) -> Option<R>,
) -> Selected<R> {
    let Some(selector) = selector else { return Selected::default() };
    let requirements = items(selector.get("requirements"));
    let all: Vec<Option<R>> = requirements.map(requirement).collect();
    if all.is_empty() {
        return match text(selector, "/rawSelector") {
            "" => Selected::default(),
            raw => read(raw),
        };
    }
    let unread = all.iter().any(Option::is_none);
    Selected { requirements: all.into_iter().flatten().collect(), unread }
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn values(requirement: &Value) -> Vec<String> {
    items(requirement.get("values")).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Fields are compared with one value.
fn field_requirement(one: &Value) -> Option<FieldRequirement> {
    let equal = match text(one, "/operator") {
        "In" => true,
        "NotIn" => false,
        _ => return None,
    };
    let [value] = values(one).try_into().ok()?;
    Some(FieldRequirement { field: text(one, "/key").to_owned(), equal, value })
}

fn label_requirement(one: &Value) -> Option<Requirement> {
    let operator = match text(one, "/operator") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return None,
    };
    Requirement::new(text(one, "/key"), operator, values(one)).ok()
}

/// What of the selectors no authorizer has seen.
fn unread(attributes: &Attributes) -> String {
    let say = |field: &str, unread: bool, none: bool| {
        let how = if none { "" } else { "partially " };
        unread.then(|| format!("spec.resourceAttributes.{field} {how}ignored due to parse error"))
    };
    let (fields, labels) = (&attributes.field_selector, &attributes.label_selector);
    let said = [
        say("fieldSelector", fields.unread, fields.requirements.is_empty()),
        say("labelSelector", labels.unread, labels.requirements.is_empty()),
    ];
    said.into_iter().flatten().collect::<Vec<_>>().join("; ")
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
    async fn selectors_say_what_is_asked_about() {
        let ask = async |selectors: Value| {
            let mut attributes = json!({"verb": "list", "resource": "pods"});
            let fields = attributes.as_object_mut().unwrap();
            fields.extend(selectors.as_object().unwrap().clone());
            let spec = json!({"user": "ann", "resourceAttributes": attributes});
            let answer = access_review(&Echo, review(spec), Review::Subject).await;
            answer.map(|answer| {
                (
                    answer.pointer("/status/reason").cloned(),
                    answer.pointer("/status/evaluationError").cloned(),
                )
            })
        };
        let requires = |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
        for (selectors, reason, error) in [
            (json!({}), "* | ", None),
            (
                json!({"fieldSelector": {"rawSelector": "a=b,c!=d"}, "labelSelector": {"rawSelector": "e in (f)"}}),
                "* a=b,c!=d | e in (f)",
                None,
            ),
            (
                json!({"fieldSelector": {"requirements": [requires("a", "In", json!(["b"])), requires("c", "NotIn", json!(["d"]))]},
                    "labelSelector": {"requirements": [requires("e", "In", json!(["g", "f"])), requires("h", "Exists", json!([]))]}}),
                "* a=b,c!=d | e in (f,g),h",
                None,
            ),
            (
                json!({"fieldSelector": {"requirements": [requires("a", "In", json!(["b", "c"])), requires("d", "Exists", json!([]))]},
                    "labelSelector": {"requirements": [requires("e", "Exists", json!([])), requires("f", "Newer", json!(["g"]))]}}),
                "* | e",
                Some(
                    "spec.resourceAttributes.fieldSelector ignored due to parse error; \
                      spec.resourceAttributes.labelSelector partially ignored due to parse error",
                ),
            ),
            (
                json!({"fieldSelector": {"rawSelector": "a"}, "version": "v1"}),
                "v1 | ",
                Some("spec.resourceAttributes.fieldSelector ignored due to parse error"),
            ),
        ] {
            let (said, told) = ask(selectors.clone()).await.unwrap();
            assert_eq!(said, Some(json!(reason)), "{selectors}");
            assert_eq!(told, error.map(Value::from), "{selectors}");
        }
        for (selectors, why) in [
            (
                json!({"fieldSelector": {}}),
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when \
                 spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
            ),
            (
                json!({"labelSelector": {"rawSelector": "a", "requirements": [requires("a", "Exists", json!([]))]}}),
                "spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a\": may not specified at the same time as \
                 requirements",
            ),
            (
                json!({"fieldSelector": {"requirements": [requires("", "In", json!([]))]}}),
                "[spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified, \
                 spec.resourceAttributes.fieldSelector.requirements[0].values: Required value: must be specified when \
                 `operator` is 'In' or 'NotIn']",
            ),
            (
                json!({"labelSelector": {"requirements": [requires("a", "DoesNotExist", json!(["b"]))]}}),
                "spec.resourceAttributes.labelSelector.requirements[0].values: Forbidden: may not be specified when \
                 `operator` is 'Exists' or 'DoesNotExist'",
            ),
        ] {
            let told = ask(selectors.clone()).await.unwrap_err().message;
            assert_eq!(told, format!(".authorization.k8s.io \"\" is invalid: {why}"));
        }
    }

    /// Tells as the reason what it was asked about.
    struct Echo;

    #[async_trait::async_trait]
    impl Authorizer for Echo {
        async fn authorize(&self, a: &Attributes) -> Decision {
            let fields = a
                .field_selector
                .requirements
                .iter()
                .map(|one| format!("{}{}{}", one.field, if one.equal { "=" } else { "!=" }, one.value));
            let labels = a.label_selector.requirements.iter().map(ToString::to_string);
            let (fields, labels) =
                (fields.collect::<Vec<_>>().join(","), labels.collect::<Vec<_>>().join(","));
            let version = format!("{} {fields}", a.version);
            Decision::NoOpinion(format!("{} | {labels}", version.trim_end()))
        }
        async fn rules(&self, _: &User, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
            Default::default()
        }
    }

    #[tokio::test]
    async fn reviews_have_no_metadata() {
        let allow = build(&[]).authorizer;
        let spec = json!({"user": "x", "resourceAttributes": {"verb": "get", "namespace": "a"}});
        let of = |metadata: Value| Object::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        let named = access_review(&*allow, of(json!({"name": "n", "labels": {"a": "b"}})), Review::Subject)
            .await
            .unwrap_err();
        let why = r#".authorization.k8s.io "" is invalid: metadata: Invalid value: {"name":"n","labels":{"a":"b"}}: must be empty"#;
        assert_eq!(named.message, why);
        for (metadata, which) in [
            (json!({"managedFields": [{"manager": "m"}]}), Review::Subject),
            (json!({"namespace": "a"}), Review::Local("a")),
        ] {
            assert!(access_review(&*allow, of(metadata), which).await.is_ok());
        }
        let local =
            access_review(&*allow, of(json!({"namespace": "a", "name": "n"})), Review::Local("a")).await;
        assert!(local.unwrap_err().message.ends_with("must be empty except for namespace"));
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
