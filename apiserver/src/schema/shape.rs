//! The walk over an object and its type at once.
//!
//! It gives the object as Go's encoder would print it after decoding: structs that are no pointers are there
//! even when empty, values that are empty and may be left out are not, quantities and times are in their
//! canonical form. Lists and maps that are nil are left out.

use base64::{Engine, engine::general_purpose::STANDARD};
use component_base::quantity::Quantity;
use jiff::Timestamp;
use proto::{
    node::Node,
    table::{self, Field, Kind, Scalar, Type, TypeId},
};
use serde_json::{Map, Value, json};

use super::Decoded;

/// Complaints kept of one object.
const MAX_STRICT: usize = 100;

/// Decodes by a type.
pub(super) fn typed(node: &Node<'_>, id: TypeId) -> Result<Decoded, String> {
    let mut walk = Walk::default();
    let object = walk.message(id, node);
    match walk.error {
        Some(error) => Err(error),
        None => Ok(Decoded { object, strict: walk.strict }),
    }
}

/// Decodes without one.
pub(super) fn untyped(node: &Node<'_>) -> Decoded {
    let mut walk = Walk::default();
    let object = walk.any(node);
    Decoded { object, strict: walk.strict }
}

#[derive(Default)]
struct Walk {
    strict: Vec<String>,
    /// The first wrong type.
    error: Option<String>,
    /// Where the walk is: `spec.containers[0].image`.
    path: String,
    /// The struct fields that led here, without indices and keys.
    fields: Vec<&'static str>,
    /// The structs that are open.
    structs: Vec<&'static str>,
}

impl Walk {
    /// Runs below a member of an object.
    fn below<T>(&mut self, name: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let out = run(self);
        self.path.truncate(mark);
        out
    }

    fn complain(&mut self, what: &str, name: &str) {
        let dot = if self.path.is_empty() { "" } else { "." };
        let text = format!("{what} field {:?}", format!("{}{dot}{name}", self.path));
        if self.strict.len() < MAX_STRICT && !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }

    fn fail(&mut self, error: impl Into<String>) {
        if self.error.is_none() {
            self.error = Some(error.into());
        }
    }

    /// A value of a wrong type, in the words of Go's decoder.
    fn mismatch(&mut self, node: &Node<'_>, want: &str) {
        let value = match node {
            Node::Null => "null".to_owned(),
            Node::Bool(_) => "bool".to_owned(),
            Node::Signed(value) if is_integer(want) => format!("number {value}"),
            Node::Unsigned(value) if is_integer(want) => format!("number {value}"),
            Node::Float(value) if is_integer(want) => format!("number {}", json!(value)),
            Node::Signed(_) | Node::Unsigned(_) | Node::Float(_) => "number".to_owned(),
            Node::String(_) => "string".to_owned(),
            Node::Array(_) => "array".to_owned(),
            Node::Object(_) => "object".to_owned(),
        };
        let target = match self.structs.last() {
            Some(of) if !self.fields.is_empty() => {
                format!("struct field {of}.{}", self.fields.join("."))
            }
            _ => "value".to_owned(),
        };
        self.fail(format!("json: cannot unmarshal {value} into Go {target} of type {want}"));
    }

    fn message(&mut self, id: TypeId, node: &Node<'_>) -> Value {
        let of = table::builtin().get(id);
        let mut out = Map::new();
        match node {
            Node::Object(members) => self.members(of, members, &mut out),
            Node::Null => {}
            other => self.mismatch(other, &go_type(&Kind::Message(id))),
        }
        fill(of, &mut out);
        Value::Object(out)
    }

    fn members(
        &mut self,
        of: &'static Type,
        members: &[(std::borrow::Cow<'_, str>, Node<'_>)],
        out: &mut Map<String, Value>,
    ) {
        let mut seen: Vec<&str> = Vec::with_capacity(members.len());
        self.structs.push(last(of.name));
        for (key, node) in members {
            let Some(field) = of.field(key) else {
                self.complain("unknown", key);
                continue;
            };
            if seen.contains(&field.name) {
                self.complain("duplicate", key);
            } else {
                seen.push(field.name);
            }
            self.fields.push(field.name);
            match self.below(field.name, |walk| walk.field(field, node)) {
                Some(value) => out.insert(field.name.to_owned(), value),
                None => out.remove(field.name),
            };
            self.fields.pop();
        }
        self.structs.pop();
    }

    /// A field's value; `None` when Go would not print it.
    fn field(&mut self, field: &Field, node: &Node<'_>) -> Option<Value> {
        if *node == Node::Null {
            return None;
        }
        let value = self.value(&field.kind, node)?;
        let empty = match &value {
            Value::String(text) => text.is_empty(),
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::Array(members) => members.is_empty(),
            Value::Object(members) => members.is_empty() && matches!(field.kind, Kind::Map(_)),
            Value::Null => true,
        };
        let kept = field.optional
            || field.always
            || field.tag == 0
            || matches!(
                field.kind,
                Kind::Scalar(
                    Scalar::IntOrString
                        | Scalar::Raw
                        | Scalar::Any
                        | Scalar::Fields
                        | Scalar::SchemaOrArray
                        | Scalar::SchemaOrBool
                        | Scalar::SchemaOrStrings
                )
            );
        (!empty || kept).then_some(value)
    }

