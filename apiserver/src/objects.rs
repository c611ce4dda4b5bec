//! The objects the server reads and writes for its own purposes: namespaces, service accounts,
//! roles, quotas, its bootstrap objects.
//!
//! [`Objects`] is the seam between authentication, authorization, admission and bootstrap on one
//! side and the store on the other. It bypasses authorization and admission on purpose: these parts
//! *are* authorization and admission.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::{
    object::Object,
    status::{GroupName, Reason, Status},
};

#[cfg(test)]
pub(crate) mod memory;
pub mod stored;

/// A resource by group and plural name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// Plural lower-case name.
    pub resource: &'static str,
}

const fn core(resource: &'static str) -> Kind {
    Kind { group: "", resource }
}

/// `namespaces`.
pub const NAMESPACES: Kind = core("namespaces");
/// `serviceaccounts`.
pub const SERVICE_ACCOUNTS: Kind = core("serviceaccounts");
/// `secrets`.
pub const SECRETS: Kind = core("secrets");
/// `configmaps`.
pub const CONFIG_MAPS: Kind = core("configmaps");
/// `pods`.
pub const PODS: Kind = core("pods");
/// `events`.
pub const EVENTS: Kind = core("events");
/// `nodes`.
pub const NODES: Kind = core("nodes");
/// `services`.
pub const SERVICES: Kind = core("services");
/// `endpoints`.
pub const ENDPOINTS: Kind = core("endpoints");
/// `persistentvolumes`.
pub const PERSISTENT_VOLUMES: Kind = core("persistentvolumes");
/// `persistentvolumeclaims`.
pub const PERSISTENT_VOLUME_CLAIMS: Kind = core("persistentvolumeclaims");
/// `volumeattributesclasses`.
pub const VOLUME_ATTRIBUTES_CLASSES: Kind =
    Kind { group: "storage.k8s.io", resource: "volumeattributesclasses" };
/// `limitranges`.
pub const LIMIT_RANGES: Kind = core("limitranges");
/// `resourcequotas`.
pub const RESOURCE_QUOTAS: Kind = core("resourcequotas");
/// Upstream's allocation bitmaps (`/registry/ranges/<name>`); stored, never served.
pub const RANGES: Kind = core("ranges");
/// Records of live API servers (`/registry/masterleases/<address>`), dropped when not renewed; stored, never served.
pub const MASTER_LEASES: Kind = core("masterleases");
/// Where live API servers are reached by each other (`/registry/peerserverleases/<identity>`), dropped when not renewed;
/// stored, never served.
pub const PEER_LEASES: Kind = core("peerserverleases");
/// `endpointslices.discovery.k8s.io`.
pub const ENDPOINT_SLICES: Kind = Kind { group: "discovery.k8s.io", resource: "endpointslices" };
/// `leases.coordination.k8s.io`.
pub const LEASES: Kind = Kind { group: "coordination.k8s.io", resource: "leases" };
/// `leasecandidates.coordination.k8s.io`.
pub const LEASE_CANDIDATES: Kind = Kind { group: "coordination.k8s.io", resource: "leasecandidates" };
/// `priorityclasses.scheduling.k8s.io`.
pub const PRIORITY_CLASSES: Kind = Kind { group: "scheduling.k8s.io", resource: "priorityclasses" };
/// `podgroups.scheduling.k8s.io`.
pub const POD_GROUPS: Kind = Kind { group: "scheduling.k8s.io", resource: "podgroups" };
/// `workloads.scheduling.k8s.io`.
pub const WORKLOADS: Kind = Kind { group: "scheduling.k8s.io", resource: "workloads" };
/// `podcertificaterequests.certificates.k8s.io`.
pub const POD_CERTIFICATE_REQUESTS: Kind =
    Kind { group: "certificates.k8s.io", resource: "podcertificaterequests" };
