//! The request path: every stage a request passes, in order, in [`handle`].
//!
//! Contract: upstream's `server.DefaultBuildHandlerChain`.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use component_base::{
    features::Gate,
    traces::{self, Tracer},
};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use proto::cbor;
use tokio::sync::Notify;

use crate::{
    aggregator,
    audit::{self, Auditor, Described, Stage},
    auth::{Attributes, Authorizer, Credentials, Decision, PeerCertificates, User},
    authz::forbidden_message,
    debug, engine,
    flowcontrol::{self, Flow, Listed, Need, Watched},
    health,
    metrics::timed,
    negotiation::{self, Media},
    objects::new_uid,
    peers, proxy,
    request_path::info::RequestInfo,
    response::{self, Body},
    server::{InFlight, Server},
    status::{Details, GroupName, Reason, Status},
};

mod impersonation;
pub mod info;
mod metrics;
mod outcome;

pub use impersonation::Memory as Impersonations;
use outcome::{Asked, IN_FLIGHT, WAITING};

/// Largest request body, in bytes.
const MAX_BODY: usize = 3 * 1024 * 1024;
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const FLOW_SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// What the stages note for the answer, however it ends.
#[derive(Debug, Default)]
struct Notes {
    flow: OnceLock<Flow>,
    audit: Arc<audit::Context>,
    /// The last audit event, where it is not that of a complete answer.
    last: OnceLock<Stage>,
    /// A watch is counted from when it has its seats.
    watched: OnceLock<Watched>,
    /// Set where a request for objects was let through to them.
    inside: OnceLock<()>,
    /// Set where a request was ended for the server's own protection.
    terminated: OnceLock<()>,
}

/// What the connection knows of its peer.
#[derive(Debug, Default)]
pub struct Peer {
    /// Its certificates; the chain is not checked yet.
    pub certificates: Arc<PeerCertificates>,
    /// Where it comes from.
    pub address: Option<IpAddr>,
    /// Told when the connection is to end after the requests it has.
    pub leaves: Notify,
}

/// Answers one request, whatever happens on the way.
pub async fn handle(
    server: Arc<Server>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if server.front.is_plain() {
        return serve(server, peer, request).await;
    }
    let origin = server.front.allowed_origin(request.headers());
    if server.front.sends_away(&request) {
        peer.leaves.notify_one();
    }
    let mut response = match server.front.at_the_door(&request, origin.is_some()) {
        Some(response) => response,
        None => serve(server.clone(), peer, request).await?,
    };
    server.front.mark(response.headers_mut(), origin);
    Ok(response)
}

/// Serves a request that was let in.
async fn serve(
    server: Arc<Server>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (received, begun) = (Timestamp::now(), Instant::now());
    let audit_id = audit_id(request.headers());
    // Who does not reach an object gets no CBOR: the stages before do not speak it.
    let uri = request.uri();
    let info = Arc::new(RequestInfo::new(request.method(), uri.path(), uri.query().unwrap_or_default()));
    let pretty = negotiation::is_for_people(&info.query, request.headers());
    let media = Media::of_failure(request.headers(), false, pretty);
    let media_inside = server.speaks_cbor().then(|| Media::of_failure(request.headers(), true, pretty));
    let described = server.auditor.as_ref().map(|auditor| {
        let id = audit_id.to_str().unwrap_or_default().to_owned();
        (auditor.clone(), Described::new(id, received, uri, request.headers(), peer.address))
    });
    let mut notes =
        Notes { audit: Arc::new(audit::Context::new(server.auditor.is_some())), ..Notes::default() };
    let asked = Asked {
        method: request.method().clone(),
        is_apply: is_apply(request.headers()),
        info: info.clone(),
        begun,
        audit: notes.audit.clone(),
    };
    let _held = server.front.hold(&info);
    let _in_flight = (!info.is_long_running()).then(|| IN_FLIGHT.count(&info));
    // Boxed where it is made: the future of all stages is too large to be moved from wrapper to wrapper.
    let stages = Box::pin(stages(server.clone(), peer, request, info, described, &notes));
    let trace = server.tracer.as_ref().map(Tracer::trace);
    let stages = audit::scope(notes.audit.clone(), traces::scope(trace.clone(), stages));
    let mut panicked = None;
    let answer = std::panic::AssertUnwindSafe(stages).catch_unwind().await.unwrap_or_else(|panic| {
        tracing::error!("a request handler panicked");
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let recorded = format!("APIServer panic'd: {said}");
        panicked = Some(Status::new(500, Reason::InternalError, recorded).to_value());
        // A request breaks once.
        notes.last.set(Stage::Panic).ok();
        let why = "This request caused apiserver to panic. Look in the logs for details.";
        Err(Status::new(500, Reason::InternalError, why).in_plain_text())
    });
    let (response, status) = match answer {
        Ok(response) => (response, None),
        Err(status) => {
            let inside = media_inside.filter(|_| notes.inside.get().is_some());
            // Audit knows what a Status says, and of a text that there was one.
            let told = panicked.or_else(|| (!status.is_plain()).then(|| status.to_value()));
            (response::failure(&status, inside.unwrap_or(media)), told)
        }
    };
    let last = notes.last.get().copied().unwrap_or(Stage::ResponseComplete);
    let watched = notes.watched.take();
    let terminated = notes.terminated.get().is_some();
    let mut response = asked.answered(&server, response, status, (last, watched, terminated)).await;
    if let Some(trace) = trace {
        trace.end(response.status().as_u16(), || {
            vec![traces::text("audit-id", audit_id.to_str().unwrap_or_default())]
        });
    }
    response.headers_mut().insert(AUDIT_ID, audit_id);
    notes.tell(response.headers_mut());
    Ok(response)
}

