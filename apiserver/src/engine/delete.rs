//! delete and deletecollection: preconditions, grace, finalizers, propagation.
//!
//! Contract: API conventions on deletion; upstream `registry.Store.Delete` and `rest.BeforeDelete`.

use std::sync::Arc;

use bytes::Bytes;
use component_base::features::Gate;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use http::Response;
use jiff::Timestamp;
use proto::node::Node;
use serde_json::{Value, json};

use fate::Fate;

use super::{Call, delete_options, list_options, unreadable};
use crate::{
    admission::Operation,
    object::Object,
    response::Body,
    schema,
    status::Status,
    storage::{Entry, StorageError},
};

pub(super) mod fate;

const TRIES: usize = 5;

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

    /// Deletes what a list with the same parameters would show, and answers with that list.
    pub(super) async fn delete_collection(&mut self) -> Result<Response<Body>, Status> {
        let options = self.delete_options()?;
        Self::refuse_many_unreadable(&options)?;
        let listed = self.listed().await?;
        let mut warnings = Vec::new();
        {
            // Boxed, so that their type does not hold what they borrow.
            let deletions: Vec<BoxFuture<'_, _>> =
                listed.listing.entries.iter().map(|entry| self.delete_one(entry, &options).boxed()).collect();
            let mut deletions = futures::stream::iter(deletions).buffered(self.server.deletes_at_once);
            while let Some((deleted, warned)) = deletions.next().await {
                deleted?;
                warnings.extend(warned);
            }
        }
        self.warnings.extend(warnings);
        self.respond_listed(listed).await
    }

    /// Deletes one object of a collection, unless somebody else was faster; and what to warn of. Admission is told the
    /// name of the collection, which has none.
    async fn delete_one(&self, entry: &Arc<Entry>, options: &Object) -> (Result<(), Status>, Vec<String>) {
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
        let deleted = match call.delete_from(entry.clone(), options).await {
            Err(status) if status.code != 404 => Err(status),
            _ => Ok(()),
        };
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
            delete_options::check_preconditions(options, &object, &self.resource)?;
            let collects = self.server.collects_garbage;
            let fate = fate::decide(&self.resource, &object, options, collects, Timestamp::now());
            if fate == Fate::Pending {
                return Ok(Outcome::Waiting(current));
            }
            // An eviction was admitted as such.
            if self.info.subresource.is_empty() {
                self.admit(Operation::Delete, None, Some(&object), options, true).await?;
                self.admit(Operation::Delete, None, Some(&object), options, false).await?;
            }
            let tried = self.dry_run()? || delete_options::is_dry_run(options);
            let (id, namespace) = (self.id(), self.key_namespace().to_owned());
            let result = match fate {
                Fate::Pending => return Ok(Outcome::Waiting(current)),
                Fate::Gone(last) if tried => return Ok(Outcome::Gone(last, None)),
                Fate::Marked(marked) if tried => return Ok(Outcome::WouldWait(marked)),
                Fate::Gone(last) => {
                    let gone = self.server.store.delete(&id, &namespace, name, current.rev()).await;
                    if gone.is_ok() {
                        self.release(&object).await;
                    }
                    gone.map(|entry| Outcome::Gone(last, Some(entry.rev())))
                }
                Fate::Marked(marked) if marked == object => return Ok(Outcome::Waiting(current)),
                Fate::Marked(marked) => {
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
}

#[cfg(test)]
mod tests;
