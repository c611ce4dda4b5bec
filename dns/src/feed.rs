//! What the cluster says, put into the zone's index: one function per kind, called for every change.
//!
//! Services and slices are turned into what the zone has of them as they are read, so that the informers' caches and the
//! index share one small copy.

use std::{net::IpAddr, sync::Arc};

use component_base::{
    informer::{Digest, Event, Informers, Kept, ListWatch},
    objects::{
        Endpoint as ApiEndpoint, EndpointSlice, Namespace, Pod, Service as ApiService, ServicePort,
        ServiceSpec,
    },
};
use parking_lot::RwLock;
use smol_str::SmolStr;

use crate::zone::{Endpoint, EndpointSet, Index, Port, Service, ServiceKind};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is kept of a service: what the zone has of it, nothing while it has no address yet.
struct Named(Option<Arc<Service>>);

/// What is kept of a slice. With `POD_NAMES`, endpoints without a hostname are named after their pods.
struct Slice<const POD_NAMES: bool> {
    /// The service it is of, if it is of one.
    service: Option<SmolStr>,
    endpoints: Arc<EndpointSet>,
}

/// Keeps `index` true from the informers' caches from now on. With `pod_names`, endpoints without a hostname are named after
/// their pods; with `pods`, the addresses of pods are kept as well.
pub fn subscribe(informers: &Informers, index: &Arc<RwLock<Index>>, pod_names: bool, pods: bool) {
    if pods {
        let into = index.clone();
        informers
            .get::<Pod>(ListWatch::default())
            .on_event(move |event| follow_pod(&mut into.write(), &event));
    }
    let into = index.clone();
    informers.get::<Namespace>(ListWatch::default()).on_event(move |event| {
        let exists = !matches!(event, Event::Deleted { .. });
        if let Some(name) = &event.object().metadata.name {
            into.write().set_namespace(name, exists);
        }
    });
    let into = index.clone();
    informers.get::<Kept<Named>>(ListWatch::default()).on_event(move |event| {
        let kept = event.object();
        let there = kept.0.clone().filter(|_| !matches!(event, Event::Deleted { .. }));
        into.write().set_service(&kept.key.namespace, &kept.key.name, there);
    });
    match pod_names {
        true => follow_slices::<true>(informers, index),
        false => follow_slices::<false>(informers, index),
    }
}

fn follow_slices<const POD_NAMES: bool>(informers: &Informers, index: &Arc<RwLock<Index>>) {
    let into = index.clone();
    informers.get::<Kept<Slice<POD_NAMES>>>(ListWatch::default()).on_event(move |event| {
        let mut index = into.write();
        // A slice that moved to another service leaves the old one first.
        if let Event::Updated { old, new } = &event
            && old.service != new.service
        {
            set(&mut index, old, None);
        }
        let there = !matches!(event, Event::Deleted { .. });
        let slice = event.object();
        set(&mut index, slice, there.then(|| slice.endpoints.clone()));
    });
}

/// Sets or forgets the endpoints of a slice in the index.
fn set<const POD_NAMES: bool>(
    index: &mut Index,
    slice: &Kept<Slice<POD_NAMES>>,
    endpoints: Option<Arc<EndpointSet>>,
) {
    if let Some(service) = &slice.service {
        index.set_slice(&slice.key.namespace, service, &slice.key.name, endpoints);
    }
}

fn follow_pod(index: &mut Index, event: &Event<Pod>) {
    let namespace = event.object().metadata.namespace.clone().unwrap_or_default();
    if let Event::Updated { old, .. } = event {
        index.remove_pod(&namespace, &addresses(old));
    }
    match event {
        Event::Deleted { last, .. } => index.remove_pod(&namespace, &addresses(last)),
        Event::Added { new, .. } | Event::Updated { new, .. } => index.add_pod(&namespace, &addresses(new)),
    }
}

/// The addresses that are the pod's own; one that has ended has given its back.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    if pod.spec.host_network || matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        return Vec::new();
    }
    pod.status.pod_ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect()
}

impl Digest for Named {
    type Of = ApiService;

    fn of(object: ApiService) -> Self {
        Self(service(&object).map(Arc::new))
    }
}

impl<const POD_NAMES: bool> Digest for Slice<POD_NAMES> {
    type Of = EndpointSlice;

    fn of(slice: EndpointSlice) -> Self {
        Self {
            service: service_of(&slice).map(Into::into),
            endpoints: Arc::new(endpoints(&slice, POD_NAMES)),
        }
    }
}

fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
}

