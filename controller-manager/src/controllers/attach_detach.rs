//! Volumes are attached to the nodes whose pods use them, and detached from all others.
//!
//! ```text
//! pod (→ claim) → volume ┐
//! VolumeAttachment ─────┼→ plan per volume (pure) → VolumeAttachments, events
//! node's volumesInUse ──┘                         → volumesAttached of nodes (what kubelets may mount)
//! ```
//! Contract: upstream's `persistentvolume-attach-detach-controller`; VolumeAttachments are named and read as the CSI
//! attacher does (`csi-` and a hash). Drivers that do not want their volumes attached say so in their CSIDriver. iSCSI and
//! fibre channel need nobody: their volumes are attached once the node's status says so, which its kubelet waits for.
//! What is attached where is read from VolumeAttachments and statuses alone: this process remembers nothing but since
//! when a detachment waits and which refusals it has told.

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

use self::plan::{Attached, Step, Waiting, Wanted};
use super::{
    Context, PODS_BY_NODE,
    attachable::{Attachable, is_plain},
    pod_disruption::is_over,
    pods_by_node, queue_every,
    volume_protection::{claims_of, is_behind},
};
use crate::settings::AttachSettings;

/// Pods by the claims they use, as `namespace/name`.
const BY_CLAIM: &str = "claim";
/// Pods by the volumes that are described in them, and volumes, by their unique names.
const BY_UNIQUE: &str = "unique";
/// Nodes by the volumes that are attached to them without a driver.
const BY_REPORT: &str = "report";
/// Attachments by what they are about.
const BY_VOLUME: &str = "volume";
/// Attachments by node.
const BY_NODE: &str = "node";

/// What to look at. One queue and one worker: what nodes may mount and what is detached never cross.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    /// By its unique name; one that is gone by its own.
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

/// What becomes of a volume without a driver on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change<'a> {
    Come(&'a str),
    Go(&'a str),
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
        pods: pods_by_node(ctx),
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
    controller.pods.add_index(BY_UNIQUE, |pod| inline(pod).map(|volume| volume.unique).collect());
    controller
        .volumes
        .add_index(BY_UNIQUE, |v| Attachable::of_volume(v).map(|v| v.unique).into_iter().collect());
    controller.nodes.add_index(BY_REPORT, |node| {
        names::reports(node).filter(|name| is_plain(name)).map(str::to_owned).collect()
    });
    controller.attachments.add_index(BY_VOLUME, |a| names::volume_of(a).into_iter().collect());
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

/// The volumes described in a pod that somebody attaches.
fn inline(pod: &Pod) -> impl Iterator<Item = Attachable> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(move |volume| Attachable::of_inline(volume, namespace))
}

fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.any(|volume| is_behind(claim, pod, volume))
}

// === what is looked at when ===

impl Controller {
    fn watch_volumes(&self) {
        let this = self.clone();
        self.pods.on_event(move |event| {
            let of = |pod: &Pod| (pod.spec.as_ref().and_then(|s| s.node_name.clone()), is_over(pod));
            if let Event::Updated { old, new } = &event
                && of(old) == of(new)
            {
                return;
            }
            this.queue_pod(event.object());
        });
        let this = self.clone();
        self.claims.on_event(move |event| this.queue_claim(event.object()));
        let this = self.clone();
        self.volumes.on_event(move |event| {
            this.queue_volume(event.object());
            if let Event::Deleted { last, .. } = &event {
                this.queue.add(Item::Volume(last.metadata.name.clone().unwrap_or_default()));
            }
        });
        let this = self.clone();
        self.drivers.on_event(move |event| {
            let driver = event.object().metadata.name.clone().unwrap_or_default();
            let is_of = |volume: &Attachable| volume.driver.as_ref().is_some_and(|d| d.name == driver);
            let volumes = this.volumes.store().list();
            let pods = this.pods.store().list();
            let own = volumes.iter().filter_map(|volume| Attachable::of_volume(volume));
            let described = pods.iter().flat_map(|pod| inline(pod));
            for volume in own.chain(described).filter(is_of) {
                this.queue.add(Item::Volume(volume.unique));
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
            let was_managed = matches!(&event, Event::Updated { old, .. } if plan::is_managed(old));
            if plan::is_managed(event.object()) && !was_managed {
                // Its pods may have been seen before it.
                let pods = this.pods.store().by_index(PODS_BY_NODE, &name);
                pods.iter().for_each(|pod| this.queue_pod(pod));
            }
            for volume in names::reports(event.object()).filter(|volume| is_plain(volume)) {
                this.queue.add(Item::Volume(volume.to_owned()));
            }
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
            if let Event::Updated { old, new } = &event {
                this.tell_outcome(old, new);
            }
        });
    }

    fn queue_pod(&self, pod: &Pod) {
        inline(pod).for_each(|volume| self.queue.add(Item::Volume(volume.unique)));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for claim in claims_of(pod) {
            if let Some(claim) = self.claims.store().get(&ObjectKey::new(namespace, claim)) {
                self.queue_claim(&claim);
            }
        }
    }

    fn queue_claim(&self, claim: &PersistentVolumeClaim) {
        let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|v| !v.is_empty());
        if let Some(volume) = name.and_then(|name| self.volumes.store().get(&ObjectKey::cluster(name))) {
            self.queue_volume(&volume);
        }
    }

