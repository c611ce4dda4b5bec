//! Volumes: one file per kind, one list ([`PLUGINS`]), and what all have in common: where they live, when they are
//! set up, refreshed and torn down, and how containers mount them.
//!
//! ```text
//! <root>/pods/<uid>/volumes/kubernetes.io~<kind>/<name>     a volume's content (hostPath and local: elsewhere)
//! <root>/pods/<uid>/volume-subpaths/<name>/<container>/<n>  bind mounts of sub-paths
//! ```
//! Set-up is idempotent: it is called again on every sync, and that is how content is brought up to date.

pub mod atomic;
pub mod claim;
pub mod config_map;
pub mod csi;
pub mod downward_api;
pub mod empty_dir;
pub mod host_path;
pub mod image;
pub mod keyed;
pub mod nested;
pub mod nfs;
pub mod ownership;
pub mod projected;
pub mod rounds;
pub mod secret;
pub mod subpath;
pub mod trust_bundle;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeDevice, VolumeMount};

use self::rounds::Rounds;
use crate::{
    api::{FetchError, ObjectSource},
    certificate::pod::{PodCertificateError, PodCertificates},
    csi::{mount::Csi, record},
    env::NodeFacts,
    pod,
    runtime::cri,
};

/// Reasons of the events that tell of a file system and of a device.
const MOUNT: &str = "FailedMount";
const MAP: &str = "FailedMapVolume";

