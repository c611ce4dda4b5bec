//! The aggregation layer: groups served by other API servers behind services of the cluster.
//!
//! ```text
//! APIServices ──watch──→ sync (availability, discovery) ──→ remotes ──→ request path: proxied, and /apis merged
//!      ↑ status, built-in groups registered
//! ```
//! Contract: apiregistration.k8s.io/v1, "Kubernetes API Aggregation Layer"; upstream's kube-aggregator.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::{FutureExt, StreamExt};
use rustls::{RootCertStore, pki_types::CertificateDer, sign::CertifiedKey};
use serde_json::{Value, json};

use crate::{
    egress::Route,
    metrics,
    openapi::{Described, Elsewhere},
    proxy::dial::DialError,
    server::Server,
    status::Status,
};

mod availability;
mod proxied;
mod registration;
pub(crate) mod service;

pub use proxied::serve;
pub(crate) use proxied::set_user;

/// How often unavailable servers are asked again; available ones are asked every sixth time.
const TICK: Duration = Duration::from_secs(5);

/// The flags.
#[derive(Clone, Debug, Default)]
pub struct AggregatorOptions {
    /// `--proxy-client-cert-file` and `--proxy-client-key-file`: who this server is to the others.
    pub client: Option<(PathBuf, PathBuf)>,
    /// `--enable-aggregator-routing`: straight to the endpoints instead of the cluster IP.
    pub by_endpoint: bool,
    /// `--aggregator-reject-forwarding-redirect`.
    pub refuses_redirects: bool,
}

/// The aggregation layer's state.
pub struct Aggregator {
    client: Option<CertifiedKey>,
    by_endpoint: bool,
    refuses_redirects: bool,
    route: Route,
    remotes: ArcSwap<Vec<Arc<Remote>>>,
}

/// A group version served elsewhere.
#[derive(Clone)]
pub struct Remote {
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    group_priority: i64,
    version_priority: i64,
    service: Service,
    tls: Result<Arc<rustls::ClientConfig>, String>,
    is_available: bool,
    /// `resources` of its APIResourceList, from the last check.
    resources: Vec<Value>,
    /// Where its OpenAPI document is, with its digest, from the last check; empty when it has none.
    openapi: String,
    /// What its server's Swagger document says of it.
    described: Option<Arc<Described>>,
}

/// `spec.service`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    namespace: String,
    name: String,
    port: u16,
}

impl Aggregator {
    /// Loads the client certificate. `route` leads to the other servers.
    ///
    /// # Errors
    /// When it is unusable.
    pub fn new(options: &AggregatorOptions, route: Route) -> Result<Self, component_base::tls::TlsError> {
        let client = options
            .client
            .as_ref()
            .map(|(cert, key)| component_base::tls::load_pair(cert, key))
            .transpose()?;
        let AggregatorOptions { by_endpoint, refuses_redirects, .. } = *options;
        Ok(Self { client, by_endpoint, refuses_redirects, route, remotes: ArcSwap::default() })
    }

    /// Whether services are reached by their endpoints instead of their cluster IP.
    pub fn routes_to_endpoints(&self) -> bool {
        self.by_endpoint
    }

    /// Whether redirects of other servers are kept from clients.
    pub fn refuses_redirects(&self) -> bool {
        self.refuses_redirects
    }

    /// The group versions served elsewhere.
    pub fn remotes(&self) -> Arc<Vec<Arc<Remote>>> {
        self.remotes.load_full()
    }

    /// What other servers say of what they serve.
    pub fn documents(&self) -> Elsewhere {
        let remotes = self.remotes.load();
        let available = || remotes.iter().filter(|remote| remote.is_available);
        let entry = |r: &Arc<Remote>| (format!("apis/{}/{}", r.group, r.version), r.openapi.clone());
        Elsewhere {
            index: available().filter(|remote| !remote.openapi.is_empty()).map(entry).collect(),
            described: available().filter_map(|remote| remote.described.clone()).collect(),
        }
    }

    /// Who serves a path such as `/apis/<group>/<version>/...`, or describes it, if it is not this server.
    pub fn find(&self, path: &str) -> Option<Arc<Remote>> {
        // Of OpenAPI documents each is where its group version is.
        let path = path.strip_prefix("/openapi/v3/").unwrap_or(path);
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let (Some("apis"), Some(group), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
            return None;
        };
        self.remotes.load().iter().find(|r| r.group == group && r.version == version).cloned()
    }

    /// TLS towards a server: its CA (the system's are not asked), or none at all where the APIService says so.
    fn tls(&self, bundle: Option<&str>, insecure: bool) -> Result<Arc<rustls::ClientConfig>, String> {
        use base64::{Engine, prelude::BASE64_STANDARD};
        use rustls::pki_types::pem::PemObject;

        let roots = if insecure {
            None
        } else {
            let pem =
                BASE64_STANDARD.decode(bundle.unwrap_or_default()).map_err(|e| format!("caBundle: {e}"))?;
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|e| format!("caBundle: {e}"))?;
                roots.add(certificate).map_err(|e| format!("caBundle: {e}"))?;
            }
            Some(roots)
        };
        crate::proxy::dial::client_tls(roots, self.client.as_ref()).map_err(|e| e.to_string())
    }
}

/// Counts another server that was not believed.
fn told(error: &DialError) {
    if let DialError::Tls(why) = error {
        metrics::distrusted(why, &metrics::AGGREGATED_WITHOUT_NAMES, &metrics::AGGREGATED_SHA1);
    }
}