fn is_apply(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.starts_with("application/apply-patch")
}

impl Notes {
    /// Whose rules a request was served or refused by.
    fn tell(&self, headers: &mut HeaderMap) {
        let Some(flow) = self.flow.get() else { return };
        for (name, uid) in [(FLOW_SCHEMA, &flow.schema), (PRIORITY_LEVEL, &flow.level)] {
            if let Ok(uid) = HeaderValue::from_str(uid) {
                headers.insert(name, uid);
            }
        }
    }
}

/// The stages in their order, within the request timeout unless the request is long-running.
async fn stages(
    server: Arc<Server>,
    peer: Arc<Peer>,
    mut request: Request<Incoming>,
    info: Arc<RequestInfo>,
    described: Option<(Arc<Auditor>, Described)>,
    notes: &Notes,
) -> Result<Response<Body>, Status> {
    let long = info.is_long_running();
    let timeout = if long { server.limits.timeout } else { deadline(&info, server.limits.timeout)? };
    let serving = std::pin::pin!(async {
        let outcome =
            timed("authentication", authenticate(&server, &peer, &info.path, request.headers())).await;
        // Streams cost much to those who serve them: nobody keeps a connection for them who does not say who it is
        // (CVE-2023-44487).
        if request.version() == Version::HTTP_2
            && server.gates.has(Gate::UnauthenticatedHTTP2DOSMitigation)
            && outcome.as_ref().map_or(true, |user| user.in_group("system:unauthenticated"))
        {
            peer.leaves.notify_one();
        }
        let user = match outcome {
            Ok(user) => user,
            Err(status) => {
                // As upstream, this is the first and last that is recorded.
                notes.last.set(Stage::ResponseStarted).ok();
                record(&info.attributes(&Arc::default()), described, notes);
                return Err(status);
            }
        };
        if let Some(tracer) = &server.tracer {
            follow(tracer, &user, &info, &request);
        }
        if described.is_some() {
            record(&info.attributes(&user), described, notes);
        }
        if !timed("audit", notes.audit.stage(Stage::RequestReceived)).await {
            audit::rejected();
            return Err(failed_before(request.uri(), "failed to store audit event"));
        }
        if let Some(proxy) = &server.authentication.front_proxy {
            proxy.clear(request.headers_mut());
        }
        server.front.wait_until_ready(&info, &user, server.ready.load(Ordering::Acquire))?;
        let user = timed(
            "impersonation",
            impersonation::act_as(&server, user, request.headers(), |user| info.attributes(user)),
        )
        .await?;
        let attributes = info.attributes(&user);
        let waiting = flow_control(&server, &info, &attributes, notes);
        let _place = timed("priorityandfairness", waiting).await?;
        timed("authorization", authorize(&server, &attributes, request.uri())).await?;
        if let Some(barrier) = &server.untold {
            barrier.admit(&attributes)?;
        }
        if info.is_resource {
            notes.inside.set(()).ok();
        }
        route(server.clone(), info, attributes, &peer, request).await
    });
    if long {
        return serving.await;
    }
    match tokio::time::timeout(timeout, serving).await {
        Ok(answer) => answer,
        Err(_) => {
            notes.terminated.set(()).ok();
            Err(Status::timeout("request did not complete within the allotted timeout"))
        }
    }
}

