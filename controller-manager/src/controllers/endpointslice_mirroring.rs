//! Endpoint slices for endpoints that people write for services without selector.
//!
//! Contract: upstream's `pkg/controller/endpointslicemirroring` (KEP-752): one slice per subset and address family, at
//! most `--mirroring-max-endpoints-per-subset` endpoints each; endpoints labelled
//! `endpointslice.kubernetes.io/skip-mirror=true` and those that elect leaders are left out.

mod metrics;
mod plan;

use std::sync::Arc;

use component_base::{
    events::{EventType, Recorder, reference},
    informer::{Informer, ListWatch},
    meta::{ObjectKey, new_controller_ref, object_key},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};

use super::{
    Context,
    endpointslice::{SERVICE_NAME, SliceControl},
    enqueue_changes, retry,
};

#[derive(Clone)]
struct Controller {
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: SliceControl,
    recorder: Recorder,
    sums: Arc<metrics::Sums>,
    /// Most endpoints of a slice.
    most: usize,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        services: ctx.informers.get(ListWatch::default()),
        endpoints: ctx.informers.get(ListWatch::default()),
        slices: SliceControl::new(ctx),
        recorder: ctx.recorder("endpoint-slice-mirroring-controller"),
        sums: Arc::default(),
        most: ctx.settings.mirrored_endpoints,
    };
    let queue: WorkQueue<ObjectKey> = WorkQueue::with_limits("endpoint_slice_mirroring", retry::MIRRORED);
    enqueue_changes(&controller.services, &queue);
    let (of_endpoints, batch) = (queue.clone(), ctx.settings.mirroring_batch);
    controller
        .endpoints
        .on_event(move |event| of_endpoints.add_after(object_key(event.object().as_ref()), batch));
    let of_slice = queue.clone();
    controller.slices.informer().on_event(move |event| {
        let slice = event.object();
        if plan::is_mirrored(slice)
            && let Some(service) = component_base::meta::label(&slice.metadata, SERVICE_NAME)
        {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            of_slice.add(ObjectKey::new(namespace, service));
        }
    });
    let workers = ctx.workers("mirroring-concurrent-service-endpoint-syncs");
    run_workers(&ctx.tasks, &queue, workers, move |key| {
        let controller = controller.clone();
        async move { controller.sync(&key).await.map(|()| Outcome::Done) }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        self.services.wait_synced().await;
        self.endpoints.wait_synced().await;
        self.slices.informer().wait_synced().await;
        let _measured = metrics::sync();
        let mut there: Vec<Arc<EndpointSlice>> = self.slices.of_service(key);
        there.retain(|slice| plan::is_mirrored(slice));
        let endpoints = self.endpoints.store().get(key);
        let service = self.services.store().get(key);
        let mirrored = endpoints.filter(|e| service.is_some_and(|s| plan::mirrors(&s, e)));
        let plan = plan::plan(mirrored.as_deref(), &there, self.most);
        if let Some(endpoints) = &mirrored {
            self.tell(endpoints, &plan);
        }
        self.sums.observe(key, metrics::count(&there, &plan));
        let owner = mirrored.as_deref().map(new_controller_ref);
        for action in plan.actions {
            let operation = metrics::operation(&action);
            self.slices.act(key, owner.as_ref(), action).await?;
            metrics::carried_out(operation);
        }
        Ok(())
    }

    fn tell(&self, endpoints: &Endpoints, plan: &plan::Plan) {
        let warn = |reason: &str, note: String| {
            self.recorder.event(&reference(endpoints), EventType::Warning, reason, reason, note, None);
        };
        if plan.invalid > 0 {
            let note =
                format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", plan.invalid);
            warn("InvalidIPAddress", note);
        }
        if plan.skipped > plan.invalid {
            let (most, skipped) = (self.most, plan.skipped);
            let note = format!(
                "A max of {most} addresses can be mirrored to EndpointSlices per Endpoints subset. \
                 {skipped} addresses were skipped"
            );
            warn("TooManyAddressesToMirror", note);
        }
    }
}
