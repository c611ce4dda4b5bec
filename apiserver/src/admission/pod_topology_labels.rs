//! PodTopologyLabels: a pod that is put on a node has the labels that say where the node is.
//!
//! A binding gets them, and hands its labels to the pod. Contract: KEP-4742.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::features::Gate;
use serde_json::{Map, Value};

use super::{Operation, Parts, Plugin, Request, text};
use crate::{
    object::Object,
    objects::{NODES, Objects, PODS},
    status::Status,
};

pub(super) const NAME: &str = "PodTopologyLabels";

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

struct PodTopologyLabels {
    objects: Arc<dyn Objects>,
    on: bool,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    let on = parts.gates.has(Gate::PodTopologyLabelsAdmission);
    Arc::new(PodTopologyLabels { objects: parts.objects.clone(), on })
}

/// The node an object puts a pod on; empty when it does not.
fn node_of<'a>(request: &Request<'_>, object: &'a Object) -> &'a str {
    match request.attributes.subresource.as_str() {
        "binding" if text(object, "/target/kind") == "Node" => text(object, "/target/name"),
        "" if request.operation == Operation::Create => text(object, "/spec/nodeName"),
        _ => "",
    }
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !self.on || !request.is_any(PODS) {
            return Ok(());
        }
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        let name = node_of(request, object);
        if name.is_empty() {
            return Ok(());
        }
        let Some(node) = self.objects.get(NODES, "", name).await? else { return Ok(()) };
        let labels: Vec<(String, Value)> = node
            .meta_pairs("labels")
            .filter(|(key, _)| LABELS.contains(key))
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        let Some(object) = request.object.as_deref_mut().filter(|_| !labels.is_empty()) else {
            return Ok(());
        };
        let of_object = object.metadata_mut().entry("labels").or_insert_with(|| Value::Object(Map::new()));
        if let Some(of_object) = of_object.as_object_mut() {
            of_object.extend(labels);
        }
        Ok(())
    }
}
