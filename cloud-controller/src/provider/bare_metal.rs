//! Bare metal: load balancer addresses from a pool, routes in this machine's kernel.
//!
//! An address whose service runs on this machine's own node is put on the loopback interface, so that
//! the machine answers for it; otherwise it is routed to a node that takes it. kube-proxy does the rest.

mod kernel;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use async_trait::async_trait;
use ipnet::IpNet;
use serde::Deserialize;

use super::{Instance, Instances, LoadBalancer, Provider, ProviderError, Route};

/// The provider's configuration file (`--cloud-config`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Load balancers.
    #[serde(default)]
    pub load_balancer: LoadBalancerConfig,
    /// The machines, by the names of their nodes. Where they are listed, nodes of others are removed once they do not report.
    pub machines: Option<BTreeMap<String, Instance>>,
}

/// Load balancers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancerConfig {
    /// Ranges addresses are taken from, in this order. Every address of a range is handed out.
    #[serde(default)]
    pub pool: Vec<IpNet>,
}

/// The provider.
#[derive(Debug)]
pub struct BareMetal {
    pool: Vec<IpNet>,
    machines: Option<BTreeMap<String, Instance>>,
}

impl BareMetal {
    /// A provider with a configuration.
    pub fn new(config: Config) -> Self {
        Self { pool: config.load_balancer.pool, machines: config.machines }
    }
}

#[async_trait]
impl Provider for BareMetal {
    fn name(&self) -> &'static str {
        "bare-metal"
    }

    fn choose_address(
        &self,
        current: Option<IpAddr>,
        requested: Option<IpAddr>,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, ProviderError> {
        plan::choose(&self.pool, current, requested, taken)
    }

    async fn set_load_balancers(&self, wanted: &[LoadBalancer]) -> Result<(), ProviderError> {
        let mut kernel = kernel::Kernel::open()?;
        let now = kernel.state()?;
        kernel.carry_out(&plan::load_balancers(&self.pool, wanted, &now))
    }

    async fn set_routes(&self, wanted: &[Route]) -> Result<(), ProviderError> {
        let mut kernel = kernel::Kernel::open()?;
        let now = kernel.state()?;
        kernel.carry_out(&plan::routes(wanted, &now))
    }

    fn instances(&self) -> Option<&dyn Instances> {
        self.machines.is_some().then_some(self)
    }
}

impl BareMetal {
    /// The machine that has an identifier, or the one of the node where nobody says which it is.
    fn machine(&self, node: &str, id: Option<&str>) -> Option<&Instance> {
        let machines = self.machines.as_ref()?;
        let identified = id.and_then(|id| machines.values().find(|machine| machine.provider_id == id));
        identified.or_else(|| machines.get(node))
    }
}

#[async_trait]
impl Instances for BareMetal {
    async fn instance(&self, node: &str, id: Option<&str>) -> Result<Option<Instance>, ProviderError> {
        Ok(self.machine(node, id).cloned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn machines_are_known_where_they_are_listed() {
        let of = |config: serde_json::Value| BareMetal::new(serde_json::from_value(config).unwrap());
        assert!(of(json!({})).instances().is_none());
        let some = of(json!({"machines": {"a": {"providerId": "metal://1", "zone": "z"},
            "b": {"shutDown": true, "addresses": [{"type": "InternalIP", "address": "10.0.0.2"}]}}}));
        let instances = some.instances().unwrap();
        let zone = |found: Option<Instance>| found.map(|instance| instance.zone);
        assert_eq!(zone(instances.instance("a", None).await.unwrap()).as_deref(), Some("z"));
        let renamed = instances.instance("renamed", Some("metal://1")).await.unwrap();
        assert_eq!(zone(renamed).as_deref(), Some("z"));
        assert_eq!(instances.instance("c", None).await.unwrap(), None);
        assert!(instances.instance("b", None).await.unwrap().unwrap().shut_down);
    }
}
