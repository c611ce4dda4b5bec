//! Volumes as containers see them: mounted as files, or as block devices.
//!
//! Contract: core/v1 `VolumeMount`, `VolumeDevice`; recursive read-only mounts are KEP-3857.

use std::collections::{BTreeMap, BTreeSet};

use super::validation::Whole;
use crate::{
    at::At,
    field::{Error, ErrorList},
    format,
};

/// The mounts and devices of a container.
pub(super) fn check(container: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    let (mounts, devices) = (container.get("volumeMounts"), container.get("volumeDevices"));
    let by_name = |list: &At<'_>, path: &str| -> BTreeMap<String, String> {
        list.items().map(|one| (one.text_of("name").to_owned(), one.text_of(path).to_owned())).collect()
    };
    check_mounts(container, &mounts, &by_name(&devices, "devicePath"), whole, errors);
    check_devices(&devices, &by_name(&mounts, "mountPath"), whole, errors);
}

fn check_mounts(
    container: &At<'_>,
    mounts: &At<'_>,
    devices: &BTreeMap<String, String>,
    whole: &Whole<'_>,
    errors: &mut ErrorList,
) {
    let privileged = container.get("securityContext").get("privileged").is_true();
    let mut points = BTreeSet::new();
    for mount in mounts.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        name.check_required(errors);
        if !whole.volumes.contains_key(name.text()) {
            name.not_found(errors);
        }
        path.check_required(errors);
        if !points.insert(path.text()) {
            path.invalid_as(errors, path.text(), "must be unique");
        }
        if devices.contains_key(name.text()) {
            name.invalid(errors, "must not already exist in volumeDevices");
        }
        if devices.values().any(|device| device == path.text()) {
            path.invalid_as(errors, path.text(), "must not already exist as a path in volumeDevices");
        }
        // Paths below a volume are told of as fields of the list, as clients know it.
        let listed = |field: &'static str| mount.get(field).named(mounts.path().child(field));
        let (below, expression) = (listed("subPath"), listed("subPathExpr"));
        below.check_option_format(errors, format::descending_path);
        if !expression.is_empty() {
            if !below.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                mount.get("subPathExpr").invalid(errors, detail);
            }
            expression.check_format(errors, format::descending_path);
        }
        propagation(&listed("mountPropagation"), privileged, errors);
        recursive_read_only(&mount, &listed("recursiveReadOnly"), errors);
    }
}

fn propagation(propagation: &At<'_>, privileged: bool, errors: &mut ErrorList) {
    propagation.check_option_of(errors, &["Bidirectional", "HostToContainer", "None"]);
    if propagation.text() == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        propagation.forbidden(errors, detail);
    }
}

fn recursive_read_only(mount: &At<'_>, mode: &At<'_>, errors: &mut ErrorList) {
    match mode.text() {
        "Enabled" | "IfPossible" => {
            if !mount.get("readOnly").is_true() {
                mode.forbidden(errors, "may only be specified when readOnly is true");
            }
            if mount.has("mountPropagation") && mount.text_of("mountPropagation") != "None" {
                let detail = "may only be specified when mountPropagation is None or not specified";
                mode.forbidden(errors, detail);
            }
        }
        _ => mode.check_option_of(errors, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn check_devices(
    devices: &At<'_>,
    mounts: &BTreeMap<String, String>,
    whole: &Whole<'_>,
    errors: &mut ErrorList,
) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in devices.items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        let volume = whole.volumes.get(name.text());
        let wrong = |errors: &mut ErrorList, at: &At<'_>, detail: &str| {
            errors.push(Error::invalid(at.path(), at.text(), detail));
        };
        name.check_required(errors);
        if names.contains(name.text()) {
            wrong(errors, &name, "must be unique");
        }
        match volume {
            None => name.not_found(errors),
            Some(volume) if !volume.has("persistentVolumeClaim") && !volume.has("ephemeral") => {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                wrong(errors, &name, detail);
            }
            Some(_) => {}
        }
        path.check_required(errors);
        if paths.contains(path.text()) {
            wrong(errors, &path, "must be unique");
        }
        if format::no_backsteps(path.text()).is_empty() {
            paths.insert(path.text());
        } else {
            wrong(errors, &path, "can not contain backsteps ('..')");
        }
        if mounts.contains_key(name.text()) {
            wrong(errors, &name, "must not already exist in volumeMounts");
        }
        if mounts.values().any(|mount| mount == path.text()) {
            wrong(errors, &path, "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            names.insert(name.text());
        }
    }
}
