use std::{collections::HashMap, pin::Pin};

use async_trait::async_trait;
use proto::dra::v1::{
    Device as WireDevice, NodePrepareResourceResponse, NodePrepareResourcesRequest,
    NodePrepareResourcesResponse, NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest,
    NodeUnprepareResourcesResponse,
    dra_plugin_server::{DraPlugin, DraPluginServer},
};
use proto::drahealth::v1alpha1::{
    DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest, NodeWatchResourcesResponse,
    dra_resource_health_server::{DraResourceHealth, DraResourceHealthServer},
};
use serde_json::json;
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status};

use super::*;
use crate::{
    plugin::{Introduction, PluginKind as _},
    testing,
};

/// A driver that tells what it was asked for, and fails when it is told to.
#[derive(Default)]
struct Fake {
    calls: Mutex<Vec<String>>,
    refuse: Mutex<Option<&'static str>>,
}

#[async_trait]
impl DraPlugin for Fake {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            self.calls.lock().push(format!("+{}", claim.name));
            let mut answer = NodePrepareResourceResponse::default();
            match *self.refuse.lock() {
                Some("skip") => continue,
                Some(error) => answer.error = error.to_owned(),
                None => {
                    for request in ["small", "large"] {
                        answer.devices.push(WireDevice {
                            request_names: vec![request.to_owned()],
                            pool_name: "pool".into(),
                            device_name: request.to_owned(),
                            cdi_device_ids: vec![format!("example/{}={request}", claim.name)],
                            share_id: None,
                        });
                    }
                }
            }
            claims.insert(claim.uid, answer);
        }
        Ok(Response::new(NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let error = self.refuse.lock().unwrap_or_default().to_owned();
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            self.calls.lock().push(format!("-{}", claim.name));
            claims.insert(claim.uid, NodeUnprepareResourceResponse { error: error.clone() });
        }
        Ok(Response::new(NodeUnprepareResourcesResponse { claims }))
    }
}

#[async_trait]
impl DraResourceHealth for Fake {
    type NodeWatchResourcesStream =
        Pin<Box<dyn Stream<Item = Result<NodeWatchResourcesResponse, Status>> + Send>>;
    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        let place = DeviceIdentifier { pool_name: "pool".into(), device_name: "small".into() };
        let health = HealthStatus::Unhealthy.into();
        let small =
            DeviceHealth { device: Some(place), health, message: "hot".into(), ..DeviceHealth::default() };
        let word = NodeWatchResourcesResponse { devices: vec![small] };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(word)).chain(tokio_stream::pending()))))
    }
}

/// An API server with claims and nothing else.
#[derive(Default)]
struct Objects(Mutex<HashMap<String, ResourceClaim>>);

#[async_trait]
impl ObjectSource for Objects {
    async fn resource_claim(&self, _: &str, name: &str) -> Result<Option<Arc<ResourceClaim>>, FetchError> {
        Ok(self.0.lock().get(name).cloned().map(Arc::new))
    }
}

/// A claim of that name, uid `uid-<name>`, with a device of the driver, reserved for pods.
fn claim(name: &str, pods: &[&str]) -> ResourceClaim {
    let consumers: Vec<_> =
        pods.iter().map(|p| json!({"resource": "pods", "name": p, "uid": format!("uid-{p}")})).collect();
    let result = json!({"request": "small", "driver": "driver.example", "pool": "pool", "device": "small"});
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
        "spec": {},
        "status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": consumers},
    }))
    .unwrap()
}

/// A pod whose container names the request of the claim; an empty one is all of it.
fn pod(name: &str, claim: &str, request: &str) -> Pod {
    let named = json!({"claims": [{"name": "own", "request": request}]});
    testing::pod(name)
        .container("c")
        .resources(named)
        .with(|p| {
            let own = json!([{"name": "own", "resourceClaimName": claim}]);
            p.spec.as_mut().unwrap().resource_claims = Some(serde_json::from_value(own).unwrap());
        })
        .build()
}

struct Node {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
    objects: Arc<Objects>,
    drivers: Arc<Drivers>,
    claims: Claims,
    tasks: Arc<Tasks>,
}

