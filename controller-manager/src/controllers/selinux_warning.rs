//! Pods that share a volume and cannot do so on one node, since they want other SELinux labels on it, are told.
//!
//! ```text
//! Pod, its claims, volumes and drivers → uses (pure) → conflicts with other pods (pure) → events, a metric
//! ```
//! Contract: upstream's `selinux-warning-controller` (KEP-1710). It writes nothing but events. Off unless it is named.

mod conflicts;
mod uses;

use std::sync::{Arc, LazyLock};

use component_base::{
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, object_key},
    metrics::{self, Stability},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume},
    storage::v1::CSIDriver,
};
use parking_lot::Mutex;
use prometheus::IntGaugeVec;

use self::{
    conflicts::{Conflict, Conflicts},
    uses::{Found, Source},
};
use super::{
    Context,
    attachable::Attachable,
    pod_disruption::is_finished,
    volume_protection::{claim_name, claims_of},
};

/// The component that reports.
const NAME: &str = "selinux_warning";
const WORKERS: usize = 1;
/// The index of pods by the claims they use, as `namespace/name`.
const BY_CLAIM: &str = "claim of a labelled volume";

#[derive(Clone)]
struct Controller {
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    queue: WorkQueue<ObjectKey>,
    conflicts: Arc<Mutex<Conflicts>>,
    recorder: Recorder,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        pods: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        volumes: ctx.informers.get(ListWatch::default()),
        drivers: ctx.informers.get(ListWatch::default()),
        queue: WorkQueue::new(NAME),
        conflicts: Arc::default(),
        recorder: ctx.recorder(NAME),
    };
    controller.pods.add_index(BY_CLAIM, |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        claims_of(pod).into_iter().map(|name| ObjectKey::new(namespace, name).to_string()).collect()
    });
    controller.follow();
    let queue = controller.queue.clone();
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move {
            controller.sync(&key).await;
            Ok::<_, std::convert::Infallible>(Outcome::Done)
        }
    });
}

// === impl Controller ===

impl Controller {
    /// Queues the pods whose uses may have changed.
    fn follow(&self) {
        let queue = self.queue.clone();
        self.pods.on_event(move |event| {
            // What a pod uses is decided when it is made; it uses nothing any more once it has ended.
            let quiet = matches!(&event, Event::Updated { old, new } if is_finished(old) == is_finished(new));
            if !quiet {
                queue.add(object_key(event.object().as_ref()));
            }
        });
        let of_claim = self.clone();
        self.claims.on_event(move |event| {
            let volume = |claim: &PersistentVolumeClaim| claim.spec.as_ref()?.volume_name.clone();
            let bound = match &event {
                Event::Added { new, .. } => volume(new).is_some(),
                Event::Updated { old, new } => volume(old) != volume(new),
                Event::Deleted { .. } => false,
            };
            if bound {
                of_claim.queue_users(&object_key(event.object().as_ref()));
            }
        });
        let of_volume = self.clone();
        self.volumes.on_event(move |event| {
            let bound = match &event {
                Event::Added { new, .. } => uses::claim_of(new),
                Event::Updated { old, new } if uses::claim_of(old) != uses::claim_of(new) => {
                    uses::claim_of(new)
                }
                _ => None,
            };
            bound.into_iter().for_each(|(claim, _)| of_volume.queue_users(&claim));
        });
        let of_driver = self.clone();
        self.drivers.on_event(move |event| {
            let mounts = |driver: &CSIDriver| driver.spec.se_linux_mount == Some(true);
            let news = match &event {
                Event::Added { new: driver, .. } | Event::Deleted { last: driver, .. } => mounts(driver),
                Event::Updated { old, new } => mounts(old) != mounts(new),
            };
            if news {
                let pods = of_driver.pods.store().list();
                pods.iter().for_each(|pod| of_driver.queue.add(object_key(pod.as_ref())));
            }
        });
    }

    fn queue_users(&self, claim: &ObjectKey) {
        for pod in self.pods.store().by_index(BY_CLAIM, &claim.to_string()) {
            self.queue.add(object_key(pod.as_ref()));
        }
    }

    async fn sync(&self, key: &ObjectKey) {
        self.claims.wait_synced().await;
        self.volumes.wait_synced().await;
        self.drivers.wait_synced().await;
        let pod = self.pods.store().get(key).filter(|pod| !is_finished(pod));
        let found = pod.as_ref().map_or_else(Found::default, |pod| {
            let namespace = key.namespace.as_ref();
            uses::find(pod, |volume| self.source(namespace, pod, volume))
        });
        for volume in pod.iter().flat_map(|_| &found.mixed) {
            let note =
                format!("Volume {volume:?} is mounted twice with different SELinux labels inside this pod");
            self.tell(key, EventType::Warning, "MultipleSELinuxLabels", note);
        }
        let change = self.conflicts.lock().set(key, found.uses);
        for conflict in &change.gone {
            // One that has no series is not shown either.
            drop(CONFLICTS.remove_label_values(&labels(conflict)));
        }
        for conflict in &change.come {
            CONFLICTS.with_label_values(&labels(conflict)).set(1);
            self.tell(&conflict.pod, EventType::Normal, conflict.property.reason(), conflict.message());
        }
    }

    /// Where a volume of a pod comes from.
    fn source(&self, namespace: &str, pod: &Pod, volume: &Volume) -> Source {
        let mounts = |driver: &str| {
            let driver = self.drivers.store().get(&ObjectKey::cluster(driver));
            driver.is_some_and(|driver| driver.spec.se_linux_mount == Some(true))
        };
        let Some(claim) = claim_name(pod, volume) else {
            return uses::mounted(Attachable::of_inline(volume, namespace), mounts);
        };
        let claim = self.claims.store().get(&ObjectKey::new(namespace, claim));
        let bound = claim.and_then(|claim| {
            let name = claim.spec.as_ref()?.volume_name.clone().filter(|name| !name.is_empty())?;
            self.volumes
                .store()
                .get(&ObjectKey::cluster(name))
                .filter(|volume| uses::is_bound(volume, &claim))
        });
        bound.map_or(Source::Unknown, |volume| uses::mounted(Attachable::of_volume(&volume), mounts))
    }

    fn tell(&self, pod: &ObjectKey, kind: EventType, reason: &str, note: String) {
        if let Some(pod) = self.pods.store().get(pod) {
            self.recorder.event(&reference(pod.as_ref()), kind, reason, reason, note, None);
        }
    }
}

fn labels(conflict: &Conflict) -> [&str; 7] {
    [
        conflict.property.name(),
        &conflict.pod.namespace,
        &conflict.pod.name,
        &conflict.value,
        &conflict.other.namespace,
        &conflict.other.name,
        &conflict.other_value,
    ]
}

static CONFLICTS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    metrics::gauge_vec(
        "selinux_warning_controller_selinux_volume_conflict",
        "Conflict between two Pods using the same volume",
        Stability::Alpha,
        &[
            "property",
            "pod1_namespace",
            "pod1_name",
            "pod1_value",
            "pod2_namespace",
            "pod2_name",
            "pod2_value",
        ],
    )
});
