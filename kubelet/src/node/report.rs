//! Telling the API server of this node: registration, status (when it changed, or after five minutes), and the lease that
//! is renewed every ten seconds.
//!
//! Contract: node heartbeats (KEP-589).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use component_base::{features::Gate, task::Tasks};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, NodeStatus},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{startup, status};
use crate::{
    events::{EventSink, Severity, node_reference},
    options::Config,
};

/// Where leases of nodes live.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// While the node is not registered or not ready, it is looked at this often.
const EAGER: Duration = Duration::from_millis(200);

/// Works out the node's status from the one of before.
#[async_trait::async_trait]
pub trait StatusSource: Send + Sync {
    /// The status now.
    async fn status(&self, previous: Option<&NodeStatus>) -> NodeStatus;
    /// Waits until the status is worth a look before its time.
    async fn changed(&self);
    /// The API server gave the node a range of pod addresses.
    async fn pod_cidr(&self, cidr: &str);
}

/// Reports until the drain.
pub fn run(
    client: Client,
    config: Config,
    source: Arc<dyn StatusSource>,
    events: Arc<dyn EventSink>,
    tasks: &Tasks,
) {
    let reporter = Reporter { api: Api::all(client.clone()), config: config.clone(), source, events };
    let drain = tasks.drain();
    tasks.spawn("node-status", async move {
        tokio::select! {
            () = drain.cancelled() => {}
            () = reporter.report() => {}
        }
    });
    let drain = tasks.drain();
    tasks.spawn("node-lease", async move {
        tokio::select! {
            () = drain.cancelled() => {}
            () = renew(client, config) => {}
        }
    });
}

struct Reporter {
    api: Api<Node>,
    config: Config,
    source: Arc<dyn StatusSource>,
    events: Arc<dyn EventSink>,
}

impl Reporter {
    async fn report(&self) {
        let mut previous = self.register().await;
        let mut sent: Option<(Instant, NodeStatus)> = None;
        let mut cidr = String::new();
        loop {
            // Others write to the status, too: they give up a node that is silent, and add resources to it.
            match self.api.get(&self.config.node_name).await {
                Ok(node) => previous = node.status,
                Err(error) => {
                    tracing::debug!(%error, "cannot read the node, its status goes on from what was known")
                }
            }
            let now = self.source.status(previous.as_ref()).await;
            let due = sent.as_ref().is_none_or(|(at, before)| {
                at.elapsed() >= self.config.file.node_status_report_frequency.0
                    || status::differs(before, &now)
            }) || previous.as_ref().is_none_or(|told| status::contradicts(told, &now));
            if due {
                match self.send(&now, previous.as_ref()).await {
                    Ok(node) => {
                        self.tell(previous.as_ref(), &now);
                        previous = Some(now.clone());
                        sent = Some((Instant::now(), now.clone()));
                        let given = node.spec.and_then(|s| s.pod_cidr).unwrap_or_default();
                        if !given.is_empty() && given != cidr {
                            self.source.pod_cidr(&given).await;
                            cidr = given;
                        }
                    }
                    Err(kube::Error::Api(status)) if status.code == 404 => previous = self.register().await,
                    Err(error) => tracing::error!(%error, "error updating node status, will retry"),
                }
            }
            let ready = now.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            if ready {
                startup::is_ready(Timestamp::now());
            }
            let frequency = self.config.file.node_status_update_frequency.0;
            tokio::select! {
                () = tokio::time::sleep(if ready { frequency } else { EAGER.min(frequency) }) => {}
                () = self.source.changed() => {}
            }
        }
    }

    /// Creates the node, or takes over the one there is; tries until that is done. Answers with its status.
    async fn register(&self) -> Option<NodeStatus> {
        loop {
            match self.try_register().await {
                Ok(status) => return status,
                Err(error) => tracing::error!(%error, "unable to register node with API server"),
            }
            tokio::time::sleep(EAGER).await;
        }
    }

    async fn try_register(&self) -> Result<Option<NodeStatus>, kube::Error> {
        startup::STARTUP.lock().attempt(Timestamp::now());
        let name = &self.config.node_name;
        // Whoever may make nodes and not read them learns from the attempt whether there is one.
        let asks = !self.config.gates.has(Gate::KubeletRegistrationGetOnExistsOnly);
        if (asks || !self.config.file.register_node)
            && let Some(node) = self.api.get_opt(name).await?
        {
            return self.adopt(node).await;
        }
        if !self.config.file.register_node {
            tracing::info!(node = name, "waiting for the node to be registered by others");
            return Ok(None);
        }
        let status = self.source.status(None).await;
        let node = status::initial_node(&self.config, status);
        match self.api.create(&PostParams::default(), &node).await {
            Ok(made) => {
                tracing::info!(node = name, "successfully registered node");
                startup::registered(Timestamp::now());
                Ok(made.status)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let node = self.api.get(name).await?;
                self.adopt(node).await
            }
            Err(error) => Err(error),
        }
    }

