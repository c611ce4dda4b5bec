//! A stored object as the cache holds it: encoded bytes and the facts selection reads.
//!
//! ```text
//! {"type":"MODIFIED","object":{"kind":"Pod","metadata":{"resourceVersion":"7","name":…}}}\n   q"ä
//! └───────── frame ───────────└──────────────── json ──────────────────────────────────┘──┘   └ texts the JSON escapes
//! └─────────────────────────────────────────── buffer ────────────────────────────────────────────┘
//! ```
//!
//! An object that arrives through the stream is laid out inside the watch frame it will be sent as,
//! so the frame costs no copy; facts are places in the buffer, eight bytes each.

use std::{num::NonZero, ops::Range, sync::Arc};

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
    buffer: Bytes,
    labels: Box<[(Span, Span)]>,
    fields: Box<[Option<Span>]>,
    scanner: Arc<Scanner>,
    /// Where the JSON begins in the buffer, and its length.
    json_at: u32,
    json_len: u32,
    namespace_len: u32,
    /// The digits of the resourceVersion in the JSON.
    digits: Span,
    uid: Option<Span>,
    /// The kind of the watch frame the JSON lies in.
    kind: Option<WatchKind>,
}

/// Offset and length in the buffer; no text begins where the first brace is.
#[derive(Clone, Copy, Debug)]
struct Span(NonZero<u32>, u32);

/// Closes a watch frame.
const FRAME_END: &[u8] = b"}\n";

/// What stands around the JSON in the buffer.
#[derive(Clone, Copy)]
struct Around {
    head: &'static [u8],
    tail: &'static [u8],
}

/// Gathers texts and where they will lie.
struct Placing<'a> {
    stored: &'a [u8],
    /// What is cut out of the stored value, and how much comes in its stead.
    cut: Range<usize>,
    inserted: usize,
    /// Where the JSON begins.
    json_at: usize,
    /// Where the texts begin that the JSON escapes.
    own_at: usize,
    own: String,
}

// === impl Around ===

impl Around {
    fn of(kind: Option<WatchKind>) -> Self {
        match kind {
            Some(kind) => Self { head: frame_head(kind), tail: FRAME_END },
            None => Self { head: b"", tail: b"" },
        }
    }
}

// === impl Span ===

impl Span {
    /// Offsets fit: etcd refuses values over a few megabytes.
    fn new(at: usize, len: usize) -> Self {
        Self(NonZero::new(to_u32(at)).unwrap_or(NonZero::<u32>::MIN), to_u32(len))
    }

    fn range(self) -> Range<usize> {
        let at = self.0.get() as usize;
        at..at + self.1 as usize
    }
}

// === impl Placing ===

