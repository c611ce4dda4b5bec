//! Claims and volumes are brought together.
//!
//! ```text
//! claim or volume changed → next step (pure) → one write → wait until it is seen → next step …
//! ```
//! Contract: upstream's `persistentvolume-binder-controller` (`pkg/controller/volume/persistentvolume`). The volume is
//! always written first: it is what two claims may want. Provisioning and deletion are for external provisioners, which
//! the annotations here call; only host paths are made and deleted here, and volumes of the policy `Recycle` are emptied
//! by pods.

mod host_path;
mod matching;
mod metrics;
mod plan;
mod recycle;
mod relay;

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::{Informer, ListWatch, Object},
    meta::{ObjectKey, object_key, remove_finalizer},
    task::Tasks,
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use tokio::sync::Mutex;
use tokio_util::sync::DropGuard;

use self::recycle::{Memory, Next};
use super::{Context, enqueue_changes, pod_disruption::is_over, queue_every, volume_protection::claims_of};
use crate::settings::RecyclerSettings;

/// Pods by the claims they use, as `namespace/name`.
const BY_CLAIM: &str = "claim to be bound";
/// Writes for one key before others have their turn: binding takes four.
const STEPS: usize = 6;

#[derive(Clone)]
struct Controller {
    client: Client,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    recorder: Recorder,
    /// Whether provisioners are called.
    provision: bool,
    /// Whether host paths are made.
    host_paths: bool,
    recycler: RecyclerSettings,
    clock: SharedClock,
    /// How long a volume that could not be emptied rests.
    rest: Duration,
    /// Volumes that are being emptied, by name.
    emptying: Arc<parking_lot::Mutex<HashMap<String, Memory>>>,
    /// What is told of their pods is told of them for so long.
    relays: Arc<parking_lot::Mutex<HashMap<String, DropGuard>>>,
    tasks: Tasks,
    claim_queue: WorkQueue<ObjectKey>,
    volume_queue: WorkQueue<ObjectKey>,
    /// Who holds it may write: both workers write claims and volumes.
    turn: Arc<Mutex<()>>,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        volumes: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        classes: ctx.informers.get(ListWatch::default()),
        pods: ctx.informers.get(ListWatch::default()),
        recorder: ctx.recorder("persistentvolume-controller"),
        provision: ctx.settings.provision,
        host_paths: ctx.settings.host_paths,
        recycler: ctx.settings.recycler.clone(),
        clock: ctx.clock.clone(),
        // The next look at everything finds it rested.
        rest: ctx.settings.binder_period / 2,
        emptying: Arc::default(),
        relays: Arc::default(),
        tasks: ctx.tasks.clone(),
        claim_queue: WorkQueue::new("claims"),
        volume_queue: WorkQueue::new("volumes"),
        turn: Arc::default(),
    };
    controller.pods.add_index(BY_CLAIM, |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        claims_of(pod).into_iter().map(|name| format!("{namespace}/{name}")).collect()
    });
    metrics::register(&controller.volumes, &controller.claims);
    enqueue_changes(&controller.claims, &controller.claim_queue);
    let of_volume = (controller.volume_queue.clone(), controller.claim_queue.clone());
    let claims = controller.claims.clone();
    controller.volumes.on_event(move |event| {
        let volume = event.object();
        of_volume.0.add(object_key(volume.as_ref()));
        for claim in claims.store().list() {
            if plan::concerns(volume, &claim) {
                of_volume.1.add(object_key(claim.as_ref()));
            }
        }
    });
    let of_pod = controller.volume_queue.clone();
    controller.pods.on_event(move |event| {
        if let Some(volume) = recycle::emptied_by(event.object()) {
            of_pod.add(ObjectKey::cluster(volume));
        }
    });
    let all = controller.clone();
    queue_every(&ctx.tasks, "persistentvolume-binder-controller", ctx.settings.binder_period, move || {
        all.queue_all()
    });
    let (of_claims, of_volumes) = (controller.clone(), controller.clone());
    run_workers(&ctx.tasks, &controller.claim_queue, 1, move |key| {
        let controller = of_claims.clone();
        async move { controller.sync_claim(&key).await }
    });
    run_workers(&ctx.tasks, &controller.volume_queue, 1, move |key| {
        let controller = of_volumes.clone();
        async move { controller.sync_volume(&key).await }
    });
}

impl Controller {
    fn queue_all(&self) {
        for volume in self.volumes.store().list() {
            self.volume_queue.add(object_key(volume.as_ref()));
        }
        for claim in self.claims.store().list() {
            self.claim_queue.add(object_key(claim.as_ref()));
        }
    }

