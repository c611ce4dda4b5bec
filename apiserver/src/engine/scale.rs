//! `scale`: the number of replicas of any kind that has one, as autoscaling/v1 Scale.
//!
//! Contract: autoscaling/v1; upstream's `ScaleREST` of deployments: a write of the Scale is a write of the object behind
//! it, with its resourceVersion and uid as preconditions.

use component_base::selector::LabelSelector;
use http::Response;
use jiff::Timestamp;
use proto::table;
use serde_json::{Value, json};

use super::{
    Call,
    apply::{Applied, SCALE},
    body::PatchKind,
    list_options, metadata,
};
use crate::{
    admission::Operation,
    apply::scale::{self as ownership, Replicas},
    field::{Error, ErrorList, Path},
    negotiation::Form,
    object::Object,
    patch,
    registry::Subresource,
    response::Body,
    status::{GroupName, Status},
    storage::StorageError,
};

const TRIES: usize = 5;
const API_VERSION: &str = SCALE.0;
/// Versions of apps that objects were once written in.
const FORMER: [&str; 2] = ["apps/v1beta1", "apps/v1beta2"];

/// Where a kind keeps what a Scale shows: JSON pointers.
#[derive(Clone, Copy)]
struct Places {
    replicas: &'static str,
    status: &'static str,
    selector: &'static str,
}

/// What is done to the current Scale.
enum Change {
    Replace(Object),
    Json(patch::JsonPatch),
    Merge(Value),
    Strategic(Value),
    Apply(Applied),
}

impl Call {
    fn places(&self) -> Option<Places> {
        self.resource.subresources.iter().find_map(|sub| match *sub {
            Subresource::Scale { spec, status, selector } => {
                Some(Places { replicas: spec, status, selector })
            }
            _ => None,
        })
    }

