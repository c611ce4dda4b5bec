//! Values at run time. JSON is borrowed and converted where an expression looks at it, by its schema where there is one.

use std::{any::Any, borrow::Cow, cmp::Ordering, collections::HashMap, fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::Value as Json;

use crate::{
    schema::{DeclKind, DeclType, ListSemantics},
    types::Type,
};

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression did more than it may; nothing absorbs this one.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// An authorizer has to find an answer out first; nothing absorbs this one either.
    #[error("authorization of {0:?} is not known yet")]
    Unanswered(Box<crate::library::authorizer::Question>),
    /// No function takes values of these types.
    #[error("no such overload")]
    NoSuchOverload,
    /// A map or object lacks a key.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// A variable the activation does not have.
    #[error("no such attribute(s): {0}")]
    NoSuchAttribute(String),
    /// An index past the end.
    #[error("index out of bounds: {0}")]
    IndexOutOfBounds(i64),
    /// Any other failure of a function, in upstream's words.
    #[error("{0}")]
    Failed(Cow<'static, str>),
}

impl EvalError {
    /// A failure with a text made at run time.
    pub fn failed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Failed(message.into())
    }

    /// Whether `||`, `&&` and comprehensions must not go on after it.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::CostLimit | Self::Unanswered(_))
    }
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A float.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    /// A point in time.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map or an object read from JSON.
    Map(Map<'a>),
    /// An object made by the expression itself.
    Object(Arc<Message<'a>>),
    /// A type.
    Type(Type),
    /// An optional value.
    Optional(Option<Arc<Value<'a>>>),
    /// A value of a library.
    Opaque(Arc<dyn Opaque>),
}

/// Text, borrowed or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// From the JSON.
    Borrowed(&'a str),
    /// Made at run time.
    Shared(Arc<str>),
}

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Borrowed(s) => s,
            Text::Shared(s) => s,
        }
    }
}

/// A list, borrowed or made.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// From the JSON, with its schema.
    Json(&'a [Json], Option<Arc<DeclType>>),
    /// Made at run time.
    Made(Arc<Vec<Value<'a>>>),
}

/// A map, borrowed or made.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// From the JSON, with its schema.
    Json(&'a serde_json::Map<String, Json>, Option<Arc<DeclType>>),
    /// Made at run time.
    Made(Arc<MadeMap<'a>>),
}

/// A map made at run time, in order of insertion.
#[derive(Clone, Debug, Default)]
pub struct MadeMap<'a> {
    entries: Vec<(Value<'a>, Value<'a>)>,
    index: HashMap<Key, usize>,
}

/// What makes keys the same: whole numbers of any type are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Bool(bool),
    Number(i128),
    String(String),
}

/// An object made by an expression: `Object.spec{replicas: 3}`.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// The type's name.
    pub type_name: Arc<str>,
    /// Fields in the order written, JSON names.
    pub fields: Vec<(String, Value<'a>)>,
}

/// A value of a library: quantities, addresses, authorizers.
pub trait Opaque: Any + fmt::Debug + Send + Sync {
    /// Its type's name as expressions see it.
    fn type_name(&self) -> &str;
    /// Equality with another opaque value.
    fn equals(&self, other: &dyn Opaque) -> bool;
    /// Itself, to be downcast.
    fn as_any(&self) -> &dyn Any;
    /// Size for the cost of calls.
    fn size(&self) -> u64 {
        1
    }
}

