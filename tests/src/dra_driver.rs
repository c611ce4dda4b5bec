//! A driver of dynamic resources on a socket of the kubelet's folder of plugins: it makes any claim ready and tells how its
//! devices are, whatever a test says.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use futures::StreamExt;
use proto::{
    dra::v1::{
        Device, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
        NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
        dra_plugin_server::{DraPlugin, DraPluginServer},
    },
    drahealth::v1alpha1::{
        DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest, NodeWatchResourcesResponse,
        dra_resource_health_server::{DraResourceHealth, DraResourceHealthServer},
    },
    pluginregistration::v1::registration_server::RegistrationServer,
};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, codegen::BoxStream, transport::Server};

use crate::served::{Identity, Served};

const VERSIONS: &[&str] = &["v1.DRAPlugin", "v1alpha1.DRAResourceHealth"];

/// How devices are, and what is said of that.
pub type Devices = BTreeMap<String, (HealthStatus, &'static str)>;

/// A running driver; it is gone when dropped.
#[derive(Debug)]
pub struct Driver {
    devices: watch::Sender<Devices>,
    _served: Served,
}

#[derive(Clone)]
struct Service {
    pool: Arc<str>,
    devices: watch::Receiver<Devices>,
    counts: Duration,
}

impl Driver {
    /// Serves in the kubelet's folder of plugins, where that finds it. Every claim gets the first device of the pool. What is
    /// told of devices `counts` so long, and is told again only when it changes.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(folder: &Path, name: &str, pool: &str, devices: Devices, counts: Duration) -> Result<Self> {
        let socket = folder.join(format!("{name}.sock"));
        let (sender, receiver) = watch::channel(devices);
        let service = Service { pool: Arc::from(pool), devices: receiver, counts };
        let identity =
            Identity { kind: "DRAPlugin", name: name.to_owned(), socket: socket.clone(), versions: VERSIONS };
        let server = Server::builder()
            .add_service(RegistrationServer::new(identity))
            .add_service(DraPluginServer::new(service.clone()))
            .add_service(DraResourceHealthServer::new(service));
        Ok(Self { devices: sender, _served: Served::start(&socket, server)? })
    }

    /// A device is otherwise from now on.
    pub fn set(&self, device: &str, health: HealthStatus, message: &'static str) {
        self.devices.send_modify(|all| {
            all.insert(device.to_owned(), (health, message));
        });
    }
}

#[tonic::async_trait]
impl DraPlugin for Service {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let first = self.devices.borrow().keys().next().cloned().unwrap_or_default();
        let device = Device {
            pool_name: self.pool.to_string(),
            device_name: first,
            request_names: vec![],
            cdi_device_ids: vec![],
            share_id: None,
        };
        let answer = NodePrepareResourceResponse { devices: vec![device], error: String::new() };
        let claims = request.into_inner().claims.into_iter().map(|claim| (claim.uid, answer.clone()));
        Ok(Response::new(NodePrepareResourcesResponse { claims: claims.collect() }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims.into_iter();
        let claims: HashMap<_, _> =
            claims.map(|claim| (claim.uid, NodeUnprepareResourceResponse::default())).collect();
        Ok(Response::new(NodeUnprepareResourcesResponse { claims }))
    }
}

#[tonic::async_trait]
impl DraResourceHealth for Service {
    type NodeWatchResourcesStream = BoxStream<NodeWatchResourcesResponse>;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        let (pool, seconds) = (self.pool.clone(), i64::try_from(self.counts.as_secs()).unwrap_or(i64::MAX));
        let told = move |devices: Devices| {
            let one = |(device_name, (health, message)): (String, (HealthStatus, &str))| DeviceHealth {
                device: Some(DeviceIdentifier { pool_name: pool.to_string(), device_name }),
                health: health.into(),
                health_check_timeout_seconds: seconds,
                message: message.to_owned(),
                ..DeviceHealth::default()
            };
            Ok(NodeWatchResourcesResponse { devices: devices.into_iter().map(one).collect() })
        };
        Ok(Response::new(Box::pin(WatchStream::new(self.devices.clone()).map(told))))
    }
}