    /// Where objects of a version keep the number.
    fn replicas_in<'p>(&self, places: &'p Places, version: &str) -> Replicas<'p> {
        let (group, number) = version.rsplit_once('/').unwrap_or(("", version));
        // Versions of definitions come and go; those of other kinds are known.
        let known =
            self.custom().is_some() || FORMER.contains(&version) || self.resource.versions.contains(&number);
        if group == self.resource.group && known { Replicas::At(places.replicas) } else { Replicas::Unknown }
    }

    /// Answers a request for `scale`; `None` when the resource has none.
    pub(super) async fn scale(&mut self) -> Option<Result<Response<Body>, Status>> {
        let places = self.places()?;
        Some(match self.info.verb.as_str() {
            "get" => self.get_scale(places).await,
            "update" => match self.check_manager().and_then(|()| self.decode_scale()) {
                Ok(scale) => self.change_scale(places, &Change::Replace(scale)).await,
                Err(status) => Err(status),
            },
            "patch" => match self.scale_patch() {
                Ok(change) => self.change_scale(places, &change).await,
                Err(status) => Err(status),
            },
            _ => Err(self.no_such_verb()),
        })
    }

    async fn get_scale(&self, places: Places) -> Result<Response<Body>, Status> {
        let name = self.info.name.as_str();
        let point = list_options::get(&self.info.query)?;
        let found = self.server.store.get_at(&self.id(), self.key_namespace(), name, point).await;
        let entry = found
            .map_err(|e| self.store_failed(e, name))?
            .ok_or_else(|| Status::not_found(&self.resource.group_resource(), name))?;
        self.respond_scale(&scale_of(&self.working(&entry).await?, places)?)
    }

    fn respond_scale(&self, scale: &Object) -> Result<Response<Body>, Status> {
        match self.media.form {
            Form::Object => self.respond_value(200, &scale.to_value()),
            Form::Metadata => self.respond_value(200, &super::partial(scale)),
            Form::Table => self.respond_value(200, &table_of(scale, Timestamp::now())),
        }
    }

    fn decode_scale(&mut self) -> Result<Object, Status> {
        let scale = self.read_object(API_VERSION, "Scale")?;
        let (version, kind) = (scale.api_version(), scale.kind());
        if (!kind.is_empty() && kind != "Scale") || (!version.is_empty() && version != API_VERSION) {
            return Err(Status::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a Scale: no kind {kind:?} is registered for \
                 version {version:?}"
            )));
        }
        if scale.name() != self.info.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                scale.name(),
                self.info.name
            )));
        }
        if !scale.namespace().is_empty() && scale.namespace() != self.key_namespace() {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(scale)
    }

    fn scale_patch(&mut self) -> Result<Change, Status> {
        let kind = self.patch_kind()?;
        self.check_manager()?;
        Ok(match kind {
            PatchKind::Json => Change::Json(self.read_json_patch()?),
            PatchKind::Merge => Change::Merge(self.read_patch(kind)?),
            PatchKind::Strategic => Change::Strategic(self.read_patch(kind)?),
            PatchKind::Apply => Change::Apply(self.read_apply_of(SCALE.0, SCALE.1)?),
        })
    }

    async fn change_scale(&mut self, places: Places, change: &Change) -> Result<Response<Body>, Status> {
        let name = self.info.name.clone();
        for _ in 0..TRIES {
            let said = self.warnings.len();
            let current = self.latest(&name).await?;
            let old = self.working(&current).await?;
            let mut noted = scale_of(&old, places)?.into_value();
            ownership::show(&old.to_value(), &mut noted, |version| self.replicas_in(&places, version));
            let old_scale = Object::from_value(noted)?;
            let scale = match change {
                Change::Apply(applied) => self.applied_scale(applied, &old_scale)?,
                change => self.note_scale(changed(change, &old_scale)?, &old_scale)?,
            };
            self.check_scale(&scale, &old, &name)?;
            let new = self.scaled(&old, &old_scale, scale, places).await?;
            if new == old || self.dry_run()? {
                return self.respond_scale(&scale_of(&new, places)?);
            }
            let (namespace, bytes) = (self.key_namespace(), self.to_store(&new).await?);
            let stored =
                self.server.store.update(&self.id(), namespace, &name, current.rev(), bytes, None).await;
            match stored {
                Ok(entry) => return self.respond_scale(&scale_of(&self.working(&entry).await?, places)?),
                // A named version was compared above: it will not fit the next one either, and says so there.
                Err(StorageError::Conflict { .. }) => self.warnings.truncate(said),
                Err(error) => return Err(self.store_failed(error, &name)),
            }
        }
        Err(Status::stale(&self.resource.group_resource(), &name))
    }

    fn check_scale(&self, scale: &Object, old: &Object, name: &str) -> Result<(), Status> {
        let resource = self.resource.group_resource();
        if !scale.uid().is_empty() && scale.uid() != old.uid() {
            return Err(self.of_other_uid(name, scale.uid(), old.uid()));
        }
        if !scale.resource_version().is_empty() && scale.resource_version() != old.resource_version() {
            return Err(Status::stale(&resource, name));
        }
        let errors = validate(scale);
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&GroupName::new("autoscaling", "Scale"), name, &errors))
    }

    /// The object behind the Scale with the new number, admitted and validated.
    async fn scaled(
        &mut self,
        old: &Object,
        old_scale: &Object,
        mut scale: Object,
        places: Places,
    ) -> Result<Object, Status> {
        let options = self.write_options("UpdateOptions");
        self.admit(Operation::Update, Some(&mut scale), Some(old_scale), &options, true).await?;
        let mut new = old.clone();
        set(&mut new, places.replicas, replicas(&scale).into());
        let (version, mut value) = (self.info.api_version(), new.into_value());
        ownership::bring_back(&mut value, &scale.to_value(), (&version, places.replicas), |version| {
            self.replicas_in(&places, version)
        });
        let mut new = Object::from_value(value)?;
        {
            // To the kind this is a change of the object itself.
            let context =
                crate::registry::StrategyContext { subresource: "", ..self.context(Timestamp::now()) };
            self.resource.prepare_update(&mut new, old, &context);
            let mut errors = metadata::validate_change(&new, old);
            errors.extend(self.resource.validate_update(&new, old, &context));
            if !errors.is_empty() {
                return Err(Status::invalid(&self.resource.group_kind(), &self.info.name, &errors));
            }
        }
        let mut scale = scale_of(&new, places)?;
        self.admit(Operation::Update, Some(&mut scale), Some(old_scale), &options, false).await?;
        Ok(new)
    }
}

