//! Devices of plugins: which there are, which container was given which, and what that means for the container.
//!
//! ```text
//! plugin --Register--> `registration` --ListAndWatch--> [`Devices`] --> capacity of the node
//!                                                           |-- pod is admitted: chosen, Allocate, written down
//!                                                           `-- container is made: devices, mounts, variables
//! ```
//! What was given is kept in `<root>/device-plugins/kubelet_internal_checkpoint` (`state`); a restarted kubelet goes on with it.
//! Contract: device plugin API v1beta1, pod resources API v1; where devices should come from, `topology` says.

pub mod pod_resources;
pub mod registration;
pub mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use component_base::task::Tasks;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceHealth, ResourceStatus};
use parking_lot::Mutex;
use proto::deviceplugin::v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, Device, DevicePluginOptions, PreStartContainerRequest,
    PreferredAllocationRequest, device_plugin_client::DevicePluginClient,
};
use tokio::sync::Notify;
use tonic::transport::Channel;

use self::state::{Grant, Kept, NOWHERE, Near};
use crate::{
    metrics,
    plugin::channel,
    pod::{self, Role, resources},
    pods::Pods,
    status::generate::Verdict,
    topology::{
        self, Provider,
        hint::{Hint, Hints},
        nodes::NodeSet,
    },
    worker::Shared,
};

/// How long the devices of a plugin that went away still count as capacity: it may only be restarting.
const ABSENCE: SignedDuration = SignedDuration::from_mins(5);
/// How long a plugin may take for one call.
const PATIENCE: Duration = Duration::from_secs(30);
/// The word for a device that works, of plugins and in statuses.
const HEALTHY: &str = "Healthy";

/// Why a container cannot have its devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// None of them works.
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    Unhealthy(String),
    /// Those that it has from an earlier kubelet do not all work any more.
    #[error("previously allocated devices are no longer healthy; cannot allocate unhealthy devices {0}")]
    NoLonger(String),
    /// It asks for another number than it has.
    #[error(
        "pod {pod:?} container {container:?} changed request for resource {resource:?} from {has} to {wanted}"
    )]
    Changed {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// The resource.
        resource: String,
        /// How many it has.
        has: usize,
        /// How many it asks for.
        wanted: usize,
    },
    /// Too few are free.
    #[error("requested number of devices unavailable for {resource}. Requested: {wanted}, Available: {free}")]
    TooFew {
        /// The resource.
        resource: String,
        /// How many more are needed.
        wanted: usize,
        /// How many are free.
        free: usize,
    },
    /// The plugin refuses.
    #[error("rpc error: code = {code} desc = {message}")]
    Plugin {
        /// gRPC's code.
        code: String,
        /// The plugin's words.
        message: String,
    },
    /// The plugin answers nonsense.
    #[error("no containers return in allocation response of {0}")]
    NoAnswer(String),
}

impl From<tonic::Status> for DeviceError {
    fn from(status: tonic::Status) -> Self {
        Self::Plugin { code: format!("{:?}", status.code()), message: status.message().to_owned() }
    }
}

/// What a container gets with its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// Environment variables.
    pub envs: BTreeMap<String, String>,
    /// Mounts: path in the container, on the node, read-only.
    pub mounts: Vec<(String, String, bool)>,
    /// Device nodes: path in the container, on the node, permissions.
    pub nodes: Vec<(String, String, String)>,
    /// Annotations for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Names of CDI devices.
    pub cdi: Vec<String>,
}

impl Granted {
    fn from_wire(answer: ContainerAllocateResponse) -> Self {
        Self {
            envs: answer.envs.into_iter().collect(),
            mounts: answer.mounts.into_iter().map(|m| (m.container_path, m.host_path, m.read_only)).collect(),
            nodes: answer
                .devices
                .into_iter()
                .map(|d| (d.container_path, d.host_path, d.permissions))
                .collect(),
            annotations: answer.annotations.into_iter().collect(),
            cdi: answer.cdi_devices.into_iter().map(|d| d.name).collect(),
        }
    }

