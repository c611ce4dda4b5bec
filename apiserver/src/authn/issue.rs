//! TokenRequest: issues service account tokens, and publishes the keys others check them with.
//!
//! Serves `serviceaccounts/<name>/token`, `/openid/v1/jwks` and `/.well-known/openid-configuration`.
//! Contract: KEP-1205, KEP-1393, authentication.k8s.io/v1 TokenRequest; upstream
//! `pkg/registry/core/serviceaccount/storage/token.go`.

use std::sync::Arc;

use component_base::features::Gate;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    Options,
    jwt::{PublicKey, SigningKey},
    serviceaccount::username,
};
use crate::{
    audit,
    field::{Error as FieldError, ErrorList, Path},
    object::Object,
    objects::{NODES, Objects, PODS, SECRETS, SERVICE_ACCOUNTS, rfc3339},
    status::{GroupName, Status},
};

/// The shortest life time a request may ask for, in seconds.
const MIN_EXPIRATION: i64 = 10 * 60;
/// The default life time, in seconds.
const DEFAULT_EXPIRATION: i64 = 60 * 60;
/// The life time kubelets ask for: such tokens warn after it and live a year (safe roll-out).
const WARN_ONLY_EXPIRATION: i64 = 60 * 60 + 7;
/// How long such an extended token lives, in seconds.
const EXTENDED_EXPIRATION: i64 = 365 * 24 * 60 * 60;
/// Relative path of the key document.
const JWKS_PATH: &str = "/openid/v1/jwks";

/// Issues tokens with one key and publishes all.
pub struct Issuer {
    key: SigningKey,
    keys: Vec<PublicKey>,
    url: String,
    audiences: Vec<String>,
    max_expiration: i64,
    extend: bool,
    jwks_uri: Option<String>,
    objects: Arc<dyn Objects>,
    /// Whether a request may only name the uid that the account has.
    checks_uid: bool,
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<Value>,
    node: Option<Value>,
    secret: Option<Value>,
}

impl Issuer {
    /// Signs with `key` as issuer `url`; `keys` are published.
    pub fn new(
        key: SigningKey,
        keys: Vec<PublicKey>,
        url: String,
        options: &Options,
        objects: Arc<dyn Objects>,
    ) -> Self {
        let max_expiration = i64::try_from(options.max_token_expiration.as_secs()).unwrap_or(i64::MAX);
        Self {
            key,
            keys,
            url,
            audiences: options.audiences(),
            max_expiration,
            extend: options.extend_token_expiration,
            jwks_uri: options.jwks_uri.clone(),
            objects,
            checks_uid: options.gates.has(Gate::TokenRequestServiceAccountUIDValidation),
        }
    }

