//! Kinds of resource.k8s.io through their strategies.

use component_base::features::Gate;
use serde_json::{Value, json};

use crate::registry::testing::{Kind, changed};

const GROUP: &str = "resource.k8s.io";

/// What is wrong with a good object changed at one pointer.
fn check(kind: &Kind, good: &Value, cases: &[(&str, Value, &str)]) {
    assert_eq!(kind.errors(good.clone()), Vec::<String>::new());
    for (pointer, value, want) in cases {
        let found = kind.errors(changed(good, &[(pointer, value.clone())]));
        assert!(found.iter().any(|error| error == want), "{pointer} {value}: {want}\n{found:#?}");
    }
}

fn claim() -> Value {
    json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"devices": {"requests": [
        {"name": "r", "exactly": {"deviceClassName": "gpu"}}], "constraints": [], "config": []}}})
}

#[test]
fn claims_ask_for_devices_of_classes() {
    let kind = Kind::new(GROUP, "resourceclaims");
    let exact = &kind.defaulted(claim())["spec"]["devices"]["requests"][0]["exactly"];
    assert_eq!((&exact["allocationMode"], &exact["count"]), (&json!("ExactCount"), &json!(1)));
    let request = "/spec/devices/requests/0";
    check(
        &kind,
        &claim(),
        &[
            (
                request,
                json!({"name": "r"}),
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            ),
            (
                "/spec/devices/requests/0/exactly/deviceClassName",
                json!(""),
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
            ),
            (
                "/spec/devices/requests/0/exactly/count",
                json!(-1),
                "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
            ),
            (
                "/spec/devices/constraints",
                json!([{"requests": ["x"], "matchAttribute": "model"}]),
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"model\": a fully qualified name must be a \
                 domain and a name separated by a slash",
            ),
            (
                "/spec/devices/constraints",
                json!([{"requests": ["x"], "matchAttribute": "a.io/model"}]),
                "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request in the \
                 claim or the name of a request and a subrequest separated by '/'",
            ),
            (
                "/spec/devices/config",
                json!([{"opaque": {"driver": "d.io", "parameters": [1]}}]),
                "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON \
                 object",
            ),
        ],
    );
    let spec =
        kind.change(&claim(), &[(request, json!({"name": "s", "exactly": {"deviceClassName": "gpu"}}))]);
    assert!(spec.len() == 1 && spec[0].ends_with("field is immutable"), "{spec:?}");
}

#[test]
fn allocations_are_made_once_and_take_what_drivers_told_with_them() {
    let kind = Kind::new(GROUP, "resourceclaims");
    let old = kind.create(claim()).0;
    let result = json!({"request": "r", "driver": "d.io", "pool": "p", "device": "gpu-0"});
    let allocation = json!({"devices": {"results": [result]}});
    let consumer = json!({"resource": "pods", "name": "p", "uid": "u"});
    let status = |status: Value| changed(&old, &[("/status", status)]);
    let reserved = kind.update(status(json!({"reservedFor": [consumer]})), old.clone(), "status").1;
    assert_eq!(reserved, ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]);
    let told = json!({"driver": "d.io", "pool": "p", "device": "gpu-0"});
    let (allocated, errors) =
        kind.update(status(json!({"allocation": allocation, "devices": [told]})), old.clone(), "status");
    assert_eq!(errors, Vec::<String>::new());
    let (freed, errors) = kind.update(status(json!({"devices": [told]})), allocated.clone(), "status");
    assert_eq!((freed["status"].get("devices"), errors), (None, Vec::new()));
    let other = changed(&allocated, &[("/status/allocation/devices/results/0/device", json!("gpu-1"))]);
    let moved = kind.update(other, allocated, "status").1;
    assert!(moved.iter().any(|error| error.ends_with("field is immutable")), "{moved:?}");
}