    fn extend(&mut self, other: &Self) {
        self.envs.extend(other.envs.clone());
        self.mounts
            .extend(other.mounts.iter().filter(|m| !self.mounts.contains(m)).cloned().collect::<Vec<_>>());
        self.nodes
            .extend(other.nodes.iter().filter(|d| !self.nodes.contains(d)).cloned().collect::<Vec<_>>());
        self.annotations.extend(other.annotations.clone());
        self.cdi.extend(other.cdi.iter().filter(|d| !self.cdi.contains(d)).cloned().collect::<Vec<_>>());
    }
}

/// One resource and its plugin.
#[derive(Debug, Clone, Default)]
struct Resource {
    endpoint: PathBuf,
    options: DevicePluginOptions,
    devices: BTreeMap<String, Device>,
    /// Since when its plugin is away.
    away: Option<Timestamp>,
    /// Which of the plugins that registered for it in turn this is.
    turn: u64,
}

impl Resource {
    fn healthy(&self) -> BTreeSet<String> {
        self.devices
            .iter()
            .filter(|(_, d)| self.away.is_none() && d.health == HEALTHY)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// The memory nodes that a device is near.
    fn nodes(&self, id: &str) -> NodeSet {
        let topology = self.devices.get(id).and_then(|d| d.topology.as_ref());
        let nodes = topology.into_iter().flat_map(|t| &t.nodes);
        nodes.filter_map(|node| u32::try_from(node.id).ok()).collect()
    }

    /// The devices by the memory nodes they are near.
    fn places(&self, devices: &BTreeSet<String>) -> Near {
        let mut near = Near::new();
        for id in devices {
            let topology = self.devices.get(id).and_then(|d| d.topology.as_ref());
            let mut nodes: Vec<i64> =
                topology.into_iter().flat_map(|t| &t.nodes).map(|node| node.id).collect();
            if nodes.is_empty() {
                nodes.push(NOWHERE);
            }
            nodes.into_iter().for_each(|node| near.entry(node).or_default().push(id.clone()));
        }
        near
    }

    /// Those of the devices that are near one of the memory nodes.
    fn close(&self, devices: &BTreeSet<String>, near: Option<NodeSet>) -> BTreeSet<String> {
        let Some(near) = near else { return BTreeSet::new() };
        devices.iter().filter(|id| !self.nodes(id).and(near).is_empty()).cloned().collect()
    }

    /// From near which memory nodes so many devices could come; those the pod has have to be among them. Nothing to say
    /// when no device tells where it is.
    fn hints(&self, free: &BTreeSet<String>, reusable: &BTreeSet<String>, count: usize) -> Option<Vec<Hint>> {
        let all: BTreeSet<String> = self.devices.keys().cloned().collect();
        let nodes = all.iter().fold(NodeSet::default(), |nodes, id| nodes.plus(self.nodes(id)));
        if nodes.is_empty() {
            return None;
        }
        let on = |ids: &BTreeSet<String>, part| self.close(ids, Some(part)).len();
        let placed = reusable.iter().filter(|id| !self.nodes(id).is_empty()).count();
        Some(topology::hints(
            nodes,
            |part| on(&all, part) >= count,
            |part| on(reusable, part) == placed && placed + on(free, part) >= count,
        ))
    }

    fn client(&self) -> DevicePluginClient<Channel> {
        DevicePluginClient::new(channel(&self.endpoint))
    }
}

#[derive(Debug, Default)]
struct State {
    resources: BTreeMap<String, Resource>,
    grants: Vec<Grant>,
    /// Pods that have run since they were given their devices: these are theirs whatever plugins say by now.
    running: BTreeSet<String>,
}

impl State {
    /// Whether a container has its devices from before. An earlier kubelet may have given them before the machine was
    /// started anew: then they have to be there again.
    fn has(&self, pod: &str, container: &str, resource: &str, wanted: usize) -> Result<bool, DeviceError> {
        let grants: Vec<&Grant> = self.of(pod, container).filter(|g| g.resource == resource).collect();
        if grants.is_empty() {
            return Ok(false);
        }
        let own: BTreeSet<&String> = grants.into_iter().flat_map(Grant::devices).collect();
        if own.len() != wanted {
            let (pod, container) = (pod.to_owned(), container.to_owned());
            let (resource, has) = (resource.to_owned(), own.len());
            return Err(DeviceError::Changed { pod, container, resource, has, wanted });
        }
        let healthy = self.resources.get(resource).map(Resource::healthy).unwrap_or_default();
        if self.running.contains(pod) {
            Ok(true)
        } else if healthy.is_empty() {
            Err(DeviceError::Unhealthy(resource.to_owned()))
        } else if own.into_iter().all(|id| healthy.contains(id)) {
            Ok(true)
        } else {
            Err(DeviceError::NoLonger(resource.to_owned()))
        }
    }

