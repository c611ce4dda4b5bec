//! A strategy put together from functions: what most kinds outside the core group need.
//!
//! A kind says only what it does differently: `Rules { default, validate, ..Rules::new(PLAIN) }`.

use component_base::features::Gates;
use jiff::Timestamp;
use serde_json::Value;

use super::{Cell, Plain};
use crate::{
    field::ErrorList,
    object::Object,
    registry::{Propagation, Strategy, StrategyContext},
    status::Status,
};

/// Tells what is wrong with a change, of the new object and the old one.
type CheckChange = fn(&Object, &Object, &mut ErrorList);

/// Behaviour of a kind as a table of functions; each one does nothing unless said otherwise.
#[derive(Clone, Copy)]
pub(in crate::registry) struct Rules {
    /// Status, generation and cells.
    pub(in crate::registry) plain: Plain,
    /// Errors of a name; `prefix` tells the stem of a generated one.
    pub(in crate::registry) name: fn(&str, bool) -> Vec<String>,
    /// Fills in what is missing.
    pub(in crate::registry) default: fn(&mut Object),
    /// Fills in what is missing in one version.
    pub(in crate::registry) default_version: fn(&mut Object, version: &str),
    /// What a create changes, after status and generation are set.
    pub(in crate::registry) create: fn(&mut Object, &StrategyContext<'_>),
    /// What an update of the object or of one of its views (`ctx.subresource`) changes, before changes are counted.
    pub(in crate::registry) change: fn(&mut Object, &Object, &StrategyContext<'_>),
    /// What an update changes after what it may not change is put back: the server's own part of the status.
    pub(in crate::registry) settle: fn(&mut Object, &Object, &StrategyContext<'_>),
    /// What the first delete changes, before the object is marked.
    pub(in crate::registry) delete: fn(&mut Object, Timestamp),
    /// Errors of an object, whether it is created or updated.
    pub(in crate::registry) validate: fn(&Object, &mut ErrorList),
    /// Errors of an object beside those, with the one it replaces: what is wrong with that one already may stay.
    pub(in crate::registry) validate_over: fn(&Object, Option<&Object>, &mut ErrorList),
    /// Errors of an object beside those, with the one it replaces, that feature gates have a part in.
    pub(in crate::registry) validate_gated: fn(&Object, Option<&Object>, Gates, &mut ErrorList),
    /// Errors of a new object beside those.
    pub(in crate::registry) validate_new: fn(&Object, &mut ErrorList),
    /// Errors of an update of the object, new and old, beside those of `validate`.
    pub(in crate::registry) validate_change: fn(&Object, &Object, &mut ErrorList),
    /// Errors of a write of the status, new and old.
    pub(in crate::registry) validate_status: fn(&Object, &Object, &mut ErrorList),
    /// Errors of a write of the status that the time has a part in, after those.
    pub(in crate::registry) validate_status_at: fn(&Object, &Object, Timestamp, &mut ErrorList),
    /// Errors of an update through the view of a name, in place of those of an update of the object.
    pub(in crate::registry) validate_views: &'static [(&'static str, CheckChange)],
    /// Whether a write of the status leaves the metadata alone too.
    pub(in crate::registry) status_alone: bool,
    /// Warnings of a new object, or of a changed one with the old one.
    pub(in crate::registry) warnings: fn(&Object, Option<&Object>) -> Vec<String>,
    /// Warnings of a write of the status.
    pub(in crate::registry) status_warnings: fn(&Object) -> Vec<String>,
    /// The cells of a row, when `plain` does not have them.
    pub(in crate::registry) row: Option<fn(&Object, Timestamp) -> Vec<Value>>,
    /// Whether and why an object has run to its end.
    pub(in crate::registry) completed: fn(&Object) -> Option<(&'static str, &'static str)>,
    /// The apiVersion objects are stored in when it is another group's.
    pub(in crate::registry) stored_as: Option<&'static str>,
    /// From one version to another, in place.
    pub(in crate::registry) convert: fn(&mut Object, from: &str, to: &str),
    /// Whether updates may leave the resourceVersion out.
    pub(in crate::registry) unconditional_update: bool,
    /// Whether an update of a missing object creates it.
    pub(in crate::registry) create_on_update: bool,
    /// Seconds of grace of a deletion that asks for so many; none for kinds that go at once.
    pub(in crate::registry) grace: fn(&Object, Option<i64>) -> Option<i64>,
    /// What a delete without a policy does to dependents.
    pub(in crate::registry) propagation: Propagation,
}

impl Rules {
    /// A kind whose status is written apart from all else, metadata included, and whose changes nobody counts.
    pub(in crate::registry) const fn apart(cells: &'static [Cell]) -> Self {
        Self { status_alone: true, ..Self::new(Plain { status: true, generation: false, cells }) }
    }

