//! How API servers store, and what is stored anew.

use serde_json::{Value, json};

use crate::store::{Key, RESOURCES, Store};

/// The lease of an API server.
pub(super) fn server(name: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "kube-system",
        "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"}}, "spec": {"holderIdentity": name}})
}

/// An API server's lease goes.
pub(super) fn end(store: &mut Store, name: &str) {
    let resource = RESOURCES.iter().find(|r| r.plural == "leases").unwrap();
    let key = Key { resource, namespace: "kube-system".to_owned(), name: name.to_owned() };
    store.delete(&key, None, true, "2026-03-02T13:00:00Z").unwrap();
}

/// What these servers store, each in a version of its own.
pub(super) fn stored(name: &str, servers: &[&str]) -> Value {
    let entry = |id: &&str| {
        let version = format!("v1{id}");
        json!({"apiServerID": id, "encodingVersion": version, "decodableVersions": [version]})
    };
    let entries: Vec<Value> = servers.iter().map(entry).collect();
    json!({"apiVersion": "internal.apiserver.k8s.io/v1alpha1", "kind": "StorageVersion", "metadata": {"name": name},
        "spec": {}, "status": {"storageVersions": entries}})
}

/// Where deployments are defined, as far as this matters.
pub(super) fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "deployments.apps"}, "spec": {"group": "apps", "versions": [
            {"name": "v1beta1", "served": true, "storage": false}, {"name": "v1", "served": true, "storage": true}]},
        "status": {"storedVersions": ["v1beta1", "v1"], "conditions": [{"type": "Established", "status": "True"}]}})
}

pub(super) fn migration(name: &str, resource: &str) -> Value {
    json!({"apiVersion": "storagemigration.k8s.io/v1beta1", "kind": "StorageVersionMigration", "metadata": {"name": name},
        "spec": {"resource": {"group": "apps", "resource": resource}}})
}
