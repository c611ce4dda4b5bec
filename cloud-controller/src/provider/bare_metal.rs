//! Bare metal: load balancer addresses from a pool, routes in this machine's kernel.
//!
//! An address whose service runs on this machine's own node is put on the loopback interface, so that
//! the machine answers for it; otherwise it is routed to a node that takes it. kube-proxy does the rest.

mod kernel;
mod plan;

use std::{collections::BTreeSet, net::IpAddr};

use async_trait::async_trait;
use ipnet::IpNet;
use serde::Deserialize;

use super::{LoadBalancer, Provider, ProviderError, Route};

/// The provider's configuration file (`--cloud-config`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Load balancers.
    #[serde(default)]
    pub load_balancer: LoadBalancerConfig,
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
}

impl BareMetal {
    /// A provider with a configuration.
    pub fn new(config: Config) -> Self {
        Self { pool: config.load_balancer.pool }
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
}
