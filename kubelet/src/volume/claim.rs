//! persistentVolumeClaim: the volume a claim is bound to: a path of this node (hostPath or local), a folder of a file
//! server (nfs), or a driver's volume.

use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};

use super::{Context, Mounted, VolumeError, VolumePlugin, host_path, nfs, ownership};
use crate::{
    csi::{CsiVolume, mount::Request},
    pod::{self, resources},
};

/// The finalizer of claims that stay as long as pods use them.
const PROTECTED: &str = "kubernetes.io/pvc-protection";

/// The plugin.
pub struct Claim;

#[async_trait]
impl VolumePlugin for Claim {
    fn name(&self) -> &'static str {
        "claim"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let (name, read_only) = match &volume.persistent_volume_claim {
            Some(source) => (source.claim_name.clone(), source.read_only == Some(true)),
            // A generic ephemeral volume's claim is named after pod and volume.
            None => (format!("{}-{}", pod::name(context.pod), volume.name), false),
        };
        let namespace = pod::namespace(context.pod);
        let refused =
            |why: String| VolumeError::Claim { namespace: namespace.to_owned(), name: name.clone(), why };
        let claim = context.objects.claim(namespace, &name).await?.ok_or_else(|| {
            refused(format!("failed to fetch PVC from API server: persistentvolumeclaims {name:?} not found"))
        })?;
        let volume_name = bound(&claim).map_err(|why| refused(why.to_owned()))?;
        if volume.persistent_volume_claim.is_none() && !is_owner(context.pod, &claim) {
            let (namespace, pod) = (namespace.to_owned(), pod::name(context.pod).to_owned());
            return Err(VolumeError::NotOwner { namespace, name, pod });
        }
        let persistent = context.objects.volume(&volume_name).await?.ok_or_else(|| {
            refused(format!(
                "failed to fetch PV {volume_name} from API server: persistentvolumes {volume_name:?} not found"
            ))
        })?;
        refers_to(&persistent, &claim).map_err(refused)?;
        check_mode(context.pod, &volume.name, &persistent)?;
        let made = persistent_volume(context, &volume.name, &claim, &persistent, read_only).await;
        made.map_err(|source| VolumeError::Persistent { name: volume_name, source: Box::new(source) })
    }
}

/// Sets up a claim's volume.
async fn persistent_volume(
    context: &Context<'_>,
    name: &str,
    claim: &PersistentVolumeClaim,
    persistent: &PersistentVolume,
    read_only: bool,
) -> Result<Mounted, VolumeError> {
    if let Some(made) = CsiVolume::persistent(persistent) {
        let (pod, pod_dir) = (context.pod, context.pod_dir);
        let request = Request { pod, pod_dir, volume: &made, name, read_only };
        let path = context.csi.set_up(&request).await?;
        grow(context, claim, persistent, &made, &path).await?;
        return Ok(Mounted { path, read_only: read_only || made.read_only });
    }
    let spec = persistent.spec.clone().unwrap_or_default();
    if let Some(source) = &spec.nfs {
        let read_only = read_only || source.read_only == Some(true);
        let options = spec.mount_options.as_deref().unwrap_or_default();
        return nfs::set_up(context, name, source, options, read_only).await;
    }
    let path = node_path(persistent)?;
    if let Some(group) = context.fs_group()
        && persistent
            .spec
            .as_ref()
            .is_some_and(|s| s.local.is_some() && s.volume_mode.as_deref() != Some("Block"))
    {
        let context = pod::spec(context.pod).security_context.as_ref();
        let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
        if !ownership::is_settled(path.as_ref(), group, read_only, policy) {
            ownership::apply(path.as_ref(), group, read_only)?;
        }
    }
    Ok(Mounted { path: path.into(), read_only })
}

/// The volume that a claim is bound to.
fn bound(claim: &PersistentVolumeClaim) -> Result<String, &'static str> {
    let meta = &claim.metadata;
    let is_kept = meta.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTED);
    if meta.deletion_timestamp.is_some() && !is_kept {
        return Err("PVC is being deleted");
    }
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound");
    }
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|name| !name.is_empty());
    volume.ok_or("PVC has empty pvc.Spec.VolumeName")
}

