//! The request path: every stage a request passes, in order, in [`handle`].
//!
//! Contract: upstream's `server.DefaultBuildHandlerChain`.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::{
    aggregator,
    auth::{Attributes, Credentials, Decision, User},
    authz::forbidden_message,
    discovery, engine,
    flowcontrol::{self, Flow},
    health,
    negotiation::Media,
    proxy,
    request_path::info::RequestInfo,
    response::{self, Body},
    server::{InFlight, Server},
    status::{GroupName, Status},
};

pub mod info;

/// Largest request body, in bytes.
const MAX_BODY: usize = 3 * 1024 * 1024;
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const FLOW_SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// What the stages note for the answer, however it ends.
#[derive(Debug, Default)]
struct Notes {
    flow: OnceLock<Flow>,
}

/// What the connection knows of its peer.
#[derive(Debug, Default)]
pub struct Peer {
    /// Certificates in DER, leaf first; the chain is not checked yet.
    pub certificates: Vec<Vec<u8>>,
    /// Where it comes from.
    pub address: Option<IpAddr>,
}

/// Answers one request, whatever happens on the way.
pub async fn handle(
    server: Arc<Server>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let audit_id = audit_id(request.headers());
    let media = Media::of_failure(request.headers());
    let notes = Notes::default();
    let stages = std::panic::AssertUnwindSafe(stages(server, peer, request, &notes)).catch_unwind();
    let answer = stages.await.unwrap_or_else(|_| {
        tracing::error!("a request handler panicked");
        Err(Status::internal("This request caused apiserver to panic. Look in the logs for details."))
    });
    let mut response = answer.unwrap_or_else(|status| response::failure(&status, media));
    response.headers_mut().insert(AUDIT_ID, audit_id);
    notes.tell(response.headers_mut());
    Ok(response)
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
    notes: &Notes,
) -> Result<Response<Body>, Status> {
    let uri = request.uri();
    let info = RequestInfo::new(request.method(), uri.path(), uri.query().unwrap_or_default());
    let long = info.is_long_running();
    let timeout = if long { server.limits.timeout } else { deadline(&info, server.limits.timeout)? };
    let serving = async {
        let user = authenticate(&server, &peer, request.headers()).await?;
        if let Some(proxy) = &server.authentication.front_proxy {
            proxy.clear(request.headers_mut());
        }
        let user = impersonate(&server, user, request.headers()).await?;
        let attributes = info.attributes(&user);
        let _place = flow_control(&server, &info, &attributes, notes).await?;
        authorize(&server, &attributes).await?;
        route(server.clone(), info, &user, &peer, request).await
    };
    if long {
        return serving.await;
    }
    match tokio::time::timeout(timeout, serving).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::timeout("request did not complete within the allotted timeout")),
    }
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

