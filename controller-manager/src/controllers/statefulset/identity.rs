//! What makes a pod of a StatefulSet itself: its name, host name, labels and claims. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::Resource;

use crate::controllers::{history::HASH_LABEL, pod_control};

/// The name of an ordinal's claim made from a template.
fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    let stem = template.metadata.name.as_deref().unwrap_or_default();
    format!("{stem}-{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or_default()
}

/// The pod of an ordinal, of one revision of the template.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_control::from_template(template, set);
    let name = format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default());
    pod.metadata.generate_name = None;
    pod.metadata.namespace.clone_from(&set.metadata.namespace);
    pod.metadata.name = Some(name.clone());
    pod_control::label(&mut pod, "statefulset.kubernetes.io/pod-name", name.clone());
    pod_control::label(&mut pod, "apps.kubernetes.io/pod-index", ordinal.to_string());
    pod_control::label(&mut pod, HASH_LABEL, revision);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|s| !s.is_empty());
    let mut volumes = spec.volumes.take().unwrap_or_default();
    for claim in templates(set) {
        let volume = claim.metadata.name.clone().unwrap_or_default();
        // A claim takes the place of a volume of the same name.
        volumes.retain(|v| v.name != volume);
        let source = PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, claim, ordinal),
            read_only: None,
        };
        volumes.push(Volume { name: volume, persistent_volume_claim: Some(source), ..Volume::default() });
    }
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
    pod
}

/// The claims of an ordinal.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let labels: BTreeMap<String, String> =
        set.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    let owner = deletes_claims(set).then(|| owner_of(set));
    let make = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        claim.metadata.labels.get_or_insert_default().extend(labels.clone());
        claim.metadata.owner_references = owner.clone().map(|o| vec![o]);
        claim.status = None;
        claim
    };
    templates(set).iter().map(make).collect()
}

/// Whether the claims go with the set (KEP-1847).
fn deletes_claims(set: &StatefulSet) -> bool {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    policy.and_then(|p| p.when_deleted.as_deref()) == Some("Delete")
}

/// Whether the claims of ordinals that are no longer wanted go with their pods (KEP-1847).
pub(super) fn deletes_claims_when_scaled(set: &StatefulSet) -> bool {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    policy.and_then(|p| p.when_scaled.as_deref()) == Some("Delete")
}

/// An owner that is no controller: the claims may have one of their own.
pub(super) fn owner_of<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_keeps_its_name_and_claims() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "w", "namespace": "n", "uid": "u"},
            "spec": {"serviceName": "s", "selector": {"matchLabels": {"a": "w"}}, "template": {
                "metadata": {"labels": {"a": "w"}}, "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"}},
        }))
        .unwrap();
        let made = pod(&set, &set.spec.as_ref().unwrap().template, "w-1", 2);
        assert_eq!(made.metadata.name.as_deref(), Some("w-2"));
        let labels = made.metadata.labels.unwrap();
        assert_eq!(
            (labels["apps.kubernetes.io/pod-index"].as_str(), labels["controller-revision-hash"].as_str()),
            ("2", "w-1")
        );
        let spec = made.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("w-2"), Some("s")));
        let volumes = spec.volumes.unwrap();
        assert_eq!(volumes.len(), 1);
        assert_eq!(volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-w-2");
        let claim = &claims(&set, 2)[0];
        assert_eq!(claim.metadata.name.as_deref(), Some("data-w-2"));
        assert_eq!(claim.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        assert!(!deletes_claims_when_scaled(&set));
    }
}
