//! Objects that more than one daemon watches, reduced to the fields any of them reads: a store of these is a fraction of
//! one of whole objects.
//!
//! Contract: core/v1 Service, Pod and Namespace, discovery.k8s.io/v1 EndpointSlice.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::{ClusterResourceScope, NamespaceResourceScope, Resource};
use serde::{Deserialize, Deserializer};

/// A service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    #[serde(deserialize_with = "identity")]
    pub metadata: ObjectMeta,
    /// Specification.
    pub spec: ServiceSpec,
    /// Status.
    pub status: ServiceStatus,
}

/// `Service.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: String,
    /// First cluster IP; `None` for headless services.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Cluster IPs of all families.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Addresses routed to nodes by someone else.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// Who may use the load balancer.
    pub load_balancer_source_ranges: Vec<String>,
    /// `None` or `ClientIP`.
    pub session_affinity: String,
    /// Timeout of affinity.
    pub session_affinity_config: SessionAffinityConfig,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: String,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// Where load balancers ask for local endpoints.
    pub health_check_node_port: u16,
    /// Name that an `ExternalName` service stands for.
    pub external_name: Option<String>,
}

/// `spec.ports[*]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// Name; may be empty.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`; empty is TCP.
    pub protocol: String,
    /// Port of the service.
    pub port: u16,
    /// Port on the nodes.
    pub node_port: u16,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SessionAffinityConfig {
    /// For `ClientIP`.
    #[serde(rename = "clientIP")]
    pub client_ip: ClientIpConfig,
}

/// `sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds; default three hours.
    pub timeout_seconds: Option<u32>,
}

/// `Service.status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    /// What the cloud set up.
    pub load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// Addresses.
    pub ingress: Vec<LoadBalancerIngress>,
}

/// `status.loadBalancer.ingress[*]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    /// Address.
    pub ip: String,
    /// `VIP` (or empty), or `Proxy`, which is not ours to serve.
    pub ip_mode: String,
}

/// An endpoint slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Metadata; the service is a label. Of annotations there is [`TRIGGER_TIME`].
    #[serde(deserialize_with = "triggered")]
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// Endpoints.
    #[serde(deserialize_with = "null_is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Ports all of them have.
    #[serde(deserialize_with = "null_is_empty")]
    pub ports: Vec<EndpointPort>,
}

/// `endpoints[*]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Addresses of one thing; the first counts.
    pub addresses: Vec<String>,
    /// State.
    pub conditions: EndpointConditions,
    /// Where it runs.
    pub node_name: Option<String>,
    /// Whom it is meant for.
    pub hints: Option<EndpointHints>,
    /// Name of its own.
    pub hostname: Option<String>,
    /// What it is an address of.
    pub target_ref: Option<TargetRef>,
}

/// `endpoints[*].targetRef`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// `Pod` for pods.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// `endpoints[*].conditions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Missing means true.
    pub ready: Option<bool>,
    /// Missing means as `ready`.
    pub serving: Option<bool>,
    /// Missing means false.
    pub terminating: Option<bool>,
}

/// `endpoints[*].hints`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointHints {
    /// Zones.
    pub for_zones: Vec<ForName>,
    /// Nodes.
    pub for_nodes: Vec<ForName>,
}

/// A hint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ForName {
    /// Zone or node.
    pub name: String,
}

/// `ports[*]` of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Name; missing is empty.
    pub name: Option<String>,
    /// Protocol; missing is TCP.
    pub protocol: Option<String>,
    /// Port; missing means all, which a proxy cannot serve.
    pub port: Option<u16>,
}

/// A pod, as its peers see it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    #[serde(deserialize_with = "identity")]
    pub metadata: ObjectMeta,
    /// Specification.
    pub spec: PodSpec,
    /// Status.
    pub status: PodStatus,
}

/// `Pod.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// Where it runs; empty before it is scheduled.
    pub node_name: String,
    /// Whether its network is the node's.
    pub host_network: bool,
    /// Containers.
    pub containers: Vec<Container>,
    /// Init containers; those that always restart are sidecars.
    pub init_containers: Vec<Container>,
}

/// A container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Ports.
    pub ports: Vec<ContainerPort>,
    /// `Always` for sidecars among init containers.
    pub restart_policy: String,
}

/// `containers[*].ports[*]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name; may be empty.
    pub name: String,
    /// Number.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`; empty is TCP.
    pub protocol: String,
}

/// `Pod.status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// First address.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// Addresses of all families.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
}

/// `status.podIPs[*]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// A namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Metadata; labels are what policies select by.
    #[serde(deserialize_with = "identity")]
    pub metadata: ObjectMeta,
}

/// When the change happened that a slice publishes (`core/v1` `EndpointsLastChangeTriggerTime`).
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Metadata with the one annotation that tells when what is published happened.
fn triggered<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Triggered {
        #[serde(flatten)]
        identity: Identity,
        annotations: Option<Annotations>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Annotations {
        #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
        trigger_time: Option<String>,
    }
    let Triggered { identity, annotations } = Triggered::deserialize(deserializer)?;
    let time = annotations.and_then(|annotations| annotations.trigger_time);
    let annotations = time.map(|time| BTreeMap::from([(TRIGGER_TIME.to_owned(), time)]));
    Ok(ObjectMeta { annotations, ..identity.into() })
}

/// Metadata without what nobody reads here: managed fields and annotations are most of it.
pub fn identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    Identity::deserialize(deserializer).map(Into::into)
}

impl From<Identity> for ObjectMeta {
    fn from(identity: Identity) -> ObjectMeta {
        let Identity { name, namespace, uid, resource_version, labels, deletion_timestamp } = identity;
        ObjectMeta {
            name,
            namespace,
            uid,
            resource_version,
            labels,
            deletion_timestamp,
            ..ObjectMeta::default()
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Identity {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<Time>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

macro_rules! resource {
    ($($kind:ident, $scope:ident, $group:literal, $plural:literal;)*) => {$(
        impl Resource for $kind {
            type DynamicType = ();
            type Scope = $scope;
            fn kind((): &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }
            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }
            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    )*};
}

resource! {
    Service, NamespaceResourceScope, "", "services";
    EndpointSlice, NamespaceResourceScope, "discovery.k8s.io", "endpointslices";
    Pod, NamespaceResourceScope, "", "pods";
    Namespace, ClusterResourceScope, "", "namespaces";
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_what_identifies_an_object() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {
            "name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"},
            "deletionTimestamp": "2026-01-01T00:00:00Z", "annotations": {"c": "d"},
            "managedFields": [{"manager": "m", "operation": "Update"}],
        }}))
        .unwrap();
        let metadata = &pod.metadata;
        assert_eq!(metadata.name.as_deref(), Some("p"));
        assert_eq!(metadata.labels.as_ref().unwrap()["a"], "b");
        assert!(metadata.deletion_timestamp.is_some());
        assert!(metadata.annotations.is_none() && metadata.managed_fields.is_none());
        let slice: EndpointSlice =
            serde_json::from_value(json!({"metadata": {}, "endpoints": null, "ports": null})).unwrap();
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
        let annotations = json!({TRIGGER_TIME: "2026-01-01T00:00:00Z", "c": "d"});
        let slice: EndpointSlice =
            serde_json::from_value(json!({"metadata": {"name": "s", "annotations": annotations}})).unwrap();
        assert_eq!(slice.metadata.name.as_deref(), Some("s"));
        assert_eq!(slice.metadata.annotations.map(|all| all.len()), Some(1));
    }
}
