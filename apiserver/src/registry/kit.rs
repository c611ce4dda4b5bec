//! What resource files are built from: columns, cells, and the strategy most kinds share.

pub(super) mod conditions;
pub(super) mod contents;
pub(super) mod declared;
pub(super) mod fill;
mod rules;
pub(super) mod selector_text;
pub(super) mod semantic;
pub(super) mod url;
pub(super) mod webhook_client;
pub(super) mod workload;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

pub(super) use api_rules::{
    address, at, claim, format, items, metadata, resources, shape, validate::path_segment,
};

pub(super) use self::rules::Rules;
use super::{Column, Resource};
use crate::{object::Object, table};

/// Verbs of an ordinary resource, in discovery's order.
pub(super) const STANDARD_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Resource {
    /// What most resources are: namespaced, of version v1 only, stored under their plural name, with all verbs,
    /// nothing beside the object itself, and a table of names and ages. Resource files name what differs.
    pub(super) fn of(
        group: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
    ) -> Self {
        Self {
            group,
            versions: &["v1"],
            storage_version: "v1",
            kind,
            plural,
            singular,
            short_names: &[],
            categories: &[],
            namespaced: true,
            verbs: STANDARD_VERBS,
            subresources: &[],
            storage_prefix: plural,
            selectable: &[],
            columns: const { &[column("Name", "string").name(), column("Age", "string")] },
            gate: None,
            returns_deleted: false,
            strategy: Arc::new(Rules::new(Plain { status: false, generation: false, cells: NAME_AND_AGE })),
        }
    }
}

/// A column that is always shown.
pub(super) const fn column(name: &'static str, kind: &'static str) -> Column {
    Column { name, kind, format: "", priority: 0 }
}

impl Column {
    /// The column that names the object.
    pub(super) const fn name(self) -> Self {
        Self { format: "name", ..self }
    }

    /// A column of `-o wide`.
    pub(super) const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }
}

/// The cells of the table that [`Resource::of`] gives.
pub(super) const NAME_AND_AGE: &[Cell] = &[Cell::Name, Cell::Age];

