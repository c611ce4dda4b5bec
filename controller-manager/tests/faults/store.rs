//! The objects of the API server that the harness runs controllers against, and everything that ever became of them.
//!
//! Contract: the API conventions ("Concurrency Control and Consistency", "Finalizers", "Status"): versions grow by one
//! with every change, a write that names another version conflicts, a main write leaves the status alone and a status
//! write everything else, a deleted object stays until its finalizers are gone.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A resource the server serves.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
}

const fn of(group: &'static str, plural: &'static str, kind: &'static str, namespaced: bool) -> Resource {
    Resource { group, version: "v1", plural, kind, namespaced }
}

const fn version(version: &'static str, resource: Resource) -> Resource {
    Resource { version, ..resource }
}

/// All of them.
pub(crate) const RESOURCES: &[Resource] = &[
    of("", "configmaps", "ConfigMap", true),
    of("", "endpoints", "Endpoints", true),
    of("", "limitranges", "LimitRange", true),
    of("", "namespaces", "Namespace", false),
    of("", "nodes", "Node", false),
    of("", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    of("", "persistentvolumes", "PersistentVolume", false),
    of("", "pods", "Pod", true),
    of("", "podtemplates", "PodTemplate", true),
    of("", "replicationcontrollers", "ReplicationController", true),
    of("", "resourcequotas", "ResourceQuota", true),
    of("", "secrets", "Secret", true),
    of("", "serviceaccounts", "ServiceAccount", true),
    of("", "services", "Service", true),
    of("admissionregistration.k8s.io", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false),
    of("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition", false),
    of("apps", "controllerrevisions", "ControllerRevision", true),
    of("apps", "daemonsets", "DaemonSet", true),
    of("apps", "deployments", "Deployment", true),
    of("apps", "replicasets", "ReplicaSet", true),
    of("apps", "statefulsets", "StatefulSet", true),
    version("v2", of("autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler", true)),
    of("batch", "cronjobs", "CronJob", true),
    of("batch", "jobs", "Job", true),
    of("certificates.k8s.io", "certificatesigningrequests", "CertificateSigningRequest", false),
    version("v1beta1", of("certificates.k8s.io", "clustertrustbundles", "ClusterTrustBundle", false)),
    version("v1beta1", of("certificates.k8s.io", "podcertificaterequests", "PodCertificateRequest", true)),
    of("coordination.k8s.io", "leases", "Lease", true),
    of("discovery.k8s.io", "endpointslices", "EndpointSlice", true),
    version("v1alpha1", of("internal.apiserver.k8s.io", "storageversions", "StorageVersion", false)),
    of("networking.k8s.io", "ipaddresses", "IPAddress", false),
    of("networking.k8s.io", "servicecidrs", "ServiceCIDR", false),
    of("policy", "poddisruptionbudgets", "PodDisruptionBudget", true),
    of("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", false),
    of("resource.k8s.io", "deviceclasses", "DeviceClass", false),
    version("v1beta2", of("resource.k8s.io", "devicetaintrules", "DeviceTaintRule", false)),
    of("resource.k8s.io", "resourceclaims", "ResourceClaim", true),
    of("resource.k8s.io", "resourceclaimtemplates", "ResourceClaimTemplate", true),
    of("resource.k8s.io", "resourceslices", "ResourceSlice", false),
    version(
        "v1alpha3",
        of("resource.k8s.io", "resourcepoolstatusrequests", "ResourcePoolStatusRequest", false),
    ),
    version("v1alpha2", of("scheduling.k8s.io", "podgroups", "PodGroup", true)),
    version("v1alpha2", of("scheduling.k8s.io", "workloads", "Workload", true)),
    of("storage.k8s.io", "csidrivers", "CSIDriver", false),
    of("storage.k8s.io", "csinodes", "CSINode", false),
    of("storage.k8s.io", "storageclasses", "StorageClass", false),
    of("storage.k8s.io", "volumeattachments", "VolumeAttachment", false),
    of("storage.k8s.io", "volumeattributesclasses", "VolumeAttributesClass", false),
    version(
        "v1beta1",
        of("storagemigration.k8s.io", "storageversionmigrations", "StorageVersionMigration", false),
    ),
];

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What became of an object; the version is the place in the history, counted from one.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) what: &'static str,
    /// The object, which was the one before if it was deleted.
    pub(crate) object: Value,
}

/// Why a write is refused: code, reason, and causes of the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) cause: Option<&'static str>,
}

