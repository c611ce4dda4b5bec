//! Controllers, over the wire: what must not be lost, and what waits for what.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, control_plane::Options, runner::Test};

use crate::{config_maps, scheduling::Daemon};

pub(crate) const TESTS: &[Test<()>] = &[
    ("a wrong reference to an owner costs no object that has the right one", references),
    ("a pod that has ended keeps its claim until it is gone", claims),
    ("ranges of nodes that are gone are handed out last", ranges),
    ("mirrored slices follow endpoints, wherever their addresses come from", mirrors),
];

fn start(flags: &[&str]) -> Result<(ControlPlane, Client, Daemon)> {
    let plane = ControlPlane::start(Options::default())?;
    plane.namespace("d")?;
    let admin = plane.admin()?;
    let manager = Daemon::start(&plane, "kube-controller-manager", flags)?;
    Ok((plane, admin, manager))
}

fn gone(plane: &ControlPlane, admin: &Client, what: &str, path: &str) -> Result<()> {
    plane.eventually(what, 60, || Ok((admin.get(path)?.code == 404).then_some(())))
}

fn references(_: &(), _: &str) -> Result<()> {
    let (plane, admin, _manager) = start(&[])?;
    let map = |name: &str, owners: Value| json!({"metadata": {"name": name, "ownerReferences": owners}});
    let owner = admin.post(&config_maps("d", ""), &map("owner", json!([])))?.ok()?;
    let uid = &owner["metadata"]["uid"];
    let by = |kind: &str, name: &str| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}]);
    for (name, owners) in [
        ("good", by("ConfigMap", "owner")),
        ("another-name", by("ConfigMap", "another")),
        ("another-kind", by("Secret", "owner")),
        ("also-good", by("ConfigMap", "owner")),
    ] {
        admin.post(&config_maps("d", ""), &map(name, owners))?.ok()?;
    }
    for name in ["another-name", "another-kind"] {
        gone(&plane, &admin, "what names no owner goes", &config_maps("d", name))?;
    }
    for name in ["owner", "good", "also-good"] {
        admin.get(&config_maps("d", name))?.ok()?;
    }
    admin.delete(&config_maps("d", "owner"))?.ok()?;
    for name in ["good", "also-good"] {
        gone(&plane, &admin, "what names it goes with it", &config_maps("d", name))?;
    }
    Ok(())
}

fn claims(_: &(), _: &str) -> Result<()> {
    let (plane, admin, _manager) = start(&[])?;
    let (claims, pods) = ("/api/v1/namespaces/d/persistentvolumeclaims", "/api/v1/namespaces/d/pods");
    for name in ["used", "free"] {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        admin.post(claims, &json!({"metadata": {"name": name}, "spec": spec}))?.ok()?;
        plane.eventually("a claim is protected", 30, || {
            let claim = admin.get(&format!("{claims}/{name}"))?.ok()?;
            Ok(claim["metadata"]["finalizers"].is_array().then_some(()))
        })?;
    }
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "used"}});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "somewhere", "volumes": [volume],
        "containers": [{"name": "c", "image": "keelson.local/none:1"}]}});
    admin.post(pods, &pod)?.ok()?;
    let ended = json!({"status": {"phase": "Succeeded"}});
    admin.patch(&format!("{pods}/p/status"), "application/merge-patch+json", &ended)?.ok()?;
    for name in ["used", "free"] {
        admin.delete(&format!("{claims}/{name}"))?.ok()?;
    }
    // It was asked to go later, so that the other one has been looked at by then.
    gone(&plane, &admin, "a claim nobody uses goes", &format!("{claims}/free"))?;
    let used = admin.get(&format!("{claims}/used"))?.ok()?;
    ensure!(used["metadata"]["finalizers"].is_array(), "the pod that has ended is still there: {used}");
    admin.delete(&format!("{pods}/p?gracePeriodSeconds=0"))?.ok()?;
    gone(&plane, &admin, "the claim goes after the pod", &format!("{claims}/used"))
}

fn ranges(_: &(), _: &str) -> Result<()> {
    let flags = ["--allocate-node-cidrs=true", "--cluster-cidr=10.200.0.0/22", "--node-cidr-mask-size=24"];
    let (plane, admin, _manager) = start(&flags)?;
    let range = |name: &str| -> Result<String> {
        admin.post("/api/v1/nodes", &json!({"metadata": {"name": name}}))?.ok()?;
        plane.eventually("a node has its range", 60, || {
            let node = admin.get(&format!("/api/v1/nodes/{name}"))?.ok()?;
            Ok(node["spec"]["podCIDR"].as_str().map(str::to_owned))
        })
    };
    ensure!(range("a")? == "10.200.0.0/24", "the first one first");
    ensure!(range("b")? == "10.200.1.0/24", "the next one next");
    admin.delete("/api/v1/nodes/a")?.ok()?;
    ensure!(range("c")? == "10.200.2.0/24", "not the one that was given back");
    ensure!(range("d")? == "10.200.3.0/24", "nor now");
    ensure!(range("e")? == "10.200.0.0/24", "until all others are taken");
    Ok(())
}

fn mirrors(_: &(), _: &str) -> Result<()> {
    let (plane, admin, _manager) = start(&[])?;
    let service = json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}});
    admin.post("/api/v1/namespaces/d/services", &service)?.ok()?;
    let endpoints = "/api/v1/namespaces/d/endpoints";
    let object = json!({"metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "10.9.0.1"}], "ports": [{"port": 5432}]}]});
    let slices =
        "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices?labelSelector=kubernetes.io/service-name=db";
    let mirrored = |uid: &Value| {
        plane.eventually("the slice is of these endpoints", 60, || {
            let list = admin.get(slices)?.ok()?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let is_theirs = |slice: &Value| slice["metadata"]["ownerReferences"][0]["uid"] == *uid;
            Ok((items.len() == 1 && is_theirs(&items[0])).then_some(()))
        })
    };
    let first = admin.post(endpoints, &object)?.ok()?;
    mirrored(&first["metadata"]["uid"])?;
    admin.delete(&format!("{endpoints}/db"))?.ok()?;
    let second = admin.post(endpoints, &object)?.ok()?;
    mirrored(&second["metadata"]["uid"])
}
