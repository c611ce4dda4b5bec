//! The plan: services and endpoints in, the tables of both families out. Pure.

mod endpoints;
mod service;
mod skeleton;
mod slots;

use std::net::IpAddr;

pub use slots::Slots;

use crate::{
    model::{Model, Settings},
    tables::{Family, Table},
};

/// Names in our tables that several files mention.
mod name {
    pub(super) const SERVICES: &str = "services";
    pub(super) const REJECT: &str = "reject-chain";
    pub(super) const MARK: &str = "mark-for-masquerade";
    pub(super) const SERVICE_IPS: &str = "service-ips";
    pub(super) const NODE_PORTS: &str = "service-nodeports";
    pub(super) const NO_ENDPOINT_IPS: &str = "no-endpoint-services";
    pub(super) const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-nodeports";
    pub(super) const FIREWALL_IPS: &str = "firewall-ips";
    pub(super) const CLUSTER_IPS: &str = "cluster-ips";
    pub(super) const NODE_PORT_IPS: &str = "nodeport-ips";
    pub(super) const HAIRPIN: &str = "hairpin-connections";
    pub(super) const ENDPOINTS: &str = "endpoints";
    pub(super) const STICKY: &str = "sticky-endpoints";
}

/// The table of a family. `slots` remembers where endpoints stand in the endpoint map, so that little
/// changes from one plan to the next; it is part of the model in every other respect.
pub fn plan(family: Family, model: &Model, settings: &Settings, slots: &mut Slots) -> Table {
    let mut table = skeleton::table(family, settings);
    slots.begin();
    for (port_name, service) in &model.services {
        let endpoints = model.endpoints.get(port_name).map(Vec::as_slice).unwrap_or_default();
        service::add(&mut table, family, port_name, service, endpoints, settings, slots);
    }
    slots.end();
    table
}

impl Family {
    /// Whether an address is of this family.
    pub fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

#[cfg(test)]
mod tests;
