//! Volumes of in-tree plugins that CSI drivers look after now: which driver does whose work, and what it is told.
//!
//! Contract: upstream's `csi-translation-lib`. What cannot be told to a driver has no source here, and nobody attaches,
//! counts or mounts it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        AzureDiskVolumeSource, CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeSpec,
        SecretReference, Volume,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::meta::annotation;

/// In-tree plugins, with the drivers that do their work now.
pub const SUCCESSORS: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", EBS),
    ("kubernetes.io/azure-disk", AZURE_DISK),
    ("kubernetes.io/azure-file", AZURE_FILE),
    ("kubernetes.io/cinder", CINDER),
    ("kubernetes.io/gce-pd", GCE),
    ("kubernetes.io/portworx-volume", PORTWORX),
    ("kubernetes.io/vsphere-volume", VSPHERE),
];
/// Disks of Amazon's.
pub const EBS: &str = "ebs.csi.aws.com";
/// Disks of Azure's.
pub const AZURE_DISK: &str = "disk.csi.azure.com";
/// Shares of Azure's.
pub const AZURE_FILE: &str = "file.csi.azure.com";
/// Disks of OpenStack's.
pub const CINDER: &str = "cinder.csi.openstack.org";
/// Disks of Google's.
pub const GCE: &str = "pd.csi.storage.gke.io";
/// Volumes of Portworx.
pub const PORTWORX: &str = "pxd.portworx.com";
/// Disks of vSphere's.
pub const VSPHERE: &str = "csi.vsphere.vmware.com";

/// Labels of volumes with their zone, the older one first.
const ZONES: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];
/// On a volume that is a share: the group its account is in.
const RESOURCE_GROUP: &str = "kubernetes.io/azure-file-resource-group";
/// On a volume of Portworx: the secret its driver is given.
const SECRET: [&str; 2] = ["openstorage.io/auth-secret-name", "openstorage.io/auth-secret-namespace"];
const POLICY: &str = "storagepolicyname";

/// The driver that does the work of an in-tree plugin now.
pub fn successor(plugin: &str) -> Option<&'static str> {
    SUCCESSORS.iter().find(|(old, _)| *old == plugin).map(|(_, driver)| *driver)
}

/// The in-tree plugin of a volume and the driver that does its work now.
pub fn successor_of(spec: &PersistentVolumeSpec) -> Option<(&'static str, &'static str)> {
    let sources = [
        spec.aws_elastic_block_store.is_some(),
        spec.azure_disk.is_some(),
        spec.azure_file.is_some(),
        spec.cinder.is_some(),
        spec.gce_persistent_disk.is_some(),
        spec.portworx_volume.is_some(),
        spec.vsphere_volume.is_some(),
    ];
    SUCCESSORS.into_iter().zip(sources).find(|(_, is)| *is).map(|(pair, _)| pair)
}

