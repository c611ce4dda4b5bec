//! The container runtime, over CRI v1 on a unix socket: what the kubelet asks of it, in the kubelet's own terms.
//!
//! Everything that is decided stands in the pure children (`config`, `security`, `observed`); this file only
//! carries calls and turns their answers into [`observed::PodRuntime`].

pub mod config;
mod lines;
mod listing;
pub mod logs;
pub mod measured;
pub mod memory_qos;
pub mod observed;
pub mod security;
pub mod swap;
pub mod termination;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use component_base::grpc::code_name;
use futures::future::{try_join, try_join_all};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use tonic::transport::Endpoint;

/// The wire types of CRI v1.
pub use proto::cri::v1 as cri;

use crate::{
    cgroup::Driver,
    metrics,
    pod::resources::{self, CgroupLimits},
};

use self::{
    cri::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
    listing::Lists,
    measured::Measured,
    observed::{ContainerPhase, ContainerRecord, PodRuntime, Sandbox},
};

/// Largest answer taken from the runtime: 16 MiB, as upstream.
const MAX_MESSAGE: usize = 16 << 20;

/// A call to the runtime that failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The endpoint is not a unix socket address.
    #[error("container runtime endpoint {0:?} is not unix:///path")]
    Endpoint(String),
    /// The runtime answered with an error. Shown as gRPC's Go client does, because events carry this text.
    #[error("rpc error: code = {} desc = {message}", code_name(*code))]
    Call {
        /// The gRPC code.
        code: tonic::Code,
        /// The runtime's words.
        message: String,
    },
    /// An answer without what it must have.
    #[error("the runtime's answer lacks {0}")]
    Incomplete(&'static str),
    /// More pulls than are wanted.
    #[error("pull QPS exceeded")]
    Throttled,
    /// A way to make cgroups that nobody knows.
    #[error("runtime returned an unknown cgroup driver {0}")]
    Driver(i32),
}

impl From<tonic::Status> for RuntimeError {
    fn from(status: tonic::Status) -> Self {
        Self::Call { code: status.code(), message: status.message().to_owned() }
    }
}

/// What was listed may be gone by the time its details are asked for: that is none.
fn found<T>(answer: Result<T, RuntimeError>) -> Result<Option<T>, RuntimeError> {
    match answer {
        Err(error) if error.is_not_found() => Ok(None),
        answer => answer.map(Some),
    }
}

impl RuntimeError {
    /// The runtime has no such call. Containerd 2.2 has one that says in words only that there is nothing behind it.
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        match self {
            Self::Call { code: tonic::Code::Unimplemented, .. } => true,
            Self::Call { code: tonic::Code::Unknown, message } => message.contains("not implemented"),
            _ => false,
        }
    }

    /// The object asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { code: tonic::Code::NotFound, .. })
    }
}

/// A connection to the runtime; cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Measured>,
    /// The same, for lists.
    lists: Lists,
    images: ImageServiceClient<Measured>,
    /// The same, for lists.
    image_lists: Lists,
    timeout: Duration,
}

/// A pod's identity as its sandbox and containers carry it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodLabels {
    /// Uid.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// One line of the relist: enough to see that something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glimpse {
    /// The pod it belongs to.
    pub pod: PodLabels,
    /// Its id.
    pub id: String,
    /// For containers, the sandbox's id.
    pub sandbox_id: Option<String>,
    /// Container name; empty for a sandbox.
    pub name: String,
    /// State as the wire has it.
    pub state: i32,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

impl Runtime {
    /// Prepares the connections; they are made at the first call and remade when the runtime restarts. `images` is where
    /// the image service is, empty for where the runtime is; lists come in `streams` if the runtime has those.
    ///
    /// # Errors
    /// When an endpoint is not `unix:///path` or `/path`.
    pub fn connect(
        endpoint: &str,
        images: &str,
        timeout: Duration,
        streams: bool,
    ) -> Result<Self, RuntimeError> {
        let channel = channel(endpoint)?;
        let of_images =
            if images.is_empty() || images == endpoint { channel.clone() } else { self::channel(images)? };
        Ok(Self {
            lists: Lists::new(channel.clone(), timeout, streams),
            image_lists: Lists::new(of_images.clone(), timeout, streams),
            runtime: RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(of_images).max_decoding_message_size(MAX_MESSAGE),
            timeout,
        })
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        self.request_within(message, self.timeout)
    }

