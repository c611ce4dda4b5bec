//! What the proxy keeps of the API's objects: of services the ports it serves, of slices the endpoints, of its node the
//! fields it reads.
//!
//! Contract: core/v1 Service and Node, discovery.k8s.io/v1 EndpointSlice.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

pub use component_base::objects::{Namespace, Pod};
use component_base::{
    informer::{Digest, Kept},
    meta::{ObjectKey, key_of},
    objects::{self, identity},
};
use k8s_openapi::{api::core::v1::Taint, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::core::{ClusterResourceScope, Resource};
use serde::Deserialize;
use smol_str::SmolStr;

use crate::model::{self, Ports, Protocol};

/// Label of slices that names their service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A service, as the ports of it that are served.
pub type Service = Kept<Served>;

/// A slice of a service's endpoints.
pub type EndpointSlice = Kept<Slice>;

/// What is served of a service: no ports for headless services and external names.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its ports, in order.
    pub ports: Ports,
    /// Where load balancers ask for endpoints on this node; 0 for nowhere.
    pub health_check_port: u16,
}

/// What is served of a slice.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Name of the service; empty for a slice that no service is served from.
    service: SmolStr,
    /// Ports all endpoints have: names, protocols and numbers.
    pub ports: Box<[(SmolStr, Protocol, u16)]>,
    /// The endpoints.
    pub endpoints: Box<[Endpoint]>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its first address.
    pub address: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, though it may be terminating.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// Where it runs; may be empty.
    pub node: SmolStr,
    /// Whom it is meant for, if that is said.
    pub hints: Option<Box<Hints>>,
}

/// Zones and nodes an endpoint is meant for.
#[derive(Clone, Debug)]
pub struct Hints {
    /// `hints.forZones`.
    pub zones: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub nodes: Vec<Arc<str>>,
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata; the zone is a label.
    #[serde(deserialize_with = "identity")]
    pub metadata: ObjectMeta,
    /// Specification.
    pub spec: NodeSpec,
    /// Status.
    pub status: NodeStatus,
}

/// `Node.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    /// Ranges of the node's pods.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// Taints.
    pub taints: Vec<Taint>,
}

/// `Node.status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Addresses.
    pub addresses: Vec<NodeAddress>,
}

/// `status.addresses[*]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

// === impl Served ===

impl Digest for Served {
    type Of = objects::Service;

    fn of(service: objects::Service) -> Self {
        let (ports, health_check_port) = model::ports(&key_of(&service.metadata), &service);
        Self { ports, health_check_port }
    }

    fn settle(&mut self, key: &ObjectKey) {
        for (name, _) in &mut self.ports {
            let name = Arc::make_mut(name);
            (name.namespace, name.service) = (key.namespace.clone(), key.name.clone());
        }
    }
}

// === impl Slice ===

/// The service a slice is of.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    (!slice.service.is_empty())
        .then(|| ObjectKey { namespace: slice.key.namespace.clone(), name: slice.service.as_str().into() })
}

impl Digest for Slice {
    type Of = objects::EndpointSlice;

    fn of(slice: objects::EndpointSlice) -> Self {
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let served = matches!(slice.address_type.as_str(), "IPv4" | "IPv6");
        let port = |port: &objects::EndpointPort| {
            let protocol = model::protocol(port.protocol.as_deref().unwrap_or_default())?;
            Some((port.name.as_deref().unwrap_or_default().into(), protocol, port.port?))
        };
        Self {
            service: label.filter(|_| served).map(Into::into).unwrap_or_default(),
            ports: slice.ports.iter().filter_map(port).collect(),
            endpoints: slice.endpoints.iter().filter_map(Endpoint::of).collect(),
        }
    }
}

impl Endpoint {
    fn of(endpoint: &objects::Endpoint) -> Option<Self> {
        let conditions = &endpoint.conditions;
        let ready = conditions.ready.unwrap_or(true);
        let names =
            |hints: &[objects::ForName]| hints.iter().map(|hint| Arc::from(hint.name.as_str())).collect();
        let hints = endpoint.hints.as_ref();
        Some(Self {
            address: endpoint.addresses.first()?.parse().ok()?,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.as_deref().unwrap_or_default().into(),
            hints: hints.map(|h| Box::new(Hints { zones: names(&h.for_zones), nodes: names(&h.for_nodes) })),
        })
    }
}

// === impl Node ===

impl Resource for Node {
    type DynamicType = ();
    type Scope = ClusterResourceScope;
    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
