//! Whose the claims of a StatefulSet's pods are: what owns them goes, and they with it. Pure.
//!
//! Contract: KEP-1847, `spec.persistentVolumeClaimRetentionPolicy`:
//!
//! | when scaled | when deleted | owner |
//! |---|---|---|
//! | Retain | Retain | nobody |
//! | Retain | Delete | the set |
//! | Delete | Retain | nobody; the pod once its ordinal is no longer wanted |
//! | Delete | Delete | the set; the pod once its ordinal is no longer wanted |

use component_base::meta::new_controller_ref;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;

use super::plan;

/// What is to be done about a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ownership {
    /// Nothing.
    Right,
    /// It should have these owners.
    Wrong(Vec<OwnerReference>),
}

/// When claims are deleted: when the set shrinks, when it is deleted.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&Option<String>>| when.and_then(Option::as_deref) == Some("Delete");
    (deletes(policy.map(|p| &p.when_scaled)), deletes(policy.map(|p| &p.when_deleted)))
}

/// Whether a reference names an object, be it this one or an earlier one of the name.
fn names<K: Resource<DynamicType = ()>>(reference: &OwnerReference, object: &ObjectMeta) -> bool {
    reference.kind == K::kind(&())
        && reference.api_version == K::api_version(&())
        && Some(&reference.name) == object.name.as_ref()
}

