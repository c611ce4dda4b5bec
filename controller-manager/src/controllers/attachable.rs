//! Volumes that somebody attaches to a node before it can mount them, each with one name wherever it is described.
//!
//! Contract: the unique names of volumes that nodes report, as upstream's plugins make them. Volumes of in-tree plugins
//! are their successors' ([`migration`]). Pure.

use component_base::migration;
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, FCVolumeSource, PersistentVolume, PersistentVolumeSpec, Volume,
};

/// Unique names of volumes of drivers begin with it.
const CSI: &str = "kubernetes.io/csi";
const ISCSI: &str = "kubernetes.io/iscsi";
const FC: &str = "kubernetes.io/fc";

/// A volume that is attached to nodes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attachable {
    /// What messages call it.
    pub(super) name: String,
    /// Its one name in the cluster, also in the status of nodes.
    pub(super) unique: String,
    /// Who attaches it, unless nodes can reach it as it is.
    pub(super) driver: Option<Driver>,
    /// How it may be used, if it says so.
    pub(super) modes: Vec<String>,
    /// What its driver is told where no object stands for it.
    pub(super) inline: Option<Box<PersistentVolumeSpec>>,
}

/// A driver and its name for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Driver {
    pub(super) name: String,
    pub(super) handle: String,
}

impl Attachable {
    /// A volume that has an object, if it is one of these.
    pub(super) fn of_volume(volume: &PersistentVolume) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let name = volume.metadata.name.clone().unwrap_or_default();
        let modes = migration::access_modes(volume);
        if let Some(iscsi) = &spec.iscsi {
            return Some(plain(name, iscsi_name(&iscsi.target_portal, &iscsi.iqn, iscsi.lun), modes));
        }
        if let Some(fc) = &spec.fc {
            return Some(plain(name, fc_name(fc)?, modes));
        }
        let source = spec.csi.clone().or_else(|| migration::of_volume(volume))?;
        Some(driven(name, source, modes))
    }

    /// A volume that is described in a pod of a namespace, if it is one of these.
    pub(super) fn of_inline(volume: &Volume, namespace: &str) -> Option<Self> {
        if let Some(iscsi) = &volume.iscsi {
            let unique = iscsi_name(&iscsi.target_portal, &iscsi.iqn, iscsi.lun);
            return Some(plain(volume.name.clone(), unique, Vec::new()));
        }
        if let Some(fc) = &volume.fc {
            return Some(plain(volume.name.clone(), fc_name(fc)?, Vec::new()));
        }
        let stands = migration::of_inline(volume, namespace)?;
        let spec = stands.spec?;
        let name = stands.metadata.name.unwrap_or_default();
        let modes = spec.access_modes.clone().unwrap_or_default();
        Some(Self { inline: Some(Box::new(spec.clone())), ..driven(name, spec.csi?, modes) })
    }

    /// What metrics call the plugin that looks after it.
    pub(super) fn plugin(&self) -> String {
        match &self.driver {
            Some(driver) => plugin_of(&driver.name),
            None => self.unique.splitn(3, '/').take(2).collect::<Vec<_>>().join("/"),
        }
    }
}

/// What metrics call the plugin of a driver's volumes.
pub(super) fn plugin_of(driver: &str) -> String {
    format!("{CSI}:{driver}")
}

/// The unique name of a driver's volume.
pub(super) fn unique(driver: &str, handle: &str) -> String {
    format!("{CSI}/{driver}^{handle}")
}

/// The driver and its name for the volume in a unique name.
pub(super) fn driver_in(unique: &str) -> Option<(&str, &str)> {
    unique.strip_prefix(CSI)?.strip_prefix('/')?.split_once('^')
}

/// Whether a unique name is one of a volume that nodes reach without a driver.
pub(super) fn is_plain(unique: &str) -> bool {
    [ISCSI, FC].iter().any(|plugin| unique.strip_prefix(plugin).is_some_and(|rest| rest.starts_with('/')))
}

fn plain(name: String, unique: String, modes: Vec<String>) -> Attachable {
    Attachable { name, unique, driver: None, modes, inline: None }
}