/// Why a volume cannot be had; the pod waits and an event says so.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A referenced object does not exist.
    #[error("{resource} \"{name}\" not found")]
    NotFound {
        /// `configmap`, `secret`, `persistentvolumeclaim`...
        resource: &'static str,
        /// Its name.
        name: String,
    },
    /// A required key does not exist.
    #[error("{0}: {1}")]
    KeyNotFound(&'static str, String),
    /// A path that would leave the volume.
    #[error("invalid path {0:?}: must be relative and must not contain '..'")]
    Path(String),
    /// hostPath is not what its type says.
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPathType {
        /// The path.
        path: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Trust anchors that cannot be told.
    #[error("ClusterTrustBundle: {0}")]
    TrustBundle(String),
    /// An emptyDir that cannot be made.
    #[error("{0}")]
    Medium(String),
    /// The claim, or the volume it has, cannot be used.
    #[error("error processing PVC {namespace}/{name}: {why}")]
    Claim {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// The claim is not the pod's own, as that of an ephemeral volume has to be.
    #[error("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)")]
    NotOwner {
        /// The claim's namespace, and the pod's.
        namespace: String,
        /// The claim's name.
        name: String,
        /// The pod's name.
        pod: String,
    },
    /// Containers want the volume in another way than it is.
    #[error("volume {name} has volumeMode {mode}, but is specified in {list}")]
    Mode {
        /// The volume.
        name: String,
        /// `Filesystem` or `Block`.
        mode: &'static str,
        /// `volumeMounts` or `volumeDevices`.
        list: &'static str,
    },
    /// No plugin knows this kind of volume.
    #[error("no volume plugin matched volume {0:?}")]
    NoPlugin(String),
    /// Talking to the API server failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The pod's certificate cannot be had.
    #[error(transparent)]
    Certificate(#[from] PodCertificateError),
    /// Nobody asks for certificates of pods here.
    #[error("podCertificate projected volumes need the feature gate PodCertificateRequest and an API server")]
    NoCertificates,
    /// A value could not be made.
    #[error(transparent)]
    Value(#[from] crate::env::EnvError),
    /// The volume's driver is not on this node.
    #[error("kubernetes.io/csi: driver name {0} not found in the list of registered CSI drivers")]
    NoDriver(String),
    /// The volume's driver refuses.
    #[error("{message}")]
    Csi {
        /// The driver.
        driver: String,
        /// What it was asked for.
        call: &'static str,
        /// Its words.
        message: String,
    },
    /// `mount` failed.
    #[error("mount failed: {message}\nMounting command: mount\nMounting arguments: {arguments}")]
    Mount {
        /// What it was called with.
        arguments: String,
        /// Its words.
        message: String,
    },
    /// The volume is not attached to this node.
    #[error("volume {name} is not attached to the node: {why}")]
    NotAttached {
        /// The volume.
        name: String,
        /// Why not.
        why: String,
    },
    /// The volume is not attached to this node, which has as many as it can.
    #[error("volume {name} is not attached to the node: {why}")]
    Exhausted {
        /// The volume.
        name: String,
        /// The driver's words.
        why: String,
    },
    /// The volume of a claim cannot be had.
    #[error("{source}")]
    Persistent {
        /// The PersistentVolume.
        name: String,
        /// Why not.
        source: Box<VolumeError>,
    },
    /// A container cannot mount the volume, or the part of it that it wants.
    #[error("{0}")]
    Unmountable(String),
    /// A mount cannot be read-only all the way down.
    #[error("volume {name:?} requested recursive read-only mode, but {why}")]
    RecursiveReadOnly {
        /// The volume.
        name: String,
        /// Why not.
        why: String,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl VolumeError {
    /// The event that tells of it, reason and message; none as long as the volume is to be attached by others, who tell
    /// of that. `devices` are the volumes that containers have as devices.
    #[must_use]
    pub fn event(&self, volume: &str, devices: &BTreeSet<String>) -> Option<(&'static str, String)> {
        self.told(volume, devices.contains(volume))
    }

    fn told(&self, volume: &str, is_device: bool) -> Option<(&'static str, String)> {
        let (reason, step) = match self {
            Self::NotAttached { .. } | Self::Exhausted { .. } => return None,
            Self::Persistent { name, source } => return source.told(name, is_device),
            // It was not even tried, so nobody asked yet what it is for.
            Self::Claim { .. } | Self::NotOwner { .. } | Self::Mode { .. } => {
                let message = format!(
                    "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], \
                     failed to process volumes=[{volume}]: {self}"
                );
                return Some((MOUNT, message));
            }
            Self::Csi { call: "NodeStageVolume", .. } if is_device => (MAP, "MapVolume.SetUpDevice"),
            Self::Csi { call: "NodeStageVolume", .. } => (MOUNT, "MountVolume.MountDevice"),
            _ if is_device => (MAP, "MapVolume.MapPodDevice"),
            _ => (MOUNT, "MountVolume.SetUp"),
        };
        Some((reason, format!("{step} failed for volume {volume:?} : {self}")))
    }

    /// Why the node can attach no more volumes, if that is it.
    #[must_use]
    pub fn exhausted(&self) -> Option<&str> {
        match self {
            Self::Exhausted { why, .. } => Some(why),
            Self::Persistent { source, .. } => source.exhausted(),
            _ => None,
        }
    }

    /// Others have to do something first, which may be done at any moment.
    fn waits_for_others(&self) -> bool {
        match self {
            Self::Persistent { source, .. } => source.waits_for_others(),
            Self::NotFound { .. } | Self::Claim { .. } | Self::NotOwner { .. } | Self::Mode { .. } => true,
            Self::NotAttached { .. } | Self::Exhausted { .. } | Self::Fetch(_) => true,
            _ => false,
        }
    }

    /// Wraps an I/O error with its place.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// What a plugin is given.
pub struct Context<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Where objects come from.
    pub objects: &'a dyn ObjectSource,
    /// What downward values need.
    pub node: &'a NodeFacts,
    /// The pod's folder.
    pub pod_dir: &'a Path,
    /// Volumes of drivers.
    pub csi: &'a Csi,
    /// Certificates of pods, where they are switched on.
    pub certificates: Option<&'a PodCertificates>,
    /// Whether trust bundles are projected.
    pub trust_bundles: bool,
    /// The time.
    pub now: Timestamp,
}

impl Context<'_> {
    /// The folder of a volume of this kind.
    #[must_use]
    pub fn folder(&self, plugin: &str, volume: &str) -> PathBuf {
        self.pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
    }

    /// Writes the files of a volume that lives in an emptyDir of this medium, and makes place for what is mounted within.
    fn write(
        &self,
        plugin: &str,
        volume: &str,
        medium: &str,
        files: &atomic::Payload,
    ) -> Result<Mounted, VolumeError> {
        let path = self.folder(plugin, volume);
        empty_dir::make(self, &path, medium, None)?;
        atomic::write(&path, files, self.fs_group(), self.now)?;
        nested::make(self.pod, volume, &path)?;
        Ok(Mounted { path, read_only: true })
    }

    /// The group that owns the pod's volumes.
    #[must_use]
    pub fn fs_group(&self) -> Option<u32> {
        let group = pod::spec(self.pod).security_context.as_ref()?.fs_group?;
        u32::try_from(group).ok()
    }
}

/// A volume that is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Its content on the node.
    pub path: PathBuf,
    /// Containers may only read it.
    pub read_only: bool,
}

/// A kind of volume.
#[async_trait]
pub trait VolumePlugin: Send + Sync {
    /// Name in paths, without `kubernetes.io/`.
    fn name(&self) -> &'static str;

    /// Whether this is the kind of `volume`.
    fn supports(&self, volume: &Volume) -> bool;

    /// Makes the volume, or brings it up to date.
    ///
    /// # Errors
    /// When it cannot be had yet.
    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError>;
}

/// Every kind of volume the kubelet knows.
pub const PLUGINS: [&dyn VolumePlugin; 10] = [
    &empty_dir::EmptyDir,
    &host_path::HostPath,
    &config_map::ConfigMapVolume,
    &secret::SecretVolume,
    &downward_api::DownwardApi,
    &projected::Projected,
    &claim::Claim,
    &image::Image,
    &csi::Inline,
    &nfs::Nfs,
];

/// Sets up those of a pod's volumes that are due, all at once, or brings them up to date. Answers which of them failed.
pub async fn set_up<'a>(context: &Context<'a>, rounds: &mut Rounds) -> Vec<(&'a str, VolumeError)> {
    let due = pod::spec(context.pod).volumes.iter().flatten().filter(|v| rounds.is_due(&v.name, context.now));
    let all =
        join_all(due.map(|volume| async move { (volume.name.as_str(), one(context, volume).await) })).await;
    let mut failed = Vec::new();
    for (name, result) in all {
        match result {
            Ok(mounted) => rounds.note(name, Ok(mounted), Timestamp::now()),
            Err(error) => {
                rounds.note(name, Err(&error), Timestamp::now());
                failed.push((name, error));
            }
        }
    }
    failed
}

async fn one(context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
    let plugin = PLUGINS.iter().find(|plugin| plugin.supports(volume));
    let plugin = plugin.ok_or_else(|| VolumeError::NoPlugin(volume.name.clone()))?;
    let begun = std::time::Instant::now();
    let made = plugin.set_up(context, volume).await;
    count(&label(context.pod_dir, volume, plugin.name()), made.is_ok(), begun);
    made
}

/// The volumes that containers of the pod have as devices.
#[must_use]
pub fn devices(pod: &Pod) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, container) in pod::all_containers(pod) {
        found.extend(container.volume_devices.into_iter().flatten().map(|device| device.name));
    }
    found
}

/// A volume's plugin in metrics: with the driver, where one is known.
fn label(pod_dir: &Path, volume: &Volume, plugin: &str) -> String {
    let inline = || volume.csi.as_ref().map(|csi| csi.driver.clone());
    let claimed = || {
        if !claim::Claim.supports(volume) {
            return None;
        }
        let made = record::of_pod(pod_dir).into_iter().find(|(_, record)| record.pod_volume == volume.name);
        made.map(|(_, record)| record.driver_name)
    };
    match inline().or_else(claimed) {
        Some(driver) => format!("kubernetes.io/csi:{driver}"),
        None => format!("kubernetes.io/{plugin}"),
    }
}

/// Counts for each volume how long the pod waited for it, from the beginning on.
pub fn count_wait(pod: &Pod, pod_dir: &Path, since: std::time::Instant) {
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let Some(plugin) = PLUGINS.iter().find(|plugin| plugin.supports(volume)) else { continue };
        let label = label(pod_dir, volume, plugin.name());
        crate::metrics::get()
            .volume_waits
            .with_label_values(&["overall_volume_mount", &label])
            .observe(since.elapsed().as_secs_f64());
    }
}

