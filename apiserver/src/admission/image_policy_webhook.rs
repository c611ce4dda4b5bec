//! ImagePolicyWebhook: a service says whether a pod's images may be run.
//!
//! Contract: imagepolicy.k8s.io/v1alpha1 `ImageReview`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Configuration, Parts, Plugin, Request, items};
use crate::{
    audit, authn::cache::Cache, egress::Route, object::Object, objects::PODS, status::Status,
    webhook::kubeconfig::Remote,
};

pub(super) const NAME: &str = "ImagePolicyWebhook";

const AUDIT: &str = "imagepolicywebhook.image-policy.k8s.io/";
const FAILED_OPEN: &str = "alpha.image-policy.k8s.io/failed-open";
/// Time of one question.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Questions asked of a service that does not answer, each after a wait that is half as long again.
const ATTEMPTS: usize = 5;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct File {
    image_policy: Settings,
}

/// -1 switches a time off, 0 is its default.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Settings {
    kube_config_file: String,
    /// Seconds a yes is kept.
    #[serde(rename = "allowTTL")]
    allow_ttl: i64,
    /// Seconds a no is kept.
    #[serde(rename = "denyTTL")]
    deny_ttl: i64,
    /// Milliseconds before the first question is asked again.
    retry_backoff: i64,
    default_allow: bool,
}

/// What the service said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    allowed: bool,
    reason: String,
    audit_annotations: std::collections::BTreeMap<String, String>,
}

struct ImagePolicyWebhook {
    remote: Remote,
    cache: Cache<String, Answer>,
    backoff: Duration,
    default_allow: bool,
}

pub(super) fn new(_: &Parts, configuration: Option<&Configuration>) -> Result<Arc<dyn Plugin>, String> {
    let configuration = configuration.ok_or("no config specified")?;
    let file: File = configuration.decode_bare().map_err(|error| error.to_string())?;
    let settings = file.image_policy;
    let seconds = |value| time(value, Duration::from_secs(1), (1, 1800));
    let allowed = seconds(settings.allow_ttl)?.unwrap_or(Duration::from_secs(300));
    let denied = seconds(settings.deny_ttl)?.unwrap_or(Duration::from_secs(30));
    let backoff = time(settings.retry_backoff, Duration::from_millis(1), (1, 300_000))?;
    let path = configuration.beside(&settings.kube_config_file);
    Ok(Arc::new(ImagePolicyWebhook {
        remote: Remote::load(&path, "admission", &Route::default())
            .map_err(|error| component_base::workqueue::chain(&error))?,
        cache: Cache::new(allowed, denied),
        backoff: backoff.unwrap_or(Duration::from_millis(500)),
        default_allow: settings.default_allow,
    }))
}

/// A time in some unit, `None` where the default is meant.
fn time(value: i64, unit: Duration, (least, most): (u32, u32)) -> Result<Option<Duration>, String> {
    match u32::try_from(value) {
        _ if value == -1 => Ok(Some(Duration::ZERO)),
        Ok(0) => Ok(None),
        Ok(value) if (least..=most).contains(&value) => Ok(Some(unit * value)),
        _ => Err(format!("valid value is between {:?} and {:?}, got {value}", unit * least, unit * most)),
    }
}

