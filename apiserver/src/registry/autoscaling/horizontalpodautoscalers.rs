//! `horizontalpodautoscalers` of autoscaling.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, text},
    },
};

mod conversion;
mod defaults;
mod validation;

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Reference", "string"),
    column("Targets", "string"),
    column("MinPods", "string"),
    column("MaxPods", "string"),
    column("Replicas", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::With(scaletarget),
    Cell::With(targets),
    Cell::With(least),
    Cell::Field("/spec/maxReplicas", "0"),
    Cell::Field("/status/currentReplicas", "0"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v2", "v1"],
        storage_version: "v2",
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default_version: defaults::apply,
            validate_gated: validation::check,
            validate_status,
            convert: |autoscaler, _, to| conversion::convert(autoscaler, to),
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
        ..Resource::of(
            "autoscaling",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
        )
    }
}

fn validate_status(new: &Object, _old: &Object, errors: &mut ErrorList) {
    At::status(new).check_counts(&["currentReplicas", "desiredReplicas"], errors);
}

fn scaletarget(obj: &Object) -> Value {
    let target = obj.pointer("/spec/scaleTargetRef").cloned().unwrap_or_default();
    format!("{}/{}", text(&target, "/kind"), text(&target, "/name")).into()
}

fn least(obj: &Object) -> Value {
    match obj.pointer("/spec/minReplicas").and_then(Value::as_i64) {
        Some(least) => least.to_string().into(),
        None => "<unset>".into(),
    }
}

/// What the first metrics are, of what they should be.
fn targets(obj: &Object) -> Value {
    const SHOWN: usize = 2;
    let (spec, status) = (At::spec(obj), At::status(obj));
    let found: Vec<At<'_>> = status.get("currentMetrics").items().collect();
    let all: Vec<String> =
        spec.get("metrics").items().enumerate().map(|(i, metric)| target(&metric, found.get(i))).collect();
    match all.len() {
        0 => "<none>".into(),
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(", "), n - SHOWN).into(),
        _ => all.join(", ").into(),
    }
}

fn target(metric: &At<'_>, found: Option<&At<'_>>) -> String {
    let (field, named) = match metric.text_of("type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let source = metric.get(field);
    let (wanted, current) = (source.get("target"), found.map(|found| found.get(field).get("current")));
    let current = |value: &str| match current.as_ref().map(|current| current.get(value)) {
        Some(at) if at.is_set() => {
            at.quantity().map_or_else(|| at.text().to_owned(), |amount| amount.to_string())
        }
        _ => "<unknown>".to_owned(),
    };
    let amount = |value: &str| match wanted.get(value).quantity() {
        Some(amount) => amount.to_string(),
        None => "<nil>".to_owned(),
    };
    let percent = |at: At<'_>, missing: &str| match at.number() {
        Some(percent) => format!("{percent}%"),
        None => missing.to_owned(),
    };
    let averaged = wanted.has("averageValue");
    if named {
        let name = source.text_of("name");
        if averaged {
            return format!("{name}: {}/{}", current("averageValue"), amount("averageValue"));
        }
        let now = found.map(|found| found.get(field).get("current").get("averageUtilization"));
        let now = now.map_or_else(|| "<unknown>".to_owned(), |at| percent(at, "<unknown>"));
        return format!("{name}: {now}/{}", percent(wanted.get("averageUtilization"), "<auto>"));
    }
    match (field, averaged) {
        ("pods", _) => format!("{}/{}", current("averageValue"), amount("averageValue")),
        (_, true) => format!("{}/{} (avg)", current("averageValue"), amount("averageValue")),
        _ => format!("{}/{}", current("value"), amount("value")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::registry::testing::Kind;

    #[test]
    fn bounds_fit_and_something_is_scaled() {
        let kind = Kind::new("autoscaling", "horizontalpodautoscalers");
        let target = json!({"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"});
        assert!(kind.errors(json!({"spec": {"maxReplicas": 3, "scaleTargetRef": target}})).is_empty());
        assert_eq!(
            kind.errors(json!({"spec": {"minReplicas": 5, "maxReplicas": 3, "scaleTargetRef": target}})),
            ["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",]
        );
        assert_eq!(
            kind.errors(json!({"spec": {"minReplicas": 0, "scaleTargetRef": {"kind": "a/b"}}})),
            [
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Required value: must be set and greater than 0",
                "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
                "spec.scaleTargetRef.name: Required value",
                "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
                "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero \
             replicas",
            ]
        );
    }
}
