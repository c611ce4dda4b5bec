//! `persistentvolumes`.

mod validation;

pub(in crate::registry) use self::validation::check_inline as check_inline_volume;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    object::Object,
    objects::rfc3339,
    registry::{
        Column, Resource, StrategyContext, Subresource,
        kit::{Cell, Plain, Rules, access_modes, column, fill, keep, resources, text},
        pod_spec,
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Capacity", "string"),
    column("Access Modes", "string"),
    column("Reclaim Policy", "string"),
    column("Status", "string"),
    column("Claim", "string"),
    column("StorageClass", "string"),
    column("VolumeAttributesClass", "string"),
    column("Reason", "string"),
    column("Age", "string"),
    column("VolumeMode", "string").wide(),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/capacity/storage", ""),
    Cell::With(|o| access_modes(o, "/spec/accessModes")),
    Cell::Field("/spec/persistentVolumeReclaimPolicy", ""),
    Cell::With(phase),
    Cell::With(claim),
    Cell::With(class),
    Cell::Field("/spec/volumeAttributesClassName", "<unset>"),
    Cell::Field("/status/reason", ""),
    Cell::Age,
    Cell::Field("/spec/volumeMode", "<unset>"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["pv"],
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            create,
            change,
            validate_new: validation::check_new,
            validate_change: validation::check_change,
            validate_gated: validation::check_affinity,
            warnings: |volume, _| validation::warnings(volume),
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("", "PersistentVolume", "persistentvolumes", "persistentvolume")
    }
}

fn default(volume: &mut Object) {
    if let Some(spec) = fill::spec(volume) {
        fill::missing(spec, "persistentVolumeReclaimPolicy", "Retain");
        if !fill::is_set(spec, "volumeMode") {
            spec.insert("volumeMode".to_owned(), "Filesystem".into());
        }
        pod_spec::fill_source(spec);
        resources::round_up(spec.get_mut("capacity"));
    }
    if let Some(status) = fill::made(volume.as_map_mut(), "status") {
        fill::missing(status, "phase", "Pending");
    }
}

fn create(volume: &mut Object, ctx: &StrategyContext<'_>) {
    volume.set("status", json!({"phase": "Pending", "lastPhaseTransitionTime": rfc3339(ctx.now)}));
}

/// The time of the last change of phase is kept, and told where a writer of the status does not.
fn change(new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
    if ctx.subresource != "status" {
        return keep(new, old, &["status"]);
    }
    const TIME: &str = "lastPhaseTransitionTime";
    let before = old.pointer("/status").and_then(Value::as_object).cloned().unwrap_or_default();
    let Some(status) = fill::made(new.as_map_mut(), "status") else { return };
    let same_phase = fill::string(status, "phase") == fill::string(&before, "phase");
    if same_phase && !fill::is_set(status, TIME) {
        if let Some(time) = before.get(TIME) {
            status.insert(TIME.to_owned(), time.clone());
        }
    } else if !same_phase && (!fill::is_set(status, TIME) || status.get(TIME) == before.get(TIME)) {
        status.insert(TIME.to_owned(), rfc3339(ctx.now).into());
    }
}

/// The phase, or that the volume is going.
pub(super) fn phase(obj: &Object) -> Value {
    match obj.is_terminating() {
        true => "Terminating".into(),
        false => obj.pointer("/status/phase").cloned().unwrap_or_else(|| "".into()),
    }
}

/// The class, wherever it is told.
pub(super) fn class(obj: &Object) -> Value {
    match obj.annotation("volume.beta.kubernetes.io/storage-class") {
        Some(class) => class.into(),
        None => obj.pointer("/spec/storageClassName").cloned().unwrap_or_else(|| "".into()),
    }
}

fn claim(obj: &Object) -> Value {
    match obj.pointer("/spec/claimRef") {
        Some(claim) => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")).into(),
        None => "".into(),
    }
}
