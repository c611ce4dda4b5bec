//! AdmissionReview: the question to a webhook and what its answer says. Pure.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{Failure, matching};
use crate::{
    admission::{Operation, Request},
    object::Object,
    status::Status,
};

const GROUP: &str = "admission.k8s.io";

/// What an answer says besides yes and no.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Notes {
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
}

/// The objects of a write in the version a webhook or policy sees.
pub(in crate::admission) struct Shown {
    pub(in crate::admission) object: Option<Object>,
    pub(in crate::admission) old: Option<Object>,
    /// Their apiVersion and kind.
    pub(in crate::admission) api_version: String,
    pub(in crate::admission) kind: String,
    /// Whether they are of the resource's own kind, so have versions; others are bodies of subresources.
    pub(in crate::admission) is_own: bool,
}

/// The write's objects in another version.
///
/// # Errors
/// When they do not convert.
pub(in crate::admission) async fn show(request: &Request<'_>, version: &str) -> Result<Shown, Status> {
    let resource = request.resource;
    let custom = resource.strategy.custom();
    let working = working(request);
    let object = request.object.as_deref();
    let is_own = object.is_none_or(|o| o.kind() == resource.kind && o.api_version() == working);
    let (api_version, kind) = match object {
        Some(object) if !is_own => (object.api_version().to_owned(), object.kind().to_owned()),
        _ => (resource.api_version(version), resource.kind.to_owned()),
    };
    let mut shown = [object.cloned(), request.old.cloned()];
    if is_own && working != api_version {
        for object in shown.iter_mut().flatten() {
            let converted = match custom {
                Some(custom) => {
                    let all = custom.converted(vec![std::mem::take(object)], version).await;
                    all.map(|mut all| *object = all.pop().unwrap_or_default())
                }
                None => resource.convert(object, &working, &api_version),
            };
            converted.map_err(Status::internal)?;
        }
    }
    let [object, old] = shown;
    Ok(Shown { object, old, api_version, kind, is_own })
}

/// The apiVersion a write is worked on in: custom resources in the requested one, others in the stored one.
pub(in crate::admission) fn working(request: &Request<'_>) -> String {
    match request.resource.strategy.custom() {
        Some(_) => request.resource.api_version(&request.attributes.version),
        None => request.resource.stored_api_version(),
    }
}

fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The question.
pub(super) fn ask(uid: &str, review: &str, request: &Request<'_>, shown: &Shown, version: &str) -> Value {
    let object = |object: &Option<Object>| object.as_ref().map_or(Value::Null, Object::to_value);
    let mut body = about(request, shown, version);
    body["uid"] = uid.into();
    body["object"] = object(&shown.object);
    body["oldObject"] = object(&shown.old);
    json!({"kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{review}"), "request": body})
}

/// What a write is, without its objects.
pub(in crate::admission) fn about(request: &Request<'_>, shown: &Shown, version: &str) -> Value {
    let attributes = request.attributes;
    let (group, kind_version) = split(&shown.api_version);
    let asked = if shown.is_own {
        request.resource.api_version(&attributes.version)
    } else {
        shown.api_version.clone()
    };
    let (asked_group, asked_version) = split(&asked);
    let user = &attributes.user;
    let mut who = json!({"username": user.name});
    for (field, value) in [
        ("uid", (!user.uid.is_empty()).then(|| json!(user.uid))),
        ("groups", (!user.groups.is_empty()).then(|| json!(user.groups))),
        ("extra", (!user.extra.is_empty()).then(|| json!(user.extra))),
    ] {
        if let Some(value) = value {
            who[field] = value;
        }
    }
    let options =
        if request.operation == Operation::Connect { Value::Null } else { request.options.to_value() };
    let mut body = json!({
        "kind": {"group": group, "version": kind_version, "kind": shown.kind},
        "resource": {"group": attributes.group, "version": version, "resource": attributes.resource},
        "requestKind": {"group": asked_group, "version": asked_version, "kind": shown.kind},
        "requestResource": {"group": attributes.group, "version": attributes.version,
            "resource": attributes.resource},
        "operation": matching::word(request.operation),
        "userInfo": who,
        "dryRun": request.dry_run,
        "options": options,
    });
    for (field, value) in [
        ("subResource", attributes.subresource.as_str()),
        ("requestSubResource", attributes.subresource.as_str()),
        ("name", matching::name(request)),
        ("namespace", matching::namespace(request)),
    ] {
        if !value.is_empty() {
            body[field] = value.into();
        }
    }
    body
}

