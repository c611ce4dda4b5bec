//! autoscaling/v1 and v2 of one autoscaler: v1 knows CPU utilization, all else of v2 travels in annotations.
//!
//! Contract: upstream's conversions of autoscaling/v1 and its `autoscaling.alpha.kubernetes.io/*` annotations.

use serde_json::{Map, Value, json};

use super::defaults;
use crate::object::Object;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// Annotations that belong to the conversion, two older ones included.
const ANNOTATIONS: [&str; 6] = [
    METRICS,
    CURRENT_METRICS,
    CONDITIONS,
    BEHAVIOR,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

/// One kind of metric: its type, its field, and where v1 and v2 have the same value.
struct Source {
    kind: &'static str,
    field: &'static str,
    spec: &'static [(&'static str, &'static str)],
    status: &'static [(&'static str, &'static str)],
}

const SOURCES: [Source; 5] = [
    Source {
        kind: "Resource",
        field: "resource",
        spec: &[
            ("/name", "/name"),
            ("/targetAverageUtilization", "/target/averageUtilization"),
            ("/targetAverageValue", "/target/averageValue"),
        ],
        status: &[
            ("/name", "/name"),
            ("/currentAverageUtilization", "/current/averageUtilization"),
            ("/currentAverageValue", "/current/averageValue"),
        ],
    },
    Source {
        kind: "ContainerResource",
        field: "containerResource",
        spec: &[
            ("/name", "/name"),
            ("/container", "/container"),
            ("/targetAverageUtilization", "/target/averageUtilization"),
            ("/targetAverageValue", "/target/averageValue"),
        ],
        status: &[
            ("/name", "/name"),
            ("/container", "/container"),
            ("/currentAverageUtilization", "/current/averageUtilization"),
            ("/currentAverageValue", "/current/averageValue"),
        ],
    },
    Source {
        kind: "Pods",
        field: "pods",
        spec: &[
            ("/metricName", "/metric/name"),
            ("/selector", "/metric/selector"),
            ("/targetAverageValue", "/target/averageValue"),
        ],
        status: &[
            ("/metricName", "/metric/name"),
            ("/selector", "/metric/selector"),
            ("/currentAverageValue", "/current/averageValue"),
        ],
    },
    Source {
        kind: "Object",
        field: "object",
        spec: &[
            ("/target", "/describedObject"),
            ("/metricName", "/metric/name"),
            ("/selector", "/metric/selector"),
            ("/targetValue", "/target/value"),
            ("/averageValue", "/target/averageValue"),
        ],
        status: &[
            ("/target", "/describedObject"),
            ("/metricName", "/metric/name"),
            ("/selector", "/metric/selector"),
            ("/currentValue", "/current/value"),
            ("/averageValue", "/current/averageValue"),
        ],
    },
    Source {
        kind: "External",
        field: "external",
        spec: &[
            ("/metricName", "/metric/name"),
            ("/metricSelector", "/metric/selector"),
            ("/targetValue", "/target/value"),
            ("/targetAverageValue", "/target/averageValue"),
        ],
        status: &[
            ("/metricName", "/metric/name"),
            ("/metricSelector", "/metric/selector"),
            ("/currentValue", "/current/value"),
            ("/currentAverageValue", "/current/averageValue"),
        ],
    },
];

/// Converts in place to a version.
pub(super) fn convert(obj: &mut Object, to: &str) {
    if to == "v1" { to_v1(obj) } else { to_v2(obj) }
}

fn to_v1(obj: &mut Object) {
    drop(take_annotations(obj));
    let mut notes = Map::new();
    if let Some(Value::Object(spec)) = obj.as_map_mut().get_mut("spec") {
        let metrics = list(spec.remove("metrics"));
        let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_cpu_utilization);
        if let Some(percent) = cpu.first().and_then(|m| m.pointer("/resource/target/averageUtilization")) {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), percent.clone());
        }
        if !others.is_empty() {
            note(&mut notes, METRICS, others.iter().map(|m| renamed(m, true, true)).collect());
        }
        if let Some(behavior) = spec.remove("behavior") {
            note(&mut notes, BEHAVIOR, recased(&behavior, true));
        }
    }
    if let Some(Value::Object(status)) = obj.as_map_mut().get_mut("status") {
        let metrics = list(status.remove("currentMetrics"));
        for metric in &metrics {
            let percent = metric.pointer("/resource/current/averageUtilization");
            if metric.pointer("/resource/name") == Some(&json!("cpu"))
                && let Some(percent) = percent
            {
                status.insert("currentCPUUtilizationPercentage".to_owned(), percent.clone());
            }
        }
        if !metrics.is_empty() {
            note(&mut notes, CURRENT_METRICS, metrics.iter().map(|m| renamed(m, false, true)).collect());
        }
        let conditions = list(status.remove("conditions"));
        if !conditions.is_empty() {
            note(&mut notes, CONDITIONS, Value::Array(conditions));
        }
        status.entry("currentReplicas").or_insert_with(|| json!(0));
    }
    if !notes.is_empty() {
        let annotations = obj.metadata_mut().entry("annotations").or_insert_with(|| json!({}));
        if let Value::Object(annotations) = annotations {
            annotations.append(&mut notes);
        }
    }
}

