//! The node's status: capacity, conditions, addresses, versions, images. Pure.
//!
//! Contract: core/v1 NodeStatus; reasons and messages of conditions as upstream's.

use std::{collections::BTreeMap, net::IpAddr};

use component_base::quantity::{Format, Quantity};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
        NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
    },
    apimachinery::pkg::{api::resource::Quantity as ApiQuantity, apis::meta::v1::Time},
};

use super::{
    addresses,
    machine::{FsUsage, Machine},
};
use crate::{pod::resources, runtime::cri};

/// The annotation of nodes whose volumes a controller attaches.
pub const ATTACHED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// What presses on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Little memory is left.
    pub memory: bool,
    /// Little disk is left.
    pub disk: bool,
    /// Few process ids are left.
    pub pids: bool,
}

/// Everything the status is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// The node's name.
    pub name: &'a str,
    /// Its addresses; with an external cloud provider those may come from elsewhere.
    pub addresses: Option<&'a [IpAddr]>,
    /// The machine.
    pub machine: &'a Machine,
    /// The file system of the kubelet's folder, where pods are held to what they may use of it.
    pub disk: Option<FsUsage>,
    /// Most pods.
    pub max_pods: i32,
    /// Kept from pods, by resource, in thousandths.
    pub reserved: &'a BTreeMap<String, i64>,
    /// Name and version of the runtime.
    pub runtime_version: &'a str,
    /// Runtime handlers.
    pub handlers: &'a [cri::RuntimeHandler],
    /// What the runtime can whatever the handler, where it tells.
    pub runtime: Option<cri::RuntimeFeatures>,
    /// What the kubelet can and others may not.
    pub declared: Vec<String>,
    /// The runtime's images.
    pub images: &'a [cri::Image],
    /// Most images listed; -1 is all.
    pub max_images: i32,
    /// Port of the kubelet's API.
    pub port: u16,
    /// What presses.
    pub pressure: Pressure,
    /// Why the node is not ready; empty when it is.
    pub unready: &'a [String],
    /// Volumes that must not be detached.
    pub volumes_in_use: Vec<String>,
    /// Devices by resource: how many there are, and how many work.
    pub devices: BTreeMap<String, (i64, i64)>,
    /// The status of before, for transition times.
    pub previous: Option<&'a NodeStatus>,
    /// The time.
    pub now: Timestamp,
}

/// Makes the status.
#[must_use]
pub fn generate(input: &Input<'_>) -> NodeStatus {
    let mut capacity = capacity(input);
    let mut allocatable = allocatable(&capacity, input.reserved);
    for (name, (all, working)) in &input.devices {
        capacity.insert(name.clone(), all.saturating_mul(1000));
        allocatable.insert(name.clone(), working.saturating_mul(1000));
    }
    let (mut capacity, mut allocatable) = (quantities(&capacity), quantities(&allocatable));
    keep_others(&mut capacity, &mut allocatable, input.previous);
    NodeStatus {
        addresses: input.addresses.map(|ips| addresses(ips, input.name)),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(input)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(input.port) }),
        }),
        images: Some(images(input.images, input.max_images)),
        node_info: Some(NodeSystemInfo {
            architecture: go_architecture().to_owned(),
            boot_id: input.machine.boot_id.clone(),
            container_runtime_version: input.runtime_version.to_owned(),
            kernel_version: input.machine.kernel.clone(),
            kubelet_version: "v1.36.0".to_owned(),
            machine_id: input.machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: input.machine.os_image.clone(),
            system_uuid: input.machine.system_uuid.clone(),
            swap: (input.machine.swap > 0).then_some(NodeSwapStatus { capacity: Some(input.machine.swap) }),
            ..NodeSystemInfo::default()
        }),
        runtime_handlers: handlers(input.handlers),
        features: input
            .runtime
            .map(|can| NodeFeatures { supplemental_groups_policy: Some(can.supplemental_groups_policy) }),
        declared_features: Some(input.declared.clone()).filter(|list| !list.is_empty()),
        volumes_in_use: Some(input.volumes_in_use.clone()).filter(|list| !list.is_empty()),
        ..NodeStatus::default()
    }
}

