//! Conversion of custom objects by a webhook: a `ConversionReview` goes out, and what comes back has to be the same
//! objects in another version.
//!
//! ```text
//! objects → review (pure) → webhook → answer, adopt (pure) → converted objects with the metadata they had
//! ```
//! Contract: `ConversionReview` v1 and v1beta1; upstream's `apiserver/conversion`, whose words the errors have.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::{
    object::Object,
    registry::apiextensions::custom::Converter,
    status::{Reason, Status},
    webhook::{ClientConfig, Clients},
};

/// How long a webhook may take for one review.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Forms of the review this server speaks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// The webhook of one definition.
pub(super) struct Webhook {
    clients: Arc<Clients>,
    /// `None` when it says neither a service nor a URL.
    config: Option<ClientConfig>,
    /// Forms of the review the webhook takes, the preferred one first.
    reviews: Vec<String>,
}

impl Webhook {
    /// Reads `spec.conversion.webhook`.
    pub(super) fn new(clients: Arc<Clients>, webhook: &Value) -> Self {
        let reviews = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        Self {
            clients,
            config: ClientConfig::of(&webhook["clientConfig"]),
            reviews: reviews.filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }

    async fn ask(&self, objects: &[Object], api_version: &str) -> Result<Vec<Value>, String> {
        let form = self.reviews.iter().find(|version| REVIEWS.contains(&version.as_str()));
        let form = form.ok_or("no supported conversion review versions")?;
        let config = self.config.as_ref().ok_or("webhook has neither a service nor a URL")?;
        let uid = uuid::Uuid::new_v4().to_string();
        let review = review(form, &uid, objects, api_version);
        let told = self.clients.post(config, &review, TIMEOUT).await.map_err(|error| error.to_string())?;
        answer(told, form, &uid)
    }
}

#[async_trait]
impl Converter for Webhook {
    async fn convert(&self, objects: Vec<Object>, api_version: &str) -> Result<Vec<Object>, Status> {
        let Some(first) = objects.first() else { return Ok(objects) };
        let (from, kind) = (first.api_version().to_owned(), first.kind().to_owned());
        let failed = |why: String| {
            let message = format!("conversion webhook for {from}, Kind={kind} {why}");
            Status::new(500, Reason::Unknown, message)
        };
        let asked = self.ask(&objects, api_version).await;
        let converted = asked.map_err(|why| failed(format!("failed: {why}")))?;
        if converted.len() != objects.len() {
            let (got, want) = (converted.len(), objects.len());
            return Err(failed(format!("returned {got} objects, expected {want}")));
        }
        let pairs = objects.into_iter().zip(converted).enumerate();
        let adopted = pairs.map(|(at, (original, converted))| {
            adopt(&original, converted, api_version)
                .map_err(|why| failed(format!("returned invalid converted object at index {at}: {why}")))
        });
        adopted.collect()
    }
}

/// The question.
fn review(form: &str, uid: &str, objects: &[Object], api_version: &str) -> Value {
    let objects: Vec<Value> = objects.iter().map(Object::to_value).collect();
    json!({"kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{form}"),
        "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects}})
}

/// The converted objects of an answer.
///
/// # Errors
/// In words, when it answers another question or tells of a failure.
fn answer(mut told: Value, form: &str, uid: &str) -> Result<Vec<Value>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // The first form of the review never asked who answers, and webhooks of its time rely on that.
    if form == "v1" {
        let (version, kind) = (text(&told["apiVersion"]), text(&told["kind"]));
        if version != "apiextensions.k8s.io/v1" || kind != "ConversionReview" {
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {version}, Kind={kind}"
            ));
        }
    }
    if !told["response"].is_object() {
        return Err("no response provided".to_owned());
    }
    let got = text(&told["response"]["uid"]);
    if form == "v1" && got != uid {
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let result = &told["response"]["result"];
    let (status, message) = (text(&result["status"]), text(&result["message"]));
    if status != "Success" {
        let said = format!("response.result.status was '{status}', not 'Success'");
        return Err(if message.is_empty() { said } else { message });
    }
    match told["response"]["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// A converted object with the metadata of the original; labels and annotations are the webhook's to change.
///
/// # Errors
/// In words, when it is another object.
fn adopt(original: &Object, converted: Value, api_version: &str) -> Result<Object, String> {
    let mut converted = Object::from_value(converted).map_err(|status| status.message)?;
    if converted.api_version() != api_version {
        let got = converted.api_version();
        return Err(format!("invalid groupVersion (expected {api_version}, received {got})"));
    }
    if converted.kind() != original.kind() {
        let (want, got) = (original.kind(), converted.kind());
        return Err(format!("invalid kind (expected {want}, received {got})"));
    }
    let identity = [
        ("name", original.name(), converted.name()),
        ("namespace", original.namespace(), converted.namespace()),
        ("UID", original.uid(), converted.uid()),
    ];
    if let Some((what, had, has)) = identity.iter().find(|(_, had, has)| had != has) {
        return Err(format!("must have the same {what}: {had} != {has}"));
    }
    let Some(given) = converted.metadata().cloned() else {
        return Err("missing metadata in converted object".to_owned());
    };
    let mut kept = original.metadata().cloned().unwrap_or_default();
    for name in ["labels", "annotations"] {
        kept.remove(name);
        match given.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Object(pairs)) => {
                if let Some((key, value)) = pairs.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!("metadata.{name}[{key}]: Invalid value: {value}: must be a string"));
                }
                kept.insert(name.to_owned(), pairs.clone().into());
            }
            Some(other) => return Err(format!("metadata.{name}: Invalid value: {other}: must be a map")),
        }
    }
    *converted.metadata_mut() = kept;
    Ok(converted)
}

