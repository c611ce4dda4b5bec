//! EndpointSlices of services with a selector.
//!
//! Contract: KEP-752, upstream's `k8s.io/endpointslice`: at most `--max-endpoints-per-slice` endpoints a slice, readiness
//! and termination told apart, slices changed as little as possible, hints that keep traffic near.

mod hints;
mod metrics;
mod plan;

use std::{collections::HashSet, sync::Arc};

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, key_of, label, new_controller_ref, object_key},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use parking_lot::Mutex;

use self::hints::Hints;
use super::{
    Context, PODS_BY_NODE, enqueue_changes, pods_by_node, retry,
    service_pods::{self, TriggerTimes},
};

/// Label naming the service of a slice.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label naming who writes a slice.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Create(EndpointSlice),
    Update(EndpointSlice),
    Delete(Arc<EndpointSlice>),
}

/// The slices in the cluster: what all controllers that write some share.
#[derive(Clone)]
pub(super) struct SliceControl {
    client: Client,
    slices: Informer<EndpointSlice>,
}

#[derive(Clone)]
struct Controller {
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: SliceControl,
    nodes: Informer<Node>,
    times: Arc<TriggerTimes>,
    recorder: Recorder,
    sums: Arc<metrics::Sums>,
    /// Services whose endpoints are shared out to zones by CPU.
    shared: Arc<Mutex<HashSet<ObjectKey>>>,
    /// Most endpoints in a slice.
    most: usize,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        services: ctx.informers.get(ListWatch::default()),
        pods: pods_by_node(ctx),
        slices: SliceControl::new(ctx),
        nodes: ctx.informers.get(ListWatch::default()),
        times: Arc::default(),
        recorder: ctx.recorder("endpoint-slice-controller"),
        sums: Arc::default(),
        shared: Arc::default(),
        most: ctx.settings.slice_endpoints,
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::with_limits("endpoint_slice", retry::SLICES);
    enqueue_changes(&controller.services, &queue);
    service_pods::follow(&controller.pods, &controller.services, &queue, ctx.settings.slices_batch);
    let of_slice = queue.clone();
    controller.slices.slices.on_event(move |event| {
        let meta = &event.object().metadata;
        let before = match &event {
            Event::Updated { old, .. } => label(&old.metadata, SERVICE_NAME),
            _ => None,
        };
        for service in label(meta, SERVICE_NAME).into_iter().chain(before) {
            of_slice.add(ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), service));
        }
    });
    let (watching, of_node) = (controller.clone(), queue.clone());
    controller.nodes.on_event(move |event| watching.follow_nodes(&event, &of_node));
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-service-endpoint-syncs"), move |key| {
        let controller = controller.clone();
        async move {
            let done = controller.sync(&key).await;
            metrics::synced(&done);
            done.map(|()| Outcome::Done)
        }
    });
}

impl Controller {
    fn tell_failed(&self, key: &ObjectKey, service: &ObjectReference, why: &str) {
        let note = format!("Error updating Endpoint Slices for Service {key}: {why}");
        let reason = "FailedToUpdateEndpointSlices";
        self.recorder.event(service, EventType::Warning, reason, reason, note, None);
    }

    /// Queues services of a node's pods when its zone is another, and those that share by CPU when shares change.
    fn follow_nodes(&self, event: &Event<Node>, queue: &WorkQueue<ObjectKey>) {
        let node = event.object();
        let one = |node: &Arc<Node>| plan::Nodes::of(std::slice::from_ref(node));
        let (moved, resized) = match event {
            Event::Added { initial: true, .. } => return,
            Event::Updated { old, new } => {
                (one(old).zones != one(new).zones, hints::weight(old) != hints::weight(new))
            }
            _ => (true, true),
        };
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let pods = if moved { self.pods.store().by_index(PODS_BY_NODE, name) } else { Vec::new() };
        if !resized && pods.is_empty() {
            return;
        }
        for service in self.services.store().list() {
            let shares = resized && Hints::of(&service) == Hints::Auto;
            let here = |pod: &Arc<Pod>| {
                pod.metadata.namespace == service.metadata.namespace && service_pods::selects(&service, pod)
            };
            if shares || pods.iter().any(here) {
                queue.add(object_key(service.as_ref()));
            }
        }
    }