/// What the successor is told of a volume that an in-tree plugin would have looked after.
pub fn of_volume(volume: &PersistentVolume) -> Option<CSIPersistentVolumeSource> {
    let spec = volume.spec.as_ref()?;
    if let Some(disk) = &spec.aws_elastic_block_store {
        let out = source(EBS, ebs(&disk.volume_id)?, disk.fs_type.as_ref(), disk.read_only);
        return Some(with_attribute(out, "partition", disk.partition.unwrap_or_default()));
    }
    if let Some(disk) = &spec.azure_disk {
        return azure_disk(disk);
    }
    if let Some(share) = &spec.azure_file {
        let given = share.secret_namespace.as_deref();
        let of_claim = || spec.claim_ref.as_ref().and_then(|r| r.namespace.as_deref());
        let namespace = given.or_else(of_claim).filter(|namespace| !namespace.is_empty())?;
        let group = annotation(&volume.metadata, RESOURCE_GROUP).unwrap_or_default();
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let share = Share {
            secret: &share.secret_name,
            share: &share.share_name,
            read_only: share.read_only,
            group,
            name,
            namespace,
        };
        return Some(share.source());
    }
    if let Some(disk) = &spec.cinder {
        return Some(source(CINDER, &disk.volume_id, disk.fs_type.as_ref(), disk.read_only));
    }
    if let Some(disk) = &spec.gce_persistent_disk {
        let zone =
            |label: &&str| volume.metadata.labels.as_ref()?.get(*label).filter(|zone| !zone.is_empty());
        let zones = ZONES.iter().find_map(zone).map(String::as_str).unwrap_or_default();
        let out = source(GCE, gce(&disk.pd_name, zones)?, disk.fs_type.as_ref(), disk.read_only);
        return Some(with_attribute(out, "partition", partition(disk.partition)));
    }
    if let Some(disk) = &spec.portworx_volume {
        return Some(CSIPersistentVolumeSource {
            read_only: None,
            ..with_secrets(source(PORTWORX, &disk.volume_id, disk.fs_type.as_ref(), None), &volume.metadata)
        });
    }
    let disk = spec.vsphere_volume.as_ref()?;
    let out = source(VSPHERE, &disk.volume_path, disk.fs_type.as_ref(), None);
    Some(with_policy(out, disk.storage_policy_name.as_deref()))
}

/// How a volume of a successor may be used, where that is not what the volume says: disks of Google's go to one node
/// alone that may write.
pub fn access_modes(volume: &PersistentVolume) -> Vec<String> {
    let Some(spec) = &volume.spec else { return Vec::new() };
    let Some(modes) = &spec.access_modes else { return Vec::new() };
    if spec.gce_persistent_disk.is_none() || modes.is_empty() {
        return modes.clone();
    }
    let reads_only = modes.iter().all(|mode| mode == "ReadOnlyMany");
    vec![if reads_only { "ReadOnlyMany" } else { "ReadWriteOnce" }.to_owned()]
}

/// The volume of a successor that stands for one which is described in a pod of a namespace.
pub fn of_inline(volume: &Volume, namespace: &str) -> Option<PersistentVolume> {
    let made = |name: String, csi: CSIPersistentVolumeSource, mode: &str| PersistentVolume {
        metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(vec![mode.to_owned()]),
            csi: Some(csi),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    };
    let once = "ReadWriteOnce";
    let reads = |read_only: Option<bool>| if read_only == Some(true) { "ReadOnlyMany" } else { once };
    if let Some(disk) = &volume.aws_elastic_block_store {
        let id = ebs(&disk.volume_id)?;
        let out = source(EBS, id, disk.fs_type.as_ref(), disk.read_only);
        let out = with_attribute(out, "partition", disk.partition.unwrap_or_default());
        return Some(made(format!("{EBS}-{id}"), out, once));
    }
    if let Some(disk) = &volume.azure_disk {
        return Some(made(disk.disk_uri.clone(), azure_disk(disk)?, once));
    }
    if let Some(share) = &volume.azure_file {
        let namespace = if namespace.is_empty() { "default" } else { namespace };
        let share = Share {
            secret: &share.secret_name,
            share: &share.share_name,
            read_only: share.read_only,
            group: "",
            name: &volume.name,
            namespace,
        };
        let out = share.source();
        return Some(made(out.volume_handle.clone(), out, "ReadWriteMany"));
    }
    if let Some(disk) = &volume.cinder {
        let out = source(CINDER, &disk.volume_id, disk.fs_type.as_ref(), disk.read_only);
        return Some(made(format!("{CINDER}-{}", disk.volume_id), out, once));
    }
    if let Some(disk) = &volume.gce_persistent_disk {
        let out = source(GCE, gce(&disk.pd_name, "")?, disk.fs_type.as_ref(), disk.read_only);
        let out = with_attribute(out, "partition", partition(disk.partition));
        return Some(made(format!("{GCE}-{}", disk.pd_name), out, reads(disk.read_only)));
    }
    if let Some(disk) = &volume.portworx_volume {
        let out = source(PORTWORX, &disk.volume_id, disk.fs_type.as_ref(), None);
        return Some(made(format!("{PORTWORX}-{}", disk.volume_id), out, reads(disk.read_only)));
    }
    let disk = volume.vsphere_volume.as_ref()?;
    let out = source(VSPHERE, &disk.volume_path, disk.fs_type.as_ref(), None);
    let out = with_policy(out, disk.storage_policy_name.as_deref());
    Some(made(format!("{VSPHERE}-{}", disk.volume_path), out, once))
}

