//! A driver in the test's own process stands for one on the node; it mounts nothing, but keeps book.

use async_trait::async_trait;
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeError as AttachError};
use proto::csi::v1::{
    self as wire,
    node_server::{Node, NodeServer},
    node_service_capability::{Rpc, Type, rpc},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request as Call, Response, Status};

use super::*;
use crate::{api::FetchError, testing};

type Book = Arc<Mutex<Vec<String>>>;

struct Driver(Book);

impl Driver {
    fn note<T>(&self, text: String, answer: T) -> Result<Response<T>, Status> {
        let fails = text.contains("broken");
        self.0.lock().push(text);
        if fails { Err(Status::internal("no")) } else { Ok(Response::new(answer)) }
    }
}

#[async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        call: Call<NodeStageVolumeRequest>,
    ) -> Result<Response<wire::NodeStageVolumeResponse>, Status> {
        let call = call.into_inner();
        let context = call.publish_context.get("device").cloned().unwrap_or_default();
        self.note(format!("stage {} {context}", call.volume_id), wire::NodeStageVolumeResponse {})
    }
    async fn node_unstage_volume(
        &self,
        call: Call<NodeUnstageVolumeRequest>,
    ) -> Result<Response<wire::NodeUnstageVolumeResponse>, Status> {
        self.note(format!("unstage {}", call.into_inner().volume_id), wire::NodeUnstageVolumeResponse {})
    }
    async fn node_publish_volume(
        &self,
        call: Call<NodePublishVolumeRequest>,
    ) -> Result<Response<wire::NodePublishVolumeResponse>, Status> {
        let call = call.into_inner();
        let pod = call.volume_context.get("csi.storage.k8s.io/pod.name").cloned().unwrap_or_default();
        let block = matches!(
            call.volume_capability.as_ref().and_then(|c| c.access_type.as_ref()),
            Some(wire::volume_capability::AccessType::Block(_))
        );
        let staged = match (call.staging_target_path.is_empty(), block) {
            (true, _) => "",
            (false, false) => " staged",
            (false, true) => " staged device",
        };
        self.note(format!("publish {} {pod}{staged}", call.volume_id), wire::NodePublishVolumeResponse {})
    }
    async fn node_unpublish_volume(
        &self,
        call: Call<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<wire::NodeUnpublishVolumeResponse>, Status> {
        self.note(format!("unpublish {}", call.into_inner().volume_id), wire::NodeUnpublishVolumeResponse {})
    }
    async fn node_get_volume_stats(
        &self,
        _: Call<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<wire::NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn node_expand_volume(
        &self,
        call: Call<NodeExpandVolumeRequest>,
    ) -> Result<Response<wire::NodeExpandVolumeResponse>, Status> {
        let call = call.into_inner();
        let bytes = call.capacity_range.unwrap_or_default().required_bytes;
        self.note(format!("expand {} {bytes}", call.volume_id), wire::NodeExpandVolumeResponse::default())
    }
    async fn node_get_capabilities(
        &self,
        _: Call<wire::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<wire::NodeGetCapabilitiesResponse>, Status> {
        let one = |kind: rpc::Type| wire::NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind as i32 })),
        };
        let capabilities = vec![one(rpc::Type::StageUnstageVolume), one(rpc::Type::ExpandVolume)];
        Ok(Response::new(wire::NodeGetCapabilitiesResponse { capabilities }))
    }
    async fn node_get_info(
        &self,
        _: Call<wire::NodeGetInfoRequest>,
    ) -> Result<Response<wire::NodeGetInfoResponse>, Status> {
        Ok(Response::new(wire::NodeGetInfoResponse { node_id: "i-1".into(), ..Default::default() }))
    }
}

#[derive(Default)]
struct Objects {
    driver: CSIDriver,
    attached: Mutex<bool>,
    error: Mutex<Option<AttachError>>,
}