    async fn sync(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        self.services.wait_synced().await;
        self.pods.wait_synced().await;
        self.slices.slices.wait_synced().await;
        self.nodes.wait_synced().await;
        // A service that is gone takes its slices with it by ownership.
        let Some(service) = self.services.store().get(key) else {
            self.times.forget(key);
            self.sums.forget(key);
            self.shared.lock().remove(key);
            return Ok(());
        };
        if service.metadata.deletion_timestamp.is_some() || !service_pods::has_pods(&service) {
            return Ok(());
        }
        let mut pods = self.pods.store().in_namespace(&key.namespace);
        pods.retain(|pod| service_pods::selects(&service, pod));
        let mut slices = self.slices.of_service(key);
        slices.retain(|s| plan::belongs(s, &key.name) && s.metadata.deletion_timestamp.is_none());
        let nodes = plan::Nodes::of(&self.nodes.store().list());
        let view = plan::View {
            nodes: &nodes,
            most: self.most,
            trigger: self.times.observe(key, &service, &pods),
            shared: self.shared.lock().contains(key),
        };
        let plan = plan::plan(&service, &pods, &slices, view);
        match plan.shared {
            true => self.shared.lock().insert(key.clone()),
            false => self.shared.lock().remove(key),
        };
        let (counts, changes) = metrics::count(&service, &slices, &plan.actions, self.most);
        self.sums.observe(key, &service, counts, changes);
        let owner = new_controller_ref(service.as_ref());
        let regarding = reference(service.as_ref());
        for action in plan.actions {
            let told = metrics::Operation::of(&action);
            let what = purpose(&action);
            if let Err(error) = self.slices.act(key, Some(&owner), action).await {
                let why = format!("failed to {what} for Service {key}: {}", chain(&error));
                self.tell_failed(key, &regarding, &why);
                return Err(error);
            }
            told.carried_out();
        }
        // They come once their node does.
        match plan.skipped.as_slice() {
            [] => {}
            [one] => self.tell_failed(key, &regarding, one),
            several => self.tell_failed(key, &regarding, &format!("[{}]", several.join(", "))),
        }
        for told in plan.told {
            self.recorder.event(&regarding, told.kind, told.reason, told.reason, told.note, None);
        }
        Ok(())
    }
}

/// What a step is to do, as failures of it are told.
fn purpose(action: &Action) -> String {
    let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap_or_default();
    match action {
        Action::Create(_) => "create EndpointSlice".to_owned(),
        Action::Update(slice) => format!("update {} EndpointSlice", name(slice)),
        Action::Delete(slice) => format!("delete {} EndpointSlice", name(slice)),
    }
}

impl SliceControl {
    /// The slices of all services.
    pub(super) fn new(ctx: &Context) -> SliceControl {
        SliceControl { client: ctx.client.clone(), slices: ctx.informers.get(ListWatch::default()) }
    }

    /// The cache of all slices.
    pub(super) fn informer(&self) -> &Informer<EndpointSlice> {
        &self.slices
    }

    /// Slices that name a service, whoever writes them.
    pub(super) fn of_service(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let mut slices = self.slices.store().in_namespace(&key.namespace);
        slices.retain(|s| label(&s.metadata, SERVICE_NAME) == Some(&key.name));
        slices
    }

    /// Carries out one step for a service; what is created is called after it and belongs to `owner`. Returns when
    /// the cache shows it: the next round would make the same slice again.
    pub(super) async fn act(
        &self,
        key: &ObjectKey,
        owner: Option<&OwnerReference>,
        action: Action,
    ) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = match action {
            Action::Create(mut slice) => {
                slice.metadata.generate_name = Some(format!("{}-", key.name));
                slice.metadata.owner_references = owner.map(|o| vec![o.clone()]);
                match api.create(&PostParams::default(), &slice).await {
                    Err(e) if client::is_namespace_terminating(&e) || client::is_not_found(&e) => {
                        return Ok(());
                    }
                    result => result?,
                }
            }
            Action::Update(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                api.replace(&name, &PostParams::default(), &slice).await?
            }
            Action::Delete(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                return match api.delete(&name, &DeleteParams::default()).await {
                    Err(e) if !client::is_not_found(&e) => Err(e),
                    _ => Ok(()),
                };
            }
        };
        let version = written.metadata.resource_version.clone().unwrap_or_default();
        self.slices.wait_seen(&key_of(&written.metadata), &version).await;
        Ok(())
    }
}
