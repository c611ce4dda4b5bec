//! What static pods may not speak of: objects of the API, which a node reads for pods that the API server knows. Pure.
//!
//! Contract: the gate `PreventStaticPodAPIReferences`; names and order as upstream's `HasAPIObjectReference`.

use k8s_openapi::api::core::v1::{LocalObjectReference, Pod, PodSpec, Volume};

use crate::pod;

/// What is wrong with a static pod's references; with the gate off, only what could never work is.
pub(super) fn check(pod: &Pod, gate: bool) -> Result<(), String> {
    let spec = pod::spec(pod);
    if gate {
        return match first(pod, spec)? {
            Some(kind) => Err(format!("static pods may not reference {kind}")),
            None => Ok(()),
        };
    }
    let mut sources =
        spec.volumes.iter().flatten().filter_map(|v| v.projected.as_ref()?.sources.as_ref()).flatten();
    if sources.any(|source| source.cluster_trust_bundle.is_some()) {
        return Err("static pods may not use ClusterTrustBundle projected volume sources".to_owned());
    }
    if spec.resource_claims.iter().flatten().next().is_some() {
        return Err("static pods may not use ResourceClaims".to_owned());
    }
    Ok(())
}

/// The first kind of objects that the pod speaks of.
fn first(pod: &Pod, spec: &PodSpec) -> Result<Option<&'static str>, String> {
    let is_named = |name: Option<&str>| name.is_some_and(|name| !name.is_empty());
    if is_named(spec.service_account_name.as_deref()) || is_named(spec.service_account.as_deref()) {
        return Ok(Some("serviceaccounts"));
    }
    let (secrets, maps) = of_containers(pod);
    let volumes = || spec.volumes.iter().flatten();
    let pulls = spec.image_pull_secrets.iter().flatten().any(|one| !one.name.is_empty());
    if pulls || secrets || volumes().any(names_secret) {
        return Ok(Some("secrets"));
    }
    if maps || volumes().any(names_config_map) {
        return Ok(Some("configmaps"));
    }
    if spec.resource_claims.iter().flatten().next().is_some() {
        return Ok(Some("resourceclaims"));
    }
    for volume in volumes() {
        if let Some(kind) = of_volume(volume)? {
            return Ok(Some(kind));
        }
    }
    Ok(None)
}

/// Whether the variables of any container come from secrets, and whether from config maps.
fn of_containers(pod: &Pod) -> (bool, bool) {
    let (mut secrets, mut maps) = (false, false);
    for (_, container) in pod::all_containers(pod) {
        for from in container.env_from.iter().flatten() {
            secrets |= from.secret_ref.as_ref().is_some_and(|one| !one.name.is_empty());
            maps |= from.config_map_ref.as_ref().is_some_and(|one| !one.name.is_empty());
        }
        for from in container.env.iter().flatten().filter_map(|one| one.value_from.as_ref()) {
            secrets |= from.secret_key_ref.as_ref().is_some_and(|one| !one.name.is_empty());
            maps |= from.config_map_key_ref.as_ref().is_some_and(|one| !one.name.is_empty());
        }
    }
    (secrets, maps)
}

fn names_secret(volume: &Volume) -> bool {
    let local = |one: Option<&'_ LocalObjectReference>| one.map(|one| one.name.clone());
    let projected = volume.projected.iter().flat_map(|one| one.sources.iter().flatten());
    let names = [
        volume.azure_file.as_ref().map(|v| v.secret_name.clone()),
        volume.cephfs.as_ref().and_then(|v| local(v.secret_ref.as_ref())),
        volume.cinder.as_ref().and_then(|v| local(v.secret_ref.as_ref())),
        volume.flex_volume.as_ref().and_then(|v| local(v.secret_ref.as_ref())),
        volume.rbd.as_ref().and_then(|v| local(v.secret_ref.as_ref())),
        volume.secret.as_ref().and_then(|v| v.secret_name.clone()),
        volume.scale_io.as_ref().and_then(|v| local(Some(&v.secret_ref))),
        volume.iscsi.as_ref().and_then(|v| local(v.secret_ref.as_ref())),
        volume.storageos.as_ref().and_then(|v| local(v.secret_ref.as_ref())),
        volume.csi.as_ref().and_then(|v| local(v.node_publish_secret_ref.as_ref())),
    ];
    let projected = projected.filter_map(|source| source.secret.as_ref()).map(|one| one.name.clone());
    names.into_iter().flatten().chain(projected).any(|name| !name.is_empty())
}

fn names_config_map(volume: &Volume) -> bool {
    let projected = volume.projected.iter().flat_map(|one| one.sources.iter().flatten());
    let projected = projected.filter_map(|source| source.config_map.as_ref());
    let mut names = volume.config_map.iter().map(|one| &one.name).chain(projected.map(|one| &one.name));
    names.any(|name| !name.is_empty())
}

