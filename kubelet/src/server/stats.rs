//! `GET /stats/summary`: use of cpu, memory, disk and network by node, pods, containers and volumes.
//!
//! Contract: the Summary type of stats/v1alpha1. `?only_cpu_and_memory=true` leaves the rest out.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde_json::{Map, Value, json};

use super::{ServeError, Server};
use crate::{
    cgroup::{
        figures::{self, Pressure, Stall},
        usage::Usage,
    },
    node::machine::{self, FsUsage},
    stats::{Compute, ContainerUsage, PodUsage, VolumeUsage, disk::Taken, network},
};

/// File systems and their fill, as the summary shows them.
#[derive(Debug, Clone, Copy, Default)]
struct Disks {
    kubelet: FsUsage,
    images: FsUsage,
    image_bytes: Option<u64>,
    image_inodes: Option<u64>,
}

/// The summary.
pub(super) async fn summary(server: &Arc<Server>, only_compute: bool) -> Result<Value, ServeError> {
    let now = Timestamp::now();
    if only_compute {
        let pods = server.stats.compute().await?;
        let list: Vec<Value> = pods.iter().map(|usage| pod_json(usage, None, now)).collect();
        return Ok(json!({ "node": node_json(server, None, now), "pods": list }));
    }
    let pods = server.stats.all().await?;
    let disks = disks(server).await;
    let list: Vec<Value> = pods.iter().map(|usage| pod_json(usage, Some(&disks), now)).collect();
    Ok(json!({ "node": node_json(server, Some(&disks), now), "pods": list }))
}

async fn disks(server: &Server) -> Disks {
    // The folder exists while the kubelet runs; were it gone, figures would be zero.
    let kubelet = machine::fs_usage(&server.shared.pods_dir).unwrap_or_default();
    // Without an answer of the runtime, its file system is taken for the kubelet's.
    let images =
        server.shared.runtime.image_filesystems().await.ok().and_then(|list| list.into_iter().next());
    let Some(images) = images else { return Disks { kubelet, images: kubelet, ..Disks::default() } };
    let folder = images.fs_id.map(|id| id.mountpoint).unwrap_or_default();
    Disks {
        kubelet,
        images: machine::fs_usage(Path::new(&folder)).unwrap_or(kubelet),
        image_bytes: images.used_bytes.map(|v| v.value),
        image_inodes: images.inodes_used.map(|v| v.value),
    }
}

fn node_json(server: &Server, disks: Option<&Disks>, now: Timestamp) -> Value {
    let boot = boot_time(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
    let (cpu, pressure) = (node_cpu(), figures::pressure_of_node(Path::new("/")));
    let mut node = json!({
        "nodeName": server.shared.node.name,
        "startTime": boot.unwrap_or(now),
        "cpu": cpu_json(&Compute {
            usage: Usage { cpu, ..Usage::default() },
            cpu_rate: server.stats.rate("/", cpu),
            pressure,
            ..Compute::default()
        }, now),
        "memory": with_pressure(node_memory(now), pressure[1]),
        "swap": node_swap(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default(), now),
        "systemContainers": system_containers(server, now),
    });
    add_io(&mut node, pressure[2], now);
    if let Some(disks) = disks {
        let image_fs = fs_json(disks.images, disks.image_bytes, disks.image_inodes, now);
        node["network"] = network_json(&network::of_process(Path::new("/proc")), now);
        node["fs"] = fs_json(disks.kubelet, None, None, now);
        node["runtime"] = json!({ "imageFs": image_fs, "containerFs": image_fs });
        node["rlimit"] = rlimit(now);
    }
    node
}

fn node_memory(now: Timestamp) -> Value {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let vmstat = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let bytes = |key: &str| machine::kilobytes(&meminfo, key).unwrap_or(0).saturating_mul(1024);
    let events = |key: &str| {
        let mut lines = vmstat.lines().filter_map(|l| l.split_once(' '));
        lines.find(|(name, _)| *name == key).and_then(|(_, v)| v.trim().parse::<u64>().ok())
    };
    let (total, available) = (bytes("MemTotal:"), bytes("MemAvailable:"));
    json!({
        "time": now,
        "availableBytes": available,
        "usageBytes": total - bytes("MemFree:"),
        "workingSetBytes": total - available,
        "rssBytes": bytes("AnonPages:"),
        "pageFaults": events("pgfault").unwrap_or(0),
        "majorPageFaults": events("pgmajfault").unwrap_or(0),
    })
}

fn node_swap(meminfo: &str, now: Timestamp) -> Value {
    let bytes = |key: &str| machine::kilobytes(meminfo, key).unwrap_or(0).saturating_mul(1024);
    let (total, free) = (bytes("SwapTotal:"), bytes("SwapFree:"));
    json!({ "time": now, "swapAvailableBytes": free, "swapUsageBytes": total - free })
}

/// The kubelet itself, and all pods together.
fn system_containers(server: &Server, now: Timestamp) -> Vec<Value> {
    let own = own_usage();
    let all = server.shared.cgroups.as_ref().and_then(|c| c.usage(&c.kubepods()));
    [("kubelet", own), ("pods", all)]
        .into_iter()
        .filter_map(|(name, usage)| {
            let usage = usage?;
            let compute =
                Compute { usage, cpu_rate: server.stats.rate(name, usage.cpu), ..Compute::default() };
            Some(json!({
                "name": name,
                "startTime": now,
                "cpu": cpu_json(&compute, now),
                "memory": memory_json(&compute, now),
            }))
        })
        .collect()
}

fn own_usage() -> Option<Usage> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let cpu = process_cpu(&stat)?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let rss = u64::try_from(machine::kilobytes(&status, "VmRSS:")?).ok()?.saturating_mul(1024);
    Some(Usage { cpu, memory: rss, working_set: rss, rss, ..Usage::default() })
}

