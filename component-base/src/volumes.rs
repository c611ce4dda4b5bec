//! Claims and volumes as the binder and the scheduler both read and bind them.
//!
//! Contract: upstream's `component-helpers/storage/volume`: the annotations of the binding protocol, what a claim asks
//! for and a volume has, and the reference that reserves a volume for one claim.

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};

use crate::{
    meta::{annotate, annotation},
    quantity::Quantity,
};

/// On a claim: both sides of its binding are written.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or a volume: the binding was a controller's choice and not the user's.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node for which its volume is to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class a claim asks for, if it says anything; an empty one asks for a volume of no class.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, OLD_CLASS).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

/// The class a volume is of; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    annotation(&volume.metadata, OLD_CLASS)
        .or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref())
        .unwrap_or_default()
}

/// The size a claim asks for, if it asks for one that can be read.
pub fn asked(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    Quantity::from_api(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?)
}

/// The size of a volume, if it says one that can be read.
pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    Quantity::from_api(volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?)
}

/// Whether a volume's reference names the claim, and no other of that name.
pub fn is_reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return false };
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// The volume with a reference to the claim. It is marked as a controller's choice unless it was reserved before: what
/// a user has reserved stays reserved when the claim goes.
pub fn reserved(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut next = volume.clone();
    if !is_reserved_for(volume, claim) {
        annotate(&mut next.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    next.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    });
    next
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim() -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"namespace": "a", "name": "data", "uid": "1", "resourceVersion": "7"}}),
        )
        .unwrap()
    }

    fn volume(reference: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"claimRef": reference}})).unwrap()
    }

    #[test]
    fn a_reference_names_one_claim() {
        for (reference, expected) in [
            (Value::Null, false),
            (json!({"namespace": "a", "name": "data"}), true),
            (json!({"namespace": "a", "name": "data", "uid": ""}), true),
            (json!({"namespace": "a", "name": "data", "uid": "1"}), true),
            (json!({"namespace": "a", "name": "data", "uid": "2"}), false),
            (json!({"namespace": "b", "name": "data"}), false),
            (json!({"namespace": "a", "name": "other"}), false),
        ] {
            assert_eq!(is_reserved_for(&volume(reference.clone()), &claim()), expected, "{reference}");
        }
    }

    #[test]
    fn a_reservation_says_whose_choice_it_was() {
        let free = reserved(&volume(Value::Null), &claim());
        assert_eq!(annotation(&free.metadata, BOUND_BY_CONTROLLER), Some("yes"));
        let kept = reserved(&volume(json!({"namespace": "a", "name": "data"})), &claim());
        assert_eq!(annotation(&kept.metadata, BOUND_BY_CONTROLLER), None);
        for next in [free, kept] {
            let reference = next.spec.unwrap().claim_ref.unwrap();
            assert_eq!(
                (reference.uid.as_deref(), reference.resource_version.as_deref()),
                (Some("1"), Some("7"))
            );
        }
    }

    #[test]
    fn an_old_annotation_names_the_class_before_the_field() {
        let mut one = claim();
        assert_eq!(class_of_claim(&one), None);
        one.spec.get_or_insert_default().storage_class_name = Some("slow".into());
        assert_eq!(class_of_claim(&one), Some("slow"));
        annotate(&mut one.metadata, OLD_CLASS, "fast");
        assert_eq!(class_of_claim(&one), Some("fast"));
    }
}
