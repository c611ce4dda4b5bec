//! Carrying out a plan: folders, cgroup and volumes; the sandbox; kills; starts, one after the other.
//!
//! Every step may fail and is then tried again by a later round, which begins with a fresh look at the runtime; so
//! nothing here needs to be undone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::{features::Gate, traces};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret};

use super::{RETRY, Worker, later, plan};
use crate::{
    claims::ClaimError,
    devices::DeviceError,
    env::{self, EnvError, NodeFacts, Objects},
    events::{Severity, container_reference, node_reference},
    images, lifecycle, metrics,
    network::{dns, hosts},
    pod::{
        self, Role,
        resources::{self, CgroupLimits},
    },
    runtime::{
        Runtime, RuntimeError,
        config::{self, NodeSettings, Prepared},
        cri, logs,
        observed::{PodRuntime, Sandbox},
        security::SecurityError,
    },
    status::generate::{Verdict, Waiting},
    userns::UserNamespaceError,
    volume::{self, Mounted, VolumeError},
};

/// Why a container could not be started; the waiting reason and text come from it.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Environment(#[from] EnvError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoVolume(String),
    #[error("services have not yet been read at least once, cannot construct envvars")]
    ServicesUnknown,
    #[error(transparent)]
    Fetch(#[from] crate::api::FetchError),
    #[error("internal PreStartContainer hook failed: {0}")]
    Devices(#[from] DeviceError),
    #[error("failed to get resources of claims: {0}")]
    Claims(#[from] ClaimError),
    #[error("{0}")]
    Create(RuntimeError),
    #[error("{0}")]
    Start(RuntimeError),
}

impl StartError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Create(_) => "CreateContainerError",
            Self::Start(_) => "RunContainerError",
            Self::Devices(_) => "PreStartHookError",
            _ => "CreateContainerConfigError",
        }
    }
}

/// Objects fetched for one container's environment.
#[derive(Default)]
struct Fetched {
    config_maps: BTreeMap<String, Arc<ConfigMap>>,
    secrets: BTreeMap<String, Arc<Secret>>,
    /// Files of variables, by volume and path.
    files: BTreeMap<(String, String), String>,
}

impl Objects for Fetched {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps.get(name).map(AsRef::as_ref)
    }
    fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name).map(AsRef::as_ref)
    }
    fn file(&self, volume: &str, path: &str) -> Option<&str> {
        self.files.get(&(volume.to_owned(), path.to_owned())).map(String::as_str)
    }
}

/// The sandbox containers go into.
struct Place {
    sandbox: Sandbox,
    config: cri::PodSandboxConfig,
}

/// What is there before a container starts.
#[derive(Clone, Copy)]
struct Supplies<'a> {
    mounted: &'a BTreeMap<String, Mounted>,
    secrets: &'a [Arc<Secret>],
    /// Its image, if that has just been looked for.
    seen: Option<&'a cri::Image>,
}

/// What a container mounts: its pod's volumes, and the ids of images by the name of their volume.
#[derive(Clone, Copy)]
struct Files<'a> {
    mounted: &'a BTreeMap<String, Mounted>,
    images: &'a BTreeMap<String, String>,
}

impl Worker {
    /// Carries out the plan and keeps volumes fresh. Answers when a failed step is to be tried again.
    pub(super) async fn carry_out(
        &mut self,
        pod: &Arc<Pod>,
        runtime: &PodRuntime,
        plan: &plan::Plan,
    ) -> Option<Timestamp> {
        if !plan.reset.is_empty() {
            return self.reset_all(pod, &plan.reset).await;
        }
        if !pod::host_network(pod)
            && let Some(why) = self.network_fault()
        {
            self.failed(pod, "NetworkNotReady", &format!("network is not ready: {why}"));
            return self.retry();
        }
        if let Err(error) = self.prepare_node(pod, !plan.resize.is_empty()).await {
            self.failed(pod, error.0, &error.1);
            return self.retry();
        }
        let sandbox = runtime.current_sandbox(pod).map(|sandbox| Arc::clone(&sandbox.id));
        let resized = self.resize_all(pod, sandbox.as_deref(), &plan.resize).await;
        for kill in &plan.kill {
            self.kill_one(pod, runtime, kill).await;
        }
        let stale = self.set_up_volumes(pod, runtime).await;
        if self.rejected {
            return None;
        }
        let names = pod::spec(pod).volumes.iter().flatten().map(|volume| volume.name.as_str());
        let Some(mounted) = self.volumes.all(names) else { return stale.or_else(|| self.retry()) };
        let next = self.fill_pod(pod, runtime, plan, &mounted, resized).await;
        [next, stale].into_iter().flatten().min()
    }

