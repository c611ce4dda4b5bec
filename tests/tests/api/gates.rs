//! What is not there when its gate is switched off; each test has a control plane of its own.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, control_plane::Options, runner::Test};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("gates that are off take away what they stand for", off),
    ("gates that are off close pages, names and checks", closed),
    ("gates that are on open fields", on),
    ("fields behind gates that are off are not kept", dropped),
    ("what objects may say is a matter of gates", allowed),
    ("servers tell what they store resources in", told),
];

fn start(gates: &str) -> Result<ControlPlane> {
    ControlPlane::start(Options { flags: vec![format!("--feature-gates={gates}")], ..Options::default() })
}

fn off(_: &(), _: &str) -> Result<()> {
    let plane = start("WatchList=false,APIResponseCompression=false,StorageVersionHash=false")?;
    let admin = plane.admin()?;
    let path = config_maps("default", "");
    let streamed = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    admin.get(&format!("{path}?{streamed}"))?.refused_with(422, "Invalid", why)?;
    // Watches from nowhere begin with what there is all the same.
    admin.post(&path, &json!({"metadata": {"name": "m"}, "data": {"k": "v".repeat(200_000)}}))?.ok()?;
    admin.watch(&format!("{path}?watch=true&fieldSelector=metadata.name%3Dm"))?.expect("ADDED")?;
    // A list this long is compressed otherwise.
    let list = admin.with_header("accept-encoding", "gzip")?.get(&path)?;
    ensure!(list.header("content-encoding").is_empty(), "{:?}", list.headers);
    ensure!(list.ok()?["kind"] == "ConfigMapList", "no list");
    let resources = admin.get("/api/v1")?.ok()?;
    let hashed = |resource: &Value| resource.get("storageVersionHash").is_some();
    ensure!(!resources["resources"].as_array().is_some_and(|all| all.iter().any(hashed)), "{resources}");
    Ok(())
}

fn closed(_: &(), _: &str) -> Result<()> {
    let monitoring = |admin: &Client| -> Result<String> {
        let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:monitoring";
        Ok(admin.get(role)?.ok()?["rules"].to_string())
    };
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 1}]}});
    let request = json!({"metadata": {"uid": "another"}, "spec": {"audiences": ["a"]}});
    let tokens = "/api/v1/namespaces/default/serviceaccounts/a/token";
    let mismatch = "the UID in the token request (another) does not match the UID of the service account";
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "a"}}))?.ok()?;
    for page in ["/flagz", "/statusz"] {
        ensure!(admin.get(page)?.code == 200 && monitoring(&admin)?.contains(page), "{page} is not there");
    }
    ensure!(admin.get("/openapi/v3/api/v1")?.text().contains("\"enum\":"), "words are not listed");
    admin.post("/api/v1/namespaces/default/services", &service("1a"))?.ok()?;
    admin.post(tokens, &request)?.refused_with(409, "Conflict", mismatch)?;
    plane.terminate_api()?;
    plane.set_flags(&["--feature-gates=ComponentFlagz=false,ComponentStatusz=false,OpenAPIEnums=false,\
        RelaxedServiceNameValidation=false,TokenRequestServiceAccountUIDValidation=false"]);
    plane.start_api()?;
    let admin = plane.admin()?;
    for page in ["/flagz", "/statusz"] {
        admin.get(page)?.refused(404, "NotFound")?;
    }
    ensure!(!admin.get("/openapi/v3/api/v1")?.text().contains("\"enum\":"), "words are listed");
    let name = "a DNS-1035 label must consist of lower case alphanumeric characters";
    admin.post("/api/v1/namespaces/default/services", &service("2a"))?.refused_with(422, "Invalid", name)?;
    // One that is there keeps its name.
    let there = "/api/v1/namespaces/default/services/1a";
    let mut kept = admin.get(there)?.ok()?;
    kept["metadata"]["labels"]["changed"] = "yes".into();
    admin.put(there, &kept)?.ok()?;
    let token = admin.post(tokens, &request)?.ok()?;
    ensure!(token["status"]["token"].is_string(), "{token}");
    Ok(())
}

