//! What the cluster says, put into the zone's index: one function per kind, called for every change.
//!
//! Services and slices are turned into what the zone has of them as they are read, so that the informers' caches and the
//! index share one small copy.

use std::{net::IpAddr, sync::Arc, time::Duration};

use component_base::{
    informer::{Digest, Event, Informers, Kept, ListWatch},
    objects::{
        Endpoint as ApiEndpoint, EndpointSlice, Namespace, Pod, Service as ApiService, ServicePort,
        ServiceSpec, TRIGGER_TIME,
    },
};
use jiff::Timestamp;
use parking_lot::RwLock;
use smol_str::SmolStr;

use crate::{
    metrics::Metrics,
    zone::{Endpoint, EndpointSet, Index, Port, Service, ServiceKind},
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is kept of a service: what the zone has of it, nothing while it has no address yet.
struct Named(Option<Arc<Service>>);

/// What is kept of a slice. With `POD_NAMES`, endpoints without a hostname are named after their pods.
struct Slice<const POD_NAMES: bool> {
    /// The service it is of, if it is of one.
    service: Option<SmolStr>,
    endpoints: Arc<EndpointSet>,
    /// When what it publishes happened, in microseconds since 1970; 0 is not told.
    triggered: i64,
}

/// What is read of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Endpoints without a hostname are named after their pods.
    pub pod_names: bool,
    /// The addresses of pods.
    pub pods: bool,
    /// Endpoints.
    pub endpoints: bool,
    /// Only services, slices and pods with such labels.
    pub labels: Option<String>,
    /// Only namespaces with such labels.
    pub namespace_labels: Option<String>,
}

/// Keeps `index` true from the informers' caches from now on.
pub fn subscribe(informers: &Informers, index: &Arc<RwLock<Index>>, wanted: &Wanted, metrics: &Metrics) {
    let labelled = || ListWatch { labels: wanted.labels.clone(), ..ListWatch::default() };
    if wanted.pods {
        let into = index.clone();
        informers.get::<Pod>(labelled()).on_event(move |event| follow_pod(&mut into.write(), &event));
    }
    let into = index.clone();
    let of_namespaces = ListWatch { labels: wanted.namespace_labels.clone(), ..ListWatch::default() };
    informers.get::<Namespace>(of_namespaces).on_event(move |event| {
        let exists = !matches!(event, Event::Deleted { .. });
        if let Some(name) = &event.object().metadata.name {
            into.write().set_namespace(name, exists);
        }
    });
    let into = index.clone();
    informers.get::<Kept<Named>>(labelled()).on_event(move |event| {
        let kept = event.object();
        let there = kept.0.clone().filter(|_| !matches!(event, Event::Deleted { .. }));
        into.write().set_service(&kept.key.namespace, &kept.key.name, there);
    });
    match (wanted.endpoints, wanted.pod_names) {
        (false, _) => {}
        (true, true) => follow_slices::<true>(informers, labelled(), index, metrics),
        (true, false) => follow_slices::<false>(informers, labelled(), index, metrics),
    }
}

fn follow_slices<const POD_NAMES: bool>(
    informers: &Informers,
    which: ListWatch,
    index: &Arc<RwLock<Index>>,
    metrics: &Metrics,
) {
    let (into, metrics) = (index.clone(), metrics.clone());
    informers.get::<Kept<Slice<POD_NAMES>>>(which).on_event(move |event| {
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
        // What was there when the process began was not waited for.
        let is_first = index.loading && matches!(event, Event::Added { .. });
        if let Some(kind) = service_kind(&index, slice).filter(|_| !is_first)
            && let Some(ago) = since(slice.triggered, Timestamp::now())
        {
            metrics.programmed(kind, ago);
        }
    });
}

/// How long ago a time in microseconds since 1970 was; nothing if it is not told.
fn since(triggered: i64, now: Timestamp) -> Option<Duration> {
    let ago = now.as_microsecond().checked_sub(triggered).filter(|_| triggered != 0)?;
    // Clocks differ.
    Some(Duration::from_micros(u64::try_from(ago).unwrap_or_default()))
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
        let text = slice.metadata.annotations.as_ref().and_then(|all| all.get(TRIGGER_TIME));
        // One that is no time is as if it were not told.
        let triggered = text.and_then(|text| text.parse::<Timestamp>().ok()).map(Timestamp::as_microsecond);
        Self {
            service: service_of(&slice).map(Into::into),
            endpoints: Arc::new(endpoints(&slice, POD_NAMES)),
            triggered: triggered.unwrap_or_default(),
        }
    }
}

/// How the service of a slice is counted. Only slices of services with a selector tell when they were triggered.
fn service_kind<const POD_NAMES: bool>(
    index: &Index,
    slice: &Kept<Slice<POD_NAMES>>,
) -> Option<&'static str> {
    let service = index.service(&slice.key.namespace, slice.service.as_deref()?)?;
    Some(if service.kind == ServiceKind::Headless { "headless_with_selector" } else { "cluster_ip" })
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
    fn slices_tell_when_they_were_triggered() {
        let of = |annotations: Value| -> i64 {
            let slice = json!({"metadata": {"name": "s", "annotations": annotations}, "endpoints": []});
            Slice::<false>::of(serde_json::from_value(slice).unwrap()).triggered
        };
        let told = of(json!({TRIGGER_TIME: "2026-01-01T00:00:00.5Z"}));
        let now = "2026-01-01T00:00:02Z".parse().unwrap();
        assert_eq!(since(told, now), Some(Duration::from_millis(1500)));
        assert_eq!(since(of(json!({TRIGGER_TIME: "soon"})), now), None);
        assert_eq!(since(of(json!({})), now), None);
        assert_eq!(since(told, "2025-01-01T00:00:00Z".parse().unwrap()), Some(Duration::ZERO));
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
