//! How a value is owned: as one, by its fields, or by its members.

use proto::table::{self, Field, Kind, ListType, TypeId};
use serde_json::{Map, Value};

use super::set::Element;
use crate::apiextensions::schema::{self as custom, Schema};

/// How a value is merged and owned.
#[derive(Clone, Copy, Debug)]
pub enum Form<'s> {
    /// As one value: scalars, atomic lists, maps and structs.
    Leaf,
    /// Field by field.
    Struct(TypeId),
    /// Key by key; the values' kind.
    Map(&'static Kind),
    /// Member by member, told apart by the keys of a field's type.
    Keyed(&'static Field),
    /// A set of scalars.
    Set,
    /// Unknown: maps key by key, lists as one value.
    Deduced,
    /// Field by field or key by key, as the schema of a custom object says.
    Custom(&'s Schema),
    /// Member by member, told apart by the keys that the schema names.
    CustomKeyed(&'s Schema),
}

impl<'s> Form<'s> {
    /// Of an object: by its type, or unknown.
    pub fn of_object(id: Option<TypeId>) -> Self {
        id.map_or(Self::Deduced, Self::Struct)
    }

    /// Of a value of a schema.
    pub fn of_schema(schema: &'s Schema) -> Self {
        match schema.kind.as_str() {
            _ if schema.int_or_string => Self::Leaf,
            "object" if !schema.atomic_map => Self::Custom(schema),
            "array" => match schema.list_type {
                custom::ListType::Atomic => Self::Leaf,
                custom::ListType::Set => Self::Set,
                custom::ListType::Map => Self::CustomKeyed(schema),
            },
            "" if schema.preserve_unknown => Self::Deduced,
            _ => Self::Leaf,
        }
    }

    fn of_field(field: &'static Field) -> Self {
        match &field.kind {
            _ if field.atomic => Self::Leaf,
            Kind::List(_) => match &field.list {
                ListType::Atomic => Self::Leaf,
                ListType::Set => Self::Set,
                ListType::Map(_) => Self::Keyed(field),
            },
            Kind::Map(value) => Self::Map(value),
            kind => Self::of_kind(kind),
        }
    }

    fn of_kind(kind: &'static Kind) -> Self {
        match kind {
            Kind::Message(id) if !table::builtin().get(*id).atomic => Self::Struct(*id),
            _ => Self::Leaf,
        }
    }

    /// The metadata of all objects is known.
    fn of_metadata() -> Self {
        table::builtin().by_name("meta.v1.ObjectMeta").map_or(Self::Deduced, Self::Struct)
    }

    /// Of a member of a map or struct.
    pub(super) fn below(self, name: &str) -> Self {
        match self {
            Self::Struct(id) => table::builtin().get(id).field(name).map_or(Self::Leaf, Self::of_field),
            Self::Map(value) => Self::of_kind(value),
            Self::Deduced if name == "metadata" => Self::of_metadata(),
            Self::Deduced => Self::Deduced,
            Self::Custom(schema) if schema.embedded && name == "metadata" => Self::of_metadata(),
            Self::Custom(schema) => match schema.member(name) {
                Some(below) => Self::of_schema(below),
                None if schema.preserve_unknown => Self::Deduced,
                None => Self::Leaf,
            },
            Self::Leaf | Self::Keyed(_) | Self::CustomKeyed(_) | Self::Set => Self::Leaf,
        }
    }

    /// Whether a value in this place may have such a member.
    pub(super) fn knows(self, name: &str) -> bool {
        match self {
            Self::Struct(id) => {
                table::builtin().get(id).field(name).is_some() || matches!(name, "apiVersion" | "kind")
            }
            _ => true,
        }
    }

    /// Whether a list or map of a struct is printed even when it is nil.
    pub(super) fn is_always_there(self, name: &str) -> bool {
        let Self::Struct(id) = self else { return false };
        table::builtin().get(id).field(name).is_some_and(is_always_there)
    }

    /// Of a member of a map or struct, and whether it is printed even when it is nil.
    pub(super) fn member_named(self, name: &str) -> (Self, bool) {
        let Self::Struct(id) = self else { return (self.below(name), false) };
        match table::builtin().get(id).field(name) {
            Some(field) => (Self::of_field(field), is_always_there(field)),
            None => (Self::Leaf, false),
        }
    }

    /// Of a member of a list.
    pub(super) fn member(self) -> Self {
        match self {
            Self::Keyed(Field { kind: Kind::List(member), .. }) => Self::of_kind(member),
            Self::CustomKeyed(schema) => schema.items.as_deref().map_or(Self::Leaf, Self::of_schema),
            _ => Self::Leaf,
        }
    }

    /// Whether a key in this place is a member by itself: a map's is, a struct's field is not.
    pub(super) fn has_own_key(self, name: &str) -> bool {
        match self {
            Self::Map(_) | Self::Deduced => true,
            Self::Custom(schema) => {
                let is_meta = schema.embedded && matches!(name, "apiVersion" | "kind" | "metadata");
                !is_meta && !schema.properties.contains_key(name)
            }
            _ => false,
        }
    }

    /// How a member of a list is told apart; `None` when it lacks its keys.
    pub(super) fn element(self, member: &Value) -> Option<Element> {
        match self {
            Self::Keyed(field) => {
                let ListType::Map(keys) = &field.list else { return None };
                let of = match self.member() {
                    Self::Struct(id) => Some(table::builtin().get(id)),
                    _ => None,
                };
                // The table holds JSON; a text that were none would be no default.
                let declared = |key: &str| serde_json::from_str(of?.field(key)?.default?).ok();
                keyed(keys.iter().copied(), member, &declared)
            }
            Self::CustomKeyed(schema) => {
                // The table holds JSON; a text that were none would be no default.
                let declared = |key: &str| schema.items.as_deref()?.properties.get(key)?.default.clone();
                keyed(schema.list_map_keys.iter().map(String::as_str), member, &declared)
            }
            Self::Set => Some(Element::value(member)),
            _ => None,
        }
    }

    /// Whether lists here are owned member by member.
    pub(super) fn is_associative(self) -> bool {
        matches!(self, Self::Keyed(_) | Self::CustomKeyed(_) | Self::Set)
    }

    /// Whether objects here are owned key by key.
    pub(super) fn is_granular(self) -> bool {
        matches!(self, Self::Struct(_) | Self::Map(_) | Self::Deduced | Self::Custom(_))
    }
}

/// Go prints some lists and maps as null.
fn is_always_there(field: &Field) -> bool {
    field.always && matches!(field.kind, Kind::List(_) | Kind::Map(_))
}

/// A member by its keys, those it lacks as they are declared.
fn keyed<'k>(
    keys: impl Iterator<Item = &'k str>,
    member: &Value,
    declared: &dyn Fn(&str) -> Option<Value>,
) -> Option<Element> {
    let value = |key: &'k str| {
        let value = member.get(key).cloned().or_else(|| declared(key));
        value.map(|value| (key.to_owned(), value))
    };
    let found: Map<String, Value> = keys.filter_map(value).collect();
    (!found.is_empty()).then(|| Element::key(&found))
}