fn on(_: &(), _: &str) -> Result<()> {
    let plane = start("MutablePVNodeAffinity=true,CrossNamespaceVolumeDataSource=true,HPAScaleToZero=true")?;
    let admin = plane.admin()?;
    let zone = |zone: &str| {
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]}]}})
    };
    let volumes = "/api/v1/persistentvolumes";
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d.example.com", "volumeHandle": "h"}, "nodeAffinity": zone("a")}});
    let mut made = admin.post(volumes, &volume)?.ok()?;
    made["spec"]["nodeAffinity"] = zone("b");
    let moved = admin.put(&format!("{volumes}/v"), &made)?.ok()?;
    ensure!(moved["spec"]["nodeAffinity"] == zone("b"), "{moved}");
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "o", "namespace": "other"}}});
    let claim = admin.post("/api/v1/namespaces/default/persistentvolumeclaims", &claim)?.ok()?;
    ensure!(claim["spec"]["dataSourceRef"]["namespace"] == "other", "{claim}");
    ensure!(claim["spec"].get("dataSource").is_none(), "{claim}");
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = |metric: Value| {
        json!({"metadata": {"name": "s"}, "spec": {"minReplicas": 0, "maxReplicas": 3, "metrics": [metric],
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    };
    let target = json!({"type": "Value", "value": "5"});
    let used = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let why = "must specify at least one Object or External metric to support scaling to zero replicas";
    admin.post(scalers, &scaler(used))?.refused_with(422, "Invalid", why)?;
    let queue = json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": target}});
    let made = admin.post(scalers, &scaler(queue))?.ok()?;
    ensure!(made["spec"]["minReplicas"] == 0, "{made}");
    Ok(())
}

fn allowed(_: &(), _: &str) -> Result<()> {
    let pods = "/api/v1/namespaces/default/pods";
    let account = json!({"metadata": {"name": "default"}});
    let dear = json!({"metadata": {"name": "dear", "annotations": {"controller.kubernetes.io/pod-deletion-cost": "much"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let mounted = json!({"metadata": {"name": "mounted"}, "spec": {"containers": [{"name": "c", "image": "i"}],
        "securityContext": {"seLinuxChangePolicy": "MountOption"}}});
    let loose = json!({"metadata": {"name": "loose"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}],
        "externalIPs": ["010.1.2.3", "::ffff:1.2.3.4"]}});
    let services = "/api/v1/namespaces/default/services";
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let policy = json!({"metadata": {"name": "loose"}, "spec": {"podSelector": {}, "ingress": [
        {"from": [{"ipBlock": {"cidr": "10.1.2.3/08"}}]}]}});
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    let range = json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.77.0.0/24"]}, "status": {"conditions": [
        {"type": "Ready", "status": "False", "reason": "Said", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});

    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account)?.ok()?;
    admin.post(pods, &dear)?.refused_with(422, "Invalid", "must be a 32bit integer")?;
    let only = r#"Unsupported value: "MountOption": supported values: "Recursive""#;
    admin.post(pods, &mounted)?.refused_with(422, "Invalid", only)?;
    admin.post(services, &loose)?.refused_with(422, "Invalid", "must not have leading 0s")?;
    admin.post(policies, &policy)?.refused_with(
        422,
        "Invalid",
        "must not have leading 0s in IP or prefix length",
    )?;
    ensure!(admin.post(ranges, &range)?.ok()?["status"].get("conditions").is_none(), "a status was kept");
    admin.delete(&format!("{ranges}/r"))?;
    plane.terminate_api()?;
    plane.set_flags(&[
        "--feature-gates=PodDeletionCost=false,SELinuxMount=true,StrictIPCIDRValidation=false,\
        ServiceCIDRStatusFieldWiping=false",
    ]);
    plane.start_api()?;
    let admin = plane.admin()?;
    admin.post(pods, &dear)?.ok()?;
    admin.post(pods, &mounted)?.ok()?;
    let told = admin.post(services, &loose)?;
    ensure!(told.header("warning").contains("non-standard IP address"), "{:?}", told.headers);
    told.ok()?;
    admin.post(policies, &policy)?.ok()?;
    let kept = admin
        .post(ranges, &json!({"metadata": {"name": "s"}, "spec": range["spec"], "status": range["status"]}))?
        .ok()?;
    ensure!(kept["status"]["conditions"][0]["reason"] == "Said", "{kept}");
    Ok(())
}

/// A kind, what is written, and what of it is not kept.
fn fields() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let template = |spec: Value| json!({"metadata": {"labels": {"a": "b"}}, "spec": spec});
    let container = json!({"name": "c", "image": "i", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]});
    let spec = json!({"hostnameOverride": "h", "resources": {"limits": {"cpu": "1"}}, "containers": [container],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"x": "y"}}, "matchLabelKeys": ["a"]}]});
    let at = |root: &str| -> Vec<&'static str> {
        [
            "hostnameOverride",
            "resources",
            "containers/0/restartPolicy",
            "containers/0/restartPolicyRules",
            "topologySpreadConstraints/0/matchLabelKeys",
        ]
        .map(|field| &*format!("{root}/{field}").leak())
        .into()
    };
    let slice = json!({"driver": "d.example.com", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "d", "taints": [{"key": "k", "effect": "NoSchedule"}], "allowMultipleAllocations": true,
            "bindsToNode": true, "bindingConditions": ["a"], "bindingFailureConditions": ["b"]}]});
    let request = json!({"name": "r", "exactly": {"deviceClassName": "c", "tolerations": [{"key": "k", "operator": "Exists"}],
        "capacity": {"requests": {"memory": "1"}}}});
    let metrics = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
    vec![
        (
            "/api/v1/namespaces/default/pods",
            json!({"metadata": {"labels": {"a": "b"}}, "spec": spec}),
            at("/spec"),
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": template(json!({"hostnameOverride": "h", "containers": [{"name": "c", "image": "i"}]}))}}),
            vec!["/spec/template/spec/hostnameOverride"],
        ),
        (
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 3, "metrics": metrics,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "behavior": {"scaleDown": {"tolerance": "100m"}}}}),
            vec!["/spec/behavior/scaleDown/tolerance"],
        ),
        (
            "/apis/resource.k8s.io/v1/resourceslices",
            json!({"spec": slice}),
            vec![
                "/spec/devices/0/taints",
                "/spec/devices/0/allowMultipleAllocations",
                "/spec/devices/0/bindsToNode",
                "/spec/devices/0/bindingConditions",
                "/spec/devices/0/bindingFailureConditions",
            ],
        ),
        (
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims",
            json!({"spec": {"devices": {"requests": [request]}}}),
            vec!["/spec/devices/requests/0/exactly/tolerations", "/spec/devices/requests/0/exactly/capacity"],
        ),
        (
            "/apis/resource.k8s.io/v1/deviceclasses",
            json!({"spec": {"extendedResourceName": "example.com/d"}}),
            vec!["/spec/extendedResourceName"],
        ),
        ("/api/v1/nodes", json!({"status": {"declaredFeatures": ["A"]}}), vec!["/status/declaredFeatures"]),
    ]
}

