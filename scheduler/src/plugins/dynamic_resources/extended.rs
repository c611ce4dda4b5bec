//! Devices that stand for extended resources: the claim that is made for what a pod's containers ask of them. Pure.
//!
//! Contract: KEP-5004. A resource comes from devices on the nodes that have none of it themselves. The names of requests
//! say container and resource by their places, so that they are the same whoever makes them.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::ContainerExtendedResourceRequest,
    resource::v1::{DeviceClaim, DeviceRequest, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec},
};
use smol_str::SmolStr;

use super::allocation::Wanted;
use crate::{
    framework::Reason,
    model::{Devices, NodeInfo, PodInfo, devices::extended_claim_meta, pod::DeviceAsk},
};

/// The classes that stand for resources, by resource.
type Classes = BTreeMap<SmolStr, String>;

/// What devices a pod needs for extended resources.
pub(super) struct Extended {
    pod: ExtendedOf,
    classes: Classes,
    /// Made in an attempt before: another one must be made for the node that is chosen now.
    pub(super) stale: Option<Arc<ResourceClaim>>,
    /// The claim for a node that has none of the resources.
    whole: Arc<Made>,
}

/// The pod they are for.
struct ExtendedOf {
    namespace: String,
    name: String,
    uid: String,
    asks: Vec<DeviceAsk>,
}

/// A claim to be made, its requests made ready.
pub(super) struct Made {
    pub(super) wanted: Wanted,
    pub(super) mappings: Vec<ContainerExtendedResourceRequest>,
}

/// Requests, and which containers have them.
type Requests = (Vec<DeviceRequest>, Vec<ContainerExtendedResourceRequest>);

// === impl Extended ===

impl Extended {
    /// What a pod needs; nothing when devices stand for none of its resources. The error says why no node can help.
    pub(super) fn new(pod: &PodInfo, devices: &Devices) -> Result<Option<Extended>, Reason> {
        let class = |ask: &DeviceAsk| {
            let class = devices.class_for(&ask.resource)?;
            Some((ask.resource.clone(), class.metadata.name.clone()?))
        };
        let classes: Classes = pod.device_asks.iter().filter_map(class).collect();
        if classes.is_empty() {
            return Ok(None);
        }
        let of = ExtendedOf {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            asks: pod.device_asks.clone(),
        };
        let whole = Arc::new(of.make(&classes, devices)?);
        let stale = devices.extended_claim(&pod.uid).cloned();
        Ok(Some(Extended { pod: of, classes, stale, whole }))
    }

    /// The claim to be made when the pod goes to a node; none when the node has all of the resources itself.
    pub(super) fn on(&self, node: &NodeInfo, devices: &Devices) -> Result<Option<Arc<Made>>, Reason> {
        let missing = |name: &SmolStr| node.allocatable.get(name) == 0;
        let count = self.classes.keys().filter(|name| missing(name)).count();
        if count == 0 {
            return Ok(None);
        }
        if count == self.classes.len() {
            return Ok(Some(self.whole.clone()));
        }
        let some = self.classes.iter().filter(|(name, _)| missing(name));
        let some: Classes = some.map(|(name, class)| (name.clone(), class.clone())).collect();
        self.pod.make(&some, devices).map(|made| Some(Arc::new(made)))
    }
}

// === impl ExtendedOf ===

impl ExtendedOf {
    fn make(&self, classes: &Classes, devices: &Devices) -> Result<Made, Reason> {
        let (requests, mappings) = requests(&self.asks, classes);
        let claim = ResourceClaim {
            metadata: extended_claim_meta(&self.namespace, &self.name, &self.uid),
            spec: ResourceClaimSpec {
                devices: Some(DeviceClaim { requests: Some(requests), ..DeviceClaim::default() }),
            },
            status: None,
        };
        Ok(Made { wanted: Wanted::new(&Arc::new(claim), devices)?, mappings })
    }
}