// === what drivers are told ===

fn source(
    driver: &str,
    handle: impl Into<String>,
    fs_type: Option<&String>,
    read_only: Option<bool>,
) -> CSIPersistentVolumeSource {
    CSIPersistentVolumeSource {
        driver: driver.to_owned(),
        volume_handle: handle.into(),
        fs_type: fs_type.filter(|kind| !kind.is_empty()).cloned(),
        read_only: read_only.filter(|yes| *yes),
        ..CSIPersistentVolumeSource::default()
    }
}

fn with_attribute(
    mut source: CSIPersistentVolumeSource,
    name: &str,
    value: impl ToString,
) -> CSIPersistentVolumeSource {
    source.volume_attributes.get_or_insert_default().insert(name.to_owned(), value.to_string());
    source
}

fn with_policy(source: CSIPersistentVolumeSource, policy: Option<&str>) -> CSIPersistentVolumeSource {
    match policy.filter(|policy| !policy.is_empty()) {
        Some(policy) => with_attribute(source, POLICY, policy),
        None => source,
    }
}

fn with_secrets(source: CSIPersistentVolumeSource, metadata: &ObjectMeta) -> CSIPersistentVolumeSource {
    let [name, namespace] = SECRET.map(|key| annotation(metadata, key));
    let (Some(name), Some(namespace)) = (name, namespace) else { return source };
    let secret = Some(SecretReference { name: Some(name.into()), namespace: Some(namespace.into()) });
    CSIPersistentVolumeSource {
        controller_publish_secret_ref: secret.clone(),
        controller_expand_secret_ref: secret.clone(),
        node_stage_secret_ref: secret.clone(),
        node_publish_secret_ref: secret.clone(),
        node_expand_secret_ref: secret,
        ..source
    }
}

/// A partition by its number; the whole disk has none.
fn partition(number: Option<i32>) -> String {
    number.filter(|n| *n != 0).map(|n| n.to_string()).unwrap_or_default()
}

/// Only disks that Azure manages have a driver.
fn azure_disk(disk: &AzureDiskVolumeSource) -> Option<CSIPersistentVolumeSource> {
    let managed = disk.kind.as_ref().is_none_or(|kind| kind.eq_ignore_ascii_case("Managed"));
    let mut attributes = BTreeMap::from([("kind".to_owned(), "Managed".to_owned())]);
    let optional = [("cachingmode", &disk.caching_mode), ("fstype", &disk.fs_type)];
    attributes.extend(optional.into_iter().filter_map(|(name, v)| Some((name.to_owned(), v.clone()?))));
    let out = source(AZURE_DISK, &disk.disk_uri, disk.fs_type.as_ref(), disk.read_only);
    managed.then_some(CSIPersistentVolumeSource { volume_attributes: Some(attributes), ..out })
}

/// A share, whose handle says all there is to know of it.
struct Share<'a> {
    secret: &'a str,
    share: &'a str,
    read_only: Option<bool>,
    group: &'a str,
    name: &'a str,
    namespace: &'a str,
}

