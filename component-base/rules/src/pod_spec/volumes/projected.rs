//! Projected volumes: files of several sources in one directory, none over another.
//!
//! Contract: core/v1 `ProjectedVolumeSource`; trust bundles are KEP-3257, pod certificates KEP-4317.

use std::collections::BTreeSet;

use super::{check_mode, downward_file, key_to_path};
use crate::{
    at::At,
    field::{Error, ErrorList, Path},
    format,
    pod_spec::validation::Whole,
    validate,
};

const KINDS: &[&str] =
    &["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const DAY: i64 = 24 * 60 * 60;
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Paths of files so far.
struct Files<'v> {
    volume: Path,
    taken: BTreeSet<&'v str>,
}

impl<'v> Files<'v> {
    /// Takes a path; a second taker is told by what names it.
    fn take(&mut self, path: &'v str, by: &str, errors: &mut ErrorList) {
        if !self.taken.insert(path) {
            errors.push(Error::invalid(&self.volume, by, "conflicting duplicate paths"));
        }
    }
}

/// A projected volume.
pub(super) fn check(source: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    check_mode(&source.get("defaultMode"), errors);
    let mut files = Files { volume: source.path().clone(), taken: BTreeSet::new() };
    for one in source.get("sources").items() {
        for kind in KINDS.iter().filter(|kind| one.has(kind)) {
            let at = one.get(kind);
            match *kind {
                "secret" | "configMap" => keys(&at, &mut files, errors),
                "downwardAPI" => downward(&at, &mut files, errors),
                "serviceAccountToken" => token(&at, source, whole, errors),
                "clusterTrustBundle" => trust_bundle(&at, &mut files, errors),
                _ => certificate(&at, &mut files, errors),
            }
        }
        if KINDS.iter().filter(|kind| one.has(kind)).count() > 1 {
            one.forbidden(errors, "may not specify more than 1 volume type per source");
        }
    }
}

fn keys<'v>(at: &At<'v>, files: &mut Files<'v>, errors: &mut ErrorList) {
    at.get("name").check_required(errors);
    for item in at.get("items").items() {
        key_to_path(&item, errors);
        let path = item.text_of("path");
        if !path.is_empty() {
            files.take(path, at.text_of("name"), errors);
        }
    }
}

fn downward<'v>(at: &At<'v>, files: &mut Files<'v>, errors: &mut ErrorList) {
    for file in at.get("items").items() {
        downward_file(&At::new(file.value(), at.path().clone()), errors);
        let path = file.text_of("path");
        if !path.is_empty() {
            files.take(path, path, errors);
        }
    }
}

fn token(at: &At<'_>, volume: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    let expiration = at.get("expirationSeconds");
    if expiration.int() < 600 {
        let detail = "may not specify a duration less than 10 minutes";
        expiration.invalid_as(errors, expiration.int(), detail);
    }
    if expiration.int() > 1 << 32 {
        expiration.invalid(errors, "may not specify a duration larger than 2^32 seconds");
    }
    let path = at.get("path").named(volume.path().child("path"));
    if path.is_empty() {
        path.required(errors, "");
    } else if !whole.allowed.token_paths {
        path.check_format(errors, format::volume_path);
    }
}

fn trust_bundle<'v>(at: &At<'v>, files: &mut Files<'v>, errors: &mut ErrorList) {
    let (name, signer) = (at.get("name"), at.get("signerName"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => at.invalid(errors, "only one of name and signerName may be used"),
        (true, false) => {
            if name.is_empty() {
                name.required(errors, "must be a valid object name");
            }
            for detail in bundle_name(name.text()) {
                name.invalid(errors, format!("not a valid clustertrustbundlename: {detail}"));
            }
            let selector = at.get("labelSelector");
            if selector.is_set() {
                selector.invalid(errors, "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.is_empty() {
                signer.required(errors, "must be a valid signer name");
            }
            check_signer(&signer, errors);
            at.get("labelSelector").check_selector(errors);
        }
        (false, false) => at.required(errors, "either name or signerName must be specified"),
    }
    let path = at.get("path");
    path.check_required(errors);
    path.check_format(errors, format::volume_path);
    files.take(path.text(), path.text(), errors);
}

/// Errors of the name of a trust bundle: a signer's has the signer before its last colon.
fn bundle_name(name: &str) -> Vec<String> {
    match name.rsplit_once(':') {
        Some(("", rest)) if rest.contains(':') => Vec::new(),
        Some(("", _)) => {
            vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()]
        }
        Some((_, rest)) => validate::dns_subdomain(rest, false),
        None => validate::dns_subdomain(name, false),
    }
}

