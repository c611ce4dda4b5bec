//! Kinds of the core group through their strategies: each rule once broken, with the path and the words clients know.

use component_base::features::Gate;
use serde_json::{Value, json};

use crate::registry::testing::{Kind, changed};

/// Checks what is wrong with a good object changed at a pointer; an empty text means nothing.
fn check(kind: &Kind, good: &Value, cases: &[(&str, Value, &str)]) {
    assert_eq!(kind.errors(good.clone()), Vec::<String>::new());
    for (pointer, value, want) in cases {
        told(&kind.errors(changed(good, &[(pointer, value.clone())])), pointer, value, want);
    }
}

/// The same for updates of what was created.
fn check_changes(kind: &Kind, good: &Value, cases: &[(&str, Value, &str)]) {
    for (pointer, value, want) in cases {
        told(&kind.change(good, &[(pointer, value.clone())]), pointer, value, want);
    }
}

fn told(found: &[String], pointer: &str, value: &Value, want: &str) {
    match want.is_empty() {
        true => assert!(found.is_empty(), "{pointer} {value}: {found:#?}"),
        false => assert!(found.iter().any(|e| e == want), "{pointer} {value}: {want}\n{found:#?}"),
    }
}

fn volume() -> Value {
    json!({"metadata": {"name": "v", "annotations": {}}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d.io", "volumeHandle": "h"},
    }})
}

#[test]
fn volumes_have_one_source_a_size_and_modes() {
    let kind = Kind::new("", "persistentvolumes");
    check(
        &kind,
        &volume(),
        &[
            ("/spec/accessModes", json!([]), "spec.accessModes: Required value"),
            (
                "/spec/accessModes",
                json!(["ReadWriteOncePod", "ReadOnlyMany"]),
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            ),
            ("/spec/capacity", json!({}), "spec.capacity: Required value"),
            (
                "/spec/capacity/storage",
                json!("0"),
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
            ),
            (
                "/spec/persistentVolumeReclaimPolicy",
                json!("Keep"),
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Keep\": supported values: \"Delete\", \
                 \"Recycle\", \"Retain\"",
            ),
            ("/spec/csi", Value::Null, "spec: Required value: must specify a volume type"),
            ("/spec/csi/driver", json!(""), "spec.csi.driver: Required value"),
            (
                "/spec/csi/nodePublishSecretRef",
                json!({"name": "s"}),
                "spec.csi.nodePublishSecretRef.namespace: Required value",
            ),
            (
                "/spec/hostPath",
                json!({"path": "/a"}),
                "spec.csi: Forbidden: may not specify more than 1 volume type",
            ),
            (
                "/spec/local",
                json!({"path": "/a"}),
                "spec.csi: Forbidden: may not specify more than 1 volume type",
            ),
            (
                "/spec/local",
                json!({"path": "/a"}),
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ),
            (
                "/spec/volumeAttributesClassName",
                json!(""),
                "spec.volumeAttributesClassName: Required value: an empty string is disallowed",
            ),
            (
                "/metadata/annotations/volume.beta.kubernetes.io~1mount-options",
                json!("ro"),
                "metadata.annotations.volume.beta.kubernetes.io/mount-options: Forbidden: may not specify mount options \
                 for this volume type",
            ),
        ],
    );
    let stored = kind.create(volume()).0;
    assert_eq!(
        stored["status"],
        json!({"phase": "Pending", "lastPhaseTransitionTime": "1970-01-01T00:00:00Z"})
    );
    assert_eq!(stored["spec"]["persistentVolumeReclaimPolicy"], "Retain");
}

