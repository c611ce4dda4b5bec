//! CertificateSigning: who puts a certificate or a failure into a request needs `sign` on its signer.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    Parts, Plugin, Request, certificate_approval::may, certificate_subject_restriction::CSRS, items, text,
};
use crate::{auth::Authorizer, object::Object, status::Status};

pub(super) const NAME: &str = "CertificateSigning";

struct CertificateSigning {
    authorizer: Arc<dyn Authorizer>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(CertificateSigning { authorizer: parts.authorizer.clone() })
}

#[async_trait]
impl Plugin for CertificateSigning {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is_any(CSRS) || request.attributes.subresource != "status" {
            return Ok(());
        }
        let (Some(new), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
        let failed = |o: &Object| -> Vec<Value> {
            let of = |c: &&Value| c.get("type").and_then(Value::as_str) == Some("Failed");
            items(o, "/status/conditions").filter(of).cloned().collect()
        };
        if text(new, "/status/certificate") == text(old, "/status/certificate") && failed(new) == failed(old)
        {
            return Ok(());
        }
        let signer = text(old, "/spec/signerName");
        if may(&*self.authorizer, request.attributes, "sign", signer).await {
            return Ok(());
        }
        Err(request.forbid(format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}
