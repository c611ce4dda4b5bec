//! CertificateApproval: who approves or denies a request needs the verb `approve` on its signer.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Parts, Plugin, Request, certificate_subject_restriction::CSRS, text};
use crate::{
    auth::{Attributes, Authorizer, Decision},
    status::Status,
};

pub(super) const NAME: &str = "CertificateApproval";

struct CertificateApproval {
    authorizer: Arc<dyn Authorizer>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(CertificateApproval { authorizer: parts.authorizer.clone() })
}

/// Whether the asker has a verb on a signer, by its name or by `<domain>/*`.
pub(super) async fn may(authorizer: &dyn Authorizer, request: &Attributes, verb: &str, signer: &str) -> bool {
    let wildcard = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
    for name in [Some(signer.to_owned()), wildcard].into_iter().flatten() {
        let asked = Attributes {
            user: request.user.clone(),
            verb: verb.into(),
            group: "certificates.k8s.io".into(),
            version: "*".into(),
            resource: "signers".into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        };
        if matches!(authorizer.authorize(&asked).await, Decision::Allow(_)) {
            return true;
        }
    }
    false
}

#[async_trait]
impl Plugin for CertificateApproval {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is_any(CSRS) || request.attributes.subresource != "approval" {
            return Ok(());
        }
        let signer = request.old.map_or("", |old| text(old, "/spec/signerName"));
        if may(&*self.authorizer, request.attributes, "approve", signer).await {
            return Ok(());
        }
        Err(request.forbid(format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}