/// Nanoseconds of cpu time of a process, from its `stat`: the fields after its name, which may hold anything.
fn process_cpu(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map_while(|f| f.parse::<u64>().ok());
    Some((ticks.next()? + ticks.next()?).saturating_mul(10_000_000))
}

fn rlimit(now: Timestamp) -> Value {
    let most = machine::most_tasks(Path::new("/"));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split(['/', ' ']).nth(4).and_then(|n| n.parse::<i64>().ok());
    json!({ "time": now, "maxpid": most, "curproc": running })
}

/// When the machine was started, from /proc/stat.
pub fn boot_time(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|l| l.strip_prefix("btime "))?;
    Timestamp::from_second(seconds.trim().parse().ok()?).ok()
}

// === pods ===

fn pod_json(usage: &PodUsage, disks: Option<&Disks>, now: Timestamp) -> Value {
    let started = usage.status().and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
    let containers: Vec<Value> = usage
        .containers
        .iter()
        .map(|c| container_json(c, begun(usage.status(), &c.name).unwrap_or(started), disks, now))
        .collect();
    let mut made = json!({
        "podRef": { "name": usage.name, "namespace": usage.namespace, "uid": usage.uid },
        "startTime": started,
        "containers": containers,
        "cpu": cpu_json(&usage.compute, now),
        "memory": memory_json(&usage.compute, now),
        "swap": swap_json(&usage.compute, now),
    });
    add_io(&mut made, usage.compute.pressure[2], now);
    if usage.compute.usage.tasks > 0 {
        made["process_stats"] = json!({ "process_count": usage.compute.usage.tasks });
    }
    let Some(disks) = disks else { return made };
    if !usage.network.is_empty() {
        made["network"] = network_json(&usage.network, now);
    }
    if !usage.volumes.is_empty() {
        let list: Vec<Value> = usage.volumes.iter().map(|v| volume_json(v, &usage.namespace, now)).collect();
        made["volume"] = list.into();
    }
    let Taken { bytes, inodes } = usage.ephemeral;
    made["ephemeral-storage"] = fs_json(disks.kubelet, Some(bytes), Some(inodes), now);
    made
}

/// When the container's present instance was started.
pub(super) fn begun(status: Option<&PodStatus>, name: &str) -> Option<Timestamp> {
    let status = status?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let one = |s: &ContainerStatus| Some(s.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0);
    lists.into_iter().flatten().flatten().find(|s| s.name == name).and_then(one)
}