impl<'a> Value<'a> {
    /// Text made at run time.
    pub fn text(text: impl AsRef<str>) -> Value<'a> {
        Value::String(Text::Shared(text.as_ref().into()))
    }

    /// Text borrowed from the input.
    pub fn str(text: &'a str) -> Value<'a> {
        Value::String(Text::Borrowed(text))
    }

    /// A list made at run time.
    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Made(Arc::new(items)))
    }

    /// A value of a library.
    pub fn opaque(value: impl Opaque) -> Value<'a> {
        Value::Opaque(Arc::new(value))
    }

    /// `optional.of`.
    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    /// JSON without schema: whole numbers are integers, the rest doubles.
    pub fn json(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::Int(i),
                (None, Some(u)) => Value::Uint(u),
                // JSON numbers are always representable as doubles.
                (None, None) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::str(s),
            Json::Array(items) => Value::List(List::Json(items, None)),
            Json::Object(map) => Value::Map(Map::Json(map, None)),
        }
    }

    /// JSON with its schema.
    pub fn json_as(json: &'a Json, decl: &Arc<DeclType>) -> Result<Value<'a>, EvalError> {
        let wrong = |what: &str| EvalError::failed(format!("invalid data, expected {what}"));
        if json.is_null() && !matches!(decl.kind, DeclKind::Dyn) {
            if decl.nullable {
                return Ok(Value::Null);
            }
            return Err(EvalError::failed("invalid data, got null for schema with nullable=false"));
        }
        match &decl.kind {
            DeclKind::Dyn | DeclKind::Opaque(_) => Ok(Value::json(json)),
            DeclKind::IntOrString => match json {
                Json::String(s) => Ok(Value::str(s)),
                Json::Number(n) if n.is_i64() => Ok(Value::json(json)),
                _ => Err(wrong("XIntOrString value to be either a string or integer")),
            },
            DeclKind::Bool => json.as_bool().map(Value::Bool).ok_or_else(|| wrong("bool")),
            DeclKind::Int => match (json.as_i64(), json.as_f64()) {
                (Some(i), _) => Ok(Value::Int(i)),
                // Clients may send whole numbers as `3.0`.
                (None, Some(f)) if f.fract() == 0.0 && f.abs() < 9.2e18 => Ok(Value::Int(f as i64)),
                _ => Err(wrong("int")),
            },
            DeclKind::Double => json.as_f64().map(Value::Double).ok_or_else(|| wrong("float")),
            DeclKind::List { .. } => {
                let items = json
                    .as_array()
                    .ok_or_else(|| wrong("an array for the provided schema with type=array"))?;
                Ok(Value::List(List::Json(items, Some(decl.clone()))))
            }
            DeclKind::Map(_) | DeclKind::Object { .. } => {
                let map = json
                    .as_object()
                    .ok_or_else(|| wrong("a map for the provided schema with type=object"))?;
                Ok(Value::Map(Map::Json(map, Some(decl.clone()))))
            }
            kind => {
                let text = json.as_str().ok_or_else(|| wrong("string"))?;
                string_as(text, kind)
            }
        }
    }

    /// The text, of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The type at run time.
    pub fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Duration(_) => Type::Duration,
            Value::Timestamp(_) => Type::Timestamp,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(Map::Json(_, Some(decl))) => match decl.cel_type() {
                object @ Type::Object(_) => object,
                _ => Type::map(Type::Dyn, Type::Dyn),
            },
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Object(message) => Type::Object(message.type_name.clone()),
            Value::Type(t) => Type::Type(Arc::new(t.clone())),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Opaque(value) => Type::Opaque(value.type_name().into()),
        }
    }

    /// Characters, bytes or entries; 1 for what has no size. Cost is counted with this.
    pub fn size(&self) -> u64 {
        let size = match self {
            Value::String(text) => text.as_str().chars().count(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.len(),
            Value::Map(map) => map.len(),
            Value::Optional(Some(inner)) => return inner.size(),
            Value::Opaque(value) => return value.size(),
            _ => 1,
        };
        size as u64
    }

    /// A library's value of one type.
    pub fn downcast<T: 'static>(&self) -> Result<&T, EvalError> {
        match self {
            Value::Opaque(value) => value.as_any().downcast_ref().ok_or(EvalError::NoSuchOverload),
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    /// `==`: numbers by value whatever their type, different types are unequal.
    pub fn equals(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => a.as_str() == b.as_str(),
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::List(a), Value::List(b)) => a.equals(b),
            (Value::Map(a), Value::Map(b)) => a.equals(b),
            (Value::Object(a), Value::Object(b)) => {
                a.type_name == b.type_name
                    && a.fields.len() == b.fields.len()
                    && a.fields
                        .iter()
                        .all(|(name, value)| b.fields.iter().any(|(n, v)| n == name && value.equals(v)))
            }
            (Value::Type(a), Value::Type(b)) => same_type(a, b),
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (Value::Opaque(a), Value::Opaque(b)) => a.equals(b.as_ref()),
            _ => compare_numbers(self, other) == Some(Ordering::Equal),
        }
    }

    /// Order of values that have one: numbers across types, booleans, text, bytes, times.
    pub fn compare(&self, other: &Value<'_>) -> Result<Option<Ordering>, EvalError> {
        Ok(match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some(a.as_str().cmp(b.as_str())),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (
                Value::Int(_) | Value::Uint(_) | Value::Double(_),
                Value::Int(_) | Value::Uint(_) | Value::Double(_),
            ) => compare_numbers(self, other),
            _ => return Err(EvalError::NoSuchOverload),
        })
    }

    /// The value as JSON, for patches and annotations; `None` for what JSON cannot say.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Uint(u) => Json::from(*u),
            Value::Double(d) => Json::Number(serde_json::Number::from_f64(*d)?),
            Value::String(text) => Json::String(text.as_str().to_owned()),
            Value::Bytes(bytes) => Json::String(BASE64_STANDARD.encode(bytes)),
            Value::Duration(nanos) => Json::String(crate::library::time::duration_text(*nanos)),
            Value::Timestamp(t) => Json::String(crate::library::time::timestamp_text(*t)),
            Value::List(List::Json(items, _)) => Json::Array(items.to_vec()),
            Value::List(List::Made(items)) => {
                Json::Array(items.iter().map(Value::to_json).collect::<Option<Vec<_>>>()?)
            }
            Value::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Value::Map(Map::Made(map)) => {
                let mut object = serde_json::Map::new();
                for (key, value) in &map.entries {
                    object.insert(key.as_str()?.to_owned(), value.to_json()?);
                }
                Json::Object(object)
            }
            Value::Object(message) => {
                let mut object = serde_json::Map::new();
                for (name, value) in &message.fields {
                    object.insert(name.clone(), value.to_json()?);
                }
                Json::Object(object)
            }
            Value::Optional(Some(inner)) => inner.to_json()?,
            Value::Opaque(_) | Value::Type(_) => return None,
        })
    }

    fn key(&self) -> Result<Key, EvalError> {
        match self {
            Value::Bool(b) => Ok(Key::Bool(*b)),
            Value::Int(i) => Ok(Key::Number((*i).into())),
            Value::Uint(u) => Ok(Key::Number((*u).into())),
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 1e20 => Ok(Key::Number(*d as i128)),
            Value::String(s) => Ok(Key::String(s.as_str().to_owned())),
            other => Err(EvalError::failed(format!("unsupported key type: {}", other.type_of()))),
        }
    }

    /// `value.field`.
    pub(crate) fn field(&self, field: &str) -> Result<Option<Value<'a>>, EvalError> {
        match self {
            Value::Map(map) => map.get_str(field),
            Value::Object(message) => {
                Ok(message.fields.iter().find(|(n, _)| n == field).map(|(_, v)| v.clone()))
            }
            Value::Optional(Some(inner)) => inner.field(field),
            Value::Optional(None) => Ok(None),
            _ => Err(EvalError::NoSuchOverload),
        }
    }
}