#[test]
fn slices_are_in_one_place_and_tell_facts() {
    let kind = Kind::new(GROUP, "resourceslices");
    let good = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.io", "nodeName": "n",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "a", "attributes": {"model": {"string": "x"}}, "taints": [
            {"key": "k", "effect": "NoSchedule"}]}]}});
    check(
        &kind,
        &good,
        &[
            (
                "/spec/nodeName",
                Value::Null,
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` \
                 is required",
            ),
            ("/spec/pool/name", json!(""), "spec.pool.name: Required value"),
            (
                "/spec/devices/0/attributes/model",
                json!({"string": "x", "int": 1}),
                "spec.devices[0].attributes[model]: Invalid value: {\"int\":1,\"string\":\"x\"}: exactly one value must \
                 be specified",
            ),
            (
                "/spec/devices/0/attributes/model",
                json!({"version": "1"}),
                "spec.devices[0].attributes[model].version: Invalid value: \"1\": must be a string compatible with \
                 semver.org spec 2.0.0",
            ),
            (
                "/spec/devices",
                json!([{"name": "a"}, {"name": "a"}]),
                "spec.devices[1]: Duplicate value: \"a\"",
            ),
        ],
    );
    let stored = kind.create(good).0;
    assert_eq!(stored["spec"]["devices"][0]["taints"][0]["timeAdded"], "1970-01-01T00:00:00Z");
    let moved = changed(&stored, &[("/spec/nodeName", json!("m"))]);
    assert_eq!(kind.update(moved, stored, "").1, ["spec.nodeName: Invalid value: \"m\": field is immutable"]);
}

#[test]
fn rules_date_their_taint_by_its_effect() {
    let kind = Kind::new(GROUP, "devicetaintrules");
    let rule = json!({"metadata": {"name": "r"}, "spec": {"taint": {"key": "k", "effect": "NoSchedule",
        "timeAdded": "2020-01-01T00:00:00Z"}}});
    let (old, errors) = kind.create(rule);
    assert_eq!(errors, Vec::<String>::new());
    let stronger = changed(&old, &[("/spec/taint/effect", json!("NoExecute"))]);
    let new = kind.update(stronger, old.clone(), "").0;
    assert_eq!(new["spec"]["taint"]["timeAdded"], "1970-01-01T00:00:00Z");
    assert_eq!(kind.update(old.clone(), old, "").0["spec"]["taint"]["timeAdded"], "2020-01-01T00:00:00Z");
}

#[test]
fn fields_behind_gates_are_kept_only_where_they_are() {
    let kind = Kind::new(GROUP, "resourceslices");
    let gated = json!({"name": "d", "attributes": {"a": {"strings": ["x"], "string": "y"}},
        "nodeAllocatableResourceMappings": {"cpu": {"allocationMultiplier": "1"}}});
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.io", "nodeName": "n", "devices": [gated],
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}});
    let (stored, errors) = kind.create(slice.clone());
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(stored["spec"]["devices"][0], json!({"name": "d", "attributes": {"a": {"string": "y"}}}));
    let (kept, _) = kind.update(slice.clone(), slice.clone(), "");
    assert_eq!(kept["spec"]["devices"], slice["spec"]["devices"]);
}

#[test]
fn devices_take_of_what_their_node_has() {
    let kind = Kind::new(GROUP, "resourceslices").with(&[Gate::DRANodeAllocatableResources]);
    let slice = |mapping: Value| {
        json!({"metadata": {"name": "s"}, "spec": {"driver": "d.io", "nodeName": "n",
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "d", "capacity": {"m": {"value": "1Gi"}}, "nodeAllocatableResourceMappings": mapping}]}})
    };
    let at = "spec.devices[0].nodeAllocatableResourceMappings";
    for (mapping, why) in [
        (json!({"cpu": {"allocationMultiplier": "1"}, "memory": {"capacityKey": "m"}}), String::new()),
        (
            json!({"cpu": {}}),
            format!(
                "{at}[cpu]: Invalid value: \"\": at least one of allocationMultiplier or capacityKey must be set"
            ),
        ),
        (
            json!({"cpu": {"allocationMultiplier": "0"}}),
            format!("{at}[cpu].allocationMultiplier: Invalid value: \"0\": must be positive"),
        ),
        (
            json!({"cpu": {"capacityKey": ""}}),
            format!("{at}[cpu].capacityKey: Invalid value: \"\": capacityKey must not be an empty string"),
        ),
        (json!({"cpu": {"capacityKey": "x"}}), format!("{at}[cpu].capacityKey: Not found: \"x\"")),
        (
            json!({"a.b/c": {"allocationMultiplier": "1"}}),
            format!("{at}[a.b/c]: Invalid value: \"a.b/c\": must be a node allocatable resource name"),
        ),
    ] {
        let expected: Vec<String> = Some(why).filter(|why| !why.is_empty()).into_iter().collect();
        assert_eq!(kind.errors(slice(mapping)), expected);
    }
}

#[test]
fn selectors_compile() {
    let with = |expression: &str| json!([{"cel": {"expression": expression}}]);
    let class = json!({"metadata": {"name": "c"}, "spec": {"selectors": with("device.driver == 'd.io'")}});
    let classes = Kind::new(GROUP, "deviceclasses");
    assert_eq!(classes.errors(class.clone()), Vec::<String>::new());
    let found = classes.errors(changed(&class, &[("/spec/selectors", with("device.driver"))]));
    assert_eq!(
        found,
        [
            "spec.selectors[0].cel.expression: Invalid value: \"device.driver\": must evaluate to bool or the unknown \
             type, not string"
        ]
    );
    let requests = "/spec/devices/requests/0/exactly/selectors";
    let found = Kind::new(GROUP, "resourceclaims").errors(changed(&claim(), &[(requests, with("nothing"))]));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("compilation failed: ERROR: <input>:1:1: undeclared reference to 'nothing'"),
        "{found:?}"
    );
}
