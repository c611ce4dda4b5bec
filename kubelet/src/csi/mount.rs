//! How a driver's volume gets to a pod and leaves it again.
//!
//! Every call is idempotent by contract, so a round that failed half-way is simply made again. Calls for one volume never
//! overlap, whichever pods they are for.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use component_base::grpc::code_name;
use k8s_openapi::api::{
    core::v1::{Pod, SecretReference},
    storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachmentStatus},
};
use parking_lot::Mutex;
use proto::csi::v1::{
    CapacityRange, NodeExpandVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, VolumeCondition,
    VolumeUsage, node_client::NodeClient,
};
use serde_json::json;

use super::{
    CsiVolume,
    driver::{self, Capabilities, Drivers},
    measured::Measured,
    record::{self, Record},
    sha, texts,
};
use crate::{
    api::ObjectSource,
    pod,
    volume::{VolumeError, is_mount_point, ownership},
};

/// How long a driver may take for one call.
const PATIENCE: Duration = Duration::from_secs(120);
/// gRPC's code of a driver that cannot attach more: `RESOURCE_EXHAUSTED`.
const EXHAUSTED: i32 = 8;
/// How long a service account's token holds when the driver does not say.
const TOKEN_SECONDS: i64 = 3600;

/// The volumes of drivers on this node.
pub struct Csi {
    drivers: Arc<Drivers>,
    objects: Arc<dyn ObjectSource>,
    root: PathBuf,
    node: String,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    published: Mutex<HashSet<PathBuf>>,
}

/// What a pod wants.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its folder.
    pub pod_dir: &'a Path,
    /// The volume.
    pub volume: &'a CsiVolume,
    /// Its name in the pod.
    pub name: &'a str,
    /// The pod may only read it.
    pub read_only: bool,
}

fn failed<'a>(driver: &'a str, call: &'static str) -> impl FnOnce(tonic::Status) -> VolumeError + 'a {
    move |status| VolumeError::Csi {
        driver: driver.to_owned(),
        call,
        message: format!("rpc error: code = {} desc = {}", code_name(status.code()), status.message()),
    }
}

fn within<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

impl Csi {
    /// Nothing is mounted as far as is known; what is stands in the records below `root`.
    #[must_use]
    pub fn new(drivers: Arc<Drivers>, objects: Arc<dyn ObjectSource>, root: PathBuf, node: &str) -> Self {
        let (locks, published) = (Mutex::default(), Mutex::default());
        Self { drivers, objects, root, node: node.to_owned(), locks, published }
    }

    /// Brings a volume to a pod. Answers where it is.
    ///
    /// # Errors
    /// When it cannot be had yet, or the driver refuses.
    pub async fn set_up(&self, request: &Request<'_>) -> Result<PathBuf, VolumeError> {
        let volume = request.volume;
        let lock = self.lock(&volume.driver, &volume.handle);
        let _held = lock.lock().await;
        let folder = request.pod_dir.join("volumes").join("kubernetes.io~csi").join(&volume.name);
        let target = folder.join(if volume.block { "device" } else { "mount" });
        let spec = self.spec_of(&volume.driver).await?;
        let again = spec.requires_republish == Some(true);
        let there = self.published.lock().contains(&target) || is_mount_point(&target)? || is_device(&target);
        if there && !again {
            return Ok(target);
        }
        check_lifecycle(volume, &spec)?;
        let mut client = self.client(&volume.driver)?;
        let can =
            driver::capabilities(&mut client).await.map_err(failed(&volume.driver, "NodeGetCapabilities"))?;
        let context = self.attached(volume, &spec).await?;
        let group = fs_group(request.pod).filter(|_| !request.read_only && !volume.block);
        let delegated = group.filter(|_| can.mount_group).map(i64::from);
        let capability = volume.capability(delegated, can.single_node_modes);
        if can.stage && !volume.ephemeral {
            self.stage(&mut client, volume, &context, &capability).await?;
        }
        self.record(request, &folder)?;
        let message = NodePublishVolumeRequest {
            volume_id: volume.handle.clone(),
            publish_context: context,
            staging_target_path: staged_text(&self.staging(volume), can, volume),
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(capability),
            readonly: request.read_only || volume.read_only,
            secrets: self.secret(volume.publish_secret.as_ref()).await?,
            volume_context: self.publish_context(request, &spec).await?,
        };
        client
            .node_publish_volume(within(message))
            .await
            .map_err(failed(&volume.driver, "NodePublishVolume"))?;
        self.published.lock().insert(target.clone());
        if let Some(group) = group.filter(|_| !there && !can.mount_group && takes_group(volume, &spec)) {
            let policy = pod::spec(request.pod).security_context.as_ref();
            let policy = policy.and_then(|c| c.fs_group_change_policy.as_deref());
            if !ownership::is_settled(&target, group, false, policy) {
                ownership::apply(&target, group, false)?;
            }
        }
        Ok(target)
    }