pub(crate) const NOT_FOUND: Refusal = Refusal { code: 404, reason: "NotFound", cause: None };
pub(crate) const EXISTS: Refusal = Refusal { code: 409, reason: "AlreadyExists", cause: None };
pub(crate) const CONFLICT: Refusal = Refusal { code: 409, reason: "Conflict", cause: None };
const ENDS: Refusal = Refusal { code: 403, reason: "Forbidden", cause: Some("NamespaceTerminating") };

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    /// The finalizers of a namespace's spec.
    Finalize,
}

/// The annotation of an object that was changed a little.
pub(crate) const TOUCHED: &str = "example.com/touched";

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Value>,
    pub(crate) history: Vec<Change>,
    /// Names that were made up, with what they begin with.
    pub(crate) made_up: Vec<(String, String)>,
}

impl Store {
    pub(crate) fn version(&self) -> usize {
        self.history.len()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter()
    }

    /// The objects as they were when the history had this length.
    pub(crate) fn at(&self, version: usize) -> BTreeMap<Key, Value> {
        let mut out = BTreeMap::new();
        for change in &self.history[..version] {
            match change.what {
                "DELETED" => out.remove(&change.key),
                _ => out.insert(change.key.clone(), change.object.clone()),
            };
        }
        out
    }

    fn record(&mut self, key: Key, what: &'static str, mut object: Value) -> Value {
        let version = self.history.len() + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        match what {
            "DELETED" => self.objects.remove(&key),
            _ => self.objects.insert(key.clone(), object.clone()),
        };
        self.history.push(Change { key, what, object: object.clone() });
        object
    }

    /// Puts an object there as it is, whoever it is from.
    pub(crate) fn put(&mut self, key: &Key, object: &Value) {
        self.record(key.clone(), "ADDED", object.clone());
    }

    /// Adds an object; the name is made up where only its beginning is given.
    pub(crate) fn create(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        mut object: Value,
        now: &str,
    ) -> Result<Value, Refusal> {
        let meta = &mut object["metadata"];
        if meta["name"].as_str().is_none_or(str::is_empty) {
            let stem = meta["generateName"].as_str().unwrap_or_default().to_owned();
            let name = format!("{stem}x{}x", self.made_up.len());
            meta["name"] = name.clone().into();
            self.made_up.push((name, stem));
        }
        let key = Key {
            resource,
            namespace: namespace.to_owned(),
            name: meta["name"].as_str().unwrap_or_default().to_owned(),
        };
        if self.objects.contains_key(&key) {
            return Err(EXISTS);
        }
        if self.ends(namespace) {
            return Err(ENDS);
        }
        if !namespace.is_empty() {
            meta["namespace"] = namespace.into();
        }
        if meta["uid"].is_null() {
            meta["uid"] = format!("uid-{}-", self.history.len()).into();
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = now.into();
        }
        meta["generation"] = 1.into();
        object["kind"] = resource.kind.into();
        object["apiVersion"] = api_version(resource).into();
        if resource.plural == "namespaces" && object["spec"]["finalizers"].is_null() {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
        }
        Ok(self.record(key, "ADDED", object))
    }

    fn ends(&self, namespace: &str) -> bool {
        let is = |key: &Key| key.resource.plural == "namespaces" && key.name == namespace;
        let found = self.objects.iter().find(|(key, _)| is(key));
        found.is_some_and(|(_, object)| !object["metadata"]["deletionTimestamp"].is_null())
    }

    /// Takes over one part of an object; it goes once it is deleted and nothing holds it.
    pub(crate) fn replace(&mut self, key: &Key, part: Part, mut next: Value) -> Result<Value, Refusal> {
        let old = self.objects.get(key).ok_or(NOT_FOUND)?;
        let differs = |field: &str| {
            let given = next["metadata"][field].as_str().filter(|text| !text.is_empty());
            given.is_some_and(|text| Some(text) != old["metadata"][field].as_str())
        };
        if differs("resourceVersion") || differs("uid") {
            return Err(CONFLICT);
        }
        match part {
            Part::Main => {
                keep(old, &mut next, "status");
                for field in
                    ["uid", "creationTimestamp", "deletionTimestamp", "generation", "namespace", "name"]
                {
                    keep(&old["metadata"], &mut next["metadata"], field);
                }
                if next.get("spec") != old.get("spec") {
                    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
                    next["metadata"]["generation"] = (generation + 1).into();
                }
            }
            // Most kinds take annotations with the status.
            Part::Status => {
                let annotations = next["metadata"]["annotations"].take();
                next = json_with(old, "status", next.get("status"));
                next["metadata"]["annotations"] = annotations;
            }
            Part::Finalize => next = json_with(old, "spec", next.get("spec")),
        }
        next["kind"] = key.resource.kind.into();
        next["apiVersion"] = api_version(key.resource).into();
        strip_nulls(&mut next);
        next["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if &next == old {
            return Ok(next);
        }
        let gone = !next["metadata"]["deletionTimestamp"].is_null() && !is_held(&next) && !is_graceful(&next);
        Ok(self.record(key.clone(), if gone { "DELETED" } else { "MODIFIED" }, next))
    }

