//! What is wrong with a persistent volume and with changes of one.
//!
//! Contract: core/v1 `PersistentVolumeSpec`; classes of attributes are KEP-3751.

use component_base::features::{Gate, Gates};
use serde_json::Value;

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        kit::{at::At, claim, format, resources, semantic, shape},
        pod_spec::{check_node_selector, sources, warnings_of_node_term},
    },
};

/// Sources in the order they are looked at: field, and where what is wrong in it is told.
const SOURCES: &[(&str, &str)] = &[
    ("hostPath", "hostPath"),
    // Its path has been told like this since the field had another name.
    ("gcePersistentDisk", "persistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephfs"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
    ("csi", "csi"),
];

/// Sources that take mount options from an annotation.
const MOUNTED: &[&str] = &[
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

/// Labels of nodes that got other names: an affinity may follow.
const RENAMED: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Sources that are gone: field, how it is called, since when.
const GONE: &[(&str, &str, &str)] = &[
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// A volume, new or as it is to become; `loose` lets values in its affinity be no labels.
fn check(volume: &Object, loose: bool, errors: &mut ErrorList) {
    let spec = At::spec(volume);
    let modes = spec.get("accessModes");
    if modes.check_required(errors) {
        claim::check_access_modes(&modes, errors);
    }
    check_capacity(&spec.get("capacity"), errors);
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        policy.check_is_one_of(errors, &["Delete", "Recycle", "Retain"]);
    }
    let affinity = spec.get("nodeAffinity");
    if affinity.is_set() {
        let required = affinity.get("required");
        if required.is_set() {
            check_node_selector(&required, loose, errors);
        } else {
            required.required(errors, "must specify required node constraints");
        }
    }
    check_source(&spec, errors);
    let root = spec.get("hostPath").has("path") && is_root(spec.get("hostPath").text_of("path"));
    if root && policy.text() == "Recycle" {
        policy.forbidden(errors, "may not be 'recycle' for a hostPath mount of '/'");
    }
    spec.get("storageClassName").check_option_format(errors, format::dns_subdomain);
    spec.get("volumeMode").check_option_of(errors, claim::VOLUME_MODES);
    let class = spec.get("volumeAttributesClassName");
    if class.is_set() {
        if class.is_empty() {
            class.required(errors, "an empty string is disallowed");
        } else {
            class.check_format(errors, format::dns_subdomain);
        }
        if !spec.has("csi") {
            spec.get("csi").required(errors, "has to be specified when using volumeAttributesClassName");
        }
    }
}

/// The spec of a volume that stands in an attachment: a CSI volume without anything that belongs to a claim.
pub(in crate::registry) fn check_inline(spec: &At<'_>, errors: &mut ErrorList) {
    const OUT_OF_PLACE: &str = "may not be specified in the context of inline volumes";
    let absent = |field: &str, errors: &mut ErrorList| {
        if !spec.get(field).is_empty() {
            spec.get(field).forbidden(errors, OUT_OF_PLACE);
        }
    };
    if spec.has("claimRef") {
        spec.get("claimRef").forbidden(errors, OUT_OF_PLACE);
    }
    absent("capacity", errors);
    if !spec.has("csi") {
        spec.get("csi").required(errors, "has to be specified in the context of inline volumes");
    }
    let modes = spec.get("accessModes");
    if modes.check_required(errors) {
        claim::check_access_modes(&modes, errors);
    }
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if !matches!(policy.text(), "" | "Retain") {
        policy.forbidden(errors, "may only be Retain in the context of inline volumes");
    }
    if spec.has("nodeAffinity") {
        spec.get("nodeAffinity").forbidden(errors, OUT_OF_PLACE);
    }
    check_source(spec, errors);
    absent("storageClassName", errors);
    let mode = spec.get("volumeMode");
    if mode.is_set() && mode.text() != "Filesystem" {
        let detail = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        mode.forbidden(errors, detail);
    }
}

/// What a volume can hold: storage and nothing else.
fn check_capacity(capacity: &At<'_>, errors: &mut ErrorList) {
    capacity.check_required(errors);
    if !capacity.has("storage") || capacity.len() > 1 {
        let all = if capacity.is_set() { capacity.value().clone() } else { Value::Null };
        errors.push(Error::not_supported(capacity.path(), all, &["storage"]));
    }
    for (_, amount) in capacity.entries() {
        resources::check_basic(&amount, errors);
        resources::check_above_zero(&amount, errors);
    }
}

/// A volume stands on one source.
fn check_source(spec: &At<'_>, errors: &mut ErrorList) {
    let mut found = false;
    for (field, told) in SOURCES.iter().filter(|(field, _)| spec.has(field)) {
        // FlexVolumes have always been let pass as second ones.
        if std::mem::replace(&mut found, true) && *field != "flexVolume" {
            let called = if *field == "cephfs" { "cephFS" } else { field };
            let path = spec.path().child(called);
            errors.push(Error::forbidden(&path, "may not specify more than 1 volume type"));
            continue;
        }
        let source = spec.get(field).named(spec.path().child(told));
        match *field {
            "csi" => check_csi(&source, errors),
            _ => sources::check(field, &source, true, errors),
        }
        if *field == "local" && !spec.has("nodeAffinity") {
            spec.get("nodeAffinity").required(errors, "Local volume requires node affinity");
        }
    }
    if !found {
        spec.required(errors, "must specify a volume type");
    }
}

fn check_csi(source: &At<'_>, errors: &mut ErrorList) {
    sources::check_driver(&source.get("driver"), errors);
    source.get("volumeHandle").check_required(errors);
    for secret in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        sources::check_secret(&source.get(secret), errors);
    }
}

fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

/// Mount options belong to sources that are mounted.
fn check_mount_options(volume: &Object, errors: &mut ErrorList) {
    let spec = At::spec(volume);
    if volume.annotation(MOUNT_OPTIONS).is_some() && !MOUNTED.iter().any(|source| spec.has(source)) {
        let path = Path::new("metadata").child("annotations").child(MOUNT_OPTIONS);
        errors.push(Error::forbidden(&path, "may not specify mount options for this volume type"));
    }
}

/// A new volume.
pub(super) fn check_new(volume: &Object, errors: &mut ErrorList) {
    check(volume, false, errors);
    check_mount_options(volume, errors);
}

/// A volume keeps its affinity once it has one.
pub(super) fn check_affinity(new: &Object, old: Option<&Object>, gates: Gates, errors: &mut ErrorList) {
    let (Some(old), false) = (old, gates.has(Gate::MutablePVNodeAffinity)) else { return };
    let (affinity, was) = (At::spec(new).get("nodeAffinity"), At::spec(old).get("nodeAffinity"));
    if was.is_set() && !is_same_affinity(affinity.value(), was.value()) {
        let detail = "field is immutable, except for updating from beta label to GA";
        affinity.named(Path::new("nodeAffinity")).invalid_go(errors, &shape::VOLUME_NODE_AFFINITY, detail);
    }
}

/// A volume keeps its source and its mode.
pub(super) fn check_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(new), At::spec(old));
    let loose = has_odd_labels(&was.get("nodeAffinity").get("required"));
    check_new_with(new, loose, errors);
    let (source, before) = (source_of(&spec, &was), source_of(&was, &was));
    let differences = semantic::differences(&before, &source);
    if !differences.is_empty() {
        let path = Path::new("spec").child("persistentvolumesource");
        let detail =
            format!("spec.persistentvolumesource is immutable after creation\n{}", differences.join("\n"));
        errors.push(Error::forbidden(&path, detail));
    }
    // Told without the spec, as clients know it.
    let mode = spec.get("volumeMode").named(Path::new("volumeMode"));
    mode.check_unchanged(&was.get("volumeMode"), errors);
    let class = spec.get("volumeAttributesClassName");
    if was.has("volumeAttributesClassName") && !class.is_set() {
        class.forbidden(errors, "update from non-nil value to nil is forbidden");
    }
}

