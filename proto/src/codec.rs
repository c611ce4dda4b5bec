//! The Kubernetes protobuf encoding: JSON objects to and from messages, by the type table.
//!
//! On the wire an object is the magic `k8s\0` and a `runtime.Unknown` message: its kind, and its own message
//! as bytes. Scalars that Go does not point to are always written, in tag order, maps in key order, so that
//! bytes equal those of upstream's generated code. Nothing here trusts its input: lengths are only ever used
//! to slice what is there, nesting is bounded, and failures are typed.
//!
//! ```text
//! JSON text ──node::Node──▶ encode ──wire::Back──▶ bytes        bytes ──wire::Reader──▶ decode ──▶ JSON text
//! ```
//!
//! Contract: apimachinery's `runtime/serializer/protobuf` and the `generated.proto` files.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    node::Node,
    table::{self, Kind, TypeId},
};

mod decode;
mod encode;
mod plan;
mod time;
mod wire;

use wire::{Back, Reader, Wire};

/// What every encoded object begins with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Messages and embedded objects may nest this deep.
const MAX_DEPTH: usize = 128;

/// Why bytes are no object.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The magic is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The bytes end inside a value.
    #[error("unexpected EOF")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// Tag 0, or a wire type that does not exist.
    #[error("proto: illegal tag {tag} (wire type {wire_type})")]
    IllegalTag {
        /// The field number.
        tag: u64,
        /// The wire type.
        wire_type: u8,
    },
    /// A field is on the wire in a form that it cannot have.
    #[error("proto: wrong wireType for field {field}")]
    WrongType {
        /// The JSON name of the field.
        field: &'static str,
    },
    /// Messages nest too deep.
    #[error("proto: nested too deep")]
    TooDeep,
    /// The kind has no message.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// The envelope's apiVersion.
        api_version: String,
        /// The envelope's kind.
        kind: String,
    },
    /// An embedded object is not JSON.
    #[error("embedded object is no JSON: {0}")]
    Embedded(String),
    /// The envelope says that its content is encoded or is no protobuf.
    #[error("unsupported content {0:?} in a protobuf envelope")]
    Content(String),
}

/// Why an object has no message.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// It is not JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Its kind has none.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// The object's apiVersion.
        api_version: String,
        /// The object's kind.
        kind: String,
    },
    /// A field holds what its type cannot.
    #[error("{path}: not a {want}")]
    Mismatch {
        /// Where, in JSON names, joined by points.
        path: String,
        /// What it should be.
        want: &'static str,
    },
}

/// An envelope that was opened: an object's kind and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion`; may be empty where the kind goes without saying.
    pub api_version: Cow<'a, str>,
    /// `kind`; may be empty where the kind goes without saying.
    pub kind: Cow<'a, str>,
    /// The object's message.
    pub message: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Opens an encoded object.
    pub fn open(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.strip_prefix(&MAGIC).ok_or(DecodeError::NoMagic)?);
        let mut out = Self { api_version: Cow::default(), kind: Cow::default(), message: &[] };
        while let Some((tag, value)) = reader.next()? {
            match (tag, value) {
                (1, Wire::Bytes(meta)) => out.read_type(meta)?,
                (2, Wire::Bytes(message)) => out.message = message,
                // An encoding (gzip was planned once) or another content type is nothing we could read.
                (3, Wire::Bytes(content)) if !content.is_empty() => {
                    return Err(DecodeError::Content(String::from_utf8_lossy(content).into_owned()));
                }
                (4, Wire::Bytes(content)) if !content.is_empty() && content != CONTENT_TYPE.as_bytes() => {
                    return Err(DecodeError::Content(String::from_utf8_lossy(content).into_owned()));
                }
                _ => {}
            }
        }
        Ok(out)
    }

    fn read_type(&mut self, meta: &'a [u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(meta);
        while let Some((tag, value)) = reader.next()? {
            match (tag, value) {
                (1, Wire::Bytes(text)) => self.api_version = String::from_utf8_lossy(text),
                (2, Wire::Bytes(text)) => self.kind = String::from_utf8_lossy(text),
                _ => {}
            }
        }
        Ok(())
    }

    /// The object as JSON, with its apiVersion and kind, fields in name order.
    pub fn to_json(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = Vec::with_capacity(self.message.len() * 2);
        decode::object(self, &mut out, 0)?;
        Ok(out)
    }

    fn type_id(&self) -> Result<TypeId, DecodeError> {
        type_of(&self.api_version, &self.kind).ok_or_else(|| DecodeError::UnknownKind {
            api_version: self.api_version.clone().into_owned(),
            kind: self.kind.clone().into_owned(),
        })
    }
}

