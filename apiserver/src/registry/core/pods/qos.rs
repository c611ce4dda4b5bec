//! The quality of service class of a pod, from its resources.
//!
//! Contract: "Pod Quality of Service Classes"; pod-level resources count in place of the containers' (KEP-2837).

use std::cmp::Ordering;

use component_base::quantity::Quantity;
use serde_json::Value;

use crate::registry::kit::items;

/// The value of `status.qosClass` for a pod's spec.
pub(crate) fn class(spec: &Value) -> &'static str {
    let own = spec.get("resources");
    if own.is_some_and(|r| is_set(r, "limits") || is_set(r, "requests")) {
        return class_of(std::iter::once(own));
    }
    let all = items(spec.get("initContainers")).chain(items(spec.get("containers")));
    class_of(all.map(|container| container.get("resources")))
}

fn is_set(resources: &Value, field: &str) -> bool {
    resources.get(field).and_then(Value::as_object).is_some_and(|map| !map.is_empty())
}

fn class_of<'v>(all: impl Iterator<Item = Option<&'v Value>>) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in ["cpu", "memory"] {
            let limit = amount(resources, "limits", name);
            let request = amount(resources, "requests", name);
            any |= limit.is_some() || request.is_some();
            guaranteed &= match (&limit, &request) {
                (Some(limit), Some(request)) => limit.cmp(request) == Ordering::Equal,
                (limit, None) => limit.is_some(),
                (None, Some(_)) => false,
            };
        }
    }
    match (any, guaranteed) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
    }
}

/// An amount above zero.
fn amount(resources: Option<&Value>, field: &str, name: &str) -> Option<Quantity> {
    let quantity: Quantity = match resources?.get(field)?.get(name)? {
        Value::String(text) => text.parse().ok()?,
        Value::Number(number) => number.to_string().parse().ok()?,
        _ => return None,
    };
    (quantity.as_f64() > 0.0).then_some(quantity)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_follows_requests_and_limits() {
        let container =
            |limits: Value, requests: Value| json!({"resources": {"limits": limits, "requests": requests}});
        let all = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (vec![json!({})], "BestEffort"),
            (vec![container(json!({}), json!({"cpu": "0"}))], "BestEffort"),
            (vec![container(all.clone(), all.clone())], "Guaranteed"),
            (vec![container(all.clone(), json!({"cpu": "1000m", "memory": 1_073_741_824}))], "Guaranteed"),
            (vec![container(all.clone(), json!({}))], "Guaranteed"),
            (vec![container(all.clone(), json!({"cpu": "500m"}))], "Burstable"),
            (vec![container(json!({}), json!({"memory": "1Mi"}))], "Burstable"),
            (vec![container(all.clone(), all.clone()), json!({})], "Burstable"),
        ];
        for (containers, want) in cases {
            assert_eq!(class(&json!({"containers": containers})), want, "{containers:?}");
        }
        let init =
            json!({"initContainers": [json!({})], "containers": [container(all.clone(), all.clone())]});
        assert_eq!(class(&init), "Burstable");
        assert_eq!(
            class(&json!({"resources": {"requests": all, "limits": all}, "containers": [{}]})),
            "Guaranteed"
        );
        assert_eq!(class(&json!({"containers": "nonsense"})), "BestEffort");
    }
}
