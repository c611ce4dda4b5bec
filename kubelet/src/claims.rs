//! Claims of dynamic resources: which are ready on this node, for which pods, and what containers get by them.
//!
//! ```text
//! driver's socket --> `drivers`     ResourceClaim of the pod
//!                        |              |
//!                        `-- prepare <--'  before the sandbox; written down before the driver is called and after
//!                               |-- container is made: CDI devices of the requests it names
//!                               |-- statuses: how the devices are (`health`)
//!                        unprepare         after the last container, before the status says that the pod has ended
//! ```
//! What is ready is kept in `<root>/dra_manager_state`; a restarted kubelet goes on with it, and what no pod of this node
//! refers to any more is taken back.
//! Contract: "Dynamic Resource Allocation" (KEP-4381), driver API dra/v1 and v1beta1.

pub mod drivers;
pub mod health;
pub mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use component_base::task::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Container, Pod, PodResourceClaim},
    resource::v1::{ResourceClaim, ResourceClaimConsumerReference},
};
use parking_lot::Mutex;
use proto::dra::v1::Claim;

use self::{
    drivers::{Driver, DriverError, Drivers},
    state::{Device, Info, State, StateError},
};
use crate::{
    api::{FetchError, ObjectSource},
    pod,
    pods::Pods,
    worker::Shared,
};

/// How often claims without a pod are looked for.
const PERIOD: Duration = Duration::from_secs(60);

/// Why claims are not ready, or not taken back.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The pod's claim says nothing of where it comes from.
    #[error("pod {pod}: none of the supported fields of claim {claim:?} are set")]
    Source {
        /// The pod.
        pod: String,
        /// The claim's name in the pod.
        claim: String,
    },
    /// The claim of a template is still to be made.
    #[error("pod {pod}: ResourceClaim for {claim:?} not created yet")]
    NotMade {
        /// The pod.
        pod: String,
        /// The claim's name in the pod.
        claim: String,
    },
    /// It cannot be fetched.
    #[error("fetch ResourceClaim {name}: {source}")]
    Fetch {
        /// The object.
        name: String,
        /// Why.
        source: FetchError,
    },
    /// It does not exist.
    #[error("fetch ResourceClaim {0}: resourceclaims.resource.k8s.io {0:?} not found")]
    NotFound(String),
    /// It has the right name and is another pod's.
    #[error("ResourceClaim {claim} was not created for Pod {pod} ({owner} the owner)")]
    NotOwner {
        /// The object.
        claim: String,
        /// The pod.
        pod: String,
        /// Who is not its owner.
        owner: String,
    },
    /// It is not reserved for the pod.
    #[error("pod {pod} is not allowed to use ResourceClaim {claim}")]
    NotReserved {
        /// The pod.
        pod: String,
        /// The object and its uid.
        claim: String,
    },
    /// It has no devices yet.
    #[error("ResourceClaim {0}: not allocated")]
    NotAllocated(String),
    /// An older one of this name has not been taken back.
    #[error("old ResourceClaim with same name {name} and different UID {uid} still exists")]
    Replaced {
        /// The object.
        name: String,
        /// The older one.
        uid: String,
    },
    /// A container is to have what is not ready.
    #[error("ResourceClaim {0} is not prepared")]
    NotPrepared(String),
    /// A driver cannot or will not.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The file cannot be used.
    #[error("cannot write down the claims: {0}")]
    Keep(#[from] StateError),
}

/// A claim of a pod as it is to be made ready.
struct Needed {
    uid: String,
    name: String,
    drivers: BTreeMap<String, Driver>,
}

/// The claims that are ready on this node, or are being made so.
pub struct Claims {
    drivers: Arc<Drivers>,
    objects: Arc<dyn ObjectSource>,
    path: PathBuf,
    state: Mutex<State>,
    /// Pods have the claims of their groups.
    grouped: bool,
    /// Pods with claims are served one after the other, so that none is taken back while another pod comes to it.
    turn: tokio::sync::Mutex<()>,
}