    /// A value that is not null.
    fn value(&mut self, kind: &Kind, node: &Node<'_>) -> Option<Value> {
        match (kind, node) {
            (Kind::Scalar(of), _) => self.scalar(*of, node),
            (Kind::Message(id), _) => Some(self.message(*id, node)),
            (Kind::List(member), Node::Array(members)) => {
                let mark = self.path.len();
                let mut out = Vec::with_capacity(members.len());
                for (at, node) in members.iter().enumerate() {
                    self.path.push_str(&format!("[{at}]"));
                    out.push(self.member(member, node));
                    self.path.truncate(mark);
                }
                Some(Value::Array(out))
            }
            (Kind::Map(kind), Node::Object(members)) => {
                let mut out = Map::new();
                for (key, node) in members {
                    if out.contains_key(&**key) {
                        self.complain("duplicate", key);
                    }
                    let value = self.below(key, |walk| walk.member(kind, node));
                    out.insert(key.clone().into_owned(), value);
                }
                Some(Value::Object(out))
            }
            _ => {
                self.mismatch(node, &go_type(kind));
                None
            }
        }
    }

    /// A member of a list or a value of a map: null is the zero value.
    fn member(&mut self, kind: &Kind, node: &Node<'_>) -> Value {
        let value = if *node == Node::Null { None } else { self.value(kind, node) };
        value.unwrap_or_else(|| match kind {
            Kind::Message(id) => self.message(*id, &Node::Null),
            Kind::Scalar(Scalar::String | Scalar::Bytes) => json!(""),
            Kind::Scalar(Scalar::Bool) => json!(false),
            Kind::Scalar(Scalar::Quantity) => json!("0"),
            Kind::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Float | Scalar::IntOrString) => json!(0),
            Kind::List(_) => json!([]),
            _ => Value::Null,
        })
    }

    fn scalar(&mut self, of: Scalar, node: &Node<'_>) -> Option<Value> {
        match (of, node) {
            (Scalar::String, Node::String(text)) => Some(json!(text)),
            (Scalar::Bool, Node::Bool(value)) => Some(json!(value)),
            (Scalar::Int32, Node::Signed(value)) if i32::try_from(*value).is_ok() => Some(json!(value)),
            (Scalar::Int64, Node::Signed(value)) => Some(json!(value)),
            (Scalar::Float, Node::Signed(_) | Node::Unsigned(_) | Node::Float(_)) => Some(node.to_value()),
            (Scalar::Raw | Scalar::Any, _) => Some(node.to_value()),
            (Scalar::Fields, Node::Object(_)) => Some(node.to_value()),
            (Scalar::Bytes, Node::String(text)) => self.bytes(text),
            (Scalar::Time | Scalar::MicroTime, Node::String(text)) => self.moment(of, text),
            (Scalar::IntOrString, Node::String(text)) => Some(json!(text)),
            (Scalar::IntOrString, Node::Signed(value)) if i32::try_from(*value).is_ok() => Some(json!(value)),
            (Scalar::Quantity, Node::String(text)) => self.quantity(text),
            (Scalar::Quantity, Node::Signed(value)) => self.quantity(&value.to_string()),
            (Scalar::Quantity, Node::Unsigned(value)) => self.quantity(&value.to_string()),
            (Scalar::Quantity, Node::Float(value)) => self.quantity(&json!(value).to_string()),
            (Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings, _) => {
                self.schema(of, node)
            }
            (Scalar::Quantity, _) => {
                self.fail(component_base::quantity::ParseError::FormatWrong.to_string());
                None
            }
            // Types that decode themselves do not know the field they are in.
            (Scalar::Time | Scalar::MicroTime, _) => {
                let (fields, structs) = (std::mem::take(&mut self.fields), std::mem::take(&mut self.structs));
                self.mismatch(node, "string");
                (self.fields, self.structs) = (fields, structs);
                None
            }
            (Scalar::IntOrString, _) => {
                let (fields, structs) = (std::mem::take(&mut self.fields), std::mem::take(&mut self.structs));
                self.mismatch(node, "int32");
                (self.fields, self.structs) = (fields, structs);
                None
            }
            _ => {
                self.mismatch(node, &go_type(&Kind::Scalar(of)));
                None
            }
        }
    }

    fn bytes(&mut self, text: &str) -> Option<Value> {
        let plain: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        match STANDARD.decode(&plain) {
            Ok(_) => Some(Value::String(plain)),
            Err(error) => {
                let at = match error {
                    base64::DecodeError::InvalidByte(at, _)
                    | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                    _ => plain.len() / 4 * 4,
                };
                self.fail(format!("illegal base64 data at input byte {at}"));
                None
            }
        }
    }

    fn moment(&mut self, of: Scalar, text: &str) -> Option<Value> {
        let Ok(at) = text.parse::<Timestamp>() else {
            self.fail(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            ));
            return None;
        };
        let form = if of == Scalar::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.6fZ" };
        Some(Value::String(at.strftime(form).to_string()))
    }

    fn quantity(&mut self, text: &str) -> Option<Value> {
        match text.parse::<Quantity>() {
            Ok(quantity) => Some(Value::String(quantity.to_string())),
            Err(error) => {
                self.fail(error.to_string());
                None
            }
        }
    }

    /// The unions of JSON schemas.
    fn schema(&mut self, of: Scalar, node: &Node<'_>) -> Option<Value> {
        let props = table::builtin().by_name("apiextensions.v1.JSONSchemaProps").map(Kind::Message)?;
        match (of, node) {
            (_, Node::Object(_)) => self.value(&props, node),
            (Scalar::SchemaOrArray, Node::Array(_)) => self.value(&Kind::List(Box::new(props)), node),
            (Scalar::SchemaOrStrings, Node::Array(_)) => {
                self.value(&Kind::List(Box::new(Kind::Scalar(Scalar::String))), node)
            }
            (Scalar::SchemaOrBool, Node::Bool(value)) => Some(json!(value)),
            (Scalar::SchemaOrBool, _) => {
                self.fail("boolean or JSON schema expected");
                None
            }
            (Scalar::SchemaOrStrings, _) => {
                self.fail("array or JSON schema expected");
                None
            }
            _ => {
                self.mismatch(node, "v1.JSONSchemaProps");
                None
            }
        }
    }

    /// A value of no type: only duplicates are told.
    fn any(&mut self, node: &Node<'_>) -> Value {
        match node {
            Node::Array(members) => {
                let mark = self.path.len();
                let mut out = Vec::with_capacity(members.len());
                for (at, node) in members.iter().enumerate() {
                    self.path.push_str(&format!("[{at}]"));
                    out.push(self.any(node));
                    self.path.truncate(mark);
                }
                Value::Array(out)
            }
            Node::Object(members) => {
                let mut out = Map::new();
                for (key, node) in members {
                    if out.contains_key(&**key) {
                        self.complain("duplicate", key);
                    }
                    let value = self.below(key, |walk| walk.any(node));
                    out.insert(key.clone().into_owned(), value);
                }
                Value::Object(out)
            }
            other => other.to_value(),
        }
    }
}

