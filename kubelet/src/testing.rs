//! Builders for tests: pods and what the runtime shows of them.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};

use crate::{
    runtime::observed::{ContainerPhase, ContainerRecord, PodRuntime, Sandbox, container_hash},
    stats::{ContainerUsage, PodUsage},
};

/// A pod under construction.
pub(crate) struct PodBuilder(Pod);

/// A pod with this name, in namespace `ns`, uid `uid-<name>`.
pub(crate) fn pod(name: &str) -> PodBuilder {
    let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
    pod.metadata.name = Some(name.into());
    pod.metadata.namespace = Some("ns".into());
    pod.metadata.uid = Some(format!("uid-{name}"));
    PodBuilder(pod)
}

impl PodBuilder {
    fn spec(&mut self) -> &mut PodSpec {
        self.0.spec.get_or_insert_default()
    }
    pub(crate) fn restart_policy(mut self, policy: &str) -> Self {
        self.spec().restart_policy = Some(policy.into());
        self
    }
    pub(crate) fn container(mut self, name: &str) -> Self {
        self.spec().containers.push(container(name));
        self
    }
    pub(crate) fn init(mut self, name: &str) -> Self {
        self.spec().init_containers.get_or_insert_default().push(container(name));
        self
    }
    pub(crate) fn sidecar(mut self, name: &str) -> Self {
        let sidecar = Container { restart_policy: Some("Always".into()), ..container(name) };
        self.spec().init_containers.get_or_insert_default().push(sidecar);
        self
    }
    pub(crate) fn priority(mut self, priority: i32) -> Self {
        self.spec().priority = Some(priority);
        self
    }
    /// What the container added last asks for, in the API's words.
    pub(crate) fn resources(mut self, resources: serde_json::Value) -> Self {
        let last = self.spec().containers.last_mut().expect("a container comes first");
        last.resources = Some(serde_json::from_value(resources).expect("resources"));
        self
    }
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Pod)) -> Self {
        change(&mut self.0);
        self
    }
    pub(crate) fn build(self) -> Pod {
        self.0
    }
}

/// A container with image `image:1`.
pub(crate) fn container(name: &str) -> Container {
    Container {
        name: name.into(),
        image: Some("image:1".into()),
        ports: Some(vec![ContainerPort {
            container_port: 80,
            name: Some("http".into()),
            ..Default::default()
        }]),
        ..Container::default()
    }
}

/// The instant `seconds` after the tests' epoch.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + 1_000_000i64.seconds() + seconds.seconds()
}

/// A runtime with one ready sandbox `s0`.
pub(crate) fn runtime() -> PodRuntime {
    PodRuntime {
        sandboxes: vec![Sandbox {
            id: "s0".into(),
            ready: true,
            created_at: at(0),
            attempt: 0,
            ips: vec!["10.0.0.1".into()],
            host_network: false,
        }],
        containers: vec![],
    }
}

/// A record of a container of `pod` in sandbox `s0`.
pub(crate) fn record(pod: &Pod, name: &str, phase: ContainerPhase) -> ContainerRecord {
    let (_, spec) = crate::pod::container_named(pod, name).expect("the pod has the container");
    ContainerRecord {
        id: Arc::from(format!("id-{name}")),
        name: name.into(),
        sandbox_id: "s0".into(),
        phase,
        created_at: at(1),
        started_at: Some(at(1)),
        finished_at: matches!(phase, ContainerPhase::Exited).then(|| at(2)),
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: "image:1".into(),
        image_id: "sha256:0".into(),
        hash: Some(container_hash(&spec)),
        restart_count: 0,
        log_path: String::new(),
        limits: Some(crate::pod::resources::container_limits(pod, &spec, Some(100_000))),
        memory_request: None,
        stop_signal: None,
        user: None,
        images: BTreeMap::new(),
    }
}

/// What pod `a` with container `c` uses: one and a half seconds of a processor.
pub(crate) fn usage() -> PodUsage {
    let mut container = ContainerUsage { name: "c".into(), id: "1".into(), at: 7, ..Default::default() };
    container.compute.usage.cpu = 1_500_000_000;
    PodUsage {
        namespace: "ns".into(),
        name: "a".into(),
        pod: Some(Arc::new(pod("a").container("c").build())),
        containers: vec![container],
        ..PodUsage::default()
    }
}
