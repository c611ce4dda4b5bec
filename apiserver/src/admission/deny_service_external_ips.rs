//! DenyServiceExternalIPs: no new `spec.externalIPs` on services (CVE-2020-8554).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{Parts, Plugin, Request};
use crate::{object::Object, objects::SERVICES, status::Status};

pub(super) const NAME: &str = "DenyServiceExternalIPs";

struct DenyServiceExternalIps;

pub(super) fn new(_parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(DenyServiceExternalIps)
}

#[async_trait]
impl Plugin for DenyServiceExternalIps {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(SERVICES) {
            return Ok(());
        }
        let ips = |object: Option<&Object>| -> Vec<Value> {
            object.and_then(|o| o.pointer("/spec/externalIPs")?.as_array().cloned()).unwrap_or_default()
        };
        let had = ips(request.old);
        if ips(request.object.as_deref()).iter().all(|ip| had.contains(ip)) {
            return Ok(());
        }
        Err(request.forbid("Use of external IPs is denied by admission control."))
    }
}
