//! Sandbox and container configurations in the runtime's terms. Pure.
//!
//! Contract: CRI v1 PodSandboxConfig and ContainerConfig; label and annotation names as upstream's, so that either
//! kubelet adopts the other's containers.

use std::{collections::HashMap, path::PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    cri,
    memory_qos::MemoryQos,
    observed::{self, container_hash},
    security::{self, ImageUser, NodeSecurity, SecurityError},
    swap::Swap,
};
use crate::{
    cpus::set::CpuSet,
    devices::Granted,
    env,
    pod::{self, qos, resources},
    topology::nodes::NodeSet,
};

/// What the node adds to every sandbox and container.
#[derive(Debug, Clone, Default)]
pub struct NodeSettings {
    /// Security defaults.
    pub security: NodeSecurity,
    /// Bytes of memory the node has.
    pub memory_capacity: i64,
    /// The sizes of huge pages that the kernel knows, in bytes.
    pub huge_pages: Vec<i64>,
    /// The period of cpu limits in microseconds, where they are enforced.
    pub cfs_period: Option<i64>,
    /// Containers may choose the signal that ends them.
    pub stop_signals: bool,
    /// Folder of pod logs, `/var/log/pods`.
    pub log_root: PathBuf,
    /// The kernel's cgroups are those of version 2.
    pub cgroup_v2: bool,
    /// When memory runs out, all processes of a container are killed rather than one.
    pub oom_group: bool,
    /// How the kernel protects and throttles memory, where that is switched on.
    pub memory_qos: Option<MemoryQos>,
    /// The node's swap, where the kernel limits it by cgroup.
    pub swap: Option<Swap>,
}

/// Folder of a pod's logs.
#[must_use]
pub fn pod_log_dir(root: &std::path::Path, pod: &Pod) -> PathBuf {
    root.join(format!("{}_{}_{}", pod::namespace(pod), pod::name(pod), pod::uid(pod)))
}

/// The sandbox's configuration.
///
/// # Errors
/// When the pod asks for what cannot be given.
pub fn sandbox(
    pod: &Pod,
    attempt: u32,
    hostname: &str,
    dns: Option<cri::DnsConfig>,
    cgroup_parent: &str,
    node: &NodeSettings,
    users: Option<&cri::UserNamespace>,
) -> Result<cri::PodSandboxConfig, SecurityError> {
    let spec = pod::spec(pod);
    let mut labels: HashMap<String, String> =
        pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.insert(observed::POD_NAME.into(), pod::name(pod).into());
    labels.insert(observed::POD_NAMESPACE.into(), pod::namespace(pod).into());
    labels.insert(observed::POD_UID.into(), pod::uid(pod).into());
    let sysctls = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    let limits = resources::sandbox_limits(pod, node.cfs_period);
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod::name(pod).into(),
            uid: pod::uid(pod).into(),
            namespace: pod::namespace(pod).into(),
            attempt,
        }),
        hostname: if pod::host_network(pod) { String::new() } else { hostname.to_owned() },
        log_directory: pod_log_dir(&node.log_root, pod).to_string_lossy().into_owned(),
        dns_config: dns,
        port_mappings: port_mappings(pod),
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(security::sandbox(pod, &node.security, users)?),
            sysctls: sysctls.map(|s| (s.name.replace('/', "."), s.value.clone())).collect(),
            resources: Some(to_cri(&limits)),
            overhead: Some(overhead(pod, node.cfs_period)),
        }),
    })
}

/// What the sandbox takes by itself; nothing where that is not known.
fn overhead(pod: &Pod, cfs_period: Option<i64>) -> cri::LinuxContainerResources {
    resources::overhead_limits(pod, cfs_period).as_ref().map(to_cri).unwrap_or_default()
}

/// What the runtime is told when a pod gets other resources.
#[must_use]
pub fn sandbox_update(
    pod: &Pod,
    sandbox: &str,
    cfs_period: Option<i64>,
) -> cri::UpdatePodSandboxResourcesRequest {
    cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: sandbox.to_owned(),
        overhead: Some(overhead(pod, cfs_period)),
        resources: Some(to_cri(&resources::sandbox_limits(pod, cfs_period))),
    }
}

fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    if pod::host_network(pod) {
        return vec![];
    }
    pod::all_containers(pod)
        .iter()
        .flat_map(|(_, c)| c.ports.clone().unwrap_or_default())
        .filter(|p| p.host_port.is_some_and(|port| port > 0))
        .map(|p| cri::PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp as i32,
                Some("SCTP") => cri::Protocol::Sctp as i32,
                _ => cri::Protocol::Tcp as i32,
            },
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or_default(),
            host_ip: p.host_ip.unwrap_or_default(),
        })
        .collect()
}

