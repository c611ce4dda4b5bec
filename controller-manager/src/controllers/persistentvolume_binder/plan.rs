//! The next step for a claim and for a volume.

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    meta::{ObjectKey, annotate, annotation, has_finalizer, is_deleting},
    migration::successor,
    volumes::{
        BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, class_of_claim, is_reserved_for, reserved,
    },
};
use k8s_openapi::{
    api::{
        core::v1::{
            PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeSpec,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{host_path, matching};

pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The driver that does the work of the plugin that is named elsewhere.
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// What a volume had before its file system was to be enlarged.
const BEFORE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
/// Finalizer of volumes that plugins of old delete.
pub(super) const BY_PLUGIN: &str = "kubernetes.io/pv-controller";
/// Finalizer of volumes that drivers delete.
const BY_DRIVER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_DEFAULT_CLASS: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tell {
    pub warning: bool,
    pub reason: &'static str,
    pub note: String,
    /// What the volume's claim is told besides.
    pub to_claim: Option<String>,
}

/// What to write next for a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimStep {
    /// Nothing.
    Settled,
    /// The volume, with its reference to the claim.
    Reserve(Box<PersistentVolume>),
    /// The volume's phase.
    VolumeBound(Arc<PersistentVolume>),
    /// The claim.
    Write(Box<PersistentVolumeClaim>),
    /// The claim's status.
    Status(Box<PersistentVolumeClaim>),
    /// A volume on this machine, for the claim alone.
    Make(Box<PersistentVolume>),
}

/// What to write next for a volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum VolumeStep {
    /// Nothing.
    Settled,
    /// Its phase, with a message.
    Phase(&'static str, Option<String>),
    /// The volume itself.
    Write(Box<PersistentVolume>),
    /// Nothing here, but its claim is to be looked at.
    Claim(ObjectKey),
    /// It is emptied for others.
    Recycle,
    /// It goes, and what is at this path with it.
    Delete(String),
}

type Told<T> = (T, Option<Tell>);

fn warn(reason: &'static str, note: impl Into<String>) -> Option<Tell> {
    Some(Tell { warning: true, reason, note: note.into(), to_claim: None })
}

fn inform(reason: &'static str, note: impl Into<String>) -> Option<Tell> {
    Some(Tell { warning: false, reason, note: note.into(), to_claim: None })
}

/// Whether a change of the volume may matter to the claim.
pub(super) fn concerns(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let asked = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    asked == volume.metadata.name.as_deref().unwrap_or_default()
        || is_reserved_for(volume, claim)
        || (asked.is_empty() && volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_none()))
}

/// The claim a volume refers to, if it is bound to one.
pub(super) fn claim_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    reference.uid.as_ref().filter(|uid| !uid.is_empty())?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// Whether the volume's reference is to exactly this claim.
pub(super) fn is_claimed_by(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let uid = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()?.uid.as_ref());
    uid.is_some() && uid == claim.metadata.uid.as_ref()
}

/// The classes of claims.
#[derive(Clone, Copy, Debug)]
pub(super) struct Classes<'c> {
    pub(super) all: &'c [Arc<StorageClass>],
    /// Whether their provisioners are called.
    pub(super) provision: bool,
    /// Whether this process makes host paths.
    pub(super) host_paths: bool,
}

/// The next step for a claim.
pub(super) fn claim(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    classes: Classes<'_>,
) -> Told<ClaimStep> {
    if let Some(annotations) = handed_over(&claim.metadata, &[PROVISIONER, OLD_PROVISIONER]) {
        let mut next = claim.clone();
        next.metadata.annotations = Some(annotations);
        return (ClaimStep::Write(Box::new(next)), None);
    }
    let asked = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    let found = volumes.iter().find(|v| v.metadata.name.as_deref() == Some(asked));
    if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return bound(claim, asked, found);
    }
    if asked.is_empty() {
        return unbound(claim, volumes, classes);
    }
    let Some(volume) = found else { return (pending(claim), None) };
    if volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_none()) {
        return match matching::refusal(volume, claim) {
            None => (bind(volume, claim), None),
            Some(why) => (
                pending(claim),
                warn("VolumeMismatch", format!("Cannot bind to requested volume {asked:?}: {why}")),
            ),
        };
    }
    if is_reserved_for(volume, claim) {
        return (bind(volume, claim), None);
    }
    (pending(claim), warn("FailedBinding", format!("volume {asked:?} already bound to a different claim.")))
}

