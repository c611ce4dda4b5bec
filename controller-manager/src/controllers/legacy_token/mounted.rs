//! The secrets a pod refers to.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, Volume};

/// Their names, each as often as it is referred to.
pub(super) fn secrets(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut out = Vec::new();
    out.extend(spec.image_pull_secrets.iter().flatten().map(|s| s.name.clone()));
    out.extend(of_containers(spec));
    out.extend(spec.volumes.iter().flatten().flat_map(of_volume));
    out
}

fn of_containers(spec: &PodSpec) -> Vec<String> {
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let plain = plain.map(|c| (c.env.as_deref(), c.env_from.as_deref()));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| (c.env.as_deref(), c.env_from.as_deref()));
    let named = |(env, from): (Option<&[EnvVar]>, Option<&[EnvFromSource]>)| {
        let mut names: Vec<String> = Vec::new();
        for source in env.unwrap_or_default().iter().filter_map(|e| e.value_from.as_ref()) {
            names.extend(source.secret_key_ref.as_ref().map(|s| s.name.clone()));
        }
        names.extend(
            from.unwrap_or_default().iter().filter_map(|f| f.secret_ref.as_ref()).map(|s| s.name.clone()),
        );
        names
    };
    plain.chain(ephemeral).flat_map(named).collect()
}

fn of_volume(volume: &Volume) -> Vec<String> {
    let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    let mut out: Vec<String> = sources.filter_map(|s| Some(s.secret.as_ref()?.name.clone())).collect();
    out.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
    out.extend(volume.azure_file.as_ref().map(|s| s.secret_name.clone()));
    let references = [
        volume.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()),
        volume.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()),
        volume.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()),
        volume.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()),
        volume.scale_io.as_ref().map(|s| &s.secret_ref),
        volume.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()),
    ];
    out.extend(references.into_iter().flatten().map(|s| s.name.clone()));
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_refer_to_a_secret_is_seen() {
        let env =
            |name: &str| json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]);
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "env": env("env"), "envFrom": [{"secretRef": {"name": "from"}}]}],
            "initContainers": [{"name": "i", "env": env("init")}],
            "ephemeralContainers": [{"name": "e", "env": env("ephemeral")}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "plain"}},
                {"name": "b", "projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "x"}}]}},
                {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                {"name": "d", "azureFile": {"secretName": "azure", "shareName": "s"}},
                {"name": "e", "configMap": {"name": "x"}},
                {"name": "f", "iscsi": {"targetPortal": "t", "iqn": "q", "lun": 0, "secretRef": {"name": "iscsi"}}},
            ],
        }}))
        .unwrap();
        let mut names = secrets(&pod);
        names.sort();
        let all = ["azure", "csi", "env", "ephemeral", "from", "init", "iscsi", "plain", "projected", "pull"];
        assert_eq!(names, all);
        assert!(secrets(&Pod::default()).is_empty());
    }
}
