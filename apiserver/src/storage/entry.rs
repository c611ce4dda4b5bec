//! A stored object as the cache holds it: encoded bytes and the facts selection reads.
//!
//! ```text
//! {"type":"MODIFIED","object":{"kind":"Pod","metadata":{"resourceVersion":"7","name":…}}}\n
//! └───────── frame ───────────└──────────────── json ──────────────────────────────────┘──┘
//! ```
//!
//! An object that arrives through the stream is laid out inside the watch frame it will be sent as,
//! so the frame costs no copy; facts are offsets into the JSON.

use std::{borrow::Cow, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    WatchKind,
    scan::{Found, Malformed, Scanner, plain_text, token_text},
};
use crate::registry::Missing;

/// One object at one revision. Shared by reference; never changes.
#[derive(Debug)]
pub struct Entry {
    rev: u64,
    /// `namespace/name`, or `name` without namespaces.
    key: Arc<str>,
    namespace_len: u32,
    /// The digits of the resourceVersion in `json`.
    digits: Span,
    uid: Text,
    json: Bytes,
    /// The watch frame `json` lies in, and its kind.
    frame: Option<(WatchKind, Bytes)>,
    labels: Box<[(Text, Text)]>,
    fields: Box<[Option<Text>]>,
    scanner: Arc<Scanner>,
}

/// Offset and length in the JSON.
#[derive(Clone, Copy, Debug)]
struct Span(u32, u32);

/// A piece of text: in the JSON as it stands, or (rarely) unescaped.
#[derive(Clone, Debug)]
enum Text {
    In(Span),
    Own(Box<str>),
}

/// Closes a watch frame.
const FRAME_END: &[u8] = b"}\n";

// === impl Entry ===

impl Entry {
    /// The entry of a stored value: splices the revision in and notes the facts. With `kind` the
    /// bytes are laid out inside that watch frame.
    pub(super) fn build(
        key: Arc<str>,
        namespaced: bool,
        rev: u64,
        stored: &[u8],
        scanner: &Arc<Scanner>,
        kind: Option<WatchKind>,
    ) -> Result<Self, Malformed> {
        let found = scanner.scan(stored)?;
        Ok(Self::laid_out(key, namespaced, rev, (stored, &found), scanner, kind))
    }

    /// The same of a value that was scanned.
    pub(super) fn laid_out(
        key: Arc<str>,
        namespaced: bool,
        rev: u64,
        (stored, found): (&[u8], &Found),
        scanner: &Arc<Scanner>,
        kind: Option<WatchKind>,
    ) -> Self {
        let digits = rev.to_string();
        let (cut, before, after) = match (&found.resource_version, &found.metadata) {
            (Some(value), Some(_)) => (value.clone(), "\"", "\""),
            (_, Some(meta)) => {
                let at = meta.start + 1;
                let rest = stored[at..meta.end].iter().find(|b| !b.is_ascii_whitespace());
                (at..at, "\"resourceVersion\":\"", if rest == Some(&b'}') { "\"" } else { "\"," })
            }
            (_, None) => {
                // The scan found an object, so there is an opening brace.
                let at = stored.iter().position(|&b| b == b'{').map_or(0, |at| at + 1);
                let rest = stored[at..].iter().find(|b| !b.is_ascii_whitespace());
                let after = if rest == Some(&b'}') { "\"}" } else { "\"}," };
                (at..at, "\"metadata\":{\"resourceVersion\":\"", after)
            }
        };
        let insert = format!("{before}{digits}{after}");
        let head = kind.map_or(&b""[..], frame_head);
        let tail = if kind.is_some() { FRAME_END } else { b"" };
        let len = stored.len() - cut.len() + insert.len();
        let mut buffer = Vec::with_capacity(head.len() + len + tail.len());
        for part in [head, &stored[..cut.start], insert.as_bytes(), &stored[cut.end..], tail] {
            buffer.extend_from_slice(part);
        }
        let buffer = Bytes::from(buffer);
        let json = buffer.slice(head.len()..head.len() + len);
        let place = |token: &Range<usize>| place_text(stored, token, &cut, insert.len());
        let namespace_len = if namespaced { key.find('/').unwrap_or(0) } else { 0 };
        let field = |token: &Option<Range<usize>>| {
            let token = token.as_ref().filter(|t| !matches!(stored[t.start], b'{' | b'[' | b'n'))?;
            Some(place(token))
        };
        Self {
            rev,
            namespace_len: to_u32(namespace_len),
            key,
            digits: Span(to_u32(cut.start + before.len()), to_u32(digits.len())),
            uid: found.uid.as_ref().map_or(Text::Own("".into()), place),
            frame: kind.map(|kind| (kind, buffer)),
            labels: found.labels.iter().map(|(k, v)| (place(k), place(v))).collect(),
            fields: found.fields.iter().map(field).collect(),
            json,
            scanner: scanner.clone(),
        }
    }

