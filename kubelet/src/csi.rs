//! Volumes of CSI drivers: which drivers are on this node, and how their volumes get to pods and leave them.
//!
//! ```text
//! driver's socket -> `driver` (registered, in the CSINode) -> `mount`: attached? -> staged -> published -> pod
//! pod's end       -> `mount`: unpublished -> unstaged, when no other pod has the volume
//! <root>/plugins/kubernetes.io/csi/<driver>/<sha of handle>/{globalmount,vol_data.json}
//! <root>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/{mount,vol_data.json}
//! ```
//! What is mounted stands in the `vol_data.json` files, so a restarted kubelet (upstream's as well) goes on from there.
//! A block volume's device is in place of `mount`, as `device`.
//! Contract: CSI 1.x node service; storage/v1 CSIDriver, CSINode, VolumeAttachment.

pub mod driver;
pub mod measured;
pub mod mount;
pub mod record;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::core::v1::{CSIVolumeSource, PersistentVolume, Pod, SecretReference},
};
use proto::csi::v1::{
    VolumeCapability,
    volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
};
use sha2::{Digest as _, Sha256};

use crate::pod;

/// A volume of a driver, as a claim's volume or a pod itself describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CsiVolume {
    /// The persistent volume's name, or the name in the pod.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// What the driver calls it.
    pub handle: String,
    /// Its file system; empty is the driver's choice.
    pub fs_type: String,
    /// It may only be read.
    pub read_only: bool,
    /// What the driver wants to know about it.
    pub attributes: BTreeMap<String, String>,
    /// Options of the mount.
    pub mount_options: Vec<String>,
    /// Access modes of the claim's volume.
    pub access_modes: Vec<String>,
    /// The secret for staging.
    pub stage_secret: Option<SecretReference>,
    /// The secret for publishing.
    pub publish_secret: Option<SecretReference>,
    /// The secret for growing.
    pub expand_secret: Option<SecretReference>,
    /// It lives and dies with its pod.
    pub ephemeral: bool,
    /// It is a device, and not a file system.
    pub block: bool,
}

impl CsiVolume {
    /// The volume behind a claim; `None` for volumes that are not of a driver.
    #[must_use]
    pub fn persistent(volume: &PersistentVolume) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let source = spec.csi.as_ref()?;
        Some(Self {
            name: volume.metadata.name.clone().unwrap_or_default(),
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: source.read_only == Some(true),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            access_modes: spec.access_modes.clone().unwrap_or_default(),
            stage_secret: source.node_stage_secret_ref.clone(),
            publish_secret: source.node_publish_secret_ref.clone(),
            expand_secret: source.node_expand_secret_ref.clone(),
            ephemeral: false,
            block: spec.volume_mode.as_deref() == Some("Block"),
        })
    }

    /// A volume that a pod describes itself.
    #[must_use]
    pub fn inline(pod: &Pod, name: &str, source: &CSIVolumeSource) -> Self {
        let secret = source.node_publish_secret_ref.as_ref().map(|reference| SecretReference {
            name: Some(reference.name.clone()),
            namespace: Some(pod::namespace(pod).to_owned()),
        });
        Self {
            name: name.to_owned(),
            driver: source.driver.clone(),
            handle: hashed(&[pod::uid(pod), name]),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: source.read_only == Some(true),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            publish_secret: secret,
            ephemeral: true,
            ..Self::default()
        }
    }

    /// The name of the attachment of this volume to a node.
    #[must_use]
    pub fn attachment(&self, node: &str) -> String {
        hashed(&[&self.handle, &self.driver, node])
    }

    /// The name the node's status has for it.
    #[must_use]
    pub fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }

    /// What the driver is told about the use of the volume. `single` is: it knows the modes of a single node.
    #[must_use]
    pub fn capability(&self, group: Option<i64>, single: bool) -> VolumeCapability {
        let mount = MountVolume {
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_options.clone(),
            volume_mount_group: group.map(|g| g.to_string()).unwrap_or_default(),
        };
        VolumeCapability {
            access_type: Some(if self.block {
                AccessType::Block(BlockVolume {})
            } else {
                AccessType::Mount(mount)
            }),
            access_mode: Some(AccessMode { mode: self.mode(single) as i32 }),
        }
    }

    /// The strongest of the access modes.
    fn mode(&self, single: bool) -> Mode {
        let has = |name: &str| self.access_modes.iter().any(|m| m == name);
        let writer = if single { Mode::SingleNodeMultiWriter } else { Mode::SingleNodeWriter };
        if self.ephemeral || self.access_modes.is_empty() {
            return writer;
        }
        if has("ReadWriteMany") {
            return Mode::MultiNodeMultiWriter;
        }
        if has("ReadOnlyMany") && has("ReadWriteOnce") {
            return Mode::MultiNodeSingleWriter;
        }
        match (has("ReadOnlyMany"), has("ReadWriteOncePod")) {
            (true, _) => Mode::MultiNodeReaderOnly,
            (_, true) if single => Mode::SingleNodeSingleWriter,
            (_, true) => Mode::SingleNodeWriter,
            _ => writer,
        }
    }
}

