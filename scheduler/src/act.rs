//! Carrying decisions out: bindings, evictions, conditions and events. Decides nothing.

use std::sync::Arc;

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder},
    task::Tasks,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::{cycle::Change, model::PodInfo};

/// Bindings under way at once; more wait their turn.
const BINDINGS: usize = 32;

/// The way to the API server.
#[derive(Clone)]
pub struct Actor {
    client: Client,
    recorder: Recorder,
    clock: SharedClock,
    back: mpsc::UnboundedSender<Change>,
    tasks: Tasks,
    permits: Arc<Semaphore>,
}

impl Actor {
    /// An actor that reports results through `back`.
    pub fn new(
        client: Client,
        recorder: Recorder,
        clock: SharedClock,
        back: mpsc::UnboundedSender<Change>,
        tasks: Tasks,
    ) -> Self {
        Self { client, recorder, clock, back, tasks, permits: Arc::new(Semaphore::new(BINDINGS)) }
    }

    /// Binds a pod to a node, in the background; a failure comes back as a change.
    pub fn bind(&self, pod: &Arc<PodInfo>, node: String) {
        let (actor, pod) = (self.clone(), pod.clone());
        self.tasks.spawn("binding", async move {
            let _permit = actor.permits.acquire().await;
            match actor.post_binding(&pod, &node).await {
                Ok(()) => actor.event(
                    &pod,
                    EventType::Normal,
                    "Scheduled",
                    "Binding",
                    &format!("Successfully assigned {} to {node}", pod.key()),
                ),
                Err(error) => {
                    tracing::error!(pod = pod.key(), node, %error, "binding failed");
                    // The loop is gone only when the daemon drains.
                    drop(actor.back.send(Change::BindingFailed { pod, gone: client::is_not_found(&error) }));
                }
            }
        });
    }

    async fn post_binding(&self, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        api.create_subresource::<Value, Value>("binding", &pod.name, &PostParams::default(), &body)
            .await
            .map(drop)
    }

    /// Tells why a pod found no node: event and condition.
    pub fn unschedulable(
        &self,
        pod: &Arc<PodInfo>,
        reason: &'static str,
        message: String,
        nominated: Option<String>,
    ) {
        self.event(pod, EventType::Warning, "FailedScheduling", "Scheduling", &message);
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": now(&self.clock),
        });
        let mut status = json!({"conditions": [condition]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = node.into();
        }
        self.patch_status(pod, status);
    }

    /// Evicts a pod for a more important one.
    pub fn evict(&self, victim: &Arc<PodInfo>, preemptor: &Arc<PodInfo>, node: &str) {
        let note = format!("Preempted by pod {} on node {node}", preemptor.uid);
        self.event(victim, EventType::Normal, "Preempted", "Preempting", &note);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("default-scheduler: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": now(&self.clock),
        });
        self.patch_status(victim, json!({"conditions": [condition]}));
        let (actor, victim) = (self.clone(), victim.clone());
        self.tasks.spawn("eviction", async move {
            let api: Api<Pod> = Api::namespaced(actor.client.clone(), &victim.namespace);
            let same = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
            match api.delete(&victim.name, &params).await {
                Err(e) if !client::is_not_found(&e) => {
                    tracing::error!(pod = victim.key(), error = %e, "eviction failed")
                }
                _ => {}
            }
        });
    }

    fn patch_status(&self, pod: &Arc<PodInfo>, status: Value) {
        let (actor, pod) = (self.clone(), pod.clone());
        self.tasks.spawn("pod status", async move {
            let api: Api<Pod> = Api::namespaced(actor.client.clone(), &pod.namespace);
            let body = json!({"metadata": {"uid": pod.uid}, "status": status});
            match api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(body)).await {
                Err(e) if !client::is_not_found(&e) => {
                    tracing::warn!(pod = pod.key(), error = %e, "status not written")
                }
                _ => {}
            }
        });
    }

    fn event(&self, pod: &PodInfo, kind: EventType, reason: &str, action: &str, note: &str) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            resource_version: Some(pod.resource_version.clone()),
            ..ObjectReference::default()
        };
        self.recorder.event(&about, kind, reason, action, note, None);
    }
}

/// Now as the API writes times: whole seconds.
fn now(clock: &SharedClock) -> String {
    clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