    fn queue_volumes_of(&self, claim: &ObjectKey) {
        for volume in self.volumes.store().list() {
            let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            let of_claim = |r: &k8s_openapi::api::core::v1::ObjectReference| {
                r.name.as_deref() == Some(&claim.name) && r.namespace.as_deref() == Some(&claim.namespace)
            };
            if reference.is_some_and(of_claim) {
                self.volume_queue.add(object_key(volume.as_ref()));
            }
        }
    }

    async fn synced(&self) {
        self.volumes.wait_synced().await;
        self.claims.wait_synced().await;
        self.classes.wait_synced().await;
    }

    async fn sync_claim(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.synced().await;
        let _turn = self.turn.lock().await;
        if self.claims.store().get(key).is_none() {
            // A claim that is gone releases its volume.
            self.queue_volumes_of(key);
            return Ok(Outcome::Done);
        }
        for _ in 0..STEPS {
            if let Some(outcome) = ended(self.step_claim(key).await) {
                return outcome;
            }
        }
        Ok(Outcome::RequeueAfter(Duration::ZERO))
    }

    async fn sync_volume(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.synced().await;
        let _turn = self.turn.lock().await;
        for _ in 0..STEPS {
            if let Some(outcome) = ended(self.step_volume(key).await) {
                return outcome;
            }
        }
        Ok(Outcome::RequeueAfter(Duration::ZERO))
    }

    /// Pods that use a claim and have no node.
    fn waiting_pods(&self, claim: &ObjectKey) -> Vec<String> {
        let pods = self.pods.store().by_index(BY_CLAIM, &claim.to_string());
        let has_node = |pod: &Pod| {
            pod.spec.as_ref().is_some_and(|s| s.node_name.as_ref().is_some_and(|n| !n.is_empty()))
        };
        let mut names: Vec<String> =
            pods.iter().filter(|pod| !has_node(pod)).filter_map(|pod| pod.metadata.name.clone()).collect();
        names.sort();
        names
    }

    /// One write for a claim; whether another look is needed.
    async fn step_claim(&self, key: &ObjectKey) -> Result<bool, kube::Error> {
        let Some(claim) = self.claims.store().get(key) else { return Ok(false) };
        let all = self.classes.store().list();
        let classes = plan::Classes { all: &all, provision: self.provision, host_paths: self.host_paths };
        let (step, tell) = plan::claim(&claim, &self.volumes.store().list(), classes);
        if let Some(tell) = tell {
            self.tell(reference(claim.as_ref()), plan::waiting(tell, &self.waiting_pods(key)));
        }
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        match step {
            plan::ClaimStep::Settled => return Ok(false),
            plan::ClaimStep::Make(volume) => return self.make(&claim, &volume).await,
            plan::ClaimStep::Reserve(volume) => self.replace_volume(&volume).await?,
            plan::ClaimStep::VolumeBound(volume) => self.phase(&volume, "Bound", None).await?,
            plan::ClaimStep::Write(next) => {
                let name = next.metadata.name.clone().unwrap_or_default();
                let written = claims.replace(&name, &PostParams::default(), &next).await;
                metrics::written(&claim, &next, written.is_ok());
                see(&self.claims, &written?).await;
            }
            plan::ClaimStep::Status(next) => {
                let name = next.metadata.name.clone().unwrap_or_default();
                let written = claims.replace_status(&name, &PostParams::default(), &next).await?;
                see(&self.claims, &written).await;
            }
        }
        Ok(true)
    }

