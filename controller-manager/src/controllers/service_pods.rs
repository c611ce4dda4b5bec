//! The pods behind services: what endpoints and endpoint slices are both made of.
//!
//! Contract: upstream's `k8s.io/endpointslice/util`: which pods a service publishes and how, what changes of a pod
//! matter, and when the change that is being published happened (`endpoints.kubernetes.io/last-change-trigger-time`).

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use component_base::{
    informer::{Event, Informer},
    meta::{ObjectKey, object_key},
    selector::LabelSelector,
    workqueue::WorkQueue,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerPort, ObjectReference, Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use parking_lot::Mutex;

use super::{pod_disruption::is_finished, replicaset::is_ready};

/// Annotation telling when the change came about that is published.
pub(super) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Label of what belongs to a headless service.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Whether a service's endpoints are made by controllers: it has a selector and is not a mere alias.
pub(super) fn has_pods(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.selector.as_ref().is_some_and(|s| !s.is_empty()) && spec.type_.as_deref() != Some("ExternalName")
}

/// Whether a service selects a pod.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| !s.is_empty() && LabelSelector::from_map(s).matches(&pod.metadata.labels))
}

/// Whether a service is to have no address of its own.
pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// Whether a service has no address, be it that it is to have none or that it has not got one yet: what labels say.
pub(super) fn lacks_address(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).is_none_or(|ip| ip.is_empty() || ip == "None")
}

/// Whether a pod has an address to publish: it has one and has not ended.
pub(super) fn publishes(pod: &Pod) -> bool {
    let set = |ip: &str| !ip.is_empty();
    let status = pod.status.as_ref();
    let addressed = status.is_some_and(|s| {
        s.pod_ip.as_deref().is_some_and(set) || s.pod_ips.iter().flatten().any(|p| set(&p.ip))
    });
    addressed && !is_finished(pod)
}

/// A pod's address of a family.
pub(super) fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|p| &p.ip).chain(&status.pod_ip);
    let parsed = all.filter_map(|ip| ip.parse::<IpAddr>().ok());
    parsed.into_iter().find(|ip| ip.is_ipv4() == (family == "IPv4")).map(|ip| ip.to_string())
}

/// The hostname a pod has in the domain of a service; it counts only in that of its own governing service.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let governed = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|h| governed && !h.is_empty())
}

/// How endpoints refer to a pod.
pub(super) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The number behind a service's port on a pod; named target ports are looked up there.
pub(super) fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let named = |name: &str| {
        let spec = pod.spec.as_ref()?;
        let sidecars =
            spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let matches = |p: &&ContainerPort| {
            p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
        };
        let containers = spec.containers.iter().chain(sidecars);
        containers.flat_map(|c| c.ports.iter().flatten()).find(matches).map(|p| p.container_port)
    };
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => named(name),
    }
}

/// Queues the services whose endpoints a pod's change may touch, after `batch`: what changes meanwhile is one change.
pub(super) fn follow(
    pods: &Informer<Pod>,
    services: &Informer<Service>,
    queue: &WorkQueue<ObjectKey>,
    batch: Duration,
) {
    let (services, queue) = (services.clone(), queue.clone());
    pods.on_event(move |event| {
        let before = match &event {
            Event::Updated { old, new } if !matters(old, new) => return,
            Event::Updated { old, new } if old.metadata.labels != new.metadata.labels => Some(old),
            _ => None,
        };
        let pod = event.object();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for service in services.store().in_namespace(namespace) {
            if selects(&service, pod) || before.is_some_and(|old| selects(&service, old)) {
                queue.add_after(object_key(service.as_ref()), batch);
            }
        }
    });
}

/// Whether endpoints may look different after a pod's change.
fn matters(old: &Pod, new: &Pod) -> bool {
    let shown = |pod: &Pod| {
        let name = pod.spec.as_ref().map(|s| (s.hostname.clone(), s.subdomain.clone(), s.node_name.clone()));
        let addresses = pod.status.as_ref().map(|s| (s.pod_ip.clone(), s.pod_ips.clone()));
        let ends = (pod.metadata.deletion_timestamp.is_some(), is_finished(pod));
        (name, addresses, ends, is_ready(pod))
    };
    old.metadata.labels != new.metadata.labels
        || old.metadata.uid != new.metadata.uid
        || shown(old) != shown(new)
}

