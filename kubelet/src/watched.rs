//! What the kubelet watches in the API server: the pods of this node, and all services for the variables that describe them.

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    informer::{Event, Informer, Informers, ListWatch},
    task::Tasks,
};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;

use crate::{
    env, pod,
    pods::{Pods, Source},
    worker::ServiceSource,
};

/// Services as the informer has them.
pub struct Services(Informer<Service>);

impl ServiceSource for Services {
    fn variables(&self, namespace: &str, links: bool) -> BTreeMap<String, String> {
        let services = self.0.store().list();
        env::service_variables(services.iter().map(AsRef::as_ref), namespace, links)
    }

    fn is_ready(&self) -> bool {
        self.0.synced()
    }
}

/// The watches of one kubelet.
pub struct Watched {
    informers: Informers,
    pods: Informer<Pod>,
    services: Informer<Service>,
}

impl Watched {
    /// Prepares the watches; nothing is sent yet.
    #[must_use]
    pub fn new(client: Client, node: &str, tasks: &Tasks) -> Self {
        let informers = Informers::new(client, tasks);
        let own = ListWatch { fields: Some(format!("spec.nodeName={node}")), ..ListWatch::default() };
        Self { pods: informers.get(own), services: informers.get(ListWatch::default()), informers }
    }

    /// The services.
    #[must_use]
    pub fn services(&self) -> Arc<Services> {
        Arc::new(Services(self.services.clone()))
    }

    /// The pods of this node, mirror pods included.
    #[must_use]
    pub fn pods(&self) -> Informer<Pod> {
        self.pods.clone()
    }

    /// Feeds the pods of this node to their workers until the drain.
    pub fn run(&self, pods: &Arc<Pods>, tasks: &Tasks) {
        let sink = Arc::clone(pods);
        self.pods.on_event(move |event| match event {
            Event::Added { new, .. } | Event::Updated { new, .. } => sink.upsert(Source::Api, new),
            Event::Deleted { last, .. } => sink.remove(pod::uid(&last)),
        });
        self.informers.start();
        let (informer, sink, drain) = (self.pods.clone(), Arc::clone(pods), tasks.drain());
        tasks.spawn("pods-synced", async move {
            tokio::select! {
                () = drain.cancelled() => {}
                () = informer.wait_synced() => sink.set(Source::Api, informer.store().list()),
            }
        });
    }
}
