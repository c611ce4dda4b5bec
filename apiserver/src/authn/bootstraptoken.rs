//! Bootstrap tokens: `id.secret` checked against the secret `bootstrap-token-<id>` of kube-system.
//!
//! Contract: Kubernetes "Authenticating with bootstrap tokens"; upstream
//! `plugin/pkg/auth/authenticator/token/bootstrap`.

use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;

use crate::{
    auth::{Authenticator, Credentials, User},
    object::Object,
    objects::{Objects, SECRETS},
};

const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP_PREFIX: &str = "system:bootstrappers:";

/// Looks bootstrap tokens up in kube-system.
pub struct BootstrapTokens {
    objects: Arc<dyn Objects>,
}

impl BootstrapTokens {
    /// Reads secrets through `objects`.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String> {
        let Some((id, secret)) = credentials.bearer.as_deref().and_then(split) else { return Ok(None) };
        let name = format!("bootstrap-token-{id}");
        let found = self.objects.get(SECRETS, "kube-system", &name).await;
        match found {
            Ok(Some(object)) => Ok(user(&object, id, secret, Timestamp::now()).map(Arc::new)),
            Ok(None) => Ok(None),
            Err(status) => Err(status.message),
        }
    }
}

/// Token id and secret of a well-formed token.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let ok = |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (ok(id, 6) && ok(secret, 16)).then_some((id, secret))
}

/// The user of a token, if this secret vouches for it at `now`.
fn user(object: &Object, id: &str, secret: &str, now: Timestamp) -> Option<User> {
    let data = |key: &str| -> Option<String> {
        let encoded = object.get("data")?.get(key)?.as_str()?;
        String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()
    };
    if object.is_terminating() || object.get("type")?.as_str()? != SECRET_TYPE {
        return None;
    }
    verify_slices_are_equal(data("token-secret")?.as_bytes(), secret.as_bytes()).ok()?;
    if data("token-id")? != id || data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    if let Some(expiration) = data("expiration") {
        let expires: Timestamp = expiration.parse().ok()?;
        if expires <= now {
            return None;
        }
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').map(str::trim) {
        match group {
            "" => {}
            g if g.starts_with(GROUP_PREFIX) => groups.push(g.to_owned()),
            _ => return None,
        }
    }
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(change: impl Fn(&mut Value)) -> Object {
        let b64 = |s: &str| BASE64_STANDARD.encode(s);
        let mut value = json!({
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}, "type": SECRET_TYPE,
            "data": {"token-id": b64("abcdef"), "token-secret": b64("0123456789abcdef"),
                "usage-bootstrap-authentication": b64("true"), "expiration": b64("2030-01-01T00:00:00Z"),
                "auth-extra-groups": b64("system:bootstrappers:workers")},
        });
        change(&mut value);
        Object::from_value(value).unwrap()
    }

    #[test]
    fn only_a_valid_secret_vouches() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let b64 = |s: &str| json!(BASE64_STANDARD.encode(s));
        let good = user(&secret(|_| {}), "abcdef", "0123456789abcdef", now).unwrap();
        assert_eq!(good.name, "system:bootstrap:abcdef");
        assert_eq!(good.groups, ["system:bootstrappers", "system:bootstrappers:workers"]);
        type Change = Box<dyn Fn(&mut Value)>;
        let refused: [(&str, Change); 6] = [
            ("type", Box::new(|v| v["type"] = json!("Opaque"))),
            ("secret", Box::new(move |v| v["data"]["token-secret"] = b64("x"))),
            ("expired", Box::new(move |v| v["data"]["expiration"] = b64("2020-01-01T00:00:00Z"))),
            ("garbage date", Box::new(move |v| v["data"]["expiration"] = b64("soon"))),
            ("usage", Box::new(move |v| v["data"]["usage-bootstrap-authentication"] = b64("false"))),
            ("group", Box::new(move |v| v["data"]["auth-extra-groups"] = b64("system:masters"))),
        ];
        for (what, change) in refused {
            assert_eq!(user(&secret(change), "abcdef", "0123456789abcdef", now), None, "{what}");
        }
    }

    #[test]
    fn malformed_tokens_are_not_ours() {
        for token in ["", "abcdef", "abcdef.", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef0"] {
            assert_eq!(split(token), None, "{token}");
        }
    }
}
