//! Field paths and validation errors, in upstream's types and words.
//!
//! Contract: apimachinery `pkg/util/validation/field` (what clients see in `details.causes` and in
//! the message of a 422). Validation code collects errors into an [`ErrorList`] and never stops at
//! the first one.

use std::fmt;

use serde_json::Value;

use crate::shape::Struct;

/// A path to a field: `spec.containers[0].ports[web]`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Path(String);

/// What is wrong with a field (`field.ErrorType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A reference to something that does not exist.
    NotFound,
    /// A required value is missing.
    Required,
    /// Two list members collide.
    Duplicate,
    /// The value is malformed or out of range.
    Invalid,
    /// The value is not one of the supported ones.
    NotSupported,
    /// The field may not be set, or changed, by this request.
    Forbidden,
    /// The string is too long.
    TooLong,
    /// The list is too long.
    TooMany,
    /// The failure is the server's.
    Internal,
    /// The value has the wrong type.
    TypeInvalid,
}

/// One validation error.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where.
    pub field: String,
    /// The offending value, as JSON; `None` where the message shows none.
    pub bad: Option<Value>,
    /// What the value is, where it is a structure that upstream shows in its own way.
    pub shape: Option<&'static Struct>,
    /// The detail after the value.
    pub detail: String,
}

/// All errors of one object, in the order found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList(Vec<Error>);

// === impl Path ===

