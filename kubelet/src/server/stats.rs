//! `GET /stats/summary`: use of cpu, memory and disk by node, pods and containers, from the runtime and cgroups.
//!
//! Contract: the Summary type of stats/v1alpha1; volumes and network are not reported.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ServeError, Server};
use crate::{
    eviction::working_set,
    node::machine,
    runtime::{cri, observed},
};

/// What one container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its pod's uid.
    pub uid: String,
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod's name.
    pub pod: String,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Nanoseconds of cpu time since its start.
    pub cpu: u64,
    /// Billionths of a cpu at the moment.
    pub cpu_rate: u64,
    /// Bytes of memory that cannot be dropped.
    pub working_set: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of memory of its own.
    pub rss: u64,
    /// Bytes of its writable layer.
    pub disk: u64,
    /// When that was, in milliseconds since 1970.
    pub at: i64,
}

/// What all containers use, in a stable order.
pub(super) async fn usages(server: &Server) -> Result<Vec<Usage>, ServeError> {
    let mut all: Vec<Usage> = server.shared.runtime.stats().await?.into_iter().filter_map(usage).collect();
    all.sort_by(|a, b| (&a.namespace, &a.pod, &a.name, &a.id).cmp(&(&b.namespace, &b.pod, &b.name, &b.id)));
    Ok(all)
}

fn usage(stats: cri::ContainerStats) -> Option<Usage> {
    let attributes = stats.attributes?;
    let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
    let value = |v: Option<cri::UInt64Value>| v.map_or(0, |v| v.value);
    // A container that has ended has no figures, and its successor has its name.
    let cpu = stats.cpu.filter(|c| c.usage_core_nano_seconds.is_some())?;
    let memory = stats.memory.unwrap_or_default();
    let uid = label(observed::POD_UID);
    (!uid.is_empty()).then(|| Usage {
        uid,
        namespace: label(observed::POD_NAMESPACE),
        pod: label(observed::POD_NAME),
        name: label(observed::CONTAINER_NAME),
        id: attributes.id.clone(),
        cpu: value(cpu.usage_core_nano_seconds),
        cpu_rate: value(cpu.usage_nano_cores),
        working_set: value(memory.working_set_bytes),
        memory: value(memory.usage_bytes),
        rss: value(memory.rss_bytes),
        disk: value(stats.writable_layer.unwrap_or_default().used_bytes),
        at: cpu.timestamp / 1_000_000,
    })
}

/// The summary.
pub(super) async fn summary(server: &Arc<Server>) -> Result<Value, ServeError> {
    let now = Timestamp::now().to_string();
    let all = usages(server).await?;
    let mut pods: BTreeMap<&str, Vec<&Usage>> = BTreeMap::new();
    for usage in &all {
        pods.entry(&usage.uid).or_default().push(usage);
    }
    let pods: Vec<Value> = pods.values().map(|containers| pod_json(server, containers, &now)).collect();
    // The folder exists while the kubelet runs; were it gone, figures would be zero.
    let disk = machine::fs_usage(&server.shared.pods_dir).unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |key: &str| machine::kilobytes(&meminfo, key).unwrap_or(0).saturating_mul(1024);
    let (total, available) = (kilobytes("MemTotal:"), kilobytes("MemAvailable:"));
    Ok(json!({
        "node": {
            "nodeName": server.shared.node.name,
            "cpu": { "time": now, "usageCoreNanoSeconds": node_cpu() },
            "memory": {
                "time": now,
                "availableBytes": available,
                "usageBytes": total - kilobytes("MemFree:"),
                "workingSetBytes": total - available,
            },
            "fs": {
                "time": now,
                "availableBytes": disk.available,
                "capacityBytes": disk.capacity,
                "usedBytes": disk.capacity - disk.available,
                "inodesFree": disk.inodes_free,
                "inodes": disk.inodes,
            },
        },
        "pods": pods,
    }))
}

fn pod_json(server: &Server, containers: &[&Usage], now: &str) -> Value {
    let first = containers[0];
    let sum = |of: fn(&Usage) -> u64| containers.iter().map(|c| of(c)).sum::<u64>();
    let pod = server.pods.named(&first.namespace, &first.pod);
    let cgroups = server.shared.cgroups.as_ref();
    let whole = pod.as_ref().zip(cgroups).and_then(|(p, c)| working_set(c, &c.pod(p)));
    let started = pod.and_then(|p| p.status?.start_time);
    json!({
        "podRef": { "name": first.pod, "namespace": first.namespace, "uid": first.uid },
        "startTime": started,
        "cpu": { "time": now, "usageNanoCores": sum(|c| c.cpu_rate), "usageCoreNanoSeconds": sum(|c| c.cpu) },
        "memory": {
            "time": now,
            "workingSetBytes": whole.and_then(|w| u64::try_from(w).ok()).unwrap_or_else(|| sum(|c| c.working_set)),
        },
        "containers": containers.iter().map(|c| json!({
            "name": c.name,
            "cpu": { "time": now, "usageNanoCores": c.cpu_rate, "usageCoreNanoSeconds": c.cpu },
            "memory": {
                "time": now,
                "workingSetBytes": c.working_set,
                "usageBytes": c.memory,
                "rssBytes": c.rss,
            },
            "rootfs": { "time": now, "usedBytes": c.disk },
        })).collect::<Vec<_>>(),
    })
}

/// Nanoseconds of cpu time that the node has spent, from /proc/stat (in hundredths of a second).
#[must_use]
pub fn node_cpu() -> u64 {
    // Without /proc there is no node to speak of.
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    ticks.iter().take(8).sum::<u64>().saturating_sub(idle).saturating_mul(10_000_000)
}
