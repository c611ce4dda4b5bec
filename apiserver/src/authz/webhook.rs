//! The webhook authorizer: a service is sent a SubjectAccessReview and says whether it may be.
//!
//! Contract: "Webhook Mode" of authorization; upstream's `plugin/pkg/authorizer/webhook`.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use cel_engine::{Env, Program, Type, Value as Cel};
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
    #[error("authorization webhook {0}: matchConditions: compilation failed: {1}")]
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
        let env = Env::new().variable("request", Type::Dyn);
        let compile = |source: &String| {
            env.compile(source).map_err(|e| BuildError::Condition(options.name.clone(), e.to_string()))
        };
        let conditions = options.conditions.iter().map(compile).collect::<Result<_, _>>()?;
        let remote = Remote::load(&options.kubeconfig, "authorization", route)?;
        let cache = Cache::new(options.allowed_ttl, options.denied_ttl);
        Ok(Self { options, remote, conditions, cache })
    }

    fn failed(&self, why: &str) -> Decision {
        tracing::warn!(webhook = self.options.name, why, "failed to make webhook authorizer request");
        match self.options.fails_closed {
            true => Decision::Deny(format!("webhook authorizer {:?} failed", self.options.name)),
            false => Decision::NoOpinion(String::new()),
        }
    }

    /// Whether the conditions let it be asked.
    fn applies(&self, spec: &Value) -> Result<bool, String> {
        let mut failure = None;
        for condition in &self.conditions {
            match condition.eval(&[("request", Cel::json(spec))]).result {
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
    for (field, selector) in
        [("fieldSelector", &attributes.field_selector), ("labelSelector", &attributes.label_selector)]
    {
        if !selector.is_empty() {
            resource[field] = json!({"rawSelector": selector});
        }
    }
    spec["resourceAttributes"] = resource;
    spec
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
            Err(why) => return self.failed(&why),
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
            Err(error) => self.failed(&error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::User;

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
        let path = Attributes { is_resource: false, path: "/x".to_owned(), ..attributes };
        assert_eq!(spec(&path)["nonResourceAttributes"], json!({"path": "/x", "verb": "get"}));
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
