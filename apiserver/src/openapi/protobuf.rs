//! The protobuf form of Swagger 2.0, which kubectl asks for when it checks an object by itself.
//!
//! Contract: `openapi.v2.Document` of gnostic's `OpenAPIv2.proto`. Of a document it carries the title and
//! the definitions; operations are in the JSON form alone.

use serde_json::Value;

/// The media types clients ask for: `@` is no letter of a media type, but it is the one that is used.
pub(super) const ASKED: &[&str] = &["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", MEDIA];
/// The media type of the answer.
pub(super) const MEDIA: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Encodes a Swagger 2.0 document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut info = Vec::new();
    text(&mut info, 1, &document["info"]["title"]);
    text(&mut info, 2, &document["info"]["version"]);
    let mut out = Vec::new();
    text(&mut out, 1, &document["swagger"]);
    bytes(&mut out, 2, &info);
    bytes(&mut out, 9, &named_schemas(&document["definitions"]));
    out
}

/// `Definitions` and `Properties`: schemas by name.
fn named_schemas(schemas: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in schemas.as_object().into_iter().flatten() {
        let mut named = Vec::new();
        bytes(&mut named, 1, name.as_bytes());
        bytes(&mut named, 2, &schema(value));
        bytes(&mut out, 1, &named);
    }
    out
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &value["$ref"]);
    text(&mut out, 2, &value["format"]);
    text(&mut out, 4, &value["description"]);
    for name in value["required"].as_array().into_iter().flatten() {
        text(&mut out, 19, name);
    }
    for word in value["enum"].as_array().into_iter().flatten() {
        bytes(&mut out, 20, &any(word));
    }
    if value["additionalProperties"].is_object() {
        bytes(&mut out, 21, &wrapped(&schema(&value["additionalProperties"])));
    }
    if let Some(kind) = value["type"].as_str() {
        bytes(&mut out, 22, &wrapped(kind.as_bytes()));
    }
    if value["items"].is_object() {
        bytes(&mut out, 23, &wrapped(&schema(&value["items"])));
    }
    if value["properties"].is_object() {
        bytes(&mut out, 25, &named_schemas(&value["properties"]));
    }
    let extensions = value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    for (name, value) in extensions {
        let mut named = Vec::new();
        bytes(&mut named, 1, name.as_bytes());
        bytes(&mut named, 2, &any(value));
        bytes(&mut out, 31, &named);
    }
    out
}

/// `Any` holds YAML in its second field; JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 2, value.to_string().as_bytes());
    out
}

/// A message whose first field is this.
fn wrapped(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, content);
    out
}

fn text(out: &mut Vec<u8>, tag: u32, value: &Value) {
    if let Some(value) = value.as_str() {
        bytes(out, tag, value.as_bytes());
    }
}

/// A length-delimited field.
fn bytes(out: &mut Vec<u8>, tag: u32, content: &[u8]) {
    varint(out, u64::from(tag) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::encode;

    #[test]
    fn a_document_is_encoded_field_by_field() {
        let document = json!({"swagger": "2.0", "info": {"title": "K", "version": "1"},
            "definitions": {"A": {"type": "string", "enum": ["w"], "x-a": 1}}});
        let schema =
            b"\xa2\x01\x05\x12\x03\"w\"\xb2\x01\x08\x0a\x06string\xfa\x01\x0a\x0a\x03x-a\x12\x03\x12\x011";
        let mut expected = b"\x0a\x032.0\x12\x06\x0a\x01K\x12\x011\x4a\x27\x0a\x25\x0a\x01A\x12\x20".to_vec();
        expected.extend_from_slice(schema);
        assert_eq!(schema.len(), 0x20);
        assert_eq!(encode(&document), expected);
    }
}
