//! Types of expressions, and how one type is given where another is wanted.
//!
//! Contract: types and their display in messages as upstream's checker has them.

use std::{collections::HashMap, fmt, sync::Arc};

/// The type of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Known only at run time.
    Dyn,
    /// Of an expression already reported as wrong; goes with everything.
    Error,
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool,
    /// 64 bits, signed.
    Int,
    /// 64 bits, unsigned.
    Uint,
    /// IEEE 754, 64 bits.
    Double,
    /// Unicode text.
    String,
    /// Bytes.
    Bytes,
    /// A span of time.
    Duration,
    /// A point in time.
    Timestamp,
    /// `list(T)`.
    List(Arc<Type>),
    /// `map(K, V)`.
    Map(Arc<Type>, Arc<Type>),
    /// `optional_type(T)`.
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Arc<Type>),
    /// A struct with declared fields, by name.
    Object(Arc<str>),
    /// A type of a library, by name.
    Opaque(Arc<str>),
    /// A variable of a signature or of inference.
    Param(Arc<str>),
}

impl Type {
    /// `list(item)`.
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    /// `map(key, value)`.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    /// `optional_type(inner)`.
    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// A struct by name.
    pub fn object(name: &str) -> Type {
        Type::Object(name.into())
    }

    /// Whether it says nothing before run time.
    pub fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// The type without one `optional_type` around it, and whether there was one.
    pub(crate) fn unwrap_optional(&self) -> (Type, bool) {
        match self {
            Type::Optional(inner) => ((**inner).clone(), true),
            other => (other.clone(), false),
        }
    }

    fn is_nullable(&self) -> bool {
        matches!(
            self,
            Type::Null
                | Type::Opaque(_)
                | Type::Optional(_)
                | Type::Object(_)
                | Type::Duration
                | Type::Timestamp
        )
    }

    fn params(&self) -> Vec<&Type> {
        match self {
            Type::List(a) | Type::Optional(a) | Type::Type(a) => vec![a],
            Type::Map(k, v) => vec![k, v],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Type::Dyn => "dyn",
            Type::Error => "!error!",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::List(item) => return write!(f, "list({item})"),
            Type::Map(key, value) => return write!(f, "map({key}, {value})"),
            Type::Optional(inner) => return write!(f, "optional_type({inner})"),
            Type::Type(inner) => return write!(f, "type({inner})"),
            Type::Object(name) | Type::Opaque(name) | Type::Param(name) => name,
        };
        f.write_str(name)
    }
}

/// What inference knows of type variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Substitution {
    bound: HashMap<Arc<str>, Type>,
    fresh: usize,
}

impl Substitution {
    /// A variable no one knows anything of.
    pub(crate) fn fresh(&mut self) -> Type {
        self.fresh += 1;
        Type::Param(format!("_var{}", self.fresh).into())
    }

    /// Says what a variable stands for.
    pub(crate) fn bind(&mut self, variable: &Arc<str>, t: Type) {
        self.bound.insert(variable.clone(), t);
    }

    /// Whether a value of type `from` may stand where `to` is wanted; learns of variables if so.
    pub(crate) fn assign(&mut self, to: &Type, from: &Type) -> bool {
        self.assign_all(std::slice::from_ref(to), std::slice::from_ref(from))
    }

    /// As [`Self::assign`] for each pair; learns nothing if one fails.
    pub(crate) fn assign_all(&mut self, to: &[Type], from: &[Type]) -> bool {
        let mut trial = self.bound.clone();
        let fits = to.len() == from.len() && to.iter().zip(from).all(|(t, f)| assignable(&mut trial, t, f));
        if fits {
            self.bound = trial;
        }
        fits
    }

    /// A type with what is known of its variables put in; unknown ones become dyn if `finish`.
    pub(crate) fn apply(&self, t: &Type, finish: bool) -> Type {
        match t {
            Type::Param(name) => match self.bound.get(name) {
                Some(known) => self.apply(known, finish),
                None if finish => Type::Dyn,
                None => t.clone(),
            },
            Type::List(item) => Type::list(self.apply(item, finish)),
            Type::Map(key, value) => Type::map(self.apply(key, finish), self.apply(value, finish)),
            Type::Optional(inner) => Type::optional(self.apply(inner, finish)),
            Type::Type(inner) => Type::Type(Arc::new(self.apply(inner, finish))),
            other => other.clone(),
        }
    }
}

/// The more general of two types that go together.
pub(crate) fn most_general(a: &Type, b: &Type) -> Type {
    if equal_or_less_specific(a, b) { a.clone() } else { b.clone() }
}

fn equal_or_less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
            equal_or_less_specific(a, b)
        }
        (Type::Map(ak, av), Type::Map(bk, bv)) => {
            equal_or_less_specific(ak, bk) && equal_or_less_specific(av, bv)
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}

fn assignable(bound: &mut HashMap<Arc<str>, Type>, a: &Type, b: &Type) -> bool {
    if let Type::Param(name) = b {
        let (valid, known) = substitutable(bound, a, b, name);
        if valid {
            return true;
        }
        if known {
            return false;
        }
    }
    if let Type::Param(name) = a {
        return substitutable(bound, b, a, name).0;
    }
    if a.is_dyn_or_error() || b.is_dyn_or_error() {
        return true;
    }
    if *a == Type::Null || *b == Type::Null {
        return a.is_nullable() && b.is_nullable();
    }
    match (a, b) {
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => assignable(bound, a, b),
        (Type::Map(ak, av), Type::Map(bk, bv)) => assignable(bound, ak, bk) && assignable(bound, av, bv),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}

/// Whether `t` may be what the variable stands for, and whether the variable was known before.
fn substitutable(bound: &mut HashMap<Arc<str>, Type>, t: &Type, var: &Type, name: &Arc<str>) -> (bool, bool) {
    if t == var {
        return (true, true);
    }
    if let Some(known) = bound.get(name).cloned() {
        if *t == known {
            return (true, true);
        }
        if assignable(bound, t, &known) {
            let general = most_general(t, &known);
            if !occurs(bound, var, &general) {
                bound.insert(name.clone(), general);
            }
            return (true, true);
        }
        return (false, true);
    }
    if occurs(bound, var, t) {
        return (false, false);
    }
    bound.insert(name.clone(), t.clone());
    (true, false)
}

fn occurs(bound: &HashMap<Arc<str>, Type>, var: &Type, within: &Type) -> bool {
    if var == within {
        return true;
    }
    match within {
        Type::Param(name) => bound.get(name).is_some_and(|known| occurs(bound, var, known)),
        other => other.params().into_iter().any(|p| occurs(bound, var, p)),
    }
}
