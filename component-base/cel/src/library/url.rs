//! URLs: `url("https://example.com:80/").getHost()`.
//!
//! Contract: Go's `net/url.ParseRequestURI`: an absolute URI or an absolute path.

use std::{any::Any, collections::BTreeMap, sync::Arc};

use super::Line;
use crate::value::{EvalError, MadeMap, Map, Opaque, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("string_to_url", "url(string) -> url", |c| {
        let text = c.str(0)?;
        let url = Url::parse(text).map_err(|why| {
            EvalError::failed(format!("URL parse error during conversion from string: parse {text:?}: {why}"))
        })?;
        Ok(Value::opaque(url))
    }),
    ("url_get_scheme", "url :: getScheme() -> string", |c| Ok(Value::text(&c.opaque::<Url>(0)?.scheme))),
    ("url_get_host", "url :: getHost() -> string", |c| Ok(Value::text(&c.opaque::<Url>(0)?.host))),
    ("url_get_hostname", "url :: getHostname() -> string", |c| {
        Ok(Value::text(c.opaque::<Url>(0)?.name_and_port().0))
    }),
    ("url_get_port", "url :: getPort() -> string", |c| {
        Ok(Value::text(c.opaque::<Url>(0)?.name_and_port().1))
    }),
    ("url_get_escaped_path", "url :: getEscapedPath() -> string", |c| {
        Ok(Value::text(&c.opaque::<Url>(0)?.path))
    }),
    ("url_get_query", "url :: getQuery() -> map<string, list<string>>", |c| {
        let mut query: BTreeMap<String, Vec<Value<'_>>> = BTreeMap::new();
        for (name, value) in ::url::form_urlencoded::parse(c.opaque::<Url>(0)?.query.as_bytes()) {
            query.entry(name.into_owned()).or_default().push(Value::text(value));
        }
        let mut made = MadeMap::default();
        for (name, values) in query {
            made.insert(Value::text(name), Value::list(values))?;
        }
        Ok(Value::Map(Map::Made(Arc::new(made))))
    }),
    ("is_url_string", "isURL(string) -> bool", |c| Ok(Value::Bool(Url::parse(c.str(0)?).is_ok()))),
];

/// A URL in its parts, as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// Reads a request URI; the error is Go's.
    pub(super) fn parse(text: &str) -> Result<Url, String> {
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let without_fragment = text.split('#').next().unwrap_or(text);
        let (scheme, rest) = split_scheme(without_fragment)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !rest.starts_with('/') {
            // An opaque URI such as `mailto:x` is absolute only with a scheme.
            if scheme.is_empty() {
                return Err("invalid URI for request".to_owned());
            }
            let parts = (text.to_owned(), scheme.to_ascii_lowercase(), query.to_owned());
            let (text, scheme, query) = parts;
            return Ok(Url { text, scheme, host: String::new(), path: String::new(), query });
        }
        let (host, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(authority) => {
                let end = authority.find('/').unwrap_or(authority.len());
                let (authority, path) = authority.split_at(end);
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                check_host(host)?;
                (host, path)
            }
            None => ("", rest),
        };
        check_escapes(path)?;
        Ok(Url {
            text: text.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            path: escaped(path),
            query: query.to_owned(),
        })
    }

    fn name_and_port(&self) -> (&str, &str) {
        let valid = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
        match self.host.rsplit_once(':').filter(|(_, port)| valid(port)) {
            Some((name, port)) => (unbracketed(name), port),
            None => (unbracketed(&self.host), ""),
        }
    }
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = match host.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((_, port)) => port,
            None => return Err("missing ']' in host".to_owned()),
        },
        None => host.rfind(':').map_or("", |i| &host[i..]),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("invalid port {port:?} after host"));
    }
    if let Some(c) = host.chars().find(|c| " \"<>\\^`{|}".contains(*c)) {
        return Err(format!("invalid character {:?} in host name", c.to_string()));
    }
    check_escapes(host)
}

fn check_escapes(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for (i, _) in text.match_indices('%') {
        let hex = bytes.get(i + 1..i + 3).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit));
        if !hex {
            let shown: String = text[i..].chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
    }
    Ok(())
}

/// A path with what must be escaped escaped; escapes that are there stay.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Opaque for Url {
    fn type_name(&self) -> &str {
        "kubernetes.URL"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Url>().is_some_and(|other| self.text == other.text)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