#[async_trait]
impl ObjectSource for Objects {
    async fn token(&self, _: &Pod, _: Option<&str>, _: i64) -> Result<String, FetchError> {
        Ok("t".into())
    }
    async fn csi_driver(&self, _: &str) -> Result<Option<Arc<CSIDriver>>, FetchError> {
        Ok(Some(Arc::new(self.driver.clone())))
    }
    async fn attachment(&self, _: &str) -> Result<Option<Arc<VolumeAttachment>>, FetchError> {
        let metadata = std::collections::BTreeMap::from([("device".to_owned(), "/dev/x".to_owned())]);
        let status = VolumeAttachmentStatus {
            attached: *self.attached.lock(),
            attachment_metadata: Some(metadata),
            attach_error: self.error.lock().clone(),
            ..VolumeAttachmentStatus::default()
        };
        Ok(Some(Arc::new(VolumeAttachment { status: Some(status), ..VolumeAttachment::default() })))
    }
}

struct Node1 {
    dir: tempfile::TempDir,
    book: Book,
    objects: Arc<Objects>,
    csi: Csi,
    tasks: component_base::task::Tasks,
}

impl Node1 {
    fn new(driver: CSIDriverSpec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (book, tasks) = (Book::default(), component_base::task::Tasks::new());
        let socket = dir.path().join("csi.sock");
        let listener = UnixListenerStream::new(tokio::net::UnixListener::bind(&socket).unwrap());
        let service = NodeServer::new(Driver(Arc::clone(&book)));
        tasks.spawn("driver", async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(listener)
                .await
                .unwrap();
        });
        let drivers = Arc::new(Drivers::new(None, "n"));
        drivers.add("d", socket);
        let objects = Arc::new(Objects {
            driver: CSIDriver { spec: driver, ..CSIDriver::default() },
            attached: Mutex::new(false),
            error: Mutex::default(),
        });
        let csi = Csi::new(drivers, objects.clone(), dir.path().to_owned(), "n");
        Self { dir, book, objects, csi, tasks }
    }

    fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.dir.path().join("pods").join(pod::uid(pod))
    }

    async fn set_up(&self, pod: &Pod, volume: &CsiVolume) -> Result<PathBuf, String> {
        let pod_dir = self.pod_dir(pod);
        let request = Request { pod, pod_dir: &pod_dir, volume, name: "v", read_only: false };
        self.csi.set_up(&request).await.map_err(|e| e.to_string())
    }

    async fn tear_down(&self, pod: &Pod) -> Result<(), String> {
        self.csi.tear_down(&self.pod_dir(pod)).await.map_err(|e| e.to_string())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.book.lock())
    }
}

fn volume(handle: &str) -> CsiVolume {
    CsiVolume {
        name: "pv1".into(),
        driver: "d".into(),
        handle: handle.into(),
        access_modes: vec!["ReadWriteOnce".into()],
        ..CsiVolume::default()
    }
}

