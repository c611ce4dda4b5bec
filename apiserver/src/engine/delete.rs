//! delete and deletecollection: preconditions, grace, finalizers, propagation.
//!
//! Contract: API conventions on deletion; upstream `registry.Store.Delete` and `rest.BeforeDelete`.

use std::sync::Arc;

use bytes::Bytes;
use component_base::features::Gate;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use http::Response;
use jiff::{SignedDuration, Timestamp};
use proto::node::Node;
use serde_json::{Value, json};

use super::{Call, delete_options, list_options, unreadable};
use crate::{
    admission::Operation,
    object::Object,
    objects::rfc3339,
    registry::Propagation,
    response::Body,
    schema,
    status::Status,
    storage::{Entry, ListPoint, ListRequest, StorageError},
};

const TRIES: usize = 5;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What became of an object.
pub(super) enum Outcome {
    /// It is no more; with the revision of its end, which a dry run has not.
    Gone(Object, Option<u64>),
    Waiting(Arc<Entry>),
    /// It would wait, had this not been a dry run.
    WouldWait(Object),
}

impl Call {
    /// The options of the body or, without one, of the query.
    fn delete_options(&self) -> Result<Object, Status> {
        let mut options = if self.body.is_empty() { self.delete_query()? } else { self.delete_body()? };
        if !self.server.gates.has(Gate::AllowUnsafeMalformedObjectDeletion) {
            options.remove(unreadable::OPTION);
        }
        delete_options::check(&options)?;
        options.set("kind", "DeleteOptions");
        options.set("apiVersion", "meta.k8s.io/v1");
        Ok(options)
    }

    fn delete_body(&self) -> Result<Object, Status> {
        let sent = schema::read(&self.headers, &self.body, self.server.speaks_cbor())?;
        let kind = sent.node.get("kind").and_then(Node::as_str).unwrap_or_default();
        if !matches!(kind, "" | "DeleteOptions") {
            return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
        }
        let decoded = match schema::type_of("v1", "DeleteOptions") {
            Some(id) => schema::decode(&sent.node, id).map_err(Status::bad_request)?,
            None => schema::decode_untyped(&sent.node),
        };
        Object::from_value(decoded.object)
    }

    fn delete_query(&self) -> Result<Object, Status> {
        let (query, mut options) = (&self.info.query, Object::new());
        if query.has("gracePeriodSeconds") {
            options.set("gracePeriodSeconds", list_options::number(query, "gracePeriodSeconds")?);
        }
        if query.has("propagationPolicy") {
            options.set("propagationPolicy", query.get("propagationPolicy"));
        }
        if query.has("orphanDependents") {
            options.set("orphanDependents", query.flag("orphanDependents"));
        }
        if query.has("dryRun") {
            options.set("dryRun", query.all("dryRun").to_vec());
        }
        if query.has(unreadable::OPTION) {
            options.set(unreadable::OPTION, query.flag(unreadable::OPTION));
        }
        Ok(options)
    }

    fn propagation(&self, options: &Object, object: &Object) -> Result<Propagation, Status> {
        match options.get("propagationPolicy").and_then(Value::as_str) {
            Some("Orphan") => return Ok(Propagation::Orphan),
            Some("Background") => return Ok(Propagation::Background),
            Some("Foreground") => return Ok(Propagation::Foreground),
            Some(other) => {
                return Err(Status::bad_request(format!("invalid propagationPolicy {other:?}")));
            }
            None => {}
        }
        Ok(match options.get("orphanDependents").and_then(Value::as_bool) {
            Some(true) => Propagation::Orphan,
            Some(false) => Propagation::Background,
            // Without a wish, finalizers already there say what was meant.
            None if object.finalizers().contains(&ORPHAN) => Propagation::Orphan,
            None if object.finalizers().contains(&FOREGROUND) => Propagation::Foreground,
            None => self.resource.strategy.default_propagation(),
        })
    }

