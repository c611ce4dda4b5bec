//! Lists: whole or in pages, from the cache, from history, or from etcd as of an old revision.
//!
//! A continue token names the revision of the first page, so all pages show one moment. That moment
//! is found by undoing the cache's history; where history is gone, etcd is asked; where etcd has
//! compacted it, the client gets 410 with a token for the inconsistent rest.
//!
//! Contract: API concepts, "Retrieving large results sets in chunks" and "Resource versions";
//! tokens as in upstream's `storage/continue.go`.

use std::{
    ops::Bound,
    sync::{Arc, atomic::Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    Entry, ListPoint, ListRequest, Listing, ResourceId, Result, Selection, StorageError,
    cache::{Cache, Objects, Phase},
    etcd::{EtcdError, prefix_end},
    metrics,
    shared::Shared,
};

/// Objects fetched at once when etcd has to serve a page.
const ETCD_PAGE: usize = 500;
const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// Where a list goes on: what a client sends back as `continue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContinueToken {
    /// The first page's revision; none means whatever is newest.
    rev: Option<u64>,
    /// The first key of the page, in the cache's form.
    start: String,
}

#[derive(Serialize, Deserialize)]
struct EncodedToken {
    #[serde(rename = "v", default)]
    version: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

pub(super) type Range = (Bound<String>, Bound<String>);

impl Shared {
    /// Waits until a resource's cache is loaded.
    pub(super) async fn loaded(&self, id: &ResourceId) -> Result<()> {
        let mut phase = self.cache(id)?.phase();
        if *phase.borrow() == Phase::Ready {
            return Ok(());
        }
        let wait = phase.wait_for(|phase| *phase != Phase::Loading);
        match tokio::time::timeout(self.config.limits.read_point_timeout, wait).await {
            Ok(Ok(phase)) if *phase == Phase::Ready => Ok(()),
            Ok(_) => Err(StorageError::NotFound(format!("resource {id}"))),
            Err(_elapsed) => Err(StorageError::Unavailable("storage is (re)initializing".to_owned())),
        }
    }

    /// Waits until a resource's cache is as fresh as asked; answers the stream's revision.
    pub(super) async fn fresh(&self, id: &ResourceId, point: ListPoint) -> Result<u64> {
        self.loaded(id).await?;
        let reached = match point {
            ListPoint::Any | ListPoint::NotOlderThan(0) => *self.applied.borrow(),
            ListPoint::Consistent => self.consistent(id).await?,
            ListPoint::NotOlderThan(rev) | ListPoint::Exact(rev) => self.not_older_than(id, rev).await?,
        };
        // A resync may have begun while the read point was awaited.
        self.loaded(id).await?;
        Ok(reached)
    }

    /// Serves a list.
    pub(super) async fn list(&self, id: &ResourceId, request: ListRequest<'_>) -> Result<Listing> {
        let cache = self.cache(id)?;
        let scope = request.namespace.map(|ns| format!("{ns}/")).unwrap_or_default();
        let token = match request.continue_token {
            "" => None,
            text => Some(ContinueToken::decode(text, &scope)?),
        };
        let point = match &token {
            Some(ContinueToken { rev: Some(rev), .. }) => ListPoint::Exact(*rev),
            Some(ContinueToken { rev: None, .. }) => ListPoint::Consistent,
            None => request.point,
        };
        // Unlimited where any state will do, as upstream's cache answers.
        let limit = if point == ListPoint::Any { 0 } else { request.limit };
        let (_, end) = key_range(request.namespace);
        let start =
            token.as_ref().map_or(Bound::Excluded(scope.clone()), |t| Bound::Included(t.start.clone()));
        let page = Page { cache: &cache, scope: &scope, selection: request.selection, limit };
        let reached = self.fresh(id, point).await?;
        let (rev, objects) = match point {
            // What etcd has forgotten is gone for all servers alike, though one of them may still remember it.
            ListPoint::Exact(rev) if rev < self.compacted.load(Ordering::Relaxed) => {
                return self.list_old(&page, rev, (start, end), token.as_ref()).await;
            }
            ListPoint::Exact(rev) => match cache.snapshot_at(rev) {
                Some(objects) => (rev, objects),
                None => return self.list_old(&page, rev, (start, end), token.as_ref()).await,
            },
            _ => cache.snapshot(reached),
        };
        page.of_snapshot(rev, &objects, (start, end))
    }