    fn given(&self, resource: &str) -> BTreeSet<String> {
        self.grants
            .iter()
            .filter(|g| g.resource == resource)
            .flat_map(|g| g.devices().into_iter().cloned())
            .collect()
    }

    /// What earlier containers of the pod had and no longer need when this one starts: sidecars and regular containers keep
    /// theirs.
    fn reusable(&self, pod: &Pod, container: &str, resource: &str) -> BTreeSet<String> {
        let mut free = BTreeSet::new();
        let earlier = pod::all_containers(pod).into_iter().take_while(|(_, c)| c.name != container);
        for (role, one) in earlier {
            let passes = matches!(role, Role::Init(_)) && !pod::is_sidecar(&one);
            for id in
                self.of(pod::uid(pod), &one.name).filter(|g| g.resource == resource).flat_map(Grant::devices)
            {
                if passes {
                    free.insert(id.clone());
                } else {
                    free.remove(id);
                }
            }
        }
        free
    }

    /// From near which memory nodes the devices could come that a pod, or one of its containers, asks for. `own` is what it
    /// has already, `reusable` what the pod has besides.
    fn hints(
        &self,
        resource: &str,
        count: usize,
        own: &BTreeSet<String>,
        reusable: &BTreeSet<String>,
    ) -> Option<Vec<Hint>> {
        let known = self.resources.get(resource)?;
        let nothing = BTreeSet::new();
        if !own.is_empty() {
            return if own.len() == count { known.hints(own, &nothing, count) } else { Some(vec![]) };
        }
        let free = known.healthy().difference(&self.given(resource)).cloned().collect();
        known.hints(&free, reusable, count)
    }

    fn of<'a>(&'a self, pod: &'a str, container: &'a str) -> impl Iterator<Item = &'a Grant> {
        self.grants.iter().filter(move |g| g.pod == pod && g.container == container)
    }
}

/// The devices of this node.
pub struct Devices {
    folder: PathBuf,
    state: Mutex<State>,
    /// Pods are served one after the other.
    turn: tokio::sync::Mutex<()>,
    /// Devices that somebody has feel otherwise than before.
    changed: Notify,
}

fn within<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