/// The requests for what containers ask of some resources.
fn requests(asks: &[DeviceAsk], classes: &Classes) -> Requests {
    let (mut all, mut mappings) = (Vec::new(), Vec::new());
    for (resource, class) in classes {
        let asks: Vec<&DeviceAsk> = asks.iter().filter(|ask| ask.resource == *resource).collect();
        let (requests, more) = of_resource(&asks, class);
        all.extend(requests);
        mappings.extend(more);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    (all, mappings)
}

/// Containers that last have devices of their own. Those that end before others begin use theirs, and one request has
/// what the one among them that asks for most needs beyond that.
fn of_resource(asks: &[&DeviceAsk], class: &str) -> Requests {
    let mut requests: Vec<DeviceRequest> = Vec::new();
    let mut mappings: Vec<ContainerExtendedResourceRequest> = Vec::new();
    for ask in asks.iter().filter(|ask| ask.lasts) {
        requests.push(request(ask, ask.count, class));
        mappings.push(mapping(ask, name(ask)));
    }
    let (mut own, mut most): (Vec<usize>, Option<(&DeviceAsk, i64)>) = (Vec::new(), None);
    for ask in asks.iter().filter(|ask| !ask.lasts) {
        let mut left = ask.count;
        for later in asks.iter().filter(|later| later.lasts && later.at > ask.at) {
            if left <= 0 {
                break;
            }
            mappings.push(mapping(ask, name(later)));
            left -= later.count;
        }
        if left > 0 {
            own.push(mappings.len());
            mappings.push(mapping(ask, String::new()));
            if most.is_none_or(|(_, count)| count < left) {
                most = Some((ask, left));
            }
        }
    }
    if let Some((ask, count)) = most {
        requests.push(request(ask, count, class));
        own.into_iter().for_each(|at| mappings[at].request_name = name(ask));
    }
    (requests, mappings)
}

fn name(ask: &DeviceAsk) -> String {
    format!("container-{}-request-{}", ask.at, ask.place)
}

fn request(ask: &DeviceAsk, count: i64, class: &str) -> DeviceRequest {
    let exactly = ExactDeviceRequest {
        device_class_name: class.to_owned(),
        allocation_mode: Some("ExactCount".into()),
        count: Some(count),
        ..ExactDeviceRequest::default()
    };
    DeviceRequest { name: name(ask), exactly: Some(exactly), first_available: None }
}

fn mapping(ask: &DeviceAsk, request_name: String) -> ContainerExtendedResourceRequest {
    ContainerExtendedResourceRequest {
        container_name: ask.container.clone(),
        resource_name: ask.resource.to_string(),
        request_name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(at: usize, lasts: bool, place: usize, count: i64) -> DeviceAsk {
        DeviceAsk { container: format!("c{at}"), at, lasts, resource: "d.io/gpu".into(), place, count }
    }

    /// Requests as `name=count`, mappings as `container: request`.
    fn told(asks: &[DeviceAsk]) -> (Vec<String>, Vec<String>) {
        let classes = Classes::from([("d.io/gpu".into(), "gpu".to_owned())]);
        let (requests, mappings) = requests(asks, &classes);
        let count = |r: &DeviceRequest| r.exactly.as_ref().unwrap().count.unwrap();
        (
            requests.iter().map(|r| format!("{}={}", r.name, count(r))).collect(),
            mappings.iter().map(|m| format!("{}: {}", m.container_name, m.request_name)).collect(),
        )
    }

    #[test]
    fn containers_that_last_have_their_own_devices() {
        let (requests, mappings) = told(&[ask(0, true, 2, 1), ask(1, true, 0, 3)]);
        assert_eq!(requests, ["container-0-request-2=1", "container-1-request-0=3"]);
        assert_eq!(mappings, ["c0: container-0-request-2", "c1: container-1-request-0"]);
    }

    #[test]
    fn those_that_end_use_what_comes_after_them() {
        // Enough for the first, not for the second; the sidecar before it does not count.
        let asks = [ask(0, false, 0, 2), ask(1, true, 0, 1), ask(2, false, 0, 3), ask(3, true, 0, 2)];
        let (requests, mappings) = told(&asks);
        assert_eq!(
            requests,
            ["container-1-request-0=1", "container-2-request-0=1", "container-3-request-0=2"]
        );
        assert_eq!(
            mappings,
            [
                "c1: container-1-request-0",
                "c3: container-3-request-0",
                "c0: container-1-request-0",
                "c0: container-3-request-0",
                "c2: container-3-request-0",
                "c2: container-2-request-0",
            ]
        );
    }

    #[test]
    fn one_request_is_enough_for_those_that_end_one_after_the_other() {
        let (requests, mappings) =
            told(&[ask(0, false, 0, 2), ask(1, false, 0, 5), ask(2, false, 0, 4), ask(3, true, 0, 1)]);
        assert_eq!(requests, ["container-1-request-0=4", "container-3-request-0=1"]);
        let own: Vec<&String> = mappings.iter().filter(|m| m.ends_with("container-1-request-0")).collect();
        assert_eq!(
            own,
            ["c0: container-1-request-0", "c1: container-1-request-0", "c2: container-1-request-0"]
        );
    }

    #[test]
    fn other_resources_are_left_aside() {
        let mut other = ask(0, true, 0, 1);
        other.resource = "d.io/other".into();
        assert_eq!(told(&[other]), (Vec::new(), Vec::new()));
    }
}
