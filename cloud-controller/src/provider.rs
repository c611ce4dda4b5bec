//! What a provider of infrastructure can do. One folder per provider under `provider/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use async_trait::async_trait;
use ipnet::IpNet;
use serde::Deserialize;

pub mod bare_metal;

/// Why the infrastructure did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Nothing is left to hand out.
    #[error("no free address in the load balancer pool {pool}")]
    PoolExhausted {
        /// The pool, as configured.
        pool: String,
    },
    /// The address asked for cannot be had.
    #[error("address {address} {why}")]
    AddressUnavailable {
        /// What was asked for.
        address: String,
        /// In words that follow the address.
        why: &'static str,
    },
    /// The kernel refused.
    #[error("cannot {operation}")]
    Kernel {
        /// What was tried.
        operation: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The provider's configuration is wrong.
    #[error("invalid cloud configuration: {0}")]
    Config(String),
}

/// A node as providers see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeAddress {
    /// Node name.
    pub name: String,
    /// Its internal address.
    pub address: IpAddr,
    /// Whether it says that it is ready. One that does not stays among those that take traffic: whether traffic goes
    /// round it is for whoever balances to decide.
    pub ready: bool,
}

/// A route to a node's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Pods' range.
    pub destination: IpNet,
    /// The node's address.
    pub gateway: IpAddr,
}

/// A load balancer that should exist.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoadBalancer {
    /// `namespace/name` of its service.
    pub service: String,
    /// Its address.
    pub address: IpAddr,
    /// Nodes that may take its traffic.
    pub nodes: Vec<NodeAddress>,
}

/// The machine of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Instance {
    /// What the infrastructure calls it: `provider://…`.
    pub provider_id: String,
    /// Its kind.
    pub instance_type: String,
    /// Where it stands.
    pub zone: String,
    /// Where its zone is.
    pub region: String,
    /// Its addresses, with what each is for: `InternalIP`, `ExternalIP`, `Hostname`, `InternalDNS` or `ExternalDNS`.
    pub addresses: Vec<InstanceAddress>,
    /// Labels its node is to have besides.
    pub labels: BTreeMap<String, String>,
    /// Whether it is switched off for now.
    pub shut_down: bool,
}

/// An address of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceAddress {
    /// What it is for.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// What a provider knows of machines. `node` is the name of a node, `id` what its machine is called, where the node says so.
#[async_trait]
pub trait Instances: Send + Sync {
    /// The machine; `None` if there is none.
    async fn instance(&self, node: &str, id: Option<&str>) -> Result<Option<Instance>, ProviderError>;
}

/// Infrastructure. Every method brings a whole set to what is wanted, so that calls may be repeated.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Name for `--cloud-provider`.
    fn name(&self) -> &'static str;

    /// Picks an address for a service's load balancer, given the one it has, the one it asks for and
    /// those taken by other services. Pure.
    fn choose_address(
        &self,
        current: Option<IpAddr>,
        requested: Option<IpAddr>,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, ProviderError>;

    /// Makes exactly these load balancers exist.
    async fn set_load_balancers(&self, wanted: &[LoadBalancer]) -> Result<(), ProviderError>;

    /// Makes exactly these pod routes exist. Routes of others are not touched.
    async fn set_routes(&self, wanted: &[Route]) -> Result<(), ProviderError>;

    /// The machines, if the provider knows them.
    fn instances(&self) -> Option<&dyn Instances> {
        None
    }
}
