//! The type table: the single source for everything structural about API types.
//!
//! For each type and field: JSON name, kind, protobuf tag, list type and map keys, patch strategy and merge
//! key, atomicity, whether required. The facts stand in `table/builtin.tbl`, written by `hack/typetable`
//! and read once, on first use; names are interned in that text, so the table costs little beyond it.

use std::{collections::HashMap, sync::LazyLock};

/// All built-in types.
#[derive(Debug)]
pub struct Table {
    types: Vec<Type>,
    by_name: HashMap<&'static str, TypeId>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), TypeId>,
}

/// Index of a type in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u16);
/// One type.
#[derive(Debug)]
pub struct Type {
    /// Short name: `core.v1.Pod`, `meta.v1.ObjectMeta`.
    pub name: &'static str,
    /// Whether server-side apply treats the whole as one value.
    pub atomic: bool,
    /// Fields in name order.
    pub fields: Vec<Field>,
    /// Places in `fields` by the length of the name, then by the name: most comparisons end at the length.
    by_length: Vec<u16>,
    /// What the type is on the wire, when it has no fields of its own.
    pub scalar: Option<Scalar>,
}

/// One field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// JSON name.
    pub name: &'static str,
    /// Protobuf tag; 0 when the field is not on that wire.
    pub tag: u16,
    /// Tags of the messages the field is nested in on the protobuf wire, outermost first.
    pub nested: Vec<u16>,
    /// What the field holds.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// How a list is merged and owned.
    pub list: ListType,
    /// Whether a map or message is owned as one value.
    pub atomic: bool,
    /// Strategic merge patch merges instead of replacing.
    pub patch_merge: bool,
    /// Strategic merge patch replaces a map instead of merging it.
    pub patch_replace: bool,
    /// Strategic merge patch drops keys that `$retainKeys` does not name.
    pub retain_keys: bool,
    /// Key by which strategic merge patch tells members of a list apart.
    pub merge_key: Option<&'static str>,
    /// A pointer in Go: an absent value differs from a zero one. Else a scalar or message is always on the
    /// protobuf wire.
    pub optional: bool,
    /// Go writes it in JSON even when it is empty.
    pub always: bool,
    /// Go leaves the whole struct out of JSON when it is zero.
    pub omit_zero: bool,
    /// A list that lies inside a message of its own on the protobuf wire, under tag 1.
    pub wrapped: bool,
    /// The default that the type itself declares, as JSON.
    pub default: Option<&'static str>,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A scalar.
    Scalar(Scalar),
    /// A message.
    Message(TypeId),
    /// A list.
    List(Box<Kind>),
    /// A map from strings.
    Map(Box<Kind>),
}

/// Scalars, and the types that are written as one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// True or false.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point.
    Float,
    /// Base64 in JSON.
    Bytes,
    /// `resource.Quantity`: text, or a number on the way in.
    Quantity,
    /// `metav1.Time`: RFC 3339, whole seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339, microseconds.
    MicroTime,
    /// An integer or text.
    IntOrString,
    /// An embedded object of any kind.
    Raw,
    /// `metav1.FieldsV1`: any map.
    Fields,
    /// Any JSON.
    Any,
    /// `JSONSchemaPropsOrArray`: a schema or a list of schemas.
    SchemaOrArray,
    /// `JSONSchemaPropsOrBool`: a schema or true or false.
    SchemaOrBool,
    /// `JSONSchemaPropsOrStringArray`: a schema or a list of texts.
    SchemaOrStrings,
}

/// How a list is merged and owned (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// One value.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// Members told apart by these keys.
    Map(Vec<&'static str>),
}

/// The text the table is read from: what a digest of the types is taken of.
pub const TEXT: &str = include_str!("table/builtin.tbl");

/// The table of built-in types.
pub fn builtin() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| Table::parse(TEXT));
    &TABLE
}

