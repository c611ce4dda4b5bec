//! Claims in use by pods, volumes in use by claims and attribute classes in use by either stay until they are not.
//!
//! Contract: upstream's `persistentvolumeclaim-protection-controller`, `persistentvolume-protection-controller` and
//! `volumeattributesclass-protection-controller`: finalizers `kubernetes.io/pvc-protection`,
//! `kubernetes.io/pv-protection` and `kubernetes.io/vac-protection`, the first two set by admission as well. Under
//! `PersistentVolumeClaimUnusedSinceTime` claims say since when no pod names them.

mod unused;

use component_base::{
    client,
    clock::SharedClock,
    features::Gate,
    informer::{Event, Informer, ListWatch, Object},
    meta::{ObjectKey, add_finalizer, has_finalizer, is_controlled_by, object_key, remove_finalizer},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume},
        storage::v1::VolumeAttributesClass,
    },
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
const CLASS: &str = "kubernetes.io/vac-protection";
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
    let notes = ctx.settings.gates.has(Gate::PersistentVolumeClaimUnusedSinceTime).then(|| ctx.clock.clone());
    let (of_claim, is_noted) = (queue.clone(), notes.is_some());
    claims.on_event(move |event| {
        let claim = event.object();
        // Pods may have come and gone while nobody looked.
        let is_news = matches!(event, Event::Added { .. }) || unused::condition(claim).is_none();
        if !matches!(event, Event::Deleted { .. })
            && (decide(&claim.metadata, CLAIM) != Decision::Keep || is_noted && is_news)
        {
            of_claim.add(object_key(event.object().as_ref()));
        }
    });
    let of_pod = queue.clone();
    pods.on_event(move |event| {
        for pod in freeing(&event, is_noted) {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            for claim in claims_of(pod) {
                of_pod.add(ObjectKey::new(namespace.as_str(), claim));
            }
        }
    });
    let client = ctx.client.clone();
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let (claims, pods, client) = (claims.clone(), pods.clone(), client.clone());
        let notes = notes.clone();
        async move { sync_claim(&claims, &pods, (&client, notes), &key).await }
    });
}

/// The pods that may have been the last to use their claims; where use `is_noted`, those that begin to as well.
fn freeing(event: &Event<Pod>, is_noted: bool) -> Vec<&Pod> {
    match event {
        Event::Deleted { last, .. } => vec![last.as_ref()],
        Event::Added { new, .. } if is_noted => vec![new.as_ref()],
        Event::Added { .. } => Vec::new(),
        Event::Updated { old, new } => {
            // Another pod of the name: the one before went unseen.
            let replaced = old.metadata.uid != new.metadata.uid;
            // One that was shut down may stay as long as somebody else's finalizer does, and wait for the claim.
            let ended = is_noted || super::pod_disruption::is_over(new) || is_shut_down(new);
            let (before, now) = (replaced.then(|| old.as_ref()), ended.then(|| new.as_ref()));
            before.into_iter().chain(now).collect()
        }
    }
}