/// What a volume is made of that the API server has, where no name told.
fn of_volume(volume: &Volume) -> Result<Option<&'static str>, String> {
    let kinds = [
        (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
        (volume.secret.is_some(), "secrets (via secret volumes)"),
        (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
        (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
        (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
        (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
        (volume.azure_file.is_some(), "secrets (via azureFile volumes)"),
    ];
    if let Some((_, kind)) = kinds.into_iter().find(|(is, _)| *is) {
        return Ok(Some(kind));
    }
    for source in volume.projected.iter().flat_map(|one| one.sources.iter().flatten()) {
        let kinds = [
            (source.config_map.is_some(), "configmaps (via projected volumes)"),
            (source.secret.is_some(), "secrets (via projected volumes)"),
            (source.service_account_token.is_some(), "serviceaccounts (via projected volumes)"),
            (source.cluster_trust_bundle.is_some(), "clustertrustbundles"),
            (source.pod_certificate.is_some(), "podcertificates"),
        ];
        if let Some((_, kind)) = kinds.into_iter().find(|(is, _)| *is) {
            return Ok(Some(kind));
        }
        if source.downward_api.is_none() {
            return Err(format!("unknown source for projected volume {:?}", volume.name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(more: serde_json::Value) -> Pod {
        let mut pod =
            json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        pod["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(pod).unwrap()
    }

    fn volume(source: serde_json::Value) -> Pod {
        let mut volume = json!({"name": "v"});
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        with(json!({ "volumes": [volume] }))
    }

    fn container(more: serde_json::Value) -> Pod {
        let mut one = json!({"name": "d", "image": "i"});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(json!({ "initContainers": [one] }))
    }

    #[test]
    fn objects_of_the_api_are_refused_by_their_kind() {
        let source = |one: serde_json::Value| volume(json!({"projected": {"sources": [one]}}));
        let key = json!({"name": "n", "key": "k"});
        for (pod, kind) in [
            (with(json!({"serviceAccountName": "s"})), "serviceaccounts"),
            (with(json!({"serviceAccount": "s"})), "serviceaccounts"),
            (with(json!({"imagePullSecrets": [{"name": "s"}]})), "secrets"),
            (container(json!({"envFrom": [{"secretRef": {"name": "s"}}]})), "secrets"),
            (container(json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": key}}]})), "secrets"),
            (volume(json!({"secret": {"secretName": "s"}})), "secrets"),
            (volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})), "secrets"),
            (source(json!({"secret": {"name": "s"}})), "secrets"),
            (container(json!({"envFrom": [{"configMapRef": {"name": "s"}}]})), "configmaps"),
            (container(json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": key}}]})), "configmaps"),
            (volume(json!({"configMap": {"name": "s"}})), "configmaps"),
            (source(json!({"configMap": {"name": "s"}})), "configmaps"),
            (with(json!({"resourceClaims": [{"name": "r"}]})), "resourceclaims"),
            (volume(json!({"configMap": {}})), "configmaps (via configmap volumes)"),
            (volume(json!({"secret": {}})), "secrets (via secret volumes)"),
            (volume(json!({"csi": {"driver": "d"}})), "csidrivers (via CSI volumes)"),
            (volume(json!({"persistentVolumeClaim": {"claimName": "c"}})), "persistentvolumeclaims"),
            (volume(json!({"ephemeral": {}})), "persistentvolumeclaims (via ephemeral volumes)"),
            (
                source(json!({"serviceAccountToken": {"path": "t"}})),
                "serviceaccounts (via projected volumes)",
            ),
            (source(json!({"clusterTrustBundle": {"path": "t"}})), "clustertrustbundles"),
            (source(json!({"podCertificate": {"signerName": "s", "keyType": "ED25519"}})), "podcertificates"),
        ] {
            assert_eq!(check(&pod, true), Err(format!("static pods may not reference {kind}")), "{pod:?}");
        }
        assert_eq!(
            check(&source(json!({})), true),
            Err("unknown source for projected volume \"v\"".to_owned())
        );
        for pod in [
            volume(json!({"hostPath": {"path": "/"}})),
            volume(json!({"emptyDir": {}})),
            source(json!({"downwardAPI": {"items": []}})),
            with(json!({"serviceAccountName": ""})),
        ] {
            assert_eq!(check(&pod, true), Ok(()), "{pod:?}");
        }
    }

    #[test]
    fn with_the_gate_off_only_what_cannot_work_is_refused() {
        let claims = with(json!({"resourceClaims": [{"name": "r"}]}));
        let bundle = volume(json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}}));
        assert_eq!(check(&claims, false), Err("static pods may not use ResourceClaims".to_owned()));
        let error = check(&bundle, false).unwrap_err();
        assert_eq!(error, "static pods may not use ClusterTrustBundle projected volume sources");
        assert_eq!(check(&volume(json!({"secret": {"secretName": "s"}})), false), Ok(()));
    }
}
