//! Name and value formats shared by all kinds, with upstream's messages.
//!
//! Contract: apimachinery `pkg/util/validation` and `pkg/api/validation`.

/// Longest DNS label, in bytes.
pub const DNS_LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes.
pub const DNS_SUBDOMAIN_MAX: usize = 253;

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

/// Errors of an RFC 1123 label; with `prefix`, of the stem of a generated name.
pub fn dns_label(name: &str, prefix: bool) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > DNS_LABEL_MAX {
        errors.push(format!("must be no more than {DNS_LABEL_MAX} characters"));
    }
    let name = mask(name, prefix);
    if !is_dns_label_any_length(name) && name.split('.').all(is_dns_label_any_length) {
        errors.push("must not contain dots".to_owned());
    } else if !is_dns_label_any_length(name) {
        errors.push(format!(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
             and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '{LABEL_FMT}')"
        ));
    }
    errors
}

/// Errors of an RFC 1123 subdomain; with `prefix`, of the stem of a generated name.
pub fn dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > DNS_SUBDOMAIN_MAX {
        errors.push(format!("must be no more than {DNS_SUBDOMAIN_MAX} characters"));
    }
    if !mask(name, prefix).split('.').all(is_dns_label_any_length) {
        errors.push(format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '{LABEL_FMT}(\\.{LABEL_FMT})*')"
        ));
    }
    errors
}

/// A path below a domain (`acme.io/foo`): each part that is wrong, and why. Nothing at all is not looked at.
pub fn domain_prefixed_path(text: &str) -> Vec<(&str, String)> {
    let (domain, path) = text.split_once('/').unwrap_or_default();
    if domain.is_empty() || path.is_empty() {
        return vec![(text, "must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned())];
    }
    let mut wrong: Vec<_> = dns_subdomain(domain, false).into_iter().map(|why| (domain, why)).collect();
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        wrong.push((path, why.to_owned()));
    }
    wrong
}

/// Errors of an RFC 1035 label.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS_LABEL_MAX {
        errors.push(format!("must be no more than {DNS_LABEL_MAX} characters"));
    }
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let good = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !good {
        errors.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
             validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    errors
}

/// A generated name's stem may end in `-`: what follows is the random suffix.
fn mask(name: &str, prefix: bool) -> &str {
    if prefix { name.trim_end_matches('-') } else { name }
}

fn is_dns_label_any_length(s: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&a), Some(&z)) => ok(a) && ok(z) && bytes.iter().all(|&b| ok(b) || b == b'-'),
        _ => false,
    }
}

/// Errors of a name that may be any one segment of a path, such as `system:node`
/// (upstream's `path.ValidatePathSegmentName`).
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

fn word(s: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let b = s.as_bytes();
    edge(b.first()) && edge(b.last()) && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

const WORD: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                    character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// Errors of `[prefix/]name` as label keys and finalizers are written.
pub fn qualified_name(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match key.split_once('/') {
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a valid label key {WORD} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            errors.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            let of_prefix = dns_subdomain(prefix, false);
            // Keys count bytes where names of objects count characters.
            errors.extend(
                of_prefix
                    .into_iter()
                    .map(|e| format!("prefix part {}", e.replace(" 253 characters", " 253 bytes"))),
            );
            name
        }
        None => key,
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".to_owned());
    }
    if !word(name) {
        errors.push(format!("name part {WORD}"));
    }
    errors
}

/// Errors of a label's value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push("must be no more than 63 bytes".to_owned());
    }
    if !value.is_empty() && !word(value) {
        errors.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
             for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .to_owned(),
        );
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values() {
        for (key, ok) in
            [("a", true), ("a.b/c_D", true), ("/a", false), ("a/", false), ("-a", false), ("", false)]
        {
            assert_eq!(qualified_name(key).is_empty(), ok, "{key}");
        }
        for (value, ok) in [("", true), ("a.B-1", true), ("a ", false), ("_", false)] {
            assert_eq!(label_value(value).is_empty(), ok, "{value}");
        }
    }
}
