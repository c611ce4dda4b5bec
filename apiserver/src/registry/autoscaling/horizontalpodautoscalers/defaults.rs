//! What an autoscaler gets that does not say it: one replica at least, 80 % of the CPU, full scaling rules.

use serde_json::{Map, Value, json};

use crate::object::Object;

/// The target when nothing else is asked for, in percent.
const CPU_UTILIZATION: i32 = 80;

/// Fills in; v1 has no metrics of its own, they come with the conversion.
pub(super) fn apply(obj: &mut Object, version: &str) {
    let Some(Value::Object(spec)) = obj.as_map_mut().get_mut("spec") else { return };
    spec.entry("minReplicas").or_insert_with(|| json!(1));
    if version == "v1" {
        return;
    }
    metrics(spec);
    if let Some(Value::Object(behavior)) = spec.get_mut("behavior") {
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let up = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [pods, percent]});
        let down = json!({"selectPolicy": "Max", "policies": [percent]});
        rules(behavior, "scaleUp", up);
        rules(behavior, "scaleDown", down);
    }
}

/// CPU utilization, when there is no metric at all.
pub(super) fn metrics(spec: &mut Map<String, Value>) {
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("metrics".to_owned(), json!([cpu(CPU_UTILIZATION.into())]));
    }
}

/// The metric of CPU utilization, in percent.
pub(super) fn cpu(percent: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn rules(behavior: &mut Map<String, Value>, name: &str, defaults: Value) {
    let rules = behavior.entry(name).or_insert_with(|| json!({}));
    if let (Value::Object(rules), Value::Object(defaults)) = (rules, defaults) {
        for (field, value) in defaults {
            rules.entry(field).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_filled_where_there_is_a_behavior() {
        let object = json!({"spec": {"maxReplicas": 3, "behavior": {"scaleUp": {"selectPolicy": "Min"}}}});
        let mut object = Object::from_value(object).unwrap();
        apply(&mut object, "v2");
        assert_eq!(object.pointer("/spec/behavior/scaleUp/selectPolicy"), Some(&json!("Min")));
        assert_eq!(object.pointer("/spec/behavior/scaleUp/policies/1/type"), Some(&json!("Percent")));
        assert_eq!(object.pointer("/spec/behavior/scaleDown/selectPolicy"), Some(&json!("Max")));
        assert_eq!(object.pointer("/spec/metrics/0/resource/target/averageUtilization"), Some(&json!(80)));
        assert_eq!(object.pointer("/spec/minReplicas"), Some(&json!(1)));
    }
}
