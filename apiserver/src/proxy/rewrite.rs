//! Links and redirects of proxied pages: those to the page's own host lead back through the proxy.
//!
//! Contract: upstream's proxy `Transport`. Pages are rewritten as they come: all that is kept is one unfinished tag.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;

use crate::response::{self, Body};

/// Attributes that are links, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose text is no markup.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// A tag longer than this is none.
const MAX_TAG: usize = 64 * 1024;

/// Where a proxied page is.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// Path of the proxy.
    pub(super) prefix: String,
    /// Host and port of the backend.
    pub(super) backend: String,
    /// Host the client asked.
    pub(super) host: String,
}

impl Links {
    /// The link through the proxy; other hosts' and relative ones stay.
    fn rewrite(&self, link: &str) -> String {
        let (scheme, rest) = match link.split_once("://") {
            Some((scheme, rest))
                if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) =>
            {
                (Some(scheme), rest)
            }
            _ => (None, link),
        };
        let (host, path) = match (scheme, link.strip_prefix("//")) {
            (Some(_), _) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            (None, Some(rest)) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            (None, None) => ("", link),
        };
        let is_other = !host.is_empty() && host != self.backend && host != self.host;
        if is_other || !path.starts_with('/') {
            return link.to_owned();
        }
        let origin = match scheme {
            Some(scheme) if host == self.host => format!("{scheme}://{host}"),
            None if !host.is_empty() && host == self.host => format!("//{host}"),
            _ => String::new(),
        };
        if path.starts_with(&self.prefix) {
            format!("{origin}{path}")
        } else {
            format!("{origin}{}{path}", self.prefix)
        }
    }
}

/// Rewrites a redirect; says whether the body is a page to rewrite, whose length is unknown then.
pub(super) fn headers(links: &Links, headers: &mut HeaderMap) -> bool {
    if let Some(location) = headers.get(header::LOCATION).and_then(|v| v.to_str().ok()) {
        if let Ok(value) = HeaderValue::from_str(&links.rewrite(location)) {
            headers.insert(header::LOCATION, value);
        }
        return false;
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_page = kind.split(';').next().unwrap_or_default().trim() == "text/html";
    if !is_page || headers.contains_key(header::CONTENT_ENCODING) {
        return false;
    }
    headers.remove(header::CONTENT_LENGTH);
    true
}

/// A page with its links rewritten.
pub(super) fn page(links: Links, body: Body) -> Body {
    let state = Some((body.into_data_stream(), Rewriter { links, held: BytesMut::new(), raw: None }));
    response::stream(futures::stream::unfold(state, |state| async move {
        let (mut body, mut rewriter) = state?;
        match body.next().await {
            Some(Ok(chunk)) => Some((Ok(rewriter.push(&chunk)), Some((body, rewriter)))),
            Some(Err(error)) => Some((Err::<Bytes, io::Error>(error), None)),
            None => Some((Ok(rewriter.held.split().freeze()), None)),
        }
    }))
}

/// The page so far.
struct Rewriter {
    links: Links,
    /// An unfinished tag.
    held: BytesMut,
    /// The element whose end is waited for.
    raw: Option<&'static str>,
}

impl Rewriter {
    fn push(&mut self, chunk: &[u8]) -> Bytes {
        self.held.extend_from_slice(chunk);
        let mut out = BytesMut::with_capacity(self.held.len() + 64);
        loop {
            let Some(start) = self.held.iter().position(|b| *b == b'<') else {
                out.extend_from_slice(&self.held.split());
                return out.freeze();
            };
            out.extend_from_slice(&self.held.split_to(start));
            match tag_end(&self.held) {
                Some(end) => {
                    let tag = self.held.split_to(end);
                    out.extend_from_slice(&self.tag(&tag));
                }
                None if self.held.len() > MAX_TAG => out.extend_from_slice(&self.held.split_to(1)),
                None => return out.freeze(),
            }
        }
    }

    fn tag(&mut self, tag: &[u8]) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(tag) else { return tag.to_vec() };
        let name_end = text[1..]
            .find(|c: char| c.is_ascii_whitespace() || c == '>' || c == '/')
            .map_or(text.len(), |i| i + 1);
        let name = text[1..name_end].to_ascii_lowercase();
        if let Some(raw) = self.raw {
            let ends = text.strip_prefix("</").is_some_and(|t| t.to_ascii_lowercase().starts_with(raw));
            if ends {
                self.raw = None;
            }
            return tag.to_vec();
        }
        self.raw = RAW.into_iter().find(|raw| *raw == name && !text.ends_with("/>"));
        let Some((_, attributes)) = LINKS.iter().find(|(element, _)| *element == name) else {
            return tag.to_vec();
        };
        attributes_rewritten(text, name_end, attributes, &self.links).into_bytes()
    }
}

