//! One pass over an object's JSON that notes where the facts are: labels, uid, selectable fields and
//! the place of `metadata.resourceVersion`. Nothing is decoded.
//!
//! Values come from etcd, where anything may have been written: malformed JSON is an error, never a
//! panic, and recursion is bounded by the depth of the paths looked for.

use std::{borrow::Cow, ops::Range};

use super::SelectablePath;

/// What to look for in the objects of one resource.
#[derive(Debug)]
pub(super) struct Scanner {
    /// Steps of all paths, the first being the object itself.
    places: Vec<Place>,
    /// The paths: the four of metadata, then one per selectable field.
    paths: usize,
    pub(super) selectable: Vec<SelectablePath>,
}

/// A value some paths lead through or end at.
#[derive(Debug, Default)]
struct Place {
    /// Members looked into: names and places.
    steps: Vec<(String, usize)>,
    /// Paths that end here.
    ends: Vec<usize>,
}

/// Where things are, as byte ranges of the scanned JSON.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The `metadata` object with its braces.
    pub(super) metadata: Option<Range<usize>>,
    /// The value of `metadata.resourceVersion`, with its quotes.
    pub(super) resource_version: Option<Range<usize>>,
    pub(super) uid: Option<Range<usize>>,
    /// Key and value tokens of `metadata.labels`, with their quotes.
    pub(super) labels: Vec<Member>,
    /// Value tokens of the selectable fields, in the resource's order.
    pub(super) fields: Vec<Option<Range<usize>>>,
}

/// Key and value tokens of a member.
type Member = (Range<usize>, Range<usize>);

/// Why a value is not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON at byte {0}")]
pub(super) struct Malformed(usize);

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

const METADATA: usize = 0;
const RESOURCE_VERSION: usize = 1;
const UID: usize = 2;
const LABELS: usize = 3;
const FIRST_FIELD: usize = 4;

// === impl Scanner ===

impl Scanner {
    pub(super) fn new(selectable: Vec<SelectablePath>) -> Self {
        let fixed = ["/metadata", "/metadata/resourceVersion", "/metadata/uid", "/metadata/labels"];
        let paths = fixed.into_iter().chain(selectable.iter().map(|s| s.pointer.as_str()));
        let mut places = vec![Place::default()];
        let mut count = 0;
        for path in paths {
            let mut at = 0;
            for step in path.split('/').skip(1).map(unescape_pointer) {
                let known = places[at].steps.iter().find(|(name, _)| *name == step).map(|(_, next)| *next);
                at = known.unwrap_or_else(|| {
                    places.push(Place::default());
                    let next = places.len() - 1;
                    places[at].steps.push((step, next));
                    next
                });
            }
            places[at].ends.push(count);
            count += 1;
        }
        Self { places, paths: count, selectable }
    }

    /// Scans one object.
    pub(super) fn scan(&self, text: &[u8]) -> Result<Found, Malformed> {
        let mut values: Vec<Option<Range<usize>>> = vec![None; self.paths];
        let mut cursor = Cursor { text, at: 0 };
        cursor.space();
        if cursor.peek() != Some(b'{') {
            return Err(Malformed(cursor.at));
        }
        self.visit(&mut cursor, &self.places[0], &mut values)?;
        cursor.space();
        if cursor.at != text.len() {
            return Err(Malformed(cursor.at));
        }
        let labels = match &values[LABELS] {
            Some(range) if text[range.start] == b'{' => Cursor { text, at: range.start }.string_members()?,
            _ => Vec::new(),
        };
        let object = |range: &Range<usize>| text[range.start] == b'{';
        Ok(Found {
            metadata: values[METADATA].take().filter(object),
            resource_version: values[RESOURCE_VERSION].take(),
            uid: values[UID].take(),
            labels,
            fields: values.split_off(FIRST_FIELD),
        })
    }