fn to_v2(obj: &mut Object) {
    let notes = take_annotations(obj);
    let noted = |name: &str| -> Option<Value> { serde_json::from_str(notes.get(name)?.as_str()?).ok() };
    if let Some(Value::Object(spec)) = obj.as_map_mut().get_mut("spec") {
        let mut metrics: Vec<Value> = list(noted(METRICS)).iter().map(|m| renamed(m, true, false)).collect();
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
            metrics.push(defaults::cpu(percent));
        }
        spec.insert("metrics".to_owned(), Value::Array(metrics));
        defaults::metrics(spec);
        let behavior = noted(BEHAVIOR).map(|b| recased(&b, false));
        if let Some(behavior) = behavior.filter(|b| b.as_object().is_some_and(|b| !b.is_empty())) {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(Value::Object(status)) = obj.as_map_mut().get_mut("status") {
        let percent = status.remove("currentCPUUtilizationPercentage");
        let current = match (noted(CURRENT_METRICS), percent) {
            (Some(metrics), _) => list(Some(metrics)).iter().map(|m| renamed(m, false, false)).collect(),
            (None, Some(percent)) => vec![json!({"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": percent}}})],
            (None, None) => Vec::new(),
        };
        if !current.is_empty() {
            status.insert("currentMetrics".to_owned(), Value::Array(current));
        }
        if let Some(conditions) = noted(CONDITIONS) {
            status.insert("conditions".to_owned(), conditions);
        }
    }
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(members)) => members,
        _ => Vec::new(),
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric.pointer("/resource/name") == Some(&json!("cpu"))
        && metric.pointer("/resource/target/averageUtilization").is_some()
}

fn note(notes: &mut Map<String, Value>, name: &str, value: Value) {
    notes.insert(name.to_owned(), json!(value.to_string()));
}

/// The conversion's annotations, taken off the object.
fn take_annotations(obj: &mut Object) -> Map<String, Value> {
    let mut taken = Map::new();
    let meta = obj.metadata_mut();
    let Some(Value::Object(annotations)) = meta.get_mut("annotations") else { return taken };
    for name in ANNOTATIONS {
        if let Some(value) = annotations.remove(name) {
            taken.insert(name.to_owned(), value);
        }
    }
    if annotations.is_empty() {
        meta.remove("annotations");
    }
    taken
}

/// A metric of spec or status with the field names of v1 or v2.
fn renamed(metric: &Value, spec: bool, to_v1: bool) -> Value {
    let mut out = json!({"type": metric["type"]});
    for source in &SOURCES {
        let Some(from) = metric.get(source.field) else { continue };
        let mut to = json!({});
        let names = if spec { source.spec } else { source.status };
        for (old, new) in names {
            let (read, write) = if to_v1 { (*new, *old) } else { (*old, *new) };
            if let Some(value) = from.pointer(read).filter(|v| !v.is_null()) {
                put(&mut to, write, value.clone());
            }
        }
        if to_v1 {
            for required in required_of_v1(source.field, spec) {
                if to.get(required).is_none() {
                    to[*required] = json!("0");
                }
            }
        } else if spec {
            complete_target(source.kind, &mut to);
        }
        out[source.field] = to;
    }
    out
}

