//! ReplicaSets, and what else keeps a number of equal pods: as many as asked for.
//!
//! Contract: upstream's `pkg/controller/replicaset`: adoption by selector, slow start of creations, the
//! order in which surplus pods go, expectations before acting on a cached view.

mod order;
mod plan;

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use component_base::{
    client,
    features::{Gate, Gates},
    informer::{Informer, ListWatch},
    meta::{ObjectKey, controller_of, object_key},
    metrics::{self, Stability, exponential_buckets},
    selector::LabelSelector,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::{Pod, PodTemplateSpec},
};
use kube::{Api, Client, api::PostParams};
use prometheus::Histogram;

pub(super) use self::plan::{is_available, is_ready, next_available};
use super::{
    Context, enqueue_changes,
    pod_control::{self, Owner, PodControl},
};

/// The index of sets by what they belong to.
const BY_OWNER: &str = "controller";

/// A kind that keeps a number of equal pods. ReplicationControllers are replica sets of an older name.
pub(super) trait Replicated: Owner + serde::Serialize {
    /// Names of this kind's controller, queue and flag.
    const NAMES: Names;
    /// What it asks for and says, as a replica set.
    fn as_set(&self) -> Cow<'_, ReplicaSet>;
    /// The same object with another status.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

/// How one of the kinds is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// The component events come from.
    pub(super) component: &'static str,
    pub(super) queue: &'static str,
    /// The flag that says how many are worked on at once.
    pub(super) workers: &'static str,
}

impl Replicated for ReplicaSet {
    const NAMES: Names = Names {
        component: "replicaset-controller",
        queue: "replicaset",
        workers: "concurrent-replicaset-syncs",
    };

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn with_status(&self, status: ReplicaSetStatus) -> ReplicaSet {
        ReplicaSet { status: Some(status), ..self.clone() }
    }
}

static AGE_RATIO: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "replicaset_controller_sorting_deletion_age_ratio",
        "The ratio of chosen deleted pod's ages to the current youngest pod's age (at the time). Should be <2.",
        Stability::Alpha,
        exponential_buckets(0.25, 2.0, 6),
    )
});

#[derive(Clone)]
struct Controller<K> {
    client: Client,
    sets: Informer<K>,
    control: PodControl<K>,
    clock: component_base::clock::SharedClock,
    gates: Gates,
}

pub(super) fn start(ctx: &Context) {
    run::<ReplicaSet>(ctx);
}

/// Starts the controller of one of the kinds.
pub(super) fn run<K: Replicated>(ctx: &Context) {
    // Shown from the start, with nothing.
    LazyLock::force(&AGE_RATIO);
    let controller: Controller<K> = Controller {
        client: ctx.client.clone(),
        sets: ctx.informers.get(ListWatch::default()),
        control: PodControl::new(ctx, K::NAMES.component),
        clock: ctx.clock.clone(),
        gates: ctx.settings.gates,
    };
    controller.sets.add_index(BY_OWNER, |set| {
        controller_of(set.meta()).map(|owner| owner.uid.clone()).into_iter().collect()
    });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new(K::NAMES.queue);
    enqueue_changes(&controller.sets, &queue);
    let sets = controller.sets.clone();
    // An orphan may be adopted by any set that selects it.
    controller.control.watch(&queue, move |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let all = sets.store().in_namespace(namespace).into_iter();
        all.filter(|set| plan::selects(&set.as_set(), pod)).map(|set| object_key(set.as_ref())).collect()
    });
    run_workers(&ctx.tasks, &queue, ctx.workers(K::NAMES.workers), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl<K: Replicated> Controller<K> {
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.sets.wait_synced().await;
        self.control.pods().wait_synced().await;
        let Some(owner) = self.sets.store().get(key) else { return Ok(Outcome::Done) };
        let set = owner.as_set();
        let Ok(selector) = LabelSelector::from_api(set.spec.as_ref().map(|s| &s.selector)) else {
            return Ok(Outcome::Done);
        };
        let settled = self.control.settled(&owner);
        let all = self.control.claim(&owner, &selector).await?;
        let owned: Vec<Arc<Pod>> = all.iter().filter(|p| plan::is_active(p)).cloned().collect();
        let mut failed = None;
        if set.metadata.deletion_timestamp.is_some() {
            self.control.forget(&owner);
        } else if settled {
            let related = self.related(&owner, plan::surplus(&set, &owned));
            let costs = self.gates.has(Gate::PodDeletionCost);
            let scale =
                plan::scale(&set, &owned, order::View { related: &related, costs, now: self.clock.now() });
            if let plan::Scale::Delete(going) = &scale {
                let ratios = plan::age_ratios(&owned, going, self.clock.now());
                ratios.into_iter().for_each(|ratio| AGE_RATIO.observe(ratio));
            }
            failed = self.scale(&owner, &set, scale).await.err();
        }
        let now = self.clock.now();
        let tells_ending = self.gates.has(Gate::DeploymentReplicaSetTerminatingReplicas);
        let status = plan::status(&set, &all, tells_ending, failed.as_ref().map(ToString::to_string), now);
        // Through the kind itself: it may have no room for everything a replica set's status says.
        let next = owner.with_status(status);
        if next.as_set().status != set.status {
            let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
            match api.replace_status(&key.name, &PostParams::default(), &next).await {
                Err(e) if !client::is_not_found(&e) => return Err(e),
                _ => {}
            }
        }
        let least = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        match failed {
            Some(error) => Err(error),
            None => Ok(next_available(&owned, least, now).map_or(Outcome::Done, Outcome::RequeueAfter)),
        }
    }

    /// Pods of the sets that have the same owner, where there is a choice between pods.
    fn related(&self, owner: &K, surplus: usize) -> Vec<Arc<Pod>> {
        let Some(parent) = controller_of(owner.meta()).filter(|_| surplus > 0) else { return Vec::new() };
        let sets = self.sets.store().by_index(BY_OWNER, &parent.uid);
        let sets: Vec<Cow<'_, ReplicaSet>> = sets.iter().map(|set| set.as_set()).collect();
        let mut pods =
            self.control.pods().store().in_namespace(owner.meta().namespace.as_deref().unwrap_or_default());
        pods.retain(|pod| sets.iter().any(|set| plan::selects(set, pod)));
        pods
    }

    async fn scale(&self, owner: &K, set: &ReplicaSet, scale: plan::Scale) -> Result<(), kube::Error> {
        match scale {
            plan::Scale::Keep => Ok(()),
            plan::Scale::Create(count) => {
                let empty = PodTemplateSpec::default();
                let template = set.spec.as_ref().and_then(|s| s.template.as_ref()).unwrap_or(&empty);
                let pods = vec![pod_control::from_template(template, owner); count];
                self.control.create(owner, pods).await.error.map_or(Ok(()), Err)
            }
            plan::Scale::Delete(pods) => self.control.delete(owner, &pods).await,
        }
    }
}