/// The pod controls the claim.
fn is_owner(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == pod::uid(pod))
}

/// The volume is the claim's.
fn refers_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    let (of, wanted) =
        (reference.uid.as_deref().unwrap_or_default(), claim.metadata.uid.as_deref().unwrap_or_default());
    if of == wanted {
        return Ok(());
    }
    Err(format!(
        "found PV object {name} but its pv.Spec.ClaimRef.UID {of} does not point to claim.UID {wanted}"
    ))
}

/// Containers mount file systems, and have devices of block volumes.
fn check_mode(pod: &Pod, volume: &str, persistent: &PersistentVolume) -> Result<(), VolumeError> {
    let block = persistent.spec.as_ref().and_then(|s| s.volume_mode.as_deref()) == Some("Block");
    let all = pod::all_containers(pod);
    let mut mounts = all.iter().flat_map(|(_, c)| c.volume_mounts.iter().flatten());
    let mut devices = all.iter().flat_map(|(_, c)| c.volume_devices.iter().flatten());
    let (mode, list, wrong) = match block {
        true => ("Block", "volumeMounts", mounts.any(|mount| mount.name == volume)),
        false => ("Filesystem", "volumeDevices", devices.any(|device| device.name == volume)),
    };
    if wrong { Err(VolumeError::Mode { name: volume.to_owned(), mode, list }) } else { Ok(()) }
}

/// Lets the file system grow where the volume has, and tells the claim.
async fn grow(
    context: &Context<'_>,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    made: &CsiVolume,
    path: &Path,
) -> Result<(), VolumeError> {
    let Some(size) = waiting_size(claim, volume) else { return Ok(()) };
    let bytes = resources::whole(&size).unwrap_or(0);
    if context.csi.expand(made, path, bytes).await? {
        context.objects.claim_has_grown(claim, &size).await?;
    }
    Ok(())
}

/// The size the volume has and its file system is still to get.
fn waiting_size(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    let status = claim.status.as_ref()?;
    let pending = status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "FileSystemResizePending" && c.status == "True")
        || status
            .allocated_resource_statuses
            .as_ref()
            .and_then(|s| s.get("storage"))
            .is_some_and(|s| s == "NodeResizePending");
    let size = volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?.0.clone();
    let has = status.capacity.as_ref().and_then(|c| c.get("storage")).and_then(|q| resources::whole(&q.0));
    (pending && resources::whole(&size)? > has.unwrap_or(0)).then_some(size)
}