/// The content type of a whole object.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// An encoded object as JSON.
pub fn to_json(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Envelope::open(bytes)?.to_json()
}

/// A JSON object, encoded.
pub fn from_json(json: &[u8]) -> Result<Bytes, EncodeError> {
    let node: Node<'_> = serde_json::from_slice(json)?;
    let text = |name| node.get(name).and_then(Node::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    from_node(&node, api_version, kind, json.len())
}

/// A JSON object, encoded as another kind with some of its fields: `PartialObjectMetadata` of any object.
pub fn from_json_as(json: &[u8], api_version: &str, kind: &str) -> Result<Bytes, EncodeError> {
    from_node(&serde_json::from_slice(json)?, api_version, kind, json.len())
}

fn from_node(node: &Node<'_>, api_version: &str, kind: &str, size: usize) -> Result<Bytes, EncodeError> {
    let id = type_of(api_version, kind).ok_or_else(|| unknown(api_version, kind))?;
    let mut back = envelope(size);
    encode::message(&mut back, id, node)?;
    Ok(seal(back, api_version, kind))
}

/// A list of JSON items, encoded item by item; `metadata` is the list's own as JSON.
///
/// Items are taken from the last to the first, each is dropped before the next.
pub fn list<I>(api_version: &str, kind: &str, metadata: &[u8], items: I) -> Result<Bytes, EncodeError>
where
    I: DoubleEndedIterator,
    I::Item: AsRef<[u8]>,
{
    let id = type_of(api_version, kind).ok_or_else(|| unknown(api_version, kind))?;
    let of = table::builtin().get(id);
    let (Some(field), Some(meta)) = (of.field("items"), of.field("metadata")) else {
        return Err(unknown(api_version, kind));
    };
    let (Kind::List(member), Kind::Message(meta_id)) = (&field.kind, &meta.kind) else {
        return Err(unknown(api_version, kind));
    };
    let Kind::Message(item_id) = **member else { return Err(unknown(api_version, kind)) };
    let mut back = envelope(4096);
    let put_metadata = |back: &mut Back| {
        let mark = back.len();
        encode::message(back, *meta_id, &serde_json::from_slice(metadata)?)?;
        back.close(mark, meta.tag);
        Ok::<(), EncodeError>(())
    };
    // From the back, so what has the higher number comes first.
    if meta.tag > field.tag {
        put_metadata(&mut back)?;
    }
    for item in items.rev() {
        let node: Node<'_> = serde_json::from_slice(item.as_ref())?;
        let mark = back.len();
        encode::message(&mut back, item_id, &node)?;
        back.close(mark, field.tag);
    }
    if meta.tag < field.tag {
        put_metadata(&mut back)?;
    }
    Ok(seal(back, api_version, kind))
}

/// One frame of a watch: the length in four bytes, and a `WatchEvent` around an encoded object.
pub fn watch_frame(event: &str, object: &[u8]) -> Bytes {
    let mut back = Back::with_capacity(object.len() + 64);
    let mark = back.len();
    back.put(object);
    back.close(mark, 1);
    back.close(mark, 2);
    back.text(1, event);
    // An object is stored in etcd, so it is far smaller than 4 GiB.
    let length = u32::try_from(back.len()).unwrap_or(u32::MAX);
    back.put(&length.to_be_bytes());
    back.finish()
}

/// Whether a kind has a message, so that its objects can be encoded.
pub fn has_message(api_version: &str, kind: &str) -> bool {
    type_of(api_version, kind).is_some_and(|id| {
        let of = table::builtin().get(id);
        of.fields.is_empty() || of.fields.iter().any(|f| f.tag > 0)
    })
}

fn unknown(api_version: &str, kind: &str) -> EncodeError {
    EncodeError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() }
}

fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let table = table::builtin();
    // Clients send the options of a delete in the group of what they delete, which may be any.
    let options = || table.by_kind("", "v1", kind).filter(|_| kind == "DeleteOptions");
    table.by_kind(group, version, kind).or_else(options)
}

/// An envelope's writer. It writes from the end, where the (empty) content encoding and type stand.
fn envelope(size: usize) -> Back {
    let mut back = Back::with_capacity(size);
    back.text(4, "");
    back.text(3, "");
    back
}

/// Puts the envelope's head before a message that was written into it.
fn seal(mut back: Back, api_version: &str, kind: &str) -> Bytes {
    const TAIL: usize = 4;
    back.close(TAIL, 2);
    let mark = back.len();
    back.text(2, kind);
    back.text(1, api_version);
    back.close(mark, 1);
    back.put(&MAGIC);
    back.finish()
}

#[cfg(test)]
mod tests;
