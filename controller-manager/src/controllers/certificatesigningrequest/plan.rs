//! What may be approved and signed, and what is old.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::Pem,
    prelude::FromDer,
};

const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signers by name, and the infix of their flags.
const SIGNERS: &[(&str, &str)] = &[
    ("kubernetes.io/kubelet-serving", "kubelet-serving"),
    (KUBELET_CLIENT, "kubelet-client"),
    ("kubernetes.io/kube-apiserver-client", "kube-apiserver-client"),
    ("kubernetes.io/legacy-unknown", "legacy-unknown"),
];
/// What kubelets may do without being asked: the permission it takes, and the message.
const SELF: (&str, &str) =
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const NODE: (&str, &str) =
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

const DECIDED_FOR: SignedDuration = SignedDuration::from_hours(1);
const PENDING_FOR: SignedDuration = SignedDuration::from_hours(24);

/// Why a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ParseError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    #[error("not a certificate request: {0}")]
    Der(String),
}

/// Who asks for what.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    common_name: String,
    organizations: Vec<String>,
    dns: usize,
    ips: usize,
    emails: usize,
    uris: usize,
}

/// The bytes of the request within its PEM.
pub(super) fn der(pem: &[u8]) -> Result<Vec<u8>, ParseError> {
    let blocks = Pem::iter_from_buffer(pem).filter_map(Result::ok);
    let block = { blocks }.next().filter(|b| b.label == "CERTIFICATE REQUEST");
    block.map(|b| b.contents).ok_or(ParseError::Pem)
}

fn parse(request: &CertificateSigningRequest) -> Result<Asked, ParseError> {
    let der = der(&request.spec.request.0)?;
    let broken = |e: &dyn std::fmt::Display| ParseError::Der(e.to_string());
    let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|e| broken(&e))?;
    let subject = &parsed.certification_request_info.subject;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned);
    let mut asked = Asked {
        // Of several the last one counts, as Go reads them.
        common_name: subject.iter_common_name().last().and_then(|cn| text(cn).ok()).unwrap_or_default(),
        organizations: subject.iter_organization().filter_map(|o| text(o).ok()).collect(),
        ..Asked::default()
    };
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) => asked.dns += 1,
                GeneralName::IPAddress(_) => asked.ips += 1,
                GeneralName::RFC822Name(_) => asked.emails += 1,
                GeneralName::URI(_) => asked.uris += 1,
                _ => {}
            }
        }
    }
    Ok(asked)
}

/// All conditions.
pub(super) fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).iter().any(|c| c.type_ == kind)
}

/// Whether there is a certificate.
pub(super) fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

/// The signer that has something to do here, by the infix of its flags.
pub(super) fn signer(request: &CertificateSigningRequest) -> Option<&'static str> {
    let waits =
        has(request, "Approved") && !has(request, "Denied") && !has(request, "Failed") && !is_issued(request);
    let known = SIGNERS.iter().find(|(name, _)| *name == request.spec.signer_name);
    known.filter(|_| waits).map(|(_, infix)| *infix)
}

/// Whether the signer signs such a request; otherwise why not.
pub(super) fn check(request: &CertificateSigningRequest) -> Result<Result<(), String>, ParseError> {
    let asked = parse(request)?;
    let usages = usages(request);
    Ok(match signer(request) {
        Some("kubelet-serving") => kubelet_serving(&asked, &usages),
        Some("kubelet-client") => kubelet_client(&asked, &usages),
        Some("kube-apiserver-client") => api_client(&usages),
        _ => Ok(()),
    })
}

