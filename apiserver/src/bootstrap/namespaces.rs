//! The system namespaces.

use jiff::Timestamp;
use serde_json::json;

use crate::{
    objects::{NAMESPACES, Objects, ensure as ensure_object, new_object},
    status::Status,
};

const NAMES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "default"];

/// Creates the missing ones.
pub async fn ensure(objects: &dyn Objects, now: Timestamp) -> Result<(), Status> {
    for name in NAMES {
        let mut namespace = new_object("v1", "Namespace", "", name, now);
        namespace.metadata_mut().insert("labels".to_owned(), json!({"kubernetes.io/metadata.name": name}));
        namespace.set("spec", json!({"finalizers": ["kubernetes"]}));
        namespace.set("status", json!({"phase": "Active"}));
        ensure_object(objects, NAMESPACES, namespace).await?;
    }
    Ok(())
}