/// `csi-` and the hash of the parts.
fn hashed(parts: &[&str]) -> String {
    format!("csi-{}", sha(&parts.concat()))
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn sha(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A secret's content as drivers take it.
#[must_use]
pub fn texts(data: Option<&BTreeMap<String, ByteString>>) -> std::collections::HashMap<String, String> {
    let all = data.into_iter().flatten();
    all.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())).collect()
}

/// What the whole node has in common.
pub type Shared = Arc<mount::Csi>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn volumes_are_read_from_claims_and_pods() {
        let volume = serde_json::from_value(json!({
            "metadata": { "name": "pv1" },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "mountOptions": ["noatime"],
                "csi": { "driver": "d", "volumeHandle": "h", "fsType": "ext4", "volumeAttributes": { "a": "b" } },
            },
        }))
        .unwrap();
        let made = CsiVolume::persistent(&volume).unwrap();
        assert_eq!((made.name.as_str(), made.handle.as_str(), made.ephemeral), ("pv1", "h", false));
        assert_eq!(made.unique_name(), "kubernetes.io/csi/d^h");
        assert_eq!(made.attachment("n"), format!("csi-{}", sha("hdn")));
        let pod = testing::pod("a").build();
        let source =
            serde_json::from_value(json!({ "driver": "d", "nodePublishSecretRef": { "name": "s" } }))
                .unwrap();
        let made = CsiVolume::inline(&pod, "v", &source);
        assert_eq!(made.handle, format!("csi-{}", sha("uid-av")));
        assert_eq!(made.publish_secret.unwrap().namespace.as_deref(), Some("ns"));
    }

    #[test]
    fn the_strongest_access_mode_is_told() {
        let of = |modes: &[&str], single| {
            let access_modes = modes.iter().map(|m| (*m).to_owned()).collect();
            CsiVolume { access_modes, ..CsiVolume::default() }.mode(single)
        };
        assert_eq!(of(&["ReadWriteOnce"], false), Mode::SingleNodeWriter);
        assert_eq!(of(&["ReadWriteOnce"], true), Mode::SingleNodeMultiWriter);
        assert_eq!(of(&["ReadWriteOncePod"], true), Mode::SingleNodeSingleWriter);
        assert_eq!(of(&["ReadOnlyMany"], true), Mode::MultiNodeReaderOnly);
        assert_eq!(of(&["ReadOnlyMany", "ReadWriteOnce"], true), Mode::MultiNodeSingleWriter);
        assert_eq!(of(&["ReadWriteOnce", "ReadWriteMany"], true), Mode::MultiNodeMultiWriter);
        assert_eq!(of(&[], false), Mode::SingleNodeWriter);
    }
}
