//! Paths on this machine that stand for volumes: made for claims, and deleted with their volumes.
//!
//! Contract: upstream's plugin for host paths, which is meant for clusters of one node.

use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path};

use component_base::volumes::{BOUND_BY_CONTROLLER, class_of_claim};
use k8s_openapi::{
    api::{
        core::v1::{
            HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim,
            PersistentVolumeSpec,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::plan::{BY_PLUGIN, PROVISIONED_BY};

/// The name of the plugin.
pub(super) const PLUGIN: &str = "kubernetes.io/host-path";
/// Where paths are made.
const BASE: &str = "/tmp/hostpath_pv";
const CREATED_BY: &str = "kubernetes.io/createdby";

/// What a volume made for a claim is called.
pub(super) fn name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The volume for a claim, bound to it. Its path is the claim's own, so that none is left behind by one who was
/// interrupted.
pub(super) fn volume(claim: &PersistentVolumeClaim, class: &StorageClass) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let meta = &claim.metadata;
    let path = format!("{BASE}/{}", meta.uid.as_deref().unwrap_or_default());
    let policy = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned());
    let said = [
        (CREATED_BY, "hostpath-dynamic-provisioner"),
        (PROVISIONED_BY, PLUGIN),
        (BOUND_BY_CONTROLLER, "yes"),
    ];
    let annotations = said.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let modes = spec.access_modes.filter(|modes| !modes.is_empty());
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name(claim)),
            annotations: Some(annotations),
            finalizers: (policy == "Delete").then(|| vec![BY_PLUGIN.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: modes.or_else(|| Some(vec!["ReadWriteOnce".to_owned()])),
            capacity: spec.resources.and_then(|r| r.requests).map(|mut requests| {
                requests.retain(|resource, _| resource == "storage");
                requests
            }),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                ..ObjectReference::default()
            }),
            host_path: Some(HostPathVolumeSource { path, type_: None }),
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: class_of_claim(claim).map(str::to_owned),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// Why a path may not be deleted: nothing but what lies in a folder for what may be lost.
pub(super) fn refusal(path: &str) -> Option<String> {
    let inside = path.split_once("/tmp/").is_some_and(|(_, rest)| !rest.is_empty());
    (!inside).then(|| format!("host_path deleter only supports /tmp/.+ but received provided {path}"))
}

/// Makes the folder of a path.
pub(super) fn make(path: &str) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(path)
}

/// Deletes all there is at a path; what is not there is deleted.
pub(super) fn remove(path: &str) -> io::Result<()> {
    let path = Path::new(path);
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_may_be_lost_is_deleted() {
        for path in ["/tmp/a", "/tmp/a/b", "/var/tmp/x"] {
            assert_eq!(refusal(path), None, "{path}");
        }
        for path in ["/data", "/tmp", "/tmp/", "/", "tmp/x"] {
            assert!(refusal(path).is_some_and(|why| why.ends_with(path)), "{path}");
        }
    }

    #[test]
    fn folders_links_and_files_go_and_nothing_is_gone_already() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        make(&at("made/deep")).unwrap();
        make(&at("made/deep")).unwrap();
        fs::write(at("made/deep/file"), "x").unwrap();
        fs::write(at("kept"), "x").unwrap();
        std::os::unix::fs::symlink(at("made"), at("link")).unwrap();
        remove(&at("link")).unwrap();
        assert!(Path::new(&at("made/deep/file")).exists(), "what a link leads to stays");
        remove(&at("made")).unwrap();
        remove(&at("made")).unwrap();
        assert!(!Path::new(&at("made")).exists() && Path::new(&at("kept")).exists());
        remove(&at("kept")).unwrap();
        assert!(!Path::new(&at("kept")).exists());
    }

    #[test]
    fn a_volume_is_made_for_its_claim_alone() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": "c", "uid": "u"},
            "spec": {"storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}},
        }))
        .unwrap();
        let class = |policy: &str| {
            let class =
                json!({"metadata": {"name": "local"}, "provisioner": PLUGIN, "reclaimPolicy": policy});
            serde_json::from_value(class).unwrap()
        };
        let made = volume(&claim, &class("Delete"));
        let spec = made.spec.unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("pvc-u"));
        assert_eq!(made.metadata.finalizers.as_deref(), Some(&[BY_PLUGIN.to_owned()][..]));
        assert_eq!(spec.host_path.unwrap().path, "/tmp/hostpath_pv/u");
        assert_eq!(spec.claim_ref.unwrap().uid.as_deref(), Some("u"));
        assert_eq!(spec.access_modes, Some(vec!["ReadWriteOnce".to_owned()]));
        assert!(spec.capacity.unwrap().contains_key("storage"));
        assert_eq!(volume(&claim, &class("Retain")).metadata.finalizers, None);
    }
}
