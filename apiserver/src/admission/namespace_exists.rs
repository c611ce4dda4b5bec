//! NamespaceExists and NamespaceAutoProvision: what becomes of writes to a namespace that is not there.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;

use super::{Parts, Plugin, Request};
use crate::{
    objects::{self, NAMESPACES, Objects},
    status::Status,
};

pub(super) const NAME: &str = "NamespaceExists";
pub(super) const AUTO_PROVISION: &str = "NamespaceAutoProvision";

struct NamespaceExists {
    objects: Arc<dyn Objects>,
}

struct NamespaceAutoProvision {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(NamespaceExists { objects: parts.objects.clone() })
}

pub(super) fn auto_provision(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(NamespaceAutoProvision { objects: parts.objects.clone() })
}

/// Whether a write is to a namespace that is not there.
async fn is_missing(objects: &dyn Objects, request: &Request<'_>) -> Result<bool, Status> {
    let namespace = request.attributes.namespace.as_str();
    if namespace.is_empty() || request.is_any(NAMESPACES) {
        return Ok(false);
    }
    Ok(objects.get(NAMESPACES, "", namespace).await?.is_none()
        && objects.get_latest(NAMESPACES, "", namespace).await?.is_none())
}

#[async_trait]
impl Plugin for NamespaceExists {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        match is_missing(&*self.objects, request).await? {
            true => Err(Status::not_found(&NAMESPACES.group_name(), &request.attributes.namespace)),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Plugin for NamespaceAutoProvision {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if request.dry_run || !is_missing(&*self.objects, request).await? {
            return Ok(());
        }
        let name = request.attributes.namespace.as_str();
        let mut namespace = objects::new_object("v1", "Namespace", "", name, Timestamp::now());
        namespace.metadata_mut().insert("labels".to_owned(), json!({"kubernetes.io/metadata.name": name}));
        namespace.set("spec", json!({"finalizers": ["kubernetes"]}));
        namespace.set("status", json!({"phase": "Active"}));
        objects::ensure(&*self.objects, NAMESPACES, namespace).await
    }
}
