//! What the built-in admission plugins fill in and refuse, one after the other, as upstream's defaults have them.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, client::MERGE_PATCH, runner::Test};

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("pods get an account, its token, tolerations and a priority", pods),
    ("a pod's runtime class fills in what it costs, and must be there", runtime_classes),
    ("limit ranges fill in and hold", limit_ranges),
    ("claims and ingresses get the class that is marked as default", default_classes),
    ("claims and volumes in use are protected, and claims grow only where they may", claims),
    ("new nodes are tainted until they are ready", nodes),
    ("namespaces that everything needs stay", namespaces),
    ("pod security holds pods to the level of their namespace", pod_security),
    ("certificates are approved and signed by who may", certificates),
    ("keys and address of the tokens' issuer are told", issuer),
];

fn pod(name: &str, more: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "main", "image": "i"}]});
    merge(&mut spec, more);
    json!({"metadata": {"name": name}, "spec": spec})
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

fn make_pod(client: &Client, ns: &str, name: &str, more: Value) -> Result<tests::Answer> {
    client.post(&format!("/api/v1/namespaces/{ns}/pods"), &pod(name, more))
}

fn pods(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let made = make_pod(&admin, ns, "plain", json!({}))?.ok()?;
    let spec = &made["spec"];
    ensure!(spec["serviceAccountName"] == "default" && spec["serviceAccount"] == "default", "{spec}");
    let volume = &spec["volumes"][0];
    ensure!(volume["name"].as_str().is_some_and(|n| n.starts_with("kube-api-access-")), "{volume}");
    let sources = volume["projected"]["sources"].as_array().context("projected sources")?;
    ensure!(sources.len() == 3 && sources[0]["serviceAccountToken"]["expirationSeconds"] == 3607, "{volume}");
    let mount = &spec["containers"][0]["volumeMounts"][0];
    ensure!(
        mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount" && mount["readOnly"] == true,
        "{mount}"
    );
    let tolerations = spec["tolerations"].to_string();
    for key in ["not-ready", "unreachable"] {
        ensure!(tolerations.contains(&format!("node.kubernetes.io/{key}")), "{tolerations}");
    }
    ensure!(tolerations.matches("\"tolerationSeconds\":300").count() == 2, "{tolerations}");
    ensure!(spec["priority"] == 0 && spec["preemptionPolicy"] == "PreemptLowerPriority", "{spec}");
    let without = make_pod(&admin, ns, "without", json!({"automountServiceAccountToken": false}))?.ok()?;
    ensure!(without["spec"].get("volumes").is_none(), "{without}");
    let critical =
        make_pod(&admin, ns, "critical", json!({"priorityClassName": "system-cluster-critical"}))?.ok()?;
    ensure!(critical["spec"]["priority"] == 2_000_000_000, "{critical}");
    make_pod(&admin, ns, "no-class", json!({"priorityClassName": "nobody"}))?.refused_with(
        403,
        "Forbidden",
        "no PriorityClass with name nobody was found",
    )?;
    make_pod(&admin, ns, "no-account", json!({"serviceAccountName": "nobody"}))?.refused_with(
        403,
        "Forbidden",
        "serviceaccount \"nobody\" not found",
    )?;
    make_pod(&admin, ns, "wrong", json!({"priority": 7}))?.refused(403, "Forbidden")?;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let reserved = json!({"metadata": {"name": "system-own"}, "value": 5});
    admin.post(classes, &reserved)?.refused_with(
        422,
        "Invalid",
        "prefix are reserved for system use only",
    )?;
    Ok(())
}

