//! Whom to evict and what to tell: the order of pods by what they use beyond their requests, and pods that use more disk than
//! their own limits allow. Pure.
//!
//! Contract: upstream's ranking (beyond requests, then priority, then the excess) and its messages.

use std::{cmp::Reverse, fmt::Write as _};

use component_base::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::Pod;

use super::{
    judge::Observation,
    threshold::{Signal, Starved, Threshold},
};
use crate::{
    pod::{self, resources},
    stats::{ContainerUsage, PodUsage, disk::Taken},
};

/// The name of the disk resource.
const DISK: &str = "ephemeral-storage";

/// The pods in the order in which they are to go. Pods that are not measured go first: nothing speaks for them.
#[must_use]
pub fn rank<'a>(
    pods: &'a [Pod],
    usage: &[PodUsage],
    signal: Signal,
    separate_images: bool,
) -> Vec<(&'a Pod, Option<usize>)> {
    let find = |pod: &Pod| usage.iter().position(|u| u.uid == pod::uid(pod));
    let mut ranked: Vec<(&Pod, Option<usize>)> = pods.iter().map(|p| (p, find(p))).collect();
    ranked.sort_by_key(|(pod, found)| {
        let priority = pod::spec(pod).priority.unwrap_or(0);
        let Some(used) = found.map(|i| of(&usage[i], signal, separate_images)) else {
            return (false, false, priority, Reverse(0), created(pod));
        };
        let asked = match signal.starved() {
            Starved::Memory => resources::pod_request(pod, resources::MEMORY) / 1000,
            Starved::Disk => resources::pod_request(pod, DISK) / 1000,
            // Nobody can ask for inodes or process ids.
            Starved::Inodes | Starved::Pids => 0,
        };
        let within = signal.starved() != Starved::Pids && used <= asked;
        (true, within, priority, Reverse(used.saturating_sub(asked)), created(pod))
    });
    ranked
}

/// Of two that are alike, the younger goes.
fn created(pod: &Pod) -> Reverse<jiff::Timestamp> {
    Reverse(crate::pods::created(pod))
}

/// What the pod uses of what the signal measures.
fn of(usage: &PodUsage, signal: Signal, separate_images: bool) -> i64 {
    let layers = || usage.containers.iter().map(|c| c.root).fold(Taken::default(), Taken::and);
    let disk = || match (separate_images, signal.of_images()) {
        (false, _) => usage.ephemeral,
        (true, true) => layers(),
        (true, false) => {
            let (all, layers) = (usage.ephemeral, layers());
            Taken {
                bytes: all.bytes.saturating_sub(layers.bytes),
                inodes: all.inodes.saturating_sub(layers.inodes),
            }
        }
    };
    let used = match signal.starved() {
        Starved::Memory => usage.compute.usage.working_set,
        Starved::Disk => disk().bytes,
        Starved::Inodes => disk().inodes,
        Starved::Pids => usage.compute.usage.tasks,
    };
    i64::try_from(used).unwrap_or(i64::MAX)
}

fn binary(bytes: i64) -> String {
    Quantity::new(bytes, Format::BinarySI).to_string()
}

fn amount(signal: Signal, value: i64) -> String {
    match signal.starved() {
        Starved::Memory | Starved::Disk => binary(value),
        Starved::Inodes | Starved::Pids => value.to_string(),
    }
}