    /// Makes the sandbox and starts containers, with the pod's volumes there.
    async fn fill_pod(
        &mut self,
        pod: &Arc<Pod>,
        runtime: &PodRuntime,
        plan: &plan::Plan,
        mounted: &BTreeMap<String, Mounted>,
        resized: bool,
    ) -> Option<Timestamp> {
        if let Some(since) = self.awaits_volumes.take() {
            volume::count_wait(pod, &self.pod_dir(pod), since);
        }
        if plan.sandbox.is_none() && plan.start.is_empty() {
            if !resized {
                return self.retry();
            }
            self.failures = 0;
            return None;
        }
        let _turn = match plan.sandbox {
            Some(_) => Some(self.shared.turns.wait().await),
            None => None,
        };
        let mut image = None;
        let place = match plan.sandbox {
            Some(attempt) => {
                let look = look_ahead(self.shared.runtime.clone(), pod, plan);
                let (place, seen) = tokio::join!(self.new_place(pod, runtime, attempt), look);
                image = seen;
                place
            }
            None => self.current_place(pod, runtime),
        };
        let Some(place) = place else { return self.retry() };
        self.failures = 0;
        self.made = Some((place.sandbox.clone(), vec![]));
        self.start_all(pod, plan, &place, mounted, image).await
    }

    /// As long as upstream waits for volumes before it looks why they do not come.
    fn has_waited_for_volumes(&self) -> bool {
        let since = self.status.as_ref().and_then(|status| status.start_time.as_ref());
        since.is_some_and(|since| waited_enough(since.0, Timestamp::now()))
    }

    /// The node can attach no more volumes: the pod has failed, so that another one may go elsewhere.
    fn refuse_for_volumes(&mut self, pod: &Pod, volume: &str, why: &str) {
        let reason = "VolumeAttachmentLimitExceeded";
        let message = format!(
            "Node has reached its volume attachment limit, rejecting pod. unmounted volumes=[{volume}], \
             unattached volumes=[{volume}], failed to process volumes=[]: {why}"
        );
        self.event(pod, Severity::Warning, reason, &message);
        metrics::get().admission_rejections.with_label_values(&[reason]).inc();
        let message = format!("Pod was rejected: {message}");
        self.verdict = Some(Verdict { reason: reason.to_owned(), message, disrupted: false });
        self.rejected = true;
    }

    /// Takes the instances away; the next round, which is due at once, starts all containers anew.
    async fn reset_all(&mut self, pod: &Pod, list: &[plan::Reset]) -> Option<Timestamp> {
        for one in list {
            if one.running {
                self.container_event(pod, &one.name, Severity::Normal, "Killing", "killing");
            }
            let gone = async {
                if one.running {
                    self.shared.runtime.stop_container(&one.id, Duration::ZERO).await?;
                }
                self.shared.runtime.remove_container(&one.id).await
            };
            if let Err(error) = gone.await {
                let name = &one.name;
                tracing::warn!(pod = %pod::display(pod), container = name, %error, "cannot take the container away");
                traces::fail(|| error.to_string());
                return self.retry();
            }
        }
        Some(Timestamp::now())
    }

    /// Why the node's network does not work.
    fn network_fault(&self) -> Option<String> {
        self.shared.network_ready.borrow().clone()
    }

    async fn start_all(
        &mut self,
        pod: &Arc<Pod>,
        plan: &plan::Plan,
        place: &Place,
        mounted: &BTreeMap<String, Mounted>,
        mut first_image: Option<cri::Image>,
    ) -> Option<Timestamp> {
        let secrets = self.pull_secrets(pod).await;
        let mut retry = None;
        for start in &plan.start {
            let Some(container) = pod::container(pod, start.role) else { continue };
            let seen = first_image.take();
            let supplies = Supplies { mounted, secrets: &secrets, seen: seen.as_ref() };
            let failed = self.start(pod, start, &container, place, supplies).await;
            if let Some(at) = failed {
                retry = Some(retry.map_or(at, |r: Timestamp| r.min(at)));
                if matches!(start.role, Role::Init(_)) {
                    break;
                }
            }
        }
        retry
    }

