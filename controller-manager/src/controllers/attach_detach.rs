//! Volumes are attached to the nodes whose pods use them, and detached from all others.
//!
//! ```text
//! pod → claim → volume ─┐
//! VolumeAttachment ─────┼→ plan per volume (pure) → VolumeAttachments, events
//! node's volumesInUse ──┘                         → volumesAttached of nodes (what kubelets may mount)
//! ```
//! Contract: upstream's `persistentvolume-attach-detach-controller`; VolumeAttachments are named and read as the CSI
//! attacher does (`csi-` and a hash). Volumes of CSI drivers are the only ones that somebody must attach; drivers that
//! do not want it say so in their CSIDriver. What is attached where is read from VolumeAttachments alone: this process
//! remembers nothing but since when a detachment waits and which refusals it has told.

mod metrics;
mod names;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, object_key},
    workqueue::{Outcome, WorkQueue, chain, run_workers},
};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;

use self::plan::{Step, Waiting};
use super::{Context, queue_every, volume_protection::claims_of};
use crate::settings::AttachSettings;

/// Pods by the claims they use, as `namespace/name`.
const BY_CLAIM: &str = "claim";
/// Attachments by volume.
const BY_VOLUME: &str = "volume";
/// Attachments by node.
const BY_NODE: &str = "node";

/// What to look at. One queue and one worker: what nodes may mount and what is detached never cross.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Volume(String),
    Node(String),
}

impl std::fmt::Display for Item {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Item::Volume(name) => write!(out, "volume {name}"),
            Item::Node(name) => write!(out, "node {name}"),
        }
    }
}

#[derive(Clone)]
struct Controller {
    client: Client,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Informer<VolumeAttachment>,
    recorder: Recorder,
    clock: SharedClock,
    settings: AttachSettings,
    queue: WorkQueue<Item>,
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        pods: ctx.informers.get(ListWatch::default()),
        nodes: ctx.informers.get(ListWatch::default()),
        claims: ctx.informers.get(ListWatch::default()),
        volumes: ctx.informers.get(ListWatch::default()),
        drivers: ctx.informers.get(ListWatch::default()),
        attachments: ctx.informers.get(ListWatch::default()),
        recorder: ctx.recorder("attachdetach-controller"),
        clock: ctx.clock.clone(),
        settings: ctx.settings.attach.clone(),
        queue: WorkQueue::new("pvcs"),
        waiting: Arc::default(),
    };
    controller.pods.add_index(BY_CLAIM, |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        claims_of(pod).into_iter().map(|name| format!("{namespace}/{name}")).collect()
    });
    controller
        .attachments
        .add_index(BY_VOLUME, |a| names::volume_of(a).map(str::to_owned).into_iter().collect());
    controller.attachments.add_index(BY_NODE, |a| vec![a.spec.node_name.clone()]);
    metrics::register(&controller);
    controller.watch_volumes();
    controller.watch_nodes();
    controller.watch_attachments();
    if let Some(period) = ctx.settings.attach.sync {
        let all = controller.clone();
        queue_every(&ctx.tasks, "persistentvolume-attach-detach-controller", period, move || all.queue_all());
    }
    let queue = controller.queue.clone();
    run_workers(&ctx.tasks, &queue, 1, move |item| {
        let controller = controller.clone();
        async move { controller.sync(&item).await }
    });
}

// === what is looked at when ===

impl Controller {
    fn watch_volumes(&self) {
        let this = self.clone();
        self.pods.on_event(move |event| {
            let of = |pod: &Pod| (pod.spec.as_ref().and_then(|s| s.node_name.clone()), plan::is_over(pod));
            if let Event::Updated { old, new } = &event
                && of(old) == of(new)
            {
                return;
            }
            let pod = event.object();
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            for claim in claims_of(pod) {
                if let Some(claim) = this.claims.store().get(&ObjectKey::new(namespace.as_str(), claim)) {
                    this.queue_claim(&claim);
                }
            }
        });
        let this = self.clone();
        self.claims.on_event(move |event| this.queue_claim(event.object()));
        let queue = self.queue.clone();
        self.volumes.on_event(move |event| {
            queue.add(Item::Volume(event.object().metadata.name.clone().unwrap_or_default()));
        });
        let this = self.clone();
        self.drivers.on_event(move |event| {
            let driver = event.object().metadata.name.clone();
            let of_driver = |v: &Arc<PersistentVolume>| names::driver(v).map(str::to_owned) == driver;
            for volume in this.volumes.store().list().iter().filter(|v| of_driver(v)) {
                this.queue.add(Item::Volume(volume.metadata.name.clone().unwrap_or_default()));
            }
        });
    }

