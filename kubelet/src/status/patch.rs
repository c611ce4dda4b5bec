//! A pod's status as a strategic merge patch. Pure.
//!
//! Conditions merge by type, so those of others stay; addresses merge by value, so ones that are gone are deleted by name;
//! what is no longer set is nulled. The uid is in the patch: it must not reach a namesake.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use crate::{pod, status::generate::RESIZE_CONDITIONS};

/// Fields that are nulled when they are no longer set.
const CLEARED: [&str; 9] = [
    "allocatedResources",
    "resources",
    "message",
    "reason",
    "podIP",
    "hostIP",
    "nominatedNodeName",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
];

/// The patch from what was sent before to `status`.
#[must_use]
pub fn status(pod: &Pod, before: Option<&PodStatus>, status: &PodStatus) -> Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    let old = before.and_then(|s| serde_json::to_value(s).ok()).unwrap_or_default();
    clear_amounts(&old, &mut body);
    if let Some(fields) = body.as_object_mut() {
        for key in CLEARED {
            if old.get(key).is_some() && !fields.contains_key(key) {
                fields.insert(key.to_owned(), Value::Null);
            }
        }
        clear_texts(&old["conditions"], fields.get_mut("conditions"));
        for (key, id) in [("podIPs", "ip"), ("hostIPs", "ip"), ("conditions", "type")] {
            let gone = gone(&old[key], fields.get(key), id);
            if !gone.is_empty() {
                let list = fields.entry(key).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.extend(gone);
                }
            }
        }
    }
    json!({ "metadata": { "uid": pod::uid(pod) }, "status": body })
}

/// Where a status tells amounts by resource: merging alone would keep those that are not told of any more.
const AMOUNTS: [&[&str]; 3] = [&["allocatedResources"], &["resources", "requests"], &["resources", "limits"]];

/// Nulls resources that are not told of any more.
fn clear_amounts(old: &Value, new: &mut Value) {
    let find = |mut at: &Value, path: &[&str]| {
        path.iter().for_each(|name| at = &at[name]);
        at.as_object().cloned().unwrap_or_default()
    };
    // What is gone as a whole is nulled as a whole.
    for path in AMOUNTS.into_iter().filter(|path| new[path[0]].is_object()).collect::<Vec<_>>() {
        let now = find(new, path);
        for (name, _) in find(old, path).iter().filter(|(name, _)| !now.contains_key(*name)) {
            let mut at = &mut *new;
            for part in path {
                at = &mut at[part];
            }
            at[name] = Value::Null;
        }
    }
}

/// Nulls reasons and messages that conditions do not have any more: merging alone would keep them.
fn clear_texts(old: &Value, new: Option<&mut Value>) {
    let before = old.as_array().into_iter().flatten();
    let mut now: Vec<&mut Value> = new.and_then(Value::as_array_mut).into_iter().flatten().collect();
    for was in before {
        let Some(is) = now.iter_mut().find(|c| c["type"] == was["type"]) else { continue };
        for key in ["reason", "message"] {
            if was.get(key).is_some() && is.get(key).is_none() {
                is[key] = Value::Null;
            }
        }
    }
}

/// Deletions of the entries that are not there any more. Of conditions only those of resizes end: the others stay, or are
/// not the kubelet's.
fn gone(old: &Value, new: Option<&Value>, id: &str) -> Vec<Value> {
    let kept: Vec<&Value> = new.and_then(Value::as_array).into_iter().flatten().map(|e| &e[id]).collect();
    let before = old.as_array().into_iter().flatten().map(|e| &e[id]);
    before
        .filter(|value| !kept.contains(value))
        .filter(|value| id != "type" || value.as_str().is_some_and(|v| RESIZE_CONDITIONS.contains(&v)))
        .map(|value| json!({ "$patch": "delete", id: value }))
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodCondition, PodIP};

    use super::*;
    use crate::testing;

    #[test]
    fn a_condition_loses_its_reason_and_message() {
        let with = |reason: Option<&str>| PodStatus {
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: if reason.is_some() { "False" } else { "True" }.into(),
                reason: reason.map(Into::into),
                message: reason.map(Into::into),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        };
        let pod = testing::pod("a").build();
        let patch = status(&pod, Some(&with(Some("ContainersNotReady"))), &with(None));
        let ready = &patch["status"]["conditions"][0];
        assert_eq!((ready.get("reason"), ready.get("message")), (Some(&Value::Null), Some(&Value::Null)));
        let patch = status(&pod, Some(&with(None)), &with(None));
        assert_eq!(patch["status"]["conditions"][0].get("reason"), None);
    }

    #[test]
    fn resources_that_are_gone_are_nulled_one_by_one() {
        let with = |value| serde_json::from_value::<PodStatus>(value).unwrap();
        let pod = testing::pod("a").build();
        let old = with(json!({
            "allocatedResources": {"cpu": "1"},
            "resources": {"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "2"}},
        }));
        let new = with(json!({"resources": {"requests": {"cpu": "1"}}}));
        let patch = status(&pod, Some(&old), &new)["status"].clone();
        assert_eq!(patch["allocatedResources"], Value::Null);
        assert!(patch.as_object().unwrap().contains_key("allocatedResources"));
        let requests = json!({"cpu": "1", "ephemeral-storage": null});
        assert_eq!(patch["resources"], json!({"requests": requests, "limits": {"cpu": null}}));
        assert_eq!(status(&pod, Some(&new), &new)["status"]["resources"], json!({"requests": {"cpu": "1"}}));
    }

    #[test]
    fn what_is_gone_is_cleared() {
        let pod = testing::pod("a").build();
        let with = |ip: &str| Some(vec![PodIP { ip: ip.into() }]);
        let old = PodStatus { reason: Some("x".into()), pod_ips: with("10.0.0.1"), ..Default::default() };
        let new =
            PodStatus { pod_ips: with("10.0.0.2"), phase: Some("Running".into()), ..Default::default() };
        let patch = status(&pod, Some(&old), &new);
        assert_eq!(patch["metadata"]["uid"], "uid-a");
        assert_eq!(patch["status"]["reason"], Value::Null);
        assert!(patch["status"].as_object().unwrap().contains_key("reason"));
        assert_eq!(
            patch["status"]["podIPs"],
            json!([{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}])
        );
    }
}
