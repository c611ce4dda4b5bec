//! The Kubernetes CBOR encoding: JSON objects to and from data items.
//!
//! An object is one data item inside the tag that says "this is CBOR", so that it can be told from other encodings by
//! its first bytes. Text is written as byte strings, which need no proof that they are UTF-8, and what is base64 in JSON
//! as the bytes themselves with the tag that says so. Numbers and lengths take the fewest bytes; nothing has an
//! indefinite length. What is read may be anything that has a counterpart in JSON. Nothing here trusts its input:
//! nesting is bounded, and no memory is taken for what a length merely claims.
//!
//! ```text
//! JSON text ──node::Node──▶ write ──▶ bytes        bytes ──▶ read ──node::Node──▶ JSON text
//! ```
//!
//! Contract: KEP-4222; RFC 8949 and RFC 8742; apimachinery's `runtime/serializer/cbor`.

use crate::{
    node::Node,
    table::{self, Kind},
};

mod read;
#[cfg(test)]
mod tests;
mod write;

/// The content type of a whole object.
pub const CONTENT_TYPE: &str = "application/cbor";
/// The content type of objects one after the other, such as the events of a watch.
pub const SEQUENCE_TYPE: &str = "application/cbor-seq";
/// The content type of a configuration that is applied.
pub const APPLY_TYPE: &str = "application/apply-patch+cbor";

/// What every encoded object begins with: tag 55799, "self-described CBOR".
pub const MAGIC: [u8; 3] = [0xd9, 0xd9, 0xf7];

/// Arrays, maps and tags may nest this deep: as deep as JSON may.
const MAX_DEPTH: usize = 127;

/// In which order the members of maps are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Bytewise by their encoding (RFC 8949, 4.2.1): the same object has the same bytes.
    Sorted,
    /// Beginning anywhere, by this seed. Answers are written so, lest clients rely on an order that nobody promised.
    Turned(u64),
}

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is nothing.
    #[error("EOF")]
    Empty,
    /// The bytes end inside an item.
    #[error("unexpected EOF")]
    Truncated,
    /// Something follows the item.
    #[error("cbor: {count} bytes of extraneous data starting at index {at}")]
    Extraneous {
        /// How much.
        count: usize,
        /// Where it begins.
        at: usize,
    },
    /// An item's first byte that means nothing.
    #[error("cbor: invalid additional information {info} for type {of}")]
    Information {
        /// Its lower five bits.
        info: u8,
        /// Its type.
        of: &'static str,
    },
    /// The end of an item of indefinite length where there is none.
    #[error("cbor: unexpected \"break\" code")]
    Break,
    /// A string of indefinite length is not made of strings.
    #[error("cbor: wrong element type {found} for indefinite-length {of}")]
    Chunk {
        /// What is in it.
        found: &'static str,
        /// What it is.
        of: &'static str,
    },
    /// A string of indefinite length is made of such.
    #[error("cbor: indefinite-length {of} chunk is not definite-length")]
    NestedChunk {
        /// What it is.
        of: &'static str,
    },
    /// Items nest too deep.
    #[error("cbor: exceeded max nested level {MAX_DEPTH}")]
    TooDeep,
    /// Text that is none.
    #[error("cbor: invalid UTF-8 string")]
    NotUtf8,
    /// A member that is there twice.
    #[error("cbor: found duplicate map key {key:?} at map element index {at}")]
    Duplicate {
        /// Its name.
        key: String,
        /// Which member it is, counted from 0.
        at: usize,
    },
    /// The name of a member is no text.
    #[error("cbor: cannot unmarshal {0} into Go value of type string")]
    Key(&'static str),
    /// A whole number beyond 64 bits with a sign.
    #[error("cbor: cannot unmarshal {of} into Go value of type int64 ({number} overflows Go's int64)")]
    Overflow {
        /// Its type.
        of: &'static str,
        /// The number.
        number: i128,
    },
    /// What JSON has no counterpart of.
    #[error("cbor: data item of cbor type {of} is not accepted by protocol: {what}")]
    Unacceptable {
        /// Its type.
        of: &'static str,
        /// What it is.
        what: String,
    },
    /// A simple value in a form that it cannot have.
    #[error("cbor: invalid simple value {0} for type primitives")]
    Simple(u8),
    /// A tag around something that it cannot be around.
    #[error("cbor: tag number {tag} must be followed by {want}, got {found}")]
    Tag {
        /// The tag.
        tag: u64,
        /// What it is for.
        want: &'static str,
        /// What it is around.
        found: &'static str,
    },
    /// A time that is none.
    #[error("cbor: cannot set {0} for time.Time")]
    Time(String),
}

