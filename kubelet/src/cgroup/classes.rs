//! What the cgroups above the pods are given: all pods together what the node keeps for them, burstable pods the weight of
//! their requests, best-effort pods as little as there is; and the cgroups of those that something is kept for.
//!
//! Contract: node allocatable (`enforceNodeAllocatable`): the limit of pods is the capacity less what is reserved; what
//! eviction keeps is not taken off, so that it can act first. Cgroups of others have to be there, and are limited to what is
//! kept for them. `qosReserved`: memory that higher classes ask for is kept from lower ones.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use component_base::task::Tasks;
use k8s_openapi::api::core::v1::Pod;

use super::Cgroups;
use crate::{
    node::machine::Machine,
    options::KubeletConfiguration,
    pod::{
        qos::{self, QosClass},
        resources::{self, CgroupLimits},
    },
    worker::Shared,
};

/// How often the weight of burstable pods is looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// What all pods together may use: what is not reserved where that is enforced, or all there is. `reserved` in thousandths,
/// by resource. Pure.
#[must_use]
pub fn of_all(machine: &Machine, reserved: &BTreeMap<String, i64>, enforced: bool) -> CgroupLimits {
    let kept = |name: &str| reserved.get(name).copied().filter(|_| enforced).unwrap_or(0);
    let rest = |name: &str, have: i64| have.saturating_sub(kept(name)).max(0);
    let memory = rest(resources::MEMORY, machine.memory.saturating_mul(1000)) / 1000;
    let pids = machine.pids.saturating_sub(kept("pid") / 1000);
    CgroupLimits {
        cpu_shares: Some(resources::shares(rest(resources::CPU, machine.cpus.saturating_mul(1000)))),
        memory_limit: Some(memory).filter(|m| *m > 0),
        // Where the kernel does not tell how many there can be, nothing limits them.
        pids_limit: Some(pids).filter(|p| *p > 0 && machine.pids != i64::MAX),
        ..CgroupLimits::default()
    }
}

/// One cgroup that is not the pods', what it is limited to, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// `System Reserved` or `Kube Reserved`.
    pub name: &'static str,
    /// The cgroup, as the configuration names it.
    pub cgroup: String,
    /// Its limits.
    pub limits: CgroupLimits,
}

/// What is held to what is kept for it. Pure.
#[must_use]
pub fn kept(file: &KubeletConfiguration, memory_qos: bool) -> Vec<Kept> {
    let one = |key: &str, name, cgroup: &String, amounts: &BTreeMap<String, String>| {
        let has = |word: &str| file.enforce_node_allocatable.iter().any(|e| e == word);
        let compressible = has(&format!("{key}-compressible"));
        let mut limits = of_reserved(amounts, compressible);
        limits.memory_min = limits.memory_limit.filter(|_| memory_qos);
        (compressible || has(key)).then(|| Kept { name, cgroup: cgroup.clone(), limits })
    };
    let system =
        one("system-reserved", "System Reserved", &file.system_reserved_cgroup, &file.system_reserved);
    let kube = one("kube-reserved", "Kube Reserved", &file.kube_reserved_cgroup, &file.kube_reserved);
    system.into_iter().chain(kube).collect()
}

/// Amounts as limits; of those that can be had less of without harm only, where that is asked for.
fn of_reserved(amounts: &BTreeMap<String, String>, compressible: bool) -> CgroupLimits {
    let milli = |name: &str| amounts.get(name).and_then(|text| resources::milli(text));
    let whole = |name: &str| milli(name).filter(|_| !compressible).map(|milli| milli / 1000);
    CgroupLimits {
        cpu_shares: milli(resources::CPU).map(resources::shares),
        memory_limit: whole(resources::MEMORY),
        pids_limit: whole("pid"),
        ..CgroupLimits::default()
    }
}

/// Most memory of all burstable pods and of all best-effort pods: what pods can have, less a part of what those of higher
/// classes ask for. In bytes. Pure.
#[must_use]
pub fn memory_limits<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    allocatable: i64,
    percent: i64,
) -> BTreeMap<QosClass, i64> {
    let (mut guaranteed, mut burstable) = (0i64, 0i64);
    for pod in pods {
        let bytes = resources::pod_request(pod, resources::MEMORY) / 1000;
        match qos::class(pod) {
            QosClass::Guaranteed => guaranteed = guaranteed.saturating_add(bytes),
            QosClass::Burstable => burstable = burstable.saturating_add(bytes),
            QosClass::BestEffort => {}
        }
    }
    let part = |bytes: i64| bytes.saturating_mul(percent) / 100;
    let of_burstable = allocatable.saturating_sub(part(guaranteed));
    let of_best_effort = of_burstable.saturating_sub(part(burstable));
    BTreeMap::from([
        (QosClass::Burstable, of_burstable.max(0)),
        (QosClass::BestEffort, of_best_effort.max(0)),
    ])
}

/// The weight of all burstable pods together. Pure.
#[must_use]
pub fn burstable_shares<'a>(pods: impl Iterator<Item = &'a Pod>) -> i64 {
    let burstable = pods.filter(|p| qos::class(p) == QosClass::Burstable);
    let milli: i64 = burstable.map(|p| resources::pod_request(p, resources::CPU)).sum();
    resources::shares(milli)
}

/// What of the memory of higher classes is kept from lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Bytes that all pods together can have.
    pub allocatable: i64,
    /// How much of what is asked for, in percent.
    pub percent: i64,
}