    /// The same object carrying another revision, laid out as a frame of `kind`: what a watcher is
    /// sent when the object is deleted or leaves its selection.
    pub(super) fn at(&self, rev: u64, kind: WatchKind) -> Self {
        let Span(at, len) = self.digits;
        let (cut, digits) = (at as usize..(at + len) as usize, rev.to_string());
        let head = frame_head(kind);
        let json_len = self.json.len() - cut.len() + digits.len();
        let mut buffer = Vec::with_capacity(head.len() + json_len + FRAME_END.len());
        for part in [head, &self.json[..cut.start], digits.as_bytes(), &self.json[cut.end..], FRAME_END] {
            buffer.extend_from_slice(part);
        }
        let buffer = Bytes::from(buffer);
        let shift = |text: &Text| match text {
            Text::In(Span(at, len)) if *at as usize >= cut.end => {
                Text::In(Span(to_u32(*at as usize - cut.len() + digits.len()), *len))
            }
            other => other.clone(),
        };
        Self {
            rev,
            key: self.key.clone(),
            namespace_len: self.namespace_len,
            digits: Span(at, to_u32(digits.len())),
            uid: shift(&self.uid),
            json: buffer.slice(head.len()..head.len() + json_len),
            frame: Some((kind, buffer)),
            labels: self.labels.iter().map(|(k, v)| (shift(k), shift(v))).collect(),
            fields: self.fields.iter().map(|f| f.as_ref().map(shift)).collect(),
            scanner: self.scanner.clone(),
        }
    }

    /// The watch frame of `kind`: shared where the entry lies in one, else made.
    pub(super) fn frame(&self, kind: WatchKind) -> Bytes {
        match &self.frame {
            Some((own, frame)) if *own == kind => frame.clone(),
            _ => Bytes::from([frame_head(kind), &self.json, FRAME_END].concat()),
        }
    }

    /// Whether the entry lies in a frame of this kind.
    pub(super) fn has_frame(&self, kind: WatchKind) -> bool {
        self.frame.as_ref().is_some_and(|(own, _)| *own == kind)
    }

    /// What the entry costs in memory, about, in bytes.
    pub(super) fn cost(&self) -> usize {
        let text = size_of::<Text>();
        let own = self.frame.as_ref().map_or(self.json.len(), |(_, frame)| frame.len());
        size_of::<Self>() + self.key.len() + own + text * (self.labels.len() * 2 + self.fields.len()) + 64
    }

    /// The object's `resourceVersion`: the etcd revision of its last change.
    pub fn rev(&self) -> u64 {
        self.rev
    }