impl Path {
    /// A root path: `Path::new("spec")`; `Path::root()` is the empty one.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The object itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// `self.name` (several names may be given with dots).
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { self.joined(&[".", name]) }
    }

    /// `self[i]`.
    #[must_use]
    pub fn index(&self, i: usize) -> Self {
        match u8::try_from(i) {
            Ok(digit @ 0..10) => self.joined(&["[", char::from(b'0' + digit).encode_utf8(&mut [0; 4]), "]"]),
            _ => self.joined(&["[", &i.to_string(), "]"]),
        }
    }

    /// `self[key]`.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.joined(&["[", key, "]"])
    }

    /// This path and more. Validation makes a path for every field it looks at, so this goes without formatting.
    fn joined(&self, more: &[&str]) -> Self {
        let mut path =
            String::with_capacity(self.0.len() + more.iter().map(|part| part.len()).sum::<usize>());
        path.push_str(&self.0);
        more.iter().for_each(|part| path.push_str(part));
        Self(path)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

// === impl ErrorKind ===

impl ErrorKind {
    /// The words that follow the field in a message.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    /// The `metav1.CauseType`.
    pub fn cause(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

// === impl Error ===

impl Error {
    /// A field must be set.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Required,
            field: path.to_string(),
            bad: None,
            shape: None,
            detail: detail.into(),
        }
    }

    /// A value is malformed.
    pub fn invalid(path: &Path, bad: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            field: path.to_string(),
            bad: Some(bad.into()),
            shape: None,
            detail: detail.into(),
        }
    }

    /// A field may not be set or changed.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Forbidden,
            field: path.to_string(),
            bad: None,
            shape: None,
            detail: detail.into(),
        }
    }

    /// A list member stands twice.
    pub fn duplicate(path: &Path, bad: impl Into<Value>) -> Self {
        Self {
            kind: ErrorKind::Duplicate,
            field: path.to_string(),
            bad: Some(bad.into()),
            shape: None,
            detail: String::new(),
        }
    }

    /// A reference leads nowhere.
    pub fn not_found(path: &Path, bad: impl Into<Value>) -> Self {
        Self {
            kind: ErrorKind::NotFound,
            field: path.to_string(),
            bad: Some(bad.into()),
            shape: None,
            detail: String::new(),
        }
    }

    /// A value is none of `supported`.
    pub fn not_supported(path: &Path, bad: impl Into<Value>, supported: &[&str]) -> Self {
        let mut names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        names.sort_unstable();
        let detail =
            if names.is_empty() { String::new() } else { format!("supported values: {}", names.join(", ")) };
        Self {
            kind: ErrorKind::NotSupported,
            field: path.to_string(),
            bad: Some(bad.into()),
            shape: None,
            detail,
        }
    }

    /// As `not_supported`, with the values in the order they are given.
    pub fn not_among(path: &Path, bad: impl Into<Value>, supported: &[&str]) -> Self {
        let names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = format!("supported values: {}", names.join(", "));
        Self { detail, ..Self::not_supported(path, bad, &[]) }
    }

    /// A string is longer than `max` bytes.
    pub fn too_long(path: &Path, max: usize) -> Self {
        let plural = if max == 1 { "byte" } else { "bytes" };
        Self {
            kind: ErrorKind::TooLong,
            field: path.to_string(),
            bad: None,
            shape: None,
            detail: format!("may not be more than {max} {plural}"),
        }
    }

    /// A list has `actual` members where `max` are allowed.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let plural = if max == 1 { "item" } else { "items" };
        Self {
            kind: ErrorKind::TooMany,
            field: path.to_string(),
            bad: Some(Value::from(actual)),
            shape: None,
            detail: format!("must have at most {max} {plural}"),
        }
    }

    /// The server could not validate.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Internal,
            field: path.to_string(),
            bad: None,
            shape: None,
            detail: detail.into(),
        }
    }

    /// A value has the wrong type.
    pub fn type_invalid(path: &Path, bad: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind: ErrorKind::TypeInvalid, ..Self::invalid(path, bad, detail) }
    }

    /// With the value shown as this structure.
    #[must_use]
    pub fn shown_as(self, shape: &'static Struct) -> Self {
        Self { shape: Some(shape), ..self }
    }

    /// The error without its field, as it stands in a cause.
    pub fn body(&self) -> String {
        let mut out = self.kind.words().to_owned();
        if let Some(bad) = &self.bad {
            out.push_str(": ");
            match (bad, self.shape) {
                (Value::String(text), _) => quote(text, &mut out),
                (other, None) => out.push_str(&safe_in_html(other.to_string())),
                (other, Some(shape)) => {
                    let mut shown = String::new();
                    shape.show(other, &mut shown);
                    out.push_str(&safe_in_html(shown));
                }
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

/// A text as Go's `%q` has it: what cannot be printed is escaped, and nothing else.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_unprintable(c) && c <= '\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if is_unprintable(c) => out.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whether a character shows nothing: controls, spaces other than the usual one, marks of direction and joining, and what
/// stands for nothing in Unicode.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || (c != ' ' && c.is_whitespace())
        || matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}'
            | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{10ffff}')
}

/// JSON as Go's encoder writes it.
fn safe_in_html(text: String) -> String {
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

// === impl ErrorList ===

impl ErrorList {
    /// No errors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The errors in order.
    pub fn as_slice(&self) -> &[Error] {
        &self.0
    }

    /// Walks the errors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.0.iter()
    }
}

impl IntoIterator for ErrorList {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::shape;

    #[test]
    fn values_are_told_as_upstream_prints_them() {
        for (value, told) in [
            (json!("a \"b\" \\ <c>"), r#""a \"b\" \\ <c>""#),
            (json!("line\n\u{1}\u{7f}\u{200b}\u{e000}é😀"), r#""line\n\x01\x7f\u200b\ue000é😀""#),
            (json!(5), "5"),
            (json!(true), "true"),
            (json!(null), "null"),
            (json!(["a<b", "&"]), r#"["a\u003cb","\u0026"]"#),
            (json!({"matchLabels": {"a": "b"}}), r#"{"matchLabels":{"a":"b"}}"#),
        ] {
            let error = Error::invalid(&Path::new("f"), value, "why");
            assert_eq!(error.to_string(), format!("f: Invalid value: {told}: why"));
        }
        assert_eq!(Error::required(&Path::new("f"), "").to_string(), "f: Required value");
        for (value, shape, told) in [
            (
                json!({"kind": "Role", "name": "<r>"}),
                &shape::ROLE_REF,
                r#"{"APIGroup":"","Kind":"Role","Name":"\u003cr\u003e"}"#,
            ),
            (json!([{"ip": "::1"}]), &shape::IP, r#"[{"IP":"::1"}]"#),
            (json!(null), &shape::VOLUME_NODE_AFFINITY, "null"),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "Exists"}], "matchLabels": {"a": "b"}}),
                &shape::LABEL_SELECTOR,
                r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"a","operator":"Exists"}]}"#,
            ),
            (
                json!({"required": {"nodeSelectorTerms": [{"matchFields": [{"key": "k", "operator": "In", "values": ["v"]}]}]}}),
                &shape::VOLUME_NODE_AFFINITY,
                r#"{"Required":{"NodeSelectorTerms":[{"MatchExpressions":null,"MatchFields":[{"Key":"k","Operator":"In","Values":["v"]}]}]}}"#,
            ),
        ] {
            let error = Error::invalid(&Path::new("f"), value, "why").shown_as(shape);
            assert_eq!(error.to_string(), format!("f: Invalid value: {told}: why"));
        }
    }
}
