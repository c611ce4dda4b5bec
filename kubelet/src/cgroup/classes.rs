//! What the cgroups above the pods are given: all pods together what the node keeps for them, burstable pods the weight of
//! their requests, best-effort pods as little as there is.
//!
//! Contract: node allocatable (`enforceNodeAllocatable: [pods]`): the limit is the capacity less what is reserved; what
//! eviction keeps is not taken off, so that it can act first.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use component_base::task::Tasks;
use k8s_openapi::api::core::v1::Pod;

use super::Cgroups;
use crate::{
    node::machine::Machine,
    pod::{
        qos::{self, QosClass},
        resources::{self, CgroupLimits},
    },
    worker::Shared,
};

/// How often the weight of burstable pods is looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// What all pods together may use. `reserved` in thousandths, by resource. Pure.
#[must_use]
pub fn of_all(machine: &Machine, reserved: &BTreeMap<String, i64>, enforced: bool) -> CgroupLimits {
    let rest = |name: &str, have: i64| have.saturating_sub(reserved.get(name).copied().unwrap_or(0)).max(0);
    let memory = rest(resources::MEMORY, machine.memory.saturating_mul(1000)) / 1000;
    let pids = reserved.get("pid").map(|milli| machine.pids.saturating_sub(milli / 1000));
    CgroupLimits {
        cpu_shares: Some(resources::shares(rest(resources::CPU, machine.cpus.saturating_mul(1000)))),
        memory_limit: Some(memory).filter(|m| enforced && *m > 0),
        pids_limit: pids.filter(|p| enforced && *p > 0),
        ..CgroupLimits::default()
    }
}

/// The weight of all burstable pods together. Pure.
#[must_use]
pub fn burstable_shares<'a>(pods: impl Iterator<Item = &'a Pod>) -> i64 {
    let burstable = pods.filter(|p| qos::class(p) == QosClass::Burstable);
    let milli: i64 = burstable.map(|p| resources::pod_request(p, resources::CPU)).sum();
    resources::shares(milli)
}

/// Keeps the weight of burstable pods right until the drain.
pub fn run(shared: Arc<Shared>, tasks: &Tasks) {
    let Some(cgroups) = shared.cgroups.clone() else { return };
    let mut ticks = tasks.ticks(PERIOD);
    tasks.spawn("cgroup-classes", async move {
        let mut set = None;
        while ticks.next().await {
            let pods = shared.allocations.pods();
            let shares = burstable_shares(pods.iter().map(AsRef::as_ref));
            if set != Some(shares) && weigh(&cgroups, shares).await {
                set = Some(shares);
            }
        }
    });
}

async fn weigh(cgroups: &Cgroups, shares: i64) -> bool {
    let limits = CgroupLimits { cpu_shares: Some(shares), ..CgroupLimits::default() };
    let done = cgroups.set(&cgroups.class(QosClass::Burstable), &limits).await;
    if let Err(error) = &done {
        tracing::warn!(%error, "cannot set the weight of burstable pods");
    }
    done.is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn pods_get_what_is_not_reserved() {
        let machine = Machine { cpus: 4, memory: 8 << 30, pids: 1000, ..Machine::default() };
        let reserved = BTreeMap::from([
            ("cpu".to_owned(), 500),
            ("memory".to_owned(), (1i64 << 30) * 1000),
            ("pid".to_owned(), 100_000),
        ]);
        let limits = of_all(&machine, &reserved, true);
        assert_eq!((limits.cpu_shares, limits.memory_limit), (Some(3584), Some(7 << 30)));
        assert_eq!(limits.pids_limit, Some(900));
        let limits = of_all(&machine, &reserved, false);
        assert_eq!((limits.cpu_shares, limits.memory_limit, limits.pids_limit), (Some(3584), None, None));
    }

    #[test]
    fn burstable_pods_weigh_what_they_request() {
        let pod = |resources: serde_json::Value| {
            testing::pod("a")
                .container("c")
                .with(|p| {
                    p.spec.as_mut().unwrap().containers[0].resources =
                        serde_json::from_value(resources).unwrap()
                })
                .build()
        };
        let all = [
            pod(json!({ "requests": { "cpu": "500m" } })),
            pod(json!({ "requests": { "cpu": "250m" } })),
            pod(
                json!({ "requests": { "cpu": "1", "memory": "1" }, "limits": { "cpu": "1", "memory": "1" } }),
            ),
            pod(json!({})),
        ];
        assert_eq!(burstable_shares(all.iter()), 768);
        assert_eq!(burstable_shares([].iter()), resources::MIN_SHARES);
    }
}
