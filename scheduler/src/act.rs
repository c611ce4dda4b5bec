//! Carrying decisions out: bindings, evictions, conditions and events. Decides nothing.

mod extended;

use std::{collections::HashMap, sync::Arc, time::Duration};

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder},
    informer::Informer,
    meta::{ObjectKey, object_key},
    task::Tasks,
    workqueue::chain,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition},
    resource::v1::ResourceClaim,
    scheduling::v1alpha2::PodGroup,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    cycle::Change,
    extender::{ExtenderError, Extenders},
    framework::Reason,
    metrics::{Attempt, Call, Metrics, Status},
    model::{GroupInfo, PodInfo, Release, Reservation},
    plugins::{dynamic_resources, volume_binding},
    profile::Timeouts,
};

/// Bindings under way at once; more wait their turn.
const BINDINGS: usize = 32;
/// How often a claim of devices is written that others write as well.
const CLAIM_TRIES: usize = 5;

/// The way to the API server.
#[derive(Clone)]
pub struct Actor {
    client: Client,
    /// One per profile: events say who decided.
    recorders: HashMap<String, Recorder>,
    clock: SharedClock,
    back: mpsc::UnboundedSender<Change>,
    tasks: Tasks,
    permits: Arc<Semaphore>,
    caches: Caches,
    /// Bindings that have not begun, since something has to be there before; who tells them not to.
    preparing: Arc<Mutex<HashMap<String, oneshot::Sender<BindError>>>>,
    extenders: Extenders,
    metrics: Arc<Metrics>,
    /// Whether a pod tells its node before it is bound, where that takes more than the binding (KEP-5278).
    foretells: bool,
}

/// Who is to have the room that others leave.
#[derive(Clone, Debug)]
pub struct Preemptor {
    reference: ObjectReference,
    node: String,
    scheduler: String,
}

/// What the server last showed.
#[derive(Clone)]
pub struct Caches {
    /// Pods.
    pub pods: Informer<Pod>,
    /// Nodes.
    pub nodes: Informer<Node>,
    /// Claims of volumes, which bindings wait for.
    pub claims: Informer<PersistentVolumeClaim>,
    /// Volumes.
    pub volumes: Informer<PersistentVolume>,
    /// Claims of devices.
    pub devices: Informer<ResourceClaim>,
    /// Changes whenever a claim or a volume does.
    pub changed: watch::Receiver<()>,
}

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
enum BindError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("the extender")]
    Extender(#[from] ExtenderError),
    #[error("binding volumes: {0}")]
    Volumes(Reason),
    #[error("binding volumes: context deadline exceeded")]
    Timeout,
    #[error("{0}")]
    Devices(Reason),
    #[error("{0}")]
    Claim(Reason),
    #[error("resourceclaim.resource.k8s.io {0:?} not found")]
    NoClaim(String),
    #[error("device binding timeout")]
    DevicesTimeout,
    #[error("preempted by DefaultPreemption")]
    Preempted,
    #[error("pod does not exist any more")]
    Gone,
}

impl BindError {
    /// For events.
    fn words(&self) -> String {
        match self {
            BindError::Api(error) => chain(error),
            other => chain(other),
        }
    }

    /// Whether devices are why.
    fn is_of_devices(&self) -> bool {
        matches!(
            self,
            BindError::Devices(_) | BindError::Claim(_) | BindError::NoClaim(_) | BindError::DevicesTimeout
        )
    }

    /// Whether it is known that the pod was not bound.
    fn is_certain(&self) -> bool {
        match self {
            BindError::Api(kube::Error::Api(status)) => status.code < 500,
            BindError::Api(_) | BindError::Extender(_) => false,
            BindError::Volumes(_)
            | BindError::Timeout
            | BindError::Devices(_)
            | BindError::Claim(_)
            | BindError::NoClaim(_)
            | BindError::Preempted
            | BindError::Gone
            | BindError::DevicesTimeout => true,
        }
    }
}

