//! get, list and watch: stored bytes, joined or streamed.

use std::{
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use component_base::features::Gate;
use futures::StreamExt;
use http::{HeaderValue, Response, header};
use proto::{cbor, codec, node::Node};
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Call, converted::Seen, list_options, listing::List, partial, selector, shards, storage_status, table,
};
use crate::{
    audit::{self, Part},
    auth::Attributes,
    metrics::WatchEvents,
    negotiation::{self, Encoding, Form},
    object::Object,
    response::{self, Body},
    status::{Reason, Status},
    storage::{
        FieldRequirement, ListRequest, Listing, Selection, WatchEvent, WatchKind, WatchRequest, WatchStream,
    },
};

/// Lists longer than this are compressed for clients that accept gzip (upstream's threshold).
const GZIP_FROM: usize = 128 * 1024;
/// Frames of a watch are put together up to about this size, in bytes: a TLS record.
const CHUNK: usize = 16 * 1024;

/// Objects that were listed.
pub(super) struct Listed {
    pub(super) listing: Listing,
    /// That of the list.
    metadata: Value,
}

impl Call {
    pub(super) async fn get(&mut self) -> Result<Response<Body>, Status> {
        let name = self.info.name.clone();
        let point = list_options::get(&self.info.query)?;
        let found = self.server.store.get_at(&self.id(), self.key_namespace(), &name, point).await;
        let entry = found
            .map_err(|e| self.store_failed(e, &name))?
            .ok_or_else(|| Status::not_found(&self.resource.group_resource(), &name))?;
        self.respond(200, &entry).await
    }

    /// What is selected; a name in the path of a collection request is one more condition.
    pub(super) fn selection(&self) -> Result<Selection, Status> {
        let (query, name) = (&self.info.query, &self.info.name);
        let mut chosen = selector::parse(
            query.get("labelSelector"),
            query.get("fieldSelector"),
            self.resource.selectable,
        )?;
        if !name.is_empty() && chosen.required_field("metadata.name") != Some(name) {
            if !chosen.fields.is_empty() {
                return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
            }
            let (field, value) = ("metadata.name".to_owned(), name.to_string());
            chosen.fields.push(FieldRequirement { field, value, negate: false });
        }
        let shard = query.get("shardSelector");
        if !shard.is_empty() && self.server.gates.has(Gate::ShardedListAndWatch) {
            let refused = |why| Status::new(500, Reason::Unknown, format!("invalid shard selector: {why}"));
            chosen.shard = Some(shards::parse(shard).map_err(refused)?);
        }
        Ok(chosen)
    }

    pub(super) fn scope(&self) -> Option<String> {
        let namespace = self.key_namespace();
        (!namespace.is_empty()).then(|| namespace.to_owned())
    }

    pub(super) async fn list(&mut self) -> Result<Response<Body>, Status> {
        let listed = self.listed().await?;
        self.respond_listed(listed).await
    }

    /// What the parameters select.
    pub(super) async fn listed(&self) -> Result<Listed, Status> {
        let query = &self.info.query;
        let list_options::List { limit, point } = list_options::list(query)?;
        let (selection, converted) = self.split_selection(self.selection()?);
        let scope = self.scope();
        let request = ListRequest {
            namespace: scope.as_deref(),
            selection: &selection,
            point,
            limit,
            continue_token: query.get("continue"),
        };
        let mut listing =
            self.server.store.list(&self.id(), request).await.map_err(|e| self.store_failed(e, ""))?;
        self.check_readable()?;
        if !converted.is_empty() {
            listing.entries = self.select_converted(listing.entries, &converted).await?;
            listing.remaining = None;
        }
        let mut metadata = json!({"resourceVersion": listing.rev.to_string()});
        if !listing.continue_token.is_empty() {
            metadata["continue"] = json!(listing.continue_token);
        }
        if let Some(remaining) = listing.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        if let Some(shard) = &selection.shard {
            metadata["shardInfo"] = json!({"selector": shard.to_string()});
        }
        Ok(Listed { listing, metadata })
    }

    /// A list in the form that was asked for.
    pub(super) async fn respond_listed(
        &self,
        Listed { listing, metadata }: Listed,
    ) -> Result<Response<Body>, Status> {
        if self.media.is_plain() && listing.entries.iter().all(|entry| self.is_served_as_stored(entry)) {
            return Ok(self.respond_joined(listing, &metadata));
        }
        let body = self.list_body(&listing, metadata).await?;
        Ok(self.maybe_gzip(body))
    }