/// A service as the zone knows it; `None` while it has no address yet.
fn service(object: &ApiService) -> Option<Service> {
    let spec = &object.spec;
    let kind = match spec.kind.as_str() {
        "ExternalName" => ServiceKind::External(spec.external_name.as_deref()?.into()),
        _ => match cluster_ips(spec) {
            None => ServiceKind::Headless,
            Some(ips) if ips.is_empty() => return None,
            Some(ips) => ServiceKind::Cluster(ips),
        },
    };
    let ports = spec.ports.iter().map(|p: &ServicePort| Port {
        name: p.name.as_str().into(),
        protocol: protocol(&p.protocol),
        number: p.port,
    });
    Some(Service { kind, ports: ports.collect() })
}

/// Cluster IPs; `None` for a headless service.
fn cluster_ips(spec: &ServiceSpec) -> Option<Vec<IpAddr>> {
    if spec.cluster_ip == "None" {
        return None;
    }
    let all = match spec.cluster_ips.is_empty() {
        true => std::slice::from_ref(&spec.cluster_ip),
        false => &spec.cluster_ips[..],
    };
    Some(all.iter().filter_map(|ip| ip.parse().ok()).collect())
}

/// A protocol as names have it; nothing said is TCP.
fn protocol(word: &str) -> SmolStr {
    if word.is_empty() { "tcp".into() } else { word.to_ascii_lowercase().into() }
}

fn endpoints(slice: &EndpointSlice, pod_names: bool) -> EndpointSet {
    let ports = slice.ports.iter().filter_map(|p| {
        Some(Port {
            name: p.name.as_deref().unwrap_or_default().into(),
            protocol: protocol(p.protocol.as_deref().unwrap_or_default()),
            number: p.port?,
        })
    });
    let ready = |e: &&ApiEndpoint| e.conditions.ready != Some(false);
    let endpoints = slice.endpoints.iter().filter(ready).flat_map(|e| {
        let pod = e.target_ref.as_ref().filter(|t| pod_names && t.kind == "Pod");
        let named = e.hostname.as_deref().filter(|h| !h.is_empty()).or_else(|| Some(pod?.name.as_str()));
        let hostname = named.map(Into::into);
        let addresses = e.addresses.iter().filter_map(|a| a.parse().ok());
        addresses.map(move |address| Endpoint { address, hostname: Option::clone(&hostname) })
    });
    EndpointSet { endpoints: endpoints.collect(), ports: ports.collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(spec: Value) -> Option<Service> {
        service(&serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap())
    }

    #[test]
    fn services_are_told_apart_by_their_address() {
        let ports = json!([{"name": "http", "port": 80}]);
        let web =
            parsed(json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ports": ports}))
                .unwrap();
        assert_eq!(
            web.kind,
            ServiceKind::Cluster(vec!["10.96.0.5".parse().unwrap(), "fd00::5".parse().unwrap()])
        );
        assert_eq!((web.ports[0].protocol.as_str(), web.ports[0].number), ("tcp", 80));
        assert_eq!(parsed(json!({"clusterIP": "None"})).unwrap().kind, ServiceKind::Headless);
        let external = parsed(json!({"type": "ExternalName", "externalName": "a.example"})).unwrap();
        assert_eq!(external.kind, ServiceKind::External("a.example".into()));
        assert_eq!(parsed(json!({"clusterIP": ""})), None, "not allocated yet");
    }

    #[test]
    fn a_pods_addresses_are_its_own_while_it_lives() {
        let of = |json: Value| addresses(&serde_json::from_value(json).unwrap()).len();
        let ips = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
        assert_eq!(of(json!({"status": {"phase": "Running", "podIPs": ips}})), 2);
        assert_eq!(of(json!({"status": {"phase": "Failed", "podIPs": ips}})), 0);
        assert_eq!(of(json!({"spec": {"hostNetwork": true}, "status": {"podIPs": ips}})), 0);
        assert_eq!(of(json!({})), 0);
    }

    #[test]
    fn only_ready_endpoints_are_published() {
        let slice = serde_json::from_value(json!({
            "metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Pod", "name": "web-3"}},
            ],
        }))
        .unwrap();
        let set = endpoints(&slice, false);
        let labels: Vec<_> = set.endpoints.iter().map(Endpoint::label).collect();
        assert_eq!(labels, ["db-0", "10-0-0-3"]);
        let set = endpoints(&slice, true);
        let labels: Vec<_> = set.endpoints.iter().map(Endpoint::label).collect();
        assert_eq!(labels, ["db-0", "web-3"]);
    }
}
