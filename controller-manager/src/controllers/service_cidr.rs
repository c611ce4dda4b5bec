//! ServiceCIDRs are ready, and stay as long as addresses of services would have no other range.
//!
//! ```text
//! ServiceCIDR, IPAddress → step (pure) → finalizer or condition
//! ```
//! Contract: KEP-1880; upstream's `service-cidr-controller`: finalizer `networking.k8s.io/service-cidr-finalizer`,
//! condition `Ready`.

mod plan;

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, add_finalizer, object_key, remove_finalizer},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::{
    api::networking::v1::{IPAddress, ServiceCIDR},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use self::plan::Step;
use super::Context;

const MANAGER: &str = "service-cidr-controller";
const WORKERS: usize = 5;

#[derive(Clone)]
struct Controller {
    client: Client,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
    recorder: Recorder,
    clock: SharedClock,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        ranges: ctx.informers.get(ListWatch::default()),
        addresses: ctx.informers.get(ListWatch::default()),
        recorder: ctx.recorder(MANAGER),
        clock: ctx.clock.clone(),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("ipaddresses");
    let (all, of_range) = (controller.ranges.clone(), queue.clone());
    controller.ranges.on_event(move |event| {
        of_range.add(object_key(event.object().as_ref()));
        // A range that comes may let another one go; one that goes may keep another.
        if !matches!(event, Event::Updated { .. }) {
            for other in all.store().list() {
                if plan::overlap(event.object(), &other) {
                    of_range.add(object_key(other.as_ref()));
                }
            }
        }
    });
    let (all, of_address) = (controller.ranges.clone(), queue.clone());
    controller.addresses.on_event(move |event| {
        if matches!(event, Event::Updated { .. }) {
            return;
        }
        if let Some(address) = plan::managed(event.object()) {
            for range in all.store().list().iter().filter(|range| plan::holds(range, address)) {
                of_address.add(object_key(range.as_ref()));
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
        self.ranges.wait_synced().await;
        self.addresses.wait_synced().await;
        let Some(range) = self.ranges.store().get(key) else { return Ok(Outcome::Done) };
        let all = self.ranges.store().list();
        let step = plan::plan(&range, &all, &self.addresses.store().list(), self.clock.now());
        match step {
            Step::Settled => {}
            Step::Wait(time) => return Ok(Outcome::RequeueAfter(time)),
            Step::Protect => {
                let mut next = (*range).clone();
                add_finalizer(&mut next.metadata, plan::FINALIZER);
                // Its event brings it back for the condition.
                self.replace(&key.name, next).await?;
            }
            Step::Release => {
                let mut next = (*range).clone();
                remove_finalizer(&mut next.metadata, plan::FINALIZER);
                self.replace(&key.name, next).await?;
            }
            Step::Tell(condition) => self.tell(&range, condition).await?,
        }
        Ok(Outcome::Done)
    }

    async fn replace(&self, name: &str, next: ServiceCIDR) -> Result<(), kube::Error> {
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        match api.replace(name, &PostParams::default(), &next).await {
            // Another version: its event brings it back.
            Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
            _ => Ok(()),
        }
    }

    async fn tell(&self, range: &ServiceCIDR, condition: Condition) -> Result<(), kube::Error> {
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let name = range.metadata.name.as_deref().unwrap_or_default();
        let ready = condition.status == "True";
        let body = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
            "status": {"conditions": [condition]},
        });
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(name, &params, &Patch::Apply(&body)).await {
            Ok(_) => Ok(()),
            Err(e) if client::is_not_found(&e) => Ok(()),
            Err(e) => {
                if ready {
                    let note = "The ServiceCIDR Status can not be set to Ready=True".to_owned();
                    let reason = "KubernetesServiceCIDRError";
                    self.recorder.event(&reference(range), EventType::Warning, reason, reason, note, None);
                }
                Err(e)
            }
        }
    }
}