impl Placing<'_> {
    /// Where a token's text will lie in the buffer.
    fn place(&mut self, token: &Range<usize>) -> Span {
        let bytes = &self.stored[token.clone()];
        let Some(plain) = plain_text(bytes) else {
            let text = token_text(bytes);
            let at = self.own_at + self.own.len();
            self.own.push_str(&text);
            return Span::new(at, text.len());
        };
        let quote = usize::from(bytes.first() == Some(&b'"'));
        let at = token.start + quote;
        let at = if at >= self.cut.end { at - self.cut.len() + self.inserted } else { at };
        Span::new(self.json_at + at, plain.len())
    }
}

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
        let Around { head, tail } = Around::of(kind);
        let json_len = stored.len() - cut.len() + insert.len();
        let digits = Span::new(head.len() + cut.start + before.len(), digits.len());
        let mut placing = Placing {
            stored,
            cut: cut.clone(),
            inserted: insert.len(),
            json_at: head.len(),
            own_at: head.len() + json_len + tail.len(),
            own: String::new(),
        };
        let uid = found.uid.as_ref().map(|token| placing.place(token));
        let labels = found.labels.iter().map(|(k, v)| (placing.place(k), placing.place(v))).collect();
        let is_text = |token: &&Range<usize>| !matches!(stored[token.start], b'{' | b'[' | b'n');
        let fields = found
            .fields
            .iter()
            .map(|f| f.as_ref().filter(is_text).map(|token| placing.place(token)))
            .collect();
        let buffer =
            [head, &stored[..cut.start], insert.as_bytes(), &stored[cut.end..], tail, placing.own.as_bytes()];
        Self {
            rev,
            namespace_len: to_u32(if namespaced { key.find('/').unwrap_or(0) } else { 0 }),
            key,
            buffer: Bytes::from(buffer.concat()),
            labels,
            fields,
            scanner: scanner.clone(),
            json_at: to_u32(head.len()),
            json_len: to_u32(json_len),
            digits,
            uid,
            kind,
        }
    }

    /// The same object carrying another revision, laid out as a frame of `kind`: what a watcher is
    /// sent when the object is deleted or leaves its selection.
    pub(super) fn at(&self, rev: u64, kind: WatchKind) -> Self {
        let (json, cut, digits) = (self.json_range(), self.digits.range(), rev.to_string());
        let own = &self.buffer[json.end + Around::of(self.kind).tail.len()..];
        let Around { head, tail } = Around::of(Some(kind));
        let parts = [
            head,
            &self.buffer[json.start..cut.start],
            digits.as_bytes(),
            &self.buffer[cut.end..json.end],
            tail,
            own,
        ];
        let buffer = Bytes::from(parts.concat());
        let own_at = buffer.len() - own.len();
        let shift = |span: Span| {
            let Range { start, end } = span.range();
            let at = if start >= json.end {
                own_at + start - (self.buffer.len() - own.len())
            } else if start >= cut.end {
                head.len() + start - json.start - cut.len() + digits.len()
            } else {
                head.len() + start - json.start
            };
            Span::new(at, end - start)
        };
        Self {
            rev,
            key: self.key.clone(),
            namespace_len: self.namespace_len,
            labels: self.labels.iter().map(|&(k, v)| (shift(k), shift(v))).collect(),
            fields: self.fields.iter().map(|f| f.map(shift)).collect(),
            scanner: self.scanner.clone(),
            json_at: to_u32(head.len()),
            json_len: to_u32(json.len() - cut.len() + digits.len()),
            digits: Span::new(head.len() + cut.start - json.start, digits.len()),
            uid: self.uid.map(shift),
            kind: Some(kind),
            buffer,
        }
    }

    fn json_range(&self) -> Range<usize> {
        let at = self.json_at as usize;
        at..at + self.json_len as usize
    }

    /// The watch frame of `kind`: shared where the entry lies in one, else made.
    pub(super) fn frame(&self, kind: WatchKind) -> Bytes {
        if self.has_frame(kind) {
            return self.buffer.slice(..self.json_range().end + FRAME_END.len());
        }
        Bytes::from([frame_head(kind), self.json(), FRAME_END].concat())
    }

    /// Whether the entry lies in a frame of this kind.
    pub(super) fn has_frame(&self, kind: WatchKind) -> bool {
        self.kind == Some(kind)
    }

    /// What the entry costs in memory, about, in bytes.
    pub(super) fn cost(&self) -> usize {
        let facts = size_of_val(&*self.labels) + size_of_val(&*self.fields);
        size_of::<Self>() + self.key.len() + self.buffer.len() + facts + 64
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
    pub fn json(&self) -> &[u8] {
        &self.buffer[self.json_range()]
    }

    /// A piece of [`Self::json`], shared.
    pub fn share(&self, piece: &[u8]) -> Bytes {
        self.buffer.slice_ref(piece)
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|&&(k, _)| self.text(k) == key).map(|&(_, v)| self.text(v))
    }

    /// All labels.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|&(k, v)| (self.text(k), self.text(v)))
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
            Some(&Some(text)) => self.text(text),
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
            Some(&Some(text)) => self.text(text),
            _ => "",
        }
    }

    /// `metadata.uid`; empty when missing.
    pub fn uid(&self) -> &str {
        self.uid.map_or("", |uid| self.text(uid))
    }

    fn text(&self, span: Span) -> &str {
        // Checked to be UTF-8 when it was noted.
        std::str::from_utf8(&self.buffer[span.range()]).unwrap_or_default()
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