/// Limits as the runtime takes them.
#[must_use]
pub fn to_cri(limits: &resources::CgroupLimits) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_shares: limits.cpu_shares.unwrap_or(0),
        cpu_quota: limits.cpu_quota.unwrap_or(0),
        cpu_period: limits.cpu_period.unwrap_or(0),
        memory_limit_in_bytes: limits.memory_limit.unwrap_or(0),
        ..cri::LinuxContainerResources::default()
    }
}

/// The parts of a container that were worked out before.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// How many times it was started before.
    pub restart_count: u32,
    /// Id of the image in the runtime.
    pub image_ref: String,
    /// The image's user.
    pub image_user: ImageUser,
    /// Environment in order.
    pub env: Vec<(String, String)>,
    /// Mounts: volumes, `/etc/hosts`, the termination message.
    pub mounts: Vec<cri::Mount>,
    /// Groups that volumes ask for.
    pub volume_groups: Vec<i64>,
    /// Id of the container whose processes an ephemeral one is to see.
    pub target: Option<String>,
    /// The pod's user namespace, where it has one of its own.
    pub users: Option<cri::UserNamespace>,
    /// What comes with its devices.
    pub devices: Granted,
    /// The processors it is to run on, where that is managed.
    pub cpus: Option<CpuSet>,
    /// The nodes its memory is to come from, where that is managed.
    pub memory_nodes: Option<NodeSet>,
}

/// The container's configuration.
///
/// # Errors
/// When the pod asks for what cannot be given.
pub fn container(
    pod: &Pod,
    spec: &Container,
    prepared: &Prepared,
    node: &NodeSettings,
) -> Result<cri::ContainerConfig, SecurityError> {
    let lookup = |name: &str| prepared.env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let expand = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|arg| env::expand(arg, &lookup)).collect::<Vec<_>>()
    };
    let limits = resources::container_limits(pod, spec, node.cfs_period);
    let mut linux_resources = to_cri(&limits);
    linux_resources.hugepage_limits = hugepage_limits(pod, spec, &node.huge_pages);
    linux_resources.cpuset_cpus = prepared.cpus.as_ref().map(ToString::to_string).unwrap_or_default();
    linux_resources.cpuset_mems = prepared.memory_nodes.as_ref().map(ToString::to_string).unwrap_or_default();
    linux_resources.oom_score_adj = qos::oom_score_adj(pod, spec, node.memory_capacity);
    if let Some(swap) = &node.swap {
        swap.apply(pod, spec, &mut linux_resources);
    }
    if let Some(settings) = &node.memory_qos {
        settings.apply(pod, spec, &mut linux_resources);
    }
    if node.oom_group {
        linux_resources.unified.insert("memory.oom.group".into(), "1".into());
    }
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: spec.name.clone(), attempt: prepared.restart_count }),
        image: Some(cri::ImageSpec {
            image: prepared.image_ref.clone(),
            user_specified_image: spec.image.clone().unwrap_or_default(),
            ..cri::ImageSpec::default()
        }),
        command: expand(&spec.command),
        args: expand(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        envs: envs(prepared),
        mounts: mounts(prepared),
        devices: devices(&prepared.devices),
        cdi_devices: prepared.devices.cdi.iter().map(|name| cri::CdiDevice { name: name.clone() }).collect(),
        labels: container_labels(pod, spec),
        annotations: {
            let mut all: HashMap<_, _> = prepared.devices.annotations.clone().into_iter().collect();
            all.extend(container_annotations(pod, spec, prepared.restart_count));
            all
        },
        log_path: format!("{}/{}.log", spec.name, prepared.restart_count),
        stdin: spec.stdin == Some(true),
        stdin_once: spec.stdin_once == Some(true),
        tty: spec.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(linux_resources),
            security_context: Some(security::container(
                pod,
                spec,
                &prepared.image_user,
                &prepared.volume_groups,
                prepared.target.as_deref(),
                &node.security,
                prepared.users.as_ref(),
            )?),
        }),
        stop_signal: if node.stop_signals { stop_signal(spec) } else { cri::Signal::RuntimeDefault as i32 },
    })
}

