//! Whether the servers behind APIServices work, which their `Available` condition tells, and what they serve.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use component_base::metrics::{self, Stability};
use futures::future::join_all;
use http::{Request, header};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use prometheus::{IntCounterVec, IntGaugeVec};
use serde_json::{Value, json};

use super::{
    Remote, Service, proxied,
    registration::API_SERVICES,
    service::{self, addresses, port_name, slices},
};
use crate::{
    object::Object,
    objects::{SERVICES, rfc3339},
    openapi::Described,
    proxy::dial::{self, Target},
    server::Server,
    status::Reason,
};

/// Time for a server to answer a check.
const CHECK: Duration = Duration::from_secs(5);
const MAX_LIST: usize = 8 << 20;

static UNAVAILABLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Whether an APIService is unavailable, by its name.";
    metrics::gauge_vec("aggregator_unavailable_apiservice", help, Stability::Alpha, &["name"])
});
static FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "APIServices that became unavailable, by name and reason.";
    metrics::counter_vec(
        "aggregator_unavailable_apiservice_total",
        help,
        Stability::Alpha,
        &["name", "reason"],
    )
});

/// What a check found: a condition without its time, and the resources served.
struct Found {
    status: &'static str,
    reason: &'static str,
    message: String,
    resources: Option<Vec<Value>>,
    /// Where the OpenAPI document of the group version is.
    openapi: String,
    /// What the server's Swagger document says of it.
    described: Option<Arc<Described>>,
}

fn found(status: &'static str, reason: &'static str, message: impl Into<String>) -> Found {
    Found {
        status,
        reason,
        message: message.into(),
        resources: None,
        openapi: String::new(),
        described: None,
    }
}

/// The condition of groups that this server serves itself.
pub(super) fn local(now: Timestamp) -> Value {
    let found = found("True", "Local", "Local APIServices are always available");
    condition(&found, None, now)
}

fn condition(found: &Found, old: Option<&Value>, now: Timestamp) -> Value {
    let since = old.filter(|c| c.get("status").and_then(Value::as_str) == Some(found.status));
    let since = since.and_then(|c| c.get("lastTransitionTime").cloned());
    json!({"type": "Available", "status": found.status, "reason": found.reason, "message": found.message,
        "lastTransitionTime": since.unwrap_or_else(|| rfc3339(now).into())})
}

/// Checks all APIServices, or only those that did not work, and replaces the remotes.
pub(super) async fn sync(server: &Arc<Server>, all: bool) {
    let listed = match server.objects.list(API_SERVICES, None).await {
        Ok(listed) => listed,
        Err(status) => return tracing::warn!(%status, "APIServices cannot be listed"),
    };
    for gone in server.aggregated.remotes.load().iter() {
        let name = format!("{}.{}", gone.version, gone.group);
        if !listed.iter().any(|service| service.name() == name) {
            // The error says that there is no such label, which is what is wanted.
            let _had_one = UNAVAILABLE.remove_label_values(&[name.as_str()]).is_ok();
        }
    }
    let checked = join_all(listed.iter().map(|service| one(server, service, all))).await;
    server.aggregated.remotes.store(Arc::new(checked.into_iter().flatten().map(Arc::new).collect()));
}

async fn one(server: &Arc<Server>, object: &Arc<Object>, all: bool) -> Option<Remote> {
    let Some(mut remote) = remote_of(server, object) else {
        tell(server, object, &found("True", "Local", "Local APIServices are always available")).await;
        return None;
    };
    let known = server.aggregated.remotes.load();
    let before = known.iter().find(|r| r.group == remote.group && r.version == remote.version);
    if let Some(before) = before {
        remote.is_available = before.is_available;
        remote.resources.clone_from(&before.resources);
        remote.openapi.clone_from(&before.openapi);
        remote.described.clone_from(&before.described);
        if !all && before.is_available && before.service == remote.service {
            return Some(remote);
        }
    }
    let found = check(server, &remote).await;
    remote.is_available = found.status == "True";
    if let Some(resources) = &found.resources {
        remote.resources.clone_from(resources);
        remote.openapi.clone_from(&found.openapi);
        remote.described.clone_from(&found.described);
    }
    tell(server, object, &found).await;
    Some(remote)
}

