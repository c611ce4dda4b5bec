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
    if let Err(why) = check_uuid(text) {
        share.invalid(errors, format!("error validating uid: {why}"));
    } else if text.len() != 36 || text.bytes().any(|b| b.is_ascii_uppercase()) {
        share.invalid(
            errors,
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
             hexadecimal characters",
        );
    }
}

/// Whether a text is a UUID in any of the forms there are: plain, without dashes, in braces, or as a URN.
fn check_uuid(text: &str) -> Result<(), String> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    const URN: &str = "urn:uuid:";
    let plain = match text.len() {
        36 => text,
        45 => {
            let (prefix, rest) = text.split_at_checked(URN.len()).unwrap_or((text, ""));
            if !prefix.eq_ignore_ascii_case(URN) {
                return Err(format!("invalid urn prefix: {prefix:?}"));
            }
            rest
        }
        38 => text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .ok_or("invalid bracketed UUID format")?,
        32 => text,
        length => return Err(format!("invalid UUID length: {length}")),
    };
    let dashed = plain.len() == 36;
    let is_good = |(i, b): (usize, u8)| match dashed && DASHES.contains(&i) {
        true => b == b'-',
        false => b.is_ascii_hexdigit(),
    };
    let good = plain.bytes().enumerate().all(is_good);
    if good { Ok(()) } else { Err("invalid UUID format".to_owned()) }
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

#[cfg(test)]
mod tests {
    use super::check_uuid;

    #[test]
    fn a_uuid_has_four_forms() {
        let uuid = "0a1b2c3d-0000-4000-8000-00000000000F";
        let bare = uuid.replace('-', "");
        for good in [uuid.to_owned(), bare.clone(), format!("{{{uuid}}}"), format!("URN:uuid:{uuid}")] {
            assert_eq!(check_uuid(&good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "invalid UUID length: 0"),
            (&uuid.replace('-', "x"), "invalid UUID format"),
            (&uuid.replace('F', "g"), "invalid UUID format"),
            (&bare.replace('F', "g"), "invalid UUID format"),
            (&format!("({uuid})"), "invalid bracketed UUID format"),
            (&format!("uri:uuid:{uuid}"), "invalid urn prefix: \"uri:uuid:\""),
        ] {
            assert_eq!(check_uuid(bad).unwrap_err(), why, "{bad}");
        }
    }
}
