//! A driver of volumes on a socket of the kubelet's folder of plugins: a volume is a folder of its own, mounted where the kubelet
//! asks for it, and everything that is asked is kept in a book.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use anyhow::Result;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proto::{
    csi::v1::{
        self as wire, NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
        NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
        NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
        NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest,
        NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, VolumeUsage,
        node_server::{Node, NodeServer},
        node_service_capability::{Rpc, Type, rpc},
    },
    pluginregistration::v1::registration_server::RegistrationServer,
};
use tonic::{Request, Response, Status, transport::Server};

use crate::served::{Identity, Served};

/// A running driver; it is gone when dropped.
#[derive(Debug)]
pub struct Driver {
    service: Service,
    _served: Served,
}

#[derive(Clone, Debug)]
struct Service {
    /// Where volumes are.
    store: PathBuf,
    most: Arc<AtomicI64>,
    book: Arc<Mutex<Vec<String>>>,
}

impl Driver {
    /// Serves in the kubelet's folder of plugins, where that finds it. Volumes are folders of `store`, and the node can attach
    /// `most` of them.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(folder: &Path, name: &str, store: &Path, most: i64) -> Result<Self> {
        let socket = folder.join(format!("{name}.sock"));
        let (most, book) = (Arc::new(AtomicI64::new(most)), Arc::default());
        let service = Service { store: store.to_owned(), most, book };
        let identity = Identity {
            kind: "CSIPlugin",
            name: name.to_owned(),
            socket: socket.clone(),
            versions: &["1.0.0"],
        };
        let server = Server::builder()
            .add_service(RegistrationServer::new(identity))
            .add_service(NodeServer::new(service.clone()));
        Ok(Self { service, _served: Served::start(&socket, server)? })
    }

    /// The node can attach as many from now on.
    pub fn set_most(&self, most: i64) {
        self.service.most.store(most, Ordering::Relaxed);
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<String> {
        self.service.book.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Service {
    fn note(&self, text: String) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn mount(&self, volume: &str, target: &str) -> std::io::Result<()> {
        let own = self.store.join(volume);
        fs::create_dir_all(&own)?;
        fs::create_dir_all(target)?;
        Ok(mount(Some(&own), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    }
}

fn failed(error: std::io::Error) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl Node for Service {
    async fn node_stage_volume(
        &self,
        call: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let call = call.into_inner();
        let device = call.publish_context.get("device").cloned().unwrap_or_default();
        self.note(format!("stage {} {device}", call.volume_id));
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        call: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        self.note(format!("unstage {}", call.into_inner().volume_id));
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        call: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let call = call.into_inner();
        let of = |key: &str| call.volume_context.get(key).cloned().unwrap_or_default();
        let inline = of("csi.storage.k8s.io/ephemeral") == "true";
        let volume = if inline { "inline" } else { &call.volume_id };
        self.mount(volume, &call.target_path).map_err(failed)?;
        self.note(format!("publish {volume} to {}", of("csi.storage.k8s.io/pod.name")));
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        call: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let call = call.into_inner();
        // What is not mounted any more has been unpublished.
        if umount2(call.target_path.as_str(), MntFlags::empty()).is_ok() {
            fs::remove_dir(&call.target_path).map_err(failed)?;
        }
        self.note(format!("unpublish {}", call.volume_id));
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let usage = VolumeUsage { available: 3 << 20, total: 8 << 20, used: 5 << 20, unit: 1 };
        Ok(Response::new(NodeGetVolumeStatsResponse { usage: vec![usage], ..Default::default() }))
    }

    async fn node_expand_volume(
        &self,
        call: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let call = call.into_inner();
        let bytes = call.capacity_range.unwrap_or_default().required_bytes;
        self.note(format!("expand {} to {bytes}", call.volume_id));
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let one =
            |kind: rpc::Type| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind as i32 })) };
        let all = [rpc::Type::StageUnstageVolume, rpc::Type::ExpandVolume, rpc::Type::GetVolumeStats];
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: all.map(one).into() }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: "i-1".to_owned(),
            max_volumes_per_node: self.most.load(Ordering::Relaxed),
            accessible_topology: Some(wire::Topology::default()),
        }))
    }
}