#[tokio::test]
async fn a_node_that_can_attach_no_more_is_told_from_other_failures() {
    for (period, code, exhausted) in [
        (Some(60), Some(8), true),
        (None, Some(8), false),
        (Some(60), Some(13), false),
        (Some(60), None, false),
    ] {
        let spec =
            CSIDriverSpec { node_allocatable_update_period_seconds: period, ..CSIDriverSpec::default() };
        let node = Node1::new(spec);
        let message = Some("too many".to_owned());
        *node.objects.error.lock() =
            Some(AttachError { error_code: code, message, ..AttachError::default() });
        let pod = testing::pod("a").build();
        let dir = node.pod_dir(&pod);
        let request = Request { pod: &pod, pod_dir: &dir, volume: &volume("h"), name: "v", read_only: false };
        let failed = node.csi.set_up(&request).await.unwrap_err();
        assert_eq!(matches!(failed, VolumeError::Exhausted { .. }), exhausted, "{period:?} {code:?}");
        assert!(failed.to_string().ends_with("is not attached to the node: too many"), "{failed}");
        node.tasks.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_volume_is_staged_once_for_all_pods_and_unstaged_after_the_last() {
    let node = Node1::new(CSIDriverSpec { pod_info_on_mount: Some(true), ..CSIDriverSpec::default() });
    let (a, b) = (testing::pod("a").build(), testing::pod("b").build());
    assert!(node.set_up(&a, &volume("h")).await.unwrap_err().contains("not yet attached"));
    assert!(node.take().is_empty());
    *node.objects.attached.lock() = true;
    let path = node.set_up(&a, &volume("h")).await.unwrap();
    assert_eq!(path, node.pod_dir(&a).join("volumes/kubernetes.io~csi/pv1/mount"));
    node.set_up(&a, &volume("h")).await.unwrap();
    node.set_up(&b, &volume("h")).await.unwrap();
    assert_eq!(node.take(), ["stage h /dev/x", "publish h a staged", "publish h b staged"]);
    assert_eq!(node.csi.in_use(), ["kubernetes.io/csi/d^h"]);
    node.tear_down(&a).await.unwrap();
    assert_eq!(node.take(), ["unpublish h"]);
    node.tear_down(&b).await.unwrap();
    assert_eq!(node.take(), ["unpublish h", "unstage h"]);
    assert!(node.csi.in_use().is_empty());
    node.tear_down(&b).await.unwrap();
    assert!(node.take().is_empty());
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_restarted_kubelet_takes_away_what_no_pod_has() {
    let node = Node1::new(CSIDriverSpec { attach_required: Some(false), ..CSIDriverSpec::default() });
    let pod = testing::pod("a").build();
    node.set_up(&pod, &volume("h")).await.unwrap();
    node.csi.collect().await;
    assert_eq!(node.take(), ["stage h ", "publish h  staged"]);
    std::fs::remove_dir_all(node.pod_dir(&pod)).unwrap();
    let drivers = Arc::clone(&node.csi.drivers);
    let after = Csi::new(drivers, node.objects.clone(), node.dir.path().to_owned(), "n");
    after.collect().await;
    after.collect().await;
    assert_eq!(node.take(), ["unstage h"]);
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_block_volume_is_a_device() {
    let node = Node1::new(CSIDriverSpec { attach_required: Some(false), ..CSIDriverSpec::default() });
    let pod = testing::pod("a").build();
    let path = node.set_up(&pod, &CsiVolume { block: true, ..volume("h") }).await.unwrap();
    assert!(path.ends_with("kubernetes.io~csi/pv1/device"), "{path:?}");
    node.tear_down(&pod).await.unwrap();
    assert_eq!(node.take(), ["stage h ", "publish h  staged device", "unpublish h", "unstage h"]);
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn inline_volumes_are_neither_attached_nor_staged() {
    let modes = Some(vec!["Ephemeral".to_owned()]);
    let node = Node1::new(CSIDriverSpec { volume_lifecycle_modes: modes, ..CSIDriverSpec::default() });
    let pod = testing::pod("a").build();
    assert!(node.set_up(&pod, &volume("h")).await.unwrap_err().contains("\"Persistent\" not supported"));
    let inline = CsiVolume { ephemeral: true, ..volume("inline") };
    node.set_up(&pod, &inline).await.unwrap();
    assert!(node.csi.in_use().is_empty());
    node.tear_down(&pod).await.unwrap();
    assert_eq!(node.take(), ["publish inline ", "unpublish inline"]);
    node.tasks.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn what_a_driver_refuses_is_told_and_tried_again() {
    let node = Node1::new(CSIDriverSpec { attach_required: Some(false), ..CSIDriverSpec::default() });
    let pod = testing::pod("a").build();
    let error = node.set_up(&pod, &volume("broken")).await.unwrap_err();
    assert!(error.contains("code = Internal desc = no"), "{error}");
    assert!(node.set_up(&pod, &volume("broken")).await.is_err());
    assert_eq!(node.take().len(), 2);
    let foreign = CsiVolume { driver: "none".into(), ..volume("h") };
    let error = node.set_up(&pod, &foreign).await.unwrap_err();
    assert!(error.contains("driver name none not found in the list of registered CSI drivers"), "{error}");
    assert!(node.csi.expand(&volume("h"), Path::new("/p"), 42).await.unwrap());
    assert_eq!(node.take(), ["expand h 42"]);
    node.tasks.shutdown(Duration::ZERO).await;
}

#[test]
fn the_group_owns_files_where_the_driver_leaves_that_to_the_kubelet() {
    let with = |fs_type: &str, policy: Option<&str>| {
        let volume = CsiVolume { fs_type: fs_type.into(), ..volume("h") };
        let spec = CSIDriverSpec { fs_group_policy: policy.map(Into::into), ..CSIDriverSpec::default() };
        takes_group(&volume, &spec)
    };
    assert!(with("ext4", None) && !with("", None));
    assert!(with("", Some("File")) && !with("ext4", Some("None")));
}