fn container_json(
    container: &ContainerUsage,
    started: Timestamp,
    disks: Option<&Disks>,
    now: Timestamp,
) -> Value {
    let at = Timestamp::from_millisecond(container.at).unwrap_or(now);
    let mut made = json!({
        "name": container.name,
        "startTime": started,
        "cpu": cpu_json(&container.compute, at),
        "memory": memory_json(&container.compute, at),
        "swap": swap_json(&container.compute, at),
    });
    add_io(&mut made, container.compute.pressure[2], at);
    if let Some(disks) = disks {
        let (root, logs) = (container.root, container.logs);
        made["rootfs"] = fs_json(disks.images, Some(root.bytes), Some(root.inodes), now);
        made["logs"] = fs_json(disks.kubelet, Some(logs.bytes), Some(logs.inodes), now);
    }
    made
}

fn cpu_json(compute: &Compute, at: Timestamp) -> Value {
    let mut made = json!({ "time": at, "usageCoreNanoSeconds": compute.usage.cpu });
    if let Some(rate) = compute.cpu_rate {
        made["usageNanoCores"] = rate.into();
    }
    with_pressure(made, compute.pressure[0])
}

/// For how long something was short, where the kernel tells: `total` in microseconds, as it does.
fn with_pressure(mut made: Value, pressure: Option<Pressure>) -> Value {
    if let Some(Pressure { some, full }) = pressure {
        let one = |stall: Stall| {
            let [avg10, avg60, avg300] = stall.average;
            json!({ "total": stall.total, "avg10": avg10, "avg60": avg60, "avg300": avg300 })
        };
        made["psi"] = json!({ "full": one(full), "some": one(some) });
    }
    made
}

fn add_io(made: &mut Value, pressure: Option<Pressure>, at: Timestamp) {
    if pressure.is_some() {
        made["io"] = with_pressure(json!({ "time": at }), pressure);
    }
}

fn memory_json(compute: &Compute, at: Timestamp) -> Value {
    let usage = &compute.usage;
    let mut made = json!({
        "time": at,
        "usageBytes": usage.memory,
        "workingSetBytes": usage.working_set,
        "rssBytes": usage.rss,
        "pageFaults": usage.faults,
        "majorPageFaults": usage.major_faults,
    });
    if let Some(left) = compute.memory_left {
        made["availableBytes"] = left.into();
    }
    with_pressure(made, compute.pressure[1])
}

fn swap_json(compute: &Compute, at: Timestamp) -> Value {
    let mut made = json!({ "time": at, "swapUsageBytes": compute.swap });
    if let Some(left) = compute.swap_left {
        made["swapAvailableBytes"] = left.into();
    }
    made
}

fn volume_json(volume: &VolumeUsage, namespace: &str, now: Timestamp) -> Value {
    let mut made = fs_json(volume.disk, Some(volume.taken.bytes), Some(volume.taken.inodes), now);
    made["name"] = volume.name.as_str().into();
    if let Some(claim) = &volume.claim {
        made["pvcRef"] = json!({ "name": claim, "namespace": namespace });
    }
    if let Some(abnormal) = volume.abnormal {
        made["volumeHealthStats"] = json!({ "abnormal": abnormal });
    }
    made
}

/// A file system, and what somebody takes of it; without that, what all take.
fn fs_json(disk: FsUsage, bytes: Option<u64>, inodes: Option<u64>, now: Timestamp) -> Value {
    let all = u64::try_from(disk.capacity - disk.available).unwrap_or(0);
    let all_inodes = u64::try_from(disk.inodes - disk.inodes_free).unwrap_or(0);
    json!({
        "time": now,
        "availableBytes": disk.available,
        "capacityBytes": disk.capacity,
        "usedBytes": bytes.unwrap_or(all),
        "inodesFree": disk.inodes_free,
        "inodes": disk.inodes,
        "inodesUsed": inodes.unwrap_or(all_inodes),
    })
}