#[test]
fn volumes_keep_their_source_and_their_affinity() {
    let kind = Kind::new("", "persistentvolumes");
    let secret = json!({"name": "s", "namespace": "n"});
    check_changes(
        &kind,
        &volume(),
        &[
            ("/spec/csi/controllerExpandSecretRef", secret.clone(), ""),
            ("/spec/capacity/storage", json!("2Gi"), ""),
            ("/spec/volumeMode", json!("Block"), "volumeMode: Invalid value: \"Block\": field is immutable"),
            (
                "/spec/csi/volumeHandle",
                json!("i"),
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n  \
                 csi.volumeHandle: \"h\" -> \"i\"",
            ),
        ],
    );
    let zone = |key: &str| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": ["a"]}]}]}});
    let local = changed(&volume(), &[("/spec/nodeAffinity", zone("failure-domain.beta.kubernetes.io/zone"))]);
    assert_eq!(
        kind.change(&local, &[("/spec/nodeAffinity", zone("topology.kubernetes.io/zone"))]),
        Vec::<String>::new()
    );
    let other = kind.change(&local, &[("/spec/nodeAffinity", zone("kubernetes.io/hostname"))]);
    assert!(other[0].ends_with("field is immutable, except for updating from beta label to GA"), "{other:?}");
    let free = Kind::new("", "persistentvolumes").with(&[Gate::MutablePVNodeAffinity]);
    let other = free.change(&local, &[("/spec/nodeAffinity", zone("kubernetes.io/hostname"))]);
    assert_eq!(other, Vec::<String>::new());
}

#[test]
fn the_time_of_a_phase_is_kept_by_the_status() {
    let kind = Kind::new("", "persistentvolumes");
    let old = changed(
        &kind.create(volume()).0,
        &[("/status/lastPhaseTransitionTime", json!("2020-01-01T00:00:00Z"))],
    );
    let time = |changes: &[(&str, Value)]| {
        kind.update(changed(&old, changes), old.clone(), "status").0["status"]["lastPhaseTransitionTime"]
            .clone()
    };
    assert_eq!(time(&[("/status/lastPhaseTransitionTime", Value::Null)]), "2020-01-01T00:00:00Z");
    assert_eq!(time(&[("/status/phase", json!("Bound"))]), "1970-01-01T00:00:00Z");
    let own = ("/status/lastPhaseTransitionTime", json!("2021-01-01T00:00:00Z"));
    assert_eq!(time(&[("/status/phase", json!("Bound")), own]), "2021-01-01T00:00:00Z");
}

fn claim() -> Value {
    json!({"metadata": {"name": "c", "namespace": "d", "annotations": {}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}},
    }})
}

