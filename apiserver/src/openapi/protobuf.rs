//! The protobuf forms of Swagger 2.0 and OpenAPI 3.0, which clients ask for to spare themselves the JSON.
//!
//! Contract: `openapi.v2.Document` and `openapi.v3.Document` of gnostic's `OpenAPIv2.proto` and `OpenAPIv3.proto`. Which
//! key of a document becomes which field is said by tables; what no table names is left out.

use serde_json::Value;

use super::Dialect;

impl Dialect {
    /// The media types clients ask for: `@` is no letter of a media type, but it is the one that is used.
    pub(super) const fn protobuf_asked(self) -> [&'static str; 2] {
        match self {
            Self::V2 => ["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", self.protobuf()],
            Self::V3 => ["application/com.github.proto-openapi.spec.v3@v1.0+protobuf", self.protobuf()],
        }
    }

    /// The media type of the answer.
    pub(super) const fn protobuf(self) -> &'static str {
        match self {
            Self::V2 => "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
            Self::V3 => "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
        }
    }
}

/// Encodes a document.
pub(super) fn encode(dialect: Dialect, document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let shape = match dialect {
        Dialect::V2 => v2::DOCUMENT,
        Dialect::V3 => v3::DOCUMENT,
    };
    message(&mut out, shape, document);
    out
}

