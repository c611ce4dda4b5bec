//! ReplicaSets: as many pods as asked for.
//!
//! Contract: upstream's `pkg/controller/replicaset`: adoption by selector, slow start of creations, the
//! order in which surplus pods go, expectations before acting on a cached view.

mod plan;

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    expectations::Expectations,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, controller_of, new_controller_ref, object_key},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use super::{Context, enqueue_changes};

/// Workers, as upstream's --concurrent-replicaset-syncs.
const WORKERS: usize = 5;
/// Creations at once at first; doubled while they succeed.
const SLOW_START: usize = 1;

#[derive(Clone)]
struct Controller {
    client: Client,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    expectations: Arc<Expectations>,
    recorder: Recorder,
    clock: component_base::clock::SharedClock,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        sets: ctx.informers.get(ListWatch::default()),
        pods: ctx.informers.get(ListWatch::default()),
        expectations: Arc::new(Expectations::new(ctx.clock.clone())),
        recorder: ctx.recorder("replicaset-controller"),
        clock: ctx.clock.clone(),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("replicaset");
    enqueue_changes(&controller.sets, &queue);
    let (watcher, of_pod) = (controller.clone(), queue.clone());
    controller.pods.on_event(move |event| watcher.pod_changed(&event, &of_pod));
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    fn pod_changed(&self, event: &Event<Pod>, queue: &WorkQueue<ObjectKey>) {
        let pod = event.object();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        match owner_key(pod, &namespace) {
            Some((key, _)) => {
                match event {
                    Event::Added { .. } => self.expectations.creation_observed(&key),
                    Event::Deleted { last, .. } => {
                        self.expectations
                            .deletion_observed_of(&key, last.metadata.uid.as_deref().unwrap_or_default());
                    }
                    Event::Updated { new, .. } if new.metadata.deletion_timestamp.is_some() => {
                        self.expectations
                            .deletion_observed_of(&key, new.metadata.uid.as_deref().unwrap_or_default());
                    }
                    Event::Updated { .. } => {}
                }
                queue.add(key);
            }
            // An orphan may be adopted by any set that selects it.
            None => {
                for set in self.sets.store().in_namespace(&namespace) {
                    if plan::selects(&set, pod) {
                        queue.add(object_key(set.as_ref()));
                    }
                }
            }
        }
        if let Event::Updated { old, .. } = event
            && let Some((key, _)) = owner_key(old, &namespace)
        {
            queue.add(key);
        }
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.sets.wait_synced().await;
        self.pods.wait_synced().await;
        let Some(set) = self.sets.store().get(key) else {
            self.expectations.forget(key);
            return Ok(Outcome::Done);
        };
        let settled = self.expectations.satisfied(key);
        let pods = self.pods.store().in_namespace(&key.namespace);
        let claims = plan::claims(&set, &pods);
        for pod in &claims.adopt {
            self.adopt(&set, pod).await?;
        }
        for pod in &claims.release {
            self.release(&set, pod).await?;
        }
        let owned: Vec<Arc<Pod>> = claims.owned.into_iter().chain(claims.adopt).collect();
        let mut failed = None;
        if settled && set.metadata.deletion_timestamp.is_none() {
            failed = self.scale(key, &set, &plan::scale(&set, &owned)).await.err();
        }
        let now = self.clock.now();
        let status = plan::status(&set, &owned, failed.as_ref().map(ToString::to_string), now);
        if set.status.as_ref() != Some(&status) {
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
            let body =
                json!({"metadata": {"resourceVersion": set.metadata.resource_version}, "status": status});
            match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(body)).await {
                Err(e) if !client::is_not_found(&e) => return Err(e),
                _ => {}
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(plan::next_check(&set, &owned, now).map_or(Outcome::Done, Outcome::RequeueAfter)),
        }
    }

    async fn scale(
        &self,
        key: &ObjectKey,
        set: &Arc<ReplicaSet>,
        scale: &plan::Scale,
    ) -> Result<(), kube::Error> {
        match scale {
            plan::Scale::Keep => Ok(()),
            plan::Scale::Create(count) => self.create(key, set, *count).await,
            plan::Scale::Delete(pods) => self.delete(key, set, pods).await,
        }
    }

