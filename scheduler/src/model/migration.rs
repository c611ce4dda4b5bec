//! Volumes of in-tree plugins that CSI drivers look after now: which driver, and what it calls them.
//!
//! Contract: upstream's `csi-translation-lib`, for the plugins whose volumes count against a driver's limit on a node.

use k8s_openapi::api::core::v1::{PersistentVolume, Volume};

/// In-tree plugins, and the drivers that do their work where a volume counts.
const SUCCESSORS: [(&str, Option<&str>); 7] = [
    ("kubernetes.io/aws-ebs", Some(EBS)),
    ("kubernetes.io/azure-disk", Some(AZURE)),
    ("kubernetes.io/azure-file", None),
    ("kubernetes.io/cinder", Some(CINDER)),
    ("kubernetes.io/gce-pd", Some(GCE)),
    ("kubernetes.io/portworx-volume", Some(PORTWORX)),
    ("kubernetes.io/vsphere-volume", None),
];
const EBS: &str = "ebs.csi.aws.com";
const AZURE: &str = "disk.csi.azure.com";
const CINDER: &str = "cinder.csi.openstack.org";
const GCE: &str = "pd.csi.storage.gke.io";
const PORTWORX: &str = "pxd.portworx.com";
/// Labels of volumes with their zone, the older one first.
const ZONES: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];

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
        if let Some(disk) = &volume.aws_elastic_block_store {
            return Some(Self::new(EBS, ebs(&disk.volume_id)?));
        }
        if let Some(disk) = &volume.azure_disk {
            return Some(Self::new(AZURE, &disk.disk_uri));
        }
        if let Some(disk) = &volume.cinder {
            return Some(Self::new(CINDER, &disk.volume_id));
        }
        if let Some(disk) = &volume.gce_persistent_disk {
            return Some(Self::new(GCE, gce(&disk.pd_name, "")?));
        }
        volume.portworx_volume.as_ref().map(|volume| Self::new(PORTWORX, &volume.volume_id))
    }

    /// A volume of its own that some in-tree plugin made.
    pub fn of_volume(volume: &PersistentVolume) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        if let Some(disk) = &spec.aws_elastic_block_store {
            return Some(Self::new(EBS, ebs(&disk.volume_id)?));
        }
        if let Some(disk) = &spec.azure_disk {
            return Some(Self::new(AZURE, &disk.disk_uri));
        }
        if let Some(disk) = &spec.cinder {
            return Some(Self::new(CINDER, &disk.volume_id));
        }
        if let Some(disk) = &spec.gce_persistent_disk {
            let labels = volume.metadata.labels.as_ref();
            let zone = |label: &&str| labels?.get(*label).filter(|zone| !zone.is_empty());
            let zones = ZONES.iter().find_map(zone).map(String::as_str).unwrap_or_default();
            return Some(Self::new(GCE, gce(&disk.pd_name, zones)?));
        }
        spec.portworx_volume.as_ref().map(|volume| Self::new(PORTWORX, &volume.volume_id))
    }
}

/// Who makes volumes for a class, and whether they are a successor: none where they do not count.
pub fn provisioner(plugin: &str) -> Option<(&str, bool)> {
    match SUCCESSORS.iter().find(|(old, _)| *old == plugin) {
        Some((_, driver)) => driver.map(|driver| (driver, true)),
        None => Some((plugin, false)),
    }
}

/// The volume's own name of `aws://zone/vol-1`; a bare name is that already.
fn ebs(id: &str) -> Option<&str> {
    let Some(url) = id.strip_prefix("aws://") else { return Some(id) };
    let (_, path) = url.split_once('/')?;
    let name = path.trim_matches('/');
    let is_good = name.strip_prefix("vol-").is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
    is_good.then_some(name)
}

/// A disk of one zone, or of the region of several.
fn gce(name: &str, zones: &str) -> Option<String> {
    let all: Vec<&str> = zones.split("__").collect();
    match all.as_slice() {
        [""] => Some(format!("projects/UNSPECIFIED/zones/UNSPECIFIED/disks/{name}")),
        [zone] => Some(format!("projects/UNSPECIFIED/zones/{zone}/disks/{name}")),
        [first, others @ ..] => {
            let region = |zone: &str| zone.rsplit_once('-').map(|(region, _)| region.to_owned());
            let of_first = region(first)?;
            let same = others.iter().all(|zone| region(zone).as_ref() == Some(&of_first));
            same.then(|| format!("projects/UNSPECIFIED/regions/{of_first}/disks/{name}"))
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn drivers_have_names_of_their_own_for_volumes() {
        let disk = |id: &str| json!({"awsElasticBlockStore": {"volumeID": id}});
        for (source, expected) in [
            (disk("vol-1"), Some((EBS, "vol-1"))),
            (disk("aws://us-east-1a/vol-0fe"), Some((EBS, "vol-0fe"))),
            (disk("aws:///vol-2"), Some((EBS, "vol-2"))),
            (disk("aws://us-east-1a/x"), None),
            (json!({"azureDisk": {"diskName": "d", "diskURI": "/sub/d"}}), Some((AZURE, "/sub/d"))),
            (json!({"cinder": {"volumeID": "c"}}), Some((CINDER, "c"))),
            (
                json!({"gcePersistentDisk": {"pdName": "d"}}),
                Some((GCE, "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/d")),
            ),
            (json!({"portworxVolume": {"volumeID": "p"}}), Some((PORTWORX, "p"))),
            (json!({"azureFile": {"secretName": "s", "shareName": "n"}}), None),
            (json!({"vsphereVolume": {"volumePath": "p"}}), None),
            (json!({"emptyDir": {}}), None),
        ] {
            let expected = expected.map(|(driver, id)| Handle::new(driver, id));
            let mut inline = source.clone();
            inline["name"] = "v".into();
            let inline: Volume = serde_json::from_value(inline).unwrap();
            assert_eq!(Handle::of_inline(&inline), expected, "{source}");
            if source.get("emptyDir").is_none() {
                let volume: PersistentVolume =
                    serde_json::from_value(json!({"metadata": {}, "spec": source})).unwrap();
                assert_eq!(Handle::of_volume(&volume), expected, "{source}");
            }
        }
    }

    #[test]
    fn disks_of_several_zones_are_their_regions() {
        let of = |labels: Value| {
            let spec = json!({"gcePersistentDisk": {"pdName": "d"}});
            let volume =
                serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": spec})).unwrap();
            Handle::of_volume(&volume).map(|handle| handle.id)
        };
        for (zones, expected) in [
            ("us-1-a", Some("projects/UNSPECIFIED/zones/us-1-a/disks/d")),
            ("us-1-a__us-1-b", Some("projects/UNSPECIFIED/regions/us-1/disks/d")),
            ("us-1-a__eu-1-b", None),
        ] {
            for label in ZONES {
                assert_eq!(of(json!({label: zones})).as_deref(), expected, "{label} {zones}");
            }
        }
    }

    #[test]
    fn classes_of_plugins_are_their_successors() {
        assert_eq!(provisioner("kubernetes.io/aws-ebs"), Some((EBS, true)));
        assert_eq!(provisioner("kubernetes.io/azure-file"), None);
        assert_eq!(provisioner("d.io"), Some(("d.io", false)));
    }
}