/// The Scale of an object. Pure.
fn scale_of(object: &Object, places: Places) -> Result<Object, Status> {
    let number = |pointer| object.pointer(pointer).and_then(Value::as_i64);
    let mut metadata = json!({"name": object.name()});
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !object.meta_str(field).is_empty() {
            metadata[field] = object.meta_str(field).into();
        }
    }
    let spec = match number(places.replicas) {
        // A missing number means one replica to every kind that is scaled; zero is left out of a Scale.
        None => json!({"replicas": 1}),
        Some(0) => json!({}),
        Some(replicas) => json!({"replicas": replicas}),
    };
    let mut status = json!({"replicas": number(places.status).unwrap_or(0)});
    let selector = selector(object, places.selector)?;
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Object::from_value(json!({"kind": "Scale", "apiVersion": API_VERSION, "metadata": metadata, "spec": spec,
        "status": status}))
}

/// The selector in its text form: from a LabelSelector, a map of labels, or text that is it already.
fn selector(object: &Object, pointer: &str) -> Result<String, Status> {
    let bad = |why: String| Status::bad_request(why);
    match object.pointer(pointer) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Object(map)) if map.values().all(Value::is_string) => {
            let pairs = map.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)));
            Ok(LabelSelector::from_map(pairs).to_string())
        }
        Some(value) => {
            let api = serde_json::from_value(value.clone()).map_err(|e| bad(e.to_string()))?;
            Ok(LabelSelector::from_api(Some(&api)).map_err(|e| bad(e.to_string()))?.to_string())
        }
    }
}

/// The Scale the client wants. Pure.
fn changed(change: &Change, old: &Object) -> Result<Object, Status> {
    let mut value = old.to_value();
    match change {
        Change::Replace(scale) => return Ok(scale.clone()),
        Change::Apply(_) => {}
        Change::Json(patch) => patch.apply(&mut value)?,
        Change::Merge(patch) => json_patch::merge(&mut value, patch),
        Change::Strategic(body) => {
            let kind = table::builtin().by_kind("autoscaling", "v1", "Scale");
            value = patch::strategic(&value, body, kind)?;
        }
    }
    Object::from_value(value)
}

fn replicas(scale: &Object) -> i64 {
    scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0)
}

fn validate(scale: &Object) -> ErrorList {
    let (mut errors, path) = (ErrorList::new(), Path::new("spec").child("replicas"));
    match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => {}
        Some(value) => match value.as_i64() {
            Some(n) if n < 0 => errors.push(Error::invalid(&path, n, "must be greater than or equal to 0")),
            Some(n) if n <= i64::from(i32::MAX) => {}
            _ => errors.push(Error::invalid(&path, value.clone(), "must be an integer of 32 bits")),
        },
    }
    errors
}

/// Sets a value at a JSON pointer, making the objects on the way.
fn set(object: &mut Object, pointer: &str, value: Value) {
    let mut parts: Vec<&str> = pointer.split('/').skip(1).collect();
    let Some(last) = parts.pop() else { return };
    let mut at = object.as_map_mut();
    for part in parts {
        let next = at.entry(part).or_insert_with(|| json!({}));
        if !next.is_object() {
            *next = json!({});
        }
        let Value::Object(inner) = next else { return };
        at = inner;
    }
    at.insert(last.to_owned(), value);
}

/// How kubectl prints a Scale: upstream's columns.
fn table_of(scale: &Object, now: Timestamp) -> Value {
    let columns: Vec<Value> = [("Name", "string", "name"), ("Desired", "integer", ""), ("Available", "integer", ""), ("Age", "string", "")]
        .iter()
        .map(|(name, kind, format)| json!({"name": name, "type": kind, "format": format, "description": "", "priority": 0}))
        .collect();
    let available = scale.pointer("/status/replicas").cloned().unwrap_or_default();
    let cells = json!([scale.name(), replicas(scale), available, crate::table::age(scale, now)]);
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": scale.resource_version()},
        "columnDefinitions": columns, "rows": [{"cells": cells, "object": super::partial(scale)}]})
}

#[cfg(test)]
mod tests;
