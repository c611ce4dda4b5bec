//! Services and endpoints in the form queries ask for them.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use smol_str::SmolStr;

use crate::answered::Versions;

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Name, may be empty.
    pub name: SmolStr,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: SmolStr,
    /// Number.
    pub number: u16,
}

/// How a service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// By its own addresses.
    Cluster(Vec<IpAddr>),
    /// By those of its endpoints.
    Headless,
    /// By another name.
    External(SmolStr),
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// How it is reached.
    pub kind: ServiceKind,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// An endpoint that may be published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Hostname, if it has one.
    pub hostname: Option<SmolStr>,
}

/// Ready endpoints of one slice with their ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// Endpoints that are ready.
    pub endpoints: Vec<Endpoint>,
    /// Ports.
    pub ports: Vec<Port>,
}

/// Namespace and name.
type Key = (SmolStr, SmolStr);

/// Everything the zone answers from.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// The first lists are not complete yet: a name not found may still exist.
    pub loading: bool,
    namespaces: HashSet<SmolStr>,
    services: HashMap<SmolStr, HashMap<SmolStr, Arc<Service>>>,
    /// Slices of a service, by slice name, so that answers come in one order: nearly always one.
    endpoints: HashMap<Key, Vec<(SmolStr, Arc<EndpointSet>)>>,
    /// Services by cluster IP.
    by_cluster_ip: HashMap<IpAddr, Key>,
    /// Namespaces of pods by their addresses; empty unless somebody wants to know.
    pods: HashMap<IpAddr, SmolStr>,
    /// Services whose endpoints include an address, in order, with the number of slices that say so: nearly always one.
    by_endpoint_ip: HashMap<IpAddr, Vec<(Key, usize)>>,
    /// How often services have changed.
    versions: Arc<Versions>,
}

impl Endpoint {
    /// The endpoint's own label: its hostname, or its address with dashes.
    pub fn label(&self) -> SmolStr {
        self.hostname.clone().unwrap_or_else(|| dashed(self.address))
    }
}

/// An address as one label: `10-0-0-1`, `fd00--1`.
pub(super) fn dashed(address: IpAddr) -> SmolStr {
    address.to_string().replace(['.', ':'], "-").into()
}

impl Index {
    /// How often services have changed, to be looked at without the index.
    pub fn versions(&self) -> Arc<Versions> {
        self.versions.clone()
    }

