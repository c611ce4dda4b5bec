use component_base::features::Gate;
use serde_json::{Value, json};

use crate::registry::testing::{Kind, changed};

const ALL: &[Gate] = &[
    Gate::GenericWorkload,
    Gate::TopologyAwareWorkloadScheduling,
    Gate::DRAWorkloadResourceClaims,
    Gate::GangScheduling,
    Gate::WorkloadAwarePreemption,
];

fn groups(gates: &[Gate]) -> Kind {
    Kind::new("scheduling.k8s.io", "podgroups").with(gates)
}

fn group() -> Value {
    json!({"metadata": {"name": "g", "namespace": "n"}, "spec": {
        "podGroupTemplateRef": {"workload": {"workloadName": "w", "podGroupTemplateName": "t"}},
        "schedulingPolicy": {"gang": {"minCount": 2}},
        "schedulingConstraints": {"topology": [{"key": "example.com/rack"}]},
        "resourceClaims": [{"name": "c", "resourceClaimName": "claim"}],
        "disruptionMode": "PodGroup", "priorityClassName": "high", "priority": 7}})
}

fn workload() -> Value {
    let spec = &group()["spec"];
    json!({"metadata": {"name": "w", "namespace": "n"}, "spec": {
        "controllerRef": {"apiGroup": "batch", "kind": "Job", "name": "j"},
        "podGroupTemplates": [{"name": "t", "schedulingPolicy": {"basic": {}},
            "schedulingConstraints": spec["schedulingConstraints"], "resourceClaims": spec["resourceClaims"]}]}})
}

#[test]
fn fields_are_kept_as_their_gates_are() {
    let (all, errors) = groups(ALL).create(group());
    assert_eq!((&all["spec"], errors), (&group()["spec"], Vec::new()));
    let (plain, errors) = groups(&[Gate::GenericWorkload]).create(group());
    assert_eq!(errors, Vec::<String>::new());
    let left: Vec<&String> = plain["spec"].as_object().unwrap().keys().collect();
    assert_eq!(left, ["podGroupTemplateRef", "schedulingPolicy"]);
    // What is there stays when the gates are off again, and may not become something else.
    let closed = groups(&[Gate::GenericWorkload]);
    assert_eq!(closed.update(all.clone(), all.clone(), ""), (all.clone(), Vec::new()));
    let other = changed(&all, &[("/spec/priority", json!(8)), ("/spec/disruptionMode", json!("Pod"))]);
    assert_eq!(
        closed.update(other, all, "").1,
        ["spec.disruptionMode: Forbidden", "spec.priority: Forbidden"]
    );
    let (unset, _) = groups(ALL).create(changed(&group(), &[("/spec/disruptionMode", Value::Null)]));
    assert_eq!(unset["spec"]["disruptionMode"], "Pod");
}

#[test]
fn what_is_wrong_with_a_group() {
    let kind = groups(ALL);
    let claims =
        |n: usize| (0..n).map(|i| json!({"name": format!("c{i}"), "resourceClaimName": "x"})).collect();
    for (pointer, value, why) in [
        (
            "/spec/schedulingPolicy",
            json!({}),
            "spec.schedulingPolicy: Invalid value: \"\": must specify one of: `basic`, `gang`",
        ),
        (
            "/spec/schedulingPolicy/basic",
            json!({}),
            "spec.schedulingPolicy: Invalid value: \"{basic, gang}\": must specify exactly one of: `basic`, `gang`",
        ),
        (
            "/spec/schedulingPolicy/gang/minCount",
            json!(0),
            "spec.schedulingPolicy.gang.minCount: Required value",
        ),
        (
            "/spec/schedulingPolicy/gang/minCount",
            json!(-1),
            "spec.schedulingPolicy.gang.minCount: Invalid value: -1: must be greater than or equal to 1",
        ),
        (
            "/spec/podGroupTemplateRef/workload",
            Value::Null,
            "spec.podGroupTemplateRef: Invalid value: \"\": must specify one of: `workload`",
        ),
        (
            "/spec/podGroupTemplateRef/workload/workloadName",
            json!(""),
            "spec.podGroupTemplateRef.workload.workloadName: Required value",
        ),
        (
            "/spec/schedulingConstraints/topology",
            json!([{"key": "a"}, {"key": "b"}]),
            "spec.schedulingConstraints.topology: Too many: 2: must have at most 1 item",
        ),
        (
            "/spec/schedulingConstraints/topology/0/key",
            json!(""),
            "spec.schedulingConstraints.topology[0].key: Required value",
        ),
        ("/spec/resourceClaims", claims(5), "spec.resourceClaims: Too many: 5: must have at most 4 items"),
        (
            "/spec/resourceClaims",
            json!([{"name": "c"}]),
            "spec.resourceClaims[0]: Invalid value: \"\": must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
        ),
        (
            "/spec/disruptionMode",
            json!("Never"),
            "spec.disruptionMode: Unsupported value: \"Never\": supported values: \"Pod\", \"PodGroup\"",
        ),
        (
            "/spec/priority",
            json!(1_000_000_001),
            "spec.priority: Invalid value: 1000000001: must be less than or equal to 1000000000",
        ),
    ] {
        assert_eq!(kind.errors(changed(&group(), &[(pointer, value)])), [why]);
    }
    let twice = json!([{"name": "c", "resourceClaimName": "x"}, {"name": "c", "resourceClaimName": "y"}]);
    let found = kind.errors(changed(&group(), &[("/spec/resourceClaims", twice)]));
    assert!(found[0].starts_with("spec.resourceClaims[1]: Duplicate value: "), "{found:?}");
    for pointer in ["/spec/schedulingPolicy/gang/minCount", "/spec/priority"] {
        let field = if pointer.ends_with("priority") { "spec.priority" } else { "spec.schedulingPolicy" };
        let wrong = kind.change(&group(), &[(pointer, json!(9))]);
        assert_eq!(wrong, [format!("{field}: Invalid value: null: field is immutable")]);
    }
}

