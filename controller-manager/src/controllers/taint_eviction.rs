//! Pods that do not tolerate a NoExecute taint of their node are evicted, after the time they tolerate it.
//!
//! Contract: upstream's `taint-eviction-controller` (`pkg/controller/tainteviction`).

mod plan;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::{
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    features::Gate,
    informer::{Informer, ListWatch},
    meta::{ObjectKey, object_key},
    metrics::{self, Stability},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter};

use super::{Context, PODS_BY_NODE, pod_disruption, pods_by_node};

/// Pods worked on at once.
const WORKERS: usize = 8;
const WHY: pod_disruption::Reason = pod_disruption::Reason {
    reason: "DeletionByTaintManager",
    message: "Taint manager: deleting due to NoExecute taint",
};

#[derive(Clone)]
struct Controller {
    client: Client,
    clock: SharedClock,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    recorder: Recorder,
    /// Whether tolerations may compare numbers.
    compare: bool,
    /// Evictions to come, by pod: what is remembered is since when the pod has had to go.
    pending: Arc<Mutex<HashMap<ObjectKey, plan::Pending>>>,
}

pub(super) fn start(ctx: &Context) {
    // Shown from the start, with nothing.
    LazyLock::force(&DELETIONS);
    LazyLock::force(&LATENCY);
    let controller = Controller {
        client: ctx.client.clone(),
        clock: ctx.clock.clone(),
        nodes: ctx.informers.get(ListWatch::default()),
        pods: pods_by_node(ctx),
        recorder: ctx.recorder("taint-eviction-controller"),
        compare: ctx.settings.gates.has(Gate::TaintTolerationComparisonOperators),
        pending: Arc::default(),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("noexec_taint_pod");
    let of_pod = queue.clone();
    // A pod without a node has nothing to fear; one that is gone is forgotten.
    controller.pods.on_event(move |event| {
        if event.object().spec.as_ref().is_some_and(|s| s.node_name.is_some()) {
            of_pod.add(object_key(event.object().as_ref()));
        }
    });
    let (pods, of_node) = (controller.pods.clone(), queue.clone());
    controller.nodes.on_event(move |event| {
        use component_base::informer::Event;
        let changed = match &event {
            Event::Updated { old, new } => plan::no_execute(old) != plan::no_execute(new),
            Event::Added { new, .. } => !plan::no_execute(new).is_empty(),
            Event::Deleted { .. } => true,
        };
        if changed {
            let name = event.object().metadata.name.as_deref().unwrap_or_default();
            for pod in pods.store().by_index(PODS_BY_NODE, name) {
                of_node.add(object_key(pod.as_ref()));
            }
        }
    });
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.nodes.wait_synced().await;
        self.pods.wait_synced().await;
        let pod = self.pods.store().get(key);
        let node = pod.as_deref().and_then(|p| p.spec.as_ref()?.node_name.clone());
        let node = node.and_then(|name| self.nodes.store().get(&ObjectKey::cluster(name)));
        let pending = self.pending.lock().get(key).cloned();
        let now = self.clock.now();
        let decision = plan::decide(pod.as_deref(), node.as_deref(), pending.as_ref(), now, self.compare);
        match (decision, pod) {
            (plan::Decision::Evict { since }, Some(pod)) => {
                self.evict(&pod, since).await?;
                self.pending.lock().remove(key);
                Ok(Outcome::Done)
            }
            (plan::Decision::Wait(next), _) => {
                let left = next.due.duration_since(now);
                self.pending.lock().insert(key.clone(), next);
                let left = Duration::try_from(left).unwrap_or_default();
                // The next look is at the due second, not just before it.
                Ok(Outcome::RequeueAfter(left + Duration::from_millis(1)))
            }
            (_, pod) => {
                if self.pending.lock().remove(key).is_some()
                    && let Some(pod) = pod.filter(|p| p.metadata.deletion_timestamp.is_none())
                {
                    self.tell(&pod, format!("Cancelling deletion of Pod {key}"));
                }
                Ok(Outcome::Done)
            }
        }
    }

    async fn evict(&self, pod: &Arc<Pod>, since: Timestamp) -> Result<(), kube::Error> {
        self.tell(pod, format!("Marking for deletion Pod {}", object_key(pod.as_ref())));
        if pod_disruption::evict(&self.client, &self.clock, &self.pods, pod, WHY).await? {
            DELETIONS.inc();
            LATENCY.observe(self.clock.since(since).as_secs_f64());
        }
        Ok(())
    }

    fn tell(&self, pod: &Arc<Pod>, note: String) {
        let regarding = reference(pod.as_ref());
        self.recorder.event(&regarding, EventType::Normal, "TaintManagerEviction", "Eviction", note, None);
    }
}

static DELETIONS: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "taint_eviction_controller_pod_deletions_total",
        "Total number of Pods deleted by TaintEvictionController since its start.",
        Stability::Alpha,
    )
});

static LATENCY: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "taint_eviction_controller_pod_deletion_duration_seconds",
        "Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController.",
        Stability::Alpha,
        vec![0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0],
    )
});