/// Keeps the weight of burstable pods, and what is kept from the lower classes, right until the drain.
pub fn run(shared: Arc<Shared>, reserve: Option<Reserve>, tasks: &Tasks) {
    let Some(cgroups) = shared.cgroups.clone() else { return };
    let mut ticks = tasks.ticks(PERIOD);
    tasks.spawn("cgroup-classes", async move {
        let (mut set, mut limited, mut protected) = (None, BTreeMap::new(), BTreeMap::new());
        while ticks.next().await {
            let pods = shared.allocations.pods();
            let shares = burstable_shares(pods.iter().map(AsRef::as_ref));
            if set != Some(shares) && weigh(&cgroups, shares).await {
                set = Some(shares);
            }
            if let Some(memory) = &shared.settings.memory_qos {
                protect(&cgroups, memory.of_classes(pods.iter().map(AsRef::as_ref)), &mut protected).await;
            }
            let Some(Reserve { allocatable, percent }) = reserve else { continue };
            let limits = memory_limits(pods.iter().map(AsRef::as_ref), allocatable, percent);
            if limits != limited && limit(&cgroups, &limits).await {
                limited = limits;
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

/// Protects the memory of classes, unless it is so already.
async fn protect(
    cgroups: &Cgroups,
    wanted: [(QosClass, CgroupLimits); 2],
    done: &mut BTreeMap<QosClass, CgroupLimits>,
) {
    for (class, limits) in wanted {
        if done.get(&class) == Some(&limits) {
            continue;
        }
        match cgroups.set(&cgroups.class(class), &limits).await {
            Ok(()) => drop(done.insert(class, limits)),
            Err(error) => tracing::error!(%error, "failed to update QoS cgroup configuration"),
        }
    }
}

/// Limits the memory of classes. One that uses more already is limited to what it uses, so that it does not grow.
async fn limit(cgroups: &Cgroups, limits: &BTreeMap<QosClass, i64>) -> bool {
    let mut done = true;
    for (class, bytes) in limits {
        let path = cgroups.class(*class);
        let of = |bytes| CgroupLimits { memory_limit: Some(bytes), ..CgroupLimits::default() };
        let Err(error) = cgroups.set(&path, &of(*bytes)).await else { continue };
        done = false;
        let usage = cgroups.memory_usage(&path).filter(|usage| usage > bytes);
        let second = match usage {
            Some(usage) => cgroups.set(&path, &of(usage)).await,
            None => Err(error),
        };
        if let Err(error) = second {
            tracing::error!(%error, "failed to update QoS cgroup configuration");
        }
    }
    done
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
        let all = |limits: CgroupLimits| (limits.cpu_shares, limits.memory_limit, limits.pids_limit);
        assert_eq!(all(limits), (Some(4096), Some(8 << 30), Some(1000)));
        assert_eq!(all(of_all(&machine, &BTreeMap::new(), true)), (Some(4096), Some(8 << 30), Some(1000)));
        let untold = Machine { pids: i64::MAX, ..machine };
        assert_eq!(of_all(&untold, &reserved, true).pids_limit, None);
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

    #[test]
    fn others_are_held_to_what_is_kept_for_them() {
        let file: KubeletConfiguration = serde_json::from_value(json!({
            "systemReserved": {"cpu": "500m", "memory": "1Gi", "pid": "100", "ephemeral-storage": "1Gi"},
            "kubeReserved": {"cpu": "1", "memory": "2Gi"},
            "systemReservedCgroup": "/system", "kubeReservedCgroup": "/kube",
            "enforceNodeAllocatable": ["pods", "system-reserved", "kube-reserved-compressible"],
        }))
        .unwrap();
        let all = kept(&file, false);
        assert_eq!(kept(&file, true)[0].limits.memory_min, Some(1 << 30));
        let told: Vec<_> = all.iter().map(|k| (k.name, k.cgroup.as_str())).collect();
        assert_eq!(told, [("System Reserved", "/system"), ("Kube Reserved", "/kube")]);
        let system = CgroupLimits {
            cpu_shares: Some(512),
            memory_limit: Some(1 << 30),
            pids_limit: Some(100),
            ..CgroupLimits::default()
        };
        assert_eq!(all[0].limits, system);
        assert_eq!(all[1].limits, CgroupLimits { cpu_shares: Some(1024), ..CgroupLimits::default() });
        assert!(kept(&KubeletConfiguration::default(), false).is_empty());
    }

    #[test]
    fn memory_of_higher_classes_is_kept_from_lower_ones() {
        let pod = |requests: &str, limits: &str| {
            testing::pod("a")
                .container("c")
                .with(|p| {
                    let amounts = json!({
                        "requests": {"memory": requests, "cpu": "1"}, "limits": {"memory": limits, "cpu": "1"}
                    });
                    p.spec.as_mut().unwrap().containers[0].resources =
                        serde_json::from_value(amounts).unwrap();
                })
                .build()
        };
        let pods = [pod("100", "100"), pod("60", "80"), testing::pod("b").container("c").build()];
        let of = |percent| memory_limits(pods.iter(), 1000, percent).into_values().collect::<Vec<_>>();
        let by_class = memory_limits(pods.iter(), 1000, 50);
        assert_eq!((by_class[&QosClass::Burstable], by_class[&QosClass::BestEffort]), (950, 920));
        assert_eq!(of(0), [1000, 1000]);
        assert_eq!(memory_limits(pods.iter(), 50, 100).into_values().sum::<i64>(), 0, "never below nothing");
    }
}