#[test]
fn claims_of_a_status_are_those_of_the_group() {
    let kind = groups(ALL);
    let (stored, _) = kind.create(group());
    let status =
        |name: &str| changed(&stored, &[("/status", json!({"resourceClaimStatuses": [{"name": name}]}))]);
    assert_eq!(kind.update(status("c"), stored.clone(), "status").1, Vec::<String>::new());
    assert_eq!(
        kind.update(status("d"), stored.clone(), "status").1,
        ["status.resourceClaimStatuses[0].name: Invalid value: \"d\": must match the name of an entry in \
          `spec.resourceClaims`"]
    );
    let (plain, _) = groups(&[Gate::GenericWorkload]).create(group());
    let named = changed(&plain, &[("/status", json!({"resourceClaimStatuses": [{"name": "c"}]}))]);
    let (kept, errors) = groups(&[Gate::GenericWorkload]).update(named, plain, "status");
    assert_eq!((kept["status"].get("resourceClaimStatuses"), errors), (None, Vec::new()));
    let conditions = json!({"conditions": [{"type": "PodGroupScheduled", "status": "True"}]});
    let row = kind.row(changed(&stored, &[("/status", conditions)]));
    assert_eq!(row[1..4], [json!("Gang"), json!("w"), json!("Scheduled")]);
}

#[test]
fn what_is_wrong_with_a_workload() {
    let kind = Kind::new("scheduling.k8s.io", "workloads").with(ALL);
    assert_eq!(kind.errors(workload()), Vec::<String>::new());
    let template = |i: usize| json!({"name": format!("t{i}"), "schedulingPolicy": {"basic": {}}});
    for (pointer, value, why) in [
        (
            "/spec/controllerRef/kind",
            json!("a/b"),
            "spec.controllerRef.kind: Invalid value: \"a/b\": may not contain '/'",
        ),
        ("/spec/controllerRef/name", json!(""), "spec.controllerRef.name: Required value"),
        ("/spec/podGroupTemplates", json!([]), "spec.podGroupTemplates: Required value"),
        (
            "/spec/podGroupTemplates",
            (0..9).map(template).collect(),
            "spec.podGroupTemplates: Too many: 9: must have at most 8 items",
        ),
        ("/spec/podGroupTemplates/0/name", json!(""), "spec.podGroupTemplates[0].name: Required value"),
        (
            "/spec/podGroupTemplates/0/schedulingPolicy",
            json!({}),
            "spec.podGroupTemplates[0].schedulingPolicy: Invalid value: \"\": must specify one of: `basic`, `gang`",
        ),
    ] {
        assert_eq!(kind.errors(changed(&workload(), &[(pointer, value)])), [why]);
    }
    let wrong = kind.change(&workload(), &[("/spec/podGroupTemplates/0/name", json!("other"))]);
    assert_eq!(wrong, ["spec.podGroupTemplates: Invalid value: null: field is immutable"]);
    let closed = Kind::new("scheduling.k8s.io", "workloads").with(&[Gate::GenericWorkload]);
    let (left, _) = closed.create(workload());
    assert_eq!(left["spec"]["podGroupTemplates"][0].as_object().unwrap().len(), 2);
}
