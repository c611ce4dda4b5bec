//! `persistentvolumeclaims`.

mod validation;

use std::sync::Arc;

use component_base::features::{Gate, Gates};
use serde_json::{Map, Value, json};

use crate::{
    object::Object,
    registry::{
        Column, Resource, StrategyContext, Subresource,
        core::persistentvolumes::{class, phase},
        kit::{Cell, Plain, Rules, access_modes, column, fill, keep, resources},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Status", "string"),
    column("Volume", "string"),
    column("Capacity", "string"),
    column("Access Modes", "string"),
    column("StorageClass", "string"),
    column("VolumeAttributesClass", "string"),
    column("Age", "string"),
    column("VolumeMode", "string").wide(),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::With(phase),
    Cell::Field("/spec/volumeName", ""),
    Cell::With(capacity),
    Cell::With(modes),
    Cell::With(class),
    Cell::Field("/spec/volumeAttributesClassName", "<unset>"),
    Cell::Age,
    Cell::Field("/spec/volumeMode", "<unset>"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["pvc"],
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            create,
            change,
            validate_new: validation::check_new,
            validate_change: validation::check_change,
            validate_status: validation::check_status,
            warnings: |claim, _| validation::warnings(claim),
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim")
    }
}

/// Whether the claim has a volume to tell of.
fn has_volume(claim: &Object) -> bool {
    claim.pointer("/spec/volumeName").and_then(Value::as_str).is_some_and(|name| !name.is_empty())
}

fn capacity(claim: &Object) -> Value {
    match has_volume(claim) {
        true => claim.pointer("/status/capacity/storage").cloned().unwrap_or_else(|| "0".into()),
        false => "".into(),
    }
}

fn modes(claim: &Object) -> Value {
    if has_volume(claim) { access_modes(claim, "/status/accessModes") } else { "".into() }
}

fn default(claim: &mut Object) {
    if let Some(spec) = fill::spec(claim) {
        fill::absent(spec, "volumeMode", "Filesystem");
        resources::round_requirements(spec.get_mut("resources"));
    }
    if let Some(status) = fill::made(claim.as_map_mut(), "status") {
        ["capacity", "allocatedResources"]
            .iter()
            .for_each(|field| resources::round_up(status.get_mut(*field)));
        fill::missing(status, "phase", "Pending");
    }
}

fn create(claim: &mut Object, ctx: &StrategyContext<'_>) {
    claim.set("status", json!({"phase": "Pending"}));
    if let Some(spec) = fill::spec(claim) {
        settle_source(spec, None, ctx.gates);
    }
}

fn change(new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
    if ctx.subresource == "status" {
        return;
    }
    keep(new, old, &["status"]);
    if let Some(spec) = fill::spec(new) {
        settle_source(spec, old.get("spec").and_then(Value::as_object), ctx.gates);
    }
}

/// Both fields that name the source of the data say the same. A claim that never had a source drops what the older of
/// the two may not name, and one from another namespace unless its gate is on.
fn settle_source(spec: &mut Map<String, Value>, old: Option<&Map<String, Value>>, gates: Gates) {
    let had = |field: &str| old.is_some_and(|old| fill::is_set(old, field));
    let foreign = |spec: &Map<String, Value>| {
        let reference = spec.get("dataSourceRef").and_then(Value::as_object);
        reference.is_some_and(|reference| !fill::string(reference, "namespace").is_empty())
    };
    let may_be_foreign = gates.has(Gate::CrossNamespaceVolumeDataSource);
    if foreign(spec) && !may_be_foreign && !had("dataSourceRef") {
        spec.remove("dataSourceRef");
    }
    if !had("dataSource") && !had("dataSourceRef") && !fill::is_set(spec, "dataSourceRef") {
        let known = spec.get("dataSource").and_then(Value::as_object).is_some_and(|source| {
            matches!(
                (fill::string(source, "kind"), fill::string(source, "apiGroup")),
                ("PersistentVolumeClaim", "") | ("VolumeSnapshot", "snapshot.storage.k8s.io")
            )
        });
        if !known {
            spec.remove("dataSource");
        }
    }
    mirror_source(spec);
}

/// Fills in one of the fields that name the source of the data from the other.
fn mirror_source(spec: &mut Map<String, Value>) {
    let (old, new) = (fill::is_set(spec, "dataSource"), fill::is_set(spec, "dataSourceRef"));
    let (from, to) = match (old, new) {
        (true, false) => ("dataSource", "dataSourceRef"),
        (false, true) => ("dataSourceRef", "dataSource"),
        _ => return,
    };
    let Some(source) = spec.get(from).and_then(Value::as_object) else { return };
    if !fill::string(source, "namespace").is_empty() {
        return;
    }
    let fields = ["apiGroup", "kind", "name"].into_iter();
    let copy: Map<String, Value> =
        fields.filter_map(|field| Some((field.to_owned(), source.get(field)?.clone()))).collect();
    spec.insert(to.to_owned(), Value::Object(copy));
}
