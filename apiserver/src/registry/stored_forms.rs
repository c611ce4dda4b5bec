//! Stored values as the server keeps them: JSON in the storage version.
//!
//! That is what it writes, but for custom objects, which are CBOR under the gate `CBORServingAndStorage` (KEP-4222). An
//! upstream server's values are protobuf, maybe in another served version; they are read into the same form, so that an
//! existing cluster's etcd can be taken over.

use std::{
    collections::HashSet,
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use proto::{
    cbor,
    codec::{Envelope, MAGIC},
};

use super::catalog::{self, Catalog};
use crate::{
    object::Object,
    storage::{ResourceId, Transformer, Undecoded},
};

/// Reads what is stored of a catalog's resources.
pub struct StoredForms {
    catalog: Catalog,
    /// Group and plural of what is not custom, served or not.
    builtin: HashSet<(&'static str, &'static str)>,
    /// Custom objects are written as CBOR.
    writes_cbor: bool,
    /// One was read that is.
    has_read_cbor: AtomicBool,
}

impl StoredForms {
    /// For these resources; of others only the encoding is changed.
    pub fn new(catalog: Catalog, writes_cbor: bool) -> Self {
        let builtin = catalog::builtin().iter().map(|r| (r.stored_group(), r.plural)).collect();
        Self { catalog, builtin, writes_cbor, has_read_cbor: AtomicBool::new(false) }
    }

    /// Groups of custom resources have a point; what the server keeps for itself is in none.
    fn is_custom(&self, id: &ResourceId) -> bool {
        id.group().contains('.') && !self.builtin.contains(&(id.group(), id.plural()))
    }

    /// Converts what has another version or, for views of another group's objects, another group.
    fn convert(&self, plural: &str, api_version: &str, json: Vec<u8>) -> Result<Vec<u8>, String> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(resource) = self.catalog.find(group, version, plural) else { return Ok(json) };
        if resource.serves_stored(version) {
            return Ok(json);
        }
        let mut object = Object::from_slice(&json).map_err(|e| e.to_string())?;
        let stored = resource.stored_api_version();
        let strategy = &resource.strategy;
        let converted = if strategy.stored_as().is_some() {
            strategy.convert(&mut object, api_version, &stored)
        } else {
            strategy.convert(&mut object, version, resource.storage_version)
        };
        converted.map_err(|status| status.message)?;
        object.set("apiVersion", stored);
        Ok(object.to_vec())
    }
}

fn malformed(why: impl fmt::Display) -> Undecoded {
    Undecoded::Malformed(why.to_string())
}

impl Transformer for StoredForms {
    fn decode(&self, id: &ResourceId, _key: &str, value: Bytes) -> Result<Bytes, Undecoded> {
        if value.first() == Some(&b'{') {
            return Ok(value);
        }
        // Whether the gate is on or not: it may have been when the object was written.
        if value.starts_with(&cbor::MAGIC) && self.is_custom(id) {
            self.has_read_cbor.store(true, Ordering::Relaxed);
            return cbor::to_json(&value).map(Bytes::from).map_err(malformed);
        }
        if value.starts_with(crate::encryption::MARK) {
            return Err(Undecoded::Sealed("identity transformer tried to read encrypted data".to_owned()));
        }
        if !value.starts_with(&MAGIC) {
            return Err(malformed("the value is neither JSON nor protobuf"));
        }
        let envelope = Envelope::open(&value).map_err(malformed)?;
        let json = envelope.to_json().map_err(malformed)?;
        self.convert(id.plural(), &envelope.api_version, json).map(Bytes::from).map_err(malformed)
    }

    fn encode(&self, id: &ResourceId, _key: &str, json: Vec<u8>) -> Result<Vec<u8>, String> {
        if !self.writes_cbor || !self.is_custom(id) {
            return Ok(json);
        }
        cbor::from_json(&json, cbor::Order::Sorted).map_err(|e| e.to_string())
    }

    fn looks_at(&self, id: &ResourceId) -> bool {
        (self.writes_cbor || self.has_read_cbor.load(Ordering::Relaxed)) && self.is_custom(id)
    }

    fn is_stale(&self, id: &ResourceId, value: &[u8]) -> bool {
        self.is_custom(id) && value.starts_with(&cbor::MAGIC) != self.writes_cbor
    }
}