    fn queue_volume(&self, volume: &PersistentVolume) {
        if let Some(volume) = Attachable::of_volume(volume) {
            self.queue.add(Item::Volume(volume.unique));
        }
    }

    fn queue_attachment(&self, attachment: &VolumeAttachment) {
        if let Some(volume) = self.volume_of(attachment) {
            self.queue.add(Item::Volume(volume));
        }
    }

    fn queue_all(&self) {
        self.attachments.store().list().iter().for_each(|attachment| self.queue_attachment(attachment));
        self.volumes.store().list().iter().for_each(|volume| self.queue_volume(volume));
        for pod in self.pods.store().list() {
            inline(&pod).for_each(|volume| self.queue.add(Item::Volume(volume.unique)));
        }
        for node in self.nodes.store().list() {
            for volume in names::reports(&node).filter(|volume| is_plain(volume)) {
                self.queue.add(Item::Volume(volume.to_owned()));
            }
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
            Item::Node(name) => self.report(name, None).await.map(|()| Outcome::Done),
            Item::Volume(name) => match self.known_as(name) {
                Some(name) => self.sync_volume(&name).await,
                None => Ok(Outcome::Done),
            },
        }
    }

    /// The unique name of a volume that was queued by its own: its object was not known then, but may be by now.
    fn known_as(&self, name: &str) -> Option<String> {
        if name.contains('/') {
            return Some(name.to_owned());
        }
        let attachments = self.attachments.store().by_index(BY_VOLUME, name);
        let mut names = attachments.iter().filter_map(|attachment| self.volume_of(attachment));
        names
            .find(|known| known.contains('/'))
            .or_else(|| attachments.first().and_then(|a| self.volume_of(a)))
    }

