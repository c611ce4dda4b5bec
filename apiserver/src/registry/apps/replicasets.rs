//! `replicasets` of apps.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Resource, SelectableField,
        kit::{Cell, Rules, at::At, fill, workload},
    },
};

const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/replicas", "0"),
    Cell::Field("/status/replicas", "0"),
    Cell::Field("/status/readyReplicas", "0"),
    Cell::Age,
    Cell::Each("/spec/template/spec/containers", "name"),
    Cell::Each("/spec/template/spec/containers", "image"),
    Cell::Selector("/spec/selector"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["rs"],
        categories: &["all"],
        subresources: workload::SCALED,
        selectable: const { &[SelectableField::at("status.replicas", "/status/replicas").or("0")] },
        columns: workload::REPLICA_COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate_over,
            validate_change,
            validate_status,
            ..workload::rules(CELLS)
        }),
        ..Resource::of("apps", "ReplicaSet", "replicasets", "replicaset")
    }
}

/// One replica.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    fill::missing(spec, "replicas", 1);
    fill::template(spec, "template");
}

fn validate_over(obj: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    spec.check_counts(&["replicas", "minReadySeconds"], errors);
    workload::check_own_selector(&spec, "deployment", "invalid label selector", errors);
    workload::check_lasting_template(
        &spec.get("template"),
        old.map(workload::template).as_ref(),
        "ReplicaSet",
        errors,
    );
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    workload::keeps_selector(&At::spec(new), &At::spec(old), errors);
}

fn validate_status(new: &Object, _old: &Object, errors: &mut ErrorList) {
    workload::check_replica_status(&At::status(new), &["observedGeneration", "terminatingReplicas"], errors);
}