/// Begins the trace of a request that is to be followed. Only those who watch over the cluster may ask for that.
fn follow(tracer: &Tracer, user: &User, info: &RequestInfo, request: &Request<Incoming>) {
    let trusted = user.in_group("system:masters") || user.in_group("system:monitoring");
    tracer.begin(request.headers(), trusted, || {
        let method = request.method().as_str();
        let mut attributes = vec![
            traces::text("http.request.method", method),
            traces::text("url.path", &info.path),
            traces::text("http.target", request.uri().path_and_query().map_or("/", |target| target.as_str())),
        ];
        if let Some(agent) = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()) {
            attributes.push(traces::text("user_agent.original", agent));
        }
        let name = if info.is_resource { format!("{method} {}", info.pattern()) } else { method.to_owned() };
        (name, attributes)
    });
}

/// Time the request may take: what `?timeout=` asks for, within the server's own limit.
fn deadline(info: &RequestInfo, limit: Duration) -> Result<Duration, Status> {
    let asked = info.query.get("timeout");
    if asked.is_empty() {
        return Ok(limit);
    }
    let asked = component_base::goduration::parse(asked).map_err(|error| {
        Status::bad_request(format!("invalid timeout specified in the request URL - {error}"))
    })?;
    Ok(if asked.is_zero() { limit } else { asked.min(limit) })
}

/// Decides what audit records of a request.
fn record(attributes: &Attributes, described: Option<(Arc<Auditor>, Described)>, notes: &Notes) {
    if let Some((auditor, described)) = described {
        notes.audit.begin(&auditor, attributes, described);
    }
}

async fn route(
    server: Arc<Server>,
    info: Arc<RequestInfo>,
    attributes: Attributes,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    if info.is_rootless() {
        return Err(Status::no_such_path());
    }
    if let Some(peers) = server.peers.clone() {
        let able = peers.elsewhere(&server, &info, request.headers());
        if !able.is_empty() {
            return peers::serve(server, &peers, able, info, &attributes.user, peer, request).await;
        }
    }
    if let Some(remote) = server.aggregated.find(&info.path) {
        return aggregator::serve(server.clone(), &remote, info, &attributes.user, peer, request).await;
    }
    if proxy::connects(&info) {
        return proxy::serve(server, info, attributes, peer, request).await;
    }
    let (http::request::Parts { method, headers, .. }, body) = request.into_parts();
    let body = read_body(&headers, body).await?;
    note_body(&server, &info, &headers, &body);
    if !body.is_empty() && server.catalog.load().contains(&info.group, &info.resource) {
        metrics::body(&info.group, &info.resource, &info.verb, body.len());
    }
    if info.is_resource {
        return engine::serve(server, info, attributes, headers, body).await;
    }
    if let Some(answer) = health::answer(&server, &info).await {
        return Ok(answer);
    }
    if let Some(answer) = server.pages.answer(&info.path, &headers) {
        return answer;
    }
    if let Some(logs) = &server.logs
        && let Some(answer) = logs.answer(&method, &info.path, &headers).await
    {
        return Ok(answer);
    }
    if server.profiling
        && let Some(answer) = debug::answer(&method, &info.path, &body)
    {
        return Ok(answer);
    }
    if let InFlight::Fair(filter) = &server.in_flight
        && let Some(table) = filter.dump(&info.path, info.query.get("includeRequestDetails"))
    {
        return Ok(response::text(200, table));
    }
    if let Some(issuer) = &server.authentication.issuer {
        match info.path.as_str() {
            "/openid/v1/jwks" => return Ok(response::json(200, &issuer.jwks())),
            "/.well-known/openid-configuration" => {
                return Ok(response::json(200, &issuer.openid_configuration(&server.external)));
            }
            _ => {}
        }
    }
    let catalog = server.catalog.load_full();
    if let Some(answer) =
        server.openapi.answer(&catalog, &server.aggregated.documents(), &info, &headers).await
    {
        return answer;
    }
    let remotes = server.aggregated.remotes();
    let peers = server.peers.as_ref().map(|peers| peers.known());
    let answer = server.discovery.answer(&catalog, &remotes, peers.as_ref(), &info.path, &headers);
    answer.unwrap_or_else(|| Err(Status::no_such_path()))
}

