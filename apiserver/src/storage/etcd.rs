//! The etcd client: typed requests with timeouts, metrics and failover between members.
//!
//! Requests go to one member until it cannot be reached, then to the next. Reads are tried on every
//! member; writes only where the request surely was not sent.
//!
//! Contract: etcd v3 API (etcdserverpb), as served by etcd 3.4 to 3.6.

use std::{
    error::Error as _,
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use component_base::traces;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, KvClient, LeaseClient,
    MaintenanceClient, PutOptions, TlsOptions, Txn, TxnOp, WatchClient, WatchOptions, WatchStream,
    proto::PbTxnOpResponse,
};
use futures::{FutureExt, future::BoxFuture};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::BufReader;
use tonic::{
    Code,
    body::Body,
    transport::{Certificate, Channel, Endpoint, Identity},
};
use tower::{BoxError, Service, util::BoxCloneSyncService};

use super::{ResourceId, StorageError, StoreConfig, TlsFiles, metrics};
use crate::{
    audit::{self, Part},
    cork::Cork,
    egress::{Route, Stream},
};

/// Bytes taken from a connection at once.
const READ_AHEAD: usize = 32 * 1024;
/// Large pages and long watches batches are legal; etcd itself limits writes.
const MAX_MESSAGE: usize = 1 << 30;

/// A client for all members of one etcd cluster.
#[derive(Debug)]
pub(super) struct Etcd {
    members: Vec<Member>,
    current: AtomicUsize,
    timeout: Duration,
}

#[derive(Clone)]
struct Member {
    kv: KvClient,
    watch: WatchClient,
    lease: LeaseClient,
    maintenance: MaintenanceClient,
}

/// A key and value as stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) key: String,
    pub(super) value: Bytes,
    pub(super) rev: u64,
}

/// A page of a range.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) stored: Vec<Stored>,
    /// Keys in the whole range, from its start on.
    pub(super) count: u64,
    pub(super) more: bool,
}

/// What a guarded write came to.
#[derive(Debug)]
pub(super) enum Guarded {
    /// Done at this revision; a deletion brings what was deleted.
    Done(u64, Option<Stored>),
    /// The guard failed; what is there instead.
    Refused(Option<Stored>),
}

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum EtcdError {
    #[error("etcd is unavailable: {0}")]
    Unavailable(String),
    #[error("etcd did not answer in time")]
    Timeout,
    #[error("etcd: the revision is compacted")]
    Compacted,
    #[error("etcd: the request is too large")]
    TooLarge,
    /// No space left, or a message larger than etcd takes at all.
    #[error("etcd: {0}")]
    Exhausted(String),
    #[error("etcd: the lease is gone")]
    LeaseGone,
    #[error("etcd: {0}")]
    Other(String),
}

/// An error, and whether the request surely never left.
struct Attempt {
    error: EtcdError,
    unsent: bool,
}

// === impl Etcd ===

impl Etcd {
    /// Sets up one lazily connecting channel per server.
    pub(super) fn open(config: &StoreConfig) -> Result<Self, StorageError> {
        if config.servers.is_empty() {
            return Err(StorageError::Internal("no etcd server is configured".to_owned()));
        }
        let mut members = Vec::with_capacity(config.servers.len());
        for server in &config.servers {
            members.push(Member::open(server, config)?);
        }
        Ok(Self { members, current: AtomicUsize::new(0), timeout: config.limits.request_timeout })
    }

    /// etcd's revision now: a linearizable read of one key that need not exist.
    pub(super) async fn revision(&self, id: &ResourceId, key: &str) -> Result<u64, EtcdError> {
        self.call("get", id, true, async |member: Member| {
            let options = GetOptions::new().with_keys_only().with_limit(1);
            let response = member.kv.clone().get(key, Some(options)).await?;
            Ok(header_revision(response.header()))
        })
        .await
    }

    /// One key, linearizable.
    pub(super) async fn get(&self, id: &ResourceId, key: &str) -> Result<Option<Stored>, EtcdError> {
        self.call("get", id, true, async |member: Member| {
            let mut response = member.kv.clone().get(key, None).await?;
            Ok(response.take_kvs().pop().map(stored))
        })
        .await
    }

    /// A page of `[start, end)` as of a revision.
    pub(super) async fn range(
        &self,
        id: &ResourceId,
        start: &str,
        end: &str,
        rev: u64,
        limit: usize,
    ) -> Result<Page, EtcdError> {
        self.call("list", id, true, async |member: Member| {
            let options = GetOptions::new()
                .with_range(end)
                .with_revision(to_i64(rev))
                .with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
            let mut response = member.kv.clone().get(start, Some(options)).await?;
            let (more, count) = (response.more(), response.count());
            let stored = response.take_kvs().into_iter().map(stored).collect();
            Ok(Page { stored, count: u64::try_from(count).unwrap_or(0), more })
        })
        .await
    }

