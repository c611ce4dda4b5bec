//! Functions: one file per family, one line per overload.
//!
//! A line is `(id, signature, implementation)`; signatures read `string :: find(string) -> string` for member
//! functions and `lists.range(int) -> list<int>` for global ones, single capitals are type parameters.
//! Ids and families are upstream's, because costs and error messages name them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use crate::{
    types::Type,
    value::{EvalError, List, Map, Opaque, Value},
};

pub mod authorizer;
mod comprehensions;
mod conversions;
pub(crate) mod devices;
pub(crate) mod format;
mod jsonpatch;
mod lists;
mod network;
mod operators;
mod optional;
mod quantity;
mod regex;
mod semver;
mod sets;
mod strings;
pub mod time;
mod url;

/// Every family.
const FAMILIES: &[&[Line]] = &[
    operators::FUNCTIONS,
    conversions::FUNCTIONS,
    time::FUNCTIONS,
    strings::FUNCTIONS,
    lists::FUNCTIONS,
    comprehensions::FUNCTIONS,
    sets::FUNCTIONS,
    optional::FUNCTIONS,
    regex::FUNCTIONS,
    quantity::FUNCTIONS,
    network::FUNCTIONS,
    url::FUNCTIONS,
    format::FUNCTIONS,
    semver::FUNCTIONS,
    authorizer::FUNCTIONS,
    jsonpatch::FUNCTIONS,
    devices::FUNCTIONS,
];

/// One line of a family's table.
type Line = (&'static str, &'static str, Function);

/// The implementation of an overload.
pub(crate) type Function = for<'a> fn(&Call<'_, 'a>) -> Result<Value<'a>, EvalError>;

/// One way to call a function.
pub struct Overload {
    /// Upstream's name of it.
    pub(crate) id: &'static str,
    /// Whether the first parameter is the receiver.
    pub(crate) member: bool,
    /// Parameters, the receiver first.
    pub(crate) params: Vec<Type>,
    /// What it returns.
    pub(crate) result: Type,
    /// Names of type parameters in the signature.
    pub(crate) type_params: Vec<Arc<str>>,
    /// The implementation.
    pub(crate) eval: Function,
}

impl fmt::Debug for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

/// A call at run time.
pub(crate) struct Call<'c, 'a> {
    /// Arguments, the receiver first.
    pub(crate) args: &'c [Value<'a>],
    /// The place in the expression.
    pub(crate) site: &'c Site,
}

/// What a call keeps between evaluations.
#[derive(Debug, Default)]
pub(crate) struct Site {
    /// The compiled pattern, where the pattern is a literal.
    pub(crate) regex: OnceLock<Result<Arc<regex_automata::meta::Regex>, String>>,
    /// Whether the pattern is a literal.
    pub(crate) constant_pattern: bool,
}

impl<'a> Call<'_, 'a> {
    fn arg(&self, index: usize) -> Result<&Value<'a>, EvalError> {
        self.args.get(index).ok_or(EvalError::NoSuchOverload)
    }

    fn str(&self, index: usize) -> Result<&str, EvalError> {
        self.arg(index)?.as_str().ok_or(EvalError::NoSuchOverload)
    }

    fn int(&self, index: usize) -> Result<i64, EvalError> {
        match self.arg(index)? {
            Value::Int(i) => Ok(*i),
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    fn list(&self, index: usize) -> Result<&List<'a>, EvalError> {
        match self.arg(index)? {
            Value::List(list) => Ok(list),
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    fn map(&self, index: usize) -> Result<&Map<'a>, EvalError> {
        match self.arg(index)? {
            Value::Map(map) => Ok(map),
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    fn opaque<T: Opaque>(&self, index: usize) -> Result<&T, EvalError> {
        self.arg(index)?.downcast()
    }
}

impl Overload {
    /// Whether values of these types may be given at run time.
    pub(crate) fn accepts(&self, args: &[Value<'_>]) -> bool {
        self.params.len() == args.len() && self.params.iter().zip(args).all(|(p, a)| fits(p, a))
    }
}

fn fits(param: &Type, value: &Value<'_>) -> bool {
    match (param, value) {
        (Type::Dyn | Type::Param(_) | Type::Error, _)
        | (Type::Null, Value::Null)
        | (Type::Bool, Value::Bool(_))
        | (Type::Int, Value::Int(_))
        | (Type::Uint, Value::Uint(_))
        | (Type::Double, Value::Double(_))
        | (Type::String, Value::String(_))
        | (Type::Bytes, Value::Bytes(_))
        | (Type::Duration, Value::Duration(_))
        | (Type::Timestamp, Value::Timestamp(_))
        | (Type::Map(..), Value::Map(_))
        | (Type::Type(_), Value::Type(_)) => true,
        (Type::List(item), Value::List(list)) => match (item.as_ref(), list.get(0)) {
            // Overloads of one list function differ by the type of items.
            (item, Some(Ok(first))) => fits(item, &first),
            (_, Some(Err(_)) | None) => true,
        },
        (Type::Optional(inner), Value::Optional(value)) => value.as_ref().is_none_or(|v| fits(inner, v)),
        (Type::Object(name), Value::Object(message)) => *name == message.type_name,
        (Type::Opaque(name), Value::Opaque(value)) => name.as_ref() == value.type_name(),
        _ => false,
    }
}

/// All functions by name.
static FUNCTIONS: LazyLock<HashMap<String, Vec<Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<String, Vec<Overload>> = HashMap::new();
    for (id, signature, eval) in FAMILIES.iter().copied().flatten() {
        let (name, overload) = signature::parse(id, signature, *eval);
        functions.entry(name).or_default().push(overload);
    }
    for (name, overload) in lists::templated() {
        functions.entry(name).or_default().push(overload);
    }
    functions
});

/// Whether a pattern compiles.
pub(crate) fn valid_regex(pattern: &str) -> Result<(), String> {
    regex::compile(pattern).map(drop)
}

/// Functions that only some expressions have.
const SPECIAL: [&str; 2] = ["jsonpatch.escapeKey", "includes"];

/// Whether a function is there for those expressions alone that ask for it.
pub(crate) fn is_special(function: &str) -> bool {
    SPECIAL.contains(&function)
}

/// The overloads of a function.
pub(crate) fn lookup(function: &str) -> Option<&'static [Overload]> {
    FUNCTIONS.get(function).map(Vec::as_slice)
}

/// Names of all functions with the ids of their overloads.
pub fn functions() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    FUNCTIONS.iter().map(|(name, overloads)| (name.as_str(), overloads.iter().map(|o| o.id).collect()))
}

