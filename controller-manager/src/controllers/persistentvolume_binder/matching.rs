//! Which volume fits a claim.

use std::sync::Arc;

use component_base::{
    selector::LabelSelector,
    volumes::{asked, capacity, class_of_claim, class_of_volume, is_reserved_for},
};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// The volume to bind: one that is reserved for the claim, else the smallest that fits, of those with the fewest
/// access modes first. A claim that waits for its first consumer takes only what is reserved for it.
pub(super) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    waits: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let usable = |v: &&Arc<PersistentVolume>| is_large_enough(v, claim) && is_same_kind(v, claim);
    if let Some(reserved) = volumes.iter().filter(usable).find(|v| is_reserved_for(v, claim)) {
        return Some(reserved);
    }
    if waits {
        return None;
    }
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref());
    // A selector that cannot be read selects nothing.
    let selector =
        selector.map(|s| LabelSelector::from_api(Some(s)).unwrap_or_else(|_| LabelSelector::nothing()));
    let free = |v: &&Arc<PersistentVolume>| {
        v.spec.as_ref().is_some_and(|s| s.claim_ref.is_none())
            && v.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available")
            && selector.as_ref().is_none_or(|s| selects(s, &v.metadata))
    };
    let modes =
        |v: &PersistentVolume| v.spec.as_ref().and_then(|s| s.access_modes.as_ref()).map_or(0, Vec::len);
    volumes
        .iter()
        .filter(usable)
        .filter(free)
        .min_by_key(|v| (modes(v), capacity(v), v.metadata.name.clone()))
}

fn selects(selector: &LabelSelector, meta: &ObjectMeta) -> bool {
    selector.matches(&meta.labels)
}

/// Why a volume that was asked for by name does not fit.
pub(super) fn refusal(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    if volume.metadata.deletion_timestamp.is_some() {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        return Some(format!("the volume is marked for deletion {name:?}"));
    }
    let reason = if !is_large_enough(volume, claim) {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim).unwrap_or_default() {
        "storageClassName does not match"
    } else if attributes_of_volume(volume) != attributes_of_claim(claim) {
        "volumeAttributesClassName does not match"
    } else if mode_of_volume(volume) != mode_of_claim(claim) {
        "incompatible volumeMode"
    } else if !has_modes(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

fn is_same_kind(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let same = mode_of_volume(volume) == mode_of_claim(claim)
        && attributes_of_volume(volume) == attributes_of_claim(claim)
        && volume.metadata.deletion_timestamp.is_none()
        && has_modes(volume, claim);
    // Who reserves a volume for a claim need not name its class.
    same && (is_reserved_for(volume, claim)
        || class_of_volume(volume) == class_of_claim(claim).unwrap_or_default())
}

fn is_large_enough(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    capacity(volume).unwrap_or_default() >= asked(claim).unwrap_or_default()
}

fn has_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has = volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).all(|mode| has.contains(mode))
}

/// Whether the two are of one volume mode.
pub(super) fn is_same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    mode_of_volume(volume) == mode_of_claim(claim)
}

fn mode_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref()).unwrap_or("Filesystem")
}

fn mode_of_claim(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref()).unwrap_or("Filesystem")
}

fn attributes_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default()
}

fn attributes_of_claim(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default()
}