    fn request_within<T>(&self, message: T, timeout: Duration) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(timeout);
        request
    }

    /// Name and version of the runtime.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn version(&self) -> Result<cri::VersionResponse, RuntimeError> {
        let request = self.request(cri::VersionRequest { version: "0.1.0".into() });
        Ok(self.runtime.clone().version(request).await?.into_inner())
    }

    /// Who makes cgroups for this runtime; `None` when it does not tell, as those before containerd 2 do not.
    ///
    /// # Errors
    /// When the call fails, or with a driver that nobody knows.
    pub async fn cgroup_driver(&self) -> Result<Option<Driver>, RuntimeError> {
        let request = self.request(cri::RuntimeConfigRequest::default());
        let config = match self.runtime.clone().runtime_config(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                metrics::get().cri_losing_support.with_label_values(&["1.37.0"]).set(1);
                tracing::info!("the runtime does not tell its cgroup driver, so what is configured counts");
                return Ok(None);
            }
            Err(status) => return Err(status.into()),
        };
        let Some(linux) = config.linux else { return Ok(None) };
        match cri::CgroupDriver::try_from(linux.cgroup_driver) {
            Ok(cri::CgroupDriver::Systemd) => Ok(Some(Driver::Systemd)),
            Ok(cri::CgroupDriver::Cgroupfs) => Ok(Some(Driver::Cgroupfs)),
            Err(_) => Err(RuntimeError::Driver(linux.cgroup_driver)),
        }
    }

    /// Conditions of runtime and network, runtime handlers.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn status(&self) -> Result<cri::StatusResponse, RuntimeError> {
        Ok(self
            .runtime
            .clone()
            .status(self.request(cri::StatusRequest { verbose: false }))
            .await?
            .into_inner())
    }

    /// The image of sandboxes, where the runtime tells (containerd does, in its verbose status).
    pub async fn sandbox_image(&self) -> Option<String> {
        let request = self.request(cri::StatusRequest { verbose: true });
        // A runtime that does not tell has its image pinned, or none.
        let answer = self.runtime.clone().status(request).await.ok()?.into_inner();
        let config: serde_json::Value = serde_json::from_str(answer.info.get("config")?).ok()?;
        config["sandboxImage"].as_str().map(str::to_owned)
    }

    /// Tells the runtime the node's pod range.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<(), RuntimeError> {
        let config =
            cri::RuntimeConfig { network_config: Some(cri::NetworkConfig { pod_cidr: cidr.to_owned() }) };
        let request = self.request(cri::UpdateRuntimeConfigRequest { runtime_config: Some(config) });
        self.runtime.clone().update_runtime_config(request).await?;
        Ok(())
    }

    // === sandboxes and containers ===

    /// Makes and starts a sandbox; four minutes, since the network may have to be set up.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn run_sandbox(
        &self,
        config: cri::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, RuntimeError> {
        let message = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let request = self.request_within(message, self.timeout * 2);
        Ok(self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Stops a sandbox and what still runs in it.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = self.request(cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() });
        self.runtime.clone().stop_pod_sandbox(request).await?;
        Ok(())
    }

    /// Removes a stopped sandbox and its containers.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = self.request(cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() });
        self.runtime.clone().remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// Makes a container.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let request = self.request(cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        });
        Ok(self.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = self.request(cri::StartContainerRequest { container_id: id.to_owned() });
        self.runtime.clone().start_container(request).await?;
        Ok(())
    }

    /// Stops a container: its stop signal, then KILL after the grace period. A missing container is stopped.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let message = cri::StopContainerRequest { container_id: id.to_owned(), timeout: seconds };
        let request = self.request_within(message, self.timeout + grace);
        match self.runtime.clone().stop_container(request).await.map_err(RuntimeError::from) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Changes the cgroup of a running container.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn update_resources(
        &self,
        id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        let request = self.request(cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        });
        self.runtime.clone().update_container_resources(request).await?;
        Ok(())
    }

    /// Tells the runtime what a pod may have from now on; one that does not care need not.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn update_sandbox(
        &self,
        message: cri::UpdatePodSandboxResourcesRequest,
    ) -> Result<(), RuntimeError> {
        let answer = self.runtime.clone().update_pod_sandbox_resources(self.request(message)).await;
        match answer.map_err(RuntimeError::from) {
            Err(error) if !error.is_unimplemented() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a container that does not run.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = self.request(cri::RemoveContainerRequest { container_id: id.to_owned() });
        self.runtime.clone().remove_container(request).await?;
        Ok(())
    }

    /// Makes the runtime open a new log file after the old one was renamed.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let request = self.request(cri::ReopenContainerLogRequest { container_id: id.to_owned() });
        self.runtime.clone().reopen_container_log(request).await?;
        Ok(())
    }

    /// Writes the state of a running container to a file of the node, within so many seconds; 0 is the usual deadline.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn checkpoint(&self, id: &str, location: &str, timeout: i64) -> Result<(), RuntimeError> {
        let message = cri::CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: location.to_owned(),
            timeout,
        };
        let more = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
        let request = self.request_within(message, self.timeout + more);
        self.runtime.clone().checkpoint_container(request).await?;
        Ok(())
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// When the call fails; a command that ends non-zero is an answer, not an error.
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<cri::ExecSyncResponse, RuntimeError> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let message =
            cri::ExecSyncRequest { container_id: id.to_owned(), cmd: cmd.to_vec(), timeout: seconds };
        let request = self.request_within(message, self.timeout + timeout);
        Ok(self.runtime.clone().exec_sync(request).await?.into_inner())
    }

    /// Address of a stream for running a command.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn exec(&self, request: cri::ExecRequest) -> Result<String, RuntimeError> {
        Ok(self.runtime.clone().exec(self.request(request)).await?.into_inner().url)
    }

    /// Address of a stream attached to a container.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn attach(&self, request: cri::AttachRequest) -> Result<String, RuntimeError> {
        Ok(self.runtime.clone().attach(self.request(request)).await?.into_inner().url)
    }

    /// Address of a stream that forwards ports of a sandbox.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn port_forward(&self, sandbox: &str, port: Vec<i32>) -> Result<String, RuntimeError> {
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port };
        Ok(self.runtime.clone().port_forward(self.request(request)).await?.into_inner().url)
    }

    /// What happens to containers, from now on.
    ///
    /// # Errors
    /// When the call fails, as with runtimes that do not tell.
    pub async fn events(&self) -> Result<tonic::Streaming<cri::ContainerEventResponse>, RuntimeError> {
        let request = tonic::Request::new(cri::GetEventsRequest::default());
        Ok(self.runtime.clone().get_container_events(request).await?.into_inner())
    }

    // === what there is ===

    /// Every sandbox and container the kubelet made, without details.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn glimpse(&self) -> Result<Vec<Glimpse>, RuntimeError> {
        let (sandboxes, containers) =
            (cri::ListPodSandboxRequest::default(), cri::ListContainersRequest::default());
        let listed: lines::Sandboxes = self.lists.get(&listing::SANDBOXES, sandboxes).await?;
        let mut all: Vec<Glimpse> = listed.glimpses().collect();
        let listed: lines::Containers = self.lists.get(&listing::CONTAINERS, containers).await?;
        all.extend(listed.glimpses());
        Ok(all)
    }

    /// Everything of one pod, with details, newest first.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn pod(&self, uid: &str) -> Result<PodRuntime, RuntimeError> {
        let (sandboxes, containers) = try_join(self.sandboxes_of(uid), self.containers_of(uid)).await?;
        Ok(PodRuntime::of(sandboxes, containers))
    }

    /// What [`Self::pod`] saw and what was made since, as it is now: without listing again. `made` is the sandbox that is
    /// used and the containers started in it.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn pod_again(
        &self,
        before: &PodRuntime,
        made: (&Sandbox, &[String]),
    ) -> Result<PodRuntime, RuntimeError> {
        let (current, started) = made;
        // Those that were there may have been stopped; the current one has only just been looked at.
        let others = before.sandboxes.iter().map(|s| &*s.id).filter(|id| **id != *current.id);
        let records = before.containers.iter().map(|c| (&*c.id, &*c.sandbox_id));
        let started = started.iter().map(|id| (id.as_str(), &*current.id));
        let (mut sandboxes, containers) =
            try_join(self.sandboxes(others), self.containers(records.chain(started))).await?;
        sandboxes.push(current.clone());
        Ok(PodRuntime::of(sandboxes, containers))
    }

    async fn sandboxes_of(&self, uid: &str) -> Result<Vec<Sandbox>, RuntimeError> {
        let selector = HashMap::from([(observed::POD_UID.to_owned(), uid.to_owned())]);
        let filter = cri::PodSandboxFilter { label_selector: selector, ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let listed: cri::ListPodSandboxResponse = self.lists.get(&listing::SANDBOXES, request).await?;
        self.sandboxes(listed.items.iter().map(|item| item.id.as_str())).await
    }

    async fn sandboxes(&self, ids: impl Iterator<Item = &str>) -> Result<Vec<Sandbox>, RuntimeError> {
        let details = ids.map(|id| async { found(self.sandbox_status(id).await.map(to_sandbox)) });
        Ok(try_join_all(details).await?.into_iter().flatten().collect())
    }

    async fn containers_of(&self, uid: &str) -> Result<Vec<ContainerRecord>, RuntimeError> {
        let selector = HashMap::from([(observed::POD_UID.to_owned(), uid.to_owned())]);
        let filter = cri::ContainerFilter { label_selector: selector, ..Default::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let listed: cri::ListContainersResponse = self.lists.get(&listing::CONTAINERS, request).await?;
        self.containers(listed.containers.iter().map(|c| (c.id.as_str(), c.pod_sandbox_id.as_str()))).await
    }

    async fn containers(
        &self,
        ids: impl Iterator<Item = (&str, &str)>,
    ) -> Result<Vec<ContainerRecord>, RuntimeError> {
        let details = ids.map(|(id, sandbox)| async {
            found(self.container_status(id).await.map(|status| to_record(status, sandbox)))
        });
        Ok(try_join_all(details).await?.into_iter().flatten().collect())
    }

    /// One sandbox.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn sandbox(&self, id: &str) -> Result<Sandbox, RuntimeError> {
        self.sandbox_status(id).await.map(to_sandbox)
    }

    async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus, RuntimeError> {
        let request =
            self.request(cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false });
        let answer = self.runtime.clone().pod_sandbox_status(request).await?.into_inner();
        answer.status.ok_or(RuntimeError::Incomplete("the sandbox's status"))
    }

    /// One container.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus, RuntimeError> {
        let request =
            self.request(cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false });
        let answer = self.runtime.clone().container_status(request).await?.into_inner();
        answer.status.ok_or(RuntimeError::Incomplete("the container's status"))
    }

    /// Cpu, memory and disk use of all containers.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn stats(&self) -> Result<Vec<cri::ContainerStats>, RuntimeError> {
        let request = cri::ListContainerStatsRequest::default();
        let listed: cri::ListContainerStatsResponse = self.lists.get(&listing::STATS, request).await?;
        Ok(listed.stats)
    }

    // === images ===

    /// The image, if the runtime has it.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn image(&self, name: &str) -> Result<Option<cri::Image>, RuntimeError> {
        let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
        let request = self.request(cri::ImageStatusRequest { image, verbose: false });
        Ok(self.images.clone().image_status(request).await?.into_inner().image)
    }

    /// All images.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn list_images(&self) -> Result<Vec<cri::Image>, RuntimeError> {
        let request = cri::ListImagesRequest::default();
        let listed: cri::ListImagesResponse = self.image_lists.get(&listing::IMAGES, request).await?;
        Ok(listed.images)
    }

    /// Ids of the images that containers use.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn images_in_use(&self) -> Result<HashSet<String>, RuntimeError> {
        let request = cri::ListContainersRequest::default();
        let listed: cri::ListContainersResponse = self.lists.get(&listing::CONTAINERS, request).await?;
        Ok(listed.containers.into_iter().map(|c| c.image_ref).collect())
    }

    /// Pulls an image; no deadline, since a large one takes its time.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn pull(
        &self,
        name: &str,
        auth: Option<cri::AuthConfig>,
        sandbox: cri::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
        let request =
            tonic::Request::new(cri::PullImageRequest { image, auth, sandbox_config: Some(sandbox) });
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    /// Removes an image.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn remove_image(&self, id: &str) -> Result<(), RuntimeError> {
        let image = Some(cri::ImageSpec { image: id.to_owned(), ..Default::default() });
        self.images.clone().remove_image(self.request(cri::RemoveImageRequest { image })).await?;
        Ok(())
    }

    /// Where images live and how much they take.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn image_filesystems(&self) -> Result<Vec<cri::FilesystemUsage>, RuntimeError> {
        let request = self.request(cri::ImageFsInfoRequest::default());
        Ok(self.images.clone().image_fs_info(request).await?.into_inner().image_filesystems)
    }
}