    /// Folders and cgroup. Around a resize the pod's cgroup has the larger of what it had and what it is to have, so
    /// that containers grow into it and shrink out of it.
    async fn prepare_node(&self, pod: &Pod, resizing: bool) -> Result<(), (&'static str, String)> {
        if let Some(cgroups) = &self.shared.cgroups {
            let path = cgroups.pod(pod);
            let mut limits = self.pod_limits(pod);
            if resizing {
                limits = limits.larger(&cgroups.limits(&path));
            }
            let made = cgroups.ensure(&path, &limits).await;
            let huge_pages = resources::huge_pages(Some(&resources::all_requests(pod)));
            made.and_then(|()| cgroups.limit_huge_pages(&path, &huge_pages)).map_err(|error| {
                ("FailedCreatePodContainer", format!("unable to ensure pod container exists: {error}"))
            })?;
        }
        let dir = self.pod_dir(pod);
        let logs = config::pod_log_dir(&self.shared.settings.log_root, pod);
        for folder in [dir.join("volumes"), dir.join("containers"), logs] {
            fs::create_dir_all(&folder)
                .map_err(|error| ("Failed", format!("error making pod data directories: {error}")))?;
        }
        // Containers of the pod run as any user; what they may see is mounted into them, not found by path.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750))
            .map_err(|error| ("Failed", format!("error making pod data directories: {error}")))
    }

    /// The node's settings with this period of cpu limits.
    fn settings(&self, cfs_period: Option<i64>) -> NodeSettings {
        NodeSettings { cfs_period, ..self.shared.settings.clone() }
    }

    fn pod_limits(&self, pod: &Pod) -> CgroupLimits {
        let settings = &self.shared.settings;
        let mut limits = resources::pod_limits(pod, self.quotas(pod).of_pod(), self.shared.pod_pids);
        if let Some(memory) = &settings.memory_qos {
            memory.protect(pod, &mut limits);
        }
        limits
    }

    /// Resizes containers where they run, then fits the pod's cgroup to them. Answers whether all of it was done.
    async fn resize_all(&mut self, pod: &Pod, sandbox: Option<&str>, list: &[plan::Resize]) -> bool {
        if list.is_empty() {
            return true;
        }
        let (mut failed, begun) = (None, Instant::now());
        if let Some(sandbox) = sandbox {
            let message = config::sandbox_update(pod, sandbox, self.quotas(pod).of_pod());
            let told = self.shared.runtime.update_sandbox(message).await;
            failed = told.err().map(|error| format!("the runtime refuses the pod's resources: {error}"));
        }
        // A runtime that refuses keeps all as it was.
        let list = if failed.is_some() { &[] } else { list };
        for resize in list {
            if let Err(text) = self.resize_one(pod, resize).await {
                failed.get_or_insert(text);
            }
        }
        if let (None, Some(cgroups)) = (&failed, &self.shared.cgroups)
            && let Err(error) = cgroups.set(&cgroups.pod(pod), &self.pod_limits(pod)).await
        {
            failed = Some(error.to_string());
        }
        if let Some(text) = &failed
            && self.resize_error.as_ref() != Some(text)
        {
            let message = super::resize_text(pod, "Pod resize error", Some(text));
            self.event(pod, Severity::Warning, "ResizeError", &message);
        }
        self.resize_error = failed;
        let success = self.resize_error.is_none();
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        let label = if success { "true" } else { "false" };
        metrics::get().resize_duration.with_label_values(&[label]).observe(took);
        success
    }

