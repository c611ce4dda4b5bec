//! A device plugin on a socket of the kubelet's folder, which registers itself and tells of its devices whatever a test
//! says.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use proto::{
    deviceplugin::v1beta1::{
        AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DevicePluginOptions, Empty,
        ListAndWatchResponse, PreStartContainerRequest, PreStartContainerResponse,
        PreferredAllocationRequest, PreferredAllocationResponse, RegisterRequest,
        device_plugin_server::{DevicePlugin, DevicePluginServer},
        registration_client::RegistrationClient,
    },
    podresources::v1::{ListPodResourcesRequest, pod_resources_lister_client::PodResourcesListerClient},
    pods::v1alpha1::{EventType, WatchPodsRequest, pods_client::PodsClient},
};
use tokio::{net::UnixStream, sync::watch};
use tokio_stream::wrappers::WatchStream;
use tonic::{
    Request, Response, Status,
    codegen::BoxStream,
    transport::{Channel, Endpoint, Server, Uri},
};

use crate::served::Served;

/// Devices and how they are.
pub type Devices = BTreeMap<String, &'static str>;

/// A running plugin; it is gone when dropped.
#[derive(Debug)]
pub struct Plugin {
    devices: watch::Sender<Devices>,
    _served: Served,
}

#[derive(Clone)]
struct Service(watch::Receiver<Devices>);

impl Plugin {
    /// Serves in the kubelet's folder of device plugins and registers there.
    ///
    /// # Errors
    /// When the socket cannot be made, or the kubelet does not take it.
    pub fn start(folder: &Path, resource: &str, devices: Devices) -> Result<Self> {
        let socket = folder.join(format!("{}.sock", resource.replace('/', "-")));
        let (sender, receiver) = watch::channel(devices);
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let server = Server::builder().add_service(DevicePluginServer::new(Service(receiver)));
        let served = Served::start(&socket, server)?;
        let name = socket.file_name().context("a name")?.to_string_lossy().into_owned();
        served.block_on(register(folder.join("kubelet.sock"), name, resource.to_owned()))?;
        Ok(Self { devices: sender, _served: served })
    }

    /// A device is otherwise from now on.
    pub fn set(&self, device: &str, health: &'static str) {
        self.devices.send_modify(|all| {
            all.insert(device.to_owned(), health);
        });
    }
}

/// Which devices containers have, as the kubelet tells agents of the node on this socket: `namespace/pod/container`, resource
/// and device.
///
/// # Errors
/// When nobody answers.
pub fn listed(socket: &Path) -> Result<Vec<(String, String, String)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pods = runtime.block_on(async {
        let mut client = PodResourcesListerClient::new(connect(socket.to_owned()).await?);
        anyhow::Ok(client.list(ListPodResourcesRequest {}).await?.into_inner().pod_resources)
    })?;
    let mut all = Vec::new();
    for pod in pods {
        for container in pod.containers {
            let whose = format!("{}/{}/{}", pod.namespace, pod.name, container.name);
            for of in container.devices {
                let one = |id| (whose.clone(), of.resource_name.clone(), id);
                all.extend(of.device_ids.into_iter().map(one));
            }
        }
    }
    Ok(all)
}

/// The pods that the kubelet tells programs of the node of on this socket, until it says that this is all: how many messages
/// of pods, and whether one of them has this uid in it.
///
/// # Errors
/// When nobody answers.
pub fn told(socket: &Path, uid: &str) -> Result<(usize, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = PodsClient::new(connect(socket.to_owned()).await?);
        let mut events = client.watch_pods(WatchPodsRequest {}).await?.into_inner();
        let (mut count, mut found) = (0, false);
        while let Some(event) = events.message().await? {
            if event.r#type() == EventType::InitialSyncComplete {
                return Ok((count, found));
            }
            count += 1;
            found |= event.pod.windows(uid.len()).any(|part| part == uid.as_bytes());
        }
        anyhow::bail!("the pods end before all of them were told of")
    })
}

async fn connect(socket: PathBuf) -> Result<Channel> {
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://kubelet").connect_with_connector(connect).await?)
}

async fn register(kubelet: PathBuf, endpoint: String, resource_name: String) -> Result<()> {
    let channel = connect(kubelet).await?;
    let version = "v1beta1".to_owned();
    let request = RegisterRequest { version, endpoint, resource_name, options: None };
    RegistrationClient::new(channel).register(request).await?;
    Ok(())
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = BoxStream<ListAndWatchResponse>;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let told = |devices: Devices| {
            let one = |(id, health): (String, &str)| Device { id, health: health.to_owned(), topology: None };
            Ok(ListAndWatchResponse { devices: devices.into_iter().map(one).collect() })
        };
        Ok(Response::new(Box::pin(WatchStream::new(self.0.clone()).map(told))))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("not offered"))
    }

    async fn allocate(
        &self,
        question: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let one = |devices: Vec<String>| ContainerAllocateResponse {
            envs: [("DEVICES".to_owned(), devices.join(","))].into(),
            ..ContainerAllocateResponse::default()
        };
        let asked = question.into_inner().container_requests;
        let container_responses = asked.into_iter().map(|asked| one(asked.devices_ids)).collect();
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
