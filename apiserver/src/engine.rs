//! The verbs, written once for every resource.
//!
//! A write runs decode → defaults → mutating admission → strategy → validation → validating admission →
//! one guarded store transaction. Reads hand out stored bytes and decode only for tables, metadata-only
//! forms, YAML and other served versions.
//!
//! Contract: API conventions; upstream's `registry/generic/registry.Store` and `endpoints/handlers`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use component_base::traces;
use http::{HeaderMap, Response};
use jiff::Timestamp;
use proto::codec;
use serde_json::{Value, json};

use crate::{
    admission::{self, Operation, Reinvocation, Request},
    audit::{self, Part},
    auth::Attributes,
    field::{Error, ErrorList, Path},
    negotiation::{self, Form, Media, Offer},
    object::Object,
    registry::{
        Resource, SideEffects, StrategyContext, Subresource, Undo, apiextensions::custom::CustomKind,
    },
    request_path::info::{Query, RequestInfo},
    response::{self, Body},
    server::Server,
    status::{GroupName, Reason, Status},
    storage::{Entry, ResourceId, StorageError},
};

mod apply;
mod binding;
mod body;
mod computed;
mod converted;
mod delete;
mod delete_options;
mod deprecation;
mod eviction;
mod list_options;
mod listing;
pub(crate) mod metadata;
mod read;
mod scale;
mod selector;
mod shards;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod unreadable;
pub(crate) mod warning;
mod write;

pub use listing::Compressed;

/// So long may a write take, whatever a client gives it.
const LONGEST_WRITE: Duration = Duration::from_secs(34);

/// Whether a query is one of a list, one of a watch, and names a part of a list.
pub fn understands(query: &str) -> [bool; 3] {
    let query = Query::parse(query);
    let part = shards::parse(query.get("shardSelector")).is_ok();
    [list_options::list(&query).is_ok(), list_options::watch(&query, true).is_ok(), part]
}

/// A resource or subresource that answers a POST instead of storing it (reviews, token requests).
#[async_trait]
pub trait VirtualResource: Send + Sync {
    /// The answer to one decoded object; `attributes` tell who asks, and for which name and namespace.
    async fn create(
        &self,
        attributes: &Attributes,
        object: Object,
        warnings: &mut Vec<String>,
    ) -> Result<Object, Status>;
}

/// A resource whose objects are found out when somebody asks, instead of stored.
#[async_trait]
pub trait ComputedResource: Send + Sync {
    /// All of them, by name.
    async fn all(&self) -> Vec<Object>;
}

/// One resource request on its way through the engine.
pub(crate) struct Call {
    pub(crate) server: Arc<Server>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) info: Arc<RequestInfo>,
    pub(crate) attributes: Arc<Attributes>,
    pub(crate) headers: HeaderMap,
    pub(crate) media: Media,
    pub(crate) body: Bytes,
    pub(crate) warnings: Vec<String>,
}

/// Answers a resource request.
pub async fn serve(
    server: Arc<Server>,
    info: Arc<RequestInfo>,
    attributes: Attributes,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, Status> {
    let catalog = server.catalog.load();
    let resource = catalog.find(&info.group, &info.version, &info.resource).cloned();
    let resource = resource.ok_or_else(Status::no_such_path)?;
    if !resource.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" {
        return Err(Status::no_such_path());
    }
    if resource.namespaced && info.namespace.is_empty() {
        check_across_namespaces(&resource, &info)?;
    }
    let offer = Offer {
        protobuf: codec::has_message(&info.api_version(), resource.kind),
        cbor: server.speaks_cbor(),
        table: resource.verbs.contains(&"get"),
        watch: info.verb == "watch",
        // Frames are lines.
        pretty: info.verb != "watch" && negotiation::is_for_people(&info.query, &headers),
    };
    let media = Media::choose(&headers, offer)?;
    if media.form == Form::Table {
        table::check(info.query.get("includeObject"))?;
    }
    let mut call = Call {
        server: server.clone(),
        resource,
        info,
        attributes: Arc::new(attributes),
        headers,
        media,
        body,
        warnings: Vec::new(),
    };
    if let Some(warning) = call.custom().and_then(CustomKind::deprecation) {
        call.warnings.push(warning.to_owned());
    }
    deprecation::tell(&mut call);
    call.check_metadata_form()?;
    let answer = if matches!(call.info.verb.as_str(), "create" | "update" | "patch" | "delete") {
        // Boxed where it is made, as it is large.
        let ended = tokio::time::timeout(LONGEST_WRITE, Box::pin(call.dispatch())).await;
        ended.unwrap_or_else(|_| {
            Err(Status::timeout(
                "request did not complete within requested timeout - context deadline exceeded",
            ))
        })
    } else {
        call.dispatch().await
    };
    let mut response = match answer {
        Ok(response) => response,
        Err(status) => return Err(status.with_warnings(call.warnings)),
    };
    warning::append(response.headers_mut(), &call.warnings);
    Ok(response)
}