    /// Writes a key that is at mod-revision `expected`; 0 means that it must not exist.
    pub(super) async fn put_if(
        &self,
        id: &ResourceId,
        key: &str,
        expected: u64,
        value: Vec<u8>,
        lease: Option<i64>,
    ) -> Result<Guarded, EtcdError> {
        let operation = if expected == 0 { "create" } else { "update" };
        let options = lease.map(|lease| PutOptions::new().with_lease(lease));
        let put = TxnOp::put(key, value, options);
        self.guarded(operation, id, key, expected, put).await
    }

    /// Deletes a key that is at mod-revision `expected`.
    pub(super) async fn delete_if(
        &self,
        id: &ResourceId,
        key: &str,
        expected: u64,
    ) -> Result<Guarded, EtcdError> {
        let delete = TxnOp::delete(key, Some(DeleteOptions::new().with_prev_key()));
        self.guarded("delete", id, key, expected, delete).await
    }

    async fn guarded(
        &self,
        operation: &'static str,
        id: &ResourceId,
        key: &str,
        expected: u64,
        write: TxnOp,
    ) -> Result<Guarded, EtcdError> {
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, to_i64(expected))])
            .and_then([write])
            .or_else([TxnOp::get(key, None)]);
        let response = self
            .call(operation, id, false, async |member: Member| member.kv.clone().txn(txn.clone()).await)
            .await?;
        let rev = header_revision(response.header());
        let succeeded = response.succeeded();
        let first = response.0.responses.into_iter().next().and_then(|r| r.response);
        let at = |kv: Option<_>| kv.map(|kv| stored(etcd_client::KeyValue(kv)));
        Ok(match first {
            Some(PbTxnOpResponse::ResponseRange(range)) => Guarded::Refused(at(range.kvs.into_iter().next())),
            Some(PbTxnOpResponse::ResponseDeleteRange(deleted)) => {
                Guarded::Done(rev, at(deleted.prev_kvs.into_iter().next()))
            }
            _ if succeeded => Guarded::Done(rev, None),
            _ => Guarded::Refused(None),
        })
    }

    /// Writes a key without a guard; answers the revision.
    pub(super) async fn put(&self, id: &ResourceId, key: &str, value: &[u8]) -> Result<u64, EtcdError> {
        self.call("update", id, true, async |member: Member| {
            let response = member.kv.clone().put(key, value, None).await?;
            Ok(header_revision(response.header()))
        })
        .await
    }

    /// Writes `value` if the key's version is `expected`. Answers whether it did, the key's version
    /// and value now, and the revision.
    pub(super) async fn put_if_version(
        &self,
        id: &ResourceId,
        key: &str,
        expected: i64,
        value: &str,
    ) -> Result<(bool, i64, String, u64), EtcdError> {
        let txn = Txn::new()
            .when([Compare::version(key, CompareOp::Equal, expected)])
            .and_then([TxnOp::put(key, value, None)])
            .or_else([TxnOp::get(key, None)]);
        let response = self
            .call("update", id, false, async |member: Member| member.kv.clone().txn(txn.clone()).await)
            .await?;
        let rev = header_revision(response.header());
        let succeeded = response.succeeded();
        let there = match response.0.responses.into_iter().next().and_then(|r| r.response) {
            Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        };
        Ok(match there {
            _ if succeeded => (true, expected + 1, value.to_owned(), rev),
            Some(kv) => (false, kv.version, String::from_utf8_lossy(&kv.value).into_owned(), rev),
            None => (false, 0, String::new(), rev),
        })
    }

    /// Forgets everything before a revision.
    pub(super) async fn compact(&self, id: &ResourceId, rev: u64) -> Result<(), EtcdError> {
        self.call("compact", id, false, async |member: Member| {
            member.kv.clone().compact(to_i64(rev), None).await.map(drop)
        })
        .await
    }

    /// A new lease of so many seconds.
    pub(super) async fn grant(&self, id: &ResourceId, seconds: i64) -> Result<i64, EtcdError> {
        self.call("grant", id, false, async |member: Member| {
            Ok(member.lease.clone().grant(seconds, None).await?.id())
        })
        .await
    }

    /// Bytes of the current member's database, if it tells.
    pub(super) async fn size(&self) -> Option<i64> {
        let index = self.current.load(Ordering::Relaxed) % self.members.len();
        let mut maintenance = self.members[index].maintenance.clone();
        let status = tokio::time::timeout(self.timeout, maintenance.status()).await.ok()?;
        status.ok().map(|status| status.db_size())
    }

    /// Watches a prefix from a revision on.
    pub(super) async fn watch(
        &self,
        id: &ResourceId,
        prefix: &str,
        from: u64,
    ) -> Result<WatchStream, EtcdError> {
        self.call("watch", id, true, async |member: Member| {
            let options = WatchOptions::new().with_prefix().with_start_revision(to_i64(from));
            member.watch.clone().watch(prefix, Some(options)).await
        })
        .await
    }

    /// Runs a request on the current member, moving on where that is safe.
    async fn call<T, F>(
        &self,
        operation: &str,
        id: &ResourceId,
        idempotent: bool,
        request: impl Fn(Member) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let started = Instant::now();
        let mut last = EtcdError::Timeout;
        for _ in 0..self.members.len() {
            let index = self.current.load(Ordering::Relaxed) % self.members.len();
            metrics::call_begins(operation);
            let attempt = match tokio::time::timeout(self.timeout, request(self.members[index].clone())).await
            {
                Ok(Ok(value)) => {
                    metrics::call_ended(operation, "OK");
                    metrics::etcd_request(operation, id, started, false);
                    audit::spend(Part::Etcd, started.elapsed());
                    return Ok(value);
                }
                Ok(Err(error)) => classify(&error),
                Err(_elapsed) => Attempt { error: EtcdError::Timeout, unsent: false },
            };
            metrics::call_ended(operation, attempt.error.code());
            last = attempt.error;
            let unreachable = matches!(last, EtcdError::Unavailable(_) | EtcdError::Timeout);
            if unreachable {
                self.leave(index);
            }
            if !unreachable || !(attempt.unsent || idempotent) {
                break;
            }
        }
        metrics::etcd_request(operation, id, started, true);
        audit::spend(Part::Etcd, started.elapsed());
        Err(last)
    }

    /// Makes the member after `index` current, unless someone already did.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        // Losing the race means that another request moved on: just as good.
        self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed).ok();
    }
}