/// Counts how long setting up a volume took.
fn count(plugin: &str, is_made: bool, begun: std::time::Instant) {
    let status = if is_made { "success" } else { "fail-unknown" };
    let labels = ["false", "volume_mount", status, plugin];
    crate::metrics::get()
        .storage_operations
        .with_label_values(&labels)
        .observe(begun.elapsed().as_secs_f64());
}

/// Asks for what a pod's volumes will be made of, all at once: setting them up one after the other finds it there then.
/// What cannot be had is told by whoever sets up the volume.
pub async fn fetch_ahead(pod: &Pod, objects: &dyn ObjectSource) {
    let namespace = pod::namespace(pod);
    let config_map = |name: String| async move { drop(objects.config_map(namespace, &name).await) }.boxed();
    let secret = |name: String| async move { drop(objects.secret(namespace, &name).await) }.boxed();
    let mut asked: Vec<BoxFuture<'_, ()>> = Vec::new();
    for volume in pod::spec(pod).volumes.iter().flatten() {
        asked.extend(volume.config_map.iter().map(|map| config_map(map.name.clone())));
        asked.extend(volume.secret.iter().filter_map(|from| from.secret_name.clone()).map(secret));
        for part in volume.projected.iter().flat_map(|from| from.sources.iter().flatten()) {
            asked.extend(part.config_map.iter().map(|map| config_map(map.name.clone())));
            asked.extend(part.secret.iter().map(|from| secret(from.name.clone())));
            if let Some(token) = &part.service_account_token {
                asked.push(async move { drop(projected::token(pod, objects, token).await) }.boxed());
            }
        }
    }
    join_all(asked).await;
}

