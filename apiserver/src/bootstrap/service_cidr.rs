//! The default ServiceCIDR, named `kubernetes`, stating `--service-cluster-ip-range` (KEP-1880).

use jiff::Timestamp;
use serde_json::json;

use super::Facts;
use crate::{
    objects::{Objects, SERVICE_CIDRS, ensure as ensure_object, new_object, rfc3339},
    status::Status,
};

/// Creates it if missing; a different one is left alone, as upstream does.
pub async fn ensure(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let mut cidr = new_object("networking.k8s.io/v1", "ServiceCIDR", "", "kubernetes", now);
    let ranges: Vec<String> = facts.service_ranges.iter().map(ToString::to_string).collect();
    cidr.metadata_mut().insert("finalizers".to_owned(), json!(["networking.k8s.io/service-cidr-finalizer"]));
    cidr.set("spec", json!({"cidrs": ranges}));
    cidr.set(
        "status",
        json!({"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": rfc3339(now),
            "message": "Kubernetes default Service CIDR is ready",
        }]}),
    );
    ensure_object(objects, SERVICE_CIDRS, cidr).await
}