/// Resources with a domain of their own that somebody else has put into the node's capacity stay, and all of them
/// can be had by pods.
fn keep_others(
    capacity: &mut BTreeMap<String, ApiQuantity>,
    allocatable: &mut BTreeMap<String, ApiQuantity>,
    previous: Option<&NodeStatus>,
) {
    let known = previous.and_then(|p| p.capacity.as_ref()).into_iter().flatten();
    for (name, amount) in known.filter(|(name, _)| name.contains('/')) {
        if !capacity.contains_key(name) {
            capacity.insert(name.clone(), amount.clone());
            allocatable.insert(name.clone(), amount.clone());
        }
    }
}

/// Whether the API tells another state of the node than it is in, as when it was not heard of for a while.
#[must_use]
pub fn contradicts(told: &NodeStatus, now: &NodeStatus) -> bool {
    let of = |status: &NodeStatus, kind: &str| -> Option<String> {
        status.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status.clone())
    };
    now.conditions.iter().flatten().any(|c| of(told, &c.type_).as_ref() != Some(&c.status))
}

/// The processor as Go names it.
#[must_use]
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Amounts in thousandths.
fn capacity(input: &Input<'_>) -> BTreeMap<String, i64> {
    let mut all = BTreeMap::from([
        ("cpu".to_owned(), input.machine.cpus.saturating_mul(1000)),
        ("memory".to_owned(), input.machine.memory.saturating_mul(1000)),
        ("pods".to_owned(), i64::from(input.max_pods).saturating_mul(1000)),
    ]);
    if let Some(disk) = input.disk {
        all.insert("ephemeral-storage".to_owned(), disk.capacity.saturating_mul(1000));
    }
    for (size, bytes) in &input.machine.huge_pages {
        let name = format!("hugepages-{}", Quantity::new(*size, Format::BinarySI));
        all.insert(name, bytes.saturating_mul(1000));
    }
    all
}

fn allocatable(capacity: &BTreeMap<String, i64>, reserved: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let rest = |(name, have): (&String, &i64)| {
        (name.clone(), have.saturating_sub(reserved.get(name).copied().unwrap_or(0)).max(0))
    };
    let mut rest: BTreeMap<String, i64> = capacity.iter().map(rest).collect();
    // Memory set aside as huge pages is no longer there as memory.
    let huge: i64 = capacity.iter().filter(|(name, _)| name.starts_with("hugepages-")).map(|(_, v)| *v).sum();
    if let Some(memory) = rest.get_mut("memory") {
        *memory = memory.saturating_sub(huge).max(0);
    }
    rest
}

fn quantities(amounts: &BTreeMap<String, i64>) -> BTreeMap<String, ApiQuantity> {
    let text = |(name, milli): (&String, &i64)| {
        let text = match name.as_str() {
            _ if name.starts_with("hugepages-") => Quantity::new(milli / 1000, Format::BinarySI).to_string(),
            "cpu" if milli % 1000 != 0 => format!("{milli}m"),
            "memory" | "ephemeral-storage" if (milli / 1000) % 1024 == 0 && *milli > 0 => {
                format!("{}Ki", milli / 1000 / 1024)
            }
            _ => (milli / 1000).to_string(),
        };
        (name.clone(), ApiQuantity(text))
    };
    amounts.iter().map(text).collect()
}

/// What is kept from pods: reserved for system and Kubernetes, and the memory and disk at which eviction sets in.
#[must_use]
pub fn reserved<'a>(
    lists: impl Iterator<Item = &'a BTreeMap<String, String>>,
    eviction_memory: i64,
    eviction_disk: i64,
) -> BTreeMap<String, i64> {
    let mut sum: BTreeMap<String, i64> = BTreeMap::new();
    for (name, text) in lists.flatten() {
        let amount = resources::milli(text).unwrap_or(0);
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.saturating_add(amount);
    }
    *sum.entry("memory".to_owned()).or_default() += eviction_memory.saturating_mul(1000);
    *sum.entry("ephemeral-storage".to_owned()).or_default() += eviction_disk.saturating_mul(1000);
    sum
}