    async fn stage(
        &self,
        client: &mut NodeClient<Measured>,
        volume: &CsiVolume,
        context: &HashMap<String, String>,
        capability: &proto::csi::v1::VolumeCapability,
    ) -> Result<(), VolumeError> {
        let staging = self.staging(volume);
        if self.published.lock().contains(&staging) {
            return Ok(());
        }
        std::fs::create_dir_all(&staging).map_err(VolumeError::io(&staging))?;
        let record = Record {
            driver_name: volume.driver.clone(),
            volume_handle: volume.handle.clone(),
            ..Record::default()
        };
        if let Some(folder) = staging.parent() {
            record.write(folder)?;
        }
        let message = NodeStageVolumeRequest {
            volume_id: volume.handle.clone(),
            publish_context: context.clone(),
            staging_target_path: staging.to_string_lossy().into_owned(),
            volume_capability: Some(capability.clone()),
            secrets: self.secret(volume.stage_secret.as_ref()).await?,
            volume_context: volume.attributes.clone().into_iter().collect(),
        };
        client.node_stage_volume(within(message)).await.map_err(failed(&volume.driver, "NodeStageVolume"))?;
        self.published.lock().insert(staging);
        Ok(())
    }

    /// Writes down what is going to be published, so that it is found even if the kubelet does not live to see the answer.
    fn record(&self, request: &Request<'_>, folder: &Path) -> Result<(), VolumeError> {
        let volume = request.volume;
        let record = Record {
            driver_name: volume.driver.clone(),
            volume_handle: volume.handle.clone(),
            volume: volume.name.clone(),
            node_name: self.node.clone(),
            attachment: volume.attachment(&self.node),
            volume_lifecycle_mode: if volume.ephemeral { "Ephemeral" } else { "Persistent" }.to_owned(),
            block: volume.block,
            pod_volume: request.name.to_owned(),
        };
        record.write(folder)
    }

