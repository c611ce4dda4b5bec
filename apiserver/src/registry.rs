//! The registry of resources: what is really different from kind to kind.
//!
//! A built-in resource is one file under `registry/<group>/` that defines a [`Resource`], plus one
//! line in that group's list. Routes, discovery, OpenAPI, storage keys, tables and watch all derive
//! from this descriptor; no resource has a handler. Custom resources are loaded into the same
//! descriptor at run time.
//!
//! Contract: upstream's `registry.Store` with its strategies (`pkg/registry/*/strategy.go`), and
//! reference discovery for names, verbs and categories.

pub mod apiextensions;
pub mod catalog;
pub mod intern;
pub mod served;
pub mod stored_forms;

mod event_form;
mod event_row;
mod event_rules;
mod gated;
mod kit;
mod pod_spec;
#[cfg(test)]
mod ratcheting;
#[cfg(test)]
mod testing;

mod admissionregistration;
mod apiregistration;
mod apiserverinternal;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod events_k8s_io;
mod flowcontrol;
mod networking;
mod node;
mod policy;
mod rbac;
mod resource;
mod scheduling;
mod storage;
mod storagemigration;

pub(crate) use self::{
    certificates::USAGES,
    core::{check_stated_families as check_service_families, qos_class},
    pod_spec::{HOST_PATHS, SIGNALS},
};

use std::sync::Arc;

use async_trait::async_trait;
use component_base::features::{Gate, Gates};
use jiff::Timestamp;

use crate::{
    field::ErrorList,
    object::Object,
    status::{GroupName, Status},
};

/// One served resource of one API group, in all its versions.
#[derive(Clone)]
pub struct Resource {
    /// API group; empty for core.
    pub group: &'static str,
    /// Served versions, preferred first; the first GA one is the storage version unless `storage_version` says otherwise.
    pub versions: &'static [&'static str],
    /// The version objects are stored and cached in.
    pub storage_version: &'static str,
    /// Kind, for example `Pod`.
    pub kind: &'static str,
    /// Plural lower-case name used in paths, for example `pods`.
    pub plural: &'static str,
    /// Singular lower-case name.
    pub singular: &'static str,
    /// Short names, for example `po`.
    pub short_names: &'static [&'static str],
    /// Categories, for example `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs on the main resource, in discovery's (alphabetical) order.
    pub verbs: &'static [&'static str],
    /// Subresources beside the object itself.
    pub subresources: &'static [Subresource],
    /// Path below `/registry/` in etcd, for example `pods`, `services/specs`, `minions`.
    pub storage_prefix: &'static str,
    /// Fields a field selector may name besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [SelectableField],
    /// Printer columns; the cells of one row come from `Strategy::row`.
    pub columns: &'static [Column],
    /// The gate without which no version of it is served.
    pub gate: Option<Gate>,
    /// Whether a deletion answers with what the object was; a Status that says success otherwise.
    pub returns_deleted: bool,
    /// What the kind does on create, update and delete.
    pub strategy: Arc<dyn Strategy>,
}

/// A subresource. Storage-backed ones are driven by the generic engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: get, patch, update of the status stanza.
    Status,
    /// `scale` as autoscaling/v1 Scale; JSON pointers of replicas in spec, in status, and of the selector.
    Scale {
        /// For example `/spec/replicas`.
        spec: &'static str,
        /// For example `/status/replicas`.
        status: &'static str,
        /// For example `/spec/selector`.
        selector: &'static str,
    },
    /// Another storage-backed view of the object, by name (`approval`, `ephemeralcontainers`, `resize`, `finalize`):
    /// get, patch, update; the strategy is told the name.
    View(&'static str),
    /// A verb of its own, by name (`binding`, `eviction`, `token`, `log`, `exec`, `attach`, `portforward`, `proxy`),
    /// with the kind it takes or answers (discovery) and the verbs it allows.
    Action {
        /// Name in the path.
        name: &'static str,
        /// group/version/kind in discovery; empty group and version mean the parent's.
        kind: (&'static str, &'static str, &'static str),
        /// Verbs in discovery.
        verbs: &'static [&'static str],
    },
}

impl Subresource {
    /// Name in the path.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale { .. } => "scale",
            Self::View(name) | Self::Action { name, .. } => name,
        }
    }
}

/// Verbs of a [`Subresource::View`]: all but `finalize` may be read and patched too.
pub fn view_verbs(name: &str) -> &'static [&'static str] {
    if name == "finalize" { &["update"] } else { &["get", "patch", "update"] }
}

/// A field a selector may name, and how to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// Name in the selector, for example `spec.nodeName`.
    pub name: &'static str,
    /// JSON pointer in the stored object.
    pub pointer: &'static str,
    /// What a missing field counts as.
    pub missing: Missing<&'static str>,
}

/// What a missing selectable field counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing<T> {
    /// A fixed text, for example `false`; mostly empty.
    Is(T),
    /// The value of another selectable field of this name.
    Field(T),
}