impl Preemptor {
    /// Its uid.
    pub fn uid(&self) -> &str {
        self.reference.uid.as_deref().unwrap_or_default()
    }

    /// The group, if it is one.
    pub fn as_group(&self) -> Option<ObjectKey> {
        let Self { reference, .. } = self;
        let is_group = reference.kind.as_deref() == Some("PodGroup");
        let (namespace, name) = (reference.namespace.as_deref()?, reference.name.as_deref()?);
        is_group.then(|| ObjectKey::new(namespace, name))
    }

    /// A pod that is to go to a node.
    pub fn pod(pod: &PodInfo, node: &str) -> Self {
        let scheduler = pod.scheduler_name.clone();
        Self { reference: about(pod), node: node.to_owned(), scheduler }
    }

    /// A group of pods.
    pub fn group(group: &GroupInfo, scheduler: &str) -> Self {
        let reference = ObjectReference {
            api_version: Some("scheduling.k8s.io/v1alpha2".into()),
            kind: Some("PodGroup".into()),
            namespace: Some(group.namespace.clone()),
            name: Some(group.name.clone()),
            uid: Some(group.uid.clone()),
            ..ObjectReference::default()
        };
        Self { reference, node: "cluster".to_owned(), scheduler: scheduler.to_owned() }
    }
}

impl Actor {
    /// An actor that reports results through `back`; `foretells` is whether pods tell their nodes before they are bound.
    pub fn new(
        client: Client,
        recorders: HashMap<String, Recorder>,
        clock: SharedClock,
        back: mpsc::UnboundedSender<Change>,
        tasks: Tasks,
        caches: Caches,
        (extenders, metrics, foretells): (Extenders, Arc<Metrics>, bool),
    ) -> Self {
        let permits = Arc::new(Semaphore::new(BINDINGS));
        let preparing = Arc::default();
        Self {
            client,
            recorders,
            clock,
            back,
            tasks,
            permits,
            caches,
            preparing,
            extenders,
            metrics,
            foretells,
        }
    }

    /// Binds a pod to a node once its volumes are, in the background; a failure comes back as a change. `object` is the
    /// pod itself, where an extender may bind it.
    pub fn bind(
        &self,
        pod: &Arc<PodInfo>,
        object: Option<Arc<Pod>>,
        node: String,
        reservation: Reservation,
        (timeouts, attempt): (Timeouts, Attempt),
    ) {
        let (actor, pod) = (self.clone(), pod.clone());
        self.tasks.spawn("binding", async move {
            actor.metrics.binding(true);
            let done = actor
                .bind_with_volumes(&pod, object.as_deref(), &node, &reservation, (timeouts, attempt.timed))
                .await;
            actor.metrics.binding(false);
            let now = actor.clock.now();
            match done {
                Ok(()) => {
                    actor.metrics.bound(&attempt, now);
                    let note = format!("Successfully assigned {} to {node}", pod.key());
                    actor.event(&pod, EventType::Normal, "Scheduled", "Binding", &note);
                }
                Err(error) => {
                    let took = now.duration_since(attempt.began).as_secs_f64();
                    actor.metrics.attempt(&attempt.profile, "error", took);
                    tracing::error!(pod = pod.key(), node, error = chain(&error), "binding failed");
                    let gone = matches!(&error, BindError::Api(e) if client::is_not_found(e))
                        && reservation.is_empty();
                    if !gone {
                        let of_devices = error.is_of_devices();
                        let plugin = match reservation.awaited.is_empty() || of_devices {
                            true => "DynamicResources",
                            false => "VolumeBinding",
                        };
                        let (kind, plugin) = match reservation.is_empty() && !of_devices {
                            true => ("Bind", "DefaultBinder"),
                            false => ("PreBind", plugin),
                        };
                        let note = format!("running {kind} plugin {plugin:?}: {}", error.words());
                        if !reservation.of_node.is_empty() {
                            let none = json!({"nodeAllocatableResourceClaimStatuses": null});
                            actor.write_status(&pod, none).await;
                        }
                        // What it told of its node before holds no more.
                        actor.unschedulable(&pod, "SchedulerError", note, Some(String::new()));
                    }
                    let failure = Change::BindingFailed { pod, reservation, gone, attempt };
                    // The loop is gone only when the daemon drains.
                    drop(actor.back.send(failure));
                }
            }
        });
    }