/// Registers the groups served here, then keeps the remotes what APIServices say, until the server drains.
pub async fn run(server: Arc<Server>) {
    let mut registered = server.catalog.load_full();
    while let Err(status) = registration::ensure(&server, &registered).await {
        tracing::warn!(%status, "built-in groups are not registered as APIServices yet, trying again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut round = 0_u32;
    loop {
        let mut changes = match server.objects.watch(registration::API_SERVICES).await {
            Ok(changes) => changes,
            Err(status) => {
                tracing::warn!(%status, "APIServices cannot be watched, trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        loop {
            let is_change = tokio::select! {
                change = changes.next() => match change {
                    Some(_) => true,
                    None => break,
                },
                () = tokio::time::sleep(TICK) => false,
            };
            // What is there already counts as the same change: a watch begins with all of them.
            while let Some(Some(_)) = changes.next().now_or_never() {}
            let catalog = server.catalog.load_full();
            if !Arc::ptr_eq(&catalog, &registered) {
                match registration::ensure(&server, &catalog).await {
                    Ok(()) => registered = catalog,
                    Err(status) => tracing::warn!(%status, "groups are not registered as APIServices yet"),
                }
            }
            round = round.wrapping_add(1);
            availability::sync(&server, is_change || round.is_multiple_of(6)).await;
        }
    }
}

/// The groups of `/apis` with those served elsewhere. Pure.
pub fn merge_groups(mut groups: Vec<Value>, remotes: &[Arc<Remote>]) -> Vec<Value> {
    for remote in by_priority(remotes) {
        let version = json!({"groupVersion": format!("{}/{}", remote.group, remote.version), "version": remote.version});
        let own =
            groups.iter_mut().find(|g| g.get("name").and_then(Value::as_str) == Some(remote.group.as_str()));
        match own.and_then(|g| g.get_mut("versions")?.as_array_mut()) {
            Some(versions) if !versions.contains(&version) => versions.push(version),
            Some(_) => {}
            None => {
                groups.push(json!({"name": remote.group, "preferredVersion": version, "versions": [version]}))
            }
        }
    }
    in_order(groups, "/name", remotes)
}

/// Groups as clients look for names in them: of higher priority first, then by name.
fn in_order(mut groups: Vec<Value>, name_at: &str, remotes: &[Arc<Remote>]) -> Vec<Value> {
    let name = |group: &Value| group.pointer(name_at).and_then(Value::as_str).unwrap_or_default().to_owned();
    groups.sort_by_cached_key(|group| {
        let name = name(group);
        let elsewhere = remotes.iter().filter(|r| r.group == name).map(|r| r.group_priority);
        let priority = elsewhere.max().unwrap_or_else(|| registration::group_priority(&name));
        (std::cmp::Reverse(priority), name)
    });
    groups
}

/// The groups of aggregated discovery with those served elsewhere. Pure.
pub fn merge_discovery(mut groups: Vec<Value>, remotes: &[Arc<Remote>]) -> Vec<Value> {
    for remote in by_priority(remotes) {
        let freshness = if remote.is_available { "Current" } else { "Stale" };
        let version =
            json!({"version": remote.version, "resources": discovered(remote), "freshness": freshness});
        let own = groups
            .iter_mut()
            .find(|g| g.pointer("/metadata/name").and_then(Value::as_str) == Some(remote.group.as_str()));
        match own.and_then(|g| g.get_mut("versions")?.as_array_mut()) {
            Some(versions) => versions.push(version),
            None => groups.push(json!({"metadata": {"name": remote.group}, "versions": [version]})),
        }
    }
    in_order(groups, "/metadata/name", remotes)
}

/// Higher priorities first, then names.
fn by_priority(remotes: &[Arc<Remote>]) -> Vec<&Arc<Remote>> {
    let mut all: Vec<&Arc<Remote>> = remotes.iter().collect();
    all.sort_by_key(|r| {
        let ranks = (std::cmp::Reverse(r.group_priority), r.group.clone());
        (ranks, std::cmp::Reverse(r.version_priority), r.version.clone())
    });
    all
}

/// An APIResourceList's resources in the form of aggregated discovery.
fn discovered(remote: &Remote) -> Vec<Value> {
    let text =
        |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = |resource: &Value| {
        let or = |field: &str, other: &str| match text(resource, field) {
            none if none.is_empty() => other.to_owned(),
            given => given,
        };
        json!({"group": or("group", &remote.group), "version": or("version", &remote.version), "kind": text(resource, "kind")})
    };
    let is_sub = |resource: &&Value| text(resource, "name").contains('/');
    let mut all = Vec::new();
    for resource in remote.resources.iter().filter(|r| !is_sub(r)) {
        let name = text(resource, "name");
        let is_namespaced = resource.get("namespaced").and_then(Value::as_bool).unwrap_or(false);
        let mut one = json!({"resource": name, "responseKind": kind(resource), "singularResource": text(resource, "singularName"),
            "scope": if is_namespaced { "Namespaced" } else { "Cluster" }, "verbs": resource.get("verbs")});
        for field in ["shortNames", "categories"] {
            if let Some(list) = resource.get(field) {
                one[field] = list.clone();
            }
        }
        let subs = remote.resources.iter().filter_map(|sub| {
            let full = text(sub, "name");
            let sub_name = full.strip_prefix(&name)?.strip_prefix('/')?;
            Some(json!({"subresource": sub_name, "responseKind": kind(sub), "verbs": sub.get("verbs")}))
        });
        let subs: Vec<Value> = subs.collect();
        if !subs.is_empty() {
            one["subresources"] = subs.into();
        }
        all.push(one);
    }
    all
}

/// The answer for a group version whose server does not work.
fn unavailable() -> Status {
    Status::unavailable("service unavailable").in_plain_text()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the far ends of tests end with their runtime")]
mod tests;
