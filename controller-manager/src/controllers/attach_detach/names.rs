//! What volumes and their attachments are called. Pure.

use component_base::meta::ObjectKey;
use k8s_openapi::api::{
    core::v1::{CSIPersistentVolumeSource, Node, PersistentVolume},
    storage::v1::VolumeAttachment,
};
use sha2::{Digest, Sha256};

/// Names of attachments that were made for volumes of CSI drivers.
const PREFIX: &str = "csi-";
/// Names of such volumes in a node's status.
const PLUGIN: &str = "kubernetes.io/csi/";

fn source(volume: &PersistentVolume) -> Option<&CSIPersistentVolumeSource> {
    volume.spec.as_ref()?.csi.as_ref()
}

/// The driver of a volume that has one.
pub(super) fn driver(volume: &PersistentVolume) -> Option<&str> {
    Some(source(volume)?.driver.as_str())
}

/// The claim a volume is bound to.
pub(super) fn claim_of(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// The volume an attachment is about.
pub(super) fn volume_of(attachment: &VolumeAttachment) -> Option<&str> {
    attachment.spec.source.persistent_volume_name.as_deref()
}

fn hash(handle: &str, driver: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    digest.iter().fold(PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The name of a volume's attachment to a node.
pub(super) fn attachment(volume: &PersistentVolume, node: &str) -> Option<String> {
    source(volume).map(|s| hash(&s.volume_handle, &s.driver, node))
}

/// Whether an attachment was made here: others are left to whoever made them. Of a volume that is gone only the
/// form of the name can tell.
pub(super) fn is_ours(volume: Option<&PersistentVolume>, of: &VolumeAttachment) -> bool {
    let name = of.metadata.name.as_deref().unwrap_or_default();
    match volume {
        Some(volume) => attachment(volume, &of.spec.node_name).as_deref() == Some(name),
        None => name.strip_prefix(PREFIX).is_some_and(|hash| {
            hash.len() == 2 * Sha256::output_size() && hash.bytes().all(|b| b.is_ascii_hexdigit())
        }),
    }
}

/// The volumes a node's status names as attached.
pub(super) fn reports(node: &Node) -> impl Iterator<Item = &str> {
    let list = node.status.iter().flat_map(|s| s.volumes_attached.iter().flatten());
    list.map(|volume| volume.name.as_str())
}

/// The volume's name in a node's status; for a volume that is gone, the name that is there already.
pub(super) fn reported(
    volume: Option<&PersistentVolume>,
    of: &VolumeAttachment,
    node: &Node,
) -> Option<String> {
    if let Some(source) = volume.and_then(source) {
        return Some(format!("{PLUGIN}{}^{}", source.driver, source.volume_handle));
    }
    let is_it = |name: &&str| {
        let parts = name.strip_prefix(PLUGIN).and_then(|rest| rest.split_once('^'));
        parts.is_some_and(|(driver, handle)| {
            of.metadata.name.as_deref() == Some(hash(handle, driver, &of.spec.node_name).as_str())
        })
    };
    let in_use = node.status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).map(String::as_str);
    reports(node).chain(in_use).find(is_it).map(str::to_owned)
}
