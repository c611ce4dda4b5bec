//! `podcertificaterequests` of certificates.k8s.io.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use component_base::features::Gate;
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::{
    certification_request::X509CertificationRequest,
    prelude::{FromDer, GeneralName, X509Certificate},
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::{pem, possession};
use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        Column, Resource, SelectableField, Subresource,
        kit::{Cell, Rules, at::At, column, conditions, format, items, semantic, text},
        pod_spec::check_signer,
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("PodName", "string"),
    column("ServiceAccountName", "string"),
    column("NodeName", "string"),
    column("SignerName", "string"),
    column("State", "string"),
    column("UnverifiedUserAnnotations", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/podName", ""),
    Cell::Field("/spec/serviceAccountName", ""),
    Cell::Field("/spec/nodeName", ""),
    Cell::Field("/spec/signerName", ""),
    Cell::With(state),
    Cell::Pairs("/spec/unverifiedUserAnnotations"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta1"],
        storage_version: "v1beta1",
        subresources: &[Subresource::Status],
        selectable: const {
            &[
                SelectableField::at("spec.signerName", "/spec/signerName"),
                SelectableField::at("spec.nodeName", "/spec/nodeName"),
                SelectableField::at("spec.podName", "/spec/podName"),
            ]
        },
        columns: COLUMNS,
        gate: Some(Gate::PodCertificateRequest),
        strategy: Arc::new(Rules {
            validate_new,
            validate_change,
            validate_status,
            validate_status_at,
            unconditional_update: false,
            ..Rules::apart(CELLS)
        }),
        ..Resource::of(
            "certificates.k8s.io",
            "PodCertificateRequest",
            "podcertificaterequests",
            "podcertificaterequest",
        )
    }
}

/// What came of the request.
fn state(request: &Object) -> Value {
    let kinds = items(request.pointer("/status/conditions")).map(|condition| text(condition, "/type"));
    kinds.filter(|kind| matches!(*kind, "Issued" | "Denied" | "Failed")).last().unwrap_or("Pending").into()
}

const MAX_UID: usize = 128;
const MAX_REQUEST: usize = 10 * 1024;
const MAX_CHAIN: usize = 100 * 1024;
const HOUR: i64 = 3600;
/// Curves keys may be on: P-256, P-384 and P-521.
const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];

