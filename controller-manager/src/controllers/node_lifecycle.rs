//! Nodes that stop reporting, and taints that say what is wrong with a node.
//!
//! Contract: upstream's `node-lifecycle-controller` (`pkg/controller/nodelifecycle`):
//!
//! ```text
//! lease, heartbeat → health → Ready=Unknown, pods not ready
//! conditions → NoSchedule taints at once; NoExecute taints as fast as the zone's state allows
//! NoExecute taints → the taint eviction controller
//! ```

mod health;
mod taints;
mod zones;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::ObjectKey,
    metrics::{self, Stability, exponential_buckets},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use prometheus::{GaugeVec, Histogram, IntCounterVec, IntGaugeVec};
use serde_json::{Value, json};

use super::{Context, PODS_BY_NODE, pods_by_node, run_every};
use crate::settings::NodeSettings;

/// Nodes tainted at once.
const WORKERS: usize = 4;
/// How soon a node that is held is looked at again at the earliest.
const LEAST_WAIT: Duration = Duration::from_millis(100);
const LEASES: &str = "kube-node-lease";

#[derive(Clone)]
struct Controller {
    client: Client,
    api: Api<Node>,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    recorder: Recorder,
    clock: SharedClock,
    settings: NodeSettings,
    model: Arc<Mutex<Model>>,
}

/// What is remembered between passes.
#[derive(Debug, Default)]
struct Model {
    /// Nodes by name, with when they were last heard of.
    health: BTreeMap<String, health::Health>,
    zones: zones::Zones,
}