/// A connection to etcd below TLS: what is written by requests under way at the same time goes out together, and what
/// has arrived is read at once, where TLS would ask for four kilobytes at a time.
type Wire = Cork<TokioIo<BufReader<Stream>>>;

/// Connects by the way there is to etcd.
fn connector(route: Route) -> impl Service<Uri, Response = Wire, Error = BoxError, Future: Send> + Send {
    tower::service_fn(move |uri: Uri| {
        let route = route.clone();
        async move {
            let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = route.connect(host, uri.port_u16().unwrap_or(default)).await?;
            Ok(Cork::new(TokioIo::new(BufReader::with_capacity(READ_AHEAD, stream))))
        }
    })
}

/// A channel that tells etcd of whom a request is part, and a collector how long it took.
#[derive(Clone)]
struct Traced<S>(S);

impl<S> Service<http::Request<Body>> for Traced<S>
where
    S: Service<http::Request<Body>, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let part = traces::grpc(request.uri().path());
        if let Some(parent) = part.as_ref().and_then(|part| part.trace_parent()) {
            request.headers_mut().insert(traces::TRACE_PARENT, parent);
        }
        let answer = self.0.call(request);
        async move {
            let answer = answer.await;
            drop(part);
            answer.map_err(Into::into)
        }
        .boxed()
    }
}

// === impl Member ===

impl Member {
    fn open(server: &str, config: &StoreConfig) -> Result<Self, StorageError> {
        let bad = |why: String| StorageError::Internal(format!("etcd server {server:?}: {why}"));
        let url = match server.contains("://") {
            true => server.to_owned(),
            false => format!("http://{server}"),
        };
        let secure = url.starts_with("https://") || url.starts_with("unixs://");
        let mut endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| bad(error.to_string()))?
            .connect_timeout(Duration::from_secs(3))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        if secure {
            endpoint =
                endpoint.tls_config(tls_options(&config.tls)?).map_err(|error| bad(error.to_string()))?;
        }
        let channel: Channel = if url.starts_with("unix") {
            endpoint.connect_lazy()
        } else {
            endpoint.connect_with_connector_lazy(connector(config.route.clone()))
        };
        let options = ConnectOptions::new().with_require_leader(true);
        let channel = match config.traced {
            true => etcd_client::Channel::Custom(BoxCloneSyncService::new(Traced(channel))),
            false => etcd_client::Channel::Tonic(channel),
        };
        let client = Client::from_channel(channel, Some(options))
            // Without a user name there is nothing to wait for.
            .now_or_never()
            .ok_or_else(|| bad("the client is not ready".to_owned()))?
            .map_err(|error| bad(error.to_string()))?;
        // Only these clones can lift the limits; the methods on `Client` never do.
        Ok(Self {
            kv: client
                .kv_client()
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            watch: client.watch_client().max_decoding_message_size(MAX_MESSAGE),
            lease: client.lease_client(),
            maintenance: client.maintenance_client(),
        })
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").finish_non_exhaustive()
    }
}