fn certificate<'v>(at: &At<'v>, files: &mut Files<'v>, errors: &mut ErrorList) {
    let signer = at.get("signerName");
    check_signer(&signer, errors);
    let annotations = at.get("userAnnotations");
    for (key, _) in annotations.entries() {
        domain_key(&annotations, &key.to_lowercase(), errors);
    }
    let size: usize = annotations.entries().map(|(key, value)| key.len() + value.text().len()).sum();
    if size > MAX_ANNOTATIONS {
        errors.push(Error::too_long(annotations.path(), MAX_ANNOTATIONS));
    }
    let key = at.get("keyType");
    if !KEY_TYPES.contains(&key.text()) {
        key.not_among(errors, KEY_TYPES);
    }
    if let Some(seconds) = at.get("maxExpirationSeconds").number() {
        let host = signer.text().split('/').next().unwrap_or_default();
        let own = host == "kubernetes.io" || host.ends_with(".kubernetes.io");
        let most = if own { DAY } else { 91 * DAY };
        let at = at.get("maxExpirationSeconds");
        if seconds < 3600 {
            at.invalid(errors, "if provided, maxExpirationSeconds must be >= 3600");
        }
        if seconds > most {
            at.invalid(errors, format!("if provided, maxExpirationSeconds must be <= {most}"));
        }
    }
    let paths = ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|field| at.get(field));
    for path in paths.iter().filter(|path| !path.is_empty()) {
        path.check_format(errors, format::volume_path);
        files.take(path.text(), path.text(), errors);
    }
    if paths.iter().all(At::is_empty) {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        at.required(errors, detail);
    }
}

fn domain_key(at: &At<'_>, key: &str, errors: &mut ErrorList) {
    if key.is_empty() {
        return at.required(errors, "");
    }
    let wrong = format::qualified_name(key);
    if wrong.is_empty() && !key.contains('/') {
        at.invalid_as(errors, key, "must be a domain-prefixed key (such as \"acme.io/foo\")");
    }
    wrong.into_iter().for_each(|detail| at.invalid_as(errors, key, detail));
}

/// The name of a signer: `domain/path`.
pub fn check_signer(signer: &At<'_>, errors: &mut ErrorList) {
    let name = signer.text();
    if name.is_empty() {
        return signer.required(errors, "");
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return signer.invalid(errors, detail);
    };
    if domain.len() > validate::DNS_SUBDOMAIN_MAX {
        errors.push(Error::too_long(signer.path(), validate::DNS_SUBDOMAIN_MAX));
    }
    let first_wrong = |part: &str, format: fn(&str, bool) -> Vec<String>| {
        let wrong = part.split('.').map(|label| (label.to_owned(), format(label, false)));
        wrong.into_iter().find(|(_, errors)| !errors.is_empty())
    };
    let mut tell = |part: &str, found: Option<(String, Vec<String>)>| {
        if let Some((label, details)) = found {
            for detail in details {
                signer.invalid_as(errors, part, format!("validating label {label:?}: {detail}"));
            }
        }
    };
    tell(domain, first_wrong(domain, validate::dns_label));
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        signer.invalid_as(errors, domain, detail);
    }
    let mut tell = |part: &str, found: Option<(String, Vec<String>)>| {
        if let Some((label, details)) = found {
            for detail in details {
                signer.invalid_as(errors, part, format!("validating label {label:?}: {detail}"));
            }
        }
    };
    tell(path, first_wrong(path, validate::dns_subdomain));
    if name.len() > 571 {
        errors.push(Error::too_long(signer.path(), 571));
    }
}
