//! The API server that the harness runs controllers against: JSON over the client's own request type, no socket.
//!
//! It disturbs the controllers it is told to, once, at a write they make or at a change there is. Every watch that
//! begins shows the changes there are and goes on with those to come.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use crate::store::{
    CONFLICT, Change, Key, NOT_FOUND, Part, RESOURCES, Refusal, Resource, Store, api_version, merge,
};

/// How long a server that lags shows nothing new.
const LAG: Duration = Duration::from_secs(3);
/// How many changes a server is behind that a controller is connected to anew.
const BEHIND: usize = 3;

/// What goes wrong, once in a run. Writes are those of the controllers that are disturbed, from nought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed just before the write reaches the server.
    KilledBefore(usize),
    /// The process is killed before it learns that the write was done.
    KilledAfter(usize),
    /// The write is done, and the connection breaks before the answer.
    Unanswered(usize),
    /// Somebody else was faster and has changed the object that is written to.
    Conflict(usize),
    /// No watch shows this change, whoever made it.
    Hidden(usize),
    /// For a while nobody is shown the write and what comes after it, neither by lists nor by watches.
    Lagging(usize),
    /// All connections break after the write, and for a while the server they are made to anew is some changes behind.
    Older(usize),
    /// The process is killed before it learns that the write was done, and the one after it is connected to a server
    /// that is some changes behind for a while.
    KilledOlder(usize),
    /// Lists and watches show objects that do not decode.
    Broken,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    writes: usize,
    fault: Option<Fault>,
    /// Watches that began earlier end.
    epoch: usize,
    /// How much of the history is seen until when.
    lag: Option<(usize, Instant)>,
}

/// The server.
#[derive(Debug)]
pub(crate) struct Api {
    state: Mutex<State>,
    /// The version.
    changed: watch::Sender<usize>,
    now: Box<dyn component_base::clock::Clock>,
}

/// A process as the server sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// Whether faults are for it.
    pub(crate) disturbed: bool,
    dead: Arc<AtomicBool>,
    died: Arc<tokio::sync::Notify>,
    /// The epoch in which it last listed each selection: a watch that goes on from an earlier one has expired.
    listed: Arc<Mutex<HashMap<Selection, usize>>>,
}

impl Caller {
    pub(crate) fn new(disturbed: bool) -> Caller {
        Caller { disturbed, ..Caller::default() }
    }

    /// Returns once the process is to be killed.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }

    /// Nothing that it does any more reaches the server.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.died.notify_one();
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What a request asks for.
struct Target {
    resource: &'static Resource,
    namespace: String,
    name: String,
    subresource: String,
}

impl Target {
    fn parse(path: &str) -> Option<Target> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let group = match parts.next()? {
            "api" => "",
            _ => parts.next()?,
        };
        let version = parts.next()?;
        let rest: Vec<&str> = parts.collect();
        let (namespace, rest) = match &rest[..] {
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", &rest[..]),
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            _ => ("", &rest[..]),
        };
        let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
        let plural = part(0);
        let found = |r: &&Resource| r.group == group && r.version == version && r.plural == plural;
        Some(Target {
            resource: RESOURCES.iter().find(found)?,
            namespace: namespace.to_owned(),
            name: part(1),
            subresource: part(2),
        })
    }

