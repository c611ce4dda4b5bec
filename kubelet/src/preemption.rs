//! Making room for a critical pod: which others have to go so that it fits. Pure; the worker of the critical pod carries it
//! out while it is admitted.
//!
//! Contract: pods of the node's own and of the system's priorities are not turned away for want of resources while pods
//! that are less important have them. Of those the least important go, and no more than needed.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    admission::{self, Shortage},
    pod::{
        self,
        qos::{self, QosClass},
    },
};

/// The reason and the words of the pods that go.
pub const REASON: &str = "Preempting";
/// For people.
pub const MESSAGE: &str = "Preempted in order to admit critical pod";

/// The pods to end so that nothing is short any more; `None` when all that may go would not be enough.
#[must_use]
pub fn victims(pod: &Pod, others: &[Arc<Pod>], short: &[Shortage]) -> Option<Vec<Arc<Pod>>> {
    let needed: BTreeMap<&str, i64> = short
        .iter()
        .map(|s| (s.resource.as_str(), s.requested.saturating_add(s.used).saturating_sub(s.capacity)))
        .filter(|(_, missing)| *missing > 0)
        .collect();
    let mut ranked: Vec<&Arc<Pod>> = others.iter().filter(|other| may_go(pod, other)).collect();
    ranked.sort_by_key(|other| importance(other));
    let gives = |other: &Pod, name: &str| if name == "pods" { 1 } else { admission::asks(other, name) };
    let enough = |chosen: &[&Arc<Pod>]| {
        needed.iter().all(|(name, missing)| chosen.iter().map(|p| gives(p, name)).sum::<i64>() >= *missing)
    };
    let mut chosen: Vec<&Arc<Pod>> = Vec::new();
    for other in ranked {
        if enough(&chosen) {
            break;
        }
        if needed.keys().any(|name| gives(other, name) > 0) {
            chosen.push(other);
        }
    }
    if !enough(&chosen) {
        return None;
    }
    // The most important of them are kept where the rest is enough.
    for i in (0..chosen.len()).rev() {
        let mut fewer = chosen.clone();
        fewer.remove(i);
        if enough(&fewer) {
            chosen = fewer;
        }
    }
    Some(chosen.into_iter().cloned().collect())
}

fn priority(pod: &Pod) -> i32 {
    pod::spec(pod).priority.unwrap_or(0)
}

/// A critical pod takes from those that are not; of two critical ones the more important takes from the other.
fn may_go(pod: &Pod, other: &Pod) -> bool {
    !pod::is_static(other) && (!admission::is_critical(other) || priority(pod) > priority(other))
}

fn importance(pod: &Pod) -> (i32, u8, String) {
    let class = match qos::class(pod) {
        QosClass::BestEffort => 0,
        QosClass::Burstable => 1,
        QosClass::Guaranteed => 2,
    };
    (priority(pod), class, pod::uid(pod).to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn pod(name: &str, priority: i32, cpu: &str) -> Arc<Pod> {
        let resources = json!({ "requests": { "cpu": cpu } });
        Arc::new(testing::pod(name).container("c").priority(priority).resources(resources).build())
    }

    fn names(found: Option<Vec<Arc<Pod>>>) -> Option<Vec<String>> {
        found.map(|list| list.iter().map(|p| pod::name(p).to_owned()).collect())
    }

    fn short(resource: &str, missing: i64) -> Shortage {
        Shortage { resource: resource.into(), requested: missing, used: 10, capacity: 10 }
    }

    #[test]
    fn the_least_important_go_and_no_more_than_needed() {
        let critical = pod("critical", 2_000_000_000, "1");
        let others = [pod("low", 0, "100m"), pod("large", 5, "900m"), pod("high", 9, "500m")];
        let of = |list: &[Shortage]| names(victims(&critical, &others, list));
        assert_eq!(of(&[short("cpu", 50)]), Some(vec!["low".into()]));
        assert_eq!(of(&[short("cpu", 500)]), Some(vec!["large".into()]));
        assert_eq!(of(&[short("cpu", 1500)]), Some(vec!["low".into(), "large".into(), "high".into()]));
        assert_eq!(of(&[short("cpu", 1600)]), None);
        assert_eq!(of(&[short("pods", 1)]), Some(vec!["low".into()]));
        assert_eq!(of(&[]), Some(vec![]));
    }

    #[test]
    fn critical_pods_stay_unless_the_new_one_is_more_so() {
        let others = [pod("system", 2_000_000_000, "1")];
        let of = |priority| names(victims(&pod("new", priority, "1"), &others, &[short("cpu", 100)]));
        assert_eq!(of(2_000_000_000), None);
        assert_eq!(of(2_000_001_000), Some(vec!["system".into()]));
    }
}