/// What is in namespaces can be listed and watched in all of them; everything else is done in one.
fn check_across_namespaces(resource: &Resource, info: &RequestInfo) -> Result<(), Status> {
    if matches!(info.verb.as_str(), "list" | "watch") {
        return Ok(());
    }
    // Where lists have a route, other methods are refused; custom resources have none.
    let is_routed = resource.strategy.custom().is_none() && resource.verbs.contains(&"list");
    if is_routed && info.name.is_empty() {
        return Err(Status::no_such_method());
    }
    Err(Status::no_such_path())
}

/// The one translation of store failures.
pub fn storage_status(error: &StorageError, resource: &GroupName, name: &str) -> Status {
    match error {
        StorageError::NotFound(_) => Status::not_found(resource, name),
        StorageError::AlreadyExists(_) => Status::already_exists(resource, name),
        StorageError::Conflict { .. } => Status::stale(resource, name),
        StorageError::ExpiredContinue { restart } => {
            Status::expired(error.to_string()).with_continue(restart)
        }
        StorageError::TooOldResourceVersion { .. } => Status::expired(error.to_string()),
        StorageError::TooLargeResourceVersion { .. } => {
            Status::timeout(error.to_string()).with_retry_after(1)
        }
        StorageError::InvalidContinue(why) => Status::bad_request(why.clone()),
        StorageError::TooLarge(_) => Status::too_large("etcdserver: request is too large"),
        StorageError::Timeout(why) => Status::timeout(why.clone()).with_retry_after(1),
        StorageError::Unavailable(why) => Status::unavailable(why.clone()).with_retry_after(1),
        StorageError::Undecodable { why, .. } => unreadable::status(why),
        StorageError::Internal(why) => Status::internal(why),
    }
}

impl Call {
    async fn dispatch(&mut self) -> Result<Response<Body>, Status> {
        let sub = self.info.subresource.clone();
        let named = !self.info.name.is_empty();
        let target = if sub.is_empty() {
            self.resource.plural.to_owned()
        } else {
            format!("{}/{sub}", self.resource.plural)
        };
        if !sub.is_empty() && !named {
            return Err(Status::bad_request("name must be provided"));
        }
        if self.info.verb == "create"
            && let Some(handler) = self.virtual_resource(&target)
        {
            return self.answer(&*handler).await;
        }
        match sub.as_str() {
            "scale" => {
                if let Some(answer) = self.scale().await {
                    return answer;
                }
            }
            _ if matches!(target.as_str(), "bindings" | "pods/binding")
                && self.resource.group.is_empty()
                && self.info.verb == "create" =>
            {
                return self.bind().await;
            }
            "eviction" if target == "pods/eviction" && self.info.verb == "create" => {
                return self.evict().await;
            }
            _ => {}
        }
        if !sub.is_empty() && !self.has_view(&sub) {
            return Err(match self.custom() {
                Some(_) => Status::not_found(&self.resource.group_resource(), &self.info.name),
                None => Status::no_such_path(),
            });
        }
        let allowed = if sub.is_empty() {
            self.resource.verbs.contains(&self.info.verb.as_str())
        } else {
            matches!(self.info.verb.as_str(), "get" | "patch" | "update")
        };
        if !allowed {
            return Err(self.no_such_verb());
        }
        let _span = traces::step(match self.info.verb.as_str() {
            "get" => "Get",
            "list" => "List",
            "watch" => "Watch",
            "create" => "Create",
            "update" => "Update",
            "patch" => "Patch",
            _ => "Delete",
        });
        match self.info.verb.as_str() {
            "get" => match self.computed() {
                Some(resource) => self.computed_one(&*resource).await,
                None => self.get().await,
            },
            "list" => match self.computed() {
                Some(resource) => self.computed_list(&*resource).await,
                None => self.list().await,
            },
            "watch" => self.watch().await,
            "create" if !named => self.create().await,
            "update" if named => self.update().await,
            "patch" if named => self.patch().await,
            "delete" => self.delete().await,
            "deletecollection" => self.delete_collection().await,
            _ => Err(self.no_such_verb()),
        }
    }

