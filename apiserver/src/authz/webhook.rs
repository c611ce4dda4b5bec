//! The webhook authorizer: a service is sent a SubjectAccessReview and says whether it may be.
//!
//! Contract: "Webhook Mode" of authorization; upstream's `plugin/pkg/authorizer/webhook`.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use cel_engine::{Program, Value as Cel, authorization};
use component_base::selector::{FieldRequirement, Operator, Requirement};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    auth::{Attributes, Authorizer, Decision},
    authn::cache::Cache,
    egress::Route,
    webhook::kubeconfig::{KubeconfigError, Remote},
};

/// Longer questions are not kept.
const MAX_KEPT: usize = 10_000;

/// How a webhook is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its name, in logs.
    pub name: String,
    /// A kubeconfig that says where it is.
    pub kubeconfig: std::path::PathBuf,
    /// `v1` or `v1beta1`.
    pub version: &'static str,
    /// Time of one question.
    pub timeout: Duration,
    /// How long a yes is kept.
    pub allowed_ttl: Duration,
    /// How long anything else is kept.
    pub denied_ttl: Duration,
    /// Whether failing means no, instead of leaving it to others.
    pub fails_closed: bool,
    /// Expressions over `request` that must be true for it to be asked.
    pub conditions: Vec<String>,
}

/// Why a webhook cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its kubeconfig is of no use.
    #[error("authorization webhook")]
    Kubeconfig(#[from] KubeconfigError),
    /// A condition does not compile.
    #[error("authorization webhook {0}: matchConditions: {1}")]
    Condition(String, String),
}

/// The authorizer.
pub struct WebhookAuthorizer {
    options: Options,
    remote: Remote,
    conditions: Vec<Program>,
    cache: Cache<[u8; 32], Decision>,
}

impl WebhookAuthorizer {
    /// Reads the kubeconfig and compiles the conditions. `route` leads to the webhook.
    ///
    /// # Errors
    /// When one of them is of no use.
    pub fn new(options: Options, route: &Route) -> Result<Self, BuildError> {
        let compile = |source: &String| {
            authorization::condition(source).map_err(|why| BuildError::Condition(options.name.clone(), why))
        };
        let conditions = options.conditions.iter().map(compile).collect::<Result<_, _>>()?;
        let remote = Remote::load(&options.kubeconfig, "authorization", route)?;
        let cache = Cache::new(options.allowed_ttl, options.denied_ttl);
        Ok(Self { options, remote, conditions, cache })
    }

    fn failed(&self, error: String) -> Decision {
        tracing::warn!(webhook = self.options.name, error, "failed to make webhook authorizer request");
        Decision::Failed { denied: self.options.fails_closed, reason: String::new(), error }
    }

    /// Whether the conditions let it be asked.
    fn applies(&self, spec: &Value) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let (mut failure, request) = (None, said_in_full(spec));
        for condition in &self.conditions {
            match condition.eval(&[("request", Cel::json(&request))]).result {
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(Cel::Bool(true)) => {}
                Ok(_) => failure = Some("a condition is neither true nor false".to_owned()),
                Err(error) => failure = Some(error.to_string()),
            }
        }
        failure.map_or(Ok(true), Err)
    }
}

/// The spec of the question.
fn spec(attributes: &Attributes) -> Value {
    let fields = |pairs: &[(&str, &str)]| -> Value {
        let set = pairs.iter().filter(|(_, value)| !value.is_empty());
        Value::Object(set.map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect())
    };
    let user = &attributes.user;
    let mut spec = fields(&[("user", &user.name), ("uid", &user.uid)]);
    if !user.groups.is_empty() {
        spec["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    if !attributes.is_resource {
        spec["nonResourceAttributes"] = fields(&[("path", &attributes.path), ("verb", &attributes.verb)]);
        return spec;
    }
    let mut resource = fields(&[
        ("namespace", &attributes.namespace),
        ("verb", &attributes.verb),
        ("group", &attributes.group),
        ("version", &attributes.version),
        ("resource", &attributes.resource),
        ("subresource", &attributes.subresource),
        ("name", &attributes.name),
    ]);
    let fields: Vec<Value> = attributes.field_selector.requirements.iter().map(of_field).collect();
    let labels: Vec<Value> = attributes.label_selector.requirements.iter().filter_map(of_label).collect();
    for (field, requirements) in [("fieldSelector", fields), ("labelSelector", labels)] {
        if !requirements.is_empty() {
            resource[field] = json!({"requirements": requirements});
        }
    }
    spec["resourceAttributes"] = resource;
    spec
}

/// The spec as conditions see it: what is empty is there as well.
fn said_in_full(spec: &Value) -> Value {
    const RESOURCE: &[&str] = &["namespace", "verb", "group", "version", "resource", "subresource", "name"];
    let fill = |value: &mut Value, names: &[&str]| {
        if let Some(fields) = value.as_object_mut() {
            for name in names {
                fields.entry(*name).or_insert_with(|| "".into());
            }
        }
    };
    let mut request = spec.clone();
    fill(&mut request, &["user", "uid"]);
    if let Some(fields) = request.as_object_mut() {
        fields.entry("groups").or_insert_with(|| json!([]));
        fields.entry("extra").or_insert_with(|| json!({}));
    }
    for (attributes, names) in
        [("resourceAttributes", RESOURCE), ("nonResourceAttributes", &["path", "verb"])]
    {
        if let Some(attributes) = request.get_mut(attributes) {
            fill(attributes, names);
        }
    }
    request
}

/// A field's requirement as reviews have it.
fn of_field(one: &FieldRequirement) -> Value {
    let operator = if one.equal { "In" } else { "NotIn" };
    json!({"key": one.field, "operator": operator, "values": [one.value]})
}

/// A label's requirement as reviews have it; none for comparisons of numbers, which they have no words for.
fn of_label(one: &Requirement) -> Option<Value> {
    let operator = match one.operator() {
        Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
        Operator::NotIn | Operator::NotEquals => "NotIn",
        Operator::Exists => return Some(json!({"key": one.key(), "operator": "Exists"})),
        Operator::DoesNotExist => return Some(json!({"key": one.key(), "operator": "DoesNotExist"})),
        Operator::GreaterThan | Operator::LessThan => return None,
    };
    Some(json!({"key": one.key(), "operator": operator, "values": one.values()}))
}

/// What an answer means.
pub fn read(answer: &Value) -> Decision {
    let status = answer.get("status").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["denied"] == true, status["allowed"] == true) {
        (true, _) => Decision::Deny(reason),
        (false, true) => Decision::Allow(reason),
        (false, false) => Decision::NoOpinion(reason),
    }
}

