//! A plugin in the test's own process stands for one on the node.

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use component_base::task::Tasks;
use proto::deviceplugin::v1beta1::{
    self as wire, DeviceSpec, Empty, RegisterRequest,
    device_plugin_server::{DevicePlugin, DevicePluginServer},
    registration_client::RegistrationClient,
};
use serde_json::json;
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status};

use super::*;
use crate::testing::{self, at};

struct Plugin {
    started: Arc<Mutex<Vec<Vec<String>>>>,
}

#[async_trait]
impl DevicePlugin for Plugin {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }
    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<wire::ListAndWatchResponse, Status>> + Send>>;
    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let report = wire::ListAndWatchResponse { devices: devices() };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(report)).chain(tokio_stream::pending()))))
    }
    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<wire::PreferredAllocationResponse>, Status> {
        let mut ids = request.into_inner().container_requests[0].available_device_i_ds.clone();
        ids.reverse();
        let response = wire::ContainerPreferredAllocationResponse { device_i_ds: ids };
        Ok(Response::new(wire::PreferredAllocationResponse { container_responses: vec![response] }))
    }
    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<wire::AllocateResponse>, Status> {
        let ids = request.into_inner().container_requests[0].devices_ids.clone();
        let answer = ContainerAllocateResponse {
            envs: [("IDS".to_owned(), ids.join(","))].into(),
            devices: vec![DeviceSpec {
                container_path: "/dev/x".into(),
                host_path: "/dev/null".into(),
                permissions: "rw".into(),
            }],
            ..Default::default()
        };
        Ok(Response::new(wire::AllocateResponse { container_responses: vec![answer] }))
    }
    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<wire::PreStartContainerResponse>, Status> {
        self.started.lock().push(request.into_inner().devices_ids);
        Ok(Response::new(wire::PreStartContainerResponse {}))
    }
}

fn devices() -> Vec<Device> {
    let one = |id: &str, health: &str| Device { id: id.into(), health: health.into(), topology: None };
    vec![one("a", "Healthy"), one("b", "Healthy"), one("c", "Unhealthy"), one("d", "Healthy")]
}

const GPU: &str = "example.com/gpu";

fn pod(name: &str, counts: &[(&str, i64)]) -> Pod {
    let mut builder = testing::pod(name);
    for (container, _) in counts {
        builder = if container.starts_with("init") {
            builder.init(container)
        } else {
            builder.container(container)
        };
    }
    builder
        .with(|p| {
            let spec = p.spec.as_mut().unwrap();
            let all = spec.init_containers.iter_mut().flatten().chain(spec.containers.iter_mut());
            for container in all {
                let count = counts.iter().find(|(n, _)| *n == container.name).unwrap().1;
                container.resources =
                    serde_json::from_value(json!({ "limits": { GPU: count.to_string(), "cpu": "1" } }))
                        .unwrap();
            }
        })
        .build()
}

/// Gives all containers of a pod their devices.
async fn allocate(all: &Devices, pod: &Pod) -> Result<(), DeviceError> {
    for (_, container) in pod::all_containers(pod) {
        all.allocate(pod, &container, None).await?;
    }
    Ok(())
}

fn serve(folder: &Path, tasks: &Tasks) -> Arc<Mutex<Vec<Vec<String>>>> {
    let started = Arc::new(Mutex::new(Vec::new()));
    let service = DevicePluginServer::new(Plugin { started: Arc::clone(&started) });
    let listener = UnixListenerStream::new(tokio::net::UnixListener::bind(folder.join("gpu.sock")).unwrap());
    tasks.spawn("plugin", async move {
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(listener).await.unwrap();
    });
    started
}