    /// The kind of lists of the resource.
    pub(super) fn list_kind(&self) -> String {
        match self.custom() {
            Some(custom) => custom.list_kind().to_owned(),
            None => format!("{}List", self.resource.kind),
        }
    }

    async fn list_body(&self, listing: &Listing, metadata: Value) -> Result<Bytes, Status> {
        match self.media.encoding {
            Encoding::Protobuf => return self.list_message(listing, &metadata),
            Encoding::Cbor
                if self.media.form == Form::Object
                    && listing.entries.iter().all(|entry| self.is_served_as_stored(entry)) =>
            {
                let (version, kind, metadata) =
                    (self.info.api_version(), self.list_kind(), Node::from(&metadata));
                let items = listing.entries.iter().map(|entry| entry.json());
                return cbor::list(&version, &kind, &metadata, items, negotiation::any_order())
                    .map(Bytes::from)
                    .map_err(Status::internal);
            }
            _ => {}
        }
        let mut objects = Vec::with_capacity(listing.entries.len());
        for entry in &listing.entries {
            objects.push(self.to_requested(self.decode_entry(entry)?)?);
        }
        if let Some(custom) = self.custom() {
            objects = custom.restored(objects).await?;
        }
        let list = audit::measured(Part::Transformation, || self.list_value(objects, metadata));
        audit::measured(Part::Serialization, || self.media.encode(&list))
    }

    /// The list in the form that was asked for.
    pub(super) fn list_value(&self, objects: Vec<Object>, metadata: Value) -> Value {
        match self.media.form {
            Form::Table => {
                table::of(&self.resource, &objects, self.info.query.get("includeObject"), metadata)
            }
            Form::Metadata => {
                let items: Vec<Value> = objects.iter().map(partial).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                    "items": items})
            }
            Form::Object => {
                let items: Vec<Value> = objects.into_iter().map(Object::into_value).collect();
                json!({"kind": self.list_kind(), "apiVersion": self.info.api_version(),
                    "metadata": metadata, "items": items})
            }
        }
    }

    /// The list as a message, encoded item by item from stored bytes.
    fn list_message(&self, listing: &Listing, metadata: &Value) -> Result<Bytes, Status> {
        let metadata = metadata.to_string();
        if self.media.form == Form::Metadata {
            let items = listing.entries.iter().map(|e| e.json());
            let version = self.media.meta_version();
            return codec::list(version, "PartialObjectMetadataList", metadata.as_bytes(), items)
                .map_err(Status::internal);
        }
        let (version, kind) = (self.info.api_version(), format!("{}List", self.resource.kind));
        let list = if self.is_stored_version() {
            codec::list(&version, &kind, metadata.as_bytes(), listing.entries.iter().map(|e| e.json()))
        } else {
            let converted: Result<Vec<_>, Status> = listing
                .entries
                .iter()
                .map(|entry| Ok(self.to_requested(self.decode_entry(entry)?)?.to_vec()))
                .collect();
            codec::list(&version, &kind, metadata.as_bytes(), converted?.into_iter())
        };
        list.map_err(Status::internal)
    }

    /// The list as its items' stored bytes, joined.
    fn respond_joined(&self, listing: Listing, metadata: &Value) -> Response<Body> {
        let (kind, version) = (self.list_kind(), self.info.api_version());
        let head = format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"items":["#);
        let list = List { head, entries: listing.entries };
        if self.takes_gzip() && list.len() > GZIP_FROM {
            return self.gzipped(list.gzip(self.server.compressed.clone()));
        }
        response::of(200, self.media.content_type(), list.plain())
    }

    /// Whether the client takes compressed answers.
    fn takes_gzip(&self) -> bool {
        if !self.server.gates.has(Gate::APIResponseCompression) {
            return false;
        }
        let accepted = self.headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok());
        accepted.is_some_and(|v| v.split(',').any(|c| c.trim() == "gzip"))
    }

    fn gzipped(&self, body: Body) -> Response<Body> {
        let mut response = response::of(200, self.media.content_type(), body);
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        response
    }

    fn maybe_gzip(&self, body: Bytes) -> Response<Body> {
        let plain = |body| response::of(200, self.media.content_type(), response::full(body));
        if !self.takes_gzip() || body.len() <= GZIP_FROM {
            return plain(body);
        }
        let mut out = Vec::with_capacity(body.len() / 4);
        let mut encoder = flate2::read::GzEncoder::new(&body[..], flate2::Compression::fast());
        if io::Read::read_to_end(&mut encoder, &mut out).is_err() {
            return plain(body);
        }
        self.gzipped(response::full(out))
    }

    pub(super) async fn watch(&mut self) -> Result<Response<Body>, Status> {
        let query = &self.info.query;
        let list_options::Watch { from, bookmarks, timeout } =
            list_options::watch(query, self.server.gates.has(Gate::WatchList))?;
        let (selection, converted) = self.split_selection(self.selection()?);
        let least = self.server.limits.min_watch.as_secs().max(1);
        let timeout =
            timeout.unwrap_or_else(|| Duration::from_secs(rand::rng().random_range(least..2 * least)));
        let request =
            WatchRequest { namespace: self.scope(), selection, from, bookmarks, timeout: Some(timeout) };
        self.check_watchable()?;
        let events =
            self.server.store.watch(&self.id(), request).await.map_err(|e| self.store_failed(e, ""))?;
        let include = query.get("includeObject").to_owned();
        let told = WatchEvents::of(&self.info);
        let has_columns = AtomicBool::new(false);
        let framer = Box::new(Framer { include, has_columns, call: self.for_frames(), converted, told });
        let drain = match self.custom() {
            Some(custom) => custom.replaced().clone(),
            None => self.server.front.end_of_watch(&self.server.drain),
        };
        let chunks = frames(events, framer)
            .take_until(tokio::time::sleep(timeout))
            .take_until(drain.cancelled_owned())
            .map(Ok);
        Ok(response::of(200, self.media.stream_type(), response::stream(chunks)))
    }

    fn for_frames(&self) -> Self {
        Self {
            server: self.server.clone(),
            resource: self.resource.clone(),
            info: self.info.clone(),
            // Whose watch it is was asked before it began.
            attributes: NOBODY.clone(),
            headers: http::HeaderMap::new(),
            media: self.media,
            body: Bytes::new(),
            warnings: Vec::new(),
        }
    }
}

