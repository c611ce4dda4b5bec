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

/// What each of these makes of the good object, told to the word.
fn table(kind: &Kind, good: &Value, cases: &[(&str, Value, &[&str])]) {
    for (pointer, value, want) in cases {
        assert_eq!(kind.errors(changed(good, &[(pointer, value.clone())])), *want, "{pointer} {value}");
    }
}

#[test]
fn every_field_of_a_request_has_its_rule() {
    let kind = Kind::new(GROUP, "resourceclaims");
    let exact = |more: Value| {
        let mut exact = json!({"deviceClassName": "gpu"});
        exact.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"name": "r", "exactly": exact})
    };
    let one = json!({"name": "a", "deviceClassName": "gpu"});
    let many = |n: usize| {
        json!(
            (0..n)
                .map(|i| json!({"name": format!("r{i}"), "exactly": {"deviceClassName": "g"}}))
                .collect::<Vec<_>>()
        )
    };
    let (requests, request) = ("/spec/devices/requests", "/spec/devices/requests/0");
    table(
        &kind,
        &claim(),
        &[
            (requests, many(32), &[]),
            (requests, many(33), &["spec.devices.requests: Too many: 33: must have at most 32 items"]),
            (
                requests,
                json!([exact(json!({})), exact(json!({}))]),
                &["spec.devices.requests[1]: Duplicate value: \"r\""],
            ),
            (
                request,
                json!({"name": "r", "exactly": {"deviceClassName": "gpu"}, "firstAvailable": [one]}),
                &[
                    "spec.devices.requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                ],
            ),
            (
                request,
                json!({"name": "r", "firstAvailable": [one, one]}),
                &["spec.devices.requests[0].firstAvailable[1]: Duplicate value: \"a\""],
            ),
            (
                request,
                json!({"name": "r", "firstAvailable": vec![one.clone(); 9]}),
                &["spec.devices.requests[0].firstAvailable: Too many: 9: must have at most 8 items"],
            ),
            (
                request,
                exact(json!({"allocationMode": "Any"})),
                &[
                    "spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"Any\": supported values: \"All\", \"ExactCount\"",
                ],
            ),
            (
                request,
                exact(json!({"allocationMode": "All", "count": 2})),
                &[
                    "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                ],
            ),
            (request, exact(json!({"allocationMode": "All"})), &[]),
            (
                request,
                exact(json!({"selectors": [{}]})),
                &["spec.devices.requests[0].exactly.selectors[0].cel: Required value"],
            ),
            (
                request,
                exact(json!({"tolerations": [
                    {"operator": "In", "effect": "None"}, {"operator": "Exists", "value": "v"},
                    {"key": "k", "effect": "Never"}, {"key": "k", "value": "v", "effect": "NoExecute"}]})),
                &[
                    "spec.devices.requests[0].exactly.tolerations[0].operator: Unsupported value: \"In\": supported values: \"Equal\", \"Exists\"",
                    "spec.devices.requests[0].exactly.tolerations[1].value: Invalid value: \"v\": must be empty for operator `Exists`",
                    "spec.devices.requests[0].exactly.tolerations[2].effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
                ],
            ),
        ],
    );
}

#[test]
fn constraints_and_configurations_name_requests_there_are() {
    const UNKNOWN: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let kind = Kind::new(GROUP, "resourceclaims");
    let good = changed(
        &claim(),
        &[(
            "/spec/devices/requests/0",
            json!({"name": "r", "firstAvailable": [{"name": "a", "deviceClassName": "gpu"}]}),
        )],
    );
    let references = |names: &[&str]| json!([{"requests": names, "matchAttribute": "d.io/x"}]);
    let at = "spec.devices.constraints[0]";
    let (constraints, config) = ("/spec/devices/constraints", "/spec/devices/config");
    let unknown = |name: &str| format!("{at}.requests[0]: Invalid value: {name:?}: {UNKNOWN}");
    let twice = format!("{at}.requests[1]: Duplicate value: \"r\"");
    let neither = format!(
        "{at}: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set"
    );
    table(
        &kind,
        &good,
        &[
            (constraints, references(&[]), &[]),
            (constraints, references(&["r", "r/a"]), &[]),
            (constraints, references(&["r/b"]), &[&unknown("r/b")]),
            (constraints, references(&["r/a/a"]), &[&unknown("r/a/a")]),
            (constraints, references(&["r", "r"]), &[&twice]),
            (constraints, json!([{}]), &[&neither]),
            (config, json!([{}]), &["spec.devices.config[0].opaque: Required value"]),
            (
                config,
                json!([{"opaque": {}}]),
                &[
                    "spec.devices.config[0].opaque.driver: Required value",
                    "spec.devices.config[0].opaque.parameters: Required value",
                ],
            ),
            (
                config,
                json!([{"opaque": {"driver": "d.io", "parameters": {"a": "x".repeat(10 * 1024)}}}]),
                &["spec.devices.config[0].opaque.parameters: Too long: may not be more than 10240 bytes"],
            ),
        ],
    );
    let off = Kind::new(GROUP, "resourceclaims").without(&[Gate::DRAConsumableCapacity]);
    let distinct = changed(&good, &[(constraints, json!([{"distinctAttribute": "d.io/x"}]))]);
    assert_eq!(off.errors(distinct), [format!("{at}.matchAttribute: Required value")]);
}

#[test]
fn every_field_of_a_status_has_its_rule() {
    let kind = Kind::new(GROUP, "resourceclaims");
    let old = kind.create(claim()).0;
    let result = json!({"request": "r", "driver": "d.io", "pool": "p", "device": "gpu-0"});
    let with = |field: &str, value: Value| changed(&result, &[(&format!("/{field}"), value)]);
    let allocated = |result: Value| json!({"allocation": {"devices": {"results": [result]}}});
    let told = |more: Value| {
        let mut told = json!({"driver": "d.io", "pool": "p", "device": "gpu-0"});
        told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"allocation": {"devices": {"results": [result]}}, "devices": [told]})
    };
    let at = "status.allocation.devices.results[0]";
    let consumer = |uid: usize| json!({"resource": "pods", "name": "p", "uid": format!("u{uid}")});
    let reserved = |consumers: Vec<Value>| json!({"allocation": {"devices": {"results": [result]}}, "reservedFor": consumers});
    let cases: Vec<(Value, Vec<String>)> = vec![
        (allocated(result.clone()), vec![]),
        (allocated(with("driver", json!(""))), vec![format!("{at}.driver: Required value")]),
        (allocated(with("pool", json!(""))), vec![format!("{at}.pool: Required value")]),
        (
            allocated(with("shareID", json!("x"))),
            vec![format!("{at}.shareID: Invalid value: \"x\": error validating uid: invalid UUID length: 1")],
        ),
        (
            allocated(with("shareID", json!("0A1B2C3D-0000-4000-8000-000000000000"))),
            vec![format!(
                "{at}.shareID: Invalid value: \"0A1B2C3D-0000-4000-8000-000000000000\": uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters"
            )],
        ),
        (
            allocated(with("bindingConditions", json!(["a.io/x"]))),
            vec![format!(
                "{at}.bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions"
            )],
        ),
        (
            json!({"allocation": {"devices": {"results": [result], "config": [
                {"source": "FromPod", "opaque": {"driver": "d.io", "parameters": {}}}]}}}),
            vec![
                "status.allocation.devices.config[0].source: Unsupported value: \"FromPod\": supported values: \"FromClaim\", \"FromClass\"".to_owned(),
            ],
        ),
        (reserved((0..256).map(consumer).collect()), vec![]),
        (
            reserved((0..257).map(consumer).collect()),
            vec!["status.reservedFor: Too many: 257: must have at most 256 items".to_owned()],
        ),
        (
            reserved(vec![consumer(1), consumer(1)]),
            vec!["status.reservedFor[1]: Duplicate value: \"u1\"".to_owned()],
        ),
        (
            reserved(vec![json!({})]),
            ["resource", "name", "uid"].map(|f| format!("status.reservedFor[0].{f}: Required value")).to_vec(),
        ),
        (told(json!({})), vec![]),
        (
            told(json!({"device": "gpu-1"})),
            vec!["status.devices[0]: Invalid value: \"d.io/p/gpu-1\": must be an allocated device in the claim".to_owned()],
        ),
        (
            told(json!({"data": [1]})),
            vec!["status.devices[0].data: Invalid value: \"<value omitted>\": must be a valid JSON object".to_owned()],
        ),
        (
            told(json!({"networkData": {"interfaceName": "x".repeat(257), "hardwareAddress": "x".repeat(129)}})),
            vec![
                "status.devices[0].networkData.interfaceName: Too long: may not be more than 256 bytes".to_owned(),
                "status.devices[0].networkData.hardwareAddress: Too long: may not be more than 128 bytes".to_owned(),
            ],
        ),
    ];
    for (status, errors) in cases {
        let new = changed(&old, &[("/status", status.clone())]);
        assert_eq!(kind.update(new, old.clone(), "status").1, errors, "{status}");
    }
    let leaving = changed(&old, &[("/metadata/deletionTimestamp", json!("2020-01-01T00:00:00Z"))]);
    let held = changed(&leaving, &[("/status", reserved(vec![consumer(1)]))]);
    let more = changed(&held, &[("/status", reserved(vec![consumer(1), consumer(2)]))]);
    assert_eq!(
        kind.update(more, held, "status").1,
        [
            "status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
        ]
    );
}