fn node_path(volume: &PersistentVolume) -> Result<String, VolumeError> {
    let spec = volume.spec.clone().unwrap_or_default();
    if let Some(host) = spec.host_path {
        host_path::check(&host.path, host.type_.as_deref().unwrap_or_default())?;
        return Ok(host.path);
    }
    if let Some(local) = spec.local {
        let block = spec.volume_mode.as_deref() == Some("Block");
        host_path::check(&local.path, if block { "BlockDevice" } else { "Directory" })?;
        return Ok(local.path);
    }
    Err(VolumeError::NoPlugin(volume.metadata.name.clone().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn claim(meta: &serde_json::Value, volume: &str, phase: &str) -> PersistentVolumeClaim {
        let claim = json!({"metadata": meta, "spec": {"volumeName": volume}, "status": {"phase": phase}});
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn a_claim_has_to_be_bound_and_to_stay() {
        let gone = "2026-01-01T00:00:00Z";
        let leaving = json!({"deletionTimestamp": gone});
        let kept = json!({"deletionTimestamp": gone, "finalizers": ["x", PROTECTED]});
        let there = json!({});
        for (meta, volume, phase, expected) in [
            (&there, "v", "Bound", Ok("v".to_owned())),
            (&there, "v", "Pending", Err("PVC is not bound")),
            (&there, "", "Bound", Err("PVC has empty pvc.Spec.VolumeName")),
            (&leaving, "v", "Bound", Err("PVC is being deleted")),
            (&kept, "v", "Bound", Ok("v".to_owned())),
        ] {
            assert_eq!(bound(&claim(meta, volume, phase)), expected, "{meta} {volume:?} {phase}");
        }
    }

    #[test]
    fn claims_of_ephemeral_volumes_are_their_pods() {
        let pod = testing::pod("a").build();
        let owner = |uid: &str, controls: bool| {
            let owner =
                json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": uid, "controller": controls});
            is_owner(&pod, &claim(&json!({"ownerReferences": [owner]}), "v", "Bound"))
        };
        assert!(owner("uid-a", true));
        assert!(!owner("uid-a", false) && !owner("uid-b", true));
        assert!(!is_owner(&pod, &claim(&json!({}), "v", "Bound")));
    }

    #[test]
    fn a_volume_has_to_be_the_claims_and_what_containers_take_it_for() {
        let volume = |spec: serde_json::Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap()
        };
        let own = claim(&json!({"uid": "1"}), "v", "Bound");
        assert_eq!(refers_to(&volume(json!({"claimRef": {"uid": "1"}})), &own), Ok(()));
        let error = refers_to(&volume(json!({"claimRef": {"uid": "2"}})), &own).unwrap_err();
        assert!(error.ends_with("ClaimRef.UID 2 does not point to claim.UID 1"), "{error}");
        assert!(refers_to(&volume(json!({})), &own).unwrap_err().contains("nil pv.Spec.ClaimRef"));
        let pod = |list: &str| {
            testing::pod("a").container("c").with(|pod| {
                let mut container = json!({"name": "c"});
                container[list] = match list {
                    "volumeMounts" => json!([{"name": "x", "mountPath": "/x"}]),
                    _ => json!([{"name": "x", "devicePath": "/dev/x"}]),
                };
                pod.spec.as_mut().unwrap().containers = vec![serde_json::from_value(container).unwrap()];
            })
        };
        for (list, mode, text) in [
            ("volumeMounts", "Filesystem", None),
            ("volumeDevices", "Block", None),
            (
                "volumeMounts",
                "Block",
                Some("volume x has volumeMode Block, but is specified in volumeMounts"),
            ),
            (
                "volumeDevices",
                "Filesystem",
                Some("volume x has volumeMode Filesystem, but is specified in volumeDevices"),
            ),
        ] {
            let pod = pod(list).build();
            let checked = check_mode(&pod, "x", &volume(json!({"volumeMode": mode})));
            let told = checked.err().and_then(|error| error.event("x", &crate::volume::devices(&pod)));
            let expected = text.map(|text| ("FailedMount", format!(
                "Unable to attach or mount volumes: unmounted volumes=[x], unattached volumes=[], failed to process volumes=[x]: {text}"
            )));
            assert_eq!(told, expected, "{list} {mode}");
        }
        assert!(
            check_mode(&pod("volumeMounts").build(), "other", &volume(json!({"volumeMode": "Block"})))
                .is_ok()
        );
    }

    #[test]
    fn a_file_system_grows_only_when_that_is_what_is_waited_for() {
        let of = |has: &str, status: serde_json::Value| {
            let mut status = status;
            status["capacity"] = json!({ "storage": has });
            let claim = serde_json::from_value(json!({ "status": status })).unwrap();
            let volume =
                serde_json::from_value(json!({ "spec": { "capacity": { "storage": "2Gi" } } })).unwrap();
            waiting_size(&claim, &volume)
        };
        let pending = json!({ "conditions": [{ "type": "FileSystemResizePending", "status": "True" }] });
        assert_eq!(of("1Gi", pending.clone()), Some("2Gi".into()));
        assert_eq!(of("2Gi", pending), None);
        assert_eq!(of("1Gi", json!({})), None);
        let statuses = json!({ "allocatedResourceStatuses": { "storage": "NodeResizePending" } });
        assert_eq!(of("1Gi", statuses), Some("2Gi".into()));
    }
}