fn validate_new(request: &Object, errors: &mut ErrorList) {
    let spec = At::spec(request);
    let signer = spec.get("signerName");
    if signer.check_required(errors) {
        check_signer(&signer, errors);
    }
    for (key, _) in spec.get("unverifiedUserAnnotations").entries() {
        let at = spec.get("unverifiedUserAnnotations");
        let lower = key.to_lowercase();
        let mut wrong = format::qualified_name(&lower);
        if wrong.is_empty() && !lower.contains('/') {
            wrong.push("must be a domain-prefixed key (such as \"acme.io/foo\")".to_owned());
        }
        wrong.into_iter().for_each(|detail| at.invalid_as(errors, lower.clone(), detail));
    }
    for (name, uid) in
        [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")]
    {
        spec.get(name).check_format(errors, format::dns_subdomain);
        let uid = spec.get(uid);
        if uid.is_empty() {
            uid.invalid_as(errors, "", "must not be empty");
        }
        uid.check_length(errors, MAX_UID);
    }
    let longest = spec.get("maxExpirationSeconds");
    let Some(seconds) = longest.number() else { return longest.required(errors, "must be set") };
    let domain = signer.text().split('/').next().unwrap_or_default();
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let most = if own { 24 * HOUR } else { 91 * 24 * HOUR };
    if !(HOUR..=most).contains(&seconds) {
        longest.invalid(errors, format!("must be in the range [{HOUR}, {most}]"));
    }
    let stub = spec.get("stubPKCS10Request");
    match (stub.is_empty(), spec.get("pkixPublicKey").is_empty(), spec.get("proofOfPossession").is_empty()) {
        (false, true, true) => check_stub(&stub, errors),
        (true, false, false) => check_key(&spec, errors),
        _ => spec.invalid_omitted(
            errors,
            "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set",
        ),
    }
}

/// A request without content, signed by the key it is for.
fn check_stub(stub: &At<'_>, errors: &mut ErrorList) {
    let der = BASE64_STANDARD.decode(stub.text()).unwrap_or_default();
    if der.len() > MAX_REQUEST {
        return errors.push(Error::too_long(stub.path(), MAX_REQUEST));
    }
    let Ok((_, request)) = X509CertificationRequest::from_der(&der) else {
        return stub.invalid_omitted(errors, "must be a valid PKCS#10 CSR");
    };
    if !check_kind(stub, &request.certification_request_info.subject_pki, errors) {
        return;
    }
    if request.verify_signature().is_err() {
        stub.invalid_omitted(errors, "invalid signature");
    }
}

/// A key that clients of an older form send by itself, with the pod's UID signed by it.
fn check_key(spec: &At<'_>, errors: &mut ErrorList) {
    let (key, proof) = (spec.get("pkixPublicKey"), spec.get("proofOfPossession"));
    let der = BASE64_STANDARD.decode(key.text()).unwrap_or_default();
    let signature = BASE64_STANDARD.decode(proof.text()).unwrap_or_default();
    if der.len() > MAX_REQUEST {
        return errors.push(Error::too_long(key.path(), MAX_REQUEST));
    }
    if signature.len() > MAX_REQUEST {
        return errors.push(Error::too_long(proof.path(), MAX_REQUEST));
    }
    let Ok((_, info)) = SubjectPublicKeyInfo::from_der(&der) else {
        return key.invalid(errors, "must be a valid PKIX-serialized public key");
    };
    if check_kind(&key, &info, errors) && !possession::is_proven(&info, spec.text_of("podUID"), &signature) {
        proof.invalid_omitted(errors, "could not verify proof-of-possession signature");
    }
}

/// Whether a key is of a kind and a size that is taken.
fn check_kind(at: &At<'_>, key: &SubjectPublicKeyInfo<'_>, errors: &mut ErrorList) -> bool {
    const ED25519: &str = "1.3.101.112";
    let wrong = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if !matches!(rsa.key_size(), 3072 | 4096) => {
            let shown = format!("{}-bit modulus", rsa.key_size());
            Some((Some(shown), "RSA keys must have modulus size 3072 or 4096"))
        }
        Ok(PublicKey::RSA(_)) => None,
        Ok(PublicKey::EC(_)) => {
            let curve =
                key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
            let known = curve.as_deref().is_some_and(|curve| CURVES.contains(&curve));
            let shown = format!("curve {}", curve.unwrap_or_default());
            (!known).then_some((Some(shown), "elliptic public keys must use curve P256, P384, or P521"))
        }
        _ if key.algorithm.algorithm.to_id_string() == ED25519 => None,
        _ => Some((None, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")),
    };
    match wrong {
        Some((Some(shown), detail)) => at.invalid_as(errors, shown, detail),
        Some((None, detail)) => at.invalid_omitted(errors, detail),
        None => return true,
    }
    false
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(new), At::spec(old));
    if !semantic::same(was.value(), spec.value()) {
        spec.invalid(errors, "field is immutable");
    }
}

/// A request is issued, denied or failed, once, and all at once.
fn validate_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    const KINDS: &[&str] = &["Issued", "Denied", "Failed"];
    let (status, was) = (At::status(new), At::status(old));
    let mut wrong = ErrorList::new();
    let all = status.get("conditions");
    let mut known = 0;
    for (i, condition) in all.items().enumerate() {
        let at = |field: &'static str| {
            condition.get(field).named(all.path().child(&format!("[{i}]")).child(field))
        };
        let (kind, value) = (at("type"), at("status"));
        if !KINDS.contains(&kind.text()) {
            kind.check_is_one_of(&mut wrong, KINDS);
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = r#"There may be at most one condition with type "Issued", "Denied", or "Failed""#;
            kind.invalid(&mut wrong, detail);
        }
        value.check_is_one_of(&mut wrong, &["True"]);
    }
    conditions::check(&all, &mut wrong);
    if !wrong.is_empty() {
        return errors.extend(wrong);
    }
    let has = |object: &Object, kind: &str| {
        items(object.pointer("/status/conditions"))
            .any(|condition| text(condition, "/type") == kind && text(condition, "/status") == "True")
    };
    let same = semantic::same(was.value(), status.value());
    if KINDS.iter().any(|kind| has(old, kind)) {
        if !same {
            let detail = "immutable after PodCertificateRequest is issued, denied, or failed";
            status.invalid_omitted(errors, detail);
        }
    } else if has(new, "Denied") || has(new, "Failed") {
        if status.entries().any(|(field, value)| field != "conditions" && !value.is_empty()) {
            let detail =
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            status.invalid_omitted(errors, detail);
        }
    } else if has(new, "Issued") {
        check_issued(&status, &At::spec(new), errors);
    } else if !same {
        let detail = r#"status is immutable unless transitioning to "Issued", "Denied", or "Failed""#;
        status.invalid_omitted(errors, detail);
    }
}