impl Share<'_> {
    fn source(&self) -> CSIPersistentVolumeSource {
        let Self { secret, share, group, name, namespace, .. } = self;
        let handle = format!("{group}#{}#{share}#{name}#{namespace}", account(secret));
        let secret = SecretReference { name: Some((*secret).into()), namespace: Some((*namespace).into()) };
        let out = source(AZURE_FILE, handle, None, self.read_only);
        with_attribute(
            CSIPersistentVolumeSource { node_stage_secret_ref: Some(secret), ..out },
            "sharename",
            share,
        )
    }
}

/// The account in the usual name of its secret; another name is taken for the account's.
fn account(secret: &str) -> &str {
    let rest = secret.split_once("azure-storage-account-").map(|(_, rest)| rest);
    let account = rest.and_then(|rest| rest.rsplit_once("-secret")).map(|(account, _)| account);
    account.filter(|account| !account.is_empty()).unwrap_or(secret)
}

/// The volume's own name of `aws://zone/vol-1`; a bare name is that already.
fn ebs(id: &str) -> Option<&str> {
    let Some(url) = id.strip_prefix("aws://") else { return Some(id) };
    let (_, path) = url.split_once('/')?;
    let name = path.trim_matches('/');
    name.strip_prefix("vol-").is_some_and(|rest| !rest.contains('/')).then_some(name)
}

/// A disk of one zone, or of the region of several.
fn gce(name: &str, zones: &str) -> Option<String> {
    let all: Vec<&str> = zones.split("__").collect();
    match all.as_slice() {
        [] | [""] => Some(format!("projects/UNSPECIFIED/zones/UNSPECIFIED/disks/{name}")),
        [zone] => Some(format!("projects/UNSPECIFIED/zones/{zone}/disks/{name}")),
        [first, others @ ..] => {
            let of_first = region(first)?;
            let same = others.iter().all(|zone| region(zone) == Some(of_first));
            same.then(|| format!("projects/UNSPECIFIED/regions/{of_first}/disks/{name}"))
        }
    }
}

