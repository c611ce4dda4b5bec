//! `daemonsets` of apps.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, StrategyContext, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, fill, shape, workload},
        pod_spec,
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Desired", "integer"),
    column("Current", "integer"),
    column("Ready", "integer"),
    column("Up-to-date", "integer"),
    column("Available", "integer"),
    column("Node Selector", "string"),
    column("Age", "string"),
    column("Containers", "string").wide(),
    column("Images", "string").wide(),
    column("Selector", "string").wide(),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/status/desiredNumberScheduled", "0"),
    Cell::Field("/status/currentNumberScheduled", "0"),
    Cell::Field("/status/numberReady", "0"),
    Cell::Field("/status/updatedNumberScheduled", "0"),
    Cell::Field("/status/numberAvailable", "0"),
    Cell::Pairs("/spec/template/spec/nodeSelector"),
    Cell::Age,
    Cell::Each("/spec/template/spec/containers", "name"),
    Cell::Each("/spec/template/spec/containers", "image"),
    Cell::Selector("/spec/selector"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            create,
            change,
            validate_over,
            validate_change,
            validate_status,
            warnings: |new, old| workload::warnings(new, old, false, &["spec", "template"]),
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        ..Resource::of("apps", "DaemonSet", "daemonsets", "daemonset")
    }
}

/// Pods are replaced one by one.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    if let Some(strategy) = fill::made(spec, "updateStrategy") {
        fill::missing(strategy, "type", "RollingUpdate");
        if fill::string(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = fill::made(strategy, "rollingUpdate")
        {
            fill::absent(rolling, "maxUnavailable", 1);
            fill::absent(rolling, "maxSurge", 0);
        }
    }
    fill::missing(spec, "revisionHistoryLimit", 10);
    fill::template(spec, "template");
}

/// Counts templates, as the API's first versions did in the spec.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(obj: &Object) -> i64 {
    obj.annotation(TEMPLATE_GENERATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn create(obj: &mut Object, _ctx: &StrategyContext<'_>) {
    let generation = template_generation(obj).max(1);
    obj.set_annotation(TEMPLATE_GENERATION, &generation.to_string());
}

fn change(new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
    if !ctx.subresource.is_empty() || old.annotation(TEMPLATE_GENERATION).is_none() {
        return;
    }
    let changed = new.pointer("/spec/template") != old.pointer("/spec/template");
    let generation = template_generation(old) + i64::from(changed);
    new.set_annotation(TEMPLATE_GENERATION, &generation.to_string());
}

fn validate_over(obj: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    let broken = old.is_some_and(|old| {
        let spec = At::spec(old);
        pod_spec::breaks_selectors(&spec.get("template").get("spec"))
            || !spec.get("selector").selects_by_labels()
    });
    selector.check_selector_after(broken, errors);
    if !selector.is_set() {
        // No selector selects nothing.
        let labels = template.get("metadata").get("labels");
        labels.invalid(errors, "`selector` does not match template `labels`");
    } else if selector.selects() {
        workload::check_selects_template(&selector, &template, errors);
    }
    if selector.is_set() && selector.selects_all() {
        selector.invalid_go(errors, &shape::LABEL_SELECTOR, "empty selector is invalid for daemonset");
    }
    workload::check_lasting_template(&template, old.map(workload::template).as_ref(), "DaemonSet", errors);
    spec.get("minReadySeconds").check_non_negative(errors);
    check_strategy(&spec.get("updateStrategy"), errors);
    spec.get("revisionHistoryLimit").check_non_negative(errors);
}

fn check_strategy(strategy: &At<'_>, errors: &mut ErrorList) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => rolling.required(errors, ""),
        "RollingUpdate" => {
            let both = [rolling.get("maxUnavailable"), rolling.get("maxSurge")];
            both.iter().for_each(|number| number.check_count_or_percent(errors));
            both.iter().for_each(|number| number.check_at_most_whole(errors));
            let [unavailable, surge] = both;
            match (unavailable.count_or_percent() != 0, surge.count_or_percent() != 0) {
                (true, true) => surge.invalid(errors, "may not be set when maxUnavailable is non-zero"),
                (false, false) => unavailable.required(errors, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => strategy.not_supported(errors, &["RollingUpdate", "OnDelete"]),
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    workload::keeps_selector(&At::spec(new), &At::spec(old), errors);
}

fn validate_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    let status = At::status(new);
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    status.check_counts(&counts, errors);
    workload::check_grows(&status.get("collisionCount"), &At::status(old).get("collisionCount"), errors);
}
