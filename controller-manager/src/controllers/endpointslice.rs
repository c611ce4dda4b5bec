//! EndpointSlices of services with a selector.
//!
//! Contract: KEP-752, upstream's `k8s.io/endpointslice`: at most 100 endpoints a slice, readiness and
//! termination told apart, slices changed as little as possible.

mod plan;

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    client,
    informer::{Informer, ListWatch},
    meta::{ObjectKey, object_key},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};

use super::{Context, enqueue_changes};

/// Workers, as upstream's --concurrent-service-endpoint-syncs.
const WORKERS: usize = 5;

#[derive(Clone)]
struct Controller {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        services: ctx.informers.get(ListWatch::default()),
        pods: ctx.informers.get(ListWatch::default()),
        slices: ctx.informers.get(ListWatch::default()),
        nodes: ctx.informers.get(ListWatch::default()),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("endpoint_slice");
    enqueue_changes(&controller.services, &queue);
    let (watcher, of_pod) = (controller.clone(), queue.clone());
    controller.pods.on_event(move |event| {
        let mut pods = vec![event.object().clone()];
        if let component_base::informer::Event::Updated { old, .. } = &event {
            pods.push(old.clone());
        }
        for pod in pods {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            for service in watcher.services.store().in_namespace(&namespace) {
                if plan::selects(&service, &pod) {
                    of_pod.add(object_key(service.as_ref()));
                }
            }
        }
    });
    let of_slice = queue.clone();
    controller.slices.on_event(move |event| {
        let meta = &event.object().metadata;
        if let Some(service) = meta.labels.as_ref().and_then(|l| l.get(plan::SERVICE_NAME)) {
            of_slice.add(ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), service.as_str()));
        }
    });
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.services.wait_synced().await;
        self.pods.wait_synced().await;
        self.slices.wait_synced().await;
        self.nodes.wait_synced().await;
        // A service that is gone takes its slices with it by ownership.
        let Some(service) = self.services.store().get(key) else { return Ok(Outcome::Done) };
        if service.metadata.deletion_timestamp.is_some() || !plan::is_ours(&service) {
            return Ok(Outcome::Done);
        }
        let pods = self.pods.store().in_namespace(&key.namespace);
        let slices: Vec<Arc<EndpointSlice>> = self
            .slices
            .store()
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|s| plan::belongs(s, &key.name))
            .collect();
        let zones: BTreeMap<String, String> = self.nodes.store().list().iter().filter_map(zone).collect();
        for action in plan::plan(&service, &pods, &slices, &zones) {
            self.act(key, &service, action).await?;
        }
        Ok(Outcome::Done)
    }

    async fn act(&self, key: &ObjectKey, service: &Service, action: plan::Action) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = match action {
            plan::Action::Create(mut slice) => {
                slice.metadata.generate_name = Some(format!("{}-", key.name));
                slice.metadata.owner_references = Some(vec![owner(service)]);
                match api.create(&PostParams::default(), &slice).await {
                    Err(e) if client::is_namespace_terminating(&e) || client::is_not_found(&e) => {
                        return Ok(());
                    }
                    result => result?,
                }
            }
            plan::Action::Update(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                api.replace(&name, &PostParams::default(), &slice).await?
            }
            plan::Action::Delete(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                return match api.delete(&name, &DeleteParams::default()).await {
                    Err(e) if !client::is_not_found(&e) => Err(e),
                    _ => Ok(()),
                };
            }
        };
        // The next round must see this write, or it would make the same slice again.
        let version = written.metadata.resource_version.clone().unwrap_or_default();
        self.slices.wait_seen(&object_key(&written), &version).await;
        Ok(())
    }
}

fn zone(node: &Arc<Node>) -> Option<(String, String)> {
    let zone = node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone")?;
    Some((node.metadata.name.clone()?, zone.clone()))
}

fn owner(service: &Service) -> OwnerReference {
    component_base::meta::new_controller_ref(service)
}