    fn watch_nodes(&self) {
        let this = self.clone();
        self.nodes.on_event(move |event| {
            if let Event::Updated { old, new } = &event
                && plan::what_matters(old) == plan::what_matters(new)
            {
                return;
            }
            let name = event.object().metadata.name.clone().unwrap_or_default();
            for attachment in this.attachments.store().by_index(BY_NODE, &name) {
                this.queue_attachment(&attachment);
            }
            this.queue.add(Item::Node(name));
        });
    }

    fn watch_attachments(&self) {
        let this = self.clone();
        self.attachments.on_event(move |event| {
            this.queue_attachment(event.object());
            this.queue.add(Item::Node(event.object().spec.node_name.clone()));
            if let Event::Updated { old, new } = &event
                && let Some((kind, reason, note)) = plan::outcome(old, new)
            {
                this.tell(new, kind, reason, &note);
            }
        });
    }

    fn queue_claim(&self, claim: &PersistentVolumeClaim) {
        if let Some(volume) =
            claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|v| !v.is_empty())
        {
            self.queue.add(Item::Volume(volume));
        }
    }

    fn queue_attachment(&self, attachment: &VolumeAttachment) {
        if let Some(volume) = names::volume_of(attachment) {
            self.queue.add(Item::Volume(volume.to_owned()));
        }
    }

    fn queue_all(&self) {
        self.attachments.store().list().iter().for_each(|attachment| self.queue_attachment(attachment));
        for volume in self.volumes.store().list() {
            self.queue.add(Item::Volume(volume.metadata.name.clone().unwrap_or_default()));
        }
    }
}

// === one look ===

impl Controller {
    async fn sync(&self, item: &Item) -> Result<Outcome, kube::Error> {
        self.pods.wait_synced().await;
        self.nodes.wait_synced().await;
        self.claims.wait_synced().await;
        self.volumes.wait_synced().await;
        self.drivers.wait_synced().await;
        self.attachments.wait_synced().await;
        match item {
            Item::Node(name) => self.report(name).await.map(|()| Outcome::Done),
            Item::Volume(name) => self.sync_volume(name).await,
        }
    }

