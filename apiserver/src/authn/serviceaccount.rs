//! Service account tokens: checks signature, issuer, audience, life time and what the token is bound to.
//!
//! Contract: Kubernetes "Service account tokens", KEP-1205, KEP-4193; upstream
//! `pkg/serviceaccount/{claims,legacy}.go`.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::jwt::{PublicKey, Token};
use crate::{
    audit,
    auth::{Authenticator, Credentials, User},
    metrics,
    objects::{Kind, NODES, Objects, PODS, SECRETS, SERVICE_ACCOUNTS},
};

pub(crate) mod uses;

/// Clock difference forgiven on `exp`, `nbf`, `iat` and deletions, in seconds.
const LEEWAY: i64 = 60;
/// Issuer of tokens in service account secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// Checks service account tokens.
pub struct ServiceAccountTokens {
    issuers: Vec<String>,
    audiences: Vec<String>,
    keys: Vec<PublicKey>,
    lookup: bool,
    objects: Arc<dyn Objects>,
}

/// A token's user, and for which of the wanted audiences it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub user: User,
    /// The intersection of wanted and granted audiences.
    pub audiences: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: OneOrMany,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io", default)]
    kubernetes: Private,
}

#[derive(Debug, Default, Deserialize)]
struct Private {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    serviceaccount: Ref,
    pod: Option<Ref>,
    secret: Option<Ref>,
    node: Option<Ref>,
    /// Seconds since the epoch after which it should have been renewed.
    warnafter: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
struct Ref {
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

#[derive(Debug, Deserialize)]
struct LegacyClaims {
    #[serde(default)]
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default)]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name", default)]
    name: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid", default)]
    uid: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default)]
    secret: String,
}

/// A claim that is one string or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

// === impl ServiceAccountTokens ===

impl ServiceAccountTokens {
    /// Accepts tokens of these issuers signed by these keys; `audiences` are this server's own.
    pub fn new(
        issuers: Vec<String>,
        audiences: Vec<String>,
        keys: Vec<PublicKey>,
        lookup: bool,
        objects: Arc<dyn Objects>,
    ) -> Self {
        Self { issuers, audiences, keys, lookup, objects }
    }

    /// Checks a token for some audiences (empty = this server's) at `now`. `None` = not a token of ours.
    pub async fn verify(
        &self,
        text: &str,
        wanted: &[String],
        now: Timestamp,
    ) -> Result<Option<Verified>, String> {
        let Ok(token) = Token::parse(text) else { return Ok(None) };
        let issuer = token.claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let legacy = issuer == LEGACY_ISSUER;
        if !legacy && !self.issuers.iter().any(|i| i == issuer) {
            return Ok(None);
        }
        token.verify(&self.keys).map_err(|e| e.to_string())?;
        let malformed = |_| "service account token claims are malformed".to_owned();
        if legacy {
            let claims: LegacyClaims = serde_json::from_value(token.claims).map_err(malformed)?;
            let audiences = self.grant(Vec::new(), wanted)?;
            let user = self.legacy(&claims, text, now).await?;
            metrics::LEGACY_TOKENS.inc();
            return Ok(Some(Verified { user, audiences }));
        }
        let claims: Claims = serde_json::from_value(token.claims).map_err(malformed)?;
        let granted = match &claims.aud {
            OneOrMany::One(one) => vec![one.clone()],
            OneOrMany::Many(many) => many.clone(),
        };
        let audiences = self.grant(granted, wanted)?;
        check_times(&claims, now)?;
        let user = self.bound(&claims, now).await?;
        note_age(&claims, now);
        Ok(Some(Verified { user, audiences }))
    }