    fn key(&self) -> Key {
        Key { resource: self.resource, namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// What a list or a watch selects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Selection {
    resource: &'static Resource,
    namespace: String,
    labels: String,
    fields: String,
}

impl Selection {
    fn takes(&self, key: &Key, object: &Value) -> bool {
        key.resource == self.resource
            && (self.namespace.is_empty() || key.namespace == self.namespace)
            && requirements(&self.labels).all(|r| holds(r, |name| object["metadata"]["labels"].get(name)))
            && requirements(&self.fields)
                .all(|r| holds(r, |path| object.pointer(&format!("/{}", path.replace('.', "/")))))
    }
}

fn requirements(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|part| !part.is_empty())
}

/// One requirement of a selector: `a=b`, `a!=b`, `a`, `!a`.
fn holds<'v>(requirement: &str, value: impl Fn(&str) -> Option<&'v Value>) -> bool {
    let text = |name: &str| value(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some((name, wanted)) = requirement.split_once("!=") {
        return text(name) != wanted;
    }
    if let Some((name, wanted)) = requirement.split_once('=') {
        return text(name) == wanted.trim_start_matches('=');
    }
    match requirement.strip_prefix('!') {
        Some(name) => value(name).is_none(),
        None => value(requirement).is_some(),
    }
}

impl Api {
    pub(crate) fn new(now: impl component_base::clock::Clock + 'static) -> Arc<Api> {
        Arc::new(Api { state: Mutex::default(), changed: watch::channel(0).0, now: Box::new(now) })
    }

    /// What shall go wrong.
    pub(crate) fn disturb(&self, fault: Option<Fault>) {
        self.state.lock().fault = fault;
    }

    /// Looks at the store or changes it, as somebody else than a controller.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Store, &str) -> T) -> T {
        let now = self.now();
        let mut state = self.state.lock();
        let out = act(&mut state.store, &now);
        let version = state.store.version();
        drop(state);
        self.tell(version);
        out
    }

    /// Writes the disturbed controllers made so far.
    pub(crate) fn writes(&self) -> usize {
        self.state.lock().writes
    }

    /// Ends all watches if a change is hidden, so that those who watched list anew. Whether one was.
    pub(crate) fn show_hidden(&self) -> bool {
        let mut state = self.state.lock();
        let version = state.store.version();
        if !matches!(state.fault, Some(Fault::Hidden(at)) if at < version) {
            return false;
        }
        state.fault = None;
        state.epoch += 1;
        drop(state);
        self.changed.send_modify(|_| {});
        true
    }

    /// A receiver of versions.
    pub(crate) fn versions(&self) -> watch::Receiver<usize> {
        self.changed.subscribe()
    }

    fn tell(&self, version: usize) {
        self.changed.send_if_modified(|seen| std::mem::replace(seen, version) != version);
    }

    fn now(&self) -> String {
        self.now.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// A client of a process.
    pub(crate) fn client(self: &Arc<Api>, caller: Caller) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (api, caller) = (api.clone(), caller.clone());
            async move { api.serve(&caller, request).await }
        });
        kube::Client::new(service, "default")
    }

    async fn serve(self: Arc<Api>, caller: &Caller, request: Request<Body>) -> Result<Answer, io::Error> {
        if caller.is_dead() {
            return std::future::pending().await;
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let path = parts.uri.path();
        if matches!(path, "/api" | "/apis") {
            return Ok(answer(200, &discovery(path == "/api")));
        }
        // Events and reviews are no objects here.
        if path.ends_with("/events") {
            return Ok(answer(201, &serde_json::from_slice(&body).unwrap_or_default()));
        }
        if path.ends_with("/subjectaccessreviews") {
            let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
            review["status"] = json!({"allowed": true});
            return Ok(answer(201, &review));
        }
        let query = |name: &str| {
            let pairs = parts.uri.query().unwrap_or_default().split('&').filter_map(|p| p.split_once('='));
            let found = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next();
            found.map(|v| percent_decode_str(v).decode_utf8_lossy().into_owned()).unwrap_or_default()
        };
        if let Some(document) = self.described(path, &query("labelSelector")) {
            return Ok(answer(200, &document));
        }
        let Some(target) = Target::parse(path) else { return Ok(refused(NOT_FOUND)) };
        if parts.method == Method::GET {
            let selection = Selection {
                resource: target.resource,
                namespace: target.namespace.clone(),
                labels: query("labelSelector"),
                fields: query("fieldSelector"),
            };
            if query("watch") == "true" {
                return Ok(self.watch(caller, selection, &query("resourceVersion")));
            }
            return Ok(self.read(caller, &target, &selection));
        }
        let content = parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let fault = self.fault_of_write(caller, target.resource);
        match fault {
            Some(Fault::KilledBefore(_)) => {
                caller.kill();
                return std::future::pending().await;
            }
            Some(Fault::Lagging(_)) => {
                let mut state = self.state.lock();
                state.lag = Some((state.store.version(), Instant::now() + LAG));
            }
            Some(Fault::Conflict(_)) => drop(self.with(|store, _| store.touch(&target.key()))),
            _ => {}
        }
        let result = self.write(&parts.method, &target, content.unwrap_or_default(), body);
        match fault {
            Some(Fault::KilledAfter(_)) => {
                caller.kill();
                std::future::pending().await
            }
            Some(Fault::KilledOlder(_)) => {
                caller.kill();
                self.connect_to_older();
                std::future::pending().await
            }
            Some(Fault::Older(_)) => {
                self.connect_to_older();
                Ok(finish(result))
            }
            Some(Fault::Unanswered(_)) => Err(io::Error::new(io::ErrorKind::ConnectionReset, "disturbed")),
            _ => Ok(finish(result)),
        }
    }

    /// Documents that are no objects: the resources of a group, the schemas of one, and what pods use.
    fn described(&self, path: &str, labels: &str) -> Option<Value> {
        match path {
            "/apis/apps/v1" => {
                Some(json!({"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": [
                {"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
                    "verbs": ["get"]}]}))
            }
            "/openapi/v3/apis/apps/v1" => {
                Some(json!({"components": {"schemas": {"Deployment": {"type": "object",
                "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Deployment"}],
                "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}}}))
            }
            "/apis/metrics.k8s.io/v1beta1/namespaces/d/pods" => Some(self.usage(labels)),
            _ => None,
        }
    }

    /// What running pods use: each its share of the load that their replica set's annotation tells.
    fn usage(&self, labels: &str) -> Value {
        let pods = Selection {
            resource: Target::parse("/api/v1/pods").map(|t| t.resource).unwrap(),
            namespace: "d".into(),
            labels: labels.to_owned(),
            fields: String::new(),
        };
        let now = self.now();
        self.with(|store, _| {
            let load = store.all().find_map(|(_, object)| object["metadata"]["annotations"]["load"].as_str());
            let load: usize = load.and_then(|text| text.trim_end_matches('m').parse().ok()).unwrap_or(0);
            let running =
                |(key, pod): &(&Key, &Value)| pods.takes(key, pod) && pod["status"]["phase"] == "Running";
            let names: Vec<&String> = store.all().filter(running).map(|(key, _)| &key.name).collect();
            let share = format!("{}m", load / names.len().max(1));
            let item = |name: &&String| {
                json!({"metadata": {"name": name, "namespace": "d"}, "timestamp": &now, "window": "30s",
                    "containers": [{"name": "c", "usage": {"cpu": &share}}]})
            };
            json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1",
                "items": names.iter().map(item).collect::<Vec<_>>()})
        })
    }

    /// Ends all watches, and shows an older view to those that come.
    fn connect_to_older(&self) {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.lag = Some((state.store.version().saturating_sub(BEHIND), Instant::now() + LAG));
        drop(state);
        self.changed.send_modify(|_| {});
    }

    /// The fault there is for this write, which is then no more.
    fn fault_of_write(&self, caller: &Caller, resource: &Resource) -> Option<Fault> {
        if !caller.disturbed || resource.plural == "leases" {
            return None;
        }
        let mut state = self.state.lock();
        let number = state.writes;
        state.writes += 1;
        let at = match state.fault? {
            Fault::KilledBefore(at)
            | Fault::KilledAfter(at)
            | Fault::Unanswered(at)
            | Fault::Conflict(at)
            | Fault::Lagging(at)
            | Fault::Older(at)
            | Fault::KilledOlder(at) => at,
            Fault::Hidden(_) | Fault::Broken => return None,
        };
        if at == number { state.fault.take() } else { None }
    }

    fn write(&self, method: &Method, target: &Target, content: &str, body: Value) -> Result<Value, Refusal> {
        let key = target.key();
        let (part, now) = (part_of(&target.subresource), self.now());
        self.with(|store, _| match (method.as_str(), target.name.is_empty()) {
            ("POST", true) => store.create(target.resource, &target.namespace, body, &now),
            ("PUT", false) if target.subresource == "scale" => {
                let mut next = store.get(&key).cloned().ok_or(NOT_FOUND)?;
                next["spec"]["replicas"] = body["spec"]["replicas"].clone();
                store.replace(&key, Part::Main, next).map(|object| scale_of(&object))
            }
            ("PUT", false) => store.replace(&key, part, body),
            ("PATCH", false) => {
                let mut next = store.get(&key).cloned().ok_or(NOT_FOUND)?;
                merge(&mut next, &body, content != "application/merge-patch+json");
                store.replace(&key, part, next)
            }
            ("DELETE", false) => {
                let old = store.get(&key).ok_or(NOT_FOUND)?;
                let wanted = &body["preconditions"];
                let differs = |name: &str| wanted[name].is_string() && wanted[name] != old["metadata"][name];
                if differs("uid") || differs("resourceVersion") {
                    return Err(CONFLICT);
                }
                let at_once = body["gracePeriodSeconds"] == 0;
                store.delete(&key, body["propagationPolicy"].as_str(), at_once, &now)
            }
            ("DELETE", true) => {
                let mine = |k: &&Key| k.resource == key.resource && k.namespace == key.namespace;
                let all: Vec<Key> = store.all().map(|(k, _)| k).filter(mine).cloned().collect();
                for key in all {
                    store.delete(&key, body["propagationPolicy"].as_str(), false, &now)?;
                }
                Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            _ => Err(NOT_FOUND),
        })
    }

    fn read(&self, caller: &Caller, target: &Target, selection: &Selection) -> Answer {
        let state = self.state.lock();
        if !target.name.is_empty() {
            return match state.store.get(&target.key()) {
                Some(object) if target.subresource == "scale" => answer(200, &scale_of(object)),
                Some(object) => answer(200, object),
                None => refused(NOT_FOUND),
            };
        }
        let version = state.seen();
        caller.listed.lock().insert(selection.clone(), state.epoch);
        let mut items: Vec<Value> = state
            .store
            .at(version)
            .into_iter()
            .filter(|(k, o)| selection.takes(k, o))
            .map(|(_, o)| o)
            .collect();
        // Who lists a namespace means to act on all there is in it.
        if state.fault == Some(Fault::Broken) && selection.namespace.is_empty() {
            items.push(broken(selection.resource));
        }
        answer(
            200,
            &json!({
                "kind": format!("{}List", selection.resource.kind), "apiVersion": api_version(selection.resource),
                "metadata": {"resourceVersion": version.to_string()}, "items": items,
            }),
        )
    }

    fn watch(self: Arc<Api>, caller: &Caller, selection: Selection, from: &str) -> Answer {
        let next = from.parse().unwrap_or(0);
        let epoch = caller.listed.lock().get(&selection).copied().unwrap_or(0);
        let changed = self.changed.subscribe();
        let watching = Watching { api: self, selection, next, epoch, changed, ended: false };
        let frames = stream::unfold(watching, |mut watching| async move {
            watching.more().await.map(|lines| (lines, watching))
        });
        stream(frames.map(Bytes::from))
    }
}

impl State {
    /// How much of the history readers see now.
    fn seen(&self) -> usize {
        match self.lag {
            Some((version, until)) if Instant::now() < until => version,
            _ => self.store.version(),
        }
    }

    fn hides(&self, at: usize) -> bool {
        self.fault == Some(Fault::Hidden(at))
    }
}

struct Watching {
    api: Arc<Api>,
    selection: Selection,
    next: usize,
    epoch: usize,
    changed: watch::Receiver<usize>,
    ended: bool,
}

impl Watching {
    /// The next lines, once there are some; none at the end.
    async fn more(&mut self) -> Option<String> {
        loop {
            if self.ended {
                return None;
            }
            self.changed.borrow_and_update();
            let (lines, until) = self.read();
            if !lines.is_empty() {
                return Some(lines);
            }
            let change = self.changed.changed();
            // Whether something changed or the time came: what there is to read is looked at again.
            match until {
                Some(until) => drop(tokio::time::timeout_at(until, change).await),
                None => drop(change.await),
            }
        }
    }

    fn read(&mut self) -> (String, Option<Instant>) {
        let state = self.api.state.lock();
        if state.epoch != self.epoch {
            self.ended = true;
            let status = status_of(Refusal { code: 410, reason: "Expired", cause: None });
            return (line("ERROR", &status), None);
        }
        let mut out = String::new();
        let seen = state.seen();
        while self.next < seen {
            let at = self.next;
            self.next += 1;
            if !state.hides(at) {
                out.push_str(&self.tells(&state.store.history[..=at]));
            }
        }
        (out, state.lag.map(|(_, until)| until).filter(|until| Instant::now() < *until))
    }

    /// What the last of these changes is to those who watch a selection.
    fn tells(&self, history: &[Change]) -> String {
        let Some((change, before)) = history.split_last() else { return String::new() };
        let old = before.iter().rev().find(|c| c.key == change.key).filter(|c| c.what != "DELETED");
        let was = old.is_some_and(|c| self.selection.takes(&c.key, &c.object));
        let is = self.selection.takes(&change.key, &change.object) && change.what != "DELETED";
        match (was, is) {
            (false, true) => line("ADDED", &change.object),
            (true, true) => line("MODIFIED", &change.object),
            (true, false) => line("DELETED", &change.object),
            (false, false) => String::new(),
        }
    }
}

fn line(what: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": what, "object": object}))
}

fn part_of(subresource: &str) -> Part {
    match subresource {
        "status" | "approval" => Part::Status,
        "finalize" => Part::Finalize,
        _ => Part::Main,
    }
}

fn scale_of(object: &Value) -> Value {
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": object["metadata"],
        "spec": {"replicas": object["spec"]["replicas"]}, "status": {"replicas": object["status"]["replicas"]},
    })
}

/// An object that no type of its kind decodes.
fn broken(resource: &Resource) -> Value {
    let mut meta = json!({"name": "broken", "uid": "broken", "resourceVersion": "1", "labels": 7});
    if resource.namespaced {
        meta["namespace"] = "d".into();
    }
    json!({"kind": resource.kind, "apiVersion": api_version(resource), "metadata": meta})
}

fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Answer {
    let body = StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk))));
    Response::new(UnsyncBoxBody::new(body))
}