/// Shows audit what was sent, as it was sent.
fn note_body(server: &Server, info: &RequestInfo, headers: &HeaderMap, body: &[u8]) {
    let Some(context) = audit::current().filter(|context| context.is_recorded()) else { return };
    if body.is_empty() || !info.is_resource {
        return;
    }
    if info.verb == "patch" {
        if let Some(patch) = patch_in(headers, body) {
            context.request_patch(patch);
        }
    } else if let Ok(object) = negotiation::decode(headers, body, server.speaks_cbor()) {
        context.request_object(object);
    }
}

/// A patch of JSON, or an applied object of YAML or CBOR; none where the body is neither, which the verb refuses itself.
fn patch_in(headers: &HeaderMap, body: &[u8]) -> Option<serde_json::Value> {
    if headers.get(header::CONTENT_TYPE).is_some_and(|sent| sent == cbor::APPLY_TYPE) {
        return cbor::decode(body).ok().map(|node| node.to_value());
    }
    let yaml = || serde_saphyr::from_str(std::str::from_utf8(body).ok()?).ok();
    serde_json::from_slice(body).ok().or_else(yaml)
}

fn audit_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(AUDIT_ID) {
        Some(sent) if !sent.is_empty() && sent.len() <= 64 => sent.clone(),
        _ => HeaderValue::from_str(&new_uid()).unwrap_or_else(|_| HeaderValue::from_static("")),
    }
}

/// The token of an `Authorization: Bearer` header, read as upstream does: other schemes and empty tokens are no
/// credentials, and a token that is no text is one that nobody knows. Browsers cannot set that header for a WebSocket,
/// so that there it may be among the subprotocols.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let Some(sent) = headers.get(header::AUTHORIZATION) else { return proxy::websocket_token(headers) };
    let text = String::from_utf8_lossy(sent.as_bytes()).into_owned();
    let mut parts = text.trim().splitn(3, ' ');
    let scheme = parts.next()?;
    let token = parts.next().filter(|token| !token.is_empty())?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.to_owned())
}

async fn authenticate(
    server: &Server,
    peer: &Peer,
    path: &str,
    headers: &HeaderMap,
) -> Result<Arc<User>, Status> {
    let proxy = server.authentication.front_proxy.as_ref();
    let names_user = proxy.is_some_and(|proxy| proxy.names_user(headers));
    let credentials = Credentials {
        peer_certificates: peer.certificates.clone(),
        bearer: bearer(headers),
        headers: if names_user { headers.clone() } else { HeaderMap::new() },
    };
    let begun = Instant::now();
    let outcome = server.authentication.authenticator.authenticate(&credentials).await;
    let user = outcome.as_ref().ok().and_then(|user| user.as_ref().map(|user| user.name.as_str()));
    metrics::authenticated(user, outcome.is_err(), begun.elapsed());
    match outcome {
        Ok(Some(user)) => Ok(user),
        Ok(None) if server.anonymous.allows(path) && credentials.bearer.is_none() => {
            Ok(Arc::new(User::anonymous()))
        }
        Ok(None) => Err(Status::unauthorized()),
        Err(why) => {
            tracing::warn!(why, "unable to authenticate the request");
            Err(Status::unauthorized())
        }
    }
}