impl TypeId {
    /// The type's place among [`Table::types`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Table {
    fn parse(text: &'static str) -> Self {
        let mut table = Self { types: Vec::new(), by_name: HashMap::new(), by_kind: HashMap::new() };
        // Types first: fields refer to them by name.
        for line in text.lines() {
            let mut words = line.split(' ');
            let letter = words.next().unwrap_or_default();
            if letter == "T" || letter == "S" {
                table.declare(letter == "S", words);
            }
        }
        let mut current = None;
        for line in text.lines() {
            let mut words = line.split(' ');
            match words.next() {
                Some("T" | "S") => current = words.next().and_then(|name| table.by_name.get(name).copied()),
                Some("F") => {
                    if let (Some(TypeId(at)), Some(field)) = (current, table.field(words)) {
                        table.types[usize::from(at)].fields.push(field);
                    }
                }
                _ => {}
            }
        }
        for kind in &mut table.types {
            kind.fields.sort_by_key(|f| f.name);
            let name = |at: &u16| kind.fields[usize::from(*at)].name;
            kind.by_length = (0..u16::try_from(kind.fields.len()).unwrap_or(u16::MAX)).collect();
            kind.by_length.sort_by_key(|at| (name(at).len(), name(at)));
        }
        table
    }

    fn declare(&mut self, scalar: bool, mut words: std::str::Split<'static, char>) {
        let Some(name) = words.next() else { return };
        let id = TypeId(u16::try_from(self.types.len()).unwrap_or(u16::MAX));
        let mut kind = Type { name, atomic: false, fields: Vec::new(), by_length: Vec::new(), scalar: None };
        for word in words {
            match word.split_once('/') {
                _ if scalar => kind.scalar = Scalar::parse(word),
                None => kind.atomic |= word == "a",
                Some((group, rest)) => {
                    if let Some((version, kind)) = rest.split_once('/') {
                        self.by_kind.insert((group, version, kind), id);
                    }
                }
            }
        }
        self.by_name.insert(name, id);
        self.types.push(kind);
    }

    fn field(&self, mut words: std::str::Split<'static, char>) -> Option<Field> {
        let name = words.next()?;
        let tag = words.next()?.parse().ok()?;
        let mut field = Field {
            name,
            tag,
            nested: Vec::new(),
            kind: self.kind(words.next()?)?,
            required: false,
            list: ListType::Atomic,
            atomic: false,
            patch_merge: false,
            patch_replace: false,
            retain_keys: false,
            merge_key: None,
            optional: false,
            always: false,
            omit_zero: false,
            wrapped: false,
            default: None,
        };
        for flag in words {
            match flag.split_once(':') {
                None => match flag {
                    "r" => field.required = true,
                    "a" => field.atomic = true,
                    "s" => field.list = ListType::Set,
                    "p" => field.patch_merge = true,
                    "x" => field.patch_replace = true,
                    "R" => field.retain_keys = true,
                    "o" => field.optional = true,
                    "e" => field.always = true,
                    "z" => field.omit_zero = true,
                    "w" => field.wrapped = true,
                    _ => return None,
                },
                Some(("m", keys)) => field.list = ListType::Map(keys.split(',').collect()),
                Some(("k", key)) => field.merge_key = Some(key),
                Some(("d", json)) => field.default = Some(json),
                Some(("i", tags)) => field.nested = tags.split('.').filter_map(|t| t.parse().ok()).collect(),
                Some(_) => return None,
            }
        }
        Some(field)
    }

    fn kind(&self, word: &'static str) -> Option<Kind> {
        if let Some(name) = word.strip_prefix('#') {
            let id = *self.by_name.get(name)?;
            return Some(match self.get(id).scalar {
                Some(scalar) => Kind::Scalar(scalar),
                None => Kind::Message(id),
            });
        }
        if let Some(member) = word.strip_prefix("[]") {
            return Some(Kind::List(Box::new(self.kind(member)?)));
        }
        if let Some(value) = word.strip_prefix("{}") {
            return Some(Kind::Map(Box::new(self.kind(value)?)));
        }
        Scalar::parse(word).map(Kind::Scalar)
    }

