//! Volumes of drivers, and who uses them.

use serde_json::{Value, json};

use super::{backend, claim, node, volume};

/// A claim and its volume, bound to each other.
fn bound(source: Value) -> [Value; 2] {
    let (mut claim, mut volume) = (claim("c"), volume("v", "Retain"));
    claim["metadata"]["uid"] = "uid-c-".into();
    claim["spec"]["volumeName"] = "v".into();
    claim["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    claim["status"] =
        json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
    volume["spec"].as_object_mut().unwrap().remove("hostPath");
    for (field, value) in source.as_object().unwrap() {
        volume["spec"][field] = value.clone();
    }
    volume["spec"]["claimRef"] =
        json!({"kind": "PersistentVolumeClaim", "namespace": "d", "name": "c", "uid": "uid-c-"});
    volume["status"]["phase"] = "Bound".into();
    [claim, volume]
}

/// A pod on a node, and the volume of a driver that it uses.
pub(super) fn used_volume() -> Vec<Value> {
    let mut out = Vec::from(bound(json!({"csi": {"driver": "d.io", "volumeHandle": "h"}})));
    let mut node = node("n1");
    node["metadata"]["annotations"] =
        json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    let mut pod = backend("user", 22);
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]);
    out.extend([node, pod]);
    out
}

/// A pod on a node, with a disk whose plugin a driver has taken over and one that needs no driver.
pub(super) fn used_disks() -> Vec<Value> {
    let mut node = node("n1");
    node["metadata"]["annotations"] =
        json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    let mut pod = backend("user", 22);
    pod["spec"]["volumes"] = json!([
        {"name": "disk", "awsElasticBlockStore": {"volumeID": "aws://z/vol-1", "fsType": "ext4"}},
        {"name": "target", "iscsi": {"targetPortal": "10.0.0.1:3260", "iqn": "i", "lun": 1}},
    ]);
    vec![node, pod]
}

/// A class of paths on the machine of the controllers, and a claim of that class.
pub(super) fn asked_path() -> Vec<Value> {
    let mut claim = claim("c");
    claim["spec"]["storageClassName"] = "paths".into();
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "paths"},
        "provisioner": "kubernetes.io/host-path", "reclaimPolicy": "Delete"});
    vec![class, claim]
}

/// A pod without a node that names a claim.
pub(super) fn waiting(name: &str, claim: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}})
}

/// A claim that asks for more than it has, of a volume whose plugin a driver has taken over.
pub(super) fn small_volume() -> Vec<Value> {
    let [mut claim, volume] = bound(json!({"awsElasticBlockStore": {"volumeID": "vol-1"}}));
    claim["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    vec![claim, volume]
}

/// A class of attributes and a claim of that class.
pub(super) fn classified() -> Vec<Value> {
    let mut claim = claim("c");
    claim["spec"]["volumeAttributesClassName"] = "fast".into();
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
        "metadata": {"name": "fast"}, "driverName": "d.io", "parameters": {"iops": "100"}});
    vec![class, claim]
}