/// How a cell is read from an object.
#[derive(Clone, Copy)]
pub(super) enum Cell {
    /// The object's name.
    Name,
    /// Time since creation.
    Age,
    /// The value at a JSON pointer, or this text.
    Field(&'static str, &'static str),
    /// Number of members of the lists or maps at these pointers.
    Count(&'static [&'static str]),
    /// `a/b` of two numbers.
    Ratio(&'static str, &'static str),
    /// `key=value` pairs of a map.
    Pairs(&'static str),
    /// Members of a list of strings.
    List(&'static str),
    /// A field of each member of a list: `name` of containers.
    Each(&'static str, &'static str),
    /// A label selector.
    Selector(&'static str),
    /// Time since the timestamp at a pointer, or this text.
    Since(&'static str, &'static str),
    /// Whatever this function says.
    With(fn(&Object) -> Value),
}

impl Cell {
    fn read(&self, obj: &Object, now: Timestamp) -> Value {
        match self {
            Self::Name => obj.name().into(),
            Self::Age => table::age(obj, now).into(),
            Self::Field(pointer, default) => match obj.pointer(pointer) {
                None | Some(Value::Null) => missing(default),
                Some(Value::String(s)) if s.is_empty() => missing(default),
                Some(value) => value.clone(),
            },
            Self::Count(pointers) => {
                let size = |p: &&str| match obj.pointer(p) {
                    Some(Value::Array(a)) => a.len(),
                    Some(Value::Object(m)) => m.len(),
                    _ => 0,
                };
                pointers.iter().map(size).sum::<usize>().into()
            }
            Self::Ratio(a, b) => {
                let number = |p: &str| obj.pointer(p).and_then(Value::as_i64).unwrap_or(0);
                format!("{}/{}", number(a), number(b)).into()
            }
            Self::Pairs(pointer) => pairs(obj, pointer),
            Self::List(pointer) => {
                items(obj.pointer(pointer)).filter_map(Value::as_str).collect::<Vec<_>>().join(",").into()
            }
            Self::Each(pointer, field) => {
                let members = items(obj.pointer(pointer));
                let texts = members.map(|one| one.get(*field).and_then(Value::as_str).unwrap_or_default());
                texts.collect::<Vec<_>>().join(",").into()
            }
            Self::Selector(pointer) => selector_text::cell(obj.pointer(pointer)).into(),
            Self::Since(pointer, default) => match obj.pointer(pointer).and_then(Value::as_str) {
                Some(timestamp) => table::since(timestamp, now).into(),
                None => (*default).into(),
            },
            Self::With(read) => read(obj),
        }
    }
}

/// What stands for a missing value: of the type the value would have.
fn missing(default: &str) -> Value {
    match default {
        "0" => 0.into(),
        "true" => true.into(),
        "false" => false.into(),
        text => text.into(),
    }
}

/// What most kinds do: the status is written through its subresource only, the generation counts changes
/// of everything else.
#[derive(Clone, Copy)]
pub(super) struct Plain {
    /// Whether there is a status that clients of the object itself may not write.
    pub(super) status: bool,
    /// Whether changes are counted in `metadata.generation`.
    pub(super) generation: bool,
    /// The cells of a row.
    pub(super) cells: &'static [Cell],
}

impl Plain {
    /// What a creator may not say is taken out.
    fn create(&self, obj: &mut Object) {
        if self.status {
            obj.remove("status");
        }
        if self.generation {
            obj.metadata_mut().insert("generation".to_owned(), 1.into());
        }
    }

    /// What an update through `view` may not change is put back, and the change counted.
    fn change(&self, new: &mut Object, old: &Object, view: &str) {
        if view == "status" {
            let spec: Vec<String> =
                old.as_map().keys().chain(new.as_map().keys()).filter(|k| !is_envelope(k)).cloned().collect();
            keep(new, old, &spec.iter().map(String::as_str).collect::<Vec<_>>());
        } else if self.status && view.is_empty() {
            keep(new, old, &["status"]);
        }
        if self.generation {
            let changed = new
                .as_map()
                .iter()
                .chain(old.as_map())
                .any(|(key, _)| key != "status" && key != "metadata" && new.get(key) != old.get(key));
            let begins_to_end = new.is_terminating() && !old.is_terminating();
            let generation = old.generation() + i64::from(changed || begins_to_end);
            new.metadata_mut().insert("generation".to_owned(), generation.into());
        }
    }

    /// The cells of a row.
    pub(super) fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        self.cells.iter().map(|cell| cell.read(obj, now)).collect()
    }
}

/// Fields a write of the status may leave as it finds them in the request.
fn is_envelope(field: &str) -> bool {
    matches!(field, "apiVersion" | "kind" | "metadata" | "status")
}

/// Puts fields back to what they were.
pub(super) fn keep(new: &mut Object, old: &Object, fields: &[&str]) {
    for field in fields {
        match old.get(field) {
            Some(value) => new.set(field, value.clone()),
            None => drop(new.remove(field)),
        }
    }
}

/// The text at a pointer; empty when missing.
pub(super) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Access modes of a volume as their initials, each once and in one order.
pub(super) fn access_modes(obj: &Object, pointer: &str) -> Value {
    const INITIALS: &[(&str, &str)] = &[
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| items(obj.pointer(pointer)).any(|one| one == mode);
    let initials = INITIALS.iter().filter(|(mode, _)| has(mode)).map(|(_, initials)| *initials);
    initials.collect::<Vec<_>>().join(",").into()
}

/// The first three of a list, and how many more there are.
pub(super) fn short_list(all: &[String]) -> Value {
    match all {
        [] => "<none>".into(),
        all if all.len() <= 3 => all.join(",").into(),
        all => format!("{} + {} more...", all[..3].join(","), all.len() - 3).into(),
    }
}

/// `key=value` pairs of the map at a pointer.
pub(super) fn pairs(obj: &Object, pointer: &str) -> Value {
    let map = obj.pointer(pointer).and_then(Value::as_object);
    let all: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if all.is_empty() { "<none>".into() } else { all.join(",").into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: Plain = Plain { status: true, generation: true, cells: &[] };

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn update(new: Value, old: Value, subresource: &str) -> Object {
        let mut new = object(new);
        PLAIN.change(&mut new, &object(old), subresource);
        new
    }

    #[test]
    fn spec_and_status_are_written_apart_and_the_generation_counts_the_spec() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"a": 1}, "status": {"x": 1}});
        let both = json!({"metadata": {"generation": 9}, "spec": {"a": 2}, "status": {"x": 2}});
        let main = update(both.clone(), old.clone(), "");
        assert_eq!(
            (main.pointer("/spec/a"), main.pointer("/status/x"), main.generation()),
            (Some(&json!(2)), Some(&json!(1)), 4)
        );
        let status = update(both, old.clone(), "status");
        assert_eq!(
            (status.pointer("/spec/a"), status.pointer("/status/x"), status.generation()),
            (Some(&json!(1)), Some(&json!(2)), 3)
        );
        assert_eq!(update(old.clone(), old, "").generation(), 3);
    }

    #[test]
    fn names_of_one_path_segment_take_colons_but_no_slashes() {
        let errors = |name: &str| path_segment(name, false);
        assert!(errors("system:node").is_empty());
        assert_eq!(errors("a/b%c"), ["may not contain '/'", "may not contain '%'"]);
        assert_eq!(errors(".."), ["may not be '..'"]);
    }

    #[test]
    fn cells_show_defaults_for_what_is_missing() {
        let obj =
            object(json!({"metadata": {"name": "n"}, "spec": {"replicas": 3}, "data": {"a": "1", "b": "2"}}));
        let read = |cell: Cell| cell.read(&obj, Timestamp::UNIX_EPOCH);
        assert_eq!(read(Cell::Ratio("/status/ready", "/spec/replicas")), json!("0/3"));
        assert_eq!(read(Cell::Field("/spec/none", "<none>")), json!("<none>"));
        assert_eq!(read(Cell::Count(&["/data", "/binaryData"])), json!(2));
        assert_eq!(read(Cell::Pairs("/data")), json!("a=1,b=2"));
        assert_eq!(short_list(&["a", "b", "c", "d"].map(str::to_owned)), json!("a,b,c + 1 more..."));
    }
}