fn remote_of(server: &Server, object: &Object) -> Option<Remote> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
    object.pointer("/spec/service").filter(|s| s.is_object())?;
    let port = number("/spec/service/port").and_then(|p| u16::try_from(p).ok()).unwrap_or(443);
    let is_insecure = object.pointer("/spec/insecureSkipTLSVerify") == Some(&Value::Bool(true));
    let bundle = object.pointer("/spec/caBundle").and_then(Value::as_str);
    Some(Remote {
        group: text("/spec/group"),
        version: text("/spec/version"),
        group_priority: number("/spec/groupPriorityMinimum").unwrap_or(0),
        version_priority: number("/spec/versionPriority").unwrap_or(0),
        service: Service {
            namespace: text("/spec/service/namespace"),
            name: text("/spec/service/name"),
            port,
        },
        tls: server.aggregated.tls(bundle, is_insecure),
        is_available: false,
        resources: Vec::new(),
        openapi: String::new(),
        described: None,
    })
}

async fn check(server: &Arc<Server>, remote: &Remote) -> Found {
    let Service { namespace, name, port } = &remote.service;
    let service = match server.objects.get(SERVICES, namespace, name).await {
        Ok(Some(service)) => service,
        Ok(None) => {
            let why = format!("service/{name} in {namespace:?} is not present");
            return found("False", "ServiceNotFound", why);
        }
        Err(status) => {
            let why = format!("service/{name} in {namespace:?} cannot be checked due to: {status}");
            return found("Unknown", "ServiceAccessError", why);
        }
    };
    if let Some(found) = check_endpoints(server, remote, &service, *port).await {
        return found;
    }
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    match tokio::time::timeout(CHECK, ask(server, remote, &path)).await {
        Ok(Ok(list)) => {
            let resources = list.get("resources").and_then(Value::as_array).cloned().unwrap_or_default();
            let openapi = document(server, remote).await;
            let described = described(server, remote, &openapi).await;
            let found = found("True", "Passed", "all checks passed");
            Found { resources: Some(resources), openapi, described, ..found }
        }
        Ok(Err(why)) => found("False", "FailedDiscoveryCheck", why),
        Err(_) => found("False", "FailedDiscoveryCheck", format!("timed out waiting for {path}")),
    }
}

/// What is wrong with a service of type ClusterIP before it is even asked.
async fn check_endpoints(server: &Server, remote: &Remote, object: &Object, port: u16) -> Option<Found> {
    let Service { namespace, name, .. } = &remote.service;
    if !matches!(object.pointer("/spec/type").and_then(Value::as_str), None | Some("ClusterIP")) {
        return None;
    }
    let Some(port_name) = port_name(object, port) else {
        let why = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(found("False", "ServicePortError", why));
    };
    let slices = match slices(&*server.objects, namespace, name).await {
        Ok(slices) => slices,
        Err(status) => {
            let why = format!("service/{name} in {namespace:?} cannot be checked due to: {status}");
            return Some(found("Unknown", "EndpointsAccessError", why));
        }
    };
    if slices.is_empty() {
        let why = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(found("False", "EndpointsNotFound", why));
    }
    if slices.iter().all(|slice| addresses(slice, &port_name).is_empty()) {
        let why = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Some(found("False", "MissingEndpoints", why));
    }
    None
}

/// Where the server behind an APIService is now.
pub(super) async fn locate(server: &Server, remote: &Remote) -> Result<Target, String> {
    let Service { namespace, name, port } = &remote.service;
    let by_endpoint = server.aggregated.by_endpoint;
    let (host, port) = service::resolve(&*server.objects, by_endpoint, namespace, name, *port).await?;
    let server_name = Some(format!("{name}.{namespace}.svc"));
    let (tls, route) = (Some(remote.tls.clone()?), server.aggregated.route.clone());
    Ok(Target { host, port, tls, server_name, timeout: CHECK, route })
}