/// A claim that was bound before.
fn bound(
    claim: &PersistentVolumeClaim,
    asked: &str,
    found: Option<&Arc<PersistentVolume>>,
) -> Told<ClaimStep> {
    let lost = |reason, note: &str| {
        let step = status(claim, "Lost", None);
        let tell = if step == ClaimStep::Settled { None } else { warn(reason, note) };
        (step, tell)
    };
    let Some(volume) = found else {
        let what = if asked.is_empty() { "reference to PersistentVolume" } else { "its PersistentVolume" };
        return lost("ClaimLost", &format!("Bound claim has lost {what}. Data on the volume is lost!"));
    };
    let free = volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_none());
    if free || is_claimed_by(volume, claim) {
        return (bind(volume, claim), None);
    }
    lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

/// A claim that takes any volume.
fn unbound(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    known: Classes<'_>,
) -> Told<ClaimStep> {
    let Classes { all: classes, provision: provisions, .. } = known;
    let asked = class_of_claim(claim);
    let class = asked.and_then(|name| classes.iter().find(|c| c.metadata.name.as_deref() == Some(name)));
    let waits = class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if let Some(volume) = matching::best(claim, volumes, waits) {
        return (bind(volume, claim), None);
    }
    if asked.is_none()
        && let Some(default) = default_class(classes)
    {
        let mut next = claim.clone();
        next.spec.get_or_insert_default().storage_class_name = Some(default.to_owned());
        return (ClaimStep::Write(Box::new(next)), None);
    }
    let chosen = annotation(&claim.metadata, SELECTED_NODE).is_some();
    match asked.unwrap_or_default() {
        _ if waits && !chosen => (
            pending(claim),
            inform("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        ),
        "" => (
            pending(claim),
            inform(
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set",
            ),
        ),
        name if provisions => provision(claim, name, class, volumes, known.host_paths),
        // Whoever made it is to make a volume for it as well.
        _ => (ClaimStep::Settled, None),
    }
}

/// Calls the class's provisioner.
fn provision(
    claim: &PersistentVolumeClaim,
    name: &str,
    class: Option<&Arc<StorageClass>>,
    volumes: &[Arc<PersistentVolume>],
    host_paths: bool,
) -> Told<ClaimStep> {
    let Some(class) = class else {
        let note = format!("storageclass.storage.k8s.io {name:?} not found");
        return (pending(claim), warn("ProvisioningFailed", note));
    };
    // A plugin of old is done by its driver.
    let provisioner = successor(&class.provisioner).unwrap_or(&class.provisioner);
    let is_here = provisioner == host_path::PLUGIN;
    if is_here && let Some(why) = other_data(claim) {
        return (pending(claim), warn("ProvisioningFailed", why));
    }
    if !is_here && provisioner.starts_with("kubernetes.io/") {
        return (
            pending(claim),
            warn("ProvisioningFailed", format!("no volume plugin matched name: {provisioner}")),
        );
    }
    if annotation(&claim.metadata, PROVISIONER) != Some(provisioner) {
        let mut next = claim.clone();
        annotate(&mut next.metadata, PROVISIONER, provisioner);
        annotate(&mut next.metadata, OLD_PROVISIONER, provisioner);
        return (ClaimStep::Write(Box::new(next)), None);
    }
    if is_here {
        return make(claim, class, volumes, host_paths);
    }
    let note = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    (pending(claim), inform("ExternalProvisioning", note))
}

/// Why a claim cannot have data of elsewhere where a plugin makes the volume.
fn other_data(claim: &PersistentVolumeClaim) -> Option<String> {
    let wants = claim.spec.as_ref().is_some_and(|s| s.data_source.is_some());
    let note = |plugin| {
        format!(
            "plugin {plugin:?} is not a CSI plugin. Only CSI plugin can provision a claim with a datasource"
        )
    };
    wants.then(|| note(host_path::PLUGIN))
}

/// A path on this machine, where that is allowed and can be what the claim asks for.
fn make(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    volumes: &[Arc<PersistentVolume>],
    host_paths: bool,
) -> Told<ClaimStep> {
    let name = host_path::name(claim);
    if volumes.iter().any(|volume| volume.metadata.name.as_ref() == Some(&name)) {
        return (pending(claim), None);
    }
    let of_class = class.metadata.name.as_deref().unwrap_or_default();
    let options = class.mount_options.as_deref().unwrap_or_default();
    let block = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref()) == Some("Block");
    let plugin = host_path::PLUGIN;
    let why = match () {
        () if !options.is_empty() => format!(
            "Mount options are not supported by the provisioner but StorageClass {of_class:?} has mount options [{}]",
            options.join(" ")
        ),
        () if !host_paths => {
            format!("Failed to create provisioner: Provisioning in volume plugin {plugin:?} is disabled")
        }
        () if block => not_made(of_class, &format!("{plugin} does not support block volume provisioning")),
        () => return (ClaimStep::Make(Box::new(host_path::volume(claim, class))), None),
    };
    (pending(claim), warn("ProvisioningFailed", why))
}

/// Why there is no volume for a claim.
pub(super) fn not_made(class: &str, why: &str) -> String {
    format!("Failed to provision volume with StorageClass {class:?}: {why}")
}

/// A claim that waits for its first consumer waits for its pods that have no node yet, if there are some.
pub(super) fn waiting(tell: Tell, pods: &[String]) -> Tell {
    let note = match pods {
        [] => return tell,
        _ if tell.reason != "WaitForFirstConsumer" => return tell,
        [pod] => format!("waiting for pod {pod} to be scheduled"),
        pods => format!("waiting for pods {} to be scheduled", pods.join(",")),
    };
    Tell { reason: "WaitForPodScheduled", note, ..tell }
}

/// Of several defaults the youngest, then the first by name.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<&str> {
    let is_default = |c: &&Arc<StorageClass>| {
        [DEFAULT_CLASS, OLD_DEFAULT_CLASS].iter().any(|key| annotation(&c.metadata, key) == Some("true"))
    };
    let age = |c: &Arc<StorageClass>| c.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let best = classes
        .iter()
        .filter(is_default)
        .min_by(|a, b| age(b).cmp(&age(a)).then_with(|| a.metadata.name.cmp(&b.metadata.name)));
    best.and_then(|c| c.metadata.name.as_deref())
}

