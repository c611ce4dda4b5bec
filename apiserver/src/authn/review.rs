//! TokenReview and SelfSubjectReview: what the server knows of a token, and of the asker.
//!
//! Contract: authentication.k8s.io/v1; upstream `pkg/registry/authentication`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Authentication;
use crate::{
    auth::{Credentials, User},
    object::Object,
    objects::rfc3339,
    status::Status,
};

impl Authentication {
    /// Fills in `status` of a TokenReview.
    pub async fn token_review(&self, mut review: Object, now: Timestamp) -> Result<Object, Status> {
        let spec = review.get("spec").cloned().unwrap_or_default();
        let token = spec.get("token").and_then(Value::as_str).unwrap_or_default();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences: Vec<String> = match spec.get("audiences").and_then(Value::as_array) {
            Some(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => Vec::new(),
        };
        let audiences = if audiences.is_empty() { self.audiences.clone() } else { audiences };
        let status = match self.review(token, &audiences, now).await {
            Ok(Some((mut user, granted))) => {
                if !user.in_group("system:authenticated") {
                    Arc::make_mut(&mut user).groups.push("system:authenticated".to_owned());
                }
                let mut status = json!({"authenticated": true, "user": user_info(&user)});
                if !granted.is_empty() {
                    status["audiences"] = json!(granted);
                }
                status
            }
            Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
            Err(error) => json!({"user": {}, "error": error}),
        };
        review.set("status", status);
        Ok(review)
    }

    async fn review(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Option<(Arc<User>, Vec<String>)>, String> {
        let mut failure = None;
        if let Some(tokens) = &self.service_accounts {
            match tokens.verify(token, audiences, now).await {
                Ok(Some(verified)) => return Ok(Some((Arc::new(verified.user), verified.audiences))),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        // Tokens of other kinds name no audience: they are good for this server only.
        let granted: Vec<String> = audiences.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
        if granted.is_empty() && !audiences.is_empty() {
            return Ok(None);
        }
        let credentials = Credentials { bearer: Some(token.to_owned()), ..Credentials::default() };
        Ok(self.authenticator.authenticate(&credentials).await?.map(|user| (user, granted)))
    }
}

/// Answers a SelfSubjectReview.
pub fn self_subject_review(mut review: Object, user: &User, now: Timestamp) -> Object {
    review.set_meta_str("creationTimestamp", &rfc3339(now));
    review.set("status", json!({"userInfo": user_info(user)}));
    review
}

/// A user as `authentication.k8s.io/v1 UserInfo`, empty fields left out.
pub fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    for (field, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            info.insert(field.to_owned(), json!(text));
        }
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(info)
}
