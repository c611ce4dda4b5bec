//! Custom objects: the strategy of one version of a definition, and the resource it is served as.
//!
//! Versions of one definition differ in schema, columns, subresources and selectable fields, so that each is a
//! resource of its own over the same stored objects. Unlike built-in kinds, custom objects are defaulted, admitted and
//! validated in the requested version; they are converted when they are stored.
//!
//! Contract: upstream's `registry/customresource` and `apiserver/customresource_handler`.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{
    apiextensions::{
        Definition, Schema, Version, defaulting,
        definition::{Column, Conversion},
        embedded, pruning, value,
    },
    apply::Form,
    field::{Error, ErrorKind, ErrorList, Path},
    object::Object,
    registry::{Resource, SelectableField, Strategy, StrategyContext, Subresource, intern, kit},
    status::{GroupName, Status},
    table,
};

/// Makes objects of one version objects of another, as a webhook does.
#[async_trait]
pub trait Converter: Send + Sync {
    /// The objects with this apiVersion, in the same order; nothing but the apiVersion, labels, annotations and what
    /// is not metadata changes.
    async fn convert(&self, objects: Vec<Object>, api_version: &str) -> Result<Vec<Object>, Status>;
}

/// One version of a definition.
pub struct CustomKind {
    definition: Arc<Definition>,
    version: Version,
    /// Objects of an earlier revision were stored under another schema.
    since: u64,
    converter: Option<Arc<dyn Converter>>,
    /// Cancelled when another schema is served in this one's place.
    replaced: CancellationToken,
    /// Of all that clients are told about the version.
    digest: [u8; 32],
}

/// The resources of a definition, one per served version; `since` is the revision its schemas hold from, and `replaced`
/// is cancelled when they do no more.
pub fn resources(
    definition: &Arc<Definition>,
    since: u64,
    converter: Option<&Arc<dyn Converter>>,
    replaced: &CancellationToken,
) -> Vec<Resource> {
    let served = definition.versions.iter().filter(|v| v.served);
    served.map(|version| resource(definition, version, since, converter.cloned(), replaced.clone())).collect()
}

fn resource(
    definition: &Arc<Definition>,
    version: &Version,
    since: u64,
    converter: Option<Arc<dyn Converter>>,
    replaced: CancellationToken,
) -> Resource {
    let names = &definition.names;
    let mut subresources = Vec::new();
    if version.status {
        subresources.push(Subresource::Status);
    }
    if let Some(scale) = &version.scale {
        subresources.push(Subresource::Scale {
            spec: intern::text(&scale.spec),
            status: intern::text(&scale.status),
            selector: intern::text(&scale.selector),
        });
    }
    let (group, plural) = (intern::text(&definition.group), intern::text(&names.plural));
    Resource {
        group,
        versions: intern::texts([version.name.as_str()]),
        storage_version: intern::text(&definition.storage),
        kind: intern::text(&names.kind),
        plural,
        singular: intern::text(&names.singular),
        short_names: intern::texts(names.short_names.iter().map(String::as_str)),
        categories: intern::texts(names.categories.iter().map(String::as_str)),
        namespaced: definition.namespaced,
        verbs: kit::STANDARD_VERBS,
        subresources: intern::subresources(subresources),
        storage_prefix: intern::text(&format!("{group}/{plural}")),
        selectable: selectable(version),
        columns: &[],
        gate: None,
        returns_deleted: false,
        strategy: Arc::new(CustomKind {
            definition: definition.clone(),
            version: version.clone(),
            since,
            converter,
            replaced,
            digest: digest(definition, version),
        }),
    }
}

fn digest(definition: &Definition, version: &Version) -> [u8; 32] {
    let said = (&definition.names, &version.selectable);
    Sha256::digest(format!("{said:?} {}", version.document)).into()
}

fn selectable(version: &Version) -> &'static [SelectableField] {
    let field = |name: &String| {
        let pointer = crate::apiextensions::definition::pointer(name);
        SelectableField::at(intern::text(name), intern::text(&pointer))
    };
    intern::selectable(version.selectable.iter().map(field).collect())
}