/// Where the tag or comment at the start ends, if it does yet. A `<` that begins neither ends at once.
fn tag_end(text: &[u8]) -> Option<usize> {
    if text.starts_with(b"<!--") {
        return text.windows(3).position(|w| w == b"-->").map(|at| at + 3);
    }
    if b"<!--".starts_with(text) {
        return None;
    }
    if !text.get(1)?.is_ascii_alphabetic() && !matches!(text[1], b'/' | b'!' | b'?') {
        return Some(1);
    }
    let mut quote = None;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match (quote, *byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if byte == open => quote = None,
            _ => {}
        }
    }
    None
}

/// A tag with the values of some attributes rewritten; everything else stays as it was written.
fn attributes_rewritten(tag: &str, from: usize, names: &[&str], links: &Links) -> String {
    let mut out = tag[..from].to_owned();
    let mut rest = &tag[from..];
    while let Some(equals) = rest.find('=') {
        let name = rest[..equals].trim_end();
        let name = name.rsplit(|c: char| c.is_ascii_whitespace() || c == '/').next().unwrap_or_default();
        let is_link = names.iter().any(|n| n.eq_ignore_ascii_case(name));
        let after = &rest[equals + 1..];
        let value_at = equals + 1 + (after.len() - after.trim_start().len());
        let value = &rest[value_at..];
        let (skip, length) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => (1, value[1..].find(quote).unwrap_or(value.len() - 1)),
            _ => (0, value.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(value.len())),
        };
        out.push_str(&rest[..value_at + skip]);
        let value = &value[skip..skip + length];
        out.push_str(&if is_link { links.rewrite(value) } else { value.to_owned() });
        rest = &rest[value_at + skip + length..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links { prefix: "/api/x/proxy".into(), backend: "10.0.0.1:80".into(), host: "api:6443".into() }
    }

    #[test]
    fn links_of_the_page_lead_through_the_proxy() {
        for (link, want) in [
            ("/a/b?c#d", "/api/x/proxy/a/b?c#d"),
            ("a/b", "a/b"),
            ("#top", "#top"),
            ("?q=/a", "?q=/a"),
            ("http://10.0.0.1:80/a/", "/api/x/proxy/a/"),
            ("//10.0.0.1:80/a", "/api/x/proxy/a"),
            ("https://api:6443/a", "https://api:6443/api/x/proxy/a"),
            ("/api/x/proxy/a", "/api/x/proxy/a"),
            ("http://example.com/a", "http://example.com/a"),
            ("//example.com/a", "//example.com/a"),
            ("mailto:a@b", "mailto:a@b"),
            ("http://10.0.0.1:80", "http://10.0.0.1:80"),
        ] {
            assert_eq!(links().rewrite(link), want, "{link}");
        }
    }

    #[test]
    fn pages_are_rewritten_wherever_they_are_cut() {
        let page = "<!DOCTYPE html><!-- <a href=\"/no\"> --><A class='x' HREF = \"/a\">1 < 2</A><img src=/i.png alt=\"/x > y\">\
                    <script src='/s.js'>if (a < b) { document.write(\"<a href='/raw'>\") }</script><p title=\"/t\">é</p>\
                    <form action=\"/f\" method=post><input/ value=\"/v\">";
        let want = "<!DOCTYPE html><!-- <a href=\"/no\"> --><A class='x' HREF = \"/api/x/proxy/a\">1 < 2</A>\
                    <img src=/api/x/proxy/i.png alt=\"/x > y\"><script src='/api/x/proxy/s.js'>if (a < b) { \
                    document.write(\"<a href='/raw'>\") }</script><p title=\"/t\">é</p><form action=\"/api/x/proxy/f\" \
                    method=post><input/ value=\"/v\">";
        for size in [1, 2, 3, 7, 1000] {
            let mut rewriter = Rewriter { links: links(), held: BytesMut::new(), raw: None };
            let mut out = Vec::new();
            for chunk in page.as_bytes().chunks(size) {
                out.extend_from_slice(&rewriter.push(chunk));
            }
            out.extend_from_slice(&rewriter.held);
            assert_eq!(String::from_utf8(out).unwrap(), want, "{size}");
        }
    }

    #[test]
    fn only_plain_pages_are_touched() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.insert(*name, HeaderValue::from_static(value));
            }
            (headers(&links(), &mut map), map)
        };
        let (is_page, map) = of(&[("content-type", "text/html; charset=utf-8"), ("content-length", "5")]);
        assert!(is_page && !map.contains_key("content-length"));
        assert!(!of(&[("content-type", "text/plain")]).0);
        assert!(!of(&[("content-type", "text/html"), ("content-encoding", "br")]).0);
        let (is_page, map) = of(&[("content-type", "text/html"), ("location", "/a")]);
        assert!(!is_page && map["location"] == "/api/x/proxy/a");
    }
}