/// What is still to be written until both are bound to each other.
fn bind(volume: &Arc<PersistentVolume>, claim: &PersistentVolumeClaim) -> ClaimStep {
    if !is_claimed_by(volume, claim) {
        return ClaimStep::Reserve(Box::new(reserved(volume, claim)));
    }
    if volume_phase(volume) != "Bound" {
        return ClaimStep::VolumeBound(volume.clone());
    }
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_ref()) == volume.metadata.name.as_ref();
    if !named || annotation(&claim.metadata, BIND_COMPLETED).is_none() {
        let mut next = claim.clone();
        if !named {
            next.spec.get_or_insert_default().volume_name = volume.metadata.name.clone();
            annotate(&mut next.metadata, BOUND_BY_CONTROLLER, "yes");
        }
        annotate(&mut next.metadata, BIND_COMPLETED, "yes");
        return ClaimStep::Write(Box::new(next));
    }
    status(claim, "Bound", Some(volume))
}

fn pending(claim: &PersistentVolumeClaim) -> ClaimStep {
    status(claim, "Pending", None)
}

/// The claim's status as it must be, with what its volume has.
fn status(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) -> ClaimStep {
    let old = claim.status.clone().unwrap_or_default();
    let spec = volume.and_then(|v| v.spec.as_ref());
    let next = PersistentVolumeClaimStatus {
        phase: Some(phase.to_owned()),
        access_modes: spec.and_then(|s| s.access_modes.clone()),
        // A volume that is being resized tells its size itself.
        capacity: spec.and_then(|s| match old.phase.as_deref() {
            Some("Bound") if old.capacity.is_some() => old.capacity.clone(),
            _ => first_capacity(volume, s),
        }),
        // Who changes a bound volume's attributes says so himself.
        current_volume_attributes_class_name: spec.and_then(|s| match (old.phase.as_deref(), phase) {
            (Some("Pending"), "Bound") => s.volume_attributes_class_name.clone(),
            _ => old.current_volume_attributes_class_name.clone(),
        }),
        ..old.clone()
    };
    if next == old {
        return ClaimStep::Settled;
    }
    let mut out = claim.clone();
    out.status = Some(next);
    ClaimStep::Status(Box::new(out))
}