/// A connection to a socket.
fn channel(endpoint: &str) -> Result<Measured, RuntimeError> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if !path.starts_with('/') {
        return Err(RuntimeError::Endpoint(endpoint.to_owned()));
    }
    let path = PathBuf::from(path);
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
    Ok(Measured::new(channel))
}

fn to_sandbox(status: cri::PodSandboxStatus) -> Sandbox {
    let network = status.network.unwrap_or_default();
    let mut ips: Vec<String> = Some(network.ip).filter(|ip| !ip.is_empty()).into_iter().collect();
    ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    Sandbox {
        id: Arc::from(status.id),
        ready: status.state == cri::PodSandboxState::SandboxReady as i32,
        created_at: instant(status.created_at),
        attempt: status.metadata.map_or(0, |m| m.attempt),
        ips,
        host_network: options.is_some_and(|o| o.network == cri::NamespaceMode::Node as i32),
    }
}

fn to_record(status: cri::ContainerStatus, sandbox: &str) -> ContainerRecord {
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str);
    let attempt = status.metadata.as_ref().map_or(0, |m| m.attempt);
    let phase = match cri::ContainerState::try_from(status.state) {
        Ok(cri::ContainerState::ContainerCreated) => ContainerPhase::Created,
        Ok(cri::ContainerState::ContainerRunning) => ContainerPhase::Running,
        Ok(cri::ContainerState::ContainerExited) => ContainerPhase::Exited,
        _ => ContainerPhase::Unknown,
    };
    let message = match phase {
        ContainerPhase::Exited => termination::message(&status),
        _ => status.message.clone(),
    };
    ContainerRecord {
        name: status.labels.get(observed::CONTAINER_NAME).cloned().unwrap_or_default(),
        sandbox_id: Arc::from(sandbox),
        phase,
        created_at: instant(status.created_at),
        started_at: (status.started_at > 0).then(|| instant(status.started_at)),
        finished_at: (status.finished_at > 0).then(|| instant(status.finished_at)),
        exit_code: status.exit_code,
        message,
        image: image_name(&status),
        image_id: if status.image_ref.is_empty() {
            status.image_id.clone()
        } else {
            status.image_ref.clone()
        },
        hash: annotation(observed::CONTAINER_HASH).and_then(|h| u64::from_str_radix(h, 16).ok()),
        restart_count: annotation(observed::RESTART_COUNT).and_then(|c| c.parse().ok()).unwrap_or(attempt),
        reason: status.reason,
        limits: status.resources.as_ref().and_then(|r| r.linux.as_ref()).map(limits),
        memory_request: annotation(observed::RESOURCES).and_then(memory_request),
        stop_signal: cri::Signal::try_from(status.stop_signal)
            .ok()
            .filter(|signal| *signal != cri::Signal::RuntimeDefault)
            .map(|signal| signal.as_str_name()),
        images: status.mounts.into_iter().filter_map(mounted_image).collect(),
        user: status.user.and_then(|u| u.linux).map(|u| (u.uid, u.gid, u.supplemental_groups)),
        log_path: status.log_path,
        id: Arc::from(status.id),
    }
}