/// Where a volume's content is when it belongs to the pod alone; `None` for what is elsewhere on the node.
#[must_use]
pub fn place(pod_dir: &Path, volume: &Volume) -> Option<PathBuf> {
    let made = record::of_pod(pod_dir).into_iter().find(|(_, r)| r.pod_volume == volume.name);
    if let Some((folder, record)) = made {
        return (!record.block).then(|| folder.join("mount"));
    }
    let plugin = PLUGINS.iter().find(|p| p.supports(volume))?;
    let path = pod_dir.join("volumes").join(format!("kubernetes.io~{}", plugin.name())).join(&volume.name);
    path.exists().then_some(path)
}

/// Takes away everything below a pod's folder: bind mounts and tmpfs first, then files. What hostPath and local volumes
/// point to is never below it.
///
/// # Errors
/// When a mount is busy or a file cannot be removed; to be tried again.
pub fn tear_down(pod_dir: &Path) -> Result<(), VolumeError> {
    for mount in mounts_below(pod_dir)? {
        nix::mount::umount2(&mount, nix::mount::MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|e| VolumeError::Io { path: mount.clone(), source: e.into() })?;
    }
    // Nothing is mounted below any more, so removal stays within the folder.
    match std::fs::remove_dir_all(pod_dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(VolumeError::Io { path: pod_dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Mount points below a folder, the deepest first.
fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let source = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(source).map_err(VolumeError::io(source))?;
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(folder))
        .collect();
    found.reverse();
    Ok(found)
}

/// mountinfo writes blank, tab, newline and backslash as octal numbers.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let code = bytes.get(i + 1..i + 4).and_then(|c| std::str::from_utf8(c).ok());
        if bytes[i] == b'\\'
            && let Some(byte) = code.and_then(|c| u8::from_str_radix(c, 8).ok())
        {
            out.push(byte);
            i += 4;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether something is mounted exactly there.
///
/// # Errors
/// When the mount table cannot be read.
pub fn is_mount_point(path: &Path) -> Result<bool, VolumeError> {
    Ok(mounts_below(path)?.iter().any(|m| m == path))
}

/// Mounts a tmpfs unless one is there already.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_tmpfs(path: &Path, size: Option<i64>) -> Result<(), VolumeError> {
    std::fs::create_dir_all(path).map_err(VolumeError::io(path))?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let options: Vec<String> = size.filter(|s| *s > 0).map(|s| format!("size={s}")).into_iter().collect();
    if swaps() {
        // What is in memory only has no business in swap. Kernels before 6.3 do not know the word.
        let kept = [options.as_slice(), &["noswap".to_owned()]].concat();
        if mount_with(path, &kept).is_ok() {
            return Ok(());
        }
    }
    mount_with(path, &options).map_err(|e| VolumeError::Io { path: path.to_owned(), source: e.into() })
}

fn mount_with(path: &Path, options: &[String]) -> Result<(), nix::errno::Errno> {
    let options = options.join(",");
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
}

/// The node swaps: below its heading, the kernel's list has something.
fn swaps() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|list| list.lines().count() > 1)
}

/// Whether a mount is read-only all the way down; `supported` is what the runtime can do.
///
/// # Errors
/// When that is asked for and cannot be had.
pub fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, VolumeError> {
    let fail = |why: String| Err(VolumeError::RecursiveReadOnly { name: mount.name.clone(), why });
    let mode = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    if mode == "Disabled" {
        return Ok(false);
    }
    if mount.read_only != Some(true) {
        return fail("it is not read-only".to_owned());
    }
    if let Some(propagation) = mount.mount_propagation.as_deref().filter(|p| *p != "None") {
        return fail(format!("it is not compatible with propagation {propagation:?}"));
    }
    match (mode, supported) {
        ("IfPossible", supported) => Ok(supported),
        (_, true) => Ok(true),
        (_, false) => fail("it is not supported by the runtime".to_owned()),
    }
}