    /// What the driver is told of the volume and its pod.
    async fn publish_context(
        &self,
        request: &Request<'_>,
        spec: &CSIDriverSpec,
    ) -> Result<HashMap<String, String>, VolumeError> {
        let (pod, volume) = (request.pod, request.volume);
        let mut context: HashMap<String, String> = volume.attributes.clone().into_iter().collect();
        if spec.pod_info_on_mount == Some(true) {
            let account = pod::spec(pod).service_account_name.as_deref().unwrap_or_default();
            for (key, value) in [
                ("pod.name", pod::name(pod)),
                ("pod.namespace", pod::namespace(pod)),
                ("pod.uid", pod::uid(pod)),
                ("serviceAccount.name", account),
                ("ephemeral", if volume.ephemeral { "true" } else { "false" }),
            ] {
                context.insert(format!("csi.storage.k8s.io/{key}"), value.to_owned());
            }
        }
        let mut tokens = serde_json::Map::new();
        for asked in spec.token_requests.iter().flatten() {
            let seconds = asked.expiration_seconds.unwrap_or(TOKEN_SECONDS);
            let audience = Some(asked.audience.as_str()).filter(|a| !a.is_empty());
            let token = self.objects.token(pod, audience, seconds).await?;
            tokens.insert(asked.audience.clone(), json!({ "token": token }));
        }
        if !tokens.is_empty() {
            let text = serde_json::Value::Object(tokens).to_string();
            context.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), text);
        }
        Ok(context)
    }

    /// What attaching gave; the volume has to be attached to this node, unless its driver has no need of that.
    async fn attached(
        &self,
        volume: &CsiVolume,
        spec: &CSIDriverSpec,
    ) -> Result<HashMap<String, String>, VolumeError> {
        if volume.ephemeral || spec.attach_required == Some(false) {
            return Ok(HashMap::new());
        }
        let name = volume.attachment(&self.node);
        let found = self.objects.attachment(&name).await?;
        let status = found.filter(|a| a.metadata.deletion_timestamp.is_none()).and_then(|a| a.status.clone());
        match status {
            Some(status) if status.attached => {
                Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect())
            }
            Some(VolumeAttachmentStatus { attach_error: Some(error), .. }) => {
                let (name, why) = (volume.unique_name(), error.message.unwrap_or_default());
                if error.error_code == Some(EXHAUSTED) && driver::period(spec).is_some() {
                    self.drivers.look_again(&volume.driver);
                    return Err(VolumeError::Exhausted { name, why });
                }
                Err(VolumeError::NotAttached { name, why })
            }
            _ => Err(VolumeError::NotAttached {
                name: volume.unique_name(),
                why: "not yet attached".to_owned(),
            }),
        }
    }

    /// What the driver's object says; nothing special when there is none.
    async fn spec_of(&self, name: &str) -> Result<CSIDriverSpec, VolumeError> {
        let found: Option<Arc<CSIDriver>> = self.objects.csi_driver(name).await?;
        Ok(found.map(|d| d.spec.clone()).unwrap_or_default())
    }

    fn client(&self, name: &str) -> Result<NodeClient<Measured>, VolumeError> {
        self.drivers.client(name).ok_or_else(|| VolumeError::NoDriver(name.to_owned()))
    }

    async fn secret(
        &self,
        reference: Option<&SecretReference>,
    ) -> Result<HashMap<String, String>, VolumeError> {
        let Some(reference) = reference else { return Ok(HashMap::new()) };
        let name = reference.name.clone().unwrap_or_default();
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let found = self.objects.secret(namespace, &name).await?;
        let secret = found.ok_or(VolumeError::NotFound { resource: "secret", name })?;
        Ok(texts(secret.data.as_ref()))
    }

    fn lock(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        // Those that nobody holds are dropped, so that there are never more than volumes in use.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(format!("{driver}^{handle}")).or_default())
    }

    fn plugins(&self) -> PathBuf {
        self.root.join("plugins").join("kubernetes.io").join("csi")
    }

    fn staging(&self, volume: &CsiVolume) -> PathBuf {
        self.plugins().join(&volume.driver).join(sha(&volume.handle)).join("globalmount")
    }

    // === leaving ===

    /// Takes all of a pod's volumes away, and unstages those that no other pod has.
    ///
    /// # Errors
    /// When a driver refuses; to be tried again.
    pub async fn tear_down(&self, pod_dir: &Path) -> Result<(), VolumeError> {
        for (folder, record) in record::of_pod(pod_dir) {
            let lock = self.lock(&record.driver_name, &record.volume_handle);
            let _held = lock.lock().await;
            let target = folder.join(record.target());
            let mut client = self.client(&record.driver_name)?;
            let message = NodeUnpublishVolumeRequest {
                volume_id: record.volume_handle.clone(),
                target_path: target.to_string_lossy().into_owned(),
            };
            let call = client.node_unpublish_volume(within(message)).await;
            call.map_err(failed(&record.driver_name, "NodeUnpublishVolume"))?;
            self.published.lock().remove(&target);
            if is_mount_point(&target)? {
                // The driver says that it is done; what it has left is taken away with the folder.
                tracing::warn!(target = %target.display(), "the driver left the volume mounted");
            } else {
                std::fs::remove_dir_all(&folder).map_err(VolumeError::io(&folder))?;
            }
            if record.volume_lifecycle_mode != "Ephemeral" && !self.is_used(&record) {
                self.unstage(&mut client, &record).await?;
            }
        }
        Ok(())
    }

    /// Unstages what no pod has any more, after a restart for instance.
    pub async fn collect(&self) {
        for (_, record) in self.staged() {
            let lock = self.lock(&record.driver_name, &record.volume_handle);
            let _held = lock.lock().await;
            if self.is_used(&record) {
                continue;
            }
            let done = match self.client(&record.driver_name) {
                Ok(mut client) => self.unstage(&mut client, &record).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::warn!(driver = record.driver_name, %error, "cannot unstage a volume yet");
            }
        }
    }

    async fn unstage(&self, client: &mut NodeClient<Measured>, record: &Record) -> Result<(), VolumeError> {
        let folder = self.plugins().join(&record.driver_name).join(sha(&record.volume_handle));
        if Record::read(&folder).is_none() {
            return Ok(());
        }
        let staging = folder.join("globalmount");
        let message = NodeUnstageVolumeRequest {
            volume_id: record.volume_handle.clone(),
            staging_target_path: staging.to_string_lossy().into_owned(),
        };
        let call = client.node_unstage_volume(within(message)).await;
        call.map_err(failed(&record.driver_name, "NodeUnstageVolume"))?;
        self.published.lock().remove(&staging);
        if is_mount_point(&staging)? {
            return Err(VolumeError::Csi {
                driver: record.driver_name.clone(),
                call: "NodeUnstageVolume",
                message: format!("the driver left {} mounted", staging.display()),
            });
        }
        std::fs::remove_dir_all(&folder).map_err(VolumeError::io(&folder))
    }

    /// Some pod of this node has the volume.
    fn is_used(&self, record: &Record) -> bool {
        self.of_pods().iter().any(|other| other.is_same(record))
    }

    fn of_pods(&self) -> Vec<Record> {
        let pods = std::fs::read_dir(self.root.join("pods"));
        let pods = pods.into_iter().flatten().filter_map(Result::ok);
        pods.flat_map(|entry| record::of_pod(&entry.path())).map(|(_, record)| record).collect()
    }

    fn staged(&self) -> Vec<(PathBuf, Record)> {
        let drivers = std::fs::read_dir(self.plugins()).into_iter().flatten().filter_map(Result::ok);
        drivers.flat_map(|entry| record::below(&entry.path())).collect()
    }

    /// The volumes that must not be detached from this node, as its status names them.
    #[must_use]
    pub fn in_use(&self) -> Vec<String> {
        let staged = self.staged().into_iter().map(|(_, record)| record);
        let all = staged.chain(self.of_pods()).filter(|r| r.volume_lifecycle_mode != "Ephemeral");
        let names: BTreeSet<String> =
            all.map(|r| format!("kubernetes.io/csi/{}^{}", r.driver_name, r.volume_handle)).collect();
        names.into_iter().collect()
    }

    /// What the driver says a mounted volume holds, and if it says so how it is; `None` where it says nothing of volumes.
    ///
    /// # Errors
    /// When the driver is not there or refuses.
    pub async fn usage(&self, record: &Record, path: &Path) -> Result<Option<Told>, VolumeError> {
        let mut client = self.client(&record.driver_name)?;
        let can = driver::capabilities(&mut client)
            .await
            .map_err(failed(&record.driver_name, "NodeGetCapabilities"))?;
        if !can.stats {
            return Ok(None);
        }
        let message = NodeGetVolumeStatsRequest {
            volume_id: record.volume_handle.clone(),
            volume_path: path.to_string_lossy().into_owned(),
            ..NodeGetVolumeStatsRequest::default()
        };
        let answer = client.node_get_volume_stats(within(message)).await;
        let answer = answer.map_err(failed(&record.driver_name, "NodeGetVolumeStats"))?.into_inner();
        // One that can say it and does not has nothing to complain of.
        let condition = can.condition.then(|| answer.volume_condition.unwrap_or_default());
        Ok(Some(Told { usage: answer.usage, condition }))
    }

    // === growing ===

    /// Lets a volume that is mounted grow to so many bytes. Answers whether the driver does that on the node.
    ///
    /// # Errors
    /// When the driver refuses.
    pub async fn expand(&self, volume: &CsiVolume, path: &Path, bytes: i64) -> Result<bool, VolumeError> {
        let lock = self.lock(&volume.driver, &volume.handle);
        let _held = lock.lock().await;
        let mut client = self.client(&volume.driver)?;
        let can =
            driver::capabilities(&mut client).await.map_err(failed(&volume.driver, "NodeGetCapabilities"))?;
        if !can.expand {
            return Ok(false);
        }
        let message = NodeExpandVolumeRequest {
            volume_id: volume.handle.clone(),
            volume_path: path.to_string_lossy().into_owned(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            staging_target_path: staged_text(&self.staging(volume), can, volume),
            volume_capability: Some(volume.capability(None, can.single_node_modes)),
            secrets: self.secret(volume.expand_secret.as_ref()).await?,
        };
        client
            .node_expand_volume(within(message))
            .await
            .map_err(failed(&volume.driver, "NodeExpandVolume"))?;
        Ok(true)
    }
}

