//! PodGroups stay until the last of their pods has ended.
//!
//! ```text
//! PodGroup, its pods → decision (pure) → the finalizer goes, or stays
//! ```
//! Contract: upstream's `podgroup-protection-controller` (KEP-4671): the finalizer
//! `scheduling.k8s.io/podgroup-protection`, which admission sets. Off unless the feature `GenericWorkload` is on.

use component_base::{
    client,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, has_finalizer, is_deleting, object_key, remove_finalizer},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::{
    api::{core::v1::Pod, scheduling::v1alpha2::PodGroup},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use super::{Context, pod_disruption::is_finished};

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";
const WORKERS: usize = 1;
/// The index of pods that have not ended by their group, as `namespace/name`.
const BY_GROUP: &str = "pod group";

pub(super) fn start(ctx: &Context) {
    let groups: Informer<PodGroup> = ctx.informers.get(ListWatch::default());
    let pods: Informer<Pod> = ctx.informers.get(ListWatch::default());
    pods.add_index(BY_GROUP, |pod| {
        let group = if is_finished(pod) { None } else { group_of(pod) };
        group.map(|key| key.to_string()).into_iter().collect()
    });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("podgroupprotection");
    let (of_group, of_pod) = (queue.clone(), queue.clone());
    groups.on_event(move |event| {
        if !matches!(event, Event::Deleted { .. }) && is_waiting(&event.object().metadata) {
            of_group.add(object_key(event.object().as_ref()));
        }
    });
    pods.on_event(move |event| freed(&event).into_iter().for_each(|key| of_pod.add(key)));
    let client = ctx.client.clone();
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let (groups, pods, client) = (groups.clone(), pods.clone(), client.clone());
        async move { sync(&groups, &pods, &client, &key).await }
    });
}

async fn sync(
    groups: &Informer<PodGroup>,
    pods: &Informer<Pod>,
    client: &Client,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    groups.wait_synced().await;
    pods.wait_synced().await;
    let Some(group) = groups.store().get(key).filter(|group| is_waiting(&group.metadata)) else {
        return Ok(Outcome::Done);
    };
    if !pods.store().by_index(BY_GROUP, &key.to_string()).is_empty() {
        return Ok(Outcome::Done);
    }
    // The cache may be late, and a group that is gone does not come back: the server is asked as well.
    let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    if api.list(&ListParams::default()).await?.iter().any(|pod| is_member(pod, key)) {
        return Ok(Outcome::Done);
    }
    let mut next = (*group).clone();
    remove_finalizer(&mut next.metadata, FINALIZER);
    let api: Api<PodGroup> = Api::namespaced(client.clone(), &key.namespace);
    match api.replace(&key.name, &PostParams::default(), &next).await {
        // Another version: its event brings it back.
        Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
        _ => Ok(Outcome::Done),
    }
}

/// Whether the group is going and only waits for its pods.
fn is_waiting(meta: &ObjectMeta) -> bool {
    is_deleting(meta) && has_finalizer(meta, FINALIZER)
}

/// The group a pod belongs to.
pub(super) fn group_of(pod: &Pod) -> Option<ObjectKey> {
    let name = pod.spec.as_ref()?.scheduling_group.as_ref()?.pod_group_name.as_deref()?;
    Some(ObjectKey::new(pod.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// Whether a pod keeps the group.
fn is_member(pod: &Pod, group: &ObjectKey) -> bool {
    !is_finished(pod) && group_of(pod).as_ref() == Some(group)
}

/// The groups a pod may have kept and does not any more. An update may stand for a deletion and a creation: the pod
/// that was there before counts for its group as well.
fn freed(event: &Event<Pod>) -> Vec<ObjectKey> {
    let of = |pod: &Pod, freed: bool| freed.then(|| group_of(pod)).flatten();
    let [before, now] = match event {
        Event::Added { new, .. } => [None, of(new, is_finished(new))],
        Event::Updated { old, new } => {
            [of(old, old.metadata.uid != new.metadata.uid), of(new, is_finished(new))]
        }
        Event::Deleted { last, .. } => [of(last, true), None],
    };
    before.into_iter().chain(now).collect()
}

#[cfg(test)]
mod tests {
    use std::{slice, sync::Arc};

    use serde_json::json;

    use super::*;

    fn pod(uid: &str, group: Option<&str>, phase: &str) -> Arc<Pod> {
        let group = group.map(|name| json!({"podGroupName": name}));
        let pod = json!({
            "metadata": {"namespace": "d", "name": "p", "uid": uid},
            "spec": {"containers": [], "schedulingGroup": group}, "status": {"phase": phase},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn only_groups_that_go_and_have_the_finalizer_wait() {
        let meta = |finalizer: &str, gone: bool| -> ObjectMeta {
            let gone = gone.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(json!({"finalizers": [finalizer], "deletionTimestamp": gone})).unwrap()
        };
        assert!(is_waiting(&meta(FINALIZER, true)));
        assert!(!is_waiting(&meta(FINALIZER, false)) && !is_waiting(&meta("other", true)));
    }

    #[test]
    fn pods_that_have_not_ended_keep_their_group() {
        let group = ObjectKey::new("d", "g");
        for (name, phase, keeps) in [
            (Some("g"), "Pending", true),
            (Some("g"), "Running", true),
            (Some("g"), "Unknown", true),
            (Some("g"), "Succeeded", false),
            (Some("g"), "Failed", false),
            (Some("h"), "Running", false),
            (None, "Running", false),
        ] {
            assert_eq!(is_member(&pod("u", name, phase), &group), keeps, "{name:?} {phase}");
        }
        assert!(!is_member(&pod("u", Some("g"), "Running"), &ObjectKey::new("e", "g")));
    }

    #[test]
    fn a_group_is_looked_at_when_a_pod_ends_goes_or_is_another() {
        let (a, b) = (ObjectKey::new("d", "a"), ObjectKey::new("d", "b"));
        let names = |event: Event<Pod>| freed(&event);
        let added = |pod| names(Event::Added { new: pod, initial: false });
        assert!(added(pod("1", Some("a"), "Running")).is_empty());
        assert_eq!(added(pod("1", Some("a"), "Failed")), slice::from_ref(&a));
        let updated = |old, new| names(Event::Updated { old, new });
        assert!(updated(pod("1", Some("a"), "Pending"), pod("1", Some("a"), "Running")).is_empty());
        assert_eq!(
            updated(pod("1", Some("a"), "Running"), pod("1", Some("a"), "Succeeded")),
            slice::from_ref(&a)
        );
        assert_eq!(
            updated(pod("1", Some("a"), "Running"), pod("2", Some("b"), "Running")),
            slice::from_ref(&a)
        );
        let both = updated(pod("1", Some("a"), "Running"), pod("2", Some("b"), "Failed"));
        assert_eq!(both, [a.clone(), b]);
        let gone = |pod| names(Event::Deleted { last: pod, unknown_state: true });
        assert_eq!(gone(pod("1", Some("a"), "Running")), [a]);
        assert!(gone(pod("1", None, "Running")).is_empty());
    }
}