/// The region of a zone like `us-east1-b`.
fn region(zone: &str) -> Option<&str> {
    let (region, _) = zone.rsplit_once('-')?;
    (region.matches('-').count() == 1).then_some(region)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const WHOLE: &str = "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/d";

    fn volume(source: &Value, metadata: Value) -> PersistentVolume {
        let mut spec = source.clone();
        spec["claimRef"] = json!({"namespace": "of-claim", "name": "c"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn inline(source: &Value) -> Option<PersistentVolume> {
        let mut volume = source.clone();
        volume["name"] = "v".into();
        of_inline(&serde_json::from_value(volume).unwrap(), "of-pod")
    }

    #[test]
    fn drivers_have_names_of_their_own_for_volumes() {
        let disk = |id: &str| json!({"awsElasticBlockStore": {"volumeID": id}});
        for (given, expected) in [
            (disk("vol-1"), Some((EBS, "vol-1"))),
            (disk("aws://us-east-1a/vol-0fe"), Some((EBS, "vol-0fe"))),
            (disk("aws:///vol-2"), Some((EBS, "vol-2"))),
            (disk("aws://us-east-1a/x"), None),
            (disk("aws://us-east-1a/vol-1/vol-2"), None),
            (json!({"azureDisk": {"diskName": "d", "diskURI": "/sub/d"}}), Some((AZURE_DISK, "/sub/d"))),
            (
                json!({"azureDisk": {"diskName": "d", "diskURI": "/sub/d", "kind": "managed"}}),
                Some((AZURE_DISK, "/sub/d")),
            ),
            (json!({"azureDisk": {"diskName": "d", "diskURI": "/sub/d", "kind": "Shared"}}), None),
            (json!({"cinder": {"volumeID": "c"}}), Some((CINDER, "c"))),
            (json!({"gcePersistentDisk": {"pdName": "d"}}), Some((GCE, WHOLE))),
            (json!({"portworxVolume": {"volumeID": "p"}}), Some((PORTWORX, "p"))),
            (json!({"vsphereVolume": {"volumePath": "[s] a/b.vmdk"}}), Some((VSPHERE, "[s] a/b.vmdk"))),
            (json!({"nfs": {"server": "s", "path": "/"}}), None),
        ] {
            let expected = expected.map(|(driver, id)| (driver.to_owned(), id.to_owned()));
            let told = |csi: CSIPersistentVolumeSource| (csi.driver, csi.volume_handle);
            let described = inline(&given).and_then(|volume| volume.spec?.csi);
            assert_eq!(described.map(told), expected, "{given}");
            assert_eq!(of_volume(&volume(&given, json!({}))).map(told), expected, "{given}");
        }
    }

    #[test]
    fn shares_are_named_after_all_that_leads_to_them() {
        let share = |secret: &str| json!({"azureFile": {"secretName": secret, "shareName": "s"}});
        let account = "azure-storage-account-acc-secret";
        let csi = inline(&share(account)).unwrap().spec.unwrap();
        assert_eq!(csi.access_modes.as_deref(), Some(&["ReadWriteMany".to_owned()][..]));
        let csi = csi.csi.unwrap();
        assert_eq!(csi.volume_handle, "#acc#s#v#of-pod");
        let secret = csi.node_stage_secret_ref.unwrap();
        assert_eq!((secret.name.as_deref(), secret.namespace.as_deref()), (Some(account), Some("of-pod")));
        let handle = |source: &Value, metadata: Value| {
            of_volume(&volume(source, metadata)).map(|csi| csi.volume_handle)
        };
        let name = json!({"name": "pv"});
        assert_eq!(handle(&share(account), name.clone()).as_deref(), Some("#acc#s#pv#of-claim"));
        let grouped = json!({"name": "pv", "annotations": {RESOURCE_GROUP: "g"}});
        assert_eq!(handle(&share("plain"), grouped).as_deref(), Some("g#plain#s#pv#of-claim"));
        let mut own = share("plain");
        own["azureFile"]["secretNamespace"] = "own".into();
        assert_eq!(handle(&own, name.clone()).as_deref(), Some("#plain#s#pv#own"));
        let mut lost = volume(&share("plain"), name);
        lost.spec.as_mut().unwrap().claim_ref = None;
        assert_eq!(of_volume(&lost), None);
    }

    #[test]
    fn disks_of_several_zones_are_their_regions() {
        let of = |labels: Value| {
            let disk = json!({"gcePersistentDisk": {"pdName": "d"}});
            of_volume(&volume(&disk, json!({"labels": labels}))).map(|csi| csi.volume_handle)
        };
        for (zones, expected) in [
            ("us-1-a", Some("projects/UNSPECIFIED/zones/us-1-a/disks/d")),
            ("us-1-a__us-1-b", Some("projects/UNSPECIFIED/regions/us-1/disks/d")),
            ("us-1-a__eu-1-b", None),
            ("us-a__us-b", None),
        ] {
            for label in ZONES {
                assert_eq!(of(json!({label: zones})).as_deref(), expected, "{label} {zones}");
            }
        }
    }

    #[test]
    fn drivers_hear_of_everything_the_plugin_was_told() {
        let attributes = |source: Value| {
            let csi = inline(&source).unwrap().spec.unwrap().csi.unwrap();
            json!({"fs": csi.fs_type, "ro": csi.read_only, "all": csi.volume_attributes})
        };
        for (given, expected) in [
            (
                json!({"awsElasticBlockStore": {"volumeID": "vol-1", "fsType": "xfs", "partition": 2, "readOnly": true}}),
                json!({"fs": "xfs", "ro": true, "all": {"partition": "2"}}),
            ),
            (
                json!({"awsElasticBlockStore": {"volumeID": "vol-1"}}),
                json!({"fs": null, "ro": null, "all": {"partition": "0"}}),
            ),
            (
                json!({"gcePersistentDisk": {"pdName": "d", "fsType": ""}}),
                json!({"fs": null, "ro": null, "all": {"partition": ""}}),
            ),
            (
                json!({"azureDisk": {"diskName": "d", "diskURI": "u", "cachingMode": "None", "fsType": "ext4"}}),
                json!({"fs": "ext4", "ro": null,
                    "all": {"kind": "Managed", "cachingmode": "None", "fstype": "ext4"}}),
            ),
            (
                json!({"vsphereVolume": {"volumePath": "p", "storagePolicyName": "gold"}}),
                json!({"fs": null, "ro": null, "all": {"storagepolicyname": "gold"}}),
            ),
            (json!({"cinder": {"volumeID": "c"}}), json!({"fs": null, "ro": null, "all": null})),
        ] {
            assert_eq!(attributes(given.clone()), expected, "{given}");
        }
        let secret = json!({"annotations": {SECRET[0]: "n", SECRET[1]: "s"}});
        let portworx = of_volume(&volume(&json!({"portworxVolume": {"volumeID": "p"}}), secret)).unwrap();
        assert_eq!(portworx.controller_publish_secret_ref.unwrap().name.as_deref(), Some("n"));
    }

    #[test]
    fn what_stands_for_a_described_volume_says_who_may_use_it() {
        for (given, name, mode) in [
            (json!({"gcePersistentDisk": {"pdName": "d"}}), format!("{GCE}-d"), "ReadWriteOnce"),
            (
                json!({"gcePersistentDisk": {"pdName": "d", "readOnly": true}}),
                format!("{GCE}-d"),
                "ReadOnlyMany",
            ),
            (
                json!({"portworxVolume": {"volumeID": "p", "readOnly": true}}),
                format!("{PORTWORX}-p"),
                "ReadOnlyMany",
            ),
            (
                json!({"awsElasticBlockStore": {"volumeID": "vol-1", "readOnly": true}}),
                format!("{EBS}-vol-1"),
                "ReadWriteOnce",
            ),
            (json!({"azureDisk": {"diskName": "d", "diskURI": "uri"}}), "uri".to_owned(), "ReadWriteOnce"),
        ] {
            let made = inline(&given).unwrap();
            let spec = made.spec.unwrap();
            assert_eq!(made.metadata.name, Some(name), "{given}");
            assert_eq!(spec.access_modes, Some(vec![mode.to_owned()]), "{given}");
            assert_eq!(spec.volume_mode.as_deref(), Some("Filesystem"));
        }
    }

    #[test]
    fn disks_of_one_node_are_for_one_node_whatever_they_said() {
        let modes = |source: &Value, given: &[&str]| {
            let mut volume = volume(source, json!({}));
            volume.spec.as_mut().unwrap().access_modes =
                Some(given.iter().map(|mode| (*mode).to_owned()).collect());
            access_modes(&volume)
        };
        let gce = json!({"gcePersistentDisk": {"pdName": "d"}});
        assert_eq!(modes(&gce, &["ReadWriteMany"]), ["ReadWriteOnce"]);
        assert_eq!(modes(&gce, &["ReadOnlyMany", "ReadWriteOnce"]), ["ReadWriteOnce"]);
        assert_eq!(modes(&gce, &["ReadOnlyMany"]), ["ReadOnlyMany"]);
        assert!(modes(&gce, &[]).is_empty());
        assert_eq!(modes(&json!({"cinder": {"volumeID": "c"}}), &["ReadWriteMany"]), ["ReadWriteMany"]);
    }

    #[test]
    fn plugins_have_successors() {
        assert_eq!(successor("kubernetes.io/azure-file"), Some(AZURE_FILE));
        assert_eq!(successor("d.io"), None);
        let spec = volume(&json!({"cinder": {"volumeID": "c"}}), json!({})).spec.unwrap();
        assert_eq!(successor_of(&spec), Some(("kubernetes.io/cinder", CINDER)));
    }
}
