//! Server-side apply, and the notes every other write leaves in `metadata.managedFields`.

use std::sync::LazyLock;

use http::header;
use jiff::Timestamp;
use proto::{cbor, node::Node};
use serde_json::{Value, json};

use super::Call;
use crate::{
    apply::{self, Conflict, Form, Scope, Writer},
    field::{Error, Path},
    object::Object,
    registry::Subresource,
    schema::{self, FieldValidation},
    status::{Cause, Details, Reason, Status},
};

/// Longest name of a field manager.
const MAX_MANAGER: usize = 128;
/// The version and kind of Scales.
pub(super) const SCALE: (&str, &str) = ("autoscaling/v1", "Scale");

/// An apply as it was sent.
pub(super) struct Applied {
    patch: Value,
    force: bool,
}

impl Call {
    /// Reads an apply of the kind that is asked for.
    pub(super) fn read_apply(&mut self) -> Result<Applied, Status> {
        let version = self.info.api_version();
        self.read_apply_of(&version, self.resource.kind)
    }

    /// Reads an apply: YAML, JSON or CBOR that says its kind and nothing of who manages it.
    pub(super) fn read_apply_of(&mut self, want_version: &str, want_kind: &str) -> Result<Applied, Status> {
        if self.info.query.get("fieldManager").is_empty() {
            let why = "is required for apply patch";
            return Err(self.bad_option(Error::required(&Path::new("fieldManager"), why)));
        }
        let validation = self.field_validation()?;
        let body = self.body.clone();
        let read = match self.content_type() {
            cbor::APPLY_TYPE => {
                cbor::decode(&body).map(|node| (node, Vec::new())).map_err(|error| error.to_string())
            }
            _ => schema::read_yaml(&body),
        };
        // Upstream's word for both.
        let (node, duplicates) =
            read.map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))?;
        if !duplicates.is_empty() && validation == FieldValidation::Strict {
            let why = duplicates.join(", ");
            return Err(Status::bad_request(format!("error strict decoding YAML: {why}")));
        }
        let patch = node.to_value();
        let said = |name: &str| patch.get(name).and_then(Value::as_str).unwrap_or_default();
        if said("apiVersion") != want_version || said("kind") != want_kind {
            return Err(Status::bad_request(format!(
                "invalid object type: {}, Kind={}; expected {want_version}, Kind={want_kind}",
                said("apiVersion"),
                said("kind")
            )));
        }
        let meta = |name: &str| patch.pointer(&format!("/metadata/{name}"));
        if meta("managedFields").is_some_and(|fields| !fields.is_null()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        if meta("name").and_then(Value::as_str).is_some_and(|name| name != self.info.name) {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                meta("name").and_then(Value::as_str).unwrap_or_default(),
                self.info.name
            )));
        }
        let patch = self.checked_configuration(&patch, want_version, want_kind)?;
        if validation == FieldValidation::Warn {
            self.warn(duplicates);
        }
        Ok(Applied { patch, force: self.info.query.flag("force") })
    }

    /// A configuration in the shape of its type. Only what it says is kept, not what Go would print; a field
    /// that the type does not have cannot be owned, so it is refused whatever the validation.
    fn checked_configuration(&self, patch: &Value, version: &str, kind: &str) -> Result<Value, Status> {
        let refuse = |why: &str| {
            let (namespace, name) = (self.key_namespace(), &self.info.name);
            let of = format!("{namespace}/{name}; {version}, Kind={kind}");
            let why = format!("failed to create typed patch object ({of}): {why}");
            Status::new(500, Reason::Unknown, why)
        };
        let (shaped, unknown) = match schema::type_of(version, kind) {
            Some(id) => {
                let decoded = schema::decode(&Node::from(patch), id).map_err(|why| refuse(&why))?;
                let path = |text: &String| {
                    Some(text.strip_prefix("unknown field \"")?.strip_suffix('"')?.to_owned())
                };
                (said(patch, &decoded.object), decoded.strict.iter().filter_map(path).collect())
            }
            None => {
                let mut shaped = patch.clone();
                let unknown = match (self.custom(), shaped.as_object_mut()) {
                    (Some(custom), Some(object)) => custom.shape(object).map_err(|why| refuse(&why))?,
                    _ => Vec::new(),
                };
                (patch.clone(), unknown)
            }
        };
        let undeclared: Vec<String> =
            unknown.iter().map(|path| format!(".{path}: field not declared in schema")).collect();
        match undeclared.as_slice() {
            [] => Ok(shaped),
            [one] => Err(refuse(one)),
            many => Err(refuse(&format!("errors:\n  {}", many.join("\n  ")))),
        }
    }

    /// The live object (`None` when there is none) with the configuration applied, in the requested version.
    pub(super) fn applied(&self, applied: &Applied, live: Option<&Object>) -> Result<Object, Status> {
        let live = live.map(|live| self.to_requested(live.clone())).transpose()?.map(Object::into_value);
        let version = self.info.api_version();
        let manager = self.manager();
        let ignored = |field: &str| self.is_ignored(field);
        let merged = apply::apply(
            live.as_ref(),
            self.empty(),
            &applied.patch,
            applied.force,
            self.writer(&manager, &version, Timestamp::now()),
            Scope { form: self.form(), ignored: &ignored },
        );
        let merged = merged.map_err(|conflicts| conflict_status(&conflicts))?;
        match schema::type_of(&version, self.resource.kind) {
            // The configuration was checked, and so was the live object; what is said may still be too little.
            Some(id) => {
                let shaped = schema::decode(&Node::from(&merged), id).map_err(Status::bad_request)?;
                Object::from_value(shaped.object)
            }
            None => {
                let mut merged = merged;
                if let (Some(custom), Some(object)) = (self.custom(), merged.as_object_mut()) {
                    custom.shape(object).map_err(Status::bad_request)?;
                }
                Object::from_value(merged)
            }
        }
    }

    /// Notes what a create or update set; both objects in the requested version.
    pub(super) fn note_fields(
        &self,
        new: Object,
        live: Option<&Object>,
        now: Timestamp,
    ) -> Result<Object, Status> {
        let live = live.map(|live| self.to_requested(live.clone())).transpose()?.map(Object::into_value);
        let version = self.info.api_version();
        let manager = self.manager();
        let ignored = |field: &str| self.is_ignored(field);
        let mut new = new.into_value();
        apply::update(
            live.as_ref(),
            self.empty(),
            &mut new,
            self.writer(&manager, &version, now),
            Scope { form: self.form(), ignored: &ignored },
        );
        Object::from_value(new)
    }

    /// The Scale with a configuration applied.
    pub(super) fn applied_scale(&self, applied: &Applied, live: &Object) -> Result<Object, Status> {
        let (manager, live) = (self.manager(), live.to_value());
        let writer = self.writer(&manager, SCALE.0, Timestamp::now());
        let merged = apply::apply(
            Some(&live),
            scale_of_nothing(),
            &applied.patch,
            applied.force,
            writer,
            scale_scope(),
        );
        Object::from_value(merged.map_err(|conflicts| conflict_status(&conflicts))?)
    }

    /// Notes what a write set in a Scale.
    pub(super) fn note_scale(&self, new: Object, live: &Object) -> Result<Object, Status> {
        let (manager, live, mut new) = (self.manager(), live.to_value(), new.into_value());
        let writer = self.writer(&manager, SCALE.0, Timestamp::now());
        apply::update(Some(&live), scale_of_nothing(), &mut new, writer, scale_scope());
        Object::from_value(new)
    }

    fn writer<'a>(&'a self, manager: &'a str, api_version: &'a str, now: Timestamp) -> Writer<'a> {
        Writer { manager, api_version, subresource: &self.info.subresource, now }
    }

    /// Refuses a manager's name that cannot be kept.
    pub(super) fn check_manager(&self) -> Result<(), Status> {
        let (name, path) = (self.info.query.get("fieldManager"), Path::new("fieldManager"));
        if name.len() > MAX_MANAGER {
            return Err(self.bad_option(Error::too_long(&path, MAX_MANAGER)));
        }
        match name.char_indices().find(|(_, c)| c.is_control()) {
            None => Ok(()),
            Some((at, c)) => {
                let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
                Err(self.bad_option(Error::invalid(&path, name, why)))
            }
        }
    }

    /// `fieldManager`, or the client's name before the slash.
    fn manager(&self) -> String {
        let said = self.info.query.get("fieldManager");
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let name = if said.is_empty() { agent.split('/').next().unwrap_or_default() } else { said };
        let printable = name.chars().filter(|c| !c.is_control());
        let name: String = printable.take(MAX_MANAGER).collect();
        if name.is_empty() { "unknown".to_owned() } else { name }
    }

    fn form(&self) -> Form<'_> {
        if let Some(custom) = self.custom() {
            return custom.form();
        }
        Form::of_object(schema::type_of(&self.info.api_version(), self.resource.kind))
    }

    /// An object of the kind with nothing in it.
    fn empty(&self) -> &'static Value {
        static NOTHING: LazyLock<Value> = LazyLock::new(|| json!({}));
        let id = schema::type_of(&self.info.api_version(), self.resource.kind);
        id.map_or_else(|| &*NOTHING, schema::empty)
    }

    /// Whether a write through this path leaves a top-level field alone.
    fn is_ignored(&self, field: &str) -> bool {
        match self.info.subresource.as_str() {
            "" => field == "status" && self.resource.subresources.contains(&Subresource::Status),
            "status" => !matches!(field, "status" | "metadata"),
            _ => false,
        }
    }
}

