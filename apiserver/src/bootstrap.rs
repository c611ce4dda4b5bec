//! The objects a server makes sure of when it starts, one file per area.
//!
//! ```text
//! namespaces → RBAC policy → priority classes → flow schemas and levels → authentication facts → service CIDR →
//! kubernetes service → allocations repaired → (loop) endpoints and identity lease
//! ```
//!
//! Contract: upstream `pkg/controlplane/controller`, start hooks of `kube-apiserver`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use component_base::features::{Gate, Gates};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::{authz, flowcontrol, objects::Objects, status::Status};

pub mod authentication_facts;
pub mod identity;
pub mod kubernetes_service;
pub mod legacy_token_tracking;
pub mod namespaces;
pub mod peer_endpoint;
pub mod priority_classes;
pub mod service_cidr;
pub mod storage_versions;

/// How often endpoints and the identity lease are renewed.
pub const RENEW: Duration = Duration::from_secs(10);

/// How often leases of servers that are gone are removed.
const COLLECT: Duration = Duration::from_secs(3600);

/// What bootstrap objects say of this server and cluster.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `--service-cluster-ip-range`, primary first.
    pub service_ranges: Vec<IpNet>,
    /// `--advertise-address`.
    pub advertise: IpAddr,
    /// `--secure-port`.
    pub port: u16,
    /// Whether this server is among the endpoints of the `kubernetes` service (`--endpoint-reconciler-type`).
    pub publishes: bool,
    /// `--kubernetes-service-node-port`, 0 = none.
    pub node_port: u16,
    /// `--client-ca-file`'s content.
    pub client_ca: Option<String>,
    /// `--requestheader-*`: CA content, allowed names, user name, uid, group and extra headers.
    pub request_header: Option<authentication_facts::RequestHeader>,
    /// Host name, part of the identity lease.
    pub hostname: String,
    /// Where other API servers reach this one: `--peer-advertise-ip` and `--peer-advertise-port`, or as clients do.
    pub peer_address: (String, u16),
    /// Identity of this process: `apiserver-<hash>_<uuid>`.
    pub identity: String,
    /// `--feature-gates`.
    pub gates: Gates,
}

/// Everything that must be there before the server is ready. Safe on several servers at once.
pub async fn ensure(
    objects: &Arc<dyn Objects>,
    facts: &Facts,
    rbac: bool,
    now: Timestamp,
) -> Result<(), Status> {
    namespaces::ensure(&**objects, now).await?;
    if rbac {
        authz::bootstrap::reconcile(&**objects, now, facts.gates).await?;
    }
    priority_classes::ensure(&**objects, now).await?;
    flowcontrol::bootstrap::ensure(&**objects, now).await?;
    authentication_facts::ensure(&**objects, facts, now).await?;
    service_cidr::ensure(&**objects, facts, now).await?;
    kubernetes_service::ensure(&**objects, facts, now).await?;
    renew(objects, facts, now).await
}

/// What is renewed every [`RENEW`]: endpoints of the kubernetes service and the identity lease; and what is to be there
/// whoever deletes it.
pub async fn renew(objects: &Arc<dyn Objects>, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    if facts.gates.has(Gate::APIServerIdentity) {
        identity::renew(&**objects, facts, now).await?;
    }
    if facts.publishes {
        kubernetes_service::renew(&**objects, facts, now).await?;
    }
    if facts.gates.has(Gate::UnknownVersionInteroperabilityProxy) {
        peer_endpoint::renew(&**objects, facts, now).await?;
    }
    legacy_token_tracking::ensure(&**objects, now).await
}

/// Renews until cancelled by the caller; failures are logged and tried again.
pub async fn keep_renewing(objects: Arc<dyn Objects>, facts: Facts) {
    loop {
        tokio::time::sleep(RENEW).await;
        if let Err(status) = renew(&objects, &facts, Timestamp::now()).await {
            tracing::warn!(error = %status, "endpoints or identity of this server were not renewed");
        }
    }
}

/// Removes leases of servers that have been gone for long, until cancelled by the caller.
pub async fn collect_identities(objects: Arc<dyn Objects>) {
    loop {
        if let Err(status) = identity::collect(&*objects, Timestamp::now()).await {
            tracing::warn!(error = %status, "leases of servers that are gone are not removed yet");
        }
        tokio::time::sleep(COLLECT).await;
    }
}

/// On shutdown: this server leaves the endpoints at once instead of by expiry.
pub async fn leave(objects: &Arc<dyn Objects>, facts: &Facts) -> Result<(), Status> {
    if facts.gates.has(Gate::UnknownVersionInteroperabilityProxy) {
        peer_endpoint::leave(&**objects, facts).await?;
    }
    if facts.publishes {
        kubernetes_service::leave(&**objects, facts, Timestamp::now()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
