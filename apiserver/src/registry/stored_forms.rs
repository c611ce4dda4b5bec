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
    use crate::registry::catalog;

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
}
