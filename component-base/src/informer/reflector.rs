//! The list and watch loop that keeps one informer's store true (client-go's reflector).

use std::{sync::LazyLock, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header::ACCEPT};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::client::Body;
use prometheus::IntCounterVec;
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::time::Instant;

use super::{Cached, Change, Informer, ListWatch, version_of};
use crate::{
    backoff::Backoff,
    metrics::{self, Stability},
    workqueue::chain,
};

/// Objects per list page, as client-go's pager asks for.
const PAGE: usize = 500;
/// Longest watch event accepted: far above the largest object an API server stores.
const MAX_LINE: usize = 32 * 1024 * 1024;
/// Largest list page accepted: a page of objects at etcd's size limit.
const MAX_PAGE: usize = 1024 * 1024 * 1024;
/// Watches are asked to end after this many seconds, up to twice as many.
const MIN_WATCH_SECONDS: u64 = 300;
/// How long a streamed list may pause before it counts as not supported.
const END_OF_LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a list older than what is already known is asked for again before it is believed: then the server's past has
/// changed (it was restored from a backup), it does not merely lag.
const OLDER_LISTS: u32 = 10;
/// How long the server may take to send a page.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// What is listed and watched, as the request sees it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: String,
    selectors: String,
    metadata_only: bool,
}

impl Source {
    pub(super) fn new(path: String, metadata_only: bool, selection: &ListWatch) -> Source {
        let mut selectors = String::new();
        for (name, value) in [("labelSelector", &selection.labels), ("fieldSelector", &selection.fields)] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                selectors.push_str(&format!("&{name}={}", encode(value)));
            }
        }
        Source { path, selectors, metadata_only }
    }

    /// What makes two informers of one type the same.
    pub(super) fn identity(&self) -> String {
        format!("{}?{}", self.path, self.selectors)
    }

    fn request(&self, query: &str, list: bool) -> Result<Request<Body>, ReflectError> {
        let accept = match (self.metadata_only, list) {
            (false, _) => "application/json",
            (true, true) => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            (true, false) => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        };
        let uri = format!("{}?{query}{}", self.path, self.selectors);
        Ok(Request::get(uri).header(ACCEPT, accept).body(Body::empty())?)
    }
}

