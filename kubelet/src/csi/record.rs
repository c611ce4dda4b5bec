//! `vol_data.json`: what is known of a volume, beside where it is mounted. Names of fields as upstream's.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{checkpoint::replace, volume::VolumeError};

/// The file's name.
const FILE: &str = "vol_data.json";

/// What stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record {
    /// The driver.
    pub driver_name: String,
    /// What the driver calls the volume.
    pub volume_handle: String,
    /// The persistent volume's name, or the name in the pod.
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub volume: String,
    /// The node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// The name of the attachment.
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment: String,
    /// `Persistent` or `Ephemeral`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volume_lifecycle_mode: String,
    /// It is a device, and not a file system.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub block: bool,
    /// The volume's name in the pod's spec.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod_volume: String,
}

impl Record {
    /// Where in the record's folder the volume is.
    #[must_use]
    pub fn target(&self) -> &'static str {
        if self.block { "device" } else { "mount" }
    }

    /// It is about the same volume.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.driver_name == other.driver_name && self.volume_handle == other.volume_handle
    }

    /// The record in a folder; `None` when there is none that reads.
    #[must_use]
    pub fn read(folder: &Path) -> Option<Self> {
        let text = std::fs::read(folder.join(FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes the record, as a whole.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), VolumeError> {
        let path = folder.join(FILE);
        let text = serde_json::to_vec(self).map_err(io::Error::from);
        text.and_then(|text| replace(&path, &text)).map_err(VolumeError::io(&path))
    }
}

/// The folders of a pod's CSI volumes that have a record.
#[must_use]
pub fn of_pod(pod_dir: &Path) -> Vec<(PathBuf, Record)> {
    below(&pod_dir.join("volumes").join("kubernetes.io~csi"))
}

/// The folders right below this one that have a record.
#[must_use]
pub fn below(folder: &Path) -> Vec<(PathBuf, Record)> {
    // A folder that is not there has no records.
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<_> = entries.filter_map(|e| Some((e.path(), Record::read(&e.path())?))).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_again_and_fields_have_upstreams_names() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("volumes/kubernetes.io~csi/pv1");
        let record = Record {
            driver_name: "d".into(),
            volume_handle: "h".into(),
            volume: "pv1".into(),
            ..Record::default()
        };
        record.write(&folder).unwrap();
        std::fs::create_dir_all(dir.path().join("volumes/kubernetes.io~csi/half")).unwrap();
        assert_eq!(of_pod(dir.path()), [(folder.clone(), record)]);
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap();
        assert_eq!(text, r#"{"driverName":"d","volumeHandle":"h","specVolID":"pv1"}"#);
        let theirs = r#"{"attachmentID":"csi-1","driverName":"d","nodeName":"n","specVolID":"pv1",
            "volumeHandle":"h","volumeLifecycleMode":"Persistent","seLinuxMountContext":""}"#;
        std::fs::write(folder.join(FILE), theirs).unwrap();
        assert_eq!(Record::read(&folder).unwrap().attachment, "csi-1");
    }
}