impl Devices {
    /// Nothing registered; what containers were given is read from the folder.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        let kept = state::read(&folder).unwrap_or_else(|error| {
            tracing::error!(folder = %folder.display(), %error, "which devices were given does not read");
            Kept::default()
        });
        let mut state = State { grants: kept.grants, ..State::default() };
        // Until their plugins are back these resources are there and empty, so that nobody counts on them.
        let away = || Resource { away: Some(Timestamp::UNIX_EPOCH), ..Resource::default() };
        state.resources = kept.registered.into_keys().map(|name| (name, away())).collect();
        Self { folder, state: Mutex::new(state), turn: tokio::sync::Mutex::default(), changed: Notify::new() }
    }

    /// The folder of the plugins' sockets.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A plugin is there. Answers with its turn, by which its later reports are known.
    pub fn registered(&self, resource: &str, endpoint: PathBuf, options: DevicePluginOptions) -> u64 {
        let mut state = self.state.lock();
        let entry = state.resources.entry(resource.to_owned()).or_default();
        let devices = std::mem::take(&mut entry.devices);
        *entry = Resource { endpoint, options, devices, away: None, turn: entry.turn + 1 };
        let turn = entry.turn;
        metrics::get().plugin_registrations.with_label_values(&[resource]).inc();
        self.keep(&state);
        turn
    }

    /// The plugin's devices are these.
    pub fn reported(&self, resource: &str, turn: u64, devices: Vec<Device>) {
        let mut state = self.state.lock();
        if let Some(entry) = state.resources.get_mut(resource).filter(|r| r.turn == turn) {
            let before = entry.healthy();
            entry.devices = devices.into_iter().map(|d| (d.id.clone(), d)).collect();
            if entry.healthy() != before {
                self.changed.notify_one();
                self.keep(&state);
            }
        }
    }

    /// How the devices are that a container has, for its status.
    #[must_use]
    pub fn statuses(&self, uid: &str, container: &str) -> Vec<ResourceStatus> {
        let state = self.state.lock();
        let health = |resource: &str, id: &String| {
            // What nobody tells of is taken to be well.
            let known = state.resources.get(resource).filter(|r| r.devices.contains_key(id));
            let is_well = known.is_none_or(|r| r.away.is_none() && r.devices[id].health == HEALTHY);
            let health = Some(if is_well { HEALTHY } else { "Unhealthy" }.to_owned());
            ResourceHealth { health, resource_id: id.clone(), message: None }
        };
        let one = |grant: &Grant| ResourceStatus {
            name: grant.resource.clone(),
            resources: Some(grant.devices().into_iter().map(|id| health(&grant.resource, id)).collect()),
        };
        state.of(uid, container).map(one).collect()
    }

    /// The plugin went away.
    pub fn gone(&self, resource: &str, turn: u64, now: Timestamp) {
        let mut state = self.state.lock();
        if let Some(entry) = state.resources.get_mut(resource).filter(|r| r.turn == turn && r.away.is_none())
        {
            tracing::warn!(resource, "the device plugin is gone");
            entry.away = Some(now);
            self.changed.notify_one();
        }
    }

    /// The plugin that is at this endpoint went away, whatever its turn.
    pub fn left(&self, resource: &str, now: Timestamp) {
        let turn = self.state.lock().resources.get(resource).map(|r| r.turn);
        if let Some(turn) = turn {
            self.gone(resource, turn, now);
        }
    }

    /// For each resource how many devices there are, and how many of them work.
    #[must_use]
    pub fn capacity(&self, now: Timestamp) -> BTreeMap<String, (i64, i64)> {
        let many = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let state = self.state.lock();
        let count = |r: &Resource| match r.away {
            Some(since) if now.duration_since(since) > ABSENCE => (0, 0),
            _ => (many(r.devices.len()), many(r.healthy().len())),
        };
        state.resources.iter().map(|(name, r)| (name.clone(), count(r))).collect()
    }

    /// Chooses devices for a container, near the given memory nodes as far as possible, and lets the plugins prepare them.
    /// What it has already stays its own.
    ///
    /// # Errors
    /// Why it cannot have what it asks for.
    pub async fn allocate(
        &self,
        pod: &Pod,
        container: &Container,
        near: Option<NodeSet>,
    ) -> Result<(), DeviceError> {
        let wanted = self.wanted(pod, container);
        if wanted.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        for (resource, count) in wanted {
            self.container(pod, container, &resource, count, near).await?;
        }
        Ok(())
    }

    /// What each container of the pod asks for, and whether it has ended before the next one starts.
    fn wanted_by(&self, pod: &Pod) -> Vec<(bool, Vec<(String, usize)>)> {
        let all =
            pod::all_containers(pod).into_iter().filter(|(role, _)| !matches!(role, Role::Ephemeral(_)));
        let one = |(role, container): (Role, Container)| {
            let passes = matches!(role, Role::Init(_)) && !pod::is_sidecar(&container);
            (passes, self.wanted(pod, &container))
        };
        all.map(one).collect()
    }

    /// How many devices of which known resource a container asks for, and has no claim to.
    fn wanted(&self, pod: &Pod, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        let state = self.state.lock();
        let one = |(name, amount): (&String, &k8s_openapi::apimachinery::pkg::api::resource::Quantity)| {
            let count = usize::try_from(resources::whole(&amount.0)?).ok()?;
            let given = state.resources.contains_key(name) && !pod::is_claimed(pod, &container.name, name);
            (count > 0 && given).then(|| (name.clone(), count))
        };
        limits.into_iter().flatten().filter_map(one).collect()
    }

    async fn container(
        &self,
        pod: &Pod,
        container: &Container,
        name: &str,
        count: usize,
        near: Option<NodeSet>,
    ) -> Result<(), DeviceError> {
        let uid = pod::uid(pod);
        let (resource, given, reusable) = {
            let state = self.state.lock();
            if state.has(uid, &container.name, name, count)? {
                return Ok(());
            }
            let resource = state.resources.get(name).cloned().unwrap_or_default();
            (resource, state.given(name), state.reusable(pod, &container.name, name))
        };
        let healthy = resource.healthy();
        if healthy.is_empty() {
            return Err(DeviceError::Unhealthy(name.to_owned()));
        }
        let reused: BTreeSet<String> = reusable.intersection(&healthy).cloned().collect();
        let free: BTreeSet<String> = healthy.difference(&given).cloned().collect();
        let close = resource.close(&free, near);
        let preferred = if resource.options.get_preferred_allocation_available && reused.len() < count {
            // Among those that are close, if there are more than enough; else all of them are taken, and some others.
            let enough = close.len() > count - reused.len();
            let must = if enough { reused.clone() } else { reused.union(&close).cloned().collect() };
            preferred(&resource, if enough { &close } else { &free }, &must, count).await?
        } else {
            vec![]
        };
        let chosen = choose(name, count, &reused, &free, &close, &preferred)?;
        let request = AllocateRequest {
            container_requests: vec![ContainerAllocateRequest {
                devices_ids: chosen.iter().cloned().collect(),
            }],
        };
        let begun = Instant::now();
        let answer = resource.client().allocate(within(request)).await;
        let took = metrics::get().plugin_allocations.with_label_values(&[name]);
        took.observe(begun.elapsed().as_secs_f64());
        let answer = answer?.into_inner();
        let answer = answer.container_responses.into_iter().next();
        let answer = answer.ok_or_else(|| DeviceError::NoAnswer(name.to_owned()))?;
        let mut state = self.state.lock();
        state.running.insert(uid.to_owned());
        state.grants.push(Grant {
            pod: uid.to_owned(),
            container: container.name.clone(),
            resource: name.to_owned(),
            near: resource.places(&chosen),
            answer,
        });
        self.keep(&state);
        Ok(())
    }

    /// What the container gets with its devices.
    #[must_use]
    pub fn granted(&self, pod: &str, container: &str) -> Granted {
        let state = self.state.lock();
        let mut all = Granted::default();
        state.of(pod, container).for_each(|grant| all.extend(&Granted::from_wire(grant.answer.clone())));
        all
    }

    /// An earlier kubelet gave the pod devices, and nobody has said yet whether it has run since.
    #[must_use]
    pub fn is_in_doubt(&self, pod: &str) -> bool {
        let state = self.state.lock();
        !state.running.contains(pod) && state.grants.iter().any(|g| g.pod == pod)
    }

    /// Some container of the pod runs.
    pub fn runs(&self, pod: &str) {
        self.state.lock().running.insert(pod.to_owned());
    }

    /// Tells plugins that want to know that the container is about to start.
    ///
    /// # Errors
    /// When a plugin refuses.
    pub async fn before_start(&self, pod: &str, container: &str) -> Result<(), DeviceError> {
        let calls: Vec<(Resource, Vec<String>)> = {
            let state = self.state.lock();
            let asks = |grant: &Grant| {
                let resource = state.resources.get(&grant.resource)?;
                let wants = resource.options.pre_start_required && resource.away.is_none();
                wants.then(|| (resource.clone(), grant.devices().into_iter().cloned().collect()))
            };
            state.of(pod, container).filter_map(asks).collect()
        };
        for (resource, devices_ids) in calls {
            resource.client().pre_start_container(within(PreStartContainerRequest { devices_ids })).await?;
        }
        Ok(())
    }

    /// Nothing of the pod runs any more.
    pub fn release(&self, pod: &str) {
        let mut state = self.state.lock();
        let before = state.grants.len();
        state.running.remove(pod);
        state.grants.retain(|g| g.pod != pod);
        if state.grants.len() != before {
            self.keep(&state);
        }
    }

    fn keep(&self, state: &State) {
        let working =
            |(name, resource): (&String, &Resource)| (name.clone(), resource.healthy().into_iter().collect());
        let registered = state.resources.iter().map(working).collect();
        if let Err(error) = state::write(&self.folder, &Kept { grants: state.grants.clone(), registered }) {
            tracing::warn!(%error, "cannot write down which devices were given");
        }
    }
}

