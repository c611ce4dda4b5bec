//! NamespaceLifecycle: no new objects in missing or terminating namespaces; three namespaces stay.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Operation, Parts, Plugin, Request, text};
use crate::{
    objects::{NAMESPACES, Objects},
    status::{Cause, Status},
};

pub(super) const NAME: &str = "NamespaceLifecycle";

/// Namespaces nobody deletes.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

struct NamespaceLifecycle {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(NamespaceLifecycle { objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if request.is_any(NAMESPACES) {
            let immortal = IMMORTAL.contains(&request.attributes.name.as_str());
            return match request.operation {
                Operation::Delete if immortal => Err(request.forbid("this namespace may not be deleted")),
                _ => Ok(()),
            };
        }
        let namespace = request.attributes.namespace.as_str();
        let review = request.resource.group == "authorization.k8s.io";
        if namespace.is_empty() || request.operation == Operation::Delete || review {
            return Ok(());
        }
        // The cache of this server lags by milliseconds; where it would refuse, etcd is asked.
        let mut found = self.objects.get(NAMESPACES, "", namespace).await?;
        if found.is_none() {
            found = self.objects.get_latest(NAMESPACES, "", namespace).await?;
        }
        let Some(found) = found else {
            return Err(Status::not_found(&NAMESPACES.group_name(), namespace));
        };
        if request.operation != Operation::Create || text(&found, "/status/phase") != "Terminating" {
            return Ok(());
        }
        let mut refusal = request.forbid(format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        ));
        refusal.details.get_or_insert_default().causes.push(Cause {
            kind: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
        Err(refusal)
    }
}