/// When the changes were made that services' endpoints are brought up to.
#[derive(Default)]
pub(super) struct TriggerTimes {
    seen: Mutex<HashMap<ObjectKey, Seen>>,
}

/// The moments known when a service was last looked at.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    service: Option<Timestamp>,
    /// By pod: when its readiness last changed.
    pods: BTreeMap<String, Timestamp>,
}

impl TriggerTimes {
    /// The moment of the earliest change since the last call for the service; `None` when there was none.
    pub(super) fn observe(&self, key: &ObjectKey, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let mut seen = self.seen.lock();
        let (next, trigger) = advance(seen.get(key), service, pods);
        seen.insert(key.clone(), next);
        trigger
    }

    /// Forgets a service that is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        self.seen.lock().remove(key);
    }
}

fn advance(seen: Option<&Seen>, service: &Service, pods: &[Arc<Pod>]) -> (Seen, Option<Timestamp>) {
    let made = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let mut next = Seen { service: made, pods: BTreeMap::new() };
    let mut changed = Vec::new();
    for pod in pods {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready");
        let Some(at) = ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0) else { continue };
        let name = pod.metadata.name.clone().unwrap_or_default();
        if seen.is_none_or(|s| s.pods.get(&name).is_none_or(|before| at > *before)) {
            changed.push(at);
        }
        next.pods.insert(name, at);
    }
    let trigger = match seen {
        // A new service: all that is published now follows from its creation.
        None => made,
        Some(seen) => changed.into_iter().chain(made.filter(|at| seen.service.is_none_or(|s| *at > s))).min(),
    };
    (next, trigger)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, since: &str, extra: Value) -> Pod {
        let mut v = json!({"metadata": {"name": name, "labels": {"a": "b"}}, "spec": {"containers": []},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]}});
        for (pointer, value) in extra.as_object().into_iter().flatten() {
            let (a, b) = pointer.split_once('/').unwrap();
            v[a][b] = value.clone();
        }
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn the_trigger_is_the_earliest_change_since_the_last_look() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}))
                .unwrap();
        let at = |s: &str| Some(format!("2026-01-01T00:00:{s}Z").parse::<Timestamp>().unwrap());
        let pod = |name: &str, s: &str| Arc::new(pod(name, &format!("2026-01-01T00:00:{s}Z"), json!({})));
        let times = TriggerTimes::default();
        let key = ObjectKey::new("d", "web");
        assert_eq!(times.observe(&key, &service, &[pod("a", "05")]), at("00"), "a new service: its creation");
        assert_eq!(times.observe(&key, &service, &[pod("a", "05")]), None);
        let now = [pod("a", "09"), pod("b", "07")];
        assert_eq!(times.observe(&key, &service, &now), at("07"));
        assert_eq!(times.observe(&key, &service, &now[..1]), None, "a pod that went tells no time");
        times.forget(&key);
        assert_eq!(times.observe(&key, &service, &now), at("00"));
    }

    #[test]
    fn only_what_endpoints_show_matters() {
        let base = pod("a", "2026-01-01T00:00:00Z", json!({}));
        for (extra, expected) in [
            (json!({}), false),
            (json!({"metadata/annotations": {"x": "y"}}), false),
            (json!({"status/message": "x"}), false),
            (json!({"metadata/labels": {}}), true),
            (json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"}), true),
            (json!({"status/podIPs": []}), true),
            (json!({"status/conditions": []}), true),
            (json!({"status/phase": "Failed"}), true),
            (json!({"spec/hostname": "h"}), true),
        ] {
            assert_eq!(matters(&base, &pod("a", "2026-01-01T00:00:00Z", extra.clone())), expected, "{extra}");
        }
    }

    #[test]
    fn addresses_are_found_by_family() {
        let pod = pod("a", "2026-01-01T00:00:00Z", json!({}));
        assert_eq!(address(&pod, "IPv4").as_deref(), Some("10.0.0.1"));
        assert_eq!(address(&pod, "IPv6").as_deref(), Some("fd00::1"));
    }
}