/// The object that an answer to the question for one has, as it is taken over.
///
/// # Errors
/// In words, when the answer is none.
pub fn read(
    original: &Object,
    told: Value,
    form: &str,
    uid: &str,
    api_version: &str,
) -> Result<Object, String> {
    let converted = answer(told, form, uid)?.into_iter().next().ok_or("returned no object")?;
    adopt(original, converted, api_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn original() -> Object {
        object(
            json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "namespace": "n", "uid": "u",
            "generation": 3, "labels": {"l": "1"}, "annotations": {"a": "1"}}, "host": "h"}),
        )
    }

    #[test]
    fn a_review_asks_for_objects_in_another_version() {
        let asked = review("v1", "7", &[original()], "g/v2");
        assert_eq!(asked["request"]["desiredAPIVersion"], "g/v2");
        assert_eq!(asked["request"]["uid"], "7");
        assert_eq!(asked["request"]["objects"][0]["host"], "h");
        assert_eq!(asked["apiVersion"], "apiextensions.k8s.io/v1");
    }

    #[test]
    fn an_answer_is_to_the_question_and_says_success() {
        let good = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
            "uid": "7", "result": {"status": "Success"}, "convertedObjects": [{"a": 1}]}});
        assert_eq!(answer(good.clone(), "v1", "7").unwrap(), [json!({"a": 1})]);
        let wrong = |path: &str, value: Value| {
            let mut told = good.clone();
            *told.pointer_mut(path).unwrap() = value;
            answer(told, "v1", "7").unwrap_err()
        };
        assert!(wrong("/kind", json!("Other")).starts_with("expected webhook response of"));
        assert_eq!(wrong("/response", json!(null)), "no response provided");
        assert_eq!(wrong("/response/uid", json!("8")), r#"expected response.uid="7", got "8""#);
        let failed = json!({"status": "Failed", "message": "no way"});
        assert_eq!(wrong("/response/result", failed), "no way");
        assert_eq!(
            wrong("/response/result", json!({"status": "Failed"})),
            "response.result.status was 'Failed', not 'Success'"
        );
        let old = json!({"response": {"result": {"status": "Success"}}});
        assert!(answer(old, "v1beta1", "7").unwrap().is_empty());
    }

    #[test]
    fn converted_objects_keep_what_they_are() {
        let good = json!({"apiVersion": "g/v2", "kind": "K", "spec": {"host": "h"}, "metadata": {"name": "a",
            "namespace": "n", "uid": "u", "generation": 9, "labels": {"l": "2"}}});
        let adopted = adopt(&original(), good.clone(), "g/v2").unwrap();
        assert_eq!(adopted.generation(), 3);
        assert_eq!(adopted.pointer("/metadata/labels"), Some(&json!({"l": "2"})));
        assert_eq!(adopted.pointer("/metadata/annotations"), None);
        assert_eq!(adopted.pointer("/spec/host"), Some(&json!("h")));
        let cases = [
            ("/apiVersion", json!("g/v3"), "invalid groupVersion (expected g/v2, received g/v3)"),
            ("/kind", json!("L"), "invalid kind (expected K, received L)"),
            ("/metadata/name", json!("b"), "must have the same name: a != b"),
            ("/metadata/namespace", json!("m"), "must have the same namespace: n != m"),
            ("/metadata/uid", json!("v"), "must have the same UID: u != v"),
            ("/metadata/labels/l", json!(1), "metadata.labels[l]: Invalid value: 1: must be a string"),
        ];
        for (path, value, why) in cases {
            let mut converted = good.clone();
            *converted.pointer_mut(path).unwrap() = value;
            assert_eq!(adopt(&original(), converted, "g/v2").unwrap_err(), why);
        }
    }
}
