//! resource.k8s.io/v1beta1 beside v1beta2 and v1, which are alike: v1beta1 has the one exact request of a
//! device request in the request itself, and a device's facts below `basic`.

use serde_json::{Map, Value, json};

use crate::object::Object;

const BETA1: &str = "v1beta1";
/// What `exactly` holds.
const EXACT: [&str; 7] =
    ["adminAccess", "allocationMode", "capacity", "count", "deviceClassName", "selectors", "tolerations"];

/// Converts a ResourceClaim in place.
pub(super) fn claim(obj: &mut Object, from: &str, to: &str) {
    if let Some(spec) = obj.as_map_mut().get_mut("spec") {
        requests(spec, from, to);
    }
}

/// Converts a ResourceClaimTemplate in place.
pub(super) fn template(obj: &mut Object, from: &str, to: &str) {
    if let Some(spec) = obj.as_map_mut().get_mut("spec").and_then(|spec| spec.get_mut("spec")) {
        requests(spec, from, to);
    }
}

/// Converts a ResourceSlice in place.
pub(super) fn slice(obj: &mut Object, from: &str, to: &str) {
    if (from == BETA1) == (to == BETA1) {
        return;
    }
    let Some(Value::Object(spec)) = obj.as_map_mut().get_mut("spec") else { return };
    if from == BETA1 {
        // Empty and false are how v1beta1 says that there is none.
        spec.retain(|name, value| {
            !(name == "nodeName" && value == "" || name == "allNodes" && *value == json!(false))
        });
    }
    for device in members(spec.get_mut("devices")) {
        let name = device.remove("name");
        if to == BETA1 {
            let basic = std::mem::take(device);
            device.insert("basic".to_owned(), Value::Object(basic));
        } else if let Some(Value::Object(basic)) = device.remove("basic") {
            *device = basic;
        }
        if let Some(name) = name {
            device.insert("name".to_owned(), name);
        }
    }
}

fn requests(spec: &mut Value, from: &str, to: &str) {
    if (from == BETA1) == (to == BETA1) {
        return;
    }
    for request in members(spec.pointer_mut("/devices/requests")) {
        if to == BETA1 {
            if let Some(Value::Object(mut exact)) = request.remove("exactly") {
                request.append(&mut exact);
            }
            continue;
        }
        let mut exact = Map::new();
        for name in EXACT {
            if let Some(value) = request.remove(name) {
                exact.insert(name.to_owned(), value);
            }
        }
        // Go writes an empty class name where there is none.
        if exact.iter().any(|(_, value)| *value != json!("")) {
            request.insert("exactly".to_owned(), Value::Object(exact));
        }
    }
}

fn members(list: Option<&mut Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    list.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways(convert: fn(&mut Object, &str, &str), v1: Value, beta: Value) {
        let mut obj = Object::from_value(v1.clone()).unwrap();
        convert(&mut obj, "v1", "v1beta2");
        assert_eq!(obj.to_value(), v1);
        convert(&mut obj, "v1beta2", "v1beta1");
        assert_eq!(obj.to_value(), beta);
        convert(&mut obj, "v1beta1", "v1");
        assert_eq!(obj.to_value(), v1);
    }

    #[test]
    fn exact_requests_move() {
        let v1 = json!({"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "c", "count": 2}},
            {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "c"}]}]}});
        let beta = json!({"devices": {"requests": [
            {"name": "a", "deviceClassName": "c", "count": 2},
            {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "c"}]}]}});
        both_ways(claim, json!({"spec": v1}), json!({"spec": beta}));
        both_ways(template, json!({"spec": {"spec": v1}}), json!({"spec": {"spec": beta}}));
    }

    #[test]
    fn facts_of_devices_move() {
        let v1 =
            json!({"spec": {"driver": "d", "devices": [{"name": "a", "attributes": {"x": {"int": 1}}}]}});
        let beta = json!({"spec": {"driver": "d", "devices": [{"name": "a", "basic": {"attributes": {"x": {"int": 1}}}}]}});
        both_ways(slice, v1, beta);
        let mut obj = Object::from_value(json!({"spec": {"nodeName": "", "allNodes": false}})).unwrap();
        slice(&mut obj, "v1beta1", "v1");
        assert_eq!(obj.to_value(), json!({"spec": {}}));
    }
}