    /// Reads the value at the cursor, which is in this place.
    fn visit(
        &self,
        cursor: &mut Cursor<'_>,
        place: &Place,
        values: &mut [Option<Range<usize>>],
    ) -> Result<(), Malformed> {
        cursor.space();
        let start = cursor.at;
        let leads_on = !place.steps.is_empty();
        match cursor.peek() {
            Some(b'{') if leads_on => {
                let mut more = cursor.open(b'{', b'}')?;
                while more {
                    let key = cursor.key()?;
                    match self.member(place, &cursor.text[key]) {
                        Some(next) => self.visit(cursor, next, values)?,
                        None => cursor.skip()?,
                    }
                    more = cursor.more(b'}')?;
                }
            }
            Some(b'[') if leads_on => {
                let (mut more, mut index) = (cursor.open(b'[', b']')?, 0_usize);
                while more {
                    match self.step(place, index.to_string().as_bytes()) {
                        Some(next) => self.visit(cursor, next, values)?,
                        None => cursor.skip()?,
                    }
                    index += 1;
                    more = cursor.more(b']')?;
                }
            }
            _ => cursor.skip()?,
        }
        for &path in &place.ends {
            values[path] = Some(start..cursor.at);
        }
        Ok(())
    }

    /// Where the member with this key token is.
    fn member(&self, place: &Place, token: &[u8]) -> Option<&Place> {
        match token {
            [b'"', name @ .., b'"'] if !name.contains(&b'\\') => self.step(place, name),
            escaped => self.step(place, token_text(escaped).as_bytes()),
        }
    }

    fn step(&self, place: &Place, name: &[u8]) -> Option<&Place> {
        let found = place.steps.iter().find(|(step, _)| step.as_bytes() == name);
        found.map(|(_, next)| &self.places[*next])
    }
}

// === impl Cursor ===

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        self.space();
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(Malformed(self.at))
        }
    }

    /// Enters a container; false when it is empty (and left again).
    fn open(&mut self, open: u8, close: u8) -> Result<bool, Malformed> {
        self.expect(open)?;
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        Ok(true)
    }

    /// After a member: whether another follows; leaves the container otherwise.
    fn more(&mut self, close: u8) -> Result<bool, Malformed> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(b) if b == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(Malformed(self.at)),
        }
    }

    /// A member's key token; leaves the cursor before its value.
    fn key(&mut self) -> Result<Range<usize>, Malformed> {
        self.space();
        let start = self.at;
        self.string()?;
        let end = self.at;
        self.expect(b':')?;
        Ok(start..end)
    }

    fn string(&mut self) -> Result<(), Malformed> {
        self.expect(b'"')?;
        loop {
            self.plain();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return Err(Malformed(self.at)),
            }
        }
    }

    /// Steps over text in a string, eight bytes at once, up to something that may end it or near the end.
    fn plain(&mut self) {
        while let Some(chunk) = self.text.get(self.at..).and_then(<[u8]>::first_chunk) {
            let word = u64::from_le_bytes(*chunk);
            let special = has_byte(word, b'"') | has_byte(word, b'\\');
            if special != 0 {
                self.at += special.trailing_zeros() as usize / 8;
                return;
            }
            self.at += chunk.len();
        }
    }

    /// Steps over one value of any kind, without recursion.
    fn skip(&mut self) -> Result<(), Malformed> {
        self.space();
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => self.string()?,
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b',' | b':' | b' ' | b'\t' | b'\n' | b'\r') if depth > 0 => self.at += 1,
                Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E') => self.scalar(),
                _ => return Err(Malformed(self.at)),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn scalar(&mut self) {
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E')) {
            self.at += 1;
        }
    }

    /// Key and value tokens of an object's string members.
    fn string_members(&mut self) -> Result<Vec<Member>, Malformed> {
        let mut members = Vec::new();
        let mut more = self.open(b'{', b'}')?;
        while more {
            let key = self.key()?;
            self.space();
            let start = self.at;
            self.skip()?;
            if self.text[start] == b'"' {
                members.push((key, start..self.at));
            }
            more = self.more(b'}')?;
        }
        Ok(members)
    }
}

/// The highest bit of each byte that is `byte`, exact up to the first of them.
fn has_byte(word: u64, byte: u8) -> u64 {
    let differs = word ^ u64::from_ne_bytes([byte; 8]);
    differs.wrapping_sub(u64::from_ne_bytes([0x01; 8])) & !differs & u64::from_ne_bytes([0x80; 8])
}

