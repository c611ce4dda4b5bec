//! What is wrong with an autoscaler: bounds that fit each other, something to scale, metrics to scale by.
//!
//! Contract: autoscaling/v2 `HorizontalPodAutoscalerSpec`.

use component_base::features::{Gate, Gates};

use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::kit::{at::At, format, resources},
};

const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;
/// Types of metrics and their fields, in the order they are looked at.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

/// Which API versions a reference may name.
#[derive(Clone, Copy)]
struct Versions {
    any: bool,
    no_group: bool,
}

/// An autoscaler, new or as it is to become.
pub(super) fn check(autoscaler: &Object, old: Option<&Object>, gates: Gates, errors: &mut ErrorList) {
    let spec = At::spec(autoscaler);
    let (least, most, target) =
        (spec.get("minReplicas"), spec.get("maxReplicas"), spec.get("scaleTargetRef"));
    let idle = old.is_some_and(|old| At::spec(old).get("minReplicas").number() == Some(0));
    let bound = i64::from(!idle && !gates.has(Gate::HPAScaleToZero));
    if least.number().is_some_and(|least| least < bound) {
        least.invalid(errors, format!("must be greater than or equal to {bound}"));
    }
    match most.int() {
        0 => most.required(errors, "must be set and greater than 0"),
        n if n < 0 => most.invalid(errors, "must be greater than or equal to 1"),
        _ => {}
    }
    if least.is_set() && most.int() < least.int() {
        most.invalid_as(errors, most.int(), "must be greater than or equal to `minReplicas`");
    }
    let same = old.is_some_and(|old| {
        let was = At::spec(old).get("scaleTargetRef");
        ["apiVersion", "kind"].iter().all(|field| was.text_of(field) == target.text_of(field))
    });
    let versions = Versions { any: same, no_group: target.text_of("kind") == "ReplicationController" };
    check_reference(&target, versions, errors);
    check_metrics(&spec, old, errors);
    for rules in ["scaleUp", "scaleDown"].map(|field| spec.get("behavior").get(field)) {
        if rules.is_set() {
            check_rules(&rules, errors);
        }
    }
}

fn check_reference(reference: &At<'_>, versions: Versions, errors: &mut ErrorList) {
    reference.get("kind").check_path_name(errors);
    reference.get("name").check_path_name(errors);
    let version = reference.get("apiVersion");
    if let Some(wrong) = version_error(version.text(), versions) {
        version.invalid_as(errors, version.text(), wrong);
    }
}

fn version_error(text: &str, versions: Versions) -> Option<String> {
    let slashes = text.matches('/').count();
    match slashes {
        _ if versions.any => None,
        0 | 1 => {
            let group = text.split_once('/').map_or("", |(group, _)| group);
            (group.is_empty() && !versions.no_group).then(|| "apiVersion must specify API group".to_owned())
        }
        _ => Some(format!("unexpected GroupVersion string: {text}")),
    }
}