    /// Changes an object a little, if it is there, as its user may.
    pub(crate) fn touch(&mut self, key: &Key) -> Option<Value> {
        let mut next = self.objects.get(key)?.clone();
        next["metadata"]["annotations"][TOUCHED] = "yes".into();
        Some(self.record(key.clone(), "MODIFIED", next))
    }

    /// Deletes an object, now or as soon as nothing holds it. `at_once`: a pod on a node is not waited for.
    pub(crate) fn delete(
        &mut self,
        key: &Key,
        policy: Option<&str>,
        at_once: bool,
        now: &str,
    ) -> Result<Value, Refusal> {
        let mut object = self.objects.get(key).ok_or(NOT_FOUND)?.clone();
        let mut finalizers: Vec<Value> =
            object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let meta = &mut object["metadata"];
        let first = meta["deletionTimestamp"].is_null();
        if let Some(policy) = policy.filter(|_| first) {
            finalizers.retain(|f| f != "foregroundDeletion" && f != "orphan");
            match policy {
                "Foreground" => finalizers.push("foregroundDeletion".into()),
                "Orphan" => finalizers.push("orphan".into()),
                _ => {}
            }
            meta["finalizers"] = finalizers.into();
        }
        if first {
            meta["deletionTimestamp"] = now.into();
        }
        if at_once {
            meta["deletionGracePeriodSeconds"] = 0.into();
        } else if first {
            meta["deletionGracePeriodSeconds"] = 30.into();
        }
        if key.resource.plural == "namespaces" {
            object["status"]["phase"] = "Terminating".into();
        }
        strip_nulls(&mut object);
        if !is_held(&object) && !is_graceful(&object) {
            return Ok(self.record(key.clone(), "DELETED", object));
        }
        if Some(&object) == self.objects.get(key) {
            return Ok(object);
        }
        Ok(self.record(key.clone(), "MODIFIED", object))
    }
}

pub(crate) fn api_version(resource: &Resource) -> String {
    match resource.group {
        "" => resource.version.to_owned(),
        group => format!("{group}/{}", resource.version),
    }
}

fn json_with(object: &Value, field: &str, value: Option<&Value>) -> Value {
    let mut out = object.clone();
    out[field] = value.cloned().unwrap_or(Value::Null);
    out
}

/// Leaves a field as it was.
fn keep(old: &Value, next: &mut Value, field: &str) {
    match old.get(field) {
        Some(value) => next[field] = value.clone(),
        None => drop(next.as_object_mut().map(|fields| fields.remove(field))),
    }
}

fn is_held(object: &Value) -> bool {
    let some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    some(&object["metadata"]["finalizers"])
        || (object["kind"] == "Namespace" && some(&object["spec"]["finalizers"]))
}

/// Whether a kubelet must end it first.
fn is_graceful(object: &Value) -> bool {
    object["kind"] == "Pod"
        && object["spec"]["nodeName"].is_string()
        && object["metadata"]["deletionGracePeriodSeconds"] != 0
}

/// An absent field and one that is null are the same.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// What tells the items of a list apart, where a strategic merge and an apply merge them one by one.
const MERGED_BY: &[(&str, &str)] =
    &[("conditions", "type"), ("ownerReferences", "uid"), ("addresses", "type")];

/// Merges a patch: null removes; `strategic` merges some lists item by item.
pub(crate) fn merge(into: &mut Value, patch: &Value, strategic: bool) {
    let Some(fields) = patch.as_object() else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (name, value) in fields.iter().filter(|(name, _)| !name.starts_with('$')) {
        if value.is_null() {
            into.as_object_mut().map(|fields| fields.remove(name));
            continue;
        }
        let by = MERGED_BY.iter().find(|(list, _)| strategic && list == name).map(|(_, by)| *by);
        match (by, value.as_array()) {
            (Some(by), Some(items)) => merge_items(&mut into[name], items, by),
            _ => merge(&mut into[name], value, strategic),
        }
    }
}

fn merge_items(into: &mut Value, items: &[Value], by: &str) {
    if !into.is_array() {
        *into = json!([]);
    }
    let Some(list) = into.as_array_mut() else { return };
    for item in items {
        if item["$patch"] == "delete" {
            list.retain(|other| other[by] != item[by]);
            continue;
        }
        match list.iter_mut().find(|other| other[by] == item[by]) {
            Some(there) => merge(there, item, true),
            None => list.push(item.clone()),
        }
    }
}