impl Claims {
    /// Goes on with what an earlier kubelet left in `folder`.
    ///
    /// # Errors
    /// When that cannot be read: then nobody knows what drivers have made ready.
    pub fn new(
        drivers: Arc<Drivers>,
        objects: Arc<dyn ObjectSource>,
        folder: &Path,
    ) -> Result<Self, StateError> {
        let path = folder.join(state::FILE);
        let state = Mutex::new(State::load(&path)?);
        Ok(Self { drivers, objects, path, state, grouped: false, turn: tokio::sync::Mutex::default() })
    }

    /// Whether pods have the claims of their groups (`DRAWorkloadResourceClaims`).
    #[must_use]
    pub fn of_groups(self, grouped: bool) -> Self {
        Self { grouped, ..self }
    }

    /// Makes all claims of a pod ready. Those that are ready stay as they are.
    ///
    /// # Errors
    /// The first claim that cannot be had, or a driver's words.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), ClaimError> {
        if of_pod(pod).is_empty() {
            return Ok(());
        }
        let begun = std::time::Instant::now();
        let done = self.prepare_all(pod).await;
        count("PrepareResources", done.is_err(), begun);
        self.state.lock().count();
        done
    }

    async fn prepare_all(&self, pod: &Pod) -> Result<(), ClaimError> {
        // First everything is looked up, so that a pod that cannot have its claims leaves nothing to take back.
        let mut needed = Vec::new();
        for claim in of_pod(pod) {
            if let Some((name, owned)) = object_name(pod, &claim)? {
                needed.push(self.look_up(pod, &name, owned).await?);
            }
        }
        if needed.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let batches = self.note(pod, needed)?;
        for (name, (driver, claims)) in &batches {
            let mut answers = driver.prepare(name, claims).await?;
            let mut state = self.state.lock();
            for claim in claims {
                let devices = answers.remove(&claim.uid).unwrap_or_default();
                state.devices(&claim.uid, name, devices.into_iter().map(Device::from).collect());
            }
        }
        if batches.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let claims = batches.values().flat_map(|(_, claims)| claims);
        claims.for_each(|claim| state.is_ready(&claim.uid));
        Ok(state.write(&self.path)?)
    }

    async fn look_up(&self, pod: &Pod, name: &str, owned: bool) -> Result<Needed, ClaimError> {
        let found = self.objects.resource_claim(pod::namespace(pod), name).await;
        let found = found.map_err(|source| ClaimError::Fetch { name: name.to_owned(), source })?;
        let claim = found.ok_or_else(|| ClaimError::NotFound(name.to_owned()))?;
        let names = usable(pod, &claim, owned, self.grouped)?;
        let drivers = names.into_iter().map(|name| Ok((name.clone(), self.drivers.get(&name)?)));
        Ok(Needed {
            uid: claim.metadata.uid.clone().unwrap_or_default(),
            name: name.to_owned(),
            drivers: drivers.collect::<Result<_, DriverError>>()?,
        })
    }

    /// Writes down that the pod has these claims. Answers with those that are not ready yet, by driver.
    fn note(
        &self,
        pod: &Pod,
        needed: Vec<Needed>,
    ) -> Result<BTreeMap<String, (Driver, Vec<Claim>)>, ClaimError> {
        let mut batches: BTreeMap<String, (Driver, Vec<Claim>)> = BTreeMap::new();
        let namespace = pod::namespace(pod);
        let mut state = self.state.lock();
        for one in needed {
            let names = one.drivers.keys().cloned().collect();
            let info = state.claim(namespace, &one.name, || Info::new(namespace, &one.name, &one.uid, names));
            if info.uid != one.uid {
                return Err(ClaimError::Replaced { name: one.name, uid: info.uid.clone() });
            }
            if !info.used_by(pod::uid(pod)) {
                for (name, driver) in one.drivers {
                    let claim = Claim {
                        namespace: namespace.to_owned(),
                        uid: one.uid.clone(),
                        name: one.name.clone(),
                    };
                    batches.entry(name).or_insert_with(|| (driver, vec![])).1.push(claim);
                }
            }
        }
        state.write(&self.path)?;
        Ok(batches)
    }

    /// Takes back the claims of a pod of which nothing runs any more, except those that other pods have as well.
    ///
    /// # Errors
    /// When a driver cannot or will not; to be tried again.
    pub async fn unprepare(&self, uid: &str) -> Result<(), ClaimError> {
        if !self.state.lock().pods().contains(uid) {
            return Ok(());
        }
        let begun = std::time::Instant::now();
        let done = self.unprepare_all(uid).await;
        count("UnprepareResources", done.is_err(), begun);
        self.state.lock().count();
        done
    }

    async fn unprepare_all(&self, uid: &str) -> Result<(), ClaimError> {
        let _turn = self.turn.lock().await;
        let mut batches: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        {
            let mut state = self.state.lock();
            let Some(last) = state.leave(uid) else { return Ok(()) };
            for info in &last {
                let claim = Claim {
                    namespace: info.namespace.clone(),
                    uid: info.uid.clone(),
                    name: info.name.clone(),
                };
                for driver in info.drivers.keys() {
                    batches.entry(driver.clone()).or_default().push(claim.clone());
                }
            }
        }
        for (name, claims) in &batches {
            self.drivers.get(name)?.unprepare(name, claims).await?;
        }
        let mut state = self.state.lock();
        for claim in batches.values().flatten() {
            state.forget(&claim.uid, uid);
        }
        Ok(state.write(&self.path)?)
    }

    /// Names of the CDI devices that a container gets by the claims it names.
    ///
    /// # Errors
    /// When one of them is not ready.
    pub fn devices(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, ClaimError> {
        let state = self.state.lock();
        let mut names = Vec::new();
        for (claim, requests) in requests(pod, container)? {
            let info = state.get(pod::namespace(pod), &claim);
            let info = info.ok_or_else(|| ClaimError::NotPrepared(claim.clone()))?;
            names.extend(info.cdi(&requests).filter(|id| !names.contains(id)).collect::<BTreeSet<_>>());
        }
        Ok(names)
    }

    /// The claims a container names, with all devices they have; what is not ready is left out.
    #[must_use]
    pub fn of_container(&self, pod: &Pod, container: &Container) -> Vec<Info> {
        // A claim without an object has no devices to show.
        let named = requests(pod, container).unwrap_or_default();
        let state = self.state.lock();
        named.keys().filter_map(|claim| state.get(pod::namespace(pod), claim).cloned()).collect()
    }

    /// Takes back what pods that are not on this node any more have.
    async fn sweep(&self, active: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.state.lock().pods().into_iter().filter(|uid| !active(uid)).collect();
        for uid in gone {
            if let Err(error) = self.unprepare(&uid).await {
                tracing::warn!(pod = uid, %error, "cannot take back the claims of a pod that is gone");
            }
        }
    }
}