    fn grant(&self, mut granted: Vec<String>, wanted: &[String]) -> Result<Vec<String>, String> {
        if granted.is_empty() {
            granted.clone_from(&self.audiences);
        }
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        let both: Vec<String> = granted.iter().filter(|a| wanted.contains(a)).cloned().collect();
        if both.is_empty() && !self.audiences.is_empty() {
            let list =
                |all: &[String]| all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" ");
            return Err(format!(
                "token audiences [{}] is invalid for the target audiences [{}]",
                list(&granted),
                list(wanted)
            ));
        }
        Ok(both)
    }

    /// Checks that the account and what the token is bound to still exist.
    async fn bound(&self, claims: &Claims, now: Timestamp) -> Result<User, String> {
        let private = &claims.kubernetes;
        let (namespace, account) = (&private.namespace, &private.serviceaccount);
        let gone = "service account token has been invalidated";
        if claims.sub != username(namespace, &account.name) {
            return Err("service account token subject does not match its claims".to_owned());
        }
        self.alive(SERVICE_ACCOUNTS, namespace, account, "service account", now).await?;
        if let Some(secret) = &private.secret {
            self.alive(SECRETS, namespace, secret, gone, now).await?;
        }
        let mut extra = BTreeMap::new();
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        if !claims.jti.is_empty() {
            put("credential-id", &format!("JTI={}", claims.jti));
        }
        if let Some(pod) = &private.pod {
            self.alive(PODS, namespace, pod, gone, now).await?;
            put("pod-name", &pod.name);
            put("pod-uid", &pod.uid);
        }
        if let Some(node) = &private.node {
            if private.pod.is_none() {
                self.alive(NODES, "", node, gone, now).await?;
            }
            put("node-name", &node.name);
            put("node-uid", &node.uid);
        }
        Ok(user(namespace, &account.name, &account.uid, extra))
    }

    /// The object exists with this uid and was not deleted longer ago than the leeway.
    async fn alive(
        &self,
        kind: Kind,
        namespace: &str,
        of: &Ref,
        gone: &str,
        now: Timestamp,
    ) -> Result<(), String> {
        if !self.lookup {
            return Ok(());
        }
        let mut object = self.objects.get(kind, namespace, &of.name).await.map_err(|s| s.message)?;
        if object.is_none() {
            // A token may be used right after its pod was made, before the cache has seen the pod.
            object = self.objects.get_latest(kind, namespace, &of.name).await.map_err(|s| s.message)?;
        }
        let Some(object) = object else {
            return Err(match kind {
                SERVICE_ACCOUNTS => format!("serviceaccounts \"{}\" not found", of.name),
                _ => gone.to_owned(),
            });
        };
        if object.uid() != of.uid {
            return Err(format!(
                "{} UID ({}) does not match claim ({})",
                kind.resource,
                object.uid(),
                of.uid
            ));
        }
        match object.deletion_timestamp() {
            Some(at) if at.as_second() < now.as_second() - LEEWAY => Err(gone.to_owned()),
            _ => Ok(()),
        }
    }

    /// A token kept in a secret of type kubernetes.io/service-account-token.
    async fn legacy(&self, claims: &LegacyClaims, text: &str, now: Timestamp) -> Result<User, String> {
        if claims.namespace.is_empty()
            || claims.name.is_empty()
            || claims.uid.is_empty()
            || claims.secret.is_empty()
        {
            return Err("legacy service account token lacks a claim".to_owned());
        }
        if claims.sub != username(&claims.namespace, &claims.name) {
            return Err("service account token subject does not match its claims".to_owned());
        }
        let mut used = None;
        if self.lookup {
            let found = self.objects.get(SECRETS, &claims.namespace, &claims.secret).await;
            let secret = found.map_err(|s| s.message)?.filter(|s| !s.is_terminating());
            let stored = secret.as_ref().and_then(|s| s.get("data")?.get("token")?.as_str());
            let ours = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
            if stored != Some(ours.as_str()) {
                return Err("service account token has been invalidated".to_owned());
            }
            used = secret;
        }
        let account = Ref { name: claims.name.clone(), uid: claims.uid.clone() };
        self.alive(SERVICE_ACCOUNTS, &claims.namespace, &account, "service account has been deleted", now)
            .await?;
        if let Some(secret) = used {
            let account = self.objects.get(SERVICE_ACCOUNTS, &claims.namespace, &claims.name).await;
            if let Some(account) = account.map_err(|s| s.message)? {
                uses::note(&*self.objects, &secret, &account, now).await?;
            }
        }
        Ok(user(&claims.namespace, &claims.name, &claims.uid, BTreeMap::new()))
    }
}

#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String> {
        match &credentials.bearer {
            None => Ok(None),
            Some(token) => Ok(self.verify(token, &[], Timestamp::now()).await?.map(|v| Arc::new(v.user))),
        }
    }
}

fn check_times(claims: &Claims, now: Timestamp) -> Result<(), String> {
    let now = now.as_second() as f64;
    let leeway = LEEWAY as f64;
    match claims {
        Claims { exp: None, .. } => Err("service account token has no expiration".to_owned()),
        Claims { exp: Some(exp), .. } if now - leeway > *exp => {
            Err("service account token has expired".to_owned())
        }
        Claims { nbf: Some(nbf), .. } if now + leeway < *nbf => {
            Err("service account token is not valid yet".to_owned())
        }
        Claims { iat: Some(iat), .. } if now + leeway < *iat => {
            Err("service account token is issued in the future".to_owned())
        }
        _ => Ok(()),
    }
}

/// Tells audit and metrics of a token that lives on only because its user has not renewed it.
fn note_age(claims: &Claims, now: Timestamp) {
    let Some(due) = claims.kubernetes.warnafter.filter(|due| *due != 0) else { return };
    let late = now.as_second() - due;
    if late <= 0 {
        return metrics::VALID_TOKENS.inc();
    }
    metrics::STALE_TOKENS.inc();
    let told = format!("subject: {}, seconds after warning threshold: {late}", claims.sub);
    audit::annotate("authentication.k8s.io/stale-token", told);
}

/// `system:serviceaccount:<namespace>:<name>`.
pub fn username(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Namespace and name of a service account's user name.
pub fn split_username(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?
        .split_once(':')
        .filter(|(ns, n)| !ns.is_empty() && !n.is_empty() && !n.contains(':'))
}

fn user(namespace: &str, name: &str, uid: &str, extra: BTreeMap<String, Vec<String>>) -> User {
    User {
        name: username(namespace, name),
        uid: uid.to_owned(),
        groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
        extra,
    }
}

#[cfg(test)]
mod tests;
