//! Tokens that a webhook knows: it is sent a TokenReview and says whose they are.
//!
//! Answers are kept for a while, by a digest of the token. Contract: "Webhook Token Authentication"; upstream's
//! `plugin/pkg/authenticator/token/webhook`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    auth::{Authenticator, Credentials, User},
    authn::cache::Cache,
    metrics,
    webhook::kubeconfig::Remote,
};

/// Time of one question.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The authenticator.
pub struct WebhookTokens {
    remote: Remote,
    /// `v1` or `v1beta1`.
    version: &'static str,
    audiences: Vec<String>,
    cache: Cache<[u8; 32], Option<Arc<User>>>,
}

impl WebhookTokens {
    /// Asks `remote`; answers are kept for `ttl`.
    pub fn new(remote: Remote, version: &'static str, audiences: Vec<String>, ttl: Duration) -> Self {
        Self { remote, version, audiences, cache: Cache::new(ttl, ttl) }
    }

    async fn ask(&self, token: &str) -> Result<Option<User>, String> {
        let mut spec = json!({"token": token});
        if !self.audiences.is_empty() {
            spec["audiences"] = json!(self.audiences);
        }
        let review = json!({"kind": "TokenReview", "metadata": {"creationTimestamp": null},
            "apiVersion": format!("authentication.k8s.io/{}", self.version), "spec": spec, "status": {"user": {}}});
        let answer = self.remote.ask(&review, TIMEOUT).await.map_err(|error| error.to_string())?;
        read(&answer, &self.audiences)
    }
}

/// Whose token it is by an answer; `None` for nobody's.
///
/// # Errors
/// What the webhook says went wrong.
pub fn read(answer: &Value, audiences: &[String]) -> Result<Option<User>, String> {
    let status = &answer["status"];
    if status["authenticated"] != true {
        return match status["error"].as_str().filter(|error| !error.is_empty()) {
            Some(error) => Err(error.to_owned()),
            None => Ok(None),
        };
    }
    let texts = |list: &Value| -> Vec<String> {
        let all = list.as_array().into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let granted = texts(&status["audiences"]);
    // A webhook that says nothing of audiences speaks of this server's.
    let is_ours = granted.is_empty() || audiences.is_empty() || granted.iter().any(|a| audiences.contains(a));
    if !is_ours {
        return Ok(None);
    }
    let user = &status["user"];
    let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
    let extra = user["extra"].as_object().into_iter().flatten();
    Ok(Some(User {
        name: text("username"),
        uid: text("uid"),
        groups: texts(&user["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    }))
}

#[async_trait]
impl Authenticator for WebhookTokens {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String> {
        let Some(token) = &credentials.bearer else { return Ok(None) };
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let begun = Instant::now();
        let told = |status: &str| {
            metrics::TOKEN_CACHE.with_label_values(&[status]).inc();
            let duration = metrics::TOKEN_CACHE_DURATION.with_label_values(&[status]);
            duration.observe(begun.elapsed().as_secs_f64());
        };
        if let Some(known) = self.cache.get(&key, begun) {
            told("hit");
            return Ok(known);
        }
        let asking = metrics::Under::way(metrics::TOKEN_FETCHING.with_label_values(&["in_flight"]));
        let asked = self.ask(token).await;
        drop(asking);
        metrics::TOKEN_FETCHES.with_label_values(&[if asked.is_ok() { "ok" } else { "error" }]).inc();
        told("miss");
        let user = asked?.map(Arc::new);
        self.cache.put(key, user.clone(), true, Instant::now());
        Ok(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_tell_users_and_audiences() {
        let of = |status: Value| read(&json!({"status": status}), &["api".to_owned()]);
        let jane = json!({"username": "jane", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}});
        let user = of(json!({"authenticated": true, "user": jane})).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str(), user.groups.len()), ("jane", "7", 1));
        assert_eq!(user.extra["k"], ["v"]);
        let known = |audiences: Value| {
            of(json!({"authenticated": true, "user": jane, "audiences": audiences})).unwrap().is_some()
        };
        assert!(known(json!(["api", "x"])) && known(json!([])) && !known(json!(["x"])));
        assert_eq!(of(json!({"authenticated": false})), Ok(None));
        assert_eq!(of(json!({"error": "bad"})), Err("bad".to_owned()));
    }
}