/// Adds what Go prints although it is absent: structs, and scalars without omitempty.
pub(super) fn fill(of: &'static Type, out: &mut Map<String, Value>) {
    let printed = of.fields.iter().filter(|field| field.tag > 0 && !field.optional && is_printed(field));
    for field in printed {
        if out.contains_key(field.name) {
            continue;
        }
        let value = match &field.kind {
            Kind::Message(id) => {
                let mut inner = Map::new();
                fill(table::builtin().get(*id), &mut inner);
                Value::Object(inner)
            }
            Kind::Scalar(Scalar::String) => json!(""),
            Kind::Scalar(Scalar::Bool) => json!(false),
            _ => json!(0),
        };
        out.insert(field.name.to_owned(), value);
    }
}

/// Whether Go prints a field that is no pointer and holds nothing.
fn is_printed(field: &Field) -> bool {
    match &field.kind {
        Kind::Message(_) => !field.omit_zero,
        Kind::Scalar(Scalar::String | Scalar::Bool | Scalar::Int32 | Scalar::Int64) => field.always,
        _ => false,
    }
}

fn is_integer(want: &str) -> bool {
    matches!(want, "int32" | "int64")
}

/// `DeploymentSpec` of `apps.v1.DeploymentSpec`.
fn last(name: &'static str) -> &'static str {
    name.rsplit('.').next().unwrap_or(name)
}

/// A type as Go prints it: `v1.PodSpec`, `[]v1.Container`, `map[string]string`.
fn go_type(kind: &Kind) -> String {
    match kind {
        Kind::Message(id) => {
            let name = table::builtin().get(*id).name;
            name.split_once('.').map_or(name, |(_, rest)| rest).to_owned()
        }
        Kind::List(member) => format!("[]{}", go_type(member)),
        Kind::Map(value) => format!("map[string]{}", go_type(value)),
        Kind::Scalar(of) => match of {
            Scalar::Bool => "bool",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Float => "float64",
            Scalar::Bytes => "[]uint8",
            Scalar::Quantity => "resource.Quantity",
            Scalar::Time => "v1.Time",
            Scalar::MicroTime => "v1.MicroTime",
            Scalar::IntOrString => "intstr.IntOrString",
            Scalar::Raw => "runtime.RawExtension",
            Scalar::Fields => "v1.FieldsV1",
            _ => "string",
        }
        .to_owned(),
    }
}
