//! What the kubelet watches in the API server: its node, the pods of it, all services for the variables that describe them,
//! and requests for certificates of pods.

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    informer::{Event, Informer, Informers, ListWatch},
    task::Tasks,
};
use k8s_openapi::api::{
    certificates::v1beta1::PodCertificateRequest,
    core::v1::{Node, Pod, Service},
};
use kube::Client;
use tokio::sync::watch;

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
    node: Informer<Node>,
    asked: Option<Informer<PodCertificateRequest>>,
    known_node: watch::Sender<Option<Arc<Node>>>,
}

impl Watched {
    /// Prepares the watches; nothing is sent yet. Requests for certificates of pods are watched only if asked for.
    #[must_use]
    pub fn new(client: Client, node: &str, certificates: bool, tasks: &Tasks) -> Self {
        let informers = Informers::new(client, tasks);
        let own = ListWatch { fields: Some(format!("spec.nodeName={node}")), ..ListWatch::default() };
        let asked = certificates.then(|| informers.get(own.clone()));
        let this = ListWatch { fields: Some(format!("metadata.name={node}")), ..ListWatch::default() };
        Self {
            pods: informers.get(own),
            services: informers.get(ListWatch::default()),
            node: informers.get(this),
            asked,
            known_node: watch::Sender::new(None),
            informers,
        }
    }

    /// The services.
    #[must_use]
    pub fn services(&self) -> Arc<Services> {
        Arc::new(Services(self.services.clone()))
    }

    /// This node as the API server has it; nothing before it is registered.
    #[must_use]
    pub fn node(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.known_node.subscribe()
    }

    /// The pods of this node, mirror pods included.
    #[must_use]
    pub fn pods(&self) -> Informer<Pod> {
        self.pods.clone()
    }

    /// Requests for certificates of this node's pods, where they are switched on.
    #[must_use]
    pub fn certificate_requests(&self) -> Option<Informer<PodCertificateRequest>> {
        self.asked.clone()
    }

    /// Feeds the pods of this node to their workers until the drain.
    pub fn run(&self, pods: &Arc<Pods>, tasks: &Tasks) {
        let sink = Arc::clone(pods);
        self.pods.on_event(move |event| match event {
            Event::Added { new, .. } | Event::Updated { new, .. } => sink.upsert(Source::Api, new),
            Event::Deleted { last, .. } => sink.remove(pod::uid(&last)),
        });
        let known = self.known_node.clone();
        self.node.on_event(move |event| {
            if let Event::Added { new, .. } | Event::Updated { new, .. } = event {
                known.send_replace(Some(new));
            }
        });
        if let Some(asked) = &self.asked {
            let woken = Arc::clone(pods);
            asked.on_event(move |event| woken.nudge(&event.object().spec.pod_uid));
        }
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