    async fn bind_with_volumes(
        &self,
        pod: &PodInfo,
        object: Option<&Pod>,
        node: &str,
        reservation: &Reservation,
        (timeouts, timed): (Timeouts, bool),
    ) -> Result<(), BindError> {
        let made = match &reservation.extended {
            Some(extended) => Some(self.make_extended(pod, extended).await?),
            None => None,
        };
        let done =
            self.bind_prepared(pod, object, (node, made.as_ref()), reservation, (timeouts, timed)).await;
        match (&done, &made) {
            // With an answer that was lost the pod may be bound: its claim stays until it is known not to be.
            (Err(error), Some(claim)) if error.is_certain() => self.delete_claim(claim).await,
            _ => {}
        }
        done
    }

    /// Binds a pod once what is reserved for it is there; `made` is the claim for its extended resources.
    async fn bind_prepared(
        &self,
        pod: &PodInfo,
        object: Option<&Pod>,
        (node, made): (&str, Option<&ResourceClaim>),
        reservation: &Reservation,
        (timeouts, timed): (Timeouts, bool),
    ) -> Result<(), BindError> {
        let began = self.clock.now();
        let (cancel, cancelled) = oneshot::channel();
        self.preparing.lock().insert(pod.uid.clone(), cancel);
        let mut done = tokio::select! {
            done = self.prepare(pod, (node, made), reservation, timeouts) => done,
            Ok(why) = cancelled => Err(why),
        };
        // Whoever was told that this pod gives way must not see it bound.
        if self.preparing.lock().remove(&pod.uid).is_none() && done.is_ok() {
            done = Err(BindError::Preempted);
        }
        self.metrics.point("PreBind", Status::of(done.is_ok()), &pod.scheduler_name, self.since(began));
        done?;
        let _permit = self.permits.acquire().await;
        let began = self.clock.now();
        let done = self.bind_now(pod, object, node).await;
        let (status, took) = (Status::of(done.is_ok()), self.since(began));
        self.metrics.point("Bind", status, &pod.scheduler_name, took);
        if timed {
            self.metrics.execution("DefaultBinder", "Bind", status, took);
        }
        done
    }

    /// Tells a binding not to begin, if it has not.
    fn cancel(&self, pod: &PodInfo, why: BindError) -> bool {
        let cancel = self.preparing.lock().remove(&pod.uid);
        cancel.is_some_and(|cancel| cancel.send(why).is_ok())
    }

    /// A pod that is being bound is deleted: nothing is waited for any more.
    pub fn deleted(&self, pod: &PodInfo) {
        self.cancel(pod, BindError::Gone);
    }

    fn since(&self, began: Timestamp) -> f64 {
        self.clock.now().duration_since(began).as_secs_f64()
    }