    async fn resize_one(&self, pod: &Pod, resize: &plan::Resize) -> Result<(), String> {
        let shrinks = match (resize.from.memory_limit, resize.to.memory_limit) {
            (Some(before), Some(after)) => after < before,
            (before, after) => before.is_none() && after.is_some(),
        };
        // The kernel would take what is too much from the container by killing it.
        if let (true, Some(limit), Some(cgroups)) = (shrinks, resize.to.memory_limit, &self.shared.cgroups)
            && let Some(usage) = cgroups.memory_usage(&cgroups.container(pod, &resize.id))
            && usage >= limit
        {
            return Err(format!(
                "attempting to set container {:?} memory limit ({limit}) below current usage ({usage})",
                resize.name
            ));
        }
        let mut limits = config::to_cri(&resize.to);
        // Where swap is counted with memory, its limit moves along, whether the kernel tells of it or not.
        if !self.shared.settings.cgroup_v2 {
            limits.memory_swap_limit_in_bytes = limits.memory_limit_in_bytes;
        }
        let container = pod::container_named(pod, &resize.name);
        if let (Some(swap), Some((_, container))) = (self.shared.settings.swap, container) {
            swap.apply(pod, &container, &mut limits);
        }
        if let (Some(memory), Some((_, container))) =
            (self.shared.settings.memory_qos, pod::container_named(pod, &resize.name))
        {
            memory.apply(pod, &container, &mut limits);
        }
        // Without a quota, one that is there is lifted.
        if resize.to.cpu_quota.is_none() && resize.from.cpu_quota.is_some() {
            limits.cpu_quota = -1;
        }
        self.shared
            .runtime
            .update_resources(&resize.id, limits)
            .await
            .map_err(|error| format!("updating container {:?}: {error}", resize.name))
    }

    /// Sets up volumes, or brings them up to date. Answers when one that failed is due again.
    async fn set_up_volumes(&mut self, pod: &Arc<Pod>, runtime: &PodRuntime) -> Option<Timestamp> {
        let node = self.facts(pod, runtime.sandboxes.iter().find(|s| s.ready).map(|s| s.ips.clone()));
        let dir = self.pod_dir(pod);
        let shared = Arc::clone(&self.shared);
        let context = volume::Context {
            pod,
            objects: &*shared.objects,
            node: &node,
            pod_dir: &dir,
            csi: &shared.csi,
            certificates: shared.certificates.as_ref(),
            trust_bundles: shared.gates.has(Gate::ClusterTrustBundleProjection),
            now: Timestamp::now(),
        };
        let failed = volume::set_up(&context, &mut self.volumes).await;
        let devices = if failed.is_empty() { BTreeSet::new() } else { volume::devices(pod) };
        for (name, error) in &failed {
            if let Some(why) = error.exhausted().filter(|_| self.has_waited_for_volumes()) {
                self.refuse_for_volumes(pod, name, why);
                return None;
            }
            match error.event(name, &devices) {
                Some((reason, message)) => self.failed(pod, reason, &message),
                None => traces::fail(|| error.to_string()),
            }
        }
        self.volumes.next_due()
    }

    fn facts(&self, pod: &Pod, ips: Option<Vec<String>>) -> NodeFacts {
        let node = &self.shared.node.ips;
        let own = || pod::preferred_ips(&ips.unwrap_or_default(), node);
        let pod_ips = if pod::host_network(pod) { node.clone() } else { own() };
        let mut facts = NodeFacts { pod_ips, ..self.shared.node.clone() };
        let has = |name| self.shared.allocations.allocatable(name);
        facts.allocatable_milli_cpu = has(resources::CPU).unwrap_or(facts.allocatable_milli_cpu);
        facts.allocatable_memory =
            has(resources::MEMORY).map_or(facts.allocatable_memory, |milli| milli / 1000);
        facts.allocatable_disk =
            has("ephemeral-storage").map_or(facts.allocatable_disk, |milli| milli / 1000);
        facts
    }

    // === sandbox ===

    fn sandbox_config(&self, pod: &Pod, attempt: u32) -> Result<cri::PodSandboxConfig, SecurityError> {
        let (resolver, warnings) = dns::config(pod, &self.shared.dns, &self.shared.dns.host());
        for (reason, text) in warnings {
            let mut of_pod = text.clone();
            if reason == dns::MISSING {
                of_pod = format!("pod: {:?}. {text}", pod::display(pod));
                let node = node_reference(&self.shared.node.name);
                self.shared.events.send(node, Severity::Warning, reason, &text);
            }
            self.event(pod, Severity::Warning, reason, &of_pod);
        }
        let names = hosts::Names::new(&self.shared.dns.cluster_domain, self.shared.gates);
        let name = hosts::node_name(pod, names)?;
        let parent = self.shared.cgroups.as_ref().map(|c| c.pod(pod)).unwrap_or_default();
        let users = self.users(pod)?;
        let settings = self.settings(self.quotas(pod).of_pod());
        config::sandbox(pod, attempt, &name, Some(resolver), &parent, &settings, users.as_ref())
    }