/// A Scale with nothing in it.
fn scale_of_nothing() -> &'static Value {
    static NOTHING: LazyLock<Value> = LazyLock::new(|| json!({}));
    schema::type_of(SCALE.0, SCALE.1).map_or_else(|| &*NOTHING, schema::empty)
}

/// All of a Scale can be owned.
fn scale_scope() -> Scope<'static> {
    Scope { form: Form::of_object(schema::type_of(SCALE.0, SCALE.1)), ignored: &|_| false }
}

/// What `sent` says of the shaped object: members that Go would only add are left out.
fn said(sent: &Value, shaped: &Value) -> Value {
    match (sent, shaped) {
        (Value::Object(sent), Value::Object(shaped)) => Value::Object(
            sent.iter()
                .filter_map(|(name, value)| match shaped.get(name) {
                    Some(shaped) => Some((name.clone(), said(value, shaped))),
                    // Empty values are dropped by the shape, but an apply owns them.
                    None if is_zero(value) => Some((name.clone(), value.clone())),
                    None => None,
                })
                .collect(),
        ),
        (Value::Array(sent), Value::Array(shaped)) => {
            Value::Array(sent.iter().zip(shaped).map(|(sent, shaped)| said(sent, shaped)).collect())
        }
        _ => shaped.clone(),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn conflict_status(conflicts: &[Conflict]) -> Status {
    let causes = conflicts.iter().map(|conflict| Cause {
        kind: "FieldManagerConflict".to_owned(),
        message: format!("conflict with {}", conflict.manager),
        field: conflict.field.clone(),
    });
    let details = Details { causes: causes.collect(), ..Details::default() };
    Status::new(409, Reason::Conflict, apply::conflict_message(conflicts)).with_details(details)
}

#[cfg(test)]
mod tests;
