//! What is wrong with a certificate signing request and with what is decided about it.
//!
//! Contract: certificates/v1 `CertificateSigningRequest`: only `approval` decides, only `status` signs, once.

use base64::{Engine, prelude::BASE64_STANDARD};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::pem;
use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        kit::{at::At, semantic},
        pod_spec::check_signer,
    },
};

/// What a certificate may be for.
pub(crate) const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];
/// Seconds a certificate lasts at least.
const SHORTEST: i64 = 600;

/// What an old request breaks, which then stays allowed.
#[derive(Clone, Copy, Default)]
struct Allowed {
    contradiction: bool,
    legacy_signer: bool,
    repeated_conditions: bool,
    nameless_conditions: bool,
    any_certificate: bool,
    repeated_usages: bool,
    unknown_usages: bool,
}

impl Allowed {
    fn by(new: &Object, old: &Object) -> Self {
        let (spec, status) = (At::spec(old), At::status(old));
        let kinds: Vec<&str> = status.get("conditions").items().map(|c| c.text_of("type")).collect();
        let usages: Vec<&str> = spec.get("usages").items().map(|usage| usage.text()).collect();
        let certificate = status.text_of("certificate");
        Self {
            contradiction: DECISIONS.iter().all(|decision| kinds.contains(decision)),
            legacy_signer: spec.text_of("signerName") == LEGACY,
            repeated_conditions: has_twice(&kinds),
            nameless_conditions: kinds.contains(&""),
            any_certificate: At::status(new).text_of("certificate") == certificate
                || certificate_error(certificate).is_some(),
            repeated_usages: has_twice(&usages),
            unknown_usages: usages.iter().any(|usage| !USAGES.contains(usage)),
        }
    }
}

fn has_twice(list: &[&str]) -> bool {
    list.iter().enumerate().any(|(i, one)| list[..i].contains(one))
}

/// A new request.
pub(super) fn check_new(request: &Object, errors: &mut ErrorList) {
    check(request, Allowed::default(), errors);
}

fn check(request: &Object, allowed: Allowed, errors: &mut ErrorList) {
    let (spec, status) = (At::spec(request), At::status(request));
    let asked = spec.get("request");
    if let Some(wrong) = request_error(asked.text()) {
        asked.invalid_as(errors, asked.text(), wrong);
    }
    let usages = spec.get("usages");
    usages.check_required(errors);
    if !allowed.unknown_usages {
        usages.items().for_each(|usage| usage.check_is_one_of(errors, USAGES));
    }
    let mut seen = Vec::new();
    for usage in usages.items().filter(|_| !allowed.repeated_usages) {
        if seen.contains(&usage.text()) {
            usage.duplicate(errors);
        }
        seen.push(usage.text());
    }
    let signer = spec.get("signerName");
    if !allowed.legacy_signer && signer.text() == LEGACY {
        signer.invalid(errors, "the legacy signerName is not allowed via this API version");
    } else if signer.check_required(errors) {
        check_signer(&signer, errors);
    }
    let seconds = spec.get("expirationSeconds");
    if seconds.number().is_some_and(|seconds| seconds < SHORTEST) {
        seconds.invalid(errors, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    check_conditions(&status.get("conditions"), allowed, errors);
    let certificate = status.get("certificate");
    if !allowed.any_certificate
        && let Some(wrong) = certificate_error(certificate.text())
    {
        certificate.invalid_as(errors, "<certificate data>", wrong);
    }
}

fn check_conditions(conditions: &At<'_>, allowed: Allowed, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in conditions.items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        if !allowed.nameless_conditions {
            kind.check_required(errors);
        }
        let values: &[&str] =
            if LASTING.contains(&kind.text()) { &["True"] } else { &["False", "True", "Unknown"] };
        status.check_one_of(errors, values);
        let other = match kind.text() {
            "Approved" => Some("Denied"),
            "Denied" => Some("Approved"),
            _ => None,
        };
        if !allowed.contradiction && other.is_some_and(|other| seen.contains(&other)) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            conditions.invalid_as(errors, kind.text(), detail);
        }
        if !allowed.repeated_conditions && seen.contains(&kind.text()) {
            errors.push(Error::duplicate(kind.path(), kind.text()));
        }
        seen.push(kind.text());
    }
}

/// A request after a change through the object itself, its status or its approval.
pub(super) fn check_change(new: &Object, old: &Object, subresource: &str, errors: &mut ErrorList) {
    check(new, Allowed::by(new, old), errors);
    let (conditions, before) = (At::status(new).get("conditions"), At::status(old).get("conditions"));
    let of = |list: &At<'_>, kind: &str| -> Vec<serde_json::Value> {
        list.items().filter(|c| c.text_of("type") == kind).map(|c| c.value().clone()).collect()
    };
    for kind in LASTING {
        if of(&conditions, kind).len() < of(&before, kind).len() {
            conditions.forbidden(errors, format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    for kind in DECISIONS.into_iter().filter(|_| subresource != "approval") {
        let (is, was) = (of(&conditions, kind), of(&before, kind));
        if is.len() > was.len() {
            conditions.forbidden(errors, format!("updates may not add a condition of type {kind:?}"));
        } else if is.len() == was.len() {
            let changes = semantic::differences(&was.into(), &is.into());
            if !changes.is_empty() {
                let changes = changes.join("\n");
                let detail = format!("updates may not modify a condition of type {kind:?}\n{changes}");
                conditions.forbidden(errors, detail);
            }
        }
    }
    let (certificate, issued) = (At::status(new).get("certificate"), At::status(old).text_of("certificate"));
    if certificate.text() != issued {
        if subresource != "status" {
            certificate.forbidden(errors, "updates may not set certificate content");
        } else if !issued.is_empty() {
            certificate.forbidden(errors, "updates may not modify existing certificate content");
        }
    }
}

/// What is wrong with a request: base64 of a PEM block, signed by the key it names.
fn request_error(text: &str) -> Option<String> {
    const KIND: &str = "PEM block type must be CERTIFICATE REQUEST";
    let bytes = BASE64_STANDARD.decode(text).unwrap_or_default();
    let first = pem::blocks(&String::from_utf8_lossy(&bytes)).into_iter().next();
    let Some(pem) = first.filter(|block| block.label == "CERTIFICATE REQUEST") else {
        return Some(KIND.to_owned());
    };
    let request = match X509CertificationRequest::from_der(&pem.contents) {
        Ok((_, request)) => request,
        Err(error) => return Some(error.to_string()),
    };
    request.verify_signature().err().map(|error| error.to_string())
}

/// What is wrong with an issued certificate: base64 of PEM blocks, certificates all.
fn certificate_error(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let bytes = BASE64_STANDARD.decode(text).unwrap_or_default();
    let blocks = pem::blocks(&String::from_utf8_lossy(&bytes));
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.has_headers {
            return Some("no PEM block headers are permitted".to_owned());
        }
        if let Err(error) = x509_parser::parse_x509_certificate(&block.contents) {
            return Some(error.to_string());
        }
    }
    blocks.is_empty().then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}