/// What was issued: a chain of certificates, the first one to the key that asked, and its times.
fn check_issued(status: &At<'_>, spec: &At<'_>, errors: &mut ErrorList) {
    let chain = status.get("certificateChain");
    if chain.text().len() > MAX_CHAIN {
        return errors.push(Error::too_long(chain.path(), MAX_CHAIN));
    }
    let blocks = pem::blocks(chain.text());
    let Some((leaf, rest)) = blocks.split_first() else {
        return chain.invalid(errors, "issued certificate chain must contain at least one certificate");
    };
    if leaf.label != "CERTIFICATE" {
        return chain
            .invalid(errors, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks");
    }
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&leaf.contents) else {
        return chain.invalid(errors, "leaf certificate does not parse as valid X.509");
    };
    check_names(&certificate, &chain, errors);
    let der = |field: &str| BASE64_STANDARD.decode(spec.text_of(field)).unwrap_or_default();
    let (stub, key) = (der("stubPKCS10Request"), der("pkixPublicKey"));
    let asked = match X509CertificationRequest::from_der(&stub) {
        Ok((_, request)) => request.certification_request_info.subject_pki.raw.to_vec(),
        Err(_) => key,
    };
    if certificate.public_key().raw != asked {
        return chain.invalid(errors, "leaf certificate was not issued to the requested public key");
    }
    let issued =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    if check_times(status, &chain, spec, issued, errors) {
        for block in rest {
            if block.label != "CERTIFICATE" {
                let detail = "issued certificate chain must consist entirely of CERTFICATE PEM blocks";
                return chain.invalid(errors, detail);
            }
            if x509_parser::parse_x509_certificate(&block.contents).is_err() {
                return chain.invalid(errors, "intermediate certificate does not parse as valid X.509");
            }
        }
    }
}

/// Names in a certificate are names.
fn check_names(certificate: &X509Certificate<'_>, chain: &At<'_>, errors: &mut ErrorList) {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return };
    let names = &alternatives.value.general_names;
    for name in
        names.iter().filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None })
    {
        if name.is_empty() {
            chain.invalid_as(errors, name, "leaf certificate should not contain empty DNSName");
        }
        if name.contains("..") {
            chain.invalid_as(errors, name, "leaf certificate's DNSName should not contain '..'");
        }
        if name.starts_with('.') || name.ends_with('.') {
            chain.invalid_as(errors, name, "leaf certificate's DNSName should not start or end with '.'");
        }
    }
    for name in names
        .iter()
        .filter_map(|name| if let GeneralName::RFC822Name(name) = name { Some(*name) } else { None })
    {
        let is_address = name.rsplit_once('@').is_some_and(|(user, domain)| {
            !user.is_empty() && !domain.is_empty() && !name.contains(char::is_whitespace)
        });
        if !is_address {
            chain.invalid_as(errors, name, "leaf certificate should not contain invalid EmailAddress");
        }
    }
}

/// What was issued begins about now.
fn validate_status_at(new: &Object, old: &Object, now: Timestamp, errors: &mut ErrorList) {
    const NEAR: i64 = 300;
    let issued = |request: &Object| {
        items(request.pointer("/status/conditions"))
            .any(|condition| text(condition, "/type") == "Issued" && text(condition, "/status") == "True")
    };
    let before = At::status(new).get("notBefore");
    let Some(from) = before.time() else { return };
    let is_near = (from.as_second() - now.as_second()).abs() <= NEAR;
    if errors.is_empty() && issued(new) && !issued(old) && !is_near {
        before.invalid(errors, "must be set to within 5 minutes of kube-apiserver's current time");
    }
}

/// Whether the times told are those of the certificate, and leave room to renew it.
fn check_times(
    status: &At<'_>,
    chain: &At<'_>,
    spec: &At<'_>,
    (from, to): (i64, i64),
    errors: &mut ErrorList,
) -> bool {
    const MARGIN: i64 = 600;
    let [before, after, refresh] = ["notBefore", "notAfter", "beginRefreshAt"].map(|field| status.get(field));
    let mut complete = true;
    for (at, detail) in [
        (&before, "must be present and consistent with the issued certificate"),
        (&after, "must be present and consistent with the issued certificate"),
        (&refresh, "must be present and in the range [notbefore+10min, notafter-10min]"),
    ] {
        if at.is_empty() {
            at.required(errors, detail);
            complete = false;
        }
    }
    if !complete {
        return false;
    }
    let second = |at: &At<'_>| at.time().map_or(0, |time| time.as_second());
    let longest = spec.get("maxExpirationSeconds").int();
    if second(&before) != from {
        before.invalid(errors, "must be set to the NotBefore time encoded in the leaf certificate");
    } else if second(&after) != to {
        after.invalid(errors, "must be set to the NotAfter time encoded in the leaf certificate");
    } else if to - from < HOUR {
        chain.invalid_as(errors, to - from, "leaf certificate lifetime must be >= 1 hour");
    } else if to - from > longest {
        let detail = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({longest})");
        chain.invalid_as(errors, to - from, detail);
    } else if second(&refresh) < from + MARGIN {
        refresh.invalid(errors, "must be at least 10 minutes after status.notBefore");
    } else if second(&refresh) > to - MARGIN {
        refresh.invalid(errors, "must be at least 10 minutes before status.notAfter");
    } else {
        return true;
    }
    false
}
