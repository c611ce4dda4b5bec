//! Names of this group: drivers, pools, devices, their attributes and shares.
//!
//! Contract: resource.k8s.io/v1 `QualifiedName`, `FullyQualifiedName`, `ResourcePool`.

use crate::{
    field::{Error, ErrorList},
    registry::{
        kit::{at::At, format},
        pod_spec::sources,
    },
    validate,
};

const MAX_ID: usize = 32;

/// The name of a driver.
pub(super) fn check_driver(driver: &At<'_>, errors: &mut ErrorList) {
    sources::check_driver(driver, errors);
}

/// The name of a pool: subdomains with slashes between them.
pub(super) fn check_pool(pool: &At<'_>, errors: &mut ErrorList) {
    if !pool.check_required(errors) {
        return;
    }
    pool.check_length(errors, validate::DNS_SUBDOMAIN_MAX);
    for part in pool.text().split('/') {
        format::dns_subdomain(part).into_iter().for_each(|detail| pool.invalid_as(errors, part, detail));
    }
}

/// The three names that lead to a device.
pub(super) fn check_device(of: &At<'_>, errors: &mut ErrorList) {
    check_driver(&of.get("driver"), errors);
    check_pool(&of.get("pool"), errors);
    of.get("device").check_format(errors, format::dns_label);
}

/// The share of a device, as a UID in its normal form.
pub(super) fn check_share(share: &At<'_>, errors: &mut ErrorList) {
    if !share.is_set() {
        return;
    }
    let text = share.text();
    let dashes = [8, 13, 18, 23];
    let shaped = text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(i, b)| if dashes.contains(&i) { b == b'-' } else { b.is_ascii_hexdigit() });
    if !shaped {
        share.invalid(errors, format!("error validating uid: invalid UUID length: {}", text.len()));
    } else if text.bytes().any(|b| b.is_ascii_uppercase()) {
        share.invalid(
            errors,
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
             hexadecimal characters",
        );
    }
}

/// What is wrong with the name of an attribute, told at a path: an identifier, perhaps of a domain.
pub(super) fn check_qualified(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => check_identifier(id, at, errors),
        [domain, id] => {
            if domain.is_empty() {
                at.invalid_as(errors, "", "the domain must not be empty");
            } else {
                if domain.len() > 63 {
                    errors.push(Error::too_long(at.path(), 63));
                }
                for detail in format::dns_subdomain(&domain.to_lowercase()) {
                    at.invalid_as(errors, *domain, detail);
                }
            }
            if id.is_empty() {
                at.invalid_as(errors, "", "the name must not be empty");
            } else {
                check_identifier(id, at, errors);
            }
        }
        _ => {}
    }
}

/// An attribute with its domain.
pub(super) fn check_full(name: &At<'_>, errors: &mut ErrorList) {
    check_qualified(name.text(), name, errors);
    if !name.text().contains('/') {
        name.invalid(errors, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

fn check_identifier(id: &str, at: &At<'_>, errors: &mut ErrorList) {
    if id.len() > MAX_ID {
        errors.push(Error::too_long(at.path(), MAX_ID));
    }
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        at.invalid_as(
            errors,
            id,
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
             characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is \
             '[A-Za-z_][A-Za-z0-9_]*')",
        );
    }
}