/// Permissions that would let the request be approved, in the order to try them.
pub(super) fn self_service(
    request: &CertificateSigningRequest,
) -> Result<Vec<(&'static str, &'static str)>, ParseError> {
    if is_issued(request) || has(request, "Approved") || has(request, "Denied") {
        return Ok(Vec::new());
    }
    let asked = parse(request)?;
    let is_kubelet =
        request.spec.signer_name == KUBELET_CLIENT && kubelet_client(&asked, &usages(request)).is_ok();
    if !is_kubelet {
        return Ok(Vec::new());
    }
    let own = request.spec.username.as_deref() == Some(asked.common_name.as_str());
    Ok(if own { vec![SELF, NODE] } else { vec![NODE] })
}

fn usages(request: &CertificateSigningRequest) -> BTreeSet<&str> {
    request.spec.usages.iter().flatten().map(String::as_str).collect()
}

fn of_a_node(asked: &Asked) -> Result<(), String> {
    if asked.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    Ok(())
}

fn name_of_a_node(asked: &Asked) -> Result<(), String> {
    if !asked.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".into());
    }
    Ok(())
}

fn none(count: usize, what: &str) -> Result<(), String> {
    if count > 0 { Err(format!("{what} are not allowed")) } else { Ok(()) }
}

/// With or without the usage that only RSA keys need.
fn exactly(usages: &BTreeSet<&str>, purpose: &str) -> Result<(), String> {
    let mut needed = BTreeSet::from(["digital signature", purpose]);
    if *usages == needed {
        return Ok(());
    }
    needed.insert("key encipherment");
    if *usages == needed {
        return Ok(());
    }
    let list = needed.into_iter().collect::<Vec<_>>().join(" ");
    Err(format!("usages did not match [{list}]"))
}

fn kubelet_serving(asked: &Asked, usages: &BTreeSet<&str>) -> Result<(), String> {
    of_a_node(asked)?;
    if asked.dns == 0 && asked.ips == 0 {
        return Err("DNS or IP subjectAltName is required".into());
    }
    none(asked.emails, "Email subjectAltNames")?;
    none(asked.uris, "URI subjectAltNames")?;
    exactly(usages, "server auth")?;
    name_of_a_node(asked)
}

fn kubelet_client(asked: &Asked, usages: &BTreeSet<&str>) -> Result<(), String> {
    of_a_node(asked)?;
    none(asked.dns, "DNS subjectAltNames")?;
    none(asked.emails, "Email subjectAltNames")?;
    none(asked.ips, "IP subjectAltNames")?;
    none(asked.uris, "URI subjectAltNames")?;
    name_of_a_node(asked)?;
    exactly(usages, "client auth")
}

fn api_client(usages: &BTreeSet<&str>) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|u| !allowed.contains(u)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.contains("client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

/// Whether a request is to be removed: decided an hour ago, undecided or unsigned for a day, or its certificate is
/// no longer valid.
pub(super) fn is_old(request: &CertificateSigningRequest, now: Timestamp) -> bool {
    let older = |time: Option<&Time>, than| time.is_some_and(|t| now.duration_since(t.0) > than);
    let issued = is_issued(request);
    let conditions = conditions(request);
    let decided = conditions.iter().any(|c| match c.type_.as_str() {
        "Approved" if issued => older(c.last_update_time.as_ref(), DECIDED_FOR) || is_expired(request, now),
        "Approved" => older(c.last_update_time.as_ref(), PENDING_FOR),
        "Denied" | "Failed" => older(c.last_update_time.as_ref(), DECIDED_FOR),
        _ => false,
    });
    decided || (conditions.is_empty() && older(request.metadata.creation_timestamp.as_ref(), PENDING_FOR))
}

fn is_expired(request: &CertificateSigningRequest, now: Timestamp) -> bool {
    let Some(pem) = request.status.as_ref().and_then(|s| s.certificate.as_ref()) else { return false };
    let mut blocks = Pem::iter_from_buffer(&pem.0).filter_map(Result::ok);
    let expires = |block: Pem| Some(block.parse_x509().ok()?.validity().not_after.timestamp());
    blocks.next().and_then(expires).is_some_and(|end| now.as_second() > end)
}

#[cfg(test)]
mod tests;