    /// A page as of a revision the cache has forgotten.
    async fn list_old(
        &self,
        page: &Page<'_>,
        rev: u64,
        range: Range,
        token: Option<&ContinueToken>,
    ) -> Result<Listing> {
        let cache = page.cache;
        let root = self.resource_root(&cache.resource);
        let mut start = match &range.0 {
            Bound::Included(key) | Bound::Excluded(key) => format!("{root}{key}"),
            Bound::Unbounded => root.clone(),
        };
        let end = prefix_end(&format!("{root}{}", page.scope));
        let (mut entries, mut left, mut looked_at) = (Vec::new(), 0, 0);
        loop {
            let read = self.etcd.range(&cache.resource.id, &start, &end, rev, ETCD_PAGE).await;
            let read = read.map_err(|error| match (error, token) {
                (EtcdError::Compacted, Some(token)) => {
                    let restart = ContinueToken { rev: None, start: token.start.clone() };
                    StorageError::ExpiredContinue { restart: restart.encode(page.scope) }
                }
                (EtcdError::Compacted, None) => {
                    StorageError::TooOldResourceVersion { requested: rev, oldest: cache.floor() }
                }
                (error, _) => error.into(),
            })?;
            let total = read.count;
            for (index, stored) in read.stored.into_iter().enumerate() {
                start = format!("{}\0", stored.key);
                let key: Arc<str> = stored.key.strip_prefix(&root).unwrap_or_default().into();
                let entry = cache.decode(key, stored.rev, stored.value, None)?;
                looked_at += 1;
                if page.selection.matches(&entry) {
                    entries.push(Arc::new(entry));
                }
                left = total.saturating_sub(index as u64 + 1);
                if page.full(entries.len()) && left > 0 {
                    metrics::etcd_list(&cache.resource.id, looked_at, entries.len());
                    return Ok(page.cut(rev, entries, left));
                }
            }
            if left == 0 || !read.more {
                metrics::etcd_list(&cache.resource.id, looked_at, entries.len());
                return Ok(Listing { rev, entries, continue_token: String::new(), remaining: None });
            }
        }
    }
}

/// What is wanted of a list.
struct Page<'a> {
    cache: &'a Cache,
    /// `namespace/`, or empty.
    scope: &'a str,
    selection: &'a Selection,
    limit: usize,
}

// === impl Page ===

impl Page<'_> {
    fn full(&self, count: usize) -> bool {
        self.limit > 0 && count >= self.limit
    }

    /// A page of a snapshot.
    fn of_snapshot(&self, rev: u64, objects: &Objects, range: Range) -> Result<Listing> {
        let whole = |entries| Ok(Listing { rev, entries, continue_token: String::new(), remaining: None });
        if let Some(key) = self.single_key() {
            let entry = objects.get(key.as_str()).filter(|entry| self.selection.matches(entry));
            let entries: Vec<_> = entry.cloned().into_iter().collect();
            self.told(1, entries.len());
            return whole(entries);
        }
        let mut rest = in_range(objects, &range);
        let (mut entries, mut looked_at) = (Vec::new(), 0);
        while let Some(entry) = rest.next() {
            looked_at += 1;
            if !self.selection.matches(entry) {
                continue;
            }
            entries.push(entry.clone());
            if self.full(entries.len()) {
                // The rest may hold nothing selected; upstream hands out a token all the same only
                // when something is left at all.
                let left = rest.count() as u64;
                self.told(looked_at, entries.len());
                return if left > 0 { Ok(self.cut(rev, entries, left)) } else { whole(entries) };
            }
        }
        self.told(looked_at, entries.len());
        whole(entries)
    }

    fn told(&self, looked_at: usize, returned: usize) {
        metrics::cache_list(&self.cache.resource.id, looked_at, returned);
    }

    /// The key of the only object that can be selected.
    fn single_key(&self) -> Option<String> {
        let name = self.selection.required_field("metadata.name")?;
        match (self.cache.resource.namespaced, self.scope) {
            (true, "") => {
                let namespace = self.selection.required_field("metadata.namespace")?;
                Some(format!("{namespace}/{name}"))
            }
            (_, scope) => Some(format!("{scope}{name}")),
        }
    }

    /// A page with more behind it.
    fn cut(&self, rev: u64, entries: Vec<Arc<Entry>>, left: u64) -> Listing {
        let last = entries.last().map(|entry| entry.key().to_string()).unwrap_or_default();
        let token = ContinueToken { rev: Some(rev), start: format!("{last}\0") };
        Listing {
            rev,
            entries,
            continue_token: token.encode(self.scope),
            // Of what is left nobody knows how much is of the same shard.
            remaining: (self.selection.is_empty() && self.selection.shard.is_none()).then_some(left),
        }
    }
}

