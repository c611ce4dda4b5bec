//! Selection by fields that objects have in the requested version only: custom objects that a webhook converts are
//! stored in another version, so that the store cannot select them by these fields. Lists convert what the rest of the
//! selection leaves; watches convert each event's object, before and after, to tell who enters and leaves.
//!
//! Contract: KEP-4358; selector transitions as the store has them.

use std::sync::Arc;

use serde_json::Value;

use super::Call;
use crate::{
    object::Object,
    status::Status,
    storage::{Entry, FieldRequirement, Selection, WatchEvent, WatchKind},
};

/// A watched event as its watcher sees it.
pub(super) struct Seen {
    /// What happened to the selection.
    pub(super) kind: WatchKind,
    /// The object, in the requested version.
    pub(super) object: Object,
}

impl Call {
    /// What the store selects, and the fields that only converted objects have.
    pub(super) fn split_selection(&self, mut selection: Selection) -> (Selection, Vec<FieldRequirement>) {
        if !self.custom().is_some_and(|custom| custom.selects_converted()) {
            return (selection, Vec::new());
        }
        let is_stored =
            |f: &FieldRequirement| matches!(f.field.as_str(), "metadata.name" | "metadata.namespace");
        let (stored, converted) = std::mem::take(&mut selection.fields).into_iter().partition(is_stored);
        selection.fields = stored;
        (selection, converted)
    }

    /// Leaves the objects that have these fields.
    pub(super) async fn select_converted(
        &self,
        entries: Vec<Arc<Entry>>,
        fields: &[FieldRequirement],
    ) -> Result<Vec<Arc<Entry>>, Status> {
        let Some(custom) = self.custom().filter(|_| !fields.is_empty()) else { return Ok(entries) };
        let objects: Result<Vec<Object>, Status> = entries.iter().map(|e| self.decode_entry(e)).collect();
        let converted = custom.restored(objects?).await?;
        let chosen = entries.into_iter().zip(converted).filter(|(_, object)| self.has(object, fields));
        Ok(chosen.map(|(entry, _)| entry).collect())
    }

    /// What an event is to a watcher of these fields; `None` when nothing it sees has changed.
    pub(super) async fn seen(
        &self,
        event: &WatchEvent,
        fields: &[FieldRequirement],
    ) -> Result<Option<Seen>, Status> {
        let Some(entry) = &event.entry else { return Ok(None) };
        let now = self.working(entry).await?;
        let is = self.has(&now, fields);
        let before = match &event.before {
            Some(before) => Some(self.working(before).await?).filter(|before| self.has(before, fields)),
            None => None,
        };
        let seen = |kind, object| Ok(Some(Seen { kind, object }));
        match (event.kind, before, is) {
            (WatchKind::Modified, None, true) => seen(WatchKind::Added, now),
            (WatchKind::Modified, Some(mut left), false) => {
                left.set_meta_str("resourceVersion", &event.rev.to_string());
                seen(WatchKind::Deleted, left)
            }
            (kind, _, true) => seen(kind, now),
            (_, _, false) => Ok(None),
        }
    }

    fn has(&self, object: &Object, fields: &[FieldRequirement]) -> bool {
        fields.iter().all(|wanted| {
            let field = self.resource.selectable.iter().find(|f| f.name == wanted.field);
            let value = match field.and_then(|field| object.pointer(field.pointer)) {
                Some(Value::String(text)) => text.clone(),
                Some(scalar @ (Value::Bool(_) | Value::Number(_))) => scalar.to_string(),
                _ => String::new(),
            };
            (value == wanted.value) != wanted.negate
        })
    }
}