#[tokio::test]
async fn devices_are_given_kept_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let started = serve(dir.path(), &tasks);
    let all = Devices::new(dir.path().to_owned());
    let options = DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
    let turn = all.registered(GPU, dir.path().join("gpu.sock"), options);
    all.reported(GPU, turn, devices());
    assert_eq!(all.capacity(at(0))[GPU], (4, 3));
    let first = pod("first", &[("init", 2), ("c", 2)]);
    allocate(&all, &first).await.unwrap();
    // The plugin would rather give the last ones, and the init container's are the regular one's afterwards.
    assert_eq!(all.granted("uid-first", "init").envs["IDS"], "b,d");
    assert_eq!(all.granted("uid-first", "c").envs["IDS"], "b,d");
    assert_eq!(all.granted("uid-first", "c").nodes, [("/dev/x".into(), "/dev/null".into(), "rw".into())]);
    let second = pod("second", &[("c", 2)]);
    let error = allocate(&all, &second).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1"
    );
    let health = |all: &Devices| {
        let of = all.statuses("uid-first", "c").remove(0);
        assert_eq!(of.name, GPU);
        let text =
            |h: &ResourceHealth| format!("{}={}", h.resource_id, h.health.as_deref().unwrap_or_default());
        of.resources.unwrap().iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(health(&all), ["b=Healthy", "d=Healthy"]);
    let mut worse = devices();
    worse[3].health = "Unhealthy".into();
    all.reported(GPU, turn, worse);
    assert_eq!(health(&all), ["b=Healthy", "d=Unhealthy"]);
    all.reported(GPU, turn, devices());
    assert!(all.statuses("uid-first", "other").is_empty());
    all.before_start("uid-first", "c").await.unwrap();
    assert_eq!(*started.lock(), [["b", "d"]]);
    let listed = all.of_pod(&first);
    assert_eq!(listed.containers.len(), 1);
    assert_eq!(listed.containers[0].devices.len(), 2);
    // A restarted kubelet knows what was given before any plugin is back.
    let after = Devices::new(dir.path().to_owned());
    assert_eq!(after.granted("uid-first", "c").envs["IDS"], "b,d");
    assert_eq!(health(&after), ["b=Healthy", "d=Healthy"], "nobody tells otherwise");
    assert_eq!(after.capacity(Timestamp::now())[GPU], (0, 0));
    assert!(after.is_in_doubt("uid-first") && !after.is_in_doubt("uid-second"));
    let refused = |of: &'static str| format!("{of}; cannot allocate unhealthy devices {GPU}");
    let error = allocate(&after, &first).await.unwrap_err();
    assert_eq!(error.to_string(), refused("no healthy devices present"));
    let turn = after.registered(GPU, dir.path().join("gpu.sock"), options);
    let mut worse = devices();
    worse[3].health = "Unhealthy".into();
    after.reported(GPU, turn, worse);
    let error = allocate(&after, &first).await.unwrap_err();
    assert_eq!(error.to_string(), refused("previously allocated devices are no longer healthy"));
    after.runs("uid-first");
    assert!(!after.is_in_doubt("uid-first"));
    allocate(&after, &first).await.unwrap();
    let error = allocate(&after, &pod("first", &[("init", 3)])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pod \"uid-first\" container \"init\" changed request for resource \"example.com/gpu\" from 2 to 3"
    );
    after.reported(GPU, turn, vec![]);
    assert!(matches!(allocate(&after, &second).await, Err(DeviceError::Unhealthy(_))));
    all.release("uid-first");
    allocate(&all, &second).await.unwrap();
    tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_plugin_registers_and_its_devices_count_a_while_after_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Arc::new(Tasks::new());
    let all = Arc::new(Devices::new(dir.path().to_owned()));
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("old.sock")).unwrap());
    registration::run(Arc::clone(&all), &tasks).unwrap();
    assert!(!dir.path().join("old.sock").exists());
    serve(dir.path(), &tasks);
    let mut client = RegistrationClient::new(channel(&dir.path().join("kubelet.sock")));
    let mut request = RegisterRequest {
        version: "v1alpha".into(),
        endpoint: "gpu.sock".into(),
        resource_name: GPU.into(),
        options: None,
    };
    assert!(client.register(request.clone()).await.unwrap_err().message().contains("not supported"));
    request.version = "v1beta1".into();
    client.register(request).await.unwrap();
    while all.capacity(Timestamp::now())[GPU] != (4, 3) {
        tokio::task::yield_now().await;
    }
    all.left(GPU, at(0));
    assert_eq!(all.capacity(at(1))[GPU], (4, 0));
    assert_eq!(all.capacity(at(301))[GPU], (0, 0));
    tasks.shutdown(Duration::ZERO).await;
}

