//! ServiceAccount: every pod runs as an account that exists and, unless declined, mounts its token.
//!
//! Contract: Kubernetes "Managing service accounts", KEP-1205.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use rand::Rng;
use serde_json::{Map, Value, json};

use super::{Parts, Plugin, Request, items, text};
use crate::{
    object::Object,
    objects::{Objects, PODS, SERVICE_ACCOUNTS},
    status::Status,
};

pub(super) const NAME: &str = "ServiceAccount";

const DEFAULT: &str = "default";
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Letters of generated suffixes: no vowels, no digits that look like them.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// What kubelets ask for; see the token issuer on why it is not a round hour.
const TOKEN_SECONDS: i64 = 3607;

pub(super) struct ServiceAccount {
    pub(super) objects: Arc<dyn Objects>,
    /// Five random letters.
    pub(super) suffix: fn() -> String,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(ServiceAccount { objects: parts.objects.clone(), suffix: random_suffix })
}

fn random_suffix() -> String {
    let mut random = rand::rng();
    (0..5).map(|_| char::from(SUFFIX_LETTERS[random.random_range(0..SUFFIX_LETTERS.len())])).collect()
}

#[async_trait]
impl Plugin for ServiceAccount {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PODS) {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        if pod.annotation(MIRROR).is_some() {
            return check_mirror(request, pod);
        }
        if text(pod, "/spec/serviceAccountName").is_empty()
            && let Some(spec) = request.spec()
        {
            spec.insert("serviceAccountName".to_owned(), json!(DEFAULT));
            spec.insert("serviceAccount".to_owned(), json!(DEFAULT));
        }
        let account = self.account(request).await?;
        let Some(spec) = request.spec() else { return Ok(()) };
        let wanted = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
        let wanted = wanted.or_else(|| account.get("automountServiceAccountToken").and_then(Value::as_bool));
        if wanted.unwrap_or(true) {
            self.mount(spec);
        }
        if spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty)
            && let Some(secrets) =
                account.get("imagePullSecrets").filter(|s| s.as_array().is_some_and(|a| !a.is_empty()))
        {
            spec.insert("imagePullSecrets".to_owned(), secrets.clone());
        }
        Ok(())
    }

    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PODS) {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        if pod.annotation(MIRROR).is_some() {
            return check_mirror(request, pod);
        }
        let account = self.account(request).await?;
        if account.annotation(ENFORCE) == Some("true") {
            check_secrets(request, pod, &account)?;
        }
        Ok(())
    }
}

impl ServiceAccount {
    async fn account(&self, request: &Request<'_>) -> Result<Arc<Object>, Status> {
        let namespace = &request.attributes.namespace;
        let name = request.object.as_deref().map_or("", |pod| text(pod, "/spec/serviceAccountName"));
        if name.is_empty() {
            let pod = request.object.as_deref().map_or("", Object::name);
            return Err(request.forbid(format!("no service account specified for pod {namespace}/{pod}")));
        }
        let mut found = self.objects.get(SERVICE_ACCOUNTS, namespace, name).await?;
        if found.is_none() {
            found = self.objects.get_latest(SERVICE_ACCOUNTS, namespace, name).await?;
        }
        found.ok_or_else(|| {
            request.forbid(format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            ))
        })
    }

    /// Mounts the token in every container that mounts nothing else there.
    fn mount(&self, spec: &mut Map<String, Value>) {
        let existing = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
        let existing = existing
            .filter_map(|v| v.get("name")?.as_str())
            .find(|name| name.starts_with(VOLUME_PREFIX))
            .map(str::to_owned);
        let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", (self.suffix)()));
        let mount = json!({"name": &name, "readOnly": true, "mountPath": MOUNT_PATH});
        let mut needed = false;
        for list in ["initContainers", "containers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                needed |= add_mount(container, &mount);
            }
        }
        if needed && existing.is_none() {
            let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
            if let Value::Array(volumes) = volumes {
                volumes.push(Value::Object(Map::from_iter([
                    ("name".to_owned(), Value::String(name)),
                    ("projected".to_owned(), TOKEN_VOLUME.clone()),
                ])));
            }
        }
    }
}