fn owners(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

/// Whether a reference names the set or the pod.
fn is_ours(reference: &OwnerReference, set: &StatefulSet, pod: &Pod) -> bool {
    names::<StatefulSet>(reference, &set.metadata) || names::<Pod>(reference, &pod.metadata)
}

/// Whether the claim has a controller that is not the set or the pod as they are now, and the set would have one.
pub(super) fn is_managed_elsewhere(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    let foreign = |reference: &OwnerReference| {
        if names::<StatefulSet>(reference, &set.metadata) {
            Some(&reference.uid) != set.metadata.uid.as_ref()
        } else if names::<Pod>(reference, &pod.metadata) {
            Some(&reference.uid) != pod.metadata.uid.as_ref()
        } else {
            reference.controller == Some(true)
        }
    };
    policy(set) != (false, false) && owners(claim).iter().any(foreign)
}

/// Whether the claim of a pod that is yet to be made still belongs to one that was there before, and goes with that.
pub(super) fn is_stale(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &ObjectMeta) -> bool {
    let (when_scaled, _) = policy(set);
    when_scaled && owners(claim).iter().any(|reference| names::<Pod>(reference, pod))
}

/// Whose a claim is that is made for a pod which is wanted.
pub(super) fn first_owner(set: &StatefulSet) -> Option<OwnerReference> {
    let (_, when_deleted) = policy(set);
    when_deleted.then(|| new_controller_ref(set))
}

/// Whether a claim of a pod that is there belongs to whom it should.
pub(super) fn check(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> Ownership {
    let has = |uid: Option<&String>| owners(claim).iter().any(|o| Some(&o.uid) == uid);
    let (of_set, of_pod) = (has(set.metadata.uid.as_ref()), has(pod.metadata.uid.as_ref()));
    let is_late = |o: &&OwnerReference| {
        is_ours(o, set, pod)
            && Some(&o.uid) != set.metadata.uid.as_ref()
            && Some(&o.uid) != pod.metadata.uid.as_ref()
    };
    // Those of an earlier set or pod of the name are the garbage collector's.
    if owners(claim).iter().find(is_late).is_some() {
        return Ownership::Right;
    }
    let mut next: Vec<OwnerReference> =
        owners(claim).iter().filter(|o| !is_ours(o, set, pod)).cloned().collect();
    if is_managed_elsewhere(claim, set, pod) {
        return if of_set || of_pod { Ownership::Wrong(next) } else { Ownership::Right };
    }
    let (when_scaled, when_deleted) = policy(set);
    let (start, end) = plan::range(set);
    let is_wanted = plan::ordinal(set, pod).is_some_and(|n| (start..end).contains(&n));
    let (set_owns, pod_owns) = (when_deleted && (is_wanted || !when_scaled), when_scaled && !is_wanted);
    let controls = |o: &OwnerReference| !is_ours(o, set, pod) || o.controller == Some(true);
    if (set_owns, pod_owns) == (of_set, of_pod) && owners(claim).iter().all(controls) {
        return Ownership::Right;
    }
    if set_owns {
        next.push(new_controller_ref(set));
    }
    if pod_owns {
        next.push(new_controller_ref(pod));
    }
    Ownership::Wrong(next)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(scaled: &str, deleted: &str) -> StatefulSet {
        serde_json::from_value(
            json!({"metadata": {"name": "w", "uid": "set"}, "spec": {"replicas": 2, "serviceName": "s",
            "selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted}}}),
        )
        .unwrap()
    }

    fn pod(ordinal: u8) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": format!("w-{ordinal}"), "uid": format!("pod-{ordinal}")}}),
        )
        .unwrap()
    }

    fn owner(kind: &str, name: &str, uid: &str, controls: bool) -> Value {
        let version = if kind == "StatefulSet" { "apps/v1" } else { "v1" };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controls})
    }

    fn claim(owners: &[Value]) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data-w-0", "ownerReferences": owners}})).unwrap()
    }

    /// The kinds a claim should have as owners; `None` where it has them.
    fn wanted(ownership: &Ownership) -> Option<Vec<&str>> {
        match ownership {
            Ownership::Right => None,
            Ownership::Wrong(owners) => Some(owners.iter().map(|o| o.kind.as_str()).collect()),
        }
    }

    #[test]
    fn claims_belong_to_whoever_takes_them_along() {
        let table: [(&str, &str, u8, &[&str]); 8] = [
            ("Retain", "Retain", 0, &[]),
            ("Retain", "Retain", 5, &[]),
            ("Retain", "Delete", 0, &["StatefulSet"]),
            ("Retain", "Delete", 5, &["StatefulSet"]),
            ("Delete", "Retain", 0, &[]),
            ("Delete", "Retain", 5, &["Pod"]),
            ("Delete", "Delete", 0, &["StatefulSet"]),
            ("Delete", "Delete", 5, &["Pod"]),
        ];
        for (scaled, deleted, ordinal, owners) in table {
            let (set, pod) = (set(scaled, deleted), pod(ordinal));
            let bare = check(&claim(&[]), &set, &pod);
            assert_eq!(wanted(&bare).unwrap_or_default(), owners, "{scaled} {deleted} {ordinal}");
            if ordinal == 0 {
                assert_eq!(first_owner(&set).is_some(), owners == ["StatefulSet"]);
            }
            // Once it has them nothing is left to do; what another policy left behind goes.
            let Ownership::Wrong(next) = bare else { continue };
            let mut right = claim(&[]);
            right.metadata.owner_references = Some(next);
            assert_eq!(check(&right, &set, &pod), Ownership::Right);
        }
        let left = claim(&[owner("StatefulSet", "w", "set", true)]);
        assert_eq!(wanted(&check(&left, &set("Retain", "Retain"), &pod(0))), Some(vec![]));
        let bare = claim(&[owner("StatefulSet", "w", "set", false)]);
        assert_eq!(wanted(&check(&bare, &set("Retain", "Delete"), &pod(0))), Some(vec!["StatefulSet"]));
    }

    #[test]
    fn claims_of_others_are_left_alone() {
        let other = owner("Database", "db", "db", true);
        let (deletes, retains) = (set("Delete", "Delete"), set("Retain", "Retain"));
        let managed = claim(std::slice::from_ref(&other));
        assert!(is_managed_elsewhere(&managed, &deletes, &pod(0)));
        assert!(!is_managed_elsewhere(&managed, &retains, &pod(0)));
        assert_eq!(check(&managed, &deletes, &pod(0)), Ownership::Right);
        let both = claim(&[other, owner("StatefulSet", "w", "set", true)]);
        assert_eq!(wanted(&check(&both, &deletes, &pod(0))), Some(vec!["Database"]));
        let earlier = claim(&[owner("StatefulSet", "w", "before", true)]);
        assert!(is_managed_elsewhere(&earlier, &deletes, &pod(0)));
        assert_eq!(check(&earlier, &deletes, &pod(0)), Ownership::Right);
    }

    #[test]
    fn a_pod_waits_until_claims_of_the_one_before_it_are_gone() {
        let left = claim(&[owner("Pod", "w-0", "before", true)]);
        assert!(is_stale(&left, &set("Delete", "Retain"), &pod(0).metadata));
        assert!(!is_stale(&left, &set("Retain", "Delete"), &pod(0).metadata));
        assert!(!is_stale(&left, &set("Delete", "Retain"), &pod(1).metadata));
        assert!(!is_stale(&claim(&[]), &set("Delete", "Retain"), &pod(0).metadata));
    }
}