fn check_metrics(spec: &At<'_>, old: Option<&Object>, errors: &mut ErrorList) {
    let odd = |metric: At<'_>| {
        let version = metric.get("object").get("describedObject").text_of("apiVersion");
        metric.text_of("type") == "Object"
            && metric.has("object")
            && version_error(version, Versions { any: false, no_group: true }).is_some()
    };
    let any = old.is_some_and(|old| At::spec(old).get("metrics").items().any(odd));
    let metrics = spec.get("metrics");
    metrics.items().for_each(|metric| check_metric(&metric, Versions { any, no_group: true }, errors));
    let outside = |metric: At<'_>| matches!(metric.text_of("type"), "Object" | "External");
    if spec.get("minReplicas").number() == Some(0) && !metrics.items().any(outside) {
        metrics.forbidden(
            errors,
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
}

fn check_metric(metric: &At<'_>, versions: Versions, errors: &mut ErrorList) {
    let kind = metric.get("type");
    if kind.is_empty() {
        kind.required(errors, "must specify a metric source type");
    }
    let known = TYPES.contains(&kind.text());
    if !known {
        errors.push(Error::not_supported(kind.path(), kind.text(), TYPES));
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| metric.has(field)).collect();
    if let Some(first) = present.first() {
        check_source(first, &metric.get(first), versions, errors);
    }
    let own = SOURCES.iter().find(|(name, _)| *name == kind.text()).map(|(_, field)| *field);
    match own {
        Some(own) if !metric.has(own) => {
            metric.get(own).required(errors, "must populate information for the given metric source");
        }
        Some(_) => {}
        None => errors.push(Error::not_supported(kind.path(), kind.text(), TYPES)),
    }
    if present.len() != 1 {
        for other in present.into_iter().filter(|field| Some(*field) != own) {
            metric.get(other).forbidden(errors, "must populate the given metric source only");
        }
    }
}

fn check_source(field: &str, source: &At<'_>, versions: Versions, errors: &mut ErrorList) {
    let target = source.get("target");
    let (value, average, share) =
        (target.get("value"), target.get("averageValue"), target.get("averageUtilization"));
    match field {
        "resource" | "containerResource" => check_name(field, source, errors),
        _ => {
            if field == "object" {
                check_reference(&source.get("describedObject"), versions, errors);
            }
            let name = source.get("metric").get("name");
            if name.is_empty() {
                name.required(errors, "must specify a metric name");
            } else {
                name.check_format(errors, format::path_segment);
            }
        }
    }
    check_target(&target, errors);
    match field {
        "pods" if !average.is_set() => {
            average.required(errors, "must specify a positive target averageValue")
        }
        "object" if !value.is_set() && !average.is_set() => {
            average.required(errors, "must set either a target value or averageValue");
        }
        "external" if !value.is_set() && !average.is_set() => {
            average.required(errors, "must set either a target value for metric or a per-pod target");
        }
        "external" if value.is_set() && average.is_set() => {
            value.forbidden(errors, "may not set both a target value for metric and a per-pod target");
        }
        "resource" | "containerResource" if !share.is_set() && !average.is_set() => {
            share.required(errors, "must set either a target raw value or a target utilization");
        }
        "resource" | "containerResource" if share.is_set() && average.is_set() => {
            average.forbidden(errors, "may not set both a target raw value and a target utilization");
        }
        _ => {}
    }
}

/// The resource, and the container it is of.
fn check_name(field: &str, source: &At<'_>, errors: &mut ErrorList) {
    let (name, container) = (source.get("name"), source.get("container"));
    if name.is_empty() {
        name.required(errors, "must specify a resource name");
    } else if field == "containerResource" {
        resources::check_container_name(name.text(), name.path(), errors);
    }
    if field == "containerResource" {
        if container.is_empty() {
            container.required(errors, "must specify a container");
        } else {
            container.check_format(errors, format::dns_label);
        }
    }
}

fn check_target(target: &At<'_>, errors: &mut ErrorList) {
    let kind = target.get("type");
    if kind.is_empty() {
        kind.required(errors, "must specify a metric target type");
    }
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        kind.invalid_as(errors, kind.text(), "must be either Utilization, Value, or AverageValue");
    }
    for amount in ["value", "averageValue"].map(|field| target.get(field)) {
        if let Some(quantity) = amount.quantity().filter(|quantity| quantity.sign() <= 0) {
            amount.invalid_as(errors, quantity.to_string(), "must be positive");
        }
    }
    let share = target.get("averageUtilization");
    if share.number().is_some_and(|share| share < 1) {
        share.invalid(errors, "must be greater than 0");
    }
}

fn check_rules(rules: &At<'_>, errors: &mut ErrorList) {
    let (window, policies) = (rules.get("stabilizationWindowSeconds"), rules.get("policies"));
    if window.int() < 0 {
        window.invalid(errors, "must be greater than or equal to zero");
    }
    if window.int() > MAX_WINDOW {
        window.invalid(errors, format!("must be less than or equal to {MAX_WINDOW}"));
    }
    rules.get("selectPolicy").check_option_of(errors, &["Disabled", "Max", "Min"]);
    if policies.is_empty() {
        policies.required(errors, "must specify at least one Policy");
    }
    for policy in policies.items() {
        policy.get("type").check_is_one_of(errors, &["Percent", "Pods"]);
        policy.get("value").check_positive(errors);
        let period = policy.get("periodSeconds");
        period.check_positive(errors);
        if period.int() > MAX_PERIOD {
            period.invalid(errors, format!("must be less than or equal to {MAX_PERIOD}"));
        }
    }
    resources::check_not_negative(&rules.get("tolerance"), errors);
}