    /// The pod's user namespace, where it has one of its own.
    fn users(&self, pod: &Pod) -> Result<Option<cri::UserNamespace>, SecurityError> {
        if pod::spec(pod).host_users != Some(false) {
            return Ok(None);
        }
        let fail = |error: UserNamespaceError| SecurityError::UserNamespace(error.to_string());
        if !self.features.is_some_and(|f| f.user_namespaces) {
            return Err(fail(match pod::spec(pod).runtime_class_name.clone().filter(|n| !n.is_empty()) {
                None => UserNamespaceError::Runtime,
                Some(class) => UserNamespaceError::Handler(class),
            }));
        }
        self.shared.users.of(pod::uid(pod)).map(Some).map_err(fail)
    }

    /// The runtime handler of the pod's class.
    pub(super) async fn handler(&self, pod: &Pod) -> Result<String, String> {
        match pod::spec(pod).runtime_class_name.as_deref().filter(|n| !n.is_empty()) {
            None => Ok(String::new()),
            Some(name) => match self.shared.objects.runtime_class(name).await {
                Ok(Some(class)) => Ok(class.handler.clone()),
                Ok(None) => Err(format!("RuntimeClass {name:?} not found")),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// What a handler can do; nothing, where the runtime does not tell.
    pub(super) fn features_of(&self, handler: &str) -> cri::RuntimeHandlerFeatures {
        let known = self.shared.handlers.lock();
        known.iter().find(|h| h.name == handler).and_then(|h| h.features).unwrap_or_default()
    }

    async fn new_place(&mut self, pod: &Arc<Pod>, runtime: &PodRuntime, attempt: u32) -> Option<Place> {
        if !runtime.sandboxes.is_empty() && !runtime.containers.is_empty() {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.event(pod, Severity::Normal, "SandboxChanged", text);
        }
        if let Err(error) = self.stop_everything(pod, runtime, pod_grace(pod)).await {
            self.failed(pod, "FailedKillPod", &format!("error killing pod: {error}"));
            return None;
        }
        if let Err(error) = self.shared.claims.prepare(pod).await {
            let text = format!("Failed to prepare dynamic resources: prepare dynamic resources: {error}");
            self.failed(pod, "FailedPrepareDynamicResources", &text);
            return None;
        }
        match self.make_sandbox(pod, attempt).await {
            Ok(place) => Some(place),
            Err(text) => {
                let text = format!("Failed to create pod sandbox: {text}");
                self.failed(pod, "FailedCreatePodSandBox", &text);
                None
            }
        }
    }

    async fn make_sandbox(&self, pod: &Arc<Pod>, attempt: u32) -> Result<Place, String> {
        let config = self.sandbox_config(pod, attempt).map_err(|e| e.to_string())?;
        let handler = self.handler(pod).await?;
        let (begun, metrics) = (Instant::now(), metrics::get());
        let has_users = pod::spec(pod).host_users == Some(false);
        metrics.user_namespaced.inc_by(u64::from(has_users));
        let made = self.shared.runtime.run_sandbox(config.clone(), &handler).await;
        metrics.run_sandbox.with_label_values(&[&handler]).observe(begun.elapsed().as_secs_f64());
        let id = made.map_err(|error| {
            metrics.run_sandbox_errors.with_label_values(&[&handler]).inc();
            metrics.started_pods_errors.inc();
            metrics.user_namespaced_errors.inc_by(u64::from(has_users));
            error.to_string()
        })?;
        if attempt == 0 {
            metrics.started_pods.inc();
        }
        let sandbox = self.shared.runtime.sandbox(&id).await.map_err(|e| e.to_string())?;
        Ok(Place { sandbox, config })
    }

    fn current_place(&self, pod: &Pod, runtime: &PodRuntime) -> Option<Place> {
        let sandbox = runtime.current_sandbox(pod)?;
        match self.sandbox_config(pod, sandbox.attempt) {
            Ok(config) => Some(Place { sandbox: sandbox.clone(), config }),
            Err(error) => {
                let text = format!("Failed to create pod sandbox: {error}");
                self.failed(pod, "FailedCreatePodSandBox", &text);
                None
            }
        }
    }

    // === containers ===

    /// Secrets for pulling; one that is missing is told and left out.
    async fn pull_secrets(&self, pod: &Pod) -> Vec<Arc<Secret>> {
        let mut secrets = Vec::new();
        let mut missing = Vec::new();
        for reference in pod::spec(pod).image_pull_secrets.iter().flatten() {
            match self.shared.objects.secret(pod::namespace(pod), &reference.name).await {
                Ok(Some(secret)) => secrets.push(secret),
                _ => missing.push(reference.name.clone()),
            }
        }
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.event(pod, Severity::Warning, "FailedToRetrieveImagePullSecret", &text);
        }
        secrets
    }

    /// Starts one container. Answers when to try again if that failed.
    async fn start(
        &mut self,
        pod: &Arc<Pod>,
        start: &plan::Start,
        container: &Container,
        place: &Place,
        supplies: Supplies<'_>,
    ) -> Option<Timestamp> {
        let now = Timestamp::now();
        let about = container_reference(pod, start.role, &container.name);
        let events = Arc::clone(&self.shared.events);
        let tell = |severity: Severity, reason: &str, text: String| {
            if reason == "Failed" {
                traces::fail(|| text.clone());
            }
            events.send(about.clone(), severity, reason, &text);
        };
        let shared = Arc::clone(&self.shared);
        let providers = &shared.providers;
        let request = images::Request {
            role: start.role,
            container,
            secrets: supplies.secrets,
            providers,
            asker: images::providers::account::Asker { pod, objects: &*shared.objects },
            records: &shared.pulled,
            sandbox: &place.config,
            seen: supplies.seen,
            now,
        };
        let runtime = self.shared.runtime.clone();
        let gate = self.shared.pulls.clone();
        let image = match images::ensure(&runtime, &gate, &mut self.pulls, &request, &tell).await {
            Ok(image) => image,
            Err(missing) => {
                tell(Severity::Warning, "Failed", format!("Error: {}", missing.waiting.reason));
                self.waiting.insert(container.name.clone(), missing.waiting);
                return Some(missing.retry.unwrap_or_else(|| later(now, RETRY)));
            }
        };
        let mut images = BTreeMap::new();
        let [asked, mounted_images, failed_images] = &metrics::get().image_volumes;
        for (volume, asks) in volume::image::mounted_by(pod, container) {
            asked.inc();
            let request = images::Request { container: &asks, seen: None, ..request };
            match images::ensure(&runtime, &gate, &mut self.pulls, &request, &tell).await {
                Ok(image) => images.insert(volume, image.reference),
                Err(missing) => {
                    tell(Severity::Warning, "Failed", format!("Error: {}", missing.waiting.reason));
                    self.waiting.insert(container.name.clone(), missing.waiting);
                    return Some(missing.retry.unwrap_or_else(|| later(now, RETRY)));
                }
            };
        }
        if let Some(after) = start.after {
            self.backoffs.next(&container.name, after, now);
        }
        let kind = match start.role {
            Role::Init(_) => "init_container",
            Role::Regular(_) => "container",
            Role::Ephemeral(_) => "ephemeral_container",
        };
        metrics::get().started_containers.with_label_values(&[kind]).inc();
        let with_images = u64::try_from(images.len()).unwrap_or(u64::MAX);
        let sources = Files { mounted: supplies.mounted, images: &images };
        match self.create_and_start(pod, start, container, place, sources, image).await {
            Ok(id) => {
                self.waiting.remove(&container.name);
                mounted_images.inc_by(with_images);
                if let Some((_, started)) = &mut self.made {
                    started.push(id.clone());
                }
                self.after_start(pod, &id, container, place).await;
                None
            }
            Err(error) => {
                failed_images.inc_by(with_images);
                metrics::get().started_containers_errors.with_label_values(&[error.reason(), kind]).inc();
                tell(Severity::Warning, "Failed", format!("Error: {error}"));
                let waiting = Waiting { reason: error.reason().to_owned(), message: error.to_string() };
                self.waiting.insert(container.name.clone(), waiting);
                Some(later(now, RETRY))
            }
        }
    }

    async fn create_and_start(
        &self,
        pod: &Arc<Pod>,
        start: &plan::Start,
        container: &Container,
        place: &Place,
        files: Files<'_>,
        image: images::Image,
    ) -> Result<String, StartError> {
        let env = self.environment(pod, container, place, files.mounted).await?;
        let sources = volume::Sources {
            mounted: files.mounted,
            images: files.images,
            env: &env,
            pod_dir: &self.pod_dir(pod),
            recursive: self.features.is_some_and(|f| f.recursive_read_only_mounts),
        };
        let mut mounts = volume::container_mounts(container, &sources)?;
        self.add_own_mounts(pod, container, place, &mut mounts)?;
        let mut devices = self.shared.devices.granted(pod::uid(pod), &container.name);
        devices.nodes.extend(volume::container_devices(container, files.mounted)?);
        devices.cdi.extend(self.shared.claims.devices(pod, container)?);
        let log_dir = config::pod_log_dir(&self.shared.settings.log_root, pod);
        let folder = log_dir.join(&container.name);
        fs::create_dir_all(&folder).map_err(VolumeError::io(&folder))?;
        let restart_count = match start.restart_count {
            0 => logs::restarts(&folder),
            known => known,
        };
        let prepared = Prepared {
            restart_count,
            image_ref: image.reference,
            image_user: image.user,
            env,
            mounts,
            volume_groups: vec![],
            target: self.target(pod, start.role).await,
            users: self.users(pod)?,
            devices,
            cpus: self.shared.cpus.place(pod::uid(pod), &container.name),
            memory_nodes: self.shared.memory.place(pod::uid(pod), &container.name),
        };
        let settings = self.settings(self.quotas(pod).of(&container.name));
        let made = config::container(pod, container, &prepared, &settings)?;
        let log_path = made.log_path.clone();
        let about = container_reference(pod, start.role, &container.name);
        let runtime = &self.shared.runtime;
        let id = runtime
            .create_container(&place.sandbox.id, made, place.config.clone())
            .await
            .map_err(StartError::Create)?;
        self.shared.events.send(about.clone(), Severity::Normal, "Created", "Container created");
        self.shared.devices.before_start(pod::uid(pod), &container.name).await?;
        runtime.start_container(&id).await.map_err(StartError::Start)?;
        self.shared.events.send(about, Severity::Normal, "Started", "Container started");
        self.link_log(pod, container, &id, &log_dir.join(log_path));
        Ok(id)
    }

    /// The running container that an ephemeral one is aimed at.
    async fn target(&self, pod: &Pod, role: Role) -> Option<String> {
        let Role::Ephemeral(i) = role else { return None };
        let name = pod::ephemeral_containers(pod).get(i)?.target_container_name.as_deref()?;
        // Without an answer it starts without seeing the other's processes.
        let runtime = self.shared.runtime.pod(pod::uid(pod)).await.ok()?;
        runtime.running().find(|c| c.name == name).map(|c| c.id.to_string())
    }

    /// The link that log collectors read; a container runs as well without it.
    fn link_log(&self, pod: &Pod, container: &Container, id: &str, log: &std::path::Path) {
        let name = format!("{}_{}_{}-{id}.log", pod::name(pod), pod::namespace(pod), container.name);
        let link = self.shared.container_logs.join(name);
        if let Err(error) = symlink(log, &link) {
            tracing::warn!(link = %link.display(), %error, "cannot link the container's log");
        }
    }

    async fn environment(
        &self,
        pod: &Pod,
        container: &Container,
        place: &Place,
        mounted: &BTreeMap<String, Mounted>,
    ) -> Result<Vec<(String, String)>, StartError> {
        if !self.shared.services.is_ready() && !pod::is_static(pod) {
            return Err(StartError::ServicesUnknown);
        }
        let mut fetched = Fetched::default();
        let namespace = pod::namespace(pod);
        let (maps, secrets) = references(container);
        for name in maps {
            if let Some(found) = self.shared.objects.config_map(namespace, &name).await? {
                fetched.config_maps.insert(name, found);
            }
        }
        for name in secrets {
            if let Some(found) = self.shared.objects.secret(namespace, &name).await? {
                fetched.secrets.insert(name, found);
            }
        }
        if self.shared.gates.has(Gate::EnvFiles) {
            let of = |var: &EnvVar| var.value_from.as_ref()?.file_key_ref.clone();
            for key in container.env.iter().flatten().filter_map(of) {
                let Some(volume) = mounted.get(&key.volume_name) else {
                    return Err(StartError::NoVolume(key.volume_name));
                };
                match env::file::read(&volume.path, &key.path) {
                    Ok(text) => drop(fetched.files.insert((key.volume_name, key.path), text)),
                    Err(error) => {
                        tracing::warn!(pod = pod::display(pod).to_string(), path = key.path, %error, "no file of variables");
                    }
                }
            }
        }
        let links = pod::spec(pod).enable_service_links != Some(false);
        let services = self.shared.services.variables(namespace, links);
        let facts = self.facts(pod, Some(place.sandbox.ips.clone()));
        Ok(env::environment(pod, container, &fetched, &services, &facts)?)
    }

    /// `/etc/hosts` and the termination message.
    fn add_own_mounts(
        &self,
        pod: &Pod,
        container: &Container,
        place: &Place,
        mounts: &mut Vec<cri::Mount>,
    ) -> Result<(), VolumeError> {
        let dir = self.pod_dir(pod);
        if !mounts.iter().any(|m| m.container_path == "/etc/hosts") {
            let path = dir.join("etc-hosts");
            let host = match pod::host_network(pod) {
                // A node without the file gives an empty one.
                true => Some(fs::read_to_string("/etc/hosts").unwrap_or_default()),
                false => None,
            };
            let names = hosts::Names::new(&self.shared.dns.cluster_domain, self.shared.gates);
            let text = hosts::file(pod, &place.sandbox.ips, names, host.as_deref());
            fs::write(&path, text).map_err(VolumeError::io(&path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(VolumeError::io(&path))?;
            mounts.push(own_mount("/etc/hosts", &path));
        }
        let folder = dir.join("containers").join(&container.name);
        fs::create_dir_all(&folder).map_err(VolumeError::io(&folder))?;
        let path = folder.join(format!("{:08x}", rand::random::<u32>()));
        fs::File::create(&path).map_err(VolumeError::io(&path))?;
        // Whatever user the container runs as may write its last words.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(VolumeError::io(&path))?;
        mounts.push(own_mount(config::termination_path(container), &path));
        Ok(())
    }

    /// The postStart hook; a container whose hook fails is killed.
    async fn after_start(&self, pod: &Arc<Pod>, id: &str, container: &Container, place: &Place) {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return };
        let ip =
            self.facts(pod, Some(place.sandbox.ips.clone())).pod_ips.into_iter().next().unwrap_or_default();
        let limit = Duration::from_secs(3600);
        let ran = lifecycle::run(&self.shared.runtime, id, &ip, container, hook, limit).await;
        if let Ok(Some(told)) = &ran {
            self.event(pod, Severity::Warning, lifecycle::FALLBACK, told);
        }
        if let Err(error) = ran {
            tracing::warn!(pod = %pod::display(pod), container = container.name, %error, "postStart hook failed");
            let name = &container.name;
            self.container_event(pod, name, Severity::Warning, "FailedPostStartHook", "PostStartHook failed");
            let text = "FailedPostStartHook";
            self.kill_container(pod, id, container, &ip, text, pod_grace(pod)).await;
        }
    }
}

/// The image of the container that starts first, if it is there: it is looked for while the sandbox is made. One that is not
/// there yet is looked for again when it is needed.
async fn look_ahead(runtime: Runtime, pod: &Pod, plan: &plan::Plan) -> Option<cri::Image> {
    let container = pod::container(pod, plan.start.first()?.role)?;
    let tagged = images::reference::with_tag(container.image.as_deref()?).ok()?.into_owned();
    runtime.image(&tagged).await.ok().flatten()
}

/// Upstream's time for volumes to be attached and mounted.
fn waited_enough(since: Timestamp, now: Timestamp) -> bool {
    now.duration_since(since) >= SignedDuration::from_secs(123)
}

fn pod_grace(pod: &Pod) -> Duration {
    Duration::from_secs(u64::try_from(pod::grace_seconds(pod)).unwrap_or(0))
}

fn own_mount(container_path: &str, host_path: &std::path::Path) -> cri::Mount {
    cri::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..cri::Mount::default()
    }
}

/// Names of the config maps and secrets that a container's environment refers to.
fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|r| r.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        maps.extend(from.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(from.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    for list in [&mut maps, &mut secrets] {
        list.sort();
        list.dedup();
    }
    (maps, secrets)
}