#[test]
fn what_the_pod_has_comes_first_then_what_the_plugin_likes() {
    let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
    let likes = ["x".to_owned(), "z".to_owned()];
    let none = set(&[]);
    assert_eq!(choose("r", 2, &set(&["q"]), &set(&["a", "z"]), &none, &likes), Ok(set(&["q", "z"])));
    assert_eq!(choose("r", 3, &set(&["q"]), &set(&["a", "z"]), &none, &likes), Ok(set(&["a", "q", "z"])));
    let few = DeviceError::TooFew { resource: "r".into(), wanted: 3, free: 2 };
    let (free, close) = (set(&["a", "b", "y", "z"]), set(&["b", "y"]));
    assert_eq!(choose("r", 1, &none, &free, &close, &likes), Ok(set(&["b"])), "near the memory before liked");
    assert_eq!(choose("r", 3, &none, &free, &close, &likes), Ok(set(&["b", "y", "z"])));
    assert_eq!(choose("r", 4, &set(&["q"]), &set(&["a", "z"]), &none, &[]), Err(few));
}

#[test]
fn hints_tell_near_which_memory_devices_could_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let all = Devices::new(dir.path().to_owned());
    let turn = all.registered(GPU, dir.path().join("x.sock"), DevicePluginOptions::default());
    let device = |id: &str, nodes: &[i64]| Device {
        id: id.into(),
        health: "Healthy".into(),
        topology: Some(wire::TopologyInfo {
            nodes: nodes.iter().map(|id| wire::NumaNode { id: *id }).collect(),
        }),
    };
    let pods = [pod("one", &[("c", 1)]), pod("two", &[("c", 2)]), pod("three", &[("init", 3), ("c", 1)])];
    let hints = |pod: &Pod| {
        let text = |h: &Hint| format!("{}{}", h.nodes.unwrap(), if h.preferred { "!" } else { "" });
        let of_pod = all.pod_hints(pod)[GPU].clone();
        of_pod.map(|list| list.iter().map(text).collect::<Vec<_>>())
    };
    all.reported(GPU, turn, devices());
    assert_eq!(hints(&pods[0]), None, "they do not tell where they are");
    all.reported(GPU, turn, vec![device("a", &[0]), device("b", &[2]), device("c", &[2])]);
    assert_eq!(hints(&pods[0]).unwrap(), ["0!", "2!", "0,2"]);
    assert_eq!(hints(&pods[1]).unwrap(), ["2!", "0,2"]);
    assert_eq!(hints(&pods[2]).unwrap(), ["0,2!"], "the init container's need is the largest");
    all.reported(
        GPU,
        turn,
        vec![device("a", &[0]), Device { health: "Unhealthy".into(), ..device("b", &[2]) }],
    );
    assert_eq!(hints(&pods[1]).unwrap(), [] as [String; 0]);
    assert_eq!(all.hints(&pods[0], &pod::containers(&pods[0])[0])[GPU].as_ref().map(Vec::len), Some(2));
    assert!(all.pod_hints(&testing::pod("none").container("c").build()).is_empty());
}

#[test]
fn a_damaged_file_is_as_none_and_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["", "{\"Data\": {\"PodDeviceEntries\": [{\"PodUID\": ", "[]", "{\"Checksum\": 7}"] {
        std::fs::write(dir.path().join(state::FILE), text).unwrap();
        let devices = Devices::new(dir.path().to_owned());
        assert_eq!(devices.granted("uid-a", "c"), Granted::default(), "{text:?}");
        assert!(devices.capacity(at(0)).is_empty());
        devices.registered("example.com/x", dir.path().join("x.sock"), DevicePluginOptions::default());
        let after = Devices::new(dir.path().to_owned());
        assert_eq!(after.capacity(at(0)).into_keys().collect::<Vec<_>>(), ["example.com/x"]);
    }
}

#[test]
fn what_comes_out_of_a_claim_is_asked_of_no_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let all = Devices::new(dir.path().to_owned());
    all.state.lock().resources.insert(GPU.to_owned(), Resource::default());
    let mut pod = pod("a", &[("c", 1)]);
    let wanted = |pod: &Pod| all.wanted(pod, &pod::containers(pod)[0]).len();
    assert_eq!(wanted(&pod), 1);
    let mapping = serde_json::json!({"containerName": "c", "resourceName": GPU, "requestName": "r"});
    pod.status = serde_json::from_value(serde_json::json!({"extendedResourceClaimStatus":
        {"resourceClaimName": "made", "requestMappings": [mapping]}}))
    .unwrap();
    assert_eq!(wanted(&pod), 0);
}