    /// Custom resources have no routes: what serves them tells of the verb.
    pub(super) fn no_such_verb(&self) -> Status {
        match self.custom() {
            Some(_) => Status::method_not_allowed(&self.resource.group_resource(), &self.info.verb),
            None => Status::no_such_method(),
        }
    }

    /// Metadata of a list is none of one object, and the other way round.
    fn check_metadata_form(&self) -> Result<(), Status> {
        if self.media.form != Form::Metadata {
            return Ok(());
        }
        let kind = match self.custom() {
            Some(_) => "*unstructured.Unstructured".to_owned(),
            None => format!("*{}.{}", self.package(), self.resource.kind),
        };
        let why = match (self.info.verb.as_str(), self.media.of_list) {
            ("get", true) => format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list ({kind})"
            ),
            ("list" | "deletecollection", false) => {
                format!(
                    "you requested PartialObjectMetadata, but the requested object is a list ({kind}List)"
                )
            }
            _ => return Ok(()),
        };
        Err(Status::new(406, Reason::NotAcceptable, why))
    }

    fn virtual_resource(&self, target: &str) -> Option<Arc<dyn VirtualResource>> {
        let found = self.server.virtuals.iter().find(|((g, t), _)| *g == self.resource.group && *t == target);
        found.map(|(_, handler)| handler.clone())
    }

    fn computed(&self) -> Option<Arc<dyn ComputedResource>> {
        self.server.computed.get(&(self.resource.group, self.resource.plural)).cloned()
    }

    fn has_view(&self, name: &str) -> bool {
        self.resource.subresources.iter().any(|sub| match sub {
            Subresource::Status => name == "status",
            Subresource::View(view) => *view == name,
            Subresource::Scale { .. } | Subresource::Action { .. } => false,
        })
    }

    async fn answer(&mut self, handler: &dyn VirtualResource) -> Result<Response<Body>, Status> {
        let (api_version, kind) = self.kind_asked();
        let mut object = self.read_object(&api_version, kind)?;
        if self.info.subresource.is_empty() || object.kind().is_empty() {
            object.set("apiVersion", api_version);
            object.set("kind", kind);
        }
        let options = self.write_options("CreateOptions");
        self.admit(Operation::Create, Some(&mut object), None, &options, true).await?;
        self.admit(Operation::Create, Some(&mut object), None, &options, false).await?;
        let answer = handler.create(&self.attributes, object, &mut self.warnings).await?;
        self.respond_value(201, &answer.into_value())
    }

    /// The kind that a POST to this path takes: the subresource's own, or the resource's.
    fn kind_asked(&self) -> (String, &'static str) {
        let own = self.resource.subresources.iter().find_map(|sub| match sub {
            Subresource::Action { name, kind, .. } if *name == self.info.subresource => Some(*kind),
            _ => None,
        });
        match own {
            Some(("", "", kind)) => (self.info.api_version(), kind),
            Some(("", version, kind)) => (version.to_owned(), kind),
            Some((group, version, kind)) => (format!("{group}/{version}"), kind),
            None => (self.info.api_version(), self.resource.kind),
        }
    }

    /// What was asked for is done, and there is nothing to show.
    fn respond_done(&self) -> Result<Response<Body>, Status> {
        let done =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        self.respond_value(201, &done)
    }

    /// A value that has one form only.
    fn respond_value(&self, code: u16, value: &Value) -> Result<Response<Body>, Status> {
        let media = Media { form: Form::Object, beta: false, of_list: false, ..self.media };
        let bytes = audit::measured(Part::Serialization, || media.encode(value))?;
        Ok(response::of(code, media.content_type(), response::full(bytes)))
    }

    pub(crate) fn id(&self) -> ResourceId {
        ResourceId::known(self.resource.stored_group(), self.resource.plural)
    }

    /// The namespace of the object's key; empty for cluster-scoped kinds, namespaces themselves included.
    pub(crate) fn key_namespace(&self) -> &str {
        if self.resource.namespaced { &self.info.namespace } else { "" }
    }

    /// The kind of the options this request's parameters are.
    pub(crate) fn options_kind(&self) -> &'static str {
        match self.info.verb.as_str() {
            "patch" => "PatchOptions",
            "update" => "UpdateOptions",
            "delete" | "deletecollection" => "DeleteOptions",
            _ => "CreateOptions",
        }
    }

    /// The options of a create or update as admission is told them: what of them is among the parameters.
    pub(crate) fn write_options(&self, kind: &str) -> Object {
        let (query, mut options) = (&self.info.query, Object::new());
        options.set("kind", kind);
        options.set("apiVersion", "meta.k8s.io/v1");
        if query.has("dryRun") {
            options.set("dryRun", query.all("dryRun").to_vec());
        }
        for name in ["fieldManager", "fieldValidation"] {
            if query.has(name) {
                options.set(name, query.get(name));
            }
        }
        options
    }

    /// 422 for a parameter that cannot be.
    pub(crate) fn bad_option(&self, error: Error) -> Status {
        let mut errors = ErrorList::new();
        errors.push(error);
        Status::invalid(&GroupName::new("meta.k8s.io", self.options_kind()), "", &errors)
    }

    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        match self.info.query.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => {
                let path = Path::new("dryRun");
                Err(self.bad_option(Error::not_supported(&path, json!([other]), &["All"])))
            }
        }
    }

    pub(crate) fn store_failed(&self, error: StorageError, name: &str) -> Status {
        if let StorageError::Undecodable { key, why } = &error {
            return self.unreadable(key, why);
        }
        storage_status(&error, &self.resource.group_resource(), name)
    }

    pub(crate) fn decode_entry(&self, entry: &Entry) -> Result<Object, Status> {
        let object = audit::measured(Part::Decoding, || Object::from_slice(entry.json())).map_err(|e| {
            Status::internal(format!("decoding stored {} {}: {e}", self.resource.plural, entry.name()))
        })?;
        Ok(object)
    }

    pub(crate) async fn latest(&self, name: &str) -> Result<Arc<Entry>, Status> {
        let found = self.server.store.get_latest(&self.id(), self.key_namespace(), name).await;
        found
            .map_err(|e| self.store_failed(e, name))?
            .ok_or_else(|| Status::not_found(&self.resource.group_resource(), name))
    }

    /// What the resource's objects have that built-in ones have not.
    pub(crate) fn custom(&self) -> Option<&CustomKind> {
        self.resource.strategy.custom()
    }

    /// A stored object in the version writes work in: custom objects in the requested one, others as stored.
    pub(crate) async fn working(&self, entry: &Entry) -> Result<Object, Status> {
        let object = self.decode_entry(entry)?;
        let Some(custom) = self.custom() else { return Ok(object) };
        let mut restored = custom.restored(vec![object]).await?;
        restored.pop().ok_or_else(|| Status::internal("conversion returned no object"))
    }

    /// The bytes to store of an object in the version writes work in.
    pub(crate) async fn to_store(&self, object: &Object) -> Result<Vec<u8>, Status> {
        match self.custom() {
            Some(custom) if !self.resource.serves_stored(&self.info.version) => {
                Ok(custom.stored(object.clone()).await?.to_vec())
            }
            _ => Ok(object.to_vec()),
        }
    }

    /// From the version writes work in to the requested one.
    pub(crate) fn to_requested(&self, mut object: Object) -> Result<Object, Status> {
        if self.custom().is_some() || self.resource.serves_stored(&self.info.version) {
            return Ok(object);
        }
        let (stored, requested) = (self.resource.stored_api_version(), self.info.api_version());
        self.resource.convert(&mut object, &stored, &requested)?;
        Ok(object)
    }

    /// From the requested version to the one writes work in.
    pub(crate) fn to_working(&self, mut object: Object) -> Result<Object, Status> {
        if self.custom().is_some() || self.resource.serves_stored(&self.info.version) {
            return Ok(object);
        }
        let (stored, requested) = (self.resource.stored_api_version(), self.info.api_version());
        self.resource.convert(&mut object, &requested, &stored)?;
        Ok(object)
    }

    pub(crate) fn context(&self, now: Timestamp) -> StrategyContext<'_> {
        StrategyContext {
            now,
            version: self.resource.storage_version,
            subresource: &self.info.subresource,
            user: &self.attributes.user,
            gates: self.server.gates,
        }
    }

    /// Runs mutating (`mutate`) or validating admission.
    pub(crate) async fn admit(
        &mut self,
        operation: Operation,
        object: Option<&mut Object>,
        old: Option<&Object>,
        options: &Object,
        mutate: bool,
    ) -> Result<(), Status> {
        let dry_run = self.dry_run()? || delete_options::is_dry_run(options);
        let server = self.server.clone();
        let mut request = Request {
            attributes: &self.attributes,
            resource: &self.resource,
            operation,
            object,
            old,
            options,
            dry_run,
            warnings: &mut self.warnings,
            reinvocation: Reinvocation::default(),
        };
        if mutate {
            admission::admit(&server.admission, &mut request).await
        } else {
            admission::validate(&server.admission, &mut request).await
        }
    }

    fn side_effects(&self) -> Option<Arc<dyn SideEffects>> {
        self.server.side_effects.get(&(self.resource.group, self.resource.plural)).cloned()
    }

    /// Reserves what the written object needs outside its own key; nothing for subresources.
    pub(crate) async fn reserve(&self, new: &mut Object, old: Option<&Object>) -> Result<Undo, Status> {
        match self.side_effects().filter(|_| self.info.subresource.is_empty()) {
            Some(effects) => effects.before_write(new, old, self.dry_run()?).await,
            None => Ok(Undo::nothing()),
        }
    }

    /// Releases what an object held that is gone from the store.
    pub(crate) async fn release(&self, gone: &Object) {
        if let Some(effects) = self.side_effects() {
            effects.after_delete(gone).await;
        }
    }

    /// Whether what is stored has the requested version.
    pub(crate) fn is_stored_version(&self) -> bool {
        self.resource.serves_stored(&self.info.version)
    }

    /// Whether these bytes are what is served: of the requested version, and stored under today's schema.
    pub(crate) fn is_served_as_stored(&self, entry: &Entry) -> bool {
        self.is_stored_version() && self.custom().is_none_or(|custom| custom.is_current(entry.rev()))
    }

    /// An object as the client wants to see it.
    pub(crate) async fn respond(&self, code: u16, entry: &Entry) -> Result<Response<Body>, Status> {
        if self.is_served_as_stored(entry)
            && let Some(body) = self.media.transcode(&entry.share(entry.json()))
        {
            return Ok(response::of(code, self.media.content_type(), response::full(body?)));
        }
        self.respond_object(code, self.working(entry).await?)
    }

    pub(crate) fn respond_object(&self, code: u16, object: Object) -> Result<Response<Body>, Status> {
        let value = audit::measured(Part::Transformation, || {
            let object = self.to_requested(object)?;
            Ok::<_, Status>(match self.media.form {
                Form::Object => object.into_value(),
                Form::Table => table::of_one(&self.resource, object, self.info.query.get("includeObject")),
                Form::Metadata => partial(&object),
            })
        })?;
        let bytes = audit::measured(Part::Serialization, || self.media.encode(&value))?;
        Ok(response::of(code, self.media.content_type(), response::full(bytes)))
    }
}

/// The PartialObjectMetadata of an object.
pub(crate) fn partial(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({}))})
}
