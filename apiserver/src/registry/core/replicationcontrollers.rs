//! `replicationcontrollers`.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Propagation, Resource, SelectableField,
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
    Cell::Pairs("/spec/selector"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["rc"],
        categories: &["all"],
        subresources: workload::SCALED,
        storage_prefix: "controllers",
        selectable: const { &[SelectableField::at("status.replicas", "/status/replicas").or("0")] },
        columns: workload::REPLICA_COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate_over,
            validate_status,
            // Pods outlived their controller before there was a choice.
            propagation: Propagation::Orphan,
            ..workload::rules(CELLS)
        }),
        ..Resource::of("", "ReplicationController", "replicationcontrollers", "replicationcontroller")
    }
}

/// One replica, of the labels of its template where it does not say.
fn default(controller: &mut Object) {
    let labels = controller.pointer("/spec/template/metadata/labels").cloned();
    if let Some(spec) = fill::spec(controller) {
        fill::missing(spec, "replicas", 1);
        if spec.contains_key("template") {
            fill::template(spec, "template");
        }
        if let Some(labels) = labels.clone().filter(Value::is_object)
            && fill::none(spec, "selector")
        {
            spec.insert("selector".to_owned(), labels);
        }
    }
    if let Some(labels) = labels.filter(Value::is_object)
        && fill::none(controller.metadata_mut(), "labels")
    {
        controller.metadata_mut().insert("labels".to_owned(), labels);
    }
}

fn validate_over(controller: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let spec = At::spec(controller);
    spec.check_counts(&["minReadySeconds"], errors);
    let selector = spec.get("selector");
    selector.check_required(errors);
    if spec.get("replicas").check_there(errors) {
        spec.get("replicas").check_non_negative(errors);
    }
    let template = spec.get("template");
    if !template.check_there(errors) {
        return;
    }
    let labels = template.get("metadata").get("labels");
    let label = |key: &str| labels.value().get(key).and_then(Value::as_str);
    if selector.entries().any(|(key, value)| label(key) != Some(value.text())) {
        labels.invalid(errors, "`selector` does not match template `labels`");
    }
    workload::check_lasting_template(
        &template,
        old.map(workload::template).as_ref(),
        "ReplicationController",
        errors,
    );
}

fn validate_status(new: &Object, _old: &Object, errors: &mut ErrorList) {
    workload::check_replica_status(&At::status(new), &["observedGeneration"], errors);
}
