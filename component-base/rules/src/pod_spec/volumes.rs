//! Volumes of a pod, of every type there is.
//!
//! Contract: core/v1 `Volume`. What persistent volumes share is in `sources`.

mod projected;
pub mod sources;

use std::collections::{BTreeMap, BTreeSet};

pub use self::projected::check_signer;
pub use self::sources::HOST_PATHS;
use self::sources::check_mode;
use super::{env, validation::Whole};
use crate::{
    at::At,
    claim,
    field::{Error, ErrorList},
    format, validate,
};

/// Types of volumes in the order they are looked at, and how one that comes second is called.
const TYPES: &[(&str, &str)] = &[
    ("hostPath", "hostPath"),
    ("gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("cinder", "cinder"),
    ("cephfs", "cephFS"),
    ("quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("configMap", "configMap"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("storageos", "storageos"),
    ("projected", "projected"),
    ("scaleIO", "scaleIO"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
    ("image", "image"),
];

/// Checks the volumes of a pod and returns the good ones by name.
pub(super) fn check<'v>(whole: &Whole<'v>, errors: &mut ErrorList) -> BTreeMap<&'v str, At<'v>> {
    let volumes = whole.spec.get("volumes");
    let created: BTreeSet<String> = volumes
        .items()
        .filter(|volume| volume.has("ephemeral") && !whole.pod_name.is_empty())
        .map(|volume| format!("{}-{}", whole.pod_name, volume.text_of("name")))
        .collect();
    let mut good = BTreeMap::new();
    for volume in volumes.items() {
        let mut wrong = ErrorList::new();
        source(&volume, whole, &mut wrong);
        let name = volume.get("name");
        name.check_required_format(&mut wrong, format::dns_label);
        if good.contains_key(name.text()) {
            name.duplicate(&mut wrong);
        }
        if wrong.is_empty() {
            good.insert(name.text(), volume.clone());
        }
        errors.extend(wrong);
        let claim = volume.get("persistentVolumeClaim").get("claimName");
        if created.contains(claim.text()) {
            claim.invalid(errors, "must not reference a PVC that gets created for an ephemeral volume");
        }
    }
    good
}

fn source(volume: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    let mut found = volume.has("emptyDir");
    let limit = volume.get("emptyDir").get("sizeLimit");
    if limit.quantity().is_some_and(|limit| limit.sign() < 0) {
        limit.forbidden(errors, "SizeLimit field must be a valid resource quantity");
    }
    for (name, second) in TYPES.iter().filter(|(name, _)| volume.has(name)) {
        if std::mem::replace(&mut found, true) {
            let path = volume.path().child(second);
            errors.push(Error::forbidden(&path, "may not specify more than 1 volume type"));
        } else {
            of_type(name, &volume.get(name), volume, whole, errors);
        }
    }
    let portal = volume.get("iscsi");
    let length = volume.text_of("name").len() + 1 + portal.text_of("targetPortal").len();
    if portal.has("initiatorName") && length > 64 {
        volume.get("name").invalid_as(errors, volume.text_of("name"), sources::LONG_PORTAL);
    }
    if !found {
        volume.required(errors, "must specify a volume type");
    }
}

fn of_type(name: &str, source: &At<'_>, volume: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    match name {
        "gitRepo" => {
            source.get("repository").check_required(errors);
            source.get("directory").check_format(errors, format::descending_path);
        }
        "secret" => keys(source, "secretName", errors),
        "configMap" => keys(source, "name", errors),
        "persistentVolumeClaim" => {
            source.get("claimName").check_required(errors);
        }
        "downwardAPI" => {
            check_mode(&source.get("defaultMode"), errors);
            for file in source.get("items").items() {
                downward_file(&At::new(file.value(), source.path().clone()), errors);
            }
        }
        "projected" => projected::check(source, whole, errors),
        "csi" => csi(source, errors),
        "ephemeral" => ephemeral(source, volume, whole, errors),
        "image" => {
            let reference = source.get("reference");
            if whole.pod {
                reference.check_required(errors);
            }
            source.get("pullPolicy").check_one_of(errors, &["Always", "IfNotPresent", "Never"]);
        }
        // Its path has been told like this since the field had another name.
        "gcePersistentDisk" => {
            let path = volume.path().child("persistentDisk");
            sources::check(name, &source.named(path), false, errors);
        }
        _ => sources::check(name, source, false, errors),
    }
}

/// A volume of the keys of a secret or a config map.
fn keys(source: &At<'_>, name: &str, errors: &mut ErrorList) {
    source.get(name).check_required(errors);
    check_mode(&source.get("defaultMode"), errors);
    source.get("items").items().for_each(|item| key_to_path(&item, errors));
}

fn key_to_path(item: &At<'_>, errors: &mut ErrorList) {
    item.get("key").check_required(errors);
    item.get("path").check_required(errors);
    item.get("path").check_format(errors, format::volume_path);
    check_mode(&item.get("mode"), errors);
}

/// A file that shows something of the pod.
fn downward_file(file: &At<'_>, errors: &mut ErrorList) {
    file.get("path").check_required(errors);
    file.get("path").check_format(errors, format::volume_path);
    if file.has("fieldRef") {
        env::field_ref(&file.get("fieldRef"), env::FILE_FIELDS, errors);
        if file.has("resourceFieldRef") {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            file.invalid_as(errors, "resource", detail);
        }
    } else if file.has("resourceFieldRef") {
        env::resource_ref(&file.get("resourceFieldRef"), true, errors);
    } else {
        file.required(errors, "one of fieldRef and resourceFieldRef is required");
    }
    check_mode(&file.get("mode"), errors);
}

fn csi(source: &At<'_>, errors: &mut ErrorList) {
    sources::check_driver(&source.get("driver"), errors);
    if !source.has("nodePublishSecretRef") {
        return;
    }
    let name = source.get("nodePublishSecretRef").get("name");
    if name.check_required(errors) {
        // Told of as the volume's own name, as clients know it.
        name.named(source.path().child("name")).check_format(errors, format::dns_subdomain);
    }
}

fn ephemeral(source: &At<'_>, volume: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    let template = source.get("volumeClaimTemplate");
    if template.check_there(errors) {
        claim::check_template(&template, errors);
    }
    let name = volume.get("name");
    if whole.pod_name.is_empty() || name.is_empty() {
        return;
    }
    let claim = format!("{}-{}", whole.pod_name, name.text());
    for detail in validate::dns_subdomain(&claim, false) {
        name.invalid(errors, format!("PVC name {claim:?}: {detail}"));
    }
}