/// A place among the requests in flight, held until the answer begins.
#[derive(Debug)]
enum Place<'a> {
    Seats(#[expect(dead_code, reason = "held, and given back when dropped")] flowcontrol::Ticket),
    Slot(#[expect(dead_code, reason = "held, and given back when dropped")] tokio::sync::SemaphorePermit<'a>),
    /// Long-running requests need none, except watches, while they begin.
    Free,
}

/// Whether a request is a list, or a watch that sends what there is before what changes.
fn begins_with_list(info: &RequestInfo) -> bool {
    match info.verb.as_str() {
        "list" => true,
        "watch" => {
            let initial = matches!(info.query.get("sendInitialEvents"), "true" | "1");
            initial || matches!(info.query.get("resourceVersion"), "" | "0")
        }
        _ => false,
    }
}

fn listed(server: &Server, info: &RequestInfo) -> Listed {
    Listed {
        objects: server.count(&info.group, &info.resource),
        bytes: server.bytes(&info.group, &info.resource),
        limit: info.query.get("limit").parse().unwrap_or(0),
        single: !info.name.is_empty(),
    }
}

async fn flow_control<'a>(
    server: &'a Server,
    info: &RequestInfo,
    attributes: &Attributes,
    notes: &Notes,
) -> Result<Place<'a>, Status> {
    let is_watch = info.verb == "watch";
    match &server.in_flight {
        InFlight::Fair(_) if info.is_long_running() && !is_watch => Ok(Place::Free),
        InFlight::Fair(filter) => {
            let request = filter.classify(attributes);
            // Nobody else writes the notes of this request.
            notes.flow.set(request.told.clone()).ok();
            let need = if begins_with_list(info) {
                let by_size = server.gates.has(Gate::SizeBasedListCostEstimate);
                Need::Seats(flowcontrol::seats_of_list(listed(server, info), by_size))
            } else if matches!(info.verb.as_str(), "create" | "update" | "patch" | "delete") {
                filter.need_of_write(info)
            } else {
                Need::Seats(1)
            };
            let begun = Instant::now();
            let waiting = WAITING.count(info);
            let ticket = filter.admit(request, need, attributes).await;
            drop(waiting);
            notes.audit.wait(begun.elapsed());
            if ticket.is_err() {
                notes.terminated.set(()).ok();
            }
            let ticket = ticket?;
            if is_watch && let Some(watched) = filter.watch(info) {
                // A request has its seats once.
                notes.watched.set(watched).ok();
            }
            Ok(Place::Seats(if is_watch { ticket.of_watch() } else { ticket }))
        }
        InFlight::Bounded { .. } if info.is_long_running() => Ok(Place::Free),
        InFlight::Bounded { reads, writes } => {
            let reading = matches!(info.verb.as_str(), "get" | "list" | "head" | "options");
            let limit = if reading { reads } else { writes };
            limit.try_acquire().map(Place::Slot).map_err(|_| {
                notes.terminated.set(()).ok();
                flowcontrol::refused()
            })
        }
    }
}

/// Whether the request may be served; of the permission to act as somebody nothing is noted, as upstream.
fn note_decision(word: &str, reason: String) {
    audit::annotate("authorization.k8s.io/decision", word);
    audit::annotate("authorization.k8s.io/reason", reason);
}

/// What a stage says that fails before the request reaches objects.
fn failed_before(uri: &Uri, why: &str) -> Status {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let said = response::sanitized(&format!("Internal Server Error: {target:?}: {why}"));
    Status::new(500, Reason::InternalError, said).in_plain_text()
}

async fn authorize(server: &Server, attributes: &Attributes, uri: &Uri) -> Result<(), Status> {
    let begun = Instant::now();
    let decision = server.authorizer.authorize(attributes).await;
    metrics::authorized(&decision, begun.elapsed());
    match decision {
        Decision::Allow(reason) => {
            note_decision("allow", reason);
            Ok(())
        }
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            note_decision("forbid", reason.clone());
            Err(forbidden(attributes, &reason))
        }
        Decision::Failed { error, .. } => {
            audit::annotate("authorization.k8s.io/reason", "internal error".to_owned());
            Err(failed_before(uri, &error))
        }
    }
}

/// The same for what is no request of its own.
async fn may(authorizer: &dyn Authorizer, attributes: &Attributes) -> Result<(), Status> {
    let decision = authorizer.authorize(attributes).await;
    decision.allowed().map(drop).map_err(|reason| forbidden(attributes, &reason))
}

/// The refusal of a request, or of what it would do.
pub(crate) fn forbidden(attributes: &Attributes, reason: &str) -> Status {
    let why = forbidden_message(attributes, reason);
    if attributes.is_resource {
        let resource = GroupName::new(attributes.group.as_str(), attributes.resource.as_str());
        return Status::forbidden(&resource, &attributes.name, &why);
    }
    Status::new(403, Reason::Forbidden, format!("forbidden: {why}")).with_details(Details::default())
}

async fn read_body(headers: &HeaderMap, body: Incoming) -> Result<Bytes, Status> {
    let too_large = || Status::too_large(format!("Request entity too large: limit is {MAX_BODY}"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|n| n > MAX_BODY) {
        return Err(too_large());
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Status::bad_request(format!("unable to read the request body: {error}"))),
    }
}

#[cfg(test)]
mod tests;