#[async_trait]
impl Provider for Devices {
    fn hints(&self, pod: &Pod, container: &Container) -> Hints {
        let wanted = self.wanted(pod, container);
        let (state, uid) = (self.state.lock(), pod::uid(pod));
        let one = |(resource, count): (String, usize)| {
            let grants = state.of(uid, &container.name).filter(|g| g.resource == resource);
            let own = grants.flat_map(|g| g.devices().into_iter().cloned()).collect();
            let reusable = state.reusable(pod, &container.name, &resource);
            let hints = state.hints(&resource, count, &own, &reusable);
            (resource, hints)
        };
        wanted.into_iter().map(one).collect()
    }

    fn pod_hints(&self, pod: &Pod) -> Hints {
        let wanted = together(&self.wanted_by(pod));
        let (state, uid) = (self.state.lock(), pod::uid(pod));
        let one = |(resource, count): (String, usize)| {
            let grants = state.grants.iter().filter(|g| g.pod == uid && g.resource == resource);
            let own = grants.flat_map(|g| g.devices().into_iter().cloned()).collect();
            let hints = state.hints(&resource, count, &own, &BTreeSet::new());
            (resource, hints)
        };
        wanted.into_iter().map(one).collect()
    }

    async fn give(&self, pod: &Pod, container: &Container, from: Hint) -> Result<(), Verdict> {
        self.allocate(pod, container, from.nodes).await.map_err(|error| Verdict {
            reason: "UnexpectedAdmissionError".to_owned(),
            message: format!("Allocate failed due to {error}, which is unexpected"),
            disrupted: false,
        })
    }