/// What an answer says.
///
/// # Errors
/// When it is a refusal, or no proper answer; what it notes comes along.
pub(super) fn read(
    answer: &Value,
    uid: &str,
    review: &str,
    hook: &str,
    mutating: bool,
) -> (Notes, Result<Option<Vec<u8>>, Failure>) {
    let invalid = |why: String| {
        let why = format!("received invalid webhook response: {why}");
        (Notes::default(), Err(Failure::Calling { code: 503, why }))
    };
    let Some(response) = answer.get("response").filter(|r| r.is_object()) else {
        return invalid("webhook response was absent".to_owned());
    };
    let text =
        |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if review == "v1" {
        if text(response, "uid") != uid {
            return invalid(format!("expected response.uid={uid:?}, got {:?}", text(response, "uid")));
        }
        let (version, kind) = (text(answer, "apiVersion"), text(answer, "kind"));
        if version != format!("{GROUP}/v1") || kind != "AdmissionReview" {
            return invalid(format!(
                "expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got {version}, Kind={kind}"
            ));
        }
    }
    let patch = match patch(response, review, mutating) {
        Ok(patch) => patch,
        Err(why) => return invalid(why),
    };
    let notes = Notes {
        warnings: strings(response.get("warnings")),
        annotations: pairs(response.get("auditAnnotations")),
    };
    if response.get("allowed").and_then(Value::as_bool).unwrap_or(false) {
        return (notes, Ok(patch));
    }
    (notes, Err(Failure::Refused(refusal(hook, response.get("status")))))
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let all = list.and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn pairs(map: Option<&Value>) -> Vec<(String, String)> {
    let all = map.and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// The patch of an answer, decoded from base64.
fn patch(response: &Value, review: &str, mutating: bool) -> Result<Option<Vec<u8>>, String> {
    let sent = response.get("patch").and_then(Value::as_str).filter(|patch| !patch.is_empty());
    let kind = response.get("patchType").and_then(Value::as_str);
    if review != "v1" && !mutating {
        return Ok(None);
    }
    match (mutating, sent, kind) {
        (false, Some(_), _) => return Err("validating webhook may not return response.patch".to_owned()),
        (false, None, Some(_)) => {
            return Err("validating webhook may not return response.patchType".to_owned());
        }
        (true, Some(_), None) if review == "v1" => {
            return Err("webhook returned response.patch but not response.patchType".to_owned());
        }
        (true, None, Some(_)) if review == "v1" => {
            return Err("webhook returned response.patchType but not response.patch".to_owned());
        }
        (true, Some(_), Some("")) => {
            return Err("webhook returned invalid response.patchType of \"\"".to_owned());
        }
        (true, Some(_), Some(other)) if other != "JSONPatch" && review == "v1" => {
            return Err(format!("unsupported patch type {other:?}"));
        }
        _ => {}
    }
    let decoded = sent.map(|sent| BASE64_STANDARD.decode(sent)).transpose();
    decoded.map_err(|e| format!("illegal base64 data in response.patch: {e}"))
}

/// The Status of a refusal: the webhook's own, said to be its.
fn refusal(hook: &str, status: Option<&Value>) -> Status {
    let mut told = status.filter(|s| s.is_object()).cloned().unwrap_or_else(|| json!({}));
    let text =
        |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let code = told.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..=999).contains(code)).unwrap_or(400);
    let by = format!("admission webhook {hook:?} denied the request");
    let message = match (text(&told, "message"), text(&told, "reason")) {
        (message, _) if !message.is_empty() => format!("{by}: {message}"),
        (_, reason) if !reason.is_empty() => format!("{by}: {reason}"),
        _ => format!("{by} without explanation"),
    };
    if matches!(text(&told, "status").as_str(), "" | "Success") {
        told["status"] = "Failure".into();
    }
    told["kind"] = "Status".into();
    told["apiVersion"] = "v1".into();
    if !told["metadata"].is_object() {
        told["metadata"] = json!({});
    }
    told["code"] = code.into();
    told["message"] = message.as_str().into();
    Status::told(code, message, told)
}