// === impl CustomKind ===

impl CustomKind {
    /// The schema of the version.
    pub fn schema(&self) -> &Schema {
        &self.version.schema
    }

    /// Cancelled when another schema is served in this one's place, or none: what is watched is to be watched anew.
    pub fn replaced(&self) -> &CancellationToken {
        &self.replaced
    }

    /// How fields of its objects are owned.
    pub fn form(&self) -> Form<'_> {
        match self.version.document {
            Value::Null => Form::Deduced,
            _ => Form::of_schema(&self.version.schema),
        }
    }

    /// The schema as it was sent.
    pub fn document(&self) -> &Value {
        &self.version.document
    }

    /// A digest of all that clients are told about the version.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The warning of every request, if the version is deprecated.
    pub fn deprecation(&self) -> Option<&str> {
        self.version.deprecation.as_deref()
    }

    /// The served versions of the definition, this one among them.
    pub fn served(&self) -> impl Iterator<Item = &str> {
        self.definition.versions.iter().filter(|version| version.served).map(|version| version.name.as_str())
    }

    /// The kind of lists.
    pub fn list_kind(&self) -> &str {
        &self.definition.names.list_kind
    }

    /// Whether everything that is stored has the storage version.
    pub fn is_settled(&self) -> bool {
        self.definition.is_settled()
    }

    /// Whether its objects have other fields than they are stored with: a webhook makes them what they are here.
    pub fn selects_converted(&self) -> bool {
        let stored_as_served = self.definition.storage == self.version.name && self.definition.is_settled();
        matches!(self.definition.conversion, Conversion::Webhook(_)) && !stored_as_served
    }

    /// Whether what was stored at a revision was stored under today's schema.
    pub fn is_current(&self, revision: u64) -> bool {
        revision > self.since
    }

    fn api_version(&self, version: &str) -> String {
        format!("{}/{version}", self.definition.group)
    }

    /// Puts a sent object into its shape: without unknown fields, metadata as its type has it. Answers the paths of
    /// what was unknown.
    ///
    /// # Errors
    /// What is malformed in metadata, in words.
    pub fn shape(&self, object: &mut Map<String, Value>) -> Result<Vec<String>, String> {
        let mut unknown = embedded::coerce_meta(object)?;
        unknown.extend(pruning::prune(object, &self.version.schema));
        pruning::drop_nulls(object, Some(&self.version.schema));
        let within = embedded::coerce_embedded(object, &self.version.schema);
        unknown.extend(within.map_err(|error| error.to_string())?);
        Ok(unknown)
    }

    /// Brings a stored object to what today's schema of its own version would have made of it.
    fn restore(&self, object: &mut Object) {
        let version = object.api_version().rsplit('/').next().unwrap_or_default().to_owned();
        let Some(version) = self.definition.version(&version) else { return };
        let map = object.as_map_mut();
        pruning::prune(map, &version.schema);
        pruning::drop_nulls(map, Some(&version.schema));
        defaulting::fill(map, &version.schema);
    }

    /// Stored objects in a version, the requested one or that of the store.
    ///
    /// # Errors
    /// When the webhook that converts them fails.
    pub async fn converted(&self, mut objects: Vec<Object>, version: &str) -> Result<Vec<Object>, Status> {
        let wanted = self.api_version(version);
        match (&self.definition.conversion, &self.converter) {
            (Conversion::Webhook(_), Some(converter)) => {
                let (at, others): (Vec<usize>, Vec<Object>) =
                    objects.iter().cloned().enumerate().filter(|(_, o)| o.api_version() != wanted).unzip();
                if !others.is_empty() {
                    let converted = converter.convert(others, &wanted).await?;
                    for (at, mut object) in at.into_iter().zip(converted) {
                        self.prune_to(&mut object, version);
                        objects[at] = object;
                    }
                }
            }
            _ => {
                for object in objects.iter_mut().filter(|o| o.api_version() != wanted) {
                    object.set("apiVersion", wanted.as_str());
                    self.prune_to(object, version);
                }
            }
        }
        Ok(objects)
    }

    /// Stored objects in the version of this resource, whenever they were stored.
    ///
    /// # Errors
    /// When the webhook that converts them fails.
    pub async fn restored(&self, mut objects: Vec<Object>) -> Result<Vec<Object>, Status> {
        for object in &mut objects {
            let revision = object.resource_version().parse().unwrap_or(0);
            if !self.is_current(revision) {
                self.restore(object);
            }
        }
        self.converted(objects, &self.version.name).await
    }

    /// The object as it is stored.
    ///
    /// # Errors
    /// When the webhook that converts it fails.
    pub async fn stored(&self, object: Object) -> Result<Object, Status> {
        let mut all = self.converted(vec![object], &self.definition.storage).await?;
        all.pop().ok_or_else(|| Status::internal("conversion returned no object"))
    }

    fn prune_to(&self, object: &mut Object, version: &str) {
        if let Some(version) = self.definition.version(version) {
            let map = object.as_map_mut();
            pruning::prune(map, &version.schema);
            pruning::drop_nulls(map, Some(&version.schema));
        }
    }

    /// Column definitions of a table.
    pub fn columns(&self) -> Value {
        let name = json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": table::NAME_DESCRIPTION});
        if self.version.columns.is_empty() {
            let age = json!({"name": "Age", "type": "date", "format": "", "priority": 0,
                "description": table::CREATED_DESCRIPTION});
            return json!([name, age]);
        }
        let one = |c: &Column| {
            json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description,
                "priority": c.priority})
        };
        std::iter::once(name).chain(self.version.columns.iter().map(one)).collect()
    }

    fn validate(&self, object: &Object, old: Option<&Object>, ctx: &StrategyContext<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let schema = &self.version.schema;
        let (new_value, old_value) = (object.to_value(), old.map(Object::to_value));
        let status_only = ctx.subresource == "status";
        if status_only {
            if let (Some(status), Some(below)) = (object.get("status"), schema.properties.get("status")) {
                errors.extend(value::validate(status, old.and_then(|o| o.get("status")), below, "status"));
            }
        } else {
            errors.extend(value::validate(&new_value, old_value.as_ref(), schema, ""));
            errors.extend(self.validate_number(object, |scale| &scale.spec));
        }
        errors.extend(self.validate_number(object, |scale| &scale.status));
        errors.extend(self.validate_selector(object));
        if !status_only {
            errors.extend(embedded::validate(object.as_map(), schema));
        }
        let lists = value::validate_lists(object.as_map(), schema);
        if old.is_none_or(|old| value::validate_lists(old.as_map(), schema).is_empty()) {
            errors.extend(lists);
        }
        self.validate_rules(&new_value, old_value.as_ref(), &mut errors);
        errors
    }

    /// Rules are run over objects that have the shape their authors rely on.
    fn validate_rules(&self, object: &Value, old: Option<&Value>, errors: &mut ErrorList) {
        let Some(rules) = &self.version.rules else { return };
        let is_blocking = |error: &Error| {
            use ErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
            matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
        };
        if errors.iter().any(is_blocking) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing \
                       errors to complete validation";
            return errors.push(Error::invalid(&Path::root(), Value::Null, why));
        }
        errors.extend(rules.validate(object, old, &Path::root(), true));
    }

    fn validate_number(
        &self,
        object: &Object,
        place: fn(&crate::apiextensions::definition::Scale) -> &str,
    ) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(scale) = &self.version.scale else { return errors };
        let pointer = place(scale);
        let path = Path::new(&pointer.replace('/', "."));
        match object.pointer(pointer) {
            None | Some(Value::Null) => {}
            Some(value) => match value.as_i64() {
                None => {
                    let detail = format!(
                        "{} accessor error: {value} is of the type {}, expected int64",
                        pointer.replace('/', "."),
                        go_type(value)
                    );
                    errors.push(Error::invalid(&path, 0, detail));
                }
                Some(n) if n < 0 => errors.push(Error::invalid(&path, n, "should be a non-negative integer")),
                Some(n) if n > i64::from(i32::MAX) => {
                    let detail = format!("should be less than or equal to {}", i32::MAX);
                    errors.push(Error::invalid(&path, n, detail));
                }
                Some(_) => {}
            },
        }
        errors
    }

    fn validate_selector(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(scale) = self.version.scale.as_ref().filter(|scale| !scale.selector.is_empty()) else {
            return errors;
        };
        let path = scale.selector.replace('/', ".");
        if let Some(value) = object.pointer(&scale.selector).filter(|v| !v.is_string() && !v.is_null()) {
            let detail =
                format!("{path} accessor error: {value} is of the type {}, expected string", go_type(value));
            errors.push(Error::invalid(&Path::new(&path), "", detail));
        }
        errors
    }
}