    pub(super) async fn delete(&mut self) -> Result<Response<Body>, Status> {
        let options = self.delete_options()?;
        if unreadable::is_asked(&options) {
            return self.delete_unreadable().await;
        }
        let name = self.info.name.clone();
        // Clients of old that ask for dependents to go in the background are told that the object is not gone yet.
        let later = if options.get("orphanDependents") == Some(&Value::Bool(false)) { 202 } else { 200 };
        match self.delete_named(&name, &options).await? {
            Outcome::Waiting(entry) => self.respond(later, &entry).await,
            Outcome::WouldWait(object) => self.respond_object(later, object),
            Outcome::Gone(mut object, rev) if self.resource.returns_deleted => {
                if let Some(rev) = rev {
                    object.set_meta_str("resourceVersion", &rev.to_string());
                }
                self.respond_object(200, object)
            }
            Outcome::Gone(object, _) => self.respond_value(200, &self.deleted(&object)),
        }
    }

    /// The Status of an object that is gone.
    fn deleted(&self, object: &Object) -> Value {
        let resource = &self.resource;
        let mut details = json!({"name": object.name(), "kind": resource.plural, "uid": object.uid()});
        if !resource.group.is_empty() {
            details["group"] = json!(resource.group);
        }
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
    }

    pub(super) async fn delete_collection(&mut self) -> Result<Response<Body>, Status> {
        let options = self.delete_options()?;
        Self::refuse_many_unreadable(&options)?;
        list_options::list(&self.info.query)?;
        let (selection, converted) = self.split_selection(self.selection()?);
        let scope = self.scope();
        let request = ListRequest {
            namespace: scope.as_deref(),
            selection: &selection,
            point: ListPoint::Consistent,
            limit: 0,
            continue_token: "",
        };
        let listing =
            self.server.store.list(&self.id(), request).await.map_err(|e| self.store_failed(e, ""))?;
        self.check_readable()?;
        let entries = self.select_converted(listing.entries, &converted).await?;
        let (mut items, mut warnings) = (Vec::new(), Vec::new());
        {
            // Boxed, so that their type does not hold what they borrow.
            let deletions: Vec<BoxFuture<'_, _>> =
                entries.iter().map(|entry| self.delete_one(entry, &options).boxed()).collect();
            let mut deletions = futures::stream::iter(deletions).buffered(self.server.deletes_at_once);
            while let Some((deleted, warned)) = deletions.next().await {
                items.extend(deleted?);
                warnings.extend(warned);
            }
        }
        self.warnings.extend(warnings);
        let value = json!({"kind": self.list_kind(), "apiVersion": self.info.api_version(),
            "metadata": {"resourceVersion": listing.rev.to_string()}, "items": items});
        self.respond_value(200, &value)
    }

    /// Deletes one object of a collection: what it was, unless somebody else was faster; and what to warn of.
    async fn delete_one(
        &self,
        entry: &Arc<Entry>,
        options: &Object,
    ) -> (Result<Option<Value>, Status>, Vec<String>) {
        let mut call = Call {
            server: self.server.clone(),
            resource: self.resource.clone(),
            info: self.info.clone(),
            attributes: self.attributes.clone(),
            headers: self.headers.clone(),
            media: self.media,
            body: Bytes::new(),
            warnings: Vec::new(),
        };
        Arc::make_mut(&mut call.info).namespace = entry.namespace().into();
        let attributes = Arc::make_mut(&mut call.attributes);
        attributes.namespace = entry.namespace().into();
        attributes.name = entry.name().into();
        let deleted = async {
            let object = match call.delete_from(entry.clone(), options).await {
                Ok(Outcome::Gone(object, _) | Outcome::WouldWait(object)) => object,
                Ok(Outcome::Waiting(entry)) => call.working(&entry).await?,
                Err(status) if status.code == 404 => return Ok(None),
                Err(status) => return Err(status),
            };
            Ok(Some(call.to_requested(object)?.into_value()))
        };
        let deleted = deleted.await;
        (deleted, call.warnings)
    }

    pub(super) async fn delete_named(&mut self, name: &str, options: &Object) -> Result<Outcome, Status> {
        let current = self.latest(name).await?;
        self.delete_from(current, options).await
    }