/// What the runtime says it set; zero and below is no setting.
fn limits(resources: &cri::LinuxContainerResources) -> CgroupLimits {
    let set = |value: i64| Some(value).filter(|v| *v > 0);
    CgroupLimits {
        cpu_shares: set(resources.cpu_shares),
        cpu_quota: set(resources.cpu_quota),
        cpu_period: set(resources.cpu_period),
        memory_limit: set(resources.memory_limit_in_bytes),
        ..CgroupLimits::default()
    }
}

/// Bytes of memory in the annotation of resources; one that does not read counts as unknown.
fn memory_request(text: &str) -> Option<i64> {
    let made: ResourceRequirements = serde_json::from_str(text).ok()?;
    Some(resources::amount(made.requests.as_ref(), resources::MEMORY).unwrap_or(0) / 1000)
}

/// Where an image is mounted, and which one.
fn mounted_image(mount: cri::Mount) -> Option<(String, String)> {
    let image = mount.image.map(|spec| spec.image).filter(|image| !image.is_empty())?;
    Some((mount.container_path, image))
}

fn image_name(status: &cri::ContainerStatus) -> String {
    let image = status.image.clone().unwrap_or_default();
    if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image }
}

/// Nanoseconds since 1970 as an instant; what is out of range reads as 1970.
fn instant(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_without_a_call_say_so_in_their_own_ways() {
        use tonic::Code::{Internal, Unimplemented, Unknown};
        for (code, message, expected) in [
            // containerd 1.6, which does not know the method.
            (
                Unimplemented,
                "unknown method UpdatePodSandboxResources for service runtime.v1.RuntimeService",
                true,
            ),
            // containerd 2.2.
            (Unknown, "not implemented yet", true),
            (Unknown, "failed to update the sandbox: no memory", false),
            (Internal, "not implemented yet", false),
        ] {
            let error = RuntimeError::Call { code, message: message.to_owned() };
            assert_eq!(error.is_unimplemented(), expected, "{message}");
        }
    }

    fn status(of: impl FnOnce(&mut cri::ContainerStatus)) -> cri::ContainerStatus {
        let mut status = cri::ContainerStatus {
            id: "1".into(),
            metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 2 }),
            labels: [(observed::CONTAINER_NAME.to_owned(), "c".to_owned())].into(),
            created_at: 1_700_000_000_000_000_000,
            started_at: 1_700_000_001_000_000_000,
            ..Default::default()
        };
        of(&mut status);
        status
    }

    #[test]
    fn containers_read_as_runtimes_tell_them() {
        // containerd 1.6: the image by its tag, its reference by digest; nothing of resources, user or signal.
        let old = to_record(
            status(|s| {
                s.state = cri::ContainerState::ContainerExited as i32;
                s.image = Some(cri::ImageSpec {
                    image: "docker.io/library/busybox:1".into(),
                    ..Default::default()
                });
                s.image_ref = "docker.io/library/busybox@sha256:77".into();
                (s.exit_code, s.finished_at) = (137, 1_700_000_002_000_000_000);
                s.reason = "OOMKilled".into();
            }),
            "s",
        );
        assert_eq!(
            (old.phase, old.exit_code, old.reason.as_str()),
            (ContainerPhase::Exited, 137, "OOMKilled")
        );
        assert_eq!(
            (old.image.as_str(), old.image_id.as_str()),
            ("docker.io/library/busybox:1", "docker.io/library/busybox@sha256:77")
        );
        assert_eq!((old.limits, old.user, old.stop_signal, old.restart_count), (None, None, None, 2));
        assert_eq!(old.finished_at.map(|at| at.as_second()), Some(1_700_000_002));
        // containerd 2: what was asked for beside what that was, limits with unlimited as -1, who it runs as, how it ends,
        // and images that are mounted.
        let new = to_record(
            status(|s| {
                s.state = cri::ContainerState::ContainerRunning as i32;
                let image = "sha256:42".to_owned();
                let user_specified_image = "busybox:1".to_owned();
                s.image = Some(cri::ImageSpec { image, user_specified_image, ..Default::default() });
                (s.image_ref, s.image_id) =
                    ("docker.io/library/busybox@sha256:77".into(), "sha256:42".into());
                let linux = cri::LinuxContainerResources {
                    cpu_shares: 102,
                    cpu_period: 100_000,
                    cpu_quota: -1,
                    memory_limit_in_bytes: 64 << 20,
                    ..Default::default()
                };
                s.resources = Some(cri::ContainerResources { linux: Some(linux) });
                let linux =
                    cri::LinuxContainerUser { uid: 1000, gid: 3000, supplemental_groups: vec![3000, 4000] };
                s.user = Some(cri::ContainerUser { linux: Some(linux) });
                s.stop_signal = cri::Signal::Sigusr1 as i32;
                let image = Some(cri::ImageSpec { image: "sha256:9".into(), ..Default::default() });
                let container_path = "/v".to_owned();
                s.mounts =
                    vec![cri::Mount { container_path, image, ..Default::default() }, cri::Mount::default()];
            }),
            "s",
        );
        assert_eq!((new.phase, new.image.as_str()), (ContainerPhase::Running, "busybox:1"));
        let limits = new.limits.unwrap();
        assert_eq!(
            (limits.cpu_shares, limits.cpu_quota, limits.memory_limit),
            (Some(102), None, Some(64 << 20))
        );
        assert_eq!((new.user, new.stop_signal), (Some((1000, 3000, vec![3000, 4000])), Some("SIGUSR1")));
        assert_eq!(new.images, [("/v".to_owned(), "sha256:9".to_owned())].into());
        assert_eq!((new.finished_at, new.exit_code), (None, 0));
        // CRI-O: the id alone as reference, and containers that it has lost.
        let lost = to_record(
            status(|s| {
                s.state = cri::ContainerState::ContainerUnknown as i32;
                s.image_id = "42".into();
            }),
            "s",
        );
        assert_eq!(
            (lost.phase, lost.image_id.as_str(), lost.image.as_str()),
            (ContainerPhase::Unknown, "42", "")
        );
    }

    #[test]
    fn sandboxes_read_as_runtimes_tell_them() {
        let of = |network: cri::NamespaceMode, ips: &[&str]| {
            let options = cri::NamespaceOption { network: network as i32, ..Default::default() };
            let namespaces = Some(cri::Namespace { options: Some(options) });
            let more = ips.iter().skip(1).map(|ip| cri::PodIp { ip: (*ip).to_owned() }).collect();
            to_sandbox(cri::PodSandboxStatus {
                id: "s".into(),
                metadata: Some(cri::PodSandboxMetadata { attempt: 3, ..Default::default() }),
                state: cri::PodSandboxState::SandboxReady as i32,
                network: Some(cri::PodSandboxNetworkStatus {
                    ip: ips.first().copied().unwrap_or_default().to_owned(),
                    additional_ips: more,
                }),
                linux: Some(cri::LinuxPodSandboxStatus { namespaces }),
                ..Default::default()
            })
        };
        let two = of(cri::NamespaceMode::Pod, &["10.0.0.1", "fd00::1"]);
        assert_eq!(
            (two.ips, two.attempt, two.ready, two.host_network),
            (vec!["10.0.0.1".into(), "fd00::1".into()], 3, true, false)
        );
        let host = of(cri::NamespaceMode::Node, &[]);
        assert!(host.ips.is_empty() && host.host_network);
        let dead = to_sandbox(cri::PodSandboxStatus { state: 1, ..Default::default() });
        assert!(!dead.ready && dead.ips.is_empty() && !dead.host_network);
    }
}