/// Counts how long an operation on all claims of a pod took.
fn count(operation: &str, failed: bool, begun: std::time::Instant) {
    let labels = [if failed { "true" } else { "false" }, operation];
    crate::metrics::get().claim_operations.with_label_values(&labels).observe(begun.elapsed().as_secs_f64());
}

/// All claims of a pod: its own, and the one the scheduler made for its extended resources.
fn of_pod(pod: &Pod) -> Vec<PodResourceClaim> {
    let mut all = pod::spec(pod).resource_claims.clone().unwrap_or_default();
    let extended = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    all.extend(extended.map(|status| PodResourceClaim {
        resource_claim_name: Some(status.resource_claim_name.clone()),
        ..PodResourceClaim::default()
    }));
    all
}

/// The object behind a pod's claim, and whether it has to be the pod's own; `None` when none was needed.
fn object_name(pod: &Pod, claim: &PodResourceClaim) -> Result<Option<(String, bool)>, ClaimError> {
    let (about, name) = (pod::display(pod).to_string(), claim.name.clone());
    if let Some(object) = &claim.resource_claim_name {
        return Ok(Some((object.clone(), false)));
    }
    if claim.resource_claim_template_name.is_none() {
        return Err(ClaimError::Source { pod: about, claim: name });
    }
    let statuses = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.as_ref());
    match statuses.into_iter().flatten().find(|s| s.name == claim.name) {
        Some(status) => Ok(status.resource_claim_name.clone().map(|object| (object, true))),
        None => Err(ClaimError::NotMade { pod: about, claim: name }),
    }
}

/// The group of pods that the pod is one of, where claims of groups count.
fn group(pod: &Pod, grouped: bool) -> Option<&str> {
    pod::spec(pod).scheduling_group.as_ref().filter(|_| grouped)?.pod_group_name.as_deref()
}

