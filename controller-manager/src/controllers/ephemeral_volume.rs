//! Pods' generic ephemeral volumes have a claim each, owned by the pod.
//!
//! Contract: upstream's `ephemeral-volume-controller` (KEP-1698): the claim is called `<pod>-<volume>`; one of that
//! name that belongs to somebody else is left alone and told of.

use std::sync::LazyLock;

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, is_controlled_by, new_controller_ref, object_key},
    metrics::{self, Stability},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client, api::PostParams};
use prometheus::IntCounter;

use super::Context;

/// Why a claim is not made.
#[derive(Debug, thiserror::Error)]
enum EphemeralError {
    #[error("PVC {0} was not created for pod {1} (pod is not owner)")]
    Foreign(ObjectKey, ObjectKey),
    #[error("create PVC {0}")]
    Create(String, #[source] Box<kube::Error>),
}

#[derive(Clone)]
struct Controller {
    client: Client,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    recorder: Recorder,
}

pub(super) fn start(ctx: &Context) {
    // Shown from the start, with nothing.
    LazyLock::force(&ATTEMPTS);
    LazyLock::force(&FAILURES);
    let controller = Controller {
        client: ctx.client.clone(),
        pods: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        recorder: ctx.recorder("ephemeral_volume"),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("ephemeral_volume");
    let of_pod = queue.clone();
    controller.pods.on_event(move |event| {
        let pod = event.object();
        if !matches!(event, Event::Deleted { .. }) && wanted(pod).next().is_some() {
            of_pod.add(object_key(pod.as_ref()));
        }
    });
    let of_claim = queue.clone();
    // A claim that is gone is made again for a pod that still needs it.
    controller.claims.on_event(move |event| {
        if let Event::Deleted { last, .. } = event
            && let Some(owner) =
                component_base::meta::controller_of(&last.metadata).filter(|o| o.kind == "Pod")
        {
            let namespace = last.metadata.namespace.clone().unwrap_or_default();
            of_claim.add(ObjectKey::new(namespace, owner.name.as_str()));
        }
    });
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-ephemeralvolume-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await.map(|()| Outcome::Done) }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<(), EphemeralError> {
        self.claims.wait_synced().await;
        let Some(pod) = self.pods.store().get(key) else { return Ok(()) };
        for volume in wanted(&pod) {
            let claim = claim(&pod, volume);
            let name =
                ObjectKey::new(key.namespace.clone(), claim.metadata.name.as_deref().unwrap_or_default());
            if let Some(there) = self.claims.store().get(&name) {
                if is_controlled_by(&there.metadata, &pod.metadata) {
                    continue;
                }
                let foreign = EphemeralError::Foreign(name, key.clone());
                return Err(self.tell(&pod, volume, foreign));
            }
            ATTEMPTS.inc();
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {}
                // Nothing can be made in a namespace that ends; one that is there is seen with its event.
                Err(e) if client::is_namespace_terminating(&e) || client::is_already_exists(&e) => {}
                Err(e) => {
                    FAILURES.inc();
                    let error = EphemeralError::Create(name.name.to_string(), Box::new(e));
                    return Err(self.tell(&pod, volume, error));
                }
            }
        }
        Ok(())
    }

    fn tell(&self, pod: &Pod, volume: &Volume, error: EphemeralError) -> EphemeralError {
        let note = format!("ephemeral volume {}: {}", volume.name, component_base::workqueue::chain(&error));
        let reason = "FailedBinding";
        let regarding = reference(pod);
        self.recorder.event(&regarding, EventType::Warning, reason, "Creating", note, None);
        error
    }
}

/// Volumes that need a claim; none of a pod that ends.
fn wanted(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let ends = pod.metadata.deletion_timestamp.is_some();
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter(move |v| !ends && v.ephemeral.as_ref().is_some_and(|e| e.volume_claim_template.is_some()))
}

fn claim(pod: &Pod, volume: &Volume) -> PersistentVolumeClaim {
    let template =
        volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let mut claim = PersistentVolumeClaim { spec: Some(template.spec), ..PersistentVolumeClaim::default() };
    claim.metadata.name =
        Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name));
    claim.metadata.labels = meta.labels;
    claim.metadata.annotations = meta.annotations;
    claim.metadata.owner_references = Some(vec![new_controller_ref(pod)]);
    claim
}

static ATTEMPTS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "ephemeral_volume_controller_create_total",
        "Number of PersistentVolumeClaim creation requests",
        Stability::Alpha,
    )
});

static FAILURES: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "ephemeral_volume_controller_create_failures_total",
        "Number of PersistentVolumeClaim creation requests",
        Stability::Alpha,
    )
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_ephemeral_volume_has_a_claim_that_the_pod_owns() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "plain", "emptyDir": {}},
                {"name": "data", "ephemeral": {"volumeClaimTemplate": {
                    "metadata": {"labels": {"a": "b"}}, "spec": {"storageClassName": "fast"},
                }}},
            ]},
        }))
        .unwrap();
        let claims: Vec<_> = wanted(&pod).map(|v| claim(&pod, v)).collect();
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0].metadata.name.as_deref(), Some("p-data"));
        assert!(is_controlled_by(&claims[0].metadata, &pod.metadata));
        assert_eq!(claims[0].metadata.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(claims[0].spec.as_ref().unwrap().storage_class_name.as_deref(), Some("fast"));
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(wanted(&pod).count(), 0);
    }
}