/// How a value is written.
enum Form {
    Text,
    Flag,
    Number,
    Integer,
    /// `Any` holds YAML in its second field; JSON is YAML.
    Any,
    /// One field for each of an array, or for what stands alone.
    Each(&'static Self),
    Message(&'static &'static [Field]),
    /// A message that has this field alone.
    Within(u32, &'static Self),
    /// One message a key: its name, and the value in this form.
    Pairs(&'static Self),
    /// Which form depends on the value: the first whose test it passes.
    Either(&'static [Case]),
    /// One that has a name.
    As(&'static Self),
}

/// A form, and which values have it.
struct Case(fn(&Value) -> bool, Form);

/// Where in an object the value of a field stands.
enum From {
    Key(&'static str),
    /// All keys that begin with `x-`.
    Extensions,
    /// All keys that begin so.
    Beginning(fn(char) -> bool),
    /// The whole of it.
    Itself,
}

/// A field of a message.
struct Field(From, u32, Form);

const fn key(name: &'static str, tag: u32, form: Form) -> Field {
    Field(From::Key(name), tag, form)
}

const fn extensions(tag: u32) -> Field {
    Field(From::Extensions, tag, Form::Pairs(&Form::Any))
}

/// A message whose first field is pairs.
const fn map(pairs: &'static Form) -> Form {
    Form::Within(1, pairs)
}

const TEXTS: Form = Form::Each(&Form::Text);
const ANYS: Form = Form::Each(&Form::Any);
const FLAG: Form = Form::Flag;

fn is_reference(value: &Value) -> bool {
    value.get("$ref").is_some()
}

fn any(_: &Value) -> bool {
    true
}

mod v2 {
    use serde_json::Value;

    use super::{ANYS, Case, FLAG, Field, Form, From, TEXTS, any, extensions, is_reference, key, map};

    pub(super) static DOCUMENT: &[Field] = &[
        key("swagger", 1, Form::Text),
        key("info", 2, Form::Message(&INFO)),
        key("host", 3, Form::Text),
        key("basePath", 4, Form::Text),
        key("schemes", 5, TEXTS),
        key("consumes", 6, TEXTS),
        key("produces", 7, TEXTS),
        key("paths", 8, Form::Message(&PATHS)),
        key("definitions", 9, map(&Form::Pairs(&Form::Message(&SCHEMA)))),
        key("parameters", 10, map(&Form::Pairs(&Form::As(&PARAMETER)))),
        key("responses", 11, map(&Form::Pairs(&Form::Message(&RESPONSE)))),
        key("security", 12, Form::Each(&Form::As(&SECURITY))),
        key("securityDefinitions", 13, map(&Form::Pairs(&Form::As(&DEFINITION)))),
        extensions(16),
    ];
    static INFO: &[Field] = &[
        key("title", 1, Form::Text),
        key("version", 2, Form::Text),
        key("description", 3, Form::Text),
        extensions(7),
    ];
    pub(super) static SECURITY: Form = map(&Form::Pairs(&Form::Within(1, &TEXTS)));
    static API_KEY: &[Field] = &[
        key("type", 1, Form::Text),
        key("name", 2, Form::Text),
        key("in", 3, Form::Text),
        key("description", 4, Form::Text),
        extensions(5),
    ];
    static BASIC: &[Field] = &[key("type", 1, Form::Text), key("description", 2, Form::Text), extensions(3)];
    static PATHS: &[Field] =
        &[extensions(1), Field(From::Beginning(|c| c == '/'), 2, Form::Pairs(&Form::Message(&PATH)))];
    static PATH: &[Field] = &[
        key("$ref", 1, Form::Text),
        key("get", 2, Form::Message(&OPERATION)),
        key("put", 3, Form::Message(&OPERATION)),
        key("post", 4, Form::Message(&OPERATION)),
        key("delete", 5, Form::Message(&OPERATION)),
        key("options", 6, Form::Message(&OPERATION)),
        key("head", 7, Form::Message(&OPERATION)),
        key("patch", 8, Form::Message(&OPERATION)),
        key("parameters", 9, Form::As(&PARAMETERS)),
        extensions(10),
    ];
    static OPERATION: &[Field] = &[
        key("tags", 1, TEXTS),
        key("summary", 2, Form::Text),
        key("description", 3, Form::Text),
        key("operationId", 5, Form::Text),
        key("produces", 6, TEXTS),
        key("consumes", 7, TEXTS),
        key("parameters", 8, Form::As(&PARAMETERS)),
        key("responses", 9, Form::Message(&RESPONSES)),
        key("schemes", 10, TEXTS),
        key("deprecated", 11, FLAG),
        key("security", 12, Form::Each(&Form::As(&SECURITY))),
        extensions(13),
    ];
    static PARAMETERS: Form = Form::Each(&Form::Either(&[
        Case(is_reference, Form::Within(2, &Form::Message(&REFERENCE))),
        Case(any, Form::Within(1, &Form::As(&PARAMETER))),
    ]));
    static REFERENCE: &[Field] = &[key("$ref", 1, Form::Text), key("description", 2, Form::Text)];
    /// Those in bodies are apart from the others, which differ by their place.
    static PARAMETER: Form = Form::Either(&[
        Case(|value| value["in"] == "body", Form::Within(1, &Form::Message(&BODY))),
        Case(|value| value["in"] == "header", Form::Within(2, &Form::Within(1, &Form::Message(&PLACED)))),
        Case(
            |value| value["in"] == "formData",
            Form::Within(2, &Form::Within(2, &Form::Message(&PLACED_OR_EMPTY))),
        ),
        Case(|value| value["in"] == "path", Form::Within(2, &Form::Within(4, &Form::Message(&PLACED)))),
        Case(any, Form::Within(2, &Form::Within(3, &Form::Message(&PLACED_OR_EMPTY)))),
    ]);
    static DEFINITION: Form = Form::Either(&[
        Case(|value| value["type"] == "basic", Form::Within(1, &Form::Message(&BASIC))),
        Case(any, Form::Within(2, &Form::Message(&API_KEY))),
    ]);
    static BODY: &[Field] = &[
        key("description", 1, Form::Text),
        key("name", 2, Form::Text),
        key("in", 3, Form::Text),
        key("required", 4, FLAG),
        key("schema", 5, Form::Message(&SCHEMA)),
        extensions(6),
    ];
    static PLACED: &[Field] = &[
        key("required", 1, FLAG),
        key("in", 2, Form::Text),
        key("description", 3, Form::Text),
        key("name", 4, Form::Text),
        key("type", 5, Form::Text),
        key("format", 6, Form::Text),
        key("default", 9, Form::Any),
        key("uniqueItems", 19, FLAG),
        key("enum", 20, ANYS),
        extensions(22),
    ];
    static PLACED_OR_EMPTY: &[Field] = &[
        key("required", 1, FLAG),
        key("in", 2, Form::Text),
        key("description", 3, Form::Text),
        key("name", 4, Form::Text),
        key("allowEmptyValue", 5, FLAG),
        key("type", 6, Form::Text),
        key("format", 7, Form::Text),
        key("default", 10, Form::Any),
        key("uniqueItems", 20, FLAG),
        key("enum", 21, ANYS),
        extensions(23),
    ];
    static RESPONSES: &[Field] = &[
        Field(From::Beginning(|c| c.is_ascii_digit() || c == 'd'), 1, Form::Pairs(&Form::As(&ANSWER))),
        extensions(2),
    ];
    static ANSWER: Form = Form::Either(&[
        Case(is_reference, Form::Within(2, &Form::Message(&REFERENCE))),
        Case(any, Form::Within(1, &Form::Message(&RESPONSE))),
    ]);
    static RESPONSE: &[Field] = &[
        key("description", 1, Form::Text),
        key("schema", 2, Form::Within(1, &Form::Message(&SCHEMA))),
        extensions(5),
    ];
    static SCHEMA: &[Field] = &[
        key("$ref", 1, Form::Text),
        key("format", 2, Form::Text),
        key("title", 3, Form::Text),
        key("description", 4, Form::Text),
        key("default", 5, Form::Any),
        key("multipleOf", 6, Form::Number),
        key("maximum", 7, Form::Number),
        key("exclusiveMaximum", 8, FLAG),
        key("minimum", 9, Form::Number),
        key("exclusiveMinimum", 10, FLAG),
        key("maxLength", 11, Form::Integer),
        key("minLength", 12, Form::Integer),
        key("pattern", 13, Form::Text),
        key("maxItems", 14, Form::Integer),
        key("minItems", 15, Form::Integer),
        key("uniqueItems", 16, FLAG),
        key("maxProperties", 17, Form::Integer),
        key("minProperties", 18, Form::Integer),
        key("required", 19, TEXTS),
        key("enum", 20, ANYS),
        key(
            "additionalProperties",
            21,
            Form::Either(&[
                Case(Value::is_boolean, Form::Within(2, &FLAG)),
                Case(any, Form::Within(1, &Form::Message(&SCHEMA))),
            ]),
        ),
        key("type", 22, Form::Within(1, &TEXTS)),
        key("items", 23, Form::Within(1, &Form::Each(&Form::Message(&SCHEMA)))),
        key("allOf", 24, Form::Each(&Form::Message(&SCHEMA))),
        key("properties", 25, map(&Form::Pairs(&Form::Message(&SCHEMA)))),
        key("discriminator", 26, Form::Text),
        key("readOnly", 27, FLAG),
        key("example", 30, Form::Any),
        extensions(31),
    ];
}

mod v3 {
    use serde_json::Value;

    use super::{ANYS, Case, FLAG, Field, Form, From, TEXTS, any, extensions, is_reference, key, map, v2};

    pub(super) static DOCUMENT: &[Field] = &[
        key("openapi", 1, Form::Text),
        key("info", 2, Form::Message(&INFO)),
        key("paths", 4, Form::Message(&PATHS)),
        key("components", 5, Form::Message(&COMPONENTS)),
        key("security", 6, Form::Each(&Form::As(&v2::SECURITY))),
        extensions(9),
    ];
    static INFO: &[Field] = &[
        key("title", 1, Form::Text),
        key("description", 2, Form::Text),
        key("version", 6, Form::Text),
        extensions(7),
    ];
    static COMPONENTS: &[Field] = &[
        key("schemas", 1, map(&Form::Pairs(&Form::As(&SCHEMA)))),
        key("responses", 2, map(&Form::Pairs(&Form::As(&RESPONSE)))),
        key("parameters", 3, map(&Form::Pairs(&Form::As(&PARAMETER)))),
        key("requestBodies", 5, map(&Form::Pairs(&Form::As(&REQUEST_BODY)))),
        key("securitySchemes", 7, map(&Form::Pairs(&Form::Within(1, &Form::Message(&SCHEME))))),
        extensions(10),
    ];
    static SCHEME: &[Field] = &[
        key("type", 1, Form::Text),
        key("description", 2, Form::Text),
        key("name", 3, Form::Text),
        key("in", 4, Form::Text),
        key("scheme", 5, Form::Text),
        key("bearerFormat", 6, Form::Text),
        key("openIdConnectUrl", 8, Form::Text),
        extensions(9),
    ];
    static PATHS: &[Field] =
        &[Field(From::Beginning(|c| c == '/'), 1, Form::Pairs(&Form::Message(&PATH))), extensions(2)];
    static PATH: &[Field] = &[
        key("$ref", 1, Form::Text),
        key("summary", 2, Form::Text),
        key("description", 3, Form::Text),
        key("get", 4, Form::Message(&OPERATION)),
        key("put", 5, Form::Message(&OPERATION)),
        key("post", 6, Form::Message(&OPERATION)),
        key("delete", 7, Form::Message(&OPERATION)),
        key("options", 8, Form::Message(&OPERATION)),
        key("head", 9, Form::Message(&OPERATION)),
        key("patch", 10, Form::Message(&OPERATION)),
        key("trace", 11, Form::Message(&OPERATION)),
        key("parameters", 13, Form::Each(&Form::As(&PARAMETER))),
        extensions(14),
    ];
    static OPERATION: &[Field] = &[
        key("tags", 1, TEXTS),
        key("summary", 2, Form::Text),
        key("description", 3, Form::Text),
        key("operationId", 5, Form::Text),
        key("parameters", 6, Form::Each(&Form::As(&PARAMETER))),
        key("requestBody", 7, Form::As(&REQUEST_BODY)),
        key("responses", 8, Form::Message(&RESPONSES)),
        key("deprecated", 10, FLAG),
        key("security", 11, Form::Each(&Form::As(&v2::SECURITY))),
        extensions(13),
    ];

    /// A message whose first field is the thing itself and whose second is a reference to it.
    macro_rules! or_reference {
        ($name:ident, $fields:ident) => {
            static $name: Form = Form::Either(&[
                Case(is_reference, Form::Within(2, &Form::Message(&REFERENCE))),
                Case(any, Form::Within(1, &Form::Message(&$fields))),
            ]);
        };
    }

    or_reference!(PARAMETER, PARAMETER_FIELDS);
    or_reference!(REQUEST_BODY, REQUEST_BODY_FIELDS);
    or_reference!(RESPONSE, RESPONSE_FIELDS);
    or_reference!(SCHEMA, SCHEMA_FIELDS);

    static REFERENCE: &[Field] =
        &[key("$ref", 1, Form::Text), key("summary", 2, Form::Text), key("description", 3, Form::Text)];
    static PARAMETER_FIELDS: &[Field] = &[
        key("name", 1, Form::Text),
        key("in", 2, Form::Text),
        key("description", 3, Form::Text),
        key("required", 4, FLAG),
        key("deprecated", 5, FLAG),
        key("allowEmptyValue", 6, FLAG),
        key("style", 7, Form::Text),
        key("explode", 8, FLAG),
        key("schema", 10, Form::As(&SCHEMA)),
        key("content", 13, Form::As(&MEDIA_TYPES)),
        extensions(14),
    ];
    static REQUEST_BODY_FIELDS: &[Field] = &[
        key("description", 1, Form::Text),
        key("content", 2, Form::As(&MEDIA_TYPES)),
        key("required", 3, FLAG),
        extensions(4),
    ];
    static MEDIA_TYPES: Form = map(&Form::Pairs(&Form::Message(&MEDIA_TYPE)));
    static MEDIA_TYPE: &[Field] = &[key("schema", 1, Form::As(&SCHEMA)), extensions(5)];
    static RESPONSES: &[Field] = &[
        key("default", 1, Form::As(&RESPONSE)),
        Field(From::Beginning(|c| c.is_ascii_digit()), 2, Form::Pairs(&Form::As(&RESPONSE))),
        extensions(3),
    ];
    static RESPONSE_FIELDS: &[Field] =
        &[key("description", 1, Form::Text), key("content", 3, Form::As(&MEDIA_TYPES)), extensions(5)];
    static SCHEMA_FIELDS: &[Field] = &[
        key("nullable", 1, FLAG),
        key("readOnly", 3, FLAG),
        key("writeOnly", 4, FLAG),
        key("example", 7, Form::Any),
        key("deprecated", 8, FLAG),
        key("title", 9, Form::Text),
        key("multipleOf", 10, Form::Number),
        key("maximum", 11, Form::Number),
        key("exclusiveMaximum", 12, FLAG),
        key("minimum", 13, Form::Number),
        key("exclusiveMinimum", 14, FLAG),
        key("maxLength", 15, Form::Integer),
        key("minLength", 16, Form::Integer),
        key("pattern", 17, Form::Text),
        key("maxItems", 18, Form::Integer),
        key("minItems", 19, Form::Integer),
        key("uniqueItems", 20, FLAG),
        key("maxProperties", 21, Form::Integer),
        key("minProperties", 22, Form::Integer),
        key("required", 23, TEXTS),
        key("enum", 24, ANYS),
        key("type", 25, Form::Text),
        key("allOf", 26, Form::Each(&Form::As(&SCHEMA))),
        key("oneOf", 27, Form::Each(&Form::As(&SCHEMA))),
        key("anyOf", 28, Form::Each(&Form::As(&SCHEMA))),
        key("not", 29, Form::Message(&SCHEMA_FIELDS)),
        key("items", 30, Form::Within(1, &Form::Each(&Form::As(&SCHEMA)))),
        key("properties", 31, map(&Form::Pairs(&Form::As(&SCHEMA)))),
        key(
            "additionalProperties",
            32,
            Form::Either(&[
                Case(Value::is_boolean, Form::Within(2, &FLAG)),
                Case(any, Form::Within(1, &Form::As(&SCHEMA))),
            ]),
        ),
        key("default", 33, Form::Message(&DEFAULT)),
        key("description", 34, Form::Text),
        key("format", 35, Form::Text),
        extensions(36),
    ];
    /// A default that is an object or an array cannot be told: its message is empty.
    static DEFAULT: &[Field] = &[
        Field(From::Itself, 1, Form::Number),
        Field(From::Itself, 2, FLAG),
        Field(From::Itself, 3, Form::Text),
    ];
}

fn message(out: &mut Vec<u8>, fields: &[Field], value: &Value) {
    for Field(from, tag, form) in fields {
        match from {
            From::Key(name) => {
                if let Some(value) = value.get(name) {
                    field(out, *tag, form, value);
                }
            }
            From::Extensions => pairs_of(out, *tag, form, value, |name| name.starts_with("x-")),
            From::Beginning(with) => pairs_of(out, *tag, form, value, |name| name.starts_with(*with)),
            From::Itself => field(out, *tag, form, value),
        }
    }
}

/// Those pairs of an object whose names are wanted.
fn pairs_of(out: &mut Vec<u8>, tag: u32, form: &Form, value: &Value, wanted: impl Fn(&str) -> bool) {
    let Form::Pairs(form) = form else { return };
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| wanted(name)) {
        pair(out, tag, form, name, value);
    }
}

fn pair(out: &mut Vec<u8>, tag: u32, form: &Form, name: &str, value: &Value) {
    let mut named = Vec::new();
    bytes(&mut named, 1, name.as_bytes());
    field(&mut named, 2, form, value);
    bytes(out, tag, &named);
}

/// Writes a value as a field; what is of another type than its form is left out.
fn field(out: &mut Vec<u8>, tag: u32, form: &Form, value: &Value) {
    match form {
        Form::Text => {
            if let Some(text) = value.as_str() {
                bytes(out, tag, text.as_bytes());
            }
        }
        Form::Flag => {
            if value.as_bool() == Some(true) {
                varint(out, u64::from(tag) << 3);
                varint(out, 1);
            }
        }
        Form::Number => {
            if let Some(number) = value.as_f64() {
                varint(out, u64::from(tag) << 3 | 1);
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        Form::Integer => {
            if let Some(number) = value.as_i64() {
                varint(out, u64::from(tag) << 3);
                varint(out, number.cast_unsigned());
            }
        }
        Form::Any => {
            let mut any = Vec::new();
            bytes(&mut any, 2, value.to_string().as_bytes());
            bytes(out, tag, &any);
        }
        Form::Each(form) => match value {
            Value::Array(values) => values.iter().for_each(|value| field(out, tag, form, value)),
            one => field(out, tag, form, one),
        },
        Form::Message(fields) => {
            let mut inner = Vec::new();
            message(&mut inner, fields, value);
            bytes(out, tag, &inner);
        }
        Form::Within(inner_tag, form) => {
            let mut inner = Vec::new();
            field(&mut inner, *inner_tag, form, value);
            bytes(out, tag, &inner);
        }
        Form::Pairs(form) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                pair(out, tag, form, name, value);
            }
        }
        Form::Either(forms) => {
            if let Some(Case(_, form)) = forms.iter().find(|Case(passes, _)| passes(value)) {
                field(out, tag, form, value);
            }
        }
        Form::As(form) => field(out, tag, form, value),
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
    use serde_json::{Value, json};

    use super::{Dialect, encode};

    /// Fields of a message: tag, and what follows it.
    fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
        fn varint(from: &mut &[u8]) -> u64 {
            let end = from.iter().position(|b| b & 0x80 == 0).unwrap();
            let (head, rest) = from.split_at(end + 1);
            *from = rest;
            head.iter().rev().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f))
        }
        let mut out = Vec::new();
        while !message.is_empty() {
            let tag = varint(&mut message);
            let length = match tag & 7 {
                0 => message.iter().position(|b| b & 0x80 == 0).unwrap() + 1,
                1 => 8,
                2 => usize::try_from(varint(&mut message)).unwrap(),
                other => panic!("wire type {other}"),
            };
            let (content, rest) = message.split_at(length);
            out.push((tag >> 3, content));
            message = rest;
        }
        out
    }

    /// What stands at a path of tags, as text; of several the last.
    fn at(document: &[u8], path: &[u64]) -> Option<String> {
        let mut message = document;
        for tag in path {
            message = fields(message).into_iter().rfind(|(t, _)| t == tag)?.1;
        }
        Some(String::from_utf8_lossy(message).into_owned())
    }

    #[test]
    fn a_document_is_encoded_field_by_field() {
        let document = json!({"swagger": "2.0", "info": {"title": "K", "version": "1"},
            "definitions": {"A": {"type": "string", "enum": ["w"], "x-a": 1}}});
        let schema =
            b"\xa2\x01\x05\x12\x03\"w\"\xb2\x01\x08\x0a\x06string\xfa\x01\x0a\x0a\x03x-a\x12\x03\x12\x011";
        let mut expected = b"\x0a\x032.0\x12\x06\x0a\x01K\x12\x011\x4a\x27\x0a\x25\x0a\x01A\x12\x20".to_vec();
        expected.extend_from_slice(schema);
        assert_eq!(schema.len(), 0x20);
        assert_eq!(encode(Dialect::V2, &document), expected);
    }

    #[test]
    fn operations_are_told_in_both() {
        let two = json!({"paths": {"/a": {
            "get": {"operationId": "readA", "tags": ["t"], "x-kubernetes-action": "get",
                "parameters": [
                    {"in": "query", "name": "limit", "type": "integer", "uniqueItems": true},
                    {"in": "body", "name": "body", "required": true, "schema": {"$ref": "#/definitions/A"}}],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/A"}}}},
            "parameters": [{"in": "path", "name": "name", "type": "string", "required": true}]}},
            "security": [{"B": []}], "securityDefinitions": {"B": {"type": "apiKey", "in": "header"}}});
        let two = encode(Dialect::V2, &two);
        let read = |tags: &[u64]| at(&two, tags);
        assert_eq!(read(&[8, 2, 1]).as_deref(), Some("/a"));
        assert_eq!(read(&[8, 2, 2, 2, 5]).as_deref(), Some("readA"));
        assert_eq!(read(&[8, 2, 2, 2, 13, 2, 2]).as_deref(), Some("\"get\""));
        assert_eq!(read(&[8, 2, 2, 2, 9, 1, 1]).as_deref(), Some("200"));
        assert_eq!(read(&[8, 2, 2, 2, 9, 1, 2, 1, 2, 1, 1]).as_deref(), Some("#/definitions/A"));
        assert_eq!(read(&[8, 2, 2, 2, 8, 1, 1, 5, 1]).as_deref(), Some("#/definitions/A"), "a body");
        assert_eq!(read(&[8, 2, 2, 9, 1, 2, 4, 4]).as_deref(), Some("name"), "a part of the path");
        assert_eq!(read(&[12, 1, 1]).as_deref(), Some("B"));
        assert_eq!(read(&[13, 1, 2, 2, 3]).as_deref(), Some("header"));

        let schema = json!({"type": "object", "default": {}, "not": {"maximum": 0.5},
            "properties": {"n": {"type": "integer", "default": 3, "maxLength": 300},
                "m": {"additionalProperties": {"$ref": "#/components/schemas/A"}},
                "l": {"items": {"allOf": [{"$ref": "#/components/schemas/A"}]}}}});
        let three = json!({"openapi": "3.0.0", "info": {"version": "1"}, "paths": {"/a": {
            "post": {"requestBody": {"required": true, "content": {"application/json": {"schema": {"type": "object"}}}},
                "parameters": [{"in": "query", "name": "dryRun", "schema": {"type": "string"}}],
                "responses": {"201": {"description": "Created", "content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/A"}}}}}}}},
            "components": {"schemas": {"A": schema}}});
        let three = encode(Dialect::V3, &three);
        let read = |tags: &[u64]| at(&three, tags);
        assert_eq!(read(&[2, 6]).as_deref(), Some("1"));
        assert_eq!(read(&[4, 1, 2, 6, 7, 1, 2, 1, 1]).as_deref(), Some("application/json"));
        assert_eq!(read(&[4, 1, 2, 6, 7, 1, 3]).as_deref(), Some("\u{1}"), "it is required");
        assert_eq!(read(&[4, 1, 2, 6, 6, 1, 10, 1, 25]).as_deref(), Some("string"));
        assert_eq!(read(&[4, 1, 2, 6, 8, 2, 1]).as_deref(), Some("201"));
        let answer = [4, 1, 2, 6, 8, 2, 2, 1, 3, 1, 2, 1, 2, 1];
        assert_eq!(read(&answer).as_deref(), Some("#/components/schemas/A"));
        let a = [5, 1, 1, 2, 1];
        let of = |tags: &[u64]| read(&[&a[..], tags].concat());
        assert_eq!(of(&[25]).as_deref(), Some("object"));
        assert_eq!(of(&[33]).as_deref(), Some(""), "a default that is an object");
        assert_eq!(of(&[29, 11]).map(String::into_bytes), Some(lossy(0.5_f64.to_le_bytes().to_vec())));
        let properties = fields(&three).into_iter().rfind(|(t, _)| *t == 5).unwrap().1;
        let properties = [1, 1, 2, 1, 31]
            .iter()
            .fold(properties, |message, tag| fields(message).into_iter().rfind(|(t, _)| t == tag).unwrap().1);
        let of = |name: &str, tags: &[u64]| {
            let all = fields(properties);
            let one = all.into_iter().find(|(_, pair)| at(pair, &[1]).as_deref() == Some(name)).unwrap().1;
            at(one, &[&[2, 1], tags].concat())
        };
        assert_eq!(of("n", &[33, 1]).map(String::into_bytes), Some(lossy(3.0_f64.to_le_bytes().to_vec())));
        assert_eq!(of("n", &[15]).map(String::into_bytes), Some(lossy(vec![0xac, 2])));
        assert_eq!(of("m", &[32, 1, 2, 1]).as_deref(), Some("#/components/schemas/A"));
        assert_eq!(of("l", &[30, 1, 1, 26, 2, 1]).as_deref(), Some("#/components/schemas/A"));
    }

    fn lossy(bytes: Vec<u8>) -> Vec<u8> {
        String::from_utf8_lossy(&bytes).into_owned().into_bytes()
    }

    #[test]
    fn what_is_of_another_type_is_left_out() {
        let odd = json!({"swagger": 2, "paths": [], "definitions": {"A": null, "B": {"required": "one", "type": ["a"]}}});
        let encoded = encode(Dialect::V2, &odd);
        assert_eq!(at(&encoded, &[1]), None);
        assert_eq!(at(&encoded, &[9, 1, 2, 19]).as_deref(), Some("one"));
        assert!(!encode(Dialect::V3, &Value::Null).starts_with(b"\x0a"));
    }
}