/// The addresses of a node that has these, under its name.
#[must_use]
pub fn addresses(ips: &[IpAddr], name: &str) -> Vec<NodeAddress> {
    let internal = ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() });
    let host = NodeAddress { type_: "Hostname".into(), address: name.to_owned() };
    internal.chain([host]).collect()
}

fn images(all: &[cri::Image], most: i32) -> Vec<ContainerImage> {
    let mut list: Vec<ContainerImage> = all
        .iter()
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(5).cloned().collect()),
            size_bytes: Some(i64::try_from(image.size).unwrap_or(i64::MAX)),
        })
        .collect();
    list.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    if let Ok(most) = usize::try_from(most) {
        list.truncate(most);
    }
    list
}

fn handlers(all: &[cri::RuntimeHandler]) -> Option<Vec<NodeRuntimeHandler>> {
    let list: Vec<NodeRuntimeHandler> = all
        .iter()
        .map(|handler| NodeRuntimeHandler {
            name: Some(handler.name.clone()),
            features: handler.features.as_ref().map(|f| NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
                user_namespaces: Some(f.user_namespaces),
            }),
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

fn conditions(input: &Input<'_>) -> Vec<NodeCondition> {
    let Pressure { memory, disk, pids } = input.pressure;
    let pick = |on: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
        let (reason, message) = if on { yes } else { no };
        (on, reason, message.to_owned())
    };
    let memory = pick(
        memory,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let disk = pick(
        disk,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let pids = pick(
        pids,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    let ready = if input.unready.is_empty() {
        (true, "KubeletReady", "kubelet is posting ready status".to_owned())
    } else if input.unready.len() == 1 {
        (false, "KubeletNotReady", input.unready[0].clone())
    } else {
        (false, "KubeletNotReady", format!("[{}]", input.unready.join(", ")))
    };
    let old = input.previous.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    [("MemoryPressure", memory), ("DiskPressure", disk), ("PIDPressure", pids), ("Ready", ready)]
        .into_iter()
        .map(|(kind, (on, reason, message))| {
            let status = if on { "True" } else { "False" };
            let before = old.iter().find(|c| c.type_ == kind && c.status == status);
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(Time(input.now)),
                last_transition_time: before
                    .and_then(|c| c.last_transition_time.clone())
                    .or(Some(Time(input.now))),
            }
        })
        .collect()
}

/// The two statuses differ in more than heartbeat times.
#[must_use]
pub fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    plain(a) != plain(b)
}

/// Events that tell of conditions that changed between two statuses: reasons, in upstream's words.
#[must_use]
pub fn transitions(before: Option<&NodeStatus>, now: &NodeStatus) -> Vec<&'static str> {
    let status_of = |status: &NodeStatus, kind: &str| {
        let list = status.conditions.as_deref().unwrap_or_default();
        list.iter().find(|c| c.type_ == kind).map(|c| c.status == "True")
    };
    let table = [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    let mut reasons = Vec::new();
    for (kind, yes, no) in table {
        let (old, new) = (before.and_then(|b| status_of(b, kind)), status_of(now, kind));
        let quiet = kind == "Ready" && old.is_none() && new == Some(false);
        if old != new && !quiet {
            reasons.extend(new.map(|on| if on { yes } else { no }));
        }
    }
    reasons
}

/// A node as it registers.
#[must_use]
pub fn initial_node(config: &crate::options::Config, status: NodeStatus) -> Node {
    let mut node = Node { status: Some(status), ..Node::default() };
    node.metadata.name = Some(config.node_name.clone());
    let mut labels = default_labels(&config.node_name);
    labels.extend(config.node_labels.iter().cloned());
    node.metadata.labels = Some(labels);
    let annotations =
        annotations(config).into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    node.metadata.annotations = Some(annotations.collect()).filter(|all: &BTreeMap<_, _>| !all.is_empty());
    let spec = node.spec.get_or_insert_default();
    spec.provider_id.clone_from(&config.provider_id);
    let mut taints = config.taints.clone();
    if config.external_cloud {
        taints.push(k8s_openapi::api::core::v1::Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            ..Default::default()
        });
    }
    spec.taints = (!taints.is_empty()).then_some(taints);
    node
}

/// The annotations that are the kubelet's to set, and to take away.
#[must_use]
pub fn annotations(config: &crate::options::Config) -> [(&'static str, Option<String>); 2] {
    [
        (ATTACHED, config.file.enable_controller_attach_detach.then(|| "true".to_owned())),
        (addresses::PROVIDED, addresses::hint(config.external_cloud, &config.node_ips)),
    ]
}

/// The words of the event that tells that the machine was started anew since the status of before.
#[must_use]
pub fn rebooted(name: &str, before: Option<&NodeStatus>, now: &NodeStatus) -> Option<String> {
    let boot =
        |status: &NodeStatus| Some(status.node_info.as_ref()?.boot_id.clone()).filter(|id| !id.is_empty());
    let (old, new) = (boot(before?)?, boot(now)?);
    (old != new).then(|| format!("Node {name} has been rebooted, boot id: {new}"))
}

/// The labels every node has.
#[must_use]
pub fn default_labels(name: &str) -> BTreeMap<String, String> {
    let pairs = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", go_architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", go_architecture()),
    ];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    const NOTHING: &BTreeMap<String, i64> = &BTreeMap::new();

    fn empty(machine: &Machine) -> Input<'_> {
        Input {
            name: "n",
            addresses: None,
            machine,
            disk: Some(FsUsage::default()),
            max_pods: 110,
            reserved: NOTHING,
            runtime_version: "containerd://1.6.20",
            handlers: &[],
            runtime: None,
            declared: vec![],
            images: &[],
            max_images: 50,
            port: 10250,
            pressure: Pressure::default(),
            unready: &[],
            volumes_in_use: vec![],
            devices: BTreeMap::new(),
            previous: None,
            now: at(0),
        }
    }

    fn made(unready: &[String], pressure: Pressure, previous: Option<&NodeStatus>, now: i64) -> NodeStatus {
        let machine = Machine { cpus: 2, memory: 4 << 30, ..Machine::default() };
        let lists = [BTreeMap::from([("cpu".to_owned(), "500m".to_owned())])];
        generate(&Input {
            addresses: Some(&[IpAddr::from([192, 0, 2, 1])]),
            reserved: &reserved(lists.iter(), 100 << 20, 0),
            pressure,
            unready,
            previous,
            now: at(now),
            ..empty(&machine)
        })
    }

    #[test]
    fn what_runtime_and_kubelet_can_is_told_where_it_is_known() {
        let machine = Machine::default();
        let told = generate(&empty(&machine));
        assert_eq!((told.features, told.declared_features), (None, None));
        let runtime = Some(cri::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() });
        let told = generate(&Input { runtime, declared: vec!["A".to_owned()], ..empty(&machine) });
        assert_eq!(told.features.unwrap().supplemental_groups_policy, Some(true));
        assert_eq!(told.declared_features, Some(vec!["A".to_owned()]));
    }

    #[test]
    fn reservations_are_taken_from_capacity() {
        let status = made(&[], Pressure::default(), None, 0);
        assert_eq!(status.capacity.as_ref().unwrap()["cpu"].0, "2");
        assert_eq!(status.allocatable.as_ref().unwrap()["cpu"].0, "1500m");
        assert_eq!(status.capacity.unwrap()["memory"].0, "4194304Ki");
        assert_eq!(status.allocatable.unwrap()["memory"].0, "4091904Ki");
    }

    #[test]
    fn resources_of_others_stay_until_they_are_taken_away() {
        let first = made(&[], Pressure::default(), None, 0);
        let mut told = first.clone();
        told.capacity.get_or_insert_default().insert("example.test/seat".into(), ApiQuantity("3".into()));
        told.capacity.get_or_insert_default().insert("leftover".into(), ApiQuantity("3".into()));
        let second = made(&[], Pressure::default(), Some(&told), 10);
        let amounts = [second.capacity.unwrap(), second.allocatable.unwrap()];
        for all in &amounts {
            assert_eq!(all["example.test/seat"].0, "3");
            assert!(!all.contains_key("leftover"));
        }
        let third = made(&[], Pressure::default(), Some(&first), 20);
        assert!(!third.allocatable.unwrap().contains_key("example.test/seat"));
    }

    #[test]
    fn storage_that_is_not_counted_is_not_told() {
        let machine = Machine::default();
        let disk = Some(FsUsage { capacity: 4096, ..FsUsage::default() });
        let told = generate(&Input { disk, ..empty(&machine) });
        assert_eq!(told.capacity.unwrap()["ephemeral-storage"].0, "4Ki");
        let told = generate(&Input { disk: None, ..empty(&machine) });
        assert!(!told.capacity.unwrap().contains_key("ephemeral-storage"));
        assert!(!told.allocatable.unwrap().contains_key("ephemeral-storage"));
    }

    #[test]
    fn a_node_that_was_given_up_says_that_it_is_there() {
        let now = made(&[], Pressure::default(), None, 0);
        let mut told = now.clone();
        assert!(!contradicts(&told, &now));
        for condition in told.conditions.iter_mut().flatten().filter(|c| c.type_ == "Ready") {
            condition.status = "Unknown".into();
        }
        assert!(contradicts(&told, &now));
    }

    #[test]
    fn huge_pages_are_listed_by_size_and_taken_from_memory() {
        let machine = Machine {
            memory: 4 << 30,
            huge_pages: vec![(2 << 20, 4 << 20), (1 << 30, 1 << 30)],
            ..Machine::default()
        };
        let mut input = empty(&machine);
        input.max_pods = 7;
        input.devices = BTreeMap::from([("example.com/gpu".to_owned(), (4, 3))]);
        let status = generate(&input);
        let (capacity, allocatable) = (status.capacity.unwrap(), status.allocatable.unwrap());
        assert_eq!(
            (capacity["hugepages-2Mi"].0.as_str(), capacity["hugepages-1Gi"].0.as_str()),
            ("4Mi", "1Gi")
        );
        assert_eq!(
            (capacity["example.com/gpu"].0.as_str(), allocatable["example.com/gpu"].0.as_str()),
            ("4", "3")
        );
        assert_eq!(
            (capacity["memory"].0.as_str(), allocatable["memory"].0.as_str()),
            ("4194304Ki", "3141632Ki")
        );
    }

    #[test]
    fn a_machine_that_was_started_anew_is_told_of() {
        let with = |boot: &str| {
            let machine = Machine { boot_id: boot.to_owned(), ..Machine::default() };
            generate(&empty(&machine))
        };
        let told = |before: Option<&str>, now: &str| rebooted("n", before.map(with).as_ref(), &with(now));
        assert_eq!(told(Some("a"), "b").as_deref(), Some("Node n has been rebooted, boot id: b"));
        for (before, now) in [(None, "b"), (Some(""), "b"), (Some("b"), "b")] {
            assert_eq!(told(before, now), None);
        }
    }

    #[test]
    fn transitions_keep_their_time_and_tell_events() {
        let first = made(&["no network".into()], Pressure::default(), None, 0);
        assert_eq!(transitions(None, &first).len(), 3);
        let second = made(&[], Pressure::default(), Some(&first), 10);
        assert_eq!(transitions(Some(&first), &second), ["NodeReady"]);
        let third = made(&[], Pressure::default(), Some(&second), 20);
        assert!(!differs(&second, &third));
        let time = |s: &NodeStatus| s.conditions.as_ref().unwrap()[3].last_transition_time.clone().unwrap().0;
        assert_eq!(time(&third), at(10));
        let pressed = made(&[], Pressure { memory: true, ..Pressure::default() }, Some(&third), 30);
        assert_eq!(transitions(Some(&third), &pressed), ["NodeHasInsufficientMemory"]);
    }
}