fn dropped(_: &(), _: &str) -> Result<()> {
    let gates = [
        "ContainerRestartRules",
        "DRAConsumableCapacity",
        "DRADeviceBindingConditions",
        "DRADeviceTaints",
        "DRAExtendedResource",
        "ExtendWebSocketsToKubelet",
        "HPAConfigurableTolerance",
        "HostnameOverride",
        "InPlacePodLevelResourcesVerticalScaling",
        "InPlacePodVerticalScalingInitContainers",
        "MatchLabelKeysInPodTopologySpread",
        "MatchLabelKeysInPodTopologySpreadSelectorMerge",
        "NodeDeclaredFeatures",
        "PodLevelResources",
        "RestartAllContainersOnContainerExits",
    ];
    let off = gates.map(|gate| format!("{gate}=false")).join(",");
    let plane = start("ContextualLogging=true")?;
    plane.namespace("kept")?;
    let admin = plane.admin()?;
    let account = json!({"metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account)?.ok()?;
    let write = |admin: &Client, name: &str| -> Result<Vec<(String, Value, Vec<&'static str>)>> {
        let one = |(path, mut object, fields): (&str, Value, Vec<&'static str>)| {
            object["metadata"]["name"] = name.into();
            let made = admin.post(path, &object)?.ok().with_context(|| path.to_owned())?;
            Ok((format!("{path}/{name}"), made, fields))
        };
        fields().into_iter().map(one).collect()
    };
    let kept = write(&admin, "kept")?;
    for (path, object, fields) in &kept {
        for field in fields {
            ensure!(object.pointer(field).is_some(), "{path} has no {field}: {object}");
        }
    }
    plane.terminate_api()?;
    plane.set_flags(&[&format!("--feature-gates={off}")]);
    plane.start_api()?;
    let admin = plane.admin()?;
    for (path, object, fields) in write(&admin, "dropped")? {
        for field in fields {
            ensure!(object.pointer(field).is_none(), "{path} has {field}: {object}");
        }
    }
    // What is there already stays.
    for (path, mut object, fields) in kept {
        object["metadata"]["labels"]["changed"] = "yes".into();
        let changed = admin.put(&path, &object)?.ok().with_context(|| path.clone())?;
        for field in fields {
            ensure!(changed.pointer(field) == object.pointer(field), "{path} lost {field}: {changed}");
        }
    }
    Ok(())
}

fn told(_: &(), _: &str) -> Result<()> {
    let flags = vec![
        "--feature-gates=StorageVersionAPI=true".to_owned(),
        "--runtime-config=internal.apiserver.k8s.io/v1alpha1=true".to_owned(),
    ];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    // A server that is ready has told of everything, and takes writes.
    let path = "/apis/internal.apiserver.k8s.io/v1alpha1/storageversions";
    let pods = admin.get(&format!("{path}/core.pods"))?.ok()?;
    ensure!(pods["status"]["commonEncodingVersion"] == "v1", "{pods}");
    let own = &pods["status"]["storageVersions"][0];
    let name = own["apiServerID"].as_str().context("no server")?;
    ensure!(own["decodableVersions"] == json!(["v1"]) && own["servedVersions"] == json!(["v1"]), "{pods}");
    admin.get(&format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}"))?.ok()?;
    let condition = &pods["status"]["conditions"][0];
    ensure!(condition["type"] == "AllEncodingVersionsEqual" && condition["status"] == "True", "{pods}");
    let all = admin.get(path)?.ok()?;
    ensure!(all["items"].as_array().is_some_and(|items| items.len() > 40), "{all}");
    admin.get(&format!("{path}/events.k8s.io.events"))?.refused(404, "NotFound")?;
    admin.post(&config_maps("default", ""), &json!({"metadata": {"name": "m"}}))?.ok()?;
    // The status goes through validation as everybody's does.
    let mut wrong = pods.clone();
    wrong["status"]["commonEncodingVersion"] = "v2".into();
    admin.put(&format!("{path}/core.pods/status"), &wrong)?.refused(422, "Invalid").map(drop)
}
