//! What becomes of nodes by what is known of their machines: the acting half of the node controllers.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::Informer,
    meta::{ObjectKey, object_key},
    task::Tasks,
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    controllers::{
        names,
        node::{self, AddressError},
        node_lifecycle::{self, Machine, Step},
    },
    metrics,
    provider::{Instance, Provider, ProviderError, bare_metal::BareMetal},
};

/// How often nodes are looked at whatever happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Periods {
    /// For their addresses.
    pub(super) addresses: Duration,
    /// For machines that are gone or switched off.
    pub(super) machines: Duration,
}

/// Looks after nodes.
#[derive(Clone)]
pub(super) struct NodeKeeper {
    pub(super) client: Client,
    pub(super) provider: Arc<BareMetal>,
    pub(super) nodes: Informer<Node>,
    pub(super) clock: SharedClock,
    /// Tells of nodes that are new.
    pub(super) node: Recorder,
    /// Tells of nodes that go.
    pub(super) lifecycle: Recorder,
}

/// Why a node is not as its machine is.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("there is no machine of node {0} yet")]
    Unknown(String),
    #[error("cannot change node {node}")]
    Api {
        node: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl NodeKeeper {
    /// Begins, if the provider knows machines. The caches are there already.
    pub(super) fn start(
        self,
        tasks: &Tasks,
        workers: usize,
        periods: Periods,
        enabled: &BTreeSet<&'static str>,
    ) {
        if self.provider.instances().is_none() {
            tracing::info!("the provider knows no machines: nodes are what their kubelets say");
            return;
        }
        if enabled.contains(names::NODE) {
            let queue: WorkQueue<ObjectKey> = WorkQueue::new("Nodes");
            let of_node = queue.clone();
            self.nodes.on_event(move |event| of_node.add(object_key(event.object().as_ref())));
            let this = self.clone();
            run_workers(tasks, &queue, workers, move |key| {
                let this = this.clone();
                async move { this.sync(&key).await.map(|()| Outcome::Done) }
            });
        }
        let looks =
            [(names::NODE, periods.addresses, true), (names::NODE_LIFECYCLE, periods.machines, false)];
        for (name, period, addresses) in looks.into_iter().filter(|(name, ..)| enabled.contains(name)) {
            let looks: WorkQueue<Look> = WorkQueue::new(name);
            looks.add(Look);
            let this = self.clone();
            run_workers(tasks, &looks, 1, move |Look| {
                let this = this.clone();
                async move {
                    this.look_at_all(addresses).await;
                    Ok::<_, Infallible>(Outcome::RequeueAfter(period))
                }
            });
        }
    }

    /// A node that cannot be brought up to date keeps no other from it.
    async fn look_at_all(&self, addresses: bool) {
        for node in self.nodes.store().list() {
            let done = match addresses {
                true if node::is_new(&node) => Ok(()),
                true => self.update_addresses(&node).await,
                false => self.monitor(&node).await,
            };
            if let Err(error) = done {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                tracing::error!(node = name, error = chain(&error), "node not looked after");
            }
        }
    }

    async fn instance(&self, node: &Node) -> Result<Option<Instance>, ProviderError> {
        let id = node.spec.as_ref().and_then(|s| s.provider_id.as_deref()).filter(|id| !id.is_empty());
        match self.provider.instances() {
            Some(instances) => instances.instance(&name_of(node), id).await,
            None => Ok(None),
        }
    }

    /// A new node is introduced; labels of any follow their older names.
    async fn sync(&self, key: &ObjectKey) -> Result<(), KeepError> {
        let Some(node) = self.nodes.store().get(key) else { return Ok(()) };
        if node::is_new(&node) {
            self.introduce(&node).await?;
        }
        let labels = node::renamed_labels(&node);
        if labels.is_empty() {
            return Ok(());
        }
        self.patch(&node, json!({"metadata": {"labels": labels}}), false).await.map(drop)
    }

    async fn introduce(&self, node: &Node) -> Result<(), KeepError> {
        let instance = self.instance(node).await?.ok_or_else(|| KeepError::Unknown(name_of(node)))?;
        // The addresses come first: what sees the node without its taint must see them.
        let written = match node::addresses(node, &instance)? {
            Some(addresses) => self.patch(node, json!({"status": {"addresses": addresses}}), true).await?,
            None => None,
        };
        let node = written.as_ref().unwrap_or(node);
        let said = node::introduce(node, &instance);
        let mut body = json!({"metadata": {"labels": said.labels}, "spec": {"taints": said.taints}});
        if let Some(id) = said.provider_id {
            body["spec"]["providerID"] = id.into();
        }
        self.patch(node, body, false).await?;
        if let Some(made) = &node.metadata.creation_timestamp {
            let age = self.clock.since(made.0).as_secs_f64();
            metrics::UNTAINTED.observe(age);
            metrics::INTRODUCED.observe(age);
        }
        self.tell(&self.node, node, EventType::Normal, "Synced", "Node synced successfully".to_owned());
        Ok(())
    }

    async fn update_addresses(&self, node: &Node) -> Result<(), KeepError> {
        let Some(instance) = self.instance(node).await? else { return Ok(()) };
        match node::addresses(node, &instance)? {
            Some(addresses) => {
                self.patch(node, json!({"status": {"addresses": addresses}}), true).await.map(drop)
            }
            None => Ok(()),
        }
    }

    async fn monitor(&self, node: &Node) -> Result<(), KeepError> {
        let machine = match node_lifecycle::is_ready(node) {
            true => Machine::Runs,
            false => self.instance(node).await?.map_or(Machine::Gone, |instance| {
                if instance.shut_down { Machine::ShutDown } else { Machine::Runs }
            }),
        };
        match node_lifecycle::plan(node, machine) {
            Step::Keep => Ok(()),
            Step::Taint(taints) => self.taint(node, &taints).await,
            Step::Delete => self.delete(node).await,
        }
    }

    async fn taint(&self, node: &Node, taints: &[Taint]) -> Result<(), KeepError> {
        self.patch(node, json!({"spec": {"taints": taints}}), false).await.map(drop)
    }

    async fn delete(&self, node: &Node) -> Result<(), KeepError> {
        let name = name_of(node);
        let note = format!("Deleting node {name} because it does not exist in the cloud provider");
        self.tell(&self.lifecycle, node, EventType::Normal, "DeletingNode", note);
        match Api::<Node>::all(self.client.clone()).delete(&name, &DeleteParams::default()).await {
            Err(source) if !client::is_not_found(&source) => {
                let note = format!("Failed deleting node {name}: {}", chain(&source));
                self.tell(&self.lifecycle, node, EventType::Warning, "DeletingNodeFailed", note);
                Err(KeepError::Api { node: name, source: Box::new(source) })
            }
            _ => Ok(()),
        }
    }

    /// Merges a change into a node, or its status; the node as it is then, if it is there. Lists are replaced whole: they
    /// must be the ones that were read.
    async fn patch(&self, node: &Node, mut body: Value, status: bool) -> Result<Option<Node>, KeepError> {
        let (name, params) = (name_of(node), PatchParams::default());
        if body["spec"]["taints"].is_array() && !status {
            body["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(&body);
        let patched = match status {
            true => api.patch_status(&name, &params, &patch).await,
            false => api.patch(&name, &params, &patch).await,
        };
        match patched {
            Ok(written) => Ok(Some(written)),
            Err(e) if client::is_not_found(&e) => Ok(None),
            Err(source) => Err(KeepError::Api { node: name, source: Box::new(source) }),
        }
    }

    fn tell(&self, recorder: &Recorder, node: &Node, kind: EventType, reason: &str, note: String) {
        recorder.event(&reference(node), kind, reason, "Sync", note, None);
    }
}

/// All nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Look;

impl std::fmt::Display for Look {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("nodes")
    }
}

fn name_of(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}
