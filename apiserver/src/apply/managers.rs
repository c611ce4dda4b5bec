//! `metadata.managedFields`: who owns what, one entry a writer.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{FieldSet, Writer};

/// Entries of updates kept apart; older ones become one.
const MAX_UPDATES: usize = 10;
/// The manager of those.
const ANCIENT: &str = "ancient-changes";

/// How an entry came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// What one writer owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    operation: Operation,
    /// RFC 3339; empty when unknown.
    time: String,
    manager: String,
    api_version: String,
    subresource: String,
    pub(super) set: FieldSet,
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers {
    entries: Vec<Entry>,
    /// One empty entry was sent: ownership is to be forgotten.
    reset: bool,
}

impl Entry {
    /// An entry without fields.
    pub(super) fn new(writer: Writer<'_>, operation: Operation) -> Self {
        Self {
            operation,
            time: String::new(),
            manager: writer.manager.to_owned(),
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            set: FieldSet::default(),
        }
    }

    /// Whether it is the same writer's: an applier is the same in all versions.
    pub(super) fn is_same_writer(&self, other: &Self) -> bool {
        self.is_same_manager(other)
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// Whether it is the same writer's, in whatever version.
    pub(super) fn is_same_manager(&self, other: &Self) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
    }

    /// The version its fields are those of.
    pub(super) fn api_version(&self) -> &str {
        &self.api_version
    }

    /// The same writer's, with these fields of another version.
    pub(super) fn moved(self, api_version: &str, set: FieldSet) -> Self {
        Self { api_version: api_version.to_owned(), set, ..self }
    }

    /// Sets what is owned; the time is that of the last change.
    pub(super) fn replace(&mut self, set: FieldSet, now: Timestamp) {
        if self.set != set || self.time.is_empty() {
            self.set = set;
            self.time = crate::objects::rfc3339(now);
        }
    }

    fn read(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let apply = value["operation"] == "Apply";
        Self {
            operation: if apply { Operation::Apply } else { Operation::Update },
            time: text("time"),
            manager: text("manager"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            set: FieldSet::from_fields_v1(&value["fieldsV1"]),
        }
    }

    fn write(self) -> Value {
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        let texts = [
            ("apiVersion", self.api_version),
            ("fieldsType", "FieldsV1".to_owned()),
            ("manager", self.manager),
            ("operation", operation.to_owned()),
            ("subresource", self.subresource),
            ("time", self.time),
        ];
        let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
        let texts = texts.map(|(name, text)| (name.to_owned(), Value::String(text)));
        // The set is moved in: `json!` would write it a second time.
        texts.chain([("fieldsV1".to_owned(), self.set.into_fields_v1())]).collect()
    }
}

/// The writer in words, as conflicts name it.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

impl Managers {
    /// Of an object.
    pub(super) fn of(object: &Value) -> Self {
        let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        let Some(list) = list else { return Self::default() };
        let reset = matches!(list.as_slice(), [Value::Object(one)] if one.is_empty());
        let entries = if reset { Vec::new() } else { list.iter().map(Entry::read).collect() };
        Self { entries, reset }
    }

    /// Of these entries.
    pub(super) fn from_entries(entries: Vec<Entry>) -> Self {
        Self { entries, reset: false }
    }

    pub(super) fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.entries.into_iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_reset(&self) -> bool {
        self.reset
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    /// The entry of a writer.
    pub(super) fn find(&self, own: &Entry) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is_same_writer(own))
    }

    /// The entry of a writer, made if it is not there; in the writer's version.
    pub(super) fn entry(&mut self, own: Entry) -> &mut Entry {
        let found = self.entries.iter().position(|entry| entry.is_same_writer(&own));
        let at = found.unwrap_or_else(|| {
            self.entries.push(own.clone());
            self.entries.len() - 1
        });
        self.entries[at].api_version = own.api_version;
        &mut self.entries[at]
    }

    /// What all others own.
    pub(super) fn union_without(&self, own: &Entry) -> FieldSet {
        let others = self.entries.iter().filter(|entry| !entry.is_same_writer(own));
        others.fold(FieldSet::default(), |all, entry| all.union(entry.set.clone()))
    }

    /// Forgets writers that own nothing.
    pub(super) fn drop_empty(&mut self) {
        self.entries.retain(|entry| !entry.set.is_empty());
    }

    /// Puts the oldest updates of a version together when there are too many.
    pub(super) fn cap(&mut self) {
        let is_update = |entry: &Entry| entry.operation == Operation::Update;
        while self.entries.iter().filter(|entry| is_update(entry)).count() > MAX_UPDATES {
            let updates = self.entries.iter().enumerate().filter(|(_, entry)| is_update(entry));
            let single = updates.filter(|(_, entry)| entry.manager != ANCIENT);
            let Some(at) = single.min_by_key(|(_, entry)| entry.time.clone()).map(|(at, _)| at) else {
                return;
            };
            let mut oldest = self.entries.remove(at);
            ANCIENT.clone_into(&mut oldest.manager);
            match self.entries.iter().position(|entry| entry.is_same_writer(&oldest)) {
                Some(at) => {
                    let entry = &mut self.entries[at];
                    entry.time = oldest.time.max(std::mem::take(&mut entry.time));
                    entry.set = std::mem::take(&mut entry.set).union(oldest.set);
                }
                None => self.entries.push(oldest),
            }
        }
    }

    fn write(mut self) -> Value {
        let key = |e: &Entry| (e.operation, e.time.clone(), e.manager.clone());
        self.entries.sort_by(|a, b| {
            key(a)
                .cmp(&key(b))
                .then_with(|| (&a.api_version, &a.subresource).cmp(&(&b.api_version, &b.subresource)))
        });
        self.entries.into_iter().map(Entry::write).collect()
    }
}

/// Puts the entries into an object.
pub(super) fn store(object: &mut Value, managers: Managers) {
    let Some(object) = object.as_object_mut() else { return };
    let meta = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Some(meta) = meta.as_object_mut() else { return };
    if managers.is_empty() {
        meta.remove("managedFields");
    } else {
        meta.insert("managedFields".to_owned(), managers.write());
    }
}