    /// Whether a namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Adds or forgets a namespace.
    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        if exists {
            self.namespaces.insert(name.into());
        } else {
            self.namespaces.remove(name);
        }
    }

    /// The namespace of the pod that has an address.
    pub fn pod_namespace(&self, address: IpAddr) -> Option<&str> {
        self.pods.get(&address).map(SmolStr::as_str)
    }

    /// Notes that a pod of this namespace has these addresses.
    pub fn add_pod(&mut self, namespace: &str, addresses: &[IpAddr]) {
        self.pods.extend(addresses.iter().map(|address| (*address, namespace.into())));
    }

    /// Notes that a pod of this namespace has these addresses no more; another may have them by now.
    pub fn remove_pod(&mut self, namespace: &str, addresses: &[IpAddr]) {
        for address in addresses {
            if self.pod_namespace(*address) == Some(namespace) {
                self.pods.remove(address);
            }
        }
    }

    /// A service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(namespace)?.get(name).map(|service| &**service)
    }

    /// Whether a namespace has services.
    pub fn has_services(&self, namespace: &str) -> bool {
        self.services.get(namespace).is_some_and(|s| !s.is_empty())
    }

    /// Sets or (with `None`) forgets a service.
    pub fn set_service(&mut self, namespace: &str, name: &str, service: Option<Arc<Service>>) {
        let key: Key = (namespace.into(), name.into());
        let of_namespace = self.services.entry(key.0.clone()).or_default();
        if let Some(old) = of_namespace.remove(&key.1)
            && let ServiceKind::Cluster(addresses) = &old.kind
        {
            for address in addresses {
                // Another service may have taken the address over already.
                if self.by_cluster_ip.get(address) == Some(&key) {
                    self.by_cluster_ip.remove(address);
                }
            }
        }
        if let Some(service) = service {
            if let ServiceKind::Cluster(addresses) = &service.kind {
                self.by_cluster_ip.extend(addresses.iter().map(|a| (*a, key.clone())));
            }
            of_namespace.insert(key.1, service);
        } else if of_namespace.is_empty() {
            self.services.remove(&key.0);
        }
        self.versions.advance(namespace, name);
    }

    /// Sets or forgets one slice of a service.
    pub fn set_slice(&mut self, namespace: &str, service: &str, slice: &str, set: Option<Arc<EndpointSet>>) {
        let key: Key = (namespace.into(), service.into());
        let slices = self.endpoints.entry(key.clone()).or_default();
        let old = match (slices.binary_search_by(|(name, _)| name.as_str().cmp(slice)), set.clone()) {
            (Ok(at), Some(set)) => Some(std::mem::replace(&mut slices[at].1, set)),
            (Ok(at), None) => Some(slices.remove(at).1),
            (Err(at), Some(set)) => {
                slices.reserve_exact(1);
                slices.insert(at, (slice.into(), set));
                None
            }
            (Err(_), None) => None,
        };
        if slices.is_empty() {
            self.endpoints.remove(&key);
        }
        for endpoint in old.iter().flat_map(|old| &old.endpoints) {
            self.forget_address(endpoint.address, &key);
        }
        for endpoint in set.iter().flat_map(|set| &set.endpoints) {
            let services = self.by_endpoint_ip.entry(endpoint.address).or_default();
            match services.binary_search_by(|(other, _)| other.cmp(&key)) {
                Ok(at) => services[at].1 += 1,
                Err(at) => {
                    services.reserve_exact(1);
                    services.insert(at, (key.clone(), 1));
                }
            }
        }
        self.versions.advance(namespace, service);
    }

    fn forget_address(&mut self, address: IpAddr, key: &Key) {
        let Some(services) = self.by_endpoint_ip.get_mut(&address) else { return };
        if let Ok(at) = services.binary_search_by(|(other, _)| other.cmp(key)) {
            services[at].1 -= 1;
            if services[at].1 == 0 {
                services.remove(at);
            }
        }
        if services.is_empty() {
            self.by_endpoint_ip.remove(&address);
        }
    }

    /// Ready endpoints of a service with the ports of their slice.
    pub fn endpoints<'i>(
        &'i self,
        namespace: &str,
        service: &str,
    ) -> impl Iterator<Item = (&'i Endpoint, &'i [Port])> + use<'i> {
        let slices = self.endpoints.get(&(namespace.into(), service.into()));
        slices.into_iter().flatten().flat_map(|(_, s)| s.endpoints.iter().map(|e| (e, s.ports.as_slice())))
    }

    /// The service with a cluster IP, as (namespace, name).
    pub fn by_cluster_ip(&self, address: IpAddr) -> Option<(&str, &str)> {
        self.by_cluster_ip.get(&address).map(|(ns, n)| (ns.as_str(), n.as_str()))
    }

    /// Headless services with an endpoint of this address: (namespace, service, endpoint).
    pub fn by_endpoint_ip(&self, address: IpAddr) -> impl Iterator<Item = (&str, &str, &Endpoint)> {
        let keys = self.by_endpoint_ip.get(&address).into_iter().flatten().map(|(key, _)| key);
        keys.filter(|(ns, n)| self.service(ns, n).is_some_and(|s| s.kind == ServiceKind::Headless))
            .filter_map(move |key| {
                let endpoint = self
                    .endpoints
                    .get(key)?
                    .iter()
                    .flat_map(|(_, s)| &s.endpoints)
                    .find(|e| e.address == address)?;
                Some((key.0.as_str(), key.1.as_str(), endpoint))
            })
    }
}
