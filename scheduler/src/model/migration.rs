//! Volumes by their drivers' names for them, also those of in-tree plugins that drivers look after now.
//!
//! Contract: upstream's `NodeVolumeLimits`, for the plugins whose volumes count against a driver's limit on a node.

use component_base::migration::{self, AZURE_FILE, VSPHERE};
use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, PersistentVolume, Volume};

/// Drivers whose volumes do not count where a plugin is named.
const UNCOUNTED: [&str; 2] = [AZURE_FILE, VSPHERE];

/// A volume by its driver and the driver's name for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle {
    /// The driver.
    pub driver: String,
    /// What the driver calls it.
    pub id: String,
}

impl Handle {
    /// A volume of a driver.
    pub fn new(driver: impl Into<String>, id: impl Into<String>) -> Self {
        Self { driver: driver.into(), id: id.into() }
    }

    /// A volume that is described in a pod.
    pub fn of_inline(volume: &Volume) -> Option<Self> {
        Self::counted(migration::of_inline(volume, "")?.spec?.csi?)
    }

    /// A volume of its own that some in-tree plugin made.
    pub fn of_volume(volume: &PersistentVolume) -> Option<Self> {
        Self::counted(migration::of_volume(volume)?)
    }

    fn counted(source: CSIPersistentVolumeSource) -> Option<Self> {
        let counts = !UNCOUNTED.contains(&source.driver.as_str());
        counts.then(|| Self::new(source.driver, source.volume_handle))
    }
}

/// Who makes volumes for a class, and whether they are a successor: none where they do not count.
pub fn provisioner(plugin: &str) -> Option<(&str, bool)> {
    match migration::successor(plugin) {
        Some(driver) => Some((driver, true)).filter(|(driver, _)| !UNCOUNTED.contains(driver)),
        None => Some((plugin, false)),
    }
}

#[cfg(test)]
mod tests {
    use component_base::migration::EBS;
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_of_plugins_count_for_their_drivers() {
        for (source, expected) in [
            (json!({"awsElasticBlockStore": {"volumeID": "aws://z/vol-1"}}), Some(Handle::new(EBS, "vol-1"))),
            (json!({"awsElasticBlockStore": {"volumeID": "aws://z/x"}}), None),
            (json!({"azureFile": {"secretName": "s", "shareName": "n"}}), None),
            (json!({"vsphereVolume": {"volumePath": "p"}}), None),
        ] {
            let mut inline = source.clone();
            inline["name"] = "v".into();
            let inline: Volume = serde_json::from_value(inline).unwrap();
            assert_eq!(Handle::of_inline(&inline), expected, "{source}");
            let mut spec = source.clone();
            spec["claimRef"] = json!({"namespace": "n", "name": "c"});
            let volume: PersistentVolume =
                serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            assert_eq!(Handle::of_volume(&volume), expected, "{source}");
        }
    }

    #[test]
    fn classes_of_plugins_are_their_successors() {
        assert_eq!(provisioner("kubernetes.io/aws-ebs"), Some((EBS, true)));
        assert_eq!(provisioner("kubernetes.io/azure-file"), None);
        assert_eq!(provisioner("d.io"), Some(("d.io", false)));
    }
}
