//! Ending pods from outside: the condition that tells why, then the deletion.
//!
//! Contract: the pod condition `DisruptionTarget` (KEP-3329), set before the pod is deleted.

use component_base::{client, clock::SharedClock, informer::Informer, meta::object_key};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

/// Why a pod is ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reason {
    /// For machines.
    pub reason: &'static str,
    /// For people.
    pub message: &'static str,
}

/// Whether a pod has come to its end by itself.
pub(super) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a pod no longer needs its volumes: finished, or going with nothing of it running.
pub(super) fn is_over(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let runs =
        |s: &ContainerStatus| s.state.as_ref().is_none_or(|s| s.terminated.is_none() && s.waiting.is_none());
    is_finished(pod) || (pod.metadata.deletion_timestamp.is_some() && !statuses.into_iter().any(runs))
}

/// A pod's phase; empty while it has none.
pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The condition for a reason; `None` when the pod says so already.
fn condition(pod: &Pod, why: Reason, now: Time) -> Option<PodCondition> {
    let old =
        pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "DisruptionTarget");
    if old.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(why.reason)) {
        return None;
    }
    let since = old.filter(|c| c.status == "True").and_then(|c| c.last_transition_time.clone());
    Some(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(why.reason.into()),
        message: Some(why.message.into()),
        last_transition_time: Some(since.unwrap_or(now)),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    })
}

/// Deletes a pod gracefully, saying why first, and returns once that is seen. A pod that is gone, or another one by now, is
/// no error: false.
pub(super) async fn evict(
    client: &Client,
    clock: &SharedClock,
    pods: &Informer<Pod>,
    pod: &Pod,
    why: Reason,
) -> Result<bool, kube::Error> {
    if let Some(condition) = condition(pod, why, clock.time()) {
        patch(client, pod, json!({"conditions": [condition]})).await?;
    }
    let Some(version) = delete(client, pod, None).await? else { return Ok(false) };
    // Its new condition has others look at the pod, who would have it go a second time.
    pods.wait_seen(&object_key(pod), &version).await;
    Ok(true)
}

/// Fails a pod that no kubelet will end any more, and removes it at once.
pub(super) async fn force(
    client: &Client,
    clock: &SharedClock,
    pod: &Pod,
    why: Option<Reason>,
) -> Result<(), kube::Error> {
    if !is_finished(pod) {
        let mut status = json!({"phase": "Failed", "observedGeneration": pod.metadata.generation});
        if let Some(condition) = why.and_then(|why| condition(pod, why, clock.time())) {
            status["conditions"] = json!([condition]);
        }
        patch(client, pod, status).await?;
    }
    delete(client, pod, Some(0)).await.map(drop)
}

async fn patch(client: &Client, pod: &Pod, status: serde_json::Value) -> Result<(), kube::Error> {
    let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    let patched =
        api(client, pod).patch_status(name(pod), &PatchParams::default(), &Patch::Strategic(body)).await;
    unless_gone(patched).map(drop)
}

/// The version of the deletion; none for a pod that was gone.
async fn delete(client: &Client, pod: &Pod, grace: Option<u32>) -> Result<Option<String>, kube::Error> {
    let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params =
        DeleteParams { grace_period_seconds: grace, preconditions: Some(same), ..DeleteParams::default() };
    let deleted = unless_gone(api(client, pod).delete(name(pod), &params).await)?;
    Ok(deleted.map(|last| last.left().and_then(|pod| pod.metadata.resource_version).unwrap_or_default()))
}

fn api(client: &Client, pod: &Pod) -> Api<Pod> {
    Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// A conflict can only be that of the uid: another pod of the name.
fn unless_gone<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_condition_is_set_once_and_keeps_its_time() {
        let at = |s| Time(jiff::Timestamp::from_second(s).unwrap());
        let why = Reason { reason: "A", message: "a" };
        let mut pod = Pod::default();
        let first = condition(&pod, why, at(1)).unwrap();
        pod.status.get_or_insert_default().conditions = Some(vec![first]);
        assert!(condition(&pod, why, at(2)).is_none());
        let other = condition(&pod, Reason { reason: "B", message: "b" }, at(3)).unwrap();
        assert_eq!((other.last_transition_time, other.reason.as_deref()), (Some(at(1)), Some("B")));
    }

    #[test]
    fn pods_need_their_volumes_until_nothing_of_them_runs() {
        let pod = |phase: &str, deleted: bool, state: Value| -> Pod {
            let at = if deleted { json!("2026-01-01T00:00:00Z") } else { Value::Null };
            serde_json::from_value(json!({
                "metadata": {"name": "p", "deletionTimestamp": at},
                "status": {"phase": phase, "containerStatuses": [{
                    "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
                }]},
            }))
            .unwrap()
        };
        let (running, ended) = (json!({"running": {}}), json!({"terminated": {"exitCode": 0}}));
        assert!(!is_over(&pod("Running", false, running.clone())));
        assert!(!is_over(&pod("Running", false, ended.clone())));
        assert!(!is_over(&pod("Running", true, running)));
        assert!(is_over(&pod("Running", true, ended.clone())));
        assert!(is_over(&pod("Failed", false, ended)));
    }
}