    /// A kind without rules of its own.
    pub(in crate::registry) const fn new(plain: Plain) -> Self {
        Self {
            plain,
            name: crate::validate::dns_subdomain,
            default: |_| {},
            default_version: |_, _| {},
            create: |_, _| {},
            change: |_, _, _| {},
            settle: |_, _, _| {},
            delete: |_, _| {},
            validate: |_, _| {},
            validate_over: |_, _, _| {},
            validate_gated: |_, _, _, _| {},
            validate_new: |_, _| {},
            validate_change: |_, _, _| {},
            validate_status: |_, _, _| {},
            validate_status_at: |_, _, _, _| {},
            validate_views: &[],
            status_alone: false,
            warnings: |_, _| Vec::new(),
            status_warnings: |_| Vec::new(),
            row: None,
            completed: |_| None,
            stored_as: None,
            convert: |_, _, _| {},
            unconditional_update: true,
            create_on_update: false,
            grace: |_, _| None,
            propagation: Propagation::Background,
        }
    }
}

impl Strategy for Rules {
    fn default(&self, obj: &mut Object, version: &str) {
        (self.default)(obj);
        (self.default_version)(obj, version);
    }

    fn prepare_create(&self, obj: &mut Object, ctx: &StrategyContext<'_>) -> Result<(), Status> {
        self.plain.create(obj);
        (self.create)(obj, ctx);
        Ok(())
    }

    fn validate_create(&self, obj: &Object, ctx: &StrategyContext<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        (self.validate)(obj, &mut errors);
        (self.validate_over)(obj, None, &mut errors);
        (self.validate_gated)(obj, None, ctx.gates, &mut errors);
        (self.validate_new)(obj, &mut errors);
        errors
    }

    fn prepare_update(&self, new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
        (self.change)(new, old, ctx);
        if self.status_alone && ctx.subresource == "status" {
            keep_metadata(new, old);
        }
        self.plain.change(new, old, ctx.subresource);
        (self.settle)(new, old, ctx);
    }

    fn validate_update(&self, new: &Object, old: &Object, ctx: &StrategyContext<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if ctx.subresource == "status" {
            (self.validate_status)(new, old, &mut errors);
            (self.validate_status_at)(new, old, ctx.now, &mut errors);
        } else if let Some((_, check)) = self.validate_views.iter().find(|(view, _)| *view == ctx.subresource)
        {
            check(new, old, &mut errors);
        } else {
            (self.validate)(new, &mut errors);
            (self.validate_over)(new, Some(old), &mut errors);
            (self.validate_gated)(new, Some(old), ctx.gates, &mut errors);
            (self.validate_change)(new, old, &mut errors);
        }
        errors
    }

    fn prepare_delete(&self, obj: &mut Object, now: Timestamp) {
        (self.delete)(obj, now);
    }

    fn grace_period(&self, obj: &Object, requested: Option<i64>) -> Option<i64> {
        (self.grace)(obj, requested)
    }

    fn completed(&self, obj: &Object) -> Option<(&'static str, &'static str)> {
        (self.completed)(obj)
    }

    fn stored_as(&self) -> Option<&'static str> {
        self.stored_as
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        (self.warnings)(new, old)
    }

    fn status_warnings(&self, new: &Object) -> Vec<String> {
        (self.status_warnings)(new)
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        match self.row {
            Some(row) => row(obj, now),
            None => self.plain.row(obj, now),
        }
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        (self.name)(name, prefix)
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn default_propagation(&self) -> Propagation {
        self.propagation
    }

    fn convert(&self, obj: &mut Object, from: &str, to: &str) -> Result<(), Status> {
        (self.convert)(obj, from, to);
        Ok(())
    }
}

/// Puts metadata back to what it was, but for the notes of who wrote which field.
pub(in crate::registry) fn keep_metadata(new: &mut Object, old: &Object) {
    const KEPT: &[&str] =
        &["deletionTimestamp", "generation", "labels", "annotations", "finalizers", "ownerReferences"];
    for field in KEPT {
        match old.metadata().and_then(|metadata| metadata.get(*field)) {
            Some(value) => drop(new.metadata_mut().insert((*field).to_owned(), value.clone())),
            None => drop(new.metadata_mut().remove(*field)),
        }
    }
}