fn network_json(interfaces: &[network::Interface], now: Timestamp) -> Value {
    let one = |i: &network::Interface| {
        Map::from_iter([
            ("name".to_owned(), Value::from(i.name.as_str())),
            ("rxBytes".to_owned(), i.rx_bytes.into()),
            ("rxErrors".to_owned(), i.rx_errors.into()),
            ("txBytes".to_owned(), i.tx_bytes.into()),
            ("txErrors".to_owned(), i.tx_errors.into()),
        ])
    };
    let mut made = interfaces.first().map(one).unwrap_or_default();
    made.insert("time".to_owned(), json!(now));
    made.insert("interfaces".to_owned(), interfaces.iter().map(one).map(Value::Object).collect());
    Value::Object(made)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pod,
        testing::{self, at},
    };

    #[test]
    fn a_pod_is_shown_with_what_was_asked_for() {
        let pod = testing::pod("a").container("c").build();
        let usage = PodUsage {
            uid: pod::uid(&pod).into(),
            namespace: "ns".into(),
            name: "a".into(),
            pod: Some(Arc::new(pod)),
            containers: vec![ContainerUsage {
                name: "c".into(),
                logs: Taken { bytes: 5, inodes: 2 },
                ..ContainerUsage::default()
            }],
            network: vec![network::Interface { name: "eth0".into(), rx_bytes: 9, ..Default::default() }],
            volumes: vec![VolumeUsage {
                name: "v".into(),
                claim: Some("data".into()),
                ephemeral: false,
                taken: Taken { bytes: 3, inodes: 1 },
                disk: FsUsage { capacity: 100, available: 40, inodes: 10, inodes_free: 4 },
                abnormal: Some(false),
            }],
            ..PodUsage::default()
        };
        let lean = pod_json(&usage, None, at(0));
        assert_eq!(lean["podRef"]["uid"], "uid-a");
        assert!(lean.get("volume").is_none() && lean["containers"][0].get("logs").is_none());
        let full = pod_json(&usage, Some(&Disks::default()), at(0));
        assert_eq!(full["containers"][0]["logs"]["usedBytes"], 5);
        assert_eq!(full["network"]["name"], "eth0");
        assert_eq!(full["network"]["interfaces"][0]["rxBytes"], 9);
        assert_eq!(full["volume"][0]["pvcRef"]["name"], "data");
        assert_eq!(full["volume"][0]["volumeHealthStats"], json!({"abnormal": false}));
        assert_eq!(
            (&full["volume"][0]["usedBytes"], &full["volume"][0]["inodesUsed"]),
            (&json!(3), &json!(1))
        );
    }

    #[test]
    fn pressure_is_shown_where_the_kernel_tells_of_it() {
        let stall = |total| Stall { total, average: [1.5, 0.5, 0.0] };
        let pressed = Some(Pressure { some: stall(7), full: stall(3) });
        let compute = Compute { pressure: [pressed; 3], ..Compute::default() };
        let container = ContainerUsage { name: "c".into(), compute, ..ContainerUsage::default() };
        let shown = container_json(&container, at(0), None, at(0));
        let psi = json!({
            "full": {"total": 3, "avg10": 1.5, "avg60": 0.5, "avg300": 0.0},
            "some": {"total": 7, "avg10": 1.5, "avg60": 0.5, "avg300": 0.0},
        });
        for part in ["cpu", "memory", "io"] {
            assert_eq!(shown[part]["psi"], psi, "{part}");
        }
        let without = container_json(&ContainerUsage::default(), at(0), None, at(0));
        assert!(without["cpu"].get("psi").is_none() && without.get("io").is_none());
    }

    #[test]
    fn a_file_system_without_an_owner_shows_what_all_take() {
        let disk = FsUsage { capacity: 100, available: 40, inodes: 10, inodes_free: 4 };
        let shown = fs_json(disk, None, None, at(0));
        assert_eq!((&shown["usedBytes"], &shown["inodesUsed"]), (&json!(60), &json!(6)));
        let stat = "7 (a) b) S 1 1 1 0 -1 4 5 6 7 8 30 12 0 0 20";
        assert_eq!(process_cpu(stat), Some(420_000_000));
        assert_eq!(boot_time("cpu 1\nbtime 1000000\n"), Some(at(0)));
    }
}