#[test]
fn claims_ask_for_storage_and_name_where_data_comes_from() {
    let kind = Kind::new("", "persistentvolumeclaims");
    check(
        &kind,
        &claim(),
        &[
            (
                "/spec/accessModes",
                json!([]),
                "spec.accessModes: Required value: at least 1 access mode is required",
            ),
            ("/spec/resources/requests", json!({}), "spec.resources[storage]: Required value"),
            (
                "/spec/storageClassName",
                json!("A"),
                "spec.storageClassName: Invalid value: \"A\": a lowercase RFC 1123 \
              subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an \
              alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ),
            (
                "/spec/volumeMode",
                json!("Tape"),
                "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"",
            ),
        ],
    );
    let of = |source: Value| kind.create(changed(&claim(), &[("/spec/dataSource", source)])).0;
    let source = json!({"kind": "PersistentVolumeClaim", "name": "o"});
    assert_eq!(of(source.clone())["spec"]["dataSourceRef"], source);
    assert_eq!(of(json!({"kind": "Pod", "name": "o"}))["spec"].get("dataSource"), None);
    assert_eq!(of(source)["status"], json!({"phase": "Pending"}));
    // From elsewhere only under the gate, and then the older field does not name it.
    let foreign = json!({"kind": "PersistentVolumeClaim", "name": "o", "namespace": "other"});
    let foreign = changed(&claim(), &[("/spec/dataSourceRef", foreign)]);
    assert_eq!(kind.create(foreign.clone()).0["spec"].get("dataSourceRef"), None);
    let open = Kind::new("", "persistentvolumeclaims").with(&[Gate::CrossNamespaceVolumeDataSource]);
    let (made, errors) = open.create(foreign);
    assert_eq!((&made["spec"]["dataSourceRef"]["namespace"], errors), (&json!("other"), Vec::new()));
    assert_eq!(made["spec"].get("dataSource"), None);
}

#[test]
fn claims_change_in_size_once_they_are_bound() {
    let kind = Kind::new("", "persistentvolumeclaims");
    let pending = kind.create(claim()).0;
    let bound = changed(&pending, &[("/status", json!({"phase": "Bound", "capacity": {"storage": "1Gi"}}))]);
    let to = |old: &Value, pointer: &str, value: Value| {
        kind.update(changed(old, &[(pointer, value)]), old.clone(), "").1
    };
    let size = "/spec/resources/requests/storage";
    assert_eq!(to(&bound, size, json!("3Gi")), Vec::<String>::new());
    assert_eq!(to(&bound, size, json!("1500Mi")), Vec::<String>::new());
    assert_eq!(
        to(&bound, size, json!("1Gi")),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    assert_eq!(
        to(&pending, size, json!("3Gi")),
        [
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for \
          bound claims\n  resources.requests[storage]: \"2Gi\" -> \"3Gi\""
        ]
    );
    assert_eq!(to(&pending, "/spec/volumeName", json!("v")), Vec::<String>::new());
    assert_eq!(to(&pending, "/spec/storageClassName", json!("fast")), Vec::<String>::new());
    let named = changed(&bound, &[("/spec/volumeName", json!("v"))]);
    assert_eq!(to(&named, "/spec/volumeName", json!("w")).len(), 1);
}

#[test]
fn nodes_have_good_taints_and_keep_their_networks() {
    let kind = Kind::new("", "nodes");
    let node = json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"],
        "providerID": "p", "taints": []}, "status": {"capacity": {"cpu": "1"}}});
    check(
        &kind,
        &node,
        &[
            (
                "/spec/taints",
                json!([{"key": "a", "effect": "No"}]),
                "metadata.taints[0].effect: Unsupported value: \"No\": supported values: \"NoSchedule\", \
                 \"PreferNoSchedule\", \"NoExecute\"",
            ),
            ("/spec/taints", json!([{"key": "a"}]), "metadata.taints[0].effect: Required value"),
            (
                "/spec/taints",
                json!([{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}]),
                "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoExecute\",\"TimeAdded\":null}: taints must be unique by \
                 key and effect pair",
            ),
            (
                "/spec/podCIDRs",
                json!(["10.0.0.0/24", "10.0.1.0/24"]),
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for \
                 each IP family",
            ),
            (
                "/status/capacity/cpu",
                json!("-1"),
                "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            ("/spec/podCIDRs", json!(["10.0.0.0/24", "fd00::/64"]), ""),
        ],
    );
    check_changes(
        &kind,
        &node,
        &[
            // The one network of older clients counts, and brings the list in line.
            (
                "/spec/podCIDR",
                json!("10.0.1.0/24"),
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
            ),
            ("/spec/podCIDRs", json!(["10.0.1.0/24"]), ""),
            ("/spec/podCIDR", Value::Null, ""),
            (
                "/spec/providerID",
                json!("q"),
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
            ),
            ("/spec/unschedulable", json!(true), ""),
            ("/status/capacity/cpu", json!("-1"), ""),
        ],
    );
    assert_eq!(kind.defaulted(node)["status"]["allocatable"], json!({"cpu": "1"}));
}

#[test]
fn namespaces_say_active_until_they_are_deleted() {
    let kind = Kind::new("", "namespaces");
    let good = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["a.io/b"]}});
    let stored = kind.create(good.clone()).0;
    assert_eq!(stored["spec"]["finalizers"], json!(["a.io/b", "kubernetes"]));
    assert_eq!(
        kind.errors(changed(&good, &[("/spec/finalizers", json!(["b"]))])),
        [
            "spec.finalizers: Invalid value: \"b\": name is neither a standard finalizer name nor is it fully qualified"
        ]
    );
    let gone = changed(&stored, &[("/status/phase", json!("Terminating"))]);
    assert_eq!(
        kind.update(gone, stored, "status").1,
        [
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
        ]
    );
}