    /// The namespace; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        &self.key[..self.namespace_len as usize]
    }

    /// The name.
    pub fn name(&self) -> &str {
        match self.namespace_len {
            0 => &self.key,
            n => &self.key[n as usize + 1..],
        }
    }

    /// `namespace/name`, or `name` for cluster-scoped objects.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// The object as JSON, with `metadata.resourceVersion` in place.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| self.text(k) == key).map(|(_, v)| self.text(v))
    }

    /// All labels.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|(k, v)| (self.text(k), self.text(v)))
    }

    /// A selectable field's value: `metadata.name`, `metadata.namespace` or one of the resource's;
    /// empty for fields the resource does not list.
    pub fn field(&self, name: &str) -> &str {
        match name {
            "metadata.name" => self.name(),
            "metadata.namespace" => self.namespace(),
            _ => match self.scanner.selectable.iter().position(|s| s.name == name) {
                Some(index) => self.field_at(index),
                None => "",
            },
        }
    }

    /// The value of the resource's selectable field number `index`.
    pub(super) fn field_at(&self, index: usize) -> &str {
        match self.fields.get(index) {
            Some(Some(text)) => self.text(text),
            _ => match self.scanner.selectable.get(index).map(|s| &s.missing) {
                Some(Missing::Is(text)) => text,
                Some(Missing::Field(other)) => self.present(other),
                None => "",
            },
        }
    }

    /// A selectable field's value if the object has it, else empty.
    fn present(&self, name: &str) -> &str {
        let index = self.scanner.selectable.iter().position(|s| s.name == name);
        match index.and_then(|index| self.fields.get(index)) {
            Some(Some(text)) => self.text(text),
            _ => "",
        }
    }

    /// `metadata.uid`; empty when missing.
    pub fn uid(&self) -> &str {
        self.text(&self.uid)
    }

    fn text<'a>(&'a self, text: &'a Text) -> &'a str {
        match text {
            Text::In(Span(at, len)) => {
                let bytes = &self.json[*at as usize..(*at + *len) as usize];
                // Checked to be UTF-8 when it was noted.
                std::str::from_utf8(bytes).unwrap_or_default()
            }
            Text::Own(own) => own,
        }
    }
}

/// `{"type":"ADDED","object":` and so on.
pub(super) fn frame_head(kind: WatchKind) -> &'static [u8] {
    match kind {
        WatchKind::Added => b"{\"type\":\"ADDED\",\"object\":",
        WatchKind::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
        WatchKind::Deleted => b"{\"type\":\"DELETED\",\"object\":",
        WatchKind::Bookmark | WatchKind::InitialEventsEnd => b"{\"type\":\"BOOKMARK\",\"object\":",
    }
}

/// A token's text as it will lie in the spliced JSON.
fn place_text(stored: &[u8], token: &Range<usize>, cut: &Range<usize>, inserted: usize) -> Text {
    let bytes = &stored[token.clone()];
    let Some(plain) = plain_text(bytes) else {
        return Text::Own(match token_text(bytes) {
            Cow::Owned(text) => text.into(),
            Cow::Borrowed(text) => text.into(),
        });
    };
    let quote = usize::from(bytes.first() == Some(&b'"'));
    let at = token.start + quote;
    let at = if at >= cut.end { at - cut.len() + inserted } else { at };
    Text::In(Span(to_u32(at), to_u32(plain.len())))
}

