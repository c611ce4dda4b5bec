//! `replicasets` of apps.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, SelectableField, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, fill, workload},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Desired", "integer"),
    column("Current", "integer"),
    column("Ready", "integer"),
    column("Age", "string"),
    column("Containers", "string").wide(),
    column("Images", "string").wide(),
    column("Selector", "string").wide(),
];
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
        subresources: &[
            Subresource::Scale {
                spec: "/spec/replicas",
                status: "/status/replicas",
                selector: "/spec/selector",
            },
            Subresource::Status,
        ],
        selectable: const { &[SelectableField::at("status.replicas", "/status/replicas").or("0")] },
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            create: |new, _| workload::drop_gated(new, None, "/spec/template"),
            change: |new, old, _| workload::drop_gated(new, Some(old), "/spec/template"),
            validate_over,
            validate_change,
            validate_status,
            warnings: |new, old| workload::warnings(new, old, true, &["spec", "template"]),
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
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
    At::spec(new).get("selector").check_unchanged(&At::spec(old).get("selector"), errors);
}

fn validate_status(new: &Object, _old: &Object, errors: &mut ErrorList) {
    let status = At::status(new);
    let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    status.check_counts(&["replicas"], errors);
    status.check_counts(&parts, errors);
    status.check_counts(&["observedGeneration", "terminatingReplicas"], errors);
    status.check_at_most(&parts, "replicas", "cannot be greater than status.replicas", errors);
    status.check_at_most(
        &["availableReplicas"],
        "readyReplicas",
        "cannot be greater than readyReplicas",
        errors,
    );
}
