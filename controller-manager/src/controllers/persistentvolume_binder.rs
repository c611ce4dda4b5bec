//! Claims and volumes are brought together.
//!
//! ```text
//! claim or volume changed → next step (pure) → one write → wait until it is seen → next step …
//! ```
//! Contract: upstream's `persistentvolume-binder-controller` (`pkg/controller/volume/persistentvolume`). The volume is
//! always written first: it is what two claims may want. There are no volume plugins in this process: provisioning
//! and deletion are for external provisioners, which the annotations here call.

mod matching;
mod metrics;
mod plan;

use std::{sync::Arc, time::Duration};

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    informer::{Informer, ListWatch, Object},
    meta::{ObjectKey, object_key},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::Mutex;

use super::{Context, enqueue_changes, queue_every, volume_protection::claims_of};

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
        let classes = plan::Classes { all: &all, provision: self.provision };
        let (step, tell) = plan::claim(&claim, &self.volumes.store().list(), classes);
        if let Some(tell) = tell {
            self.tell(reference(claim.as_ref()), plan::waiting(tell, &self.waiting_pods(key)));
        }
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        match step {
            plan::ClaimStep::Settled => return Ok(false),
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
        let Some(volume) = self.volumes.store().get(key) else { return Ok(false) };
        let claim = match plan::claim_key(&volume) {
            Some(claim) => self.latest_claim(&volume, &claim).await?,
            None => None,
        };
        let (step, tell) = plan::volume(&volume, claim.as_ref());
        if let Some(mut tell) = tell {
            if let (Some(note), Some(claim)) = (tell.to_claim.take(), &claim) {
                self.tell(reference(claim), plan::Tell { note, ..tell.clone() });
            }
            self.tell(reference(volume.as_ref()), tell);
        }
        match step {
            plan::VolumeStep::Settled => return Ok(false),
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
