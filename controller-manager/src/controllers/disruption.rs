//! What pod disruption budgets allow just now, and pods whose announced end never came.
//!
//! ```text
//! budget → its pods → their controllers' scales → healthy, wanted, allowed (pure) → status
//! ```
//! Contract: upstream's `pkg/controller/disruption`. The API server grants evictions out of the status written here
//! and notes whom it let go in `disruptedPods`; such a pod does not count as healthy for two minutes, by when it
//! must be seen ending.

mod plan;
mod scales;

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, controller_of, object_key},
    selector::LabelSelector,
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::{
    core::v1::Pod,
    policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use self::scales::{ScaleError, Scales};
use super::Context;

/// Why a budget's status cannot be told.
#[derive(Debug, thiserror::Error)]
enum DisruptionError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("the selector")]
    Selector(#[from] component_base::selector::SelectorError),
    #[error("the share of pods")]
    Share(#[from] component_base::intstr::ScaleError),
    #[error(transparent)]
    Scale(#[from] ScaleError),
    #[error("found no controllers for pod {0:?}")]
    NoController(String),
}

#[derive(Clone)]
struct Controller {
    client: Client,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    scales: Arc<Scales>,
    recorder: Recorder,
    clock: SharedClock,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        budgets: ctx.informers.get(ListWatch::default()),
        pods: ctx.informers.get(ListWatch::default()),
        scales: Arc::new(Scales::new(ctx)),
        recorder: ctx.recorder("controllermanager"),
        clock: ctx.clock.clone(),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("disruption");
    let stale: WorkQueue<ObjectKey> = WorkQueue::new("stale_pod_disruption");
    super::enqueue_changes(&controller.budgets, &queue);
    let (watching, of_pod, of_stale) = (controller.clone(), queue.clone(), stale.clone());
    controller.pods.on_event(move |event| watching.follow(&event, &of_pod, &of_stale));
    let cleaning = controller.clone();
    run_workers(&ctx.tasks, &stale, 1, move |key| {
        let controller = cleaning.clone();
        async move { controller.clean(&key).await }
    });
    run_workers(&ctx.tasks, &queue, 1, move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    /// Queues the budgets of a pod, those it has left among them, and the pod itself if its end is announced.
    fn follow(&self, event: &Event<Pod>, budgets: &WorkQueue<ObjectKey>, stale: &WorkQueue<ObjectKey>) {
        let pod = event.object();
        let found = self.budgets_of(pod);
        if found.len() > 1 && matches!(event, Event::Added { .. }) {
            let name = |budget: &PodDisruptionBudget| budget.metadata.name.clone().unwrap_or_default();
            let note = format!(
                "Pod {:?}/{:?} matches multiple PodDisruptionBudgets.  Chose {:?} arbitrarily.",
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.name.as_deref().unwrap_or_default(),
                name(&found[0])
            );
            self.tell(pod.as_ref(), EventType::Warning, "MultiplePodDisruptionBudgets", note);
        }
        found.iter().for_each(|budget| budgets.add(object_key(budget.as_ref())));
        if let Event::Updated { old, new } = event
            && old.metadata.labels != new.metadata.labels
        {
            self.budgets_of(old).iter().for_each(|budget| budgets.add(object_key(budget.as_ref())));
        }
        let ends = !matches!(event, Event::Deleted { .. });
        if let Some(wait) = plan::stale_in(pod, self.clock.now()).filter(|_| ends) {
            stale.add_after(object_key(pod.as_ref()), wait);
        }
    }

    fn budgets_of(&self, pod: &Pod) -> Vec<Arc<PodDisruptionBudget>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut found = self.budgets.store().in_namespace(namespace);
        found.retain(|budget| plan::selects(budget, pod));
        found
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, DisruptionError> {
        self.pods.wait_synced().await;
        self.scales.wait_synced().await;
        let Some(budget) = self.budgets.store().get(key) else { return Ok(Outcome::Done) };
        match self.evaluate(key, &budget).await {
            Ok(plan) => {
                for pod in &plan.not_deleted {
                    let note = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
                    self.tell(pod.as_ref(), EventType::Warning, "NotDeleted", note);
                }
                self.write(key, &budget, plan.status).await?;
                Ok(plan.recheck.map_or(Outcome::Done, Outcome::RequeueAfter))
            }
            // Nothing may be evicted while nobody knows how many pods there ought to be.
            Err(error) => {
                let status = plan::failed(&budget, chain(&error), self.clock.now());
                self.write(key, &budget, status).await?;
                Err(error)
            }
        }
    }

    async fn evaluate(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
    ) -> Result<plan::Plan, DisruptionError> {
        let pods = self.pods_of(key, budget)?;
        if pods.is_empty() {
            self.tell(budget, EventType::Normal, "NoPods", "No matching pods found".into());
        }
        let mut scale = None;
        if plan::needs_scale(budget) {
            match self.scale(budget, &pods).await {
                Ok(sum) => scale = Some(sum),
                Err(error) => {
                    let why = chain(&error);
                    let note = format!("Failed to calculate the number of expected pods: {why}");
                    self.tell(budget, EventType::Warning, "CalculateExpectedPodCountFailed", note);
                    return Err(error);
                }
            }
        }
        Ok(plan::plan(budget, &pods, scale, self.clock.now())?)
    }

    fn pods_of(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
    ) -> Result<Vec<Arc<Pod>>, DisruptionError> {
        let selector = LabelSelector::from_api(budget.spec.as_ref().and_then(|s| s.selector.as_ref()))?;
        let mut pods = self.pods.store().in_namespace(&key.namespace);
        pods.retain(|pod| selector.matches(&pod.metadata.labels));
        Ok(pods)
    }

    /// The sum of what the pods' controllers are asked for, each counted once.
    async fn scale(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<i32, DisruptionError> {
        let mut asked: BTreeMap<String, ()> = BTreeMap::new();
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            if asked.insert(owner.uid.clone(), ()).is_some() {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let (uid, replicas) = self.scales.find(namespace, owner).await?.ok_or_else(|| {
                DisruptionError::NoController(pod.metadata.name.clone().unwrap_or_default())
            })?;
            scales.insert(uid, replicas);
        }
        if unmanaged {
            let selector = plan::selector_text(budget);
            let note = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a \
                 result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. \
                 To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.tell(budget, EventType::Warning, "UnmanagedPods", note);
        }
        Ok(scales.values().fold(0, |sum, scale| sum.saturating_add(*scale)))
    }

    async fn write(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), DisruptionError> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &key.namespace);
        let next = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        match api.replace_status(&key.name, &PostParams::default(), &next).await {
            Ok(written) => {
                let version = written.metadata.resource_version.unwrap_or_default();
                self.budgets.wait_seen(key, &version).await;
                Ok(())
            }
            Err(error) if client::is_not_found(&error) => Ok(()),
            // An eviction came in between, most likely: it is counted with the version it wrote.
            Err(error) => Err(error.into()),
        }
    }

    /// Takes back the announcement of a pod's end that did not come.
    async fn clean(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.store().get(key) else { return Ok(Outcome::Done) };
        match plan::stale_in(&pod, self.clock.now()) {
            None => return Ok(Outcome::Done),
            Some(wait) if !wait.is_zero() => return Ok(Outcome::RequeueAfter(wait)),
            Some(_) => {}
        }
        let condition = plan::not_disrupted(&pod, self.clock.time());
        let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(body)).await {
            Err(error) if !client::is_not_found(&error) && !client::is_conflict(&error) => Err(error),
            _ => Ok(Outcome::Done),
        }
    }

    fn tell<K: kube::Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: EventType,
        reason: &str,
        note: String,
    ) {
        self.recorder.event(&reference(object), kind, reason, reason, note, None);
    }
}
