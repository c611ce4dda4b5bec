//! Stored values as the server keeps them: JSON in the storage version.
//!
//! That is what it writes. An upstream server's values are protobuf, maybe in another served version; they are
//! read into the same form, so that an existing cluster's etcd can be taken over.

use bytes::Bytes;
use proto::codec::{Envelope, MAGIC};

use super::catalog::Catalog;
use crate::{
    object::Object,
    storage::{ResourceId, Transformer},
};

/// Reads what is stored of a catalog's resources.
pub struct StoredForms(Catalog);

impl StoredForms {
    /// For these resources; of others only the encoding is changed.
    pub fn new(catalog: Catalog) -> Self {
        Self(catalog)
    }

    /// Converts what has another version or, for views of another group's objects, another group.
    fn convert(&self, plural: &str, api_version: &str, json: Vec<u8>) -> Result<Vec<u8>, String> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(resource) = self.0.find(group, version, plural) else { return Ok(json) };
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

impl Transformer for StoredForms {
    fn decode(&self, id: &ResourceId, _key: &str, value: Bytes) -> Result<Bytes, String> {
        if value.first() == Some(&b'{') {
            return Ok(value);
        }
        if !value.starts_with(&MAGIC) {
            return Err("the value is neither JSON nor protobuf".to_owned());
        }
        let envelope = Envelope::open(&value).map_err(|e| e.to_string())?;
        let json = envelope.to_json().map_err(|e| e.to_string())?;
        self.convert(id.plural(), &envelope.api_version, json).map(Bytes::from)
    }

    fn encode(&self, _id: &ResourceId, _key: &str, json: Vec<u8>) -> Result<Vec<u8>, String> {
        Ok(json)
    }
}

#[cfg(test)]
mod tests {
    use proto::codec;
    use serde_json::{Value, json};

    use super::*;
    use crate::registry::catalog;

    fn read(group: &str, plural: &str, stored: &Value) -> Value {
        let forms = StoredForms::new(catalog::builtin());
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
        let forms = StoredForms::new(catalog::builtin());
        assert!(forms.decode(&ResourceId::new("", "pods"), "", Bytes::from_static(b"k8s:enc:")).is_err());
    }
}
