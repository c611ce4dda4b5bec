//! What makes a pod of a StatefulSet itself: its name, host name, labels and claims. Pure.

use std::collections::BTreeMap;

use component_base::meta::label;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
};

use crate::controllers::{history::HASH_LABEL, pod_control};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

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
    pod_control::label(&mut pod, POD_NAME, name.clone());
    pod_control::label(&mut pod, POD_INDEX, ordinal.to_string());
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
    let make = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        claim.metadata.labels.get_or_insert_default().extend(labels.clone());
        claim.status = None;
        claim
    };
    templates(set).iter().map(make).collect()
}

/// What an adopted pod lacks of its labels.
pub(super) fn missing_labels(pod: &Pod, ordinal: i32) -> Option<BTreeMap<String, String>> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let has = label(&pod.metadata, POD_NAME) == Some(&name);
    (!has).then(|| [(POD_NAME.to_owned(), name), (POD_INDEX.to_owned(), ordinal.to_string())].into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_adopted_pod_gets_its_labels() {
        let adopted: Pod =
            serde_json::from_value(json!({"metadata": {"name": "w-3", "labels": {"a": "w"}}})).unwrap();
        let missing = missing_labels(&adopted, 3).unwrap();
        assert_eq!((missing[POD_NAME].as_str(), missing[POD_INDEX].as_str()), ("w-3", "3"));
        let mut named = adopted;
        named.metadata.labels = Some(missing);
        assert_eq!(missing_labels(&named, 3), None);
    }

    #[test]
    fn a_pod_keeps_its_name_and_claims() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "w", "namespace": "n", "uid": "u"},
            "spec": {"serviceName": "s", "selector": {"matchLabels": {"a": "w"}}, "template": {
                "metadata": {"labels": {"a": "w"}}, "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
                },
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
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "w");
        assert_eq!(claim.metadata.owner_references, None, "that comes with the pod");
    }
}