    /// Deletes an object that was just read, or what became of it meanwhile.
    async fn delete_from(&mut self, read: Arc<Entry>, options: &Object) -> Result<Outcome, Status> {
        let (name, mut current) = (read.name().to_owned(), read);
        let name = name.as_str();
        for _ in 0..TRIES {
            let object = self.working(&current).await?;
            delete_options::check_preconditions(options, &object, &self.resource.group_kind())?;
            // An eviction was admitted as such.
            if self.info.subresource.is_empty() {
                self.admit(Operation::Delete, None, Some(&object), options, true).await?;
                self.admit(Operation::Delete, None, Some(&object), options, false).await?;
            }
            let marked = self.marked(&object, options)?;
            if self.dry_run()? || delete_options::is_dry_run(options) {
                return Ok(marked.map_or(Outcome::Gone(object, None), Outcome::WouldWait));
            }
            let (id, namespace) = (self.id(), self.key_namespace().to_owned());
            let result = match marked {
                None => {
                    let gone = self.server.store.delete(&id, &namespace, name, current.rev()).await;
                    if gone.is_ok() {
                        self.release(&object).await;
                    }
                    gone.map(|entry| Outcome::Gone(object, Some(entry.rev())))
                }
                Some(marked) if marked == object => return Ok(Outcome::Waiting(current)),
                Some(marked) => {
                    let bytes = self.to_store(&marked).await?;
                    let kept =
                        self.server.store.update(&id, &namespace, name, current.rev(), bytes, None).await;
                    kept.map(Outcome::Waiting)
                }
            };
            match result {
                Ok(outcome) => return Ok(outcome),
                Err(StorageError::Conflict { current: Some(there), .. }) => current = there,
                Err(StorageError::Conflict { current: None, .. }) => {
                    return Err(Status::not_found(&self.resource.group_resource(), name));
                }
                Err(error) => return Err(self.store_failed(error, name)),
            }
        }
        Err(Status::stale(&self.resource.group_resource(), name))
    }

    /// The object marked for deletion, or `None` when it may go at once.
    fn marked(&self, object: &Object, options: &Object) -> Result<Option<Object>, Status> {
        let mut prepared;
        let mut object = object;
        if !object.is_terminating() {
            prepared = object.clone();
            self.resource.strategy.prepare_delete(&mut prepared, Timestamp::now());
            object = &prepared;
        }
        // A negative grace period is one second.
        let requested = options.get("gracePeriodSeconds").and_then(Value::as_i64);
        let requested = requested.map(|seconds| if seconds < 0 { 1 } else { seconds });
        let mut finalizers = object.finalizers();
        // Where nobody collects garbage, nobody would take the marks away.
        if self.server.collects_garbage {
            finalizers.retain(|finalizer| *finalizer != ORPHAN && *finalizer != FOREGROUND);
            match self.propagation(options, object)? {
                Propagation::Orphan => finalizers.push(ORPHAN),
                Propagation::Foreground => finalizers.push(FOREGROUND),
                Propagation::Background => {}
            }
        }
        let mut grace = self.resource.strategy.grace_period(object, requested).unwrap_or(0).max(0);
        let earlier = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
        if let (true, Some(earlier)) = (object.is_terminating(), earlier) {
            grace = grace.min(earlier);
        }
        let namespace_content = self.resource.kind == "Namespace"
            && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        if grace == 0 && finalizers.is_empty() && !namespace_content {
            return Ok(None);
        }
        let mut marked = object.clone();
        let owned: Vec<String> = finalizers.iter().map(|f| (*f).to_owned()).collect();
        let borrowed: Vec<&str> = owned.iter().map(String::as_str).collect();
        marked.set_finalizers(&borrowed);
        if !object.is_terminating() || earlier.is_some_and(|e| grace < e) {
            let at = Timestamp::now() + SignedDuration::from_secs(grace);
            marked.set_meta_str("deletionTimestamp", &rfc3339(at));
            marked.metadata_mut().insert("deletionGracePeriodSeconds".to_owned(), Value::from(grace));
            if !object.is_terminating() && object.generation() > 0 {
                marked.metadata_mut().insert("generation".to_owned(), Value::from(object.generation() + 1));
            }
        }
        if self.resource.kind == "Namespace" {
            let status = marked.as_map_mut().entry("status").or_insert_with(|| json!({}));
            status["phase"] = json!("Terminating");
        }
        Ok(Some(marked))
    }
}

#[cfg(test)]
mod tests;
