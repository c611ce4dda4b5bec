//! Claims in use by pods and volumes in use by claims stay until they are not.
//!
//! Contract: upstream's `persistentvolumeclaim-protection-controller` and `persistentvolume-protection-controller`:
//! finalizers `kubernetes.io/pvc-protection` and `kubernetes.io/pv-protection`, set by admission and removed here.

use component_base::{
    client,
    informer::{Event, Informer, ListWatch, Object},
    meta::{ObjectKey, add_finalizer, has_finalizer, object_key, remove_finalizer},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde::Serialize;

use super::Context;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const WORKERS: usize = 1;

/// What to do with an object's finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Keep,
    Add,
    /// If it is not in use.
    Remove,
}

/// Protects claims.
pub(super) fn start_claims(ctx: &Context) {
    let claims: Informer<PersistentVolumeClaim> = ctx.informers.get(ListWatch::default());
    let pods: Informer<Pod> = ctx.informers.get(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("pvcprotection");
    let of_claim = queue.clone();
    claims.on_event(move |event| {
        if !matches!(event, Event::Deleted { .. })
            && decide(&event.object().metadata, CLAIM) != Decision::Keep
        {
            of_claim.add(object_key(event.object().as_ref()));
        }
    });
    let of_pod = queue.clone();
    pods.on_event(move |event| {
        let freed = match &event {
            Event::Added { .. } => return,
            Event::Deleted { last, .. } => last,
            Event::Updated { new, .. } if super::pod_disruption::is_finished(new) => new,
            Event::Updated { .. } => return,
        };
        let namespace = freed.metadata.namespace.clone().unwrap_or_default();
        for claim in claims_of(freed) {
            of_pod.add(ObjectKey::new(namespace.as_str(), claim));
        }
    });
    let client = ctx.client.clone();
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let (claims, pods, client) = (claims.clone(), pods.clone(), client.clone());
        async move { sync_claim(&claims, &pods, &client, &key).await }
    });
}

async fn sync_claim(
    claims: &Informer<PersistentVolumeClaim>,
    pods: &Informer<Pod>,
    client: &Client,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    claims.wait_synced().await;
    pods.wait_synced().await;
    let Some(claim) = claims.store().get(key) else { return Ok(Outcome::Done) };
    let decision = decide(&claim.metadata, CLAIM);
    if decision == Decision::Remove {
        let uses = |pod: &Pod| uses(pod, &claim);
        if pods.store().in_namespace(&key.namespace).iter().any(|p| uses(p)) {
            return Ok(Outcome::Done);
        }
        // The cache may be late, and a volume that is taken away too early is lost: the server is asked as well.
        let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
        if api.list(&ListParams::default()).await?.iter().any(uses) {
            return Ok(Outcome::Done);
        }
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &key.namespace);
    write(&api, claim.as_ref(), CLAIM, decision).await
}

/// Protects volumes.
pub(super) fn start_volumes(ctx: &Context) {
    let volumes: Informer<PersistentVolume> = ctx.informers.get(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("pvprotection");
    let of_volume = queue.clone();
    volumes.on_event(move |event| {
        if !matches!(event, Event::Deleted { .. })
            && decide(&event.object().metadata, VOLUME) != Decision::Keep
        {
            of_volume.add(object_key(event.object().as_ref()));
        }
    });
    let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let (volumes, api) = (volumes.clone(), api.clone());
        async move {
            let Some(volume) = volumes.store().get(&key) else { return Ok(Outcome::Done) };
            let decision = decide(&volume.metadata, VOLUME);
            let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
            if decision == Decision::Remove && bound {
                return Ok(Outcome::Done);
            }
            write(&api, volume.as_ref(), VOLUME, decision).await
        }
    });
}

fn decide(meta: &ObjectMeta, finalizer: &str) -> Decision {
    match (meta.deletion_timestamp.is_some(), has_finalizer(meta, finalizer)) {
        (true, true) => Decision::Remove,
        (false, false) => Decision::Add,
        _ => Decision::Keep,
    }
}

/// The names of the claims a pod uses, its ephemeral volumes' among them.
fn claims_of(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let claim = |v: &k8s_openapi::api::core::v1::Volume| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{name}-{}", v.name)),
        (None, None) => None,
    };
    volumes.filter_map(claim).collect()
}

/// Whether a pod keeps a claim: bound to a node and not at its end.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    bound
        && !super::pod_disruption::is_finished(pod)
        && claims_of(pod).iter().any(|name| Some(name) == claim.metadata.name.as_ref())
}

async fn write<K: Object + Clone + Serialize + std::fmt::Debug>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
    decision: Decision,
) -> Result<Outcome, kube::Error> {
    let mut next = object.clone();
    match decision {
        Decision::Keep => return Ok(Outcome::Done),
        Decision::Add => drop(add_finalizer(next.meta_mut(), finalizer)),
        Decision::Remove => drop(remove_finalizer(next.meta_mut(), finalizer)),
    }
    let name = object.meta().name.as_deref().unwrap_or_default();
    match api.replace(name, &PostParams::default(), &next).await {
        // Another version: its event brings it back.
        Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
        _ => Ok(Outcome::Done),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_finalizer_is_there_while_the_object_is_not_going() {
        let meta = |finalizers: Value, gone: Value| -> ObjectMeta {
            serde_json::from_value(json!({"finalizers": finalizers, "deletionTimestamp": gone})).unwrap()
        };
        let gone = json!("2026-01-01T00:00:00Z");
        assert_eq!(decide(&meta(json!([]), json!(null)), CLAIM), Decision::Add);
        assert_eq!(decide(&meta(json!([CLAIM]), json!(null)), CLAIM), Decision::Keep);
        assert_eq!(decide(&meta(json!([CLAIM]), gone.clone()), CLAIM), Decision::Remove);
        assert_eq!(decide(&meta(json!(["other"]), gone), CLAIM), Decision::Keep);
    }

    #[test]
    fn running_pods_keep_their_claims() {
        let pod = |node: &str, phase: &str, volume: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": [], "volumes": [volume]},
                "status": {"phase": phase},
            }))
            .unwrap()
        };
        let claim = |name: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
        };
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        assert!(uses(&pod("n", "Running", named.clone()), &claim("c")));
        assert!(!uses(&pod("n", "Running", named.clone()), &claim("d")));
        assert!(!uses(&pod("", "Pending", named.clone()), &claim("c")));
        assert!(!uses(&pod("n", "Succeeded", named), &claim("c")));
        assert!(uses(&pod("n", "Pending", json!({"name": "v", "ephemeral": {}})), &claim("p-v")));
        assert!(!uses(&pod("n", "Pending", json!({"name": "v", "emptyDir": {}})), &claim("p-v")));
    }
}