/// What a claim has when it is bound: a file system that is still to be enlarged has what it had before.
fn first_capacity(
    volume: Option<&PersistentVolume>,
    spec: &PersistentVolumeSpec,
) -> Option<BTreeMap<String, Quantity>> {
    let before = volume.and_then(|v| annotation(&v.metadata, BEFORE_RESIZE));
    let mut capacity = spec.capacity.clone()?;
    if let Some(before) = before.filter(|text| text.parse::<component_base::quantity::Quantity>().is_ok()) {
        capacity.insert("storage".to_owned(), Quantity(before.to_owned()));
    }
    Some(capacity)
}

/// Annotations that name the driver which does the work of the plugin of old that one of these names; `None` where they
/// do so already.
fn handed_over(meta: &ObjectMeta, plugin: &[&str]) -> Option<BTreeMap<String, String>> {
    let plugin = plugin.iter().find_map(|key| annotation(meta, key))?;
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    match (successor(plugin), annotation(meta, MIGRATED_TO)) {
        (Some(driver), told) if told != Some(driver) => {
            annotations.insert(MIGRATED_TO.to_owned(), driver.to_owned());
        }
        (None, Some(told)) if !told.is_empty() => drop(annotations.remove(MIGRATED_TO)),
        _ => return None,
    }
    Some(annotations)
}

/// Finalizers that keep a volume until what it stands for is deleted by whoever made it; `None` where it has them.
fn held(volume: &PersistentVolume) -> Option<Vec<String>> {
    let plugin = annotation(&volume.metadata, PROVISIONED_BY)?;
    let has = volume.metadata.finalizers.clone().unwrap_or_default();
    let mut next = has.clone();
    if successor(plugin).is_some() {
        next.retain(|f| f != BY_PLUGIN);
    } else if plugin.starts_with("kubernetes.io/") {
        match policy(volume) {
            "Delete" if !next.iter().any(|f| f == BY_PLUGIN) && !is_deleting(&volume.metadata) => {
                next.push(BY_PLUGIN.to_owned());
            }
            "Retain" | "Recycle" => next.retain(|f| f != BY_PLUGIN),
            _ => {}
        }
        next.retain(|f| f != BY_DRIVER);
    }
    (next != has).then_some(next)
}

/// A volume with what it must say of who looks after it; `None` where it says so.
fn looked_after(volume: &PersistentVolume) -> Option<PersistentVolume> {
    let (annotations, finalizers) = (handed_over(&volume.metadata, &[PROVISIONED_BY]), held(volume));
    if annotations.is_none() && finalizers.is_none() {
        return None;
    }
    let mut next = volume.clone();
    next.metadata.annotations = annotations.or(next.metadata.annotations);
    next.metadata.finalizers = finalizers.or(next.metadata.finalizers);
    Some(next)
}

/// The next step for a volume; `claim` is what it refers to, `None` when that is gone.
pub(super) fn volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Told<VolumeStep> {
    if let Some(next) = looked_after(volume) {
        return (VolumeStep::Write(Box::new(next)), None);
    }
    if claim_key(volume).is_none() {
        return (phase(volume, "Available", None), None);
    }
    let Some(claim) = claim else { return released(volume) };
    let asked = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if asked == volume.metadata.name.as_deref().unwrap_or_default() {
        return (phase(volume, "Bound", None), None);
    }
    let key = component_base::meta::object_key(claim);
    if asked.is_empty() {
        if !matching::is_same_mode(volume, claim) {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            let note = |of_volume: &str, of_claim: &str| {
                format!(
                    "Cannot bind PersistentVolume{of_volume} to requested PersistentVolumeClaim{of_claim} due to \
                     incompatible volumeMode."
                )
            };
            let tell = warn("VolumeMismatch", note("", &format!(" {:?}", key.name)));
            let to_claim = Some(note(&format!(" {name:?}"), ""));
            return (VolumeStep::Settled, tell.map(|tell| Tell { to_claim, ..tell }));
        }
        return (VolumeStep::Claim(key), None);
    }
    // The claim has another volume.
    let dynamic = annotation(&volume.metadata, PROVISIONED_BY).is_some();
    if dynamic && policy(volume) == "Delete" {
        return released(volume);
    }
    (VolumeStep::Write(Box::new(unbound_again(volume))), None)
}