#[async_trait]
impl Authorizer for WebhookAuthorizer {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let spec = spec(attributes);
        match self.applies(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(why) => return self.failed(why),
        }
        let text = spec.to_string();
        let key: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        if let Some(known) = self.cache.get(&key, Instant::now()) {
            return known;
        }
        let review = json!({"kind": "SubjectAccessReview", "metadata": {"creationTimestamp": null},
            "apiVersion": format!("authorization.k8s.io/{}", self.options.version), "spec": spec,
            "status": {"allowed": false}});
        match self.remote.ask(&review, self.options.timeout).await {
            Ok(answer) => {
                let decision = read(&answer);
                if text.len() < MAX_KEPT {
                    let is_good = matches!(decision, Decision::Allow(_));
                    self.cache.put(key, decision.clone(), is_good, Instant::now());
                }
                decision
            }
            Err(error) => self.failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::{Selected, User};

    #[test]
    fn questions_say_who_wants_what() {
        let user =
            Arc::new(User { name: "jane".to_owned(), groups: vec!["g".to_owned()], ..User::default() });
        let attributes = Attributes {
            user,
            verb: "get".into(),
            resource: "pods".into(),
            namespace: "a".into(),
            is_resource: true,
            ..Attributes::default()
        };
        assert_eq!(
            spec(&attributes),
            json!({"user": "jane", "groups": ["g"],
                "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "a"}})
        );
        let selecting = Attributes {
            verb: "list".into(),
            field_selector: Selected::fields("spec.nodeName=n,status.phase!=Failed"),
            label_selector: Selected::labels("a in (c,b),d,!e,f!=g,h>1"),
            ..attributes.clone()
        };
        assert_eq!(
            spec(&selecting)["resourceAttributes"],
            json!({"verb": "list", "resource": "pods", "namespace": "a",
                "fieldSelector": {"requirements": [
                    {"key": "spec.nodeName", "operator": "In", "values": ["n"]},
                    {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]}]},
                "labelSelector": {"requirements": [
                    {"key": "a", "operator": "In", "values": ["b", "c"]},
                    {"key": "d", "operator": "Exists"},
                    {"key": "e", "operator": "DoesNotExist"},
                    {"key": "f", "operator": "NotIn", "values": ["g"]}]}})
        );
        let unread = Attributes { field_selector: Selected::fields("a"), ..selecting };
        assert!(spec(&unread)["resourceAttributes"].get("fieldSelector").is_none());
        let path = Attributes { is_resource: false, path: "/x".to_owned(), ..attributes };
        assert_eq!(spec(&path)["nonResourceAttributes"], json!({"path": "/x", "verb": "get"}));
    }

    #[test]
    fn conditions_see_what_is_empty_too() {
        let of = |attributes: Attributes| said_in_full(&spec(&attributes));
        let resource = Attributes {
            verb: "list".into(),
            resource: "nodes".into(),
            is_resource: true,
            ..Attributes::default()
        };
        for (condition, attributes) in [
            (
                "request.resourceAttributes.namespace == '' && request.resourceAttributes.subresource == ''",
                resource.clone(),
            ),
            (
                "!('system:masters' in request.groups) && request.uid == '' && request.extra.size() == 0",
                resource.clone(),
            ),
            (
                "!has(request.nonResourceAttributes) && !has(request.resourceAttributes.fieldSelector)",
                resource,
            ),
            ("request.nonResourceAttributes.path == ''", Attributes::default()),
        ] {
            let program = authorization::condition(condition).unwrap();
            let asked = of(attributes);
            let result = program.eval(&[("request", Cel::json(&asked))]).result;
            assert!(matches!(result, Ok(Cel::Bool(true))), "{condition}");
        }
    }

    #[test]
    fn answers_are_three() {
        let of = |status: Value| read(&json!({"status": status}));
        assert_eq!(of(json!({"allowed": true, "reason": "r"})), Decision::Allow("r".to_owned()));
        assert_eq!(of(json!({"allowed": true, "denied": true})), Decision::Deny(String::new()));
        assert_eq!(of(json!({"allowed": false})), Decision::NoOpinion(String::new()));
        assert_eq!(read(&json!({})), Decision::NoOpinion(String::new()));
    }
}