impl Node {
    /// A kubelet with the driver registered.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tasks, fake) = (Arc::new(Tasks::new()), Arc::new(Fake::default()));
        let socket = dir.path().join("driver.sock");
        let listener = UnixListenerStream::new(tokio::net::UnixListener::bind(&socket).unwrap());
        let server =
            tonic::transport::Server::builder().add_service(DraPluginServer::from_arc(Arc::clone(&fake)));
        let server = server.add_service(DraResourceHealthServer::from_arc(Arc::clone(&fake)));
        tasks.spawn("driver", async move { server.serve_with_incoming(listener).await.unwrap() });
        let drivers = Arc::new(Drivers::new(None, "n", Arc::clone(&tasks)));
        drivers.register(&introduction(&socket, "v1.DRAPlugin")).await.unwrap();
        let objects = Arc::new(Objects::default());
        let source: Arc<dyn ObjectSource> = Arc::clone(&objects) as Arc<dyn ObjectSource>;
        let claims = Claims::new(Arc::clone(&drivers), source, dir.path()).unwrap();
        Self { dir, fake, objects, drivers, claims, tasks }
    }

    fn put(&self, claim: ResourceClaim) {
        self.objects.0.lock().insert(claim.metadata.name.clone().unwrap(), claim);
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.calls.lock())
    }

    /// The same folder with another kubelet.
    fn restarted(&self) -> Claims {
        let source: Arc<dyn ObjectSource> = Arc::clone(&self.objects) as Arc<dyn ObjectSource>;
        Claims::new(Arc::clone(&self.drivers), source, self.dir.path()).unwrap()
    }
}

fn introduction(socket: &Path, version: &str) -> Introduction {
    Introduction {
        kind: "DRAPlugin".into(),
        name: "driver.example".into(),
        endpoint: socket.to_owned(),
        versions: vec![version.into()],
    }
}

fn first(pod: &Pod) -> &Container {
    &pod.spec.as_ref().unwrap().containers[0]
}