fn string_as<'a>(text: &'a str, kind: &DeclKind) -> Result<Value<'a>, EvalError> {
    use crate::library::time;
    match kind {
        DeclKind::Bytes => {
            let bytes = BASE64_STANDARD
                .decode(text)
                .map_err(|e| EvalError::failed(format!("Invalid byte formatted string {text}: {e}")))?;
            Ok(Value::Bytes(bytes.into()))
        }
        DeclKind::Duration => time::parse_duration(text)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::failed(format!("Invalid duration {text}"))),
        DeclKind::Date => text
            .parse::<jiff::civil::Date>()
            .ok()
            .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok())
            .map(|zoned| Value::Timestamp(zoned.timestamp()))
            .ok_or_else(|| EvalError::failed(format!("Invalid date formatted string {text}"))),
        DeclKind::Timestamp => time::parse_timestamp(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::failed(format!("Invalid date-time formatted string {text}"))),
        _ => Ok(Value::str(text)),
    }
}

/// Types are equal by their outermost name, as `type([1]) == list` must hold.
fn same_type(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::List(_), Type::List(_)) | (Type::Map(..), Type::Map(..)) => true,
        (Type::Optional(_), Type::Optional(_)) | (Type::Type(_), Type::Type(_)) => true,
        (Type::Object(a) | Type::Opaque(a), Type::Object(b) | Type::Opaque(b)) => a == b,
        _ => a == b,
    }
}