#[async_trait]
impl Plugin for ImagePolicyWebhook {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is_any(PODS) {
            return Ok(());
        }
        let lists: &[&str] = match request.attributes.subresource.as_str() {
            "" => &["/spec/containers", "/spec/initContainers"],
            "ephemeralcontainers" => &["/spec/ephemeralContainers"],
            _ => return Ok(()),
        };
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        let spec = question(pod, lists, &request.attributes.namespace);
        let answer = match self.ask(&spec).await {
            Ok(answer) => answer,
            Err(why) if self.default_allow => {
                tracing::info!(why, "images are allowed although the image policy webhook does not answer");
                audit::annotate(&format!("{AUDIT}failed-open"), "true".to_owned());
                if let Some(pod) = request.object.as_deref_mut() {
                    let annotations = pod.metadata_mut().entry("annotations").or_insert_with(|| json!({}));
                    annotations[FAILED_OPEN] = "true".into();
                }
                return Ok(());
            }
            Err(why) => return Err(request.forbid(why)),
        };
        for (key, value) in answer.audit_annotations {
            audit::annotate(&format!("{AUDIT}{key}"), value);
        }
        match (answer.allowed, answer.reason.as_str()) {
            (true, _) => Ok(()),
            (false, "") => Err(request.forbid("one or more images rejected by webhook backend")),
            (false, reason) => {
                Err(request
                    .forbid(format!("image policy webhook backend denied one or more images: {reason}")))
            }
        }
    }
}

/// The spec of the question: the images, and what the pod tells the policy.
fn question(pod: &Object, lists: &[&str], namespace: &str) -> Value {
    let containers = lists.iter().flat_map(|list| items(pod, list));
    let containers: Vec<Value> = containers
        .map(|container| match container.get("image").and_then(Value::as_str) {
            Some(image) if !image.is_empty() => json!({"image": image}),
            _ => json!({}),
        })
        .collect();
    let told = pod.meta_pairs("annotations").filter(|(key, _)| key.contains(".image-policy.k8s.io/"));
    let annotations: Map<String, Value> = told.map(|(key, value)| (key.to_owned(), value.into())).collect();
    let mut spec = json!({"namespace": namespace});
    if !containers.is_empty() {
        spec["containers"] = containers.into();
    }
    if !annotations.is_empty() {
        spec["annotations"] = annotations.into();
    }
    spec
}

impl ImagePolicyWebhook {
    async fn ask(&self, spec: &Value) -> Result<Answer, String> {
        let key = spec.to_string();
        if let Some(known) = self.cache.get(&key, Instant::now()) {
            return Ok(known);
        }
        let review = json!({"apiVersion": "imagepolicy.k8s.io/v1alpha1", "kind": "ImageReview",
            "metadata": {"creationTimestamp": null}, "spec": spec, "status": {"allowed": false}});
        let (mut left, mut wait) = (ATTEMPTS, self.backoff);
        let told = loop {
            left -= 1;
            match self.remote.ask(&review, TIMEOUT).await {
                Ok(told) => break told,
                Err(error) if left == 0 || !error.is_temporary() => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(wait).await,
            }
            wait = wait * 3 / 2;
        };
        let status = told.get("status").cloned().unwrap_or_default();
        let answer: Answer = serde_json::from_value(status).map_err(|error| error.to_string())?;
        self.cache.put(key, answer.clone(), answer.allowed, Instant::now());
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_name_the_images_and_what_is_for_the_policy() {
        let pod = Object::from_value(json!({
            "metadata": {"name": "p", "annotations": {"a.image-policy.k8s.io/b": "c", "other": "d"}},
            "spec": {"containers": [{"image": "x"}], "initContainers": [{"image": "y"}]},
        }))
        .unwrap();
        assert_eq!(
            question(&pod, &["/spec/containers", "/spec/initContainers"], "n"),
            json!({"namespace": "n", "containers": [{"image": "x"}, {"image": "y"}],
                "annotations": {"a.image-policy.k8s.io/b": "c"}})
        );
        assert_eq!(question(&pod, &["/spec/ephemeralContainers"], "n")["containers"], Value::Null);
    }

    #[test]
    fn times_have_a_default_an_end_and_bounds() {
        let seconds = |value| time(value, Duration::from_secs(1), (1, 1800));
        assert_eq!((seconds(0), seconds(-1)), (Ok(None), Ok(Some(Duration::ZERO))));
        assert_eq!(seconds(30), Ok(Some(Duration::from_secs(30))));
        assert!(seconds(1801).is_err() && seconds(-2).is_err());
    }
}
