//! Decoding of request bodies by the type table: unknown and duplicate fields, wrong types, and the shape that
//! Go's encoder would give the same object.
//!
//! Contract: API concepts, "Field validation"; sigs.k8s.io/json for the words. Fields are case-sensitive, a null
//! is an absent value, of a field that is there twice the last one counts.

use std::sync::{LazyLock, OnceLock};

use proto::{
    cbor, codec,
    node::Node,
    table::{self, TypeId},
};
use serde_json::{Map, Value};

use http::{HeaderMap, header};

use crate::{
    field::{Error, ErrorList, Path},
    negotiation,
    object::Object,
    status::{GroupName, Status},
};

mod shape;
mod syntax;
mod yaml;

/// What happens with unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped with a warning.
    Warn,
    /// They fail the request.
    Strict,
}

impl FieldValidation {
    /// The query parameter; `options` is the kind of the options it belongs to.
    pub fn parse(text: &str, options: &str) -> Result<Self, Status> {
        Ok(match text {
            "Ignore" => Self::Ignore,
            "" | "Warn" => Self::Warn,
            "Strict" => Self::Strict,
            other => {
                let mut errors = ErrorList::new();
                let supported = ["", "Ignore", "Strict", "Warn"];
                errors.push(Error::not_supported(&Path::new("fieldValidation"), other, &supported));
                return Err(Status::invalid(&GroupName::new("meta.k8s.io", options), "", &errors));
            }
        })
    }
}

/// A body as it was sent.
#[derive(Debug)]
pub struct Sent<'a> {
    /// The JSON.
    pub node: Node<'a>,
    /// Duplicate keys of YAML, which are told apart from JSON's.
    pub duplicates: Vec<String>,
    /// Protobuf has no names, so none that are unknown.
    pub named: bool,
}

/// A decoded object.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    /// The object without unknown fields.
    pub object: Value,
    /// Unknown and duplicate fields in the order of the text.
    pub strict: Vec<String>,
}

/// The whole of several complaints, as upstream's strict decoding error puts it.
pub fn strict_error(complaints: &[String]) -> String {
    format!("strict decoding error: {}", complaints.join(", "))
}

/// Reads a body by its Content-Type; none means JSON. `speaks_cbor` where that is among what the server takes.
pub fn read<'a>(headers: &HeaderMap, body: &'a [u8], speaks_cbor: bool) -> Result<Sent<'a>, Unread> {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match sent.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => {
            let json = |error| {
                format!("couldn't get version/kind; json parse error: {}", syntax_error(body, &error))
            };
            let node = serde_json::from_slice(body).map_err(|error| Unread::Text(json(error)))?;
            Ok(Sent { node, duplicates: Vec::new(), named: true })
        }
        "application/yaml" => {
            let (node, duplicates) = yaml::parse(body).map_err(Unread::Text)?;
            Ok(Sent { node, duplicates, named: true })
        }
        codec::CONTENT_TYPE => {
            let json = codec::to_json(body).map_err(|e| Status::bad_request(e.to_string()))?;
            let node: Node<'_> =
                serde_json::from_slice(&json).map_err(|e| Status::bad_request(e.to_string()))?;
            Ok(Sent { node: node.into_owned(), duplicates: Vec::new(), named: false })
        }
        // Duplicate members are no complaint here but no CBOR.
        cbor::CONTENT_TYPE if speaks_cbor => {
            let node = cbor::decode(body)
                .map_err(|e| Status::bad_request(format!("error decoding CBOR request body: {e}")))?;
            Ok(Sent { node, duplicates: Vec::new(), named: true })
        }
        _ => Err(Status::unsupported_media_type(negotiation::offered(speaks_cbor)).into()),
    }
}

/// Why a text is no JSON, in the words upstream has for it where there are any.
pub fn syntax_error(text: &[u8], error: &serde_json::Error) -> String {
    syntax::fault(text).unwrap_or_else(|| error.to_string())
}

/// Why a body could not be read.
#[derive(Debug)]
pub enum Unread {
    /// It is no text of its format.
    Text(String),
    /// Anything else.
    Other(Box<Status>),
}

impl Unread {
    /// The refusal of what should have been an object of a kind.
    pub fn of(self, kind: &str, body: &[u8]) -> Status {
        match self {
            Self::Text(why) => Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): {why} ({})",
                summary(body)
            )),
            Self::Other(status) => *status,
        }
    }
}

impl From<Status> for Unread {
    fn from(status: Status) -> Self {
        Self::Other(Box::new(status))
    }
}

impl From<Unread> for Status {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Text(why) => Self::bad_request(why),
            Unread::Other(status) => *status,
        }
    }
}

/// The beginning of a body, for people to recognize it by.
fn summary(body: &[u8]) -> String {
    const MOST: usize = 30;
    let beginning = &body[..body.len().min(MOST)];
    let shown = match body.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(beginning).into_owned(),
        Some(_) => beginning.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if body.len() > MOST { format!("{shown} ...") } else { shown }
}

/// A YAML text with its duplicate keys.
///
/// # Errors
/// When it is no YAML, in words.
pub fn read_yaml(body: &[u8]) -> Result<(Node<'static>, Vec<String>), String> {
    yaml::parse(body)
}

/// The type of a built-in kind.
pub fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    table::builtin().by_kind(group, version, kind)
}

/// Decodes an object of a built-in type.
///
/// # Errors
/// The first value that has a wrong type, in Go's words.
pub fn decode(node: &Node<'_>, id: TypeId) -> Result<Decoded, String> {
    shape::typed(node, id)
}

/// An object of a built-in type with nothing in it.
pub fn empty(id: TypeId) -> &'static Value {
    static ALL: LazyLock<Vec<OnceLock<Value>>> =
        LazyLock::new(|| (0..table::builtin().len()).map(|_| OnceLock::new()).collect());
    ALL[id.index()].get_or_init(|| {
        let mut members = Map::new();
        shape::fill(table::builtin().get(id), &mut members);
        Value::Object(members)
    })
}

/// Gives an object of a built-in type the parts it always has, such as an empty status, where a strategy took
/// them away.
pub fn complete(object: &mut Object) {
    if let Some(id) = type_of(object.api_version(), object.kind()) {
        shape::fill(table::builtin().get(id), object.as_map_mut());
    }
}

/// Decodes an object whose type is not in the table: only duplicates can be told.
pub fn decode_untyped(node: &Node<'_>) -> Decoded {
    shape::untyped(node)
}

#[cfg(test)]
mod tests;
