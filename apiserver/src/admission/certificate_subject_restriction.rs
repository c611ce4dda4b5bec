//! CertificateSubjectRestriction: nobody requests an API client certificate for `system:masters`.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use x509_parser::{certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer};

use super::{Parts, Plugin, Request, text};
use crate::{objects::Kind, status::Status};

pub(super) const NAME: &str = "CertificateSubjectRestriction";
pub(super) const CSRS: Kind = Kind { group: "certificates.k8s.io", resource: "certificatesigningrequests" };

struct CertificateSubjectRestriction;

/// What a certificate request asks to be called.
pub(super) struct Subject {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
}

pub(super) fn new(_parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(CertificateSubjectRestriction)
}

/// The subject of `spec.request`: base64 of a PEM certificate request.
pub(super) fn subject(request: &str) -> Option<Subject> {
    let bytes = BASE64_STANDARD.decode(request).ok()?;
    let (_, pem) = parse_x509_pem(&bytes).ok()?;
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &csr.certification_request_info.subject;
    let common_name = subject.iter_common_name().last().and_then(|a| a.as_str().ok()).unwrap_or_default();
    let organizations =
        subject.iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect();
    Some(Subject { common_name: common_name.to_owned(), organizations })
}

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(csr) = request.object.as_deref().filter(|_| request.is(CSRS)) else { return Ok(()) };
        let signer = "kubernetes.io/kube-apiserver-client";
        if text(csr, "/spec/signerName") != signer {
            return Ok(());
        }
        let Some(subject) = subject(text(csr, "/spec/request")) else {
            return Err(request.forbid("failed to parse CSR"));
        };
        if subject.organizations.iter().any(|o| o == "system:masters") {
            return Err(
                request.forbid(format!("use of {signer} signer with system:masters group is not allowed"))
            );
        }
        Ok(())
    }
}
