//! What volumes and their attachments are called. Pure.

use component_base::meta::ObjectKey;
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume},
    storage::v1::VolumeAttachment,
};
use sha2::{Digest, Sha256};

use crate::controllers::attachable::{driver_in, unique};

/// Names of attachments that were made for volumes of drivers.
const PREFIX: &str = "csi-";

/// The claim a volume is bound to.
pub(super) fn claim_of(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// What an attachment is about: the name of an object, or the unique name of a volume that has none.
pub(super) fn volume_of(attachment: &VolumeAttachment) -> Option<String> {
    let source = &attachment.spec.source;
    let inline = || {
        let csi = source.inline_volume_spec.as_ref()?.csi.as_ref()?;
        Some(unique(&csi.driver, &csi.volume_handle))
    };
    source.persistent_volume_name.clone().or_else(inline)
}

fn hash(handle: &str, driver: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    digest.iter().fold(PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The name of the attachment to a node of a volume by its unique name, where a driver attaches it.
pub(super) fn attachment(unique: &str, node: &str) -> Option<String> {
    driver_in(unique).map(|(driver, handle)| hash(handle, driver, node))
}

/// Whether an attachment was made here: others are left to whoever made them. Of a volume that is gone, whose unique
/// name nobody knows, only the form of the name can tell.
pub(super) fn is_ours(volume: &str, of: &VolumeAttachment) -> bool {
    let name = of.metadata.name.as_deref().unwrap_or_default();
    match attachment(volume, &of.spec.node_name) {
        Some(expected) => expected == name,
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

/// The volumes a node's status names as used.
pub(super) fn used(node: &Node) -> impl Iterator<Item = &str> {
    node.status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).map(String::as_str)
}

/// The unique name of an attachment's volume that is gone, if its node still says it.
pub(super) fn reported<'n>(of: &VolumeAttachment, node: &'n Node) -> Option<&'n str> {
    let is_it = |name: &&str| {
        let expected = attachment(name, &of.spec.node_name);
        expected.is_some() && expected == of.metadata.name
    };
    reports(node).chain(used(node)).find(is_it)
}