/// The claim was made for the pod, or for its group.
fn is_made_for(pod: &Pod, claim: &ResourceClaim, group: Option<&str>) -> bool {
    let owner = claim.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    // A pod does not know the uid of its group.
    owner.is_some_and(|o| {
        let of_group = o.kind == "PodGroup" && o.api_version.starts_with("scheduling.k8s.io/");
        o.uid == pod::uid(pod) || (of_group && Some(o.name.as_str()) == group)
    })
}

/// The drivers of the claim's devices, when the pod may use it; with `grouped` also by its group.
fn usable(
    pod: &Pod,
    claim: &ResourceClaim,
    owned: bool,
    grouped: bool,
) -> Result<BTreeSet<String>, ClaimError> {
    let group = group(pod, grouped);
    let (about, uid) = (pod::display(pod).to_string(), pod::uid(pod));
    let name = claim.metadata.name.clone().unwrap_or_default();
    if owned && !is_made_for(pod, claim, group) {
        let about = format!("{}/{}", pod::namespace(pod), pod::name(pod));
        let claim = format!("{}/{name}", claim.metadata.namespace.as_deref().unwrap_or_default());
        let owner = group.map_or("Pod is not".to_owned(), |g| format!("neither Pod nor PodGroup {g} is"));
        return Err(ClaimError::NotOwner { claim, pod: about, owner });
    }
    let status = claim.status.as_ref();
    let mut consumers = status.and_then(|s| s.reserved_for.as_ref()).into_iter().flatten();
    let is_for = |c: &ResourceClaimConsumerReference| match c.api_group.as_deref().unwrap_or_default() {
        "" => c.resource == "pods" && c.uid == uid,
        "scheduling.k8s.io" => c.resource == "podgroups" && Some(c.name.as_str()) == group,
        _ => false,
    };
    if !consumers.any(is_for) {
        let claim = format!("{name} ({})", claim.metadata.uid.as_deref().unwrap_or_default());
        return Err(ClaimError::NotReserved { pod: about, claim });
    }
    let allocation = status.and_then(|s| s.allocation.as_ref()).ok_or(ClaimError::NotAllocated(name))?;
    let results = allocation.devices.as_ref().and_then(|d| d.results.as_ref());
    Ok(results.into_iter().flatten().map(|r| r.driver.clone()).collect())
}

/// Which requests of which claim objects a container names; an empty request is all of the claim.
fn requests(pod: &Pod, container: &Container) -> Result<BTreeMap<String, Vec<String>>, ClaimError> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let named = container.resources.as_ref().and_then(|r| r.claims.as_ref());
    for claim in named.into_iter().flatten() {
        let own = pod::spec(pod).resource_claims.iter().flatten().find(|c| c.name == claim.name);
        if let Some(own) = own
            && let Some((object, _)) = object_name(pod, own)?
        {
            all.entry(object).or_default().push(claim.request.clone().unwrap_or_default());
        }
    }
    let extended = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    if let Some(status) = extended {
        let asked = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let asks = |name: &String| asked.is_some_and(|list| list.contains_key(name));
        let own = status.request_mappings.iter().filter(|m| m.container_name == container.name);
        for mapping in own.filter(|m| asks(&m.resource_name)) {
            all.entry(status.resource_claim_name.clone()).or_default().push(mapping.request_name.clone());
        }
    }
    Ok(all)
}

/// Takes back what pods that are gone have left, and wakes those that have claims when their devices feel otherwise, until
/// the drain.
pub fn run(shared: Arc<Shared>, pods: Arc<Pods>, tasks: &Tasks) {
    let (drain, woken, waking) = (tasks.drain(), Arc::clone(&pods), Arc::clone(&shared));
    tasks.spawn("claims-health", async move {
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                () = waking.claims.drivers.health().changed(Timestamp::now) => {}
            }
            let users = waking.claims.state.lock().pods();
            users.iter().for_each(|uid| woken.nudge(uid));
        }
    });
    let mut ticks = tasks.ticks(PERIOD);
    tasks.spawn("claims", async move {
        while ticks.next().await {
            // A source that has not spoken may still have the pod.
            if pods.is_synced() {
                ticks.until_drain(shared.claims.sweep(|uid| pods.knows(uid))).await;
            }
        }
    });
}

#[cfg(test)]
mod tests;