    /// Everything that has to be there before the pod is bound.
    async fn prepare(
        &self,
        pod: &PodInfo,
        (node, made): (&str, Option<&ResourceClaim>),
        reservation: &Reservation,
        timeouts: Timeouts,
    ) -> Result<(), BindError> {
        if self.foretells && (!reservation.is_empty() || pod.device_claim_keys().next().is_some()) {
            // Others, such as those who take nodes away, need not wait for the binding to know.
            self.write_status(pod, json!({"nominatedNodeName": node})).await;
        }
        if !reservation.is_empty() {
            let done = self.bind_volumes(reservation, node, timeouts.volumes).await;
            done.inspect_err(|_| self.metrics.volumes_failed())?;
            self.write_devices(reservation).await?;
        }
        if !reservation.of_node.is_empty() {
            let status = json!({"nodeAllocatableResourceClaimStatuses": reservation.of_node});
            self.patch_now(pod, status).await?;
        }
        let written = |key: &ObjectKey| reservation.devices.iter().any(|claim| object_key(claim) == *key);
        let others: Vec<ObjectKey> = pod.device_claim_keys().filter(|key| !written(key)).collect();
        let allocated = self.allocated(&others);
        tokio::time::timeout(timeouts.devices, allocated).await.map_err(|_| BindError::DevicesTimeout)?;
        let claims = pod.device_claim_keys().chain(made.map(object_key));
        let waiting: Vec<ObjectKey> = claims.filter(|key| self.is_conditional(key)).collect();
        if !waiting.is_empty() {
            let note = format!("waiting for binding conditions for device on node {node}");
            self.event(pod, EventType::Normal, "BindingConditionsPending", "Scheduling", &note);
            let began = self.clock.now();
            let done = self.devices_ready(&waiting, timeouts.devices).await;
            let all = pod.device_claim_keys().chain(made.map(object_key));
            self.waited(&all.collect::<Vec<_>>(), &pod.scheduler_name, &done, self.since(began));
            if done.is_err() {
                self.give_back(pod, &waiting).await?;
            }
            done?;
        }
        Ok(())
    }

    /// Binds the volumes of a reservation.
    async fn bind_volumes(
        &self,
        reservation: &Reservation,
        node: &str,
        timeout: Duration,
    ) -> Result<(), BindError> {
        self.write(reservation).await?;
        let bound = self.claims_bound(reservation, node);
        tokio::time::timeout(timeout, bound).await.map_err(|_| BindError::Timeout)?
    }

    /// Tells how the wait for the devices of a pod's claims ended.
    fn waited(&self, claims: &[ObjectKey], profile: &str, done: &Result<(), BindError>, seconds: f64) {
        let status = match done {
            Ok(()) => "success",
            Err(BindError::DevicesTimeout) => "timeout",
            Err(BindError::Devices(_)) => "failure",
            Err(_) => "error",
        };
        for claim in claims.iter().filter_map(|key| self.caches.devices.store().get(key)) {
            let drivers = dynamic_resources::drivers(&claim);
            self.metrics.devices_waited((profile, status), drivers, seconds);
        }
    }

    async fn bind_now(&self, pod: &PodInfo, object: Option<&Pod>, node: &str) -> Result<(), BindError> {
        if let Some(object) = object
            && self.extenders.bind(object, node).await?
        {
            return Ok(());
        }
        let began = self.clock.now();
        let done = self.post_binding(pod, node).await;
        self.called(Call::Binding, done.is_ok(), began);
        Ok(done?)
    }

    async fn write(&self, reservation: &Reservation) -> Result<(), kube::Error> {
        for volume in &reservation.volumes {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            let written = api.replace(name, &PostParams::default(), volume).await?;
            // An older state would tell that nobody has it.
            let version = written.metadata.resource_version.clone().unwrap_or_default();
            self.caches.volumes.wait_seen(&ObjectKey::cluster(name), &version).await;
        }
        for claim in &reservation.claims {
            let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let written = api.replace(name, &PostParams::default(), claim).await?;
            // An older state would tell that the node was not selected.
            let version = written.metadata.resource_version.clone().unwrap_or_default();
            self.caches.claims.wait_seen(&ObjectKey::new(namespace, name), &version).await;
        }
        Ok(())
    }

    async fn write_devices(&self, reservation: &Reservation) -> Result<(), BindError> {
        for claim in &reservation.devices {
            self.write_claim(claim).await?;
        }
        Ok(())
    }

