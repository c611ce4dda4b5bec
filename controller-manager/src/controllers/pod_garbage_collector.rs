//! Pods nobody will end any more, and finished pods beyond the limit.
//!
//! Contract: upstream's `pod-garbage-collector-controller` (`pkg/controller/podgc`): every 20 s; a node must be
//! missing for 40 s, and be missing at the API server too, before its pods go.

mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    informer::{Informer, ListWatch},
    metrics::{self, Stability},
    workqueue::chain,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client};
use parking_lot::Mutex;
use prometheus::IntCounterVec;

use super::{Context, pod_disruption, run_every};

/// Between two passes.
const PERIOD: Duration = Duration::from_secs(20);
const ORPHANED: pod_disruption::Reason =
    pod_disruption::Reason { reason: "DeletionByPodGC", message: "PodGC: node no longer exists" };

#[derive(Clone)]
struct Controller {
    client: Client,
    clock: SharedClock,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    threshold: usize,
    /// Nodes that pods name but that do not exist, with when that was first seen.
    missing: Arc<Mutex<BTreeMap<String, Timestamp>>>,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        clock: ctx.clock.clone(),
        pods: ctx.informers.get(ListWatch::default()),
        nodes: ctx.informers.get(ListWatch::default()),
        threshold: ctx.settings.terminated_pods,
        missing: Arc::default(),
    };
    run_every(&ctx.tasks, "pod-garbage-collector-controller", PERIOD, move || {
        let controller = controller.clone();
        async move { controller.pass().await }
    });
}

impl Controller {
    async fn pass(&self) -> Result<(), kube::Error> {
        self.pods.wait_synced().await;
        self.nodes.wait_synced().await;
        let (pods, nodes) = (self.pods.store().list(), self.nodes.store().list());
        let due = plan::quarantine(&mut self.missing.lock(), &pods, &nodes, self.clock.now());
        let gone = self.really_gone(due).await?;
        for (pod, reason) in plan::doomed(&pods, &nodes, &gone, self.threshold) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let why = (reason == plan::Reason::Orphaned).then_some(ORPHANED);
            let labels = [namespace, reason.as_str()];
            DELETIONS.with_label_values(&labels).inc();
            if let Err(error) = pod_disruption::force(&self.client, &self.clock, pod, why).await {
                ERRORS.with_label_values(&labels).inc();
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                tracing::error!(
                    namespace,
                    name,
                    reason = reason.as_str(),
                    error = chain(&error),
                    "pod not removed"
                );
            }
        }
        Ok(())
    }

    /// Of these nodes, those the API server does not know either.
    async fn really_gone(&self, names: Vec<String>) -> Result<BTreeSet<String>, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut gone = BTreeSet::new();
        for name in names {
            match api.get_metadata(&name).await {
                Ok(_) => {}
                Err(e) if client::is_not_found(&e) => drop(gone.insert(name)),
                Err(e) => return Err(e),
            }
        }
        Ok(gone)
    }
}

static DELETIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "pod_gc_collector_force_delete_pods_total",
        "Number of pods that are being forcefully deleted since the Pod GC Controller started.",
        Stability::Alpha,
        &["namespace", "reason"],
    )
});

static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "pod_gc_collector_force_delete_pod_errors_total",
        "Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.",
        Stability::Alpha,
        &["namespace", "reason"],
    )
});
