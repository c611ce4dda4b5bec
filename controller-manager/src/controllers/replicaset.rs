//! ReplicaSets: as many pods as asked for.
//!
//! Contract: upstream's `pkg/controller/replicaset`: adoption by selector, slow start of creations, the
//! order in which surplus pods go, expectations before acting on a cached view.

mod plan;

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    client,
    informer::{Informer, ListWatch},
    meta::{ObjectKey, object_key},
    selector::LabelSelector,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, PodTemplateSpec},
};
use kube::{Api, Client, api::PostParams};

pub(super) use self::plan::{is_available, is_ready, next_available};
use super::{
    Context, enqueue_changes,
    pod_control::{self, PodControl},
};

#[derive(Clone)]
struct Controller {
    client: Client,
    sets: Informer<ReplicaSet>,
    control: PodControl<ReplicaSet>,
    clock: component_base::clock::SharedClock,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        sets: ctx.informers.get(ListWatch::default()),
        control: PodControl::new(ctx, "replicaset-controller"),
        clock: ctx.clock.clone(),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("replicaset");
    enqueue_changes(&controller.sets, &queue);
    let sets = controller.sets.clone();
    // An orphan may be adopted by any set that selects it.
    controller.control.watch(&queue, move |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let found = sets.store().in_namespace(namespace).into_iter().filter(|set| plan::selects(set, pod));
        found.map(|set| object_key(set.as_ref())).collect()
    });
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-replicaset-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.sets.wait_synced().await;
        self.control.pods().wait_synced().await;
        let Some(set) = self.sets.store().get(key) else { return Ok(Outcome::Done) };
        let Ok(selector) = LabelSelector::from_api(set.spec.as_ref().map(|s| &s.selector)) else {
            return Ok(Outcome::Done);
        };
        let settled = self.control.settled(&set);
        let all = self.control.claim(&set, &selector).await?;
        let owned: Vec<Arc<Pod>> = all.iter().filter(|p| plan::is_active(p)).cloned().collect();
        let mut failed = None;
        if set.metadata.deletion_timestamp.is_some() {
            self.control.forget(&set);
        } else if settled {
            failed = self.scale(&set, plan::scale(&set, &owned)).await.err();
        }
        let now = self.clock.now();
        let status = plan::status(&set, &all, failed.as_ref().map(ToString::to_string), now);
        if set.status.as_ref() != Some(&status) {
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
            let next = ReplicaSet { status: Some(status), ..(*set).clone() };
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

    async fn scale(&self, set: &Arc<ReplicaSet>, scale: plan::Scale) -> Result<(), kube::Error> {
        match scale {
            plan::Scale::Keep => Ok(()),
            plan::Scale::Create(count) => {
                let empty = PodTemplateSpec::default();
                let template = set.spec.as_ref().and_then(|s| s.template.as_ref()).unwrap_or(&empty);
                let pods = vec![pod_control::from_template(template, set.as_ref()); count];
                self.control.create(set, pods).await.error.map_or(Ok(()), Err)
            }
            plan::Scale::Delete(pods) => self.control.delete(set, &pods).await,
        }
    }
}

/// Labels as the selectors read them.
pub(super) fn labels(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.labels.clone().unwrap_or_default()
}