/// What an evicted pod is told.
#[must_use]
pub fn message(
    pod: &Pod,
    usage: Option<&PodUsage>,
    threshold: &Threshold,
    seen: Option<&Observation>,
) -> String {
    let (signal, starved) = (threshold.signal, threshold.signal.starved());
    let what = starved.as_str();
    let mut text = format!("The node was low on resource: {what}. ");
    // Writing into a String does not fail.
    if let Some(seen) = seen {
        let limit = amount(signal, threshold.limit.amount(seen.capacity));
        let left = amount(signal, seen.available);
        let _infallible = write!(text, "Threshold quantity: {limit}, available: {left}. ");
    }
    let Some(usage) = usage else { return text };
    let level = pod::spec(pod).resources.as_ref().and_then(|r| r.requests.as_ref());
    if let (Starved::Memory, Some(asked)) = (starved, level.and_then(|r| r.get(what))) {
        let used = binary(i64::try_from(usage.compute.usage.working_set).unwrap_or(i64::MAX));
        let (name, asked) = (pod::name(pod), &asked.0);
        let _infallible = write!(
            text,
            "Pod {name} was using {used}, request is {asked}, has larger consumption of {what}. "
        );
    }
    for container in &usage.containers {
        let Some((_, spec)) = pod::container_named(pod, &container.name) else { continue };
        let Some(used) = used_of(container, starved) else { continue };
        let asked = resources::amount(spec.resources.as_ref().and_then(|r| r.requests.as_ref()), what);
        let asked = asked.unwrap_or(0) / 1000;
        if used > asked {
            let (name, used, asked) = (&container.name, binary(used), binary(asked));
            let _infallible = write!(
                text,
                "Container {name} was using {used}, request is {asked}, has larger consumption of {what}. "
            );
        }
    }
    text
}

fn used_of(container: &ContainerUsage, starved: Starved) -> Option<i64> {
    let used = match starved {
        Starved::Memory => container.compute.usage.working_set,
        Starved::Disk => container.root.and(container.logs).bytes,
        Starved::Inodes | Starved::Pids => return None,
    };
    Some(i64::try_from(used).unwrap_or(i64::MAX))
}

// === limits of their own ===

/// Why a pod has to go, for what it takes of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overrun {
    /// The limit's name in metrics.
    pub signal: &'static str,
    /// For people.
    pub message: String,
}

/// The pod has limits on what it takes of the disk; only such pods have to be looked at.
#[must_use]
pub fn is_limited(pod: &Pod) -> bool {
    let volumes = pod::spec(pod).volumes.iter().flatten();
    let sized = volumes.filter_map(|v| v.empty_dir.as_ref()).any(|e| e.size_limit.is_some());
    let limited = |c: &k8s_openapi::api::core::v1::Container| resources::limit(c, DISK).is_some();
    sized || pod::containers(pod).iter().chain(pod::init_containers(pod)).any(limited)
}