/// What the mounts of a container come from, besides its spec.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The pod's volumes.
    pub mounted: &'a BTreeMap<String, Mounted>,
    /// Ids of the images of image volumes, by volume.
    pub images: &'a BTreeMap<String, String>,
    /// The container's environment.
    pub env: &'a [(String, String)],
    /// The pod's folder.
    pub pod_dir: &'a Path,
    /// The runtime can make mounts read-only all the way down.
    pub recursive: bool,
}

/// The mounts of one container, with sub-paths bound.
///
/// # Errors
/// When a sub-path cannot be resolved within its volume.
pub fn container_mounts(
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Vec<cri::Mount>, VolumeError> {
    let Sources { mounted, images, env, pod_dir, recursive } = *sources;
    let mut mounts = Vec::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let of = |what: &str| format!("{what} {:?} ", mount.name);
        let into = format!("container {:?}", container.name);
        let volume = mounted
            .get(&mount.name)
            .ok_or_else(|| VolumeError::Unmountable(of("cannot find volume") + "to mount into " + &into))?;
        let sub = sub_path(mount, env)?;
        let read_only_below = recursive_read_only(mount, recursive)?;
        if let Some(id) = images.get(&mount.name) {
            mounts.push(cri::Mount {
                container_path: absolute(&mount.mount_path),
                readonly: true,
                image: Some(cri::ImageSpec { image: id.clone(), ..cri::ImageSpec::default() }),
                image_sub_path: sub.unwrap_or_default(),
                ..cri::Mount::default()
            });
            continue;
        }
        let host_path = match sub {
            None => volume.path.clone(),
            Some(sub) => {
                let target = pod_dir.join("volume-subpaths").join(&mount.name).join(&container.name);
                subpath::bind(&volume.path, &sub, &target.join(i.to_string())).map_err(|error| {
                    // Those who run pods are not told of the node's own folders.
                    tracing::warn!(volume = mount.name, container = container.name, %error, "cannot bind a sub-path");
                    VolumeError::Unmountable(of("failed to prepare subPath for volumeMount") + "of " + &into)
                })?
            }
        };
        let propagation = match mount.mount_propagation.as_deref() {
            Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
            Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
            _ => cri::MountPropagation::PropagationPrivate,
        };
        mounts.push(cri::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: mount.read_only == Some(true) || volume.read_only,
            propagation: propagation as i32,
            recursive_read_only: read_only_below,
            ..cri::Mount::default()
        });
    }
    Ok(mounts)
}

/// The part of a volume that is mounted, if not all of it.
fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, VolumeError> {
    let missing = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        let known = env.iter().find(|(key, value)| key == name && !value.is_empty());
        if known.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        known.map(|(_, value)| value.clone())
    };
    let said = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let path = match said(&mount.sub_path_expr) {
        Some(text) => crate::env::expand(&text, &lookup),
        None => said(&mount.sub_path).unwrap_or_default(),
    };
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    let text = if !missing.is_empty() {
        format!("missing value for {}", missing.join(", "))
    } else if path.starts_with('/') {
        format!("error SubPath `{path}` must not be an absolute path")
    } else if path.split('/').any(|part| part == "..") {
        format!("unable to provision SubPath `{path}`: must not contain '..'")
    } else {
        return Ok(Some(path).filter(|path| !path.is_empty()));
    };
    Err(VolumeError::Unmountable(text))
}

/// The block volumes of one container: path in the container, on the node, permissions.
///
/// # Errors
/// When a volume is not there.
pub fn container_devices(
    container: &Container,
    mounted: &BTreeMap<String, Mounted>,
) -> Result<Vec<(String, String, String)>, VolumeError> {
    let one = |device: &VolumeDevice| {
        let volume = mounted
            .get(&device.name)
            .ok_or_else(|| VolumeError::NotFound { resource: "volume", name: device.name.clone() })?;
        let permissions = if volume.read_only { "r" } else { "mrw" };
        Ok((device.device_path.clone(), volume.path.to_string_lossy().into_owned(), permissions.to_owned()))
    };
    container.volume_devices.iter().flatten().map(one).collect()
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests;