#[test]
fn every_field_of_a_slice_has_its_rule() {
    let kind = Kind::new(GROUP, "resourceslices");
    let good = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.io", "nodeName": "n",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "a"}]}});
    let devices = |n: usize, more: Value| {
        let one = |i: usize| {
            let mut device = json!({"name": format!("d{i}")});
            device.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            device
        };
        json!((0..n).map(one).collect::<Vec<_>>())
    };
    let taint = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
    let facts = |n: usize| {
        json!((0..n).map(|i| (format!("a{i}"), json!({"int": i}))).collect::<serde_json::Map<_, _>>())
    };
    let (device, at) = ("/spec/devices/0", "spec.devices[0]");
    let policy = |capacity: Value, shared: bool| json!({"name": "a", "allowMultipleAllocations": shared, "capacity": {"m": capacity}});
    let wrong = |rest: &str| format!("{at}{rest}");
    let long = "x".repeat(65);
    let cases: Vec<(&str, Value, Vec<String>)> = vec![
        ("/spec/driver", json!(""), vec!["spec.driver: Required value".to_owned()]),
        (
            "/spec/pool/resourceSliceCount",
            json!(0),
            vec!["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero".to_owned()],
        ),
        (
            "/spec/pool/generation",
            json!(-1),
            vec!["spec.pool.generation: Invalid value: -1: must be greater than or equal to zero".to_owned()],
        ),
        (
            "/spec/allNodes",
            json!(true),
            vec![
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set".to_owned(),
            ],
        ),
        (
            "/spec/allNodes",
            json!(false),
            vec!["spec.allNodes: Invalid value: false: must be either unset or set to true".to_owned()],
        ),
        (
            "/spec/sharedCounters",
            json!([{"name": "c", "counters": {"x": {"value": "1"}}}]),
            vec!["spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed".to_owned()],
        ),
        ("/spec/devices", devices(128, json!({})), vec![]),
        (
            "/spec/devices",
            devices(129, json!({})),
            vec!["spec.devices: Too many: 129: must have at most 128 items".to_owned()],
        ),
        (
            "/spec/devices",
            devices(65, taint),
            vec!["spec.devices: Too many: 65: must have at most 64 items".to_owned()],
        ),
        (device, json!({"name": "a", "attributes": facts(32)}), vec![]),
        (
            device,
            json!({"name": "a", "attributes": facts(33)}),
            vec![wrong(": Invalid value: 33: the total number of attributes and capacities must not exceed 32")],
        ),
        (
            device,
            json!({"name": "a", "attributes": {"m": {}}}),
            vec![wrong(".attributes[m]: Invalid value: \"\": exactly one value must be specified")],
        ),
        (
            device,
            json!({"name": "a", "attributes": {"m": {"string": long}}}),
            vec![wrong(".attributes[m].string: Too long: may not be more than 64 bytes")],
        ),
        (
            device,
            json!({"name": "a", "attributes": {"/m": {"int": 1}, "d.io/": {"int": 1}}}),
            vec![
                wrong(".attributes: Invalid value: \"\": the domain must not be empty"),
                wrong(".attributes: Invalid value: \"\": the name must not be empty"),
            ],
        ),
        (
            device,
            json!({"name": "a", "taints": [{"key": "k", "effect": "Never"}, {"key": "k"}]}),
            vec![
                wrong(".taints[0].effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \"None\""),
                wrong(".taints[1].effect: Required value"),
            ],
        ),
        (
            device,
            json!({"name": "a", "consumesCounters": [{"counterSet": "c"}]}),
            vec![wrong(".consumesCounters[0].counters: Required value")],
        ),
        (
            device,
            json!({"name": "a", "consumesCounters": vec![json!({"counterSet": "c", "counters": {"x": {"value": "1"}}}); 3]}),
            vec![wrong(".consumesCounters: Too many: 3: must have at most 2 items")],
        ),
        (
            device,
            json!({"name": "a", "allNodes": true}),
            vec![wrong(": Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")],
        ),
        (
            device,
            policy(json!({"value": "4", "requestPolicy": {"default": "1"}}), false),
            vec![wrong(".capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true")],
        ),
        (
            device,
            policy(json!({"value": "4", "requestPolicy": {"validValues": ["1"]}}), true),
            vec![wrong(".capacity[m].requestPolicy.default: Required value: required when validValues is defined")],
        ),
        (
            device,
            policy(json!({"value": "4", "requestPolicy": {"default": "3", "validValues": ["2", "1", "8"]}}), true),
            vec![
                wrong(".capacity[m].requestPolicy.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order"),
                wrong(".capacity[m].requestPolicy.validValues[2]: Invalid value: \"8\": option is larger than capacity value: 4"),
                wrong(".capacity[m].requestPolicy.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy"),
            ],
        ),
        (
            device,
            policy(json!({"value": "4", "requestPolicy": {"default": "2", "validRange": {"min": "1", "max": "8", "step": "2"}}}), true),
            vec![
                wrong(".capacity[m].requestPolicy.validRange.max: Invalid value: \"8\": max is larger than capacity value: 4"),
                wrong(".capacity[m].requestPolicy.validRange.step: Invalid value: \"2\": value is not a multiple of a given step (2) from (1)"),
                wrong(".capacity[m].requestPolicy.validRange.step: Invalid value: \"8\": value is not a multiple of a given step (2) from (1)"),
            ],
        ),
        (
            device,
            policy(json!({"requestPolicy": {"default": "1", "validValues": ["1"]}}), true),
            vec![wrong(".capacity[m].requestPolicy.validValues[0]: Invalid value: \"1\": option is larger than capacity value: 0")],
        ),
    ];
    for (pointer, value, errors) in cases {
        assert_eq!(kind.errors(changed(&good, &[(pointer, value.clone())])), errors, "{pointer} {value}");
    }
}
