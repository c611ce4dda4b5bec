//! What each plugin changes and refuses.

use serde_json::json;

use super::{testing::Write, *};
use crate::objects::{memory::Memory, *};

fn cluster() -> Arc<Memory> {
    Memory::with(vec![
        (NAMESPACES, json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}})),
        (NAMESPACES, json!({"metadata": {"name": "going"}, "status": {"phase": "Terminating"}})),
        (
            SERVICE_ACCOUNTS,
            json!({"metadata": {"namespace": "a", "name": "default"},
            "imagePullSecrets": [{"name": "pull"}]}),
        ),
        (
            SERVICE_ACCOUNTS,
            json!({"metadata": {"namespace": "a", "name": "quiet"}, "automountServiceAccountToken": false}),
        ),
        (PRIORITY_CLASSES, json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"})),
        (PRIORITY_CLASSES, json!({"metadata": {"name": "normal"}, "value": 7, "globalDefault": true})),
        (
            STORAGE_CLASSES,
            json!({"metadata": {"name": "old", "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
        ),
        (
            STORAGE_CLASSES,
            json!({"metadata": {"name": "new", "creationTimestamp": "2026-02-01T00:00:00Z",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "allowVolumeExpansion": true}),
        ),
        (
            RUNTIME_CLASSES,
            json!({"metadata": {"name": "kata"}, "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"kata": "yes"}, "tolerations": [{"key": "kata"}]}}),
        ),
        (NODES, json!({"metadata": {"name": "n1", "uid": "n1-uid"}})),
        (
            PODS,
            json!({"metadata": {"namespace": "a", "name": "mine", "uid": "u"}, "spec": {"nodeName": "n1",
                "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}}),
        ),
        (
            PODS,
            json!({"metadata": {"namespace": "a", "name": "other", "uid": "u"}, "spec": {"nodeName": "n2"}}),
        ),
    ])
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"namespace": "a", "name": "p"}, "spec": spec})
}

#[test]
fn the_list_is_well_formed_and_flags_choose() {
    let parts = testing::parts(cluster(), crate::authz::build(&[]).authorizer);
    let names = |on: &[&str], off: &[&str]| {
        let owned = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        chain(&parts, &owned(on), &owned(off), &Configurations::default()).map(|c| c.names())
    };
    let all: std::collections::BTreeSet<_> = PLUGINS.iter().map(|(name, ..)| name).collect();
    assert_eq!(all.len(), PLUGINS.len(), "no plugin twice");
    let default = names(&[], &[]).unwrap();
    assert_eq!(default.first(), Some(&"NamespaceLifecycle"));
    assert!(!default.contains(&"NodeRestriction"));
    assert!(names(&["NodeRestriction"], &[]).unwrap().contains(&"NodeRestriction"));
    assert!(!names(&[], &["Priority", "PodSecurity"]).unwrap().contains(&"Priority"));
    let fewer = names(&["JobValidation"], &["PodGroupProtection"]).unwrap();
    assert!(fewer.len() + 1 == default.len() && default.contains(&"PodGroupProtection"));
    assert!(names(&["Nonsense"], &[]).is_err());
    assert!(names(&[], &["Nonsense"]).is_err());
    assert!(names(&["Priority"], &["Priority"]).is_err());
}

#[tokio::test]
async fn namespaces_must_be_there_and_stay() {
    let objects = cluster();
    let configmap = |ns: &str| json!({"metadata": {"namespace": ns, "name": "c"}});
    for (write, code) in [
        (Write::create(CONFIG_MAPS, configmap("a")), 200),
        (Write::create(CONFIG_MAPS, configmap("going")), 403),
        (Write::update(CONFIG_MAPS, configmap("going"), configmap("going")), 200),
        (Write::delete(CONFIG_MAPS, configmap("going")), 200),
        (Write::create(CONFIG_MAPS, configmap("missing")), 404),
        (Write::delete(NAMESPACES, json!({"metadata": {"name": "kube-system"}})), 403),
        (Write::delete(NAMESPACES, json!({"metadata": {"name": "a"}})), 200),
        (Write::create(NODES, json!({"metadata": {"name": "n"}})), 200),
    ] {
        let shown = format!("{:?} {:?}", write.operation, write.object);
        let got = write.run(&objects, &["NamespaceLifecycle"]).await.map_or_else(|s| s.code, |_| 200);
        assert_eq!(got, code, "{shown}");
    }
    let refused = Write::create(CONFIG_MAPS, configmap("going")).run(&objects, &["NamespaceLifecycle"]).await;
    assert_eq!(refused.unwrap_err().details.unwrap().causes[0].kind, "NamespaceTerminating");
}

#[tokio::test]
async fn pods_get_an_account_and_its_token() {
    let objects = cluster();
    let containers = json!([{"name": "c"}, {"name": "d", "volumeMounts": [{"name": "own",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}]);
    let made =
        Write::create(PODS, pod(json!({"containers": containers}))).run(&objects, &["ServiceAccount"]).await;
    let made = made.unwrap();
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
    let volume = &made["spec"]["volumes"][0];
    let name = volume["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == "kube-api-access-".len() + 5, "{name}");
    assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    assert_eq!(made["spec"]["containers"][0]["volumeMounts"][0]["name"], name);
    assert_eq!(made["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);

    let quiet = json!({"serviceAccountName": "quiet", "containers": [{"name": "c"}]});
    let made = Write::create(PODS, pod(quiet)).run(&objects, &["ServiceAccount"]).await.unwrap();
    assert_eq!(made["spec"].get("volumes"), None);
    let missing = json!({"serviceAccountName": "missing", "containers": []});
    let refused = Write::create(PODS, pod(missing)).run(&objects, &["ServiceAccount"]).await.unwrap_err();
    assert_eq!(
        refused.message,
        "pods \"p\" is forbidden: error looking up service account a/missing: serviceaccount \"missing\" not found"
    );
}

#[tokio::test]
async fn priority_comes_from_the_class() {
    let objects = cluster();
    let run = async |spec: Value| Write::create(PODS, pod(spec)).run(&objects, &["Priority"]).await;
    let made = run(json!({})).await.unwrap();
    assert_eq!(
        (&made["spec"]["priority"], &made["spec"]["priorityClassName"]),
        (&json!(7), &json!("normal"))
    );
    let made = run(json!({"priorityClassName": "high"})).await.unwrap();
    assert_eq!(
        (&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]),
        (&json!(1000), &json!("Never"))
    );
    assert_eq!(run(json!({"priorityClassName": "none"})).await.unwrap_err().code, 403);
    assert_eq!(run(json!({"priority": 9})).await.unwrap_err().code, 403);
    let second = json!({"metadata": {"name": "second"}, "globalDefault": true});
    let refused = Write::create(PRIORITY_CLASSES, second).run(&objects, &["Priority"]).await;
    assert!(refused.unwrap_err().message.contains("PriorityClass normal is already marked as default"));
}

#[tokio::test]
async fn small_defaults_are_filled_in() {
    let objects = cluster();
    let made = Write::create(PODS, pod(json!({"tolerations": [{"key": "node.kubernetes.io/not-ready"}]})));
    let made = made.run(&objects, &["DefaultTolerationSeconds"]).await.unwrap();
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(made["spec"]["tolerations"][1]["key"], "node.kubernetes.io/unreachable");

    let node = Write::create(NODES, json!({"metadata": {"name": "n"}, "spec": {"taints": null}}));
    let node = node.run(&objects, &["TaintNodesByCondition"]).await.unwrap();
    assert_eq!(
        node["spec"]["taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    );

    let plugins = ["DefaultStorageClass", "StorageObjectInUseProtection"];
    let claim = Write::create(PERSISTENT_VOLUME_CLAIMS, json!({"metadata": {"namespace": "a", "name": "d"}}));
    let claim = claim.run(&objects, &plugins).await.unwrap();
    assert_eq!(claim["spec"]["storageClassName"], "new");
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let none = json!({"metadata": {"namespace": "a", "name": "d"}, "spec": {"storageClassName": ""}});
    let none = Write::create(PERSISTENT_VOLUME_CLAIMS, none).run(&objects, &plugins).await.unwrap();
    assert_eq!(none["spec"]["storageClassName"], "");
}

#[tokio::test]
async fn claims_grow_only_where_allowed() {
    let objects = cluster();
    let claim = |class: &str, phase: &str, size: &str| {
        json!({"metadata": {"namespace": "a", "name": "d"}, "status": {"phase": phase},
            "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}})
    };
    for (class, phase, size, code) in [
        ("new", "Bound", "2Gi", 200),
        ("old", "Bound", "2Gi", 403),
        ("old", "Bound", "1Gi", 200),
        ("new", "Pending", "2Gi", 403),
    ] {
        let write =
            Write::update(PERSISTENT_VOLUME_CLAIMS, claim(class, phase, "1Gi"), claim(class, phase, size));
        let got =
            write.run(&objects, &["PersistentVolumeClaimResize"]).await.map_or_else(|s| s.code, |_| 200);
        assert_eq!(got, code, "{class} {phase} {size}");
    }
}

#[tokio::test]
async fn runtime_classes_shape_their_pods() {
    let objects = cluster();
    let run = async |spec: Value| Write::create(PODS, pod(spec)).run(&objects, &["RuntimeClass"]).await;
    let made = run(json!({"runtimeClassName": "kata"})).await.unwrap();
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "100m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"kata": "yes"}));
    for refused in [
        json!({"runtimeClassName": "none"}),
        json!({"runtimeClassName": "kata", "overhead": {"cpu": "1"}}),
        json!({"runtimeClassName": "kata", "nodeSelector": {"kata": "no"}}),
        json!({"overhead": {"cpu": "1"}}),
    ] {
        assert_eq!(run(refused.clone()).await.unwrap_err().code, 403, "{refused}");
    }
    assert!(run(json!({})).await.is_ok());
}

#[tokio::test]
async fn nodes_write_only_what_is_theirs() {
    let objects = cluster();
    let node = |labels: Value, taints: Value| json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}});
    let mirror = |change: &dyn Fn(&mut Value)| {
        let mut pod = json!({"metadata": {"namespace": "a", "name": "static", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1-uid", "controller": true}]},
            "spec": {"nodeName": "n1"}});
        change(&mut pod);
        Write::create(PODS, pod)
    };
    let at =
        |name: &str, n: &str| json!({"metadata": {"namespace": "a", "name": name}, "spec": {"nodeName": n}});
    let token = |pod: &str, uid: &str| {
        Write::create(
            SERVICE_ACCOUNTS,
            json!({"metadata": {"namespace": "a", "name": "default"},
            "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}}),
        )
        .through("token")
    };
    let claim = |status: Value, labels: Value| {
        let old = json!({"metadata": {"namespace": "a", "name": "c"}, "status": {"phase": "Pending"}});
        let mut new = old.clone();
        new["metadata"]["labels"] = labels;
        for (field, value) in status.as_object().unwrap() {
            new["status"][field] = value.clone();
        }
        Write::update(PERSISTENT_VOLUME_CLAIMS, old, new).through("status")
    };
    let status = |status: Value| {
        let mut new = at("mine", "n1");
        new["status"] = status;
        Write::update(PODS, at("mine", "n1"), new).through("status")
    };
    let lease =
        |ns: &str, name: &str| Write::create(LEASES, json!({"metadata": {"namespace": ns, "name": name}}));
    for (what, write, allowed) in [
        (
            "own node",
            Write::create(NODES, node(json!({"kubernetes.io/os": "linux", "x": "y"}), json!([]))),
            true,
        ),
        ("other node", Write::create(NODES, json!({"metadata": {"name": "n2"}})), false),
        (
            "role label",
            Write::create(NODES, node(json!({"node-role.kubernetes.io/master": ""}), json!([]))),
            false,
        ),
        (
            "restricted label",
            Write::create(NODES, node(json!({"node-restriction.kubernetes.io/a": "b"}), json!([]))),
            false,
        ),
        ("own prefix", Write::create(NODES, node(json!({"node.kubernetes.io/a": "b"}), json!([]))), true),
        (
            "taints",
            Write::update(NODES, node(json!({}), json!([{"key": "a"}])), node(json!({}), json!([]))),
            false,
        ),
        (
            "label removed",
            Write::update(NODES, node(json!({"a.k8s.io/b": ""}), json!([])), node(json!({}), json!([]))),
            false,
        ),
        ("plain pod", Write::create(PODS, at("p", "n1")), false),
        ("mirror pod", mirror(&|_| {}), true),
        ("mirror elsewhere", mirror(&|p| p["spec"]["nodeName"] = json!("n2")), false),
        ("mirror with secret", mirror(&|p| p["spec"]["volumes"] = json!([{"secret": {}}])), false),
        ("mirror of old node", mirror(&|p| p["metadata"]["ownerReferences"][0]["uid"] = json!("x")), false),
        ("mirror without owner", mirror(&|p| p["metadata"]["ownerReferences"] = json!([])), false),
        ("delete own", Write::delete(PODS, at("mine", "n1")), true),
        ("delete other", Write::delete(PODS, at("other", "n2")), false),
        ("update pod", Write::update(PODS, at("mine", "n1"), at("mine", "n1")), false),
        ("status own", Write::update(PODS, at("mine", "n1"), at("mine", "n1")).through("status"), true),
        ("status other", Write::update(PODS, at("other", "n2"), at("other", "n2")).through("status"), false),
        ("token own", token("mine", "u"), true),
        ("token other", token("other", "u"), false),
        ("token old", token("mine", "old"), false),
        ("token unbound", token("", ""), false),
        ("lease", lease("kube-node-lease", "n1"), true),
        ("lease other", lease("kube-node-lease", "n2"), false),
        ("lease elsewhere", lease("kube-system", "n1"), false),
        ("claim", Write::create(PERSISTENT_VOLUME_CLAIMS, at("c", "")), false),
        ("claim grown", claim(json!({"capacity": {"storage": "2Gi"}}), json!({})), true),
        ("claim bound", claim(json!({"phase": "Bound"}), json!({})), false),
        ("claim labelled", claim(json!({}), json!({"a": "b"})), false),
        ("claim status given", status(json!({"resourceClaimStatuses": [{"name": "r"}]})), false),
        (
            "extended claim given",
            status(json!({"extendedResourceClaimStatus": {"resourceClaimName": "r"}})),
            false,
        ),
        ("conditions", status(json!({"conditions": [{"type": "Ready"}]})), true),
        (
            "mirror with a driver's volume",
            mirror(&|p| p["spec"]["volumes"] = json!([{"name": "v", "csi": {}}])),
            false,
        ),
        (
            "mirror with an image",
            mirror(&|p| p["spec"]["volumes"] = json!([{"name": "v", "image": {}}])),
            true,
        ),
        ("configmap", Write::create(CONFIG_MAPS, at("c", "")), true),
    ] {
        let got = write.by_node("n1").run(&objects, &["NodeRestriction"]).await;
        assert_eq!(got.is_ok(), allowed, "{what}: {got:?}");
    }
    let free =
        Write::create(NODES, json!({"metadata": {"name": "n2"}})).run(&objects, &["NodeRestriction"]).await;
    assert!(free.is_ok(), "others are not restricted");
}

#[tokio::test]
async fn nodes_ask_for_tokens_for_whom_their_pods_do() {
    let pod = |name: &str, volume: Value| {
        let mut volume = volume;
        volume["name"] = json!("v");
        (
            PODS,
            json!({"metadata": {"namespace": "a", "name": name, "uid": "u"}, "spec": {"nodeName": "n1", "volumes": [volume]}}),
        )
    };
    let claim = |name: &str, volume: &str| {
        (
            PERSISTENT_VOLUME_CLAIMS,
            json!({"metadata": {"namespace": "a", "name": name}, "spec": {"volumeName": volume}}),
        )
    };
    let volume =
        |name: &str, source: Value| (PERSISTENT_VOLUMES, json!({"metadata": {"name": name}, "spec": source}));
    let driver = |name: &str| {
        (CSI_DRIVERS, json!({"metadata": {"name": name}, "spec": {"tokenRequests": [{"audience": "vault"}]}}))
    };
    let objects = Memory::with(vec![
        pod("plain", json!({"emptyDir": {}})),
        pod(
            "projected",
            json!({"projected": {"sources": [{"configMap": {}}, {"serviceAccountToken": {"audience": "vault"}}]}}),
        ),
        pod("csi", json!({"csi": {"driver": "csi.example.com"}})),
        pod("none", json!({"csi": {"driver": "none.example.com"}})),
        pod("claim", json!({"persistentVolumeClaim": {"claimName": "c"}})),
        pod("lost", json!({"persistentVolumeClaim": {"claimName": "lost"}})),
        pod("ephemeral", json!({"ephemeral": {"volumeClaimTemplate": {}}})),
        pod("old", json!({"persistentVolumeClaim": {"claimName": "old"}})),
        pod("inline", json!({"awsElasticBlockStore": {"volumeID": "x"}})),
        claim("c", "v"),
        claim("ephemeral-v", "v"),
        claim("old", "disk"),
        volume("v", json!({"csi": {"driver": "csi.example.com"}})),
        volume("disk", json!({"awsElasticBlockStore": {"volumeID": "x"}})),
        driver("csi.example.com"),
        driver("ebs.csi.aws.com"),
    ]);
    let refused =
        "not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience";
    for (pod, audiences, why) in [
        ("projected", json!(["vault"]), ""),
        ("csi", json!(["vault"]), ""),
        ("claim", json!(["vault"]), ""),
        ("ephemeral", json!(["vault"]), ""),
        ("old", json!(["vault"]), ""),
        ("inline", json!(["vault"]), ""),
        ("plain", json!(["vault"]), refused),
        ("plain", json!([]), refused),
        ("csi", json!(["other"]), refused),
        ("projected", json!(["vault", "other"]), "node may only request 0 or 1 audiences"),
        (
            "none",
            json!(["vault"]),
            "validating audience \"vault\": csidriver.storage.k8s.io \"none.example.com\" not found",
        ),
        ("lost", json!(["vault"]), "validating audience \"vault\": persistentvolumeclaim \"lost\" not found"),
    ] {
        let body = json!({"metadata": {"namespace": "a", "name": "default"}, "spec": {"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": "u"}}});
        let write = Write::create(SERVICE_ACCOUNTS, body).through("token").by_node("n1");
        match write.run(&objects, &["NodeRestriction"]).await {
            Ok(_) => assert_eq!(why, "", "{pod} {audiences}"),
            Err(status) => {
                assert!(!why.is_empty() && status.message.contains(why), "{pod}: {}", status.message)
            }
        }
    }
}

#[tokio::test]
async fn nodes_ask_for_certificates_of_the_pods_on_them() {
    let objects = Memory::with(vec![
        (NODES, json!({"metadata": {"name": "n1", "uid": "nu"}})),
        (SERVICE_ACCOUNTS, json!({"metadata": {"namespace": "a", "name": "sa", "uid": "su"}})),
        (
            PODS,
            json!({"metadata": {"namespace": "a", "name": "p", "uid": "pu"},
                "spec": {"nodeName": "n1", "serviceAccountName": "sa"}}),
        ),
        (
            PODS,
            json!({"metadata": {"namespace": "a", "name": "away", "uid": "pu"}, "spec": {"nodeName": "n2"}}),
        ),
    ]);
    let good = json!({"nodeName": "n1", "nodeUID": "nu", "podName": "p", "podUID": "pu",
        "serviceAccountName": "sa", "serviceAccountUID": "su"});
    for (field, value, code, why) in [
        ("nodeName", "n1", 0, ""),
        ("nodeName", "n2", 403, "which is not the requesting node \"n1\""),
        ("nodeUID", "x", 500, "names node UID \"x\", inconsistent with the running node (\"nu\")"),
        (
            "podName",
            "none",
            500,
            "while retrieving pod \"a/none\" named in the PodCertificateRequest: pod \"none\" not found",
        ),
        ("podName", "away", 403, "is not running on node \"n1\""),
        ("podUID", "x", 500, "contains pod UID (\"x\") which differs from running pod \"pu\""),
        ("serviceAccountName", "other", 403, "differs from running pod (\"sa\")"),
        ("serviceAccountUID", "x", 500, "service account UID \"x\""),
    ] {
        let mut spec = good.clone();
        spec[field] = json!(value);
        let asked = json!({"metadata": {"namespace": "a", "name": "r"}, "spec": spec});
        let write = Write::create(POD_CERTIFICATE_REQUESTS, asked).by_node("n1");
        match write.run(&objects, &["NodeRestriction"]).await {
            Ok(_) => assert_eq!(code, 0, "{field}={value}"),
            Err(status) => {
                assert_eq!(status.code, code, "{field}={value}: {}", status.message);
                assert!(status.message.contains(why), "{}", status.message);
            }
        }
    }
}

#[tokio::test]
async fn limit_ranges_fill_in_and_bound() {
    let range = json!({"metadata": {"namespace": "a", "name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "min": {"cpu": "50m"},
            "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "10"}},
        {"type": "Pod", "max": {"cpu": "1500m"}},
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}}]}});
    let objects = Memory::with(vec![(LIMIT_RANGES, range)]);
    let run = async |containers: Value| {
        Write::create(PODS, pod(json!({"containers": containers}))).run(&objects, &["LimitRanger"]).await
    };
    let made = run(json!([{"name": "c"}])).await.unwrap();
    let resources = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}});
    assert_eq!(made["spec"]["containers"][0]["resources"], resources);
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let with = |request: &str, limit: &str| json!({"name": "c", "resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}});
    for (containers, words) in [
        (json!([with("10m", "60m")]), "minimum cpu usage per Container is 50m, but request is 10m"),
        (json!([with("1", "2")]), "maximum cpu usage per Container is 1, but limit is 2"),
        (
            json!([with("50m", "1")]),
            "cpu max limit to request ratio per Container is 10, but provided ratio is 20.000000",
        ),
        (json!([with("1", "1"), with("1", "1")]), "maximum cpu usage per Pod is 1500m, but limit is 2"),
    ] {
        let refused = run(containers).await.unwrap_err();
        assert!(refused.message.contains(words), "{}", refused.message);
    }
    let claim = json!({"metadata": {"namespace": "a", "name": "d"}, "spec": {"resources": {"requests": {"storage": "1Mi"}}}});
    assert!(Write::create(PERSISTENT_VOLUME_CLAIMS, claim).run(&objects, &["LimitRanger"]).await.is_err());
}

#[tokio::test]
async fn plugins_nobody_needs_to_name_do_what_they_are_named_for() {
    let objects = Memory::with(vec![
        (
            NAMESPACES,
            json!({"metadata": {"name": "a",
            "annotations": {"scheduler.alpha.kubernetes.io/node-selector": "disk=fast"}}}),
        ),
        (
            NODES,
            json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z", "other": "o"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi"},
                "declaredFeatures": ["InPlacePodVerticalScalingInitContainers"]}}),
        ),
    ]);
    let pod = |spec: Value| json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec});
    let create = |spec: Value| Write::create(PODS, pod(spec));
    let labelled = create(json!({"nodeName": "n"})).run(&objects, &["PodTopologyLabels"]).await.unwrap();
    assert_eq!(labelled["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
    let binding =
        json!({"metadata": {"name": "p", "namespace": "a"}, "target": {"kind": "Node", "name": "n"}});
    let bound =
        Write::create(PODS, binding).through("binding").run(&objects, &["PodTopologyLabels"]).await.unwrap();
    assert_eq!(bound["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
    let selected =
        create(json!({"nodeSelector": {"a": "b"}})).run(&objects, &["PodNodeSelector"]).await.unwrap();
    assert_eq!(selected["spec"]["nodeSelector"], json!({"a": "b", "disk": "fast"}));
    let other = create(json!({"nodeSelector": {"disk": "slow"}})).run(&objects, &["PodNodeSelector"]).await;
    assert_eq!(other.unwrap_err().code, 403);
    let device = json!({"containers": [{"resources": {"requests": {"example.com/gpu": "1", "cpu": "1"}}}]});
    let tolerant = create(device).run(&objects, &["ExtendedResourceToleration"]).await.unwrap();
    assert_eq!(tolerant["spec"]["tolerations"].as_array().unwrap().len(), 1);
    let term = |key: &str| {
        let terms = json!([{"topologyKey": key}]);
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": terms});
        create(json!({"affinity": {"podAntiAffinity": required}}))
    };
    const TOPOLOGY: &[&str] = &["LimitPodHardAntiAffinityTopology"];
    assert!(term("kubernetes.io/hostname").run(&objects, TOPOLOGY).await.is_ok());
    assert!(term("topology.kubernetes.io/zone").run(&objects, TOPOLOGY).await.is_err());
    assert!(create(json!({})).run(&objects, &["AlwaysDeny"]).await.is_err());
    assert!(create(json!({})).run(&objects, &["AlwaysAdmit"]).await.is_ok());
    let missing = json!({"metadata": {"name": "p", "namespace": "b"}});
    let refused = Write::create(PODS, missing.clone()).run(&objects, &["NamespaceExists"]).await;
    assert_eq!(refused.unwrap_err().code, 404);
    Write::create(PODS, missing).run(&objects, &["NamespaceAutoProvision"]).await.unwrap();
    assert!(objects.get(NAMESPACES, "", "b").await.unwrap().is_some());
}

#[tokio::test]
async fn running_pods_are_resized_within_their_node() {
    let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"},
        "declaredFeatures": ["InPlacePodVerticalScalingInitContainers"]}});
    let objects = Memory::with(vec![(NODES, node)]);
    let pod = |cpu: &str, init: &str, own: Value| {
        json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"nodeName": "n", "resources": own,
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": init}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    };
    let resize = async |new: Value, plugin: &str| {
        let write = Write::update(PODS, pod("1", "1", Value::Null), new).through("resize");
        write.run(&objects, &[plugin]).await.map_err(|status| status.message)
    };
    assert!(resize(pod("2", "1", Value::Null), "PodResizeValidator").await.is_ok());
    let large = resize(pod("3", "1", Value::Null), "PodResizeValidator").await.unwrap_err();
    assert!(large.ends_with("allocatable resources: cpu, requested: 3000, allocatable: 2000"), "{large}");
    const FEATURES: &str = "NodeDeclaredFeatureValidator";
    assert!(resize(pod("1", "2", Value::Null), FEATURES).await.is_ok());
    let unknown = resize(pod("1", "1", json!({"requests": {"cpu": "1"}})), FEATURES).await.unwrap_err();
    assert!(unknown.contains("InPlacePodLevelResourcesVerticalScaling which are not available"), "{unknown}");
}