#[test]
fn quotas_name_what_they_count_and_keep_their_scopes() {
    let kind = Kind::new("", "resourcequotas");
    let quota = json!({"metadata": {"name": "q", "namespace": "d"}, "spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}});
    check(
        &kind,
        &quota,
        &[
            (
                "/spec/hard/gpus",
                json!("1"),
                "spec.hard[gpus]: Invalid value: \"gpus\": must be a standard resource type or fully qualified",
            ),
            (
                "/spec/hard/pods",
                json!("500m"),
                "spec.hard[pods]: Invalid value: \"500m\": must be an integer",
            ),
            (
                "/spec/hard/cpu",
                json!("1"),
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
            ),
            (
                "/spec/scopes",
                json!(["BestEffort", "NotBestEffort"]),
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ),
            (
                "/spec/scopeSelector",
                json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}),
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is \
                 'In' or 'NotIn' for scope selector",
            ),
        ],
    );
    let same = kind.change(&quota, &[("/spec/scopes", json!(["NotBestEffort"]))]);
    assert_eq!(same, ["spec.scopes: Invalid value: [\"NotBestEffort\"]: field is immutable"]);
    let hard = json!({"requests.cpu": "2", "limits.cpu": "1"});
    let warned = json!({"metadata": {"name": "q", "namespace": "d"}, "spec": {"hard": hard}});
    assert_eq!(kind.warnings(warned), ["ResourceQuota requests.cpu (2) should be less than limits.cpu (1)"]);
}

#[test]
fn limits_of_containers_fit_each_other_and_fill_each_other_in() {
    let kind = Kind::new("", "limitranges");
    let range =
        |limit: Value| json!({"metadata": {"name": "l", "namespace": "d"}, "spec": {"limits": [limit]}});
    let good =
        kind.defaulted(range(json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}})));
    let limit = &good["spec"]["limits"][0];
    assert_eq!(
        (&limit["default"], &limit["defaultRequest"]),
        (&json!({"cpu": "2"}), &json!({"cpu": "2", "memory": "1Mi"}))
    );
    let errors = |limit: Value| kind.errors(range(limit));
    assert_eq!(
        errors(
            json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}, "default": {"cpu": "1"},
            "defaultRequest": {"cpu": "1"}})
        ),
        [
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
            "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
        ]
    );
    assert_eq!(
        errors(json!({"type": "Pod", "default": {"cpu": "1"}})),
        ["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]
    );
    assert_eq!(
        errors(json!({"type": "PersistentVolumeClaim"})),
        [
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was \
          provided"
        ]
    );
    assert_eq!(
        errors(
            json!({"type": "Pod", "max": {"cpu": "4"}, "min": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}})
        ),
        [
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000"
        ]
    );
}

#[test]
fn events_are_of_their_namespace_and_new_ones_are_complete() {
    let core = Kind::new("", "events");
    let old = json!({"metadata": {"name": "e", "namespace": "d"}, "involvedObject": {"kind": "Pod", "namespace": "o"}});
    let wrong = "involvedObject.namespace: Invalid value: \"o\": does not match event.namespace";
    assert_eq!(core.errors(old.clone()), [wrong]);
    let good = json!({"metadata": {"name": "e", "namespace": "d"}, "involvedObject": {"kind": "Pod", "namespace": "d"},
        "eventTime": "2020-01-01T00:00:00.000000Z", "reportingComponent": "a", "reportingInstance": "i", "action": "A",
        "reason": "R", "type": "Normal"});
    check(
        &core,
        &good,
        &[
            ("/reportingComponent", json!(""), "reportingComponent: Required value"),
            ("/action", json!(""), "action: Required value"),
        ],
    );
    let new = Kind::new("events.k8s.io", "events");
    check(
        &new,
        &good,
        &[
            ("/reportingComponent", json!(""), "reportingController: Required value"),
            ("/count", json!(2), "count: Invalid value: \"\": needs to be unset"),
            ("/series", json!({"count": 1}), "series.count: Invalid value: \"\": should be at least 2"),
        ],
    );
    let noted = new.change(&good, &[("/message", json!("m"))]);
    assert_eq!(noted, ["message: Invalid value: \"m\": field is immutable"]);
}