    async fn sync_volume(&self, name: &str) -> Result<Outcome, kube::Error> {
        let mut waiting = self.waiting.lock().remove(name).unwrap_or_default();
        let volume = self.volumes.store().get(&ObjectKey::cluster(name));
        let (steps, again) = self.plan(name, volume.as_deref(), &mut waiting);
        if !waiting.is_empty() {
            self.waiting.lock().insert(name.to_owned(), waiting);
        }
        for step in steps {
            match step {
                Step::Attach(node) => {
                    if let Some(volume) = &volume {
                        self.attach(volume, &node).await?;
                    }
                }
                Step::Refuse(pod, note) => self.tell_failed(&pod, note),
                Step::Detach { attachment, force } => {
                    self.detach(volume.as_deref(), &attachment, force).await?
                }
            }
        }
        Ok(again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    fn plan(
        &self,
        name: &str,
        volume: Option<&PersistentVolume>,
        waiting: &mut Waiting,
    ) -> (Vec<Step>, Option<Duration>) {
        let attachments = self.attachments.store().by_index(BY_VOLUME, name);
        let of_nodes = attachments.iter().map(|a| a.spec.node_name.clone());
        let wanted = self.wanted(volume);
        let nodes: BTreeSet<String> = of_nodes.chain(wanted.keys().cloned()).collect();
        let view = plan::View {
            volume,
            attachments: &attachments,
            nodes: nodes.iter().filter_map(|n| Some((n.as_str(), self.node(n)?))).collect(),
            wanted: &wanted,
            force: self.settings.force_after_timeout,
        };
        plan::plan(&view, waiting, self.clock.now())
    }

    fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.store().get(&ObjectKey::cluster(name))
    }

    /// The nodes a volume must be attached to, each with the pods that use it there.
    fn wanted(&self, volume: Option<&PersistentVolume>) -> BTreeMap<String, Vec<Arc<Pod>>> {
        let mut out: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        let Some(volume) = volume else { return out };
        let Some(claim) = names::claim_of(volume) else { return out };
        let bound = self.claims.store().get(&claim).is_some_and(|claim| plan::is_bound(&claim, volume));
        if !bound || !self.is_attachable(volume) {
            return out;
        }
        for pod in self.pods.store().by_index(BY_CLAIM, &claim.to_string()) {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
            if let Some(node) = node.filter(|_| !plan::is_over(&pod)) {
                out.entry(node).or_default().push(pod);
            }
        }
        out
    }

    /// Whether somebody must attach the volume before a node can mount it.
    fn is_attachable(&self, volume: &PersistentVolume) -> bool {
        let Some(driver) = names::driver(volume) else { return false };
        let known = self.drivers.store().get(&ObjectKey::cluster(driver));
        known.and_then(|d| d.spec.attach_required).unwrap_or(true)
    }

    /// Whether an attachment is one that stays: what its node may mount.
    fn stays(&self, attachment: &VolumeAttachment) -> bool {
        let Some(name) = names::volume_of(attachment) else { return false };
        let volume = self.volumes.store().get(&ObjectKey::cluster(name));
        let mut waiting = self.waiting.lock().get(name).cloned().unwrap_or_default();
        let (steps, _) = self.plan(name, volume.as_deref(), &mut waiting);
        let goes = |step: &Step| matches!(step, Step::Detach { attachment: going, .. } if going.metadata.name == attachment.metadata.name);
        !steps.iter().any(goes)
    }
}

// === writes ===

impl Controller {
    async fn attach(&self, volume: &PersistentVolume, node: &str) -> Result<(), kube::Error> {
        let (Some(name), Some(driver)) = (names::attachment(volume, node), names::driver(volume)) else {
            return Ok(());
        };
        let attachment = VolumeAttachment {
            metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: driver.to_owned(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: volume.metadata.name.clone(),
                    ..VolumeAttachmentSource::default()
                },
            },
            status: None,
        };
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &attachment).await {
            Ok(made) => {
                let version = made.metadata.resource_version.clone().unwrap_or_default();
                self.attachments.wait_seen(&object_key(&made), &version).await;
                Ok(())
            }
            Err(e) if client::is_already_exists(&e) => Ok(()),
            Err(e) => {
                for pod in self.wanted(Some(volume)).remove(node).unwrap_or_default() {
                    let note =
                        plan::message("AttachVolume.Attach failed", volume, &format!(": {}", chain(&e)));
                    self.tell_failed(&pod, note);
                }
                Err(e)
            }
        }
    }

    /// Tells a pod that it waits for a volume that cannot be attached.
    fn tell_failed(&self, pod: &Pod, note: String) {
        let reason = "FailedAttachVolume";
        self.recorder.event(&reference(pod), EventType::Warning, reason, reason, note, None);
    }

    /// Takes the volume from what the node may mount, makes sure that it has not mounted it meanwhile, and lets go.
    async fn detach(
        &self,
        volume: Option<&PersistentVolume>,
        attachment: &VolumeAttachment,
        force: Option<&'static str>,
    ) -> Result<(), kube::Error> {
        if attachment.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let node = &attachment.spec.node_name;
        self.report(node).await?;
        if force.is_none() {
            let now = Api::<Node>::all(self.client.clone()).get_opt(node).await?;
            if now.is_some_and(|node| plan::is_mounted(&node, volume, attachment)) {
                // The node's event brings the volume back.
                return Ok(());
            }
        }
        if let Some(reason) = force {
            metrics::FORCED.with_label_values(&[reason]).inc();
            tracing::warn!(attachment = attachment.metadata.name, node, reason, "detached by force");
        }
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let name = attachment.metadata.name.as_deref().unwrap_or_default();
        match api.delete(name, &DeleteParams::default()).await {
            Err(e) if !client::is_not_found(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Writes what a node may mount into its status, if that says otherwise.
    async fn report(&self, name: &str) -> Result<(), kube::Error> {
        let Some(node) = self.node(name) else { return Ok(()) };
        let attachments = self.attachments.store().by_index(BY_NODE, name);
        let staying = attachments.iter().filter(|a| plan::is_attached(a) && self.stays(a));
        let volume =
            |a: &VolumeAttachment| self.volumes.store().get(&ObjectKey::cluster(names::volume_of(a)?));
        let list: BTreeSet<String> =
            staying.filter_map(|a| names::reported(volume(a).as_deref(), a, &node)).collect();
        if !plan::is_managed(&node) || names::reports(&node).eq(list.iter().map(String::as_str)) {
            return Ok(());
        }
        let list: Vec<_> = list.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        let body = json!({"status": {"volumesAttached": list}});
        let api: Api<Node> = Api::all(self.client.clone());
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&body)).await {
            Ok(written) => {
                let version = written.metadata.resource_version.clone().unwrap_or_default();
                self.nodes.wait_seen(&object_key(&written), &version).await;
                Ok(())
            }
            Err(e) if client::is_not_found(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Tells the pods that wait for an attachment what has come of it.
    fn tell(&self, attachment: &VolumeAttachment, kind: EventType, reason: &str, note: &str) {
        let name = names::volume_of(attachment).unwrap_or_default();
        let volume = self.volumes.store().get(&ObjectKey::cluster(name));
        let pods = self.wanted(volume.as_deref()).remove(&attachment.spec.node_name).unwrap_or_default();
        for pod in pods {
            self.recorder.event(&reference(pod.as_ref()), kind, reason, reason, note, None);
        }
    }
}