/// Limits of huge pages of the sizes there are, in the runtime's names of them (`2MB`): the container's, or its pod's; of those that
/// neither asks for it gets none.
fn hugepage_limits(pod: &Pod, container: &Container, sizes: &[i64]) -> Vec<cri::HugepageLimit> {
    let level = pod::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
    let own = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let (level, own) = (resources::huge_pages(level), resources::huge_pages(own));
    let one = |size: &i64| {
        let limit = own.get(size).or_else(|| level.get(size)).copied().unwrap_or(0);
        cri::HugepageLimit {
            page_size: resources::huge_page_name(*size),
            limit: u64::try_from(limit).unwrap_or(0),
        }
    };
    sizes.iter().map(one).collect()
}

/// The signal that ends the container, where it asks for another than its image does.
fn stop_signal(container: &Container) -> i32 {
    let name = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    name.and_then(cri::Signal::from_str_name).unwrap_or(cri::Signal::RuntimeDefault) as i32
}

/// The container's own variables win over those of its devices.
fn envs(prepared: &Prepared) -> Vec<cri::KeyValue> {
    let own = |key: &String| prepared.env.iter().any(|(name, _)| name == key);
    let of_devices = prepared.devices.envs.iter().filter(|(key, _)| !own(key));
    let all = of_devices.chain(prepared.env.iter().map(|(key, value)| (key, value)));
    all.map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone().into() }).collect()
}

/// The container's own mounts win over those of its devices.
fn mounts(prepared: &Prepared) -> Vec<cri::Mount> {
    let mut all = prepared.mounts.clone();
    for (container_path, host_path, readonly) in &prepared.devices.mounts {
        if !all.iter().any(|m| m.container_path == *container_path) {
            all.push(cri::Mount {
                container_path: container_path.clone(),
                host_path: host_path.clone(),
                readonly: *readonly,
                ..cri::Mount::default()
            });
        }
    }
    all
}

fn devices(granted: &Granted) -> Vec<cri::Device> {
    let one = |(container_path, host_path, permissions): &(String, String, String)| cri::Device {
        container_path: container_path.clone(),
        host_path: host_path.clone(),
        permissions: permissions.clone(),
    };
    granted.nodes.iter().map(one).collect()
}

fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    HashMap::from([
        (observed::POD_NAME.to_owned(), pod::name(pod).to_owned()),
        (observed::POD_NAMESPACE.to_owned(), pod::namespace(pod).to_owned()),
        (observed::POD_UID.to_owned(), pod::uid(pod).to_owned()),
        (observed::CONTAINER_NAME.to_owned(), container.name.clone()),
    ])
}

fn container_annotations(pod: &Pod, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let mut annotations = HashMap::from([
        (observed::CONTAINER_HASH.to_owned(), format!("{:x}", container_hash(container))),
        (observed::RESTART_COUNT.to_owned(), restart_count.to_string()),
        (observed::TERMINATION_PATH.to_owned(), termination_path(container).to_owned()),
        (
            observed::TERMINATION_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
        ),
    ]);
    if let Ok(json) = serde_json::to_string(&container.resources.clone().unwrap_or_default()) {
        annotations.insert(observed::RESOURCES.to_owned(), json);
    }
    if let Some(grace) = pod::spec(pod).termination_grace_period_seconds {
        annotations.insert(observed::GRACE_PERIOD.to_owned(), grace.to_string());
    }
    // Plain API structs always serialise; were it to fail, the annotation would be left out as upstream does.
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && let Ok(json) = serde_json::to_string(hook)
    {
        annotations.insert(observed::PRE_STOP.to_owned(), json);
    }
    if let Some(ports) = container.ports.as_ref().filter(|p| !p.is_empty())
        && let Ok(json) = serde_json::to_string(ports)
    {
        annotations.insert(observed::PORTS.to_owned(), json);
    }
    annotations
}