    /// Writes a claim. Others may have written it meanwhile, as do pods that share it: then it is written again on top of
    /// that, if it is still to be had.
    async fn write_claim(&self, claim: &ResourceClaim) -> Result<(), BindError> {
        let key = object_key(claim);
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let seen = self.caches.devices.store().get(&key);
        let is_new = dynamic_resources::is_new(claim, seen.as_deref());
        let mut next = claim.clone();
        for _ in 1..CLAIM_TRIES {
            match self.write_once(&mut next).await {
                Err(error) if client::is_conflict(&error) => {}
                done => return Ok(done?),
            }
            let fresh = api.get(&key.name).await?;
            next = dynamic_resources::rebased(claim, &fresh, is_new).map_err(BindError::Claim)?;
        }
        Ok(self.write_once(&mut next).await?)
    }

    /// First the finalizer: what is allocated must not vanish.
    async fn write_once(&self, claim: &mut ResourceClaim) -> Result<(), kube::Error> {
        let key = object_key(claim);
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        // A write that changes nothing keeps the version.
        let kept = api.replace(&key.name, &PostParams::default(), claim).await?;
        claim.metadata.resource_version = kept.metadata.resource_version;
        self.write_allocated(claim).await.map(drop)
    }

    /// Writes which devices a claim has, and since when.
    async fn write_allocated(&self, claim: &mut ResourceClaim) -> Result<ResourceClaim, kube::Error> {
        if let Some(allocation) = claim.status.as_mut().and_then(|status| status.allocation.as_mut()) {
            allocation.allocation_timestamp.get_or_insert_with(|| self.clock.time());
        }
        let key = object_key(claim);
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = api.replace_status(&key.name, &PostParams::default(), claim).await?;
        if dynamic_resources::has_conditions(&written) {
            // An older state would tell that there is nothing to wait for.
            let version = written.metadata.resource_version.clone().unwrap_or_default();
            self.caches.devices.wait_seen(&key, &version).await;
        }
        Ok(written)
    }