    /// The same for a volume.
    async fn step_volume(&self, key: &ObjectKey) -> Result<bool, kube::Error> {
        let Some(volume) = self.volumes.store().get(key) else {
            let memory = self.forget(&key.name);
            if let Some(Memory::Runs(uid)) = memory {
                // Nobody waits for the pod any more.
                let pods = self.pods.store().list();
                let pod = pods.iter().find(|pod| pod.metadata.uid.as_ref() == Some(&uid));
                self.end(pod.map(AsRef::as_ref)).await?;
            }
            return Ok(false);
        };
        let claim = match plan::claim_key(&volume) {
            Some(claim) => self.latest_claim(&volume, &claim).await?,
            None => None,
        };
        let (step, tell) = plan::volume(&volume, claim.as_ref());
        if step != plan::VolumeStep::Recycle {
            self.forget(&key.name);
        }
        if let Some(mut tell) = tell {
            if let (Some(note), Some(claim)) = (tell.to_claim.take(), &claim) {
                self.tell(reference(claim), plan::Tell { note, ..tell.clone() });
            }
            self.tell(reference(volume.as_ref()), tell);
        }
        match step {
            plan::VolumeStep::Settled => return Ok(false),
            plan::VolumeStep::Recycle => return self.recycle(&volume).await,
            plan::VolumeStep::Delete(path) => return self.delete(&volume, path).await,
            plan::VolumeStep::Phase(phase, message) => self.phase(&volume, phase, message.as_deref()).await?,
            plan::VolumeStep::Write(next) => self.replace_volume(&next).await?,
            plan::VolumeStep::Claim(claim) => {
                self.claim_queue.add(claim);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The claim of a volume; the server is asked where the cache would have the volume given up.
    async fn latest_claim(
        &self,
        volume: &PersistentVolume,
        key: &ObjectKey,
    ) -> Result<Option<PersistentVolumeClaim>, kube::Error> {
        let cached = self.claims.store().get(key);
        if cached.is_none() && plan::was_released(volume) {
            return Ok(None);
        }
        if let Some(claim) = cached.filter(|c| plan::is_claimed_by(volume, c)) {
            return Ok(Some((*claim).clone()));
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(api.get_opt(&key.name).await?.filter(|c| plan::is_claimed_by(volume, c)))
    }

    async fn replace_volume(&self, volume: &PersistentVolume) -> Result<(), kube::Error> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = volume.metadata.name.clone().unwrap_or_default();
        let written = api.replace(&name, &PostParams::default(), volume).await?;
        see(&self.volumes, &written).await;
        Ok(())
    }

    async fn phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<(), kube::Error> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut next = volume.clone();
        let status = next.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = message.map(str::to_owned);
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let written = api.replace_status(name, &PostParams::default(), &next).await?;
        see(&self.volumes, &written).await;
        Ok(())
    }

    fn tell(&self, about: k8s_openapi::api::core::v1::ObjectReference, tell: plan::Tell) {
        let kind = if tell.warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event(&about, kind, tell.reason, "Binding", tell.note, None);
    }
}

// === what this process does with volumes itself ===

/// Does something with files where it keeps nobody from running.
async fn with_files(what: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(what).await {
        Ok(done) => done.map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    }
}

impl Controller {
    /// Makes a path and its volume; the claim is bound to it in the next steps.
    async fn make(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<bool, kube::Error> {
        let spec = volume.spec.as_ref();
        let path =
            spec.and_then(|s| s.host_path.as_ref()).map(|source| source.path.clone()).unwrap_or_default();
        if let Err(why) = with_files(move || host_path::make(&path)).await {
            let class = spec.and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default();
            let kind = EventType::Warning;
            let note = plan::not_made(class, &why);
            self.recorder.event(&reference(claim), kind, "ProvisioningFailed", "Binding", note, None);
            return Ok(false);
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), volume).await {
            Ok(made) => {
                see(&self.volumes, &made).await;
                let name = made.metadata.name.unwrap_or_default();
                let note = format!("Successfully provisioned volume {name} using {}", host_path::PLUGIN);
                let kind = EventType::Normal;
                self.recorder.event(&reference(claim), kind, "ProvisioningSucceeded", "Binding", note, None);
                Ok(true)
            }
            // Its event brings the claim back.
            Err(e) if client::is_already_exists(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Deletes a volume and what is at its path, that first.
    async fn delete(&self, volume: &PersistentVolume, path: String) -> Result<bool, kube::Error> {
        if let Err(why) = with_files(move || host_path::remove(&path)).await {
            let (step, tell) = plan::failed(volume, "VolumeFailedDelete", why);
            return self.fail(volume, step, tell).await;
        }
        let mut next = volume.clone();
        let mut same = Preconditions { uid: volume.metadata.uid.clone(), resource_version: None };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        if remove_finalizer(&mut next.metadata, plan::BY_PLUGIN) {
            let written = api.replace(name, &PostParams::default(), &next).await?;
            same.resource_version.clone_from(&written.metadata.resource_version);
        }
        if volume.metadata.deletion_timestamp.is_none() {
            api.delete(name, &DeleteParams::default().preconditions(same)).await?;
        }
        Ok(false)
    }

    /// Has a pod empty the volume, and makes it free for others when that is done.
    async fn recycle(&self, volume: &PersistentVolume) -> Result<bool, kube::Error> {
        self.pods.wait_synced().await;
        let name = volume.metadata.name.clone().unwrap_or_default();
        let place = recycle::place(volume, &self.recycler).unwrap_or_default();
        let pod = self.pods.store().get(&ObjectKey::new(place.0.as_str(), place.1.as_str()));
        let memory = self.emptying.lock().get(&name).cloned();
        let (users, now) = (self.users(volume), self.clock.now());
        let next = recycle::next(volume, &self.recycler, &users, pod.as_deref(), memory.as_ref(), now);
        let remember = |memory| drop(self.emptying.lock().insert(name.clone(), memory));
        let tell = |reason, note: String| {
            let about = reference(volume);
            self.recorder.event(&about, EventType::Normal, reason, "Binding", note, None);
        };
        match next {
            Next::Wait => Ok(false),
            Next::Unable => {
                let note = "No recycler plugin found for the volume!".to_owned();
                let (step, tell) = plan::failed(volume, "VolumeFailedRecycle", note);
                self.fail(volume, step, tell).await
            }
            Next::InUse(pods) => {
                tell("VolumeFailedRecycle", format!("Volume is used by pods: {pods}"));
                Ok(false)
            }
            Next::Start(pod) => match self.begin(&pod).await {
                Ok(made) => {
                    let (client, recorder) = (self.client.clone(), self.recorder.clone());
                    let relay = relay::follow(&self.tasks, client, recorder, volume, &made);
                    self.relays.lock().insert(name.clone(), relay);
                    remember(Memory::Runs(made.metadata.uid.unwrap_or_default()));
                    Ok(false)
                }
                Err(error) => {
                    let why = format!("unexpected error creating recycler pod:  {}", chain(&error));
                    self.not_emptied(volume, &why).await
                }
            },
            Next::Replace => {
                self.end(pod.as_deref()).await?;
                self.not_emptied(volume, "old recycler pod found, will retry later").await
            }
            Next::Failed(why) => {
                self.end(pod.as_deref()).await?;
                self.not_emptied(volume, &format!("failed to recycle volume: {why}")).await
            }
            Next::Emptied => {
                self.end(pod.as_deref()).await?;
                self.relays.lock().remove(&name);
                remember(Memory::Emptied);
                tell("VolumeRecycled", "Volume recycled".to_owned());
                Ok(true)
            }
            Next::Release => {
                self.replace_volume(&plan::unbound_again(volume)).await?;
                self.forget(&name);
                Ok(true)
            }
        }
    }

    /// Nothing is known of the emptying of a volume any more; what was.
    fn forget(&self, name: &str) -> Option<Memory> {
        self.relays.lock().remove(name);
        self.emptying.lock().remove(name)
    }

    /// Pods that use the volume of a claim that is gone; a claim of the name has another volume.
    fn users(&self, volume: &PersistentVolume) -> Vec<String> {
        let Some(claim) = plan::claim_key(volume) else { return Vec::new() };
        if self.claims.store().get(&claim).is_some() {
            return Vec::new();
        }
        let pods = self.pods.store().by_index(BY_CLAIM, &claim.to_string());
        let mut users: Vec<String> =
            pods.iter().filter(|pod| !is_over(pod)).map(|pod| object_key(pod.as_ref()).to_string()).collect();
        users.sort();
        users
    }

    /// Makes a pod; what the server made of it.
    async fn begin(&self, pod: &Pod) -> Result<Pod, kube::Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let made = api.create(&PostParams::default(), pod).await?;
        see(&self.pods, &made).await;
        Ok(made)
    }

    /// Deletes a pod that is still there.
    async fn end(&self, pod: Option<&Pod>) -> Result<(), kube::Error> {
        let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) else { return Ok(()) };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match api.delete(name, &DeleteParams::default().preconditions(same)).await {
            Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Tells that a volume could not be emptied, and leaves it alone for a while.
    async fn not_emptied(&self, volume: &PersistentVolume, why: &str) -> Result<bool, kube::Error> {
        let name = volume.metadata.name.clone().unwrap_or_default();
        // A rest without end is none that anybody waits for.
        let until = self.clock.now().checked_add(self.rest).unwrap_or(jiff::Timestamp::MAX);
        self.relays.lock().remove(&name);
        self.emptying.lock().insert(name, Memory::Rests(until));
        let (step, tell) = plan::failed(volume, "VolumeFailedRecycle", format!("Recycle failed: {why}"));
        self.fail(volume, step, tell).await
    }

    /// Writes that a volume could not be dealt with; it is not looked at again at once.
    async fn fail(
        &self,
        volume: &PersistentVolume,
        step: plan::VolumeStep,
        tell: Option<plan::Tell>,
    ) -> Result<bool, kube::Error> {
        if let plan::VolumeStep::Phase(phase, message) = step {
            self.phase(volume, phase, message.as_deref()).await?;
        }
        if let Some(tell) = tell {
            self.tell(reference(volume), tell);
        }
        Ok(false)
    }
}

/// What a step comes to; nothing where another follows.
fn ended(step: Result<bool, kube::Error>) -> Option<Result<Outcome, kube::Error>> {
    match step {
        Ok(true) => None,
        Ok(false) => Some(Ok(Outcome::Done)),
        // Somebody else has written; what it is now comes with its event.
        Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => {
            Some(Ok(Outcome::RequeueAfter(Duration::from_millis(100))))
        }
        Err(e) => Some(Err(e)),
    }
}

/// Waits until our own write is in the cache.
async fn see<K: Object>(informer: &Informer<K>, written: &K) {
    let version = written.meta().resource_version.clone().unwrap_or_default();
    informer.wait_seen(&object_key(written), &version).await;
}