    /// Creates in growing batches, so that a quota or a broken webhook is not met by a flood.
    async fn create(&self, key: &ObjectKey, set: &Arc<ReplicaSet>, count: usize) -> Result<(), kube::Error> {
        self.expectations.expect_additions(key, count);
        let (mut left, mut batch) = (count, SLOW_START);
        while left > 0 {
            let now = batch.min(left);
            let results = futures::future::join_all((0..now).map(|_| self.create_one(set))).await;
            let mut failure = None;
            for error in results.into_iter().filter_map(Result::err) {
                self.expectations.creation_observed(key);
                failure = Some(error);
            }
            left -= now;
            if let Some(error) = failure {
                for _ in 0..left {
                    self.expectations.creation_observed(key);
                }
                // Nothing can be made in a namespace that ends.
                return if client::is_namespace_terminating(&error) { Ok(()) } else { Err(error) };
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, set: &Arc<ReplicaSet>) -> Result<(), kube::Error> {
        let namespace = set.metadata.namespace.clone().unwrap_or_default();
        let empty = PodTemplateSpec::default();
        let template = set.spec.as_ref().and_then(|s| s.template.as_ref()).unwrap_or(&empty);
        let pod = pod_from(
            template,
            set.metadata.name.as_deref().unwrap_or_default(),
            new_controller_ref(set.as_ref()),
        );
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        match api.create(&PostParams::default(), &pod).await {
            Ok(made) => {
                let note = format!("Created pod: {}", made.metadata.name.unwrap_or_default());
                self.recorder.event(
                    &reference(set.as_ref()),
                    EventType::Normal,
                    "SuccessfulCreate",
                    "Create",
                    note,
                    None,
                );
                Ok(())
            }
            Err(error) => {
                let note = format!("Error creating: {error}");
                self.recorder.event(
                    &reference(set.as_ref()),
                    EventType::Warning,
                    "FailedCreate",
                    "Create",
                    note,
                    None,
                );
                Err(error)
            }
        }
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        set: &Arc<ReplicaSet>,
        pods: &[Arc<Pod>],
    ) -> Result<(), kube::Error> {
        let uid = |p: &Arc<Pod>| p.metadata.uid.clone().unwrap_or_default();
        self.expectations.expect_deletions_of(key, pods.iter().map(uid));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut failure = None;
        for pod in pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let same = Preconditions { uid: Some(uid(pod)), resource_version: None };
            let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
            match api.delete(&name, &params).await {
                Ok(_) => {
                    let note = format!("Deleted pod: {name}");
                    self.recorder.event(
                        &reference(set.as_ref()),
                        EventType::Normal,
                        "SuccessfulDelete",
                        "Delete",
                        note,
                        None,
                    );
                }
                Err(error) => {
                    self.expectations.deletion_observed_of(key, &uid(pod));
                    if !client::is_not_found(&error) {
                        failure = Some(error);
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn adopt(&self, set: &Arc<ReplicaSet>, pod: &Arc<Pod>) -> Result<(), kube::Error> {
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        owners.push(new_controller_ref(set.as_ref()));
        self.patch_owners(pod, &owners).await
    }

    async fn release(&self, set: &Arc<ReplicaSet>, pod: &Arc<Pod>) -> Result<(), kube::Error> {
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        owners.retain(|o| Some(&o.uid) != set.metadata.uid.as_ref());
        self.patch_owners(pod, &owners).await
    }

    async fn patch_owners(&self, pod: &Pod, owners: &[OwnerReference]) -> Result<(), kube::Error> {
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
        let body = json!({"metadata": {"uid": pod.metadata.uid, "ownerReferences": owners}});
        match api
            .patch(
                pod.metadata.name.as_deref().unwrap_or_default(),
                &PatchParams::default(),
                &Patch::Merge(body),
            )
            .await
        {
            Err(e) if !client::is_not_found(&e) => Err(e),
            _ => Ok(()),
        }
    }
}

/// The set a pod belongs to by its controller reference, with the set's uid.
fn owner_key(pod: &Pod, namespace: &str) -> Option<(ObjectKey, String)> {
    let owner = controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet")?;
    Some((ObjectKey::new(namespace, owner.name.as_str()), owner.uid.clone()))
}

/// A pod of a template, named after its owner.
pub(super) fn pod_from(template: &PodTemplateSpec, owner: &str, reference: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut pod = Pod { spec: template.spec.clone(), ..Pod::default() };
    pod.metadata.labels = meta.labels;
    pod.metadata.annotations = meta.annotations;
    pod.metadata.finalizers = meta.finalizers;
    pod.metadata.generate_name = Some(format!("{owner}-"));
    pod.metadata.owner_references = Some(vec![reference]);
    pod
}

/// Labels as the selectors read them.
pub(super) fn labels(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.labels.clone().unwrap_or_default()
}