impl SelectableField {
    /// The field `name`, read at `pointer`; empty when it is missing.
    pub const fn at(name: &'static str, pointer: &'static str) -> Self {
        Self { name, pointer, missing: Missing::Is("") }
    }

    /// A missing field counts as `text`.
    pub const fn or(self, text: &'static str) -> Self {
        Self { missing: Missing::Is(text), ..self }
    }

    /// A missing field counts as what the field `name` is.
    pub const fn or_field(self, name: &'static str) -> Self {
        Self { missing: Missing::Field(name), ..self }
    }
}

/// One printer column (`metav1.TableColumnDefinition`).
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`, `number`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// 0 = always shown, 1 = `-o wide`.
    pub priority: i32,
}

/// How names of what is configured by files end; no object of the API may have such a one
/// (`ManifestBasedAdmissionControlConfig`).
pub const STATIC_SUFFIX: &str = ".static.k8s.io";

/// What strategies know besides the object.
#[derive(Clone, Debug)]
pub struct StrategyContext<'a> {
    /// Now, for timestamps.
    pub now: Timestamp,
    /// The version of the request, for version-dependent defaults.
    pub version: &'a str,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// Who asks; strategies such as certificate requests record it.
    pub user: &'a crate::auth::User,
    /// What `--feature-gates` says.
    pub gates: Gates,
}

/// Per-kind behaviour around a write. All methods are pure; the defaults do nothing.
///
/// Order on create: `default` → mutating admission → `prepare_create` → generic metadata checks and
/// `validate_create`. On update: `default` → admission → `prepare_update` → `validate_update`.
/// Typed kinds implement `registry::typed::Typed` instead and are adapted to this trait.
pub trait Strategy: Send + Sync {
    /// Fills in missing fields in place (also on objects read from storage written by older versions).
    fn default(&self, _obj: &mut Object, _version: &str) {}
    /// Clears what a creator may not set, sets initial status and generation.
    fn prepare_create(&self, _obj: &mut Object, _ctx: &StrategyContext<'_>) -> Result<(), Status> {
        Ok(())
    }
    /// Errors of a new object. Metadata is validated generically.
    fn validate_create(&self, _obj: &Object, _ctx: &StrategyContext<'_>) -> ErrorList {
        ErrorList::new()
    }
    /// Resets what an update through `ctx.subresource` may not touch, bumps the generation on spec changes.
    fn prepare_update(&self, _new: &mut Object, _old: &Object, _ctx: &StrategyContext<'_>) {}
    /// Errors of a change.
    fn validate_update(&self, _new: &Object, _old: &Object, _ctx: &StrategyContext<'_>) -> ErrorList {
        ErrorList::new()
    }
    /// Warnings sent back as `Warning: 299` headers.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }
    /// Warnings of a write of the status.
    fn status_warnings(&self, _new: &Object) -> Vec<String> {
        Vec::new()
    }
    /// The cells of a table row, one per column.
    fn row(&self, obj: &Object, now: Timestamp) -> Vec<serde_json::Value> {
        default_row(obj, now)
    }
    /// Why an object has run to its end, and that in words, if it has: such rows may be shown in the background.
    fn completed(&self, _obj: &Object) -> Option<(&'static str, &'static str)> {
        None
    }
    /// Name validation; `dns_subdomain` unless overridden. `prefix` is set for generateName.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::validate::dns_subdomain(name, prefix)
    }
    /// Whether update requests may omit resourceVersion.
    fn allow_unconditional_update(&self) -> bool {
        true
    }
    /// Whether PUT on a missing name creates.
    fn allow_create_on_update(&self) -> bool {
        false
    }
    /// Grace period in seconds of a deletion, if the kind deletes gracefully: `None` means at once.
    /// `requested` is `DeleteOptions.gracePeriodSeconds`.
    fn grace_period(&self, _obj: &Object, _requested: Option<i64>) -> Option<i64> {
        None
    }
    /// What dependents get when a delete names no propagation policy.
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }
    /// The apiVersion objects are stored in when it is another group's: `convert` is then told apiVersions.
    fn stored_as(&self) -> Option<&'static str> {
        None
    }
    /// What custom objects have that built-in ones have not.
    fn custom(&self) -> Option<&apiextensions::custom::CustomKind> {
        None
    }
    /// Changes an object that a client deletes for the first time, before it is marked.
    fn prepare_delete(&self, _obj: &mut Object, _now: Timestamp) {}
    /// Converts an object between served versions in place (apiVersion is set by the caller).
    fn convert(&self, _obj: &mut Object, _from: &str, _to: &str) -> Result<(), Status> {
        Ok(())
    }
}

/// `DeleteOptions.propagationPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents lose this owner and stay.
    Orphan,
    /// The object goes at once, dependents are collected after.
    Background,
    /// Dependents go first.
    Foreground,
    /// Nothing depends on objects of the kind, whatever is asked for.
    Unsupported,
}