/// What a driver says of a volume.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// What it holds, by units.
    pub usage: Vec<VolumeUsage>,
    /// How it is, of drivers that say that.
    pub condition: Option<VolumeCondition>,
}

fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    // What is not there is no device.
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

/// The staging path, where volumes of this kind are staged.
fn staged_text(staging: &Path, can: Capabilities, volume: &CsiVolume) -> String {
    if can.stage && !volume.ephemeral { staging.to_string_lossy().into_owned() } else { String::new() }
}

fn fs_group(pod: &Pod) -> Option<u32> {
    u32::try_from(pod::spec(pod).security_context.as_ref()?.fs_group?).ok()
}

/// Whether the kubelet gives the volume's files to the pod's group.
fn takes_group(volume: &CsiVolume, spec: &CSIDriverSpec) -> bool {
    match spec.fs_group_policy.as_deref() {
        Some("None") => false,
        Some("File") => true,
        _ => {
            let once = |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
            !volume.fs_type.is_empty() && volume.access_modes.iter().any(once)
        }
    }
}

/// A driver says for what its volumes may be used.
fn check_lifecycle(volume: &CsiVolume, spec: &CSIDriverSpec) -> Result<(), VolumeError> {
    let wanted = if volume.ephemeral { "Ephemeral" } else { "Persistent" };
    let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or_default();
    let fits = if modes.is_empty() { !volume.ephemeral } else { modes.iter().any(|m| m == wanted) };
    if fits {
        return Ok(());
    }
    Err(VolumeError::Csi {
        driver: volume.driver.clone(),
        call: "mode",
        message: format!("volume mode {wanted:?} not supported by driver {}", volume.driver),
    })
}

#[cfg(test)]
mod tests;
