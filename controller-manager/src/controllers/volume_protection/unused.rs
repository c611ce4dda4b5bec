//! Since when no pod names a claim: its condition `Unused`.
//!
//! Contract: KEP-5541, the gate PersistentVolumeClaimUnusedSinceTime. A pod that waits for a node counts, one that has ended
//! or is going with nothing of it running does not.

use component_base::{client, clock::SharedClock, informer::Informer, meta::is_deleting};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use super::is_behind;
use crate::controllers::pod_disruption::is_over;

const TYPE: &str = "Unused";

/// What a claim says of its use.
pub(super) fn condition(claim: &PersistentVolumeClaim) -> Option<&PersistentVolumeClaimCondition> {
    claim.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == TYPE)
}

/// Whether a pod that still needs its volumes names the claim, or has it made for itself.
fn names(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    !is_over(pod) && volumes.any(|volume| is_behind(claim, pod, volume))
}

/// The condition that a claim should have; nothing where it has it.
fn next(claim: &PersistentVolumeClaim, is_used: bool, now: Time) -> Option<PersistentVolumeClaimCondition> {
    let (status, reason, message) = match is_used {
        true => ("False", "PodUsingPVC", "A pod is currently referencing this PVC"),
        false => ("True", "NoPodsUsingPVC", "No pods are currently referencing this PVC"),
    };
    let is_said = condition(claim).is_some_and(|there| match is_used {
        true => there.status != "True",
        false => there.status == "True",
    });
    (!is_said).then(|| PersistentVolumeClaimCondition {
        type_: TYPE.to_owned(),
        status: status.to_owned(),
        last_transition_time: Some(now),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..PersistentVolumeClaimCondition::default()
    })
}

/// Writes since when the claim is not used, or that it is.
pub(super) async fn note(
    claim: &PersistentVolumeClaim,
    pods: &Informer<Pod>,
    client: &Client,
    clock: &SharedClock,
) -> Result<(), kube::Error> {
    if is_deleting(&claim.metadata) {
        return Ok(());
    }
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let mut is_used = pods.store().in_namespace(namespace).iter().any(|pod| names(pod, claim));
    if !is_used && next(claim, false, clock.time()).is_some() {
        // The cache may be late.
        let all: Api<Pod> = Api::namespaced(client.clone(), namespace);
        is_used = all.list(&ListParams::default()).await?.iter().any(|pod| names(pod, claim));
    }
    let Some(condition) = next(claim, is_used, clock.time()) else { return Ok(()) };
    let mut written = claim.clone();
    let conditions = written.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|there| there.type_ != TYPE);
    conditions.push(condition);
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    match api.replace_status(name, &PostParams::default(), &written).await {
        Err(error) if !client::is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(conditions: Value) -> PersistentVolumeClaim {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true});
        serde_json::from_value(json!({"metadata": {"name": "p-c", "ownerReferences": [owner]},
            "status": {"conditions": conditions}}))
        .unwrap()
    }

    #[test]
    fn pods_use_what_they_name_until_they_have_ended() {
        let pod = |uid: &str, phase: &str, volume: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": uid}, "spec": {"containers": [],
                "volumes": [volume]}, "status": {"phase": phase}}))
            .unwrap()
        };
        let (named, own) = (
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-c"}}),
            json!({"name": "c", "ephemeral": {}}),
        );
        let claim = claim(json!([]));
        assert!(names(&pod("q", "Pending", named.clone()), &claim), "no node is needed");
        let mut going = pod("q", "Running", named.clone());
        going.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        assert!(!names(&going, &claim), "nothing of it runs");
        assert!(!names(&pod("q", "Succeeded", named), &claim));
        assert!(names(&pod("p", "Running", own.clone()), &claim));
        assert!(!names(&pod("another", "Running", own), &claim), "the claim is of a pod before it");
        assert!(!names(&pod("p", "Running", json!({"name": "c", "emptyDir": {}})), &claim));
    }

    #[test]
    fn the_time_is_that_of_the_change() {
        let now = Time("2026-01-01T00:00:00Z".parse().unwrap());
        let said = |conditions: Value, is_used: bool| {
            next(&claim(conditions), is_used, now.clone()).map(|c| (c.status, c.reason.unwrap()))
        };
        let (unused, used) = (
            ("True".to_owned(), "NoPodsUsingPVC".to_owned()),
            ("False".to_owned(), "PodUsingPVC".to_owned()),
        );
        assert_eq!(said(json!([]), false), Some(unused.clone()));
        assert_eq!(said(json!([]), true), Some(used.clone()));
        assert_eq!(said(json!([{"type": "Unused", "status": "False"}]), false), Some(unused));
        assert_eq!(said(json!([{"type": "Unused", "status": "True"}]), true), Some(used));
        assert_eq!(said(json!([{"type": "Unused", "status": "True"}]), false), None);
        assert_eq!(said(json!([{"type": "Unused", "status": "False"}]), true), None);
    }
}