/// Values that v1 cannot leave out.
fn required_of_v1(field: &str, spec: bool) -> &'static [&'static str] {
    match (field, spec) {
        ("pods", true) => &["targetAverageValue"],
        ("object", true) => &["targetValue"],
        ("resource" | "containerResource" | "pods", false) => &["currentAverageValue"],
        ("object" | "external", false) => &["currentValue"],
        _ => &[],
    }
}

/// v2 says which of the values counts.
fn complete_target(kind: &str, source: &mut Value) {
    let has = |name: &str| source.pointer(&format!("/target/{name}")).is_some();
    let wanted = match kind {
        "Resource" | "ContainerResource" if has("averageUtilization") => "Utilization",
        "Object" if !has("averageValue") => "Value",
        "External" if has("value") => "Value",
        _ => "AverageValue",
    };
    // v1 writes a zero where v2 has nothing.
    if kind == "Object"
        && has("averageValue")
        && source.pointer("/target/value") == Some(&json!("0"))
        && let Some(Value::Object(target)) = source.get_mut("target")
    {
        target.remove("value");
    }
    put(source, "/target/type", json!(wanted));
}

fn put(value: &mut Value, pointer: &str, leaf: Value) {
    let mut at = value;
    for name in pointer.split('/').skip(1) {
        at = &mut at[name];
    }
    *at = leaf;
}

/// The same with names that begin in upper or lower case: behavior is noted under Go's names.
fn recased(value: &Value, upper: bool) -> Value {
    let name = |name: &str| {
        let mut letters = name.chars();
        let first = letters.next().into_iter();
        let first: String = if upper {
            first.flat_map(char::to_uppercase).collect()
        } else {
            first.flat_map(char::to_lowercase).collect()
        };
        first + letters.as_str()
    };
    match value {
        Value::Object(members) => Value::Object(
            members.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (name(k), recased(v, upper))).collect(),
        ),
        Value::Array(members) => Value::Array(members.iter().map(|v| recased(v, upper)).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn v1_has_cpu_and_v2_gets_it_back() {
        let v1 = json!({"metadata": {"name": "a", "annotations": {"own": "x"}},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}, "status": {"currentReplicas": 1}});
        let mut obj = object(v1.clone());
        convert(&mut obj, "v2");
        let metric = obj.pointer("/spec/metrics/0/resource").unwrap();
        assert_eq!(
            metric,
            &json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}})
        );
        assert_eq!(obj.pointer("/spec/targetCPUUtilizationPercentage"), None);
        convert(&mut obj, "v1");
        assert_eq!(obj.into_value(), v1);
        let mut bare = object(json!({"metadata": {}, "spec": {"maxReplicas": 3}}));
        convert(&mut bare, "v2");
        assert_eq!(bare.pointer("/spec/metrics/0/resource/target/averageUtilization"), Some(&json!(80)));
    }

    #[test]
    fn everything_of_v2_survives_v1() {
        let selector = json!({"matchLabels": {"a": "b"}});
        let v2 = json!({"metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 5}]}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                        "target": {"type": "Utilization", "averageUtilization": 5}}},
                    {"type": "Pods", "pods": {"metric": {"name": "p", "selector": selector},
                        "target": {"type": "AverageValue", "averageValue": "2"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "K", "name": "n"}, "metric": {"name": "o"},
                        "target": {"type": "Value", "value": "3"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "K", "name": "n"}, "metric": {"name": "o"},
                        "target": {"type": "AverageValue", "averageValue": "3"}}},
                    {"type": "External", "external": {"metric": {"name": "e", "selector": selector},
                        "target": {"type": "Value", "value": "4"}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]},
            "status": {"currentReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": 9, "averageValue": "9m"}}}]}});
        let mut obj = object(v2.clone());
        convert(&mut obj, "v1");
        assert_eq!(obj.pointer("/spec/targetCPUUtilizationPercentage"), Some(&json!(50)));
        assert_eq!(obj.pointer("/status/currentCPUUtilizationPercentage"), Some(&json!(9)));
        assert_eq!((obj.pointer("/spec/metrics"), obj.pointer("/status/conditions")), (None, None));
        let behavior = obj.metadata().unwrap()["annotations"][BEHAVIOR].as_str().unwrap();
        assert_eq!(behavior, r#"{"ScaleUp":{"Policies":[{"PeriodSeconds":5,"Type":"Pods","Value":1}]}}"#);
        convert(&mut obj, "v2");
        assert_eq!(obj.into_value(), v2);
    }
}
