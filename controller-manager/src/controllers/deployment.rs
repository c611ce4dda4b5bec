//! Deployments: replica sets for every version of the template, scaled so that service never stops.
//!
//! Contract: upstream's `pkg/controller/deployment`: revisions, hash label, rolling and recreate
//! strategies, history limit, conditions.

mod plan;

use std::sync::Arc;

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    hash::template_hash,
    informer::{Informer, ListWatch},
    meta::{ObjectKey, controller_of, key_of, new_controller_ref},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use self::plan::{Action, REVISION};
use super::{Context, enqueue_changes};

#[derive(Clone)]
struct Controller {
    client: Client,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    recorder: Recorder,
    clock: component_base::clock::SharedClock,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        deployments: ctx.informers.get(ListWatch::default()),
        sets: ctx.informers.get(ListWatch::default()),
        recorder: ctx.recorder("deployment-controller"),
        clock: ctx.clock.clone(),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("deployment");
    enqueue_changes(&controller.deployments, &queue);
    let of_set = queue.clone();
    controller.sets.on_event(move |event| {
        let meta = &event.object().metadata;
        if let Some(owner) = controller_of(meta).filter(|o| o.kind == "Deployment") {
            of_set.add(ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), owner.name.as_str()));
        }
    });
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-deployment-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.deployments.wait_synced().await;
        self.sets.wait_synced().await;
        let Some(deployment) =
            self.deployments.store().get(key).filter(|d| d.metadata.deletion_timestamp.is_none())
        else {
            return Ok(Outcome::Done);
        };
        let all = self.sets.store().in_namespace(&key.namespace);
        let owned: Vec<Arc<ReplicaSet>> = all
            .into_iter()
            .filter(|s| {
                controller_of(&s.metadata).is_some_and(|o| Some(&o.uid) == deployment.metadata.uid.as_ref())
            })
            .collect();
        let now = self.clock.now();
        let plan = plan::plan(&deployment, &owned, now);
        for action in &plan.actions {
            self.act(key, &deployment, action).await?;
        }
        if plan.actions.iter().any(|a| matches!(a, Action::Revision(_))) {
            // The deployment itself has been written: its event brings the next round, and the status with it.
            return Ok(Outcome::Done);
        }
        if deployment.status.as_ref() != Some(&plan.status) {
            let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
            let next = Deployment { status: Some(plan.status), ..(*deployment).clone() };
            gone_is_fine(api.replace_status(&key.name, &PostParams::default(), &next).await)?;
        }
        Ok(plan.check_after.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    async fn act(
        &self,
        key: &ObjectKey,
        deployment: &Arc<Deployment>,
        action: &Action,
    ) -> Result<(), kube::Error> {
        let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams::default();
        match action {
            Action::Create { replicas, revision } => {
                self.create(deployment, *replicas, *revision, &sets).await
            }
            Action::Scale { set, to } => {
                let from = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
                let name = set.metadata.name.clone().unwrap_or_default();
                let desired = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
                let body = json!({
                    "metadata": {"resourceVersion": set.metadata.resource_version, "annotations": plan::size_annotations(deployment, desired)},
                    "spec": {"replicas": to},
                });
                self.remember(gone_is_fine(sets.patch(&name, &params, &Patch::Merge(body)).await)?).await;
                if *to == from {
                    return Ok(());
                }
                let word = if *to > from { "up" } else { "down" };
                let note = format!("Scaled {word} replica set {name} from {from} to {to}");
                self.recorder.event(
                    &reference(deployment.as_ref()),
                    EventType::Normal,
                    "ScalingReplicaSet",
                    "ScalingReplicaSet",
                    note,
                    None,
                );
                Ok(())
            }
            Action::Annotate { set, revision } => {
                let body = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
                let name = set.metadata.name.clone().unwrap_or_default();
                self.remember(gone_is_fine(sets.patch(&name, &params, &Patch::Merge(body)).await)?).await;
                Ok(())
            }
            Action::Revision(revision) => {
                let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
                let mut next = (**deployment).clone();
                let annotations = next.metadata.annotations.get_or_insert_default();
                annotations.insert(REVISION.to_owned(), revision.to_string());
                gone_is_fine(api.replace(&key.name, &PostParams::default(), &next).await).map(drop)
            }
            Action::Delete(set) => {
                let name = set.metadata.name.clone().unwrap_or_default();
                match sets.delete(&name, &DeleteParams::default()).await {
                    Err(e) if !client::is_not_found(&e) => Err(e),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Makes the replica set of the current template; a set of the same name but another template is a hash
    /// collision, which the next round avoids with a higher collision count.
    async fn create(
        &self,
        deployment: &Arc<Deployment>,
        replicas: i32,
        revision: i64,
        sets: &Api<ReplicaSet>,
    ) -> Result<(), kube::Error> {
        let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
        let template = deployment.spec.as_ref().map(|s| &s.template);
        let hash = template_hash(&template, collisions).map_err(kube::Error::SerdeError)?;
        let mut set = plan::new_set(deployment, &hash, replicas, revision);
        set.metadata.owner_references = Some(vec![new_controller_ref(deployment.as_ref())]);
        let name = set.metadata.name.clone().unwrap_or_default();
        match sets.create(&PostParams::default(), &set).await {
            Ok(made) => {
                self.remember(Some(made)).await;
                if replicas == 0 {
                    return Ok(());
                }
                let note = format!("Scaled up replica set {name} from 0 to {replicas}");
                self.recorder.event(
                    &reference(deployment.as_ref()),
                    EventType::Normal,
                    "ScalingReplicaSet",
                    "ScalingReplicaSet",
                    note,
                    None,
                );
                Ok(())
            }
            Err(error) if client::is_already_exists(&error) => {
                let there = sets.get(&name).await?;
                let ours = controller_of(&there.metadata)
                    .is_some_and(|o| Some(&o.uid) == deployment.metadata.uid.as_ref());
                if ours && plan::same_template(&there, deployment) {
                    return Ok(());
                }
                let api: Api<Deployment> = Api::namespaced(
                    self.client.clone(),
                    deployment.metadata.namespace.as_deref().unwrap_or_default(),
                );
                let mut next = (**deployment).clone();
                next.status.get_or_insert_default().collision_count = Some(collisions.unwrap_or(0) + 1);
                let own = deployment.metadata.name.as_deref().unwrap_or_default();
                gone_is_fine(api.replace_status(own, &PostParams::default(), &next).await)?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until our own write shows in the cache: the next round must not act on the state before.
    async fn remember(&self, set: Option<ReplicaSet>) {
        if let Some(set) = set {
            let version = set.metadata.resource_version.clone().unwrap_or_default();
            self.sets.wait_seen(&key_of(&set.metadata), &version).await;
        }
    }
}

fn gone_is_fine<K>(result: Result<K, kube::Error>) -> Result<Option<K>, kube::Error> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(e) if client::is_not_found(&e) => Ok(None),
        Err(e) => Err(e),
    }
}