async fn sync_claim(
    claims: &Informer<PersistentVolumeClaim>,
    pods: &Informer<Pod>,
    (client, notes): (&Client, Option<SharedClock>),
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    claims.wait_synced().await;
    pods.wait_synced().await;
    let Some(claim) = claims.store().get(key) else { return Ok(Outcome::Done) };
    if let Some(clock) = notes {
        unused::note(&claim, pods, client, &clock).await?;
    }
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

/// The index of claims and volumes by the attribute classes they refer to.
const BY_CLASS: &str = "attributes class";

/// Protects attribute classes.
pub(super) fn start_classes(ctx: &Context) {
    let classes: Informer<VolumeAttributesClass> = ctx.informers.get(ListWatch::default());
    let claims: Informer<PersistentVolumeClaim> = ctx.informers.get(ListWatch::default());
    let volumes: Informer<PersistentVolume> = ctx.informers.get(ListWatch::default());
    claims.add_index(BY_CLASS, classes_of_claim);
    volumes.add_index(BY_CLASS, classes_of_volume);
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("vacprotection");
    let of_class = queue.clone();
    classes.on_event(move |event| {
        if !matches!(event, Event::Deleted { .. })
            && decide(&event.object().metadata, CLASS) != Decision::Keep
        {
            of_class.add(object_key(event.object().as_ref()));
        }
    });
    let (of_claim, of_volume) = (queue.clone(), queue.clone());
    claims.on_event(move |event| freed(&event, classes_of_claim).for_each(|key| of_claim.add(key)));
    volumes.on_event(move |event| freed(&event, classes_of_volume).for_each(|key| of_volume.add(key)));
    let api: Api<VolumeAttributesClass> = Api::all(ctx.client.clone());
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let (classes, claims, volumes, api) = (classes.clone(), claims.clone(), volumes.clone(), api.clone());
        async move {
            claims.wait_synced().await;
            volumes.wait_synced().await;
            let Some(class) = classes.store().get(&key) else { return Ok(Outcome::Done) };
            let decision = decide(&class.metadata, CLASS);
            let used = !claims.store().by_index(BY_CLASS, &key.name).is_empty()
                || !volumes.store().by_index(BY_CLASS, &key.name).is_empty();
            if decision == Decision::Remove && used {
                return Ok(Outcome::Done);
            }
            write(&api, class.as_ref(), CLASS, decision).await
        }
    });
}

/// The classes a claim asks for, has, or is on its way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let asked = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|s| s.current_volume_attributes_class_name.clone());
    let target =
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    [asked, current, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    let name = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
    name.into_iter().filter(|name| !name.is_empty()).collect()
}

/// The classes an object no longer refers to.
fn freed<K>(event: &Event<K>, classes: fn(&K) -> Vec<String>) -> impl Iterator<Item = ObjectKey> + use<K> {
    let (before, after) = match event {
        Event::Added { .. } => (Vec::new(), Vec::new()),
        Event::Updated { old, new } => (classes(old), classes(new)),
        Event::Deleted { last, .. } => (classes(last), Vec::new()),
    };
    before.into_iter().filter(move |name| !after.contains(name)).map(ObjectKey::cluster)
}

fn decide(meta: &ObjectMeta, finalizer: &str) -> Decision {
    match (meta.deletion_timestamp.is_some(), has_finalizer(meta, finalizer)) {
        (true, true) => Decision::Remove,
        (false, false) => Decision::Add,
        _ => Decision::Keep,
    }
}

/// The names of the claims a pod uses, its ephemeral volumes' among them.
pub(super) fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_name(pod, volume)).collect()
}

/// The claim behind a volume of a pod.
pub(super) fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => {
            Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name))
        }
        (None, None) => None,
    }
}

/// Whether a claim is behind a volume of a pod. One by the name of a volume that is made for the pod is so only if it was
/// made for that pod.
pub(super) fn is_behind(claim: &PersistentVolumeClaim, pod: &Pod, volume: &Volume) -> bool {
    let is_own = volume.persistent_volume_claim.is_some() || is_controlled_by(&claim.metadata, &pod.metadata);
    is_own && claim_name(pod, volume).is_some_and(|name| Some(name) == claim.metadata.name)
}

/// Whether a pod keeps a claim: it has a node and is still there, be it that it has ended. A claim that was made for the
/// pod is free when its kubelet is done with it.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    let shut_down = is_shut_down(pod);
    let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let in_use = |volume: &Volume| !shut_down || volume.ephemeral.is_none();
    bound && volumes.any(|volume| in_use(volume) && is_behind(claim, pod, volume))
}