    /// Answers a TokenRequest for one service account; warnings go to the client.
    pub async fn request(
        &self,
        namespace: &str,
        name: &str,
        mut request: Object,
        now: Timestamp,
        warnings: &mut Vec<String>,
    ) -> Result<Object, Status> {
        check_names(&request, namespace, name)?;
        let found = self.objects.get_latest(SERVICE_ACCOUNTS, namespace, name).await?;
        let account = found.ok_or_else(|| Status::not_found(&SERVICE_ACCOUNTS.group_name(), name))?;
        if !request.uid().is_empty() && request.uid() != account.uid() {
            let why = format!(
                "the UID in the token request ({}) does not match the UID of the service account ({})",
                request.uid(),
                account.uid()
            );
            if self.checks_uid {
                return Err(Status::conflict(&token_request(), name, &why));
            }
            warnings.push(format!(
                "{why} but TokenRequestServiceAccountUIDValidation is not enabled. In the future, this will return a \
                 conflict error"
            ));
            audit::annotate("authentication.k8s.io/token-request-uid-mismatch", why);
        }
        request.set("apiVersion", "authentication.k8s.io/v1");
        request.set("kind", "TokenRequest");
        request.set_meta_str("name", name);
        request.set_meta_str("namespace", namespace);
        if request.uid().is_empty() {
            request.set_meta_str("uid", account.uid());
        }
        request.set_meta_str("creationTimestamp", &rfc3339(now));
        let mut spec = request.remove("spec").filter(Value::is_object).unwrap_or_else(|| json!({}));
        self.default_spec(&mut spec);
        let mut seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_EXPIRATION);
        check_life(seconds)?;
        let bound = self.bind(namespace, name, spec.get("boundObjectRef")).await?;
        if self.max_expiration > 0 && seconds > self.max_expiration {
            warnings.push(format!(
                "requested expiration of {seconds} seconds shortened to {} seconds",
                self.max_expiration
            ));
            seconds = self.max_expiration;
            spec["expirationSeconds"] = json!(seconds);
        }
        let claims = self.claims(&account, &spec["audiences"], bound, seconds, now);
        let token =
            self.key.sign(&claims).map_err(|e| Status::internal(format!("failed to generate token: {e}")))?;
        let id = claims["jti"].as_str().unwrap_or_default();
        audit::annotate("authentication.kubernetes.io/issued-credential-id", format!("JTI={id}"));
        let expires = now + SignedDuration::from_secs(seconds);
        request.set("spec", spec);
        request.set("status", json!({"token": token, "expirationTimestamp": rfc3339(expires)}));
        Ok(request)
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(PublicKey::jwk).collect::<Vec<_>>()})
    }

    /// `/.well-known/openid-configuration`; `external` is this server's own host and port.
    pub fn openid_configuration(&self, external: &str) -> Value {
        let own = || format!("https://{external}{JWKS_PATH}");
        let mut algorithms: Vec<&str> = self.keys.iter().map(|k| k.algorithm().name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.url,
            "jwks_uri": self.jwks_uri.clone().unwrap_or_else(own),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    fn default_spec(&self, spec: &mut Value) {
        if spec.get("audiences").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec["audiences"] = json!(self.audiences);
        }
        if spec.get("expirationSeconds").is_none_or(Value::is_null) {
            spec["expirationSeconds"] = json!(DEFAULT_EXPIRATION);
        }
        if spec.get("boundObjectRef").is_none() {
            spec["boundObjectRef"] = Value::Null;
        }
    }

    /// Reads the object a token is bound to and checks that it is the one meant.
    async fn bind(&self, namespace: &str, account: &str, to: Option<&Value>) -> Result<Bound, Status> {
        let Some(to) = to.filter(|v| v.is_object()) else { return Ok(Bound::default()) };
        let text = |field: &str| to.get(field).and_then(Value::as_str).unwrap_or_default();
        let (version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
        let (group, v) = version.split_once('/').unwrap_or(("", version));
        let (resource, scope) = match (group, kind) {
            ("", "Pod") => (PODS, namespace),
            ("", "Secret") => (SECRETS, namespace),
            ("", "Node") => (NODES, ""),
            _ => {
                let words = format!("cannot bind token to object of type {group}/{v}, Kind={kind}");
                return Err(Status::bad_request(words));
            }
        };
        let found = self.objects.get_latest(resource, scope, name).await?;
        let object = found.ok_or_else(|| Status::not_found(&resource.group_name(), name))?;
        let mut bound = Bound::default();
        let reference = Some(json!({"name": object.name(), "uid": object.uid()}));
        match resource {
            PODS => {
                let owner = object.pointer("/spec/serviceAccountName").and_then(Value::as_str);
                if owner.unwrap_or_default() != account {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with different \
                         serviceaccount name."
                    )));
                }
                bound.pod = reference;
                bound.node = self.node_of(&object).await?;
            }
            SECRETS => bound.secret = reference,
            _ => bound.node = reference,
        }
        if !uid.is_empty() && uid != object.uid() {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            );
            return Err(Status::conflict(&GroupName::new("", kind), name, &why));
        }
        Ok(bound)
    }

    async fn node_of(&self, pod: &Object) -> Result<Option<Value>, Status> {
        let Some(name) = pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|n| !n.is_empty())
        else {
            return Ok(None);
        };
        let node = self.objects.get(NODES, "", name).await?;
        Ok(Some(match node {
            Some(node) => json!({"name": name, "uid": node.uid()}),
            None => json!({"name": name}),
        }))
    }

    fn claims(
        &self,
        account: &Object,
        audiences: &Value,
        bound: Bound,
        seconds: i64,
        now: Timestamp,
    ) -> Value {
        let at = now.as_second();
        let known =
            |audience: &Value| audience.as_str().is_some_and(|a| self.audiences.iter().any(|b| a == b));
        let ours = audiences.as_array().is_some_and(|all| all.iter().all(known));
        let extended = self.extend && bound.pod.is_some() && seconds == WARN_ONLY_EXPIRATION && ours;
        let life = if extended { EXTENDED_EXPIRATION } else { seconds };
        let mut private = json!({
            "namespace": account.namespace(),
            "serviceaccount": {"name": account.name(), "uid": account.uid()},
        });
        for (field, reference) in [("pod", bound.pod), ("node", bound.node), ("secret", bound.secret)] {
            if let Some(reference) = reference {
                private[field] = reference;
            }
        }
        if extended {
            private["warnafter"] = json!(at + seconds);
        }
        json!({
            "iss": self.url,
            "sub": username(account.namespace(), account.name()),
            "aud": audiences,
            "iat": at, "nbf": at, "exp": at + life,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": private,
        })
    }
}

fn token_request() -> GroupName {
    GroupName::new("authentication.k8s.io", "TokenRequest")
}

/// The names in the body are those of the path, where there are any.
fn check_names(request: &Object, namespace: &str, name: &str) -> Result<(), Status> {
    for (field, said, wanted) in
        [("name", request.name(), name), ("namespace", request.namespace(), namespace)]
    {
        if !said.is_empty() && said != wanted {
            let why = format!("must match the service account {field} if specified");
            let mut errors = ErrorList::new();
            errors.push(FieldError::invalid(&Path::new("metadata").child(field), said, why));
            return Err(Status::invalid(&token_request(), name, &errors));
        }
    }
    Ok(())
}

/// The life time is within bounds.
fn check_life(seconds: i64) -> Result<(), Status> {
    let why = match seconds {
        ..MIN_EXPIRATION => "may not specify a duration less than 10 minutes",
        seconds if seconds > 1 << 32 => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let mut errors = ErrorList::new();
    errors.push(FieldError::invalid(&Path::new("spec").child("expirationSeconds"), seconds, why));
    Err(Status::invalid(&token_request(), "", &errors))
}