/// Path of the termination message inside the container.
#[must_use]
pub fn termination_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().unwrap_or("/dev/termination-log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn prepared() -> Prepared {
        Prepared {
            restart_count: 2,
            image_ref: "sha256:1".into(),
            image_user: ImageUser::Id(0),
            env: vec![("A".into(), "1".into())],
            mounts: vec![],
            volume_groups: vec![],
            target: None,
            users: None,
            devices: Granted::default(),
            cpus: None,
            memory_nodes: None,
        }
    }

    #[test]
    fn what_comes_with_devices_gives_way_to_the_containers_own() {
        let mut prepared = prepared();
        prepared.mounts = vec![cri::Mount { container_path: "/a".into(), ..cri::Mount::default() }];
        prepared.devices = Granted {
            envs: [("A".to_owned(), "2".to_owned()), ("B".to_owned(), "3".to_owned())].into(),
            mounts: vec![("/a".into(), "/x".into(), true), ("/b".into(), "/y".into(), true)],
            nodes: vec![("/dev/a".into(), "/dev/b".into(), "rw".into())],
            annotations: [("k".to_owned(), "v".to_owned())].into(),
            cdi: vec!["vendor.com/gpu=1".into()],
        };
        let pod = testing::pod("a").container("c").build();
        let made = container(&pod, &testing::container("c"), &prepared, &NodeSettings::default()).unwrap();
        let envs: Vec<(String, String)> = made
            .envs
            .iter()
            .map(|e| (e.key.clone(), String::from_utf8_lossy(&e.value).into_owned()))
            .collect();
        assert_eq!(envs.len(), 2);
        assert!(envs.iter().any(|(k, v)| k == "A" && v == "1"), "{envs:?}");
        let paths: Vec<(&str, &str)> =
            made.mounts.iter().map(|m| (m.container_path.as_str(), m.host_path.as_str())).collect();
        assert_eq!(paths, [("/a", ""), ("/b", "/y")]);
        assert_eq!((made.devices.len(), made.cdi_devices.len(), made.annotations["k"].as_str()), (1, 1, "v"));
    }

    #[test]
    fn containers_get_no_huge_pages_they_do_not_ask_for() {
        let mut spec = testing::container("c");
        spec.resources = serde_json::from_value(serde_json::json!({
            "limits": {"hugepages-2Mi": "6Mi", "hugepages-16Gi": "16Gi", "memory": "1"}
        }))
        .unwrap();
        let of = |size: &str, limit| cri::HugepageLimit { page_size: size.into(), limit };
        let sizes = [64 << 10, 2 << 20, 1 << 30];
        let pod = testing::pod("a").build();
        let wanted = [of("64KB", 0), of("2MB", 6 << 20), of("1GB", 0)];
        assert_eq!(hugepage_limits(&pod, &spec, &sizes), wanted);
        assert!(hugepage_limits(&pod, &spec, &[]).is_empty(), "a kernel without them");
        let pod = testing::pod("a")
            .with(|p| {
                let amounts = serde_json::json!({"limits": {"hugepages-2Mi": "8Mi", "hugepages-1Gi": "1Gi"}});
                p.spec.as_mut().unwrap().resources = serde_json::from_value(amounts).unwrap();
            })
            .build();
        let wanted = [of("64KB", 0), of("2MB", 6 << 20), of("1GB", 1 << 30)];
        assert_eq!(hugepage_limits(&pod, &spec, &sizes), wanted, "what is its own counts first");
    }

    #[test]
    fn the_stop_signal_is_handed_on() {
        let mut spec = testing::container("c");
        assert_eq!(stop_signal(&spec), cri::Signal::RuntimeDefault as i32);
        spec.lifecycle.get_or_insert_default().stop_signal = Some("SIGUSR1".into());
        assert_eq!(stop_signal(&spec), cri::Signal::Sigusr1 as i32);
    }

    #[test]
    fn a_container_carries_upstreams_labels_and_annotations() {
        let pod = testing::pod("a").container("c").build();
        let mut spec = testing::container("c");
        spec.args = Some(vec!["$(A)".into()]);
        let made = container(&pod, &spec, &prepared(), &NodeSettings::default()).unwrap();
        assert_eq!(made.labels["io.kubernetes.pod.uid"], "uid-a");
        assert_eq!(made.labels["io.kubernetes.container.name"], "c");
        assert_eq!(made.annotations["io.kubernetes.container.restartCount"], "2");
        assert_eq!(
            made.annotations["io.kubernetes.container.terminationMessagePath"],
            "/dev/termination-log"
        );
        assert_eq!(made.args, ["1"]);
        assert_eq!(made.log_path, "c/2.log");
    }

    #[test]
    fn limits_reach_the_kernels_units() {
        let pod = testing::pod("a").container("c").build();
        let mut spec = testing::container("c");
        spec.resources = serde_json::from_value(serde_json::json!({
            "requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}
        }))
        .unwrap();
        let node =
            NodeSettings { cfs_period: Some(100_000), memory_capacity: 1 << 30, ..NodeSettings::default() };
        let made = container(&pod, &spec, &prepared(), &node).unwrap().linux.unwrap().resources.unwrap();
        assert_eq!(made.cpu_shares, 256);
        assert_eq!((made.cpu_quota, made.cpu_period), (50_000, 100_000));
        assert_eq!(made.memory_limit_in_bytes, 128 << 20);
        assert!(made.unified.is_empty());
        let node = NodeSettings { oom_group: true, ..node };
        let made = container(&pod, &spec, &prepared(), &node).unwrap().linux.unwrap().resources.unwrap();
        assert_eq!(made.unified["memory.oom.group"], "1");
    }
}