/// `storageclasses.storage.k8s.io`.
pub const STORAGE_CLASSES: Kind = Kind { group: "storage.k8s.io", resource: "storageclasses" };
/// `poddisruptionbudgets.policy`.
pub const POD_DISRUPTION_BUDGETS: Kind = Kind { group: "policy", resource: "poddisruptionbudgets" };
/// `csidrivers.storage.k8s.io`.
pub const CSI_DRIVERS: Kind = Kind { group: "storage.k8s.io", resource: "csidrivers" };
/// `volumeattachments.storage.k8s.io`.
pub const VOLUME_ATTACHMENTS: Kind = Kind { group: "storage.k8s.io", resource: "volumeattachments" };
/// `runtimeclasses.node.k8s.io`.
pub const RUNTIME_CLASSES: Kind = Kind { group: "node.k8s.io", resource: "runtimeclasses" };
/// `ingressclasses.networking.k8s.io`.
pub const INGRESS_CLASSES: Kind = Kind { group: "networking.k8s.io", resource: "ingressclasses" };
/// `ipaddresses.networking.k8s.io`.
pub const IP_ADDRESSES: Kind = Kind { group: "networking.k8s.io", resource: "ipaddresses" };
/// `servicecidrs.networking.k8s.io`.
pub const SERVICE_CIDRS: Kind = Kind { group: "networking.k8s.io", resource: "servicecidrs" };
/// `resourceslices.resource.k8s.io`.
pub const RESOURCE_SLICES: Kind = Kind { group: "resource.k8s.io", resource: "resourceslices" };
/// `deviceclasses.resource.k8s.io`.
pub const DEVICE_CLASSES: Kind = Kind { group: "resource.k8s.io", resource: "deviceclasses" };
/// `resourceclaims.resource.k8s.io`.
pub const RESOURCE_CLAIMS: Kind = Kind { group: "resource.k8s.io", resource: "resourceclaims" };
/// `mutatingwebhookconfigurations.admissionregistration.k8s.io`.
pub const MUTATING_WEBHOOKS: Kind =
    Kind { group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations" };
/// `validatingwebhookconfigurations.admissionregistration.k8s.io`.
pub const VALIDATING_WEBHOOKS: Kind =
    Kind { group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations" };
/// `flowschemas.flowcontrol.apiserver.k8s.io`.
pub const FLOW_SCHEMAS: Kind = Kind { group: "flowcontrol.apiserver.k8s.io", resource: "flowschemas" };
/// `prioritylevelconfigurations.flowcontrol.apiserver.k8s.io`.
pub const PRIORITY_LEVELS: Kind =
    Kind { group: "flowcontrol.apiserver.k8s.io", resource: "prioritylevelconfigurations" };
/// `storageversions.internal.apiserver.k8s.io`.
pub const STORAGE_VERSIONS: Kind = Kind { group: "internal.apiserver.k8s.io", resource: "storageversions" };
const RBAC: &str = "rbac.authorization.k8s.io";
/// `roles.rbac.authorization.k8s.io`.
pub const ROLES: Kind = Kind { group: RBAC, resource: "roles" };
/// `clusterroles.rbac.authorization.k8s.io`.
pub const CLUSTER_ROLES: Kind = Kind { group: RBAC, resource: "clusterroles" };
/// `rolebindings.rbac.authorization.k8s.io`.
pub const ROLE_BINDINGS: Kind = Kind { group: RBAC, resource: "rolebindings" };
/// `clusterrolebindings.rbac.authorization.k8s.io`.
pub const CLUSTER_ROLE_BINDINGS: Kind = Kind { group: RBAC, resource: "clusterrolebindings" };

/// One step of a watch.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is now like this.
    Applied(Arc<Object>),
    /// The object is gone; its last state.
    Deleted(Arc<Object>),
    /// Everything that existed when the watch began has been delivered.
    Synced,
}

/// What of a kind's changes a reader needs to see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Relevant {
    /// Only objects that have this selectable field; one that loses it counts as gone.
    pub having: Option<&'static str>,
    /// Only changes of these parts, as JSON pointers; all without any.
    pub parts: &'static [&'static str],
}

/// Reads and guarded writes of objects, in their storage version.
#[async_trait]
pub trait Objects: Send + Sync {
    /// The object as the cache has it: cheap, may be behind by milliseconds.
    async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Status>;
    /// The object as etcd has it now.
    async fn get_latest(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, Status>;
    /// All objects of a kind from the cache, of one namespace or (`None`) of all.
    async fn list(&self, kind: Kind, namespace: Option<&str>) -> Result<Vec<Arc<Object>>, Status>;
    /// All objects of a kind from the cache; one that did not change is the same `Arc` as at the last call, so that
    /// what is compiled from it can be kept by identity. For kinds with few objects that every request looks at.
    async fn list_kept(&self, kind: Kind) -> Result<Vec<Arc<Object>>, Status>;
    /// All objects of a kind as etcd has them now.
    async fn list_latest(&self, kind: Kind) -> Result<Vec<Arc<Object>>, Status>;
    /// Stores a new object as it is; `AlreadyExists` when the key is taken.
    async fn create(&self, kind: Kind, object: Object) -> Result<Arc<Object>, Status>;
    /// Replaces the object whose `metadata.resourceVersion` still matches; else `Conflict` or `NotFound`.
    async fn update(&self, kind: Kind, object: Object) -> Result<Arc<Object>, Status>;
    /// Removes the object if its `metadata.resourceVersion` still matches; a missing one is fine.
    async fn delete(&self, kind: Kind, object: &Object) -> Result<(), Status>;
    /// Existing objects, then `Synced`, then changes; ends when the reader fell behind.
    async fn watch(&self, kind: Kind) -> Result<BoxStream<'static, Change>, Status> {
        self.watch_relevant(kind, Relevant::default()).await
    }
    /// The same; what is not relevant may be left out.
    async fn watch_relevant(
        &self,
        kind: Kind,
        relevant: Relevant,
    ) -> Result<BoxStream<'static, Change>, Status>;
}

impl Kind {
    /// `roles.rbac.authorization.k8s.io`.
    pub fn group_name(self) -> GroupName {
        GroupName::new(self.group, self.resource)
    }
}

/// A new unique name, from this thread's generator: asking the kernel each time would be a call of its own.
pub fn new_uid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

/// A new object with the metadata the engine would give it.
pub fn new_object(api_version: &str, kind: &str, namespace: &str, name: &str, now: Timestamp) -> Object {
    let mut object = Object::new();
    object.set("apiVersion", api_version);
    object.set("kind", kind);
    object.set_meta_str("name", name);
    object.set_meta_str("namespace", namespace);
    object.set_meta_str("uid", &new_uid());
    object.set_meta_str("creationTimestamp", &rfc3339(now));
    object
}

/// `metav1.Time`: RFC 3339 in UTC with whole seconds.
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`.
pub fn micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Creates an object unless it is there; another server winning the race is fine.
pub async fn ensure(objects: &dyn Objects, kind: Kind, object: Object) -> Result<(), Status> {
    let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
    if objects.get_latest(kind, &namespace, &name).await?.is_some() {
        return Ok(());
    }
    match objects.create(kind, object).await {
        Err(status) if status.reason != Reason::AlreadyExists => Err(status),
        _ => Ok(()),
    }
}
