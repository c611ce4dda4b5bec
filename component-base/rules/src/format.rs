//! Formats of texts in kinds, with upstream's messages.

use std::net::IpAddr;

use super::{address::without_leading_zeros, capabilities::LOOSE_ADDRESSES};
use crate::validate;
pub use crate::validate::dns_1035_label;

/// Errors of an RFC 1123 label.
pub fn dns_label(text: &str) -> Vec<String> {
    validate::dns_label(text, false)
}

/// Errors of an RFC 1123 subdomain.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    validate::dns_subdomain(text, false)
}

/// Errors of a name that stands for itself in a path.
pub fn path_segment(text: &str) -> Vec<String> {
    validate::path_segment(text, false)
}

/// Errors of a share such as `25%`.
pub fn percent(text: &str) -> Vec<String> {
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
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > validate::DNS_SUBDOMAIN_MAX {
        errors.push("must be no more than 253 characters".to_owned());
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
pub fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// Errors of `[prefix/]name` as label keys are written.
pub fn qualified_name(text: &str) -> Vec<String> {
    validate::qualified_name(text)
}

/// Errors of a label's value.
pub fn label_value(text: &str) -> Vec<String> {
    validate::label_value(text)
}

/// Errors of a service port's name.
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
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

/// Errors of an IP address in a field that has always been checked loosely: no leading zeros, no IPv4 in IPv6, unless
/// such are let in.
pub fn legacy_ip(text: &str) -> Vec<String> {
    let loose = LOOSE_ADDRESSES.is_allowed();
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() && !loose => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
        Err(_) if without_leading_zeros(text).parse::<IpAddr>().is_ok() => {
            if loose {
                Vec::new()
            } else {
                vec!["must not have leading 0s".to_owned()]
            }
        }
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// Errors of a network in a field that has always been checked loosely.
pub fn legacy_cidr(text: &str) -> Vec<String> {
    let wrong = |detail: &str| vec![detail.to_owned()];
    let Some((address, length)) = text.split_once('/') else {
        return wrong("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    };
    let plain_length = length.trim_start_matches('0');
    let sloppy = format!(
        "{}/{}",
        without_leading_zeros(address),
        if plain_length.is_empty() && !length.is_empty() { "0" } else { plain_length }
    );
    let Ok(network) = sloppy.parse::<ipnet::IpNet>() else {
        return wrong("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    };
    if LOOSE_ADDRESSES.is_allowed() {
        return Vec::new();
    }
    if sloppy != text {
        return wrong("must not have leading 0s in IP or prefix length");
    }
    if matches!(network.addr(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return wrong("must not have an IPv4-mapped IPv6 address");
    }
    if network.addr() != network.network() {
        return wrong("must not have bits set beyond the prefix length");
    }
    Vec::new()
}

/// Errors of an environment variable's name.
pub fn env_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if !text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        errors.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned(),
        );
    }
    errors
}

/// Errors of a key of a config map or a secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > validate::DNS_SUBDOMAIN_MAX {
        errors.push("must be no more than 253 characters".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        errors.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
             'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    match text {
        "." | ".." => errors.push(format!("must not be '{text}'")),
        _ if text.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// Errors of an address of an interface: with the size of its network, in the one way of writing it.
pub fn interface_address(text: &str) -> Vec<String> {
    let Some(network) = super::address::loose_cidr(text) else {
        return vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned()];
    };
    let mut canonical = network.to_string();
    if let (IpAddr::V6(v6), bits) = (network.addr(), network.prefix_len())
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let bits = if bits > 32 { bits.saturating_sub(96) } else { bits };
        canonical = format!("{v4}/{bits}");
    }
    if canonical == text { Vec::new() } else { vec![format!("must be in canonical form ({canonical:?})")] }
}

/// Errors of the name of an HTTP header.
pub fn http_header(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![
        "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
         validation is '[-A-Za-z0-9]+')"
            .to_owned(),
    ]
}

/// Errors of a subdomain with underscores, as resolvers search them.
pub fn search_domain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > validate::DNS_SUBDOMAIN_MAX {
        errors.push("must be no more than 253 characters".to_owned());
    }
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let label = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    if !text.split('.').all(label) {
        errors.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    errors
}

/// Errors of a word that says why a condition is what it is.
pub fn condition_reason(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let good = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|b| word(b) || b",:".contains(b));
    if good {
        return Vec::new();
    }
    vec![
        "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
         characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
         'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
         '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
            .to_owned(),
    ]
}

/// Errors of a path below a directory: relative, with no step back.
pub fn descending_path(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.starts_with('/') {
        errors.push("must be a relative path".to_owned());
    }
    errors.extend(no_backsteps(text));
    errors
}

/// Errors of a path that steps back.
pub fn no_backsteps(text: &str) -> Vec<String> {
    if text.split('/').any(|part| part == "..") {
        vec!["must not contain '..'".to_owned()]
    } else {
        Vec::new()
    }
}

/// Errors of a path in a volume whose names starting with `..` are its writer's.
pub fn volume_path(text: &str) -> Vec<String> {
    let mut errors = descending_path(text);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.push("must not start with '..'".to_owned());
    }
    errors
}

/// Errors of a whole number as people write it.
pub fn decimal(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["must be non-empty".to_owned()];
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let canonical = match digits.as_bytes() {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if canonical { Vec::new() } else { vec!["must be a valid decimal integer in canonical form".to_owned()] }
}

/// Errors of an address that traffic is sent to: none of the node's own and none of a link.
pub fn endpoint_ip(text: &str) -> Vec<String> {
    let plain = without_leading_zeros(text);
    let Ok(ip) = plain.parse::<IpAddr>() else { return vec!["must be a valid IP address".to_owned()] };
    let ip = ip.to_canonical();
    let (local, link) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut errors = Vec::new();
    let mut tell = |wrong: bool, detail: String| {
        if wrong {
            errors.push(detail);
        }
    };
    tell(ip.is_unspecified(), format!("may not be unspecified ({text})"));
    tell(ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    tell(local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    tell(link, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    errors
}
