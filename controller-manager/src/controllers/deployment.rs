//! Deployments: replica sets for every version of the template, scaled so that service never stops.
//!
//! Contract: upstream's `pkg/controller/deployment`: revisions, hash label, rolling and recreate
//! strategies, history limit, conditions.

mod plan;

use std::sync::Arc;

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    features::Gate,
    informer::{Event, Informer, ListWatch, Object},
    meta::{ObjectKey, controller_of, is_controlled_by, key_of, object_key},
    selector::LabelSelector,
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use self::plan::{Action, REVISION};
use super::{Context, enqueue_changes, ownership, pod_control, pod_disruption::is_finished};

/// Why a round did not come to its end.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("the template")]
    Template(#[from] serde_json::Error),
}

/// The index of sets by the uid of their controller.
const BY_CONTROLLER: &str = "controller";

#[derive(Clone)]
struct Controller {
    client: Client,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    /// What holds up a deployment that makes no new pods before the old ones are gone.
    pods: Informer<Pod>,
    recorder: Recorder,
    clock: component_base::clock::SharedClock,
    /// Whether statuses tell of pods on their way out (`DeploymentReplicaSetTerminatingReplicas`).
    tells_ending: bool,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        deployments: ctx.informers.get(ListWatch::default()),
        sets: ctx.informers.get(ListWatch::default()),
        pods: ctx.informers.get(ListWatch::default()),
        recorder: ctx.recorder("deployment-controller"),
        clock: ctx.clock.clone(),
        tells_ending: ctx.settings.gates.has(Gate::DeploymentReplicaSetTerminatingReplicas),
    };
    pod_control::index_by_controller(&controller.pods);
    controller.sets.add_index(BY_CONTROLLER, |set| {
        controller_of(&set.metadata).map(|o| o.uid.clone()).into_iter().collect()
    });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("deployment");
    enqueue_changes(&controller.deployments, &queue);
    let (watching, of_set) = (controller.clone(), queue.clone());
    controller.sets.on_event(move |event| watching.follow(&event, &of_set));
    let (watching, of_pod) = (controller.clone(), queue.clone());
    controller.pods.on_event(move |event| watching.follow_pod(&event, &of_pod));
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-deployment-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    /// Queues the deployment of a set, the one that had it before, and those that may adopt it.
    fn follow(&self, event: &Event<ReplicaSet>, queue: &WorkQueue<ObjectKey>) {
        let set = event.object();
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let owner = |set: &ReplicaSet| {
            let owner = controller_of(&set.metadata).filter(|o| o.kind == "Deployment")?;
            Some(ObjectKey::new(namespace, owner.name.as_str()))
        };
        if let Event::Updated { old, .. } = event {
            owner(old).into_iter().for_each(|key| queue.add(key));
        }
        if let Some(key) = owner(set) {
            queue.add(key);
        } else if controller_of(&set.metadata).is_none() && !matches!(event, Event::Deleted { .. }) {
            let selects = |d: &Arc<Deployment>| {
                selector(d).is_some_and(|s| !s.is_everything() && s.matches(&set.metadata.labels))
            };
            let candidates = self.deployments.store().in_namespace(namespace).into_iter().filter(selects);
            candidates.for_each(|d| queue.add(object_key(d.as_ref())));
        }
    }

    /// Queues the deployment that may have waited for a pod to go.
    fn follow_pod(&self, event: &Event<Pod>, queue: &WorkQueue<ObjectKey>) {
        let is_over = match event {
            Event::Added { .. } => false,
            Event::Updated { old, new } => is_finished(new) && !is_finished(old),
            Event::Deleted { last, .. } => !is_finished(last),
        };
        let pod = event.object();
        let Some(owner) = controller_of(&pod.metadata).filter(|o| is_over && o.kind == "ReplicaSet") else {
            return;
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let set = self.sets.store().get(&ObjectKey::new(namespace, owner.name.as_str()));
        let parent =
            set.as_ref().and_then(|set| controller_of(&set.metadata)).filter(|o| o.kind == "Deployment");
        let Some(key) = parent.map(|o| ObjectKey::new(namespace, o.name.as_str())) else { return };
        if self.deployments.store().get(&key).is_some_and(|d| plan::recreates(&d)) {
            queue.add(key);
        }
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, SyncError> {
        self.deployments.wait_synced().await;
        self.sets.wait_synced().await;
        self.pods.wait_synced().await;
        let Some(deployment) = self.deployments.store().get(key) else { return Ok(Outcome::Done) };
        let Some(selector) = selector(&deployment) else { return Ok(Outcome::Done) };
        if selector.is_everything() {
            return self.refuse(key, &deployment).await;
        }
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = self.sets.store().by_index(BY_CONTROLLER, uid);
        let mut orphans = self.sets.store().in_namespace(&key.namespace);
        orphans.retain(|set| controller_of(&set.metadata).is_none());
        candidates.append(&mut orphans);
        let owned =
            ownership::claim(&self.client, deployment.as_ref(), None, &selector, candidates, |_| true)
                .await?;
        if let Some(back) = plan::rollback(&deployment, &owned) {
            let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
            let written =
                gone_is_fine(api.replace(&key.name, &PostParams::default(), &back.deployment).await)?;
            self.tell(&deployment, back.kind, back.reason, back.note);
            self.seen(&self.deployments, written.map(|d| d.metadata)).await;
            return Ok(Outcome::Done);
        }
        let has_pods = |set: &ReplicaSet| {
            let pods =
                pod_control::by_controller(&self.pods, set.metadata.uid.as_deref().unwrap_or_default());
            pods.iter().any(|pod| !is_finished(pod))
        };
        let view = plan::View { has_pods: &has_pods, tells_ending: self.tells_ending, now: self.clock.now() };
        let plan = plan::plan(&deployment, &owned, view)?;
        let mut current = deployment.clone();
        for action in &plan.actions {
            if let Some(written) = self.act(key, &deployment, action).await? {
                current = Arc::new(written);
            }
        }
        self.write(key, &current, plan.status).await?;
        Ok(plan.check_after.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    /// A deployment that selects everything is only told so.
    async fn refuse(&self, key: &ObjectKey, deployment: &Deployment) -> Result<Outcome, SyncError> {
        let note = "This deployment is selecting all pods. A non-empty selector is required.";
        self.tell(deployment, EventType::Warning, "SelectingAll", note.to_owned());
        let mut status = deployment.status.clone().unwrap_or_default();
        status.observed_generation = deployment.metadata.generation;
        self.write(key, deployment, status).await?;
        Ok(Outcome::Done)
    }

    async fn write(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        status: DeploymentStatus,
    ) -> Result<(), kube::Error> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let next = Deployment { status: Some(status), ..deployment.clone() };
        let written = gone_is_fine(api.replace_status(&key.name, &PostParams::default(), &next).await)?;
        self.seen(&self.deployments, written.map(|d| d.metadata)).await;
        Ok(())
    }

    /// Carries out one step; returns the deployment where the step has written it.
    async fn act(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        action: &Action,
    ) -> Result<Option<Deployment>, kube::Error> {
        let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        match action {
            Action::Create(set) => self.create(key, deployment, set, &sets).await?,
            Action::Scale { set, to } => self.scale(deployment, set, *to, &sets).await?,
            Action::Renew { set, annotations, min_ready_seconds } => {
                let mut body = json!({"metadata": {
                    "resourceVersion": set.metadata.resource_version, "annotations": annotations}});
                if let Some(seconds) = min_ready_seconds {
                    body["spec"] = json!({"minReadySeconds": seconds});
                }
                self.patch(set, body, &sets).await?;
            }
            Action::Revision(revision) => {
                let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
                let mut next = deployment.clone();
                let annotations = next.metadata.annotations.get_or_insert_default();
                annotations.insert(REVISION.to_owned(), revision.to_string());
                return gone_is_fine(api.replace(&key.name, &PostParams::default(), &next).await);
            }
            Action::Delete(set) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                gone_is_fine(sets.delete(name, &DeleteParams::default()).await)?;
            }
        }
        Ok(None)
    }

    async fn scale(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        to: i32,
        sets: &Api<ReplicaSet>,
    ) -> Result<(), kube::Error> {
        let from = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let body = json!({
            "metadata": {"resourceVersion": set.metadata.resource_version,
                "annotations": plan::size_annotations(deployment)},
            "spec": {"replicas": to},
        });
        self.patch(set, body, sets).await?;
        if to != from {
            let word = if to > from { "up" } else { "down" };
            let name = set.metadata.name.as_deref().unwrap_or_default();
            self.tell_scaled(deployment, format!("Scaled {word} replica set {name} from {from} to {to}"));
        }
        Ok(())
    }

    async fn patch(
        &self,
        set: &ReplicaSet,
        body: serde_json::Value,
        sets: &Api<ReplicaSet>,
    ) -> Result<(), kube::Error> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let written = gone_is_fine(sets.patch(name, &PatchParams::default(), &Patch::Merge(body)).await)?;
        self.seen(&self.sets, written.map(|s| s.metadata)).await;
        Ok(())
    }

    /// Makes the replica set of the current template; a set of the same name but another template is a hash
    /// collision, which the next round avoids with a higher collision count.
    async fn create(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        set: &ReplicaSet,
        sets: &Api<ReplicaSet>,
    ) -> Result<(), kube::Error> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        match sets.create(&PostParams::default(), set).await {
            Ok(made) => {
                self.seen(&self.sets, Some(made.metadata)).await;
                let replicas = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
                if replicas > 0 {
                    self.tell_scaled(
                        deployment,
                        format!("Scaled up replica set {name} from 0 to {replicas}"),
                    );
                }
                Ok(())
            }
            Err(error) if client::is_already_exists(&error) => {
                let there = sets.get(name).await?;
                let ours = is_controlled_by(&there.metadata, &deployment.metadata);
                if ours && plan::same_template(&there, deployment) {
                    return Ok(());
                }
                let mut status = deployment.status.clone().unwrap_or_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                self.write(key, deployment, status).await?;
                Err(error)
            }
            // Nothing can be made in a namespace that ends.
            Err(error) if client::is_namespace_terminating(&error) => Err(error),
            Err(error) => {
                let why = chain(&error);
                let (message, status) = plan::create_failed(deployment, name, &why, self.clock.now());
                self.tell(deployment, EventType::Warning, "ReplicaSetCreateError", message);
                if let Some(status) = status {
                    self.write(key, deployment, status).await?;
                }
                Err(error)
            }
        }
    }

    fn tell_scaled(&self, deployment: &Deployment, note: String) {
        self.tell(deployment, EventType::Normal, "ScalingReplicaSet", note);
    }

    fn tell(&self, deployment: &Deployment, kind: EventType, reason: &str, note: String) {
        self.recorder.event(&reference(deployment), kind, reason, reason, note, None);
    }

    /// Waits until our own write shows in the cache: the next round must not act on the state before.
    async fn seen<K: Object>(&self, informer: &Informer<K>, written: Option<ObjectMeta>) {
        if let Some(meta) = written {
            informer.wait_seen(&key_of(&meta), meta.resource_version.as_deref().unwrap_or_default()).await;
        }
    }
}

fn selector(deployment: &Deployment) -> Option<LabelSelector> {
    LabelSelector::from_api(deployment.spec.as_ref().map(|s| &s.selector)).ok()
}

fn gone_is_fine<K>(result: Result<K, kube::Error>) -> Result<Option<K>, kube::Error> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(e) if client::is_not_found(&e) => Ok(None),
        Err(e) => Err(e),
    }
}