/// A volume whose claim is gone.
fn released(volume: &PersistentVolume) -> Told<VolumeStep> {
    if !was_released(volume) {
        return (VolumeStep::Phase("Released", None), None);
    }
    if annotation(&volume.metadata, MIGRATED_TO).is_some_and(|driver| !driver.is_empty()) {
        return (VolumeStep::Settled, None);
    }
    match policy(volume) {
        "Retain" => (VolumeStep::Settled, None),
        "Recycle" => (VolumeStep::Recycle, None),
        "Delete" => match deleter(volume) {
            // What is left of it is for others to let go.
            Ok(Some(_)) if is_deleting(&volume.metadata) && !has_finalizer(&volume.metadata, BY_PLUGIN) => {
                (VolumeStep::Settled, None)
            }
            Ok(Some(path)) => (VolumeStep::Delete(path), None),
            Ok(None) => (VolumeStep::Settled, None),
            Err(why) => failed(volume, "VolumeFailedDelete", why),
        },
        _ => failed(
            volume,
            "VolumeUnknownReclaimPolicy",
            "Volume has unrecognized PersistentVolumeReclaimPolicy".into(),
        ),
    }
}

/// A volume that was given up and could not be dealt with, which is told once.
pub(super) fn failed(volume: &PersistentVolume, reason: &'static str, note: String) -> Told<VolumeStep> {
    match volume_phase(volume) {
        "Failed" => (VolumeStep::Settled, None),
        _ => (VolumeStep::Phase("Failed", Some(note.clone())), warn(reason, note)),
    }
}

/// The path on this machine that goes with a volume; none where a driver deletes what it stands for.
fn deleter(volume: &PersistentVolume) -> Result<Option<String>, String> {
    let spec = volume.spec.as_ref();
    let path = spec.and_then(|s| s.host_path.as_ref()).map(|source| source.path.clone());
    let of_path = |path: String| match host_path::refusal(&path) {
        Some(why) => Err(why),
        None => Ok(Some(path)),
    };
    if let Some(plugin) = annotation(&volume.metadata, PROVISIONED_BY).filter(|plugin| !plugin.is_empty()) {
        return match (plugin, path) {
            (host_path::PLUGIN, Some(path)) => of_path(path),
            _ if plugin.starts_with("kubernetes.io/") => {
                Err(format!("no volume plugin matched name: {plugin}"))
            }
            _ => Ok(None),
        };
    }
    if spec.is_some_and(|s| s.csi.is_some()) {
        return Ok(None);
    }
    if let Some(path) = path {
        return of_path(path);
    }
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let what =
        if spec.is_some_and(|s| s.nfs.is_some()) { "deletable volume plugin" } else { "volume plugin" };
    Err(format!("error getting deleter volume plugin for volume {name:?}: no {what} matched"))
}

/// Takes back what we have written; what a user has reserved stays reserved.
pub(super) fn unbound_again(volume: &PersistentVolume) -> PersistentVolume {
    let mut next = volume.clone();
    let ours = next.metadata.annotations.as_mut().is_some_and(|a| a.remove(BOUND_BY_CONTROLLER).is_some());
    let spec = next.spec.get_or_insert_default();
    if ours {
        spec.claim_ref = None;
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    next
}

fn phase(volume: &PersistentVolume, phase: &'static str, message: Option<String>) -> VolumeStep {
    if volume_phase(volume) == phase { VolumeStep::Settled } else { VolumeStep::Phase(phase, message) }
}

/// Whether a volume was given up before.
pub(super) fn was_released(volume: &PersistentVolume) -> bool {
    matches!(volume_phase(volume), "Released" | "Failed")
}

fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

#[cfg(test)]
mod tests;