/// Percent-encodes everything but unreserved characters.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ReflectError {
    #[error("request cannot be formed")]
    Request(#[from] http::Error),
    #[error("request failed")]
    Send(#[from] kube::Error),
    #[error("server answered {code}: {message}")]
    Status { code: u16, message: String },
    #[error("answer broke off")]
    Body(#[source] tower::BoxError),
    #[error("answer does not decode")]
    Decode(#[from] serde_json::Error),
    #[error("the list is older than what is known")]
    Older,
    #[error("no answer in time")]
    Timeout,
    #[error("the bookmark that ends the list did not come")]
    NoEndOfList,
    #[error("watch event of more than {MAX_LINE} bytes")]
    LineTooLong,
}

impl ReflectError {
    /// The versions asked for are no longer (or not yet) known to the server: list anew.
    fn is_expired(&self) -> bool {
        matches!(self, ReflectError::Status { code: 410 | 504, .. })
    }

    /// The server does not stream lists: it says so, or it leaves out the bookmark that ends the list. Servers whose store
    /// cannot do it have an internal error (500); a busy one, or one that does not know the caller, is asked again.
    fn refuses_streaming(&self) -> bool {
        match self {
            ReflectError::Status { code, .. } => !matches!(code, 401 | 410 | 429 | 503 | 504),
            error => matches!(error, ReflectError::NoEndOfList),
        }
    }
}

/// Lists and watches for ever.
pub(super) async fn run<K: Cached>(informer: &Informer<K>, client: &kube::Client, streaming: bool) {
    let path = &informer.inner.source.path;
    let mut backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(30), 1.0);
    let mut streaming = streaming;
    let mut position: Option<String> = None;
    let mut older = 0;
    loop {
        let started = Instant::now();
        let paging = position.is_none() && !streaming;
        let result = if paging {
            list(informer, client, older < OLDER_LISTS).await.map(|version| position = Some(version))
        } else {
            watch(informer, client, &mut position).await
        };
        older = if matches!(result, Err(ReflectError::Older)) { older + 1 } else { 0 };
        if started.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        match result {
            // After a list the watch begins at once.
            Ok(()) if paging => continue,
            // A watch that has lasted resumes at once; one that was closed immediately must not become a tight loop.
            Ok(()) if started.elapsed() > Duration::from_secs(1) => continue,
            Ok(()) => {}
            Err(error) if position.is_none() && streaming && error.refuses_streaming() => {
                tracing::info!(path, error = chain(&error), "server does not stream lists, paging instead");
                streaming = false;
                continue;
            }
            Err(error) if error.is_expired() => {
                tracing::debug!(path, error = chain(&error), "resource version expired, listing again");
                position = None;
            }
            Err(error) => {
                tracing::warn!(path, error = chain(&error), "list and watch failed, will be retried")
            }
        }
        let delay = backoff.next_delay(&mut rand::rng());
        tokio::time::sleep(delay).await;
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
struct PageMeta {
    #[serde(default, rename = "resourceVersion")]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

/// Lists all pages into the store and returns the version to watch from. `only_newer`: the store does not go back in time.
async fn list<K: Cached>(
    informer: &Informer<K>,
    client: &kube::Client,
    only_newer: bool,
) -> Result<String, ReflectError> {
    let source = &informer.inner.source;
    let mut objects = Vec::new();
    let mut next = String::new();
    loop {
        let query = if next.is_empty() {
            format!("limit={PAGE}")
        } else {
            format!("limit={PAGE}&continue={}", encode(&next))
        };
        let fetch = async {
            let response = client.send(source.request(&query, true)?).await?;
            collect(checked(response).await?).await
        };
        let body = tokio::time::timeout(LIST_TIMEOUT, fetch).await.map_err(|_| ReflectError::Timeout)??;
        let page: Page<'_> = serde_json::from_slice(&body)?;
        for item in page.items.into_iter().flatten() {
            objects.extend(decode::<K>(source, item.get()));
        }
        if page.metadata.next.is_empty() {
            let version = page.metadata.resource_version;
            let number = version.parse().unwrap_or(0);
            if only_newer && number < informer.inner.progress.borrow().version {
                return Err(ReflectError::Older);
            }
            informer.replace(objects, number);
            return Ok(version);
        }
        next = page.metadata.next;
    }
}

#[derive(Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct MetadataOf {
    #[serde(default)]
    metadata: ObjectMeta,
}

#[derive(Default, Deserialize)]
struct StatusOf {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

/// Watches until the server ends the stream, moving `position` along. Without a position, the stream begins with a list: all
/// objects, then the bookmark that ends it.
async fn watch<K: Cached>(
    informer: &Informer<K>,
    client: &kube::Client,
    position: &mut Option<String>,
) -> Result<(), ReflectError> {
    let seconds = rand::rng().random_range(MIN_WATCH_SECONDS..MIN_WATCH_SECONDS * 2);
    let from = match position {
        Some(version) => format!("resourceVersion={}", encode(version)),
        None => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=".to_owned(),
    };
    let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&{from}");
    let deadline = Instant::now() + Duration::from_secs(seconds + 30);
    let request = informer.inner.source.request(&query, false)?;
    let answer = tokio::time::timeout(LIST_TIMEOUT, client.send(request)).await;
    let mut body = checked(answer.map_err(|_| ReflectError::Timeout)??).await?;
    let mut lines = Lines::default();
    let mut listed = Vec::new();
    loop {
        // A server that neither ends the watch in time nor sends anything is gone.
        let (until, late) = match position {
            Some(_) => (deadline, ReflectError::Timeout),
            None => (Instant::now() + END_OF_LIST_TIMEOUT, ReflectError::NoEndOfList),
        };
        let frame = tokio::time::timeout_at(until, body.frame()).await.map_err(|_| late)?;
        let Some(frame) = frame else { return Ok(()) };
        let Ok(data) = frame.map_err(|error| ReflectError::Body(error.into()))?.into_data() else { continue };
        lines.push(&data)?;
        while let Some(line) = lines.next() {
            match position {
                Some(version) => handle_line(informer, &line, version)?,
                None => *position = handle_initial(informer, &line, &mut listed)?,
            }
        }
    }
}

/// Collects one event of a streamed list; with the bookmark that ends it, the store is replaced and the version known.
fn handle_initial<K: Cached>(
    informer: &Informer<K>,
    line: &[u8],
    listed: &mut Vec<K>,
) -> Result<Option<String>, ReflectError> {
    let event: WatchEvent<'_> = serde_json::from_slice(line)?;
    let object = event.object.get();
    match event.kind {
        "ADDED" => listed.extend(decode::<K>(&informer.inner.source, object)),
        "ERROR" => return Err(status_error(object)),
        "BOOKMARK" => {
            let meta = serde_json::from_str::<MetadataOf>(object)?.metadata;
            if crate::meta::annotation(&meta, "k8s.io/initial-events-end") == Some("true") {
                informer.replace(std::mem::take(listed), version_of(&meta));
                return Ok(meta.resource_version);
            }
        }
        _ => {}
    }
    Ok(None)
}

fn status_error(object: &str) -> ReflectError {
    let status: StatusOf = serde_json::from_str(object).unwrap_or_default();
    ReflectError::Status { code: status.code, message: status.message }
}

/// Applies one watch event to the store.
fn handle_line<K: Cached>(
    informer: &Informer<K>,
    line: &[u8],
    version: &mut String,
) -> Result<(), ReflectError> {
    let event: WatchEvent<'_> = serde_json::from_slice(line)?;
    let object = event.object.get();
    let change = match event.kind {
        "ADDED" | "MODIFIED" => Change::Set,
        "DELETED" => Change::Delete,
        "ERROR" => return Err(status_error(object)),
        // Bookmarks carry a version only; so do event types of servers newer than this.
        _ => {
            let meta = serde_json::from_str::<MetadataOf>(object)?.metadata;
            informer.advance(version_of(&meta));
            if let Some(newer) = meta.resource_version {
                *version = newer;
            }
            return Ok(());
        }
    };
    match decode::<K>(&informer.inner.source, object) {
        Some(object) => {
            if let Some(newer) = object.resource_version() {
                newer.as_ref().clone_into(version);
            }
            informer.apply(change, object);
        }
        None => {
            if let Ok(MetadataOf { metadata: ObjectMeta { resource_version: Some(newer), .. } }) =
                serde_json::from_str(object)
            {
                *version = newer;
            }
        }
    }
    Ok(())
}

/// Decodes one object; a failure costs this object only.
fn decode<K: Cached>(source: &Source, text: &str) -> Option<K> {
    match serde_json::from_str(text).or_else(|error| with_whole_conditions(text).ok_or(error)) {
        Ok(object) => Some(object),
        Err(error) => {
            let key = serde_json::from_str::<MetadataOf>(text)
                .map(|partial| crate::meta::key_of(&partial.metadata));
            let key = key.map_or_else(|_| "?".to_owned(), |key| key.to_string());
            tracing::error!(path = source.path, key, %error, "object does not decode and is skipped");
            DECODE_ERRORS.with_label_values(&[source.path.as_str()]).inc();
            None
        }
    }
}

/// Decodes an object whose conditions lack what typed ones must have: servers keep such conditions, and Go's clients read
/// what is absent as zero.
fn with_whole_conditions<K: Cached>(text: &str) -> Option<K> {
    const ZERO: [(&str, &str); 3] =
        [("lastTransitionTime", "0001-01-01T00:00:00Z"), ("message", ""), ("reason", "")];
    let mut object: Value = serde_json::from_str(text).ok()?;
    let conditions = object.pointer_mut("/status/conditions")?.as_array_mut()?;
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        for (field, zero) in ZERO {
            let value = condition.entry(field).or_insert(Value::Null);
            if value.is_null() {
                *value = zero.into();
            }
        }
    }
    serde_json::from_value(object).ok()
}

static DECODE_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Objects that could not be decoded and are missing from a cache.";
    metrics::counter_vec("informer_decode_errors_total", help, Stability::Alpha, &["path"])
});

/// The body of a successful answer.
async fn checked(response: http::Response<Body>) -> Result<Body, ReflectError> {
    let code = response.status();
    if code == StatusCode::OK {
        return Ok(response.into_body());
    }
    let body =
        tokio::time::timeout(LIST_TIMEOUT, Limited::new(response.into_body(), 64 * 1024).collect()).await;
    let body = match body {
        Ok(Ok(collected)) => collected.to_bytes(),
        _ => Bytes::new(),
    };
    let status: StatusOf = serde_json::from_slice(&body).unwrap_or_default();
    Err(ReflectError::Status { code: code.as_u16(), message: status.message })
}

async fn collect(body: Body) -> Result<Bytes, ReflectError> {
    let collected = Limited::new(body, MAX_PAGE).collect().await.map_err(ReflectError::Body)?;
    Ok(collected.to_bytes())
}

/// Splits a stream of chunks into lines of bounded length.
#[derive(Debug, Default)]
struct Lines {
    buffer: BytesMut,
    scanned: usize,
}

impl Lines {
    fn push(&mut self, data: &[u8]) -> Result<(), ReflectError> {
        if self.buffer.len() + data.len() > MAX_LINE {
            return Err(ReflectError::LineTooLong);
        }
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    /// The next complete non-empty line.
    fn next(&mut self) -> Option<BytesMut> {
        loop {
            let end = self.scanned
                + self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n').or_else(|| {
                    self.scanned = self.buffer.len();
                    None
                })?;
            self.scanned = 0;
            let line = self.buffer.split_to(end + 1);
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }
}