fn driven(name: String, source: CSIPersistentVolumeSource, modes: Vec<String>) -> Attachable {
    let unique = unique(&source.driver, &source.volume_handle);
    let driver = Driver { name: source.driver, handle: source.volume_handle };
    Attachable { name, unique, driver: Some(driver), modes, inline: None }
}

fn iscsi_name(portal: &str, iqn: &str, lun: i32) -> String {
    format!("{ISCSI}/{portal}:{iqn}:{lun}")
}

/// By its targets, else by its own identifiers; one that has neither has no name.
fn fc_name(fc: &FCVolumeSource) -> Option<String> {
    let list = |names: &Option<Vec<String>>| {
        names.as_ref().filter(|names| !names.is_empty()).map(|names| format!("[{}]", names.join(" ")))
    };
    match (list(&fc.target_wwns), fc.lun) {
        (Some(targets), Some(lun)) => Some(format!("{FC}/{targets}:{lun}")),
        _ => list(&fc.wwids).map(|ids| format!("{FC}/{ids}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of_volume(spec: Value) -> Option<Attachable> {
        let volume = json!({"metadata": {"name": "pv"}, "spec": spec});
        Attachable::of_volume(&serde_json::from_value(volume).unwrap())
    }

    fn of_inline(mut volume: Value) -> Option<Attachable> {
        volume["name"] = "v".into();
        Attachable::of_inline(&serde_json::from_value(volume).unwrap(), "ns")
    }

    #[test]
    fn a_volume_has_one_name_wherever_it_is_described() {
        for (source, unique, plugin) in [
            (
                json!({"iscsi": {"targetPortal": "10.0.0.1:3260", "iqn": "i", "lun": 3}}),
                "kubernetes.io/iscsi/10.0.0.1:3260:i:3",
                "kubernetes.io/iscsi",
            ),
            (
                json!({"fc": {"targetWWNs": ["a", "b"], "lun": 0}}),
                "kubernetes.io/fc/[a b]:0",
                "kubernetes.io/fc",
            ),
            (json!({"fc": {"wwids": ["w"]}}), "kubernetes.io/fc/[w]", "kubernetes.io/fc"),
            (
                json!({"awsElasticBlockStore": {"volumeID": "aws://z/vol-1"}}),
                "kubernetes.io/csi/ebs.csi.aws.com^vol-1",
                "kubernetes.io/csi:ebs.csi.aws.com",
            ),
            (
                json!({"vsphereVolume": {"volumePath": "[s] d"}}),
                "kubernetes.io/csi/csi.vsphere.vmware.com^[s] d",
                "kubernetes.io/csi:csi.vsphere.vmware.com",
            ),
        ] {
            let (own, described) = (of_volume(source.clone()).unwrap(), of_inline(source).unwrap());
            assert_eq!((own.unique.as_str(), own.plugin().as_str()), (unique, plugin));
            assert_eq!((own.name.as_str(), described.unique.as_str()), ("pv", unique));
            assert_eq!(is_plain(unique), own.driver.is_none());
            let driver = own.driver.as_ref().map(|d| (d.name.as_str(), d.handle.as_str()));
            assert_eq!(driver_in(unique), driver);
            assert_eq!(described.inline.is_some(), described.driver.is_some(), "drivers are told");
        }
        let csi = json!({"csi": {"driver": "d.io", "volumeHandle": "h^1"}});
        let own = of_volume(csi).unwrap();
        assert_eq!(own.unique, "kubernetes.io/csi/d.io^h^1");
        assert_eq!(driver_in(&own.unique), Some(("d.io", "h^1")));
    }

    #[test]
    fn others_are_never_attached() {
        for source in [
            json!({"fc": {}}),
            json!({"fc": {"targetWWNs": ["a"]}}),
            json!({"nfs": {"server": "s", "path": "/"}}),
            json!({"hostPath": {"path": "/x"}}),
            json!({"awsElasticBlockStore": {"volumeID": "aws://z/x"}}),
        ] {
            assert_eq!(of_volume(source.clone()), None, "{source}");
            assert_eq!(of_inline(source.clone()), None, "{source}");
        }
        assert_eq!(of_inline(json!({"csi": {"driver": "d.io"}})), None, "lives with its pod");
        assert_eq!(driver_in("pv"), None);
    }
}