impl Strategy for CustomKind {
    fn custom(&self) -> Option<&CustomKind> {
        Some(self)
    }

    fn default(&self, obj: &mut Object, _version: &str) {
        defaulting::fill(obj.as_map_mut(), &self.version.schema);
    }

    fn prepare_create(&self, obj: &mut Object, _ctx: &StrategyContext<'_>) -> Result<(), Status> {
        if self.definition.terminating {
            let resource = GroupName::new(&self.definition.group, &self.definition.names.plural);
            let mut status = Status::method_not_allowed(&resource, "create");
            "create not allowed while custom resource definition is terminating"
                .clone_into(&mut status.message);
            return Err(status);
        }
        if self.version.status {
            obj.remove("status");
        }
        obj.metadata_mut().insert("generation".to_owned(), 1.into());
        Ok(())
    }

    fn validate_create(&self, obj: &Object, ctx: &StrategyContext<'_>) -> ErrorList {
        self.validate(obj, None, ctx)
    }

    fn prepare_update(&self, new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
        if ctx.subresource == "status" {
            // Of a write of the status nothing else counts, not even labels.
            let status = new.remove("status");
            let managed = new.metadata().and_then(|m| m.get("managedFields")).cloned();
            *new = old.clone();
            match status {
                Some(status) => new.set("status", status),
                None => drop(new.remove("status")),
            }
            match managed {
                Some(managed) => new.metadata_mut().insert("managedFields".to_owned(), managed),
                None => new.metadata_mut().remove("managedFields"),
            };
            return;
        }
        if self.version.status {
            kit::keep(new, old, &["status"]);
        }
        let content = |o: &Object| {
            let fields = o.as_map().iter().filter(|(name, _)| *name != "metadata");
            fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<String, Value>>()
        };
        let generation = old.generation() + i64::from(content(new) != content(old));
        new.metadata_mut().insert("generation".to_owned(), generation.into());
    }