async fn route(
    server: Arc<Server>,
    info: RequestInfo,
    user: &User,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    if let Some(remote) = server.aggregated.find(&info.path) {
        return aggregator::serve(server.clone(), &remote, info, user, peer, request).await;
    }
    if proxy::connects(&info) {
        return proxy::serve(server, info, user, peer, request).await;
    }
    let (http::request::Parts { headers, .. }, body) = request.into_parts();
    let body = read_body(&headers, body).await?;
    if info.is_resource {
        return engine::serve(server, info, user, headers, body).await;
    }
    if let Some(answer) = health::answer(&server, &info).await {
        return Ok(answer);
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
    discovery::answer(&catalog, &remotes, &info.path, &headers).unwrap_or_else(|| Err(Status::no_such_path()))
}

fn audit_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(AUDIT_ID) {
        Some(sent) if !sent.is_empty() && sent.len() <= 64 => sent.clone(),
        _ => HeaderValue::from_str(&uuid::Uuid::new_v4().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("")),
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

async fn authenticate(server: &Server, peer: &Peer, headers: &HeaderMap) -> Result<User, Status> {
    let names_users = server.authentication.front_proxy.is_some();
    let credentials = Credentials {
        peer_certificates: peer.certificates.clone(),
        bearer: bearer(headers),
        headers: if names_users { headers.clone() } else { HeaderMap::new() },
    };
    match server.authentication.authenticator.authenticate(&credentials).await {
        Ok(Some(user)) => Ok(user),
        Ok(None) if server.anonymous && credentials.bearer.is_none() => Ok(User::anonymous()),
        Ok(None) => Err(Status::unauthorized()),
        Err(why) => {
            tracing::warn!(why, "unable to authenticate the request");
            Err(Status::unauthorized())
        }
    }
}

/// Impersonation headers: every user, group, uid and extra value needs its own permission.
async fn impersonate(server: &Server, user: User, headers: &HeaderMap) -> Result<User, Status> {
    let one = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let wanted = one("impersonate-user");
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|v| Some(v.to_str().ok()?.to_owned()))
        .collect();
    let uid = one("impersonate-uid");
    let extra: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(name, value)| {
            let key = name.as_str().strip_prefix("impersonate-extra-")?;
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
            Some((key, value.to_str().ok()?.to_owned()))
        })
        .collect();
    if wanted.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        return Err(Status::internal("requested groups, uid or extra without impersonating a user"));
    }
    let mut checks = Vec::new();
    let mut target = User { name: wanted.clone(), uid: uid.clone(), groups, ..User::default() };
    match crate::authn::serviceaccount::split_username(&wanted) {
        Some((namespace, name)) => {
            checks.push(impersonation("", "serviceaccounts", "", namespace, name));
            if target.groups.is_empty() {
                target.groups =
                    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => checks.push(impersonation("", "users", "", "", &wanted)),
    }
    checks.extend(
        target
            .groups
            .iter()
            .filter(|_| headers.contains_key("impersonate-group"))
            .map(|g| impersonation("", "groups", "", "", g)),
    );
    if !uid.is_empty() {
        checks.push(impersonation("authentication.k8s.io", "uids", "", "", &uid));
    }
    for (key, value) in extra {
        checks.push(impersonation("authentication.k8s.io", "userextras", &key, "", &value));
        target.extra.entry(key).or_default().push(value);
    }
    for check in checks {
        authorize(server, &Attributes { user: user.clone(), ..check }).await?;
    }
    let base = if wanted == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !target.in_group(base) {
        target.groups.push(base.to_owned());
    }
    Ok(target)
}

fn impersonation(group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Attributes {
    Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        is_resource: true,
        ..Attributes::default()
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
            let seats = if info.verb == "list" && info.name.is_empty() {
                flowcontrol::seats_of_list(server.count(&info.group, &info.resource))
            } else {
                1
            };
            let ticket = filter.admit(request, seats).await?;
            Ok(Place::Seats(if is_watch { ticket.of_watch() } else { ticket }))
        }
        InFlight::Bounded { .. } if info.is_long_running() => Ok(Place::Free),
        InFlight::Bounded { reads, writes } => {
            let reading = matches!(info.verb.as_str(), "get" | "list" | "head" | "options");
            let limit = if reading { reads } else { writes };
            limit.try_acquire().map(Place::Slot).map_err(|_| flowcontrol::refused())
        }
    }
}

async fn authorize(server: &Server, attributes: &Attributes) -> Result<(), Status> {
    let reason = match server.authorizer.authorize(attributes).await {
        Decision::Allow(_) => return Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
    };
    let resource = GroupName::new(&attributes.group, &attributes.resource);
    let status = if attributes.is_resource {
        Status::forbidden(&resource, &attributes.name, &forbidden_message(attributes, &reason))
    } else {
        Status::new(
            403,
            crate::status::Reason::Forbidden,
            format!("forbidden: {}", forbidden_message(attributes, &reason)),
        )
        .with_details(crate::status::Details::default())
    };
    Err(status)
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
