//! Kinds of storage.k8s.io through their strategies.

use serde_json::{Value, json};

use crate::registry::testing::{Kind, changed};

const GROUP: &str = "storage.k8s.io";

/// What is wrong with a good object changed at one pointer.
fn check(kind: &Kind, good: &Value, cases: &[(&str, Value, &str)]) {
    assert_eq!(kind.errors(good.clone()), Vec::<String>::new());
    for (pointer, value, want) in cases {
        let found = kind.errors(changed(good, &[(pointer, value.clone())]));
        assert!(found.iter().any(|error| error == want), "{pointer} {value}: {want}\n{found:#?}");
    }
}

#[test]
fn classes_name_who_makes_volumes_and_stay_what_they_are() {
    let kind = Kind::new(GROUP, "storageclasses");
    let good = json!({"metadata": {"name": "c"}, "provisioner": "a.io/b", "parameters": {"k": "v"}});
    let topology = |values: Value| json!([{"matchLabelExpressions": [{"key": "zone", "values": values}]}]);
    check(
        &kind,
        &good,
        &[
            ("/provisioner", json!(""), "provisioner: Required value"),
            ("/parameters", json!({"": "v"}), "parameters: Invalid value: \"\": field can not be empty."),
            (
                "/reclaimPolicy",
                json!("Recycle"),
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            ),
            (
                "/allowedTopologies",
                topology(json!([])),
                "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
            ),
            (
                "/allowedTopologies",
                topology(json!(["a", "a"])),
                "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
            ),
            (
                "/allowedTopologies",
                json!([{"matchLabelExpressions": []}]),
                "allowedTopologies[0].matchLabelExpressions: Duplicate value: \"\"",
            ),
        ],
    );
    assert_eq!(
        kind.change(&good, &[("/provisioner", json!("a.io/c"))]),
        ["provisioner: Invalid value: \"a.io/c\": field is immutable"]
    );
    assert_eq!(kind.change(&good, &[("/allowVolumeExpansion", json!(true))]), Vec::<String>::new());
}

#[test]
fn classes_of_attributes_have_some() {
    let kind = Kind::new(GROUP, "volumeattributesclasses");
    let good = json!({"metadata": {"name": "c"}, "driverName": "d.io", "parameters": {"iops": "1"}});
    check(
        &kind,
        &good,
        &[
            (
                "/parameters",
                json!({}),
                "parameters: Required value: must contain at least one key/value pair",
            ),
            ("/driverName", json!(""), "driverName: Required value"),
        ],
    );
    assert_eq!(
        kind.change(&good, &[("/parameters/iops", json!("2"))]),
        ["parameters: Forbidden: updates to parameters are forbidden."]
    );
}

#[test]
fn drivers_keep_how_they_attach() {
    let kind = Kind::new(GROUP, "csidrivers");
    let good = json!({"metadata": {"name": "d"}, "spec": {}});
    check(
        &kind,
        &good,
        &[
            (
                "/spec/fsGroupPolicy",
                json!("All"),
                "spec.fsGroupPolicy: Unsupported value: \"All\": supported values: \"File\", \"None\", \
                 \"ReadWriteOnceWithFSType\"",
            ),
            (
                "/spec/tokenRequests",
                json!([{"audience": "a"}, {"audience": "a"}]),
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ),
            (
                "/spec/serviceAccountTokenInSecrets",
                json!(true),
                "spec.serviceAccountTokenInSecrets: Invalid value: true: serviceAccountTokenInSecrets is set but no \
                 tokenRequests are specified",
            ),
        ],
    );
    let attach = kind.change(&good, &[("/spec/attachRequired", json!(false))]);
    assert_eq!(attach, ["spec.attachedRequired: Invalid value: false: field is immutable"]);
    let stored = kind.create(good).0;
    assert_eq!(stored["metadata"].get("generation"), None);
    let changed = kind.update(changed(&stored, &[("/spec/podInfoOnMount", json!(true))]), stored, "").0;
    assert_eq!(changed["metadata"]["generation"], 1);
}

#[test]
fn drivers_of_nodes_change_in_what_they_can_take() {
    let kind = Kind::new(GROUP, "csinodes");
    let driver = |id: &str, count: i64| json!({"name": "d.io", "nodeID": id, "topologyKeys": ["zone"], "allocatable": {"count": count}});
    let good = json!({"metadata": {"name": "n"}, "spec": {"drivers": [driver("i", 1)]}});
    check(
        &kind,
        &good,
        &[
            ("/spec/drivers/0/nodeID", json!(""), "spec.drivers[0].nodeID: Required value"),
            ("/spec/drivers/0/topologyKeys", json!(["a", "a"]), "spec.drivers[0]: Duplicate value: \"a\""),
            (
                "/spec/drivers",
                json!([driver("i", 1), driver("i", 1)]),
                "spec.drivers[1].name: Duplicate value: \"d.io\"",
            ),
        ],
    );
    assert_eq!(kind.change(&good, &[("/spec/drivers/0", driver("i", 2))]), Vec::<String>::new());
    let moved = kind.change(&good, &[("/spec/drivers/0", driver("j", 1))]);
    assert!(moved.len() == 1 && moved[0].ends_with("field is immutable"), "{moved:?}");
}

#[test]
fn attachments_have_one_source_and_their_status_leaves_all_else_alone() {
    let kind = Kind::new(GROUP, "volumeattachments");
    let good = json!({"metadata": {"name": "v", "labels": {"a": "b"}}, "spec": {"attacher": "d.io", "nodeName": "n",
        "source": {"persistentVolumeName": "p"}}});
    let inline = json!({"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d.io", "volumeHandle": "h"}});
    check(
        &kind,
        &good,
        &[
            (
                "/spec/source",
                json!({}),
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (
                "/spec/source",
                json!({"inlineVolumeSpec": changed(&inline, &[("/capacity", json!({"storage": "1"}))])}),
                "spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context of inline volumes",
            ),
        ],
    );
    let whole = changed(&good, &[("/spec/source", json!({"inlineVolumeSpec": inline}))]);
    assert_eq!(kind.errors(whole), Vec::<String>::new());
    let stored = kind.create(good).0;
    let told = changed(&stored, &[("/metadata/labels", json!({})), ("/status", json!({"attached": true}))]);
    let (status, errors) = kind.update(told, stored, "status");
    assert_eq!((&status["metadata"]["labels"], errors), (&json!({"a": "b"}), Vec::new()));
}

#[test]
fn texts_that_are_said_are_not_missing() {
    let class = json!({"metadata": {"name": "c"}, "provisioner": "d.io"});
    let kind = Kind::new(GROUP, "storageclasses");
    let filled = kind.defaulted(class.clone());
    assert_eq!(
        (&filled["reclaimPolicy"], &filled["volumeBindingMode"]),
        (&json!("Delete"), &json!("Immediate"))
    );
    let found = kind.errors(changed(&class, &[("/volumeBindingMode", json!(""))]));
    assert_eq!(
        found,
        [
            "volumeBindingMode: Unsupported value: \"\": supported values: \"Immediate\", \"WaitForFirstConsumer\""
        ]
    );
    let driver = json!({"metadata": {"name": "d.io"}, "spec": {"preventPodSchedulingIfMissing": true}});
    let (stored, errors) = Kind::new(GROUP, "csidrivers").create(driver);
    assert_eq!((stored["spec"].get("preventPodSchedulingIfMissing"), errors), (None, Vec::new()));
}