/// Who asks for frames: nobody, for it is not asked.
static NOBODY: LazyLock<Arc<Attributes>> = LazyLock::new(Arc::default);

/// The type of an event about an object.
fn event_type(kind: WatchKind) -> &'static str {
    match kind {
        WatchKind::Added => "ADDED",
        WatchKind::Modified => "MODIFIED",
        WatchKind::Deleted => "DELETED",
        WatchKind::Bookmark | WatchKind::InitialEventsEnd => "BOOKMARK",
    }
}

/// Turns stored events into what one watcher asked for.
struct Framer {
    include: String,
    /// Only the first table of a watch tells its columns.
    has_columns: AtomicBool,
    call: Call,
    /// Fields that only converted objects have.
    converted: Vec<FieldRequirement>,
    told: WatchEvents,
}

/// A stored event's frame, taken apart.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    event: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The frames of a watch, ending with an ERROR event where the store says so.
fn frames(events: WatchStream, framer: Box<Framer>) -> impl futures::Stream<Item = Bytes> + Send {
    futures::stream::unfold(Some((events, framer)), |state| async move {
        let (mut events, framer) = state?;
        let mut chunk = Chunk::default();
        loop {
            let event = if chunk.is_empty() {
                match events.next().await {
                    Ok(Some(event)) => Ok(event),
                    Ok(None) => return None,
                    Err(error) => Err(storage_status(&error, &framer.call.resource.group_resource(), "")),
                }
            } else {
                let more = if chunk.has_room() && !framer.waits() { events.try_next() } else { None };
                match more {
                    Some(event) => Ok(event),
                    None => return Some((chunk.bytes(), Some((events, framer)))),
                }
            };
            if event.as_ref().is_ok_and(|event| event.kind == WatchKind::InitialEventsEnd) {
                framer.told.caught_up(&framer.call.info);
            }
            let frame = match event {
                Ok(event) => match framer.as_stored(&event) {
                    Some(frame) => Ok(Some(frame)),
                    // Boxed, so that watches that never wait here do not keep room for it.
                    None => Box::pin(framer.frame(event)).await,
                },
                Err(status) => Err(status),
            };
            match frame {
                Ok(Some(frame)) => {
                    framer.told.sent(frame.len());
                    chunk.add(frame);
                }
                Ok(None) => {}
                Err(status) => {
                    if let Ok(frame) = framer.written("ERROR", &status.to_value()) {
                        chunk.add(frame);
                    }
                    return Some((chunk.bytes(), None));
                }
            }
        }
    })
}