fn add_mount(container: &mut Value, mount: &Value) -> bool {
    let Some(container) = container.as_object_mut() else { return false };
    let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
    let Value::Array(mounts) = mounts else { return false };
    if mounts.iter().any(|m| m.get("mountPath").and_then(Value::as_str) == Some(MOUNT_PATH)) {
        return false;
    }
    mounts.push(mount.clone());
    true
}

/// What every pod with a token mounts.
static TOKEN_VOLUME: LazyLock<Value> = LazyLock::new(|| {
    let field = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
    json!({"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]})
});

/// A static pod's mirror can have no account: its kubelet started it without asking.
fn check_mirror(request: &Request<'_>, pod: &Object) -> Result<(), Status> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Err(request.forbid("a mirror pod may not reference service accounts"));
    }
    let volume_refers = items(pod, "/spec/volumes").any(|v| v.get("secret").is_some());
    if volume_refers || !used_secrets(pod).is_empty() {
        return Err(request.forbid("a mirror pod may not reference secrets"));
    }
    let token = |v: &Value| {
        let sources = v.pointer("/projected/sources").and_then(Value::as_array);
        sources.into_iter().flatten().any(|s| s.get("serviceAccountToken").is_some())
    };
    if items(pod, "/spec/volumes").any(token) {
        return Err(request.forbid("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

/// With the enforcing annotation a pod uses only secrets its account lists.
fn check_secrets(request: &Request<'_>, pod: &Object, account: &Object) -> Result<(), Status> {
    let names = |field: &str| -> Vec<&str> {
        let list = account.get(field).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|s| s.get("name")?.as_str()).collect()
    };
    let (secrets, pulls) = (names("secrets"), names("imagePullSecrets"));
    let volumes = items(pod, "/spec/volumes").filter_map(|v| v.pointer("/secret/secretName")?.as_str());
    if let Some(name) = volumes.into_iter().find(|name| !secrets.contains(name)) {
        return Err(request.forbid(format!(
            "volume with secret.secretName=\"{name}\" is not allowed because service account {} does not reference \
             that secret",
            account.name()
        )));
    }
    if let Some((from, name)) =
        used_secrets(pod).into_iter().find(|(_, name)| !secrets.contains(&name.as_str()))
    {
        return Err(request.forbid(format!(
            "{from} referencing secret.secretName=\"{name}\" is not allowed because service account {} does not \
             reference that secret",
            account.name()
        )));
    }
    for (i, secret) in items(pod, "/spec/imagePullSecrets").enumerate() {
        let name = secret.get("name").and_then(Value::as_str).unwrap_or_default();
        if !pulls.contains(&name) {
            return Err(request.forbid(format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {} does not reference \
                 that imagePullSecret",
                account.name()
            )));
        }
    }
    Ok(())
}

/// Secrets in containers' environments: where, and which.
fn used_secrets(pod: &Object) -> Vec<(String, String)> {
    let mut used = Vec::new();
    for (list, word) in [("initContainers", "init container"), ("containers", "container")] {
        for container in items(pod, &format!("/spec/{list}")) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            let list = |field: &str| container.get(field).and_then(Value::as_array).into_iter().flatten();
            for env in list("env") {
                if let Some(secret) = env.pointer("/valueFrom/secretKeyRef/name").and_then(Value::as_str) {
                    let variable = env.get("name").and_then(Value::as_str).unwrap_or_default();
                    used.push((format!("{word} {name} with envVar {variable}"), secret.to_owned()));
                }
            }
            for from in list("envFrom") {
                if let Some(secret) = from.pointer("/secretRef/name").and_then(Value::as_str) {
                    used.push((format!("{word} {name} with envFrom"), secret.to_owned()));
                }
            }
        }
    }
    used
}
