//! How the kernel protects and throttles the memory of containers and pods (cgroup v2 only).
//!
//! ```text
//! what is asked for   -> memory.min of Guaranteed pods, memory.low of Burstable ones, where reservations are tiered
//! between that and the limit -> memory.high: from there on the kernel takes memory back and slows the container down
//! ```
//! Contract: KEP-2570 (`MemoryQoS`, `memoryThrottlingFactor`, `memoryReservationPolicy`). Pure.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::cri;
use crate::pod::{
    qos::{self, QosClass},
    resources::{self, CgroupLimits, MEMORY},
};

/// What limits are multiples of.
const PAGE: i64 = 4096;
const MIN: &str = "memory.min";
const LOW: &str = "memory.low";
const HIGH: &str = "memory.high";

/// The node's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryQos {
    /// Where between request and limit throttling sets in, 0.0 to 1.0.
    pub factor: f64,
    /// What is asked for is protected.
    pub tiered: bool,
    /// Bytes that pods can have: the limit of those without one.
    pub allocatable: i64,
}

impl MemoryQos {
    /// Adds what a container's cgroup gets.
    pub fn apply(&self, pod: &Pod, container: &Container, limits: &mut cri::LinuxContainerResources) {
        let bytes = |milli: Option<i64>| milli.unwrap_or(0) / 1000;
        let request = bytes(resources::request(container, MEMORY));
        let limit = bytes(resources::limit(container, MEMORY));
        let mut set = |name: &str, value: i64| limits.unified.insert(name.to_owned(), value.to_string());
        if request != 0 && self.tiered {
            set(protection(qos::class(pod)), request);
        } else {
            set(MIN, 0);
            set(LOW, 0);
        }
        if request != limit {
            let most = if limit == 0 { self.allocatable } else { limit };
            let high = self.high(request, most);
            if most > 0 && high > request {
                set(HIGH, high);
            }
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "whole pages are precise enough"
    )]
    fn high(&self, request: i64, most: i64) -> i64 {
        let exact = request as f64 + (most as f64 - request as f64) * self.factor;
        (exact / PAGE as f64).floor() as i64 * PAGE
    }

    /// Adds what a pod's cgroup gets.
    pub fn protect(&self, pod: &Pod, limits: &mut CgroupLimits) {
        let request = resources::pod_request(pod, MEMORY) / 1000;
        if !self.tiered || request <= 0 {
            return;
        }
        match qos::class(pod) {
            QosClass::Guaranteed => limits.memory_min = Some(request),
            QosClass::Burstable | QosClass::BestEffort => limits.memory_low = Some(request),
        }
    }

    /// What all pods and all burstable pods get: as much as is asked for below them, or the protection of pods is none.
    #[must_use]
    pub fn of_classes<'a>(&self, pods: impl Iterator<Item = &'a Pod>) -> [(QosClass, CgroupLimits); 2] {
        let (mut guaranteed, mut burstable) = (0i64, 0i64);
        for pod in pods.filter(|_| self.tiered) {
            let bytes = resources::pod_request(pod, MEMORY) / 1000;
            match qos::class(pod) {
                QosClass::Guaranteed => guaranteed = guaranteed.saturating_add(bytes),
                QosClass::Burstable => burstable = burstable.saturating_add(bytes),
                QosClass::BestEffort => {}
            }
        }
        let all = CgroupLimits {
            memory_min: Some(guaranteed.saturating_add(burstable)),
            ..CgroupLimits::default()
        };
        let lower = CgroupLimits { memory_low: Some(burstable), ..CgroupLimits::default() };
        [(QosClass::Guaranteed, all), (QosClass::Burstable, lower)]
    }
}

/// Guaranteed pods keep what they asked for; of others it is taken only when nothing else is left.
fn protection(class: QosClass) -> &'static str {
    if class == QosClass::Guaranteed { MIN } else { LOW }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::testing;

    fn sized(name: &str, request: &str, limit: Option<&str>) -> Pod {
        let mut amounts = json!({"requests": {"memory": request, "cpu": "1"}});
        if let Some(limit) = limit {
            amounts["limits"] = json!({"memory": limit, "cpu": "1"});
        }
        testing::pod(name)
            .container("c")
            .with(|p| {
                p.spec.as_mut().unwrap().containers[0].resources =
                    serde_json::from_value(amounts.clone()).unwrap();
            })
            .build()
    }

    fn unified(settings: MemoryQos, pod: &Pod) -> BTreeMap<String, String> {
        let mut made = cri::LinuxContainerResources::default();
        settings.apply(pod, &crate::pod::containers(pod)[0], &mut made);
        made.unified.into_iter().collect()
    }

    fn told(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn containers_are_protected_and_throttled() {
        let tiered = MemoryQos { factor: 0.9, tiered: true, allocatable: 1 << 30 };
        let plain = MemoryQos { tiered: false, ..tiered };
        let guaranteed = sized("g", "1Mi", Some("1Mi"));
        assert_eq!(unified(tiered, &guaranteed), told(&[(MIN, "1048576")]));
        assert_eq!(unified(plain, &guaranteed), told(&[(MIN, "0"), (LOW, "0")]));
        // 100 MiB and nine tenths of the other hundred, in whole pages.
        let burstable = sized("b", "100Mi", Some("200Mi"));
        let high = (190i64 << 20).to_string();
        assert_eq!(unified(tiered, &burstable), told(&[(LOW, "104857600"), (HIGH, &high)]));
        let unlimited = sized("u", "100Mi", None);
        let all = unified(tiered, &unlimited);
        let high: i64 = all[HIGH].parse().unwrap();
        assert!(high % PAGE == 0 && high > (900 << 20) && high < (1 << 30), "{high}");
        let idle = testing::pod("i").container("c").build();
        assert!(!unified(tiered, &idle).contains_key(HIGH), "it asks for nothing and has no limit");
    }

    #[test]
    fn pods_and_classes_cover_what_is_below_them() {
        let tiered = MemoryQos { factor: 0.9, tiered: true, allocatable: 1 << 30 };
        let pods = [
            sized("g", "100", Some("100")),
            sized("b", "60", None),
            testing::pod("i").container("c").build(),
        ];
        let of = |pod: &Pod| {
            let mut limits = CgroupLimits::default();
            tiered.protect(pod, &mut limits);
            (limits.memory_min, limits.memory_low)
        };
        assert_eq!(pods.each_ref().map(of), [(Some(100), None), (None, Some(60)), (None, None)]);
        let [(_, all), (_, lower)] = tiered.of_classes(pods.iter());
        assert_eq!((all.memory_min, lower.memory_low), (Some(160), Some(60)));
        let plain = MemoryQos { tiered: false, ..tiered };
        let [(_, all), (_, lower)] = plain.of_classes(pods.iter());
        assert_eq!((all.memory_min, lower.memory_low), (Some(0), Some(0)));
    }
}
