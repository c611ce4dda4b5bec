//! Who has which devices, on disk: `kubelet_internal_checkpoint` in the folder of device plugins, written whole and atomically.
//!
//! The file is upstream's, with its checksum, so that either kubelet goes on with the other's.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use k8s_openapi::ByteString;
use prost::Message as _;
use proto::deviceplugin::v1beta1::ContainerAllocateResponse;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint, CheckpointError, go_list, go_map, go_nil};

/// The file's name.
pub const FILE: &str = "kubelet_internal_checkpoint";
/// In place of a memory node: the device does not tell where it is.
pub const NOWHERE: i64 = -1;

/// Devices by the memory nodes they are near.
pub type Near = BTreeMap<i64, Vec<String>>;

/// Devices of one resource that one container has.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// The pod's uid.
    pub pod: String,
    /// The container.
    pub container: String,
    /// The resource.
    pub resource: String,
    /// The devices, each as often as it is near a node.
    pub near: Near,
    /// What the plugin answered.
    pub answer: ContainerAllocateResponse,
}

impl Grant {
    /// The devices.
    #[must_use]
    pub fn devices(&self) -> BTreeSet<&String> {
        self.near.values().flatten().collect()
    }
}

/// What is kept.
#[derive(Debug, Default, PartialEq)]
pub struct Kept {
    /// Who has what.
    pub grants: Vec<Grant>,
    /// Devices that work, of all plugins that were there.
    pub registered: BTreeMap<String, Vec<String>>,
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Stored {
    data: Data,
    checksum: u64,
}

// Go tells what is nil from what is empty, and so do its sums.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: Option<BTreeMap<String, Option<Vec<String>>>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<BTreeMap<i64, Option<Vec<String>>>>,
    alloc_resp: Option<ByteString>,
}

impl Checkpoint for Stored {
    const NEEDS_SUM: bool = true;

    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }

    /// The sum is of the data alone.
    fn printed(&self) -> String {
        let entries = go_nil(self.data.pod_device_entries.as_ref(), |all| go_list(all.iter().map(printed)));
        let registered = go_nil(self.data.registered_devices.as_ref(), |all| go_map(all, ids));
        format!(
            "(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){entries} \
             RegisteredDevices:(map[string][]string){registered}}}"
        )
    }
}

fn ids(list: &Option<Vec<String>>) -> String {
    go_nil(list.as_ref(), go_list)
}

fn printed(entry: &Entry) -> String {
    format!(
        "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} \
         DeviceIDs:(checkpoint.DevicesPerNUMA){} AllocResp:([]uint8){}}}",
        entry.pod_uid,
        entry.container_name,
        entry.resource_name,
        go_nil(entry.device_ids.as_ref(), |all| go_map(all, ids)),
        go_nil(entry.alloc_resp.as_ref(), |bytes| go_list(&bytes.0)),
    )
}

impl From<&Grant> for Entry {
    fn from(grant: &Grant) -> Self {
        Self {
            pod_uid: grant.pod.clone(),
            container_name: grant.container.clone(),
            resource_name: grant.resource.clone(),
            device_ids: Some(grant.near.iter().map(|(node, ids)| (*node, Some(ids.clone()))).collect()),
            alloc_resp: Some(ByteString(grant.answer.encode_to_vec())),
        }
    }
}

/// What an entry gives; nothing where the plugin's answer does not read.
fn grant(entry: Entry) -> Option<Grant> {
    let bytes = entry.alloc_resp.unwrap_or_default();
    let answer = ContainerAllocateResponse::decode(bytes.0.as_slice()).inspect_err(|error| {
        let (pod, container, resource) = (&entry.pod_uid, &entry.container_name, &entry.resource_name);
        tracing::error!(%error, pod, container, resource, "what the plugin answered for the container does not read");
    });
    let near = entry.device_ids.unwrap_or_default();
    Some(Grant {
        pod: entry.pod_uid,
        container: entry.container_name,
        resource: entry.resource_name,
        near: near.into_iter().map(|(node, ids)| (node, ids.unwrap_or_default())).collect(),
        answer: answer.ok()?,
    })
}

