//! Pods go from devices that have a NoExecute taint their claims do not tolerate.
//!
//! ```text
//! ResourceSlice (taints) → ResourceClaim (allocated devices, tolerations) → pod: time to go (pure) → eviction
//! ```
//! Contract: KEP-5055; upstream's `device-taint-eviction-controller`. DeviceTaintRules, off by default, are not looked
//! at: taints are those that drivers publish.

mod plan;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::{
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, object_key},
    metrics::{self, Stability},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::Pod,
    resource::v1::{ResourceClaim, ResourceSlice},
};
use kube::Client;
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter};

use super::{Context, pod_disruption, resource_claim::claims_of};

const REASON: &str = "DeviceTaintManagerEviction";
const WHY: pod_disruption::Reason = pod_disruption::Reason {
    reason: "DeletionByDeviceTaintManager",
    message: "Device Taint manager: deleting due to NoExecute taint",
};
/// Slices, and claims with devices of them, as `driver/pool`.
const BY_POOL: &str = "pool of devices";

#[derive(Clone)]
struct Controller {
    client: Client,
    clock: SharedClock,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    recorder: Recorder,
    /// Evictions to come: their time, by pod.
    pending: Arc<Mutex<HashMap<ObjectKey, Timestamp>>>,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        clock: ctx.clock.clone(),
        pods: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        slices: ctx.informers.get(ListWatch::default()),
        recorder: ctx.recorder("device-taint-eviction"),
        pending: Arc::default(),
    };
    controller.slices.add_index(BY_POOL, |slice| vec![plan::pool(slice)]);
    controller.claims.add_index(BY_POOL, plan::pools);
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("device_taint_eviction");
    let of_pod = queue.clone();
    controller.pods.on_event(move |event| {
        let pod = event.object();
        if !claims_of(pod).is_empty() {
            of_pod.add(object_key(pod.as_ref()));
        }
    });
    let of_claim = queue.clone();
    controller.claims.on_event(move |event| {
        if let Event::Updated { old, .. } = &event {
            plan::consumers(old).for_each(|key| of_claim.add(key));
        }
        plan::consumers(event.object()).for_each(|key| of_claim.add(key));
    });
    let (claims, of_slice) = (controller.claims.clone(), queue.clone());
    controller.slices.on_event(move |event| {
        for claim in claims.store().by_index(BY_POOL, &plan::pool(event.object())) {
            plan::consumers(&claim).for_each(|key| of_slice.add(key));
        }
    });
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-device-taint-eviction-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.pods.wait_synced().await;
        self.claims.wait_synced().await;
        self.slices.wait_synced().await;
        let pod = self.pods.store().get(key).filter(|pod| plan::may_go(pod));
        let due = pod.as_deref().and_then(|pod| self.due(pod));
        let (Some(pod), Some(due)) = (pod, due) else {
            if self.pending.lock().remove(key).is_some()
                && let Some(pod) = self.pods.store().get(key).filter(|pod| plan::may_go(pod))
            {
                self.tell(&pod, "Cancelling deletion");
            }
            return Ok(Outcome::Done);
        };
        let left = due.duration_since(self.clock.now());
        match Duration::try_from(left).ok().filter(|left| !left.is_zero()) {
            Some(left) => {
                self.pending.lock().insert(key.clone(), due);
                Ok(Outcome::RequeueAfter(left + Duration::from_millis(1)))
            }
            None => {
                self.tell(&pod, "Marking for deletion");
                pod_disruption::evict(&self.client, &self.clock, &pod, WHY).await?;
                self.pending.lock().remove(key);
                DELETIONS.inc();
                LATENCY.observe(self.clock.since(due).as_secs_f64());
                Ok(Outcome::Done)
            }
        }
    }

    /// When a pod has to go, if one of its claims says so.
    fn due(&self, pod: &Pod) -> Option<Timestamp> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let claims = claims_of(pod).into_iter();
        let claims = claims.filter_map(|name| self.claims.store().get(&ObjectKey::new(namespace, name)));
        let used = claims.filter(|claim| plan::is_reserved(claim, pod));
        used.filter_map(|claim| plan::due(&claim, &|pool: &str| self.slices.store().by_index(BY_POOL, pool)))
            .min()
    }

    fn tell(&self, pod: &Pod, note: &str) {
        self.recorder.event(&reference(pod), EventType::Normal, REASON, "Eviction", note, None);
    }
}

static DELETIONS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "device_taint_eviction_controller_pod_deletions_total",
        "Total number of Pods deleted by DeviceTaintEvictionController since its start.",
        Stability::Alpha,
    )
});

static LATENCY: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "device_taint_eviction_controller_pod_deletion_duration_seconds",
        "Latency, in seconds, between the time when a device taint effect has been activated and a Pod's deletion via DeviceTaintEvictionController.",
        Stability::Alpha,
        vec![0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0],
    )
});