/// Reads one data item that is all there is.
///
/// # Errors
/// For what is malformed, and for what JSON has no counterpart of.
pub fn decode(bytes: &[u8]) -> Result<Node<'_>, DecodeError> {
    match decode_first(bytes)? {
        (node, []) => Ok(node),
        (_, rest) => Err(DecodeError::Extraneous { count: rest.len(), at: bytes.len() - rest.len() }),
    }
}

/// Reads the first of a sequence of data items; what follows it comes back.
///
/// # Errors
/// As [`decode`].
pub fn decode_first(bytes: &[u8]) -> Result<(Node<'_>, &[u8]), DecodeError> {
    read::first(bytes)
}

/// An encoded object as JSON, members in name order.
///
/// # Errors
/// As [`decode`].
pub fn to_json(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Ok(decode(bytes)?.to_value().to_string().into_bytes())
}

/// An object, encoded by the type of its kind; one whose kind is in no table is encoded as it is.
pub fn encode(node: &Node<'_>, order: Order) -> Vec<u8> {
    let text = |name| node.get(name).and_then(Node::as_str).unwrap_or_default();
    encode_as(node, kind_of(text("apiVersion"), text("kind")).as_ref(), order)
}

fn encode_as(node: &Node<'_>, kind: Option<&Kind>, order: Order) -> Vec<u8> {
    let mut writer = write::Writer::new(order);
    writer.raw(&MAGIC);
    writer.value(node, kind);
    writer.finish()
}

/// A JSON object, encoded.
///
/// # Errors
/// When it is not JSON.
pub fn from_json(json: &[u8], order: Order) -> serde_json::Result<Vec<u8>> {
    Ok(encode(&serde_json::from_slice(json)?, order))
}

/// A list of JSON items, encoded item by item; `metadata` is the list's own.
///
/// # Errors
/// When an item is not JSON.
pub fn list<I>(
    api_version: &str,
    kind: &str,
    metadata: &Node<'_>,
    items: I,
    order: Order,
) -> serde_json::Result<Vec<u8>>
where
    I: ExactSizeIterator,
    I::Item: AsRef<[u8]>,
{
    let member = match kind_of(api_version, kind) {
        Some(Kind::Message(id)) => table::builtin().get(id).field("items").map(|field| &field.kind),
        _ => None,
    };
    let member = match member {
        Some(Kind::List(member)) => Some(&**member),
        _ => None,
    };
    let mut writer = write::Writer::new(order);
    writer.raw(&MAGIC);
    writer.map(4);
    // In their order by the encoding: the shorter name first.
    writer.text("kind");
    writer.text(kind);
    writer.text("items");
    writer.array(items.len());
    for item in items {
        writer.value(&serde_json::from_slice(item.as_ref())?, member);
    }
    writer.text("metadata");
    writer.value(metadata, None);
    writer.text("apiVersion");
    writer.text(api_version);
    Ok(writer.finish())
}

/// One event of a watch around an encoded object.
pub fn watch_frame(event: &str, object: &[u8], order: Order) -> Vec<u8> {
    let mut writer = write::Writer::new(order);
    writer.raw(&MAGIC);
    writer.map(2);
    let object_first = writer.begin(2) == 1;
    if !object_first {
        writer.text("type");
        writer.text(event);
    }
    writer.text("object");
    writer.raw(object);
    if object_first {
        writer.text("type");
        writer.text(event);
    }
    writer.finish()
}

fn kind_of(api_version: &str, kind: &str) -> Option<Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    table::builtin().by_kind(group, version, kind).map(Kind::Message)
}