impl EtcdError {
    /// gRPC's word for it.
    fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "Unavailable",
            Self::Timeout => "DeadlineExceeded",
            Self::Compacted => "OutOfRange",
            Self::TooLarge => "InvalidArgument",
            Self::Exhausted(_) => "ResourceExhausted",
            Self::LeaseGone => "NotFound",
            Self::Other(_) => "Unknown",
        }
    }
}

impl From<EtcdError> for StorageError {
    fn from(error: EtcdError) -> Self {
        match error {
            EtcdError::Unavailable(_) => Self::Unavailable(error.to_string()),
            EtcdError::Timeout => Self::Timeout(error.to_string()),
            EtcdError::Compacted => Self::TooOldResourceVersion { requested: 0, oldest: 0 },
            EtcdError::TooLarge | EtcdError::LeaseGone | EtcdError::Exhausted(_) | EtcdError::Other(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}

fn tls_options(files: &TlsFiles) -> Result<TlsOptions, StorageError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| StorageError::Internal(format!("{}: {error}", path.display())))
    };
    let mut options = TlsOptions::new();
    if let Some(ca) = &files.ca {
        options = options.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let (Some(cert), Some(key)) = (&files.cert, &files.key) {
        options = options.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(options)
}

/// Sorts an error by its gRPC code; each code has one meaning for the requests made here.
fn classify(error: &etcd_client::Error) -> Attempt {
    let status = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => {
            return Attempt { error: EtcdError::Unavailable(error.to_string()), unsent: true };
        }
        etcd_client::Error::WatchError(_) => {
            return Attempt { error: EtcdError::Unavailable(error.to_string()), unsent: false };
        }
        other => return Attempt { error: EtcdError::Other(other.to_string()), unsent: false },
    };
    let mut source = status.source();
    let mut unsent = false;
    while let Some(cause) = source {
        unsent |= cause.downcast_ref::<tonic::ConnectError>().is_some();
        source = cause.source();
    }
    let error = match status.code() {
        Code::OutOfRange => EtcdError::Compacted,
        Code::InvalidArgument => EtcdError::TooLarge,
        Code::ResourceExhausted => EtcdError::Exhausted(status.message().to_owned()),
        Code::NotFound => EtcdError::LeaseGone,
        Code::DeadlineExceeded => EtcdError::Timeout,
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Aborted => {
            EtcdError::Unavailable(status.message().to_owned())
        }
        _ => EtcdError::Other(status.message().to_owned()),
    };
    Attempt { error, unsent }
}

fn stored(kv: etcd_client::KeyValue) -> Stored {
    let kv = kv.0;
    Stored {
        key: String::from_utf8(kv.key).unwrap_or_default(),
        value: Bytes::from(kv.value),
        rev: u64::try_from(kv.mod_revision).unwrap_or(0),
    }
}

fn header_revision(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    header.and_then(|h| u64::try_from(h.revision()).ok()).unwrap_or(0)
}

/// etcd's revisions are positive 63-bit numbers.
fn to_i64(rev: u64) -> i64 {
    i64::try_from(rev).unwrap_or(i64::MAX)
}

/// The end of the range of keys that begin with `prefix` (which ends in `/`, so the last byte has a
/// successor).
pub(super) fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    end.pop();
    end.push('0');
    debug_assert!(prefix.ends_with('/'), "a prefix ends in a slash, and '0' follows it");
    end
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use component_base::{
        task::Tasks,
        traces::{Tracer, TracingConfiguration},
    };
    use http::HeaderMap;
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn etcd_is_told_of_whom_a_request_is_part() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = told.clone();
        let inner = tower::service_fn(move |request: http::Request<Body>| {
            kept.lock().push(request.headers().get(traces::TRACE_PARENT).cloned());
            async { Ok::<_, Infallible>(()) }
        });
        let ask = async || {
            let request = http::Request::get("http://etcd/etcdserverpb.KV/Txn").body(Body::empty()).unwrap();
            Traced(inner.clone()).call(request).await.unwrap();
        };
        ask().await;
        let tracer =
            Tracer::start(&TracingConfiguration::default(), "test", Vec::new(), &Tasks::new()).unwrap();
        let trace = "0af7651916cd43dd8448eb211c80319c";
        for sampled in ["00", "01"] {
            let mut headers = HeaderMap::new();
            let parent = format!("00-{trace}-b7ad6b7169203331-{sampled}").parse().unwrap();
            headers.insert(traces::TRACE_PARENT, parent);
            let request = async {
                tracer.begin(&headers, true, || (String::new(), Vec::new()));
                ask().await;
            };
            traces::scope(Some(tracer.trace()), request).await;
        }
        let told = told.lock();
        assert_eq!((told.len(), &told[0], &told[1]), (3, &None, &None));
        let text = told[2].as_ref().unwrap().to_str().unwrap();
        assert!(text.starts_with(&format!("00-{trace}-")) && !text.contains("b7ad6b7169203331"), "{text}");
    }
}
