//! Formats of texts that only kinds outside the core group use, with upstream's messages.

use std::net::IpAddr;

use crate::validate;
pub(in crate::registry) use crate::validate::dns_1035_label;

/// Errors of an RFC 1123 label.
pub(in crate::registry) fn dns_label(text: &str) -> Vec<String> {
    validate::dns_label(text, false)
}

/// Errors of an RFC 1123 subdomain.
pub(in crate::registry) fn dns_subdomain(text: &str) -> Vec<String> {
    validate::dns_subdomain(text, false)
}

/// Errors of a name that stands for itself in a path.
pub(in crate::registry) fn path_segment(text: &str) -> Vec<String> {
    super::path_segment(text, false)
}

/// Errors of a share such as `25%`.
pub(in crate::registry) fn percent(text: &str) -> Vec<String> {
    let good = text.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if good {
        return Vec::new();
    }
    vec![
        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex \
         used for validation is '[0-9]+%')"
            .to_owned(),
    ]
}

/// Errors of a subdomain whose first label may be `*`.
pub(in crate::registry) fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > validate::DNS_SUBDOMAIN_MAX {
        errors.push("must be no more than 253 bytes".to_owned());
    }
    if text.strip_prefix("*.").is_none_or(|rest| !validate::dns_subdomain(rest, false).is_empty()) {
        errors.push(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
             '*.example.com', regex used for validation is \
             '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    errors
}

/// An IP address as text has it.
pub(in crate::registry) fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// Errors of `[prefix/]name` as label keys are written.
pub(in crate::registry) fn qualified_name(text: &str) -> Vec<String> {
    crate::engine::metadata::qualified_name(text)
}

/// Errors of a label's value.
pub(in crate::registry) fn label_value(text: &str) -> Vec<String> {
    crate::engine::metadata::label_value(text)
}

/// Errors of a network such as `10.0.0.0/8`.
pub(in crate::registry) fn cidr(text: &str) -> Vec<String> {
    if text.parse::<ipnet::IpNet>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
}

/// Errors of a service port's name.
pub(in crate::registry) fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}