// === impl ContinueToken ===

impl ContinueToken {
    /// As clients get it; `scope` is what all keys of the list begin with.
    pub fn encode(&self, scope: &str) -> String {
        let token = EncodedToken {
            version: TOKEN_VERSION.to_owned(),
            rv: self.rev.map_or(-1, |rev| i64::try_from(rev).unwrap_or(i64::MAX)),
            start: self.start.strip_prefix(scope).unwrap_or(&self.start).to_owned(),
        };
        // A struct of strings and numbers always serialises.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Reads one of a list whose keys all begin with `scope`.
    ///
    /// # Errors
    /// [`StorageError::InvalidContinue`] for what no server of this version made.
    pub fn decode(text: &str, scope: &str) -> Result<Self> {
        let invalid = |why: String| StorageError::InvalidContinue(format!("continue key is not valid{why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(format!(": {error}")))?;
        let token: EncodedToken =
            serde_json::from_slice(&bytes).map_err(|error| invalid(format!(": {error}")))?;
        if token.version != TOKEN_VERSION {
            let why = format!(": server does not recognize this encoded version {}", token.version);
            return Err(invalid(why));
        }
        if token.rv == 0 {
            return Err(invalid(
                ": incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned(),
            ));
        }
        if token.start.is_empty() {
            return Err(invalid(": encoded start key empty (version meta.k8s.io/v1)".to_owned()));
        }
        let start = token.start.strip_prefix('/').unwrap_or(&token.start);
        // A key that climbs could reach other resources.
        if start.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(format!(": {}", token.start)));
        }
        Ok(Self { rev: u64::try_from(token.rv).ok(), start: format!("{scope}{start}") })
    }
}

/// The cache keys of a namespace, or all.
pub(super) fn key_range(namespace: Option<&str>) -> Range {
    match namespace {
        // '0' follows '/' in byte order.
        Some(ns) => (Bound::Included(format!("{ns}/")), Bound::Excluded(format!("{ns}0"))),
        None => (Bound::Unbounded, Bound::Unbounded),
    }
}

/// The objects of a key range, in order.
pub(super) fn in_range<'o>(
    objects: &'o Objects,
    range: &Range,
) -> impl Iterator<Item = &'o Arc<Entry>> + use<'o> {
    let bounds = (range.0.as_ref().map(String::as_str), range.1.as_ref().map(String::as_str));
    objects.range::<_, str>(bounds).map(|(_, entry)| entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_upstreams() {
        let token = ContinueToken { rev: Some(12), start: "ns/a\0".to_owned() };
        let text = token.encode("ns/");
        let decoded = URL_SAFE_NO_PAD.decode(&text).unwrap();
        assert_eq!(decoded, br#"{"v":"meta.k8s.io/v1","rv":12,"start":"a\u0000"}"#);
        assert_eq!(ContinueToken::decode(&text, "ns/").unwrap(), token);
        let rest = ContinueToken { rev: None, start: "ns/a\0".to_owned() };
        assert_eq!(ContinueToken::decode(&rest.encode(""), "").unwrap(), rest);
    }

    #[test]
    fn bad_tokens_are_refused() {
        let encode = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for text in [
            "%%".to_owned(),
            encode("x"),
            encode(r#"{"v":"v2","rv":1,"start":"a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets/a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#),
        ] {
            assert!(
                matches!(ContinueToken::decode(&text, ""), Err(StorageError::InvalidContinue(_))),
                "{text}"
            );
        }
    }
}