fn answer(code: u16, value: &Value) -> Answer {
    let mut response = stream(stream::iter([Bytes::from(value.to_string())]));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

fn finish(result: Result<Value, Refusal>) -> Answer {
    match result {
        Ok(object) => answer(200, &object),
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: Refusal) -> Answer {
    answer(refusal.code, &status_of(refusal))
}

fn status_of(refusal: Refusal) -> Value {
    let causes: Vec<Value> = refusal.cause.iter().map(|reason| json!({"reason": reason})).collect();
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": refusal.code,
        "reason": refusal.reason, "message": refusal.reason, "details": {"causes": causes},
    })
}

/// What is served (`apidiscovery.k8s.io/v2`).
fn discovery(core: bool) -> Value {
    const SCALED: [&str; 4] = ["deployments", "replicasets", "statefulsets", "replicationcontrollers"];
    let mut groups: Vec<&str> = RESOURCES.iter().map(|r| r.group).filter(|g| g.is_empty() == core).collect();
    groups.dedup();
    let described = |r: &Resource| {
        let subresources: Vec<Value> =
            SCALED.iter().filter(|s| **s == r.plural).map(|_| json!({"subresource": "scale"})).collect();
        json!({
            "resource": r.plural, "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
            "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            "subresources": subresources,
        })
    };
    let item = |group: &str| {
        let mine: Vec<&Resource> = RESOURCES.iter().filter(|r| r.group == group).collect();
        let mut versions: Vec<&str> = mine.iter().map(|r| r.version).collect();
        versions.sort_unstable();
        versions.dedup();
        let one = |version: &str| {
            let resources = mine.iter().filter(|r| r.version == version).map(|r| described(r));
            json!({"version": version, "freshness": "Current", "resources": resources.collect::<Vec<_>>()})
        };
        json!({"metadata": {"name": group}, "versions": versions.into_iter().map(one).collect::<Vec<_>>()})
    };
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "items": groups.into_iter().map(item).collect::<Vec<_>>()})
}