/// Frames that are sent together; a single one is not copied.
#[derive(Default)]
struct Chunk {
    first: Bytes,
    all: BytesMut,
}

impl Chunk {
    fn add(&mut self, frame: Bytes) {
        if self.first.is_empty() {
            self.first = frame;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(CHUNK);
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&frame);
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    fn has_room(&self) -> bool {
        self.first.len().max(self.all.len()) < CHUNK
    }

    fn bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

impl Framer {
    /// Whether frames may take time to make, so that none may be held back for the next one.
    fn waits(&self) -> bool {
        !self.converted.is_empty() || self.call.custom().is_some()
    }

    /// The frame of an event that is sent as it is stored.
    fn as_stored(&self, event: &WatchEvent) -> Option<Bytes> {
        let is_read = !self.converted.is_empty() && event.entry.is_some();
        (!is_read && self.call.media.is_plain() && self.is_stored(event)).then(|| event.frame.clone())
    }

    /// Whether the object has the requested version.
    fn is_stored(&self, event: &WatchEvent) -> bool {
        match &event.entry {
            Some(entry) => self.call.is_served_as_stored(entry),
            None => self.call.is_stored_version(),
        }
    }

    /// The frame of an event; `None` when the watcher does not see it. One that has no form ends the watch, for a
    /// client that missed an event would believe what is no longer so.
    async fn frame(&self, event: WatchEvent) -> Result<Option<Bytes>, Status> {
        let frame = self.try_frame(event).await;
        if let Err(status) = &frame {
            tracing::error!(resource = self.call.resource.plural, %status, "an event has no form");
        }
        frame
    }

    async fn try_frame(&self, event: WatchEvent) -> Result<Option<Bytes>, Status> {
        if self.converted.is_empty() || event.entry.is_none() {
            return self.selected(event).await.map(Some);
        }
        let Some(Seen { kind, object }) = self.call.seen(&event, &self.converted).await? else {
            return Ok(None);
        };
        let object = match self.call.media.form {
            Form::Object => object.into_value(),
            Form::Table => self.table(object),
            Form::Metadata => partial(&object),
        };
        self.written(event_type(kind), &object).map(Some)
    }

    /// The table of an event's object.
    fn table(&self, object: Object) -> Value {
        let mut table = table::of_one(&self.call.resource, object, &self.include);
        if self.has_columns.swap(true, Ordering::Relaxed) {
            table["columnDefinitions"] = Value::Null;
        }
        table
    }

    async fn selected(&self, event: WatchEvent) -> Result<Bytes, Status> {
        let (media, stored) = (self.call.media, self.is_stored(&event));
        let Frame { event: name, object } = serde_json::from_slice(&event.frame).map_err(Status::internal)?;
        if media.is_binary() && (stored || media.form == Form::Metadata) {
            let object = event.frame.slice_ref(object.get().as_bytes());
            if let Some(object) = media.transcode(&object) {
                return Ok(media.frame(name, &object?));
            }
        }
        let object = Object::from_slice(object.get().as_bytes()).map_err(Status::internal)?;
        let object = match (event.kind, self.call.custom()) {
            (WatchKind::Bookmark | WatchKind::InitialEventsEnd, Some(_)) => {
                let mut bookmark = object;
                bookmark.set("apiVersion", self.call.info.api_version());
                bookmark
            }
            (_, Some(custom)) => custom.restored(vec![object]).await?.pop().unwrap_or_default(),
            (_, None) => object,
        };
        let object = match (event.kind, media.form) {
            (_, Form::Object) => self.call.to_requested(object)?.into_value(),
            // A bookmark has no more than its metadata, and its version is the same in all.
            (WatchKind::Bookmark | WatchKind::InitialEventsEnd, Form::Table) => self.table(object),
            (_, Form::Table) => self.table(self.call.to_requested(object)?),
            (_, Form::Metadata) => partial(&object),
        };
        self.written(name, &object)
    }

    /// A frame around an object that has its form.
    fn written(&self, event: &str, object: &Value) -> Result<Bytes, Status> {
        if self.call.media.is_binary() {
            return Ok(self.call.media.frame(event, &self.call.media.encode(object)?));
        }
        let object = self.call.media.versioned(object);
        Ok(Bytes::from(format!("{}\n", json!({"type": event, "object": object}))))
    }
}