    /// Waits until claims have their devices that are written with other pods of a group; for ever where no news come any
    /// more, since the daemon ends then.
    async fn allocated(&self, claims: &[ObjectKey]) {
        let mut changed = self.caches.changed.clone();
        let has_devices = |key: &ObjectKey| {
            let claim = self.caches.devices.store().get(key);
            claim.is_none_or(|claim| claim.status.as_ref().is_some_and(|status| status.allocation.is_some()))
        };
        loop {
            changed.borrow_and_update();
            if claims.iter().all(has_devices) {
                return;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn is_conditional(&self, key: &ObjectKey) -> bool {
        self.caches.devices.store().get(key).is_some_and(|claim| dynamic_resources::has_conditions(&claim))
    }

    /// Waits until the devices of all claims are ready, or until it is clear that they will not be; for ever where no news
    /// come any more, since the daemon ends then.
    async fn devices_ready(&self, claims: &[ObjectKey], timeout: Duration) -> Result<(), BindError> {
        let mut changed = self.caches.changed.clone();
        loop {
            changed.borrow_and_update();
            let mut left: Option<Duration> = None;
            for key in claims {
                let Some(claim) = self.caches.devices.store().get(key) else {
                    return Err(BindError::NoClaim(key.name.to_string()));
                };
                let of_claim = dynamic_resources::time_left(&claim, timeout, self.clock.now())
                    .map_err(BindError::Devices)?;
                left = left.into_iter().chain(of_claim).min();
            }
            let Some(left) = left else { return Ok(()) };
            match tokio::time::timeout(left, changed.changed()).await {
                Err(_) => return Err(BindError::DevicesTimeout),
                Ok(Err(_)) => std::future::pending().await,
                Ok(Ok(())) => {}
            }
        }
    }

    /// Takes devices that did not become ready from the pod's claims, so that it may get others.
    async fn give_back(&self, pod: &PodInfo, claims: &[ObjectKey]) -> Result<(), kube::Error> {
        let cached = claims.iter().filter_map(|key| self.caches.devices.store().get(key));
        for claim in cached.filter_map(|claim| dynamic_resources::given_back(&claim, &[&pod.uid])) {
            self.write_released(&claim).await?;
        }
        Ok(())
    }

    /// Writes a claim that was given back, in the background. Who was faster is seen, and the pod tried again.
    pub fn release(&self, claim: Release) {
        let actor = self.clone();
        self.tasks.spawn("release", async move {
            let claim = match claim {
                Release::GiveBack(claim) => claim,
                Release::Delete(claim) => return actor.delete_claim(&claim).await,
            };
            if let Err(error) = actor.write_released(&claim).await {
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(claim = name, error = %error, "claim not given back");
            }
        });
    }

    async fn write_released(&self, claim: &ResourceClaim) -> Result<(), kube::Error> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), namespace);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        match api.replace_status(name, &PostParams::default(), claim).await {
            Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Waits until all claims are bound, or until it is clear that they will not be for this node.
    async fn claims_bound(&self, reservation: &Reservation, node: &str) -> Result<(), BindError> {
        let mut changed = self.caches.changed.clone();
        loop {
            changed.borrow_and_update();
            let mut all = true;
            for key in &reservation.awaited {
                all &= self.is_bound(key, reservation, node).map_err(BindError::Volumes)?;
            }
            if all {
                return Ok(());
            }
            if changed.changed().await.is_err() {
                // No news come any more: the daemon ends, and the pod is another's to bind.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether a claim has the volume that was chosen, or is made, for it.
    fn is_bound(&self, key: &ObjectKey, reservation: &Reservation, node: &str) -> Result<bool, Reason> {
        let volume = |name: &str| self.caches.volumes.store().get(&ObjectKey::cluster(name));
        let Some(claim) = self.caches.claims.store().get(key) else {
            return Err(format!("persistentvolumeclaim {:?} not found", key.name).into());
        };
        let Some(object) = self.caches.nodes.store().get(&ObjectKey::cluster(node)) else {
            return Err(format!("failed to get node {node:?}: node {node:?} not found").into());
        };
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let node = (node, &labels);
        match reservation.volume_for(key) {
            Some(chosen) => {
                let name = chosen.metadata.name.as_deref().unwrap_or_default();
                let Some(volume) = volume(name) else {
                    return Err(
                        format!("failed to check binding: persistentvolume {name:?} not found").into()
                    );
                };
                volume_binding::is_given(&claim, &volume, node)
            }
            None => {
                let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
                volume_binding::is_made(&claim, volume(name).as_ref(), node)
            }
        }
    }

    async fn post_binding(&self, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        api.create_subresource::<Value, Value>("binding", &pod.name, &PostParams::default(), &body)
            .await
            .map(drop)
    }

    /// Tells why a pod found no node: event and condition; `nominated` replaces the node room is made on.
    pub fn unschedulable(
        &self,
        pod: &Arc<PodInfo>,
        reason: &'static str,
        message: String,
        nominated: Option<String>,
    ) {
        self.event(pod, EventType::Warning, "FailedScheduling", "Scheduling", &message);
        let told = self.told(pod, "PodScheduled");
        let condition = condition(("PodScheduled", "False"), (reason, &message), &told, self.clock.time());
        if nominated.is_none() && told.condition.as_ref() == Some(&condition) {
            return;
        }
        let mut status = json!({"conditions": [condition]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = if node.is_empty() { Value::Null } else { node.into() };
        }
        self.patch_status(pod, status);
    }

    /// Tells that no room is made for a pod any more.
    pub fn denominate(&self, pod: &Arc<PodInfo>) {
        self.patch_status(pod, json!({"nominatedNodeName": null}));
    }

    /// A condition of a pod as the server last showed it.
    fn told(&self, pod: &PodInfo, kind: &str) -> Told {
        let object = self.caches.pods.store().get(&ObjectKey::new(pod.namespace.as_str(), pod.name.as_str()));
        let Some(object) = object.filter(|object| object.metadata.uid.as_deref() == Some(&pod.uid)) else {
            return Told::default();
        };
        let conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let condition = { conditions }.find(|condition| condition.type_ == kind).cloned();
        Told { condition, generation: object.metadata.generation }
    }

    /// Evicts pods for more important ones, in the background; that all have been told to go comes back as a change.
    pub fn evict(&self, victims: Vec<Arc<PodInfo>>, preemptor: Preemptor) {
        let actor = self.clone();
        self.tasks.spawn("preemption", async move {
            let began = actor.clock.now();
            let done = actor.evict_now(&victims, &preemptor).await;
            actor.metrics.evicted(done.is_ok(), actor.since(began));
            // The loop is gone only when the daemon drains.
            drop(actor.back.send(Change::MadeRoom(preemptor)));
        });
    }

    /// Evicts pods for more important ones, and returns once all have been told to go.
    ///
    /// # Errors
    /// When one of them cannot be told; the others are.
    pub async fn evict_now(
        &self,
        victims: &[Arc<PodInfo>],
        preemptor: &Preemptor,
    ) -> Result<(), kube::Error> {
        let all = victims.iter().map(|victim| self.evict_one(victim, preemptor));
        let done = futures::future::join_all(all).await;
        for (victim, result) in victims.iter().zip(&done) {
            if let Err(error) = result {
                tracing::error!(pod = victim.key(), %error, "eviction failed");
            }
        }
        done.into_iter().collect()
    }

    /// Writes how a group of pods stands.
    pub fn group_status(&self, group: &GroupInfo, condition: Condition) {
        let (actor, key) = (self.clone(), group.key());
        self.tasks.spawn("pod group status", async move {
            let api: Api<PodGroup> = Api::namespaced(actor.client.clone(), &key.namespace);
            let body = json!({"status": {"conditions": [condition]}});
            match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(body)).await {
                Err(e) if !client::is_not_found(&e) => {
                    tracing::warn!(group = %key, error = %e, "status not written")
                }
                _ => {}
            }
        });
    }

    async fn evict_one(&self, victim: &PodInfo, preemptor: &Preemptor) -> Result<(), kube::Error> {
        let Preemptor { reference, node, scheduler } = preemptor;
        let kind = reference.kind.as_deref().unwrap_or_default().to_lowercase();
        let uid = reference.uid.as_deref().unwrap_or_default();
        let note = format!("Preempted by {kind} {uid} on node {node}");
        let why = ("Preempted", "Preempting");
        if self.cancel(victim, BindError::Preempted) {
            let note = format!("{note} (in kube-scheduler memory).");
            self.event_with(victim, EventType::Normal, why, &note, Some(reference));
            return Ok(());
        }
        let message = format!("{scheduler}: preempting to accommodate a higher priority {kind}");
        let (target, reason) = (("DisruptionTarget", "True"), ("PreemptionByScheduler", &*message));
        let condition = condition(target, reason, &self.told(victim, target.0), self.clock.time());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.namespace);
        let same = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        // Why it goes is written before it does.
        let gone = match self.patch_now(victim, json!({"conditions": [condition]})).await {
            Ok(()) => api.delete(&victim.name, &params).await.map(drop),
            Err(error) => Err(error),
        };
        match gone {
            Ok(()) => {
                self.event_with(victim, EventType::Normal, why, &note, Some(reference));
                Ok(())
            }
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn patch_status(&self, pod: &Arc<PodInfo>, status: Value) {
        let (actor, pod) = (self.clone(), pod.clone());
        self.metrics.call_waits(Call::Status, 1);
        self.tasks.spawn("pod status", async move {
            actor.metrics.call_waits(Call::Status, -1);
            let began = actor.clock.now();
            let written = actor.write_status(&pod, status).await;
            actor.called(Call::Status, written, began);
        });
    }

    /// Tells how a call went that nobody waited for.
    fn called(&self, call: Call, well: bool, began: Timestamp) {
        let took = self.clock.now().duration_since(began).as_secs_f64();
        self.metrics.called(call, well, took);
    }

    async fn patch_now(&self, pod: &PodInfo, status: Value) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let body = json!({"metadata": {"uid": pod.uid}, "status": status});
        api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(body)).await.map(drop)
    }

    /// Whether it was written, or there is nobody to write it of.
    async fn write_status(&self, pod: &PodInfo, status: Value) -> bool {
        match self.patch_now(pod, status).await {
            Err(e) if !client::is_not_found(&e) => {
                tracing::warn!(pod = pod.key(), error = %e, "status not written");
                false
            }
            _ => true,
        }
    }

    /// Tells that a pod which is being deleted finds no node any more.
    pub fn skipped(&self, pod: &PodInfo) {
        let note = format!("skip schedule deleting pod: {}", pod.key());
        self.event(pod, EventType::Warning, "FailedScheduling", "Scheduling", &note);
    }

    fn event(&self, pod: &PodInfo, kind: EventType, reason: &str, action: &str, note: &str) {
        self.event_with(pod, kind, (reason, action), note, None);
    }

    fn event_with(
        &self,
        pod: &PodInfo,
        kind: EventType,
        (reason, action): (&str, &str),
        note: &str,
        related: Option<&ObjectReference>,
    ) {
        let recorder = self.recorders.get(&pod.scheduler_name).or_else(|| self.recorders.values().next());
        if let Some(recorder) = recorder {
            recorder.event(&about(pod), kind, reason, action, shortened(note), related);
        }
    }
}

/// The longest note an event may have, in bytes.
const LONGEST: usize = 1024;
/// What notes end in that were longer.
const CUT: &str = " ...";

/// A note as an event takes it.
fn shortened(note: &str) -> String {
    if note.len() <= LONGEST {
        return note.to_owned();
    }
    let end = (0..=LONGEST - CUT.len()).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{CUT}", &note[..end])
}

fn about(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        resource_version: Some(pod.resource_version.clone()),
        ..ObjectReference::default()
    }
}

/// What is known of a condition of a pod.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The condition.
    condition: Option<PodCondition>,
    /// The pod's generation.
    generation: Option<i64>,
}

/// A condition to write. It holds since it was told first.
fn condition(
    (kind, status): (&str, &str),
    (reason, message): (&str, &str),
    told: &Told,
    now: Time,
) -> PodCondition {
    let before = told.condition.clone().unwrap_or_default();
    let since = before.last_transition_time.filter(|_| before.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or(now)),
        observed_generation: told.generation,
        last_probe_time: before.last_probe_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_holds_since_its_status_did() {
        let time = |text: &str| Time(text.parse().unwrap());
        let (first, later) = (time("2026-01-01T00:00:00Z"), time("2026-01-01T00:01:00Z"));
        let told =
            |condition: &PodCondition| Told { condition: Some(condition.clone()), generation: Some(7) };
        let refused = ("PodScheduled", "False");
        let fresh = condition(refused, ("Unschedulable", "no"), &Told::default(), first.clone());
        assert_eq!((&fresh.last_transition_time, fresh.observed_generation), (&Some(first.clone()), None));
        let again = condition(refused, ("Unschedulable", "not yet"), &told(&fresh), later.clone());
        assert_eq!(again.last_transition_time, Some(first), "the status is the same");
        assert_eq!((again.message.as_deref(), again.observed_generation), (Some("not yet"), Some(7)));
        assert_eq!(condition(refused, ("Unschedulable", "not yet"), &told(&again), later.clone()), again);
        let other = condition(("PodScheduled", "True"), ("", ""), &told(&again), later.clone());
        assert_eq!(other.last_transition_time, Some(later));
    }

    #[test]
    fn long_notes_end_in_dots_and_stay_text() {
        assert_eq!(shortened("short"), "short");
        let exact = "x".repeat(LONGEST);
        assert_eq!(shortened(&exact), exact);
        let cut = shortened(&"x".repeat(LONGEST + 1));
        assert_eq!((cut.len(), cut.ends_with("x ...")), (LONGEST, true));
        let cut = shortened(&"\u{e9}".repeat(LONGEST));
        assert!(cut.len() <= LONGEST && cut.ends_with("\u{e9} ..."));
    }
}