    async fn sync_volume(&self, name: &str) -> Result<Outcome, kube::Error> {
        let mut waiting = self.waiting.lock().remove(name).unwrap_or_default();
        let wanted = self.wanted(name);
        let (steps, again) = self.plan(name, &wanted, &mut waiting);
        if !waiting.is_empty() {
            self.waiting.lock().insert(name.to_owned(), waiting);
        }
        for step in steps {
            match step {
                Step::Attach(node) => {
                    if let Some(wanted) = wanted.get(&node) {
                        self.attach(wanted, &node).await?;
                    }
                }
                Step::Refuse(pod, note) => self.tell_failed(&pod, note),
                Step::Detach { from, force } => self.detach(name, &from, force).await?,
            }
        }
        Ok(again.map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    fn plan(
        &self,
        volume: &str,
        wanted: &BTreeMap<String, Wanted>,
        waiting: &mut Waiting,
    ) -> (Vec<Step>, Option<Duration>) {
        let attached = self.attached(volume, wanted);
        let of_nodes = attached.iter().map(|a| a.node.clone());
        let nodes: BTreeSet<String> = of_nodes.chain(wanted.keys().cloned()).collect();
        let view = plan::View {
            volume,
            attached: &attached,
            nodes: nodes.iter().filter_map(|n| Some((n.as_str(), self.node(n)?))).collect(),
            wanted,
            force: self.settings.force_after_timeout,
        };
        plan::plan(&view, waiting, self.clock.now())
    }

    fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.store().get(&ObjectKey::cluster(name))
    }

    /// What an attachment's volume is looked at by: its unique name as long as somebody knows it.
    fn volume_of(&self, attachment: &VolumeAttachment) -> Option<String> {
        let name = names::volume_of(attachment)?;
        if attachment.spec.source.persistent_volume_name.is_none() {
            return Some(name);
        }
        if let Some(volume) = self.volumes.store().get(&ObjectKey::cluster(name.as_str())) {
            return Attachable::of_volume(&volume).map(|volume| volume.unique);
        }
        let node = self.node(&attachment.spec.node_name);
        let reported = node.as_ref().and_then(|node| names::reported(attachment, node));
        Some(reported.map_or(name, str::to_owned))
    }

    /// Where a volume is attached. Several objects may stand for the same volume, and one that stood for it when it was
    /// attached may be gone: where it is wanted it is known by what its attachment is called.
    fn attached(&self, volume: &str, wanted: &BTreeMap<String, Wanted>) -> Vec<Attached> {
        if is_plain(volume) {
            let nodes = self.nodes.store().by_index(BY_REPORT, volume);
            let name = |node: &Arc<Node>| node.metadata.name.clone().unwrap_or_default();
            return nodes.iter().map(|node| Attached { node: name(node), by: None }).collect();
        }
        let objects = self.volumes.store().by_index(BY_UNIQUE, volume);
        let names = objects.iter().filter_map(|volume| volume.metadata.name.clone());
        let about = names.chain([volume.to_owned()]);
        let by_volume = about.flat_map(|name| self.attachments.store().by_index(BY_VOLUME, &name));
        let of_nodes = |node: &String| names::attachment(volume, node);
        let by_name = wanted
            .keys()
            .filter_map(of_nodes)
            .filter_map(|name| self.attachments.store().get(&ObjectKey::cluster(name)));
        let all: BTreeMap<Option<String>, Arc<VolumeAttachment>> =
            by_volume.chain(by_name).map(|a| (a.metadata.name.clone(), a)).collect();
        all.into_values().map(|a| Attached { node: a.spec.node_name.clone(), by: Some(a) }).collect()
    }

    /// The nodes a volume must be attached to, each with the pods that use it there.
    fn wanted(&self, volume: &str) -> BTreeMap<String, Wanted> {
        let mut out: BTreeMap<String, Wanted> = BTreeMap::new();
        let mut add = |volume: &Attachable, pod: Arc<Pod>| {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
            if let Some(node) = node.filter(|_| !is_over(&pod)) {
                let new = || Wanted { volume: volume.clone(), pods: Vec::new() };
                let pods = &mut out.entry(node).or_insert_with(new).pods;
                if !pods.iter().any(|other| other.metadata.uid == pod.metadata.uid) {
                    pods.push(pod);
                }
            }
        };
        for object in self.volumes.store().by_index(BY_UNIQUE, volume) {
            let known = Attachable::of_volume(&object).filter(|volume| self.is_attachable(volume));
            let (Some(known), Some(claim)) = (known, names::claim_of(&object)) else { continue };
            let claim = self.claims.store().get(&claim).filter(|claim| plan::is_bound(claim, &object));
            let Some(claim) = claim else { continue };
            let users = self.pods.store().by_index(BY_CLAIM, &object_key(claim.as_ref()).to_string());
            users.into_iter().filter(|pod| uses(pod, &claim)).for_each(|pod| add(&known, pod));
        }
        for pod in self.pods.store().by_index(BY_UNIQUE, volume) {
            let known = inline(&pod).find(|known| known.unique == volume);
            if let Some(known) = known.filter(|volume| self.is_attachable(volume)) {
                add(&known, pod);
            }
        }
        out
    }

    /// Whether somebody must attach the volume before a node can mount it.
    fn is_attachable(&self, volume: &Attachable) -> bool {
        let Some(driver) = &volume.driver else { return true };
        let known = self.drivers.store().get(&ObjectKey::cluster(driver.name.as_str()));
        known.and_then(|d| d.spec.attach_required).unwrap_or(true)
    }

    /// Whether an attachment is one that stays: what its node may mount.
    fn stays(&self, attachment: &VolumeAttachment) -> bool {
        let Some(name) = self.volume_of(attachment) else { return false };
        let mut waiting = self.waiting.lock().get(&name).cloned().unwrap_or_default();
        let (steps, _) = self.plan(&name, &self.wanted(&name), &mut waiting);
        let goes = |step: &Step| {
            matches!(step, Step::Detach { from: Attached { by: Some(going), .. }, .. }
                if going.metadata.name == attachment.metadata.name)
        };
        !steps.iter().any(goes)
    }
}

// === writes ===

impl Controller {
    async fn attach(&self, wanted: &Wanted, node: &str) -> Result<(), kube::Error> {
        let volume = &wanted.volume;
        let Some(driver) = &volume.driver else {
            self.report(node, Some(Change::Come(&volume.unique))).await?;
            let (kind, reason, note) = plan::success(&volume.name);
            self.tell(&wanted.pods, kind, reason, &note);
            return Ok(());
        };
        let inline = volume.inline.as_deref().cloned();
        let attachment = VolumeAttachment {
            metadata: ObjectMeta { name: names::attachment(&volume.unique, node), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: driver.name.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(volume.name.clone()).filter(|_| inline.is_none()),
                    inline_volume_spec: inline,
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
                let why = format!(": {}", chain(&e));
                let note = plan::message("AttachVolume.Attach failed", &volume.name, &why);
                wanted.pods.iter().for_each(|pod| self.tell_failed(pod, note.clone()));
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
        volume: &str,
        from: &Attached,
        force: Option<&'static str>,
    ) -> Result<(), kube::Error> {
        if from.by.as_ref().is_some_and(|by| by.metadata.deletion_timestamp.is_some()) {
            return Ok(());
        }
        let change = from.by.is_none().then_some(Change::Go(volume));
        self.report(&from.node, change).await?;
        if force.is_none() {
            let now = Api::<Node>::all(self.client.clone()).get_opt(&from.node).await?;
            if now.is_some_and(|node| plan::is_mounted(&node, volume, from)) {
                // The node's event brings a driver's volume back.
                return match &from.by {
                    Some(_) => Ok(()),
                    None => self.report(&from.node, Some(Change::Come(volume))).await,
                };
            }
        }
        if let Some(reason) = force {
            metrics::FORCED.with_label_values(&[reason]).inc();
            tracing::warn!(volume, node = from.node, reason, "detached by force");
        }
        let Some(by) = &from.by else { return Ok(()) };
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let name = by.metadata.name.as_deref().unwrap_or_default();
        match api.delete(name, &DeleteParams::default()).await {
            Err(e) if !client::is_not_found(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Writes what a node may mount into its status, if that says otherwise. Of volumes without a driver the status is
    /// all there is, and says what it said but for the change.
    async fn report(&self, name: &str, change: Option<Change<'_>>) -> Result<(), kube::Error> {
        let Some(node) = self.node(name) else { return Ok(()) };
        let attachments = self.attachments.store().by_index(BY_NODE, name);
        let staying = attachments.iter().filter(|a| plan::is_attached(a) && self.stays(a));
        let driven = staying.filter_map(|a| self.volume_of(a)).filter(|name| name.contains('/'));
        let goes = |volume: &&str| change == Some(Change::Go(volume));
        let plain = names::reports(&node).filter(|name| is_plain(name)).filter(|name| !goes(name));
        let mut list: BTreeSet<String> = driven.chain(plain.map(str::to_owned)).collect();
        if let Some(Change::Come(volume)) = change {
            list.insert(volume.to_owned());
        }
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

    /// Tells the pods that wait for an attachment what the driver has made of it.
    fn tell_outcome(&self, old: &VolumeAttachment, new: &VolumeAttachment) {
        let of_node = self.volume_of(new).and_then(|name| self.wanted(&name).remove(&new.spec.node_name));
        let Some(wanted) = of_node else { return };
        if let Some((kind, reason, note)) = plan::outcome(old, new, &wanted.volume.name) {
            self.tell(&wanted.pods, kind, reason, &note);
        }
    }

    fn tell(&self, pods: &[Arc<Pod>], kind: EventType, reason: &str, note: &str) {
        for pod in pods {
            self.recorder.event(&reference(pod.as_ref()), kind, reason, reason, note, None);
        }
    }
}