fn check_new_with(volume: &Object, loose: bool, errors: &mut ErrorList) {
    check(volume, loose, errors);
    check_mount_options(volume, errors);
    check(volume, loose, errors);
}

/// The sources of a volume, without a secret for expansion where the old volume has none: it may be added.
fn source_of(spec: &At<'_>, was: &At<'_>) -> Value {
    let mut all = serde_json::Map::new();
    for (field, _) in SOURCES.iter().filter(|(field, _)| spec.has(field)) {
        all.insert((*field).to_owned(), spec.get(field).value().clone());
    }
    let added = was.has("csi") && !was.get("csi").has("controllerExpandSecretRef");
    if added && let Some(Value::Object(csi)) = all.get_mut("csi") {
        csi.remove("controllerExpandSecretRef");
    }
    Value::Object(all)
}

/// Whether an affinity says what it said, or says it by the new names of labels.
fn is_same_affinity(new: &Value, old: &Value) -> bool {
    if semantic::same(old, new) {
        return true;
    }
    let mut renamed = old.clone();
    let terms = |affinity: &Value| {
        let list = affinity.pointer("/required/nodeSelectorTerms").and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let wanted = terms(new);
    let list = renamed.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut);
    for (term, want) in list.into_iter().flatten().zip(&wanted) {
        let list = |field| (format!("/{field}"), field);
        for (pointer, _) in ["matchExpressions", "matchFields"].map(list) {
            let requirements = term.pointer_mut(&pointer).and_then(Value::as_array_mut);
            let wants = want.pointer(&pointer).and_then(Value::as_array);
            for (one, want) in requirements.into_iter().flatten().zip(wants.into_iter().flatten()) {
                let key = |v: &Value| v.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
                let (from, to) = (key(one), key(want));
                if RENAMED.contains(&(from.as_str(), to.as_str()))
                    && let Some(one) = one.as_object_mut()
                {
                    one.insert("key".to_owned(), to.into());
                }
            }
        }
    }
    semantic::same(&renamed, new)
}

fn has_odd_labels(selector: &At<'_>) -> bool {
    let expressions =
        selector.get("nodeSelectorTerms").items().flat_map(|t| t.get("matchExpressions").items());
    expressions
        .flat_map(|expression| expression.get("values").items())
        .any(|value| !format::label_value(value.text()).is_empty())
}

/// What to warn of at a volume.
pub(super) fn warnings(volume: &Object) -> Vec<String> {
    const ANNOTATIONS: &[(&str, &str)] = &[
        (
            "volume.beta.kubernetes.io/storage-class",
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (MOUNT_OPTIONS, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ];
    let spec = At::spec(volume);
    let mut warnings = Vec::new();
    for (key, message) in ANNOTATIONS.iter().filter(|(key, _)| volume.annotation(key).is_some()) {
        warnings.push(format!("metadata.annotations[{key}]: {message}"));
    }
    if spec.text_of("persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
             approach is to use dynamic provisioning."
                .to_owned(),
        );
    }
    let terms = spec.get("nodeAffinity").get("required").get("nodeSelectorTerms");
    warnings.extend(terms.items().flat_map(|term| warnings_of_node_term(&term, false)));
    for (_, called, message) in GONE.iter().filter(|(field, ..)| spec.has(field)) {
        warnings.push(format!("spec.{called}: {message}"));
    }
    warnings
}