pub(super) fn start(ctx: &Context) {
    // Shown from the start, with nothing.
    LazyLock::force(&HEALTH);
    LazyLock::force(&ALL_HEALTH);
    let leases = ListWatch { namespace: Some(LEASES.into()), ..ListWatch::default() };
    let controller = Controller {
        client: ctx.client.clone(),
        api: Api::all(ctx.client.clone()),
        nodes: ctx.informers.get(ListWatch::default()),
        leases: ctx.informers.get(leases),
        pods: pods_by_node(ctx),
        recorder: ctx.recorder("node-controller"),
        clock: ctx.clock.clone(),
        settings: ctx.settings.nodes.clone(),
        model: Arc::default(),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("node_lifecycle_controller");
    super::enqueue_changes(&controller.nodes, &queue);
    let teller = controller.clone();
    controller.nodes.on_event(move |event| teller.tell_of(&event));
    let (monitor, of_pass) = (controller.clone(), queue.clone());
    run_every(&ctx.tasks, "node-lifecycle-controller", ctx.settings.nodes.period, move || {
        let (monitor, queue) = (monitor.clone(), of_pass.clone());
        async move { monitor.pass(&queue).await }
    });
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    fn tell_of(&self, event: &Event<Node>) {
        let name = event.object().metadata.name.as_deref().unwrap_or_default();
        let (reason, what, place) = match event {
            Event::Added { .. } => ("RegisteredNode", "Registered Node", "in"),
            Event::Deleted { .. } => ("RemovingNode", "Removing Node", "from"),
            Event::Updated { .. } => return,
        };
        let note = format!("Node {name} event: {what} {name} {place} Controller");
        self.recorder.event(
            &reference(event.object().as_ref()),
            EventType::Normal,
            reason,
            reason,
            note,
            None,
        );
    }

    /// Looks at all nodes: who is silent, and how fast pods may be evicted.
    async fn pass(&self, queue: &WorkQueue<ObjectKey>) -> Result<(), kube::Error> {
        self.nodes.wait_synced().await;
        self.leases.wait_synced().await;
        self.pods.wait_synced().await;
        let _all = ALL_HEALTH.start_timer();
        let nodes = self.nodes.store().list();
        for node in &nodes {
            let _one = HEALTH.start_timer();
            if let Err(error) = self.monitor(node).await {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                tracing::error!(node = name, error = chain(&error), "node's health not updated");
            }
        }
        // What monitoring has changed is read back from the store.
        let nodes = self.nodes.store().list();
        let mut model = self.model.lock();
        model.health.retain(|name, _| self.nodes.store().get(&ObjectKey::cluster(name.as_str())).is_some());
        let before: Vec<String> = model.zones.reports().map(|(zone, _)| zone.to_owned()).collect();
        let recovered = model.zones.update(&nodes, &self.settings);
        if recovered {
            // Nobody could be heard while all were silent: all get their full grace again.
            let now = self.clock.now();
            model.health.values_mut().for_each(|h| h.heard = now);
        }
        for (zone, report) in model.zones.reports() {
            ZONE_SIZE.with_label_values(&[zone]).set(i64::try_from(report.size).unwrap_or(i64::MAX));
            UNHEALTHY.with_label_values(&[zone]).set(i64::try_from(report.unhealthy).unwrap_or(i64::MAX));
            ZONE_HEALTH.with_label_values(&[zone]).set(report.health());
        }
        for zone in before.iter().filter(|zone| model.zones.reports().all(|(there, _)| there != **zone)) {
            ZONE_SIZE.with_label_values(&[zone]).set(0);
            UNHEALTHY.with_label_values(&[zone]).set(0);
            ZONE_HEALTH.with_label_values(&[zone]).set(100.0);
        }
        drop(model);
        for node in &nodes {
            queue.add(component_base::meta::object_key(node.as_ref()));
        }
        Ok(())
    }

    /// Says `Unknown` of a silent node and of the readiness of its pods.
    async fn monitor(&self, node: &Arc<Node>) -> Result<(), kube::Error> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let key = ObjectKey::cluster(name);
        let lease = self.leases.store().get(&ObjectKey::new(LEASES, name));
        let now = self.clock.now();
        let unknown = {
            let mut model = self.model.lock();
            let health = health::observe(model.health.get(name), node, lease.as_deref(), now);
            let unknown = health::silent(node, &health, &self.settings, now);
            model.health.insert(name.to_owned(), health);
            unknown
        };
        if let Some(conditions) = &unknown {
            let body = json!({"status": {"conditions": conditions}});
            let patched = self.api.patch_status(name, &PatchParams::default(), &Patch::Strategic(body)).await;
            self.settle(patched, &key).await?;
            if health::ready(node) == Some("True") {
                let note = format!("Node {name} status is now: NodeNotReady");
                let regarding = reference(node.as_ref());
                self.recorder.event(
                    &regarding,
                    EventType::Normal,
                    "NodeNotReady",
                    "NodeNotReady",
                    note,
                    None,
                );
            }
        }
        if unknown.is_some() || health::ready(node) == Some("Unknown") {
            self.pods_not_ready(name).await?;
        }
        Ok(())
    }

    /// Nobody else will say that the pods of a silent node are not ready.
    async fn pods_not_ready(&self, node: &str) -> Result<(), kube::Error> {
        for pod in self.pods.store().by_index(PODS_BY_NODE, node) {
            let Some(condition) = health::not_ready(&pod, Time(self.clock.now())) else { continue };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(body)).await {
                Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => continue,
                Err(e) => return Err(e),
                Ok(_) => {}
            }
            let regarding = reference(pod.as_ref());
            let note = "Node is not ready";
            self.recorder.event(&regarding, EventType::Warning, "NodeNotReady", "NodeNotReady", note, None);
        }
        Ok(())
    }

    /// Brings a node's taints and labels in line with its conditions.
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.nodes.wait_synced().await;
        let Some(node) = self.nodes.store().get(key) else { return Ok(Outcome::Done) };
        let now = self.clock.now();
        let (drive, wait) = {
            let mut model = self.model.lock();
            let drive = taints::drive(&node, |zone| model.zones.may_evict(zone, now));
            let held = drive == taints::Drive::Hold;
            (drive, held.then(|| model.zones.wait(&zones::key(&node), now)).flatten())
        };
        let mut body = json!({});
        if let Some(taints) = taints::wanted(&node, drive, now) {
            // The whole list is replaced, so it must be the list that was read.
            body["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
            body["spec"]["taints"] = json!(taints);
        }
        if let Some(labels) = taints::labels(&node) {
            body["metadata"]["labels"] = json!(labels);
        }
        if body != Value::Object(serde_json::Map::new()) {
            let patched = self.api.patch(&key.name, &PatchParams::default(), &Patch::Merge(body)).await;
            self.settle(patched, key).await?;
            if drive == taints::Drive::Begin {
                EVICTIONS.with_label_values(&[zones::key(&node).as_str()]).inc();
            }
        }
        let wait = wait.map(|wait| Duration::try_from(wait).unwrap_or_default().max(LEAST_WAIT));
        Ok(wait.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    /// Waits for our own write, so that the next round sees it. A conflict is looked at anew.
    async fn settle(&self, result: Result<Node, kube::Error>, key: &ObjectKey) -> Result<(), kube::Error> {
        match result {
            Ok(node) => {
                self.nodes
                    .wait_seen(key, node.metadata.resource_version.as_deref().unwrap_or_default())
                    .await;
                Ok(())
            }
            Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

static ZONE_HEALTH: LazyLock<GaugeVec> = LazyLock::new(|| {
    metrics::float_gauge_vec(
        "node_collector_zone_health",
        "Gauge measuring percentage of healthy nodes per zone.",
        Stability::Alpha,
        &["zone"],
    )
});

static HEALTH: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "node_collector_update_node_health_duration_seconds",
        "Duration in seconds for NodeController to update the health of a single node.",
        Stability::Alpha,
        exponential_buckets(0.001, 4.0, 8),
    )
});

static ALL_HEALTH: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "node_collector_update_all_nodes_health_duration_seconds",
        "Duration in seconds for NodeController to update the health of all nodes.",
        Stability::Alpha,
        exponential_buckets(0.01, 4.0, 8),
    )
});

static ZONE_SIZE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    metrics::gauge_vec(
        "node_collector_zone_size",
        "Gauge measuring number of registered Nodes per zones.",
        Stability::Alpha,
        &["zone"],
    )
});

static UNHEALTHY: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    metrics::gauge_vec(
        "node_collector_unhealthy_nodes_in_zone",
        "Gauge measuring number of not Ready Nodes per zones.",
        Stability::Alpha,
        &["zone"],
    )
});

static EVICTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "node_collector_evictions_total",
        "Number of Node evictions that happened since current instance of NodeController started.",
        Stability::Stable,
        &["zone"],
    )
});