/// Offsets fit: etcd refuses values over a few megabytes.
fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::storage::SelectablePath;

    fn scanner() -> Arc<Scanner> {
        let path = |name: &str, default: &str| SelectablePath {
            name: name.to_owned(),
            pointer: format!("/{}", name.replace('.', "/")),
            missing: Missing::Is(default.to_owned()),
        };
        let source = SelectablePath {
            missing: Missing::Field("spec.nodeName".to_owned()),
            ..path("source.component", "")
        };
        Arc::new(Scanner::new(vec![path("spec.nodeName", ""), path("spec.on", "false"), source]))
    }

    fn entry(text: &str, kind: Option<WatchKind>) -> Entry {
        Entry::build("ns/a".into(), true, 42, text.as_bytes(), &scanner(), kind).unwrap()
    }

    #[test]
    fn the_revision_lands_in_the_top_level_metadata() {
        let cases = [
            r#"{"metadata":{"name":"a"},"spec":{"metadata":{"resourceVersion":"1"}}}"#,
            r#"{"spec":{"metadata":{}},"metadata":{"name":"a","resourceVersion":"3","uid":"u"}}"#,
            r#"{"metadata":{"resourceVersion":"","x":"\"resourceVersion\":\"9\""}}"#,
            r#"{"metadata": { } }"#,
            r#"{ "metadata" : {"resourceVersion" : null} }"#,
            "{}",
            r#" { "kind":"x" }"#,
            r#"{"a":"\"metadata\":{\"resourceVersion\":\"1\"}","metadata":{"labels":{"metadata":"x"}}}"#,
        ];
        for text in cases {
            let mut want: Value = serde_json::from_str(text).unwrap();
            want["metadata"]["resourceVersion"] = json!("42");
            let entry = entry(text, None);
            assert_eq!(serde_json::from_slice::<Value>(entry.json()).unwrap(), want, "{text}");
            want["metadata"]["resourceVersion"] = json!("1000");
            let later = entry.at(1000, WatchKind::Deleted);
            assert_eq!(serde_json::from_slice::<Value>(later.json()).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn facts_survive_both_splices() {
        let text = r#"{"spec":{"nodeName":"n1","on":true},"metadata":{"name":"a","labels":{"app":"x","\u0062":"q\u00e4"},"resourceVersion":"1234567","uid":"u-1"}}"#;
        let first = entry(text, Some(WatchKind::Added));
        for entry in [&first, &first.at(7, WatchKind::Deleted), &first.at(7_000_000_000, WatchKind::Deleted)]
        {
            assert_eq!((entry.namespace(), entry.name(), entry.uid()), ("ns", "a", "u-1"));
            assert_eq!(entry.label("app"), Some("x"));
            assert_eq!(entry.label("b"), Some("qä"));
            assert_eq!(entry.label("c"), None);
            assert_eq!((entry.field("spec.nodeName"), entry.field("spec.on")), ("n1", "true"));
            assert_eq!(entry.field("metadata.namespace"), "ns");
        }
        assert_eq!(entry("{}", None).field("spec.on"), "false");
        let other = r#"{"spec":{"nodeName":"n1"}}"#;
        assert_eq!(
            entry(other, None).field("source.component"),
            "n1",
            "another field stands in for a missing one"
        );
        let both = r#"{"spec":{"nodeName":"n1"},"source":{"component":"c"}}"#;
        assert_eq!(entry(both, None).field("source.component"), "c");
        assert_eq!(entry("{}", None).field("source.component"), "");
    }

    #[test]
    fn frames_are_shared_or_made() {
        let entry = entry(r#"{"metadata":{}}"#, Some(WatchKind::Modified));
        let json = std::str::from_utf8(entry.json()).unwrap().to_owned();
        let modified = entry.frame(WatchKind::Modified);
        assert_eq!(modified, format!("{{\"type\":\"MODIFIED\",\"object\":{json}}}\n"));
        assert_eq!(modified.as_ptr(), entry.frame(WatchKind::Modified).as_ptr());
        assert_eq!(entry.frame(WatchKind::Added), format!("{{\"type\":\"ADDED\",\"object\":{json}}}\n"));
    }

    proptest! {
        #[test]
        fn splicing_changes_nothing_else(
            meta in proptest::collection::btree_map("[a-c\"\\\\]{1,3}|resourceVersion|labels", "[ -~ä]{0,6}", 0..5),
            top in proptest::collection::btree_map("[a-c\"\\\\{}]{1,3}", "[ -~ä]{0,6}", 0..4),
            rev in any::<u64>(), pretty in any::<bool>(),
        ) {
            let mut value = json!(top);
            value["metadata"] = json!(meta);
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let entry = Entry::build("a".into(), false, rev, text.as_bytes(), &scanner(), None).unwrap();
            value["metadata"]["resourceVersion"] = json!(rev.to_string());
            prop_assert_eq!(serde_json::from_slice::<Value>(entry.json()).unwrap(), value);
        }
    }
}
