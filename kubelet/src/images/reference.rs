//! Names of images: whether one is a name at all, and the tag it has where it says none. Pure.
//!
//! Contract: the reference grammar of the distribution project, with upstream's words for what is wrong.

use std::borrow::Cow;

/// What a name without a tag or a digest gets.
const LATEST: &str = "latest";
/// The registry that goes without saying, and where its own images are.
const HUB: &str = "docker.io";
const OWN: &str = "library";
/// Bytes of a repository's name at the most.
const LONGEST: usize = 255;
/// Digests, with the number of their digits.
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

/// Why a name is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It looks like the id of an image.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Id(String),
    /// There are capital letters in it.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Capitals(String),
    /// It is too long.
    #[error("repository name must not be more than {LONGEST} characters")]
    TooLong,
    /// Its digest is of no known kind.
    #[error("unsupported digest algorithm")]
    Digest,
    /// Anything else.
    #[error("invalid reference format")]
    Format,
}

/// The name with a tag, unless it has one or a digest.
///
/// # Errors
/// When it is no name.
pub fn with_tag(image: &str) -> Result<Cow<'_, str>, ReferenceError> {
    let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if image.len() == 64 && image.bytes().all(is_hex) {
        return Err(ReferenceError::Id(image.to_owned()));
    }
    let (domain, rest) = split(image);
    let remote = rest.split(':').next().unwrap_or_default();
    if remote.chars().any(char::is_uppercase) {
        return Err(ReferenceError::Capitals(remote.to_owned()));
    }
    let (named, digest) = match rest.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (&*rest, None),
    };
    let (path, tag) = match named.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((path, tag)) => (path, Some(tag)),
        None => (named, None),
    };
    if !is_domain(domain) || !path.split('/').all(is_component) || !tag.is_none_or(is_tag) {
        return Err(ReferenceError::Format);
    }
    digest.map_or(Ok(()), check_digest)?;
    if domain.len() + 1 + path.len() > LONGEST {
        return Err(ReferenceError::TooLong);
    }
    Ok(match (tag, digest) {
        (None, None) => Cow::Owned(format!("{image}:{LATEST}")),
        _ => Cow::Borrowed(image),
    })
}

/// The registry of an image, and its name there.
fn split(image: &str) -> (&str, Cow<'_, str>) {
    let is_registry =
        |host: &str| host.contains(['.', ':']) || host == "localhost" || host.chars().any(char::is_uppercase);
    let (domain, rest) = match image.split_once('/') {
        Some((host, rest)) if is_registry(host) => (host, rest),
        _ => (HUB, image),
    };
    let domain = if domain == "index.docker.io" { HUB } else { domain };
    if domain == HUB && !rest.contains('/') {
        return (domain, Cow::Owned(format!("{OWN}/{rest}")));
    }
    (domain, Cow::Borrowed(rest))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let is_part = |part: &str| {
        let inner = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        inner && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
    };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.split('.').all(is_part),
    };
    is_host && port.is_none_or(is_number)
}

/// Letters and digits, with a point, one or two underscores or any number of dashes between them.
fn is_component(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let between = |run: &[u8]| match run {
        b"" | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|b| *b == b'-'),
    };
    let bytes = part.as_bytes();
    bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.split(|b| plain(*b)).all(between)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = tag.bytes().next().is_some_and(word);
    first && tag.len() <= 128 && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn check_digest(digest: &str) -> Result<(), ReferenceError> {
    let (kind, digits) = digest.split_once(':').ok_or(ReferenceError::Format)?;
    let is_kind = kind.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+.".contains(&b));
    if !is_kind || digits.len() < 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ReferenceError::Format);
    }
    let (_, length) = DIGESTS.iter().find(|(known, _)| *known == kind).ok_or(ReferenceError::Digest)?;
    let fits = digits.len() == *length && !digits.bytes().any(|b| b.is_ascii_uppercase());
    if fits { Ok(()) } else { Err(ReferenceError::Format) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        let digest = format!("@sha256:{}", "a".repeat(64));
        for (name, expected) in [
            ("root", "root:latest"),
            ("root:tag", "root:tag"),
            ("reg.example:5000/a/b", "reg.example:5000/a/b:latest"),
            ("localhost/a__b-c.d", "localhost/a__b-c.d:latest"),
            ("REG/a", "REG/a:latest"),
            ("[fd00::1]:5000/a", "[fd00::1]:5000/a:latest"),
            (&format!("root{digest}"), &format!("root{digest}")),
            (&format!("root:1{digest}"), &format!("root:1{digest}")),
        ] {
            assert_eq!(with_tag(name).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_name_is_told() {
        let format = "invalid reference format";
        let id = "a".repeat(64);
        for (name, expected) in [
            ("", format),
            (":tag", format),
            ("http://a.example/b", format),
            ("a:b:c", format),
            ("a//b", format),
            ("a/", format),
            ("a_-b", format),
            ("a...b", format),
            ("-a", format),
            ("a:.b", format),
            ("a b", format),
            ("a@sha256:1", format),
            ("a@", format),
            (&format!("a@md5:{}", "0".repeat(32)), "unsupported digest algorithm"),
            (
                "FailedImage",
                "invalid reference format: repository name (library/FailedImage) must be lowercase",
            ),
            ("a.example/B:1", "invalid reference format: repository name (B) must be lowercase"),
            (&id, &format!("invalid repository name ({id}), cannot specify 64-byte hexadecimal strings")),
            (&"a".repeat(250), "repository name must not be more than 255 characters"),
        ] {
            assert_eq!(with_tag(name).unwrap_err().to_string(), expected, "{name}");
        }
    }
}
