//! Formats of texts that only kinds outside the core group use, with upstream's messages.

use crate::validate;

/// Errors of an RFC 1123 label.
pub(in crate::registry) fn dns_label(text: &str) -> Vec<String> {
    validate::dns_label(text, false)
}

/// Errors of an RFC 1123 subdomain.
pub(in crate::registry) fn dns_subdomain(text: &str) -> Vec<String> {
    validate::dns_subdomain(text, false)
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

/// Errors of `[prefix/]name` as label keys are written.
pub(in crate::registry) fn qualified_name(text: &str) -> Vec<String> {
    crate::engine::metadata::qualified_name(text)
}

/// Errors of a label's value.
pub(in crate::registry) fn label_value(text: &str) -> Vec<String> {
    crate::engine::metadata::label_value(text)
}