/// Types that expressions may name, as values: `type(x) == int`.
pub(crate) fn named_type(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "optional_type" => Type::optional(Type::Dyn),
        _ if OPAQUE.iter().any(|(_, full)| *full == name) => Type::Opaque(name.into()),
        _ => return None,
    })
}

/// Types of libraries: their short name in signatures and their name in expressions.
pub(crate) const OPAQUE: &[(&str, &str)] = &[
    ("quantity", "kubernetes.Quantity"),
    ("ip", "net.IP"),
    ("cidr", "net.CIDR"),
    ("url", "kubernetes.URL"),
    ("format", "kubernetes.NamedFormat"),
    ("semver", "kubernetes.Semver"),
    ("authorizer", authorizer::AUTHORIZER),
    ("pathcheck", "kubernetes.authorization.PathCheck"),
    ("groupcheck", "kubernetes.authorization.GroupCheck"),
    ("resourcecheck", "kubernetes.authorization.ResourceCheck"),
    ("decision", "kubernetes.authorization.Decision"),
];

/// Reading the tables' signatures.
mod signature {
    use std::sync::Arc;

    use super::{Function, OPAQUE, Overload};
    use crate::types::Type;

    /// A line's function name and overload.
    pub(super) fn parse(id: &'static str, signature: &str, eval: Function) -> (String, Overload) {
        let (head, result) = signature.split_once(" -> ").unwrap_or((signature, "dyn"));
        let (receiver, head) = match head.split_once(" :: ") {
            Some((receiver, head)) => (Some(receiver), head),
            None => (None, head),
        };
        let (name, params) = head.split_once('(').unwrap_or((head, ")"));
        let params = params.strip_suffix(')').unwrap_or(params);
        let mut types: Vec<Type> = receiver.into_iter().map(type_of).collect();
        types.extend(split(params).into_iter().map(type_of));
        let result = type_of(result);
        let mut type_params = Vec::new();
        types.iter().chain([&result]).for_each(|t| collect(t, &mut type_params));
        let overload = Overload { id, member: receiver.is_some(), params: types, result, type_params, eval };
        (name.to_owned(), overload)
    }

    /// Splits at commas outside angle brackets.
    fn split(list: &str) -> Vec<&str> {
        let mut parts = Vec::new();
        let (mut depth, mut start) = (0, 0);
        for (i, c) in list.char_indices() {
            match c {
                '<' => depth += 1,
                '>' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(&list[start..i]);
                    start = i + 1;
                }
                _ => {}
            }
        }
        parts.push(&list[start..]);
        parts.into_iter().map(str::trim).filter(|p| !p.is_empty()).collect()
    }

    pub(super) fn type_of(name: &str) -> Type {
        let name = name.trim();
        if let Some((outer, inner)) = name.split_once('<') {
            let inner: Vec<Type> =
                split(inner.strip_suffix('>').unwrap_or(inner)).into_iter().map(type_of).collect();
            return match (outer, inner.as_slice()) {
                ("list", [item]) => Type::list(item.clone()),
                ("map", [key, value]) => Type::map(key.clone(), value.clone()),
                ("optional", [inner]) => Type::optional(inner.clone()),
                ("type", [inner]) => Type::Type(Arc::new(inner.clone())),
                _ => Type::Error,
            };
        }
        match name {
            "dyn" => Type::Dyn,
            "duration" => Type::Duration,
            "timestamp" => Type::Timestamp,
            name if name.len() == 1 => Type::Param(name.into()),
            name => match OPAQUE.iter().find(|(short, _)| *short == name) {
                Some((_, full)) => Type::Opaque((*full).into()),
                None => super::named_type(name).unwrap_or(Type::Error),
            },
        }
    }

    fn collect(t: &Type, found: &mut Vec<Arc<str>>) {
        match t {
            Type::Param(name) if !found.contains(name) => found.push(name.clone()),
            Type::List(a) | Type::Optional(a) | Type::Type(a) => collect(a, found),
            Type::Map(k, v) => {
                collect(k, found);
                collect(v, found);
            }
            _ => {}
        }
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn every_signature_is_readable() {
            for (name, overloads) in super::super::FUNCTIONS.iter() {
                for overload in overloads {
                    assert!(!overload.params.contains(&super::Type::Error), "{name} {}", overload.id);
                    assert!(overload.result != super::Type::Error, "{name} {}", overload.id);
                }
            }
        }
    }
}
