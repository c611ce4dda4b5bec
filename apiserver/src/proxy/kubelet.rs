//! The way to a kubelet: the node's best address, the port its status tells, and the server's client certificate.
//!
//! Contract: `--kubelet-*` flags; upstream's `kubelet/client`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use serde_json::Value;

use super::dial::{Target, client_tls};
use crate::{
    egress::Route,
    object::Object,
    objects::{NODES, Objects},
    status::Status,
};

/// Where a kubelet listens that does not say.
const DEFAULT_PORT: u16 = 10250;

/// `NodeAddressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressType {
    Hostname,
    InternalDns,
    InternalIp,
    ExternalDns,
    ExternalIp,
}

impl AddressType {
    /// The type a node's status or a flag names.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "Hostname" => Self::Hostname,
            "InternalDNS" => Self::InternalDns,
            "InternalIP" => Self::InternalIp,
            "ExternalDNS" => Self::ExternalDns,
            "ExternalIP" => Self::ExternalIp,
            _ => return None,
        })
    }
}

/// The flags.
#[derive(Clone, Debug)]
pub struct KubeletOptions {
    /// `--kubelet-client-certificate` and `--kubelet-client-key`.
    pub client: Option<(PathBuf, PathBuf)>,
    /// `--kubelet-certificate-authority`; kubelets are not checked without.
    pub ca: Option<PathBuf>,
    /// `--kubelet-preferred-address-types`.
    pub preferred: Vec<AddressType>,
    /// `--kubelet-timeout`.
    pub timeout: Duration,
}

/// Why kubelets cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A file named by a flag.
    #[error(transparent)]
    File(#[from] component_base::tls::TlsError),
    /// The certificate is of no use.
    #[error("client certificate for kubelets")]
    Tls(#[from] rustls::Error),
}

/// Finds kubelets.
pub struct Kubelets {
    options: KubeletOptions,
    trust: ArcSwap<Trust>,
    anonymous: Arc<ClientConfig>,
    route: Route,
}

/// Who we are to kubelets, and whom we take for one.
struct Trust {
    checked: Arc<ClientConfig>,
    unchecked: Arc<ClientConfig>,
}

impl Trust {
    fn load(options: &KubeletOptions) -> Result<Self, KubeletError> {
        let pair = options.client.as_ref();
        let pair = pair.map(|(cert, key)| component_base::tls::load_pair(cert, key)).transpose()?;
        let roots = options.ca.as_ref().map(|ca| component_base::tls::load_roots(ca)).transpose()?;
        Ok(Self { checked: client_tls(roots, pair.as_ref())?, unchecked: client_tls(None, pair.as_ref())? })
    }
}

impl Kubelets {
    /// Loads certificates. `route` leads to nodes and to what is on them.
    ///
    /// # Errors
    /// When a file is unusable.
    pub fn new(options: &KubeletOptions, route: Route) -> Result<Self, KubeletError> {
        Ok(Self {
            options: options.clone(),
            trust: ArcSwap::from_pointee(Trust::load(options)?),
            anonymous: client_tls(None, None)?,
            route,
        })
    }

    /// The files connections to kubelets depend on.
    pub fn files(&self) -> Vec<PathBuf> {
        let pair = self.options.client.iter().flat_map(|(cert, key)| [cert.clone(), key.clone()]);
        pair.chain(self.options.ca.clone()).collect()
    }

    /// Reads the files again for new connections.
    ///
    /// # Errors
    /// When one is unusable; the old ones stay.
    pub fn reload(&self) -> Result<(), KubeletError> {
        self.trust.store(Arc::new(Trust::load(&self.options)?));
        Ok(())
    }

    /// The kubelet of a node. `insecure` takes it for what it says it is.
    ///
    /// # Errors
    /// 404 without such a node, 500 when the node has no address of the kinds asked for.
    pub async fn locate(&self, objects: &dyn Objects, node: &str, insecure: bool) -> Result<Target, Status> {
        let found = objects.get(NODES, "", node).await?;
        let found = found.ok_or_else(|| Status::not_found(&NODES.group_name(), node))?;
        let host = address(&found, &self.options.preferred).ok_or_else(|| {
            Status::internal(format!("no preferred addresses found; known addresses: {}", known(&found)))
        })?;
        let trust = self.trust.load();
        let tls = if insecure { &trust.unchecked } else { &trust.checked };
        Ok(Target {
            host,
            port: port(&found),
            tls: Some(tls.clone()),
            server_name: None,
            timeout: self.options.timeout,
            route: self.route.clone(),
        })
    }

    /// The way to nodes and to what is on them.
    pub fn route(&self) -> Route {
        self.route.clone()
    }

    /// Something other than a kubelet that speaks TLS: it is neither checked nor told who we are.
    pub fn stranger(&self) -> Arc<ClientConfig> {
        self.anonymous.clone()
    }
}

fn addresses(node: &Object) -> impl Iterator<Item = (&str, &str)> {
    let all = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|a| Some((a.get("type")?.as_str()?, a.get("address")?.as_str()?)))
}

fn known(node: &Object) -> String {
    let all: Vec<String> = addresses(node).map(|(kind, address)| format!("{{{kind} {address}}}")).collect();
    format!("[{}]", all.join(" "))
}

fn address(node: &Object, preferred: &[AddressType]) -> Option<String> {
    let of = |wanted: &AddressType| {
        addresses(node)
            .find(|(kind, _)| AddressType::parse(kind) == Some(*wanted))
            .map(|(_, address)| address)
    };
    preferred.iter().find_map(of).map(str::to_owned)
}

/// The port the node's kubelet serves on.
pub fn port(node: &Object) -> u16 {
    let told = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    told.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(DEFAULT_PORT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_best_address_of_a_node_is_taken() {
        let node = |addresses: Value| {
            let status =
                json!({"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": 10260}}});
            Object::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap()
        };
        let both = node(
            json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"}]),
        );
        let prefer = [AddressType::Hostname, AddressType::InternalIp];
        assert_eq!(address(&both, &prefer).as_deref(), Some("n1"));
        assert_eq!(address(&both, &[AddressType::InternalIp]).as_deref(), Some("10.0.0.1"));
        assert_eq!(address(&both, &[AddressType::ExternalDns]), None);
        assert_eq!(known(&both), "[{InternalIP 10.0.0.1} {Hostname n1}]");
        assert_eq!(port(&both), 10260);
        assert_eq!(port(&Object::new()), DEFAULT_PORT);
        assert_eq!(super::super::dial::authority("::1", 5), "[::1]:5");
    }
}
