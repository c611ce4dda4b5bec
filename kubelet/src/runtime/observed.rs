//! What the runtime shows of one pod, as plain data: its sandboxes and containers.
//!
//! The kubelet keeps nothing of its own about running containers: after a restart this view, read from the labels
//! and annotations on the containers, is all it needs to go on without touching them.

use std::{collections::BTreeMap, sync::Arc};

use component_base::hash::fnv32a;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::cri;
use crate::pod::{self, resources::CgroupLimits};

/// Label: name of the pod.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: namespace of the pod.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: uid of the pod.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: name of the container in its pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: hash of the container's spec, in hexadecimal.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how many times the container had been started before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: path of the termination message in the container.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: `File` or `FallbackToLogsOnError`.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the pod's grace period in seconds.
pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation: the preStop handler as JSON, so that it can be honoured for a pod the API no longer knows.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Annotation: the resources the container was made with, as JSON.
pub const RESOURCES: &str = "keelson.io/container-resources";
/// Annotation: the container's ports as JSON.
pub const PORTS: &str = "io.kubernetes.container.ports";

/// A container's state in the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerPhase {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited,
    /// The runtime cannot say.
    Unknown,
}

impl ContainerPhase {
    /// The runtime's number.
    #[must_use]
    pub fn number(self) -> i32 {
        let state = match self {
            Self::Created => cri::ContainerState::ContainerCreated,
            Self::Running => cri::ContainerState::ContainerRunning,
            Self::Exited => cri::ContainerState::ContainerExited,
            Self::Unknown => cri::ContainerState::ContainerUnknown,
        };
        state as i32
    }
}

/// One pod sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: Arc<str>,
    /// Its namespaces and network stand.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// 0 for the pod's first one.
    pub attempt: u32,
    /// Addresses, primary first; empty with the host's network.
    pub ips: Vec<String>,
    /// It shares the node's network.
    pub host_network: bool,
}

/// One container instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRecord {
    /// The runtime's id.
    pub id: Arc<str>,
    /// Its name in the pod.
    pub name: String,
    /// The sandbox it lives in.
    pub sandbox_id: Arc<str>,
    /// Its state.
    pub phase: ContainerPhase,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its process started.
    pub started_at: Option<Timestamp>,
    /// When its process ended.
    pub finished_at: Option<Timestamp>,
    /// Meaningful once exited.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`...
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// The image as the spec named it.
    pub image: String,
    /// The image's digest or id.
    pub image_id: String,
    /// Hash of the spec it was made from; `None` when the annotation is missing.
    pub hash: Option<u64>,
    /// Starts before this one.
    pub restart_count: u32,
    /// Path of its log file.
    pub log_path: String,
    /// What its cgroup is set to, where the runtime tells.
    pub limits: Option<CgroupLimits>,
    /// Bytes of memory that were requested when it was made; zero for none.
    pub memory_request: Option<i64>,
    /// The signal that ends it, where the runtime tells.
    pub stop_signal: Option<&'static str>,
    /// Whom it was started as: user, group and further groups, where the runtime tells.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// Images that are mounted in it, by where.
    pub images: BTreeMap<String, String>,
}

/// Everything the runtime has of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodRuntime {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub containers: Vec<ContainerRecord>,
}

impl PodRuntime {
    /// These, in order.
    #[must_use]
    pub fn of(mut sandboxes: Vec<Sandbox>, mut containers: Vec<ContainerRecord>) -> Self {
        sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        Self { sandboxes, containers }
    }

    /// The sandbox to use: the newest, when it is ready and the only ready one.
    #[must_use]
    pub fn current_sandbox(&self, pod: &Pod) -> Option<&Sandbox> {
        let newest = self.sandboxes.first()?;
        let ready = self.sandboxes.iter().filter(|s| s.ready).count();
        let host_network = pod::host_network(pod);
        let usable = newest.ready
            && ready == 1
            && newest.host_network == host_network
            && (host_network || !newest.ips.is_empty());
        usable.then_some(newest)
    }

    /// The newest instance of a container, in whichever sandbox.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Some container of the pod has ended so that all of them are to start anew.
    #[must_use]
    pub fn restarts_all(&self, pod: &Pod) -> bool {
        let mut all = pod::init_containers(pod).iter().chain(pod::containers(pod));
        all.any(|container| {
            let ended = self.latest(&container.name).filter(|r| r.phase == ContainerPhase::Exited);
            ended.is_some_and(|record| pod::restarts_all_after(container, record.exit_code))
        })
    }

    /// The newest instance of a container in one sandbox.
    #[must_use]
    pub fn latest_in(&self, sandbox: &str, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name && &*c.sandbox_id == sandbox)
    }

    /// The instance before the newest one.
    #[must_use]
    pub fn previous(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }

    /// Containers whose process may still run.
    pub fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers
            .iter()
            .filter(|c| matches!(c.phase, ContainerPhase::Running | ContainerPhase::Unknown))
    }

    /// All sandboxes and containers with the runtime's number of their state.
    pub fn states(&self) -> impl Iterator<Item = (Arc<str>, i32)> {
        let sandboxes = self.sandboxes.iter().map(|s| (Arc::clone(&s.id), i32::from(!s.ready)));
        sandboxes.chain(self.containers.iter().map(|c| (Arc::clone(&c.id), c.phase.number())))
    }

    /// Nothing runs: no process and no ready sandbox.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.running().next().is_none() && self.sandboxes.iter().all(|s| !s.ready)
    }
}

/// The hash that tells whether a running container was made from this spec. As upstream it covers name and image
/// only, the two fields whose change calls for a new instance, and is FNV-32a of their JSON.
#[must_use]
pub fn container_hash(container: &Container) -> u64 {
    let picked = serde_json::json!({
        "image": container.image.as_deref().unwrap_or_default(),
        "name": container.name,
    });
    u64::from(fnv32a(picked.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_covers_name_and_image_only() {
        let a = Container { name: "c".into(), image: Some("i:1".into()), ..Container::default() };
        let b = Container { args: Some(vec!["x".into()]), ..a.clone() };
        let c = Container { image: Some("i:2".into()), ..a.clone() };
        assert_eq!(container_hash(&a), container_hash(&b));
        assert_ne!(container_hash(&a), container_hash(&c));
    }
}