/// Where a server describes the group version; empty when it does not.
async fn document(server: &Arc<Server>, remote: &Remote) -> String {
    // Servers need no descriptions to work.
    let Ok(Ok(index)) = tokio::time::timeout(CHECK, ask(server, remote, "/openapi/v3")).await else {
        return String::new();
    };
    let path = format!("apis/{}/{}", remote.group, remote.version);
    let url = index["paths"][&path]["serverRelativeURL"].as_str().unwrap_or_default();
    // Any other path would lead elsewhere.
    if url.starts_with(&format!("/openapi/v3/{path}")) { url.to_owned() } else { String::new() }
}

/// What a server's Swagger document says of the group version: as before, while its newer document has the same address.
async fn described(server: &Arc<Server>, remote: &Remote, openapi: &str) -> Option<Arc<Described>> {
    if remote.is_available && remote.described.is_some() && remote.openapi == openapi {
        return remote.described.clone();
    }
    let document = tokio::time::timeout(CHECK, ask(server, remote, "/openapi/v2")).await.ok()?.ok()?;
    Described::of(&document, &remote.group, &remote.version).map(Arc::new)
}

/// What a server answers at a path, as JSON.
async fn ask(server: &Arc<Server>, remote: &Remote, path: &str) -> Result<Value, String> {
    let target = locate(server, remote).await?;
    let url = format!("https://{}{path}", target.authority());
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let mut request = Request::get(path)
        .header(header::HOST, target.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, component_base::version::user_agent("kube-apiserver"))
        .body(dial::empty())
        .map_err(|e| failed(e.to_string()))?;
    let aggregator = crate::auth::User {
        name: "system:kube-aggregator".to_owned(),
        groups: vec!["system:masters".to_owned()],
        ..crate::auth::User::default()
    };
    proxied::set_user(request.headers_mut(), &aggregator);
    let answer = target.request(request, &server.tasks).await.map_err(|error| {
        super::told(&error);
        failed(error.to_string())
    })?;
    let code = answer.response.status().as_u16();
    if !(200..300).contains(&code) {
        return Err(failed(format!("bad status from {url}: {code}")));
    }
    let body = Limited::new(answer.response.into_body(), MAX_LIST).collect().await;
    drop(answer.guard);
    let body = body.map_err(|e| failed(e.to_string()))?.to_bytes();
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

fn available(object: &Object) -> Option<&Value> {
    let all = object.pointer("/status/conditions").and_then(Value::as_array)?;
    all.iter().find(|c| c.get("type").and_then(Value::as_str) == Some("Available"))
}

/// Writes the condition if it is another one.
async fn tell(server: &Server, object: &Arc<Object>, found: &Found) {
    UNAVAILABLE.with_label_values(&[object.name()]).set(i64::from(found.status != "True"));
    if available(object).is_some_and(|old| condition(found, Some(old), Timestamp::UNIX_EPOCH) == *old) {
        return;
    }
    if found.status != "True" && available(object).is_none_or(|old| old.get("status") == Some(&"True".into()))
    {
        FAILURES.with_label_values(&[object.name(), found.reason]).inc();
    }
    for _ in 0..3 {
        let latest = match server.objects.get_latest(API_SERVICES, "", object.name()).await {
            Ok(Some(latest)) if latest.uid() == object.uid() => latest,
            Ok(_) => return,
            Err(status) => return tracing::warn!(%status, "the availability of an APIService is not written"),
        };
        let mut conditions =
            latest.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let at = conditions.iter().position(|c| c.get("type").and_then(Value::as_str) == Some("Available"));
        let old = at.and_then(|at| conditions.get(at));
        let new = condition(found, old, Timestamp::now());
        if old == Some(&new) {
            return;
        }
        match at.and_then(|at| conditions.get_mut(at)) {
            Some(place) => *place = new,
            None => conditions.push(new),
        }
        let mut next = (*latest).clone();
        next.set("status", json!({"conditions": conditions}));
        match server.objects.update(API_SERVICES, next).await {
            Err(status) if status.reason == Reason::Conflict => {}
            Err(status) => return tracing::warn!(%status, "the availability of an APIService is not written"),
            Ok(_) => return,
        }
    }
}
