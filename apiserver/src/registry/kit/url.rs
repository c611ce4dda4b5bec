//! URLs as the project reads them: what is accepted, and what is wrong with the rest.
//!
//! Contract: RFC 3986 as Go's `net/url` parses it, whose words the errors have.

use percent_encoding::percent_decode_str;

/// Characters besides letters and digits that stand for themselves in a host.
const IN_HOST: &str = "!$&'()*+,;=:[]<>\"-_.~";
/// Those of a user's name and password.
const IN_USER: &str = "-._:~!$&'()*+,;=%@";

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::registry) struct Url {
    /// In lower case.
    pub(in crate::registry) scheme: String,
    /// With its port.
    pub(in crate::registry) host: String,
    /// What stands before `@`, if there is one.
    pub(in crate::registry) user: Option<String>,
    pub(in crate::registry) query: String,
    pub(in crate::registry) fragment: String,
}

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::registry) fn parse(text: &str) -> Result<Self, String> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = Self::before_fragment(rest).map_err(|why| format!("parse {rest:?}: {why}"))?;
        url.fragment = unescaped(fragment).map_err(|why| format!("parse {text:?}: {why}"))?;
        Ok(url)
    }

    fn before_fragment(text: &str) -> Result<Self, String> {
        if text.bytes().any(|b| b.is_ascii_control()) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (scheme, rest) = scheme(text)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            user: None,
            query: query.to_owned(),
            fragment: String::new(),
        };
        if !rest.starts_with('/') {
            // A scheme without slashes names something that is no host, however it goes on.
            return match rest.split('/').next() {
                Some(first) if scheme.is_empty() && first.contains(':') => {
                    Err("first path segment in URL cannot contain colon".to_owned())
                }
                _ if scheme.is_empty() => unescaped(rest).map(|_| url),
                _ => Ok(url),
            };
        }
        let mut path = rest;
        if let Some(authority) = rest.strip_prefix("//")
            && (!scheme.is_empty() || !rest.starts_with("///"))
        {
            let end = authority.find('/').unwrap_or(authority.len());
            let (authority, below) = authority.split_at(end);
            path = below;
            let (user, whole) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
            url.host = host(whole)?;
            if user.is_some_and(|user| user.chars().any(|c| !stands(c, IN_USER))) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            url.user = user.map(str::to_owned);
        }
        unescaped(path).map(|_| url)
    }
}

fn stands(c: char, also: &str) -> bool {
    c.is_ascii_alphanumeric() || also.contains(c)
}

/// The scheme, empty where there is none, and what follows.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            _ => break,
        }
    }
    Ok(("", text))
}

/// A host with its port, its escapes resolved.
fn host(text: &str) -> Result<String, String> {
    let port = if text.starts_with('[') {
        let end = text.rfind(']').ok_or("missing ']' in host")?;
        &text[end + 1..]
    } else {
        text.rfind(':').map_or("", |at| &text[at..])
    };
    let digits = port.strip_prefix(':').unwrap_or_default();
    if !port.is_empty() && (!port.starts_with(':') || digits.bytes().any(|b| !b.is_ascii_digit())) {
        return Err(format!("invalid port {port:?} after host"));
    }
    let decoded = unescaped(text)?;
    let odd = text.chars().find(|c| c.is_ascii() && *c != '%' && !stands(*c, IN_HOST));
    if let Some(odd) = odd {
        return Err(format!("invalid character {:?} in host name", odd.to_string()));
    }
    // Only what is no ASCII may be escaped here, and the sign of escapes itself.
    for (at, _) in text.match_indices('%') {
        let escape = &text[at..at + 3];
        if escape != "%25" && escape.as_bytes()[1] < b'8' {
            return Err(format!("invalid URL escape {escape:?}"));
        }
    }
    Ok(decoded)
}

/// A text with its escapes resolved.
fn unescaped(text: &str) -> Result<String, String> {
    for (at, _) in text.match_indices('%') {
        let escape: String = text[at..].chars().take(3).collect();
        let mut digits = escape.chars().skip(1);
        if !matches!((digits.next(), digits.next()), (Some(a), Some(b)) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
        {
            return Err(format!("invalid URL escape {escape:?}"));
        }
    }
    Ok(percent_decode_str(text).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> [String; 5] {
        let url = Url::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        [url.scheme, url.host, url.user.unwrap_or_default(), url.query, url.fragment]
    }

    #[test]
    fn parts_are_told_apart() {
        for (text, expected) in [
            ("https://h/p", ["https", "h", "", "", ""]),
            ("HTTPS://u:p@h:8443/p?q=1#f%20g", ["https", "h:8443", "u:p", "q=1", "f g"]),
            ("https://[::1]:443", ["https", "[::1]:443", "", "", ""]),
            ("https:host", ["https", "", "", "", ""]),
            ("host/path", ["", "", "", "", ""]),
            ("//host/path", ["", "host", "", "", ""]),
            ("///path", ["", "", "", "", ""]),
            ("https://h?a?b", ["https", "h", "", "a?b", ""]),
            ("", ["", "", "", "", ""]),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_words() {
        for (text, why) in [
            ("https://h\n", r#"parse "https://h\n": net/url: invalid control character in URL"#),
            ("://h", r#"parse "://h": missing protocol scheme"#),
            ("1h:80/p", r#"parse "1h:80/p": first path segment in URL cannot contain colon"#),
            ("https://h:x/p", r#"parse "https://h:x/p": invalid port ":x" after host"#),
            ("https://[::1/p", r#"parse "https://[::1/p": missing ']' in host"#),
            ("https://[::1]x", r#"parse "https://[::1]x": invalid port "x" after host"#),
            ("https://a b/", r#"parse "https://a b/": invalid character " " in host name"#),
            ("https://u[@h", r#"parse "https://u[@h": net/url: invalid userinfo"#),
            ("https://h/%zz", r#"parse "https://h/%zz": invalid URL escape "%zz""#),
            ("https://h/%e", r#"parse "https://h/%e": invalid URL escape "%e""#),
            ("https://h%41", r#"parse "https://h%41": invalid URL escape "%41""#),
            ("https://h#%", r##"parse "https://h#%": invalid URL escape "%""##),
        ] {
            assert_eq!(Url::parse(text).unwrap_err(), why, "{text}");
        }
    }
}
