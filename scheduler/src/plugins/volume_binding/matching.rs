//! Which volume a claim gets.

use std::sync::Arc;

use component_base::{
    meta::is_deleting,
    quantity::Quantity,
    selector::LabelSelector,
    volumes::{asked, capacity, is_reserved_for},
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

/// The volume that was kept for a claim, else the smallest that suits it; of equal ones the first. Each volume comes
/// with whether the node reaches it; one that was kept elsewhere leaves the claim without any.
pub(super) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = (&'a Arc<PersistentVolume>, bool)>,
) -> Option<&'a Arc<PersistentVolume>> {
    let mut best: Option<(Quantity, &Arc<PersistentVolume>)> = None;
    for (volume, near) in volumes.filter(|(volume, _)| could_have(volume, claim)) {
        if is_reserved_for(volume, claim) {
            return near.then_some(volume);
        }
        if !near || !is_free(volume, claim) {
            continue;
        }
        let size = capacity(volume)?;
        if best.is_none_or(|(smallest, _)| size < smallest) {
            best = Some((size, volume));
        }
    }
    best.map(|(_, volume)| volume)
}

/// Whether size, mode and attributes are right and nobody else has it.
fn could_have(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (volume.spec.as_ref(), claim.spec.as_ref()) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let attributes = |class: &Option<String>| class.clone().unwrap_or_default();
    (has.claim_ref.is_none() || is_reserved_for(volume, claim))
        && capacity(volume).is_some()
        && capacity(volume) >= asked(claim)
        && mode(&has.volume_mode) == mode(&wants.volume_mode)
        && attributes(&has.volume_attributes_class_name) == attributes(&wants.volume_attributes_class_name)
        && !is_deleting(&volume.metadata)
}

/// Whether a volume that nobody has may be given to the claim.
fn is_free(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (volume.spec.as_ref(), claim.spec.as_ref()) else { return false };
    let nothing = std::collections::BTreeMap::new();
    let labels = volume.metadata.labels.as_ref().unwrap_or(&nothing);
    let modes = has.access_modes.as_deref().unwrap_or_default();
    volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available")
        && has.claim_ref.is_none()
        && wants
            .selector
            .as_ref()
            .is_none_or(|s| LabelSelector::from_api(Some(s)).is_ok_and(|s| s.matches(labels)))
        && wants.access_modes.iter().flatten().all(|mode| modes.contains(mode))
}