    /// A type by its id in this table.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[usize::from(id.0)]
    }

    /// A type by its short name.
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// The type of a kind; core's group is empty.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        // The map's keys are static; looking up borrowed text needs no allocation.
        self.by_kind.get(&(group, version, kind) as &(&str, &str, &str)).copied()
    }

    /// Every group, version and kind with its type, in no order; core's group is empty.
    pub fn kinds(&self) -> impl Iterator<Item = ((&'static str, &'static str, &'static str), TypeId)> {
        self.by_kind.iter().map(|(kind, id)| (*kind, *id))
    }

    /// Number of types.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// All types.
    pub fn types(&self) -> impl Iterator<Item = &Type> {
        self.types.iter()
    }
}

impl Type {
    /// A field by its JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let field = |at: u16| &self.fields[usize::from(at)];
        let order = |at: &u16| {
            let own = field(*at).name;
            own.len().cmp(&name.len()).then_with(|| own.cmp(name))
        };
        self.by_length.binary_search_by(order).ok().map(|at| field(self.by_length[at]))
    }
}

impl Scalar {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "string" => Self::String,
            "bool" => Self::Bool,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "float" => Self::Float,
            "bytes" => Self::Bytes,
            "quantity" => Self::Quantity,
            "time" => Self::Time,
            "microtime" => Self::MicroTime,
            "intstr" => Self::IntOrString,
            "raw" => Self::Raw,
            "fields" => Self::Fields,
            "any" => Self::Any,
            "schemas" => Self::SchemaOrArray,
            "schemabool" => Self::SchemaOrBool,
            "schemastrings" => Self::SchemaOrStrings,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<'t>(path: &str, field: &str) -> &'t Field {
        let table = builtin();
        table.get(table.by_name(path).unwrap()).field(field).unwrap()
    }

    #[test]
    fn every_line_is_understood() {
        let text = include_str!("table/builtin.tbl");
        let table = builtin();
        let count = |letter: &str| text.lines().filter(|l| l.starts_with(letter)).count();
        assert_eq!(table.len(), count("T ") + count("S "));
        assert_eq!(table.types().map(|t| t.fields.len()).sum::<usize>(), count("F "));
        assert!(table.len() > 700);
    }

    #[test]
    fn facts_are_those_of_the_api_reference() {
        let containers = field("core.v1.PodSpec", "containers");
        assert_eq!(containers.list, ListType::Map(vec!["name"]));
        assert_eq!((containers.tag, containers.required, containers.merge_key), (2, true, Some("name")));
        let ports = field("core.v1.Container", "ports");
        assert_eq!(ports.list, ListType::Map(vec!["containerPort", "protocol"]));
        assert_eq!(ports.merge_key, Some("containerPort"));
        assert_eq!(field("core.v1.Container", "args").list, ListType::Atomic);
        assert_eq!(field("meta.v1.ObjectMeta", "finalizers").list, ListType::Set);
        assert_eq!(field("meta.v1.ObjectMeta", "creationTimestamp").kind, Kind::Scalar(Scalar::Time));
        let volume = field("core.v1.Volume", "emptyDir");
        assert_eq!(
            (volume.tag, volume.nested.as_slice()),
            (2, [2].as_slice()),
            "inlined in JSON, nested on the wire"
        );
        assert!(field("core.v1.PodSpec", "volumes").retain_keys);
        assert_eq!(field("core.v1.ContainerPort", "protocol").default, Some("\"TCP\""));
        assert!(field("core.v1.Container", "livenessProbe").optional);
        assert!(
            !field("core.v1.Container", "resources").optional && field("core.v1.Container", "name").always
        );
        assert!(field("core.v1.PodSpec", "nodeSelector").atomic);
        let requests = field("core.v1.ResourceRequirements", "requests");
        assert_eq!(requests.kind, Kind::Map(Box::new(Kind::Scalar(Scalar::Quantity))));
    }

    #[test]
    fn kinds_lead_to_their_types() {
        let table = builtin();
        let name = |g, v, k| table.by_kind(g, v, k).map(|id| table.get(id).name);
        assert_eq!(name("", "v1", "Pod"), Some("core.v1.Pod"));
        assert_eq!(name("apps", "v1", "Deployment"), Some("apps.v1.Deployment"));
        assert_eq!(name("apps", "v1", "Nothing"), None);
    }
}