/// Whether a kubelet is done with a pod, or nobody waits for it to be.
fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
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
    fn classes_are_free_when_the_last_reference_goes() {
        let claim = |asked: &str, current: &str, target: &str| -> std::sync::Arc<PersistentVolumeClaim> {
            let status = json!({
                "currentVolumeAttributesClassName": current,
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": target},
            });
            let object = json!({"spec": {"volumeAttributesClassName": asked}, "status": status});
            std::sync::Arc::new(serde_json::from_value(object).unwrap())
        };
        let names = |event: Event<PersistentVolumeClaim>| -> Vec<String> {
            freed(&event, classes_of_claim).map(|key| key.name.to_string()).collect()
        };
        assert_eq!(classes_of_claim(&claim("a", "", "b")), ["a", "b"]);
        assert!(names(Event::Added { new: claim("a", "b", "c"), initial: false }).is_empty());
        assert_eq!(names(Event::Updated { old: claim("a", "b", "a"), new: claim("a", "a", "a") }), ["b"]);
        assert_eq!(names(Event::Deleted { last: claim("a", "b", ""), unknown_state: false }), ["a", "b"]);
        let volume: PersistentVolume = serde_json::from_value(json!({
            "spec": {"volumeAttributesClassName": "gold"}
        }))
        .unwrap();
        assert_eq!(classes_of_volume(&volume), ["gold"]);
    }

    #[test]
    fn claims_are_looked_at_when_a_pod_may_have_freed_them() {
        let pod = |uid: &str, phase: &str| -> std::sync::Arc<Pod> {
            let pod = json!({"metadata": {"name": "p", "uid": uid}, "status": {"phase": phase}});
            std::sync::Arc::new(serde_json::from_value(pod).unwrap())
        };
        let uids = |event: Event<Pod>, is_noted: bool| -> Vec<String> {
            freeing(&event, is_noted).iter().map(|pod| pod.metadata.uid.clone().unwrap()).collect()
        };
        let update = |old: (&str, &str), new: (&str, &str)| Event::Updated {
            old: pod(old.0, old.1),
            new: pod(new.0, new.1),
        };
        let none: [&str; 0] = [];
        assert_eq!(uids(update(("a", "Running"), ("a", "Running")), false), none);
        assert_eq!(uids(update(("a", "Running"), ("a", "Failed")), false), ["a"]);
        assert_eq!(uids(update(("a", "Running"), ("b", "Running")), false), ["a"], "another pod of the name");
        assert_eq!(uids(update(("a", "Running"), ("b", "Running")), true), ["a", "b"]);
        assert_eq!(uids(Event::Deleted { last: pod("a", "Running"), unknown_state: false }, false), ["a"]);
        let mut shut_down = (*pod("a", "Running")).clone();
        shut_down.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        shut_down.metadata.deletion_grace_period_seconds = Some(0);
        let shut_down = Event::Updated { old: pod("a", "Running"), new: std::sync::Arc::new(shut_down) };
        assert_eq!(uids(shut_down, false), ["a"], "its finalizers may wait for the claim");
        assert_eq!(uids(Event::Added { new: pod("a", "Running"), initial: false }, false), none);
        assert_eq!(uids(Event::Added { new: pod("a", "Running"), initial: false }, true), ["a"]);
    }

    #[test]
    fn running_pods_keep_their_claims() {
        let pod = |node: &str, phase: &str, volume: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "uid": "p"}, "spec": {"nodeName": node, "containers": [], "volumes": [volume]},
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
        assert!(uses(&pod("n", "Succeeded", named.clone()), &claim("c")), "until somebody deletes it");
        assert!(!uses(&pod("n", "Pending", json!({"name": "v", "emptyDir": {}})), &claim("p-v")));
        // One that was made for the pod, and one that only has such a name.
        let ephemeral = pod("n", "Running", json!({"name": "v", "ephemeral": {}}));
        let mut own = claim("p-v");
        assert!(!uses(&ephemeral, &own));
        own.metadata.owner_references = Some(vec![component_base::meta::new_controller_ref(&ephemeral)]);
        assert!(uses(&ephemeral, &own));
        let end = |grace: i64, mut pod: Pod| {
            pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            pod
        };
        assert!(uses(&end(30, ephemeral.clone()), &own));
        assert!(!uses(&end(0, ephemeral), &own), "the kubelet is done with it");
        assert!(uses(&end(0, pod("n", "Running", named)), &claim("c")));
    }

    #[test]
    fn ephemeral_volumes_have_claims_of_their_own() {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        let name = |volume: Value| claim_name(&pod, &serde_json::from_value(volume).unwrap());
        assert_eq!(name(json!({"name": "v", "ephemeral": {}})), Some("p-v".into()));
        assert_eq!(name(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})), Some("c".into()));
        assert_eq!(name(json!({"name": "v", "emptyDir": {}})), None);
    }
}