/// Effects of a write outside the object's own key (cluster IPs, node ports), taken before and
/// undone after a failed store. Implemented by the few kinds that need it; runs with I/O.
#[async_trait]
pub trait SideEffects: Send + Sync {
    /// Reserves what the object needs, filling it in; the guard undoes it unless committed.
    async fn before_write(
        &self,
        new: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
    ) -> Result<Undo, Status>;
    /// Releases what a deleted object held.
    async fn after_delete(&self, old: &Object);
}

/// What follows the write: one action when it did not happen (also when this is dropped), another when it did.
#[must_use]
pub struct Undo {
    failed: Option<Box<dyn FnOnce() + Send>>,
    done: Option<Box<dyn FnOnce() + Send>>,
}

impl Undo {
    /// Runs `action` unless committed.
    pub fn new(action: impl FnOnce() + Send + 'static) -> Self {
        Self { failed: Some(Box::new(action)), done: None }
    }
    /// Nothing to undo.
    pub fn nothing() -> Self {
        Self { failed: None, done: None }
    }
    /// Also runs `action` once committed: for what the write no longer needs.
    pub fn then(mut self, action: impl FnOnce() + Send + 'static) -> Self {
        self.done = Some(Box::new(action));
        self
    }
    /// The write happened.
    pub fn commit(mut self) {
        self.failed = None;
        if let Some(action) = self.done.take() {
            action();
        }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(action) = self.failed.take() {
            action();
        }
    }
}

impl Resource {
    /// `deployments.apps`.
    pub fn group_resource(&self) -> GroupName {
        GroupName::new(self.group, self.plural)
    }
    /// Whether its objects are namespaces.
    pub fn is_namespaces(&self) -> bool {
        self.group.is_empty() && self.plural == "namespaces"
    }
    /// What a creator may not set goes: what is behind feature gates, then what the kind says.
    pub fn prepare_create(&self, object: &mut Object, ctx: &StrategyContext<'_>) -> Result<(), Status> {
        gated::drop_disabled((self.group, self.plural), object, None, ctx.gates);
        self.strategy.prepare_create(object, ctx)
    }
    /// The same for a change.
    pub fn prepare_update(&self, new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
        gated::drop_disabled((self.group, self.plural), new, Some(old), ctx.gates);
        self.strategy.prepare_update(new, old, ctx);
    }
    /// What is wrong with a new object.
    pub fn validate_create(&self, object: &Object, ctx: &StrategyContext<'_>) -> ErrorList {
        let mut errors = self.strategy.validate_create(object, ctx);
        gated::check((self.group, self.plural), object, (None, ctx.subresource), ctx.gates, &mut errors);
        errors
    }
    /// What is wrong with a change.
    pub fn validate_update(&self, new: &Object, old: &Object, ctx: &StrategyContext<'_>) -> ErrorList {
        let mut errors = self.strategy.validate_update(new, old, ctx);
        gated::check((self.group, self.plural), new, (Some(old), ctx.subresource), ctx.gates, &mut errors);
        errors
    }
    /// The apiVersion objects are stored in.
    pub fn stored_api_version(&self) -> String {
        match self.strategy.stored_as() {
            Some(other) => other.to_owned(),
            None if self.group.is_empty() => self.storage_version.to_owned(),
            None => format!("{}/{}", self.group, self.storage_version),
        }
    }
    /// Group of the resource whose objects these are: another one's when `Strategy::stored_as` says so.
    pub fn stored_group(&self) -> &'static str {
        match self.strategy.stored_as() {
            Some(api_version) => api_version.split_once('/').map_or("", |(group, _)| group),
            None => self.group,
        }
    }
    /// Whether stored objects are served in a version as they are.
    pub fn serves_stored(&self, version: &str) -> bool {
        let settled = self.strategy.custom().is_none_or(apiextensions::custom::CustomKind::is_settled);
        settled && self.strategy.stored_as().is_none() && version == self.storage_version
    }
    /// Converts an object between served apiVersions, or to and from the stored one.
    ///
    /// # Errors
    /// When the object does not fit the other version.
    pub fn convert(&self, object: &mut Object, from: &str, to: &str) -> Result<(), Status> {
        let version = |api_version: &str| api_version.rsplit('/').next().unwrap_or_default().to_owned();
        if self.strategy.stored_as().is_some() {
            self.strategy.convert(object, from, to)?;
        } else {
            self.strategy.convert(object, &version(from), &version(to))?;
        }
        object.set("apiVersion", to);
        Ok(())
    }
    /// The apiVersion of one of the served versions.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }
    /// `Deployment.apps`.
    pub fn group_kind(&self) -> GroupName {
        GroupName::new(self.group, self.kind)
    }
}

/// Name and age: the row of kinds without columns of their own.
pub fn default_row(obj: &Object, now: Timestamp) -> Vec<serde_json::Value> {
    vec![obj.name().into(), crate::table::age(obj, now).into()]
}
