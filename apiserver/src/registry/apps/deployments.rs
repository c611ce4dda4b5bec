//! `deployments` of apps.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Rules, at::At, column, fill, selector_text, workload},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Ready", "string"),
    column("Up-to-date", "string"),
    column("Available", "string"),
    column("Age", "string"),
    column("Containers", "string").wide(),
    column("Images", "string").wide(),
    column("Selector", "string").wide(),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Ratio("/status/readyReplicas", "/spec/replicas"),
    Cell::Field("/status/updatedReplicas", "0"),
    Cell::Field("/status/availableReplicas", "0"),
    Cell::Age,
    Cell::Each("/spec/template/spec/containers", "name"),
    Cell::Each("/spec/template/spec/containers", "image"),
    Cell::With(selector),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["deploy"],
        categories: &["all"],
        subresources: workload::SCALED,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate_over,
            validate_change,
            validate_status,
            ..workload::rules(CELLS)
        }),
        ..Resource::of("apps", "Deployment", "deployments", "deployment")
    }
}

/// One replica, rolled out by quarters.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    fill::missing(spec, "replicas", 1);
    if let Some(strategy) = fill::made(spec, "strategy") {
        fill::missing(strategy, "type", "RollingUpdate");
        if fill::string(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = fill::made(strategy, "rollingUpdate")
        {
            fill::absent(rolling, "maxUnavailable", "25%");
            fill::absent(rolling, "maxSurge", "25%");
        }
    }
    fill::missing(spec, "revisionHistoryLimit", 10);
    fill::missing(spec, "progressDeadlineSeconds", 600);
    fill::template(spec, "template");
}

fn validate_over(obj: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    spec.get("replicas").check_non_negative(errors);
    workload::check_own_selector(&spec, "deployment", "invalid label selector", errors);
    workload::check_lasting_template(
        &spec.get("template"),
        old.map(workload::template).as_ref(),
        "ReplicaSet",
        errors,
    );
    check_strategy(&spec.get("strategy"), errors);
    spec.check_counts(&["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], errors);
    let deadline = spec.get("progressDeadlineSeconds");
    if deadline.is_set() && deadline.int() <= spec.get("minReadySeconds").int() {
        deadline.invalid(errors, "must be greater than minReadySeconds");
    }
}

fn check_strategy(strategy: &At<'_>, errors: &mut ErrorList) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" if rolling.is_set() => {
            rolling.forbidden(errors, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => {
            rolling.required(errors, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            unavailable.check_count_or_percent(errors);
            surge.check_count_or_percent(errors);
            if unavailable.count_or_percent() == 0 && surge.count_or_percent() == 0 {
                unavailable.invalid(errors, "may not be 0 when `maxSurge` is 0");
            }
            unavailable.check_at_most_whole(errors);
        }
        _ => strategy.not_supported(errors, &["Recreate", "RollingUpdate"]),
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    workload::keeps_selector(&At::spec(new), &At::spec(old), errors);
}

fn validate_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    let status = At::status(new);
    let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
    status.check_counts(&["observedGeneration", "replicas"], errors);
    status.check_counts(&parts, errors);
    status.check_counts(&["unavailableReplicas", "terminatingReplicas", "collisionCount"], errors);
    status.check_at_most(&parts, "replicas", "cannot be greater than status.replicas", errors);
    status.check_at_most(
        &["availableReplicas"],
        "readyReplicas",
        "cannot be greater than readyReplicas",
        errors,
    );
    workload::check_grows(&status.get("collisionCount"), &At::status(old).get("collisionCount"), errors);
}

/// The selector, empty when it selects all.
fn selector(obj: &Object) -> Value {
    let selector = obj.pointer("/spec/selector").cloned().unwrap_or_default();
    selector_text::of(&selector).unwrap_or_else(|| "<invalid>".to_owned()).into()
}