/// Order of two numbers of any types; `None` with NaN or where one is no number.
fn compare_numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    let whole = |v: &Value<'_>| match v {
        Value::Int(i) => Some(i128::from(*i)),
        Value::Uint(u) => Some(i128::from(*u)),
        _ => None,
    };
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), b) => whole(b).and_then(|b| compare_double(*a, b)),
        (a, Value::Double(b)) => whole(a).and_then(|a| compare_double(*b, a)).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

fn compare_double(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    if a.abs() > 1e30 {
        return Some(if a > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let floor = a.floor();
    let order = (floor as i128).cmp(&b);
    Some(if order == Ordering::Equal && a > floor { Ordering::Greater } else { order })
}

// === impl List ===

impl<'a> List<'a> {
    /// Number of items.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Made(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One item.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            List::Json(items, decl) => items.get(index).map(|item| item_as(item, decl.as_ref())),
            List::Made(items) => items.get(index).cloned().map(Ok),
        }
    }

    /// All items, converted.
    pub fn items(&self) -> Result<Vec<Value<'a>>, EvalError> {
        match self {
            List::Json(items, decl) => items.iter().map(|item| item_as(item, decl.as_ref())).collect(),
            List::Made(items) => Ok(items.to_vec()),
        }
    }

    fn semantics(&self) -> &ListSemantics {
        match self {
            List::Json(_, Some(decl)) => match &decl.kind {
                DeclKind::List { semantics, .. } => semantics,
                _ => &ListSemantics::Atomic,
            },
            _ => &ListSemantics::Atomic,
        }
    }

    fn equals(&self, other: &List<'_>) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let (Ok(a), Ok(b)) = (self.items(), other.items()) else { return false };
        let semantics = match (self.semantics(), other.semantics()) {
            (ListSemantics::Atomic, theirs) => theirs,
            (ours, _) => ours,
        };
        match semantics {
            ListSemantics::Atomic => a.iter().zip(&b).all(|(a, b)| a.equals(b)),
            _ => a.iter().all(|item| b.iter().any(|other| item.equals(other))),
        }
    }

    /// `a + b`: by order, or as the sets or keyed lists their schema says they are.
    pub(crate) fn concat(&self, other: &List<'a>) -> Result<Value<'a>, EvalError> {
        let mut items = self.items()?;
        let added = other.items()?;
        let same = |keys: &[String], a: &Value<'a>, b: &Value<'a>| {
            keys.iter().all(|key| match (a.field(key), b.field(key)) {
                (Ok(Some(a)), Ok(Some(b))) => a.equals(&b),
                (Ok(None), Ok(None)) => true,
                _ => false,
            })
        };
        match self.semantics() {
            ListSemantics::Atomic => items.extend(added),
            ListSemantics::Set => {
                for item in added {
                    if !items.iter().any(|i| i.equals(&item)) {
                        items.push(item);
                    }
                }
            }
            ListSemantics::Map(keys) => {
                let keys: Vec<String> = keys.iter().filter_map(|k| crate::schema::escape(k)).collect();
                for item in added {
                    match items.iter_mut().find(|i| same(&keys, i, &item)) {
                        Some(existing) => *existing = item,
                        None => items.push(item),
                    }
                }
            }
        }
        Ok(Value::list(items))
    }
}