/// The text of a JSON token: strings without quotes and escapes, scalars as written. What is no
/// text at all (bad escapes, bad UTF-8) is empty.
pub(super) fn token_text(token: &[u8]) -> Cow<'_, str> {
    match plain_text(token) {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(serde_json::from_slice::<String>(token).unwrap_or_default()),
    }
}

/// The text of a token that needs no unescaping, else `None`.
pub(super) fn plain_text(token: &[u8]) -> Option<&str> {
    let inner = match token {
        [b'"', inner @ .., b'"'] => inner,
        other => other,
    };
    if inner.contains(&b'\\') { None } else { std::str::from_utf8(inner).ok() }
}

fn unescape_pointer(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::registry::Missing;

    fn scanner(pointers: &[&str]) -> Scanner {
        let path = |p: &&str| SelectablePath {
            name: (*p).to_owned(),
            pointer: (*p).to_owned(),
            missing: Missing::Is(String::new()),
        };
        Scanner::new(pointers.iter().map(path).collect())
    }

    fn field(text: &str, pointer: &str) -> Option<String> {
        let found = scanner(&[pointer]).scan(text.as_bytes()).unwrap();
        found.fields[0].clone().map(|r| token_text(&text.as_bytes()[r]).into_owned())
    }

    #[test]
    fn finds_fields_of_every_kind() {
        let text = r#" { "a" : {"b": [1, {"c":"x\"}y"}], "n": -1.5e3 , "t": true}, "b\u0062":{"d/e":"q"} , "z":null } "#;
        assert_eq!(field(text, "/a/b/1/c").unwrap(), "x\"}y");
        assert_eq!(field(text, "/a/n").unwrap(), "-1.5e3");
        assert_eq!(field(text, "/a/t").unwrap(), "true");
        assert_eq!(field(text, "/bb/d~1e").unwrap(), "q");
        assert_eq!(field(text, "/z").unwrap(), "null");
        assert_eq!(field(text, "/a/b/7/c"), None);
    }

    #[test]
    fn only_top_level_metadata_counts() {
        let text = r#"{"spec":{"metadata":{"resourceVersion":"9","labels":{"a":"b"}},"s":"\"metadata\":{"},"metadata":{"labels":{"k":"v","n":3},"uid":"u"}}"#;
        let found = scanner(&[]).scan(text.as_bytes()).unwrap();
        assert_eq!(found.resource_version, None);
        assert_eq!(found.labels.len(), 1);
        assert_eq!(&text[found.labels[0].0.clone()], "\"k\"");
        assert!(text[found.metadata.unwrap()].starts_with(r#"{"labels""#));
    }

    #[test]
    fn strings_end_where_they_end_whatever_their_length() {
        for length in 0..40 {
            let (plain, quoted) = ("x".repeat(length), "\\\"".repeat(length));
            for (a, b) in [(&plain, &plain), (&quoted, &plain), (&plain, &quoted)] {
                let text = format!(r#"{{"a":"{a}\\","{b}":1,"z":"{b}"}}"#);
                let want = serde_json::from_str::<Value>(&text).unwrap()["z"].as_str().map(str::to_owned);
                assert_eq!(field(&text, "/z"), want, "{text}");
            }
        }
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1"#,
            r#"{"a":"x"#,
            r#"{"a":1} x"#,
            "null",
            r#"{"a":"\"#,
        ] {
            assert!(scanner(&["/a"]).scan(text.as_bytes()).is_err(), "{text}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1.0e6..1.0e6).prop_map(|f: f64| Value::from(f.round() / 8.0)),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map("[abm\"\\\\{]{0,3}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_real_parser(a in any_json(), b in any_json(), pretty in any::<bool>()) {
            let value = json!({"a": a, "m": {"b": b}, "metadata": {"uid": "u"}});
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let found = scanner(&["/a", "/m/b", "/a/a"]).scan(text.as_bytes()).unwrap();
            for (index, pointer) in ["/a", "/m/b", "/a/a"].iter().enumerate() {
                let got = found.fields[index].clone().map(|r| serde_json::from_str::<Value>(&text[r]).unwrap());
                prop_assert_eq!(got.as_ref(), value.pointer(pointer));
            }
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut framed = b"{\"metadata\":".to_vec();
            framed.extend(text);
            drop(scanner(&["/a"]).scan(&framed));
        }
    }
}