    /// Brings the default labels of a node that was registered before up to date, and who attaches its volumes.
    async fn adopt(&self, node: Node) -> Result<Option<NodeStatus>, kube::Error> {
        let have = node.metadata.labels.clone().unwrap_or_default();
        let want = status::default_labels(&self.config.node_name);
        let noted = node.metadata.annotations.clone().unwrap_or_default();
        let notes = status::annotations(&self.config);
        if notes.iter().any(|(k, v)| noted.get(*k) != v.as_ref())
            || want.iter().any(|(k, v)| have.get(k) != Some(v))
        {
            let annotations: BTreeMap<_, _> = notes.into_iter().collect();
            let body = json!({ "metadata": { "labels": want, "annotations": annotations } });
            let patch = Patch::Strategic(&body);
            self.api.patch(&self.config.node_name, &PatchParams::default(), &patch).await?;
        }
        Ok(node.status)
    }

    async fn send(&self, status: &NodeStatus, previous: Option<&NodeStatus>) -> Result<Node, kube::Error> {
        let body = patch(status, previous);
        self.api.patch_status(&self.config.node_name, &PatchParams::default(), &Patch::Strategic(&body)).await
    }

    fn tell(&self, before: Option<&NodeStatus>, now: &NodeStatus) {
        let name = &self.config.node_name;
        if let Some(text) = status::rebooted(name, before, now) {
            self.events.send(node_reference(name), Severity::Warning, "Rebooted", &text);
        }
        for reason in status::transitions(before, now) {
            let text = format!("Node {name} status is now: {reason}");
            self.events.send(node_reference(name), Severity::Normal, reason, &text);
        }
    }
}

/// What makes the status this one that was `previous` before.
fn patch(status: &NodeStatus, previous: Option<&NodeStatus>) -> Value {
    let mut body = json!({ "status": status });
    // Maps are merged: what is not there any more must be taken out by name.
    for (list, before) in [
        ("capacity", previous.and_then(|p| p.capacity.as_ref())),
        ("allocatable", previous.and_then(|p| p.allocatable.as_ref())),
    ] {
        if let Some(now) = body["status"][list].as_object_mut() {
            for (name, _) in before.into_iter().flatten() {
                now.entry(name.clone()).or_insert(Value::Null);
            }
        }
    }
    // So are the fields themselves: without this the last volume would be in use for good, and never be detached.
    if status.volumes_in_use.is_none() {
        body["status"]["volumesInUse"] = Value::Null;
    }
    // The lists of addresses and images are replaced as a whole: what is gone must go.
    if let Some(addresses) = body["status"]["addresses"].as_array_mut() {
        addresses.push(json!({ "$patch": "replace" }));
    }
    body
}

/// Renews the node's lease at a quarter of its duration.
async fn renew(client: Client, config: Config) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let nodes: Api<Node> = Api::all(client);
    let seconds = config.file.node_lease_duration_seconds;
    let period = Duration::from_secs(u64::try_from(seconds).unwrap_or(40)) / 4;
    loop {
        let renewed = renew_once(&leases, &nodes, &config.node_name, seconds).await;
        let wait = match renewed {
            Ok(()) => period,
            Err(error) => {
                tracing::error!(%error, "failed to update lease");
                period / 10
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew_once(
    leases: &Api<Lease>,
    nodes: &Api<Node>,
    name: &str,
    seconds: i32,
) -> Result<(), kube::Error> {
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    match leases.get_opt(name).await? {
        Some(mut lease) => {
            lease.spec = Some(spec);
            leases.replace(name, &PostParams::default(), &lease).await?;
        }
        None => {
            let node = nodes.get_opt(name).await?;
            let owner = node.and_then(|n| n.metadata.uid).map(|uid| OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.to_owned(),
                uid,
                ..OwnerReference::default()
            });
            let mut lease = Lease { spec: Some(spec), ..Lease::default() };
            lease.metadata.name = Some(name.to_owned());
            lease.metadata.namespace = Some(LEASE_NAMESPACE.to_owned());
            lease.metadata.owner_references = owner.map(|o| vec![o]);
            leases.create(&PostParams::default(), &lease).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::NodeAddress, apimachinery::pkg::api::resource::Quantity};

    use super::*;

    #[test]
    fn what_is_gone_is_taken_out_of_the_status() {
        let with = |resource: &str, volumes: Option<&str>| NodeStatus {
            capacity: Some([(resource.to_owned(), Quantity("1".into()))].into()),
            volumes_in_use: volumes.map(|one| vec![one.to_owned()]),
            addresses: Some(vec![NodeAddress { address: "10.0.0.1".into(), type_: "InternalIP".into() }]),
            ..NodeStatus::default()
        };
        let body = patch(&with("new", None), Some(&with("old", Some("v"))));
        assert_eq!(body["status"]["capacity"], json!({ "new": "1", "old": null }));
        assert_eq!(body["status"].get("volumesInUse"), Some(&Value::Null));
        assert_eq!(body["status"]["addresses"][1], json!({ "$patch": "replace" }));
        assert_eq!(patch(&with("new", Some("v")), None)["status"]["volumesInUse"], json!(["v"]));
    }
}