#[cfg(test)]
mod tests {
    use proto::codec;
    use serde_json::{Value, json};

    use super::*;
    use crate::registry::{Resource, catalog};

    fn forms(writes_cbor: bool) -> StoredForms {
        StoredForms::new(catalog::builtin(), writes_cbor)
    }

    fn read(group: &str, plural: &str, stored: &Value) -> Value {
        let forms = forms(false);
        let value = codec::from_json(stored.to_string().as_bytes()).unwrap();
        let json = forms.decode(&ResourceId::new(group, plural), "", value).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn upstreams_values_come_in_the_storage_version() {
        let hpa = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
            "spec": {"maxReplicas": 2, "targetCPUUtilizationPercentage": 60}});
        let got = read("autoscaling", "horizontalpodautoscalers", &hpa);
        assert_eq!(got["apiVersion"], "autoscaling/v2");
        assert_eq!(got["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "p"}});
        let got = read("", "events", &event);
        assert_eq!((&got["apiVersion"], &got["message"]), (&json!("v1"), &json!("n")));
        assert_eq!(got["involvedObject"]["name"], "p");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
        assert_eq!(read("", "pods", &pod)["metadata"]["name"], "a");
        let forms = forms(false);
        assert!(forms.decode(&ResourceId::new("", "pods"), "", Bytes::from_static(b"k8s:enc:")).is_err());
    }

    #[test]
    fn custom_objects_are_cbor_under_the_gate_and_read_in_both_forms_without() {
        let (things, roles) =
            (ResourceId::new("example.com", "things"), ResourceId::new("rbac.authorization.k8s.io", "roles"));
        let json = br#"{"apiVersion":"example.com/v1","kind":"Thing","spec":{"n":1,"x":1.5}}"#.to_vec();
        let (on, off) = (forms(true), forms(false));
        let written = on.encode(&things, "", json.clone()).unwrap();
        assert!(written.starts_with(&cbor::MAGIC));
        assert_eq!(
            on.encode(&things, "", json.clone()).unwrap(),
            written,
            "the same object is the same bytes"
        );
        for id in [&roles, &ResourceId::new("", "pods"), &ResourceId::new("", "ranges")] {
            assert_eq!(on.encode(id, "", json.clone()).unwrap(), json, "{id} is not custom");
        }
        assert_eq!(off.encode(&things, "", json.clone()).unwrap(), json);
        // A value of the other form is written anew when somebody writes the same object.
        assert!(on.looks_at(&things) && !off.looks_at(&things) && !on.looks_at(&roles));
        for forms in [&on, &off] {
            assert_eq!(forms.decode(&things, "", written.clone().into()).unwrap(), json);
            assert_eq!(forms.decode(&things, "", json.clone().into()).unwrap(), json);
            assert!(forms.looks_at(&things));
        }
        assert!(on.is_stale(&things, &json) && !on.is_stale(&things, &written));
        assert!(off.is_stale(&things, &written) && !off.is_stale(&things, &json));
        assert!(off.decode(&roles, "", written.into()).is_err(), "roles are never CBOR");
    }

    /// Upstream's object of every kind that is stored, with every field filled: as protobuf, which is what it has in etcd,
    /// and as JSON.
    fn goldens(mut each: impl FnMut(&Resource, &str, Vec<u8>, Value)) -> usize {
        let Some(goldens) = component_base::reference::reference("api-golden") else { return usize::MAX };
        let mut seen = 0;
        for resource in catalog::builtin().iter().filter(|resource| resource.verbs.contains(&"list")) {
            let group = if resource.group.is_empty() { "core" } else { resource.group };
            for version in resource.versions {
                let stem = goldens.join(format!("{group}.{version}.{}", resource.kind));
                let of = |ending: &str| std::fs::read(format!("{}.{ending}", stem.display()));
                if let (Ok(stored), Ok(text)) = (of("pb"), of("json")) {
                    each(resource, version, stored, serde_json::from_slice(&text).unwrap());
                    seen += 1;
                }
            }
        }
        seen
    }

    #[test]
    fn every_kind_is_read_as_upstream_has_stored_it() {
        let forms = forms(false);
        let seen = goldens(|resource, version, stored, golden| {
            assert!(stored.starts_with(&MAGIC));
            let id = ResourceId::new(resource.stored_group(), resource.plural);
            let read = forms.decode(&id, "", stored.into()).unwrap();
            let mut want = Object::from_value(golden).unwrap();
            let stored_version = resource.stored_api_version();
            if !resource.serves_stored(version) {
                resource.convert(&mut want, &resource.api_version(version), &stored_version).unwrap();
            }
            let read: Value = serde_json::from_slice(&read).unwrap();
            assert_eq!(read["apiVersion"], stored_version.as_str());
            assert_eq!(read, want.into_value(), "{version} of {}", resource.plural);
        });
        assert!(seen > 80, "{seen} kinds have golden objects");
    }

    /// Without what says nothing: the libraries of clients differ in what they leave out.
    fn telling(value: &Value) -> Value {
        let says = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(members) => !members.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        };
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), telling(value)));
                Value::Object(fields.filter(|(_, value)| says(value)).collect())
            }
            Value::Array(members) => members.iter().map(telling).collect(),
            Value::Number(number) if number.as_f64() == number.as_i64().map(|whole| whole as f64) => {
                json!(number.as_i64())
            }
            other => other.clone(),
        }
    }

    type Reader = fn(&[u8]) -> Value;

    /// What a client's library of types makes of a value.
    fn reread<T: serde::Serialize + serde::de::DeserializeOwned>(value: &[u8]) -> Value {
        let mut value = serde_json::to_value(serde_json::from_slice::<T>(value).unwrap()).unwrap();
        // This library lets objects within objects say what they are.
        let claims = value.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut);
        for claim in claims.into_iter().flatten().filter_map(Value::as_object_mut) {
            claim.retain(|field, _| !matches!(field.as_str(), "apiVersion" | "kind"));
        }
        value
    }

    macro_rules! readers {
        ($($module:path : $($kind:ident),*;)*) => {
            &[$($({ use $module as of; (stringify!($kind), reread::<of::$kind> as Reader) }),*),*]
        };
    }

    #[test]
    fn what_is_stored_is_read_by_others_in_the_storage_version() {
        let readers: &[(&str, Reader)] = readers! {
            k8s_openapi::api::admissionregistration::v1: MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration;
            k8s_openapi::api::apps::v1: ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet;
            k8s_openapi::api::autoscaling::v2: HorizontalPodAutoscaler;
            k8s_openapi::api::batch::v1: CronJob, Job;
            k8s_openapi::api::certificates::v1: CertificateSigningRequest;
            k8s_openapi::api::coordination::v1: Lease;
            k8s_openapi::api::core::v1: ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount;
            k8s_openapi::api::discovery::v1: EndpointSlice;
            k8s_openapi::api::flowcontrol::v1: FlowSchema, PriorityLevelConfiguration;
            k8s_openapi::api::networking::v1: IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR;
            k8s_openapi::api::node::v1: RuntimeClass;
            k8s_openapi::api::policy::v1: PodDisruptionBudget;
            k8s_openapi::api::rbac::v1: ClusterRole, ClusterRoleBinding, Role, RoleBinding;
            k8s_openapi::api::resource::v1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice;
            k8s_openapi::api::scheduling::v1: PriorityClass;
            k8s_openapi::api::storage::v1: CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment;
        };
        let forms = forms(false);
        let mut read = HashSet::new();
        let seen = goldens(|resource, version, _, golden| {
            if resource.strategy.stored_as().is_some() || version != resource.storage_version {
                return;
            }
            let Some((kind, reader)) = readers.iter().find(|(kind, _)| *kind == resource.kind) else {
                return;
            };
            let id = ResourceId::new(resource.group, resource.plural);
            // A time that is not there is a null in Go's words, and this library wants none.
            let golden = telling(&golden);
            let written = forms.encode(&id, "", serde_json::to_vec(&golden).unwrap()).unwrap();
            // A server tells by this byte that a value is no envelope.
            assert_eq!(written.first(), Some(&b'{'));
            assert_eq!(telling(&reader(&written)), golden, "{kind}");
            read.insert(*kind);
        });
        assert!(seen == usize::MAX || read.len() == readers.len(), "only {read:?}");
    }
}
