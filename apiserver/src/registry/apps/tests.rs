//! Workloads through their strategies.

use serde_json::{Value, json};

use crate::registry::testing::{Kind, changed};

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn workload() -> Value {
    json!({"metadata": {"name": "web", "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template()}})
}

#[test]
fn what_is_missing_is_filled_in() {
    let deployment = Kind::new("apps", "deployments").defaulted(workload());
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(deployment["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(deployment["spec"]["progressDeadlineSeconds"], 600);
    assert_eq!(deployment["spec"]["template"]["spec"]["restartPolicy"], "Always");
    let daemons = Kind::new("apps", "daemonsets").defaulted(workload());
    assert_eq!(
        daemons["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
    );
    let mut set = workload();
    set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
    let set = Kind::new("apps", "statefulsets").defaulted(set);
    assert_eq!(set["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    assert_eq!(
        set["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    let claim = &set["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["kind"], "PersistentVolumeClaim");
    assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
}

#[test]
fn a_strategy_of_its_own_has_no_rolling_update() {
    let mut recreate = workload();
    recreate["spec"]["strategy"] = json!({"type": "Recreate"});
    let recreate = Kind::new("apps", "deployments").defaulted(recreate);
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn bad_workloads_are_told_where_and_why() {
    let no_match = "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`";
    for (plural, changes, want) in [
        (
            "deployments",
            vec![("/spec/selector", Value::Null)],
            vec!["spec.selector: Required value", no_match],
        ),
        (
            "daemonsets",
            vec![(
                "/spec/updateStrategy",
                json!({"rollingUpdate": {"maxSurge": "1", "maxUnavailable": "1"}}),
            )],
            vec![
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"1\": a valid percent string must be a \
                 numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"1\": a valid percent string must be a \
                 numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"1\": may not be set when maxUnavailable is \
                 non-zero",
            ],
        ),
        (
            "deployments",
            vec![("/spec/replicas", json!(-1))],
            vec!["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        ),
        ("deployments", vec![("/spec/selector/matchLabels/app", json!("x"))], vec![no_match]),
        ("replicasets", vec![("/spec/selector/matchLabels/app", json!("x"))], vec![no_match]),
        ("daemonsets", vec![("/spec/selector/matchLabels/app", json!("x"))], vec![no_match]),
        ("statefulsets", vec![("/spec/selector/matchLabels/app", json!("x"))], vec![no_match]),
        (
            "deployments",
            vec![("/spec/strategy", json!({"type": "Recreate", "rollingUpdate": {}}))],
            vec![
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ],
        ),
        (
            "deployments",
            vec![("/spec/strategy", json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}))],
            vec![
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ],
        ),
        (
            "deployments",
            vec![("/spec/strategy", json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "101%"}}))],
            vec![
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ],
        ),
        (
            "deployments",
            vec![("/spec/progressDeadlineSeconds", json!(5)), ("/spec/minReadySeconds", json!(5))],
            vec!["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
        ),
        (
            "daemonsets",
            vec![("/spec/updateStrategy", json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}))],
            vec![
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ],
        ),
        (
            "statefulsets",
            vec![("/spec/podManagementPolicy", json!("x"))],
            vec!["spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'"],
        ),
        (
            "replicasets",
            vec![("/spec/template/spec/restartPolicy", json!("Never"))],
            vec![
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ],
        ),
        (
            "daemonsets",
            vec![("/spec/template/spec/activeDeadlineSeconds", json!(1))],
            vec![
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
            ],
        ),
    ] {
        assert_eq!(
            Kind::new("apps", plural).errors(changed(&workload(), &changes)),
            want,
            "{plural} {changes:?}"
        );
    }
    for plural in ["deployments", "replicasets", "daemonsets", "statefulsets"] {
        assert!(Kind::new("apps", plural).errors(workload()).is_empty(), "{plural}");
    }
}

#[test]
fn what_may_not_change_stays() {
    let relabel =
        [("/spec/selector/matchLabels/app", json!("x")), ("/spec/template/metadata/labels/app", json!("x"))];
    for plural in ["deployments", "replicasets", "daemonsets"] {
        assert_eq!(
            Kind::new("apps", plural).change(&workload(), &relabel),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable"]
        );
    }
    let set = Kind::new("apps", "statefulsets");
    assert_eq!(
        set.change(&workload(), &[("/spec/serviceName", json!("other"))]),
        [
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
          'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are \
          forbidden"
        ]
    );
    assert!(set.change(&workload(), &[("/spec/replicas", json!(3))]).is_empty());
}

#[test]
fn daemons_count_their_templates() {
    let kind = Kind::new("apps", "daemonsets");
    let (old, _) = kind.create(workload());
    let at = |set: &Value| set["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone();
    assert_eq!(at(&old), "1");
    let other = changed(&old, &[("/spec/template/spec/containers/0/image", json!("i:2"))]);
    let (new, errors) = kind.update(other, old, "");
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((at(&new), &new["metadata"]["generation"]), (json!("2"), &json!(2)));
}

#[test]
fn a_status_adds_up() {
    let kind = Kind::new("apps", "deployments");
    let (old, _) = kind.create(workload());
    let new =
        changed(&old, &[("/status", json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": -1}))]);
    assert_eq!(
        kind.update(new, old, "status").1,
        [
            "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ]
    );
}

#[test]
fn a_revision_keeps_its_data() {
    let kind = Kind::new("apps", "controllerrevisions");
    let revision = json!({"metadata": {"name": "r"}, "revision": 1, "data": {"a": 1}});
    assert!(kind.errors(revision.clone()).is_empty());
    assert_eq!(
        kind.errors(json!({"revision": -1})),
        [
            "revision: Invalid value: -1: must be greater than or equal to 0",
            "data: Required value: data is mandatory",
        ]
    );
    assert_eq!(
        kind.change(&revision, &[("/data/a", json!(2))]),
        ["data: Invalid value: {\"a\":2}: field is immutable",]
    );
}