    fn validate_update(&self, new: &Object, old: &Object, ctx: &StrategyContext<'_>) -> ErrorList {
        self.validate(new, Some(old), ctx)
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let had = old.map(Object::finalizers).unwrap_or_default();
        let bare = new.finalizers().into_iter().filter(|name| !name.contains('/') && !had.contains(name));
        // Those of garbage collection have no domain.
        let bare = bare.filter(|name| !matches!(*name, "orphan" | "foregroundDeletion" | "kubernetes"));
        bare.map(|name| {
            format!(
                "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name including a path (/) to avoid \
                 accidental conflicts with other finalizer writers"
            )
        })
        .collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![obj.name().into()];
        if self.version.columns.is_empty() {
            cells.push(table::age(obj, now).into());
            return cells;
        }
        let value = obj.to_value();
        cells.extend(self.version.columns.iter().map(|column| cell(column, &value, now)));
        cells
    }
}

/// A cell as its column's type has it; null for what is missing or of another type.
fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let found = column.path.as_ref().and_then(|path| path.find(object).into_iter().next());
    let Some(value) = found else { return Value::Null };
    match (column.kind.as_str(), value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => "<nil>".into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => {
            #[allow(clippy::cast_possible_truncation, reason = "upstream cuts fractions off, too")]
            let whole = number.as_i64().or_else(|| number.as_f64().map(|f| f as i64));
            whole.into()
        }
        ("number", Value::Number(number)) => number.as_f64().into(),
        ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(_) => table::since(text, now).into(),
            Err(_) => Value::Null,
        },
        _ => Value::Null,
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
