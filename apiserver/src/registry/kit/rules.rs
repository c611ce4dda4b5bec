//! A strategy put together from functions: what most kinds outside the core group need.
//!
//! A kind says only what it does differently: `Rules { default, validate, ..Rules::new(PLAIN) }`.

use jiff::Timestamp;
use serde_json::Value;

use super::Plain;
use crate::{
    field::ErrorList,
    object::Object,
    registry::{Propagation, Strategy, StrategyContext},
    status::Status,
};

/// Behaviour of a kind as a table of functions; each one does nothing unless said otherwise.
#[derive(Clone, Copy)]
pub(in crate::registry) struct Rules {
    /// Status, generation and cells.
    pub(in crate::registry) plain: Plain,
    /// Errors of a name; `prefix` tells the stem of a generated one.
    pub(in crate::registry) name: fn(&str, bool) -> Vec<String>,
    /// Fills in what is missing.
    pub(in crate::registry) default: fn(&mut Object),
    /// What a create changes, after status and generation are set.
    pub(in crate::registry) create: fn(&mut Object, &StrategyContext<'_>),
    /// What an update of the object or of one of its views (`ctx.subresource`) changes, before changes are counted.
    pub(in crate::registry) change: fn(&mut Object, &Object, &StrategyContext<'_>),
    /// Errors of an object, whether it is created or updated.
    pub(in crate::registry) validate: fn(&Object, &mut ErrorList),
    /// Errors of a new object beside those.
    pub(in crate::registry) validate_new: fn(&Object, &mut ErrorList),
    /// Errors of an update of the object, new and old, beside those of `validate`.
    pub(in crate::registry) validate_change: fn(&Object, &Object, &mut ErrorList),
    /// Errors of a write of the status, new and old.
    pub(in crate::registry) validate_status: fn(&Object, &Object, &mut ErrorList),
    /// Whether a write of the status leaves the metadata alone too.
    pub(in crate::registry) status_alone: bool,
    /// Whether an update is validated as a whole, or by `validate_change` alone.
    pub(in crate::registry) validate_updated: bool,
    /// Warnings of a new object, or of a changed one with the old one.
    pub(in crate::registry) warnings: fn(&Object, Option<&Object>) -> Vec<String>,
    /// Warnings of a write of the status.
    pub(in crate::registry) status_warnings: fn(&Object) -> Vec<String>,
    /// The cells of a row, when `plain` does not have them.
    pub(in crate::registry) row: Option<fn(&Object, Timestamp) -> Vec<Value>>,
    /// From one version to another, in place.
    pub(in crate::registry) convert: fn(&mut Object, from: &str, to: &str),
    /// Whether updates may leave the resourceVersion out.
    pub(in crate::registry) unconditional_update: bool,
    /// Whether an update of a missing object creates it.
    pub(in crate::registry) create_on_update: bool,
    /// What a delete without a policy does to dependents.
    pub(in crate::registry) propagation: Propagation,
}

impl Rules {
    /// A kind without rules of its own.
    pub(in crate::registry) const fn new(plain: Plain) -> Self {
        Self {
            plain,
            name: crate::validate::dns_subdomain,
            default: |_| {},
            create: |_, _| {},
            change: |_, _, _| {},
            validate: |_, _| {},
            validate_new: |_, _| {},
            validate_change: |_, _, _| {},
            validate_status: |_, _, _| {},
            status_alone: false,
            validate_updated: true,
            warnings: |_, _| Vec::new(),
            status_warnings: |_| Vec::new(),
            row: None,
            convert: |_, _, _| {},
            unconditional_update: true,
            create_on_update: false,
            propagation: Propagation::Background,
        }
    }
}

impl Strategy for Rules {
    fn default(&self, obj: &mut Object, _version: &str) -> Result<(), Status> {
        (self.default)(obj);
        Ok(())
    }

    fn prepare_create(&self, obj: &mut Object, ctx: &StrategyContext<'_>) -> Result<(), Status> {
        self.plain.prepare_create(obj, ctx)?;
        (self.create)(obj, ctx);
        Ok(())
    }

    fn validate_create(&self, obj: &Object, _ctx: &StrategyContext<'_>) -> Result<ErrorList, Status> {
        let mut errors = ErrorList::new();
        (self.validate)(obj, &mut errors);
        (self.validate_new)(obj, &mut errors);
        Ok(errors)
    }

    fn prepare_update(
        &self,
        new: &mut Object,
        old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<(), Status> {
        (self.change)(new, old, ctx);
        if self.status_alone && ctx.subresource == "status" {
            keep_metadata(new, old);
        }
        self.plain.prepare_update(new, old, ctx)
    }

    fn validate_update(
        &self,
        new: &Object,
        old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<ErrorList, Status> {
        let mut errors = ErrorList::new();
        if ctx.subresource == "status" {
            (self.validate_status)(new, old, &mut errors);
        } else {
            if self.validate_updated {
                (self.validate)(new, &mut errors);
            }
            (self.validate_change)(new, old, &mut errors);
        }
        Ok(errors)
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