fn item_as<'a>(item: &'a Json, decl: Option<&Arc<DeclType>>) -> Result<Value<'a>, EvalError> {
    match decl.map(|d| &d.kind) {
        Some(DeclKind::List { items, .. }) => Value::json_as(item, items),
        _ => Ok(Value::json(item)),
    }
}

// === impl Map ===

impl<'a> Map<'a> {
    /// Number of entries, of an object the fields that are there.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) => map.len(),
            Map::Made(map) => map.entries.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a text key.
    pub fn get_str(&self, key: &str) -> Result<Option<Value<'a>>, EvalError> {
        match self {
            Map::Json(map, decl) => match decl.as_ref().map(|d| &d.kind) {
                Some(DeclKind::Object { fields, .. }) => match fields.get(key) {
                    Some(field) => match map.get(&field.json_name) {
                        // An unset optional of a typed object reads as absent.
                        Some(Json::Null) if !field.decl.nullable => Ok(None),
                        Some(json) => Value::json_as(json, &field.decl).map(Some),
                        None => Ok(None),
                    },
                    None => Ok(None),
                },
                Some(DeclKind::Map(values)) => {
                    map.get(key).map(|json| Value::json_as(json, values)).transpose()
                }
                _ => Ok(map.get(key).map(Value::json)),
            },
            Map::Made(map) => {
                Ok(map.index.get(&Key::String(key.to_owned())).map(|i| map.entries[*i].1.clone()))
            }
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &Value<'_>) -> Result<Option<Value<'a>>, EvalError> {
        match (self, key) {
            (_, Value::String(key)) => self.get_str(key.as_str()),
            (Map::Json(..), _) => Ok(None),
            (Map::Made(map), key) => match key.key() {
                Ok(key) => Ok(map.index.get(&key).map(|i| map.entries[*i].1.clone())),
                Err(_) => Ok(None),
            },
        }
    }

    /// The keys.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(map, decl) => match decl.as_ref().map(|d| &d.kind) {
                Some(DeclKind::Object { fields, .. }) => {
                    let there = fields.iter().filter(|(_, f)| map.contains_key(&f.json_name));
                    there.map(|(name, _)| Value::text(name)).collect()
                }
                _ => map.keys().map(|k| Value::str(k)).collect(),
            },
            Map::Made(map) => map.entries.iter().map(|(k, _)| k.clone()).collect(),
        }
    }

    fn equals(&self, other: &Map<'_>) -> bool {
        if let (Map::Json(a, None), Map::Json(b, None)) = (self, other)
            && a == b
        {
            return true;
        }
        let keys = self.keys();
        keys.len() == other.keys().len()
            && keys.iter().all(|key| match (self.get(key), other.get(key)) {
                (Ok(Some(a)), Ok(Some(b))) => a.equals(&b),
                _ => false,
            })
    }
}

impl<'a> MadeMap<'a> {
    /// Adds an entry; `Ok(false)`: the key is there already and nothing changed.
    pub fn insert(&mut self, key: Value<'a>, value: Value<'a>) -> Result<bool, EvalError> {
        let id = key.key()?;
        if self.index.contains_key(&id) {
            return Ok(false);
        }
        self.index.insert(id, self.entries.len());
        self.entries.push((key, value));
        Ok(true)
    }

    /// The entries in order of insertion.
    pub fn entries(&self) -> &[(Value<'a>, Value<'a>)] {
        &self.entries
    }
}