    fn release(&self, uid: &str) {
        self.release(uid);
    }
}

/// How many of each resource the containers of a pod have at most at a time. With each count goes whether the container has
/// ended before the next one starts.
fn together(containers: &[(bool, Vec<(String, usize)>)]) -> BTreeMap<String, usize> {
    let (mut most, mut lasting) = (BTreeMap::new(), BTreeMap::<String, usize>::new());
    for (passes, wanted) in containers {
        for (resource, count) in wanted {
            let now = lasting.get(resource).copied().unwrap_or(0) + count;
            let largest: &mut usize = most.entry(resource.clone()).or_default();
            *largest = now.max(*largest);
            if !passes {
                lasting.insert(resource.clone(), now);
            }
        }
    }
    most
}

/// Wakes pods that have devices when these feel otherwise, until the drain.
pub fn run(shared: Arc<Shared>, pods: Arc<Pods>, tasks: &Tasks) {
    let drain = tasks.drain();
    tasks.spawn("devices", async move {
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                () = shared.devices.changed.notified() => {}
            }
            let users: BTreeSet<String> =
                shared.devices.state.lock().grants.iter().map(|g| g.pod.clone()).collect();
            users.iter().for_each(|uid| pods.nudge(uid));
        }
    });
}

async fn preferred(
    resource: &Resource,
    free: &BTreeSet<String>,
    must: &BTreeSet<String>,
    count: usize,
) -> Result<Vec<String>, DeviceError> {
    let request = ContainerPreferredAllocationRequest {
        available_device_i_ds: free.union(must).cloned().collect(),
        must_include_device_i_ds: must.iter().cloned().collect(),
        allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
    };
    let request = PreferredAllocationRequest { container_requests: vec![request] };
    let answer = resource.client().get_preferred_allocation(within(request)).await?.into_inner();
    Ok(answer.container_responses.into_iter().next().map(|r| r.device_i_ds).unwrap_or_default())
}

/// Chooses: first what the pod has already, then what is close, then any; what the plugin would rather give comes first each
/// time. Pure.
fn choose(
    resource: &str,
    count: usize,
    reused: &BTreeSet<String>,
    free: &BTreeSet<String>,
    close: &BTreeSet<String>,
    preferred: &[String],
) -> Result<BTreeSet<String>, DeviceError> {
    let liked =
        |among: &BTreeSet<String>| preferred.iter().filter(|id| among.contains(*id)).collect::<Vec<_>>();
    let mut chosen = BTreeSet::new();
    for id in reused.iter().chain(liked(close)).chain(close).chain(liked(free)).chain(free) {
        if chosen.len() == count {
            break;
        }
        chosen.insert(id.clone());
    }
    if chosen.len() < count {
        let wanted = count.saturating_sub(reused.len());
        return Err(DeviceError::TooFew { resource: resource.to_owned(), wanted, free: free.len() });
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests;