fn runtime_classes(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let class = json!({"metadata": {"name": format!("{ns}-heavy")}, "handler": "heavy",
        "overhead": {"podFixed": {"memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"kind": "heavy"}, "tolerations": [{"key": "heavy", "operator": "Exists"}]}});
    admin.post("/apis/node.k8s.io/v1/runtimeclasses", &class)?.ok()?;
    let made = make_pod(&admin, ns, "heavy", json!({"runtimeClassName": format!("{ns}-heavy")}))?.ok()?;
    ensure!(made["spec"]["overhead"]["memory"] == "64Mi", "{made}");
    ensure!(made["spec"]["nodeSelector"]["kind"] == "heavy", "{made}");
    ensure!(made["spec"]["tolerations"].to_string().contains("\"heavy\""), "{made}");
    make_pod(&admin, ns, "missing", json!({"runtimeClassName": "nobody"}))?.refused_with(
        403,
        "Forbidden",
        "RuntimeClass \"nobody\" not found",
    )?;
    let own = json!({"runtimeClassName": format!("{ns}-heavy"), "overhead": {"memory": "1Mi"}});
    make_pod(&admin, ns, "own", own)?.refused(403, "Forbidden").map(drop)
}

fn limit_ranges(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let range = json!({"metadata": {"name": "a"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "300m"}, "min": {"cpu": "50m"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]}});
    admin.post(&format!("/api/v1/namespaces/{ns}/limitranges"), &range)?.ok()?;
    let made = make_pod(&admin, ns, "plain", json!({}))?.ok()?;
    let resources = &made["spec"]["containers"][0]["resources"];
    ensure!(*resources == json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}}), "{resources}");
    ensure!(made["metadata"]["annotations"]["kubernetes.io/limit-ranger"].is_string(), "no note of it");
    let asks = |cpu: &str| json!({"containers": [{"name": "main", "image": "i", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}]});
    for (cpu, why) in [
        ("400m", "maximum cpu usage per Container is 300m, but limit is 400m"),
        ("10m", "minimum cpu usage per Container is 50m, but request is 10m"),
    ] {
        make_pod(&admin, ns, "out", asks(cpu))?.refused_with(403, "Forbidden", why)?;
    }
    let claim = json!({"metadata": {"name": "big"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    admin.post(&format!("/api/v1/namespaces/{ns}/persistentvolumeclaims"), &claim)?.refused_with(
        403,
        "Forbidden",
        "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi",
    )?;
    Ok(())
}

fn default_classes(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let name = format!("{ns}-default");
    let class = json!({"metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "example.test/p"});
    admin.post("/apis/storage.k8s.io/v1/storageclasses", &class)?.ok()?;
    let claims = format!("/api/v1/namespaces/{ns}/persistentvolumeclaims");
    let claim = |name: &str, class: Value| {
        let mut spec =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        merge(&mut spec, class);
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let made = plane.eventually("claims get the default class", 10, || {
        let made = admin.post(&format!("{claims}?dryRun=All"), &claim("a", json!({})))?.ok()?;
        Ok((made["spec"]["storageClassName"] == name.as_str()).then_some(made))
    })?;
    ensure!(made["spec"]["volumeMode"] == "Filesystem", "{made}");
    let none = admin.post(&claims, &claim("none", json!({"storageClassName": ""})))?.ok()?;
    ensure!(none["spec"]["storageClassName"] == "", "no class is a choice: {none}");
    let class = json!({"metadata": {"name": name, "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "example.test/c"}});
    admin.post("/apis/networking.k8s.io/v1/ingressclasses", &class)?.ok()?;
    let ingress = json!({"metadata": {"name": "a"}, "spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}});
    let path = format!("/apis/networking.k8s.io/v1/namespaces/{ns}/ingresses?dryRun=All");
    plane.eventually("ingresses get the default class", 10, || {
        let made = admin.post(&path, &ingress)?.ok()?;
        Ok((made["spec"]["ingressClassName"] == name.as_str()).then_some(()))
    })?;
    admin.delete(&format!("/apis/storage.k8s.io/v1/storageclasses/{name}"))?.ok()?;
    admin.delete(&format!("/apis/networking.k8s.io/v1/ingressclasses/{name}"))?.ok()?;
    Ok(())
}

fn claims(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let claims = format!("/api/v1/namespaces/{ns}/persistentvolumeclaims");
    for (name, grows) in [("fixed", false), ("grows", true)] {
        let class = json!({"metadata": {"name": format!("{ns}-{name}")}, "provisioner": "example.test/p", "allowVolumeExpansion": grows});
        admin.post("/apis/storage.k8s.io/v1/storageclasses", &class)?.ok()?;
        let claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": format!("{ns}-{name}"), "resources": {"requests": {"storage": "1Gi"}}}});
        let made = admin.post(&claims, &claim)?.ok()?;
        ensure!(made["metadata"]["finalizers"] == json!(["kubernetes.io/pvc-protection"]), "{made}");
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        admin.patch(&format!("{claims}/{name}/status"), MERGE_PATCH, &bound)?.ok()?;
    }
    let larger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    admin.patch(&format!("{claims}/fixed"), MERGE_PATCH, &larger)?.refused(403, "Forbidden")?;
    plane.eventually("a claim grows where it may", 10, || {
        admin.patch(&format!("{claims}/grows"), MERGE_PATCH, &larger)?.ok().map(Some)
    })?;
    let smaller = json!({"spec": {"resources": {"requests": {"storage": "512Mi"}}}});
    admin.patch(&format!("{claims}/grows"), MERGE_PATCH, &smaller)?.refused(422, "Invalid")?;
    let volume = json!({"metadata": {"name": format!("{ns}-a")}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/a"}}});
    let made = admin.post("/api/v1/persistentvolumes", &volume)?.ok()?;
    ensure!(made["metadata"]["finalizers"] == json!(["kubernetes.io/pv-protection"]), "{made}");
    Ok(())
}

fn nodes(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let made = admin.post("/api/v1/nodes", &json!({"metadata": {"name": format!("{ns}-new")}}))?.ok()?;
    let taint = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    ensure!(made["spec"]["taints"] == taint, "{made}");
    Ok(())
}

fn namespaces(plane: &ControlPlane, _: &str) -> Result<()> {
    let admin = plane.admin()?;
    for name in ["default", "kube-system", "kube-public"] {
        admin.delete(&format!("/api/v1/namespaces/{name}"))?.refused_with(
            403,
            "Forbidden",
            "this namespace may not be deleted",
        )?;
    }
    Ok(())
}

fn pod_security(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let levels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}}});
    admin.patch(&format!("/api/v1/namespaces/{ns}"), MERGE_PATCH, &levels)?.ok()?;
    for (name, more, why) in [
        ("host", json!({"hostNetwork": true}), "host namespaces (hostNetwork=true)"),
        (
            "path",
            json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volume \"a\")",
        ),
        (
            "privileged",
            json!({"containers": [{"name": "main", "image": "i", "securityContext": {"privileged": true}}]}),
            "privileged (container \"main\" must not set securityContext.privileged=true)",
        ),
    ] {
        let status = plane.eventually("the level holds", 10, || {
            make_pod(&admin, ns, name, more.clone())?.refused_with(403, "Forbidden", why).map(Some)
        })?;
        ensure!(status.to_string().contains("violates PodSecurity \\\"baseline:latest\\\""), "{status}");
    }
    let warned = make_pod(&admin, ns, "plain", json!({}))?;
    warned.ok()?;
    ensure!(warned.header("warning").contains("would violate PodSecurity"), "{:?}", warned.headers);
    let wrong = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "perhaps"}}});
    admin.patch(&format!("/api/v1/namespaces/{ns}"), MERGE_PATCH, &wrong)?.refused(422, "Invalid").map(drop)
}

fn certificates(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let (request, _) = tests::pki::request("ann", "team")?;
    let body = json!({"metadata": {"name": format!("{ns}-a")}, "spec": {
        "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request),
        "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}});
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let made = plane.user("bob", "askers")?.post(path, &body)?;
    made.refused(403, "Forbidden")?;
    let mut made = admin.post(path, &body)?.ok()?;
    ensure!(made["spec"]["username"] == "admin", "who asks is recorded: {made}");
    made["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "a", "message": "b"}]});
    let approval = format!("{path}/{ns}-a/approval");
    let role = json!({"metadata": {"name": format!("{ns}-approver")}, "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests", "certificatesigningrequests/approval"], "verbs": ["get", "update"]}]});
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role)?.ok()?;
    let binding = json!({"metadata": {"name": format!("{ns}-approver")}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("{ns}-approver")}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "approver"}]});
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding)?.ok()?;
    let approver = plane.user("approver", "")?;
    plane.eventually("who may update but not approve is told so", 10, || {
        approver
            .put(&approval, &made)?
            .refused_with(403, "Forbidden", "not permitted to approve requests with signerName")
            .map(Some)
    })?;
    let approved = admin.put(&approval, &made)?.ok()?;
    ensure!(approved["status"]["conditions"][0]["type"] == "Approved", "{approved}");
    Ok(())
}

fn issuer(plane: &ControlPlane, _: &str) -> Result<()> {
    let admin = plane.admin()?;
    let told = admin.get("/.well-known/openid-configuration")?.ok()?;
    ensure!(told["issuer"] == tests::control_plane::ISSUER, "{told}");
    ensure!(told["jwks_uri"].as_str().is_some_and(|u| u.ends_with("/openid/v1/jwks")), "{told}");
    let keys = admin.get("/openid/v1/jwks")?.ok()?;
    ensure!(keys["keys"][0]["kty"] == "EC" && keys["keys"][0]["kid"].is_string(), "{keys}");
    ensure!(keys["keys"][0].get("d").is_none(), "the private part is told");
    Ok(())
}
