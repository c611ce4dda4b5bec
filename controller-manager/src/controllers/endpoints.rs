//! Endpoints: all addresses of a service with a selector in one object.
//!
//! Contract: upstream's `pkg/controller/endpoint`: at most 1000 addresses, told by an annotation when there are more.
//! Endpoints of services without selector are their authors'; those of a service that is gone are taken away.

mod plan;
pub(super) mod subsets;

use std::sync::Arc;

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, annotation, object_key},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};

use super::{
    Context, enqueue_changes,
    service_pods::{self, TriggerTimes},
};

/// Annotation of endpoints that old components elect leaders with.
pub(super) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

#[derive(Clone)]
struct Controller {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    times: Arc<TriggerTimes>,
    recorder: Recorder,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        services: ctx.informers.get(ListWatch::default()),
        pods: ctx.informers.get(ListWatch::default()),
        endpoints: ctx.informers.get(ListWatch::default()),
        times: Arc::default(),
        recorder: ctx.recorder("endpoint-controller"),
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("endpoint");
    enqueue_changes(&controller.services, &queue);
    service_pods::follow(&controller.pods, &controller.services, &queue, ctx.settings.endpoints_batch);
    let (services, of_endpoints) = (controller.services.clone(), queue.clone());
    controller.endpoints.on_event(move |event| {
        let key = object_key(event.object().as_ref());
        // What was left behind while nobody watched is cleaned up once; later on, endpoints without a service are
        // somebody's own.
        let left_behind = matches!(&event, Event::Added { initial: true, new } if annotation(&new.metadata, LEADER).is_none());
        if left_behind || services.store().get(&key).is_some() {
            of_endpoints.add(key);
        }
    });
    run_workers(&ctx.tasks, &queue, ctx.workers("concurrent-endpoint-syncs"), move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await.map(|()| Outcome::Done) }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        self.services.wait_synced().await;
        self.pods.wait_synced().await;
        self.endpoints.wait_synced().await;
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let current = self.endpoints.store().get(key);
        let Some(service) = self.services.store().get(key) else {
            self.times.forget(key);
            return match current {
                None => Ok(()),
                Some(_) => match api.delete(&key.name, &DeleteParams::default()).await {
                    Err(e) if !client::is_not_found(&e) => Err(e),
                    _ => Ok(()),
                },
            };
        };
        if !service_pods::has_pods(&service) {
            return Ok(());
        }
        let mut pods = self.pods.store().in_namespace(&key.namespace);
        pods.retain(|pod| service_pods::selects(&service, pod));
        let trigger = self.times.observe(key, &service, &pods);
        let Some(next) = plan::plan(&service, &pods, current.as_deref(), trigger) else { return Ok(()) };
        let params = PostParams::default();
        let written = match current.is_some() {
            true => api.replace(&key.name, &params, &next).await,
            false => api.create(&params, &next).await,
        };
        match written {
            Ok(written) => {
                let version = written.metadata.resource_version.clone().unwrap_or_default();
                self.endpoints.wait_seen(key, &version).await;
                Ok(())
            }
            Err(e) if client::is_namespace_terminating(&e) => Ok(()),
            Err(e) => {
                let (reason, what) = match current.is_some() {
                    true => ("FailedToUpdateEndpoint", "update endpoint"),
                    false => ("FailedToCreateEndpoint", "create endpoint for service"),
                };
                let note = format!("Failed to {what} {key}: {}", chain(&e));
                self.recorder.event(&reference(&next), EventType::Warning, reason, reason, note, None);
                Err(e)
            }
        }
    }
}