#[tokio::test]
async fn a_claim_is_prepared_once_and_taken_back_with_its_last_pod() {
    let node = Node::start().await;
    node.put(claim("c", &["a", "b"]));
    let (a, b) = (pod("a", "c", "small"), pod("b", "c", ""));
    assert!(matches!(node.claims.devices(&a, first(&a)), Err(ClaimError::NotPrepared(_))));
    for pod in [&a, &b, &a] {
        node.claims.prepare(pod).await.unwrap();
    }
    assert_eq!(node.calls(), ["+c"]);
    assert_eq!(node.claims.devices(&a, first(&a)).unwrap(), ["example/c=small"]);
    assert_eq!(node.claims.devices(&b, first(&b)).unwrap(), ["example/c=large", "example/c=small"]);
    node.claims.unprepare("uid-a").await.unwrap();
    node.claims.unprepare("uid-a").await.unwrap();
    assert!(node.calls().is_empty());
    node.claims.unprepare("uid-b").await.unwrap();
    assert_eq!(node.calls(), ["-c"]);
    assert!(node.restarted().state.lock().pods().is_empty());
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn statuses_say_how_devices_are() {
    let node = Node::start().await;
    node.put(claim("c", &["a", "b"]));
    let (a, b) = (pod("a", "c", "small/special"), pod("b", "c", ""));
    let of = |pod: &Pod| {
        let mut all = node.claims.statuses(pod, first(pod), Timestamp::now());
        all.pop().map(|one| {
            let text = |h: &k8s_openapi::api::core::v1::ResourceHealth| {
                let (health, message) = (h.health.clone().unwrap(), h.message.clone().unwrap_or_default());
                format!("{} {health} {message}", h.resource_id)
            };
            (one.name, one.resources.unwrap().iter().map(text).collect::<Vec<_>>())
        })
    };
    assert_eq!(of(&a), None, "it is not ready");
    node.claims.prepare(&a).await.unwrap();
    node.drivers.health().changed(Timestamp::now).await;
    let small = "example/c=small Unhealthy hot".to_owned();
    assert_eq!(of(&a), Some(("claim:own/small/special".into(), vec![small.clone()])));
    let large = "example/c=large Unknown ".to_owned();
    assert_eq!(of(&b), Some(("claim:own".into(), vec![small, large.clone()])));
    node.drivers.deregister(&introduction(&node.dir.path().join("driver.sock"), "v1.DRAPlugin")).await;
    node.drivers.health().changed(Timestamp::now).await;
    assert_eq!(of(&b).unwrap().1[0], "example/c=small Unknown ");
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_restarted_kubelet_knows_the_devices_and_sweeps_up() {
    let node = Node::start().await;
    node.put(claim("c", &["a"]));
    let a = pod("a", "c", "");
    node.claims.prepare(&a).await.unwrap();
    let next = node.restarted();
    assert_eq!(next.devices(&a, first(&a)).unwrap().len(), 2);
    next.prepare(&a).await.unwrap();
    assert_eq!(node.calls(), ["+c", "+c"], "a new sandbox has the driver look again");
    next.sweep(|_| true).await;
    assert!(node.calls().is_empty());
    *node.fake.refuse.lock() = Some("busy");
    next.sweep(|_| false).await;
    *node.fake.refuse.lock() = None;
    next.sweep(|_| false).await;
    assert_eq!(node.calls(), ["-c", "-c"], "what failed is tried again");
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn what_a_driver_refuses_is_told_and_tried_again() {
    let node = Node::start().await;
    node.put(claim("c", &["a"]));
    let a = pod("a", "c", "");
    for (refuse, expected) in [
        ("no power", "NodePrepareResources failed for ResourceClaim c: no power"),
        ("skip", "NodePrepareResources skipped 1 ResourceClaims"),
    ] {
        *node.fake.refuse.lock() = Some(refuse);
        assert_eq!(node.claims.prepare(&a).await.unwrap_err().to_string(), expected);
    }
    assert!(node.restarted().state.lock().pods().contains("uid-a"), "it is known to be taken back");
    *node.fake.refuse.lock() = None;
    node.claims.prepare(&a).await.unwrap();
    assert_eq!(node.calls(), ["+c", "+c", "+c"]);
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_pod_that_may_not_have_the_claim_leaves_nothing_behind() {
    let node = Node::start().await;
    let template = |status: serde_json::Value| {
        let mut pod = pod("a", "c", "");
        let own = json!([{"name": "own", "resourceClaimTemplateName": "t"}]);
        pod.spec.as_mut().unwrap().resource_claims = Some(serde_json::from_value(own).unwrap());
        pod.status = Some(serde_json::from_value(json!({ "resourceClaimStatuses": status })).unwrap());
        pod
    };
    node.put(claim("c", &["a"]));
    node.put(claim("other", &["b"]));
    let mut waiting = claim("waiting", &["a"]);
    waiting.status.as_mut().unwrap().allocation = None;
    node.put(waiting);
    for (pod, expected) in [
        (pod("a", "none", ""), "\"none\" not found"),
        (pod("a", "other", ""), "not allowed to use ResourceClaim other (uid-other)"),
        (pod("a", "waiting", ""), "ResourceClaim waiting: not allocated"),
        (template(json!([])), "not created yet"),
        (
            template(json!([{"name": "own", "resourceClaimName": "c"}])),
            "ResourceClaim ns/c was not created for Pod ns/a (Pod is not the owner)",
        ),
    ] {
        let error = node.claims.prepare(&pod).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // A template that made no claim needs none.
    node.claims.prepare(&template(json!([{"name": "own"}]))).await.unwrap();
    node.drivers.deregister(&introduction(&node.dir.path().join("driver.sock"), "")).await;
    let error = node.claims.prepare(&pod("a", "c", "")).await.unwrap_err().to_string();
    assert_eq!(error, "DRA driver driver.example is not registered");
    assert!(node.calls().is_empty() && node.restarted().state.lock().pods().is_empty());
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn of_two_sockets_the_later_is_called_and_an_unknown_version_refused() {
    let node = Node::start().await;
    node.put(claim("c", &["a"]));
    let next = node.dir.path().join("next.sock");
    let refused = node.drivers.register(&introduction(&next, "v1alpha3.Node")).await.unwrap_err();
    assert!(refused.contains("v1alpha3.Node"), "{refused}");
    node.drivers.register(&introduction(&next, "v1beta1.DRAPlugin")).await.unwrap();
    let a = pod("a", "c", "");
    assert!(node.claims.prepare(&a).await.is_err(), "nobody serves there");
    node.drivers.deregister(&introduction(&next, "")).await;
    node.claims.prepare(&a).await.unwrap();
    assert_eq!(node.calls(), ["+c"]);
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn without_room_to_write_it_down_no_driver_is_called() {
    let node = Node::start().await;
    node.put(claim("c", &["a"]));
    // As on a full disk: the next version of the file cannot be made.
    let blocked = node.dir.path().join(state::FILE).with_extension("next");
    std::fs::create_dir(&blocked).unwrap();
    let a = pod("a", "c", "");
    let error = node.claims.prepare(&a).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot write down the claims"), "{error}");
    assert!(node.calls().is_empty() && node.restarted().state.lock().pods().is_empty());
    std::fs::remove_dir(&blocked).unwrap();
    node.claims.prepare(&a).await.unwrap();
    assert_eq!(node.calls(), ["+c"]);
    node.tasks.shutdown(Duration::ZERO).await;
}

#[test]
fn claims_of_groups_are_pods_where_the_gate_is_on() {
    let mut a = testing::pod("a").build();
    a.spec.as_mut().unwrap().scheduling_group = serde_json::from_value(json!({"podGroupName": "g"})).unwrap();
    let of_group = |name: &str, group: &str| {
        let mut claim = claim("c", &[]);
        let owner = json!([{"apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup", "name": name, "uid": "u",
            "controller": true}]);
        claim.metadata.owner_references = serde_json::from_value(owner).unwrap();
        let consumer = json!([{"apiGroup": group, "resource": "podgroups", "name": name, "uid": "u"}]);
        claim.status.as_mut().unwrap().reserved_for = serde_json::from_value(consumer).unwrap();
        claim
    };
    let judge = |claim: &ResourceClaim, grouped| {
        usable(&a, claim, true, grouped).map(|drivers| drivers.len()).map_err(|e| e.to_string())
    };
    let own = of_group("g", "scheduling.k8s.io");
    assert_eq!(judge(&own, true), Ok(1));
    let not = |who: &str| Err(format!("ResourceClaim ns/c was not created for Pod ns/a ({who} the owner)"));
    assert_eq!(judge(&own, false), not("Pod is not"));
    assert_eq!(judge(&of_group("other", "scheduling.k8s.io"), true), not("neither Pod nor PodGroup g is"));
    let elsewhere = judge(&of_group("g", "example.com"), true).unwrap_err();
    assert!(elsewhere.contains("is not allowed to use"), "{elsewhere}");
}

#[test]
fn a_container_has_what_it_asked_for_of_the_claim_of_extended_resources() {
    let container = |name: &str, asks: &str| json!({"name": name, "resources": {"requests": {asks: "1"}, "limits": {asks: "1"}}});
    let mapping = |container: &str, request: &str| json!({"containerName": container, "resourceName": "example.com/gpu", "requestName": request});
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "a", "namespace": "ns", "uid": "uid-a"},
        "spec": {"containers": [container("x", "example.com/gpu"), container("y", "cpu")]},
        "status": {"extendedResourceClaimStatus": {"resourceClaimName": "made",
            "requestMappings": [mapping("x", "container-0-request-0"), mapping("y", "container-1-request-0")]}},
    }))
    .unwrap();
    let of = |at: usize| requests(&pod, &pod::containers(&pod)[at]).unwrap();
    assert_eq!(of(0), BTreeMap::from([("made".to_owned(), vec!["container-0-request-0".to_owned()])]));
    assert!(of(1).is_empty(), "it asks for none");
}