/// The limit that the pod does not keep to.
#[must_use]
pub fn overrun(pod: &Pod, usage: &PodUsage, separate_images: bool) -> Option<Overrun> {
    let bytes = |taken: Taken| i64::try_from(taken.bytes).unwrap_or(i64::MAX);
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else { continue };
        let used = usage.volumes.iter().find(|u| u.name == volume.name).map_or(0, |u| bytes(u.taken));
        let most = resources::whole(&limit.0).filter(|most| *most > 0);
        if most.is_some_and(|most| used > most) {
            let (name, limit) = (&volume.name, &limit.0);
            let message = format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. ");
            return Some(Overrun { signal: "emptydirfs.limit", message });
        }
    }
    let whole: i64 =
        pod::containers(pod).iter().filter_map(|c| resources::limit(c, DISK)).sum::<i64>() / 1000;
    if let Some(most) = Some(whole).filter(|most| *most > 0 && bytes(usage.ephemeral) > *most) {
        let limit = binary(most);
        let message =
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        return Some(Overrun { signal: "ephemeralpodfs.limit", message });
    }
    usage.containers.iter().find_map(|container| {
        let spec = pod::containers(pod).iter().find(|c| c.name == container.name)?;
        let most = resources::limit(spec, DISK).map(|milli| milli / 1000).filter(|most| *most > 0)?;
        let layer = if separate_images { Taken::default() } else { container.root };
        (bytes(layer.and(container.logs)) > most).then(|| {
            let (name, limit) = (&container.name, binary(most));
            let message = format!("Container {name} exceeded its local ephemeral storage limit {limit:?}. ");
            Overrun { signal: "ephemeralcontainerfs.limit", message }
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        eviction::threshold::Limit,
        node::machine::FsUsage,
        stats::VolumeUsage,
        testing::{self},
    };

    fn pod(name: &str, priority: i32, requests: serde_json::Value) -> Pod {
        testing::pod(name).container("c").priority(priority).resources(requests).build()
    }

    fn usage(name: &str, memory: u64, disk: u64) -> PodUsage {
        let mut container = ContainerUsage { name: "c".into(), ..ContainerUsage::default() };
        container.compute.usage.working_set = memory;
        container.root = Taken { bytes: disk, inodes: 1 };
        let mut usage =
            PodUsage { uid: format!("uid-{name}"), containers: vec![container], ..Default::default() };
        usage.compute.usage.working_set = memory;
        usage.ephemeral = Taken { bytes: disk, inodes: 1 };
        usage
    }

    #[test]
    fn the_largest_excess_of_the_lowest_priority_goes_first() {
        let asks = |bytes: i64| json!({ "requests": { "memory": bytes.to_string() } });
        let pods = [
            pod("modest", 0, asks(20)),
            pod("important", 9, asks(10)),
            pod("greedy", 0, asks(10)),
            pod("small", 0, asks(10)),
            pod("unknown", 99, asks(10)),
        ];
        let used = [
            usage("modest", 10, 0),
            usage("important", 90, 0),
            usage("greedy", 80, 0),
            usage("small", 20, 0),
        ];
        let ranked = rank(&pods, &used, Signal::MemoryAvailable, false);
        let names: Vec<&str> = ranked.iter().map(|(p, _)| pod::name(p)).collect();
        assert_eq!(names, ["unknown", "greedy", "small", "important", "modest"]);
    }

    #[test]
    fn disk_counts_what_is_on_the_file_system_in_question() {
        let mut used = usage("a", 0, 10);
        used.ephemeral = Taken { bytes: 100, inodes: 5 };
        assert_eq!(of(&used, Signal::NodeFsAvailable, false), 100);
        assert_eq!(of(&used, Signal::NodeFsAvailable, true), 90);
        assert_eq!(of(&used, Signal::ImageFsAvailable, true), 10);
        assert_eq!(of(&used, Signal::NodeFsInodesFree, true), 4);
    }

    #[test]
    fn the_message_names_what_was_too_little_and_who_used_too_much() {
        let threshold = Threshold {
            signal: Signal::MemoryAvailable,
            limit: Limit::Amount(100 << 20),
            grace: None,
            reclaim: None,
        };
        let seen = Observation { available: 50 << 20, capacity: 1 << 30 };
        let pod = pod("a", 0, json!({ "requests": { "memory": "1Mi" } }));
        let text = message(&pod, Some(&usage("a", 2 << 20, 0)), &threshold, Some(&seen));
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 2Mi, request is 1Mi, has larger consumption of memory. "
        );
    }

    #[test]
    fn limits_on_disk_are_the_pods_own() {
        let limited = pod("a", 0, json!({ "limits": { DISK: "1Ki" } }));
        assert!(is_limited(&limited) && !is_limited(&pod("b", 0, json!({}))));
        assert_eq!(overrun(&limited, &usage("a", 0, 1024), false), None);
        let over = overrun(&limited, &usage("a", 0, 1025), false).unwrap();
        assert!(over.message.starts_with("Pod ephemeral local storage usage exceeds"), "{over:?}");
        let mut with_volume = pod("c", 0, json!({}));
        with_volume.spec.as_mut().unwrap().volumes =
            serde_json::from_value(json!([{ "name": "v", "emptyDir": { "sizeLimit": "10" } }])).unwrap();
        assert!(is_limited(&with_volume));
        let mut used = usage("c", 0, 0);
        used.volumes.push(VolumeUsage {
            name: "v".into(),
            claim: None,
            ephemeral: true,
            taken: Taken { bytes: 11, inodes: 1 },
            disk: FsUsage::default(),
            abnormal: None,
        });
        let over = overrun(&with_volume, &used, false).unwrap();
        assert_eq!(over.message, "Usage of EmptyDir volume \"v\" exceeds the limit \"10\". ");
    }
}