/// What was written down; nothing without the file.
///
/// # Errors
/// When the file does not read, or is not what was written.
pub fn read(folder: &Path) -> Result<Kept, CheckpointError> {
    let data = checkpoint::read::<Stored>(&folder.join(FILE))?.unwrap_or_default().data;
    let registered = data.registered_devices.unwrap_or_default().into_iter();
    Ok(Kept {
        grants: data.pod_device_entries.into_iter().flatten().filter_map(grant).collect(),
        registered: registered.map(|(name, ids)| (name, ids.unwrap_or_default())).collect(),
    })
}

/// Writes it down.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write(folder: &Path, kept: &Kept) -> io::Result<()> {
    let entries: Vec<Entry> = kept.grants.iter().map(Entry::from).collect();
    let registered = kept.registered.iter().map(|(name, ids)| (name.clone(), Some(ids.clone())));
    let data = Data {
        pod_device_entries: Some(entries).filter(|all| !all.is_empty()),
        registered_devices: Some(registered.collect()),
    };
    checkpoint::write(&folder.join(FILE), Stored { data, checksum: 0 })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// As an upstream kubelet wrote it, for a plugin with one device.
    const THEIRS: &str = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"bf52b2cd-b611-4e79-86b1-280b283185c3","ContainerName":"check","ResourceName":"nvidia.com/gpu","DeviceIDs":{"-1":["tegra"]},"AllocResp":"Ch8KFk5WSURJQV9WSVNJQkxFX0RFVklDRVMSBXRlZ3Jh"}],"RegisteredDevices":{"nvidia.com/gpu":["tegra"]}},"Checksum":3660592824}"#;

    #[test]
    fn the_file_is_upstreams() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(read(dir.path()).unwrap(), Kept::default());
        fs::write(&path, THEIRS).unwrap();
        let kept = read(dir.path()).unwrap();
        let grant = &kept.grants[0];
        assert_eq!((grant.container.as_str(), grant.resource.as_str()), ("check", "nvidia.com/gpu"));
        assert_eq!(grant.devices(), BTreeSet::from([&"tegra".to_owned()]));
        assert_eq!(grant.answer.envs["NVIDIA_VISIBLE_DEVICES"], "tegra");
        assert_eq!(kept.registered["nvidia.com/gpu"], ["tegra"]);
        write(dir.path(), &kept).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);
        write(dir.path(), &Kept::default()).unwrap();
        let none = fs::read_to_string(&path).unwrap();
        assert!(
            none.starts_with(r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":"#),
            "{none}"
        );
        assert_eq!(read(dir.path()).unwrap(), Kept::default());
    }

    #[test]
    fn a_file_that_was_changed_or_cut_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for (bad, expected) in [
            (THEIRS.replace("[\"tegra\"]", "[\"other\"]"), "corrupted"),
            (THEIRS.replace("3660592824", "0"), "corrupted"),
            (THEIRS.replace("\"-1\"", "\"none\""), "invalid"),
            (THEIRS[..60].to_owned(), "EOF"),
            (String::new(), "EOF"),
            ("[]".to_owned(), "corrupted"),
        ] {
            fs::write(dir.path().join(FILE), &bad).unwrap();
            let error = read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }

    #[test]
    fn an_answer_that_does_not_read_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), THEIRS).unwrap();
        let mut kept = read(dir.path()).unwrap();
        kept.grants.push(Grant { pod: "other".to_owned(), ..kept.grants[0].clone() });
        let mut entries: Vec<Entry> = kept.grants.iter().map(Entry::from).collect();
        entries[0].alloc_resp = Some(ByteString(vec![0xff]));
        let data = Data { pod_device_entries: Some(entries), registered_devices: None };
        checkpoint::write(&dir.path().join(FILE), Stored { data, checksum: 0 }).unwrap();
        let kept = read(dir.path()).unwrap();
        assert_eq!(kept.grants.iter().map(|grant| grant.pod.as_str()).collect::<Vec<_>>(), ["other"]);
    }
}
